"""The two kinds of CSV file in a run's folder: a row an epoch, appended; a row a sample, replaced as a whole."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from acto.core.errors import RunError, UserError
from acto.core.files import require_regular

Column = Sequence[Any] | np.ndarray[Any, Any]
"""(N,) numbers, booleans or strings."""


# The per-sample table.

_FORMULA = tuple("=+-@\t\r'")
"""First characters of what a spreadsheet may run, and the apostrophe that disarms them."""
_MARKED = re.compile(r"""[,"\r]|^[=+@\t'-]|^$""", re.MULTILINE)
"""Finds, in texts that stand one a line, what may not be written as it is."""


def sample_csv(columns: Mapping[str, Column]) -> tuple[bytes, dict[str, str]]:
    """The table as CSV, and the type of each column: "str" or a numpy name.

    A string that a spreadsheet would take for a formula gets a leading apostrophe. Names of files that are no UTF-8
    keep their bytes.
    """
    lengths = {name: len(column) for name, column in columns.items()}
    assert len(set(lengths.values())) == 1, f"columns of different lengths: {lengths}"
    parts = {name: _texts(column) for name, column in columns.items()}
    lines = [
        ",".join(map(_quoted, columns)),
        *map(",".join, zip(*(texts for _, texts in parts.values()), strict=True)),
        "",
    ]
    text = "\n".join(lines).encode("utf-8", "surrogateescape")
    return text, {name: kind for name, (kind, _) in parts.items()}


def read_sample_csv(path: Path, types: Mapping[str, str]) -> dict[str, np.ndarray[Any, Any] | list[str]]:
    """The table that sample_csv wrote: strings as lists, all else as (N,) arrays of the type they had.

    Raises:
        RunError: the file does not have these columns or values.
    """
    require_regular(path)
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = csv.reader(file, strict=True)
            header = next(rows, [])
            if [_rearm(name) for name in header] != list(types):
                raise ValueError(f"its columns are {', '.join(header)}, not {', '.join(types)}")
            columns: list[list[str]] = [[] for _ in types]
            # Some rows at a time: with millions of lists at hand Python would spend its time on looking for garbage.
            while part := list(islice(rows, 4096)):
                for column, cells in zip(columns, zip(*part, strict=True), strict=True):
                    column += cells
        return {
            name: list(map(_rearm, texts)) if kind == "str" else _array(texts, kind)
            for (name, kind), texts in zip(types.items(), columns, strict=True)
        }
    except (ValueError, OverflowError, csv.Error) as error:
        raise RunError(f"{path} is damaged: {error}") from error


def sample_parquet(columns: Mapping[str, Column]) -> bytes:
    """The table as Parquet; bytes of a file's name that are no UTF-8 come out as backslash codes.

    Raises:
        UserError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError('samples.parquet needs pyarrow: pip install "acto-lnl[parquet]"') from error
    clean = {name: _decodable(column) if _is_text(column) else column for name, column in columns.items()}
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(clean), buffer)
    return buffer.getvalue()


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


def _texts(column: Column) -> tuple[str, list[str]]:
    """A column's type and its cells."""
    if _is_text(column):
        return "str", _all_quoted(column.tolist() if isinstance(column, np.ndarray) else list(column))
    array = np.asarray(column)
    assert array.ndim == 1 and array.dtype.kind in "biuf", f"a column of {array.dtype}, shape {array.shape}"
    if array.dtype.kind == "b":
        return "bool", np.where(array, "true", "false").tolist()
    if array.dtype.kind in "iu":
        return array.dtype.name, list(map(str, array.tolist()))
    # numpy's own text is the shortest that reads back as the same float32.
    return array.dtype.name, array.astype(str).tolist()


def _array(texts: Sequence[str], kind: str) -> np.ndarray[Any, Any]:
    if kind == "bool":
        if not set(texts) <= {"true", "false"}:
            raise ValueError(f"{set(texts) - {'true', 'false'}} in a column of true and false")
        return np.array([text == "true" for text in texts], dtype=bool)
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
    """Put an apostrophe before a text that a spreadsheet would take for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _quoted(text: str) -> str:
    """Disarmed, and in quotes where CSV needs them; csv.writer forgets a lone carriage return."""
    text = disarmed(text)
    if text and not any(mark in text for mark in ',"\r\n'):
        return text
    escaped = text.replace('"', '""')
    return f'"{escaped}"'


def _rearm(text: str) -> str:
    return text.removeprefix("'")
