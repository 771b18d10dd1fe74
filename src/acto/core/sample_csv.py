"""The two kinds of CSV file in a run's folder: a row an epoch, appended; a row a sample, replaced as a whole."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from acto.core.errors import RunError, UserError
from acto.core.files import open_regular

Column = Sequence[Any] | np.ndarray[Any, Any]
"""(N,) numbers, booleans or strings."""


# The per-sample table.

_AT_ONCE = 2**16
"""Rows that are written at a time."""

_NUMBER = re.compile(r"u?int(8|16|32|64)|float(16|32|64)")
_SIGNS = r"=+@＝＋－＠﹦﹢﹣﹫−\-"
"""First characters of what a spreadsheet may run: some take full-width and small forms for the usual ones."""
_UNSEEN = (
    r'\0-\x08\x0b\x0c\x0e-\x20"\x7f-\xa0\xad\u034f\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000'
    r"\u3164\ufe00-\ufe0f\ufeff\udc80-\udcff"
)
"""Characters that a spreadsheet may drop before it looks for a sign, and the quotation mark, which CSV doubles."""
_CUTS = r";|\t\r\n,"
"""Characters at which a spreadsheet may cut a cell, if it is told another separator or looks for one by itself."""
_FORMULA = re.compile(rf"\A(?=['\t\r\n]|[{_UNSEEN}]*[{_SIGNS}])|(?<=[{_CUTS}])(?='*[{_UNSEEN}]*[{_SIGNS}])")
"""Finds the places at which an apostrophe disarms a text. Where one stands already it gets another, so that the way
back is sure; behind a cut only before a sign: tables of earlier versions hold bare ones elsewhere."""
_DISARMED = re.compile(rf"\A'|(?<=[{_CUTS}])'(?='*[{_UNSEEN}]*[{_SIGNS}])")
_MARKED = re.compile(rf"""[,"\r\t;|]|^['{_UNSEEN}{_SIGNS}]|^$""", re.MULTILINE)
"""Finds, in texts that stand one a line, what may not be written as it is."""


def sample_csv(columns: Mapping[str, Column]) -> tuple[bytes, dict[str, str]]:
    """The table as CSV, and the type of each column: "str" or a numpy name.

    A string that a spreadsheet would take for a formula gets an apostrophe, see `disarmed`. Names of files that are no
    UTF-8 keep their bytes.
    """
    return b"".join(sample_csv_parts(columns)), column_types(columns)


def sample_csv_parts(columns: Mapping[str, Column]) -> Iterator[bytes]:
    """The same in parts of some rows each, so that a table of any length needs little memory."""
    yield f"{','.join(map(_quoted, columns))}\n".encode("utf-8", "surrogateescape")
    for part in _parts(columns):
        lines = map(",".join, zip(*map(_texts, part.values()), strict=True))
        yield "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


def column_types(columns: Mapping[str, Column]) -> dict[str, str]:
    """The type of each column: "str" or a numpy name."""
    return {name: _type(column) for name, column in columns.items()}


def _parts(columns: Mapping[str, Column]) -> Iterator[dict[str, Column]]:
    """The table some rows at a time; a table without rows is one part."""
    lengths = {name: len(column) for name, column in columns.items()}
    assert len(set(lengths.values())) == 1, f"columns of different lengths: {lengths}"
    columns = {k: v if _is_text(v) or not len(v) else np.asarray(v) for k, v in columns.items()}
    for start in range(0, max(1, *lengths.values()), _AT_ONCE):
        yield {name: column[start : start + _AT_ONCE] for name, column in columns.items()}


def read_sample_csv(path: Path, types: Mapping[str, str]) -> dict[str, np.ndarray[Any, Any] | list[str]]:
    """The table that sample_csv wrote: strings as lists, all else as (N,) arrays of the type they had.

    Raises:
        RunError: the file does not have these columns or values.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="", opener=open_regular) as file:
            rows = csv.reader(file, strict=True)
            header = next(rows, [])
            if [rearmed(name) for name in header] != list(types):
                raise ValueError(f"its columns are {', '.join(header)}, not {', '.join(types)}")
            columns: list[list[str]] = [[] for _ in types]
            # Some rows at a time: with millions of lists at hand Python would spend its time on looking for garbage.
            while part := list(islice(rows, 4096)):
                for column, cells in zip(columns, zip(*part, strict=True), strict=True):
                    column += cells
        return {
            name: list(map(rearmed, texts)) if kind == "str" else _array(texts, kind)
            for (name, kind), texts in zip(types.items(), columns, strict=True)
        }
    except (ValueError, TypeError, OverflowError, csv.Error) as error:
        raise RunError(f"{path} is damaged: {error}") from error


def sample_parquet(columns: Mapping[str, Column]) -> bytes:
    """The table as Parquet; bytes of a file's name that are no UTF-8 come out as backslash codes.

    Raises:
        UserError: pyarrow is not installed.
    """
    return b"".join(sample_parquet_parts(columns))


def sample_parquet_parts(columns: Mapping[str, Column]) -> Iterator[bytes]:
    """The same in parts of some rows each.

    Raises:
        UserError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError('samples.parquet needs pyarrow: pip install "acto-lnl[parquet]"') from error
    out, writer = _Drained(), None
    for part in _parts(columns):
        clean = {name: _decodable(column) if _is_text(column) else column for name, column in part.items()}
        table = pyarrow.table(clean)
        writer = writer or parquet.ParquetWriter(out, table.schema)
        writer.write_table(table)
        yield out.drain()
    if writer is not None:
        writer.close()
    yield out.drain()


class _Drained(io.RawIOBase):
    """A file that is only written to, and gives away what it has got."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._place = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self._place += len(self._parts[-1])
        return len(self._parts[-1])

    def drain(self) -> bytes:
        """All that was written since the last time."""
        data = b"".join(self._parts)
        self._parts.clear()
        return data


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


def _type(column: Column) -> str:
    return "str" if _is_text(column) else np.asarray(column).dtype.name


def _texts(column: Column) -> list[str]:
    """A column's cells."""
    if _is_text(column):
        return _all_quoted(column.tolist() if isinstance(column, np.ndarray) else list(column))
    array = np.asarray(column)
    assert array.ndim == 1 and array.dtype.kind in "biuf", f"a column of {array.dtype}, shape {array.shape}"
    if array.dtype.kind == "b":
        return np.where(array, "true", "false").tolist()
    if array.dtype.kind in "iu":
        return list(map(str, array.tolist()))
    # numpy's own text is the shortest that reads back as the same float32.
    return array.astype(str).tolist()


def _array(texts: Sequence[str], kind: str) -> np.ndarray[Any, Any]:
    if kind == "bool":
        if not set(texts) <= {"true", "false"}:
            raise ValueError(f"{set(texts) - {'true', 'false'}} in a column of true and false")
        return np.array([text == "true" for text in texts], dtype=bool)
    if not isinstance(kind, str) or not _NUMBER.fullmatch(kind):
        raise ValueError(f"{kind!r} is no type of a column")
    # By way of Python's numbers, which takes a tenth of the time of numpy's own reading of texts.
    return np.array(list(map(int if np.dtype(kind).kind in "iu" else float, texts)), dtype=kind)


def _all_quoted(texts: list[str]) -> list[str]:
    """Quote every text. One look at all of them together is fast even for a million samples."""
    together = "\n".join(texts)
    if _MARKED.search(together) is None and together.count("\n") == len(texts) - 1:
        return texts
    quoted = {text: _quoted(text) for text in set(texts)}
    return [quoted[text] for text in texts]


def disarmed(text: str) -> str:
    """Put an apostrophe before what a spreadsheet would take for a formula, whichever separator it cuts cells at."""
    return _FORMULA.sub("'", text)


def rearmed(text: str) -> str:
    """Take the apostrophes off again that `disarmed` has put on."""
    return _DISARMED.sub("", text)


def _quoted(text: str) -> str:
    """Disarmed, and in quotes where CSV needs them; csv.writer forgets a lone carriage return."""
    text = disarmed(text)
    if text and not any(mark in text for mark in ',"\r\n'):
        return text
    escaped = text.replace('"', '""')
    return f'"{escaped}"'
