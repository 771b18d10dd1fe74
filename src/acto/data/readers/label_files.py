"""Labels that come in a file of their own: saved by a run, made elsewhere, or given by people (CIFAR-N)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError, choose, closest
from acto.core.files import require_regular
from acto.core.text import counted
from acto.data.classes import ClassCodes
from acto.data.label_columns import Column, read_column, shape_hint
from acto.data.readers.arrays import read_arrays
from acto.data.readers.parquet import missing_column
from acto.data.readers.safe_pickle import load_torch_arrays
from acto.data.readers.text_files import check_titles, read_text, rows_of

SUFFIXES = (".npy", ".npz", ".csv", ".txt")
_NAMES = ("label", "labels", "noisy_label", "noisy_labels", "given_label", "y")
"""Columns and array names that are taken without asking, in this order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelFile:
    """Labels as they stand in a file, not yet brought to class numbers."""

    path: Path
    values: Sequence[str] | npt.NDArray[Any]
    """(N,) numbers or class names."""
    ids: tuple[str, ...] | None = None
    """(N,) the samples that they belong to, where the file says so."""

    def in_order(self, ids: Sequence[str]) -> Sequence[str] | npt.NDArray[Any]:
        """The values in the order of `ids`; as they are if the file names no samples.

        Raises:
            UserError: the number of labels differs, or a sample has no label.
        """
        if len(self.values) != len(ids):
            labels = counted(len(self.values), "label")
            raise UserError(f"{self.path} holds {labels}, but there are {len(ids)} samples")
        if self.ids is None:
            return self.values
        row_of = {sample: row for row, sample in enumerate(self.ids)}
        if missing := [sample for sample in ids if sample not in row_of]:
            raise UserError(
                f"{self.path} has no label for {counted(len(missing), 'sample')}, the first {missing[0]!r}."
                f"{closest(missing[0], row_of)}"
            )
        return [str(self.values[row_of[sample]]) for sample in ids]


def read_label_file(path: Path, *, name: str | None = None) -> LabelFile:
    """Read labels from .npy, .npz, .csv or .txt (one a line). Pickled objects are never loaded.

    Args:
        path: the file. A .csv with a column `id` is matched by the samples' ids, else labels are in sample order.
        name: the array of an .npz or the column of a .csv; None: the usual names, or the only one.

    Raises:
        UserError: the file cannot be read, or the labels in it not found.
    """
    choose("kind of label file", path.suffix, SUFFIXES)
    require_regular(path)
    if not path.is_file():
        raise UserError(f"label file {path} does not exist")
    if path.suffix in (".npy", ".npz"):
        arrays = read_arrays(path)
        array = arrays[_pick(path, name if path.suffix == ".npz" else None, list(arrays))]
        if array.ndim != 1:
            raise UserError(
                f"labels must be one row of numbers, but {path} has an array of shape {array.shape}{shape_hint(array)}"
            )
        return LabelFile(path=path, values=array)
    text = read_text(path, what="label file")
    if path.suffix == ".txt":
        return LabelFile(path=path, values=[line.strip() for line in text.splitlines()])
    rows = list(rows_of(text, f"label file {path}"))
    header = [title.strip() for title in rows[0][1]] if rows else []
    if len(header) == 1 and header[0].isdigit():
        header = ["label"]  # one column of numbers without a heading
    else:
        rows = rows[1:]
    for line, cells in rows:
        if len(cells) != len(header):
            raise UserError(f"{path} row {line} has {counted(len(cells), 'cell')}, the heading {len(header)}")
    chosen = _pick(path, name, [title for title in header if title != "id"])
    check_titles(header, [chosen, "id"], str(path))
    column = header.index(chosen)
    ids = tuple(cells[header.index("id")].strip() for _, cells in rows) if "id" in header else None
    return LabelFile(path=path, values=[cells[column].strip() for _, cells in rows], ids=ids)


def read_human_labels(
    path: Path, *, name: str | None, class_names: Sequence[str], true_labels: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """One of the label sets of a CIFAR-N file, checked against the data that it is for.

    Args:
        path: the published .pt file (read without running its pickle), or an .npz or .npy made from it.
        name: worse_label, aggre_label, random_label1, ..., noisy_label; None: the only one.
        class_names: K names.
        true_labels: (N,) of the data, against which the file's clean_label is compared.

    Raises:
        UserError: no such labels, another number, a label out of range, or pictures in another order.
    """
    require_regular(path)
    if not path.is_file():
        raise UserError(f"label file {path} does not exist")
    choose("kind of human label file", path.suffix, (".pt", ".npz", ".npy"))
    arrays: dict[str, Any] = load_torch_arrays(path) if path.suffix == ".pt" else read_arrays(path)
    if path.suffix == ".npy":
        arrays, name = {"noisy_label": arrays[path.stem]}, None
    choices = [key for key in arrays if "label" in key and "clean" not in key and "coarse" not in key]
    if name is None and len(choices) == 1:
        name = choices[0]
    name = choose(f"label set (noise.name) of {path}", name or "", choices)
    columns = {
        key: _column(arrays[key], f"{path}: {key}", len(true_labels)) for key in (name, "clean_label") if key in arrays
    }
    codes = ClassCodes(class_names, [*columns.values()])
    labels = codes.labels(columns[name])
    if "clean_label" in columns:
        clean = codes.labels(columns["clean_label"])
        if differing := int((clean != true_labels).sum()):
            raise UserError(
                f"{path}: clean_label differs from the data at {differing} of {len(clean)} pictures: these labels "
                "follow the official archive's order, the pictures another"
            )
    return labels


def _pick(path: Path, name: str | None, choices: Sequence[str]) -> str:
    if name is not None:
        if name not in choices:
            raise UserError(missing_column(path, name, choices))
        return name
    if len(choices) == 1:
        return choices[0]
    for usual in _NAMES:
        if usual in choices:
            return usual
    raise UserError(f"{path} holds {', '.join(map(repr, choices)) or 'nothing'}: say which are the labels (noise.name)")


def _column(values: Any, what: str, count: int) -> Column:
    try:
        if isinstance(values, list | tuple) and not all(isinstance(v, int | float | np.generic) for v in values):
            raise ValueError("texts, say, of which one long one may stand there many times over")
        labels = np.asarray(values)
    except (ValueError, OverflowError):
        raise UserError(f"{what} must hold {count} whole numbers, but it is no array") from None
    if labels.shape != (count,):
        raise UserError(f"{what} has shape {labels.shape}, but there are {count} samples")
    if labels.dtype.kind not in "iu":
        raise UserError(f"{what} must hold whole numbers, not {labels.dtype}")
    return read_column(labels, where=lambda i: f"{what} row {i}")
