"""Moving averages of a network's weights."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def average(target: nn.Module, source: nn.Module, *, decay: float, copy_buffers: bool = True) -> None:
    """Move `target` after `source`, in place: parameter <- decay * parameter + (1 - decay) * source's.

    Args:
        target: a copy of `source`, made by deepcopy.
        source: the network that learns.
        decay: in [0, 1]; 0 copies, 1 leaves as it is.
        copy_buffers: take over batch statistics as they are. False, where the target lives in training mode and keeps
            its own: in eval mode they would be those of its first day.
    """
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), 1.0 - decay)
    if copy_buffers and next(target.buffers(), None) is not None:
        torch._foreach_copy_(list(target.buffers()), list(source.buffers()))


def follower(source: nn.Module) -> nn.Module:
    """Make a copy of `source` for `follow`, to be asked in evaluation mode and without gradients."""
    made: Any = deepcopy(source).requires_grad_(False)
    made.follows = True  # see acto.nets.base.Net
    return made


@torch.no_grad()
def follow(target: nn.Module, source: nn.Module, *, move: Tensor) -> None:
    """Move every number of `target` towards `source`'s, batch statistics included: for a target in evaluation mode.

    Args:
        target: what `follower` made of `source`.
        source: the network that learns.
        move: () in [0, 1], share of the way; on the device, so that it may change between replays of a graph.
    """
    pairs: list[tuple[Tensor, Tensor]] = [*zip(target.parameters(), source.parameters(), strict=True)]
    counts: list[tuple[Tensor, Tensor]] = []
    for mine, new in zip(target.buffers(), source.buffers(), strict=True):
        (pairs if mine.is_floating_point() else counts).append((mine, new))
    targets, sources = map(list, zip(*pairs, strict=True))
    ways = torch._foreach_sub(sources, targets)
    torch._foreach_mul_(ways, move)
    torch._foreach_add_(targets, ways)
    if counts:  # of batches
        torch._foreach_copy_([mine for mine, _ in counts], [new for _, new in counts])
