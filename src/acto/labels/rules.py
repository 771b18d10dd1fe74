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

from acto.data.label_columns import Labels
from acto.labels.scores import Look, Probs, Values, blocks, label_quality

Flags = npt.NDArray[np.bool_]

VOTE = "two_of_four"
VOTERS = ("prune_by_noise_rate", "prune_by_class", "confident_learning", "low_relative_confidence")
NEEDED_VOTES = 2


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
        self._pairs: tuple[Labels, Labels, npt.NDArray[np.int64]] | None = None

    def by(self, rule: str) -> Flags:
        """(N,) the labels that a rule of RULES calls wrong; none where the model predicts the given class."""
        if rule not in self._found:
            self._found[rule] = RULES[rule](self) & self.differs
        return self._found[rule]

    def wrong_pairs(self) -> tuple[Labels, Labels, npt.NDArray[np.int64]]:
        """The given class, the other class and the estimated number of samples of each pair of different classes."""
        if self._pairs is None:
            num_classes = self.probs.shape[1]
            sure = _sure_class(self.probs, self.look.own_level)
            code = (self.look.given * num_classes + sure)[sure >= 0]
            pairs, times = np.unique(code, return_counts=True)
            first, second = np.divmod(pairs, num_classes)
            totals = np.bincount(first, weights=times, minlength=num_classes)
            scaled = np.rint(times / totals[first] * self.look.counts[first]).astype(np.int64)
            kept = (first != second) & (scaled > 0)
            self._pairs = first[kept], second[kept], scaled[kept]
        return self._pairs


def _sure_class(probs: Probs, level: Values) -> Labels:
    """(N,) the most probable of the classes that reach their level, -1 where none does."""
    found = np.empty(len(probs), np.int64)
    for rows, block in blocks(probs):
        reached = np.where(block >= level.astype(block.dtype), block, -1)
        best = reached.argmax(1)
        found[rows] = np.where(reached[np.arange(len(block)), best] >= 0, best, -1)
    return found


def _by_noise_rate(issues: Issues) -> Flags:
    """Take from each pair of classes as many as it should have: those that prefer the other by the largest margin."""
    look, flags = issues.look, np.zeros(len(issues.look.given), bool)
    rows_of = _rows_of_classes(look, np.flatnonzero(issues.differs))
    for label, other, count in zip(*issues.wrong_pairs(), strict=True):
        rows = rows_of(label)
        margin = issues.probs[rows, other] - look.prob_given[rows]
        flags[rows[_largest(margin, count) & (margin > 0)]] = True
    return flags


def _by_class(issues: Issues) -> Flags:
    """Take from each given class as many as should belong elsewhere: those whose label is least probable."""
    look, flags = issues.look, np.zeros(len(issues.look.given), bool)
    first, _, times = issues.wrong_pairs()
    wrong = np.bincount(first, weights=times, minlength=len(look.counts)).astype(np.int64)
    rows_of = _rows_of_classes(look, np.arange(len(look.given)))
    for label in np.flatnonzero(wrong).tolist():
        rows = rows_of(label)
        flags[rows[_largest(-look.prob_given[rows], wrong[label])]] = True
    return flags


def _low(score: str) -> Callable[[Issues], Flags]:
    """Take as many as confident learning finds, with the lowest score."""

    def lowest(issues: Issues) -> Flags:
        flags = np.zeros(len(issues.look.given), bool)
        order = np.argsort(label_quality(issues.look, issues.probs, score), kind="stable")
        flags[order[: int(issues.by("confident_learning").sum())]] = True
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


def _rows_of_classes(look: Look, rows: npt.NDArray[np.int64]) -> Callable[[int], npt.NDArray[np.int64]]:
    """Rows of each given class among `rows`."""
    order = rows[np.argsort(look.given[rows], kind="stable")]
    ends = np.searchsorted(look.given[order], np.arange(len(look.counts) + 1))
    return lambda label: order[ends[label] : ends[label + 1]]


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
