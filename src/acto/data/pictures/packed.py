"""Pictures that lie inside of larger files: a stretch of a file as it is, or a row of a Parquet table.

Such a picture has a path below its file, which no real file can have:

    shard.tar/@512+2048/cat.jpg           2,048 bytes of shard.tar, from byte 512 on
    train.parquet/@0:12/cat.jpg           row 12 (from 0) of the first column of train.parquet

The last part is a name for people. A manifest may hold such paths like any others. Nothing of a tar or Arrow file is
copied; what a Parquet file compresses is kept unpacked, see acto.data.pictures.table_pictures.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import BinaryIO

from acto.core.files import irregular
from acto.data.pictures.table_pictures import stored

_INSIDE = re.compile(r"(.+)[\\/]@(\d{1,18})([+:])(\d{1,18})[\\/][^\\/]*", re.DOTALL)
_ODD = re.compile(r"[^\w.-]", re.ASCII)
_LONGEST_NAME = 60


def packed(file: Path, start: int, size: int, name: str) -> Path:
    """The path of `size` bytes of a file from byte `start` on; `name` is what people call the picture."""
    return file / f"@{start}+{size}" / _plain(name)


def in_table(file: Path, column: int, row: int, name: str) -> Path:
    """The path of the picture in a row of a Parquet file's column, both counted from 0."""
    return file / f"@{column}:{row}" / _plain(name)


def outer_file(path: str | Path) -> Path:
    """The file on the disk that a picture is or lies in."""
    return Path(path) if (found := _place(path)) is None else found[0]


def open_picture(path: str | Path) -> BinaryIO:
    """Open a picture file, or a picture inside of a file, for reading.

    Raises:
        OSError: it is not there, or cannot be read.
        UserError: its Parquet file is damaged.
    """
    if (found := _place(path)) is None:
        return open(path, "rb")
    file, first, is_row, second = found
    if is_row:
        file, first, second = stored(file, first).place(second)
    with open(file, "rb") as stream:
        stream.seek(first)
        return io.BytesIO(stream.read(min(second, max(0, os.fstat(stream.fileno()).st_size - first))))


def size_and_time(path: str | Path) -> tuple[int, int]:
    """The size of a picture in bytes, and the time of its file's last change in nanoseconds.

    Raises:
        OSError: it is not there.
        UserError: its Parquet file is damaged.
    """
    if (found := _place(path)) is None:
        facts = os.stat(path)
        return facts.st_size, facts.st_mtime_ns
    file, first, is_row, second = found
    time = os.stat(file).st_mtime_ns
    return (stored(file, first).place(second)[2] if is_row else second), time


def no_picture_file(path: str | Path) -> str:
    """Say what is in a picture's place if that is there and no file, as acto.core.files.irregular does."""
    return irregular(outer_file(path))


def _place(path: str | Path) -> tuple[Path, int, bool, int] | None:
    """The file, the first number, whether they are a column and a row, and the second; None for a file of its own."""
    text = os.fspath(path)
    if "@" not in text or (found := _INSIDE.fullmatch(text)) is None or os.path.isdir(found[1]):
        return None
    return Path(found[1]), int(found[2]), found[3] == ":", int(found[4])


def _plain(name: str) -> str:
    """The last part of a name, without what a path or a table could stumble over."""
    return _ODD.sub("_", re.split(r"[\\/]", name)[-1])[-_LONGEST_NAME:].lstrip(".-") or "picture"
