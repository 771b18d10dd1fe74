"""Cells of labels by several people: which of them differ, and which are gaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError
from acto.data.label_columns import Labels, is_whole

Cells = Sequence[Any] | npt.NDArray[Any]
"""(V,) values as they come."""

_GAP_WORDS = ("nan", "na", "n/a", "none", "null", "<na>")
_GAP_TYPES = ("NAType", "NaTType")
_SMALL = 2**16
"""Class numbers below it are counted by their place."""


def distinct_cells(values: Cells) -> tuple[Cells, Labels]:
    """Find the different cells, and which of them each is (V,).

    Raises:
        UserError: a value that is no text and no number.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "iuf" and len(values):
        return _distinct_numbers(values)
    if isinstance(values, np.ndarray) and values.dtype.kind in "bUS":
        distinct, codes = np.unique(values, return_inverse=True)
        return distinct, codes.reshape(-1)
    number: dict[Any, int] = {}
    try:
        codes = np.fromiter((number.setdefault(value, len(number)) for value in values), np.int64, len(values))
    except TypeError:
        bad = next(value for value in values if not _is_plain(value))
        raise UserError(f"labels must be names or whole numbers, not {type(bad).__name__}") from None
    return list(number), codes


def _distinct_numbers(values: npt.NDArray[Any]) -> tuple[Cells, Labels]:
    """The same of numbers: most are small and whole, which need no sorting of millions."""
    known = ~np.isnan(values) if values.dtype.kind == "f" else np.ones(len(values), bool)
    numbers = values[known]
    low, high = (numbers.min(), numbers.max()) if len(numbers) else (0, 0)
    if -_SMALL < low <= high < _SMALL and (values.dtype.kind != "f" or not (numbers % 1).any()):
        offset = int(low)
        places = np.full(len(values), int(high) - offset + 1)
        places[known] = numbers.astype(np.int64) - offset
        there = np.bincount(places, minlength=int(high) - offset + 2) > 0
        kinds = np.flatnonzero(there)
        distinct = (kinds + offset).astype(values.dtype)
        if values.dtype.kind == "f" and there[-1]:
            distinct[-1] = np.nan
        return distinct, (np.cumsum(there) - 1)[places]
    distinct, codes = np.unique(values, return_inverse=True)
    return distinct, codes.reshape(-1)


def _is_plain(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def is_nothing(value: Any) -> bool:
    """Tell a gap that nobody takes for a label: None, NaN, an empty text."""
    if value is None or type(value).__name__ in _GAP_TYPES:
        return True
    if isinstance(value, float | np.floating):
        return bool(np.isnan(value))
    return isinstance(value, str | bytes) and not value.strip()


def find_gaps(distinct: Cells, class_names: Sequence[str] | None) -> tuple[npt.NDArray[np.bool_], dict[str, list[int]]]:
    """Find which of the different cells are gaps, (D,) bool, and by their text those of which a note is due."""
    names = set(map(str, class_names or ()))
    is_gap = np.zeros(len(distinct), bool)
    said: dict[str, list[int]] = {}
    for i, value in enumerate(distinct):
        if is_nothing(value):
            is_gap[i] = True
            continue
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        text = text.strip().removesuffix(".0")
        if text in names:
            continue
        if text.lower() in _GAP_WORDS or (text.startswith("-") and is_whole(text)):
            is_gap[i] = True
            said.setdefault(text, []).append(i)
    return is_gap, said
