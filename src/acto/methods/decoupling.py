"""Decoupling: when to update is decoupled from how: two networks learn only where they disagree.

E. Malach, S. Shalev-Shwartz, 'Decoupling "when to update" from "how to update"', NeurIPS 2017,
https://arxiv.org/abs/1706.02613.

Symbols
    h_1, h_2    the two networks' predicted classes
    D           the samples of a batch on which h_1 != h_2; the given label has no say in it
    rho         min_share: the sum over D is divided by no less than this share of the batch

As the networks come to agree the supply of wrong labels dries up along with that of right ones, so nothing is selected
as clean: D is an update rule, and the history's `selected` stays empty.

Departures
    - The class weights of the public code balance its two-class task (faces); here every sample weighs 1.
    - The warm-up is counted in epochs instead of steps.
    - Where the networks agree on all of a batch their gradient is 0, but momentum and weight decay still move them, as
      in the public code. Widespread ports take the mean over an empty D, which is NaN.
    - A code path that queues samples of D until they fill a batch is left out; the public code has it off by default.
Result: docs/benchmark.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from acto.core.settings import setting
from acto.core.types import Batch, Clock, Step
from acto.methods.base import Method, observed
from acto.methods.blocks.losses import batch_mean, cross_entropy, masked_mean


class Decoupling(Method):
    """Update by disagreement."""

    name = "decoupling"
    title = "two networks, each updated only on the samples on which their predictions differ"
    paper = (
        'Malach and Shalev-Shwartz, Decoupling "when to update" from "how to update", https://arxiv.org/abs/1706.02613'
    )
    venue = "NeurIPS 2017"
    num_nets = 2

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Method.Config):
        """Settings of Decoupling; the defaults are those of the public code."""

        warmup_epochs: int = setting(0, low=0)
        """Epochs in which both networks learn from every sample."""
        min_share: float = setting(0.1, low=0, high=1, open_low=True)
        """rho: a small D makes a small step instead of a noisy one."""

    config: Config

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """The sum of both networks' cross-entropy over D."""
        (batch,) = batches
        first, second = (net(batch.views[0]) for net in self.nets)
        differ = first.argmax(1) != second.argmax(1)
        update = differ if clock.epoch >= self.config.warmup_epochs else torch.ones_like(differ)
        losses = [
            masked_mean(cross_entropy(logits, batch.label), update, min_share=self.config.min_share)
            for logits in (first, second)
        ]
        log = {
            "loss_net0": losses[0].detach(),
            "loss_net1": losses[1].detach(),
            "disagreement": batch_mean(differ.float()),
        }
        return Step(losses[0] + losses[1], log, observed(first, batch.label))

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """One network is the model, as in the paper; the other and the mean of both are shown beside it."""
        first, second = (F.softmax(net(images), dim=1) for net in self.nets)
        return {"net0": first, "net1": second, "ensemble": (first + second) / 2}
