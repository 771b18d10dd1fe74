"""GCE: a loss between cross-entropy and absolute error, bounded, so that a wrong label cannot dominate.

Z. Zhang, M. Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels",
NeurIPS 2018, https://arxiv.org/abs/1805.07836.

Symbols
    p_y        probability of the given label
    q          in (0, 1]: towards 0 the loss is the cross-entropy, at 1 it is the absolute error
    L_q        (1 - p_y^q) / q, eq. 6; its gradient is p_y^q times that of the cross-entropy
    k, v_i     truncation and its weights: samples with p_y <= k are pruned (v_i = 0), eq. 9-10, Algorithm 1

Departures
    - p_y is taken from its logarithm, so that nothing needs a clamp.
    - A pruned sample counts in the mean with no gradient, instead of the constant L_q(k).
Truncation is off by default; the paper's rows for it are k = 0.5 from epoch 40 on, every 10 epochs.
Result: docs/benchmark.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from acto.core.settings import setting
from acto.core.types import Batch, BuildNet, Clock, Scan, Step, Task
from acto.methods.base import Method, observed
from acto.methods.blocks.losses import batch_mean, cross_entropy


class GCE(Method):
    """Generalized cross-entropy, plain or truncated."""

    name = "gce"
    title = "a bounded loss between cross-entropy and absolute error"
    paper = (
        "Zhang and Sabuncu, Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels, "
        "https://arxiv.org/abs/1805.07836"
    )
    venue = "NeurIPS 2018"
    takes_weights = True

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Method.Config):
        """Settings of GCE; the defaults are the paper's."""

        q: float = setting(0.7, low=0, high=1, open_low=True)
        """Towards 0 the loss is the cross-entropy, at 1 it is the absolute error."""
        truncation: float = setting(0.0, low=0, high=0.9999)
        """k; 0: never prune."""
        prune_from: int = setting(40, low=0)
        """Epoch (from 0) of the first pruning."""
        prune_every: int = setting(10, low=1)
        """Epochs from one pruning to the next."""

    config: Config

    def __init__(self, config: Config, task: Task, build_net: BuildNet) -> None:
        super().__init__(config, task, build_net)
        self.remember("kept", torch.ones(task.num_samples, dtype=torch.bool))
        self.kept: Tensor

    def on_turn(self, clock: Clock, scan: Scan) -> Mapping[str, Tensor] | None:
        """Prune: keep what L_q(f(x), y) < L_q(k) says of the whole training set."""
        age = clock.epoch - self.config.prune_from
        if self.config.truncation > 0 and age >= 0 and age % self.config.prune_every == 0:
            log_prob = -cross_entropy(scan(self.nets[0]), self.labels)
            self.kept.copy_(log_prob.exp() > self.config.truncation)
        return None

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """The mean of v_i L_q."""
        (batch,) = batches
        logits = self.nets[0](batch.views[0])
        per_sample = dict(observed(logits, batch.label))
        losses = generalized_cross_entropy(logits, batch.label, q=self.config.q)
        if self.config.truncation > 0:
            kept = self.kept[batch.index]
            losses = torch.where(kept, losses, 0.0)
            per_sample["selected"] = kept
        loss = batch_mean(self.weighed(losses, batch.index))
        return Step(loss, {"loss_gce": loss.detach()}, per_sample)


def generalized_cross_entropy(logits: Tensor, labels: Tensor, *, q: float) -> Tensor:
    """L_q = (1 - p_y^q) / q, (B,) in [0, 1/q].

    Args:
        logits: (B, K).
        labels: (B,) given.
        q: in (0, 1].
    """
    log_prob = -cross_entropy(logits, labels)
    return -torch.expm1(q * log_prob) / q
