"""Scores of labels from probabilities: trust in each given label, in [0, 1]. torch is never imported here.

Every function goes through the (N, K) probabilities in blocks and keeps (N,) and (K,) arrays alone, so that they may
lie on the disk.

    relative_confidence   probability of the given label against what is usual for that label; the default
    self_confidence       probability of the given label
    normalized_margin     that, less the largest probability of another class
    entropy_weighted      that, against the entropy of the row

The last three are those of Northcutt et al. 2021 (https://arxiv.org/abs/1911.00068) and of Kuan and Mueller 2022
(https://arxiv.org/abs/2210.03920).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.data.label_columns import Labels

Probs = npt.NDArray[np.floating[Any]]
Values = npt.NDArray[np.float64]

SCORES = ("relative_confidence", "self_confidence", "normalized_margin", "entropy_weighted")
"""Names of scores, the default first."""
BLOCK = 2**20
"""Probabilities that are looked at at a time."""
OWN_LEVEL, ANY_LEVEL, OTHER_CLASS = 0.5, 1.0, 0.125
"""Weights of the logarithms in relative_confidence: what a class's own samples get, what any sample gets, and what the
other class gets. docs/decisions.md tells how they were chosen and how little depends on them."""
_FLOOR = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Look:
    """Facts of each row of (N, K) probabilities beside its given label."""

    given: Labels
    """(N,) class numbers."""
    predicted: Labels
    """(N,) the most probable class."""
    confidence: Values
    """(N,) its probability."""
    prob_given: Values
    """(N,) probability of the given label."""
    prob_other: Values
    """(N,) the largest probability of any other class."""
    own_level: Values
    """(K,) mean probability of a class over the samples that were given it, 1 where there are none: what a sure
    prediction of this class is like."""
    any_level: Values
    """(K,) mean probability of a class over all samples."""
    counts: npt.NDArray[np.int64]
    """(K,) samples that were given each class."""

    @property
    def differs(self) -> npt.NDArray[np.bool_]:
        """(N,) whether the model predicts another class than the given one."""
        return self.predicted != self.given

    @property
    def is_sure(self) -> npt.NDArray[np.bool_]:
        """(N,) whether the model is as sure of its prediction as it is, on average, of samples with that label."""
        return self.confidence >= self.own_level[self.predicted]


def blocks(probs: Probs) -> Iterator[tuple[slice, Probs]]:
    """Parts of (N, K) probabilities, of BLOCK numbers each, with the rows that they are."""
    step = max(1, BLOCK // probs.shape[1])
    for start in range(0, len(probs), step):
        rows = slice(start, min(start + step, len(probs)))
        yield rows, np.asarray(probs[rows])


def look_at(given: Labels, probs: Probs) -> Look:
    """Read (N, K) probabilities once.

    Args:
        given: (N,) class numbers.
        probs: (N, K), rows add up to 1.
    """
    num_samples, num_classes = probs.shape
    predicted, sums = np.empty(num_samples, np.int64), np.zeros(num_classes)
    confidence, prob_given, prob_other = (np.empty(num_samples) for _ in range(3))
    for rows, block in blocks(probs):
        index, labels = np.arange(len(block)), given[rows]
        predicted[rows] = block.argmax(1)
        confidence[rows] = block[index, predicted[rows]]
        prob_given[rows] = block[index, labels]
        sums += block.sum(0, dtype=np.float64)
        others = block.copy()
        others[index, labels] = -1
        prob_other[rows] = others.max(1)
    counts = np.bincount(given, minlength=num_classes)
    own = np.bincount(given, weights=prob_given, minlength=num_classes)
    return Look(
        given=given,
        predicted=predicted,
        confidence=confidence,
        prob_given=prob_given,
        prob_other=prob_other,
        own_level=np.where(counts > 0, own / np.maximum(counts, 1), 1.0),
        any_level=sums / num_samples,
        counts=counts,
    )


def label_quality(look: Look, probs: Probs, score: str) -> Values:
    """(N,) trust in each given label in [0, 1], 1 = trustworthy.

    Args:
        look: at these probabilities.
        probs: (N, K); entropy_weighted alone reads them again.
        score: a name of SCORES.
    """
    assert score in SCORES, score
    if score == "self_confidence":
        return np.clip(look.prob_given, 0, 1)
    if score == "normalized_margin":
        return np.clip((look.prob_given - look.prob_other + 1) / 2, 0, 1)
    if score == "entropy_weighted":
        entropy = _entropy(probs)
        total = look.prob_given + entropy
        return np.divide(look.prob_given, total, out=np.zeros(len(total)), where=total > 0)
    # A class that the model never names has no level to compare with: one sample in N is the least that shows.
    own, anyone = (_log(np.maximum(level, 1 / len(probs))) for level in (look.own_level, look.any_level))
    ratio = (
        _log(look.prob_given)
        - OWN_LEVEL * own[look.given]
        - ANY_LEVEL * anyone[look.given]
        - OTHER_CLASS * _log(look.prob_other)
    )
    return 1 / (1 + np.exp(-ratio))


def _log(values: Values) -> Values:
    return np.log(np.maximum(values, _FLOOR))


def _entropy(probs: Probs) -> Values:
    """(N,) in [0, 1], 1 where all classes are equally probable."""
    found = np.empty(len(probs))
    for rows, block in blocks(probs):
        found[rows] = -(block * np.log(np.maximum(block, _FLOOR, dtype=np.float64))).sum(1)
    return np.maximum(found, 0) / np.log(probs.shape[1])
