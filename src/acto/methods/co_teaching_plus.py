"""Co-teaching+: Co-teaching among the samples on which the two networks disagree, so that they stay different.

X. Yu et al., "How does Disagreement Help Generalization against Label Corruption?", ICML 2019,
https://arxiv.org/abs/1901.04215.

Symbols
    tau, R(T), T_k, D_f, D_g   as in Co-teaching
    D                          the samples of a batch on which the two networks predict different classes; after the
                               warm-up D_f and D_g are the R(T) share of D instead of the batch

Departures
    - double_softmax names a difference: after the warm-up the public code hands probabilities to a cross-entropy that
      expects logits. That bounds the loss to an interval of width 1 and makes its gradients tiny. Adam rescales them,
      so its published CIFAR numbers hold it; SGD hardly moves. The paper describes the plain cross-entropy, and this
      library's protocols use SGD, so it is off by default.
    - Where D is empty nothing is learned. The public code then sometimes trains on the whole batch, depending on a step
      counter that begins anew in every epoch.
    - Where R(T) of D is less than one sample, one is kept; the public code then keeps all of D.
    - The public code treats the sample number 0 as never disputed and cuts another in its place; here D is a mask.
    - The mean, the ramp, tau and the optimizer: see the card of Co-teaching. Its rate drops at 80 on every data set.
Result: docs/benchmark.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F

from acto.core.settings import setting
from acto.core.types import Batch, Clock, Step
from acto.methods.base import observed
from acto.methods.blocks.losses import batch_mean, cross_entropy, masked_mean
from acto.methods.blocks.selection import small_loss
from acto.methods.co_teaching import CoTeaching


class CoTeachingPlus(CoTeaching):
    """Update by disagreement, cross-update on its small-loss samples."""

    name = "co-teaching-plus"
    title = "Co-teaching among the samples on which the two networks disagree"
    paper = (
        "Yu et al., How does Disagreement Help Generalization against Label Corruption?, "
        "https://arxiv.org/abs/1901.04215"
    )
    venue = "ICML 2019"

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(CoTeaching.Config):
        """Settings of Co-teaching+; the defaults are those of the public code for CIFAR-10 (200 epochs)."""

        warmup_epochs: int = setting(20, low=0)
        """Epochs of plain Co-teaching; 5 on CIFAR-100."""
        double_softmax: bool = False
        """The loss after the warm-up as in the public code; off: as in the paper."""

    config: Config

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """Co-teaching in the warm-up, then the same within D."""
        if clock.epoch < self.config.warmup_epochs:
            return super().loss(batches, clock)
        (batch,) = batches
        first, second = (net(batch.views[0]) for net in self.nets)
        disputed = first.argmax(1) != second.argmax(1)
        scores = [F.softmax(logits, dim=1) if self.config.double_softmax else logits for logits in (first, second)]
        losses = cross_entropy(scores[0], batch.label), cross_entropy(scores[1], batch.label)
        picked = [small_loss(values, self.forget_rate(clock), among=disputed) for values in losses]
        loss_f, loss_g = masked_mean(losses[0], picked[1]), masked_mean(losses[1], picked[0])
        log = {
            "loss_net0": loss_f.detach(),
            "loss_net1": loss_g.detach(),
            "disagreement": batch_mean(disputed.float()),
        }
        return Step(loss_f + loss_g, log, {**observed(first, batch.label), "selected": picked[1]})
