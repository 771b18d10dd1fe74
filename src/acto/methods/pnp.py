"""PNP: a second head predicts for every sample whether its label is clean, wrong, or the sample of no class at all.

Z. Sun et al., "PNP: Robust Learning from Noisy Labels by Probabilistic Noise Prediction", CVPR 2022,
https://openaccess.thecvf.com/content/CVPR2022/html/Sun_PNP_Robust_Learning_From_Noisy_Labels_by_Probabilistic_Noise_Prediction_CVPR_2022_paper.html.

Symbols
    x, x_w, x_s     two weak views and a strong one;  p, p_w predictions on the first two
    y~              smoothed label: 1 - eps on the given class, eps / (K - 1) on each other one
    r               (r_c, r_i, r_o): softmax over the noise head's three sigmoids, so each lies in [0.155, 0.576]
    m               mean of p, p_w and y~; the targets softmax(m / T) and softmax(m T) are sharp and flat
    L_clean         mean over both weak views of CE towards y~, plus alpha times the entropy
    L_id, L_ood     CE of the strong view towards the sharp target; beta times that towards the flat one
    L_cls           r_c L_clean + r_i L_id + r_o L_ood (soft), or the one term whose r is largest (hard)
    L_con           symmetric KL of p and p_w, weighed by r_c + r_i (soft), or over what is not OOD (hard)
    L_aux           |r_c - (1 - JS(p, y~))| + |r_o - (eta JS(p, p_w) + (1 - eta) H(p) / log K)|: teaches the noise head
    gamma, omega    weights of L_aux and L_con

Divergences have logarithms to base 2. The history's `selected` is where r_c is the largest; its `weight` is r_c.

Departures
    - added_correction names a slip of the public code that shaped the numbers of its hard form, so it is on by default
      there: L_id is added for every sample, and with it the share of those that it is meant for. Off: as in the paper.
    - The strong view does not pass the network in the warm-up, where it would only move batch statistics.
    - The noise head (features -> features -> 3, ReLU) stands beside any network; heads of classes stay what they are.
    - Gradient flows from L_cls and L_con into r in the soft form, as in the public code.
Result: docs/benchmark.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from acto.core.settings import setting
from acto.core.types import Batch, BuildNet, Clock, Step, Task
from acto.methods.base import Method, observed
from acto.methods.blocks.losses import (
    batch_mean,
    jensen_shannon,
    masked_mean,
    negative_entropy,
    soft_cross_entropy,
    symmetric_divergence,
)
from acto.methods.blocks.mixing import one_hot, smoothed


class PNP(Method):
    """Probabilistic noise prediction."""

    name = "pnp"
    title = "a second head predicts clean, wrong or of no class, and mixes three losses by it"
    paper = (
        "Sun et al., PNP: Robust Learning from Noisy Labels by Probabilistic Noise Prediction, "
        "https://openaccess.thecvf.com/content/CVPR2022/html/"
        "Sun_PNP_Robust_Learning_From_Noisy_Labels_by_Probabilistic_Noise_Prediction_CVPR_2022_paper.html"
    )
    venue = "CVPR 2022"
    views = ("weak", "weak", "strong")

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Method.Config):
        """Settings of PNP; the defaults are those of the public code for CIFAR80N (200 epochs)."""

        warmup_epochs: int = setting(10, low=0)
        """Epochs on every given label; the noise head learns nothing there."""
        hard: bool = False
        """The largest r picks one term; off: r weighs all three."""
        eps: float = setting(0.6, low=0, high=0.999, open_low=True)
        """Share of the smoothed label that is off the given class."""
        temperature: float = setting(0.1, low=0, high=1, open_low=True)
        """T, of the sharp and the flat target."""
        alpha: float = setting(0.0, low=0)
        """Weight of the entropy in L_clean."""
        beta: float = setting(1.0, low=0)
        """Weight of L_ood."""
        gamma: float = setting(1.0, low=0)
        """Weight of L_aux."""
        omega: float = setting(1.0, low=0)
        """Weight of L_con."""
        eta: float = setting(0.5, low=0, high=1)
        """Share of the disagreement of the views in the target of r_o."""
        added_correction: bool = True
        """L_id for every sample in the hard form, as in the public code, see the card; the soft form does not know
        it."""

    config: Config

    def __init__(self, config: Config, task: Task, build_net: BuildNet) -> None:
        super().__init__(config, task, build_net)
        net: Any = self.nets[0]
        width = net.feature_dim
        self.noise_head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """Warm-up for the first epochs, then L_cls + gamma L_aux + omega L_con."""
        (batch,) = batches
        config, num_classes = self.config, self.task.num_classes
        net: Any = self.nets[0]
        view, weak, strong = batch.views
        features = net.features(view)
        logits, logits_w = net.head(features), net(weak)
        smooth = smoothed(batch.label, num_classes, eps=config.eps)
        seen = observed(logits, batch.label)
        to_label = (soft_cross_entropy(logits, smooth) + soft_cross_entropy(logits_w, smooth)) / 2
        if clock.epoch < config.warmup_epochs:
            loss = batch_mean(to_label)
            return Step(loss, {"loss_warmup": loss.detach()}, seen)

        kinds = F.softmax(self.noise_head(features).float().sigmoid(), dim=1)
        with torch.no_grad():
            mixed = (F.softmax(logits, dim=1) + F.softmax(logits_w, dim=1) + smooth) / 3
            sharp, flat = F.softmax(mixed / config.temperature, dim=1), F.softmax(mixed * config.temperature, dim=1)
        logits_s = net(strong)
        entropy = -(negative_entropy(logits) + negative_entropy(logits_w)) / 2
        terms = torch.stack(
            [
                to_label + config.alpha * entropy,
                soft_cross_entropy(logits_s, sharp),
                config.beta * soft_cross_entropy(logits_s, flat),
            ],
            dim=1,
        )
        picked = one_hot(kinds.argmax(1), 3)
        divergence = symmetric_divergence(logits, logits_w) / math.log(2)
        if config.hard:
            loss_cls = batch_mean((picked * terms).sum(1))
            if config.added_correction:  # sum of L_id + [is ID] where the product was meant
                loss_cls = loss_cls + batch_mean((1 - picked[:, 1]) * terms[:, 1] + picked[:, 1])
            loss_con = masked_mean(divergence, picked[:, 2] == 0)
        else:
            loss_cls = batch_mean((kinds * terms).sum(1))
            loss_con = batch_mean((1 - kinds[:, 2]) * divergence)

        with torch.no_grad():
            disagreement = jensen_shannon(logits, F.softmax(logits_w, dim=1))
            uncertainty = -negative_entropy(logits) / math.log(num_classes)
            target_c = 1 - jensen_shannon(logits, smooth)
            target_o = config.eta * disagreement + (1 - config.eta) * uncertainty
        loss_aux = batch_mean((kinds[:, 0] - target_c).abs() + (kinds[:, 2] - target_o).abs())
        log = {
            "loss_cls": loss_cls.detach(),
            "loss_con": loss_con.detach(),
            "loss_aux": loss_aux.detach(),
            "clean_share": batch_mean(picked[:, 0]),
            "open_share": batch_mean(picked[:, 2]),
        }
        loss = loss_cls + config.gamma * loss_aux + config.omega * loss_con
        return Step(loss, log, {**seen, "selected": picked[:, 0] > 0, "weight": kinds[:, 0].detach()})
