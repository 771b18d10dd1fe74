"""Data that a trained model looks at: any source that training takes, and picture files that lie in no class.

Where samples are to be predicted, labels that are there are not even read, so they need not be right, complete, or of
the classes that the model knows. Where labels are to be audited, they must be of these classes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError, closest
from acto.data.pictures.files import SUFFIXES
from acto.data.readers.archives import read_arrays
from acto.data.readers.file_tree import links_out, walk
from acto.data.readers.listings import ID_COLUMN, MANIFEST_SUFFIXES, ids_and_files, read_table
from acto.data.readers.named import CONTENT_KEYS, DATA_ROOT_VARIABLE, array_ids
from acto.data.samples import DataSpec, Raw, Samples, join
from acto.data.sources import SOURCES, load, read

PLACES = ("arrays", "folder", "manifest")
"""Named sources that stand for data of the user's own, whose place is the data root."""
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


def read_labelled(
    source: str, class_names: Sequence[str], *, data_root: str | Path | None = None
) -> tuple[Raw, Samples]:
    """Every labelled sample of a source, for a model that knows `class_names`; not every class needs a sample.

    Nothing is held out, decoded or left out.

    Args:
        source: what acto.data.sources.load takes.
        class_names: the model's. A table or arrays without a class list of their own may name them or number them.
        data_root: folder of the data sets; else the variable ACTO_DATA_ROOT.

    Returns:
        What the source holds; and all its samples, a test set behind the rest, with positions in `class_names` as
        labels. Ids of the test set that occur before it get "test/" in front.

    Raises:
        UserError: there is no such source, it cannot be used, or it has other classes.
    """
    spec = DataSpec(source=source, root=None if data_root is None else str(data_root))
    if source in SOURCES and source not in PLACES:  # `load` knows which labels belong to it
        data = load(spec)
        raw = Raw(name=data.name, train=data.train, test=data.test, class_names=data.class_names, notes=data.notes)
    else:
        raw = read(spec, known_classes=tuple(class_names))
    if unknown := sorted(set(raw.class_names) - set(class_names)):
        known = f"{', '.join(class_names[:_SHOWN])}{', ...' if len(class_names) > _SHOWN else ''}"
        raise UserError(
            f"{source} has classes that the model does not know: {', '.join(unknown[:_SHOWN])}. It knows {known}"
        )
    parts = [raw.train]
    if raw.test is not None:
        taken = set(raw.train.ids)
        ids = tuple(f"test/{name}" if name in taken else name for name in raw.test.ids)
        parts.append(replace(raw.test, ids=ids))
    samples = join(parts)
    if not len(samples):
        raise UserError(f"{source} has no samples")
    number = {name: k for k, name in enumerate(class_names)}
    labels = np.array([number[name] for name in raw.class_names], np.int64)[samples.labels]
    return raw, replace(samples, labels=labels)


def array_samples(array: npt.NDArray[Any], *, name: str) -> Samples:
    """(N, D) numbers as features, (N, H, W) or (N, H, W, C) uint8 as pixels, with row numbers as ids.

    Raises:
        UserError: another shape or type; `name` says of what.
    """
    if 0 in array.shape[1:]:
        raise UserError(f"{name} has samples without any content: its shape is {array.shape}")
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
    return NewData(samples=_unlabelled(join(parts)), splits=_splits(parts), notes=raw.notes)


def _unlabelled(samples: Samples) -> Samples:
    return replace(samples, labels=np.zeros(len(samples), np.int64), true_labels=None)


def _splits(parts: Sequence[Samples]) -> tuple[str, ...]:
    if len(parts) == 1:
        return ()
    return tuple(name for name, part in zip(("train", "test"), parts, strict=True) for _ in range(len(part)))


def _folder(folder: Path) -> NewData:
    """Every picture below it; hidden files and folders are left out, as in training."""
    paths: list[Path] = []
    others: list[Path] = []
    for path in walk(folder):
        (paths if path.suffix.lower() in SUFFIXES else others).append(path)
    if not paths:
        raise UserError(f"{folder} has no picture ({', '.join(sorted(SUFFIXES))})")
    notes = []
    if others:
        notes.append(f"{len(others)} files are no pictures and were left out, the first: {others[0].name}")
    notes.extend(links_out(paths, folder))
    ids = [path.relative_to(folder).as_posix() for path in paths]
    return NewData(samples=_files(ids, paths), notes=tuple(notes))


def _table(path: Path, path_column: str) -> NewData:
    """The files in a table's column of paths. Every row counts, whatever its split."""
    table, rows = read_table(path, (path_column,), (ID_COLUMN,))
    ids, files = ids_and_files(table, rows, path, path_column=path_column)
    paths = [path.parent / name for name in files]
    return NewData(samples=_files(ids, paths), notes=tuple(links_out(paths, path.parent)))


def _arrays(path: Path) -> NewData:
    arrays = read_arrays(path)
    if path.suffix.lower() == ".npy":
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
    return NewData(samples=join(parts), splits=_splits(parts))


def _with_ids(samples: Samples, key: str, arrays: Mapping[str, npt.NDArray[Any]], path: Path) -> Samples:
    """The samples under the names that the file has for them, if it has."""
    column = "test_ids" if key.startswith("test_") else "ids"
    if column not in arrays:
        return samples
    return replace(samples, ids=array_ids(arrays[column], len(samples), f"{path}: {column}"))
