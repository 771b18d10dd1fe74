"""Contradictions of given labels, pair by pair of classes, and which of them are spread evenly, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from acto.core.contradictions import beyond_usual_spread, share_spread, spread_evenly, times_of_pairs
from toys import circle, labels_of


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
    given, predicted = labels_of(matrix)
    assert share_spread(given, predicted, len(matrix)) == pytest.approx(share)
    # Samples that were never visited say nothing.
    unseen = np.full(20, -1)
    assert share_spread(np.append(given, unseen + 1), np.append(predicted, unseen), len(matrix)) == pytest.approx(share)


def test_each_given_label_has_its_own() -> None:
    matrix = circle(8, 4, 1, 1, 1)
    matrix[0] = [2, 2, 2, 2, 2]  # of which the class is not told from the others
    pairs = times_of_pairs(*labels_of(matrix), 5)
    found = spread_evenly(*pairs, 5)
    # Of 1: predicted classes have 1/9, 4/16, 1/16 and 1/16, so the median .087 counts of the first two, and 1 + 1.
    assert found == pytest.approx([0, 4.17, 4.35, 4.35, 3.53], abs=0.01)


@pytest.mark.parametrize(
    ("matrix", "beyond"),
    [
        pytest.param(circle(40, *[1] * 9), 0.7, id="all"),
        pytest.param(circle(40, 10, *[1] * 8), 0.2, id="half"),
        pytest.param(circle(90, 40, *[1] * 8), 0.0, id="less than follows the classes anyhow"),
        pytest.param(circle(40, *[1] * 8), 0.0, id="nine classes"),
    ],
)
def test_beyond_the_usual_spread(matrix: list[list[int]], beyond: float) -> None:
    given, predicted = labels_of(matrix)
    assert beyond_usual_spread(given, predicted, len(matrix)) == pytest.approx(beyond)
