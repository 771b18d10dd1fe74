"""Rate plans: the learning rate of each epoch, set once at its start.

The small language (``cosine:20,5e-4,100``) is that of the public code of ACTO and its relatives, so that a command from
one of their papers means the same here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from acto.core.errors import UserError, choose
from acto.core.settings import Settings, setting

KINDS = ("constant", "baseline", "step", "linear", "cosine", "adam")
BASELINE_STEPS = (60, 120, 150)
ADAM_BETAS = (0.9, 0.999)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan(Settings):
    """The learning rate over the epochs."""

    lr: float = setting(0.01, low=0, open_low=True)
    """Base rate."""
    schedule: str = "constant"
    """One of

    - ``constant``
    - ``baseline``: a tenth from each of the epochs 60, 120 and 150 on; has no warm-up
    - ``step:E1,E2,...[,FACTOR]``: times FACTOR (below 1; default 0.1) from each of these epochs on; plain ``step``:
      from half and from three quarters of the run on
    - ``cosine:A,B,C``: `lr` up to epoch A, then half a cosine down towards B during C - A epochs, which begin when both
      A and the warm-up are over; its last value is kept to the end. C missing or not above A: the number of epochs;
      plain ``cosine``: from the end of the warm-up towards 0
    - ``linear:A,B,C``: the same with a straight line
    - ``adam:A,B,C``, for the optimizer Adam: `lr` up to epoch A, then a straight line to 0 at epoch C; Adam's beta1 is
      0.9 up to A and B from then on. ``adam:80,0.1,200`` is the plan of Co-teaching and its kin
    """
    warmup_epochs: int = setting(0, low=0)
    """This many epochs run at `warmup_lr` first."""
    warmup_lr: float | None = setting(None, low=0, open_low=True)
    """None: the base rate."""

    def __post_init__(self) -> None:
        """Refuse what cannot be followed.

        Raises:
            UserError: naming the field.
        """
        Settings.__post_init__(self)
        kind, numbers = self._parsed()
        if kind in ("linear", "cosine"):
            if len(numbers) not in (0, 2, 3):
                raise UserError(f"schedule {self.schedule!r} needs the form {kind}:A,B or {kind}:A,B,C")
            if numbers and not 0 <= numbers[1] < self.lr:
                raise UserError(f"schedule {self.schedule!r} ends at {numbers[1]:g}, not below the rate lr={self.lr:g}")
        elif kind == "adam" and not (len(numbers) == 3 and 0 <= numbers[0] < numbers[2] and 0 <= numbers[1] < 1):
            raise UserError(f"schedule {self.schedule!r} needs the form adam:A,B,C with A below C and B in [0, 1)")
        elif kind in ("constant", "baseline") and numbers:
            raise UserError(f"schedule {kind!r} takes no numbers, but got {self.schedule!r}")

    def at(self, epoch: int, epochs: int) -> dict[str, Any]:
        """Settings of the optimizer's group in `epoch` (from 0) of `epochs`: "lr", and "betas" in a plan for Adam."""
        settings: dict[str, Any] = {"lr": self._rate(epoch, epochs)}
        kind, numbers = self._parsed()
        if kind == "adam":
            settings["betas"] = (numbers[1], ADAM_BETAS[1]) if epoch >= numbers[0] else ADAM_BETAS
        return settings

    def _rate(self, epoch: int, epochs: int) -> float:
        kind, numbers = self._parsed()
        if kind == "baseline":
            return self.lr * 0.1 ** sum(epoch >= start for start in BASELINE_STEPS)
        if epoch < self.warmup_epochs:
            return self.lr if self.warmup_lr is None else self.warmup_lr
        if kind == "step":
            factor = numbers[-1] if numbers and numbers[-1] < 1 else 0.1
            starts = [n for n in numbers if n >= 1] or [epochs / 2, 3 * epochs / 4]
            return self.lr * factor ** sum(epoch >= start for start in starts)
        if kind in ("linear", "cosine"):
            return self._descent(kind, numbers, epoch, epochs)
        if kind == "adam":
            return self._descent("linear", (numbers[0], 0.0, numbers[2]), epoch, epochs)
        return self.lr

    def _descent(self, kind: str, numbers: tuple[float, ...], epoch: int, epochs: int) -> float:
        start, end_lr = numbers[:2] if numbers else (self.warmup_epochs, 0.0)
        stop = numbers[2] if len(numbers) == 3 and numbers[2] > start else epochs
        length = max(stop - start, 1)
        done = min(max(epoch - max(start, self.warmup_epochs), 0), length - 1) / length
        left = (1 + math.cos(math.pi * done)) / 2 if kind == "cosine" else 1 - done
        return end_lr + (self.lr - end_lr) * left

    def _parsed(self) -> tuple[str, tuple[float, ...]]:
        kind, _, rest = self.schedule.partition(":")
        choose("schedule", kind, KINDS)
        try:
            return kind, tuple(float(number) for number in rest.split(",")) if rest else ()
        except ValueError:
            raise UserError(f"schedule {self.schedule!r}: {rest!r} is not a list of numbers") from None
