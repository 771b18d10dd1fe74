"""Parquet files: chosen columns as lists of Python values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from acto.core.errors import UserError, closest
from acto.core.files import check_bomb, most_unpacked, require_regular
from acto.core.text import counted
from acto.data.readers.text_files import check_titles

PARQUET_HINT = 'reading Parquet files needs pyarrow: pip install "acto-lnl[parquet]"'
_MAX_ROWS_PER_BYTE = 20
"""Most rows a byte of a Parquet file; each of our rows has a name of its own, which takes more than that."""


_PICTURES_AT_ONCE = 64


def read_parquet(path: Path, columns: Sequence[str], *, optional: Sequence[str] = ()) -> dict[str, list[Any]]:
    """Read columns of a Parquet file as lists of Python values; an optional one is left out if it is not there.

    Raises:
        UserError: pyarrow is not installed, the file is damaged, or a column is missing.
    """
    with parquet_file(path) as file:
        there = file.schema_arrow.names
        check_titles(there, [*columns, *optional], str(path))
        for column in columns:
            if column not in there:
                raise UserError(missing_column(path, column, there))
        wanted = [*columns, *(column for column in optional if column in there)]
        check_sizes(file, path, wanted)
        table = file.read(columns=wanted)
        return {column: table[column].to_pylist() for column in wanted}


def read_arrow(path: Path, columns: Sequence[str]) -> Any:
    """Read columns of a Parquet file as a table of pyarrow; "img.path" reads a part of a structure.

    Raises:
        UserError: as read_parquet.
    """
    with parquet_file(path) as file:
        check_sizes(file, path, columns)
        return file.read(columns=list(columns))


def stored_bytes(path: Path, column: int) -> int:
    """The bytes that a column (from 0) of a Parquet file takes once it is unpacked, by the file's own account.

    Raises:
        UserError: as read_parquet.
    """
    with parquet_file(path) as file:
        name, facts = _column_name(file, path, column), file.metadata
        groups = map(facts.row_group, range(facts.num_row_groups))
        chunks = (chunk for group in groups for chunk in map(group.column, range(group.num_columns)))
        return sum(chunk.total_uncompressed_size for chunk in chunks if _is_of(chunk.path_in_schema, (name,)))


def picture_bytes(path: Path, column: int) -> Iterator[bytes]:
    """The picture files in a column (from 0) of a Parquet file, in order; no bytes where a row has none.

    Raises:
        UserError: as read_parquet; or it is no column of pictures, which are bytes or structures with `bytes`.
    """
    with parquet_file(path) as file:
        name = _column_name(file, path, column)
        check_sizes(file, path, (name,))
        for batch in file.iter_batches(_PICTURES_AT_ONCE, columns=[name]):
            values = batch.column(0)
            if str(values.type).startswith("struct") and values.type.get_field_index("bytes") >= 0:
                values = values.flatten()[values.type.get_field_index("bytes")]
            if str(values.type) not in ("binary", "large_binary", "null"):
                raise UserError(f"{path}: {name} holds {values.type}, and no picture files")
            for value in values:
                yield value.as_py() or b""


def _column_name(file: Any, path: Path, column: int) -> str:
    names = file.schema_arrow.names
    if column >= len(names):
        raise UserError(f"{path} has {counted(len(names), 'column')}, and none of the number {column} (from 0)")
    return str(names[column])


def check_sizes(file: Any, path: Path, columns: Sequence[str]) -> None:
    """Refuse a file whose `columns` would take far more memory than a file of its size should.

    A dictionary on the disk holds a text once, however many rows have it. So columns of texts are looked at as
    dictionaries, and structures of them so few rows at a time that those cannot take more than a part of what is
    allowed.

    Raises:
        UserError: with both sizes.
    """
    size, facts = path.stat().st_size, file.metadata
    chunks = [
        [chunk for chunk in map(group.column, range(group.num_columns)) if _is_of(chunk.path_in_schema, columns)]
        for group in map(facts.row_group, range(facts.num_row_groups))
    ]
    values = [sum(chunk.num_values for chunk in parts) for parts in zip(*chunks, strict=True)]
    if (most := max(facts.num_rows, *values, 0)) > _MAX_ROWS_PER_BYTE * size:
        raise UserError(f"{path} has {size} bytes and claims {most} rows or values: it is damaged, or a bomb")
    stored = [sum(chunk.total_uncompressed_size for chunk in group) for group in chunks]
    check_bomb(str(path), unpacked=sum(stored), packed=size)
    largest = max(stored, default=0)
    if facts.num_rows * largest <= most_unpacked(size):  # were every value as large as all of them together
        return
    no_dictionary = {c.path_in_schema for group in chunks for c in group if any("DELTA" in e for e in c.encodings)}
    types = {name: file.schema_arrow.field(name).type for name in columns if name in file.schema_arrow.names}
    texts = [name for name in columns if name not in no_dictionary and _is_text(types.get(name))]
    unpacked = 0
    for names, step in ((texts, 65536), ([name for name in columns if name not in texts], 0)):
        step = step or max(1, most_unpacked(size) // (8 * largest))
        with parquet_file(path, read_dictionary=texts) as again:
            for batch in again.iter_batches(step, columns=names) if names else ():
                unpacked += sum(map(_unpacked, batch.columns))
                check_bomb(str(path), unpacked=unpacked, packed=size)


def _unpacked(column: Any) -> int:
    """The bytes of a column's values, those of a dictionary as often as they stand there."""
    import pyarrow.compute
    from pyarrow import types

    if isinstance(column, pyarrow.DictionaryArray) and _is_text(column.type.value_type):
        lengths = pyarrow.compute.binary_length(column.dictionary)
        return pyarrow.compute.sum(lengths.take(column.indices)).as_py() or 0
    if types.is_struct(column.type):
        return sum(map(_unpacked, column.flatten()))
    if types.is_list(column.type) or types.is_large_list(column.type):
        return column.nbytes + _unpacked(column.flatten())
    return int(column.nbytes)


def _is_of(leaf: str, columns: Sequence[str]) -> bool:
    """Say whether a column of the file ("img.bytes", "label") is one of `columns` or a part of one."""
    return any(leaf == column or leaf.startswith(f"{column}.") for column in columns)


def _is_text(kind: Any) -> bool:
    return str(kind) in ("string", "large_string", "binary", "large_binary")


@contextmanager
def parquet_file(path: Path, **options: Any) -> Iterator[Any]:
    """Open a Parquet file; `options` are pyarrow's.

    Raises:
        UserError: pyarrow is not installed, or the file is damaged.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(PARQUET_HINT) from None
    require_regular(path)
    try:
        with pyarrow.parquet.ParquetFile(path, **options) as file:
            yield file
    except UserError:
        raise
    except Exception as error:  # a broken file raises anything: ArrowException, OSError, UnicodeDecodeError, ...
        raise UserError(f"{path} is not a readable Parquet file: {error or type(error).__name__}") from error


def missing_column(path: Path, column: str, columns: Iterable[str]) -> str:
    """Say that a table has no such column."""
    columns = list(columns)
    return f"{path} has no column {column!r}.{closest(column, columns)} Columns: {', '.join(map(repr, columns))}"
