"""Standard: cross-entropy on every given label, the baseline that memorizes.

Symbols: CE, the cross-entropy of the given label.
Departures: none. Tables 1 and 4 of ACTO's paper quote this row from another paper that used no augmentation; here it
has the same weak view as every other method, so its numbers are higher.
Result: docs/benchmark.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from acto.core.settings import setting
from acto.core.types import Batch, Clock, Step
from acto.methods.base import Method, observed
from acto.methods.blocks.losses import batch_mean, cross_entropy


class Standard(Method):
    """Plain training of one network."""

    name = "standard"
    title = "cross-entropy on every given label"
    paper = "the common baseline; no paper of its own"
    venue = "-"
    takes_weights = True

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Method.Config):
        """Settings of plain training."""

        label_smoothing: float = setting(0.0, low=0, high=0.999)
        """Share of the target spread over all classes."""

    config: Config

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """CE(x, y), eq. 1 of any paper."""
        (batch,) = batches
        logits = self.nets[0](batch.views[0])
        losses = cross_entropy(logits, batch.label, label_smoothing=self.config.label_smoothing)
        loss = batch_mean(self.weighed(losses, batch.index))
        return Step(loss, {"loss": loss.detach()}, observed(logits, batch.label))
