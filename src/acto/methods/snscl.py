"""SNSCL: DivideMix, plus a contrastive loss by class whose labels and memory give noise little room.

Q. Wei et al., "Fine-Grained Classification with Noisy Labels", CVPR 2023, https://arxiv.org/abs/2303.02404.

Symbols
    w_i         DivideMix's clean probability, taken from the other network's mixture
    z, z_k      normalized projections of the network's features in one view, and of the key network's in the other;
                the key network is a moving average (m) of the network
    z', z_k'    the same of features drawn anew from N(mu, sigma^2), which the sampler makes of the features: it stands
                in for more augmentation
    queue       the latest queue_size keys of every class
    L_con       KL(q || p) over a query's own key and the whole queue; q is uniform over the own key and the queue of
                the query's class, p the softmax of the inner products / tau. The class is the given label in X, the
                network's own prediction in U
    L_kl        KL(N(mu, sigma^2) || N(0, 1)), summed over the features

Loss of a step: class_weight DivideMix's + L_con of X + L_con of U + kl_weight L_kl.

Departures
    - The public code has one network that learns from a robust loss; the tables' row, DivideMix+SNSCL, is not
      released. Here it is the whole of DivideMix, so w_i comes from plain pictures and two weak views are compared.
    - public_sampler names a quirk: the public code draws eps + sigma mu, the paper mu + sigma eps. Off by default: the
      code's version is mostly noise, and the tables' row has no code.
    - A key of U enters the queue with probability w_i, as in the paper. In the public code a key that is turned down
      still overwrites a slot, and w_i belongs to another sample.
    - X and U go through the network together, and both see the queue as it was before the step. In the warm-up the key
      network is a copy of the network; in the public code it stays at its start.
    - m is given in epochs: 0.999, applied twice a step, at some 100 steps an epoch reaches back 5 epochs.
    - The public code's classifier learns at ten times the rate, which makes up for class_weight. Here a network has
      one rate.
    - L_kl is the mean over X and U together; the public code adds the two means, which is twice that.
Result: docs/benchmark.md.

Above 180 lines: a sampler, a key network and a queue by class, which several processes fill together.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acto.core.distributed import rank, total, world
from acto.core.settings import setting
from acto.core.types import Batch, BuildNet, Clock, Step, Task
from acto.methods.blocks.losses import batch_mean
from acto.methods.blocks.mixing import one_hot
from acto.methods.blocks.weight_average import average
from acto.methods.dividemix import DivideMix


class SNSCL(DivideMix):
    """DivideMix with stochastic noise-tolerated supervised contrastive learning."""

    name = "snscl"
    title = "DivideMix with a contrastive loss by class that tolerates noise"
    paper = "Wei et al., Fine-Grained Classification with Noisy Labels, https://arxiv.org/abs/2303.02404"
    venue = "CVPR 2023"

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(DivideMix.Config):
        """Settings of DivideMix and of SNSCL; the latter's defaults are those of the public code."""

        class_weight: float = setting(0.1, low=0)
        """Weight of DivideMix's loss."""
        kl_weight: float = setting(1e-4, low=0)
        """Weight of L_kl."""
        tau: float = setting(0.07, low=0, open_low=True)
        """Temperature of the contrast."""
        queue_size: int = setting(32, low=1)
        """Keys kept of every class."""
        projection_dim: int = setting(1024, low=1)
        """Length of a key."""
        ema_epochs: float = setting(5.0, low=0, open_low=True)
        """Epochs that the key network reaches back; m is exp(-1 / (ema_epochs * steps an epoch))."""
        public_sampler: bool = False
        """Draw as the public code does, see the card."""

    config: Config

    def __init__(self, config: Config, task: Task, build_net: BuildNet) -> None:
        super().__init__(config, task, build_net)
        nets: list[Any] = list(self.nets)
        widths = [net.feature_dim for net in nets]
        self.projectors = nn.ModuleList(nn.Linear(width, config.projection_dim) for width in widths)
        self.samplers = nn.ModuleList(Sampler(width, public=config.public_sampler) for width in widths)
        self.key_nets = nn.ModuleList(deepcopy(net).requires_grad_(False) for net in self.nets)
        self.key_projectors = nn.ModuleList(deepcopy(p).requires_grad_(False) for p in self.projectors)
        # As MoCo does: until real keys come, directions that mean nothing.
        noise = torch.randn(2, task.num_classes, config.queue_size, config.projection_dim)
        self.remember("queue", F.normalize(noise, dim=3), per_sample=False)
        self.remember("next_slot", torch.zeros(2, task.num_classes, dtype=torch.int64), per_sample=False)
        self.queue: Tensor
        self.next_slot: Tensor

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """DivideMix's step, and after its warm-up the contrast."""
        step = super().loss(batches, clock)
        if clock.epoch < self.config.warmup_epochs:
            return step
        loss_con, loss_kl = self._contrast(*batches, turn=clock.turn)
        loss = self.config.class_weight * step.loss + loss_con + self.config.kl_weight * loss_kl
        log = {**step.log, "loss_con": loss_con.detach(), "loss_kl": loss_kl.detach()}
        return Step(loss, log, step.per_sample)

    def _contrast(self, x: Batch, u: Batch, *, turn: int) -> tuple[Tensor, Tensor]:
        """L_con of X plus that of U, and L_kl. The keys go into the queue."""
        net: Any = self.nets[turn]
        key_net: Any = self.key_nets[turn]
        num_x, sampler = len(x.index), self.samplers[turn]
        features = net.features(torch.cat([x.views[0], u.views[0]]))
        drawn, kl = sampler(features)
        with torch.no_grad():
            label = torch.cat([x.label, net.head(features[num_x:]).argmax(1)])
            key_features = key_net.features(torch.cat([x.views[1], u.views[1]]))
        key_drawn, key_kl = sampler(key_features)
        queries = project(self.projectors[turn], features, drawn)
        with torch.no_grad():
            keys = project(self.key_projectors[turn], key_features, key_drawn)

        labels = torch.cat([label, label])
        # A copy: backward needs the queue as it is now.
        contrast = class_contrast(queries, keys, self.queue[turn].clone(), labels, tau=self.config.tau)
        contrast = contrast.view(2, -1).mean(0)
        insert_prob = torch.cat([torch.ones(num_x, device=label.device), self.clean_prob[u.index, 1 - turn]])
        accepted = torch.rand(2, len(label), device=label.device) < insert_prob
        enqueue(self.queue[turn], self.next_slot[turn], keys, labels, accepted=accepted.view(-1))
        return batch_mean(contrast[:num_x]) + batch_mean(contrast[num_x:]), batch_mean(kl + key_kl)

    def on_step(self, clock: Clock) -> None:
        """Move the key network and its projector; in the warm-up they are copies."""
        warm = clock.epoch < self.config.warmup_epochs
        decay = 0.0 if warm else math.exp(-1 / (self.config.ema_epochs * clock.steps))
        k = clock.turn
        # The key network lives in training mode and keeps batch statistics of its own.
        average(self.key_nets[k], self.nets[k], decay=decay, copy_buffers=False)
        average(self.key_projectors[k], self.projectors[k], decay=decay, copy_buffers=False)


class Sampler(nn.Module):
    """Draws features anew around what two linear layers make of them."""

    def __init__(self, feature_dim: int, *, public: bool = False) -> None:
        """`public`: draw eps + sigma mu instead of mu + sigma eps."""
        super().__init__()
        self.public = public
        self.mu = nn.Linear(feature_dim, feature_dim)
        self.log_variance = nn.Linear(feature_dim, feature_dim)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) features -> (B, D) drawn ones and (B,) KL(N(mu, sigma^2) || N(0, 1)) >= 0."""
        mu, log_variance = full_precision(self.mu(features)), full_precision(self.log_variance(features))
        deviation, eps = (log_variance / 2).exp(), torch.randn_like(mu)
        drawn = eps + deviation * mu if self.public else mu + deviation * eps
        return drawn, (log_variance.exp() + mu.square() - 1 - log_variance).sum(1) / 2


def full_precision(values: Tensor) -> Tensor:
    """Float32 (float64 if it was that), whatever autocast has made of the values."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def project(projector: nn.Module, *features: Tensor) -> Tensor:
    """(B, D) features, one or several -> all their normalized projections, one below the other."""
    return F.normalize(full_precision(projector(torch.cat(features))), dim=1)


def class_contrast(queries: Tensor, keys: Tensor, queue_KQD: Tensor, labels: Tensor, *, tau: float) -> Tensor:
    """L_con of every query, (M,) >= 0.

    Args:
        queries: (M, D), normalized.
        keys: (M, D), normalized, each query's own.
        queue_KQD: the kept keys of each class.
        labels: (M,) class of each query.
        tau: temperature.
    """
    num_classes, size, _ = queue_KQD.shape
    with torch.autocast(queries.device.type, enabled=False):
        own = (queries * keys).sum(1, keepdim=True)
        others = queries @ queue_KQD.flatten(0, 1).T.to(queries.dtype)
        log_probs = F.log_softmax(torch.cat([own, others], dim=1) / tau, dim=1)
    of_class = log_probs[:, 1:].view(-1, num_classes, size).sum(2)
    positive = log_probs[:, 0] + of_class.gather(1, labels[:, None]).squeeze(1)
    return -positive / (size + 1) - math.log(size + 1)


@torch.no_grad()
def enqueue(queue_KQD: Tensor, next_slot: Tensor, keys: Tensor, labels: Tensor, *, accepted: Tensor) -> None:
    """Write keys over the oldest ones of their classes, in place, in the order in which they come.

    Several processes write their keys one process after the other, and end with the same queue.

    Args:
        queue_KQD: the kept keys.
        next_slot: (K,) the slot of each class to be written next.
        keys: (M, D).
        labels: (M,) class of each key.
        accepted: (M,) bool; the others are left out.
    """
    num_classes, size, _ = queue_KQD.shape
    mine = one_hot(labels, num_classes).long() * accepted[:, None]
    counts = mine.new_zeros(world(), num_classes)
    counts[rank()] = mine.sum(0)
    counts = total(counts)
    place = (counts[: rank()].sum(0) + mine.cumsum(0) - 1).gather(1, labels[:, None]).squeeze(1)
    newest = accepted & (place >= counts.sum(0)[labels] - size)  # more than fit: the earlier ones would be overwritten
    slot = labels * size + (next_slot[labels] + place) % size
    writes = newest[:, None] & (slot[:, None] == torch.arange(num_classes * size, device=slot.device))
    written = writes.any(0)
    chosen = keys[writes.int().argmax(0)].to(queue_KQD.dtype)
    arrived = total(torch.where(written[:, None], chosen, 0.0)).view_as(queue_KQD)
    queue_KQD.copy_(torch.where((total(written.int()) > 0).view(num_classes, size, 1), arrived, queue_KQD))
    next_slot.copy_((next_slot + counts.sum(0)) % size)
