"""History of every sample in training: the columns of a run's per-sample table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from acto.core import sample_columns
from acto.core.distributed import merge_rows, world
from acto.core.types import Batch

WORDS = 16
"""Words of four bytes in a row: a row fills a cache line, so that a random sample of millions costs one miss, not one a
column."""


class History(nn.Module):
    """Per-sample statistics, gathered from the Step.per_sample of every step, on the device and without reading back.

    Understood names are the words of `acto.core.sample_columns.TALLIES`: ``predicted`` (class), ``prob_given``
    (probability of the given label), ``selected``, ``mined``, ``memorized`` (bool), ``weight`` and whatever else stands
    there. Others are ignored. A method that leaves one out has a count of 0 and a share of NaN there.

    Each tally is an attribute, (N,) of its type; `selected_now` is bool. `written`, (N,) bool, tells which samples
    this process has seen since the last merge, where there are several processes.
    """

    rows: Tensor
    written: Tensor

    def __init__(self, num_samples: int) -> None:
        super().__init__()
        rows = torch.zeros(num_samples, WORDS, dtype=torch.int32)
        for tally in sample_columns.TALLIES.values():
            _cells(rows, tally).fill_(tally.start)
        self.register_buffer("rows", rows)
        self.register_buffer("written", torch.zeros(num_samples, dtype=torch.bool), persistent=False)

    def __getattr__(self, name: str) -> Any:
        """A column by its name."""
        if name not in sample_columns.TALLIES:
            return super().__getattr__(name)
        column = _cells(self.rows, sample_columns.TALLIES[name])
        return column.bool() if name == "selected_now" else column

    def begin_epoch(self) -> None:
        """Forget which samples the last epoch selected."""
        _cells(self.rows, sample_columns.TALLIES["selected_now"]).zero_()

    @torch.no_grad()
    def update(self, batch: Batch, per_sample: Mapping[str, Tensor], *, epoch: int) -> None:
        """Take in one step's statistics of the samples of `batch`, (B,) each; without any it is no visit."""
        if world() > 1:
            self.written[batch.index] = True
        if per_sample:
            rows = self.rows[batch.index]
            _visit(rows, batch.label, per_sample, epoch)
            self.rows[batch.index] = rows

    @torch.no_grad()
    def update_all(self, labels: Tensor, per_sample: Mapping[str, Tensor], *, epoch: int) -> None:
        """Take in statistics of all samples, (N,) each and the same in every process.

        Args:
            labels: (N,) given labels.
            per_sample: as in `update`.
            epoch: from 0.
        """
        _visit(self.rows, labels, per_sample, epoch)

    def merge(self) -> None:
        """With several processes: bring their tables together."""
        merge_rows([self.rows], self.written)
        self.written.zero_()

    @property
    def mean_prob_given(self) -> Tensor:
        """(N,) probability of the given label, averaged over the visits; NaN without one."""
        return self.prob_given_sum / self.visits

    def table(self) -> dict[str, Tensor]:
        """The columns that training records, (N,) each, on the CPU; a share of no visit is NaN."""
        columns = {}
        for column in sample_columns.of_training():
            values = getattr(self, column.tally)
            values = values / getattr(self, column.per) if column.per else values
            columns[column.name] = values.detach().to(getattr(torch, column.kind)).cpu()
        return columns


def _cells(rows: Tensor, tally: sample_columns.Tally) -> Tensor:
    """A tally in some samples' rows, (B, WORDS), as a view."""
    return (rows.view(torch.float32) if tally.dtype == "float32" else rows)[:, tally.place]


def _visit(rows: Tensor, labels: Tensor, per_sample: Mapping[str, Tensor], epoch: int) -> None:
    """Enter a visit of some samples into their rows, (B, WORDS), in place."""
    for tally in sample_columns.TALLIES.values():
        if tally.how == "own" or (tally.word and tally.word not in per_sample):
            continue
        cells = _cells(rows, tally)
        if tally.how == "visits":
            cells += 1
        elif tally.how == "sum":
            cells += per_sample[tally.word].to(cells.dtype)
        else:
            cells.copy_(per_sample[tally.word])
    if "predicted" in per_sample:
        fits = per_sample["predicted"].int() == labels
        _cells(rows, sample_columns.TALLIES["fits"]).add_(fits)
        first = _cells(rows, sample_columns.TALLIES["first_fit"])
        first.copy_(torch.where((first < 0) & fits, epoch, first))
