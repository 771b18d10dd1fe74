"""Interface of a method: networks, per-sample memories, and a loss.

A method returns a loss; the loop takes the step. It sees no trainer, no optimizer, no data set and no true label, and
its state_dict() is the whole of it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acto.core.distributed import merge_rows
from acto.core.settings import Settings
from acto.core.types import Batch, BuildNet, Clock, Scan, Step, Stream, Task


class Method(nn.Module):
    """Base of all methods. A subclass sets the class variables, its Config, and loss(); the rest has defaults."""

    name: ClassVar[str]
    """As on the command line."""
    title: ClassVar[str]
    """One line: what it does."""
    paper: ClassVar[str]
    """Citation with address."""
    venue: ClassVar[str]
    views: ClassVar[tuple[str, ...]] = ("weak",)
    """The views that a batch brings: "none", "weak", "strong", each drawn on its own."""
    num_nets: ClassVar[int] = 1
    fixed_shapes: ClassVar[bool] = True
    """False only with the reason in the card: the step then cannot be captured as one graph."""
    takes_weights: ClassVar[bool] = False
    """The loss is made of means over samples, in which each counts by its weight, see `weighed`."""
    follows_steps: ClassVar[bool] = False
    """The loss, or what comes after it, depends on the step's place in the turn, say a ramp that rises every step."""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Settings):
        """The method's own symbols, with the paper's defaults."""

    def __init__(self, config: Any, task: Task, build_net: BuildNet) -> None:
        super().__init__()
        self.config = config
        self.task = task
        self.nets = nn.ModuleList(build_net() for _ in range(self.num_nets))
        # The given labels travel to the device with the rest, but are no state: the data brings them.
        self.register_buffer("labels", task.labels.clone(), persistent=False)
        self.labels: Tensor
        self.register_buffer("sample_weight", task.weights, persistent=False)
        self.sample_weight: Tensor | None
        self._row_buffers: list[str] = []
        self._leaves: list[tuple[str, Tensor, Tensor]] = []

    # What a method implements -----------------------------------------------------------------------------------

    @abstractmethod
    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """The loss of one step, one batch a stream. Never synchronizes with the host, and has one shape a batch size.

        In one of several processes every mean is this process's share of the mean over the global batch
        (`acto.methods.blocks.losses.batch_mean`, `masked_mean`); logged values add up over the processes in the same
        way. A rule that picks from a batch picks from the global one (`acto.core.distributed.gather`).
        """

    def turns(self, clock: Clock) -> int:
        """Return the number of passes of an epoch; more than one where the networks are trained in turn."""
        return 1

    def on_turn(self, clock: Clock, scan: Scan) -> Mapping[str, Tensor] | None:
        """Called before a turn's first step: the place to look at the whole training set.

        May return what it found of every sample, (N,) by the names of Step.per_sample: a visit for the history.
        """
        return None

    def streams(self, clock: Clock) -> tuple[Stream, ...]:
        """Return the streams that a turn reads, side by side. The first one sets the number of steps; shorter ones
        start over.
        """
        return (Stream(),)

    def on_step(self, clock: Clock) -> None:
        """Called after the optimizer's step: moving averages, queues."""

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """(B, K) probabilities by name; the first entry is the one that the headline reports."""
        return {"net": F.softmax(self.nets[0](images), dim=1)}

    @torch.no_grad()
    def headline_weights(self) -> tuple[float, ...]:
        """The headline as a formula: softmax(sum_k weight_k * logits of nets[k]), one weight a network.

        Read off predict() itself, so that what is exported cannot differ from what is evaluated: known logits, 1 for
        the first class and 0 for all others, stand in for one network after another. A headline of another form fails.
        """
        device, zero = self.labels.device, torch.zeros(1, self.task.num_classes, device=self.labels.device)
        one = zero.clone()
        one[0, 0] = 1
        nets = self.nets

        def log_odds(logits: list[Tensor]) -> float:
            """Return the log odds of the first class against the second, from the networks' logits."""
            self.nets = nn.ModuleList(_Fixed(value) for value in logits)
            probs = next(iter(self.predict(torch.zeros(1, device=device)).values()))[0].double()
            return float((probs[0] / probs[1]).log())

        places = range(len(nets))
        try:
            weights = tuple(round(log_odds([one if j == k else zero for j in places]), 5) for k in places)
            together = log_odds([(k + 1) * one for k in places])
        finally:
            self.nets = nets
        expected = sum((k + 1) * weight for k, weight in enumerate(weights))
        assert abs(together - expected) < 1e-3, f"the headline of {self.name} is no softmax of a sum of logits"
        return weights

    def few_selected(self) -> str:
        """Advise what to try where only a small share of all samples is selected; empty where nothing is known to
        help.
        """
        return ""

    def label_quality(self) -> Tensor | None:
        """(N,) trust in each given label in [0, 1], 1 = sure; None where the method does not say."""
        return None

    def param_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups: "net0", "net1", ... and "extra" for what belongs to no network.

        Every parameter that learns, exactly once.
        """
        groups: list[dict[str, Any]] = [
            {"params": [p for p in net.parameters() if p.requires_grad], "name": f"net{k}"}
            for k, net in enumerate(self.nets)
        ]
        owned = {id(p) for group in groups for p in group["params"]}
        extra = [p for p in self.parameters() if p.requires_grad and id(p) not in owned]
        return [*groups, {"params": extra, "name": "extra"}] if extra else groups

    def weighed(self, losses: Tensor, index: Tensor) -> Tensor:
        """Multiply per-sample losses, (B,), by the weights that the task gives its samples, if it gives any.

        Args:
            losses: (B,), of which a mean is taken.
            index: (B,) sample numbers.
        """
        return losses if self.sample_weight is None else self.sample_weight[index] * losses

    # Per-sample state -------------------------------------------------------------------------------------------

    def remember(self, name: str, tensor: Tensor, *, per_sample: bool = True) -> None:
        """Keep `tensor` as the attribute `name`: on the device, saved and resumed.

        Args:
            name: of the attribute; declare its type beside the call.
            tensor: any dtype; its first dimension is N where `per_sample`.
            per_sample: rows belong to samples, so several processes can merge what each of them wrote.
        """
        self.register_buffer(name, tensor)
        if per_sample:
            assert len(tensor) == self.task.num_samples, name
            self._row_buffers.append(name)

    def learn(self, name: str, tensor: Tensor) -> None:
        """Keep rows (N, ...) that are learned by plain gradient descent, through `rows`."""
        self.remember(name, tensor)

    def rows(self, name: str, index: Tensor) -> Tensor:
        """The learned rows of these samples, (B, ...), as a leaf whose gradient the loop applies after backward."""
        leaf = getattr(self, name)[index].detach().requires_grad_()
        self._leaves.append((name, index, leaf))
        return leaf

    def row_rate(self, name: str, clock: Clock) -> float:
        """Learning rate of the learned rows `name`."""
        raise AssertionError(f"{type(self).__name__} learns the rows {name!r} but gives no row_rate")

    @torch.no_grad()
    def step_rows(self, clock: Clock, *, loss_scale: float = 1.0) -> None:
        """For the loop: descend along the gradients of the rows that the last loss touched.

        Args:
            clock: of the step.
            loss_scale: the loss was multiplied by this before backward (float16); rows that overflowed rest.
        """
        for name, index, leaf in self._leaves:
            if leaf.grad is not None:
                move = self.row_rate(name, clock) * leaf.grad / loss_scale
                getattr(self, name)[index] = leaf.detach() - torch.where(move.isfinite(), move, 0.0)
        self._leaves.clear()

    @property
    def row_buffers(self) -> tuple[str, ...]:
        """Names of the buffers whose rows belong to samples."""
        return tuple(self._row_buffers)

    def admit(self, rows: Tensor, *, epochs: int) -> None:
        """Samples join a training that has run for `epochs`: new ones, and those whose labels people corrected.

        Args:
            rows: (R,) row numbers; their rows are as in a new training.
            epochs: done so far, by the other samples.
        """

    def adopted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state of a run that this one goes on from, where its settings had other parts of it than these have."""
        return dict(state)

    def merge_rows(self, written: Tensor) -> None:
        """For the loop, with several processes: give every process the rows that the others wrote.

        Args:
            written: (N,) bool, the samples that this process has seen since the last merge; a sample belongs to one
                process at a time.
        """
        merge_rows([getattr(self, name) for name in self._row_buffers], written)


class _Fixed(nn.Module):
    """A network that knows one answer."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: Tensor) -> Tensor:
        return self.logits


@contextmanager
def guessing(*nets: nn.Module) -> Iterator[None]:
    """Run networks in eval mode without gradient, and put their modes back: for a partner that only guesses."""
    modes = [net.training for net in nets]
    for net in nets:
        net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for net, mode in zip(nets, modes, strict=True):
            net.train(mode)


def of_views(net: nn.Module, views: Sequence[Tensor]) -> list[Tensor]:
    """(B, K) logits of each view, by a network that may take them all at once: acto.nets.base.Net.of_views."""
    together = getattr(net, "of_views", None)
    return [net(view) for view in views] if together is None else together(views)


@torch.no_grad()
def observed(logits: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
    """Collect what the history keeps of every visit, for Step.per_sample.

    Args:
        logits: (B, K) of the network whose view of the samples is to be recorded.
        labels: (B,) given labels.
    """
    probs = F.softmax(logits.float(), dim=1)
    return {
        "predicted": probs.argmax(1),
        "prob_given": probs.gather(1, labels[:, None]).squeeze(1),
    }
