"""Rows of a table as they were read, column by column, before an encoding makes numbers of them."""

from __future__ import annotations

import datetime
import decimal
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError
from acto.data.label_columns import is_number, whole_number

Cells = npt.NDArray[Any]
"""(N,) float64, NaN where nothing stands; or (N,) texts as objects, empty where nothing stands."""
MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "?", "<na>"))
"""Texts, in small letters, that stand for a missing number."""
MOST_SHOWN = 300
"""Characters of a row that a report shows."""
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
_CODE = re.compile(r"[+-]?0\d", re.ASCII)
"""Begins a number that is a code: a postal code, say, loses its zero as a number."""
_NO_VALUE = ("NAType", "NaTType")
"""Types that pandas has for missing values."""
_SHOWN = 5
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Columns of a table that are features, and what is known of them beforehand."""

    columns: tuple[str, ...]
    is_text: bool = False
    """True if it is one column of texts."""
    categories: tuple[str, ...] = ()
    """Columns among them that are categories, whatever they look like."""
    label_column: str = ""
    """Column of the given labels; empty if nobody named one."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rows:
    """Some rows of a table."""

    cells: Mapping[str, Cells]
    """The columns by name, (N,) each."""
    numbers: npt.NDArray[np.int64]
    """(N,) numbers of the rows where they were read, for messages."""
    plan: Plan
    """The columns that are features; others may be there, which a model trained before may need."""
    file: str = ""
    """Name of the table; empty for a data frame."""

    def __len__(self) -> int:
        return len(self.numbers)

    def where(self, row: int) -> str:
        """Name the place of a row, for messages."""
        return f"{self.file} row {self.numbers[row]}".strip()

    def take(self, index: npt.NDArray[np.int64]) -> Rows:
        """The rows at these positions."""
        cells = {name: column[index] for name, column in self.cells.items()}
        return replace(self, cells=cells, numbers=self.numbers[index])

    def require(self, columns: Sequence[str]) -> None:
        """Refuse rows that lack one of the columns.

        Raises:
            UserError: with those that are missing, and those that are there.
        """
        if missing := [name for name in columns if name not in self.cells]:
            raise UserError(
                f"{self.file or 'the data frame'} lacks {len(missing)} of the {len(columns)} columns that the model "
                f"needs: {', '.join(map(repr, missing[:_SHOWN]))}; it has "
                f"{', '.join(map(repr, [*self.cells][: 4 * _SHOWN])) or 'no others'}"
            )

    def contents(self) -> list[bytes]:
        """(N,) the features of each row as bytes, which are equal where they are."""
        chosen = [self.cells[name] for name in self.plan.columns]
        numbers = [column for column in chosen if column.dtype.kind == "f"]
        table = np.stack(numbers, axis=1) + 0.0 if numbers else np.empty((len(self), 0))  # -0.0 becomes 0.0
        texts = [column for column in chosen if column.dtype.kind != "f"]
        words = zip(*texts, strict=True) if texts else [()] * len(self)
        return [row.tobytes() + "\0".join(parts).encode() for row, parts in zip(table, words, strict=True)]

    def shown(self) -> list[str]:
        """(N,) the features of each row for people, at most MOST_SHOWN characters: a text, or cells with names."""
        columns = [(name, as_texts(self.cells[name])) for name in self.plan.columns]
        if self.plan.is_text:
            return list(map(shortened, columns[0][1]))
        return [
            shortened(", ".join(f"{name} {texts[row]}" for name, texts in columns if texts[row]))
            for row in range(len(self))
        ]


def join_rows(parts: Sequence[Rows]) -> Rows:
    """Rows of the same columns, part after part; a column is of texts where it is one in any part."""
    cells: dict[str, Cells] = {}
    for name in parts[0].cells:
        columns = [part.cells[name] for part in parts]
        if len({column.dtype.kind for column in columns}) > 1:
            columns = [text_cells(as_texts(column)) for column in columns]
        cells[name] = np.concatenate(columns)
    return replace(parts[0], cells=cells, numbers=np.concatenate([part.numbers for part in parts]))


def shortened(text: str) -> str:
    """A text on one line, cut off where it is longer than MOST_SHOWN."""
    line = " ".join(text[: 4 * MOST_SHOWN].split())
    return line if len(line) <= MOST_SHOWN and len(text) <= 4 * MOST_SHOWN else f"{line[: MOST_SHOWN - 1]}…"


def text_cells(texts: Sequence[str]) -> Cells:
    """(N,) texts as an array of objects."""
    cells = np.empty(len(texts), dtype=object)
    cells[:] = texts
    return cells


def as_texts(cells: Cells) -> list[str]:
    """(N,) the cells as texts; whole numbers without a fraction point, nothing where nothing stands."""
    if cells.dtype.kind != "f":
        return cells.tolist()
    return [
        "" if value != value else str(int(value)) if value % 1 == 0 and abs(value) < 2**53 else repr(value)
        for value in cells.tolist()
    ]


def as_numbers(cells: Cells) -> tuple[npt.NDArray[np.float64], int]:
    """(N,) float64 with NaN where nothing stands, and the first row that is no number; -1 if there is none."""
    if cells.dtype.kind == "f":
        return cells, -1
    found = np.full(len(cells), np.nan)
    for row, text in enumerate(cells.tolist()):
        if text.strip().lower() not in MISSING:
            if not is_number(text.strip()):
                return found, row
            found[row] = float(text)
    return found, -1


def as_days(cells: Cells) -> tuple[npt.NDArray[np.float64], int]:
    """(N,) dates in days since 1970, NaN where nothing stands, and the first row that is no date; -1 for none."""
    found = np.full(len(cells), np.nan)
    for row, text in enumerate(as_texts(cells)):
        if text.strip().lower() not in MISSING:
            try:
                found[row] = _days(text.strip())
            except ValueError:
                return found, row
    return found, -1


def _days(text: str) -> float:
    """Days since 1970 of an ISO date.

    Raises:
        ValueError: it is none.
    """
    moment = datetime.datetime.fromisoformat(text)
    return (moment.replace(tzinfo=moment.tzinfo or datetime.UTC) - _EPOCH) / datetime.timedelta(days=1)


def are_dates(cells: Cells) -> bool:
    """Tell whether each text that is there is an ISO date."""
    return cells.dtype.kind != "f" and any(cells) and as_days(cells)[1] < 0


def read_cells(values: Sequence[Any], *, decimal_comma: bool = False) -> Cells | None:
    """Take a column of Python values: as numbers where all are such, also in text, else as texts.

    Args:
        values: (N,) texts, numbers, booleans (0 and 1), dates (their ISO text) or nothing.
        decimal_comma: numbers in text may be written 3,5.

    Returns:
        None for a column of lists, bytes or the like, of which no cell can be made.
    """
    plain = [_plain(value) for value in values]
    if any(value is NotImplemented for value in plain):
        return None
    words = {value for value in plain if isinstance(value, str)}
    if not words:
        return np.array([np.nan if value is None else value for value in plain], dtype=np.float64)
    number_of = {text: _number(text, decimal_comma=decimal_comma) for text in words}
    is_code = any(_CODE.match(text.strip()) and whole_number(text.strip()) is not None for text in words)
    if not is_code and None not in number_of.values():
        filled = [number_of[value] if isinstance(value, str) else value for value in plain]
        return np.array([np.nan if value is None else value for value in filled], dtype=np.float64)
    if len(words) < len(plain) and any(isinstance(value, float) for value in plain):
        numbers = iter(as_texts(np.array([value for value in plain if isinstance(value, float)])))
        plain = [next(numbers) if isinstance(value, float) else value for value in plain]
    return text_cells(["" if value is None else value for value in plain])


def _number(text: str, *, decimal_comma: bool) -> float | None:
    """The number that a text writes, NaN for one of MISSING, None for anything else."""
    text = text.strip()
    if text.lower() in MISSING:
        return np.nan
    if decimal_comma and _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    return float(text) if is_number(text) else None


def _plain(value: Any) -> Any:
    """A text, a float, None where nothing stands; NotImplemented for what is no cell."""
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, bool | int | float | np.bool_ | np.integer | np.floating | decimal.Decimal):
        try:
            number = float(value)
        except (OverflowError, ValueError):  # a whole number of a thousand digits, a signalling NaN
            return math.inf
        return None if number != number else number
    if type(value).__name__ in _NO_VALUE:
        return None
    if isinstance(value, datetime.date):
        return value.isoformat()
    return NotImplemented
