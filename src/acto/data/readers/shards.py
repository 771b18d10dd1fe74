"""Tar shards as webdataset has them: files of one sample side by side, KEY.jpg and KEY.cls, KEY.json or KEY.txt.

A shard is read once from front to end for its index; nothing is unpacked. Pictures are read later, each from its place
in the tar, which therefore may not be compressed.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy.typing as npt

from acto.core.documents import parse_json
from acto.core.errors import UserError
from acto.core.files import require_regular
from acto.data.pictures.kinds import SUFFIXES
from acto.data.pictures.packed import packed
from acto.data.readers.file_tree import folders_in, is_leftover, walk
from acto.data.readers.place import Place
from acto.data.readers.record_tables import NUMBER, OTHER, PICTURE, TEXT, Cell, Table
from acto.data.readers.records import Source, read_records, read_records_bare
from acto.data.readers.split_files import splits_of_files
from acto.data.samples import DataSpec, Raw

_LABELS = ("cls", "txt", "json")
"""Ends of the files that are looked into; the others beside a picture are passed over."""
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_MOST_LABEL_BYTES = 1 << 20
"""Bytes of a file with labels."""


def are_shards(path: Path, spec: DataSpec) -> bool:
    """Tell tar files, and folders that hold some and no pictures, from all else."""
    if not path.is_dir():
        return path.name.lower().endswith((".tar", *_COMPRESSED_SUFFIXES))
    return bool(_tars(path)) and not any(file.suffix.lower() in SUFFIXES for file in walk(path))


def read(spec: DataSpec, place: Place) -> Raw:
    """Read shards with their labels: of the split train, where names or folders of the files say so, and of a test."""
    return read_records(_source(place.own), spec, place)


def read_bare(spec: DataSpec, place: Place) -> Raw:
    """Read the pictures of all shards."""
    return read_records_bare(_source(place.own), spec)


def _source(path: Path) -> Source:
    if not path.is_dir():
        return Source(name=path.stem, folder=path.parent, splits={"": [TarTable(path)]})
    splits = splits_of_files(path, _tars(path))
    tables = {split: [TarTable(file) for file in files] for split, files in splits.items()}
    return Source(name=path.resolve().name, folder=path, splits=tables)


def _tars(folder: Path) -> list[Path]:
    """The shards of a folder, or of the folders in it where it has none itself."""
    for level in ([folder], [folder / name for name in folders_in(folder)]):
        if found := [file for each in level for file in _in(each)]:
            return found
    return []


def _in(folder: Path) -> Iterable[Path]:
    endings = (".tar", *_COMPRESSED_SUFFIXES)
    files = (file for file in sorted(folder.iterdir()) if file.name.lower().endswith(endings))
    return [file for file in files if file.is_file() and not is_leftover(file.name)]


class TarTable(Table):
    """A shard: a row for each key, in their order.

    Its columns are `image`, `cls` and `txt` where there are such files, and the fields of the .json files.

    Args:
        file: see Table.

    Raises:
        UserError: it is compressed, damaged, or a sample lacks a picture, or has several.
    """

    perhaps_labels = ("txt",)

    def __init__(self, file: Path) -> None:
        self._pictures: dict[str, tuple[int, int, str]] = {}
        self._values: dict[str, dict[str, Any]] = {}
        _refuse_compressed(file)
        try:
            self._index(file)
        except (UserError, RecursionError):
            raise
        except Exception as error:  # a broken archive raises anything: TarError, EOFError, ValueError, ...
            raise UserError(f"{file} is a damaged tar archive: {error or type(error).__name__}") from error
        if not self._pictures:
            raise UserError(
                f"{file} holds no pictures: KEY.jpg (or another picture) beside KEY.cls, KEY.json or KEY.txt"
            )
        if lacking := [key for key in self._values if key not in self._pictures]:
            raise UserError(f"{file}: {lacking[0]} has labels, but no picture")
        columns = dict.fromkeys(name for row in self._values.values() for name in row)
        super().__init__(file, ["image", *(name for name in columns if name != "image")])
        self.ids = tuple(self._pictures)

    def _index(self, file: Path) -> None:
        size = file.stat().st_size
        end = 0
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                end = member.offset_data + member.size
                if end > size:
                    raise UserError(f"{file} is cut off: {member.name} would end at byte {end} of {size}")
                name = PurePosixPath(member.name)
                if member.isdir() or is_leftover(name.name):
                    continue
                if not member.isreg() or member.issparse():
                    raise UserError(f"{file}: {member.name} is no plain file (a link, say): nothing is followed")
                base, _, ending = name.name.partition(".")
                key = (name.parent / base).as_posix()
                if f".{ending.rpartition('.')[2].lower()}" in SUFFIXES:
                    if key in self._pictures:
                        both = f"{self._pictures[key][2]} and {name.name}"
                        raise UserError(f"{file}: {key} has several pictures, {both}, and a sample is one")
                    self._pictures[key] = (member.offset_data, member.size, name.name)
                elif ending.lower() in _LABELS:
                    self._read_label(file, tar, member, key, ending.lower())
        with open(file, "rb") as stream:  # tarfile takes a file that was cut between two members for a whole one
            stream.seek(-(-end // 512) * 512)
            if stream.read(512).strip(b"\0") or size < end + 512:
                raise UserError(f"{file} is cut off or damaged behind byte {end}: the mark of its end is missing")

    def _read_label(self, file: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, key: str, ending: str) -> None:
        if member.size > _MOST_LABEL_BYTES:
            raise UserError(f"{file}: {member.name} has {member.size} bytes, far more than a label")
        stream = tar.extractfile(member)
        assert stream is not None  # a regular file
        try:
            text = stream.read().decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise UserError(f"{file}: {member.name} is not UTF-8") from None
        row = self._values.setdefault(key, {})
        found = {ending: text}
        if ending == "json":
            found = parse_json(text, f"{file}: {member.name}")
            if not isinstance(found, dict):
                raise UserError(f"{file}: {member.name} is no object")
        if twice := row.keys() & found.keys():
            raise UserError(f"{file}: {key} has {min(twice)!r} twice")
        row.update(found)

    def __len__(self) -> int:
        return len(self._pictures)

    def kind(self, name: str) -> str:
        """See Table; by the first row that has something there."""
        if name == "image":
            return PICTURE
        value = next((row[name] for row in self._values.values() if row.get(name) is not None), None)
        return TEXT if isinstance(value, str) else NUMBER if isinstance(value, int | float) else OTHER

    def values(self, name: str) -> list[Any]:
        """See Table."""
        return [self._values.get(key, {}).get(name) for key in self._pictures]

    def vectors(self, name: str) -> npt.NDArray[Any]:
        """Shards hold pictures."""
        raise AssertionError(name)

    def pictures(self, name: str) -> list[Cell]:
        """See Table."""
        return [Cell(packed(self.file, *place), place[2]) for place in self._pictures.values()]

    def place(self, row: int) -> str:
        """See Table."""
        return f"{self.file.name}: {self.ids[row] if self.ids else row}"


def _refuse_compressed(file: Path) -> None:
    require_regular(file)
    with open(file, "rb") as stream:
        start = stream.read(8)
    if kind := next((kind for sign, kind in _COMPRESSED.items() if start.startswith(sign)), None):
        plain = f"{file.name.split('.')[0]}.tar"
        unpack = {"gzip": "gunzip -c", "bzip2": "bunzip2 -c", "xz": "xz -dc", "zstd": "zstd -dc"}[kind]
        raise UserError(
            f"{file} is compressed ({kind}), so that no picture can be read from its place: `{unpack} {file.name} > "
            f"{plain}` makes a plain tar of hardly more bytes, since pictures are compressed themselves"
        )
