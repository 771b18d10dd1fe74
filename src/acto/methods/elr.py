"""ELR: predictions are held to a moving average of what they were, so that early learning outlasts memorization.

S. Liu et al., "Early-Learning Regularization Prevents Memorization of Noisy Labels", NeurIPS 2020,
https://arxiv.org/abs/2007.00151.

Symbols
    p_i      the network's prediction on sample i, clamped to [1e-4, 1 - 1e-4]
    t_i      target: moving average of p_i over the epochs, from 0; a constant in the backward pass
    beta     momentum of t
    lambda   weight of the regularizer log(1 - <p_i, t_i>); it is negative, and the lower the better p_i agrees with t_i

Its gradient cancels that of the cross-entropy where the label contradicts t_i. As t starts at 0 the regularizer is weak
in the first epochs, which is all the warm-up there is.

Departures: none. The published CIFAR rows choose their epoch on 5,000 held-out noisy samples; here the protocol says
which epochs count.
Result: docs/benchmark.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from acto.core.settings import setting
from acto.core.types import Batch, BuildNet, Clock, Step, Task
from acto.methods.base import Method, observed
from acto.methods.blocks.losses import batch_mean, cross_entropy
from acto.methods.blocks.soft_labels import SoftLabels

CLAMP = 1e-4


class ELR(Method):
    """Early-learning regularization."""

    name = "elr"
    title = "hold each prediction to the moving average of its own past"
    paper = (
        "Liu et al., Early-Learning Regularization Prevents Memorization of Noisy Labels, "
        "https://arxiv.org/abs/2007.00151"
    )
    venue = "NeurIPS 2020"
    takes_weights = True

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Method.Config):
        """Settings of ELR; the defaults are those of the public code for CIFAR-10 with symmetric noise."""

        beta: float = setting(0.7, low=0, high=0.9999)
        """Share of the old t_i in its update."""
        weight: float = setting(3.0, low=0)
        """lambda, weight of the regularizer."""
        memory_classes: int | None = setting(None, low=1)
        """Classes of t_i that are kept, the likeliest, with the rest spread evenly over the others; None: all.
        docs/performance.md tells how many are enough."""
        memory_dtype: Literal["float32", "float16", "bfloat16"] | None = None
        """Number format in which t_i is kept; None: float32."""

    config: Config

    def __init__(self, config: Config, task: Task, build_net: BuildNet) -> None:
        super().__init__(config, task, build_net)
        self._form = SoftLabels(task.num_classes, classes=config.memory_classes, dtype=config.memory_dtype)
        self._targets = self._form.name("target")
        self.remember(self._targets, self._form.zeros(task.num_samples, self.num_nets))

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """Cross-entropy plus the regularizer, after t_i has taken in this very prediction."""
        (batch,) = batches
        logits = self.nets[0](batch.views[0])
        probs = F.softmax(logits.detach(), dim=1).clamp(CLAMP, 1 - CLAMP)
        target = self.remember_guess(batch.index, probs / probs.sum(1, keepdim=True), net=0)
        parts = cross_entropy(logits, batch.label), self.regularizer(logits, target)
        loss_ce, loss_reg = (batch_mean(self.weighed(part, batch.index)) for part in parts)
        log = {"loss_ce": loss_ce.detach(), "loss_reg": loss_reg.detach()}
        return Step(loss_ce + self.config.weight * loss_reg, log, observed(logits, batch.label))

    def remember_guess(self, index: Tensor, probs: Tensor, *, net: int) -> Tensor:
        """Take a guess into the targets of network `net` and return them, (B, K).

        Args:
            index: (B,) sample numbers.
            probs: (B, K), without gradient.
            net: which network the targets are for.
        """
        return self._form.update(getattr(self, self._targets), (index, net), probs, momentum=self.config.beta)

    @staticmethod
    def regularizer(logits: Tensor, target: Tensor) -> Tensor:
        """log(1 - <p, t>), (B,) in [log 1e-4, 0]: 0 where nothing is remembered, the lower the better p agrees with t.

        Args:
            logits: (B, K).
            target: (B, K), non-negative, rows sum to at most one.
        """
        probs = F.softmax(logits, dim=1).clamp(CLAMP, 1 - CLAMP)
        return (1 - (target * probs).sum(1)).log()

    def label_quality(self) -> Tensor | None:
        """The share of t_i on the given label; None before the first step."""
        by_net = self._form.given_and_mass(getattr(self, self._targets), self.labels)
        given, mass = (part.mean(1) for part in by_net)
        return (given / mass.clamp(min=CLAMP)).clamp(max=1) if bool((mass > 0).any()) else None
