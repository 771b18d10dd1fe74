"""A table with a row an epoch, which survives a kill in the middle of a line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from acto.core.documents import read_content
from acto.core.errors import RunError
from acto.core.files import append, disk_errors, write_atomically
from acto.core.text import counted

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
        """Return the epoch of the last whole row."""
        _, rows, _ = self._read()
        return rows[-1].epoch if rows else None

    def rows(self) -> list[dict[str, Cell]]:
        """Every whole row: numbers and booleans as such, empty cells as None."""
        columns, rows, _ = self._read()
        return [dict(zip(columns, map(_value, row.cells), strict=True)) for row in rows]

    def fault(self) -> str:
        """Say what is wrong with the file; empty if nothing is."""
        try:
            _, _, tail = self._read()
        except RunError as error:
            return str(error)
        return "its last row is half written; --resume drops it" if tail else ""

    def _read(self) -> tuple[list[str], list[_Row], str]:
        """Columns, whole rows, and the half row that an interrupted write left at the end."""
        try:
            *lines, tail = read_content(self.path, error=RunError).decode().split("\n")
            if not lines:
                return [], [], tail
            columns, *rows = csv.reader(lines, strict=True)
            parsed = [_Row(int(cells[0]), cells, f"{line}\n") for cells, line in zip(rows, lines[1:], strict=True)]
        except FileNotFoundError:
            return [], [], ""
        except (ValueError, IndexError, csv.Error) as error:
            raise RunError(f"{self.path} is damaged: {error}") from error
        for number, row in enumerate(parsed, 2):
            if len(row.cells) != len(columns):
                cells = counted(len(row.cells), "cell")
                raise RunError(f"{self.path} is damaged: line {number} has {cells}, not {len(columns)}")
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
