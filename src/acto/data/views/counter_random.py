"""Randomness without a generator: a hash of where and when, the same on every device, for any chunk and any process.

A draw is splitmix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", OOPSLA) over a
stream that belongs to one sample in one view on one occasion. Nothing has to be saved for a run to be resumed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Occasion:
    """Pass over the data that draws random numbers."""

    seed: int
    epoch: int
    turn: int = 0
    number: int = 0
    """The stream's place in the turn."""


def uniform(occasion: Occasion, index: Tensor, *, view: int, draws: int) -> Tensor:
    """(B, draws) float32 in [0, 1), multiples of 2**-24: `draws` numbers for each sample of `index`.

    floor(uniform * n) lies in 0..n-1 for every n up to 2**24: the product never rounds up to n.
    """
    return _shift(bits(occasion, index, view=view, draws=draws), 40).float().mul_(2.0**-24)


def bits(occasion: Occasion, index: Tensor, *, view: int, draws: int) -> Tensor:
    """(B, draws) int64 of 64 random bits.

    `index` (B,) int64 numbers the samples, `view` is the view's place in its stream. A sample's numbers depend on
    nothing else: not on its place in `index`, nor on how many draws are asked for.
    """
    lane = _mix(index * _GOLDEN + _key(occasion, view))
    step = torch.arange(1, draws + 1, device=index.device) * _GOLDEN
    return _mix(lane[:, None] + step)


def order(occasion: Occasion, index: Tensor) -> Tensor:
    """(M,) int64 permutation that shuffles `index` (M,): samples stand by their hash, whatever their order was."""
    return bits(occasion, index, view=_ORDER, draws=1)[:, 0].argsort(stable=True)


_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # 2**64 over the golden ratio, as a signed number
_FACTORS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))
_ORDER = -1  # no view has this place, so that a sample's rank tells nothing about its crop


def _key(occasion: Occasion, view: int) -> int:
    """64 bits that stand for everything but the sample."""
    state = torch.zeros((), dtype=torch.int64)
    for word in (occasion.seed, occasion.epoch, occasion.turn, occasion.number, view):
        state = _mix(state + _signed(word) + _GOLDEN)
    return int(state)


def _mix(words: Tensor) -> Tensor:
    """Splitmix64's finalizer, a bijection of 64 bits, in place. int64 multiplication wraps around on every device."""
    for places, factor in _FACTORS:
        words ^= _shift(words, places)
        words *= factor
    words ^= _shift(words, 31)
    return words


def _shift(words: Tensor, places: int) -> Tensor:
    """Shift right and fill with zeros; >> alone would repeat the sign."""
    return (words >> places).bitwise_and_((1 << (64 - places)) - 1)


def _signed(word: int) -> int:
    return (word + 2**63) % 2**64 - 2**63
