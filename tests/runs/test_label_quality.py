"""Trust in labels after a training: memory, model and course of training, and contradictions that are spread evenly."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from acto.runs.sample_table import label_quality
from toys import circle, labels_of


def training(matrix: list[list[int]], quality: torch.Tensor | None, course: torch.Tensor) -> Any:
    given, predicted = map(torch.from_numpy, labels_of(matrix))
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
