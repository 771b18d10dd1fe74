"""Files with labels by several people: CSV, TSV and Parquet tables, wide or long, and .npy arrays (N, M)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from acto.core.errors import UserError, choose
from acto.core.files import require_regular
from acto.core.sample_csv import rearmed
from acto.core.text import counted
from acto.data.readers.arrays import read_arrays
from acto.data.readers.parquet import parquet_file, read_parquet
from acto.data.readers.text_files import check_titles, read_text, rows_of, separator_of
from acto.data.vote_forms import VoteCells, read_cells

SUFFIXES = (".csv", ".tsv", ".parquet", ".npy", ".npz")
_PLAIN = ("int", "uint", "float", "double", "halffloat", "bool", "string", "large_string", "dictionary")
"""Beginnings of the types that a Parquet column of labels, ids or annotators may have."""


def read_vote_file(
    path: Path, *, ids: Sequence[str] | None = None, annotators: Sequence[str] | None = None
) -> VoteCells:
    """Read labels by several people.

    Args:
        path: the file.
        ids: see acto.data.vote_forms.read_cells.
        annotators: see there; columns of a table.

    Raises:
        UserError: the file cannot be read, or has another form.
    """
    choose("kind of file with annotators' labels", path.suffix.lower(), SUFFIXES)
    require_regular(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    if path.suffix.lower() in (".npy", ".npz"):
        arrays = read_arrays(path)
        if len(arrays) != 1:
            raise UserError(f"{path} holds {', '.join(map(repr, arrays)) or 'nothing'}, and must hold one (N, M) array")
        return read_cells(next(iter(arrays.values())), ids=ids, annotators=annotators, name=path.name)
    table, rows = read_table(path)
    return read_cells(table, ids=ids, annotators=annotators, name=path.name, rows=rows)


def read_table(path: Path) -> tuple[dict[str, list[Any]], Sequence[int]]:
    """Read all columns of plain values of a table, and the line (or row) of each row.

    Raises:
        UserError: it cannot be read, has no rows, or two columns of one name.
    """
    if path.suffix.lower() == ".parquet":
        with parquet_file(path) as file:
            fields = [(field.name, str(field.type)) for field in file.schema_arrow]
        plain = [name for name, kind in fields if kind.startswith(_PLAIN) and not name.startswith("__index_level")]
        if not plain:
            raise UserError(f"{path} has no column of texts or numbers")
        table = read_parquet(path, plain)
        rows: Sequence[int] = range(1, len(table[plain[0]]) + 1)
    else:
        text = read_text(path)
        reader = rows_of(text, str(path), delimiter=separator_of(text, path))
        titles = [rearmed(title.strip()) for title in next(reader, (0, []))[1]]
        check_titles(titles, titles, str(path))
        lines, cells = [], []
        for line, row in reader:
            if len(row) != len(titles):
                raise UserError(f"{path} row {line} has {counted(len(row), 'cell')}, the heading {len(titles)}")
            lines.append(line)
            cells.append(row)
        columns = list(zip(*cells, strict=True)) if cells else [() for _ in titles]
        table = {title: [rearmed(cell) for cell in column] for title, column in zip(titles, columns, strict=True)}
        rows = lines
    if not rows:
        raise UserError(f"{path} has no rows")
    return table, rows
