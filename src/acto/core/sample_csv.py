"""The two kinds of CSV file in a run's folder: a row an epoch, appended; a row a sample, replaced as a whole."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from acto.core.errors import UserError
from acto.core.files import RunError, append, disk_errors, write_atomically

Column = Sequence[Any] | np.ndarray[Any, Any]
"""(N,) numbers, booleans or strings."""
Cell = float | int | bool | str | None


@dataclass(frozen=True, slots=True)
class _Row:
    epoch: int
    cells: list[str]
    line: str


class EpochTable:
    """A CSV file whose first column is the epoch, in ascending order; floats read back bit for bit."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, epoch: int, values: Mapping[str, Cell]) -> None:
        """Add a row and put it on the disk. It may lack columns, and bring new ones: they are empty in earlier rows.

        Raises:
            RunError: the disk refuses; the file is as it was.
        """
        row = {"epoch": epoch, **values}
        with disk_errors(f"write {self.path}"):
            columns, rows, tail = self._read()
            assert not tail, f"{self.path} ends in half a row: truncate_after() comes before the first row of a resume"
            assert not rows or rows[-1].epoch < epoch, f"{self.path} has epoch {rows[-1].epoch}; now comes {epoch}"
            new = [name for name in row if name not in columns]
            columns += new
            line = _line(_text(row.get(name)) for name in columns)
            if new:
                earlier = [_line([*r.cells, *[""] * len(new)]) for r in rows]
                write_atomically(self.path, "".join([_line(columns), *earlier, line]).encode())
            else:
                append(self.path, line.encode())

    def truncate_after(self, epoch: int) -> None:
        """Drop the rows of later epochs and a half-written last one; the file goes if no row is left."""
        with disk_errors(f"write {self.path}"):
            columns, rows, _ = self._read()
            kept = [row.line for row in rows if row.epoch <= epoch]
            if kept:
                write_atomically(self.path, "".join([_line(columns), *kept]).encode())
            else:
                self.path.unlink(missing_ok=True)

    def last_epoch(self) -> int | None:
        """Of the last whole row."""
        _, rows, _ = self._read()
        return rows[-1].epoch if rows else None

    def rows(self) -> list[dict[str, Cell]]:
        """Every whole row: numbers and booleans as such, empty cells as None."""
        columns, rows, _ = self._read()
        return [dict(zip(columns, map(_value, row.cells), strict=True)) for row in rows]

    def fault(self) -> str:
        """What is wrong with the file, or an empty string."""
        try:
            _, _, tail = self._read()
        except RunError as error:
            return str(error)
        return "its last row is half written; --resume drops it" if tail else ""

    def _read(self) -> tuple[list[str], list[_Row], str]:
        """Columns, whole rows, and the half row that an interrupted write left at the end."""
        try:
            with disk_errors(f"read {self.path}"):
                *lines, tail = self.path.read_bytes().decode().split("\n") if self.path.exists() else [""]
            if not lines:
                return [], [], tail
            columns, *rows = csv.reader(lines, strict=True)
            parsed = [_Row(int(cells[0]), cells, f"{line}\n") for cells, line in zip(rows, lines[1:], strict=True)]
        except (ValueError, IndexError, csv.Error) as error:
            raise RunError(f"{self.path} is damaged: {error}") from error
        for number, row in enumerate(parsed, 2):
            if len(row.cells) != len(columns):
                raise RunError(f"{self.path} is damaged: line {number} has {len(row.cells)} cells, not {len(columns)}")
        return columns, parsed, tail


def _line(cells: Iterable[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    text = buffer.getvalue()
    assert text.count("\n") == 1 and "\r" not in text, f"a line break inside a cell of {text!r}"
    return text


def _text(value: Cell | np.generic) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def _value(text: str) -> Cell:
    if text in ("", "true", "false"):
        return {"": None, "true": True, "false": False}[text]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


# The per-sample table.

_FORMULA = tuple("=+-@\t\r'")
"""First characters of what a spreadsheet may run, and the apostrophe that disarms them."""
_MARKED = re.compile(r"""[,"\r]|^[=+@\t'-]|^$""", re.MULTILINE)
"""Finds, in texts that stand one a line, what may not be written as it is."""


def sample_csv(columns: Mapping[str, Column]) -> tuple[bytes, dict[str, str]]:
    """The table as CSV, and the type of each column: "str" or a numpy name.

    A string that a spreadsheet would take for a formula gets a leading apostrophe. Names of files that are no UTF-8
    keep their bytes.
    """
    lengths = {name: len(column) for name, column in columns.items()}
    assert len(set(lengths.values())) == 1, f"columns of different lengths: {lengths}"
    parts = {name: _texts(column) for name, column in columns.items()}
    lines = [
        ",".join(map(_quoted, columns)),
        *map(",".join, zip(*(texts for _, texts in parts.values()), strict=True)),
        "",
    ]
    text = "\n".join(lines).encode("utf-8", "surrogateescape")
    return text, {name: kind for name, (kind, _) in parts.items()}


def read_sample_csv(path: Path, types: Mapping[str, str]) -> dict[str, np.ndarray[Any, Any] | list[str]]:
    """The table that sample_csv wrote: strings as lists, all else as (N,) arrays of the type they had.

    Raises:
        RunError: the file does not have these columns or values.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = csv.reader(file, strict=True)
            header = next(rows, [])
            if [_rearm(name) for name in header] != list(types):
                raise ValueError(f"its columns are {', '.join(header)}, not {', '.join(types)}")
            columns: list[list[str]] = [[] for _ in types]
            # Some rows at a time: with millions of lists at hand Python would spend its time on looking for garbage.
            while part := list(islice(rows, 4096)):
                for column, cells in zip(columns, zip(*part, strict=True), strict=True):
                    column += cells
        return {
            name: list(map(_rearm, texts)) if kind == "str" else _array(texts, kind)
            for (name, kind), texts in zip(types.items(), columns, strict=True)
        }
    except (ValueError, OverflowError, csv.Error) as error:
        raise RunError(f"{path} is damaged: {error}") from error


def sample_parquet(columns: Mapping[str, Column]) -> bytes:
    """The table as Parquet; bytes of a file's name that are no UTF-8 come out as backslash codes.

    Raises:
        UserError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError('samples.parquet needs pyarrow: pip install "acto-lnl[parquet]"') from error
    clean = {name: _decodable(column) if _is_text(column) else column for name, column in columns.items()}
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(clean), buffer)
    return buffer.getvalue()


def _decodable(column: Column) -> list[str]:
    """The texts with backslash codes for the bytes of a file's name that are no UTF-8."""
    texts: list[str] = column.tolist() if isinstance(column, np.ndarray) else list(column)
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return [text.encode("utf-8", "backslashreplace").decode() for text in texts]
    return texts


def _is_text(column: Column) -> bool:
    return len(column) > 0 and isinstance(column[0], str)


def _texts(column: Column) -> tuple[str, list[str]]:
    """A column's type and its cells."""
    if _is_text(column):
        return "str", _all_quoted(column.tolist() if isinstance(column, np.ndarray) else list(column))
    array = np.asarray(column)
    assert array.ndim == 1 and array.dtype.kind in "biuf", f"a column of {array.dtype}, shape {array.shape}"
    if array.dtype.kind == "b":
        return "bool", np.where(array, "true", "false").tolist()
    if array.dtype.kind in "iu":
        return array.dtype.name, list(map(str, array.tolist()))
    # numpy's own text is the shortest that reads back as the same float32.
    return array.dtype.name, array.astype(str).tolist()


def _array(texts: Sequence[str], kind: str) -> np.ndarray[Any, Any]:
    if kind == "bool":
        if not set(texts) <= {"true", "false"}:
            raise ValueError(f"{set(texts) - {'true', 'false'}} in a column of true and false")
        return np.array([text == "true" for text in texts], dtype=bool)
    # By way of Python's numbers, which takes a tenth of the time of numpy's own reading of texts.
    return np.array(list(map(int if np.dtype(kind).kind in "iu" else float, texts)), dtype=kind)


def _all_quoted(texts: list[str]) -> list[str]:
    """Every text _quoted. With a million samples one look at all of them together is what takes no time."""
    together = "\n".join(texts)
    if _MARKED.search(together) is None and together.count("\n") == len(texts) - 1:
        return texts
    quoted = {text: _quoted(text) for text in set(texts)}
    return [quoted[text] for text in texts]


def _quoted(text: str) -> str:
    """Disarmed, and in quotes where CSV needs them; csv.writer forgets a lone carriage return."""
    if text.startswith(_FORMULA):
        text = f"'{text}"
    if text and not any(mark in text for mark in ',"\r\n'):
        return text
    escaped = text.replace('"', '""')
    return f'"{escaped}"'


def _rearm(text: str) -> str:
    return text.removeprefix("'")
