"""Tables in files, whole: CSV whatever its separator, JSON Lines, and Parquet; a list of values for each column."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acto.core.documents import parse_json
from acto.core.errors import UserError
from acto.core.files import require_regular
from acto.data.label_columns import is_number
from acto.data.readers.parquet import parquet_file, read_parquet
from acto.data.readers.place import Place
from acto.data.readers.text_files import check_titles, read_text, rows_of

JSON_LINES = (".jsonl", ".ndjson")
SUFFIXES = (".csv", ".tsv", ".parquet", *JSON_LINES)
"""Suffixes of tables, in small letters."""
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_LOOKED_AT = 2**16
"""Bytes of a file in which its heading ends."""
_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Table:
    """Contents of a table's file."""

    path: Path
    columns: dict[str, list[Any]]
    """By title, (N,) each: texts of a CSV; of the others whatever stands there, None for nothing."""
    rows: Sequence[int]
    """(N,) the line of each row, or its number, for messages."""
    decimal_comma: bool = False
    """True if numbers may be written 3,5."""
    notes: tuple[str, ...] = ()


def titles_of(path: Path) -> list[str]:
    """Read the columns' titles alone, of JSON Lines those of the first line.

    Raises:
        UserError: the file cannot be read, or is no table.
    """
    if path.suffix.lower() == ".parquet":
        with parquet_file(path) as file:
            return list(file.schema_arrow.names)
    require_regular(path)
    try:
        with path.open("rb") as stream:
            start = stream.read(_LOOKED_AT)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    text = start.decode("utf-8-sig", "ignore")
    if path.suffix.lower() in JSON_LINES:
        first = next((line for line in text.split("\n") if line.strip()), "{}")
        try:
            record = json.loads(first)
        except (ValueError, RecursionError):
            return []
        return list(record) if isinstance(record, dict) else []
    first_row = next(rows_of(text, str(path), delimiter=separator_of(text, path)), (0, []))[1]
    return [title.strip() for title in first_row]


def separator_of(text: str, path: Path) -> str:
    """Find the separator of a CSV text: the one that cuts its first row into the most cells; a comma in doubt."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    first = next((line for line in text[:_LOOKED_AT].splitlines() if line.strip()), "")
    counts = {}
    for separator in SEPARATORS:
        try:
            counts[separator] = len(next(csv.reader([first], delimiter=separator), []))
        except csv.Error:
            counts[separator] = 0
    return max(SEPARATORS, key=lambda separator: counts[separator])


def separator_notes(text: str, path: Path) -> list[str]:
    """Say what separates the cells, where nobody would expect it."""
    separator = separator_of(text, path)
    if separator == "," or path.suffix.lower() == ".tsv":
        return []
    return [f"the cells of {path.name} are separated by {SEPARATORS[separator]}"]


def read_table(path: Path, place: Place) -> Table:
    """Read a table of one of SUFFIXES.

    Raises:
        UserError: it cannot be read, has no rows, or two columns of one title.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        titles = titles_of(path)
        check_titles(titles, titles, str(path))
        columns: dict[str, list[Any]] = read_parquet(path, titles)
        table = Table(path=path, columns=columns, rows=range(1, 1 + max(map(len, columns.values()), default=0)))
    else:
        table = _json_lines(path) if suffix in JSON_LINES else _csv(path, place)
    if not table.rows:
        raise UserError(f"{path} has no rows")
    return table


def _csv(path: Path, place: Place) -> Table:
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
            place.refuse(f"{path} row {line} has {len(cells)} cells, the heading {len(titles)}")
            continue
        lines.append(line)
        for column, cell in zip(lists, cells, strict=True):
            column.append(cell.strip())
    notes = tuple(separator_notes(text, path))
    return Table(path=path, columns=columns, rows=lines, decimal_comma=separator != ",", notes=notes)


def _json_lines(path: Path) -> Table:
    columns: dict[str, list[Any]] = {}
    lines: list[int] = []
    for line, text in enumerate(read_text(path).split("\n"), 1):
        if not text.strip():
            continue
        record = parse_json(text, f"{path} row {line}")
        if not isinstance(record, dict):
            raise UserError(f"{path} row {line}: each line must be an object {{...}}, not {text.strip()[:40]!r}")
        for title, value in record.items():
            if isinstance(value, str) or title not in columns:
                _check_text(title, f"{path} row {line}")
                _check_text(value, f"{path} row {line}, {title!r}")
            columns.setdefault(title, [None] * len(lines)).append(value)
        lines.append(line)
        for column in columns.values():
            if len(column) < len(lines):
                column.append(None)
    return Table(path=path, columns=columns, rows=lines)


def _check_text(value: object, what: str) -> None:
    """Refuse half a character, which JSON can write and nothing else can."""
    try:
        str(value).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{what} holds half a character ({value[error.start]!r}): it is no text") from None  # type: ignore[index]
