"""PLC: a label that recent predictions find much less likely than another class becomes that class, ever more readily.

Y. Zhang et al., "Learning with Feature-Dependent Label Noise: A Progressive Approach", ICLR 2021,
https://arxiv.org/abs/2103.07756.

Symbols
    y~_i        the label that training uses: the given one at first, then overwritten
    f_i         mean of the predictions of the last W epochs (window), as training made them
    delta       a label changes where f_i[y~_i] / max f_i < delta. It starts small and grows by `increment`, up to 0.9,
                after an epoch in which fewer than 0.1 % of the labels changed

Training is plain cross-entropy on y~. Labels are looked at between epochs, after warmup_epochs + 1 of them.

Departures
    - The rule is the public code's for CIFAR, Food101N and Animal-10N: the likelihood ratio. The paper's algorithm is
      for two classes, with a margin of the confidence that shrinks.
    - The public code for Clothing1M takes a softmax of what already is one, and there overwrites labels of little
      confidence. That variant is not offered.
    - The public code keeps 5,000 clean samples to choose an epoch by. Here there are none, and no epoch is chosen.
Result: docs/benchmark.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from acto.core.settings import setting
from acto.core.types import Batch, BuildNet, Clock, Scan, Step, Task
from acto.methods.base import Method, observed
from acto.methods.blocks.losses import batch_mean, cross_entropy

FEW_CHANGED = 0.001
HIGHEST_DELTA = 0.9


class PLC(Method):
    """Progressive label correction."""

    name = "plc"
    title = "correct labels that recent predictions contradict, strictly at first"
    paper = (
        "Zhang et al., Learning with Feature-Dependent Label Noise: A Progressive Approach, "
        "https://arxiv.org/abs/2103.07756"
    )
    venue = "ICLR 2021"

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Method.Config):
        """Settings of PLC; the defaults are those of the public code for CIFAR-10 (180 epochs)."""

        warmup_epochs: int = setting(8, low=0)
        """Epochs on the given labels, and one more."""
        window: int = setting(5, low=1)
        """W, epochs whose predictions are averaged."""
        delta: float = setting(0.3, low=0, high=HIGHEST_DELTA)
        """delta at the start."""
        increment: float = setting(0.1, low=0)
        """Growth of delta."""

    config: Config

    def __init__(self, config: Config, task: Task, build_net: BuildNet) -> None:
        super().__init__(config, task, build_net)
        self.remember("recent_probs", torch.zeros(task.num_samples, config.window, task.num_classes))
        self.remember("corrected_label", task.labels.clone())
        self.remember("delta", torch.tensor(config.delta), per_sample=False)
        self.recent_probs: Tensor
        self.corrected_label: Tensor
        self.delta: Tensor

    def on_turn(self, clock: Clock, scan: Scan) -> None:
        """Correct labels by what the last epochs saw, and relax delta where hardly any changed."""
        if clock.epoch <= self.config.warmup_epochs:
            return
        corrected = correct(self.recent_probs.mean(1), self.corrected_label, delta=self.delta)
        settled = (corrected != self.corrected_label).sum() < FEW_CHANGED * len(corrected)
        self.corrected_label.copy_(corrected)
        relaxed = (self.delta + self.config.increment).clamp(max=HIGHEST_DELTA)
        self.delta.copy_(torch.where(settled, relaxed, self.delta))

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """The mean cross-entropy of the labels as they are now."""
        (batch,) = batches
        logits = self.nets[0](batch.views[0])
        label = self.corrected_label[batch.index]
        probs = F.softmax(logits.detach(), dim=1)
        self.recent_probs[batch.index, clock.epoch % self.config.window] = probs.to(self.recent_probs.dtype)
        loss = batch_mean(cross_entropy(logits, label))
        log = {"loss_ce": loss.detach(), "corrected_share": batch_mean((label != batch.label).float())}
        return Step(loss, log, observed(logits, batch.label))

    def label_quality(self) -> Tensor | None:
        """The likelihood ratio of the given label; None before the first epoch."""
        return likelihood_ratio(self.recent_probs.mean(1), self.labels) if self.recent_probs.any() else None


def likelihood_ratio(probs: Tensor, labels: Tensor) -> Tensor:
    """f[y] / max f, (N,) in [0, 1].

    Args:
        probs: (N, K) >= 0, of any scale.
        labels: (N,).
    """
    given = probs.gather(1, labels[:, None]).squeeze(1)
    return given / probs.amax(1).clamp(min=torch.finfo(probs.dtype).tiny)


def correct(probs: Tensor, labels: Tensor, *, delta: Tensor) -> Tensor:
    """Replace the labels whose likelihood ratio lies below delta by the likeliest class.

    Args:
        probs: (N, K), f.
        labels: (N,), y~.
        delta: () in [0, 1].

    Returns:
        (N,) int64.
    """
    return torch.where(likelihood_ratio(probs, labels) < delta, probs.argmax(1), labels)
