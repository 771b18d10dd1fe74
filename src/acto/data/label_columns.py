"""Columns of labels as users write them (names, numbers, numbers in text), before they are class numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError

Labels = npt.NDArray[np.int64]
Where = Callable[[int], str]
"""Names the place of row i, for messages: the file and its line, or the sample's id."""

_SHOWN = 5
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE | re.ASCII)
_LONGEST = 1000
"""Most characters of a label: arrays of texts give every row the room of the longest."""
_MOST_DIGITS = 300
"""Digits of a whole number. Longer ones are infinite as float64, and Python refuses to convert very long ones."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of labels: which different texts it has, and which of them stands in each row."""

    texts: tuple[str, ...]
    """An empty text stands for no label."""
    codes: Labels
    """(N,) positions in `texts`."""
    where: Where
    are_numbers: bool = False
    """True if the labels came as numbers, which may be positions as well as names; texts are names."""

    def rows_with(self, text: str) -> npt.NDArray[np.int64]:
        """The rows that have this text."""
        return np.flatnonzero(self.codes == self.texts.index(text))

    def refuse(self, texts: Sequence[str], problem: str) -> UserError:
        """An error that names the first rows with one of `texts`."""
        positions = [self.texts.index(text) for text in texts]
        rows = np.flatnonzero(np.isin(self.codes, positions))
        shown = ", ".join(f"{self.where(i)}: {self.texts[self.codes[i]]!r}" for i in rows[:_SHOWN].tolist())
        return UserError(f"{problem} ({len(rows)} {'row' if len(rows) == 1 else 'rows'}): {shown}")


def read_column(values: Sequence[Any] | npt.NDArray[Any], *, where: Where, may_be_empty: bool = False) -> Column:
    """Bring a column of labels to text; numbers lose their fraction point (3.0 is 3).

    Args:
        values: (N,) strings, numbers or None.
        where: names a row.
        may_be_empty: whether a row may have no label.

    Raises:
        UserError: a missing label, NaN, a number with a fraction, or another kind of value.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind not in "iufbUSO":
        raise UserError(f"labels must be names or whole numbers, not {values.dtype}: {where(0)}")
    is_typed = isinstance(values, np.ndarray) and values.dtype.kind in "iufbUS"
    array = np.asarray(values) if is_typed else _as_texts(values, where)
    distinct, codes = _distinct(array)
    if array.dtype.kind in "iub":
        return Column(tuple(str(int(value)) for value in distinct), codes.reshape(-1), where, are_numbers=True)
    are_numbers = array.dtype.kind == "f" or not (is_typed or any(isinstance(value, str | bool) for value in values))
    if array.dtype.kind == "S":
        distinct = _decoded(distinct, codes.reshape(-1), where)
    texts = [str(value).strip() for value in distinct.tolist()]
    if texts and all(is_number(text) for text in texts if text) and any(texts):
        numbers = [float(text) if text else 0.0 for text in texts]
        fractions = [i for i, number in enumerate(numbers) if number != number or number % 1]
        if fractions:
            raise Column(tuple(texts), codes.reshape(-1), where).refuse(
                [texts[i] for i in fractions], "labels must be names or whole numbers"
            )
        texts = [text if not text or is_whole(text) else str(int(float(text))) for text in texts]
    merged, positions = np.unique(
        np.array(texts, dtype=object).astype(str), return_inverse=True
    )  # " a" and "a" are one
    rows = positions[codes.reshape(-1)].astype(np.int64)
    are_numbers = are_numbers and all(is_whole(text) for text in merged.tolist() if text)
    column = Column(tuple(merged.tolist()), rows, where, are_numbers=are_numbers)
    if "" in column.texts and not may_be_empty:
        raise column.refuse([""], "a label is missing")
    return column


def _distinct(array: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Labels]:
    """The different values, sorted, and the position of each among them; numbers are counted where they are close."""
    if array.dtype.kind in "iu" and array.ndim == 1 and len(array):
        first, last = int(array.min()), int(array.max())
        if first > -(2**31) and last < 2**31 and last - first <= len(array):
            offsets = array.astype(np.int64) - first
            occurs = np.bincount(offsets) > 0
            return np.flatnonzero(occurs) + first, (np.cumsum(occurs) - 1)[offsets]
    distinct, codes = np.unique(array, return_inverse=True)
    return distinct, codes


def exact_column(texts: Sequence[str], *, where: Where) -> Column:
    """A column whose texts are class names as they stand: folder names are not read as numbers."""
    distinct, codes = np.unique(np.array(_bounded(texts, where), dtype=str), return_inverse=True)
    return Column(tuple(distinct.tolist()), codes.reshape(-1), where)


def shape_hint(labels: npt.NDArray[Any]) -> str:
    """Say what labels of a shape other than (N,) look like, and what to pass instead; empty if nobody knows."""
    if labels.ndim != 2 or not labels.size:
        return ""
    if labels.shape[1] == 1:
        return "; of a single column, pass labels[:, 0]"
    if labels.dtype.kind in "iufb" and (labels >= 0).all() and np.allclose(labels.sum(1), 1):
        return "; of one-hot labels, pass labels.argmax(1)"
    return (
        f"; they look like {labels.shape[1]} annotators' columns: pass one label a sample, one of the "
        "columns or their consensus (acto.consensus), say a majority vote"
    )


def check_one_each(labels: Any, *, what: str = "labels") -> None:
    """Refuse labels that are not one for each sample.

    Args:
        labels: an array, a data frame, or a sequence of whatever labels may be.
        what: names them.

    Raises:
        UserError: with their shape, and what they look like.
    """
    labels = labels.to_numpy() if hasattr(labels, "columns") and hasattr(labels, "to_numpy") else labels
    plain = str | bool | int | float | np.generic | None
    try:
        array = labels if isinstance(labels, np.ndarray) else None
        if array is None and any(not isinstance(value, plain) and np.ndim(value) for value in labels):
            array = np.array([np.asarray(value) for value in labels])
    except ValueError:
        raise UserError(f"{what} must be one for each sample, but they are lists") from None
    if array is not None and array.ndim != 1:
        raise UserError(
            f"{what} must be one for each sample, (N,), but their shape is {array.shape}{shape_hint(array)}"
        )


def whole_number(text: str) -> int | None:
    """The whole number that a text writes in any way: 1, 01, 1.0 or 1E0; None if it writes none."""
    if is_whole(text):
        return int(text)
    number = float(text) if is_number(text) else math.nan
    return int(number) if math.isfinite(number) and number % 1 == 0 else None


def is_number(text: str) -> bool:
    """Say whether a text writes a number, finite or not."""
    return _NUMBER.fullmatch(text) is not None


def is_whole(text: str) -> bool:
    """Say whether a text writes a whole number in digits alone, with or without a minus."""
    return text.isascii() and text.removeprefix("-").isdecimal() and len(text) <= _MOST_DIGITS


def _as_texts(values: Sequence[Any] | npt.NDArray[Any], where: Where) -> npt.NDArray[Any]:
    for i, value in enumerate(values):
        if value is not None and not isinstance(value, str | bool | int | float | np.generic):
            raise UserError(f"labels must be names or whole numbers, not {type(value).__name__}: {where(i)}")
        if isinstance(value, int) and value.bit_length() > 64:
            raise UserError(f"a label is a number of more than 64 bits: {where(i)}")
        if isinstance(value, str) and "\0" in value:  # numpy would cut it off
            raise UserError(f"a label holds a NUL character: {where(i)}: {value!r}")
    texts = ["" if value is None else value if isinstance(value, str) else _number_text(value) for value in values]
    return np.array(_bounded(texts, where), dtype=str) if texts else np.empty(0, dtype="U1")


def _bounded(texts: Sequence[str], where: Where) -> Sequence[str]:
    if len(longest := max(texts, key=len, default="")) > _LONGEST:
        raise UserError(
            f"a label has {len(longest):,} characters, and may have {_LONGEST:,}: {where(texts.index(longest))}: "
            f"{longest[:20]!r}..."
        )
    return texts


def _decoded(distinct: npt.NDArray[Any], codes: Labels, where: Where) -> npt.NDArray[Any]:
    try:
        return np.char.decode(distinct, "utf-8")
    except UnicodeDecodeError as error:
        row = int(np.flatnonzero(distinct[codes] == error.object)[0])
        raise UserError(f"a label is not UTF-8: {where(row)}: {error.object!r}") from None


def _number_text(value: Any) -> str:
    """A number as text. 1.0 is 1: a column of numbers with a gap, or joined with names, holds fractions."""
    is_whole = isinstance(value, float | np.floating) and np.isfinite(value) and value % 1 == 0
    return str(int(value) if is_whole else value)
