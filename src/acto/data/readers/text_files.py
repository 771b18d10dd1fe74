"""Text files from outside: tables and lists, whose faults are named with the line on which they stand."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from acto.core.errors import UserError
from acto.core.files import require_regular

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
"""Marks between the cells of a table, in words."""
_LONGEST_HEADING = 1 << 20
_LOOKED_AT = 2**24
"""Bytes of a large file that have to be text before the others are read."""


def read_text(path: Path, *, what: str = "") -> str:
    """The whole file as UTF-8, line ends as they are, without the mark at its start that some editors write.

    Args:
        path: the file.
        what: what it is, before its name in an error.

    Raises:
        UserError: it cannot be read, or is not UTF-8; the message names the line.
    """
    name = f"{what} {path}" if what else str(path)
    require_regular(path)
    try:
        with path.open("rb") as stream:
            # A sparse file of terabytes takes no disk, and is full of NUL characters.
            if b"\0" in (start := stream.read(_LOOKED_AT)) and len(start) == _LOOKED_AT:
                raise UserError(f"{name} holds a NUL character: it is no text")
            content = start + stream.read()
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{name} cannot be read: line {line} is not UTF-8 (byte 0x{content[error.start]:02x}); save it as UTF-8"
        ) from None


def rows_of(text: str, name: str, *, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Each row of a CSV text that is not empty, and the line on which it ends.

    Raises:
        UserError: quotation marks that do not fit or a NUL character; it names the line. `name` is the file's.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if any("\0" in cell for cell in cells):
                raise UserError(f"{name} row {reader.line_num} holds a NUL character: it is no text")
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise UserError(f"{name} cannot be read as a table: row {max(1, reader.line_num)}: {error}") from None


def separator_of(text: str, path: Path, *, titles: Sequence[str] = ()) -> str:
    """Find what separates the cells of a CSV text, by its heading.

    It is what makes cells of all `titles`; else what makes the most cells. In doubt it is what the suffix stands for, a
    tab for .tsv and else a comma; where there is a tab in the heading of a .tsv, there is no doubt.

    Args:
        text: of the file, or the beginning of it.
        path: the file's.
        titles: columns that it is known to have.
    """
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    heading = next((line for line in text[:_LONGEST_HEADING].splitlines() if line.strip()), "")
    cells: dict[str, list[str]] = {}
    for separator in (usual, *SEPARATORS):
        cells[separator] = []
        with contextlib.suppress(csv.Error):  # the reader of the rows says what is wrong
            cells[separator] = [cell.strip() for cell in next(csv.reader([heading], delimiter=separator), [])]
        if titles and set(titles) <= set(cells[separator]):
            return separator
    if usual == "\t" and len(cells[usual]) > 1:
        return usual
    return max(cells, key=lambda separator: len(cells[separator]))


def separator_notes(separator: str, path: Path) -> list[str]:
    """Say what separates the cells, where the suffix makes one expect something else."""
    expected = "\t" if path.suffix.lower() == ".tsv" else ","
    return [] if separator == expected else [f"the cells of {path.name} are separated by {SEPARATORS[separator]}"]


def check_titles(titles: Sequence[str], wanted: Sequence[str], name: str) -> None:
    """Refuse a table that has one of the `wanted` columns twice: nobody can say which of them is meant.

    Raises:
        UserError: with the column; `name` is the file's.
    """
    for title in wanted:
        if titles.count(title) > 1:
            raise UserError(f"{name} has {titles.count(title)} columns {title!r}: rename or remove all but one")
