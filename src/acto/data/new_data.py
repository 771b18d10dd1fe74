"""Samples without labels, to be predicted: any source that training takes, and picture files that lie in no class.

Labels that are there are not even read, so they need not be right, complete, or of the classes that a model knows.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.data.archives import missing_column, read_arrays, read_parquet
from acto.data.listings import ID_COLUMN, MANIFEST_SUFFIXES
from acto.data.pictures import SUFFIXES
from acto.data.readers import DATA_ROOT_VARIABLE
from acto.data.samples import DataSpec, Samples
from acto.data.sources import SOURCES, read
from acto.errors import UserError, closest

PLACES = ("arrays", "folder", "manifest")
"""Named sources that stand for data of the user's own, whose place is the data root."""
CONTENT_KEYS = ("x", "images", "features")
_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NewData:
    """Samples to be predicted."""

    samples: Samples
    """Their labels are all 0 and mean nothing."""
    splits: tuple[str, ...] = ()
    """(N,) train or test, where the source has both: the same id may be in each of them."""
    notes: tuple[str, ...] = ()
    """What the user should be told."""


def read_new(source: str, *, data_root: str | Path | None = None, path_column: str = "path") -> NewData:
    """Read what `source` names, in its own order.

    Args:
        source: a name of SOURCES; or a path, also below the data root: a folder (every picture in it, however deep), a
            picture file, a table (.csv, .tsv, .parquet) with a column of paths, or arrays (.npz, .npy).
        data_root: folder of the data sets; else the variable ACTO_DATA_ROOT.
        path_column: a table's column of picture files, relative to the table.

    Raises:
        UserError: there is no such source, or it cannot be used.
    """
    root = data_root or os.environ.get(DATA_ROOT_VARIABLE)
    if source in SOURCES and source not in PLACES:
        return _named(source, data_root)
    if source in PLACES:
        if not root:
            raise UserError(f"data source {source!r} needs its place: give the path itself as source")
        path = Path(root)
    else:
        path = Path(source).expanduser()
        if not path.exists() and root:
            path = Path(root).expanduser() / path
    if not path.exists():
        raise UserError(
            f"data source {source} does not exist, and no data set has that name.{closest(source, SOURCES)}"
        )
    if path.is_dir():
        return _folder(path)
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return NewData(samples=_files((path.name,), (path,)))
    if suffix in MANIFEST_SUFFIXES:
        return _table(path, path_column)
    if suffix in (".npz", ".npy"):
        return _arrays(path)
    raise UserError(
        f"{path} is no folder, picture ({', '.join(sorted(SUFFIXES))}), table ({', '.join(MANIFEST_SUFFIXES)}) or "
        "array file (.npz, .npy)"
    )


def array_samples(array: npt.NDArray[Any], *, name: str) -> Samples:
    """(N, D) numbers as features, (N, H, W) or (N, H, W, C) uint8 as pixels, with row numbers as ids.

    Raises:
        UserError: another shape or type; `name` says of what.
    """
    is_pixels = array.dtype == np.uint8 and array.ndim in (3, 4)
    if not is_pixels and (array.ndim != 2 or array.dtype.kind not in "fiub"):
        raise UserError(
            f"{name} must be pictures, uint8 of (N, H, W) or (N, H, W, C), or feature vectors of (N, D); "
            f"it is {array.dtype} of {array.shape}"
        )
    return Samples(
        ids=tuple(map(str, range(len(array)))),
        labels=np.zeros(len(array), np.int64),
        pixels=(array[..., None] if array.ndim == 3 else array) if is_pixels else None,
        features=None if is_pixels else array.astype(np.float32),
    )


def _files(ids: Sequence[str], paths: Sequence[Path]) -> Samples:
    return Samples(ids=tuple(ids), labels=np.zeros(len(ids), np.int64), paths=tuple(paths))


def _named(source: str, data_root: str | Path | None) -> NewData:
    raw = read(DataSpec(source=source), data_root=data_root)
    parts = [raw.train] if raw.test is None else [raw.train, raw.test]
    return NewData(samples=_joined(parts), splits=_splits(parts), notes=raw.notes)


def _splits(parts: Sequence[Samples]) -> tuple[str, ...]:
    if len(parts) == 1:
        return ()
    return tuple(name for name, part in zip(("train", "test"), parts, strict=True) for _ in range(len(part)))


def _joined(parts: Sequence[Samples]) -> Samples:
    def together(arrays: list[npt.NDArray[Any] | None]) -> Any:
        there = [array for array in arrays if array is not None]
        return np.concatenate(there) if there else None

    paths = [path for part in parts for path in part.paths or ()]
    ids = tuple(name for part in parts for name in part.ids)
    return Samples(
        ids=ids,
        labels=np.zeros(len(ids), np.int64),
        pixels=together([part.pixels for part in parts]),
        features=together([part.features for part in parts]),
        paths=tuple(paths) or None,
    )


def _folder(folder: Path) -> NewData:
    """Every picture below it; hidden files and folders are left out, as in training."""
    paths: list[Path] = []
    others: list[Path] = []
    for path in _walk(folder):
        (paths if path.suffix.lower() in SUFFIXES else others).append(path)
    if not paths:
        raise UserError(f"{folder} has no picture ({', '.join(sorted(SUFFIXES))})")
    notes = []
    if others:
        notes.append(f"{len(others)} files are no pictures and were left out, the first: {others[0].name}")
    ids = [path.relative_to(folder).as_posix() for path in paths]
    return NewData(samples=_files(ids, paths), notes=tuple(notes))


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))


def _table(table: Path, path_column: str) -> NewData:
    """The files in a table's column of paths. Every row counts, whatever its split."""
    if table.suffix == ".parquet":
        columns: dict[str, list[Any]] = read_parquet(table, (path_column,), optional=(ID_COLUMN,))
        rows: Sequence[int] = range(1, len(columns[path_column]) + 1)
    else:
        columns, rows = _csv_columns(table, path_column)
    if not rows:
        raise UserError(f"{table} has no rows")
    ids = files = [_inside(value, table, row) for value, row in zip(columns[path_column], rows, strict=True)]
    if ID_COLUMN in columns:  # a manifest of `acto apply`
        ids = [str(text).removeprefix("'") for text in columns[ID_COLUMN]]
    if (most := Counter(ids).most_common(1))[0][1] > 1:
        raise UserError(f"{table}: {most[0][0]} occurs in {most[0][1]} rows; each sample needs one row")
    return NewData(samples=_files(ids, [table.parent / name for name in files]))


def _csv_columns(table: Path, path_column: str) -> tuple[dict[str, list[Any]], list[int]]:
    """Paths, and ids where there are some, of a CSV or TSV file; and the line on which each row ends."""
    rows = []
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter="\t" if table.suffix == ".tsv" else ",", strict=True)
            header = [title.strip() for title in next(reader, [])]
            if path_column not in header:
                raise UserError(missing_column(table, path_column, header))
            places = {name: header.index(name) for name in (path_column, ID_COLUMN) if name in header}
            columns: dict[str, list[Any]] = {name: [] for name in places}
            for cells in reader:
                if not cells:
                    continue  # an empty line
                if len(cells) != len(header):
                    raise UserError(f"{table} row {reader.line_num} has {len(cells)} cells, the heading {len(header)}")
                rows.append(reader.line_num)
                for name, place in places.items():
                    columns[name].append(cells[place].strip())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} cannot be read as a table: {error}") from error
    return columns, rows


def _inside(value: object, table: Path, row: int) -> str:
    """A path of the table as id, refused if it could lead out of the table's folder."""
    text = "" if value is None else str(value)
    path = PurePosixPath(text)
    leaves = path.is_absolute() or ".." in path.parts or PureWindowsPath(text).drive
    if leaves or not text or "\\" in text or "\0" in text:
        raise UserError(f"{table} row {row}: {text!r} is no path inside {table.parent}")
    return path.as_posix()


def _arrays(path: Path) -> NewData:
    arrays = read_arrays(path)
    if path.suffix == ".npy":
        return NewData(samples=array_samples(arrays[path.stem], name=str(path)))
    found = [next((prefix + key for key in CONTENT_KEYS if prefix + key in arrays), None) for prefix in ("", "test_")]
    keys = [key for key in found if key is not None]
    if not keys:
        raise UserError(
            f"{path} has no samples ({' or '.join(CONTENT_KEYS)}); it holds {', '.join(map(repr, arrays)) or 'nothing'}"
        )
    parts = [_with_ids(array_samples(arrays[key], name=f"{path}: {key}"), key, arrays, path) for key in keys]
    if len({part.content.shape[1:] for part in parts if not isinstance(part.content, tuple)}) > 1:
        raise UserError(f"{path}: {' and '.join(keys)} have samples of different shapes")
    return NewData(samples=_joined(parts), splits=_splits(parts))


def _with_ids(samples: Samples, key: str, arrays: Mapping[str, npt.NDArray[Any]], path: Path) -> Samples:
    """The samples under the names that the file has for them, if it has."""
    column = "test_ids" if key.startswith("test_") else "ids"
    if column not in arrays:
        return samples
    ids = tuple(map(str, arrays[column].tolist()))
    if len(ids) != len(samples) or len(set(ids)) < len(ids):
        raise UserError(f"{path}: {column} must name each of the {len(samples)} samples differently")
    return replace(samples, ids=ids)
