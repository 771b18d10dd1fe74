"""SED: thresholds and weights that follow the training, one per class, pick labels, correct the rest and weigh them.

M. Sheng et al., "Foster Adaptivity and Balance in Learning with Noisy Labels", ECCV 2024,
https://arxiv.org/abs/2407.02778.

Symbols
    P, Q       probabilities by the student (net 0) and by its teacher (averaged weights) on the whole training set
    s_i        P_i on the given label
    G, E       global threshold (moving average of a quantile of s) and, by class, the moving average of mean P
    tau_c      G E_c / max E, the threshold of class c; sample i is clean where s_i >= tau of its given label
    h_i, k_i   the teacher's class for sample i, and its confidence
    mu, v      by h, moving averages of the mean and the variance of k
    w_i        exp(-n^2 min(k_i - mu, 0)^2 / (2 v)): 1 for a teacher as sure as it usually is of that class, else less
    L          mean over clean samples of CE(weak view, given label) + alpha mean of w_i CE(strong view, h_i)

All but L is computed once an epoch, before its first step.

Departures
    - quantile names a difference: the public code takes G from the 0.8-quantile of s (its flag cannot turn that off),
      the paper's equation from the mean. The code's form is the default, None is the paper's.
    - bell names another: n = 2 in the code makes the bell half as wide as in the paper, which has n = 1.
    - Student and teacher look at the training set in eval mode, and the teacher takes over the student's batch
      statistics. The public code looks in train mode over shuffled batches; here the look goes in the order of the
      data, which may be sorted by class.
    - entropy_clamp: see acto.methods.blocks.losses.negative_entropy. No clean sample in a batch: that term is 0
      instead of NaN.
    - The defaults are the paper's one setting. The public script has others for each noise, of CIFAR100N and of
      CIFAR80N: by_method.py. Its learning rates, also by noise, give way to the protocol that all methods share.
Result: docs/benchmark.md.

Above 180 lines: selection, correction and weights each have statistics by class, which are carried on.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from acto.core.settings import setting
from acto.core.types import Batch, BuildNet, Clock, Scan, Step, Task
from acto.methods.base import Method, observed
from acto.methods.blocks.confidence import trust_in_confidence
from acto.methods.blocks.losses import batch_mean, cross_entropy, masked_mean, negative_entropy
from acto.methods.blocks.weight_average import average

MAX_THRESHOLD = 0.95


class SED(Method):
    """Self-adaptive and class-balanced selection and re-weighting."""

    name = "sed"
    title = "class-wise thresholds pick labels, a mean teacher corrects the rest and is weighed by its confidence"
    paper = (
        "Sheng et al., Foster Adaptivity and Balance in Learning with Noisy Labels, https://arxiv.org/abs/2407.02778"
    )
    venue = "ECCV 2024"
    views = ("weak", "strong")

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Method.Config):
        """Settings of SED; the defaults are the paper's (100 epochs)."""

        warmup_epochs: int = setting(20, low=0)
        """W, epochs on every given label."""
        threshold_momentum: float = setting(0.99, low=0, high=0.99999)
        """Share of the old G and E in their update, once an epoch."""
        weight_momentum: float = setting(0.99, low=0, high=0.99999)
        """The same for mu and v."""
        ema_decay: float = setting(0.95, low=0, high=0.99999)
        """Share of the teacher's old weights in their update, a step."""
        alpha: float = setting(1.0, low=0)
        """Weight of the corrected part."""
        quantile: float | None = setting(0.8, low=0, high=1)
        """Quantile of s for G; None: the mean. See the card."""
        bell: float = setting(2.0, low=0, open_low=True)
        """n. See the card."""
        entropy_clamp: bool = True
        """Treat negative logits as 0 in the warm-up's entropy term, as the public code does."""
        label_smoothing: float = setting(0.0, low=0, high=0.999)
        """Smoothing of every cross-entropy; 0.3 on the web data sets."""

    config: Config

    def __init__(self, config: Config, task: Task, build_net: BuildNet) -> None:
        super().__init__(config, task, build_net)
        self.teacher = deepcopy(self.nets[0]).requires_grad_(False)
        num_samples, num_classes = task.num_samples, task.num_classes
        self.remember("global_threshold", torch.tensor(1 / num_classes), per_sample=False)
        self.remember("class_level", torch.full((num_classes,), 1 / num_classes), per_sample=False)
        self.remember("confidence_mean", torch.full((num_classes,), 1 / num_classes), per_sample=False)
        self.remember("confidence_var", torch.ones(num_classes), per_sample=False)
        self.remember("clean", torch.zeros(num_samples, dtype=torch.bool))
        self.remember("pseudo_label", task.labels.clone())
        self.remember("weight", torch.ones(num_samples))
        self.remember("trust", torch.zeros(num_samples))
        self.global_threshold: Tensor
        self.class_level: Tensor
        self.confidence_mean: Tensor
        self.confidence_var: Tensor
        self.clean: Tensor
        self.pseudo_label: Tensor
        self.weight: Tensor
        self.trust: Tensor

    def on_turn(self, clock: Clock, scan: Scan) -> Mapping[str, Tensor] | None:
        """Select, correct and weigh the whole training set."""
        if clock.epoch < self.config.warmup_epochs:
            return None
        config, logits = self.config, scan(self.nets[0], view="weak")
        probs, teacher_probs = F.softmax(logits, dim=1), F.softmax(scan(self.teacher, view="weak"), dim=1)

        given = probs.gather(1, self.labels[:, None]).squeeze(1)
        level = given.mean() if config.quantile is None else given.quantile(config.quantile)
        self.global_threshold.lerp_(level, 1 - config.threshold_momentum).clamp_(0, MAX_THRESHOLD)
        self.class_level.lerp_(probs.mean(0), 1 - config.threshold_momentum)
        self.clean.copy_(given >= class_thresholds(self.global_threshold, self.class_level)[self.labels])

        confidence, predicted = teacher_probs.max(1)
        mean, var = confidence_by_class(confidence, predicted, num_classes=self.task.num_classes)
        self.confidence_mean.lerp_(mean, 1 - config.weight_momentum)
        self.confidence_var.lerp_(var, 1 - config.weight_momentum)
        self.pseudo_label.copy_(predicted)
        self.weight.copy_(
            trust_in_confidence(
                confidence, self.confidence_mean[predicted], self.confidence_var[predicted], bell=config.bell
            )
        )
        self.trust.copy_(teacher_probs.gather(1, self.labels[:, None]).squeeze(1))
        return {**observed(logits, self.labels), "selected": self.clean, "weight": self.weight}

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """Warm-up for the first epochs, then L."""
        (batch,) = batches
        config, net, index = self.config, self.nets[0], batch.index
        weak, strong = batch.views
        logits = net(weak)
        losses = self._ce(logits, batch.label)
        if clock.epoch < config.warmup_epochs:
            loss = batch_mean(losses) + batch_mean(negative_entropy(logits, clamp_logits=config.entropy_clamp))
            return Step(loss, {"loss_warmup": loss.detach()}, observed(logits, batch.label))
        loss_clean = masked_mean(losses, self.clean[index])
        loss_corrected = batch_mean(self.weight[index] * self._ce(net(strong), self.pseudo_label[index]))
        log = {"loss_clean": loss_clean.detach(), "loss_corrected": loss_corrected.detach()}
        return Step(loss_clean + config.alpha * loss_corrected, log)

    def on_step(self, clock: Clock) -> None:
        """Move the teacher."""
        has_buffers = any(True for _ in self.teacher.buffers())
        average(self.teacher, self.nets[0], decay=self.config.ema_decay, copy_buffers=has_buffers)

    def label_quality(self) -> Tensor | None:
        """The teacher's probability of the given label at the last look; None before the first."""
        return self.trust if bool((self.trust > 0).any()) else None

    def _ce(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)


def class_thresholds(global_threshold: Tensor, class_level: Tensor) -> Tensor:
    """tau_c = G E_c / max E, (K,) in [0, G].

    Args:
        global_threshold: (), G.
        class_level: (K,), E, > 0.
    """
    return global_threshold * class_level / class_level.max()


def confidence_by_class(confidence: Tensor, predicted: Tensor, *, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of the confidence by predicted class, (K,) each; 0 and 1 for less than two samples.

    Args:
        confidence: (N,) in [0, 1].
        predicted: (N,) classes.
        num_classes: K.
    """
    zeros = confidence.new_zeros(num_classes)
    count = zeros.index_add(0, predicted, torch.ones_like(confidence))
    mean = zeros.index_add(0, predicted, confidence) / count.clamp(min=1)
    squares = zeros.index_add(0, predicted, (confidence - mean[predicted]).square())
    var = squares / (count - 1).clamp(min=1)
    return torch.where(count > 1, mean, 0.0), torch.where(count > 1, var, 1.0)
