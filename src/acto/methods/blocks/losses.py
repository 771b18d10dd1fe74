"""Per-sample losses and divergences: (B, K) logits -> (B,); what reduces them over the global batch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from acto.core.distributed import gather, total, world


def cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with hard labels.

    Args:
        logits: (B, K).
        labels: (B,) int64.
        label_smoothing: share of the target spread evenly over all K classes, in [0, 1).

    Returns:
        (B,) non-negative.
    """
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy with soft targets, - sum_c t_c log p_c.

    Args:
        logits: (B, K).
        targets: (B, K), rows sum to one; no gradient should reach them.

    Returns:
        (B,).
    """
    return -(targets * F.log_softmax(logits, dim=1)).sum(1)


def negative_entropy(logits: Tensor, *, clamp_logits: bool = False) -> Tensor:
    """Sum_c p_c log p_c: added to a loss it pushes the entropy of the prediction up.

    Args:
        logits: (B, K).
        clamp_logits: raise negative logits to 1e-12 first, as the public code of ACTO (and of its relatives) does:
            they count as zero and receive no gradient from this term.

    Returns:
        (B,) in [-log K, 0].
    """
    if clamp_logits:
        logits = logits.clamp(min=1e-12)
    log_probs = F.log_softmax(logits, dim=1)
    return (log_probs.exp() * log_probs).sum(1)


def negative_learning(logits: Tensor, complement: Tensor) -> Tensor:
    """-sum over the complement of log(1 - p_c), (B,) >= 0, finite for every logit; 0 where the complement is empty.

    Args:
        logits: (B, K).
        complement: (B, K) bool, the classes taken for wrong.
    """
    probs = logits.softmax(1)
    return -torch.where(complement, (1.0000001 - probs).log(), 0.0).sum(1)


def symmetric_divergence(first: Tensor, second: Tensor) -> Tensor:
    """KL(p_1 || p_2) + KL(p_2 || p_1) = sum_c (p_1 - p_2)(log p_1 - log p_2), (B,) >= 0, finite for all logits.

    Gradients reach both.

    Args:
        first: (B, K) logits.
        second: (B, K) logits.
    """
    log_first, log_second = F.log_softmax(first, dim=1), F.log_softmax(second, dim=1)
    return ((log_first.exp() - log_second.exp()) * (log_first - log_second)).sum(1)


def jensen_shannon(logits: Tensor, target: Tensor) -> Tensor:
    """Jensen-Shannon divergence of prediction and target with logarithms to base 2, (B,) in [0, 1].

    Args:
        logits: (B, K).
        target: (B, K), rows sum to one.
    """
    log_probs = F.log_softmax(logits, dim=1)
    probs = log_probs.exp()
    log_middle = ((probs + target) / 2).clamp(min=torch.finfo(probs.dtype).tiny).log()
    to_probs = (probs * (log_probs - log_middle)).sum(1)
    to_target = (torch.xlogy(target, target) - target * log_middle).sum(1)
    return (to_probs + to_target) / (2 * math.log(2))


def published_divergence(
    log_probs: Tensor, label: Tensor, partner_label: Tensor, share: Tensor, counted: Tensor
) -> Tensor:
    """Average KL(p || w q_i + (1 - w) q_j) / K over the w of all counted samples of the global batch, (B,).

    The broadcast of Co-LDL's public code.

    Args:
        log_probs: (B, K) of the mixture.
        label: (B, K), q_i > 0.
        partner_label: (B, K), q_j > 0.
        share: (B,), w.
        counted: (B,) bool, the samples whose w take part.
    """
    (share, counted), _ = gather(share, counted)
    mixed_GBK = share[:, None, None] * label + (1 - share[:, None, None]) * partner_label
    log_mixed_GB = (log_probs.exp() * mixed_GBK.log()).sum(2)  # by w and sample
    mean_log_mixed = torch.where(counted[:, None], log_mixed_GB, 0.0).sum(0) / counted.sum().clamp(min=1)
    return ((log_probs.exp() * log_probs).sum(1) - mean_log_mixed) / log_probs.shape[1]


def batch_mean(values: Tensor) -> Tensor:
    """Mean over the global batch. In one of several processes: this process's share of it.

    Args:
        values: (B,).
    """
    if world() == 1:
        return values.mean()
    return values.sum() / total(torch.tensor(len(values), device=values.device))


def warm_up_loss(
    *logits: Tensor, labels: Tensor, entropy_weight: float, clamp_logits: bool = False, label_smoothing: float = 0.0
) -> Tensor:
    """Add up over networks the mean cross-entropy with the given labels and a penalty on confident predictions.

    Args:
        logits: (B, K), of one network or several.
        labels: (B,) given.
        entropy_weight: of the negative entropy, >= 0.
        clamp_logits: see negative_entropy.
        label_smoothing: see cross_entropy.
    """
    loss = torch.zeros((), device=labels.device)
    for out in logits:
        penalty = batch_mean(negative_entropy(out, clamp_logits=clamp_logits))
        given = batch_mean(cross_entropy(out, labels, label_smoothing=label_smoothing))
        loss = loss + given + entropy_weight * penalty
    return loss


def masked_mean(values: Tensor, mask: Tensor, *, min_share: float = 0.0) -> Tensor:
    """Mean over the samples of the global batch where `mask` holds; 0, with zero gradient, where it holds nowhere.

    The shapes do not depend on the mask and nothing is read back from the device.

    Args:
        values: (B,).
        mask: (B,) bool.
        min_share: of the batch, in [0, 1]: where the mask holds for fewer, their sum is divided by so many.
    """
    count = total(mask.sum()).clamp(min=1)
    if min_share > 0:
        count = torch.maximum(count, min_share * total(torch.full_like(count, len(mask))))
    return torch.where(mask, values, 0.0).sum() / count


def mean_prediction(probs: Tensor) -> Tensor:
    """Mean over the global batch, (K,). This process's rows have a gradient; those of the others get theirs there.

    Args:
        probs: (B, K).
    """
    share = probs.sum(0) / total(probs.new_full((), len(probs)))
    return share + (total(share.detach()) - share.detach())


def share_of(value: Tensor) -> Tensor:
    """This process's share of a value of the global batch that each process has whole; the gradient stays as it is.

    Gradients with respect to the own rows add up to the whole gradient. The values must add up as well.
    """
    return value + (1 / world() - 1) * value.detach()


def prior_penalty(logits: Tensor) -> Tensor:
    """sum_c (1/K) log((1/K) / mean p_c) over the global batch: 0 for evenly used classes, else above.

    The L_reg of DivideMix (https://arxiv.org/abs/2002.07394).

    Args:
        logits: (B, K).
    """
    mean_probs = mean_prediction(F.softmax(logits, dim=1))
    return share_of(-(mean_probs * len(mean_probs)).log().mean())
