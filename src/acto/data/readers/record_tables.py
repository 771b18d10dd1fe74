"""Tables whose cells are pictures, vectors, texts and numbers, behind one door: Arrow's and Parquet's.

What a column holds is told by its type, never by its name.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError
from acto.core.files import require_regular
from acto.data.pictures.packed import in_table, packed
from acto.data.pictures.table_pictures import stored
from acto.data.readers.parquet import PARQUET_HINT, parquet_file, read_arrow

PICTURE, VECTOR, TEXT, NUMBER, OTHER = "pictures", "vectors", "texts", "numbers", "nothing that is read"
"""Kinds of columns, in words."""
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
_NUMBERS = (*_INTEGERS, "halffloat", "float", "double")
_TEXTS = ("string", "large_string")
_BYTES = ("binary", "large_binary")
_MAX_ROWS_PER_BYTE = 20


@dataclass(frozen=True, slots=True)
class Cell:
    """A picture as a table has it."""

    path: Path | None
    """Place of its bytes; None: the table has none of them."""
    name: str
    """Name that the table gives it, a file's name or path; empty if it gives none."""


class Table(ABC):
    """Rows of records.

    Attributes:
        file: where it lies, for messages.
        names: of its columns.
        classes: names of the classes that a column numbers, by column.
        ids: (N,) names that the table gives its rows; None if it gives none.
        perhaps_labels: columns that are taken for labels where no other could be.
        kept: a folder in which its pictures are kept unpacked, once they were asked for.
    """

    perhaps_labels: tuple[str, ...] = ()

    def __init__(self, file: Path, names: Sequence[str], *, classes: Mapping[str, Sequence[str]] | None = None) -> None:
        self.file, self.names = file, tuple(names)
        self.classes: dict[str, tuple[str, ...]] = {name: tuple(found) for name, found in (classes or {}).items()}
        self.ids: tuple[str, ...] | None = None
        self.kept: Path | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def kind(self, name: str) -> str:
        """Tell what a column holds: PICTURE, VECTOR, TEXT, NUMBER or OTHER."""

    @abstractmethod
    def values(self, name: str) -> list[Any]:
        """(N,) texts and numbers of a column; None where a row has none."""

    @abstractmethod
    def vectors(self, name: str) -> npt.NDArray[Any]:
        """(N, ...) numbers of a column.

        Raises:
            UserError: a row has none, or as many as no other; it names the row.
        """

    @abstractmethod
    def pictures(self, name: str) -> list[Cell]:
        """(N,) the pictures of a column."""

    def of_kind(self, *kinds: str) -> list[str]:
        """The columns of these kinds."""
        return [name for name in self.names if self.kind(name) in kinds]

    @property
    def numbers(self) -> Sequence[int]:
        """(N,) numbers of the rows in the file."""
        return range(1, len(self) + 1)

    def place(self, row: int) -> str:
        """Name a row, for messages."""
        return f"{self.file.name} row {row + 1}"


class ArrowTable(Table):
    """A table of pyarrow, in memory or in a file that is mapped into it.

    Args:
        file: see Table.
        table: of pyarrow.
        classes: see Table.
        address: of the file's first byte in memory, where the table's buffers lie in a mapped file.
        store: keeps the bytes of pictures that lie in no file, and returns the paths; None: there is such a file.
    """

    def __init__(
        self,
        file: Path,
        table: Any,
        *,
        classes: Mapping[str, Sequence[str]] | None = None,
        address: int = 0,
        store: Any = None,
    ) -> None:
        super().__init__(file, table.schema.names, classes=classes)
        self._table, self._address, self._store = table, address, store

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def kind(self, name: str) -> str:
        """See Table."""
        return kind_of(self._table.schema.field(name).type)

    def values(self, name: str) -> list[Any]:
        """See Table."""
        return python_values(self._table.column(name))

    def vectors(self, name: str) -> npt.NDArray[Any]:
        """See Table."""
        return _numbers(self._table.column(name), self, name)

    def pictures(self, name: str) -> list[Cell]:
        """See Table."""
        cells: list[Cell] = []
        for chunk in self._table.column(name).chunks:
            content, names = _parts(_storage(chunk))
            if self._store is not None:
                paths = self._store([value.as_py() for value in content], names)
            else:
                paths = [
                    None if size is None else packed(self.file, start, size, text)
                    for (start, size), text in zip(_spans(content, self._address, self), names, strict=True)
                ]
            cells += map(Cell, paths, names)
        return cells


class ParquetTable(Table):
    """A Parquet file.

    Args:
        file: see Table.
        classes: see Table.

    Raises:
        UserError: it is damaged, or pyarrow is not installed.
    """

    def __init__(self, file: Path, *, classes: Mapping[str, Sequence[str]] | None = None) -> None:
        with parquet_file(file) as opened:
            self.schema = opened.schema_arrow
            self._count = int(opened.metadata.num_rows)
        super().__init__(file, self.schema.names, classes=classes)

    def __len__(self) -> int:
        return self._count

    def kind(self, name: str) -> str:
        """See Table."""
        return kind_of(self.schema.field(name).type)

    def values(self, name: str) -> list[Any]:
        """See Table."""
        return python_values(read_arrow(self.file, [name]).column(0))

    def vectors(self, name: str) -> npt.NDArray[Any]:
        """See Table."""
        return _numbers(read_arrow(self.file, [name]).column(0), self, name)

    def pictures(self, name: str) -> list[Cell]:
        """See Table; they are unpacked, see acto.data.pictures.table_pictures."""
        column, kind = self.names.index(name), _storage_type(self.schema.field(name).type)
        unpacked = stored(self.file, column)
        starts, self.kept = unpacked.starts, unpacked.file.parent
        names = [""] * len(self)
        if str(kind).startswith("struct") and kind.get_field_index("path") >= 0:
            found = read_arrow(self.file, [f"{name}.path"]).column(0).combine_chunks().flatten()[0]
            names = [value if isinstance(value, str) else "" for value in found.to_pylist()]
        return [
            Cell(in_table(self.file, column, row, text) if size else None, text)
            for row, (size, text) in enumerate(zip(np.diff(starts).tolist(), names, strict=True))
        ]


def arrow_file(file: Path, *, classes: Mapping[str, Sequence[str]] | None = None) -> ArrowTable:
    """Open an Arrow file, a stream or with a footer, without reading the pictures in it.

    Raises:
        UserError: it is damaged or compressed, or pyarrow is not installed.
    """
    with _pyarrow_errors(file) as pyarrow:
        size = file.stat().st_size
        with pyarrow.memory_map(str(file)) as mapped:
            buffer = mapped.read_buffer(size)
        reader = (pyarrow.ipc.open_file if buffer[:6].to_pybytes() == b"ARROW1" else pyarrow.ipc.open_stream)(buffer)
        table = reader.read_all()
        if table.num_rows > _MAX_ROWS_PER_BYTE * size:
            raise UserError(f"{file} has {size} bytes and claims {table.num_rows} rows: it is damaged, or a bomb")
        table.validate(full=True)
        return ArrowTable(file, table, classes=classes, address=buffer.address)


@contextmanager
def _pyarrow_errors(file: Path) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        raise UserError(PARQUET_HINT) from None
    require_regular(file)
    try:
        yield pyarrow
    except UserError:
        raise
    except Exception as error:  # a broken file raises anything: ArrowException, OSError, ...
        raise UserError(f"{file} is not a readable Arrow file: {error or type(error).__name__}") from error


def kind_of(type: Any) -> str:
    """Tell what a column of a type of Arrow holds."""
    type = _storage_type(type)
    if _is_list(type):
        while _is_list(type):
            type = _storage_type(type.value_type)
        return VECTOR if str(type) in _NUMBERS else OTHER
    text = str(type)
    if text in _BYTES or (text.startswith("struct") and type.get_field_index("bytes") >= 0):
        return PICTURE
    if text.startswith("dictionary") and str(type.value_type) in _TEXTS:
        return TEXT
    return TEXT if text in _TEXTS else NUMBER if text in _NUMBERS else OTHER


def python_values(column: Any) -> list[Any]:
    """(N,) values of a column of pyarrow; a text that stands there once for many rows is not multiplied."""
    values: list[Any] = []
    for chunk in map(_storage, column.chunks):
        if str(chunk.type).startswith("dictionary"):
            words = [*chunk.dictionary.to_pylist(), None]
            values += [words[-1 if place is None else place] for place in chunk.indices.to_pylist()]
        else:
            values += chunk.to_pylist()
    return values


def _is_list(type: Any) -> bool:
    return str(type).startswith(("list<", "large_list<", "fixed_size_list<"))


def _storage_type(type: Any) -> Any:
    """The type in which values of an extension's type are stored: arrays of `datasets`, for one."""
    return getattr(type, "storage_type", type)


def _storage(array: Any) -> Any:
    return getattr(array, "storage", array)


def _parts(chunk: Any) -> tuple[Any, list[str]]:
    """The bytes of pictures, and their names."""
    if not str(chunk.type).startswith("struct"):
        return chunk, [""] * len(chunk)
    fields = chunk.flatten()  # with what the structure lacks
    place = chunk.type.get_field_index("path")
    texts = fields[place].to_pylist() if place >= 0 else [None] * len(chunk)
    return fields[chunk.type.get_field_index("bytes")], [text if isinstance(text, str) else "" for text in texts]


def _spans(content: Any, address: int, table: Table) -> list[tuple[int, int | None]]:
    """The first byte in the file and the size of each value of an array of bytes; no size where there is none.

    Raises:
        UserError: the bytes are compressed, so that they do not stand in the file.
    """
    if str(content.type) == "null":
        return [(0, None)] * len(content)
    _, offsets, data = content.buffers()
    kind = np.dtype("<i8" if str(content.type) == "large_binary" else "<i4")
    ends = np.frombuffer(offsets, kind)[content.offset : content.offset + len(content) + 1].astype(np.int64)
    start = 0 if data is None else data.address - address
    if not 0 <= start <= table.file.stat().st_size:
        raise UserError(f"{table.file} is compressed: save it anew with save_to_disk of `datasets`, or as Parquet")
    sizes = np.diff(ends).tolist()
    missing = content.is_null().to_pylist()
    return [
        (start + first, None if none else size)
        for first, size, none in zip(ends[:-1].tolist(), sizes, missing, strict=True)
    ]


def _numbers(column: Any, table: Table, name: str) -> npt.NDArray[Any]:
    """(N, ...) numbers of a column of lists, which may be lists of lists."""
    import pyarrow.compute as compute

    values = column.combine_chunks()
    values = _storage(values.chunk(0) if hasattr(values, "chunks") else values)
    shape = [len(values)]
    while True:
        if values.null_count:
            row = int(np.flatnonzero(values.is_null())[0]) // max(1, math.prod(shape[1:]))
            raise UserError(f"{table.place(row)}: {name} lacks numbers")
        if not _is_list(values.type):
            break
        lengths = np.asarray(compute.list_value_length(values))
        if (odd := np.flatnonzero(lengths != lengths[:1])).size:
            row = int(odd[0]) // max(1, math.prod(shape[1:]))
            raise UserError(f"{table.place(row)}: {name} has {lengths[odd[0]]} numbers, {table.place(0)} {lengths[0]}")
        shape.append(int(lengths[0]) if len(lengths) else 1)
        values = _storage(values.flatten())
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(shape)
