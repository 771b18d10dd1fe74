"""ProMix: the clean set grows as far as it can, by small loss, by confidence, and late by guesses of two networks.

R. Xiao et al., "ProMix: Combating Label Noise via Maximizing Clean Sample Utility", IJCAI 2023,
https://arxiv.org/abs/2207.10276.

Symbols
    CSS         class-wise small loss: of each given class the rho N / K samples of least loss, for one epoch
    MHCS        matched high confidence: also every sample whose given label has a probability above tau
    LGA         guessing: in the last guess_epochs a batch is filled up to 90 % with samples for which both networks
                give one class more than tau, the most confident first; their label is the guess g
    S, R        what was selected of a batch, by each network for itself, and the rest
    h, h_ap     main and auxiliary head; the auxiliary one also learns from R
    pi, pi_u    moving averages of the predictions on S and on R: losses add a log pi to the logits, guesses (g, and
                t, the sharpened target of R) take it off
    w           ramp, epoch / ramp_epochs up to 1, the warm-up counted

Loss of a head on S: cross-entropy of the weak view + w (that of the strong view, of mixup and of FMix within S). Of the
auxiliary head on R: beta (cross-entropy with t of the weak view + w that of the strong one). All heads of both networks
count alike.

Departures
    - unreliable_stops names a quirk: in the public code beta rises to 0.1 over 100 epochs and then is 0; the paper has
      the term to the end. The published numbers come from it: on by default.
    - entropy_clamp names another (see acto.methods.blocks.losses.negative_entropy), in the warm-up with asymmetric
      noise.
    - own_class_size takes rho n_j of a class with n_j samples, as the author advises for unequal classes.
    - An empty S or R has loss 0 and leaves pi as it is; in the public code both become NaN.
    - The mixing passes take all samples, so that the step has one shape; those of R are mixed with each other and do
      not count. A head's two mixtures pass together, and so do the two views.
    - pi is averaged over epochs: 0.9999 a step, at 195 steps an epoch, reaches back 51 of them.
Result: docs/benchmark.md.

Above 180 lines: three rules of selection, two heads, two kinds of mixtures and the priors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acto.core.distributed import gather, total
from acto.core.settings import setting
from acto.core.types import Batch, BuildNet, Clock, Scan, Step, Task
from acto.methods.base import Method, observed
from acto.methods.blocks.ensemble import pair_predictions
from acto.methods.blocks.losses import batch_mean, cross_entropy, masked_mean, soft_cross_entropy, warm_up_loss
from acto.methods.blocks.mixing import draw_share, fmix_mask, one_hot, partners_among, sharpen
from acto.methods.blocks.selection import place_in_class

FULL = 0.9
"""LGA fills a batch up to this share."""


class ProMix(Method):
    """Progressive selection with debiased margin-based semi-supervision."""

    name = "promix"
    title = "make the clean set as large as possible: small loss, high confidence, agreed guesses"
    paper = (
        "Xiao et al., ProMix: Combating Label Noise via Maximizing Clean Sample Utility, "
        "https://arxiv.org/abs/2207.10276"
    )
    venue = "IJCAI 2023"
    views = ("weak", "strong")
    num_nets = 2

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Method.Config):
        """Settings of ProMix; the defaults are those of the public scripts for CIFAR-10 (600 epochs)."""

        warmup_epochs: int = setting(10, low=0)
        """Epochs on every given label."""
        rho_start: float = setting(0.5, low=0, high=1)
        """rho in the first epoch."""
        rho_end: float = setting(0.5, low=0, high=1)
        """rho from ramp_epochs on; 0.7 at 20 % noise."""
        own_class_size: bool = False
        """Let CSS take rho of a class's own samples, see the card."""
        tau: float = setting(0.99, low=0, high=1)
        """Threshold of MHCS and LGA; 0.95 on CIFAR-100."""
        ramp_epochs: float = setting(50.0, low=0, open_low=True)
        """Epochs in which w rises."""
        guess_epochs: int = setting(250, low=0)
        """Epochs with LGA, at the end of the run."""
        debias: float = setting(0.8, low=0)
        """a; 0.5 on CIFAR-100."""
        prior_epochs: float = setting(51.0, low=0, open_low=True)
        """Epochs that pi reaches back."""
        unreliable_weight: float = setting(0.1, low=0)
        """The highest beta."""
        unreliable_ramp_epochs: float = setting(100.0, low=0, open_low=True)
        """Epochs in which beta rises."""
        unreliable_stops: bool = True
        """Drop the term of R after that, as the public code does: see the card."""
        temperature: float = setting(0.5, low=0, high=1, open_low=True)
        """Temperature of t."""
        alpha: float = setting(4.0, low=0, open_low=True)
        """Parameter of mixup's Beta distribution."""
        entropy_weight: float = setting(0.0, low=0)
        """Weight of the penalty on confident predictions in the warm-up; 1 for asymmetric noise."""
        entropy_clamp: bool = True
        """Treat negative logits as 0 in that penalty, as the public code does."""

    config: Config

    def __init__(self, config: Config, task: Task, build_net: BuildNet) -> None:
        super().__init__(config, task, build_net)
        nets: list[Any] = list(self.nets)
        self.aux_heads = nn.ModuleList(nn.Linear(net.feature_dim, task.num_classes) for net in nets)
        self.remember("small_loss", torch.zeros(task.num_samples, 2, dtype=torch.bool))
        uniform = torch.full((2, 2, task.num_classes), 1 / task.num_classes)
        self.remember("prior", uniform, per_sample=False)
        self.small_loss: Tensor
        self.prior: Tensor
        """(2 networks, pi and pi_u, K)."""

    def on_turn(self, clock: Clock, scan: Scan) -> None:
        """CSS, for each network."""
        config = self.config
        if clock.epoch < config.warmup_epochs:
            return
        rho = config.rho_start + (config.rho_end - config.rho_start) * min(clock.epoch / config.ramp_epochs, 1)
        for k, net in enumerate(self.nets):
            losses = cross_entropy(scan(net), self.labels)
            self.small_loss[:, k] = small_loss_by_class(
                losses, self.labels, rho=rho, num_classes=self.task.num_classes, own_class_size=config.own_class_size
            )

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """Both networks on all given labels in the warm-up, then each on its own selection."""
        (batch,) = batches
        if clock.epoch < self.config.warmup_epochs:
            return self._warm_up(batch)
        tau = self.config.tau
        nets: list[Any] = list(self.nets)
        features = [net.features(torch.cat(batch.views)) for net in nets]
        logits = [net.head(f).split(len(batch.label)) for net, f in zip(nets, features, strict=True)]
        with torch.no_grad():
            probs = [F.softmax(weak, dim=1) for weak, _ in logits]
            matched = torch.stack([p.gather(1, batch.label[:, None]).squeeze(1) for p in probs], dim=1) > tau
            trusted = self.small_loss[batch.index] | matched
            agreed, confidence = agreement(*probs, tau=tau)
            if clock.epoch <= clock.epochs - self.config.guess_epochs:
                agreed = torch.zeros_like(agreed)

        terms = torch.zeros(3, device=trusted.device)
        num_reliable = torch.zeros_like(confidence)
        for k in range(2):
            added = fill_up(trusted[:, k], agreed, confidence)
            guess = (logits[k][0].detach() - self._log_prior(k)).argmax(1)
            label = torch.where(added, guess, batch.label)
            reliable = trusted[:, k] | added
            terms = terms + self._terms(k, batch, features[k], logits[k], label, reliable, clock)
            self._move_prior(k, probs[k], reliable, clock)
            num_reliable = num_reliable + reliable
        main, aux, unreliable = terms.unbind()
        log = {
            "loss_main": main.detach(),
            "loss_aux": aux.detach(),
            "loss_unreliable": unreliable.detach(),
            "reliable_share": batch_mean(num_reliable / 2),
        }
        seen = observed(logits[0][0] + logits[1][0], batch.label)
        return Step(main + aux + self._beta(clock) * unreliable, log, {**seen, "selected": trusted.all(1)})

    def _warm_up(self, batch: Batch) -> Step:
        first, second = (net(batch.views[0]) for net in self.nets)
        weight, clamp = self.config.entropy_weight, self.config.entropy_clamp
        loss = warm_up_loss(first, second, labels=batch.label, entropy_weight=weight, clamp_logits=clamp)
        return Step(loss, {"loss_given": loss.detach()}, observed(first + second, batch.label))

    def _terms(
        self,
        k: int,
        batch: Batch,
        features: Tensor,
        logits: tuple[Tensor, Tensor],
        label: Tensor,
        reliable: Tensor,
        clock: Clock,
    ) -> Tensor:
        """(3,): the loss on S of the main and of the auxiliary head, and that on R, of network k."""
        config, ramp = self.config, min(clock.epoch / self.config.ramp_epochs, 1)
        net: Any = self.nets[k]
        targets, log_prior, log_prior_u = (
            one_hot(label, self.task.num_classes),
            self._log_prior(k),
            self._log_prior(k, 1),
        )

        def on_reliable(head: Callable[[Tensor], Tensor], plain: Sequence[Tensor]) -> Tensor:
            mixtures = mix_among(batch.views[0], targets, reliable, alpha=config.alpha)
            mixed = head(net.features(torch.cat([inputs for inputs, _ in mixtures]))).split(len(label))
            wanted = [targets, *(mixed_targets for _, mixed_targets in mixtures)]
            loss = soft_cross_entropy(plain[0] + log_prior, targets)
            for out, target in zip((plain[1], *mixed), wanted, strict=True):
                loss = loss + ramp * soft_cross_entropy(out + log_prior, target)
            return masked_mean(loss, reliable)

        aux = self._aux(k, features).split(len(label))
        guess = sharpen(F.softmax(logits[0].detach() - log_prior_u, dim=1), temperature=config.temperature)
        on_rest = soft_cross_entropy(aux[0] + log_prior_u, guess) + ramp * soft_cross_entropy(
            aux[1] + log_prior_u, guess
        )
        return torch.stack(
            [
                on_reliable(net.head, logits),
                on_reliable(lambda mixed: self._aux(k, mixed), aux),
                masked_mean(on_rest, ~reliable),
            ]
        )

    def _aux(self, k: int, features: Tensor) -> Tensor:
        """The auxiliary head, in full precision like the main one."""
        with torch.autocast(features.device.type, enabled=False):
            return self.aux_heads[k](features.to(torch.promote_types(features.dtype, torch.float32)))

    def _log_prior(self, k: int, part: int = 0) -> Tensor:
        """A log pi (part 0) or a log pi_u (part 1) of network k, (K,)."""
        return self.config.debias * self.prior[k, part].log()

    def _beta(self, clock: Clock) -> float:
        done = clock.epoch / self.config.unreliable_ramp_epochs
        return 0.0 if self.config.unreliable_stops and done >= 1 else self.config.unreliable_weight * min(done, 1)

    @torch.no_grad()
    def _move_prior(self, k: int, probs: Tensor, reliable: Tensor, clock: Clock) -> None:
        move = 1 - math.exp(-1 / (self.config.prior_epochs * clock.steps))
        for part, members in enumerate((reliable, ~reliable)):
            count = total(members.sum())
            mean = total((probs * members[:, None]).sum(0)) / count.clamp(min=1)
            self.prior[k, part].lerp_(torch.where(count > 0, mean.to(self.prior.dtype), self.prior[k, part]), move)

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """The sum of both main heads' logits is the model; each of them is shown beside it."""
        return pair_predictions(self.nets, images)


def small_loss_by_class(
    losses: Tensor, labels: Tensor, *, rho: float, num_classes: int, own_class_size: bool = False
) -> Tensor:
    """CSS: the samples of least loss in each given class, (N,) bool.

    Args:
        losses: (N,).
        labels: (N,) given.
        rho: share of a class to take, in [0, 1], rounded up.
        num_classes: K.
        own_class_size: the share is that of the class's own samples, not of N / K; a class that has fewer gives all.
    """
    even = [len(labels) / num_classes] * num_classes
    sizes = labels.bincount(minlength=num_classes).tolist() if own_class_size else even
    # 0.7 of 10 are 7, also where the product is 7.000000000000001.
    wanted = torch.tensor([math.ceil(rho * size - 1e-9) for size in sizes], device=labels.device)
    return place_in_class(losses, labels, num_classes=num_classes) < wanted[labels]


def agreement(first: Tensor, second: Tensor, *, tau: float) -> tuple[Tensor, Tensor]:
    """Find where two networks are sure of the same class, (B,) bool, and how sure, the mean of both, (B,).

    Args:
        first: (B, K) probabilities.
        second: (B, K) of the other network.
        tau: both lie above it.
    """
    (top_1, class_1), (top_2, class_2) = first.max(1), second.max(1)
    return (class_1 == class_2) & (top_1 > tau) & (top_2 > tau), (top_1 + top_2) / 2


def fill_up(trusted: Tensor, candidates: Tensor, confidence: Tensor) -> Tensor:
    """LGA: candidates that are not trusted yet, the most confident first, up to 90 % of the global batch. (B,) bool.

    Args:
        trusted: (B,) bool.
        candidates: (B,) bool.
        confidence: (B,) >= 0.
    """
    (trusted, candidates, confidence), own = gather(trusted, candidates, confidence)
    free = candidates & ~trusted
    place = torch.where(free, confidence, -1.0).argsort(descending=True, stable=True).argsort()
    return (free & (place < int(FULL * len(trusted)) - trusted.sum()))[own]


def mix_among(inputs: Tensor, targets: Tensor, members: Tensor, *, alpha: float) -> list[tuple[Tensor, Tensor]]:
    """Mixup, and FMix, whose members only meet members. Shapes do not depend on who is one.

    Args:
        inputs: (B, C, H, W) or (B, D).
        targets: (B, K), rows sum to one.
        members: (B,) bool; the others meet each other.
        alpha: of mixup's Beta distribution.

    Returns:
        For both: (B, ...) and (B, K), row i being a mixture of row i and of a partner drawn for it.
    """
    share = draw_share(alpha, inputs.device)
    share = torch.maximum(share, 1 - share)
    mask = fmix_mask(inputs.shape[2:] or inputs.shape[1:], device=inputs.device)
    found = []
    for keep, weight in ((share, share), (mask, mask.mean())):
        partner = partners_among(members)
        mixed = keep * inputs + (1 - keep) * inputs[partner]
        found.append((mixed, weight * targets + (1 - weight) * targets[partner]))
    return found
