"""Jo-SRC: the distance of prediction and label says what is clean, two views that disagree say what is of no class.

Y. Yao et al., "Jo-SRC: A Contrastive Approach for Combating Noisy Labels", CVPR 2021, https://arxiv.org/abs/2103.13029.

Symbols
    p1, p2     predictions on two weak views
    y~         smoothed label: 1 - eps on the given class, eps / (K - 1) on each other one
    c_i        1 - JS(p1, y~) in [0, 1] with logarithms to base 2: likelihood that the label is clean
    tau        threshold: rises from 0 to tau_clean in the warm-up, from there to 0.95 at the end of the run
    t          the teacher's (averaged weights) mean prediction on the two views
    clean      c_i >= tau: the target is y~
    ID         else, and both views predict the same class: the target is t
    OOD        else (not of any class): the target is softmax(t / 10), nearly uniform
    L_c        CE(p1, target) + CE(p2, target)
    L_o        KL(p1 || p2) + KL(p2 || p1) to base 2, its sign turned for OOD samples
    alpha      share of L_o in the loss

The warm-up learns from y~ where c_i >= tau. The history's `selected` is what is clean after it.

eps and tau belong together: with eps = 0.6 a sure and right prediction has c = 0.604, a sure and wrong one 0.39 (4
classes) to 0.027 (100), and a uniform one about 0.8 or more. What is called clean is thus not yet fitted hard.

Departures
    - Logarithms come from log_softmax, so that no probability needs a clamp.
    - An empty clean part in the warm-up gives 0 instead of NaN.
    - The teacher lives in training mode and averages no batch statistics, as in the public code.
Result: docs/benchmark.md.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from acto.core.settings import setting
from acto.core.types import Batch, BuildNet, Clock, Step, Task
from acto.methods.base import Method, observed
from acto.methods.blocks.losses import batch_mean, jensen_shannon, masked_mean, soft_cross_entropy, symmetric_divergence
from acto.methods.blocks.mixing import smoothed
from acto.methods.blocks.weight_average import average

LAST_TAU = 0.95
FLATTENING = 10.0


class JoSRC(Method):
    """Joint sample selection and model regularization by consistency."""

    name = "jo-src"
    title = "label and prediction close: clean; two views disagree: of no class; a mean teacher corrects the rest"
    paper = "Yao et al., Jo-SRC: A Contrastive Approach for Combating Noisy Labels, https://arxiv.org/abs/2103.13029"
    venue = "CVPR 2021"
    views = ("weak", "weak")

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Method.Config):
        """Settings of Jo-SRC; the defaults are those of the public code for CIFAR80N (200 epochs)."""

        warmup_epochs: int = setting(10, low=0)
        """Epochs in which tau rises to tau_clean."""
        eps: float = setting(0.6, low=0, high=0.999, open_low=True)
        """Share of the smoothed label that is off the given class."""
        tau_clean: float = setting(0.75, low=0, high=LAST_TAU)
        """tau at the end of the warm-up."""
        alpha: float = setting(0.5, low=0, high=1)
        """Share of L_o in the loss."""
        ema_decay: float = setting(0.99, low=0, high=0.99999)
        """Share of the teacher's old weights in their update, a step."""

    config: Config

    def __init__(self, config: Config, task: Task, build_net: BuildNet) -> None:
        super().__init__(config, task, build_net)
        self.teacher = deepcopy(self.nets[0]).requires_grad_(False)

    def tau(self, clock: Clock) -> float:
        """The threshold of an epoch, in [0, 0.95)."""
        warmup, top = self.config.warmup_epochs, self.config.tau_clean
        if clock.epoch < warmup:
            return top * clock.epoch / warmup
        return top + (LAST_TAU - top) * (clock.epoch - warmup) / (clock.epochs - warmup)

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """Cross-entropy with the target of each sample's kind, and consistency of the two views."""
        (batch,) = batches
        config = self.config
        first, second = (self.nets[0](view) for view in batch.views)
        smooth = smoothed(batch.label, self.task.num_classes, eps=config.eps)
        clean = 1 - jensen_shannon(first.detach(), smooth) >= self.tau(clock)
        seen = observed(first, batch.label)
        if clock.epoch < config.warmup_epochs:
            losses = soft_cross_entropy(first, smooth) + soft_cross_entropy(second, smooth)
            loss = masked_mean(losses, clean)
            return Step(loss, {"loss_warmup": loss.detach(), "clean_share": batch_mean(clean.float())}, seen)
        with torch.no_grad():
            guess = torch.stack([F.softmax(self.teacher(view), dim=1) for view in batch.views]).mean(0)
        open_set = ~clean & (first.argmax(1) != second.argmax(1))
        corrected = torch.where(open_set[:, None], F.softmax(guess / FLATTENING, dim=1), guess)
        target = torch.where(clean[:, None], smooth, corrected)
        loss_c = batch_mean(soft_cross_entropy(first, target) + soft_cross_entropy(second, target))
        divergence = symmetric_divergence(first, second) / math.log(2)
        loss_o = batch_mean(torch.where(open_set, -divergence, divergence))
        log = {
            "loss_c": loss_c.detach(),
            "loss_o": loss_o.detach(),
            "clean_share": batch_mean(clean.float()),
            "open_share": batch_mean(open_set.float()),
        }
        loss = (1 - config.alpha) * loss_c + config.alpha * loss_o
        return Step(loss, log, {**seen, "selected": clean})

    def on_step(self, clock: Clock) -> None:
        """Move the teacher."""
        average(self.teacher, self.nets[0], decay=self.config.ema_decay, copy_buffers=False)
