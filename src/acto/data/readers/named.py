"""The readers behind the named sources and behind paths: each turns what lies on the disk into a Raw data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError, choose
from acto.data.classes import Column, encode, encode_truth, exact_column, infer_classes, look_alikes, read_column
from acto.data.readers.archives import CifarForm, read_arrays, read_cifar, read_idx
from acto.data.readers.download import download as fetch
from acto.data.readers.listings import (
    MANIFEST_SUFFIXES,
    Listing,
    Listings,
    ManifestColumns,
    read_folder,
    read_food101n,
    read_manifest,
)
from acto.data.samples import DataSpec, Labels, Raw, Samples
from acto.data.splits import holdout

DATA_ROOT_VARIABLE = "ACTO_DATA_ROOT"
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""
DIGITS_TEST_SHARE = 0.25
CONTENT_KEYS = ("x", "images", "features")
"""Names of the samples in an array file, in this order."""
_LABEL_KEYS = ("labels", "y")
_CLASSES_KEYS = ("class_names", "classes")
_PIPELINES = ("cifar", "digits", "fashion", "small")
"""Views that pictures in arrays may ask for."""
_FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def _find(root: Path | None, name: str, folders: Sequence[str], layout: str, has: Callable[[Path], bool]) -> Path:
    """The first folder under the data root that `has` what is looked for.

    Raises:
        UserError: with the folders and the layout that was expected.
    """
    places = _places(_needed(root, name, layout), folders)
    for place in places:
        if has(place):
            return place
    raise _not_found(name, places, layout)


def _needed(root: Path | None, name: str, layout: str) -> Path:
    if root is None:
        raise UserError(
            f"{name} needs a data root: give --data-root FOLDER or set {DATA_ROOT_VARIABLE}. Expected there: {layout}"
        )
    return root


def _not_found(name: str, places: Sequence[Path], layout: str) -> UserError:
    return UserError(f"{name} was not found in {', '.join(map(str, places))}. Expected there: {layout}")


def _places(root: Path, folders: Sequence[str]) -> list[Path]:
    """Where a data set may lie: the root's own folders first, then those of the papers' code, then the root itself."""
    return [*(root / top / folder for folder in folders for top in ("", "data", "Datasets")), root]


def cifar(spec: DataSpec, root: Path | None, download: bool, *, name: str, form: CifarForm) -> Raw:
    """CIFAR-10 or CIFAR-100, fetched if `download` and it is not there."""
    folder = f"cifar{form.num_classes}"
    layout = (
        f"{folder}/{form.folder}/ or {folder}/{form.archive} (the official archive), or {folder}/train*.parquet and "
        f"test*.parquet; --download fetches the archive ({form.url})"
    )
    root = _needed(root, name, layout)
    places = _places(root, (folder, f"cifar-{form.num_classes}"))
    found = next((archive for place in places if (archive := read_cifar(place, form)) is not None), None)
    if found is None and download:
        fetch(form.url, root / folder / form.archive, sha256=form.sha256)
        found = read_cifar(root / folder, form)
    if found is None:
        raise _not_found(name, places, layout)
    notes: tuple[str, ...] = ()
    if found.parquet and spec.noise.kind in ("symmetric", "asymmetric"):
        notes = (
            "noise is drawn in the order of the Parquet rows: the labels equal the published ones only if that is the "
            "official archive's order",
        )
    human = f"CIFAR-{form.num_classes}_human.pt"
    around = (found.place, found.place.parent, *_places(root, (f"cifar{form.num_classes}n", "cifar-n", "CIFAR-N")))
    return Raw(
        name=name,
        train=_clean_pixels(*found.train),
        test=_clean_pixels(*found.test),
        class_names=found.class_names,
        pipeline="cifar",
        clean=True,
        human_files=tuple(place / human for place in around),
        notes=notes,
    )


def _clean_pixels(pixels: npt.NDArray[np.uint8], labels: Labels) -> Samples:
    return Samples(ids=tuple(map(str, range(len(labels)))), labels=labels, true_labels=labels, pixels=pixels)


def digits(spec: DataSpec, root: Path | None, download: bool) -> Raw:
    """scikit-learn's digits, a quarter of each class as clean test set."""
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    everything = _clean_pixels(pixels, bunch.target.astype(np.int64))
    train, test = holdout(everything.labels, share=DIGITS_TEST_SHARE, seed=spec.holdout_seed)
    return Raw(
        name="digits",
        train=everything.take(train),
        test=everything.take(test),
        class_names=tuple(map(str, range(10))),
        pipeline="digits",
        clean=True,
    )


def fashion_mnist(spec: DataSpec, root: Path | None, download: bool) -> Raw:
    """Fashion-MNIST from the data root, or from where Debian installs it."""
    files = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
    folders = ("fashion-mnist", "fashion_mnist", "FashionMNIST/raw")
    places = [*(_places(root, folders) if root is not None else []), DEBIAN_FASHION_MNIST]

    def file(place: Path, name: str) -> Path | None:
        return next((path for path in (place / name, place / f"{name}.gz") if path.is_file()), None)

    def split(place: Path, name: str) -> Samples:
        images, labels = file(place, name), file(place, name.replace("images-idx3", "labels-idx1"))
        if images is None or labels is None:
            raise UserError(f"fashion-mnist: {place} has no {name}(.gz) with its labels")
        pixels, numbers = read_idx(images), read_idx(labels)
        if len(wrong := np.flatnonzero(numbers.reshape(-1) > 9)):
            raise UserError(f"{labels}: {len(wrong)} labels are not in 0..9, the first in row {wrong[0]}")
        if pixels.ndim != 3 or numbers.shape != (len(pixels),) or 0 in pixels.shape:
            raise UserError(f"{images} and {labels} are no pictures with their labels: {pixels.shape}, {numbers.shape}")
        return _clean_pixels(pixels[..., None], numbers.astype(np.int64))

    for place in places:
        if file(place, files["train"]):
            return Raw(
                name="fashion-mnist",
                train=split(place, files["train"]),
                test=split(place, files["test"]),
                class_names=_FASHION_CLASSES,
                pipeline="fashion",
                clean=True,
            )
    layout = "train-images-idx3-ubyte(.gz), train-labels-idx1-ubyte(.gz) and the t10k files"
    raise _not_found("fashion-mnist", places, f"{layout}; Debian has them as package dataset-fashion-mnist")


def web(spec: DataSpec, root: Path | None, download: bool, *, name: str, num_classes: int) -> Raw:
    """Web-aircraft, Web-bird or Web-car, seen at 448 pixels."""
    place = _find(
        root,
        name,
        (name,),
        f"{name}/train/CLASS/*.jpg and {name}/val/CLASS/*.jpg, {num_classes} classes",
        lambda place: (place / "train").is_dir() and (place / "val").is_dir(),
    )
    raw = _from_listings(name, read_folder(place), spec)
    if len(raw.class_names) != num_classes:
        note = f"{place} has {len(raw.class_names)} classes, the published {name} {num_classes}"
        raw = replace(raw, notes=(*raw.notes, note))
    return replace(raw, pipeline="photo", size=448, resize=448)


def food101n(spec: DataSpec, root: Path | None, download: bool) -> Raw:
    """Food-101N with the test split of Food-101, seen at 224 pixels."""
    layout = (
        "food-101/meta/classes.txt, food-101/meta/imagelist.tsv and food-101/images of Food-101N, with the test split "
        "of Food-101 in food-101/food-101/meta and food-101/food-101/images"
    )
    folders = ("food-101", "food101n", "Food-101N_release")
    place = _find(root, "food101n", folders, layout, lambda place: (place / "meta" / "imagelist.tsv").is_file())
    return replace(_from_listings("food101n", read_food101n(place), spec), pipeline="photo")


def own(spec: DataSpec, root: Path | None, download: bool, *, name: str) -> Raw:
    """Data of the user's own, whose place stands where the data root would."""
    if root is None:
        raise UserError(f"data source {name!r} needs its place: give the path itself as source, or as --data-root")
    return read_path(spec, root)


def read_path(spec: DataSpec, path: Path, *, known_classes: tuple[str, ...] = ()) -> Raw:
    """A folder, manifest or arrays, recognised by what it is; `known_classes` as in acto.data.sources.read."""
    if path.is_dir():
        return _from_listings(path.resolve().name, read_folder(path), spec)
    if path.suffix.lower() in MANIFEST_SUFFIXES:
        columns = ManifestColumns(
            path=spec.path_column,
            label=spec.label_column,
            split=spec.split_column,
            true_label=spec.true_label_column,
        )
        return _from_listings(path.stem, read_manifest(path, columns), spec, known_classes)
    if path.suffix.lower() in (".npz", ".npy"):
        return _from_arrays(path, spec, known_classes)
    raise UserError(f"{path} is no image folder, manifest ({', '.join(MANIFEST_SUFFIXES)}) or array file (.npz, .npy)")


def _from_listings(name: str, listings: Listings, spec: DataSpec, known_classes: tuple[str, ...] = ()) -> Raw:
    # Folder names are class names as they stand; a manifest's labels may be numbers.
    read_labels = exact_column if listings.class_names else read_column
    train_column = read_labels(listings.train.labels, where=listings.train.where)
    names = spec.classes or listings.class_names or known_classes or infer_classes(train_column)
    notes = [*listings.notes, *look_alikes(names)]

    def samples(listing: Listing) -> Samples:
        truth = None
        if listing.true_labels is not None:
            if listings.class_names:
                column = exact_column(listing.true_labels, where=listing.where)
            else:
                column = read_column(listing.true_labels, where=listing.where, may_be_empty=True)
            truth, num_open = encode_truth(column, names)
            if num_open and not listings.class_names:
                notes.append(
                    f"{num_open} true labels of {listing.file} name no class: none of the classes is right there"
                )
        labels = encode(read_labels(listing.labels, where=listing.where), names)
        return Samples(ids=listing.ids, labels=labels, true_labels=truth, paths=listing.paths)

    train = samples(listings.train)
    test = None if listings.test is None else samples(listings.test)
    where = {"train": listings.train.where} | ({"test": listings.test.where} if listings.test is not None else {})
    return Raw(
        name=name,
        train=train,
        test=test,
        test_is_held_out=listings.test_is_held_out,
        class_names=tuple(names),
        where=where,
        notes=tuple(notes),
    )


def _from_arrays(path: Path, spec: DataSpec, known_classes: tuple[str, ...]) -> Raw:
    arrays = read_arrays(path)
    is_npy = path.suffix.lower() == ".npy"
    content_keys = (path.stem,) if is_npy else CONTENT_KEYS
    if is_npy:  # its labels and test set are files of their own beside it
        for sibling in sorted(path.parent.glob("*.npy")):
            if sibling.stem.startswith("test_") or sibling.stem in (*_LABEL_KEYS, *_CLASSES_KEYS, "true_labels"):
                arrays |= read_arrays(sibling)
    train = _ArraySplit(arrays, path, "", content_keys)
    has_test = any(name.startswith("test_") for name in arrays)
    test = _ArraySplit(arrays, path, "test_", CONTENT_KEYS) if has_test else None
    if test is not None and test.content.shape[1:] != train.content.shape[1:]:
        raise UserError(f"{path}: a test sample has shape {test.content.shape[1:]}, others {train.content.shape[1:]}")
    stated = next((_stated_classes(arrays[key], f"{path}: {key}") for key in _CLASSES_KEYS if key in arrays), ())
    names = spec.classes or stated or known_classes or infer_classes(train.labels)
    held_out = arrays.get("test_is_held_out", np.False_)
    if np.shape(held_out) != () or held_out.dtype.kind not in "biu":
        raise UserError(f"{path}: test_is_held_out must be true or false, not {held_out.dtype} of {np.shape(held_out)}")
    return Raw(
        name=path.stem,
        train=train.samples(names),
        test=None if test is None else test.samples(names),
        test_is_held_out=bool(held_out),
        class_names=names,
        pipeline=choose(f"pipeline of {path}", str(arrays["pipeline"]), _PIPELINES) if "pipeline" in arrays else None,
        notes=look_alikes(names),
    )


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
                raise UserError(f"{path}: {key} has shape {values.shape}, but {content_key} {len(self.content)} rows")
            return read_column(values, where=lambda i: f"{path.name} {key} row {i}", may_be_empty=may_be_empty)

        content_key = pick("samples", content_keys)
        self.content = array_content(arrays[content_key], f"{path}: {content_key}")
        self.labels = column(pick("labels", _LABEL_KEYS))
        truth_key = f"{prefix}true_labels"
        self.truth = column(truth_key, may_be_empty=True) if truth_key in arrays else None
        self.ids = tuple(map(str, range(len(self.content))))
        if prefix + "ids" in arrays:
            self.ids = array_ids(arrays[prefix + "ids"], len(self.content), f"{path}: {prefix}ids")

    def samples(self, names: Sequence[str]) -> Samples:
        """The split with class numbers for the class list `names`."""
        is_pixels = self.content.dtype == np.uint8
        return Samples(
            ids=self.ids,
            labels=encode(self.labels, names),
            true_labels=None if self.truth is None else encode_truth(self.truth, names)[0],
            pixels=self.content if is_pixels else None,
            features=None if is_pixels else self.content,
        )


def array_ids(array: npt.NDArray[Any], count: int, what: str) -> tuple[str, ...]:
    """The names that an array file has for its `count` samples.

    Raises:
        UserError: another number of them, or one twice; `what` names the array.
    """
    ids = _as_names(array, what) if array.ndim == 1 and array.dtype.kind in "USiu" else ()
    if len(ids) != count or len(set(ids)) < count:
        raise UserError(f"{what} must name each of the {count} samples differently, with a text or a whole number")
    return ids


def array_content(array: npt.NDArray[Any], what: str) -> npt.NDArray[Any]:
    """Pixels (N, H, W, C) uint8 or features (N, D) float32.

    Raises:
        UserError: another shape or type, or a value that is not finite, with its row.
    """
    if 0 in array.shape[1:]:
        raise UserError(f"{what} has samples without any content: its shape is {array.shape}")
    if array.ndim == 2 and array.dtype.kind in "fiub":
        with np.errstate(over="ignore"):  # what is too large for float32 is reported with its row
            features = array.astype(np.float32, copy=False)
        if (bad := np.flatnonzero(~np.isfinite(features).all(1))).size:
            rows = ", ".join(map(str, bad[:5].tolist()))
            raise UserError(f"{what} has values that are not finite in {len(bad)} rows, the first {rows}")
        return features
    if array.dtype != np.uint8 or array.ndim not in (3, 4):
        raise UserError(
            f"{what} must be pictures, uint8 of (N, H, W) or (N, H, W, C), or feature vectors of (N, D); "
            f"it is {array.dtype} of {array.shape}"
        )
    pixels = array[..., None] if array.ndim == 3 else array
    if pixels.shape[3] not in (1, 3):
        hint = "; its channels seem to come first: transpose(0, 2, 3, 1)" if pixels.shape[1] in (1, 3) else ""
        raise UserError(f"{what} must have 1 or 3 channels in its last axis, but has shape {array.shape}{hint}")
    return np.ascontiguousarray(pixels)
