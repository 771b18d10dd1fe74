"""NPN: the given label and the prediction are the two candidates of a sample; every other class is known to be wrong.

M. Sheng et al., "Adaptive Integration of Partial Label Learning and Negative Learning for Enhanced Noisy Label
Learning", AAAI 2024, https://arxiv.org/abs/2312.09505.

Symbols
    M          votes: every visit, in the warm-up too, adds one to the num_votes most likely classes of the sample
    S          candidates: the given label and the predicted class
    L_PLL      partial-label learning: cross-entropy towards the favourite of the votes (hard) or their shares (soft)
    L_NL       negative learning: -sum over c outside of S of log(1 - p_c)
    L_CR       cross-entropy of the strong view towards the class predicted on the weak one
    alpha      negative_weight, of L_NL
    beta       consistency_weight, of L_CR

The target of L_PLL never sees the given label but through what the warm-up has taught. Votes do not fade, so that the
length of the warm-up decides much.

Departures
    - entropy_clamp names a quirk of the public code (see acto.methods.blocks.losses.negative_entropy), which shaped the
      published numbers and is on by default.
    - The public code of the hard form weighs L_CR with alpha: the published beta is 1 there and 2 in the soft form.
    - Votes come from predictions alone, as in the public code; the paper's memory holds candidate labels.
Result: docs/benchmark.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from acto.core.errors import UserError
from acto.core.settings import setting
from acto.core.types import Batch, BuildNet, Clock, Step, Task
from acto.methods.base import Method, observed
from acto.methods.blocks.losses import (
    batch_mean,
    cross_entropy,
    negative_entropy,
    negative_learning,
    soft_cross_entropy,
)
from acto.methods.blocks.mixing import one_hot
from acto.methods.blocks.selection import top_classes


class NPN(Method):
    """Partial-label and negative learning on candidates and their complements."""

    name = "npn"
    title = "learn the favourite among a sample's past predictions, unlearn what is neither label nor prediction"
    paper = (
        "Sheng et al., Adaptive Integration of Partial Label Learning and Negative Learning for Enhanced Noisy Label "
        "Learning, https://arxiv.org/abs/2312.09505"
    )
    venue = "AAAI 2024"
    views = ("weak", "strong")

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Method.Config):
        """Settings of NPN; the defaults are those of the public code for CIFAR (300 epochs), in the hard form."""

        warmup_epochs: int = setting(200, low=0)
        """Epochs on every given label."""
        hard: bool = True
        """The target of L_PLL is the class with most votes; off (soft form): their shares."""
        num_votes: int = setting(2, low=1)
        """Classes that a visit votes for, fewer than K; 1 on the web data sets."""
        negative_weight: float = setting(1.0, low=0)
        """alpha, of L_NL."""
        consistency_weight: float = setting(1.0, low=0)
        """beta, of L_CR; 2 in the soft form and on the web data sets."""
        entropy_clamp: bool = True
        """Treat negative logits as 0 in the warm-up's entropy term, as the public code does."""
        label_smoothing: float = setting(0.0, low=0, high=0.999)
        """Smoothing of every cross-entropy; 0.2 on the web data sets."""

    config: Config

    def __init__(self, config: Config, task: Task, build_net: BuildNet) -> None:
        """The method on `task`.

        Raises:
            UserError: if the votes of a visit leave no class out.
        """
        if config.num_votes >= task.num_classes:
            raise UserError(f"num_votes is {config.num_votes}, which must be below the {task.num_classes} classes")
        super().__init__(config, task, build_net)
        self.remember("votes", torch.zeros(task.num_samples, task.num_classes))
        self.votes: Tensor

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """Warm-up for the first epochs, then L_PLL + alpha L_NL + beta L_CR."""
        (batch,) = batches
        config = self.config
        weak, strong = batch.views
        logits = self.nets[0](weak)
        votes = self.votes[batch.index] + top_classes(logits, config.num_votes)
        self.votes[batch.index] = votes
        seen = observed(logits, batch.label)
        if clock.epoch < config.warmup_epochs:
            penalty = batch_mean(negative_entropy(logits, clamp_logits=config.entropy_clamp))
            loss = batch_mean(self._ce(logits, batch.label)) + penalty
            return Step(loss, {"loss_warmup": loss.detach()}, seen)
        predicted = logits.argmax(1)
        target = one_hot(votes.argmax(1), votes.shape[1]) if config.hard else votes / votes.sum(1, keepdim=True)
        candidates = one_hot(batch.label, votes.shape[1]) + one_hot(predicted, votes.shape[1]) > 0
        loss_pll = batch_mean(soft_cross_entropy(logits, self._smooth(target)))
        loss_nl = batch_mean(negative_learning(logits, ~candidates))
        loss_cr = batch_mean(self._ce(self.nets[0](strong), predicted))
        log = {"loss_pll": loss_pll.detach(), "loss_nl": loss_nl.detach(), "loss_cr": loss_cr.detach()}
        loss = loss_pll + config.negative_weight * loss_nl + config.consistency_weight * loss_cr
        return Step(loss, log, seen)

    def label_quality(self) -> Tensor | None:
        """Share of the visits that voted for the given label."""
        visits = self.votes.sum(1) / self.config.num_votes
        given = self.votes.gather(1, self.labels[:, None]).squeeze(1)
        return given / visits.clamp(min=1) if bool((visits > 0).any()) else None

    def _ce(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)

    def _smooth(self, target: Tensor) -> Tensor:
        return (1 - self.config.label_smoothing) * target + self.config.label_smoothing / target.shape[1]
