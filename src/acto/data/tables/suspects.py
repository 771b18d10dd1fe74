"""Columns that are hardly features, by their names and contents: in data frames and in tables alike."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.data.readers.split_columns import SPLIT_NAMES, plain_name

_IDS = re.compile(r"index|idx|level_0|unnamed_\d+|row|row_?(nr|no|num|number|index|idx)|(.*_)?(id|uid|uuid|guid)")
"""Names of columns that name rows, as `plain_name` writes them."""
_FEW, _SOME = 10, 20
"""Rows from which on the numbers of the rows in order, or different whole numbers, are hardly a coincidence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspect:
    """Column that is hardly a feature."""

    name: str
    kind: str
    """split, constant (a split that all rows share), truth, id, or perhaps (an id, for all that is known)."""
    why: str
    """Words after the column's name."""
    keep: str = "rename it"
    """Way to keep it as a feature."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Traits:
    """Traits of a column that tell what it is."""

    name: str
    count: int
    """N."""
    is_whole: bool
    """True if it holds whole numbers."""
    is_float: bool
    """True if it holds other numbers."""
    is_unique: bool
    """True if no two rows have the same, nothing included."""
    is_constant: bool
    """True if all rows have the same."""
    whole: Callable[[], npt.NDArray[np.int64] | None]
    """Gives its (N,) whole numbers; None where one is missing."""
    index: Any = ()
    """(N,) names that the rows have beside it, if any."""


def suspect_of(column: Traits, *, truth: str) -> Suspect | None:
    """Say that a column is hardly a feature; None if nothing tells against it. `truth` names that of true labels."""
    plain = plain_name(column.name)
    if column.name == truth:
        return Suspect(name=column.name, kind="truth", why="holds true labels")
    if plain in SPLIT_NAMES and not column.is_float:
        kind = "constant" if column.is_constant else "split"
        why = "looks like a split" + (" with one value" if column.is_constant else "")
        return Suspect(name=column.name, kind=kind, why=why, keep="rename it or make it float")
    if _IDS.fullmatch(plain) and (column.is_unique or column.is_whole):
        kind = "id" if column.is_unique else "perhaps"
        return Suspect(name=column.name, kind=kind, why="names the rows" if kind == "id" else "looks like an id")
    if column.is_whole and column.count >= _FEW and _numbers_rows(column):
        return Suspect(name=column.name, kind="id", why="numbers the rows", keep="make it float")
    if column.is_whole and column.count >= _SOME and column.is_unique:
        return Suspect(name=column.name, kind="perhaps", why="has another whole number in every row, as ids have")
    return None


def _numbers_rows(column: Traits) -> bool:
    """Tell whether whole numbers are those of the rows: from 0 or 1 on, in any order if they are some; or the index."""
    if not column.is_unique or (values := column.whole()) is None:
        return False
    start = values.min()
    ordered = values if len(values) < _SOME else np.sort(values)
    counts = start in (0, 1) and np.array_equal(ordered, np.arange(start, start + len(values)))
    return bool(counts or np.array_equal(values, np.asarray(column.index)))
