"""The protocol of training: what all methods share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from acto.core.errors import UserError, check_range, choose
from acto.training.plans import Plan

OPTIMIZERS = ("sgd", "adam")


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """How a method is trained: what all methods of a comparison share.

    Attributes:
        epochs: total number, >= 1.
        batch_size: samples a step over all processes, >= 2.
        optimizer: "sgd" or "adam".
        momentum: of SGD, in [0, 1).
        nesterov: Nesterov's form of the momentum.
        weight_decay: added to the gradient, >= 0.
        clip_norm: largest norm of the gradient of each network; None: no limit.
        plan: learning rate of every network.
        plans: other plans by parameter group, say {"net1": Plan(lr=0.08)}.
    """

    epochs: int = 100
    batch_size: int = 128
    optimizer: Literal["sgd", "adam"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    clip_norm: float | None = None
    plan: Plan = field(default_factory=Plan)
    plans: dict[str, Plan] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        check_range("epochs", self.epochs, low=1)
        check_range("batch_size", self.batch_size, low=2)
        choose("optimizer", self.optimizer, OPTIMIZERS)
        check_range("momentum", self.momentum, low=0, high=0.9999)
        check_range("weight_decay", self.weight_decay, low=0)
        if self.optimizer != "adam" and any(p.schedule.startswith("adam") for p in (self.plan, *self.plans.values())):
            raise UserError(f"an adam schedule sets Adam's betas, but the optimizer is {self.optimizer}")
        if self.clip_norm is not None:
            check_range("clip_norm", self.clip_norm, low=0, open_low=True)

    def at(self, group: str, epoch: int) -> dict[str, float]:
        """Settings of the parameter group `group` in `epoch`."""
        return self.plans.get(group, self.plan).at(epoch, self.epochs)
