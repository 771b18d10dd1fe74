"""Moving averages of a network's weights."""

from __future__ import annotations

import torch
from torch import nn


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
