"""A budget of minutes: how many epochs fit into it, measured before the run begins, and an end when it is used up."""

from __future__ import annotations

import time
from collections.abc import Callable

from acto.core.errors import UserError
from acto.runs.cost import Estimate

SPARE = 0.1
"""Share of the budget that is kept for what comes after training: the report."""
LEAST_EPOCHS = 2


class Budget:
    """Minutes from now on.

    Args:
        text: their number, as it was typed.
        clock: gives seconds.

    Raises:
        UserError: no positive number.
    """

    def __init__(self, text: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        try:
            self.minutes = float(text)
        except ValueError:
            self.minutes = 0.0
        if not 0 < self.minutes < float("inf"):
            raise UserError(f"--minutes takes a number above 0, but got {text!r}")
        self._clock, self._began = clock, clock()

    def left(self) -> float:
        """Seconds of training that are left."""
        return (1 - SPARE) * 60 * self.minutes - (self._clock() - self._began)

    def is_over(self, seconds: float) -> bool:
        """Say whether an epoch of so many `seconds` no longer fits."""
        return self.left() < seconds

    def epochs(self, cost: Estimate, *, looking: float = 0.0) -> int:
        """Count the epochs that fit, of the kinds that `cost` has measured, in the shares that they have there.

        Args:
            cost: of the run as it was asked for.
            looking: seconds that a frozen network takes first.
        """
        number = sum(phase.epochs for phase in cost.phases)
        each = sum(phase.epochs * phase.seconds_per_epoch for phase in cost.phases) / number
        fitting = int((self.left() - looking) / max(each + cost.evaluation_seconds, 1e-9))
        return min(max(fitting, LEAST_EPOCHS), number)
