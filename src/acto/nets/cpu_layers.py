"""Layers for training in bfloat16 on a processor: faster forms of convolution, batch norm, ReLU and 2x2 maxima.

`use_kernels` changes a network in place. Its weights, their names and its checkpoints stay as they were, and where a
form does not fit what comes in (another number format, say), a layer computes as it did before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from acto.core.device import cpu_has_matrix_units
from acto.nets.cpu_kernels import Kernels, empty_like, kernels

FEWEST_CHANNELS = 32
"""Fewest channels of a convolution, on both sides: with fewer, transforming pictures takes what the products save."""
FEWEST_PIXELS = 32
"""Fewest pixels of a batch for each channel: with fewer, transforming the weights takes what the products save."""
FEWEST_ACTIVATIONS = 2**18
"""Fewest activations of a batch norm: with fewer, asking for its small vectors takes longer than they save."""

PRODUCTS_LEFT = 16 / 36
"""Share of a convolution's products left in Winograd's form, where height and width are even."""


def use_kernels(net: nn.Module) -> int:
    """Have the layers of `net` computed by the C kernels where these have a form for them; the number of layers.

    Raises:
        acto.nets.cpu_kernels.KernelsMissing: this machine cannot have them; nothing was changed.
    """
    convolutions = [layer for layer in net.modules() if type(layer) is nn.Conv2d and has_fast_form(layer)]
    if cpu_has_matrix_units():  # torch's own use them, and are ahead
        convolutions = []
    norms = norms_with_relu(net)
    if convolutions or norms:
        kernels()
    for layer in convolutions:
        layer.__class__ = WinogradConv2d
    for layers, number in norms:
        join(layers, number, NormReLU)
    return len(convolutions) + len(norms)


def has_fast_form(layer: nn.Conv2d) -> bool:
    """Say whether a layer is of the kind that WinogradConv2d computes, and wide enough to gain."""
    form = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups, layer.padding_mode)
    return (
        form == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
        and layer.bias is None
        and min(layer.in_channels, layer.out_channels) >= FEWEST_CHANNELS
        and layer.in_channels % 2 == layer.out_channels % 2 == 0
    )


def norms_with_relu(net: nn.Module) -> list[tuple[nn.Sequential, int]]:
    """Batch norms with a ReLU behind them, each as its row of layers and its place there."""
    return [
        (layers, number)
        for layers in net.modules()
        if isinstance(layers, nn.Sequential)
        for number in range(len(layers) - 1)
        if is_norm(layers[number]) and type(layers[number + 1]) is nn.ReLU
    ]


def is_norm(norm: nn.Module) -> bool:
    """Say whether a layer is a batch norm as the kernels compute it."""
    return type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats and norm.momentum is not None


def join(layers: nn.Sequential, number: int, kind: type[Any]) -> None:
    """The batch norm there takes over the ReLU behind it, and a 2x2 maximum behind that. Their places stay, empty.

    Args:
        layers: a row of layers.
        number: the batch norm's place.
        kind: its new class, whose attribute `pools` tells whether there was a maximum.
    """
    norm: Any = layers[number]
    norm.__class__ = kind
    norm.pools = number + 2 < len(layers) and _is_2x2_maximum(layers[number + 2])
    for taken in range(number + 1, number + (3 if norm.pools else 2)):
        layers[taken] = nn.Identity()


def _is_2x2_maximum(layer: nn.Module) -> bool:
    return (
        type(layer) is nn.MaxPool2d
        and layer.kernel_size in (2, (2, 2))
        and layer.stride in (2, (2, 2))
        and (layer.padding, layer.dilation, layer.ceil_mode, layer.return_indices) == (0, 1, False, False)
    )


class WinogradConv2d(nn.Conv2d):
    """3x3, stride 1, padding 1, even channels, no bias: 16 products instead of 36, see acto/nets/kernels/winograd.c."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D, H, W)."""
        pixels = images.numel() // images.shape[-3]
        if not _fits(images, self.weight) or pixels < FEWEST_PIXELS * max(self.in_channels, self.out_channels):
            return super().forward(images)
        return _Convolution.apply(images, self.weight)


class NormReLU(nn.BatchNorm2d):
    """Batch norm and ReLU, with `pools` also the maximum over 2x2 places, see acto/nets/kernels/norm_relu.c."""

    pools: bool

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> the same, or with `pools` (B, C, H / 2, W / 2)."""
        height, width = images.shape[2:]
        learns = torch.is_grad_enabled() and (images.requires_grad or self.weight.requires_grad)
        if (
            not _fits(images, self.weight)
            or images.numel() < FEWEST_ACTIVATIONS
            or (self.pools and (height % 2 or width % 2))
            or (learns and not self.training)
        ):
            active = F.relu(super().forward(images))
            return F.max_pool2d(active, 2) if self.pools else active
        return _NormReLU.apply(images, self.weight, self.bias, self)


def _fits(images: Tensor, weights: Tensor) -> bool:
    return images.dtype == torch.bfloat16 and images.device.type == "cpu" and weights.dtype == torch.float32


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weights: Tensor) -> Tensor:
        images, weights = _channels_last(images), weights.contiguous()
        ctx.save_for_backward(images, weights)
        return kernels().convolve(images, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        images, weights = ctx.saved_tensors
        gradient = _channels_last(gradient)
        back = kernels().convolve(gradient, weights, turned=True) if ctx.needs_input_grad[0] else None
        learned = kernels().weight_gradient(images, gradient) if ctx.needs_input_grad[1] else None
        return back, learned


class _NormReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, norm: NormReLU) -> Tensor:
        call, threads = kernels(), torch.get_num_threads()
        images = _channels_last(images)
        pictures, channels, height, width = images.shape
        if norm.training:
            mean, variance = _moments(call, images)
            _remember(norm, mean, variance, images.numel() // channels)
        else:
            assert norm.running_mean is not None and norm.running_var is not None
            mean, variance = norm.running_mean, norm.running_var
        inverse = torch.rsqrt(variance + norm.eps)
        scale = weight * inverse
        shift = bias - mean * scale
        rows = pictures * height * width
        if not norm.pools:
            result = torch.empty_like(images)
            call("norm_relu", images, scale, shift, result, rows, channels, threads)
            ctx.save_for_backward(images, mean, inverse, scale, shift)
        else:
            result, best = (empty_like(images, channels=channels, shrink=2) for _ in range(2))
            place = empty_like(images, channels=channels, shrink=2, dtype=torch.uint8)
            call(
                "norm_relu_maximum", images, scale, shift, result, best, place, pictures, height, width, channels,
                threads,
            )  # fmt: skip
            ctx.save_for_backward(images, mean, inverse, scale, shift, best, place)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        images, mean, inverse, scale, shift, *pooled = ctx.saved_tensors
        call, threads = kernels(), torch.get_num_threads()
        gradient = _channels_last(gradient)
        pictures, channels, height, width = images.shape
        rows = pictures * height * width
        # Where a maximum was taken, only the place that it came from has a gradient.
        given = pooled[0] if pooled else images
        given_rows = given.numel() // channels
        blocks = torch.empty(call("norm_relu_blocks", given_rows) * 2 * channels)
        sums = torch.empty(2, channels, dtype=torch.float64)
        call(
            "norm_relu_gradient_sums", gradient, given, scale, shift, mean, blocks, sums, given_rows, channels,
            threads,
        )  # fmt: skip
        total, moment = sums.float()
        # Of scale (g - mean of g - (x - mean) / variance * mean of g (x - mean)): what is with x, and the rest.
        slope = -scale * inverse.square() * moment / rows
        offset = -scale * total / rows - slope * mean
        result = torch.empty_like(images)
        if not pooled:
            call(
                "norm_relu_gradient", gradient, images, scale, shift, slope, offset, result, rows, channels, threads
            )  # fmt: skip
        else:
            call(
                "norm_relu_maximum_gradient", gradient, *pooled, images, scale, shift, slope, offset, result, pictures,
                height, width, channels, threads,
            )  # fmt: skip
        return result, moment * inverse, total, None


def _moments(call: Kernels, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel."""
    channels = images.shape[1]
    rows = images.numel() // channels
    near = images[0, :, 0, 0].float()
    blocks = torch.empty(call("norm_relu_blocks", rows) * 2 * channels)
    sums = torch.empty(2, channels, dtype=torch.float64)
    call("norm_relu_moments", images, near, blocks, sums, rows, channels, torch.get_num_threads())
    first, second = sums / rows
    return (near + first).float(), (second - first.square()).clamp_min(0).float()


def _remember(norm: NormReLU, mean: Tensor, variance: Tensor, rows: int) -> None:
    """The running statistics, as torch's batch norm keeps them."""
    assert norm.num_batches_tracked is not None and norm.momentum is not None
    assert norm.running_mean is not None and norm.running_var is not None
    norm.num_batches_tracked.add_(1)
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance * (rows / (rows - 1)), norm.momentum)
