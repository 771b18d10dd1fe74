"""Scores of labels from probabilities: trust in each given label, in [0, 1]. torch is never imported here.

Every function goes through the (N, K) probabilities in blocks and keeps (N,) and (K,) arrays alone, so that they may
lie on the disk. What comes out does not depend on the size of the blocks, to the last bit.

    relative_confidence   probability of the given label against what is usual for that label; the default
    self_confidence       probability of the given label
    normalized_margin     that, less the largest probability of another class
    entropy_weighted      that, against the entropy of the row

The last three are those of Northcutt et al. 2021 (https://arxiv.org/abs/1911.00068) and of Kuan and Mueller 2022
(https://arxiv.org/abs/2210.03920).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError
from acto.data.label_columns import Labels

Probs = npt.NDArray[np.floating[Any]]
Values = npt.NDArray[np.float64]

SCORES = ("relative_confidence", "self_confidence", "normalized_margin", "entropy_weighted")
"""Names of scores, the default first."""
BLOCK = 2**17
"""Probabilities that are looked at at a time: they stay in a processor's cache."""
SUM_TOLERANCE = 0.02
"""Rows of probabilities may miss 1 by this: half precision does."""
TINY = 1e-4
"""Negative numbers down to minus this are rounding, and count as 0."""
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
    num_clipped: int = 0
    """Negative numbers, of at most TINY, that count as 0."""

    @property
    def differs(self) -> npt.NDArray[np.bool_]:
        """(N,) whether the model predicts another class than the given one."""
        return self.predicted != self.given

    @property
    def is_sure(self) -> npt.NDArray[np.bool_]:
        """(N,) whether the model is as sure of its prediction as it is, on average, of samples with that label."""
        return self.confidence >= self.own_level[self.predicted]


def blocks(probs: Probs) -> Iterator[tuple[slice, Probs]]:
    """Copies of parts of (N, K) probabilities, of BLOCK numbers each, with the rows that they are.

    A part lasts until the next one is asked for. Half precision comes as single.
    """
    step = max(1, BLOCK // probs.shape[1])
    room = np.empty((min(step, len(probs)), probs.shape[1]), working_type(probs))
    for start in range(0, len(probs), step):
        rows = slice(start, min(start + step, len(probs)))
        block = room[: rows.stop - start]
        block[:] = probs[rows]
        yield rows, block


def working_type(probs: Probs) -> np.dtype[Any]:
    """The type that blocks of probabilities have: single or double precision."""
    return np.dtype(np.float32) if probs.itemsize < 4 else probs.dtype.newbyteorder("=")


def look_at(given: Labels, probs: Probs) -> Look:
    """Read (N, K) probabilities once, and check them on the way.

    Args:
        given: (N,) class numbers.
        probs: (N, K), rows add up to 1.

    Raises:
        UserError: NaN, numbers outside [0, 1], or rows that do not add up to 1, with the first rows.
    """
    num_samples, num_classes = probs.shape
    predicted, sums = np.empty(num_samples, np.int64), np.zeros(num_classes)
    confidence, prob_given, prob_other = (np.empty(num_samples) for _ in range(3))
    faults, wide = _Faults(), np.empty((0, num_classes))
    for rows, block in blocks(probs):
        faults.look(block, start=rows.start)
        index, labels = np.arange(len(block)), given[rows]
        best = block.argmax(1)
        predicted[rows] = best
        confidence[rows] = block[index, best]
        prob_given[rows] = block[index, labels]
        # Row after row, with the sums of before as the first: the same whatever the blocks.
        wide = wide if len(wide) > len(block) else np.empty((len(block) + 1, num_classes))
        wide[0], wide[1 : len(block) + 1] = sums, block
        sums = wide[: len(block) + 1].sum(0)
        block[index, labels] = -1
        prob_other[rows] = block.max(1)
    faults.refuse()
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
        num_clipped=faults.clipped,
    )


@dataclass(slots=True)
class _Faults:
    """Faults that no probabilities have, gathered block by block."""

    infinite: list[int] = field(default_factory=list)
    outside: list[int] = field(default_factory=list)
    off: list[int] = field(default_factory=list)
    percentages: int = 0
    """Rows that add up to 100."""
    clipped: int = 0

    def look(self, block: Probs, *, start: int) -> None:
        """Look at the rows from `start` on; tiny negative numbers become 0."""
        with np.errstate(invalid="ignore", over="ignore"):
            sums = block @ np.ones(block.shape[1], block.dtype)
            # One look at all of them together: NaN fails every comparison.
            if block.min() >= 0 and bool((np.abs(sums - 1) <= SUM_TOLERANCE).all()):
                return
            sums = block.sum(1, dtype=np.float64)
            outside = ((block < -TINY) | (block > 1 + SUM_TOLERANCE)).any(1)
            off = np.abs(sums - 1) > SUM_TOLERANCE
        self.infinite += (start + np.flatnonzero(~np.isfinite(block).all(1))).tolist()
        self.outside += (start + np.flatnonzero(outside)).tolist()
        self.off += (start + np.flatnonzero(off)).tolist()
        self.percentages += int((np.abs(sums - 100) <= 100 * SUM_TOLERANCE).sum())
        self.clipped += int((block < 0).sum())
        np.maximum(block, 0, out=block)

    def refuse(self) -> None:
        """Raise UserError for the first kind of fault that there is."""
        refuse_rows(self.infinite, "pred_probs has NaN or infinite values")
        hint = " (are these percentages? divide them by 100)" if 2 * self.percentages > len(self.off) else ""
        refuse_rows(self.outside, f"pred_probs must lie in [0, 1]{hint}")
        refuse_rows(self.off, f"rows of pred_probs must add up to 1{hint or ' (are these logits?)'}")


def refuse_rows(rows: npt.ArrayLike, problem: str) -> None:
    """Raise UserError with the first of `rows`, if there are any."""
    if num := np.size(rows):
        shown = ", ".join(map(str, np.ravel(rows)[:5].tolist()))
        raise UserError(f"{problem}: {num} {'row' if num == 1 else 'rows'} ({shown})")


def rows_by_class(
    classes: Labels, rows: npt.NDArray[np.int64] | None, num_classes: int
) -> Callable[[int], npt.NDArray[np.int64]]:
    """Find the rows of each class, ascending.

    Args:
        classes: (N,) class numbers.
        rows: those to look among; None: all.
        num_classes: K.
    """
    # Numbers of 16 bits are sorted in a tenth of the time.
    own = (classes if rows is None else classes[rows]).astype(np.uint16 if num_classes <= 2**16 else np.int64)
    order = np.argsort(own, kind="stable")
    ends = np.searchsorted(own[order], np.arange(num_classes + 1)).tolist()
    order = order if rows is None else rows[order]
    return lambda k: order[ends[k] : ends[k + 1]]


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
        block = np.maximum(block, 0)
        found[rows] = -(block * np.log(np.maximum(block, _FLOOR, dtype=np.float64))).sum(1)
    return np.maximum(found, 0) / np.log(probs.shape[1])
