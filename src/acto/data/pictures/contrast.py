"""Pictures in which there is next to nothing to see, told by the lowest and highest level of each channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FLAT = 8
"""A picture whose levels differ by less in every channel is of one colour."""
FAINT = 64
"""A picture whose levels differ by less, a quarter of the range, is worth a word: 12 bits in a file of 16, say."""
_SHOWN = 3

Levels = npt.NDArray[Any]
"""(N, C) whole numbers from 0 to 255."""


def extremes_of(pixels: npt.NDArray[np.uint8]) -> tuple[Levels, Levels]:
    """(N, C) lowest and highest levels of pictures (N, H, W, C)."""
    flat = pixels.reshape(len(pixels), -1, pixels.shape[-1])
    return flat.min(1), flat.max(1)


def contrast_notes(ids: Sequence[str], lowest: Levels, highest: Levels) -> tuple[str, ...]:
    """Say how many pictures are black, white, of one colour, or use few levels, with the first of them.

    Args:
        ids: (N,) names of the pictures.
        lowest: (N, C) levels.
        highest: (N, C) levels.
    """
    if not len(ids):
        return ()
    spread = (highest.astype(np.int64) - lowest).max(1)
    flat, faint = spread < FLAT, (spread >= FLAT) & (spread < FAINT)
    black, white = flat & (highest.max(1) < FLAT), flat & (lowest.min(1) >= 256 - FLAT)
    found = {
        "black all over": black,
        "white all over": white,
        "of one colour all over": flat & ~black & ~white,
        f"use at most {1 + spread[faint].max(initial=0)} of 256 levels": faint,
    }
    notes = []
    for words, chosen in found.items():
        if rows := np.flatnonzero(chosen).tolist():
            first = ", ".join(ids[row] for row in rows[:_SHOWN])
            verb = "" if words.startswith("use") else "are "
            more = ", ..." if len(rows) > _SHOWN else ""
            notes.append(f"{len(rows):,} of {len(ids):,} pictures {verb}{words}, as they are read: {first}{more}")
    return tuple(notes)
