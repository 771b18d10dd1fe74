"""Files of somebody else's labels and probabilities: .npy, .npz, CSV, TSV and Parquet.

A .npy file of probabilities stays on the disk, and tables are read some rows at a time into single precision. FILE:NAME
names an array of an .npz file, or the column of labels of a table. torch is never imported here.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.documents import read_json
from acto.core.errors import UserError, choose
from acto.core.files import open_regular, require_regular
from acto.core.sample_csv import rearmed
from acto.core.text import counted
from acto.data.label_columns import is_number
from acto.data.readers.arrays import map_array, read_arrays, stated_classes
from acto.data.readers.parquet import check_sizes, missing_column, parquet_file
from acto.data.readers.text_files import check_titles, read_text, separator_of
from acto.data.readers.vote_files import read_table
from acto.data.vote_forms import ID_NAMES

ARRAYS, TABLES = (".npy", ".npz"), (".csv", ".tsv", ".parquet")
_LABEL_NAMES = ("labels", "label", "given_labels", "given_label", "noisy_labels", "noisy_label", "y")
_PROBS_NAMES = ("pred_probs", "probs", "probabilities", "predictions")
"""Names of arrays and columns that are taken without asking, in this order."""
_AT_ONCE = 2**20
"""Numbers of a table that are texts or Python's at a time."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GivenLabels:
    """Labels as a file has them."""

    path: Path
    values: Sequence[Any] | npt.NDArray[Any]
    """(N,) names or numbers."""
    ids: tuple[str, ...] | None = None
    """(N,) names of the samples, where the file has them."""
    class_names: tuple[str, ...] = ()
    """K names, where the file has a list of them."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GivenProbs:
    """Probabilities as a file has them."""

    path: Path
    values: npt.NDArray[Any]
    """(N, K)."""
    columns: tuple[str, ...] | None = None
    """K titles of a table."""
    ids: tuple[str, ...] | None = None
    """(N,) names of the samples, where the file has them."""
    class_names: tuple[str, ...] = ()
    """K names, where the file has a list of them."""


def read_labels(text: str) -> GivenLabels:
    """Read the labels in FILE or FILE:NAME.

    Raises:
        UserError: the file cannot be read, or it is not clear which of it are labels.
    """
    path, name = _file_of(text, "labels", (*ARRAYS, *TABLES, ".txt"))
    suffix = path.suffix.lower()
    if suffix in ARRAYS:
        array, names = _array(path, name, _LABEL_NAMES, what="labels")
        return GivenLabels(path=path, values=array, class_names=names)
    if suffix == ".txt":
        lines = [line.strip() for line in read_text(path).rstrip("\r\n").splitlines()]
        if not any(lines):
            raise UserError(f"{path} is empty")
        return GivenLabels(path=path, values=lines)
    table, _ = read_table(path)
    titles = list(table)
    if name is None and len(titles) == 1 and suffix != ".parquet" and is_number(titles[0]):
        return GivenLabels(path=path, values=[titles[0], *table[titles[0]]])  # one column of numbers without a heading
    of_ids = _id_column(titles)
    ids = None if of_ids is None or titles[of_ids] == name else tuple(map(_id, table.pop(titles[of_ids])))
    chosen = _pick(path, name, list(table), _LABEL_NAMES, what="labels")
    return GivenLabels(path=path, values=table[chosen], ids=ids)


def read_probs(text: str) -> GivenProbs:
    """Read the probabilities in FILE or FILE:NAME.

    Raises:
        UserError: the file cannot be read, or holds anything else.
    """
    path, name = _file_of(text, "probabilities", (*ARRAYS, *TABLES))
    suffix = path.suffix.lower()
    if suffix == ".npy" and name is None:
        return GivenProbs(path=path, values=map_array(path))
    if suffix in ARRAYS:
        array, names = _array(path, name, _PROBS_NAMES, what="probabilities")
        return GivenProbs(path=path, values=array, class_names=names)
    if name is not None:
        raise UserError(f"{path}: a table of probabilities has a column for each class: name the file alone")
    return _parquet(path) if suffix == ".parquet" else _delimited(path)


def read_classes(text: str) -> tuple[str, ...]:
    """Read names of classes: a .txt file with one a line, a .json list, or names between commas.

    Raises:
        UserError: the file cannot be read, or is no list of names.
    """
    path = Path(text).expanduser()
    if path.suffix.lower() not in (".txt", ".json"):
        return tuple(part.strip() for part in text.split(","))
    if not path.exists():
        raise UserError(f"--classes {text} does not exist")
    require_regular(path)
    if path.suffix.lower() == ".txt":
        names: Any = [line.strip() for line in read_text(path).rstrip().splitlines()]
    else:
        names = read_json(path)
    if not isinstance(names, list) or not all(isinstance(name, str | int) for name in names):
        raise UserError(f"--classes {text} must be a list of the classes' names")
    return tuple(map(str, names))


def _file_of(text: str, what: str, suffixes: Sequence[str]) -> tuple[Path, str | None]:
    path, name = Path(text).expanduser(), None
    if not path.exists() and ":" in text:
        start, _, name = text.rpartition(":")
        path = Path(start).expanduser()
    if not path.exists():
        raise UserError(f"{path if path.suffix else text} does not exist")
    require_regular(path)
    choose(f"kind of file with {what}", path.suffix.lower(), suffixes)
    return path, name


def _array(
    path: Path, name: str | None, usual: Sequence[str], *, what: str
) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """The array of a file with that name, the usual name or no other beside it; and the file's class list."""
    arrays = read_arrays(path)
    if path.suffix.lower() == ".npy":
        return arrays[path.stem], ()
    names = stated_classes(arrays, path)
    return arrays[_pick(path, name, list(arrays), usual, what=what)], names


def _pick(path: Path, name: str | None, there: Sequence[str], usual: Sequence[str], *, what: str) -> str:
    if name is not None:
        if name not in there:
            raise UserError(missing_column(path, name, there))
        return name
    if len(there) == 1:
        return there[0]
    small = {title.strip().lower(): title for title in there}
    for word in usual:
        if word in small:
            return small[word]
    raise UserError(
        f"{path} holds {', '.join(map(repr, there)) or 'nothing'}: say which are the {what} ({path.name}:NAME)"
    )


def _id_column(titles: Sequence[str]) -> int | None:
    """The position of the column that names the rows: pandas writes its index as the first, without a title."""
    small = [title.strip().lower() for title in titles]
    return next((small.index(name) for name in ID_NAMES if name in small), None) if len(titles) > 1 else None


def _id(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _delimited(path: Path) -> GivenProbs:
    try:
        with open(path, encoding="utf-8-sig", newline="", opener=open_regular) as file:
            start = file.read(2**16)
            if "\0" in start:
                raise UserError(f"{path} holds a NUL character: it is no text")
            file.seek(0)
            separator = separator_of(start, path)
            reader = csv.reader(file, delimiter=separator, strict=True)
            rows = ((reader.line_num, row) for row in reader if row)
            return _table(path, rows, decimal_comma=separator != ",")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8: save it as UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{path} cannot be read as a table: {error}") from None


def _table(path: Path, rows: Iterator[tuple[int, list[str]]], *, decimal_comma: bool) -> GivenProbs:
    first = next(rows, None)
    if first is None:
        raise UserError(f"{path} is empty")
    line, cells = first
    titles = [rearmed(title.strip()) for title in cells]
    heads = [title for title in titles if title]
    if heads and all(map(is_number, heads)) and {str(k) for k in range(len(heads))} != set(heads):
        rows, titles = _before(first, rows), []  # numbers that are no classes: the first row is one of the data
    check_titles(titles, titles, str(path))
    of_ids, width = _id_column(titles), len(cells)
    ids: list[str] = []
    blocks: list[npt.NDArray[np.float32]] = []
    while part := list(islice(rows, max(1, _AT_ONCE // width))):
        for line, cells in part:
            if len(cells) != width:
                raise UserError(f"{path} row {line} has {counted(len(cells), 'cell')}, the first row {width}")
        if of_ids is not None:
            ids += [rearmed(cells.pop(of_ids)).strip() for _, cells in part]
        blocks.append(_numbers(path, part, decimal_comma=decimal_comma))
    if not blocks:
        raise UserError(f"{path} has no rows")
    columns = tuple(title for k, title in enumerate(titles) if k != of_ids)
    return GivenProbs(
        path=path,
        values=np.concatenate(blocks),
        columns=columns or None,
        ids=tuple(ids) if of_ids is not None else None,
    )


def _before(first: tuple[int, list[str]], rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    yield first
    yield from rows


def _numbers(path: Path, part: Sequence[tuple[int, list[str]]], *, decimal_comma: bool) -> npt.NDArray[np.float32]:
    if decimal_comma:
        part = [(line, [cell.replace(",", ".") for cell in cells]) for line, cells in part]
    try:
        return np.array([list(map(float, cells)) for _, cells in part], dtype=np.float32)
    except ValueError:
        line, cell = next((line, cell) for line, cells in part for cell in cells if not is_number(cell.strip()))
        raise UserError(
            f"{path} row {line}: {cell!r} is no number. Beside a column {ID_NAMES[0]} there may be the classes' "
            "columns alone"
        ) from None


def _parquet(path: Path) -> GivenProbs:
    with parquet_file(path) as file:
        fields = [(field.name, str(field.type)) for field in file.schema_arrow]
        titles = [name for name, _ in fields]
        check_titles(titles, titles, str(path))
        index = next((k for k, name in enumerate(titles) if name.startswith("__index_level")), None)
        of_ids = index if index is not None else _id_column(titles)
        columns = [name for k, name in enumerate(titles) if k != of_ids]
        if odd := next((f"{n!r} ({kind})" for n, kind in fields if n in columns and not _is_numeric(kind)), None):
            raise UserError(
                f"{path}: column {odd} holds no numbers: beside a column {ID_NAMES[0]} there may be the classes' "
                "columns alone"
            )
        if not columns or not file.metadata.num_rows:
            raise UserError(f"{path} has no {'rows' if columns else 'columns of probabilities'}")
        check_sizes(file, path, titles)
        values, start = np.empty((file.metadata.num_rows, len(columns)), np.float32), 0
        ids: list[str] = []
        for batch in file.iter_batches(max(1, _AT_ONCE // len(titles))):
            for k, name in enumerate(columns):
                values[start : start + len(batch), k] = batch.column(name).to_numpy(zero_copy_only=False)
            if of_ids is not None:
                ids += map(_id, batch.column(titles[of_ids]).to_pylist())
            start += len(batch)
    return GivenProbs(path=path, values=values, columns=tuple(columns), ids=tuple(ids) if of_ids is not None else None)


def _is_numeric(kind: str) -> bool:
    return kind.startswith(("float", "double", "halffloat", "int", "uint", "bool"))
