"""Dataset and DatasetDict of Hugging Face's library, in memory: their rows as records.

The library is not imported here: whoever passes such an object has it. Pictures are taken as the files that they are,
undecoded; those that lie in memory go into a file that lasts as long as this process.
"""

from __future__ import annotations

import atexit
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError
from acto.core.files import disk_errors
from acto.core.text import counted
from acto.data.pictures.files import decode_pixels, inspect
from acto.data.pictures.packed import packed
from acto.data.readers.parquet import missing_column
from acto.data.readers.record_columns import Columns, choose_columns, column_of_labels, has_samples, listed
from acto.data.readers.record_tables import NUMBER, ArrowTable, Table
from acto.data.readers.records import Part, Source, label_values, part_of
from acto.data.readers.split_files import choose_splits
from acto.data.samples import DataSpec

_NAME = "the Dataset"
_SPLIT = DataSpec().split_column
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
    found = _as_given((label for part in parts for label in part.labels), first, read.label) if read.label else None
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


def plain_frame(
    data: Any, labels: Any, columns: Sequence[str] = (), *, as_rows: bool | None = None
) -> tuple[Any, Any, dict[str, Any]] | None:
    """A Dataset or DatasetDict of numbers, categories and texts as a data frame.

    Args:
        data: see read_object.
        labels: see read_object.
        columns: those that a training has chosen; empty: as read_object would.
        as_rows: whether that training had rows with an encoding; None: there was none.

    Returns:
        A frame, the labels (N,), and fields of acto.data.containers.Gathered; None if there is a column of pictures,
        vectors or picture files.

    Raises:
        UserError: see read_object.
    """
    import pandas  # the library of the Dataset needs it, too

    kind = kind_of_object(data)
    if kind not in ("one", "several") or (kind == "several" and (columns or not data)):
        return None
    parts = dict(data) if kind == "several" else {"": data}
    chosen = choose_splits(list(parts), place=_NAME)
    names = [name for name in (chosen.train, chosen.test) if name is not None]
    tables = {name: _table(parts[name], name, _Store()) for name in names}
    first = tables[chosen.train]
    columns = tuple(columns)
    numbers = len(columns) == 1 and columns[0] in first.names and first.kind(columns[0]) == NUMBER
    if not (as_rows or len(columns) > 1 or numbers or not has_samples([first], DataSpec())):
        return None
    label, notes, problem = labels if isinstance(labels, str) else "", [*chosen.notes], ""
    if label and label not in first.names:
        raise UserError(missing_column(first.file, label, first.names))
    if labels is None and not columns:
        try:
            label = column_of_labels(first, DataSpec(), "", notes)
        except UserError as error:
            problem = _in_python(str(error))
    others = [each for each in columns or first.names if each not in (label, _SPLIT if len(names) > 1 else "")]
    cells: dict[str, list[Any]] = {each: [] for each in others}
    found, roles, ids = [], [], []
    for name, role in zip(names, ("train", "test"), strict=False):
        table = tables[name]
        if missing := [each for each in (*others, label) if each and each not in table.names]:
            raise UserError(missing_column(table.file, missing[0], table.names))
        given = _as_given(label_values([table], label), first, label) if label else []
        if role == "test" and label and all(value is None for value in given):
            notes.append(f"the split {name} has no labels, and is left out")
            continue
        for each in others:
            cells[each] += label_values([table], each) if each in table.classes else table.values(each)
        found += given
        roles += [role] * len(table)
        ids += [f"{name}/{row}" if len(names) > 1 else str(row) for row in range(len(table))]
    frame = pandas.DataFrame(cells, index=ids)
    if "test" in roles:
        frame[_SPLIT] = roles
    classes, occurring = first.classes.get(label, ()), set(found)
    unused = tuple(name for k, name in enumerate(classes) if k not in occurring)
    facts = {"class_names": classes, "unused": unused, "label_problem": problem, "notes": tuple(notes)}
    return frame, found if label else labels, facts


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


def as_arrays(data: Any, labels: Any = None, *, columns: Sequence[str] = ()) -> tuple[Any, Any]:
    """The samples of a Dataset as an array, (N, D) numbers or (N, H, W, C) uint8, or as a data frame of other columns.

    Args:
        data: see read_object.
        labels: see read_object.
        columns: see plain_frame.

    Returns:
        The samples, and their labels (N,), None if there are none.

    Raises:
        UserError: as read_object; the data have several splits, or pictures of several sizes.
    """
    if kind_of_object(data) == "several":
        raise UserError(f"the {type(data).__name__} has several splits ({', '.join(data)}): pass one of them")
    if (plain := plain_frame(data, labels, columns)) is not None:
        content, given, facts = plain
        if facts["label_problem"]:
            raise UserError(facts["label_problem"])
    else:
        found = read_object(data, labels, columns)
        content, given = found["content"], found["labels"]
        if isinstance(content, tuple):
            first = inspect(content[0])
            content = decode_pixels(content, size=(first.width, first.height), names=found["ids"])
    if isinstance(given, list):
        if missing := [row for row, value in enumerate(given) if value is None]:
            raise UserError(f"a label is missing in {counted(len(missing), 'row')}, the first: {missing[0]}")
        given = np.array(given)
    return content, given


def _as_given(labels: Iterable[Any], table: Table, column: str) -> list[Any]:
    """Labels as the Dataset has them: numbers where they count the names of a ClassLabel, None where there is none."""
    number = {name: k for k, name in enumerate(table.classes.get(column, ()))}
    return [None if label == "" else number.get(label, label) for label in labels]


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
