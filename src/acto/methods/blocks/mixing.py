"""Mixing samples with each other, and guesses with labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Beta


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
    return torch.eye(num_classes, device=labels.device)[labels]


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
