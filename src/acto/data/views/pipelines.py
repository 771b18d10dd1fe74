"""Views of pictures and feature vectors: "none", "weak" and "strong", made for a whole chunk at once on its device.

Every sample draws its own parameters from acto.data.views.counter_random, so a view is a pure function of the pass, the
sample and the view's place in the stream. Pictures are (B, C, H, W) uint8 until the last step, which makes them
normalized floats in channels_last memory.

============  =============================================  ======================================================
pipeline      weak                                           strong: a window of its own, then
============  =============================================  ======================================================
cifar         window of a picture padded by 4 black pixels,  AutoAugment's policy for CIFAR-10
              flipped by chance
small         the same, padded by an eighth of the side      AutoAugment's policy for CIFAR-10
photo         window, flipped by chance                      RandAugment
digits        shifted by up to 2 pixels, from 16 a side on   turned by up to 15 degrees, a black square of a quarter
fashion       the same, flipped by chance                    of the side
vectors       as they are; of many features half at their     a fifth of the features at their mean, of many features
              mean                                           half; noise on the rest
============  =============================================  ======================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from acto.data.views import policies
from acto.data.views.counter_random import Occasion, bits, uniform
from acto.data.views.operations import cutout, rotate_smoothly, take_columns, take_rows
from acto.data.views.spec import ViewSpec

WINDOW_DRAWS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pipeline:
    padding: Callable[[int], int]
    """Black pixels around a picture of that side, before its window is drawn."""
    flip: bool
    strong: Callable[[Tensor, Tensor], Tensor]
    """(B, C, H, W) uint8, left as they are, and (B, draws) in [0, 1) -> (B, C, H, W) uint8."""
    draws: int


def _turn_and_erase(pixels: Tensor, draws: Tensor) -> Tensor:
    """Turn by up to 15 degrees and erase a small square. `draws` (B, 3): angle, place of the square."""
    turned = rotate_smoothly(pixels, 30 * draws[:, 0] - 15)
    side = torch.full_like(draws[:, 0], pixels.shape[2] / 4)
    return cutout(turned, side, draws[:, 1:], value=(0,) * pixels.shape[1])


def _few_pixels(side: int) -> int:
    # A shift of one pixel in eight costs more than it brings: benchmarks/demo_settings.py.
    return 2 if side >= 16 else 0


_PIPELINES = {
    "cifar": _Pipeline(
        padding=lambda side: 4, flip=True, strong=policies.auto_augment, draws=policies.AUTO_AUGMENT_DRAWS
    ),
    "small": _Pipeline(
        padding=lambda side: max(1, side // 8),
        flip=True,
        strong=policies.auto_augment,
        draws=policies.AUTO_AUGMENT_DRAWS,
    ),
    "photo": _Pipeline(
        padding=lambda side: 0, flip=True, strong=policies.rand_augment, draws=policies.RAND_AUGMENT_DRAWS
    ),
    "digits": _Pipeline(padding=_few_pixels, flip=False, strong=_turn_and_erase, draws=3),
    "fashion": _Pipeline(padding=_few_pixels, flip=True, strong=_turn_and_erase, draws=3),
}


def make_view(
    name: str,
    pixels: Tensor,
    spec: ViewSpec,
    *,
    occasion: Occasion,
    index: Tensor,
    place: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """One view of pictures in memory.

    Args:
        name: "none", "weak" or "strong".
        pixels: (B, C, H, W) uint8; left as they are.
        spec: the source's views, of a picture pipeline.
        occasion: which pass it is.
        index: (B,) sample numbers.
        place: the view's place in its stream; two weak views of one stream differ.
        dtype: of the result.

    Returns:
        (B, C, size, size), normalized, in channels_last memory.
    """
    height, width = pixels.shape[2:]
    size = (spec.size or height, spec.size or width)
    draws = view_draws(name, spec, occasion=occasion, index=index, place=place)
    top, left, flip = window(name, spec, draws[:, :WINDOW_DRAWS], height=height, width=width)
    if name != "none" or size != (height, width):
        padding = 0 if name == "none" else _PIPELINES[spec.pipeline].padding(min(size))
        pixels = _cut(F.pad(pixels, (padding,) * 4), top + padding, left + padding, flip, size=size)
    return finish_view(name, pixels, spec, draws[:, WINDOW_DRAWS:], dtype=dtype)


def view_draws(name: str, spec: ViewSpec, *, occasion: Occasion, index: Tensor, place: int) -> Tensor:
    """(B, draws) in [0, 1): WINDOW_DRAWS for the window, then what the strong view wants."""
    strong = _PIPELINES[spec.pipeline].draws if name == "strong" else 0
    return uniform(occasion, index, view=place, draws=WINDOW_DRAWS + strong)


def window(
    name: str, spec: ViewSpec, draws: Tensor, *, height: int | Tensor, width: int | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Place the window of a view in a picture: top and left (...) int64, and flipped or not (...) bool.

    Top and left may be negative, or reach beyond the picture: what lies there is black.

    Args:
        name: "none" looks at the centre; other views draw.
        spec: the source's views.
        draws: (..., WINDOW_DRAWS) in [0, 1).
        height: of the picture; (...) int64 for pictures of many sizes, where the source's views have a size.
        width: of the picture, alike.
    """
    sides = [torch.as_tensor(side, device=draws.device) for side in (height, width)]
    spare = torch.stack([side - (spec.size or side) for side in sides], dim=-1)
    if name == "none":
        top, left = (spare / 2).round().long().expand(*draws.shape[:-1], 2).unbind(-1)
        return top, left, torch.zeros_like(top, dtype=torch.bool)
    pipeline = _PIPELINES[spec.pipeline]
    padding = pipeline.padding(spec.size or int(min(height, width)))
    top, left = ((draws[..., :2] * (spare + 2 * padding + 1)).long() - padding).unbind(-1)
    return top, left, (draws[..., 2] < 0.5) & pipeline.flip


def finish_view(
    name: str, pixels: Tensor, spec: ViewSpec, draws: Tensor, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Apply the strong view's operations and the normalization to windows that are cut.

    Args:
        name: "none", "weak" or "strong".
        pixels: (B, C, size, size) uint8; left as they are.
        spec: the source's views.
        draws: (B, draws) in [0, 1), those after the window's.
        dtype: of the result.
    """
    if name == "strong":
        pixels = _PIPELINES[spec.pipeline].strong(pixels.contiguous(), draws)
    return _normalize(pixels, spec, dtype)


def make_vector_view(
    name: str,
    features: Tensor,
    spec: ViewSpec,
    *,
    occasion: Occasion,
    index: Tensor,
    place: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """One view of feature vectors, normalized.

    From MANY_FEATURES on the weak and the strong view each put half of the features at their mean, drawn anew for every
    sample and view; of fewer the weak view hides none and the strong one a fifth. The strong view adds noise with a
    tenth of each feature's deviation, drawn evenly from an interval around 0.

    Args:
        name: "none", "weak" or "strong".
        features: (B, D) float32; left as they are.
        spec: the source's views, whose mean and std have D entries, or none.
        occasion: which pass it is.
        index: (B,) sample numbers.
        place: the view's place in its stream.
        dtype: of the result.
    """
    if spec.mean:
        mean, std = (torch.tensor(values, device=features.device) for values in (spec.mean, spec.std))
        features = (features - mean).div_(std)
    share = (_HIDDEN_OF_MANY if features.shape[1] >= MANY_FEATURES else _HIDDEN).get(name, 0.0)
    if share:
        # Two features share a word of 64 bits.
        words = bits(occasion, index, view=place, draws=math.ceil(features.shape[1] / 2))
        words = words.view(torch.int32)[:, : features.shape[1]]
        hidden = (words & 0xFFFF) < round(share * 2**16)
        features = _blurred(features, words >> 16) if name == "strong" else features.clone()
        features.masked_fill_(hidden, 0)
    return features.to(dtype)


# Hundreds of features tell most things more than once, a few do not: docs/decisions.md.
_HIDDEN, _HIDDEN_OF_MANY, MANY_FEATURES = {"strong": 0.2}, {"weak": 0.5, "strong": 0.5}, 256
_NOISE = 0.1


def _blurred(features: Tensor, draws: Tensor) -> Tensor:
    """Normalized features (B, D) with noise from (B, D) int32 in -2**15..2**15 - 1."""
    # Spread evenly with deviation _NOISE: an interval of length 2 a has a / sqrt(3).
    return draws.float().add_(0.5).mul_(_NOISE * math.sqrt(3) / 2**15).add_(features)


def _cut(pixels: Tensor, top: Tensor, left: Tensor, flip: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Each picture's own window of `size` (height, width), mirrored where `flip`."""
    row = top[:, None] + torch.arange(size[0], device=pixels.device)
    along = torch.arange(size[1], device=pixels.device)
    column = left[:, None] + torch.where(flip[:, None], size[1] - 1 - along, along)
    return take_columns(take_rows(pixels, row), column)


def _normalize(pixels: Tensor, spec: ViewSpec, dtype: torch.dtype) -> Tensor:
    """(value / 255 - mean) / std in channels_last memory."""
    batch, channels, height, width = pixels.shape
    std = torch.tensor(spec.std or (1.0,) * channels)
    mean = torch.tensor(spec.mean or (0.0,) * channels)
    # One row of pixels at a time: a vector of three channels would be far too short to be fast.
    scale = (1 / (255 * std)).repeat(width).to(pixels.device)
    shift = (-mean / std).repeat(width).to(pixels.device)
    rows = pixels.permute(0, 2, 3, 1).reshape(-1, width * channels)
    return rows.float().mul_(scale).add_(shift).to(dtype).view(batch, height, width, channels).permute(0, 3, 1, 2)
