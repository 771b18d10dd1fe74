"""Corrected copies of tables: the file as it is, byte for byte, but for the labels that change and the rows that go.

A row that goes moves those behind it. Where the samples are named by their rows, such a copy has the column sample_id,
so that each keeps its name.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from acto.core.errors import UserError
from acto.data.readers.delimited import SUFFIXES as CSV
from acto.data.readers.formats import read_bare_path
from acto.data.readers.listings import ID_COLUMN
from acto.data.readers.parquet import parquet_file
from acto.data.readers.place import Place
from acto.data.readers.tables import table_in
from acto.data.readers.text_files import read_text, separator_of
from acto.data.samples import DataSpec, Raw, Samples, join
from acto.data.tables.rows import as_texts


@dataclass(frozen=True, kw_only=True, slots=True)
class _Edit:
    """Change of a table."""

    column: str
    """Title of the labels."""
    labels: Mapping[int, str]
    """New class names, by the position of the row."""
    removed: frozenset[int]
    """Positions of the rows that go."""
    ids: Sequence[str]
    """Names of all rows, if the copy has to write them; else empty."""


def corrected_table(
    source: Path, raw: Raw, spec: DataSpec, labels: Mapping[str, str], removed: Collection[str]
) -> bytes:
    """The content of a table with other labels.

    Args:
        source: the table, or the folder that holds it.
        raw: what was read from it.
        spec: by which it was read.
        labels: class names from now on, by id; other rows keep theirs.
        removed: ids of the samples whose rows go.

    Raises:
        UserError: the table cannot be written in its own form.
    """
    path = table_in(source)
    assert path is not None
    whole = read_bare_path(spec, Place(path=path)).train
    samples = join([part for part in (raw.train, raw.test) if part is not None])
    assert whole.rows is not None and samples.rows is not None
    place = {name: row for row, name in enumerate(whole.ids)}
    given = [raw.class_names[k] for k in samples.labels.tolist()]
    gone = frozenset(place[name] for name in removed)
    changed = {
        place[name]: labels[name]
        for name, old in zip(samples.ids, given, strict=True)
        if labels.get(name, old) != old and name not in removed
    }
    numbered = list(whole.ids) == list(map(str, whole.rows.numbers.tolist())) and ID_COLUMN not in whole.rows.cells
    edit = _Edit(
        column=samples.rows.plan.label_column,
        labels=changed,
        removed=gone,
        ids=whole.ids if gone and numbered else (),
    )
    example: dict[str, int] = {}
    for name, label in zip(samples.ids, given, strict=True):
        example.setdefault(label, place[name])
    suffix = path.suffix.lower()
    write = _parquet if suffix == ".parquet" else _csv if suffix in CSV else _json_lines
    return write(path, edit, example)


def _csv(path: Path, edit: _Edit, example: Mapping[str, int]) -> bytes:
    """The text with other cells. A class is written as it stands in the first row that has it."""
    content = path.read_bytes()
    mark = b"\xef\xbb\xbf" if content.startswith(b"\xef\xbb\xbf") else b""
    text = read_text(path)
    separator = separator_of(text, path)
    heading, *rows = _spans(text, separator)
    titles = [_unquoted(text[start:end]).strip() for start, end in heading]
    column = titles.index(edit.column)
    written = {label: text[slice(*rows[row][column])] for label, row in example.items()}
    changes: list[tuple[int, int, str]] = []
    if edit.ids:
        changes.append((heading[0][0], heading[0][0], f"{ID_COLUMN}{separator}"))
    for row, spans in enumerate(rows):
        start = spans[0][0]
        if row in edit.removed:
            end = rows[row + 1][0][0] if row + 1 < len(rows) else len(text)
            changes.append((start, end, ""))
            continue
        if edit.ids:
            changes.append((start, start, f"{edit.ids[row]}{separator}"))
        if row in edit.labels:
            changes.append((*spans[column], written[edit.labels[row]]))
    return mark + _changed(text, changes).encode()


def _spans(text: str, separator: str) -> list[list[tuple[int, int]]]:
    """Beginning and end of each cell of a CSV text, row by row; rows without a cell are left out."""
    mark = re.escape(separator)
    cell = re.compile(rf'("(?:[^"]|"")*"|[^{mark}\r\n]*)({mark}|\r\n|\r|\n|\Z)')
    rows: list[list[tuple[int, int]]] = []
    row: list[tuple[int, int]] = []
    at = 0
    while at < len(text) or row:
        found = cell.match(text, at)
        if found is None:
            raise UserError("a cell has text behind its closing quotation mark")
        row.append(found.span(1))
        at = found.end()
        if found.group(2) != separator:
            if len(row) > 1 or found.group(1):
                rows.append(row)
            row = []
    return rows


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if cell.startswith('"') else cell


def _json_lines(path: Path, edit: _Edit, example: Mapping[str, int]) -> bytes:
    """The lines with other values. A class is written as it stands in the first line that has it."""
    content = path.read_bytes()
    mark = b"\xef\xbb\xbf" if content.startswith(b"\xef\xbb\xbf") else b""
    text = read_text(path)
    lines, at = [], 0
    for line in text.split("\n"):
        if line.strip():
            lines.append((at, line))
        at += len(line) + 1
    spans = {row: _value_span(lines[row][1], edit.column) for row in {*edit.labels, *example.values()} - edit.removed}
    for row in set(example.values()) & edit.removed:
        spans[row] = _value_span(lines[row][1], edit.column)
    written = {label: lines[row][1][slice(*spans[row])] for label, row in example.items()}
    changes: list[tuple[int, int, str]] = []
    for row, (start, line) in enumerate(lines):
        if row in edit.removed:
            changes.append((start, min(start + len(line) + 1, len(text)), ""))
            continue
        if edit.ids:
            inside = start + line.index("{") + 1
            changes.append((inside, inside, f"{json.dumps(ID_COLUMN)}: {json.dumps(edit.ids[row])}, "))
        if row in edit.labels:
            first, last = spans[row]
            changes.append((start + first, start + last, written[edit.labels[row]]))
    return mark + _changed(text, changes).encode()


def _value_span(line: str, title: str) -> tuple[int, int]:
    """Beginning and end of a value in an object's text; the last one, as a reader takes it, if its title is twice."""
    decoder, at, found = json.JSONDecoder(), line.index("{") + 1, (-1, -1)
    blank = re.compile(r"[ \t\r\n]*")

    def skipped(at: int) -> int:
        match = blank.match(line, at)
        assert match is not None
        return match.end()

    while line[at := skipped(at)] != "}":
        key, at = decoder.raw_decode(line, at)
        start = skipped(skipped(at) + 1)  # behind the colon
        _, end = decoder.raw_decode(line, start)
        if key == title:
            found = (start, end)
        at = skipped(end)
        at += line[at] == ","
    assert found[0] >= 0, title
    return found


def _changed(text: str, changes: Sequence[tuple[int, int, str]]) -> str:
    """The text with other parts, which come in its order."""
    parts, at = [], 0
    for start, end, new in changes:
        parts += [text[at:start], new]
        at = end
    return "".join([*parts, text[at:]])


def _parquet(path: Path, edit: _Edit, example: Mapping[str, int]) -> bytes:
    """The table written anew, with the types that its columns have."""
    import pyarrow
    from pyarrow import parquet

    with parquet_file(path) as file:
        table = file.read()
    place = table.column_names.index(edit.column)
    values: list[Any] = table[edit.column].to_pylist()
    written = {label: values[row] for label, row in example.items()}
    for row, label in edit.labels.items():
        values[row] = written[label]
    field = table.schema.field(place)
    table = table.set_column(place, field, pyarrow.array(values, type=field.type))
    if edit.ids:
        table = table.append_column(ID_COLUMN, pyarrow.array(list(edit.ids)))
    stays = np.ones(len(values), bool)
    stays[list(edit.removed)] = False
    buffer = io.BytesIO()
    parquet.write_table(table.filter(pyarrow.array(stays)), buffer)
    return buffer.getvalue()


def refuse_other_cells(before: Samples, after: Samples) -> None:
    """Refuse a copy whose cells, but for the labels, are not those of the original.

    Raises:
        UserError: with a column that differs.
    """
    assert before.rows is not None and after.rows is not None
    row_of = {name: row for row, name in enumerate(before.ids)}
    rows = np.array([row_of[name] for name in after.ids], np.int64)
    for name, cells in before.rows.cells.items():
        if name != ID_COLUMN and as_texts(cells[rows]) != as_texts(after.rows.cells[name]):
            raise UserError(f"the copy does not read back as it was written: column {name!r} differs")
