"""Layers for training on a CUDA device: batch norm, ReLU and a 2x2 maximum in one, by the kernels of gpu_kernels.

`use_fused_norms` changes a network in place. Its weights, their names and its checkpoints stay as they were, and where
the kernels do not fit what comes in (evaluation, another number format), a layer computes as it did before. To torch
the kernels are operations with gradients of their own, so recorded and compiled steps can have them.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.library import custom_op
from torch.nn import functional as F

from acto.nets.cpu_layers import is_norm, join, norms_with_relu

MOST_ACTIVATIONS = 2**31 - 2**16
"""Most activations of a batch norm: their places are counted in 32 bits."""


class FusedNormReLU(nn.BatchNorm2d):
    """Batch norm and ReLU, with `pools` also the maximum over 2x2 places."""

    pools: bool

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> the same, or with `pools` (B, C, H // 2, W // 2)."""
        if not self._fits(images):
            active = F.relu(super().forward(images))
            return F.max_pool2d(active, 2) if self.pools else active
        images = images.contiguous(memory_format=torch.channels_last)
        stats = torch.ops.acto.norm_moments(
            images.detach(), self.running_mean, self.running_var, self.num_batches_tracked, self.momentum, self.eps
        )
        return torch.ops.acto.norm_relu(images, stats, self.weight, self.bias, self.pools)

    def _fits(self, images: Tensor) -> bool:
        places = images.numel() // self.num_features
        return (
            self.training
            and (images.device.type == "cuda" or _interpreted())
            and images.dtype in (torch.bfloat16, torch.float32)
            and self.weight.dtype == torch.float32
            and images.dim() == 4
            and images.shape[1] == self.num_features
            and images.numel() < MOST_ACTIVATIONS
            and places > 1
            and (not self.pools or min(images.shape[2:]) > 1)
        )


def use_fused_norms(net: nn.Module, *, device: torch.device) -> int:
    """Have batch norm, ReLU and 2x2 maxima that follow each other computed in one; return how many batch norms.

    Nothing is changed, and the answer is 0, where the device is no CUDA device, where triton is missing, or where what
    it makes of the kernels fails or computes wrong numbers.

    Args:
        net: on its device, before it is compiled.
        device: of the training.
    """
    return fuse_norms(net) if device.type == "cuda" and _right(device) else 0


def fuse_norms(net: nn.Module) -> int:
    """Change the layers, wherever they are; return how many batch norms."""
    found = norms_with_relu(net)
    for layers, number in found:
        join(layers, number, FusedNormReLU)
    count = len(found)
    for block in net.modules():
        names = getattr(type(block), "NORMS_BEFORE_RELU", ())
        norms = [getattr(block, name) for name in names]
        if norms and all(is_norm(norm) for norm in norms):
            for norm in norms:
                norm.__class__, norm.pools = FusedNormReLU, False
            block.relu = nn.Identity()
            count += len(norms)
    return count


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _kernels() -> Any:
    """The module of the kernels, imported late: loading triton takes a third of a second."""
    return import_module("acto.nets.gpu_kernels")


@cache
def _right(device: torch.device) -> bool:
    """Check that a small batch comes out as torch's, forward and backward."""
    plain = nn.Sequential(nn.BatchNorm2d(20), nn.ReLU(), nn.MaxPool2d(2)).to(device)
    fused = nn.Sequential(nn.BatchNorm2d(20), nn.ReLU(), nn.MaxPool2d(2)).to(device)
    fuse_norms(fused)
    random = torch.Generator().manual_seed(0)
    images = torch.randn(3, 20, 5, 6, generator=random).to(device)
    found = []
    try:
        for net in (plain, fused):
            given = images.clone().contiguous(memory_format=torch.channels_last).requires_grad_()
            with torch.enable_grad(), torch.autocast(device.type, enabled=False):
                result = net(given)
                weights = torch.linspace(-1, 1, result.numel(), device=device).view_as(result)
                back = torch.autograd.grad((result * weights).sum(), (given, *net.parameters()))
            found.append(torch.cat([part.detach().flatten().float() for part in (result, *back, *net.buffers())]))
    except Exception:  # a compiler that is missing or fails raises anything
        return False
    return bool((found[0] - found[1]).norm() < 1e-3 * found[0].norm())


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def _result(images: Tensor, pools: bool) -> Tensor:
    pictures, channels, height, width = images.shape
    shape = (pictures, channels, height // 2, width // 2) if pools else images.shape
    return torch.empty(shape, dtype=images.dtype, device=images.device, memory_format=torch.channels_last)


# The operations of torch's registry. Schemas are written out: torch cannot read them off annotations that are strings.
@custom_op(
    "acto::norm_moments",
    mutates_args=("running_mean", "running_var", "tracked"),
    schema="(Tensor images, Tensor(a!) running_mean, Tensor(b!) running_var, Tensor(c!) tracked, float momentum, "
    "float eps) -> Tensor",
)
def _norm_moments(
    images: Tensor, running_mean: Tensor, running_var: Tensor, tracked: Tensor, momentum: float, eps: float
) -> Tensor:
    return _kernels().moments(_channels_last(images), running_mean, running_var, tracked, momentum=momentum, eps=eps)


@_norm_moments.register_fake
def _(
    images: Tensor, running_mean: Tensor, running_var: Tensor, tracked: Tensor, momentum: float, eps: float
) -> Tensor:
    return torch.empty(2, images.shape[1], dtype=torch.float32, device=images.device)


@custom_op(
    "acto::norm_relu",
    mutates_args=(),
    schema="(Tensor images, Tensor stats, Tensor weight, Tensor bias, bool pools) -> Tensor",
)
def _norm_relu(images: Tensor, stats: Tensor, weight: Tensor, bias: Tensor, pools: bool) -> Tensor:
    result = _result(images, pools)
    _kernels().norm_relu(_channels_last(images), stats, weight, bias, result)
    return result


@_norm_relu.register_fake
def _(images: Tensor, stats: Tensor, weight: Tensor, bias: Tensor, pools: bool) -> Tensor:
    return _result(images, pools)


@custom_op(
    "acto::norm_relu_backward",
    mutates_args=(),
    schema="(Tensor gradient, Tensor images, Tensor stats, Tensor weight, Tensor bias) -> (Tensor, Tensor)",
)
def _norm_relu_backward(
    gradient: Tensor, images: Tensor, stats: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    given, learned = _result(images, False), torch.empty_like(stats)
    _kernels().norm_relu_backward(_channels_last(gradient), _channels_last(images), stats, weight, bias, given, learned)
    return given, learned


@_norm_relu_backward.register_fake
def _(gradient: Tensor, images: Tensor, stats: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return _result(images, False), torch.empty_like(stats)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])


def _back(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    images, stats, weight, bias = ctx.saved_tensors
    given, learned = torch.ops.acto.norm_relu_backward(gradient, images, stats, weight, bias)
    return given, None, learned[1], learned[0], None


_norm_relu.register_autograd(_back, setup_context=_keep)
