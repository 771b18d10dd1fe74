"""Contents of arrays, tensors, data frames, lists and Datasets of torch: samples of one kind, and labels as they come.

What a sample is decides how it is seen: pictures are uint8 pixels, everything flat is a vector of features, texts are
paths of picture files. Nothing is guessed where it could be wrong: pixels that were normalized, labels that are missing
or a Dataset that draws a new view at each look are refused with a hint.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from acto.core.errors import UserError
from acto.data.alignment import as_pandas, is_frame
from acto.data.classes import ClassCodes, encode
from acto.data.frames import read_frame
from acto.data.hugging_face_objects import kind_of_object, plain_frame, read_object
from acto.data.label_columns import Column, Where, check_one_each, exact_column, is_whole, read_column
from acto.data.pictures.files import opened_rgb
from acto.data.readers.arrays import array_content
from acto.data.samples import Samples
from acto.data.tables.rows import Rows

_PIXEL_TOLERANCE = 1e-3
"""Largest distance of 255 times a float32 pixel from a whole number."""
_MISSING = ("NAType", "NaTType")

Content = npt.NDArray[np.uint8] | npt.NDArray[np.float32] | tuple[Path, ...] | Rows
"""(N, H, W, C) pixels, (N, D) features, (N,) picture files or (N,) rows of a data frame."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Gathered:
    """Samples and labels of some data, before labels are class numbers."""

    content: Content
    labels: Any = None
    """(N,) as the data bring them; None if they bring none."""
    ids: tuple[str, ...] | None = None
    """(N,) names that the data give their samples."""
    class_names: tuple[str, ...] = ()
    """The data's own class list, in which labels are positions; empty if they have none."""
    columns: tuple[str, ...] = ()
    """Names of the features of a data frame, in their order."""
    splits: tuple[str, ...] = ()
    """(N,) train, test, val or heldout, where a data frame says; else empty."""
    notes: tuple[str, ...] = ()
    """Notes for the user."""
    unused: tuple[str, ...] = ()
    """Classes of the list that no sample has, and that are left out."""
    label_problem: str = ""
    """Reason why data that may have labels bring none."""
    rows: tuple[int, ...] | None = None
    """(N,) rows of the data that these samples are; None: all."""

    @property
    def kind(self) -> str:
        """Pictures, vectors or files, with the shape of one of them."""
        if isinstance(self.content, tuple):
            return "picture files"
        if isinstance(self.content, Rows):
            return "rows of a data frame"
        return f"{'pictures' if self.content.dtype == np.uint8 else 'vectors'} of {self.content.shape[1:]}"

    @property
    def own_classes(self) -> tuple[str, ...]:
        """The data's own class list, without `unused` ones."""
        return tuple(name for name in self.class_names if name not in self.unused)

    def samples(self, labels: npt.NDArray[np.int64], *, ids: tuple[str, ...] | None = None) -> Samples:
        """With class numbers (N,) as labels."""
        content = self.content
        if isinstance(content, Rows):
            return Samples(ids=ids or self.ids or tuple(map(str, range(len(content)))), labels=labels, rows=content)
        is_files = isinstance(content, tuple)
        is_pixels = not is_files and cast(npt.NDArray[Any], content).dtype == np.uint8
        return Samples(
            ids=ids or self.ids or tuple(map(str, range(len(content)))),
            labels=labels,
            pixels=cast(npt.NDArray[np.uint8], content) if is_pixels else None,
            features=None if is_pixels or is_files else cast(npt.NDArray[np.float32], content),
            paths=cast(tuple[Path, ...], content) if is_files else None,
        )

    def take(self, rows: Sequence[int], ids: Sequence[str]) -> Gathered:
        """The samples and labels at these rows, under these names."""
        content, labels = self.content, self.label_column()
        return replace(
            self,
            content=tuple(content[row] for row in rows)
            if isinstance(content, tuple)
            else content.take(np.array(rows, np.int64))
            if isinstance(content, Rows)
            else content[list(rows)],
            labels=labels[list(rows)] if isinstance(labels, np.ndarray) else [labels[row] for row in rows],
            ids=tuple(ids),
            splits=(),
            rows=tuple(rows),
        )

    def where(self, split: str = "") -> Where:
        """Names of the rows, for messages; `split` and a space come before them."""
        rows = self.rows
        return lambda i: f"{split}row {i}" if rows is None else f"row {rows[i]}"

    def label_column(self, split: str = "") -> npt.NDArray[Any] | list[Any]:
        """(N,) the labels as acto.data.classes.read_column takes them; `split` and a space name them in messages.

        Raises:
            UserError: another number than samples, or no labels at all.
        """
        return _label_column(self.labels, split, len(self.content))

    def column(self, split: str = "") -> Column:
        """The labels as acto.data.classes takes them: where the data have a class list, numbers are positions in it.

        Raises:
            UserError: see label_column; or a number that is no position.
        """
        column = read_column(self.label_column(split), where=self.where(split))
        if not self.class_names:
            return column
        positions = encode(column, tuple(map(str, range(len(self.class_names)))), what=f"{split}label")
        return exact_column([self.class_names[k] for k in positions.tolist()], where=column.where)

    def label_values(self, class_names: Sequence[str]) -> npt.NDArray[Any]:
        """(K,) what the data call each class: numbers or booleans where the labels are such, else the names."""
        values = self.label_column()
        kind = values.dtype.kind if isinstance(values, np.ndarray) else "U"
        if kind not in "iuf" and not (kind == "b" and all(map(is_whole, class_names))):
            return np.array(class_names)
        own = self.own_classes or class_names
        column = self.column()
        codes = ClassCodes(own, [column], classes=class_names).labels(column)
        first_of_each = np.unique(codes, return_index=True)[1]
        return np.asarray(values)[first_of_each].astype(np.bool_ if kind == "b" else np.int64)


def gather(data: Any, labels: Any = None, *, columns: Sequence[str] = (), as_rows: bool | None = None) -> Gathered:
    """Take samples and labels out of `data`, in any form that as_dataset takes.

    Args:
        data: see as_dataset.
        labels: see as_dataset.
        columns: of a data frame: which columns are the features, in which order; empty: all but the labels'.
        as_rows: of a data frame: whether its cells are kept for an encoding; None: where they are no plain numbers.

    Raises:
        UserError: data that cannot be used.
    """
    facts: dict[str, Any] = {}
    if kind_of_object(data):
        if (plain := plain_frame(data, labels, columns, as_rows=as_rows)) is None:
            return Gathered(**read_object(data, labels, columns))
        data, labels, facts = plain
    data, labels = as_pandas(data), as_pandas(labels)
    if is_frame(labels):
        if len(labels.columns) != 1:
            check_one_each(labels)
        labels = labels.iloc[:, 0]
    if is_frame(data):
        found = _from_frame(data, labels, columns, as_rows)
        gathered = replace(found, **facts | {"notes": (*facts.get("notes", ()), *found.notes)})
    elif isinstance(data, str | Path):
        raise UserError(f"{str(data)!r} names data: pass acto.load_data(acto.DataSpec(source={str(data)!r}))")
    elif isinstance(labels, str):
        raise UserError(f"labels={labels!r} names a column, but the data are a {type(data).__name__}, no data frame")
    elif (files := _files_of(data)) is not None:
        gathered = files if labels is None else Gathered(content=files.content, labels=labels, ids=files.ids)
    elif isinstance(data, Tensor | np.ndarray) or (hasattr(data, "iloc") and not hasattr(data, "columns")):
        gathered = Gathered(content=_content(_as_array(data)), labels=labels)
    elif hasattr(data, "toarray"):
        raise UserError("sparse data are not supported: pass data.toarray()")
    elif isinstance(data, list | tuple):
        gathered = Gathered(content=_content(_stacked(data)), labels=labels)
    elif hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        gathered = _from_map(data, labels)
    else:
        raise UserError(
            f"data of type {type(data).__name__} cannot be used: pass an array, a tensor, a data frame, a list, or a "
            "Dataset with a length"
        )
    if not len(gathered.content):
        raise UserError("there are no samples")
    return gathered


# Labels ---------------------------------------------------------------------------------------------------------


def _label_column(labels: Any, split: str, count: int) -> npt.NDArray[Any] | list[Any]:
    """(N,) labels as read_column takes them. What is missing among names becomes None, which it refuses by row."""
    values: Any = labels
    if isinstance(labels, Tensor):
        values = _as_array(labels)
    elif not hasattr(labels, "__len__"):
        raise UserError(f"{split}labels must be one for each sample, not a {type(labels).__name__}")
    check_one_each(values, what=f"{split}labels")
    if not isinstance(values, np.ndarray) or values.dtype.kind == "O":
        values = [None if _is_missing(value) else value for value in values]
        is_text = {isinstance(value, str) for value in values}
        if len(is_text) == 1 and not any(value is None for value in values):  # numpy would make the text "1.0" of 1.0
            values = np.asarray(values)
    if len(values) != count:
        raise UserError(f"there are {len(values)} {split}labels for {count} {split}samples")
    if isinstance(values, np.ndarray) and values.dtype.kind not in "iufbUS":
        raise UserError(f"{split}labels must be names, whole numbers or booleans, not {values.dtype}")
    return cast("npt.NDArray[Any] | list[Any]", values)


def _is_missing(value: Any) -> bool:
    """None, NaN, and what pandas has for them: numpy would make the name "nan" of it."""
    return value is None or (isinstance(value, float) and value != value) or type(value).__name__ in _MISSING


# Samples --------------------------------------------------------------------------------------------------------


def _as_array(values: Any) -> npt.NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return np.asarray(values.float() if values.dtype == torch.bfloat16 else values)
    return np.asarray(values)


def _content(values: npt.NDArray[Any] | tuple[Path, ...], what: str = "the data") -> Content:
    """Pixels, features or paths."""
    if isinstance(values, tuple):
        return values
    if values.dtype.kind in "OU":
        texts = values.tolist()
        if values.ndim == 1 and all(isinstance(text, str | Path) for text in texts):
            return tuple(map(Path, texts))
        raise UserError(f"{what} must be numbers or paths, but they are {values.dtype} of {values.shape}")
    if values.dtype.kind not in "iufb":
        raise UserError(f"{what} must be real numbers, but they are {values.dtype}")
    if values.ndim == 1:
        raise UserError(f"{what} are one number a sample, {values.shape}: of a single feature, pass reshape(-1, 1)")
    if values.ndim in (3, 4) and len(values):
        values = _as_pixels(values, what)
        if values.ndim == 4 and values.shape[3] not in (1, 3) and values.shape[1] in (1, 3):
            values = values.transpose(0, 2, 3, 1)
    with np.errstate(over="ignore"):  # what is too large for float32 is reported with its row
        return array_content(values, what)


def _as_pixels(values: npt.NDArray[Any], what: str) -> npt.NDArray[np.uint8]:
    """Pictures as uint8, if that is what they are exactly."""
    if values.dtype == np.uint8:
        return values
    low, high = float(values.min()), float(values.max())
    for scale, top in ((255.0, 1.0), (1.0, 255.0)):
        if values.dtype.kind in "iu" and top == 1.0:
            continue
        if low >= 0 and high <= top:
            scaled = values.astype(np.float64) * scale
            if np.abs(scaled - np.rint(scaled)).max() < _PIXEL_TOLERANCE:
                return np.rint(scaled).astype(np.uint8)
    of_16_bits = values.dtype.kind in "iu" and low >= 0 and 255 < high <= 65535
    raise UserError(
        f"{what} look like pictures, {values.shape}, but are no pixels: {values.dtype} from {low:g} to {high:g}. Pass "
        "uint8, or ToTensor's floats, before any normalization (views are normalized later); "
        + ("of 16 bits pass (x / 257).round().astype('uint8')" if of_16_bits else "vectors are (N, D)")
    )


def _stacked(items: Sequence[Any], *, mode: str | None = None) -> npt.NDArray[Any] | tuple[Path, ...]:
    """Samples one by one become an array, or stay paths. `mode` of pictures: L or RGB; None: by what they are."""
    if items and all(isinstance(item, str | Path) for item in items):
        return tuple(map(Path, items))
    pictures = [item for item in items if isinstance(item, Image.Image)]
    mode = mode or ("L" if all(picture.mode in ("1", "L") for picture in pictures) else "RGB")
    arrays = [
        np.asarray(opened_rgb(item, name=f"in row {row}").convert(mode))
        if isinstance(item, Image.Image)
        else _as_array(item)
        for row, item in enumerate(items)
    ]
    for row, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            raise UserError(
                f"samples must have one shape, but row 0 has {arrays[0].shape} and row {row} {array.shape}: resize "
                "them, or pass their paths"
            )
    return np.stack(arrays) if arrays else np.empty((0, 0))


def _from_map(data: Any, labels: Any) -> Gathered:
    """Items (sample, label) of a map-style Dataset, or samples alone where labels are given."""
    samples, found = [], []
    for row in range(len(data)):
        item = data[row]
        if isinstance(item, tuple | list) and len(item) == 2:
            samples.append(item[0])
            label = np.asarray(item[1]) if isinstance(item[1], Tensor | np.ndarray | np.generic) else None
            found.append(label.item() if label is not None and label.size == 1 else item[1])
        elif labels is not None:
            samples.append(item)
        else:
            raise UserError(f"items of the {type(data).__name__} must be (sample, label), but item {row} is not")
    arrays = _stacked(samples)
    if not isinstance(arrays, tuple) and len(arrays):
        again = data[0]
        looked_again = _stacked(
            [again[0] if isinstance(again, tuple | list) and len(again) == 2 else again],
            mode="L" if arrays.ndim == 3 else "RGB",
        )
        if not np.array_equal(arrays[:1], cast(npt.NDArray[Any], looked_again), equal_nan=arrays.dtype.kind == "f"):
            raise UserError(
                f"the {type(data).__name__} gives another sample at each look: take random transforms away, training "
                "makes views of its own"
            )
    numbered = labels is None and all(isinstance(label, int | float) for label in found)
    return Gathered(
        content=_content(arrays, "the samples"),
        labels=found if labels is None else labels,
        class_names=_class_list(data) if numbered else (),
    )


def _class_list(data: Any) -> tuple[str, ...]:
    """The classes that a Dataset names, in the order in which it numbers them; empty if it names none, or if a
    target_transform makes other numbers of them.

    Raises:
        UserError: parts of it name other classes, or it numbers them otherwise than from 0.
    """
    if isinstance(data, Subset):
        return _class_list(data.dataset)
    if isinstance(data, ConcatDataset):
        first, *others = map(_class_list, data.datasets)
        if odd := next((other for other in others if other != first), None):
            raise UserError(f"the parts of the {type(data).__name__} number other classes: {first} and {odd}")
        return first
    stated: Any = getattr(data, "classes", None)
    if isinstance(stated, str | Mapping) or not hasattr(stated, "__len__"):
        return ()
    names, number = tuple(map(str, stated)), getattr(data, "class_to_idx", None)
    if (change := getattr(data, "target_transform", None)) is not None:
        try:
            if any(int(change(k)) != k for k in range(len(names))):
                return ()
        except Exception:  # the user's code, on numbers that it may never have been meant for
            return ()
    if not isinstance(number, Mapping) or set(map(str, number)) != set(names):
        return names
    by_number = {number[name]: str(name) for name in number}
    if set(by_number) != set(range(len(names))):
        raise UserError(f"class_to_idx of the {type(data).__name__} must number {len(names)} classes from 0: {number}")
    return tuple(by_number[k] for k in range(len(names)))


def _files_of(data: Any) -> Gathered | None:
    """The files of a DatasetFolder of torchvision (who has one has loaded it), or of a Subset of one; else None."""
    if isinstance(data, Subset):
        whole = _files_of(data.dataset)
        if whole is None:
            return None
        paths = cast(tuple[Path, ...], whole.content)
        chosen = [int(row) for row in data.indices]
        return Gathered(
            content=tuple(paths[row] for row in chosen),
            labels=[whole.labels[row] for row in chosen],
            ids=tuple(str(paths[row]) for row in chosen),
            class_names=whole.class_names,
        )
    kind: Any = getattr(sys.modules.get("torchvision.datasets"), "DatasetFolder", ())
    if not isinstance(data, kind):
        return None
    paths = tuple(Path(path) for path, _ in data.samples)
    change = data.target_transform or (lambda label: label)
    return Gathered(
        content=paths,
        labels=[change(label) for _, label in data.samples],
        ids=tuple(map(str, paths)),
        class_names=_class_list(data),
    )


def _from_frame(frame: Any, labels: Any, columns: Sequence[str], as_rows: bool | None) -> Gathered:
    """A data frame of pandas."""
    found = read_frame(frame, labels, columns, as_rows=as_rows)
    return Gathered(
        content=found.values if isinstance(found.values, tuple | Rows) else _content(found.values, "the columns"),
        labels=found.labels,
        ids=found.ids,
        columns=found.columns,
        splits=found.splits,
        notes=found.notes,
    )
