"""Co-LDL: two networks tell each other what is clean; the other samples learn their labels, mixed with clean ones.

Z. Sun et al., "Co-LDL: A Co-Training-Based Label Distribution Learning Method for Tackling Label Noise", IEEE
Transactions on Multimedia 2022, https://openreview.net/forum?id=H6DezfeAqAF.

Symbols
    y~              smoothed label: 1 - eps on the given class, eps / (K - 1) on each other one
    d(e)            drop rate: rises with a line from 0.25 after stage 1 to last_drop in the last epoch
    clean           the 1 - d share of a batch with the smallest CE towards y~ under the OTHER network
    Y_i, q_i        learned label logits, 10 times the one-hot given label at the start, and softmax(Y_i)
    L_clean         mean over clean samples of CE towards y~ plus the entropy of the prediction
    L_mix           mean over the others of KL(p(x') || q') with x' = w x_i + (1 - w) x_j and q' from q_i and q_j in the
                    same way; j a random clean sample, w ~ Beta(phi, phi)
    L_o             mean over clean samples of CE(softmax with q as its logits, y~): their labels stay near y
    L_self          2 - 2 cos(predictor(logits), logits of the other network): each foretells the other
    L_k             (1 - alpha) (L_clean + beta L_mix) + alpha L_o + gamma L_self;  lambda: label_rate, of Y

Stage 1 trains both networks on y~. Each network sees a weak view of its own.

Departures
    - as_published names two slips of the public code that shaped its numbers, on by default: both networks share one Y,
      and what the first one teaches it is overwritten by the second; and every sample's q' is averaged over all the
      weights w of the batch, the KL being divided by K besides. Off: a Y for each network, and L_mix as above.
    - A partner is mixed into every sample, and those that are not clean count: so shapes are fixed. Batch normalization
      thus sees the whole batch in that pass.
    - The public code classifies with a linear layer on top of an embedding. Here the network's own output is the
      embedding, and the predictor serves L_self alone, so that the saved network is a classifier.
    - Its label rate of 200 (batch 16) met gradients that float16 had scaled up; here it is taken as it stands.
Result: docs/benchmark.md.

Above 180 lines: four losses of two networks, and L_mix in the published form beside that of the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Beta

from acto.core.settings import setting
from acto.core.types import Batch, BuildNet, Clock, Step, Task
from acto.methods.base import Method, observed
from acto.methods.blocks.losses import (
    batch_mean,
    masked_mean,
    negative_entropy,
    published_divergence,
    soft_cross_entropy,
)
from acto.methods.blocks.mixing import one_hot, smoothed
from acto.methods.blocks.selection import small_loss

FIRST_DROP = 0.25
FLOOR = 1e-8


class CoLDL(Method):
    """Co-training with label distribution learning."""

    name = "co-ldl"
    title = "two networks pick clean samples for each other, and learn label distributions for the rest"
    paper = (
        "Sun et al., Co-LDL: A Co-Training-Based Label Distribution Learning Method for Tackling Label Noise, "
        "https://openreview.net/forum?id=H6DezfeAqAF"
    )
    venue = "TMM 2022"
    views = ("weak", "weak")
    num_nets = 2

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Method.Config):
        """Settings of Co-LDL; the defaults are the public code's for the web data sets (110 epochs, batch 16)."""

        warmup_epochs: int = setting(10, low=0)
        """Length of stage 1."""
        eps: float = setting(0.5, low=0, high=0.999, open_low=True)
        """Share of the smoothed label that is off the given class."""
        last_drop: float = setting(0.5, low=0, high=1)
        """d in the last epoch."""
        phi: float = setting(0.4, low=0, open_low=True)
        """Parameter of mixup's Beta distribution."""
        alpha: float = setting(0.1, low=0, high=1)
        """Share of L_o in the loss."""
        beta: float = setting(0.3, low=0)
        """Weight of L_mix."""
        gamma: float = setting(0.1, low=0)
        """Weight of L_self."""
        label_scale: float = setting(10.0, low=0, open_low=True)
        """Height of the one-hot start of Y."""
        label_rate: float = setting(200.0, low=0, open_low=True)
        """lambda, the learning rate of Y. It acts on means over the batch, so it grows with its size."""
        as_published: bool = True
        """Both slips of the public code, see the card."""

    config: Config

    def __init__(self, config: Config, task: Task, build_net: BuildNet) -> None:
        super().__init__(config, task, build_net)
        self.predictors = nn.ModuleList(nn.Linear(task.num_classes, task.num_classes) for _ in self.nets)
        self.learn("label_logits", self._one_hot_start())
        self.label_logits: Tensor

    def _one_hot_start(self) -> Tensor:
        start = self.config.label_scale * one_hot(self.labels, self.task.num_classes)
        return start[:, None].repeat(1, 1 if self.config.as_published else 2, 1)

    def row_rate(self, name: str, clock: Clock) -> float:
        """Lambda."""
        return self.config.label_rate

    def drop_rate(self, clock: Clock) -> float:
        """d(e), in [0, 1]."""
        done = (clock.epoch - self.config.warmup_epochs) / max(clock.epochs - 1 - self.config.warmup_epochs, 1)
        return FIRST_DROP + (self.config.last_drop - FIRST_DROP) * done

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """Stage 1, or L_1 + L_2 on the split that each network gets from the other."""
        (batch,) = batches
        logits = [net(view) for net, view in zip(self.nets, batch.views, strict=True)]
        smooth = smoothed(batch.label, self.task.num_classes, eps=self.config.eps)
        losses = [soft_cross_entropy(values, smooth) for values in logits]
        seen = observed(logits[0], batch.label)
        if clock.epoch < self.config.warmup_epochs:
            loss = batch_mean(losses[0] + losses[1])
            return Step(loss, {"loss_warmup": loss.detach()}, seen)
        picked = [small_loss(values, self.drop_rate(clock)) for values in losses]
        labels = self.rows("label_logits", batch.index).softmax(2)
        # The public code's one table: the first network's step on it is lost.
        label_of = [labels[:, 0].detach(), labels[:, 0]] if self.config.as_published else list(labels.unbind(1))
        total = torch.zeros((), device=smooth.device)
        log: dict[str, Tensor] = {}
        for k in range(2):
            clean = picked[1 - k]
            loss_clean = masked_mean(losses[k] - negative_entropy(logits[k]), clean)
            loss_mix = self._mix(k, batch.views[k], label_of[k], clean)
            loss_o = masked_mean(soft_cross_entropy(label_of[k], smooth), clean)
            foretold = F.cosine_similarity(self.predictors[k](logits[k]).float(), logits[1 - k].detach(), dim=1)
            loss_self = batch_mean(2 - 2 * foretold)
            alpha = self.config.alpha
            loss = (1 - alpha) * (loss_clean + self.config.beta * loss_mix) + alpha * loss_o
            loss = loss + self.config.gamma * loss_self
            total = total + loss
            log |= {f"loss_net{k}": loss.detach(), f"loss_mix_net{k}": loss_mix.detach()}
        return Step(total, log, {**seen, "selected": picked[1]})

    def _mix(self, k: int, images: Tensor, label: Tensor, clean: Tensor) -> Tensor:
        """L_mix of network k."""
        phi = torch.full((len(images),), self.config.phi, device=images.device)
        share = Beta(phi, phi, validate_args=False).sample()
        partner = random_partners(clean)
        share_of = share.view(-1, *[1] * (images.dim() - 1))
        log_probs = F.log_softmax(self.nets[k](share_of * images + (1 - share_of) * images[partner]), dim=1)
        divergence = published_divergence if self.config.as_published else distribution_divergence
        return masked_mean(divergence(log_probs, label + FLOOR, label[partner] + FLOOR, share, ~clean), ~clean)

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """The first network is the model; the other and the mean of both are shown beside it."""
        first, second = (F.softmax(net(images), dim=1) for net in self.nets)
        return {"net0": first, "net1": second, "ensemble": (first + second) / 2}

    @torch.no_grad()
    def label_quality(self) -> Tensor | None:
        """Return what is left of the label distribution on the given label; None until labels have been learned."""
        if torch.equal(self.label_logits, self._one_hot_start()):
            return None
        return self.label_logits.softmax(2).mean(1).gather(1, self.labels[:, None]).squeeze(1)


def random_partners(clean: Tensor) -> Tensor:
    """A random clean sample for every sample, (B,) int64; all of them are used about equally often.

    Args:
        clean: (B,) bool. Where none is clean, as can be in one of several processes, each sample is its own partner.
    """
    order = (torch.rand(clean.shape, device=clean.device) + (~clean).float()).argsort()  # the clean ones come first
    place = torch.arange(len(clean), device=clean.device)
    return torch.where(clean.any(), order[place % clean.sum().clamp(min=1)], place)


def distribution_divergence(
    log_probs: Tensor, label: Tensor, partner_label: Tensor, share: Tensor, counted: Tensor
) -> Tensor:
    """KL(p || w q_i + (1 - w) q_j), (B,).

    Args:
        log_probs: (B, K) of the mixture.
        label: (B, K), q_i > 0.
        partner_label: (B, K), q_j > 0.
        share: (B,), w.
        counted: (B,) bool; of no use here.
    """
    mixed = share[:, None] * label + (1 - share[:, None]) * partner_label
    return (log_probs.exp() * (log_probs - mixed.log())).sum(1)
