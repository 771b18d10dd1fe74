"""Parquet files: chosen columns as lists of Python values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from acto.core.errors import UserError, closest
from acto.data.readers.text_files import check_titles

PARQUET_HINT = 'reading Parquet files needs pyarrow: pip install "acto-lnl[parquet]"'
_MAX_ROWS_PER_BYTE = 20
"""Most rows a byte of a Parquet file; each of our rows has a name of its own, which takes more than that."""


def read_parquet(path: Path, columns: Sequence[str], *, optional: Sequence[str] = ()) -> dict[str, list[Any]]:
    """Read columns of a Parquet file as lists of Python values; an optional one is left out if it is not there.

    Raises:
        UserError: pyarrow is not installed, the file is damaged, or a column is missing.
    """
    with parquet_file(path) as file:
        there = file.schema_arrow.names
        check_titles(there, [*columns, *optional], str(path))
        if file.metadata.num_rows > _MAX_ROWS_PER_BYTE * (size := path.stat().st_size):
            raise UserError(
                f"{path} has {size} bytes and claims {file.metadata.num_rows} rows: it is damaged, or a bomb"
            )
        for column in columns:
            if column not in there:
                raise UserError(missing_column(path, column, there))
        wanted = [*columns, *(column for column in optional if column in there)]
        table = file.read(columns=wanted)
        return {column: table[column].to_pylist() for column in wanted}


@contextmanager
def parquet_file(path: Path) -> Iterator[Any]:
    """Open a Parquet file.

    Raises:
        UserError: pyarrow is not installed, or the file is damaged.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(PARQUET_HINT) from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except UserError:
        raise
    except Exception as error:  # a broken file raises anything: ArrowException, OSError, UnicodeDecodeError, ...
        raise UserError(f"{path} is not a readable Parquet file: {error}") from error


def missing_column(path: Path, column: str, columns: Iterable[str]) -> str:
    """Say that a table has no such column."""
    columns = list(columns)
    return f"{path} has no column {column!r}.{closest(column, columns)} Columns: {', '.join(map(repr, columns))}"
