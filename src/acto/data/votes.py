"""Labels by several people: votes of annotators, with gaps, in long form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from acto.data.label_columns import Labels

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Votes:
    """Labels by sample and annotator: V votes on N samples by M annotators, of K classes."""

    samples: Labels
    """(V,) sample numbers, ascending."""
    annotators: Labels
    """(V,) annotator numbers; of one sample each occurs once, and they ascend."""
    labels: Labels
    """(V,) class numbers."""
    ids: tuple[str, ...]
    """(N,) names of the samples, those without a vote included."""
    annotator_names: tuple[str, ...]
    """(M,) different names."""
    class_names: tuple[str, ...]
    """(K,) different names."""
    notes: tuple[str, ...] = ()
    """Notes for the user: what counts as a gap, what was left out."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """N, M and K."""
        return len(self.ids), len(self.annotator_names), len(self.class_names)

    @property
    def per_sample(self) -> Labels:
        """(N,) number of votes on each sample."""
        return np.bincount(self.samples, minlength=len(self.ids))

    @property
    def per_annotator(self) -> Labels:
        """(M,) number of votes of each annotator."""
        return np.bincount(self.annotators, minlength=len(self.annotator_names))

    def counts(self) -> Labels:
        """(N, K) votes on each sample for each class."""
        num_samples, _, num_classes = self.shape
        found = np.bincount(self.samples * num_classes + self.labels, minlength=num_samples * num_classes)
        return found.reshape(num_samples, num_classes)

    def of(self, probs: Floats) -> Floats:
        """(V,) what (N, K) probabilities give to the class of each vote."""
        found: Floats = probs[self.samples, self.labels]
        return found


def majority(votes: Votes, pred_probs: Floats | None = None) -> Labels:
    """Find the class (N,) with most votes on each sample; of a sample without votes class 0, which means nothing.

    Among several with equally many it is the one that the model holds likelier, or without a model the one that has
    more votes over all samples, and at last the first.

    Args:
        votes: N samples.
        pred_probs: (N, K) of a model.
    """
    counts = votes.counts()
    overall = counts.sum(0)
    # Below one vote, so that they decide among equals alone.
    finer = pred_probs if pred_probs is not None else (overall / max(1, overall.sum()))[None, :]
    return (counts + 0.5 * np.clip(finer, 0, 1)).argmax(1)


def agreement_with_others(votes: Votes) -> Floats:
    """(M,) of the other votes on an annotator's samples, the share that names its class; NaN where there are none."""
    same = votes.of(votes.counts().astype(np.float64)) - 1
    others = votes.per_sample[votes.samples] - 1
    agreeing, all_of_them = (
        np.bincount(votes.annotators, weights=values, minlength=len(votes.annotator_names)) for values in (same, others)
    )
    return shares(agreeing, all_of_them)


def shares(part: npt.ArrayLike, whole: npt.ArrayLike) -> Floats:
    """Divide; NaN where the whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole > 0)


def named(names: Sequence[str], positions: npt.ArrayLike) -> list[str]:
    """Names at some positions; an empty text at negative ones."""
    return np.array([*names, ""])[np.asarray(positions)].tolist()
