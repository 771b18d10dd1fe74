"""What training saw of every sample: the columns of a run's per-sample table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from acto.core.distributed import merge_rows, world
from acto.core.types import Batch

COUNTS = ("visits", "fits", "selectable", "memorizable", "selected", "mined", "memorized")
CLASSES = ("first_fit", "predicted")
FLOATS = ("prob_given", "prob_given_sum", "weight")
COLUMNS = {name: place for place, name in enumerate((*COUNTS, *CLASSES, "selected_now", *FLOATS))}
"""The words of a sample's row, and where they stand in it."""
WORDS = 16
"""Of four bytes: a row fills a cache line, so that a random sample of millions costs one miss and not one a column."""


class History(nn.Module):
    """Per-sample statistics, gathered from the Step.per_sample of every step, on the device and without reading back.

    Understood names: ``predicted`` (class), ``prob_given`` (probability of the given label), ``selected``, ``mined``,
    ``memorized`` (bool) and ``weight``. Others are ignored. A method that leaves one out has a
    count of 0 and a share of NaN there.

    Each of COLUMNS is an attribute: (N,) int32; of FLOATS float32; `selected_now` bool. `written`, (N,) bool, tells
    which samples this process has seen since the last merge, where there are several processes.
    """

    rows: Tensor
    written: Tensor

    def __init__(self, num_samples: int) -> None:
        super().__init__()
        rows = torch.zeros(num_samples, WORDS, dtype=torch.int32)
        for name in CLASSES:
            rows[:, COLUMNS[name]] = -1
        for name in ("prob_given", "weight"):
            rows.view(torch.float32)[:, COLUMNS[name]] = float("nan")
        self.register_buffer("rows", rows)
        self.register_buffer("written", torch.zeros(num_samples, dtype=torch.bool), persistent=False)

    def __getattr__(self, name: str) -> Any:
        """A column by its name."""
        if name not in COLUMNS:
            return super().__getattr__(name)
        column = (self.rows.view(torch.float32) if name in FLOATS else self.rows)[:, COLUMNS[name]]
        return column.bool() if name == "selected_now" else column

    def begin_epoch(self) -> None:
        """Forget which samples the last epoch selected."""
        self.rows[:, COLUMNS["selected_now"]] = 0

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
        """Columns on the CPU, each (N,).

        ``predicted`` and ``prob_given`` of the last visit, ``mean_prob_given``, ``times_selected``, ``times_mined``,
        ``reliability`` (share of the visits that could select in which it was selected), ``weight`` (last one),
        ``first_epoch_fit`` (first epoch in which the given label was predicted, -1 never), ``memorization`` (share of
        the visits in which the non-robust network fits the given label and the robust one does not), ``visits``.
        """
        columns = {
            "predicted": self.predicted.long(),
            "prob_given": self.prob_given,
            "mean_prob_given": self.mean_prob_given,
            "times_selected": self.selected,
            "times_mined": self.mined,
            "reliability": self.selected / self.selectable,
            "weight": self.weight,
            "first_epoch_fit": self.first_fit.long(),
            "memorization": self.memorized / self.memorizable,
            "visits": self.visits,
        }
        return {name: column.detach().cpu() for name, column in columns.items()}


def _visit(rows: Tensor, labels: Tensor, per_sample: Mapping[str, Tensor], epoch: int) -> None:
    """Enter a visit of some samples into their rows, (B, WORDS), in place."""
    floats = rows.view(torch.float32)

    def count(name: str, number: int | Tensor) -> None:
        rows[:, COLUMNS[name]] += number

    count("visits", 1)
    if "predicted" in per_sample:
        predicted = per_sample["predicted"].int()
        fits = predicted == labels
        rows[:, COLUMNS["predicted"]] = predicted
        count("fits", fits)
        first = rows[:, COLUMNS["first_fit"]]
        first.copy_(torch.where((first < 0) & fits, epoch, first))
    if "prob_given" in per_sample:
        prob = per_sample["prob_given"].float()
        floats[:, COLUMNS["prob_given"]] = prob
        floats[:, COLUMNS["prob_given_sum"]] += prob
    if "weight" in per_sample:
        floats[:, COLUMNS["weight"]] = per_sample["weight"].float()
    if "selected" in per_sample:
        rows[:, COLUMNS["selected_now"]] = per_sample["selected"].int()
        count("selectable", 1)
    if "memorized" in per_sample:
        count("memorizable", 1)
    for name in ("selected", "mined", "memorized"):
        if name in per_sample:
            count(name, per_sample[name].int())
