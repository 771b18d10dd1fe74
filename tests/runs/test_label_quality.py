"""Trust in labels after a training: memory, model and course of training, and contradictions that are spread evenly."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from acto.core.contradictions import share_spread
from acto.runs.sample_table import label_quality


def labels_of(*rows: list[int]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Given and predicted classes; rows[k][j] samples are given k and predicted j."""
    counts = np.array(rows)
    return tuple(np.repeat(each.ravel(), counts.ravel()) for each in np.indices(counts.shape))  # type: ignore[return-value]


def circle(*times: int) -> list[list[int]]:
    """Every class is predicted times[0] times itself, times[1] times the next, and so on."""
    return [np.roll(times, k).tolist() for k in range(len(times))]


@pytest.mark.parametrize(
    ("matrix", "share"),
    [
        pytest.param(circle(4, 1, 1, 1, 1), 1.0, id="all alike"),
        pytest.param(circle(8, 4, 1, 1, 1), 4 / 7, id="one class more often: what it has more is not"),
        pytest.param(circle(7, 4, 1, 1, 1), 0.0, id="the class is hardly told from the next"),
        pytest.param(circle(4, 4, 0, 0, 0), 0.0, id="the next class alone"),
        pytest.param(circle(4, 1, 1, 1), 0.0, id="four classes: a median of three is a pair or two"),
        pytest.param(circle(9, 0, 0, 0, 0), 0.0, id="no contradiction"),
    ],
)
def test_share_spread_by_hand(matrix: list[list[int]], share: float) -> None:
    given, predicted = labels_of(*matrix)
    assert share_spread(given, predicted, len(matrix)) == pytest.approx(share)
    # Samples that were never visited say nothing.
    unseen = np.full(20, -1)
    assert share_spread(np.append(given, unseen + 1), np.append(predicted, unseen), len(matrix)) == pytest.approx(share)


def training(matrix: list[list[int]], quality: torch.Tensor | None, course: torch.Tensor) -> Any:
    given, predicted = map(torch.from_numpy, labels_of(*matrix))
    return SimpleNamespace(
        method=SimpleNamespace(
            label_quality=lambda: quality, labels=given, task=SimpleNamespace(num_classes=len(matrix))
        ),
        history=SimpleNamespace(mean_prob_given=course, predicted=predicted.int()),
    )


@pytest.mark.parametrize(
    ("matrix", "part"),
    [
        pytest.param(circle(4, 4, *[0] * 8), 0.0, id="pairs"),
        pytest.param(circle(60, 30, *[1] * 8), 0.0, id="pairs but a few"),
        pytest.param(circle(16, 8, *[1] * 8), 9 / 16 - 0.3, id="both"),
        pytest.param(circle(4, *[1] * 9), 0.5, id="spread"),
        pytest.param(circle(4, *[1] * 8), 0.0, id="nine classes"),
    ],
)
def test_the_course_of_training_counts_where_contradictions_are_spread(matrix: list[list[int]], part: float) -> None:
    size = int(np.sum(matrix))
    quality, course, now = torch.full((size,), 0.8), torch.full((size,), 0.1), np.full(size, 0.4)
    found = label_quality(training(matrix, quality, course), now)
    assert found.dtype == np.float32 and found == pytest.approx(np.full(size, (1 - part) * 0.6 + part * 0.1))
    assert label_quality(training(matrix, quality, course)) == pytest.approx(
        np.full(size, (1 - part) * 0.8 + part * 0.1)
    )
    assert label_quality(training(matrix, None, course), now) == pytest.approx(np.full(size, 0.1)), "no memory"


@pytest.mark.parametrize("matrix", [circle(4, 4, *[0] * 8), circle(4, *[1] * 9)], ids=["pairs", "spread"])
def test_a_sample_that_was_never_seen_is_not_the_worst_of_all(matrix: list[list[int]]) -> None:
    size = int(np.sum(matrix))
    unseen, now = torch.full((size,), float("nan")), np.full(size, 0.9)
    for quality in (None, unseen, torch.full((size,), 0.4)):
        assert label_quality(training(matrix, quality, unseen), now).tolist() == pytest.approx([0.9] * size)
    assert label_quality(training(matrix, torch.full((size,), 0.4), unseen)).tolist() == pytest.approx([0.4] * size)
