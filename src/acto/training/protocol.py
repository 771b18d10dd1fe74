"""The protocol of training: what all methods share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from acto.core.errors import UserError
from acto.core.settings import Settings, setting
from acto.training.plans import Plan


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol(Settings):
    """Protocol of training: what all methods of a comparison share."""

    epochs: int = setting(100, low=1)
    """Total number, those of `init_from` counted."""
    batch_size: int = setting(128, low=2)
    """Samples a step over all processes."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Stochastic gradient descent or Adam."""
    momentum: float = setting(0.9, low=0, high=0.9999)
    """Momentum of SGD."""
    nesterov: bool = True
    """Nesterov's form of the momentum."""
    weight_decay: float = setting(5e-4, low=0)
    """Share of the weights that is added to the gradient."""
    clip_norm: float | None = setting(None, low=0, open_low=True)
    """Largest norm of the gradient of each network; None: no limit."""
    plan: Plan = field(default_factory=Plan)
    """Learning rate of every network."""
    plans: dict[str, Plan] = field(default_factory=dict)
    """Other plans by parameter group, say {"net1": Plan(lr=0.08)}."""
    stop_early: int | None = setting(None, low=1)
    """End the run when the accuracy against the given labels of the held-out training samples, the mean of the last
    five measured, has not risen for this many epochs, and keep the model of the best epoch; the warm-up does not count.
    None: train to the end. Learning rates follow their plan for all of `epochs`, and are cut where the run ends."""

    def __post_init__(self) -> None:
        """Refuse values out of range, and a plan for another optimizer."""
        Settings.__post_init__(self)
        if self.optimizer != "adam" and any(p.schedule.startswith("adam") for p in (self.plan, *self.plans.values())):
            raise UserError(f"an adam schedule sets Adam's betas, but the optimizer is {self.optimizer}")

    def at(self, group: str, epoch: int) -> dict[str, float]:
        """Settings of the parameter group `group` in `epoch`."""
        return self.plans.get(group, self.plan).at(epoch, self.epochs)
