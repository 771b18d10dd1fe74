"""Plain tables: columns of numbers, categories and texts, whole, as CSV files hold them whatever their separator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acto.core.errors import UserError
from acto.core.files import require_regular
from acto.core.text import counted
from acto.data.label_columns import is_number
from acto.data.readers.place import Place
from acto.data.readers.text_files import check_titles, read_text, rows_of, separator_notes, separator_of

SUFFIXES = (".csv", ".tsv")
"""Suffixes of CSV files, in small letters."""
_LOOKED_AT = 2**16
"""Bytes of a file in which its heading ends."""
_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PlainTable:
    """Contents of a table, or of several whose rows follow one another."""

    name: str
    """Name of the data set."""
    path: Path
    """Place of it, for messages."""
    columns: dict[str, list[Any]]
    """By title, (N,) each: texts of a CSV; of the others whatever stands there, None for nothing."""
    rows: Sequence[int]
    """(N,) the line of each row, or its number, for messages."""
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names of the classes of columns that have a list of them."""
    splits: tuple[str, ...] = ()
    """(N,) train or test, where files say it and no column; else empty."""
    decimal_comma: bool = False
    """True if numbers may be written 3,5."""
    notes: tuple[str, ...] = ()


def titles_of(path: Path, *, wanted: Sequence[str] = ()) -> list[str]:
    """Read the titles of a CSV file alone; `wanted` helps to tell what separates them.

    Raises:
        UserError: the file cannot be read, or is no table.
    """
    require_regular(path)
    try:
        with path.open("rb") as stream:
            start = stream.read(_LOOKED_AT)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    text = start.decode("utf-8-sig", "ignore")
    rows = rows_of(text, str(path), delimiter=separator_of(text, path, titles=wanted))
    return [title.strip() for title in next(rows, (0, []))[1]]


def read_delimited(path: Path, place: Place) -> PlainTable:
    """Read a CSV file.

    Raises:
        UserError: it cannot be read, has no rows, or two columns of one title.
    """
    text = read_text(path)
    separator = separator_of(text, path)
    reader = rows_of(text, str(path), delimiter=separator)
    titles = [title.strip() or f"Unnamed: {k}" for k, title in enumerate(next(reader, (0, []))[1])]
    check_titles(titles, titles, str(path))
    if titles and 2 * sum(map(is_number, titles)) >= len(titles):
        raise UserError(
            f"{path}: the first row should name the columns, but looks like data: {', '.join(titles[:_SHOWN])}. Put a "
            "row of names before it"
        )
    columns: dict[str, list[Any]] = {title: [] for title in titles}
    lists = list(columns.values())
    lines: list[int] = []
    for line, cells in reader:
        if len(cells) != len(titles):
            place.refuse(f"{path} row {line} has {counted(len(cells), 'cell')}, the heading {len(titles)}")
            continue
        lines.append(line)
        for column, cell in zip(lists, cells, strict=True):
            column.append(cell.strip())
    if not lines:
        raise UserError(f"{path} has no rows")
    return PlainTable(
        name=path.stem,
        path=path,
        columns=columns,
        rows=lines,
        decimal_comma=separator != ",",
        notes=tuple(separator_notes(separator, path)),
    )
