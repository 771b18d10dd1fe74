"""AGCE: an asymmetric loss, which a wrong label cannot turn around as long as the right one is the commonest.

X. Zhou et al., "Asymmetric Loss Functions for Learning with Noisy Labels", ICML 2021, https://arxiv.org/abs/2106.03110.

Symbols
    p_y           probability of the given label
    AGCE          ((a + 1)^q - (a + p_y)^q) / q: bounded, and robust for the pairs (a, q) that the paper derives
    NCE           -log p_y / -sum_k log p_k in [0, 1], normalized cross-entropy: the active partner that speeds learning
    alpha, beta   weights of NCE and AGCE. alpha > 0 is the paper's "NCE+AGCE", alpha = 0 with beta = 1 plain "AGCE"

AGCE alone learns many classes slowly from scratch, so what papers quote for CIFAR-100 is NCE+AGCE. It is the default.

Departures: none in the loss. The published rows come with gradients clipped at norm 5 and a weight decay of 1e-5 (on
CIFAR-100; Protocol(clip_norm=5, weight_decay=1e-5)) and with random rotations; here the protocol is every method's.
Result: docs/benchmark.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from acto.core.errors import UserError
from acto.core.settings import setting
from acto.core.types import Batch, Clock, Step
from acto.methods.base import Method, observed
from acto.methods.blocks.losses import batch_mean, cross_entropy


class AGCE(Method):
    """Asymmetric generalized cross-entropy, with or without normalized cross-entropy."""

    name = "agce"
    title = "a bounded, asymmetric loss, helped by normalized cross-entropy"
    paper = "Zhou et al., Asymmetric Loss Functions for Learning with Noisy Labels, https://arxiv.org/abs/2106.03110"
    venue = "ICML 2021"
    takes_weights = True

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Method.Config):
        """Settings of AGCE; the defaults are those of the public code for NCE+AGCE on CIFAR-10."""

        alpha: float = setting(1.0, low=0)
        """Weight of NCE; 0: AGCE alone."""
        beta: float = setting(4.0, low=0)
        """Weight of AGCE."""
        a: float = setting(6.0, low=0, open_low=True)
        """a of AGCE."""
        q: float = setting(1.5, low=0, open_low=True)
        """q of AGCE."""

        def __post_init__(self) -> None:
            """Refuse values out of range."""
            Method.Config.__post_init__(self)
            if self.alpha == self.beta == 0:
                raise UserError("alpha and beta are both 0, which leaves no loss")

    config: Config

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """Alpha NCE + beta AGCE."""
        (batch,) = batches
        config = self.config
        logits = self.nets[0](batch.views[0])
        normalized = normalized_cross_entropy(logits, batch.label)
        asymmetric = asymmetric_cross_entropy(logits, batch.label, a=config.a, q=config.q)
        loss_nce, loss_agce = (batch_mean(self.weighed(part, batch.index)) for part in (normalized, asymmetric))
        log = {"loss_nce": loss_nce.detach(), "loss_agce": loss_agce.detach()}
        return Step(config.alpha * loss_nce + config.beta * loss_agce, log, observed(logits, batch.label))


def asymmetric_cross_entropy(logits: Tensor, labels: Tensor, *, a: float, q: float) -> Tensor:
    """AGCE = ((a + 1)^q - (a + p_y)^q) / q, (B,) in [0, ((a + 1)^q - a^q) / q].

    Args:
        logits: (B, K).
        labels: (B,) given.
        a: > 0.
        q: > 0.
    """
    prob = (-cross_entropy(logits, labels)).exp()
    return ((a + 1) ** q - (a + prob) ** q) / q


def normalized_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """NCE = log p_y / sum_k log p_k, (B,) in [0, 1]; over all K possible labels it sums to one.

    Args:
        logits: (B, K).
        labels: (B,) given.
    """
    log_probs = F.log_softmax(logits, dim=1)
    return log_probs.gather(1, labels[:, None]).squeeze(1) / log_probs.sum(1)
