"""PENCIL: every training label becomes a distribution that is learned along with the network.

K. Yi, J. Wu, "Probabilistic End-to-end Noise Correction for Learning with Noisy Labels", CVPR 2019,
https://arxiv.org/abs/1903.07788.

Symbols
    y            the given label
    y~           label_logits: (K,) a sample, label_scale times the one-hot given label at the start
    y^d          softmax(y~), the sample's label distribution
    p            the network's prediction
    L_c          KL(p || y^d) / K, classification: the reversed direction, whose gradient flows through p and y^d
    L_o          compatibility: y^d must not leave y
    L_e          entropy of p / K: keeps p from resting on y^d, where L_c would teach neither of them anything
    alpha, beta  weights of L_o and L_e;  lambda: label_rate, the learning rate of y~

Stage 1 trains the network on the given labels, stage 2 on L_c + alpha L_o + beta L_e together with y~, stage 3 on L_c
with y~ held still.

Departures
    - double_softmax names a difference: the paper's L_o is -log y^d[y]; its public code takes y^d for logits and
      applies another softmax, which bounds the term. The code's alpha is meant for that, so it is the default.
    - The public code trains stage 3 with rate 0 (a floor division of the rate). Here a plan gives its rate, say
      Plan(lr=0.2, schedule="step:240,280", warmup_epochs=200, warmup_lr=0.06).
    - A sample whose turn does not come keeps its y~; in the public code it becomes uniform.
Result: docs/benchmark.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from acto.core.settings import setting
from acto.core.types import Batch, BuildNet, Clock, Step, Task
from acto.methods.base import Method, observed
from acto.methods.blocks.losses import batch_mean, cross_entropy, negative_entropy


class PENCIL(Method):
    """Probabilistic end-to-end noise correction."""

    name = "pencil"
    title = "learn a distribution over the classes for every training label"
    paper = (
        "Yi and Wu, Probabilistic End-to-end Noise Correction for Learning with Noisy Labels, "
        "https://arxiv.org/abs/1903.07788"
    )
    venue = "CVPR 2019"

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Method.Config):
        """Settings of PENCIL; the defaults are those of the public code for CIFAR-10 (320 epochs, batch 128)."""

        warmup_epochs: int = setting(70, low=0)
        """Length of stage 1, on the given labels."""
        correction_epochs: int = setting(130, low=0)
        """Length of stage 2, in which labels are learned; stage 3 is what remains."""
        alpha: float = setting(0.4, low=0)
        """Weight of the compatibility loss."""
        beta: float = setting(0.1, low=0)
        """Weight of the entropy loss."""
        double_softmax: bool = True
        """L_o as in the public code; off: as in the paper."""
        label_scale: float = setting(10.0, low=0, open_low=True)
        """Height of the one-hot start of y~; 10 puts over 99 % of y^d on the given label."""
        label_rate: float = setting(600.0, low=0, open_low=True)
        """lambda. It acts on a mean over samples and classes, so it grows with their product."""

    config: Config

    def __init__(self, config: Config, task: Task, build_net: BuildNet) -> None:
        super().__init__(config, task, build_net)
        self.learn("label_logits", self._one_hot_start())
        self.label_logits: Tensor

    def _one_hot_start(self) -> Tensor:
        return self.config.label_scale * F.one_hot(self.labels, self.task.num_classes).float()

    def row_rate(self, name: str, clock: Clock) -> float:
        """Lambda."""
        return self.config.label_rate

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """The loss of the stage that the epoch belongs to."""
        (batch,) = batches
        config = self.config
        logits = self.nets[0](batch.views[0])
        seen = observed(logits, batch.label)
        if clock.epoch < config.warmup_epochs:
            loss = batch_mean(cross_entropy(logits, batch.label))
            return Step(loss, {"loss_given": loss.detach()}, seen)
        if clock.epoch >= config.warmup_epochs + config.correction_epochs:
            loss_c = classification(logits, self.label_logits[batch.index])
            return Step(loss_c, {"loss_c": loss_c.detach()}, seen)
        label_logits = self.rows("label_logits", batch.index)
        loss_c = classification(logits, label_logits)
        loss_o = compatibility(label_logits, batch.label, double_softmax=config.double_softmax)
        loss_e = -batch_mean(negative_entropy(logits)) / self.task.num_classes
        log = {"loss_c": loss_c.detach(), "loss_o": loss_o.detach(), "loss_e": loss_e.detach()}
        return Step(loss_c + config.alpha * loss_o + config.beta * loss_e, log, seen)

    @torch.no_grad()
    def label_quality(self) -> Tensor | None:
        """Return what is left of the label distribution on the given label; None until labels have been learned."""
        if torch.equal(self.label_logits, self._one_hot_start()):
            return None
        return F.softmax(self.label_logits, dim=1).gather(1, self.labels[:, None]).squeeze(1)


def classification(logits: Tensor, label_logits: Tensor) -> Tensor:
    """L_c = KL(p || y^d) / K. Its gradient in y~_i is (y^d_i - p_i) / (B K).

    Args:
        logits: (B, K) of the network.
        label_logits: (B, K), y~.
    """
    log_probs = F.log_softmax(logits, dim=1)
    divergence = (log_probs.exp() * (log_probs - F.log_softmax(label_logits, dim=1))).sum(1)
    return batch_mean(divergence) / logits.shape[1]


def compatibility(label_logits: Tensor, labels: Tensor, *, double_softmax: bool) -> Tensor:
    """L_o: the cross-entropy of the given label under y^d (paper), or under softmax(y^d) (public code).

    Args:
        label_logits: (B, K), y~.
        labels: (B,) given.
        double_softmax: as in the public code.
    """
    return batch_mean(cross_entropy(F.softmax(label_logits, dim=1) if double_softmax else label_logits, labels))
