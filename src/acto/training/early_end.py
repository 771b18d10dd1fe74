"""An early end of training: by the accuracy against the given labels of training samples that were held out.

Those labels are as wrong as the others, but a model that learns wrong labels by heart does not learn these: its
accuracy against them falls, as that against true ones would. No true label and no test set takes part.
"""

from __future__ import annotations

import math
from typing import Any

SMOOTHED = 5
"""The accuracy that counts is the mean of so many measurements, the last of which is the epoch's own."""


class EarlyEnd:
    """The best epoch so far, and whether training goes on.

    Args:
        patience: epochs without a better one after which training ends.
        first: the first epoch that counts: before it a method has not begun to distrust labels.
    """

    def __init__(self, patience: int, *, first: int) -> None:
        self.patience, self.first = patience, first
        self.recent: list[float] = []
        """The last accuracies, SMOOTHED of them at the most."""
        self.best_epoch: int | None = None
        """Epoch, from 0; None before one was measured."""
        self.best = math.nan
        """The smoothed accuracy of that epoch, in [0, 1]."""

    @property
    def smoothed(self) -> float:
        """The accuracy that counts now, in [0, 1]; NaN before one was measured."""
        return math.fsum(self.recent) / len(self.recent) if self.recent else math.nan

    def see(self, epoch: int, accuracy: float) -> bool:
        """Take an epoch's accuracy, NaN where none was measured; return whether the epoch is the best so far."""
        if epoch < self.first or math.isnan(accuracy):
            return False
        self.recent = [*self.recent, accuracy][-SMOOTHED:]
        if self.best_epoch is not None and self.smoothed <= self.best:
            return False
        self.best_epoch, self.best = epoch, self.smoothed
        return True

    def is_due(self, epochs_done: int) -> bool:
        """Say whether training ends after so many epochs."""
        return self.best_epoch is not None and epochs_done - 1 - self.best_epoch >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs, in plain values."""
        return {"recent": self.recent, "best_epoch": self.best_epoch, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what state_dict() gave."""
        self.recent, self.best_epoch, self.best = list(state["recent"]), state["best_epoch"], state["best"]
