"""Labels as users write them (names, numbers, numbers in text) become class numbers 0 to K - 1.

Nothing is guessed silently: a class without samples, a gap in the numbers, a fraction or a missing label is refused,
with the rows where it stands.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError, closest

UNKNOWN = -1
"""A true label that nobody knows."""

Labels = npt.NDArray[np.int64]
Where = Callable[[int], str]
"""Names the place of row i, for messages: the file and its line, or the sample's id."""

_SHOWN = 5
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE | re.ASCII)
_LONGEST = 1000
"""Most characters of a label: arrays of texts give every row the room of the longest."""
_LARGEST = 2**31
"""True labels are below it, so that a class number of any other set fits."""
_LOOKS_LIKE = str.maketrans(
    "\u0430\u0441\u0435\u0456\u0458\u043e\u0440\u0455\u0445\u0443\u03bf\u03bd\u03b1", "aceijopsxyova"
)
"""Small Cyrillic and Greek letters, and the Latin ones that look the same."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of labels: which different texts it has, and which of them stands in each row."""

    texts: tuple[str, ...]
    """An empty text stands for no label."""
    codes: Labels
    """(N,) positions in `texts`."""
    where: Where

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
    distinct, codes = np.unique(array, return_inverse=True)
    if array.dtype.kind in "iub":
        return Column(tuple(str(int(value)) for value in distinct), codes.reshape(-1), where)
    if array.dtype.kind == "S":
        distinct = _decoded(distinct, codes.reshape(-1), where)
    texts = [str(value).strip() for value in distinct.tolist()]
    if texts and all(_is_number(text) for text in texts if text) and any(texts):
        numbers = [float(text) if text else 0.0 for text in texts]
        fractions = [i for i, number in enumerate(numbers) if number != number or number % 1]
        if fractions:
            raise Column(tuple(texts), codes.reshape(-1), where).refuse(
                [texts[i] for i in fractions], "labels must be names or whole numbers"
            )
        texts = [text if not text or _is_whole(text) else str(int(float(text))) for text in texts]
    merged, positions = np.unique(
        np.array(texts, dtype=object).astype(str), return_inverse=True
    )  # " a" and "a" are one
    column = Column(tuple(merged.tolist()), positions[codes.reshape(-1)].astype(np.int64), where)
    if "" in column.texts and not may_be_empty:
        raise column.refuse([""], "a label is missing")
    return column


def exact_column(texts: Sequence[str], *, where: Where) -> Column:
    """A column whose texts are class names as they stand: folder names are not read as numbers."""
    distinct, codes = np.unique(np.array(_bounded(texts, where), dtype=str), return_inverse=True)
    return Column(tuple(distinct.tolist()), codes.reshape(-1), where)


def infer_classes(column: Column) -> tuple[str, ...]:
    """The class list of the labels that occur: names sorted, numbers in numeric order.

    Raises:
        UserError: negative numbers, a gap in them, or fewer than two classes.
    """
    texts = [text for text in column.texts if text]
    if not all(_is_whole(text) for text in texts):
        names = tuple(sorted(texts))
    else:
        if negative := [text for text in texts if int(text) < 0]:
            raise column.refuse(negative, "labels must not be negative")
        numbers = sorted(map(int, texts))
        if len(set(numbers)) < len(numbers):
            same = [text for text in texts if numbers.count(int(text)) > 1]
            raise column.refuse(same, f"labels write one number in several ways: {', '.join(map(repr, same[:_SHOWN]))}")
        missing = (
            sorted(set(range(numbers[0], numbers[-1] + 1)[: len(numbers) + _SHOWN]) - set(numbers)) if texts else []
        )
        if missing or (numbers and numbers[0] > 1):
            first = missing[0] if missing else 0
            raise UserError(
                f"class {first} has no sample, though labels run from {numbers[0]} to {numbers[-1]} "
                f"({column.where(int(column.rows_with(max(texts, key=int))[0]))}); "
                "if that is meant, give the classes by name (classes)"
            )
        names = tuple(sorted(texts, key=int))
    if len(names) < 2:
        raise UserError(f"at least two classes are needed, but the labels have {len(names)}: {', '.join(names)}")
    return names


def encode(column: Column, names: Sequence[str], *, what: str = "label") -> Labels:
    """Class numbers (N,): by name, or by position where the labels are numbers and the names are not.

    Raises:
        UserError: a label that is no class, with the first rows that have it.
    """
    code_of, by_position = _codes(names)
    codes = [code_of.get(text, UNKNOWN) for text in column.texts]
    unknown = [text for text, code in zip(column.texts, codes, strict=True) if code == UNKNOWN]
    if unknown and by_position and all(map(_is_whole, unknown)):
        raise column.refuse(unknown, f"{what} out of range 0..{len(names) - 1}")
    if unknown:
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        problem = f"{what} is none of the {len(names)} classes.{closest(unknown[0], names)} Classes: {shown}"
        raise column.refuse(unknown, problem)
    return np.array(codes, np.int64)[column.codes]


def encode_truth(column: Column, names: Sequence[str]) -> tuple[Labels, int]:
    """Class numbers (N,) of true labels, and how many rows name no class.

    No text and negative numbers are UNKNOWN; a text that is no class becomes K: none of the classes is right.

    Raises:
        UserError: a number that no set of classes has.
    """
    code_of, by_position = _codes(names)

    def code(text: str) -> int:
        if not text:
            return UNKNOWN
        if _is_whole(text) and int(text) < 0:
            return UNKNOWN
        return int(text) if by_position and _is_whole(text) else code_of.get(text, len(names))

    codes = [code(text) for text in column.texts]
    if huge := [text for text, number in zip(column.texts, codes, strict=True) if number >= _LARGEST]:
        raise column.refuse(huge, f"a true label is not below {_LARGEST}")
    labels = np.array(codes, np.int64)[column.codes]
    return labels, int((labels >= len(names)).sum())


def check_every_class_occurs(labels: Labels, names: Sequence[str], *, place: str) -> None:
    """Refuse a class without a training sample.

    Raises:
        UserError: with the classes' names and the place where samples were looked for.
    """
    counts = np.bincount(labels, minlength=len(names))
    if empty := [name for name, count in zip(names, counts.tolist(), strict=True) if count == 0]:
        shown = ", ".join(map(repr, empty[:_SHOWN]))
        raise UserError(f"{place}: {len(empty)} of {len(names)} classes have no training sample: {shown}")


def look_alikes(names: Sequence[str]) -> tuple[str, ...]:
    """A note if classes have names that a reader takes for one: by case, spaces, or letters of other scripts."""
    groups: dict[str, list[str]] = {}
    for name in names:
        visible = "".join(mark for mark in unicodedata.normalize("NFKC", name) if unicodedata.category(mark) != "Cf")
        key = " ".join(visible.casefold().translate(_LOOKS_LIKE).split())
        groups.setdefault(key, []).append(name)
    alike = [group for group in groups.values() if len(group) > 1]
    if not alike:
        return ()
    shown = "; ".join(", ".join(map(ascii, group[:_SHOWN])) for group in alike[:_SHOWN])
    return (f"{len(alike)} groups of classes have names that look alike, and are classes of their own: {shown}",)


def _codes(names: Sequence[str]) -> tuple[dict[str, int], bool]:
    """Class number by text; positions are texts too, unless the names are numbers themselves."""
    by_position = not all(map(_is_whole, names)) or list(names) == [str(i) for i in range(len(names))]
    code_of = {str(i): i for i in range(len(names))} if by_position else {}
    return code_of | {name: i for i, name in enumerate(names)}, by_position


def _as_texts(values: Sequence[Any] | npt.NDArray[Any], where: Where) -> npt.NDArray[Any]:
    for i, value in enumerate(values):
        if value is not None and not isinstance(value, str | bool | int | float | np.generic):
            raise UserError(f"labels must be names or whole numbers, not {type(value).__name__}: {where(i)}")
        if isinstance(value, str) and "\0" in value:  # numpy would cut it off
            raise UserError(f"a label holds a NUL character: {where(i)}: {value!r}")
    texts = ["" if value is None else value if isinstance(value, str) else str(value) for value in values]
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


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def _is_whole(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").isdecimal()
