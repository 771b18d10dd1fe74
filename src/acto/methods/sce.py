"""SCE: cross-entropy plus its reverse, in which prediction and label change places.

Y. Wang et al., "Symmetric Cross Entropy for Robust Learning with Noisy Labels", ICCV 2019,
https://arxiv.org/abs/1908.06112.

Symbols
    p, y           prediction and given label
    CE             -log p_y: learns, and memorizes
    RCE            -sum_c p_c log y_c with log 0 := A, which is -A (1 - p_y): tolerates noise, learns slowly
    alpha, beta    weights of CE and RCE; they differ by data set, so the method is not free of tuning

Departures
    - log_zero names a difference: the paper's text has A = -4, public code clamps labels at 1e-4, which is A = -9.21
      and as much as 2.3 times the beta. alpha and beta come with the code, so its A is the default.
Result: docs/benchmark.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from acto.core.errors import check_range
from acto.core.settings import setting
from acto.core.types import Batch, Clock, Step
from acto.methods.base import Method, observed
from acto.methods.blocks.losses import batch_mean, cross_entropy


class SCE(Method):
    """Symmetric cross-entropy."""

    name = "sce"
    title = "cross-entropy plus reverse cross-entropy"
    paper = (
        "Wang et al., Symmetric Cross Entropy for Robust Learning with Noisy Labels, https://arxiv.org/abs/1908.06112"
    )
    venue = "ICCV 2019"
    takes_weights = True

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Method.Config):
        """Settings of SCE; the defaults are those of the public code for CIFAR-10."""

        alpha: float = setting(0.1, low=0)
        """Weight of CE; 6 on CIFAR-100."""
        beta: float = setting(1.0, low=0)
        """Weight of RCE; 0.1 on CIFAR-100."""
        log_zero: float = math.log(1e-4)
        """A, below 0."""

        def __post_init__(self) -> None:
            """Refuse values out of range."""
            Method.Config.__post_init__(self)
            check_range("-log_zero", -self.log_zero, low=0, open_low=True)

    config: Config

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """Alpha CE + beta RCE, eq. 6."""
        (batch,) = batches
        logits = self.nets[0](batch.views[0])
        losses = cross_entropy(logits, batch.label)
        reverse = reverse_cross_entropy(logits, batch.label, log_zero=self.config.log_zero)
        loss_ce, loss_rce = (batch_mean(self.weighed(part, batch.index)) for part in (losses, reverse))
        log = {"loss_ce": loss_ce.detach(), "loss_rce": loss_rce.detach()}
        return Step(self.config.alpha * loss_ce + self.config.beta * loss_rce, log, observed(logits, batch.label))


def reverse_cross_entropy(logits: Tensor, labels: Tensor, *, log_zero: float) -> Tensor:
    """RCE = -A (1 - p_y), (B,) in [0, -A].

    Args:
        logits: (B, K).
        labels: (B,) given.
        log_zero: A.
    """
    return -log_zero * (1 - (-cross_entropy(logits, labels)).exp())
