"""The best epoch and the end by it, on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from acto.training.early_end import EarlyEnd


def followed(accuracies: list[float], *, patience: int = 3, first: int = 0) -> tuple[list[int], EarlyEnd, int | None]:
    """The epochs that were the best so far, the judge, and the number of epochs after which training ends."""
    judge = EarlyEnd(patience, first=first)
    best, end = [], None
    for epoch, accuracy in enumerate(accuracies):
        if judge.see(epoch, accuracy):
            best.append(epoch)
        if end is None and judge.is_due(epoch + 1):
            end = epoch + 1
    return best, judge, end


def test_the_mean_of_the_last_five_decides() -> None:
    # Means: .5, .6, .5, .5, .5, .54 (.7 .3 .5 .5 .7), .5, ...
    best, judge, end = followed([0.5, 0.7, 0.3, 0.5, 0.5, 0.7, 0.5])
    assert (best, judge.best_epoch, judge.best, end) == ([0, 1], 1, pytest.approx(0.6), 5)
    assert judge.smoothed == pytest.approx(0.5) and judge.recent == [0.3, 0.5, 0.5, 0.7, 0.5]


def test_an_equal_mean_is_no_rise_and_the_earlier_epoch_stays() -> None:
    best, _, end = followed([0.5, 0.5, 0.5, 0.5, 0.5])
    assert (best, end) == ([0], 4)


def test_a_rise_gives_as_many_epochs_again() -> None:
    best, _, end = followed([0.1, 0.2, 0.1, 0.1, 0.9, 0.2, 0.1, 0.1, 0.1], patience=3)
    assert (best, end) == ([0, 1, 4, 5], 9)


def test_the_warm_up_and_epochs_without_a_measurement_do_not_count() -> None:
    nan = math.nan
    best, judge, end = followed([0.9, 0.9, nan, 0.2, nan, 0.4, nan, 0.1, nan, nan], patience=4, first=2)
    assert (best, judge.recent, end) == ([3, 5], [0.2, 0.4, 0.1], 10)
    assert followed([nan, nan])[2] is None and math.isnan(EarlyEnd(1, first=0).smoothed)


def test_it_goes_on_from_what_it_kept() -> None:
    accuracies = [0.4, 0.6, 0.5, 0.7, 0.2, 0.1, 0.8, 0.3, 0.1]
    _, whole, _ = followed(accuracies)
    for cut in range(len(accuracies)):
        _, before, _ = followed(accuracies[:cut])
        after = EarlyEnd(3, first=0)
        after.load_state_dict(before.state_dict())
        for epoch in range(cut, len(accuracies)):
            after.see(epoch, accuracies[epoch])
        assert after.state_dict() == whole.state_dict()
