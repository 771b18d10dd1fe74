"""Rules that call a label wrong, from probabilities alone. torch is never imported here.

Each gives (N,) booleans. Rules of confident learning (Northcutt et al. 2021, https://arxiv.org/abs/1911.00068) have the
names that they have in cleanlab, which users know. The counts behind them: a sample counts as sure of a class if it
gets at least the mean probability of the samples that were given the class; the sure samples of each given class,
scaled to the size of the class, say how many of its labels belong to which class.

No single rule wins: where noise is frequent and the model good, nearly every prediction that differs is right; where
noise is rare or the model weak, most such predictions are the model's own errors. The default lets four rules vote and
takes what at least two of them name. They err differently: two count pairs of classes or classes, one asks for
sureness, one ranks all samples by a score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from acto.core.contradictions import times_of_pairs
from acto.data.label_columns import Labels
from acto.labels.scores import Look, Probs, Values, label_quality, rows_by_class, working_type

Flags = npt.NDArray[np.bool_]

VOTE = "two_of_four"
VOTERS = ("prune_by_noise_rate", "prune_by_class", "confident_learning", "low_relative_confidence")
NEEDED_VOTES = 2
_AT_HAND = 2**23
"""Probabilities that are copied at a time."""


class Issues:
    """The labels that rules call wrong; what several rules share is computed once."""

    def __init__(self, look: Look, probs: Probs) -> None:
        """Args:
        look: at the probabilities.
        probs: (N, K).
        """
        self.look, self.probs = look, probs
        self.differs = look.differs
        self._found: dict[str, Flags] = {}
        self._quality: dict[str, Values] = {}
        self._pairs: tuple[Labels, Labels, npt.NDArray[np.int64]] | None = None

    def by(self, rule: str) -> Flags:
        """(N,) the labels that a rule of RULES calls wrong; none where the model predicts the given class."""
        if rule not in self._found:
            self._found[rule] = RULES[rule](self) & self.differs
        return self._found[rule]

    def quality(self, score: str) -> Values:
        """(N,) trust in each label by a score of SCORES."""
        if score not in self._quality:
            self._quality[score] = label_quality(self.look, self.probs, score)
        return self._quality[score]

    def wrong_pairs(self) -> tuple[Labels, Labels, npt.NDArray[np.int64]]:
        """The given class, the other class and the estimated number of samples of each pair of different classes."""
        if self._pairs is None:
            num_classes = self.probs.shape[1]
            sure = _sure_class(self.look, self.probs)
            pairs, times = times_of_pairs(self.look.given[sure >= 0], sure[sure >= 0], num_classes)
            first, second = np.divmod(pairs, num_classes)
            totals = np.bincount(first, weights=times, minlength=num_classes)
            scaled = np.rint(times / totals[first] * self.look.counts[first]).astype(np.int64)
            kept = (first != second) & (scaled > 0)
            self._pairs = first[kept], second[kept], scaled[kept]
        return self._pairs


def _sure_class(look: Look, probs: Probs) -> Labels:
    """(N,) the most probable of the classes that reach their level, -1 where none does."""
    dtype = working_type(probs)
    level, confidence = look.own_level.astype(dtype), look.confidence.astype(dtype)
    found = np.where(confidence >= level[look.predicted], look.predicted, -1)
    # The others are read again, but for those that reach no level at all.
    left = np.flatnonzero((found < 0) & (confidence >= level.min()))
    step = max(1, _AT_HAND // probs.shape[1])
    for start in range(0, len(left), step):
        rows = left[start : start + step]
        block = np.maximum(probs[rows].astype(dtype, copy=False), 0)
        block[block < level] = -1
        best = block.argmax(1)
        found[rows] = np.where(block[np.arange(len(rows)), best] >= 0, best, -1)
    return found


def _by_noise_rate(issues: Issues) -> Flags:
    """Take from each pair of classes as many as it should have: those that prefer the other by the largest margin."""
    look, probs, flags = issues.look, issues.probs, np.zeros(len(issues.look.given), bool)
    rows_of = rows_by_class(look.given, np.flatnonzero(issues.differs), len(look.counts))
    first, second, times = issues.wrong_pairs()
    starts = np.searchsorted(first, np.arange(len(look.counts) + 1)).tolist()
    for label in np.unique(first).tolist():
        rows, pairs = rows_of(label), slice(starts[label], starts[label + 1])
        given = look.prob_given[rows]
        at_hand = np.asarray(probs[rows]) if len(rows) * probs.shape[1] <= _AT_HAND else None
        for other, count in zip(second[pairs].tolist(), times[pairs].tolist(), strict=True):
            margin = (probs[rows, other] if at_hand is None else at_hand[:, other]) - given
            larger = np.flatnonzero(margin > 0)
            flags[rows[larger[_largest(margin[larger], count)]]] = True
    return flags


def _by_class(issues: Issues) -> Flags:
    """Take from each given class as many as should belong elsewhere: those whose label is least probable."""
    look, flags = issues.look, np.zeros(len(issues.look.given), bool)
    first, _, times = issues.wrong_pairs()
    wrong = np.bincount(first, weights=times, minlength=len(look.counts)).astype(np.int64)
    rows_of = rows_by_class(look.given, None, len(look.counts))
    for label in np.flatnonzero(wrong).tolist():
        rows = rows_of(label)
        flags[rows[_largest(-look.prob_given[rows], wrong[label])]] = True
    return flags


def _low(score: str) -> Callable[[Issues], Flags]:
    """Take as many as confident learning finds, with the lowest score."""

    def lowest(issues: Issues) -> Flags:
        quality, count = issues.quality(score), int(issues.by("confident_learning").sum())
        flags = np.zeros(len(quality), bool)
        if count:
            highest = np.partition(quality, count - 1)[count - 1]
            flags[quality < highest] = True
            flags[np.flatnonzero(quality == highest)[: count - int(flags.sum())]] = True
        return flags

    return lowest


def _vote(issues: Issues) -> Flags:
    votes = np.sum([issues.by(rule) for rule in VOTERS], axis=0, dtype=np.int8)
    return np.asarray(votes >= NEEDED_VOTES)


def _largest(values: Values, count: int) -> Flags:
    """The `count` largest, and what equals the last of them."""
    if count >= len(values):
        return np.ones(len(values), bool)
    least = float(np.partition(values, len(values) - count)[len(values) - count])
    found: Flags = np.greater_equal(values, least)
    return found


RULES: Mapping[str, Callable[[Issues], Flags]] = {
    VOTE: _vote,
    "prune_by_noise_rate": _by_noise_rate,
    "prune_by_class": _by_class,
    "both": lambda issues: issues.by("prune_by_noise_rate") & issues.by("prune_by_class"),
    "confident_learning": lambda issues: issues.look.is_sure,
    "predicted_neq_given": lambda issues: issues.differs,
    "low_relative_confidence": _low("relative_confidence"),
    "low_self_confidence": _low("self_confidence"),
    "low_normalized_margin": _low("normalized_margin"),
}
"""By name, the default first."""
