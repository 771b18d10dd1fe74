"""Cost of a run: a few real steps of each phase are timed, and nothing is written."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from acto.core.types import Batch, Stream, TrainingData
from acto.runs.execute import checkpoint
from acto.runs.prepare import Prepared
from acto.training import evaluation
from acto.training.loop import Training, run_epochs

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

PHASE_SECONDS = 6.0
"""About how long each phase is measured."""
MOST_STEPS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """Epochs that cost the same."""

    name: str
    epochs: int
    steps: int
    """Steps an epoch, over all turns."""
    seconds_per_step: float
    seconds_per_epoch: float
    """Training alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """The cost of a run."""

    phases: tuple[Phase, ...]
    evaluation_seconds: float
    """One evaluation on the test set."""
    evaluations: int
    memory_bytes: int | None
    """The largest so far: the processor's for this process, the device's on a GPU; None where the system tells none."""
    checkpoint_bytes: int

    @property
    def seconds(self) -> float:
        """The whole run."""
        training = sum(phase.epochs * phase.seconds_per_epoch for phase in self.phases)
        return training + self.evaluations * self.evaluation_seconds


def estimate(prepared: Prepared) -> Estimate:
    """Time the run that `prepared` stands for; its networks are trained a little and must not be used afterwards."""
    run, training = prepared.run, prepared.training
    begun, epochs = training.epochs_done, run.protocol.epochs  # a run that goes on from another one counts on
    warmup = min(getattr(run.config, "warmup_epochs", 0), epochs)
    spans = {
        "warm-up": (begun, warmup),
        "after the warm-up" if begun < warmup else "training": (max(begun, warmup), epochs),
    }
    phases = tuple(
        _phase(training, prepared.train_data, name=name, first=first, last=last, seed=run.seed)
        for name, (first, last) in spans.items()
        if first < last
    )
    return Estimate(
        phases=phases,
        evaluation_seconds=_evaluation_seconds(training, prepared.test_data),
        evaluations=sum(run.evaluates(epoch) for epoch in range(begun, epochs)),
        memory_bytes=_peak_memory(training.device),
        checkpoint_bytes=len(checkpoint(training)),
    )


def _phase(training: Training, data: TrainingData, *, name: str, first: int, last: int, seed: int) -> Phase:
    """Measure epoch `first` by its first steps. One step goes before, for what only a first step has to do."""

    def measure(steps: int) -> tuple[_FirstSteps, float]:
        training.epochs_done = first
        few = _FirstSteps(data, steps, training.device)
        return few, next(run_epochs(training, few, seed=seed)).seconds

    _, rough = measure(1)
    few, seconds = measure(min(max(int(PHASE_SECONDS / rough), 2), MOST_STEPS))
    per_step = (seconds - few.scan_seconds) / few.steps_done
    return Phase(
        name=name,
        epochs=last - first,
        steps=few.steps_in_all,
        seconds_per_step=per_step,
        seconds_per_epoch=few.scan_seconds + per_step * few.steps_in_all,
    )


class _FirstSteps:
    """Training data of which every stream ends after a few steps. What a method scans is scanned in full, and timed."""

    def __init__(self, data: TrainingData, steps: int, device: torch.device) -> None:
        self.data = data
        self.steps = steps
        self.device = device
        self.steps_in_all = 0
        self.steps_done = 0
        self.scan_seconds = 0.0

    @property
    def num_samples(self) -> int:
        return self.data.num_samples

    def num_steps(self, stream: Stream) -> int:
        return self.data.num_steps(self._cut(stream))

    def batches(self, stream: Stream, *, epoch: int, turn: int = 0, number: int = 0) -> Iterator[Batch]:
        if number == 0:  # the stream that ends the turn
            self.steps_in_all += self.data.num_steps(stream)
            self.steps_done += self.num_steps(stream)
        yield from self.data.batches(self._cut(stream), epoch=epoch, turn=turn, number=number)

    def scan(
        self, *, view: str = "none", batch_size: int | None = None, epoch: int = 0, turn: int = 0
    ) -> Iterator[Batch]:
        started = time.monotonic()
        yield from self.data.scan(view=view, batch_size=batch_size, epoch=epoch, turn=turn)
        self.scan_seconds += time.monotonic() - started

    def _cut(self, stream: Stream) -> Stream:
        assert stream.batch_size is not None
        index = torch.arange(self.num_samples, device=self.device) if stream.index is None else stream.index
        return replace(stream, index=index[: self.steps * stream.batch_size])


def _evaluation_seconds(training: Training, data: TrainingData) -> float:
    started = time.monotonic()
    batch, probs = next(evaluation.predictions(training, data))
    next(iter(probs.values())).sum().item()  # wait for the device
    return (time.monotonic() - started) * data.num_samples / len(batch.label)


def _peak_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
