"""Estimate of how many labels are wrong, and of which classes are taken for which. torch is never imported here.

A model that contradicts a label is wrong itself or shows that the label is. Which of the two cannot be told from its
predictions alone, so the interval covers both:

- from above, all contradictions count, less a part of the unsure ones, which are the model's own errors, plus wrong
  labels that the model agrees with. What the model gets wrong on labels that it has not seen bounds the rate as well,
  where that is known: every wrong label there is a contradiction, or is shared by the model.
  Labels that the model agrees with in the end, and that training hardly trusts, may be wrong too.
- from below, contradictions count that are sure and leave the given label little, less the errors that hide among
  them: a model that errs is unsure far more often than sure. A model that does not expect more errors than there are
  contradictions tells how many it expects: these need no wrong label either. Its doubt counts against what it is at
  its surest of the same class, as a model that has learned from wrong labels is never quite sure.
  One that was trained on the labels contradicts wrong ones everywhere, and right ones where it is unsure: the share
  that it contradicts in its surer half is an end of its own. If it contradicts unseen labels more often, it errs often,
  sure or not, and learns some of the errors away: twice the difference is taken off all contradictions. But a model
  takes a class for a few others, so contradictions that are spread evenly over all classes are hardly its own errors.

A model that agrees with the labels no better than chance says nothing from below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from acto.core.contradictions import spread_evenly, times_of_pairs
from acto.labels.report import MOST_PAIRS, NoiseEstimate
from acto.labels.scores import Look, Values, rows_by_class

HIDDEN_ERRORS = 0.25
"""Sure errors of a model for each unsure contradiction, at most."""
UNSURE_WRONG = 0.25
"""Share of the unsure contradictions that count as wrong labels in the estimate itself."""
OWN_ERRORS = 0.2
"""Share of the unsure contradictions that are the model's own errors, at least."""
SHARED_ERRORS = 0.75
"""Wrong labels that the model agrees with, as a share of its unsure contradictions times the share of all
contradictions, at most: both would have to be wrong at once, in the same way. docs/decisions.md has these four numbers'
origin."""
LITTLE = 0.5
"""A contradiction leaves the given label little if its probability is below this part of the predicted class's."""
DEVIATIONS = 1.96
"""Standard deviations of a 95 % interval."""
NONE_SEEN = 3.0
"""Events that a 95 % interval still allows where none was seen: (1 - 3 / n)^n is 5 %."""
SURER = 0.5
"""Part of the labels trained on, where the model is surest, in which contradictions are hardly its own errors."""
SUREST = 0.97
"""Quantile of the confidence, in a class or in all, that counts as certainty."""
AS_SURE = 0.99
"""A confidence of this part of certainty is no doubt: where a model is sure of nearly all, no half is the surer one."""
EXCUSED = 2.0
"""Own errors among the contradictions of labels trained on, at most, for each by which unseen ones have more of them:
docs/decisions.md has its choice."""
ERRORS_SPREAD = 0.5
"""A model's own errors that are spread evenly over the classes, for each contradiction that is not, at most."""
CHANCE = 0.1
"""A model whose agreement, corrected for chance (Cohen's kappa), is below this has learned next to nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unseen:
    """Agreement of a model with labels that it was not trained on."""

    agreement: float
    """Share of the labels that it predicts, in [0, 1]."""
    count: int
    """Number of these labels, >= 1."""
    share: float = 1.0
    """Part of the labels in question that may be wrong, in (0, 1]: all wrong ones are among these."""
    like_training: bool = True
    """True: these labels are wrong as often as those of training. False: a test set's, which may be better; what the
    model misses there may widen the interval of the rate, but not narrow it."""

    @property
    def most_errors(self) -> float:
        """Upper end of a 95 % interval (Wilson) of the share of wrong ones among those that may be wrong."""
        square, share = DEVIATIONS**2 / self.count, 1 - self.agreement
        spread = math.sqrt(share * (1 - share) * square + square**2 / 4)
        return min(1.0, (share + square / 2 + spread) / (1 + square) / self.share)

    def excess(self, differs: float, *, rate: float) -> float:
        """By how much more the model contradicts these labels than those that it was trained on.

        Args:
            differs: share that it contradicts of the latter.
            rate: share of wrong ones among the latter; right labels of a test set are contradicted as if they had it.
        """
        missed = min((1 - self.agreement) / self.share, 1.0)
        if not self.like_training:
            missed += (1 - missed) * rate
        return missed - differs


def kappa(look: Look) -> float:
    """Agreement of predictions and given labels corrected for chance (Cohen 1960), 1 at most, 0 for luck."""
    total = len(look.given)
    luck = float(look.counts @ np.bincount(look.predicted, minlength=len(look.counts))) / total**2
    agreement = 1 - float(look.differs.mean())
    # One class alone, predicted and given: nothing was to be told apart.
    return (agreement - luck) / (1 - luck) if luck < 1 else 0.0


def estimate_noise(
    look: Look, *, unseen: Unseen | None = None, doubted: npt.NDArray[np.bool_] | None = None
) -> NoiseEstimate:
    """Estimate the noise with intervals of 95 % that cover the model's errors.

    Args:
        look: at the probabilities.
        unseen: what the model makes of labels that it has not seen, where that is known.
        doubted: (N,) labels that training hardly trusted, of a model that was trained on these samples; those that it
            agrees with may be wrong, so they count for the upper end.
    """
    num_classes, counts = len(look.counts), look.counts
    sure = look.is_sure & look.differs
    clear = sure & (look.prob_given < LITTLE * look.confidence)
    codes, times = times_of_pairs(look.given, look.predicted, num_classes)
    # The right labels of a class are a pair of their own, even if the model contradicts all of them.
    pairs = np.union1d(codes, np.flatnonzero(counts) * (num_classes + 1))
    first, second = np.divmod(pairs, num_classes)
    wrong = first != second

    def counted(codes: npt.NDArray[np.int64], times: npt.NDArray[np.int64]) -> Values:
        found = np.zeros(len(pairs))
        found[np.searchsorted(pairs, codes)] = times
        return found[wrong]

    parts = [times_of_pairs(look.given[part], look.predicted[part], num_classes) for part in (sure, clear)]
    found = _Contradictions(counted(codes, times), *(counted(*part) for part in parts))
    differs, by_chance = float(look.differs.mean()), kappa(look) < CHANCE
    differing = np.bincount(first[wrong], weights=found.all, minlength=num_classes) / np.maximum(counts, 1)
    rate, rate_low, rate_high = (
        float(part[0]) / len(look.given)
        for part in _Contradictions(*(np.array([part.sum()]) for part in found.parts)).bounds(
            np.array([differs]), by_chance=by_chance
        )
    )
    luck = DEVIATIONS * math.sqrt(differs / len(look.given))
    least = rate_low
    if 1 - float(look.confidence.mean()) < differs + luck:
        least = min(least, max(differs - _own_doubt(look) - luck, 0.0))
    if doubted is not None:
        least = min(least, _least_where_sure(look))
    if unseen is not None:
        errors = EXCUSED * max(unseen.excess(differs, rate=rate), 0.0)
        spread = float(spread_evenly(codes, times, num_classes).sum()) / len(look.given)
        beyond_errors = spread - ERRORS_SPREAD * (differs - spread) - DEVIATIONS * math.sqrt(spread / len(look.given))
        least = min(least, max(differs - errors, beyond_errors, 0.0))
    shrink, rate_low = least / rate_low if rate_low else 1.0, least
    share, low, high = (
        part / counts[first[wrong]] for part in found.bounds(differing[first[wrong]], by_chance=by_chance)
    )
    low *= shrink
    agreed = 0.0 if doubted is None else float((doubted & ~look.differs).mean())
    if unseen is not None or agreed:
        bound = rate_high if unseen is None else max(differs, unseen.most_errors)
        bound = agreed + (bound if unseen is None or unseen.like_training else max(bound, rate_high))
        # Class by class the bound is not known: all grow or shrink alike.
        high = np.maximum(high * (bound / rate_high), share)
        rate_high = bound
    columns = _with_right_ones(first, wrong, np.minimum(share, 1), low, np.minimum(high, 1), counts)
    kept = np.sort(np.argsort(-columns[0] * counts[first], kind="stable")[:MOST_PAIRS])
    return NoiseEstimate(
        rate=min(rate, rate_high),
        rate_low=min(rate_low, rate_high),
        rate_high=min(rate_high, 1.0),
        given=first[kept],
        right=second[kept],
        share=columns[0][kept],
        low=columns[1][kept],
        high=columns[2][kept],
        counts=counts,
        resamples=0,
    )


def _own_doubt(look: Look) -> float:
    """Share of errors that the model expects, where its surest predictions of each class count as certain."""
    surest, rows_of = np.ones(len(look.counts)), rows_by_class(look.predicted, None, len(look.counts))
    for k in np.unique(look.predicted).tolist():
        sureness = look.confidence[rows_of(k)]
        place = int(SUREST * (len(sureness) - 1))
        surest[k] = np.partition(sureness, place)[place]
    return float(np.maximum(1 - look.confidence / surest[look.predicted], 0).mean())


def _least_where_sure(look: Look) -> float:
    """Lower end of a 95 % interval of the share that the model contradicts where it is surest."""
    places = [int((1 - SURER) * len(look.given)), int(SUREST * (len(look.given) - 1))]
    half, certainty = np.partition(look.confidence, places)[places]
    differs = look.differs[look.confidence >= min(half, AS_SURE * certainty)]
    share = float(differs.mean())
    return max(share - DEVIATIONS * math.sqrt(share * (1 - share) / len(differs)), 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class _Contradictions:
    """Numbers of predictions that differ from the given label, (P,) each: of pairs of classes, or of all samples."""

    all: Values
    sure: Values
    clear: Values
    """Sure, and the given label has little."""

    @property
    def parts(self) -> tuple[Values, Values, Values]:
        return self.all, self.sure, self.clear

    def bounds(self, differing: Values, *, by_chance: bool) -> tuple[Values, Values, Values]:
        """Wrong labels: estimated, at least, and at most.

        Args:
            differing: (P,) share of the samples around that the model contradicts.
            by_chance: the model has learned next to nothing.
        """
        unsure = self.all - self.clear
        # Each unsure one is an error of the model or not: half a deviation a sample at most.
        luck = DEVIATIONS / 2 * np.sqrt(np.maximum(unsure, 1))
        low = np.maximum(self.clear - HIDDEN_ERRORS * unsure - luck, 0) * (not by_chance)
        high = self.all - OWN_ERRORS * unsure + SHARED_ERRORS * unsure * differing + luck
        high = np.maximum(high, NONE_SEEN)
        middle = (low + high) / 2 if by_chance else self.sure + UNSURE_WRONG * (self.all - self.sure)
        return np.clip(middle, low, high), low, high


def _with_right_ones(
    first: npt.NDArray[np.int64],
    wrong: npt.NDArray[np.bool_],
    share: Values,
    low: Values,
    high: Values,
    counts: npt.NDArray[np.int64],
) -> tuple[Values, Values, Values]:
    """The columns of all pairs, with those whose label is right: what the others leave of their class."""
    num_classes = len(counts)
    sums = [np.bincount(first[wrong], weights=part, minlength=num_classes) for part in (share, low, high)]
    # No more than all of a class can be wrong.
    shrink = 1 / np.maximum(sums[0], 1)
    share, part_wrong = share * shrink[first[wrong]], sums[0] * shrink
    most_wrong = np.maximum(sums[2], NONE_SEEN / np.maximum(counts, 1))
    columns = np.empty((3, len(first)))
    for column, part, rest in zip(columns, (share, low, high), (part_wrong, most_wrong, sums[1]), strict=True):
        column[:] = np.clip(1 - rest, 0, 1)[first]
        column[wrong] = part
    return columns[0], np.minimum(columns[1], columns[0]), np.maximum(columns[2], columns[0])
