"""Data sets that come as a few large files: CIFAR's Python archive or Parquet copy, idx files, numpy arrays."""

from __future__ import annotations

import gzip
import io
import json
import math
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError, closest
from acto.data.pictures.files import decode_pixels
from acto.data.readers.safe_pickle import load_plain
from acto.data.readers.text_files import check_titles, read_text

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

PARQUET_HINT = 'reading Parquet files needs pyarrow: pip install "acto-lnl[parquet]"'
_SIDE = 32
_MAX_MEMBER_BYTES = 2**28
"""The largest file that is read out of a CIFAR archive; the real ones have up to 155 MB."""
_MAX_ARCHIVE_BYTES = 2**30
"""Of all files in a CIFAR archive, wanted or not: to pass over a member costs as much time as to read it."""
_UNSUSPECTED_BYTES = 2**30
_MAX_RATIO = 100
"""What unpacks to more than that many bytes and by more than that factor counts as a decompression bomb."""
_MAX_ROWS_PER_BYTE = 20
"""Of a Parquet file; each of our rows has a name of its own, which takes more than that."""
_MAX_DIMS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class CifarForm:
    """How one of the two CIFAR sets is laid out in its official archive and in its Parquet copy."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Cifar:
    """Pictures (N, 32, 32, 3) and labels (N,) of both splits, in the order of the files."""

    train: tuple[Pixels, Labels]
    test: tuple[Pixels, Labels]
    class_names: tuple[str, ...]
    place: Path
    """The folder or file that was read."""
    parquet: bool


def read_cifar(folder: Path, form: CifarForm) -> Cifar | None:
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


def _cifar_from_pickles(place: Path, form: CifarForm) -> Cifar:
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
    return Cifar(train=split(form.train), test=split(form.test), class_names=class_names, place=place, parquet=False)


def _from_folder(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    try:
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
        labels = np.asarray(values) if isinstance(values, list | tuple | np.ndarray) else np.empty(0)
    except (ValueError, OverflowError):  # lists of different lengths
        labels = np.empty(0)
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise UserError(f"{where}: {what!r} must be {count} whole numbers, one a picture")
    if (wrong := np.flatnonzero((labels < 0) | (labels >= num_classes))).size:
        offenders = ", ".join(f"row {i}: {labels[i]}" for i in wrong[:5])
        raise UserError(f"{where}: {len(wrong)} of {what!r} are not in 0..{num_classes - 1}: {offenders}")
    return labels.astype(np.int64)


def _cifar_from_parquet(place: Path, train: Sequence[Path], test: Sequence[Path], form: CifarForm) -> Cifar:
    names_file = place / f"{form.names}.txt"
    if names_file.is_file():
        names = read_text(names_file).split()
    else:
        names = _names_in_parquet(train[0], form) or [str(label) for label in range(form.num_classes)]
    return Cifar(
        train=_pictures_in_parquet(train, form),
        test=_pictures_in_parquet(test, form),
        class_names=_class_names(names, form, where=str(names_file)),
        place=place,
        parquet=True,
    )


def _names_in_parquet(path: Path, form: CifarForm) -> list[str]:
    """The class names that Hugging Face's library writes beside the columns; none if they are not there."""
    with _parquet_file(path) as file:
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


def read_parquet(path: Path, columns: Sequence[str], *, optional: Sequence[str] = ()) -> dict[str, list[Any]]:
    """The named columns of a Parquet file as lists of Python values; an optional one is left out if it is not there.

    Raises:
        UserError: pyarrow is not installed, the file is damaged, or a column is missing.
    """
    with _parquet_file(path) as file:
        there = file.schema_arrow.names
        check_titles(there, [*columns, *optional], str(path))
        if file.metadata.num_rows > _MAX_ROWS_PER_BYTE * (size := path.stat().st_size):
            raise UserError(
                f"{path} has {size} bytes and claims {file.metadata.num_rows} rows: it is damaged, or a bomb"
            )
        for column in columns:
            if column not in there:
                raise UserError(missing_column(path, column, there))
        wanted = [*columns, *(column for column in optional if column in there)]
        table = file.read(columns=wanted)
        return {column: table[column].to_pylist() for column in wanted}


@contextmanager
def _parquet_file(path: Path) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(PARQUET_HINT) from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except UserError:
        raise
    except Exception as error:  # a broken file raises anything: ArrowException, OSError, UnicodeDecodeError, ...
        raise UserError(f"{path} is not a readable Parquet file: {error}") from error


def missing_column(path: Path, column: str, columns: Iterable[str]) -> str:
    """What to say when a table has no such column."""
    columns = list(columns)
    return f"{path} has no column {column!r}.{closest(column, columns)} Columns: {', '.join(map(repr, columns))}"


def read_idx(path: Path) -> Pixels:
    """An idx file of unsigned bytes, gzipped or not, as MNIST and Fashion-MNIST have them.

    Raises:
        UserError: another kind of file, or one that ends too early or too late.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            header = stream.read(4)
            if header[:3] != b"\x00\x00\x08" or len(header) < 4:
                raise UserError(f"{path} is no idx file of bytes: it starts with {header.hex(' ') or 'nothing'}")
            if not 0 < header[3] <= _MAX_DIMS:
                raise UserError(f"{path} is no idx file that can be used: it says that it has {header[3]} axes")
            sides = stream.read(4 * header[3])
            shape = [int.from_bytes(sides[i : i + 4], "big") for i in range(0, len(sides), 4)]
            count = math.prod(shape)
            # A header may claim anything; nothing is set aside for more than the file can hold.
            _check_bomb(str(path), unpacked=count, packed=path.stat().st_size)
            content = stream.read(count)
            if len(shape) != header[3] or len(content) != count or stream.read(1):
                raise UserError(f"{path} should hold {count} bytes after its header, but does not")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an .npz file by name, or the one of a .npy file by the file's name without suffix.

    Raises:
        UserError: a damaged file, or one that holds pickled objects (they are never loaded).
    """
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


def _npz(stream: BinaryIO, path: Path) -> dict[str, npt.NDArray[Any]]:
    arrays: dict[str, npt.NDArray[Any]] = {}
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        _check_bomb(str(path), unpacked=unpacked, packed=path.stat().st_size)
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
    if stream.read(6) != b"\x93NUMPY":
        raise ValueError(f"{what} is no array in numpy's format")
    stream.seek(0)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if dtype.hasobject:
        raise ValueError(f"{what} holds Python objects, which would have to be unpickled")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size - stream.tell():
        raise ValueError(
            f"the header of {what} claims {dtype} of {shape}, but {size - stream.tell()} bytes are behind it"
        )
    stream.seek(0)
    array: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _check_bomb(name: str, *, unpacked: int, packed: int) -> None:
    """Refuse a file before it is unpacked, if it would take far more memory than a file of its size should.

    Raises:
        UserError: with both sizes.
    """
    if unpacked > _UNSUSPECTED_BYTES and unpacked > _MAX_RATIO * packed:
        raise UserError(f"{name} has {packed} bytes and would unpack to {unpacked}: it is damaged, or a bomb")
