"""Confidence in pseudo labels: its moments over the samples that need one, and the weight that it gives them."""

from __future__ import annotations

import torch
from torch import Tensor

from acto.core.distributed import total

TINY = 1e-12
"""Least variance of a confidence."""


def moments_of(confidence: Tensor, members: Tensor, *, reach: float) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of the confidence among `members` of the global batch, (2,), and how far a running
    mean goes there, (): `reach`, or not at all for fewer than two members.

    Args:
        confidence: (B,).
        members: (B,) bool.
        reach: in [0, 1].
    """
    ours = members.to(confidence.dtype)
    count, sums = total(torch.stack([ours.sum(), (ours * confidence).sum()])).unbind()
    mean = sums / count.clamp(min=1)
    var = total((ours * (confidence - mean).square()).sum()) / (count - 1).clamp(min=1)
    return torch.stack([mean, var]), torch.where(count > 1, reach, 0.0).to(confidence.dtype)


def trust_in_confidence(confidence: Tensor, mean: Tensor, var: Tensor, *, bell: float) -> Tensor:
    """W = exp(-n^2 min(k - mu, 0)^2 / (2 v)), (N,) in [0, 1]; 1 from the mean of the class on.

    Args:
        confidence: (N,), k.
        mean: (N,), mu of the sample's predicted class.
        var: (N,), v of that class, >= 0.
        bell: n, > 0.
    """
    below = (confidence - mean).clamp(max=0)
    return (-(bell**2) * below.square() / (2 * var.clamp(min=TINY))).exp()
