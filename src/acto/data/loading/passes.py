"""A pass over the samples: their order, cut into batches, and the part of it that one process sees."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from acto.core.errors import UserError, choose
from acto.core.types import Batch, Stream
from acto.data.views.counter_random import Occasion, order
from acto.data.views.spec import VIEWS

_SCAN = -1  # the number of no stream
_LARGEST_BATCH = 1024  # to be looked at together


@dataclass(frozen=True, slots=True)
class Pass:
    """Samples, batches and views that one process shall see in a pass over the data."""

    index: Tensor
    """(M,) int64 sample numbers, batch after batch."""
    sizes: list[int]
    """Sizes of the batches; their sum is M."""
    views: tuple[str, ...]
    occasion: Occasion


class Passes(ABC):
    """Fulfils types.TrainingData for a class that can walk through a pass.

    Args:
        labels: (N,) int64 given labels, on the device where the order of the samples is drawn.
        seed: of order and views.
        rank: this process's number.
        world: the number of processes. Each takes every world-th row of a shuffled batch; nothing is padded.
    """

    input_shape: tuple[int, ...]
    """Shape of one sample of a view."""
    _device: torch.device
    """Device on which the views are finished."""

    def __init__(self, labels: Tensor, *, seed: int, rank: int, world: int) -> None:
        assert 0 <= rank < world
        self._labels, self._seed, self._rank, self._world = labels, seed, rank, world

    @property
    def num_samples(self) -> int:
        """N."""
        return len(self._labels)

    def num_steps(self, stream: Stream) -> int:
        """Count the batches that `stream` (views and batch_size filled in) yields."""
        return len(self._sizes(stream, self.num_samples if stream.index is None else len(stream.index)))

    def batches(self, stream: Stream, *, epoch: int, turn: int = 0, number: int = 0) -> Iterator[Batch]:
        """A shuffled pass over this process's rows.

        A last batch of less than two rows a process is joined to the batch before it.

        Raises:
            UserError: for an unknown view, or a batch too small to be shared by all processes.
        """
        assert stream.views is not None, "the loop fills in the views"
        views = tuple(choose("view", name, VIEWS) for name in stream.views)
        occasion = Occasion(seed=self._seed, epoch=epoch, turn=turn, number=number)
        index = self._everything() if stream.index is None else stream.index.to(self._labels.device)
        sizes = self._sizes(stream, len(index))
        index = index[order(occasion, index)][: sum(sizes)]
        if self._world > 1:
            index, sizes = _rows_of(index, sizes, rank=self._rank, world=self._world)
        yield from self._walk(Pass(index, sizes, views, occasion))

    def scan(
        self, *, view: str = "none", batch_size: int | None = None, epoch: int = 0, turn: int = 0
    ) -> Iterator[Batch]:
        """Every sample once, in sample order, in one view; all of them in every process.

        Without a `batch_size` it is what suits the samples and the device.

        Raises:
            UserError: for an unknown view.
        """
        views = (choose("view", view, VIEWS),)
        occasion = Occasion(seed=self._seed, epoch=epoch, turn=turn, number=_SCAN)
        size = batch_size or suitable_batch(self.input_shape, self._device)
        sizes = _batch_sizes(self.num_samples, size, drop_last=False, smallest=2)
        yield from self._walk(Pass(self._everything(), sizes, views, occasion))

    @abstractmethod
    def _walk(self, part: Pass) -> Iterator[Batch]:
        """Make the batches of a pass, in its order."""

    def _everything(self) -> Tensor:
        return torch.arange(self.num_samples, device=self._labels.device)

    def _sizes(self, stream: Stream, count: int) -> list[int]:
        """Sizes of the batches over all processes."""
        assert stream.batch_size is not None, "the loop fills in the batch size"
        sizes = _batch_sizes(count, stream.batch_size, drop_last=stream.drop_last, smallest=2 * self._world)
        if sizes and min(sizes) < self._world:
            raise UserError(f"a batch of {min(sizes)} samples cannot be shared by {self._world} processes")
        return sizes


def _batch_sizes(count: int, batch_size: int, *, drop_last: bool, smallest: int) -> list[int]:
    """Full batches and the rest, which joins the batch before it if it is less than `smallest`."""
    full, rest = divmod(count, batch_size)
    sizes = [batch_size] * full
    if rest and not drop_last:
        if sizes and rest < smallest:
            sizes[-1] += rest
        else:
            sizes.append(rest)
    return sizes


def suitable_batch(input_shape: tuple[int, ...], device: torch.device) -> int:
    """Samples that are best looked at together, 32 to 1024: fewer the larger they are.

    On a processor what the layers hand on should not outgrow its caches by much: for CIFAR and cnn7, 341 samples took
    three quarters of the time a sample that 1,000 took. A GPU wants much work for each kernel, but has to hold it.

    Args:
        input_shape: of one sample, (C, H, W) or (D,).
        device: where the networks are.
    """
    values, least = (2**20, 32) if device.type == "cpu" else (2**24, 64)
    return min(max(values // math.prod(input_shape), least), _LARGEST_BATCH)


def _rows_of(index: Tensor, sizes: list[int], *, rank: int, world: int) -> tuple[Tensor, list[int]]:
    """One process's rows of every batch, and how many they are."""
    row = torch.arange(len(index), device=index.device)
    if sizes:
        row -= (row // sizes[0]).clamp_(max=len(sizes) - 1) * sizes[0]  # place in its batch: only the last differs
    return index[row % world == rank], [len(range(rank, size, world)) for size in sizes]
