"""DivideMix's step on labelled samples X and unlabelled ones U: two networks guess, and one of them learns."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acto.core.types import Batch, Clock
from acto.methods.base import guessing
from acto.methods.blocks.losses import batch_mean, prior_penalty, soft_cross_entropy
from acto.methods.blocks.mixing import mixup, one_hot, sharpen


def mixmatch(
    x: Batch,
    u: Batch,
    *,
    net: nn.Module,
    partner: nn.Module,
    trust: Tensor,
    temperature: float,
    alpha: float,
    train_on_unlabelled: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Refine the labels of X, guess those of U, mix all samples, and return the losses L_X, L_U and L_reg, () each.

    Source: DivideMix, https://arxiv.org/abs/2002.07394.

    Args:
        x: its first two views refine, its last two are mixed; of two views both do both.
        u: the same, with as many views.
        net: learns. Its own guesses are made in train mode, as in the public codes: they move its batch statistics.
        partner: guesses, in eval mode.
        trust: (len(x),) weight of the given label in the refined one, in [0, 1].
        temperature: of sharpening, in (0, 1].
        alpha: of mixup's Beta distribution, > 0.
        train_on_unlabelled: off: the mixtures that are mostly of U are left out, and L_U is 0.
    """
    with torch.no_grad():
        guesses = [F.softmax(net(view), dim=1) for view in u.views[:2]]
        own = torch.stack([F.softmax(net(view), dim=1) for view in x.views[:2]]).mean(0)
    with guessing(partner):
        guesses += [F.softmax(partner(view), dim=1) for view in u.views[:2]]
    weight = trust[:, None]
    refined = weight * one_hot(x.label, own.shape[1]) + (1 - weight) * own
    target_x, target_u = (sharpen(p, temperature=temperature) for p in (refined, torch.stack(guesses).mean(0)))
    views, wanted = [*x.views[-2:], *u.views[-2:]], [target_x, target_x, target_u, target_u]
    inputs, targets = mixup(torch.cat(views), torch.cat(wanted), alpha=alpha)
    num_x = 2 * len(x.index)
    logits = net(inputs if train_on_unlabelled else inputs[:num_x])
    loss_x = batch_mean(soft_cross_entropy(logits[:num_x], targets[:num_x]))
    loss_u = torch.zeros_like(loss_x)
    if train_on_unlabelled:
        loss_u = batch_mean((F.softmax(logits[num_x:], dim=1) - targets[num_x:]).square().mean(1))
    return loss_x, loss_u, prior_penalty(logits)


def ramp(clock: Clock, *, start: int, epochs: float) -> float:
    """Rise with every step, from 0 at the beginning of epoch `start` to 1 after so many `epochs`, and stay there."""
    return min((clock.epoch + clock.step / clock.steps - start) / epochs, 1)
