"""AFM: features of pairs are mixed by learned attention, so that a wrong label is drowned by its partner's features.

X. Peng et al., "Suppressing Mislabeled Data via Grouping and Self-Attention", ECCV 2020,
https://arxiv.org/abs/2010.15603.

Symbols
    x_i, x_j    features of a pair; the first half of a batch is paired with the second (groups of K = 2)
    alpha       sigmoid(FC(relu(FC_a(x_i) + FC_b(x_j)))), the attention of the pair
    x'          alpha x_i + (1 - alpha) x_j
    L_afm       cross-entropy of x' against both given labels, each by half
    L_org       cross-entropy of the unmixed samples

Departures
    - As in the public code, not as drawn in the paper: one attention weight a pair, targets mixed evenly, one
      classifier for both losses. With targets mixed by alpha the network could lower L_afm by leaning on the easier
      sample's label as well.
    - The classifier sees mixed and unmixed features in one pass; for a linear one that is the same.
    - An odd batch leaves its last sample out of L_afm; the public code cannot take one.
Result: docs/benchmark.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acto.core.settings import setting
from acto.core.types import Batch, BuildNet, Clock, Step, Task
from acto.methods.base import Method, observed
from acto.methods.blocks.losses import batch_mean, cross_entropy


class AFM(Method):
    """Attentive feature mixup."""

    name = "afm"
    title = "mix the features of pairs by learned attention"
    paper = "Peng et al., Suppressing Mislabeled Data via Grouping and Self-Attention, https://arxiv.org/abs/2010.15603"
    venue = "ECCV 2020"

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Method.Config):
        """Settings of AFM; the defaults are those of the public code for Food101N."""

        mixed_weight: float = setting(1.5, low=0)
        """Weight of L_afm."""
        original_weight: float = setting(0.5, low=0)
        """Weight of L_org."""

    config: Config

    def __init__(self, config: Config, task: Task, build_net: BuildNet) -> None:
        super().__init__(config, task, build_net)
        net: Any = self.nets[0]
        self.attention = PairAttention(net.feature_dim)

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """mixed_weight L_afm + original_weight L_org."""
        (batch,) = batches
        net: Any = self.nets[0]
        features = net.features(batch.views[0])
        half, label = len(features) // 2, batch.label
        first, second = features[:half], features[half : 2 * half]
        alpha = self.attention(first, second)
        mixed = alpha * first + (1 - alpha) * second
        logits, mixed_logits = net.head(torch.cat([features, mixed])).split([len(features), half])
        label_i, label_j = label[:half], label[half : 2 * half]
        loss_afm = batch_mean(cross_entropy(mixed_logits, label_i) + cross_entropy(mixed_logits, label_j)) / 2
        loss_org = batch_mean(cross_entropy(logits, label))
        log = {
            "loss_afm": loss_afm.detach(),
            "loss_org": loss_org.detach(),
            "attention": batch_mean((alpha.detach().float() - 0.5).abs().squeeze(1)),
        }
        loss = self.config.mixed_weight * loss_afm + self.config.original_weight * loss_org
        return Step(loss, log, observed(logits, label))


class PairAttention(nn.Module):
    """Network that decides how much of its first member a pair's mixture keeps. The order of the two members
    matters.
    """

    def __init__(self, feature_dim: int) -> None:
        """A hidden layer of 3/16 of `feature_dim`, the public code's ratio (96 units for ResNet-18's 512 features)."""
        super().__init__()
        units = max(1, 3 * feature_dim // 16)
        self.of_first = nn.Linear(feature_dim, units)
        self.of_second = nn.Linear(feature_dim, units)
        self.weight = nn.Linear(units, 1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """(P, D) features of the pairs' two members -> (P, 1) alpha in (0, 1)."""
        return self.weight(F.relu(self.of_first(first) + self.of_second(second))).sigmoid()
