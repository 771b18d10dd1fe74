"""Contradictions of given labels by predictions, pair by pair of classes. torch is never imported here."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]

SPREAD_ANYWAY, FEWEST_CLASSES = 0.3, 10
"""Share of the contradictions that may be spread though wrong labels follow the classes, and the classes without which
noise of all kinds looks spread. docs/decisions.md has their choice."""
FEWEST_OTHERS = 4
"""Other classes that are predicted at all, without which nothing is called spread."""
TOLD_APART = 2.0
"""A model knows a class if it predicts it for this many times as many of its samples as any other."""
_MOST_COUNTED = 2**22
"""Pairs of classes up to which all are counted, and none is looked for."""


def times_of_pairs(first: Labels, second: Labels, num_classes: int) -> tuple[Labels, Labels]:
    """Count pairs of classes: the codes first * K + second that occur, ascending, and how often each does."""
    codes = first * num_classes + second
    if num_classes**2 > _MOST_COUNTED:
        return np.unique(codes, return_counts=True)
    counts = np.bincount(codes, minlength=num_classes**2)
    found = np.flatnonzero(counts)
    return found, counts[found]


def spread_evenly(codes: Labels, times: Labels, num_classes: int) -> npt.NDArray[np.float64]:
    """Count, (K,), the contradictions of each given label that are no more than what most predicted classes have of it.

    A model takes a class for a few others; what is spread over all of them is rather wrong labels.

    Args:
        codes: (P,) pairs given * K + predicted that occur, ascending.
        times: (P,) how often.
        num_classes: K.
    """
    given, predicted = np.divmod(codes, num_classes)
    predictions = np.bincount(predicted, weights=times, minlength=num_classes)
    starts, spread = np.searchsorted(given, np.arange(num_classes + 1)), np.zeros(num_classes)
    for k in range(num_classes):
        part = slice(starts[k], starts[k + 1])
        is_other = predicted[part] != k
        others, found = predicted[part][is_other], times[part][is_other]
        rates = np.zeros(np.count_nonzero(predictions) - bool(predictions[k]))
        known = times[part][~is_other].sum() >= TOLD_APART * found.max(initial=0)
        if not known or len(rates) < FEWEST_OTHERS or 2 * len(found) < len(rates):  # a median of 0
            continue
        rates[: len(found)] = found / predictions[others]
        spread[k] = np.minimum(rates[: len(found)], np.median(rates)) @ predictions[others]
    return spread


def share_spread(given: Labels, predicted: Labels, num_classes: int) -> float:
    """Share of the contradictions that are spread evenly over the classes, 0 to 1; 0 without any.

    Args:
        given: (N,) class numbers.
        predicted: (N,) the same; -1: nothing is predicted.
        num_classes: K.
    """
    seen = predicted >= 0
    codes, times = times_of_pairs(given[seen], predicted[seen], num_classes)
    differ = int(times[codes // num_classes != codes % num_classes].sum())
    return float(spread_evenly(codes, times, num_classes).sum()) / differ if differ else 0.0


def beyond_usual_spread(given: Labels, predicted: Labels, num_classes: int) -> float:
    """By how much the share that is spread exceeds what it may be if wrong labels follow the classes; 0 at least.

    Args:
        given: (N,) class numbers.
        predicted: (N,) the same; -1: nothing is predicted.
        num_classes: K.
    """
    if num_classes < FEWEST_CLASSES:
        return 0.0
    return max(share_spread(given, predicted, num_classes) - SPREAD_ANYWAY, 0.0)
