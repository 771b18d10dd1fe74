"""Dataset and DatasetDict of Hugging Face's library, in memory: their rows as records.

The library is not imported here: whoever passes such an object has it. Pictures are taken as the files that they are,
undecoded; those that lie in memory go into a file that lasts as long as this process.
"""

from __future__ import annotations

import atexit
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError
from acto.core.files import disk_errors
from acto.data.pictures.files import decode_pixels, inspect
from acto.data.pictures.packed import packed
from acto.data.readers.record_columns import Columns, choose_columns, has_samples, listed, told
from acto.data.readers.record_tables import ArrowTable, Table
from acto.data.readers.records import Part, Source, part_of
from acto.data.readers.split_files import choose_splits
from acto.data.samples import DataSpec

_NAME = "the Dataset"
_MODULES = {
    "datasets.arrow_dataset.Dataset": "one",
    "datasets.dataset_dict.DatasetDict": "several",
    "datasets.iterable_dataset.IterableDataset": "streamed",
    "datasets.dataset_dict.IterableDatasetDict": "streamed",
}


def kind_of_object(data: Any) -> str:
    """Tell what of Hugging Face's library an object is: one, several or streamed; empty for all else."""
    names = (f"{each.__module__}.{each.__qualname__}" for each in type(data).__mro__)
    return next((_MODULES[name] for name in names if name in _MODULES), "")


def read_object(data: Any, labels: Any, columns: Sequence[str] = ()) -> dict[str, Any]:
    """Take samples and labels out of a Dataset or a DatasetDict.

    Args:
        data: it has a kind, see kind_of_object.
        labels: (N,) labels or the name of their column; None: the usual column, if it is clear which that is.
        columns: the column of samples, where a training has chosen it: then one Dataset is asked for; empty: by what is
            there.

    Returns:
        The fields of acto.data.containers.Gathered.

    Raises:
        UserError: it is streamed, its columns or splits could be several or are none, or a row cannot be used.
    """
    label, column = labels if isinstance(labels, str) else None, columns[0] if len(columns) == 1 else ""
    is_ours = labels is None or label is not None
    kind = kind_of_object(data)
    if kind == "streamed":
        raise UserError(
            f"the {type(data).__name__} is streamed: load it with streaming=False, or save it as Parquet or shards"
        )
    if kind == "several" and column:
        raise UserError(f"the {type(data).__name__} has several splits ({', '.join(data)}): pass one of them")
    if kind == "several" and not data:
        raise UserError(f"the {type(data).__name__} has no splits")
    store = _Store()
    splits = {name: [_table(part, name, store)] for name, part in (data.items() if kind == "several" else [("", data)])}
    chosen = choose_splits(list(splits), place=_NAME)
    first = splits[chosen.train][0]
    usual = DataSpec()
    spec = replace(usual, label_column=label or usual.label_column, path_column=column or usual.path_column, base="/")
    if not has_samples([first], spec):
        raise UserError(f"{_NAME} has no column of pictures, of vectors or of picture files. {told(first)}")
    problem = ""
    try:
        read = choose_columns(
            [first], spec, with_labels=is_ours, with_split=len(splits) == 1 and not column and is_ours
        )
    except UserError as error:
        if label is not None:
            raise UserError(_in_python(str(error))) from None
        read, problem = _without_labels(first, spec), _in_python(str(error))
    source = Source(name=_NAME, folder=Path(), splits=splits)
    names = [name for name in (chosen.train, chosen.test) if name is not None]
    parts = [part_of(splits[name], read, source, spec, split=name) for name in names]
    notes = [*chosen.notes, *read.notes]
    if len(parts) > 1 and read.label and all(label == "" for label in parts[1].labels):
        notes.append(f"the split {chosen.test} has no labels, and is left out")
        del parts[1:]
    if read.truth:
        notes.append(f"column {read.truth!r} holds true labels: it is not used")
    found = _labels(parts, first, read.label) if read.label else None
    classes, occurring = first.classes.get(read.label, ()), set(found or ())
    unused = tuple(name for k, name in enumerate(classes) if k not in occurring)
    if unused:
        notes.append(f"{len(unused)} of {len(classes)} classes have no sample, and are left out: {listed(unused)}")
    roles = [role for part, role in zip(parts, ("train", "test"), strict=False) for _ in part.ids]
    return {
        "content": _together(parts),
        "labels": found if is_ours else labels,
        "ids": tuple(name for part in parts for name in part.ids),
        "class_names": classes,
        "columns": (read.content,),
        "splits": parts[0].splits or (tuple(roles) if len(parts) > 1 else ()),
        "unused": unused,
        "label_problem": problem,
        "notes": tuple(notes),
    }


def _table(part: Any, name: str, store: _Store) -> Table:
    try:
        table = part.with_format("arrow")[:]
    except UserError:
        raise
    except Exception as error:  # the user's own transforms, and whatever the library raises
        raise UserError(
            f"the rows of the {type(part).__name__} cannot be read: {type(error).__name__}: {error}"
        ) from error
    names: Mapping[str, Any] = getattr(part, "features", None) or {}
    classes = {
        column: tuple(feature.names)
        for column, feature in names.items()
        if type(feature).__name__ == "ClassLabel" and feature.names
    }
    return ArrowTable(Path(name or "Dataset"), table, classes=classes, store=store)


def _without_labels(table: Table, spec: DataSpec) -> Columns:
    try:
        return choose_columns([table], spec, with_labels=False)
    except UserError as error:
        raise UserError(_in_python(str(error))) from None


def _in_python(problem: str) -> str:
    """Turn a message about flags into what is done with a Dataset."""
    problem = re.sub(r"Say which: --data\.path_column.*", "Keep one of them: data.select_columns([...])", problem)
    return re.sub(r"--data\.label_column (\S+)", r"labels='\1'", problem)


def as_arrays(data: Any, labels: Any = None, *, column: str = "") -> tuple[npt.NDArray[Any], Any]:
    """The samples of a Dataset as an array, (N, D) numbers or (N, H, W, C) uint8, and its labels (N,), None if none.

    Args:
        data: see read_object.
        labels: see read_object.
        column: the column of samples; empty: by what is there.

    Raises:
        UserError: as read_object; the data have several splits, or pictures of several sizes.
    """
    if kind_of_object(data) == "several":
        raise UserError(f"the {type(data).__name__} has several splits ({', '.join(data)}): pass one of them")
    found = read_object(data, labels, (column,) if column else ())
    content, given = found["content"], found["labels"]
    if isinstance(content, tuple):
        facts = inspect(content[0])
        content = decode_pixels(content, size=(facts.width, facts.height), names=found["ids"])
    if isinstance(given, list):
        if missing := [row for row, value in enumerate(given) if value is None]:
            raise UserError(f"a label is missing in {len(missing)} rows, the first: {missing[0]}")
        given = np.array(given)
    return content, given


def _labels(parts: Sequence[Part], table: Table, column: str) -> list[Any]:
    """Labels as the Dataset has them: numbers where they count the names of a ClassLabel, None where there is none."""
    number = {name: k for k, name in enumerate(table.classes.get(column, ()))}
    return [None if label == "" else number.get(label, label) for part in parts for label in part.labels]


def _together(parts: Sequence[Part]) -> npt.NDArray[Any] | tuple[Path, ...]:
    arrays = [part.array for part in parts if part.array is not None]
    if not arrays:
        return tuple(path for part in parts for path in part.paths or ())
    if odd := next((array for array in arrays if array.shape[1:] != arrays[0].shape[1:]), None):
        raise UserError(f"a test sample has shape {odd.shape[1:]}, others {arrays[0].shape[1:]}")
    return np.concatenate(arrays)


class _Store:
    """A file of pictures, one after another, that is deleted when the process ends."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._end = 0

    def __call__(self, pictures: Sequence[bytes | None], names: Sequence[str]) -> list[Path | None]:
        """Add pictures, and return their paths."""
        with disk_errors("keep the pictures of the Dataset", "TMPDIR names another place, or save_to_disk it."):
            if self._path is None:
                descriptor, path = tempfile.mkstemp(prefix="acto-", suffix=".pictures")
                os.close(descriptor)
                self._path = Path(path)
                atexit.register(_delete, self._path, os.getpid())
            with open(self._path, "ab") as file:
                file.writelines(picture for picture in pictures if picture is not None)
        paths: list[Path | None] = []
        for picture, name in zip(pictures, names, strict=True):
            paths.append(None if picture is None else packed(self._path, self._end, len(picture), name))
            self._end += len(picture or b"")
        return paths


def _delete(path: Path, process: int) -> None:
    if os.getpid() == process:  # a process that was forked off ends before this one
        with suppress(OSError):
            path.unlink()
