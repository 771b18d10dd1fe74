"""ANL: a normalized loss, and a negative one that leans on what the network believes already instead of on the label.

X. Ye et al., "Active Negative Loss Functions for Learning with Noisy Labels", NeurIPS 2023; the longer version is
https://arxiv.org/abs/2412.02373.

Symbols
    p             prediction; p_y the probability of the given label
    NCE           log p_y / sum_k log p_k in [0, 1], the active loss
    A             -log p_min with p_min = 1e-7, the largest cross-entropy that counts
    NNCE          1 - (A + log p_y) / sum_k (A + log p_k) in [0, 1] with p clamped to [p_min, 1], the negative loss:
                  pushes every class but the given one down, the harder the likelier it is
    alpha, beta   weights of NCE and NNCE
    delta         weight of sum |w| over all parameters of the network, which takes the place of weight decay

Departures
    - This is ANL-CE. The paper's focal form ANL-FL and the later entropy term (ANL-CE-ER) are left out: the tables that
      compare methods show the first.
    - The published rows have no weight decay beside delta, and clip gradients at norm 5: Protocol(weight_decay=0,
      clip_norm=5). Here the protocol is every method's. delta weighs a sum over parameters; the published 5e-7 was
      found for the 21 million of ResNet-34.
Result: docs/benchmark.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from acto.core.distributed import world
from acto.core.errors import UserError
from acto.core.settings import setting
from acto.core.types import Batch, Clock, Step
from acto.methods.base import Method, observed
from acto.methods.blocks.losses import batch_mean

LOG_P_MIN = math.log(1e-7)


class ANL(Method):
    """Active negative loss in its cross-entropy form."""

    name = "anl"
    title = "normalized cross-entropy plus a normalized negative loss"
    paper = "Ye et al., Active Negative Loss Functions for Learning with Noisy Labels, https://arxiv.org/abs/2412.02373"
    venue = "NeurIPS 2023"
    takes_weights = True

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Method.Config):
        """Settings of ANL-CE; the defaults are those of the public code for CIFAR-10."""

        alpha: float = setting(5.0, low=0)
        """Weight of NCE."""
        beta: float = setting(5.0, low=0)
        """Weight of NNCE."""
        delta: float = setting(5e-5, low=0)
        """Weight of the sum of all absolute weights."""

        def __post_init__(self) -> None:
            """Refuse values out of range."""
            Method.Config.__post_init__(self)
            if self.alpha == self.beta == 0:
                raise UserError("alpha and beta are both 0, which leaves no loss")

    config: Config

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """Alpha NCE + beta NNCE + delta |w|_1."""
        (batch,) = batches
        config = self.config
        logits = self.nets[0](batch.views[0])
        parts = active_negative(logits, batch.label)
        loss_nce, loss_nnce = (batch_mean(self.weighed(part, batch.index)) for part in parts)
        # Gradients add up over the processes, and this term is the same in each of them.
        weights_l1 = torch.stack([p.abs().sum() for p in self.nets[0].parameters()]).sum() / world()
        loss = config.alpha * loss_nce + config.beta * loss_nnce + config.delta * weights_l1
        log = {"loss_nce": loss_nce.detach(), "loss_nnce": loss_nnce.detach(), "weights_l1": weights_l1.detach()}
        return Step(loss, log, observed(logits, batch.label))


def active_negative(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """NCE and NNCE, each (B,) in [0, 1]. Over all K possible labels the first sums to one, the second to K - 1.

    Where p_y lies below 1e-7, the numerator of NNCE has no gradient.

    Args:
        logits: (B, K).
        labels: (B,) given.
    """
    log_probs = F.log_softmax(logits, dim=1)
    kept = log_probs.clamp(min=LOG_P_MIN) - LOG_P_MIN  # A + log p, in [0, A]
    given = labels[:, None]
    active = log_probs.gather(1, given).squeeze(1) / log_probs.sum(1)
    negative = 1 - kept.gather(1, given).squeeze(1) / kept.sum(1)
    return active, negative
