"""ELR+: ELR with two networks, each held to the averaged weights of the other one, and mixup.

S. Liu et al., "Early-Learning Regularization Prevents Memorization of Noisy Labels", NeurIPS 2020,
https://arxiv.org/abs/2007.00151.

Symbols
    t_i, beta, lambda   as in ELR; one t_i for each network
    averages            averaged weights of each network; the teacher of network k is the average of the other one
    gamma               decay of the average, rising from nearly 0 as r(s): at first the average is the network itself
    x~, y~, q           mixtures of a batch's samples, labels and t_i, all by one weight
    r(s)                exp(-5 (1 - s / S)^2) up to s = S, then 1

An epoch has two turns, one for each network. The teacher sees the unmixed samples, the network the mixtures.

Departures
    - label_reweighting names a quirk: wherever there are 100 classes the public code multiplies y~ by q and scales it
      to sum to one. The paper does not say so, but its CIFAR-100 rows hold it: off by default, on in those recipes.
    - The public code draws noise and validation split once for each network. Here both see the same labels.
    - Lengths are in epochs instead of steps, so that they mean the same for every size of data: at the public code's
      352 steps an epoch, 0.997 a step reaches back 0.95 epochs, and 40,000 steps are 114 epochs.
    - Teachers stay in training mode and average no batch statistics, as in the public code.
Result: docs/benchmark.md.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acto.core.settings import setting
from acto.core.types import Batch, BuildNet, Clock, Step, Task
from acto.methods.base import observed
from acto.methods.blocks.losses import batch_mean, soft_cross_entropy
from acto.methods.blocks.mixing import mixup, one_hot
from acto.methods.blocks.weight_average import average
from acto.methods.elr import ELR


class ELRPlus(ELR):
    """Early-learning regularization with averaged teachers and mixup."""

    name = "elr-plus"
    title = "ELR with two networks that teach each other by averaged weights, and mixup"
    num_nets = 2
    follows_steps = True  # a ramp rises with every step
    takes_weights = False  # its batches are mixed

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(ELR.Config):
        """Settings of ELR+; the defaults are the public code's for CIFAR-10 with symmetric noise (200 epochs)."""

        weight_ramp_epochs: float = setting(0.0, low=0)
        """Epochs in which lambda rises as r(s); 0: at once. 114 on CIFAR-100."""
        alpha: float = setting(1.0, low=0, open_low=True)
        """Parameter of mixup's Beta distribution."""
        ema_epochs: float = setting(0.95, low=0, open_low=True)
        """Epochs that the averaged weights reach back; gamma is exp(-1 / (ema_epochs * steps an epoch))."""
        ema_ramp_epochs: float = setting(114.0, low=0)
        """Epochs in which gamma rises as r(s); 0: at once."""
        label_reweighting: bool = False
        """See the card."""

    config: Config

    def __init__(self, config: Config, task: Task, build_net: BuildNet) -> None:
        super().__init__(config, task, build_net)
        self.averages = nn.ModuleList(deepcopy(net).requires_grad_(False) for net in self.nets)

    def turns(self, clock: Clock) -> int:
        """One network after the other."""
        return 2

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """Cross-entropy on mixtures plus the regularizer towards the other network's average."""
        (batch,) = batches
        config, num_classes = self.config, self.task.num_classes
        with torch.no_grad():
            guess = self.averages[1 - clock.turn](batch.views[0])
        target = self.remember_guess(batch.index, F.softmax(guess, dim=1), net=clock.turn)
        given = one_hot(batch.label, num_classes)
        inputs, mixed = mixup(batch.views[0], torch.cat([given, target], dim=1), alpha=config.alpha)
        label, target = mixed.split(num_classes, dim=1)
        if config.label_reweighting:
            label = label * target
            label = label / label.sum(1, keepdim=True).clamp(min=torch.finfo(label.dtype).tiny)
        logits = self.nets[clock.turn](inputs)
        loss_ce = batch_mean(soft_cross_entropy(logits, label))
        loss_reg = batch_mean(self.regularizer(logits, target))
        weight = config.weight * ramp_up(clock, over=config.weight_ramp_epochs)
        log = {f"loss_ce_net{clock.turn}": loss_ce.detach(), f"loss_reg_net{clock.turn}": loss_reg.detach()}
        return Step(loss_ce + weight * loss_reg, log, observed(guess, batch.label))

    def on_step(self, clock: Clock) -> None:
        """Move the average of the network that has just learned."""
        decay = math.exp(-1 / (self.config.ema_epochs * clock.steps))
        decay *= ramp_up(clock, over=self.config.ema_ramp_epochs)
        average(self.averages[clock.turn], self.nets[clock.turn], decay=decay, copy_buffers=False)

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """The mean of both networks' logits is the model, as in the public code; each of them is shown beside it."""
        first, second = (net(images) for net in self.nets)
        logits = {"ensemble": (first + second) / 2, "net0": first, "net1": second}
        return {name: F.softmax(values, dim=1) for name, values in logits.items()}


def ramp_up(clock: Clock, *, over: float) -> float:
    """r(s) in [exp(-5), 1], with s and S in epochs.

    Args:
        clock: of the step.
        over: S, >= 0; 0: no ramp.
    """
    left = 1 - min((clock.epoch + clock.step / clock.steps) / over, 1.0) if over > 0 else 0.0
    return math.exp(-5 * left**2)
