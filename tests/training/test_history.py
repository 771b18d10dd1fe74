"""The table of what training saw of every sample, on hand-written numbers."""

from __future__ import annotations

import math

import torch

from acto.core.sample_columns import TALLIES
from acto.core.types import Batch
from acto.training.history import WORDS, History


def batch(index: list[int], label: list[int]) -> Batch:
    return Batch(index=torch.tensor(index), views=(), label=torch.tensor(label))


def test_two_epochs_of_three_samples() -> None:
    history = History(4)
    seen = {"predicted": torch.tensor([1, 2]), "prob_given": torch.tensor([0.75, 0.25])}
    chosen = {"selected": torch.tensor([True, False]), "mined": torch.tensor([True, False])}
    history.begin_epoch()
    history.update(batch([2, 0], [1, 1]), seen | chosen | {"weight": torch.tensor([0.5, 1.0])}, epoch=0)
    assert history.selected_now.tolist() == [False, False, True, False]
    history.begin_epoch()
    flags = {"selected": torch.tensor([False, True]), "memorized": torch.tensor([True, False])}
    history.update(batch([2, 0], [1, 2]), seen | flags, epoch=1)
    history.update(batch([1], [0]), {}, epoch=1)  # nothing was said of it: no visit
    table = {name: column.tolist() for name, column in history.table().items()}
    assert table["visits"] == [2, 0, 2, 0]
    assert history.predicted.tolist() == [2, -1, 1, -1]
    assert table["first_epoch_fit"] == [1, -1, 0, -1]
    assert table["times_selected"] == [1, 0, 1, 0] and table["times_mined"] == [0, 0, 1, 0]
    assert history.prob_given[::2].tolist() == [0.25, 0.75] and history.prob_given[1::2].isnan().all()
    assert table["mean_prob_given"][::2] == [0.25, 0.75]
    assert table["reliability"][::2] == [0.5, 0.5] and math.isnan(table["reliability"][3])
    assert table["weight"][::2] == [1.0, 0.5] and math.isnan(table["weight"][1])
    assert table["memorization"][::2] == [0.0, 1.0]
    assert history.fits.tolist() == [1, 0, 2, 0]
    assert history.selected_now.tolist() == [True, False, False, False]


def test_a_visit_that_could_not_select_leaves_reliability_alone() -> None:
    # Three visits: the first says nothing of a selection; of the other two, one selects. 1 / 2, not 1 / 3.
    history = History(1)
    history.update(batch([0], [1]), {"predicted": torch.tensor([1])}, epoch=0)
    history.update(batch([0], [1]), {"selected": torch.tensor([True])}, epoch=1)
    history.update(batch([0], [1]), {"selected": torch.tensor([False])}, epoch=2)
    table = {name: column.tolist() for name, column in history.table().items()}
    assert table["visits"] == [3] and table["times_selected"] == [1] and table["reliability"] == [0.5]


def test_a_survey_of_all_samples_is_a_visit_of_each() -> None:
    history = History(3)
    history.update_all(torch.tensor([0, 1, 2]), {"predicted": torch.tensor([0, 0, 2])}, epoch=3)
    assert history.visits.tolist() == [1, 1, 1] and history.first_fit.tolist() == [3, -1, 3]


def test_checkpoints_hold_the_tallies_at_these_places() -> None:
    # What runs of before have saved is read by place: add to this list, and never change it.
    assert [name for name, _ in sorted(TALLIES.items(), key=lambda item: item[1].place)] == [
        "visits", "fits", "selectable", "memorizable", "selected", "mined", "memorized", "first_fit", "predicted",
        "selected_now", "prob_given", "prob_given_sum", "weight",
    ]  # fmt: skip
    assert [tally.place for tally in TALLIES.values()] == list(range(len(TALLIES))) and len(TALLIES) <= WORDS
