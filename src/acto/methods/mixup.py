"""mixup: train on mixtures of two samples and of their labels; a wrong label is hard to learn by heart along a line.

H. Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, https://arxiv.org/abs/1710.09412.

Symbols
    lambda   ~ Beta(alpha, alpha), one a batch
    x', y'   lambda x_i + (1 - lambda) x_j, lambda y_i + (1 - lambda) y_j, with j a random partner of i
    alpha    the larger, the nearer to even mixtures; 1 for clean labels, 8 is the paper's best with wrong ones

Departures
    - lambda is replaced by max(lambda, 1 - lambda). Partners are a random permutation, so a batch of mixtures is
      distributed as before; but row i is then mostly sample i, and is what the history records of it.
Result: docs/benchmark.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from acto.core.settings import setting
from acto.core.types import Batch, Clock, Step
from acto.methods.base import Method, observed
from acto.methods.blocks.losses import batch_mean, soft_cross_entropy
from acto.methods.blocks.mixing import mixup, one_hot


class Mixup(Method):
    """Plain mixup."""

    name = "mixup"
    title = "train on mixtures of samples and of their labels"
    paper = "Zhang et al., mixup: Beyond Empirical Risk Minimization, https://arxiv.org/abs/1710.09412"
    venue = "ICLR 2018"

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Method.Config):
        """Settings of mixup; the default is the paper's for wrong labels."""

        alpha: float = setting(8.0, low=0, open_low=True)
        """Parameter of the Beta distribution."""

    config: Config

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """Cross-entropy of the mixtures."""
        (batch,) = batches
        given = one_hot(batch.label, self.task.num_classes)
        inputs, targets = mixup(batch.views[0], given, alpha=self.config.alpha)
        logits = self.nets[0](inputs)
        loss = batch_mean(soft_cross_entropy(logits, targets))
        return Step(loss, {"loss_mixed": loss.detach()}, observed(logits, batch.label))
