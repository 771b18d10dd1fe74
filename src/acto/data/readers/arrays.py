"""Numpy arrays: an .npz file, or .npy files side by side, of pictures or feature vectors with their labels."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError, choose
from acto.core.files import check_zip, require_regular
from acto.core.text import counted
from acto.data.classes import ClassCodes, infer_classes, look_alikes, of_no_class
from acto.data.label_columns import Column, read_column, shape_hint
from acto.data.readers.place import Place
from acto.data.samples import DataSpec, Raw, Samples

_CONTENT_KEYS = ("x", "images", "features")
"""Names of the samples in an array file, in this order."""
LABEL_KEYS = ("labels", "y")
_CLASSES_KEYS = ("class_names", "classes")
_SETS = {"train": "", "test": "test_", "val": "val_", "valid": "val_", "validation": "val_"}
"""Sets in the names of keras (x_train) and MedMNIST (train_images), and what stands before the names above instead."""
VOTES_KEY = "votes"
"""Labels by several people (N, M)."""
SIBLINGS = (*LABEL_KEYS, *_CLASSES_KEYS, VOTES_KEY, "true_labels")
"""Names of the .npy files that belong to another one beside them."""
_PIPELINES = ("cifar", "digits", "fashion", "small")
"""Views that pictures in arrays may ask for."""


def read_file(path: Path) -> tuple[dict[str, npt.NDArray[Any]], list[str]]:
    """Read the arrays of a data set by name, of .npy files those beside it that belong to it as well; and notes.

    Raises:
        UserError: see read_arrays.
    """
    arrays, said = _usual(read_arrays(path), path)
    if path.suffix.lower() == ".npy":  # its labels and test set are files of their own beside it
        for sibling in sorted(path.parent.glob("*.npy")):
            if sibling.stem.startswith("test_") or sibling.stem in SIBLINGS:
                arrays |= read_arrays(sibling)
    return arrays, said


def content_keys_of(path: Path) -> tuple[str, ...]:
    """Names that the training samples of an array file may have."""
    return (path.stem,) if path.suffix.lower() == ".npy" else _CONTENT_KEYS


def assembled(arrays: Mapping[str, npt.NDArray[Any]], spec: DataSpec, place: Place) -> Raw:
    """Make a data set of samples with their labels, and where there are a test set, true labels, ids, a class list."""
    path, content_keys = place.own, content_keys_of(place.own)
    train = _ArraySplit(arrays, path, "", content_keys)
    has_test = any(name.startswith("test_") for name in arrays)
    test = _ArraySplit(arrays, path, "test_", _CONTENT_KEYS) if has_test else None
    if test is not None and test.content.shape[1:] != train.content.shape[1:]:
        raise UserError(f"{path}: a test sample has shape {test.content.shape[1:]}, others {train.content.shape[1:]}")
    stated = stated_classes(arrays, path)
    own = stated or spec.classes or place.known_classes or infer_classes(train.labels)
    names = spec.classes or own
    parts = [train] + ([test] if test is not None else [])
    truths = [part.truth for part in parts if part.truth is not None]
    codes = ClassCodes(own, [part.labels for part in parts], truths, classes=names)
    num_open = sum(codes.truth(truth)[1] for truth in truths)
    notes = [of_no_class(num_open, path.name)] if num_open else []
    held_out = arrays.get("test_is_held_out", np.False_)
    if np.shape(held_out) != () or held_out.dtype.kind not in "biu":
        raise UserError(f"{path}: test_is_held_out must be true or false, not {held_out.dtype} of {np.shape(held_out)}")
    return Raw(
        name=path.stem,
        train=train.samples(codes),
        test=None if test is None else test.samples(codes),
        test_is_held_out=bool(held_out),
        class_names=names,
        pipeline=choose(f"pipeline of {path}", str(arrays["pipeline"]), _PIPELINES) if "pipeline" in arrays else None,
        notes=(*look_alikes(names), *notes),
    )


def read_bare(spec: DataSpec, place: Place) -> Raw:
    """Read samples, those of a test set too, without their labels."""
    path = place.own
    arrays, said = _usual(read_arrays(path), path)
    if path.suffix.lower() == ".npy":
        samples = array_samples(arrays[path.stem], name=str(path))
        return Raw(name=path.stem, train=samples, test=None, class_names=())
    found = [next((prefix + key for key in _CONTENT_KEYS if prefix + key in arrays), None) for prefix in ("", "test_")]
    keys = [key for key in found if key is not None]
    if not keys:
        raise UserError(
            f"{path} has no samples ({' or '.join(_CONTENT_KEYS)}); "
            f"it holds {', '.join(map(repr, arrays)) or 'nothing'}"
        )
    parts = [_with_ids(array_samples(arrays[key], name=f"{path}: {key}"), key, arrays, path) for key in keys]
    if len({part.content.shape[1:] for part in parts if isinstance(part.content, np.ndarray)}) > 1:
        raise UserError(f"{path}: {' and '.join(keys)} have samples of different shapes")
    test = parts[1] if len(parts) > 1 else None
    return Raw(name=path.stem, train=parts[0], test=test, class_names=(), notes=tuple(said))


def _usual(arrays: dict[str, npt.NDArray[Any]], path: Path) -> tuple[dict[str, npt.NDArray[Any]], list[str]]:
    """The arrays of a file of keras or MedMNIST under the names that are read here, and notes; others as they are.

    Labels of shape (N, 1) lose their second axis there. Without a test set the validation set is one.
    """
    parts = {name: name.split("_") for name in arrays}
    if any(key in arrays for key in _CONTENT_KEYS) or not any("train" in words for words in parts.values()):
        return arrays, []
    found: dict[str, npt.NDArray[Any]] = {}
    for name, words in parts.items():
        sets = [word for word in words if word in _SETS]
        rest = "_".join(word for word in words if word not in _SETS)
        key = f"{_SETS[sets[0]]}{rest}" if len(sets) == 1 and len(words) > 1 else name
        if key in found:
            raise UserError(f"{path} holds several arrays that would be {key!r}, {name!r} among them")
        array = arrays[name]
        found[key] = array[:, 0] if rest in LABEL_KEYS and array.ndim == 2 and array.shape[1] == 1 else array
    if not any(key in found for key in _CONTENT_KEYS):
        return arrays, []
    of_val = [key for key in found if key.startswith("val_")]
    has_test = any(key.startswith("test_") for key in found)
    if of_val and not has_test:
        found = {f"test_{key.removeprefix('val_')}" if key in of_val else key: found[key] for key in found}
    notes = [f"the validation set of {path.name} is {'left out' if has_test else 'tested on'}"] if of_val else []
    return found, notes


def array_samples(array: npt.NDArray[Any], *, name: str) -> Samples:
    """Take (N, D) numbers as features, (N, H, W) or (N, H, W, C) uint8 as pixels, with row numbers as ids.

    Raises:
        UserError: another shape or type; `name` says of what.
    """
    is_pixels = _are_pixels(array, name)
    return Samples(
        ids=tuple(map(str, range(len(array)))),
        labels=np.zeros(len(array), np.int64),
        pixels=(array[..., None] if array.ndim == 3 else array) if is_pixels else None,
        features=None if is_pixels else array.astype(np.float32),
    )


def _with_ids(samples: Samples, key: str, arrays: Mapping[str, npt.NDArray[Any]], path: Path) -> Samples:
    """The samples under the names that the file has for them, if it has."""
    column = "test_ids" if key.startswith("test_") else "ids"
    if column not in arrays:
        return samples
    return replace(samples, ids=_array_ids(arrays[column], len(samples), f"{path}: {column}"))


def stated_classes(arrays: Mapping[str, npt.NDArray[Any]], path: Path) -> tuple[str, ...]:
    """Read the class list of an array file; empty if it has none.

    Raises:
        UserError: it is no list of different texts or whole numbers.
    """
    return next((_stated_classes(arrays[key], f"{path}: {key}") for key in _CLASSES_KEYS if key in arrays), ())


def _stated_classes(array: npt.NDArray[Any], what: str) -> tuple[str, ...]:
    """The class list of an array file; empty if the array is.

    Raises:
        UserError: it is no list of different texts or whole numbers; `what` names it.
    """
    if array.ndim != 1 or array.dtype.kind not in "USiu" or array.size == 1:
        raise UserError(f"{what} must be a row of at least two class names, but it is {array.dtype} of {array.shape}")
    names = _as_names(array, what)
    if len(set(names)) < len(names) or "" in names:
        odd = next(name for name in names if not name or names.count(name) > 1)
        raise UserError(f"{what} must be different names, but {odd!r} is {'twice' if odd else 'empty'} among them")
    return names


def _as_names(array: npt.NDArray[Any], what: str) -> tuple[str, ...]:
    try:
        return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in array.tolist())
    except UnicodeDecodeError:
        raise UserError(f"{what} has a text that is not UTF-8") from None


class _ArraySplit:
    """One split of an array file: pictures or features, and labels that are not class numbers yet."""

    def __init__(
        self, arrays: Mapping[str, npt.NDArray[Any]], path: Path, prefix: str, content_keys: Sequence[str]
    ) -> None:
        def pick(what: str, keys: Sequence[str]) -> str:
            for key in keys:
                if prefix + key in arrays:
                    return prefix + key
            wanted = " or ".join(prefix + key for key in keys)
            raise UserError(f"{path} has no {what} ({wanted}); it holds {', '.join(map(repr, arrays)) or 'nothing'}")

        def column(key: str, *, may_be_empty: bool = False) -> Column:
            values = arrays[key]
            if values.shape != (len(self.content),):
                raise UserError(
                    f"{path}: {key} has shape {values.shape}, but {content_key} {counted(len(self.content), 'row')}"
                    f"{shape_hint(values)}"
                )
            return read_column(values, where=lambda i: f"{path.name} {key} row {i}", may_be_empty=may_be_empty)

        content_key = pick("samples", content_keys)
        self.content = array_content(arrays[content_key], f"{path}: {content_key}")
        self.labels = column(pick("labels", LABEL_KEYS))
        truth_key = f"{prefix}true_labels"
        self.truth = column(truth_key, may_be_empty=True) if truth_key in arrays else None
        self.ids = tuple(map(str, range(len(self.content))))
        if prefix + "ids" in arrays:
            self.ids = _array_ids(arrays[prefix + "ids"], len(self.content), f"{path}: {prefix}ids")

    def samples(self, codes: ClassCodes) -> Samples:
        """The split with class numbers."""
        is_pixels = self.content.dtype == np.uint8
        return Samples(
            ids=self.ids,
            labels=codes.labels(self.labels),
            true_labels=None if self.truth is None else codes.truth(self.truth)[0],
            pixels=self.content if is_pixels else None,
            features=None if is_pixels else self.content,
        )


def _array_ids(array: npt.NDArray[Any], count: int, what: str) -> tuple[str, ...]:
    """The names that an array file has for its `count` samples.

    Raises:
        UserError: another number of them, or one twice; `what` names the array.
    """
    ids = _as_names(array, what) if array.ndim == 1 and array.dtype.kind in "USiu" else ()
    if len(ids) != count or len(set(ids)) < count:
        raise UserError(f"{what} must name each of the {count} samples differently, with a text or a whole number")
    return ids


def array_content(array: npt.NDArray[Any], what: str) -> npt.NDArray[Any]:
    """Return pixels (N, H, W, C) uint8 or features (N, D) float32.

    Raises:
        UserError: another shape or type, or a value that is not finite, with its row.
    """
    if not _are_pixels(array, what):
        with np.errstate(over="ignore"):  # what is too large for float32 is reported with its row
            features = array.astype(np.float32, copy=False)
        if (bad := np.flatnonzero(~np.isfinite(features).all(1))).size:
            rows = ", ".join(map(str, bad[:5].tolist()))
            raise UserError(f"{what} has values that are not finite in {counted(len(bad), 'row')}, the first {rows}")
        return features
    pixels = array[..., None] if array.ndim == 3 else array
    if pixels.shape[3] not in (1, 3):
        hint = "; its channels seem to come first: transpose(0, 2, 3, 1)" if pixels.shape[1] in (1, 3) else ""
        raise UserError(f"{what} must have 1 or 3 channels in its last axis, but has shape {array.shape}{hint}")
    return np.ascontiguousarray(pixels)


def _are_pixels(array: npt.NDArray[Any], what: str) -> bool:
    """Say whether an array is pictures, or else feature vectors.

    Raises:
        UserError: it is neither; `what` names it.
    """
    if 0 in array.shape[1:]:
        raise UserError(f"{what} has samples without any content: its shape is {array.shape}")
    is_pixels = array.dtype == np.uint8 and array.ndim in (3, 4)
    if not is_pixels and (array.ndim != 2 or array.dtype.kind not in "fiub"):
        raise UserError(
            f"{what} must be pictures, uint8 of (N, H, W) or (N, H, W, C), or feature vectors of (N, D); "
            f"it is {array.dtype} of {array.shape}"
        )
    return is_pixels


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays of an .npz file by name, or the one of a .npy file by the file's name without suffix.

    Raises:
        UserError: a damaged file, or one that holds pickled objects (they are never loaded).
    """
    require_regular(path)
    try:
        with path.open("rb") as stream:
            is_zip = stream.read(4) in (b"PK\3\4", b"PK\5\6")
            stream.seek(0)
            if not is_zip:
                return {path.stem: _npy(stream, size=path.stat().st_size, what="the file")}
            return _npz(stream, path)
    except UserError:
        raise
    except Exception as error:  # a broken file raises anything: zlib.error, EOFError, struct.error, MemoryError, ...
        raise UserError(f"{path} cannot be read as numpy arrays: {error or type(error).__name__}") from error


def map_array(path: Path) -> npt.NDArray[Any]:
    """The array of a .npy file as a view of the disk, of which what is read takes memory that can be taken back.

    Raises:
        UserError: see read_arrays.
    """
    require_regular(path)
    try:
        with path.open("rb") as stream:
            shape, in_columns, dtype = _header(stream, size=path.stat().st_size, what="the file")
            place = stream.tell()
        if not math.prod(shape):
            return np.empty(shape, dtype)
        return np.memmap(path, dtype, "r", place, shape, "F" if in_columns else "C")
    except Exception as error:
        raise UserError(f"{path} cannot be read as a numpy array: {error or type(error).__name__}") from error


def _npz(stream: BinaryIO, path: Path) -> dict[str, npt.NDArray[Any]]:
    arrays: dict[str, npt.NDArray[Any]] = {}
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        check_zip(archive, str(path), packed=path.stat().st_size)
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name in arrays:
                raise UserError(f"{path} holds {name!r} twice")
            with archive.open(member) as content:
                arrays[name] = _npy(content, size=member.file_size, what=repr(name))
    return arrays


def _npy(stream: IO[bytes], *, size: int, what: str) -> npt.NDArray[Any]:
    """One array of `size` bytes, header and all. Objects, which would be a pickle, are never read.

    Raises:
        ValueError: it is none, holds objects, or its header claims more or less than there is.
    """
    _header(stream, size=size, what=what)
    stream.seek(0)
    array: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _header(stream: IO[bytes], *, size: int, what: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """The shape of an array, whether columns lie together, and its type; the stream is then where numbers begin."""
    if stream.read(6) != b"\x93NUMPY":
        raise ValueError(f"{what} is no array in numpy's format" if size else f"{what} is empty")
    stream.seek(0)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, in_columns, dtype = read_header(stream)
    if dtype.hasobject:
        raise ValueError(
            f"{what} holds Python objects, which would have to be unpickled: save texts as array.astype(str), numbers "
            "as array.astype(float)"
        )
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size - stream.tell():
        raise ValueError(
            f"the header of {what} claims {dtype} of {shape}, but {size - stream.tell()} bytes are behind it"
        )
    return shape, in_columns, dtype
