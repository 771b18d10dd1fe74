"""CIFAR-10 and CIFAR-100: the official Python archive, unpacked or as it is, or a Parquet copy."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from acto.core.errors import UserError
from acto.core.files import require_regular
from acto.data.pictures.files import decode_pixels
from acto.data.readers.download import download
from acto.data.readers.parquet import parquet_file, read_parquet
from acto.data.readers.place import Place, needed, not_found, places_below
from acto.data.readers.safe_pickle import load_plain
from acto.data.readers.text_files import read_text
from acto.data.samples import DataSpec, Labels, Pixels, Raw, clean_samples

_SIDE = 32
_MAX_MEMBER_BYTES = 2**28
"""The largest file that is read out of a CIFAR archive; the real ones have up to 155 MB."""
_MAX_ARCHIVE_BYTES = 2**30
"""Most bytes of all files in a CIFAR archive, wanted or not: to pass over a member takes as long as to read it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CifarForm:
    """Layout of one of the two CIFAR sets, in its official archive and in its Parquet copy."""

    num_classes: int
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: str
    meta: str
    names: str
    parquet_label: str
    url: str
    sha256: str

    @property
    def archive(self) -> str:
        """File name of the official archive."""
        return self.url.rpartition("/")[2]


CIFAR10 = CifarForm(
    num_classes=10,
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test=("test_batch",),
    labels="labels",
    meta="batches.meta",
    names="label_names",
    parquet_label="label",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
)
CIFAR100 = CifarForm(
    num_classes=100,
    folder="cifar-100-python",
    train=("train",),
    test=("test",),
    labels="fine_labels",
    meta="meta",
    names="fine_label_names",
    parquet_label="fine_label",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
)


def read(spec: DataSpec, place: Place, *, form: CifarForm) -> Raw:
    """Read CIFAR-10 or CIFAR-100 below the data root; the archive is fetched if it may be and is not there."""
    folder = f"cifar{form.num_classes}"
    layout = (
        f"{folder}/{form.folder}/ or {folder}/{form.archive} (the official archive), or {folder}/train*.parquet and "
        f"test*.parquet; --download fetches the archive ({form.url})"
    )
    root = needed(place.path, spec.source, layout=layout)
    places = places_below(root, (folder, f"cifar-{form.num_classes}"))
    found = next((archive for place in places if (archive := _read_any(place, form)) is not None), None)
    if found is None and place.download:
        download(form.url, root / folder / form.archive, sha256=form.sha256)
        found = _read_any(root / folder, form)
    if found is None:
        raise not_found(spec.source, places, layout=layout)
    notes: tuple[str, ...] = ()
    if found.parquet and spec.noise.kind in ("symmetric", "asymmetric"):
        notes = (
            "noise is drawn in the order of the Parquet rows: the labels equal the published ones only if that is the "
            "official archive's order",
        )
    human = f"CIFAR-{form.num_classes}_human.pt"
    around = (found.place, found.place.parent, *places_below(root, (f"cifar{form.num_classes}n", "cifar-n", "CIFAR-N")))
    return Raw(
        name=spec.source,
        train=clean_samples(*found.train),
        test=clean_samples(*found.test),
        class_names=found.class_names,
        clean=True,
        human_files=tuple(place / human for place in around),
        notes=notes,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cifar:
    """Pictures (N, 32, 32, 3) and labels (N,) of both splits, in the order of the files."""

    train: tuple[Pixels, Labels]
    test: tuple[Pixels, Labels]
    class_names: tuple[str, ...]
    place: Path
    """The folder or file that was read."""
    parquet: bool


def _read_any(folder: Path, form: CifarForm) -> _Cifar | None:
    """Read a CIFAR set from `folder`: the archive unpacked or as it is, or Parquet files; None if there is none.

    Raises:
        UserError: what is there cannot be used.
    """
    unpacked = folder if (folder / form.meta).is_file() else folder / form.folder
    if unpacked.is_dir():
        return _cifar_from_pickles(unpacked, form)
    if (folder / form.archive).is_file():
        return _cifar_from_pickles(folder / form.archive, form)
    for place in (folder, folder / "data", folder / "plain_text"):
        splits = [sorted(place.glob(f"{split}*.parquet")) for split in ("train", "test")]
        if all(splits):
            return _cifar_from_parquet(place, splits[0], splits[1], form)
    return None


def _cifar_from_pickles(place: Path, form: CifarForm) -> _Cifar:
    files = (*form.train, *form.test, form.meta)
    members = _from_tar(place, form.folder, files) if place.is_file() else _from_folder(place, files)
    batches = {}
    for name, content in members.items():
        batch = load_plain(io.BytesIO(content), name=f"{place}: {name}")
        if not isinstance(batch, dict):
            raise UserError(f"{place}: {name} holds a {type(batch).__name__}, not a dictionary")
        batches[name] = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}

    def split(names: Sequence[str]) -> tuple[Pixels, Labels]:
        parts = [_cifar_batch(batches.pop(name), form, where=f"{place}: {name}") for name in names]
        return np.concatenate([pixels for pixels, _ in parts]), np.concatenate([labels for _, labels in parts])

    class_names = _class_names(batches.pop(form.meta).get(form.names), form, where=f"{place}: {form.meta}")
    return _Cifar(train=split(form.train), test=split(form.test), class_names=class_names, place=place, parquet=False)


def _from_folder(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    try:
        for name in names:
            require_regular(folder / name)
        return {name: (folder / name).read_bytes() for name in names}
    except OSError as error:
        raise UserError(f"{folder} is no whole CIFAR archive: {error.filename}: {error.strerror}") from None


def _from_tar(archive: Path, folder: str, names: Sequence[str]) -> dict[str, bytes]:
    """The wanted members, read straight into memory: nothing is unpacked, so no member can be written anywhere."""
    wanted = {f"{folder}/{name}": name for name in names}
    found = {}
    total = 0
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                total += max(0, member.size)
                if total > _MAX_ARCHIVE_BYTES:
                    raise UserError(f"{archive} unpacks to more than {_MAX_ARCHIVE_BYTES} bytes: a decompression bomb")
                name = wanted.get(member.name.removeprefix("./"))
                if name is None or not member.isreg():
                    continue
                if name in found:
                    raise UserError(f"{archive} holds {member.name} twice: it is not the official archive")
                if member.size > _MAX_MEMBER_BYTES:
                    raise UserError(f"{archive}: {member.name} has {member.size} bytes, far more than a CIFAR file")
                stream = tar.extractfile(member)
                assert stream is not None  # a regular file
                found[name] = stream.read()
    except UserError:
        raise
    except Exception as error:  # a broken archive raises anything: TarError, zlib.error, EOFError, ValueError, ...
        raise UserError(f"{archive} is a damaged archive: {error}") from error
    if missing := [name for name in names if name not in found]:
        raise UserError(f"{archive} holds no {folder}/{missing[0]}: it is not the official archive")
    return found


def _cifar_batch(batch: dict[str, Any], form: CifarForm, *, where: str) -> tuple[Pixels, Labels]:
    rows, labels = batch.get("data"), batch.get(form.labels)
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3 * _SIDE**2:
        raise UserError(f"{where}: 'data' must be uint8 of (N, {3 * _SIDE**2}) (three colours of {_SIDE}x{_SIDE})")
    pixels = np.ascontiguousarray(rows.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1))
    return pixels, _numbers(labels, len(pixels), form.num_classes, what=form.labels, where=where)


def _class_names(names: Any, form: CifarForm, *, where: str) -> tuple[str, ...]:
    if not isinstance(names, list | tuple) or len(names) != form.num_classes:
        raise UserError(f"{where}: {form.names!r} must be a list of {form.num_classes} class names")
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)


def _numbers(values: Any, count: int, num_classes: int, *, what: str, where: str) -> Labels:
    """(count,) labels, each a whole number from 0 to num_classes - 1."""
    try:
        # A pickle may hold one long text many times over, and an array of texts would hold it that often.
        are_numbers = isinstance(values, list | tuple) and all(isinstance(value, int | np.generic) for value in values)
        labels = np.asarray(values) if are_numbers or isinstance(values, np.ndarray) else np.empty(0)
    except (ValueError, OverflowError):  # lists of different lengths
        labels = np.empty(0)
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise UserError(f"{where}: {what!r} must be {count} whole numbers, one a picture")
    if (wrong := np.flatnonzero((labels < 0) | (labels >= num_classes))).size:
        offenders = ", ".join(f"row {i}: {labels[i]}" for i in wrong[:5])
        raise UserError(f"{where}: {len(wrong)} of {what!r} are not in 0..{num_classes - 1}: {offenders}")
    return labels.astype(np.int64)


def _cifar_from_parquet(place: Path, train: Sequence[Path], test: Sequence[Path], form: CifarForm) -> _Cifar:
    names_file = place / f"{form.names}.txt"
    if names_file.is_file():
        names = read_text(names_file).split()
    else:
        names = _names_in_parquet(train[0], form) or [str(label) for label in range(form.num_classes)]
    return _Cifar(
        train=_pictures_in_parquet(train, form),
        test=_pictures_in_parquet(test, form),
        class_names=_class_names(names, form, where=str(names_file)),
        place=place,
        parquet=True,
    )


def _names_in_parquet(path: Path, form: CifarForm) -> list[str]:
    """The class names that Hugging Face's library writes beside the columns; none if they are not there."""
    with parquet_file(path) as file:
        facts = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    try:
        return list(json.loads(facts)["info"]["features"][form.parquet_label]["names"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def _pictures_in_parquet(paths: Sequence[Path], form: CifarForm) -> tuple[Pixels, Labels]:
    pixels, labels = [], []
    for path in paths:
        columns = read_parquet(path, ("img", form.parquet_label))
        files: list[Any] = [picture.get("bytes") if isinstance(picture, dict) else None for picture in columns["img"]]
        if None in files:
            raise UserError(f"{path} row {files.index(None)}: 'img' must be a structure with a picture file in 'bytes'")
        where = [f"{path} row {row}" for row in range(len(files))]
        pixels.append(decode_pixels(files, size=(_SIDE, _SIDE), names=where))
        labels.append(
            _numbers(
                columns[form.parquet_label], len(files), form.num_classes, what=form.parquet_label, where=str(path)
            )
        )
    return np.concatenate(pixels), np.concatenate(labels)
