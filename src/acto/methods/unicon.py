"""UNICON: the labels nearest to the prediction are selected, as many of each class; the rest feeds a contrastive loss.

N. Karim et al., "UNICON: Combating Label Noise Through Uniform Selection and Contrastive Learning", CVPR 2022,
https://arxiv.org/abs/2203.14542.

Symbols
    d_i         divergence: Jensen-Shannon divergence of the given label and the mean prediction of both networks
    d_cut       mean of d; where it lies above d_mu it is lowered by (d_cut - min d) / tau
    R           share of the samples with d_i < d_cut
    X, U        of each class the R N / K samples of least d, and the rest, whose labels are not used
    w_i         weight of a selected label in its target: 1 below d_i = 0.5, else 1 - d_i
    L_X, L_U, L_reg  as in DivideMix, on mixtures of two strong views; targets come from two weak views
    L_C         SimCLR's loss on the projections of U's two strong views

Loss: L_X + lambda_u L_U + contrast_weight L_C + L_reg, lambda_u rising from 0 after the warm-up. An epoch has two
turns, one for each network, and each begins with a new selection. A step reads 1 / (2 R) samples of U for one of X.

Departures
    - in_bits names a difference: the paper's d lies in [0, 1], logarithms to base 2. The public code takes natural
      ones, so that d never exceeds 0.693, d_mu = 0.7 is never passed and w_i is never below 0.3. The published numbers
      come from it: off by default.
    - The second selection of an epoch is made in eval mode; the public code leaves network 0 in training mode.
    - X holds a batch and U two samples at least. Where a class has fewer samples than its part, the public code fills
      up with sample 0; here X is smaller.
    - With several processes each contrasts its own part of the batch.
    - On CIFAR the public code's cosine rises again after epoch 280 of 350. Here a plan gives the rate.
Result: docs/benchmark.md.

Above 180 lines: a selection and a loss of its own beside DivideMix's step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acto.core.settings import setting
from acto.core.types import Batch, BuildNet, Clock, Scan, Step, Stream, Task
from acto.methods.base import Method, observed
from acto.methods.blocks.ensemble import pair_predictions
from acto.methods.blocks.losses import batch_mean, cross_entropy, warm_up_loss
from acto.methods.blocks.mixmatch import mixmatch, ramp
from acto.methods.blocks.selection import place_in_class

SURE = 0.5


class UNICON(Method):
    """Uniform selection by divergence, MixMatch and contrastive learning."""

    name = "unicon"
    title = "select equally many labels of each class, and learn from the rest by semi-supervision and contrast"
    paper = (
        "Karim et al., UNICON: Combating Label Noise Through Uniform Selection and Contrastive Learning, "
        "https://arxiv.org/abs/2203.14542"
    )
    venue = "CVPR 2022"
    views = ("weak", "weak", "strong", "strong")
    num_nets = 2
    follows_steps = True  # a ramp rises with every step

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Method.Config):
        """Settings of UNICON; the defaults are those of the public code for CIFAR-10 (350 epochs)."""

        warmup_epochs: int = setting(10, low=0)
        """Epochs on every given label, with the protocol's batch size (128)."""
        batch_size: int = setting(64, low=2)
        """Samples of X in a step after the warm-up."""
        lambda_u: float = setting(30.0, low=0)
        """Weight of L_U."""
        ramp_epochs: float = setting(16.0, low=0, open_low=True)
        """Epochs after the warm-up in which lambda_u rises from 0."""
        contrast_weight: float = setting(0.025, low=0)
        """Weight of L_C."""
        contrast_temperature: float = setting(0.05, low=0, open_low=True)
        """Temperature of L_C."""
        projection_dim: int = setting(128, low=1)
        """Length of what L_C compares."""
        d_mu: float = setting(0.7, low=0)
        """d above which d_cut is lowered."""
        tau: float = setting(5.0, low=1)
        """Divisor of that lowering, see the card."""
        temperature: float = setting(0.5, low=0, high=1, open_low=True)
        """Temperature of sharpening."""
        alpha: float = setting(4.0, low=0, open_low=True)
        """Parameter of mixup's Beta distribution."""
        entropy_weight: float = setting(0.0, low=0)
        """Weight of the penalty on confident predictions in the warm-up; 1 for asymmetric noise."""
        in_bits: bool = False
        """Take the paper's logarithms to base 2, see the card."""

    config: Config

    def __init__(self, config: Config, task: Task, build_net: BuildNet) -> None:
        super().__init__(config, task, build_net)
        nets: list[Any] = list(self.nets)
        dim = config.projection_dim
        self.projectors = nn.ModuleList(
            nn.Sequential(nn.Linear(net.feature_dim, dim), nn.BatchNorm1d(dim)) for net in nets
        )
        self.remember("divergence", torch.zeros(task.num_samples))
        self.remember("selected", torch.zeros(task.num_samples, dtype=torch.bool))
        self.divergence: Tensor
        self.selected: Tensor

    def turns(self, clock: Clock) -> int:
        """One network after the other, each in an order of its own."""
        return 2

    def on_turn(self, clock: Clock, scan: Scan) -> Mapping[str, Tensor] | None:
        """Select anew before either network trains."""
        if clock.epoch < self.config.warmup_epochs:
            return None
        probs = sum(F.softmax(scan(net), dim=1) for net in self.nets) / 2
        assert isinstance(probs, Tensor)
        self.divergence.copy_(label_divergence(probs, self.labels, in_bits=self.config.in_bits))
        share = share_below_cut(self.divergence, d_mu=self.config.d_mu, tau=self.config.tau)
        self.selected.copy_(
            select_uniformly(
                self.divergence,
                self.labels,
                share=share,
                num_classes=self.task.num_classes,
                floor=self.config.batch_size,
            )
        )
        seen = observed(probs.clamp(min=torch.finfo(probs.dtype).tiny).log(), self.labels)
        return {**seen, "selected": self.selected, "weight": label_weight(self.divergence)}

    def streams(self, clock: Clock) -> tuple[Stream, ...]:
        """Everything in the warm-up; then X and U, in batches that go through both at about the same pace."""
        if clock.epoch < self.config.warmup_epochs:
            return (Stream(views=("weak",)),)
        labelled, unlabelled = self.selected.nonzero().squeeze(1), (~self.selected).nonzero().squeeze(1)
        size_x = min(self.config.batch_size, len(labelled))
        size_u = max(2, int(self.config.batch_size / 2 * self.task.num_samples / len(labelled)))
        return (
            Stream(index=labelled, batch_size=size_x, drop_last=True),
            Stream(index=unlabelled, batch_size=min(size_u, len(unlabelled)), drop_last=True),
        )

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """Warm-up on all given labels, then MixMatch on X and U and the contrast on U."""
        config, net, partner = self.config, self.nets[clock.turn], self.nets[1 - clock.turn]
        if clock.epoch < config.warmup_epochs:
            (batch,) = batches
            logits = net(batch.views[0])
            loss = warm_up_loss(logits, labels=batch.label, entropy_weight=config.entropy_weight)
            return Step(loss, {"loss_given": loss.detach()}, observed(logits, batch.label))
        x, u = batches
        loss_c = self._contrast(u, clock.turn)
        loss_x, loss_u, loss_reg = mixmatch(
            x,
            u,
            net=net,
            partner=partner,
            trust=label_weight(self.divergence[x.index]),
            temperature=config.temperature,
            alpha=config.alpha,
        )
        lambda_u = config.lambda_u * ramp(clock, start=config.warmup_epochs, epochs=config.ramp_epochs)
        terms = {"loss_x": loss_x, "loss_u": loss_u, "loss_con": loss_c, "loss_reg": loss_reg}
        loss = loss_x + lambda_u * loss_u + config.contrast_weight * loss_c + loss_reg
        return Step(loss, {name: term.detach() for name, term in terms.items()})

    def _contrast(self, u: Batch, turn: int) -> Tensor:
        net: Any = self.nets[turn]
        projections = [self.projectors[turn](net.features(view)) for view in u.views[2:]]
        return batch_mean(view_contrast(*projections, temperature=self.config.contrast_temperature))

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """The sum of both networks' logits is the model; each of them is shown beside it."""
        return pair_predictions(self.nets, images)

    def label_quality(self) -> Tensor | None:
        """One less d, as a share of the largest possible one; None as long as nothing was selected."""
        largest = 1.0 if self.config.in_bits else math.log(2)
        return (1 - self.divergence / largest).clamp(0, 1) if self.selected.any() else None


def label_divergence(probs: Tensor, labels: Tensor, *, in_bits: bool) -> Tensor:
    """Jensen-Shannon divergence of predictions and labels, (N,): 0 for p_y = 1, log 2 (1 in bits) for p_y = 0.

    Args:
        probs: (N, K).
        labels: (N,) given.
        in_bits: logarithms to base 2, else natural ones.
    """
    prob = probs.gather(1, labels[:, None]).squeeze(1).clamp(0, 1)
    # The middle m is p / 2 off the label, where KL(p || m) has p log 2 a class, and (1 + p_y) / 2 on it.
    middle = (1 + prob) / 2
    divergence = ((1 - prob) * math.log(2) + torch.xlogy(prob, prob / middle) - middle.log()) / 2
    return (divergence / math.log(2) if in_bits else divergence).clamp(min=0)


def label_weight(divergence: Tensor) -> Tensor:
    """w, (N,) in [0, 1], of selected samples with these d."""
    return torch.where(divergence < SURE, 1.0, 1 - divergence)


def share_below_cut(divergence: Tensor, *, d_mu: float, tau: float) -> float:
    """R, in [0, 1).

    Args:
        divergence: (N,), d.
        d_mu: a mean above it is lowered.
        tau: by the tau-th part of its distance from the minimum.
    """
    cut = divergence.mean()
    cut = torch.where(cut > d_mu, cut - (cut - divergence.min()) / tau, cut)
    return float((divergence < cut).sum()) / len(divergence)


def select_uniformly(divergence: Tensor, labels: Tensor, *, share: float, num_classes: int, floor: int = 0) -> Tensor:
    """The samples of least d, equally many of each class; of a class that has fewer all.

    Args:
        divergence: (N,), d.
        labels: (N,) given.
        share: R, of all samples that are to be selected.
        num_classes: K.
        floor: at least so many in all, as far as classes go (at most N // 2); two samples are left over in any case.

    Returns:
        (N,) bool.
    """
    num_samples = len(labels)
    least = math.ceil(min(floor, num_samples // 2) / num_classes)
    most = max(1, (num_samples - 2) // num_classes)
    num_each = min(max(int(share * num_samples / num_classes), least), most)
    return place_in_class(divergence, labels, num_classes=num_classes) < num_each


def view_contrast(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    """SimCLR's loss: every view must find its sample's other view among all others. (2B,) >= 0.

    Args:
        first: (B, D) projections of one view.
        second: (B, D) of the other.
        temperature: of the softmax over cosines.
    """
    num_samples = len(first)
    with torch.autocast(first.device.type, enabled=False):
        stack = torch.cat([first, second])
        units = F.normalize(stack.to(torch.promote_types(stack.dtype, torch.float32)), dim=1)
        cosines = units @ units.T / temperature
    itself = torch.eye(2 * num_samples, dtype=torch.bool, device=first.device)
    partner = torch.arange(2 * num_samples, device=first.device).roll(num_samples)
    return cross_entropy(cosines.masked_fill(itself, -math.inf), partner)
