"""The two published ways to draw operations for the strong view, for many pictures at once.

`auto_augment` is AutoAugment's policy for CIFAR-10 (Cubuk et al. 2019, https://arxiv.org/abs/1805.09501, appendix).
`rand_augment` is RandAugment (Cubuk et al. 2020, https://arxiv.org/abs/1909.13719) as the package `randaugment` 1.0.2
draws it. Amounts and signs are those that ACTO's public code uses; torchvision's differ.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from acto.data.views import operations

AUTO_AUGMENT_DRAWS = 5
RAND_AUGMENT_DRAWS = 12

# Two of (operation, probability, level) a pair.
_CIFAR10_PAIRS = (
    (("invert", 0.1, 7), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, 8), ("equalize", 0.9, 2)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 5), ("equalize", 0.5, 1)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 7), ("autocontrast", 0.4, 8)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 3)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 8), ("equalize", 0.6, 4)),
    (("color", 0.9, 9), ("equalize", 0.6, 6)),
    (("autocontrast", 0.8, 4), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 3)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, 2), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 8), ("invert", 0.1, 3)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, 1)),
)

Operation = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Function of pictures (B, C, H, W) uint8, amounts (B,) and places (B, 2) in [0, 1)."""

OPERATIONS: dict[str, Operation] = {
    "autocontrast": lambda pixels, amount, place: operations.autocontrast(pixels),
    "brightness": lambda pixels, amount, place: operations.brightness(pixels, amount),
    "color": lambda pixels, amount, place: operations.color(pixels, amount),
    "contrast": lambda pixels, amount, place: operations.contrast(pixels, amount),
    "cutout": lambda pixels, amount, place: operations.cutout(pixels, amount, place, value=_cutout_color(pixels)),
    "equalize": lambda pixels, amount, place: operations.equalize(pixels),
    "invert": lambda pixels, amount, place: operations.invert(pixels),
    "posterize": lambda pixels, amount, place: operations.posterize(pixels, amount),
    "rotate": lambda pixels, amount, place: operations.rotate(pixels, amount),
    "sharpness": lambda pixels, amount, place: operations.sharpness(pixels, amount),
    "shear_x": lambda pixels, amount, place: operations.shear_x(pixels, amount),
    "shear_y": lambda pixels, amount, place: operations.shear_y(pixels, amount),
    "solarize": lambda pixels, amount, place: operations.solarize(pixels, amount),
    "translate_x": lambda pixels, amount, place: operations.translate_x(pixels, amount),
    "translate_y": lambda pixels, amount, place: operations.translate_y(pixels, amount),
}
_NAMES = tuple(OPERATIONS)
_NONE = -1


def amounts(name: str, level: int) -> tuple[float, float]:
    """Return the amounts that a level (0..9) means for an operation, with the plus and with the minus sign.

    Slopes, shares of a side, degrees (only turned one way), enhancement factors, bits kept, threshold, pixels.
    """
    share = level / 9
    match name:
        case "shear_x" | "shear_y":
            return 0.3 * share, -0.3 * share
        case "translate_x" | "translate_y":
            return 150 / 331 * share, -150 / 331 * share
        case "brightness" | "color" | "contrast" | "sharpness":
            return 1 + 0.9 * share, 1 - 0.9 * share
        case "rotate":
            amount = 30 * share
        case "posterize":
            amount = float(round(8 - 4 * share))
        case "solarize":
            amount = 256 - 256 * share
        case "cutout":
            amount = float(round(20 * share))
        case _:
            amount = 0.0
    return amount, amount


def auto_augment(pixels: Tensor, draws: Tensor) -> Tensor:
    """One of the 25 pairs for each picture; each of the two is applied with its own probability.

    Args:
        pixels: (B, C, H, W) uint8.
        draws: (B, AUTO_AUGMENT_DRAWS) in [0, 1): pair, two chances, two signs.
    """
    pairs, chances, levels = _cifar10_tables(draws.device)
    pair = (draws[:, 0] * len(pairs)).long()
    operation = torch.where(draws[:, 1:3] < chances[pair], pairs[pair], _NONE)
    amount = _amount(operation, levels[pair], draws[:, 3:5])
    for k in range(2):
        pixels = _apply(pixels, operation[:, k], amount[:, k], draws[:, :2])  # no pair cuts out: the place is idle
    return pixels


def rand_augment(pixels: Tensor, draws: Tensor) -> Tensor:
    """Two of the 15 operations for each picture, at a level of 1..9, each applied with probability 1/2.

    Args:
        pixels: (B, C, H, W) uint8.
        draws: (B, RAND_AUGMENT_DRAWS) in [0, 1): twice operation, chance, level, sign and two for the place.
    """
    for drawn in draws.split(6, 1):
        operation = torch.where(drawn[:, 1] < 0.5, (drawn[:, 0] * len(_NAMES)).long(), _NONE)
        level = 1 + (drawn[:, 2] * 9).long()
        pixels = _apply(pixels, operation, _amount(operation, level, drawn[:, 3]), drawn[:, 4:6])
    return pixels


def _apply(pixels: Tensor, operation: Tensor, amount: Tensor, place: Tensor) -> Tensor:
    """Do to each picture its own operation (a place in _NAMES, or _NONE); the pictures of one operation at once."""
    sequence = operation.argsort(stable=True)
    counts = torch.bincount(operation + 1, minlength=len(_NAMES) + 1).tolist()
    pixels = pixels.index_select(0, sequence)
    groups = zip(pixels.split(counts), amount[sequence].split(counts), place[sequence].split(counts), strict=True)
    next(groups)  # those that nothing is done to
    for name, group in zip(_NAMES, groups, strict=True):
        if len(group[0]):
            group[0].copy_(OPERATIONS[name](*group))
    return pixels.index_select(0, sequence.argsort())


def _amount(operation: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    return _amount_table(operation.device)[operation, level, (sign < 0.5).long()]


def _cutout_color(pixels: Tensor) -> tuple[int, ...]:
    """ImageNet's mean colour, as the package has it; for other than three channels its grey."""
    return (125, 122, 113) if pixels.shape[1] == 3 else (122,) * pixels.shape[1]


@cache
def _amount_table(device: torch.device) -> Tensor:
    """(operations, levels, signs) float32."""
    return torch.tensor([[amounts(name, level) for level in range(10)] for name in _NAMES], device=device)


@cache
def _cifar10_tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Operation, probability and level, each (25, 2)."""
    pairs = [[_NAMES.index(name) for name, _, _ in pair] for pair in _CIFAR10_PAIRS]
    chances = [[chance for _, chance, _ in pair] for pair in _CIFAR10_PAIRS]
    levels = [[level for _, _, level in pair] for pair in _CIFAR10_PAIRS]
    return tuple(torch.tensor(table, device=device) for table in (pairs, chances, levels))  # type: ignore[return-value]
