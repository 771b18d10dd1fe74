"""Right labels and annotators' mistakes from votes alone, by expectation maximization.

A. P. Dawid and A. M. Skene, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm", Applied
Statistics 28 (1979), https://doi.org/10.2307/2346806: each annotator has a table of chances to say class y where class
t is right, and given the right class annotators err independently.

Departures
    - Each row of a table starts from pseudo-votes, so that an annotator with few votes is judged by what all have in
      common: with a chance theta it knows the class, else it says one of those that it is used to saying or that
      everybody takes this class for. One who always says the same thus tells nothing, as in MACE (Hovy et al. 2013,
      https://aclanthology.org/N13-1132).
    - A sample's only vote does not count for its annotator's table: it would confirm itself.
    - A model's probabilities, raised to a power that is estimated as well, take the place of the classes' frequencies.

Nothing of the size N x M is ever made; a turn costs V * K additions, V being the number of votes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from acto.core.errors import UserError
from acto.core.text import counted
from acto.data.votes import Floats, Votes

PSEUDO_VOTES = 10.0
"""Pseudo-votes of each row of an annotator's table, and of its theta half as many."""
TURNS, TOLERANCE = 200, 1e-5
"""EM ends when probabilities change by less on average, or after so many turns."""
MOST_POWER = 5.0
"""Largest power of the model's probabilities."""
MOST_CELLS = 100_000_000
"""Cells of all annotators' tables, M * K * K: 800 MB, and as much again while they are made."""
_LEAST = 1e-6
"""Model's probabilities are not taken to be smaller: one mistake of it must not outweigh all votes."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Estimate:
    """Estimate of the right labels and of each annotator's mistakes."""

    probs: Floats
    """(N, K) of the right class; a sample without votes has the model's, or the classes' frequencies."""
    tables: Floats
    """(M, K, K) chance of each annotator to say class [2] where class [1] is right."""
    power: float | None
    """Power of the model's probabilities: below 1 it is too sure of itself; None without a model."""
    turns: int
    converged: bool


def dawid_skene(votes: Votes, pred_probs: Floats | None = None) -> Estimate:
    """Estimate right labels and annotators' tables together.

    Args:
        votes: N samples of M annotators.
        pred_probs: (N, K) of a model that was not fitted to these very labels; rows add up to 1.

    Raises:
        UserError: the tables would be too large.
    """
    _, num_annotators, num_classes = votes.shape
    if (cells := num_annotators * num_classes**2) > MOST_CELLS:
        raise UserError(
            f"the tables of {num_annotators} annotators and {num_classes} classes have {counted(cells, 'cell')}, and "
            f"may have {MOST_CELLS:,}: choose the method majority, or with a model's probabilities crowdlab"
        )
    tables = _Tables(votes, has_model=pred_probs is not None)
    voted = votes.per_sample > 0
    shared = votes.per_sample > 1
    counts = votes.counts().astype(np.float64)
    scores = power = None
    if pred_probs is not None:
        scores = np.log(np.clip(pred_probs, _LEAST, 1))
        counts, power = counts + pred_probs, 1.0
    probs = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    turns, change = 0, np.inf
    log_prior = np.zeros((1, num_classes))
    while turns < TURNS and change >= TOLERANCE:
        turns += 1
        chances = tables.estimate(probs)
        if scores is None:
            log_prior = np.log((probs[voted].sum(0, keepdims=True) + 1) / (voted.sum() + num_classes))
        else:
            if turns > 1 and shared.any():
                power = _power(scores[shared], probs[shared], power or 1.0)
            log_prior = (power or 1.0) * scores
        new = _softmax(log_prior + tables.log_likelihood(chances))
        change = float(np.abs(new - probs)[voted].mean())
        probs = new
    return Estimate(probs=probs, tables=chances, power=power, turns=turns, converged=change < TOLERANCE)


class _Tables:
    """Sums over the votes, in the order in which they are needed again and again."""

    def __init__(self, votes: Votes, *, has_model: bool) -> None:
        self._votes = votes
        _, num_annotators, num_classes = votes.shape
        self._cells = votes.annotators * num_classes + votes.labels
        counts_here = (votes.per_sample > 1)[votes.samples]
        if has_model:  # which tells of the votes on samples that nobody else has seen, if there are no others
            compared = np.bincount(votes.annotators, weights=counts_here, minlength=num_annotators)
            counts_here |= compared[votes.annotators] == 0
        self._judged = np.flatnonzero(counts_here)
        self._judged_cells, self._judged_samples = self._cells[self._judged], votes.samples[self._judged]
        said = np.bincount(self._cells, minlength=num_annotators * num_classes).reshape(num_annotators, num_classes)
        of_all = said.sum(0) / max(1, said.sum())
        weight = 2.0 * num_classes
        self._used_to = (said + weight * of_all) / (said.sum(1, keepdims=True) + weight)
        self._of_all = of_all

    def estimate(self, probs: Floats) -> Floats:
        """(M, K, K) chances from probabilities (N, K) of the right class."""
        _, num_annotators, num_classes = self._votes.shape
        shape = (num_classes, num_annotators, num_classes)
        # One class after another: 1.5 million votes take 0.2 s for ten classes, as sums of rows they took 0.8 s.
        counts = np.stack([
            np.bincount(
                self._judged_cells,
                weights=np.ascontiguousarray(column)[self._judged_samples],
                minlength=num_annotators * num_classes,
            )
            for column in probs.T
        ]).reshape(shape).transpose(1, 0, 2)  # fmt: skip
        of_rows = counts.sum(2)
        right, total = np.einsum("jtt->j", counts), of_rows.sum(1)
        by_luck = (of_rows * self._used_to).sum(1)
        half = PSEUDO_VOTES / 2
        overall = max(0.0, (right.sum() - by_luck.sum() + half / 2) / (total.sum() - by_luck.sum() + half))
        theta = np.clip((right - by_luck + half * overall) / (total - by_luck + half), 0, 0.995)
        expected = self._guesses(counts.sum(0))
        expected *= (1 - theta)[:, None, None]
        expected += theta[:, None, None] * np.eye(num_classes)
        expected *= PSEUDO_VOTES
        expected += counts
        expected += 1e-9
        expected /= expected.sum(2, keepdims=True)
        return expected

    def _guesses(self, counts: Floats) -> Floats:
        """(M, K, K) chances of an annotator who does not know the class: what it is used to saying, and half of what
        goes wrong by the mistakes of all, (K, K). It says the right class no less often than by luck: otherwise few
        votes would turn classes into each other.
        """
        others = 1 - np.eye(len(counts))
        mistakes = (counts + self._of_all) * others + 1e-12 * others
        mistakes /= mistakes.sum(1, keepdims=True)
        found = np.repeat(self._used_to[:, None, :], len(counts), axis=1)
        wrong = (found * others).sum(2, keepdims=True)
        found *= 1 - 0.5 * others
        found += 0.5 * wrong * mistakes
        return found

    def log_likelihood(self, chances: Floats) -> Floats:
        """(N, K) of the votes on each sample if that class is right."""
        votes = self._votes
        by_right = np.log(chances).transpose(1, 0, 2).reshape(len(votes.class_names), -1)
        sums = [np.bincount(votes.samples, weights=row[self._cells], minlength=len(votes.ids)) for row in by_right]
        return np.stack(sums, axis=1)


def _power(scores: Floats, probs: Floats, start: float) -> float:
    """Fit the power of probabilities exp(scores) that makes them most like `probs`, by three of Newton's steps."""
    power = start
    for _ in range(3):
        fitted = _softmax(power * scores)
        mean = (fitted * scores).sum(1)
        slope = float(((probs - fitted) * scores).sum())
        curvature = float((fitted * scores**2).sum() - (mean**2).sum())
        power = float(np.clip(power + slope / max(curvature, 1e-12), 0.05, MOST_POWER))
    return power


def _softmax(scores: Floats) -> Floats:
    scores = scores - scores.max(1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(1, keepdims=True)
    return scores
