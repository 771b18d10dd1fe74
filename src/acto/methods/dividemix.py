"""DivideMix: a mixture model of the losses splits the data, and each network learns from the other one's split.

J. Li, R. Socher, S. C. H. Hoi, "DivideMix: Learning with Noisy Labels as Semi-supervised Learning", ICLR 2020,
https://arxiv.org/abs/2002.07394.

Symbols
    w_i         clean_prob: probability that the loss of sample i belongs to the low mode, one for each network
    X, U        the labelled set, w_i > p_threshold, and the rest, whose labels are not used; two weak views of each
    T           sharpening temperature
    L_X, L_U    cross-entropy on the mixed rows of X, squared error of the probabilities on those of U
    L_reg       sum_c (1/K) log((1/K) / mean p_c): no class may vanish
    lambda_u    weight of L_U. It depends on the data and the noise, and a wrong one costs several points: 25 is the
                public script's default, 0 belongs to light or asymmetric noise, 150 to CIFAR-100 from 50 % on

An epoch has two turns. Both mixtures are fitted before the first; turn k trains network k on the other one's split.

Departures
    - X and U hold at least one batch (or half of the data): where the threshold leaves fewer, the samples nearest to it
      in w fill up. The public code stops with an error when one is empty.
    - A short last batch of U is left out, so that a turn has two shapes, full and last. U starts over in a new order.
    - The expectation maximization starts from the best split of the losses in two instead of a random one.
Result: docs/benchmark.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from acto.core.settings import setting
from acto.core.types import Batch, BuildNet, Clock, Scan, Step, Stream, Task
from acto.methods.base import Method, observed
from acto.methods.blocks.ensemble import pair_predictions
from acto.methods.blocks.losses import cross_entropy, warm_up_loss
from acto.methods.blocks.mixmatch import mixmatch, ramp
from acto.methods.blocks.selection import min_max, two_mode_mixture


class DivideMix(Method):
    """Co-divide, co-refine, co-guess, MixMatch."""

    name = "dividemix"
    title = "split by a mixture of the losses, then semi-supervised learning on the other network's split"
    paper = (
        "Li et al., DivideMix: Learning with Noisy Labels as Semi-supervised Learning, https://arxiv.org/abs/2002.07394"
    )
    venue = "ICLR 2020"
    views = ("weak", "weak")
    num_nets = 2
    follows_steps = True  # a ramp rises with every step

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Method.Config):
        """Settings of DivideMix; the defaults are those of the public script for CIFAR-10."""

        warmup_epochs: int = setting(10, low=0)
        """Epochs on every given label, with the protocol's batch size (128)."""
        batch_size: int = setting(64, low=2)
        """Samples of X, and of U, in a step after the warm-up."""
        lambda_u: float = setting(25.0, low=0)
        """Weight of L_U; see the card."""
        ramp_epochs: float = setting(16.0, low=0, open_low=True)
        """Epochs after the warm-up in which lambda_u rises from 0."""
        p_threshold: float = setting(0.5, low=0, high=1)
        """Samples of a higher w_i are X; the authors take 0.6 at 90 % noise."""
        temperature: float = setting(0.5, low=0, high=1, open_low=True)
        """T, of sharpening."""
        alpha: float = setting(4.0, low=0, open_low=True)
        """Parameter of mixup's Beta distribution."""
        entropy_weight: float = setting(0.0, low=0)
        """Weight of the penalty on confident predictions in the warm-up; 1 for asymmetric noise."""
        loss_epochs: int = setting(1, low=1)
        """Epochs over which the losses that the mixture sees are averaged; 5 at 90 % noise."""
        train_on_unlabelled: bool = True
        """Off: U's rows are mixed into X's and not trained on themselves, as in the public code for Clothing1M and
        WebVision."""

    config: Config

    def __init__(self, config: Config, task: Task, build_net: BuildNet) -> None:
        super().__init__(config, task, build_net)
        self.remember("clean_prob", torch.ones(task.num_samples, 2))
        self.remember("recent_losses", torch.zeros(task.num_samples, 2, config.loss_epochs))
        self.clean_prob: Tensor
        self.recent_losses: Tensor

    def turns(self, clock: Clock) -> int:
        """One network after the other, each in an order of its own."""
        return 2

    def on_turn(self, clock: Clock, scan: Scan) -> Mapping[str, Tensor] | None:
        """Co-divide: fit both mixtures before either network trains."""
        age = clock.epoch - self.config.warmup_epochs
        if clock.turn > 0 or age < 0:
            return None
        logits = [scan(net) for net in self.nets]
        for k in range(2):
            losses = min_max(cross_entropy(logits[k], self.labels))
            self.recent_losses[:, k, age % self.config.loss_epochs] = losses
            known = min(age + 1, self.config.loss_epochs)
            self.clean_prob[:, k] = two_mode_mixture(self.recent_losses[:, k, :known].mean(1))
        mean_prob = self.clean_prob.mean(1)
        selected = mean_prob > self.config.p_threshold
        return {**observed(logits[0] + logits[1], self.labels), "selected": selected, "weight": mean_prob}

    def streams(self, clock: Clock) -> tuple[Stream, ...]:
        """Everything in the warm-up; then the X and U that the other network's mixture makes."""
        if clock.epoch < self.config.warmup_epochs:
            return (Stream(views=("weak",)),)
        labelled, unlabelled = divide(
            self.clean_prob[:, 1 - clock.turn], threshold=self.config.p_threshold, floor=self.config.batch_size
        )
        size = self.config.batch_size
        return (
            Stream(index=labelled, batch_size=size),
            Stream(index=unlabelled, batch_size=min(size, len(unlabelled)), drop_last=True),
        )

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """Warm-up on all given labels, then MixMatch on X and U."""
        config, net, partner = self.config, self.nets[clock.turn], self.nets[1 - clock.turn]
        if clock.epoch < config.warmup_epochs:
            (batch,) = batches
            logits = net(batch.views[0])
            loss = warm_up_loss(logits, labels=batch.label, entropy_weight=config.entropy_weight)
            return Step(loss, {"loss_given": loss.detach()}, observed(logits, batch.label))
        x, u = batches
        loss_x, loss_u, loss_reg = mixmatch(
            x,
            u,
            net=net,
            partner=partner,
            trust=self.clean_prob[x.index, 1 - clock.turn],
            temperature=config.temperature,
            alpha=config.alpha,
            train_on_unlabelled=config.train_on_unlabelled,
        )
        loss = loss_x + loss_reg
        log = {"loss_x": loss_x.detach(), "loss_reg": loss_reg.detach()}
        if config.train_on_unlabelled:
            lambda_u = config.lambda_u * ramp(clock, start=config.warmup_epochs, epochs=config.ramp_epochs)
            loss = loss + lambda_u * loss_u
            log["loss_u"] = loss_u.detach()
        return Step(loss, log)

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """The sum of both networks' logits is the model; each of them is shown beside it."""
        return pair_predictions(self.nets, images)

    def label_quality(self) -> Tensor | None:
        """The mean of the two networks' w; None as long as no mixture told labels apart."""
        quality = self.clean_prob.mean(1)
        return quality if quality.min() < quality.max() else None


def divide(clean_prob: Tensor, *, threshold: float, floor: int) -> tuple[Tensor, Tensor]:
    """Split the samples into labelled and unlabelled ones.

    Args:
        clean_prob: (N,), w.
        threshold: X is where w lies above it.
        floor: X and U get at least so many samples (at most N // 2), those nearest to the other side.

    Returns:
        Sample numbers of X and of U, each in ascending order; together every sample once.
    """
    num_samples = len(clean_prob)
    floor = min(floor, num_samples // 2)
    num_labelled = min(max(int((clean_prob > threshold).sum()), floor), num_samples - floor)
    labelled, unlabelled = clean_prob.argsort(descending=True, stable=True).tensor_split([num_labelled])
    return labelled.sort().values, unlabelled.sort().values
