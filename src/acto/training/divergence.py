"""Divergence: a loss or weights that are no longer finite."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from acto.core import distributed
from acto.core.types import Clock
from acto.methods.base import Method

SHOWN_ROWS = 8
"""So many samples of a bad step are named."""


class DivergedError(RuntimeError):
    """Losses or weights are no longer finite numbers."""

    def __init__(self, what: str, *, clock: Clock, rows: tuple[int, ...], advice: str) -> None:
        """`what` is not finite, found at `clock`, in a step whose batch began with the samples `rows`."""
        super().__init__(what, clock, rows, advice)
        self.what, self.clock, self.rows, self.advice = what, clock, rows, advice
        self.ids: tuple[str, ...] = tuple(map(str, rows))
        """Names of the samples, put here by whoever knows them."""

    def __str__(self) -> str:
        """The sentence for the user."""
        turn = f", turn {self.clock.turn}" if self.clock.turn else ""
        where = f"epoch {self.clock.epoch}{turn}, step {self.clock.step} of {self.clock.steps}"
        batch = f"its batch begins with the samples {', '.join(self.ids)}" if self.ids else "in another process"
        return f"{self.what} in {where} ({batch}). {self.advice}"


class LossWatch:
    """The first step of a turn whose loss is not finite, kept on the device: to ask in every step would make it wait.

    Args:
        steps: of the turn.
        device: of the training.
    """

    def __init__(self, steps: int, device: torch.device) -> None:
        self.steps = steps
        self.first_bad = torch.full((), steps, dtype=torch.int64, device=device)
        """() `steps` if there is none."""
        self.bad_rows = torch.full((SHOWN_ROWS,), -1, dtype=torch.int64, device=device)
        """The first samples of its batch, filled up with -1."""
        self.last_rows = self.bad_rows.clone()
        """Those of the last step."""
        self._step = torch.zeros((), dtype=torch.int64, device=device)

    def update(self, loss: Tensor, index: Tensor) -> None:
        """Look at the next step's loss, and at the (B,) samples of its batch."""
        index = index[:SHOWN_ROWS]
        self.last_rows.copy_(nn.functional.pad(index, (0, SHOWN_ROWS - len(index)), value=-1))
        first = ~torch.isfinite(loss) & (self.first_bad == self.steps)
        self.bad_rows.copy_(torch.where(first, self.last_rows, self.bad_rows))
        self.first_bad.copy_(torch.where(first, self._step, self.first_bad))
        self._step.add_(1)


def refuse_non_finite(method: Method, clock: Clock, watch: LossWatch) -> None:
    """End the run, alike in all processes, before a turn that went wrong reaches a checkpoint.

    A finite loss with a gradient that is not ruins the weights unseen, if it is the last step's.

    Args:
        method: what was trained in the turn.
        clock: of the turn's last step.
        watch: what was seen of the turn.
    """
    ruined = torch.stack([~torch.isfinite(weights).all() for weights in method.parameters()]).any()
    num_bad, num_ruined = distributed.total(torch.stack([watch.first_bad < clock.steps, ruined]).int()).tolist()
    if num_bad:
        here = int(watch.first_bad) < clock.steps
        raise DivergedError(
            "the loss is not finite",
            clock=replace(clock, step=int(watch.first_bad)) if here else clock,
            rows=_known(watch.bad_rows) if here else (),
            advice="A lower learning rate, clip_norm or precision float32 may help.",
        )
    if num_ruined:
        raise DivergedError(
            "the weights are not finite, though the loss was,",
            clock=clock,
            rows=_known(watch.last_rows),
            advice="A gradient was not: a lower learning rate or precision float32 may help.",
        )


def _known(rows: Tensor) -> tuple[int, ...]:
    return tuple(row for row in rows.tolist() if row >= 0)
