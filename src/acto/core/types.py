"""The words that every layer shares: Task, Batch, Clock, Stream, Step, and the two protocols Scan and TrainingData.

Shape letters, here and everywhere in the package: N training samples, K classes, B samples of a batch, D features,
C, H, W channels, height and width of a picture. A trailing ``_NK`` in a name spells the shape out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

NoiseRateSource = Literal["oracle", "estimated", "user", "none"]


@dataclass(frozen=True, slots=True)
class Task:
    """Facts that a method may know about the problem: the labels as they were given, never the truth."""

    labels: Tensor
    """(N,) int64, each in 0..K-1."""
    num_classes: int
    noise_rate: float | None = None
    """Share of wrong labels in [0, 1], for the methods that ask for it."""
    noise_rate_source: NoiseRateSource = "none"
    """Origin of noise_rate; every table prints it."""
    weights: Tensor | None = None
    """(N,) float32, >= 0, by which the samples' losses are multiplied, for methods that take them; None: all 1."""

    @property
    def num_samples(self) -> int:
        """N."""
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Batch:
    """Some samples in the views that were asked for."""

    index: Tensor
    """(B,) int64 sample numbers, 0..N-1."""
    views: tuple[Tensor, ...]
    """Each (B, C, H, W) or (B, D), normalized float, in the order asked for."""
    label: Tensor
    """(B,) int64 given labels."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Position of training in epochs, turns and steps. Everything counts from 0."""

    epoch: int
    epochs: int
    turn: int = 0
    step: int = 0
    steps: int = 1

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1)."""
        return (self.epoch + self.step / self.steps) / self.epochs


@dataclass(frozen=True, slots=True)
class Stream:
    """A shuffled pass over some samples. None stands for the method's views and the protocol's batch size."""

    index: Tensor | None = None
    """(M,) int64 sample numbers; None: all N."""
    views: tuple[str, ...] | None = None
    batch_size: int | None = None
    drop_last: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """Result of a method's loss()."""

    loss: Tensor
    """() scalar with gradient."""
    log: Mapping[str, Tensor] = field(default_factory=dict)
    """() scalars on the device, averaged over the epoch's steps."""
    per_sample: Mapping[str, Tensor] = field(default_factory=dict)
    """(B,) tensors that belong to the samples of the FIRST stream's batch, gathered by acto.training.history."""


class Scan(Protocol):
    """Run a network over the whole training set without gradient."""

    def __call__(self, net: nn.Module, *, view: str = "none", train: bool = False) -> Tensor:
        """(N, K) float32 logits in sample order; the network's mode is left as it was found."""
        ...


class TrainingData(Protocol):
    """Samples on their way to a device. Order and views are pure functions of (seed, epoch, turn, sample, view)."""

    @property
    def num_samples(self) -> int:
        """N."""
        ...

    def num_steps(self, stream: Stream) -> int:
        """Count the batches that `stream` (views and batch_size filled in) yields."""
        ...

    def batches(self, stream: Stream, *, epoch: int, turn: int = 0, number: int = 0) -> Iterator[Batch]:
        """A shuffled pass. `number` is the stream's place in the turn: streams of one turn differ in order and views.

        A last batch of a single sample is joined to the batch before it: batch normalization has no variance over one.
        """
        ...

    def scan(
        self, *, view: str = "none", batch_size: int | None = None, epoch: int = 0, turn: int = 0
    ) -> Iterator[Batch]:
        """Every sample once, in sample order, in one view; without a `batch_size` it is what suits the data."""
        ...


BuildNet = Callable[[], nn.Module]
"""Makes a new network: forward = head(features(images)) -> (B, K) float32 logits; features -> (B, D); feature_dim."""


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's first parameter or buffer; the CPU for an empty one."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")
