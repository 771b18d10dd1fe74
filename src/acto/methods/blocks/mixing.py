"""Mixing samples with each other, and guesses with labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Beta

FMIX_ALPHA, FMIX_DECAY = 1.0, 3.0


def mixup(inputs: Tensor, targets: Tensor, *, alpha: float) -> tuple[Tensor, Tensor]:
    """Mix every sample with a partner drawn from the same stack, all by one weight, mostly keeping the sample itself.

    The weight is lambda ~ Beta(alpha, alpha), then max(lambda, 1 - lambda), as in MixMatch
    (https://arxiv.org/abs/1905.02249, eq. 8-11). It is drawn on the device and never read back. Each of several
    processes mixes its own part of the batch.

    Args:
        inputs: (B, ...).
        targets: (B, K), rows sum to one.
        alpha: > 0; the larger, the nearer to an even mix.

    Returns:
        (B, ...) and (B, K), row i being mostly row i of what came in.
    """
    share = draw_share(alpha, inputs.device)
    share = torch.maximum(share, 1 - share)
    partner = torch.randperm(len(inputs), device=inputs.device)
    return share * inputs + (1 - share) * inputs[partner], share * targets + (1 - share) * targets[partner]


def draw_share(alpha: float, device: torch.device) -> Tensor:
    """() from Beta(alpha, alpha), on the device."""
    concentration = torch.full((), alpha, device=device)
    return Beta(concentration, concentration, validate_args=False).sample()


@dataclass(frozen=True, slots=True)
class Mixture:
    """Partners within a batch, and the share that a sample has in its mixture with its partner."""

    share: Tensor
    """() in [0.5, 1]."""
    partner: Tensor
    """(B,) places in the batch, each once."""

    @classmethod
    def of(cls, label: Tensor, *, alpha: float) -> Mixture:
        """Draw one for a batch with these (B,) labels; the share by Beta(alpha, alpha)."""
        share = draw_share(alpha, label.device)
        return cls(torch.maximum(share, 1 - share), torch.randperm(len(label), device=label.device))

    def inputs(self, view: Tensor) -> Tensor:
        """Mix a view, (B, ...)."""
        return self.share * view + (1 - self.share) * view[self.partner]

    def loss(self, loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Weigh the losses of the mixtures' predictions (B, K) towards both of their targets, (B,)."""
        own, other = loss(logits, target), loss(logits, target[self.partner])
        return self.share * weight * own + (1 - self.share) * weight[self.partner] * other


def fmix_mask(shape: Sequence[int], *, device: torch.device) -> Tensor:
    """A mask of 0 and 1 with few and smooth borders, whose share of ones is uniform in [0, 1].

    E. Harris et al., "FMix: Enhancing Mixed Sample Data Augmentation", https://arxiv.org/abs/2002.12047: the highest
    values of noise whose amplitudes fall with the third power of the frequency.

    Args:
        shape: (H, W), or (D,).
        device: of the mask.
    """
    axes = [torch.fft.fftfreq(n, device=device) for n in shape[:-1]] + [torch.fft.rfftfreq(shape[-1], device=device)]
    squares = torch.zeros((), device=device)
    for axis in axes:
        squares = squares[..., None] + axis.square()
    amplitude = squares.sqrt().clamp(min=1 / max(shape)) ** -FMIX_DECAY
    spectrum = torch.complex(torch.randn_like(amplitude), torch.randn_like(amplitude)) * amplitude
    field = torch.fft.irfftn(spectrum, s=list(shape)).flatten()
    place = field.argsort(descending=True).argsort()
    return (place < draw_share(FMIX_ALPHA, device) * len(field)).float().view(*shape)


def partners_among(members: Tensor) -> Tensor:
    """A random partner for every sample: members only meet members, and the others each other. A permutation, (B,).

    Shapes do not depend on who is a member. Each of several processes pairs its own part of the batch.

    Args:
        members: (B,) bool.
    """
    outsiders = (~members).float()
    in_order = outsiders.argsort(stable=True)  # members first
    shuffled = (outsiders + torch.rand_like(outsiders)).argsort()  # members first, in any order
    return torch.empty_like(in_order).scatter(0, in_order, shuffled)


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Labels as targets. Unlike torch's own it does not look for a label out of range, which waits for the device.

    Args:
        labels: (B,) int64.
        num_classes: K.

    Returns:
        (B, K) float32.
    """
    return torch.zeros(len(labels), num_classes, device=labels.device).scatter_(1, labels[:, None], 1.0)


def smoothed(labels: Tensor, num_classes: int, *, eps: float) -> Tensor:
    """Labels as targets with 1 - eps on the given class and eps / (K - 1) on each other one, (B, K).

    Args:
        labels: (B,) int64.
        num_classes: K.
        eps: in [0, 1].
    """
    given = one_hot(labels, num_classes)
    return (1 - eps) * given + eps / (num_classes - 1) * (1 - given)


def sharpen(probs: Tensor, *, temperature: float) -> Tensor:
    """Raise probabilities to the power 1 / temperature and scale them to sum to one again.

    Args:
        probs: (B, K).
        temperature: in (0, 1]; 1 leaves them as they are, towards 0 they become one-hot.
    """
    powers = probs ** (1 / temperature)
    return powers / powers.sum(1, keepdim=True)
