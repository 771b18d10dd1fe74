"""Given labels that a judge has preferred over the course of a training, and how many of them are credible.

A network takes a class for a few others, and what it has learned it keeps: late in a training its word on a label says
less than the mean of all that it said.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from acto.core.contradictions import beyond_usual_spread, spread_evenly, times_of_pairs
from acto.core.types import Batch
from acto.methods.base import Method
from acto.methods.blocks.selection import place_in_class

MOST_OF_REST = 0.25
"""Part of the contradictions not spread evenly over the classes that counts as the judge's errors, at most.
docs/decisions.md has its choice."""


class Course:
    """A method's memory of what its judge preferred at every visit, and the given labels that it preferred most.

    Args:
        method: keeps the state, as its own.
    """

    STATE: ClassVar = ("preference", "visits", "predicted", "preferred", "credible")
    """Names of the state's parts: (N,) mean preference, number of visits, last prediction and "is preferred now"; and
    (K,) samples of each given label that count as right, -1 where that is not known yet."""

    def __init__(self, method: Method) -> None:
        self._method, (size, num_classes) = method, (method.task.num_samples, method.task.num_classes)
        method.remember("preference", torch.zeros(size))
        method.remember("visits", torch.zeros(size, dtype=torch.int32))
        method.remember("predicted", torch.full((size,), -1, dtype=torch.int32))
        method.remember("preferred", torch.zeros(size, dtype=torch.bool))
        method.remember("credible", torch.full((num_classes,), -1), per_sample=False)

    def see(self, judge: Tensor, batch: Batch) -> Tensor:
        """Take a visit into the mean, and say which of the batch are preferred, (B,) bool, since the turn began.

        Args:
            judge: (B, K) logits, without gradient.
            batch: of B samples.
        """
        preference, visits, predicted, preferred, _ = self._state
        index, probs = batch.index, F.softmax(judge, dim=1)
        visits[index] += 1
        preference[index] += (preferences(probs, batch.label) - preference[index]) / visits[index]
        predicted[index] = probs.argmax(1).int()
        return preferred[index]

    def look_back(self) -> None:
        """Choose anew which given labels are preferred. Waits for the device where their number is not known yet."""
        preference, visits, predicted, preferred, credible = self._state
        labels = self._method.labels
        # It is settled once: later predictions agree with what was learned, right or wrong.
        if (credible < 0).any() and (visits > 0).any():
            credible.copy_(credible_counts(labels, predicted, preference, num_classes=len(credible)))
        preferred.copy_(place_in_class(-preference, labels, num_classes=len(credible)) < credible[labels])

    @property
    def _state(self) -> list[Tensor]:
        return [getattr(self._method, name) for name in self.STATE]


def preferences(probs: Tensor, label: Tensor) -> Tensor:
    """(B,) in [0, 1]: the given label's probability beside that of the likeliest other class; .5: they are alike.

    Args:
        probs: (B, K) probabilities.
        label: (B,) given labels.
    """
    given = probs.gather(1, label[:, None])
    other = probs.scatter(1, label[:, None], 0.0).max(1, keepdim=True).values
    return (given / (given + other)).squeeze(1)


def credible_counts(given: Tensor, predicted: Tensor, preference: Tensor, *, num_classes: int) -> Tensor:
    """(K,) int64: samples of each given label that count as right, where contradictions are spread evenly; else 0.

    Those count whose given label was preferred on average, and a part of the others that are not spread, which are
    rather the judge's errors: by as much as the share that is spread exceeds what it may be with labels wrong for a
    reason.

    Args:
        given: (N,) class numbers.
        predicted: (N,) the same, at the last visit; -1: there was none.
        preference: (N,) mean preference of the given label, 0 without a visit.
        num_classes: K.
    """
    seen = predicted >= 0
    labels, classes = given[seen].cpu().numpy(), predicted[seen].long().cpu().numpy()
    part = min(beyond_usual_spread(labels, classes, num_classes), MOST_OF_REST)
    if not part:
        return torch.zeros(num_classes, dtype=torch.int64, device=given.device)
    agreed = given[preference > 0.5].bincount(minlength=num_classes).cpu().numpy()
    spread = spread_evenly(*times_of_pairs(labels, classes, num_classes), num_classes)
    rest = np.bincount(labels, minlength=num_classes) - agreed - spread
    return torch.from_numpy(np.floor(agreed + part * np.maximum(rest, 0)).astype(np.int64)).to(given.device)
