"""The training loop: the one place that calls backward and step.

A run is a pure function of its seed: order and views come from a counter-based hash (acto.data), and torch's generator,
which networks and methods draw from, starts every turn from the seed, the epoch and the turn. So nothing of a generator
has to be saved, and a run that went on from the end of an epoch cannot be told from one that never stopped.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from acto.core import distributed
from acto.core.errors import UserError
from acto.core.types import Batch, Clock, Stream, TrainingData, device_of
from acto.methods.base import Method
from acto.training.cuda_graph import RecordedStep, Recorder
from acto.training.divergence import LossWatch, refuse_non_finite
from acto.training.early_end import EarlyEnd
from acto.training.history import History
from acto.training.protocol import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochLog:
    """Results of an epoch of training."""

    epoch: int
    metrics: dict[str, float]
    """The method's logs, each averaged over the steps that gave it, and the learning rates."""
    seconds: float


class Training:
    """A method with the optimizer and the history that training it needs: what a checkpoint holds."""

    def __init__(
        self,
        method: Method,
        protocol: Protocol,
        *,
        precision: torch.dtype = torch.float32,
        recorder: Recorder | None = None,
    ) -> None:
        """`method` must already lie on its device; with a `recorder`, steps are replayed where they can be.

        Raises:
            UserError: if `protocol` plans for a group that the method does not have.
        """
        self.method = method
        self.protocol = protocol
        self.device = device_of(method)
        self.precision = precision
        self.recorder = recorder
        self.history = History(method.task.num_samples).to(self.device)
        groups = method.param_groups()
        names = [group["name"] for group in groups]
        unknown = sorted(set(protocol.plans) - set(names))
        if unknown:
            raise UserError(f"plans name the parameter group {unknown[0]!r}, which is none of {', '.join(names)}")
        grouped = [id(p) for group in groups for p in group["params"]]
        learned = sorted(id(p) for p in method.parameters() if p.requires_grad)
        assert sorted(grouped) == learned, "param_groups: every parameter once"
        if protocol.optimizer == "sgd":
            self.optimizer: torch.optim.Optimizer = torch.optim.SGD(
                groups,
                lr=protocol.plan.lr,
                momentum=protocol.momentum,
                nesterov=protocol.nesterov and protocol.momentum > 0,
                weight_decay=protocol.weight_decay,
            )
        else:
            self.optimizer = torch.optim.Adam(
                groups,
                lr=protocol.plan.lr,
                weight_decay=protocol.weight_decay,
                capturable=recorder is not None and self.device.type == "cuda",
            )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == torch.float16)
        self.epochs_done = 0
        self.early_end: EarlyEnd | None = None
        if protocol.stop_early is not None:
            self.early_end = EarlyEnd(protocol.stop_early, first=getattr(method.config, "warmup_epochs", 0))

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on: tensors and plain containers only."""
        early = {} if self.early_end is None else {"early_end": self.early_end.state_dict()}
        return {
            "epochs_done": self.epochs_done,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history.state_dict(),
            "scaler": self.scaler.state_dict(),
            **early,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what state_dict() gave."""
        self.epochs_done = state["epochs_done"]
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history.load_state_dict(state["history"])
        self.scaler.load_state_dict(state["scaler"])
        if self.early_end is not None:
            self.early_end.load_state_dict(state["early_end"])

    def take_back(self, state: dict[str, Any]) -> None:
        """Make the model and its memory those of `state`, what state_dict() gave after an earlier epoch."""
        self.method.load_state_dict(state["method"])
        self.history.load_state_dict(state["history"])

    def judge(self, epoch: int, accuracy: float = math.nan) -> bool:
        """Tell the early end, if there is one, the accuracy after `epoch`; return whether it is the best so far.

        Args:
            epoch: from 0.
            accuracy: against the given labels held out, in [0, 1]; that of the first process counts in all.
        """
        if self.early_end is None:
            return False
        return self.early_end.see(epoch, distributed.of_the_first(accuracy, device=self.device))

    def autocast(self) -> torch.autocast:
        """The number format of the networks' bodies."""
        return torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32)


Tick = Callable[[Clock], None]
"""Called after every step. On a GPU the step may still be under way: nothing waits for it."""


def run_epochs(
    training: Training, data: TrainingData, *, seed: int, tick: Tick = lambda clock: None
) -> Iterator[EpochLog]:
    """Train from where `training` stands to the protocol's last epoch, or an early end, and yield after each epoch.

    Raises:
        DivergedError: naming the first step whose loss was not finite, and its samples; or weights that a last step
            left so. At the end of that turn, so that nothing has to be read back from the device in every step.
            Nothing is yielded for it.
    """
    method, protocol = training.method, training.protocol
    for epoch in range(training.epochs_done, protocol.epochs):
        if training.early_end is not None and training.early_end.is_due(epoch):
            return
        started = time.monotonic()
        rates = {group["name"]: protocol.at(group["name"], epoch) for group in training.optimizer.param_groups}
        for group in training.optimizer.param_groups:
            group.update(rates[group["name"]])
        training.history.begin_epoch()
        sums: dict[str, Tensor] = {}
        counts: Counter[str] = Counter()
        for turn in range(method.turns(Clock(epoch, protocol.epochs))):
            _run_turn(training, data, sums, counts, Clock(epoch, protocol.epochs, turn), seed=seed, tick=tick)
        training.epochs_done = epoch + 1
        totals = distributed.total(torch.stack(list(sums.values()))).tolist()
        metrics = {name: value / counts[name] for name, value in zip(sums, totals, strict=True)}
        metrics |= {f"lr_{name}": settings["lr"] for name, settings in rates.items()}
        yield EpochLog(epoch=epoch, metrics=metrics, seconds=time.monotonic() - started)


def _run_turn(
    training: Training,
    data: TrainingData,
    sums: dict[str, Tensor],
    counts: Counter[str],
    clock: Clock,
    *,
    seed: int,
    tick: Tick,
) -> None:
    """One turn; adds its logs to `sums`, and to `counts` how many steps gave them."""
    method, protocol, device = training.method, training.protocol, training.device
    torch.manual_seed(_turn_seed(seed, clock.epoch, clock.turn))
    method.train()

    @torch.no_grad()
    def scan(net: nn.Module, *, view: str = "none", train: bool = False) -> Tensor:
        mode = net.training
        net.train(train)
        with training.autocast():
            parts = [net(b.views[0]) for b in data.scan(view=view, epoch=clock.epoch, turn=clock.turn)]
        net.train(mode)
        return torch.cat(parts)

    surveyed = method.on_turn(clock, scan)
    if surveyed:
        training.history.update_all(method.labels, surveyed, epoch=clock.epoch)
    streams = [
        replace(s, views=s.views or method.views, batch_size=s.batch_size or protocol.batch_size)
        for s in method.streams(clock)
    ]
    steps = data.num_steps(streams[0])
    assert steps > 0 and all(data.num_steps(s) > 0 for s in streams), "a stream without a batch"
    watch = LossWatch(steps, device)

    def take(batches: tuple[Batch, ...]) -> tuple[str, ...]:
        """One step. What it leaves for the next one stays in its place on the device, so that it can be recorded."""
        with training.autocast():
            result = method.loss(batches, clock)
        training.optimizer.zero_grad(set_to_none=True)
        training.scaler.scale(result.loss).backward()
        distributed.share_gradients(p for group in training.optimizer.param_groups for p in group["params"])
        if protocol.clip_norm is not None:
            training.scaler.unscale_(training.optimizer)
            for group in training.optimizer.param_groups:
                nn.utils.clip_grad_norm_(group["params"], protocol.clip_norm)
        training.scaler.step(training.optimizer)
        method.step_rows(clock, loss_scale=training.scaler.get_scale())
        training.scaler.update()
        method.on_step(clock)
        with torch.no_grad():
            training.history.update(batches[0], result.per_sample, epoch=clock.epoch)
            watch.update(result.loss, batches[0].index)
            logs = {"loss": result.loss.detach(), **result.log}
            for name, value in logs.items():
                if name in sums:
                    sums[name].add_(value)
                else:
                    sums[name] = value.float().clone()
        return tuple(logs)

    take_step = take if training.recorder is None else RecordedStep(take, training.recorder)
    for step, batches in enumerate(_side_by_side(data, streams, clock)):
        clock = replace(clock, step=step, steps=steps)
        counts.update(take_step(batches))
        tick(clock)
    refuse_non_finite(method, clock, watch)
    method.merge_rows(training.history.written)
    training.history.merge()
    distributed.average(b for module in method.children() for b in module.buffers())


def _side_by_side(data: TrainingData, streams: list[Stream], clock: Clock) -> Iterator[tuple[Batch, ...]]:
    """Batches of all streams; the first stream ends it, the others start over in a new order where they end early."""

    def endless(stream: Stream, number: int) -> Iterator[Batch]:
        for lap in count():
            yield from data.batches(stream, epoch=clock.epoch, turn=clock.turn, number=number + lap * len(streams))

    first = data.batches(streams[0], epoch=clock.epoch, turn=clock.turn, number=0)
    yield from zip(first, *(endless(stream, k) for k, stream in enumerate(streams) if k > 0), strict=False)


def _turn_seed(seed: int, epoch: int, turn: int) -> int:
    """Make a seed for torch's generator that is different for every (seed, epoch, turn)."""
    for number in (epoch, turn):
        seed = (seed * 1_000_003 + number + 1) % (2**63 - 25)
    return seed
