"""DISC: thresholds of their own and two views of them sort the samples into clean, hard and purified ones.

Y. Li et al., "DISC: Learning from Noisy Labels via Dynamic Instance-Specific Selection and Correction", CVPR 2023,
https://github.com/JackYFL/DISC.

Symbols
    p_w, p_s    predictions on the weak and on the strong view at the sample's last visit, as training made them
    tau_w, tau_s  threshold: moving average (mu) of the highest probability in that view, a step an epoch, 1/N at first
    C, clean    the given label's probability passes the threshold in both views;  H, hard: in one of them
    P, purified  neither, but max (p_w + p_s) / 2 > min((tau_w + tau_s) / 2 + sigma, 0.99): that class is the label
    L_C         cross-entropy of both views on C;  L_H: generalized cross-entropy (q) on H; both divided by the batch
    L_M         cross-entropy of mixtures of C, H and P, each view's with its own

Loss: L_C + hard_weight L_H + L_M. The sets are made between epochs, with the thresholds before their update; this goes
on in the warm-up, which trains on all given labels.

Departures
    - Of p_w and p_s only what the rules read is kept: six numbers a sample instead of 2 K.
    - All samples pass the network in the mixing pass, so that the step has one shape; those outside of C, H and P are
      mixed with each other and do not count. Both views' mixtures pass it together.
    - With nothing selected the loss is 0, and weights still decay; the public code leaves such a step out.
    - The public code trains with rate 0.1 and no momentum, which is near to 0.01 with momentum 0.9.
    - sigma is the public code's 0.5; its author advises 0.3 for light noise.
Result: docs/benchmark.md.

Above 180 lines: three kinds of samples with a loss each, and a memory of both views to tell them apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from acto.core.settings import setting
from acto.core.types import Batch, BuildNet, Clock, Scan, Step, Task
from acto.methods.base import Method, observed
from acto.methods.blocks.losses import batch_mean, cross_entropy, masked_mean, soft_cross_entropy
from acto.methods.blocks.mixing import draw_share, one_hot, partners_among

NEITHER, CLEAN, HARD, PURIFIED = range(4)
HIGHEST_BAR = 0.99


class DISC(Method):
    """Dynamic instance-specific selection and correction."""

    name = "disc"
    title = "thresholds by sample sort labels into clean, hard and purified ones"
    paper = (
        "Li et al., DISC: Learning from Noisy Labels via Dynamic Instance-Specific Selection and Correction, "
        "https://github.com/JackYFL/DISC"
    )
    venue = "CVPR 2023"
    views = ("weak", "strong")

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Method.Config):
        """Settings of DISC; the defaults are those of the public code for CIFAR with symmetric noise (200 epochs)."""

        warmup_epochs: int = setting(20, low=0)
        """Epochs on every given label."""
        momentum: float = setting(0.99, low=0, high=0.9999)
        """mu, share of the old threshold in its update."""
        sigma: float = setting(0.5, low=0, high=1)
        """Distance of a purified label above the thresholds."""
        hard_weight: float = setting(1.0, low=0)
        """Weight of L_H."""
        q: float = setting(0.7, low=0, high=1, open_low=True)
        """Power of the generalized cross-entropy; 1 is the mean absolute error."""
        alpha: float = setting(5.0, low=0, open_low=True)
        """Parameter of the mixtures' Beta distribution."""

    config: Config

    def __init__(self, config: Config, task: Task, build_net: BuildNet) -> None:
        super().__init__(config, task, build_net)
        num_samples = task.num_samples
        self.remember("prob_given", torch.zeros(num_samples, 2))
        self.remember("prob_highest", torch.zeros(num_samples, 2))
        self.remember("mean_highest", torch.zeros(num_samples))
        self.remember("mean_class", task.labels.clone())
        self.remember("threshold", torch.full((num_samples, 2), 1 / num_samples))
        self.remember("kind", torch.full((num_samples,), NEITHER))
        self.remember("mixing_label", task.labels.clone())
        self.prob_given: Tensor
        self.prob_highest: Tensor
        self.mean_highest: Tensor
        self.mean_class: Tensor
        self.threshold: Tensor
        self.kind: Tensor
        self.mixing_label: Tensor

    def on_turn(self, clock: Clock, scan: Scan) -> None:
        """Sort the samples by what the last epoch saw of them, then move their thresholds."""
        if clock.epoch == 0:
            return
        self.kind.copy_(sort_samples(self.prob_given, self.mean_highest, self.threshold, sigma=self.config.sigma))
        self.mixing_label.copy_(torch.where(self.kind == PURIFIED, self.mean_class, self.labels))
        self.threshold.lerp_(self.prob_highest, 1 - self.config.momentum)

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """Cross-entropy of both views in the warm-up, then the three losses."""
        (batch,) = batches
        config, label = self.config, batch.label
        # Both views in one pass, so that batch normalization sees them together.
        weak, strong = self.nets[0](torch.cat(batch.views)).split(len(label))
        self._see(batch, weak, strong)
        seen = observed(weak, label)
        given = cross_entropy(weak, label) + cross_entropy(strong, label)
        if clock.epoch < config.warmup_epochs:
            loss = batch_mean(given)
            return Step(loss, {"loss_given": loss.detach()}, seen)

        kind = self.kind[batch.index]
        robust = generalized_cross_entropy(weak, label, q=config.q) + generalized_cross_entropy(
            strong, label, q=config.q
        )
        loss_c = batch_mean(torch.where(kind == CLEAN, given, 0.0))
        loss_h = batch_mean(torch.where(kind == HARD, robust, 0.0))
        loss_m = self._mix(batch, kind != NEITHER)
        log = {
            "loss_clean": loss_c.detach(),
            "loss_hard": loss_h.detach(),
            "loss_mixed": loss_m.detach(),
            "hard_share": batch_mean((kind == HARD).float()),
            "purified_share": batch_mean((kind == PURIFIED).float()),
        }
        return Step(loss_c + config.hard_weight * loss_h + loss_m, log, {**seen, "selected": kind == CLEAN})

    def _mix(self, batch: Batch, members: Tensor) -> Tensor:
        """L_M: the sum over the views of the mean over the members."""
        targets = one_hot(self.mixing_label[batch.index], self.task.num_classes)
        mixtures = [mixup_among(view, targets, members, alpha=self.config.alpha) for view in batch.views]
        logits = self.nets[0](torch.cat([inputs for inputs, _ in mixtures])).split(len(members))
        losses = [soft_cross_entropy(out, mixed) for out, (_, mixed) in zip(logits, mixtures, strict=True)]
        return masked_mean(losses[0] + losses[1], members)

    @torch.no_grad()
    def _see(self, batch: Batch, weak: Tensor, strong: Tensor) -> None:
        """Keep what the rules need of these predictions."""
        probs_2BK = torch.stack([F.softmax(weak, dim=1), F.softmax(strong, dim=1)])
        given = probs_2BK[:, torch.arange(len(batch.label), device=weak.device), batch.label]
        mean_highest, mean_class = probs_2BK.mean(0).max(1)
        self.prob_given[batch.index] = given.T.to(self.prob_given.dtype)
        self.prob_highest[batch.index] = probs_2BK.amax(2).T.to(self.prob_highest.dtype)
        self.mean_highest[batch.index] = mean_highest.to(self.mean_highest.dtype)
        self.mean_class[batch.index] = mean_class

    def label_quality(self) -> Tensor | None:
        """The given label's probability at the last visit, the mean of both views; None before the first."""
        return self.prob_given.mean(1) if self.prob_given.any() else None


def sort_samples(prob_given: Tensor, mean_highest: Tensor, threshold: Tensor, *, sigma: float) -> Tensor:
    """Sort the samples into their sets.

    Args:
        prob_given: (N, 2) probability of the given label, weak and strong.
        mean_highest: (N,) highest probability of the two views' mean.
        threshold: (N, 2), tau_w and tau_s.
        sigma: margin of the purified.

    Returns:
        (N,) int64: NEITHER, CLEAN, HARD or PURIFIED.
    """
    passed = (prob_given > threshold).sum(1)
    purified = mean_highest > (threshold.mean(1) + sigma).clamp(max=HIGHEST_BAR)
    otherwise = torch.where(purified, PURIFIED, NEITHER)
    return torch.where(passed == 2, CLEAN, torch.where(passed == 1, HARD, otherwise))


def generalized_cross_entropy(logits: Tensor, labels: Tensor, *, q: float) -> Tensor:
    """(1 - p_y^q) / q, (B,) in [0, 1 / q]; p_y counts as at least 1e-7.

    Args:
        logits: (B, K).
        labels: (B,) given.
        q: towards 0 it becomes cross-entropy; 1 is the mean absolute error.
    """
    return (1 - (-q * cross_entropy(logits, labels)).exp().clamp(min=1e-7**q)) / q


def mixup_among(inputs: Tensor, targets: Tensor, members: Tensor, *, alpha: float) -> tuple[Tensor, Tensor]:
    """Mixup whose members only meet members, and the others only each other. Shapes do not depend on who is one.

    Args:
        inputs: (B, ...).
        targets: (B, K), rows sum to one.
        members: (B,) bool.
        alpha: of the Beta distribution.

    Returns:
        (B, ...) and (B, K), row i being mostly row i of what came in.
    """
    share = draw_share(alpha, inputs.device)
    share, partner = torch.maximum(share, 1 - share), partners_among(members)
    return share * inputs + (1 - share) * inputs[partner], share * targets + (1 - share) * targets[partner]
