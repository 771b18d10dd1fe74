"""Layers for training on a CUDA device: batch norm, ReLU and a 2x2 maximum in one, by the kernels of gpu_kernels.

`use_fused_norms` changes a network in place. Its weights, their names and its checkpoints stay as they were, and where
the kernels do not fit what comes in (evaluation, another number format), a norm computes as it did before. To torch
the kernels are operations with gradients of their own, so recorded and compiled steps can have them.

A network whose batch norms all know of parts takes several views of a batch at once, see acto.nets.base.Net.of_views.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.library import custom_op
from torch.nn import functional as F

from acto.nets.base import Net
from acto.nets.cpu_layers import is_norm, join, norms_with_relu

MOST_ACTIVATIONS = 2**31 - 2**16
"""Most activations of a batch norm: their places are counted in 32 bits."""


class FusedNormReLU(nn.BatchNorm2d):
    """Batch norm and ReLU, with `pools` also the maximum over 2x2 places."""

    pools: bool
    parts = 1
    """Views in a batch, each with statistics of its own."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> the same, or with `pools` (B, C, H // 2, W // 2). Channels more than it has are zeros."""
        if not self._fits(images):
            active = F.relu(_in_parts(self, super().forward, images[:, : self.num_features]))
            return F.max_pool2d(active, 2) if self.pools else active
        images = images.contiguous(memory_format=torch.channels_last)
        stats = torch.ops.acto.norm_moments(
            images.detach(), self.running_mean, self.running_var, self.num_batches_tracked, self.momentum, self.eps,
            self.parts,
        )  # fmt: skip
        return torch.ops.acto.norm_relu(images, stats, self.weight, self.bias, self.pools)

    def _fits(self, images: Tensor) -> bool:
        places = images.numel() // images.shape[1] // self.parts
        return (
            self.training
            and (images.device.type == "cuda" or _interpreted())
            and images.dtype in (torch.bfloat16, torch.float32)
            and self.weight.dtype == torch.float32
            and images.dim() == 4
            and images.shape[1] in (self.num_features, _filled(self.num_features))
            and images.numel() < MOST_ACTIVATIONS
            and places > 1
            and (not self.pools or min(images.shape[2:]) > 1)
        )


class BatchNorm1dInParts(nn.BatchNorm1d):
    """Batch norm whose batch may hold several views."""

    parts = 1

    def forward(self, values: Tensor) -> Tensor:
        """(B, C) -> the same."""
        return _in_parts(self, super().forward, values)


class BatchNorm2dInParts(nn.BatchNorm2d):
    """Batch norm whose batch may hold several views."""

    parts = 1

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        return _in_parts(self, super().forward, images)


IN_PARTS: dict[type[nn.Module], Any] = {
    nn.BatchNorm1d: BatchNorm1dInParts,
    nn.BatchNorm2d: BatchNorm2dInParts,
}


class FilledConv2d(nn.Conv2d):
    """Convolution without bias whose channels are filled up with zeros to a multiple of 8, as matrix units want them.

    cuDNN would do so itself, with a pass over all activations each time.
    """

    fills = False
    """Its results keep the channels that were filled up: a FusedNormReLU and a FilledConv2d are behind it."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D, H', W'), D filled up with `fills`; C may be filled up already."""
        more, result = _filled(self.in_channels) - self.in_channels, self.out_channels
        if images.shape[1] == self.in_channels:
            images = F.pad(images, (0, 0, 0, 0, 0, more))
        out = _filled(result) - result if self.fills else 0
        return self._conv_forward(images, F.pad(self.weight, (0, 0, 0, 0, 0, more, 0, out)), None)


def use_fused_norms(net: nn.Module, *, device: torch.device) -> int:
    """Have batch norm, ReLU and 2x2 maxima that follow each other computed in one; return how many batch norms.

    Nothing is changed, and the answer is 0, where the device is no CUDA device, where triton is missing, or where what
    it makes of the kernels fails or computes wrong numbers.

    Args:
        net: on its device, before it is compiled.
        device: of the training.
    """
    if device.type != "cuda" or not _right(device):
        return 0
    count = fuse_norms(net)
    for part in net.modules():
        if isinstance(part, Net):
            part.joins_views = take_parts(part)
    return count


def fuse_norms(net: nn.Module) -> int:
    """Change the layers, wherever they are; return how many batch norms."""
    found = norms_with_relu(net)
    for layers, number in found:
        join(layers, number, FusedNormReLU)
    for layers, number in found:
        _fill_channels(layers, number)
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


def take_parts(net: nn.Module) -> bool:
    """Let every batch norm of `net` take a batch of several views; return whether all can, else nothing is changed."""
    norms = [layer for layer in net.modules() if isinstance(layer, nn.modules.batchnorm._NormBase)]
    if any(not hasattr(norm, "parts") and type(norm) not in IN_PARTS for norm in norms):
        return False
    for norm in norms:
        norm.__class__ = IN_PARTS.get(type(norm), type(norm))
    return bool(norms)


def _fill_channels(layers: nn.Sequential, number: int) -> None:
    """Fill up channels of the convolution before a fused norm, and of the one behind it where both have to know."""
    before: Any = layers[number - 1] if number else None
    behind: Any = next((layer for layer in layers[number + 1 :] if type(layer) is not nn.Identity), None)
    if not _can_fill(before):
        return
    fills = before.out_channels % 8 > 0 and _can_fill(behind)
    if fills or before.in_channels % 8:
        before.__class__ = FilledConv2d
    if fills:
        before.fills, behind.__class__ = True, FilledConv2d


def _can_fill(layer: Any) -> bool:
    return type(layer) in (nn.Conv2d, FilledConv2d) and layer.bias is None and layer.groups == 1


def _filled(channels: int) -> int:
    return channels + -channels % 8


def _in_parts(norm: Any, forward: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    return forward(values) if norm.parts == 1 else torch.cat([forward(part) for part in values.chunk(norm.parts)])


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _kernels() -> Any:
    """The module of the kernels, imported late: loading triton takes a third of a second."""
    return import_module("acto.nets.gpu_kernels")


@cache
def _right(device: torch.device) -> bool:
    """Check that a small batch comes out as torch's, forward and backward."""
    plain, fused = (nn.Sequential(nn.BatchNorm2d(20), nn.ReLU(), nn.MaxPool2d(2)) for _ in range(2))
    fuse_norms(fused)
    random = torch.Generator().manual_seed(0)
    images = torch.randn(3, 20, 5, 6, generator=random)
    found = []
    try:
        plain, fused, images = plain.to(device), fused.to(device), images.to(device)
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
    "float eps, int parts) -> Tensor",
)
def _norm_moments(
    images: Tensor, running_mean: Tensor, running_var: Tensor, tracked: Tensor, momentum: float, eps: float, parts: int
) -> Tensor:
    kept = running_mean, running_var, tracked
    return _kernels().moments(_channels_last(images), *kept, momentum=momentum, eps=eps, parts=parts)


@_norm_moments.register_fake
def _(
    images: Tensor, running_mean: Tensor, running_var: Tensor, tracked: Tensor, momentum: float, eps: float, parts: int
) -> Tensor:
    return torch.empty(parts, 2, images.shape[1], dtype=torch.float32, device=images.device)


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
    shift, scale = (learned[0] if len(learned) == 1 else learned.sum(0))[:, : len(weight)]
    return given, None, scale, shift, None


_norm_relu.register_autograd(_back, setup_context=_keep)
