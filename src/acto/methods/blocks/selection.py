"""Rules that pick samples: from a batch, or from the whole training set."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from acto.core.distributed import gather, total


def min_max(losses: Tensor) -> Tensor:
    """Scale losses to [0, 1]; equal losses become 0. What is not finite is left out and stays as it is.

    Args:
        losses: (N,).
    """
    finite = losses[losses.isfinite()]
    if len(finite) == 0:
        return losses
    low, high = finite.min(), finite.max()
    return (losses - low) / (high - low) if high > low else losses - low


def two_mode_mixture(
    losses: Tensor, *, max_steps: int = 10, tolerance: float = 1e-2, variance_floor: float = 5e-4
) -> Tensor:
    """Split per-sample losses into a low and a high mode with a mixture of two Gaussians, fitted by EM.

    The defaults are DivideMix's. Few steps and a floor under the variance matter: once nearly all losses are 0, a mode
    that is fitted to the end shrinks onto them. EM starts from the best split of the sorted losses in two, so that
    nothing in it is random, and it runs in double precision on the CPU, so that every device gets the same.

    Equal losses have no second mode: all belong to the low one. A loss that is not finite belongs to the high mode and
    is left out of the fit; that a network diverged is for the training loop to say.

    Args:
        losses: (N,), scaled to [0, 1] (`min_max`), which is what the defaults are meant for.
        max_steps: of EM, >= 1.
        tolerance: EM ends when the mean log-likelihood moves by less.
        variance_floor: added to both variances, > 0.

    Returns:
        (N,) probability in [0, 1] that the loss belongs to the low mode; 1: the label looks clean.
    """
    finite = losses.isfinite()
    values = losses.detach()[finite].double().cpu()
    low_prob = torch.zeros_like(losses)
    if len(values) == 0 or values.min() == values.max():
        low_prob[finite] = 1.0
        return low_prob
    is_low = _best_split(values)
    share_2N = torch.stack([is_low, ~is_low]).double()
    likelihood = -math.inf
    for _ in range(max_steps):
        log_joint_2N, _means = _log_joint(values, share_2N, variance_floor)
        share_2N = log_joint_2N.softmax(0)
        before, likelihood = likelihood, float(log_joint_2N.logsumexp(0).mean())
        if abs(likelihood - before) < tolerance:
            break
    log_joint_2N, means = _log_joint(values, share_2N, variance_floor)
    low_prob[finite] = log_joint_2N.softmax(0)[means.argmin()].to(low_prob)
    return low_prob


def _best_split(values: Tensor) -> Tensor:
    """(N,) bool: the lower of the two groups with the least squares within them (2-means, solved exactly)."""
    ordered = values.sort().values
    sums = ordered.cumsum(0)
    sizes = torch.arange(1, len(values), dtype=values.dtype)
    lower, upper = sums[:-1], sums[-1] - sums[:-1]
    between = lower**2 / sizes + upper**2 / (len(values) - sizes)
    return values <= ordered[between.argmax()]


def _log_joint(values: Tensor, share_2N: Tensor, variance_floor: float) -> tuple[Tensor, Tensor]:
    """The M-step, and what the E-step needs: (2, N) log of weight times density, and the (2,) means."""
    counts = share_2N.sum(1).clamp(min=torch.finfo(values.dtype).eps)
    means = share_2N @ values / counts
    squares_2N = (values - means[:, None]) ** 2
    variances = (share_2N * squares_2N).sum(1) / counts + variance_floor
    log_weights = (counts / len(values)).log() - 0.5 * (2 * math.pi * variances).log()
    return log_weights[:, None] - 0.5 * squares_2N / variances[:, None], means


def forget_rate(epoch: int, *, noise_rate: float, ramp_epochs: int) -> float:
    """Share of a batch that small-loss selection leaves out: rises with a line to `noise_rate`, then stays.

    Co-teaching's 1 - R(T) with T = epoch + 1 (https://arxiv.org/abs/1804.06872): the networks fit clean labels first,
    so that at the start nearly every sample can be kept.

    Args:
        epoch: from 0.
        noise_rate: tau, in [0, 1].
        ramp_epochs: T_k, the epoch of this number (counted from 1) is the first with the full rate; 0: no ramp.
    """
    return noise_rate * min((epoch + 1) / max(ramp_epochs, 1), 1.0)


def small_loss(losses: Tensor, rate: float, *, among: Tensor | None = None) -> Tensor:
    """Pick the samples of least loss: floor((1 - rate) n) of n candidates, at least one if there is any.

    The candidates are those of the global batch. Shapes do not depend on the values, nothing is read back in one
    process, and of equal losses the earlier is picked.

    Args:
        losses: (B,); NaN counts as large.
        rate: share to leave out, in [0, 1]; taken to a millionth, so that 0.9 of 10 leaves 1 and not 0.999...
        among: (B,) bool, the candidates; None: all.

    Returns:
        (B,) bool.
    """
    if among is None:
        among = torch.ones_like(losses, dtype=torch.bool)
    (losses, among), own = gather(losses, among)
    by_loss = torch.where(among, losses, math.inf).argsort(stable=True)
    place = by_loss.argsort()
    millionths = round((1 - rate) * 1_000_000)
    num_picked = (among.sum() * millionths // 1_000_000).clamp(min=1)
    return (among & (place < num_picked))[own]


def place_in_class(losses: Tensor, labels: Tensor, *, num_classes: int) -> Tensor:
    """Count the samples of its own class that have less loss than each sample, (N,) int64; of equal losses the earlier
    first.

    Args:
        losses: (N,).
        labels: (N,).
        num_classes: K.
    """
    counts = labels.bincount(minlength=num_classes)
    by_loss = losses.argsort(stable=True)
    order = by_loss[labels[by_loss].argsort(stable=True)]
    place = torch.arange(len(labels), device=labels.device) - (counts.cumsum(0) - counts)[labels[order]]
    return torch.empty_like(labels).scatter(0, order, place)


def top_classes(logits: Tensor, count: int) -> Tensor:
    """(B, K) bool: the `count` most likely classes.

    Args:
        logits: (B, K).
        count: in 1..K.
    """
    likeliest = logits.detach().topk(count, dim=1).indices
    return torch.zeros_like(logits, dtype=torch.bool).scatter(1, likeliest, value=True)


def select(
    right_r: Tensor, right_n: Tensor, *, tau: float, selection: str = "both", mining: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Select and mine asymmetrically, by what ACTO's two networks predict (RTM, robust; NTM, non-robust).

    The gate compares counts of the global batch in double precision: with float32 shares 40 right against 41 of 80
    would open a gate of tau = 1/40 that is shut.

    Args:
        right_r: (B,) bool, RTM predicts the given label.
        right_n: (B,) bool, NTM does.
        tau: memorization threshold.
        selection: "both" networks, the "robust" one, or "everything", see acto.methods.acto.ACTO.Config.
        mining: also select what only NTM fits, as long as NTM has not memorized.

    Returns:
        (B,) bool what is selected, mined samples included; (B,) bool what of it was mined; () bool, the gate is open.
    """
    # Apple's devices have no float64; nothing larger than a count has to fit.
    exact = torch.float32 if right_r.device.type == "mps" else torch.float64
    count_r, count_n = total(torch.stack([right_r.sum(), right_n.sum()])).to(exact)
    is_open = (count_r > 0) & (count_n - count_r < tau * count_r)
    if selection == "everything":
        agreed = torch.ones_like(right_r)
    else:
        agreed = right_r & right_n if selection == "both" else right_r
    mined = ~right_r & right_n & ~agreed & is_open if mining else torch.zeros_like(right_r)
    return agreed | mined, mined, is_open
