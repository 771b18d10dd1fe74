"""Picture files out of a Parquet column, kept side by side in one file of the user's cache, so that each is at hand.

A Parquet file compresses its columns in large pieces: one picture alone cannot be read out of it. The first reader
unpacks a column into `acto/pictures` below XDG_CACHE_HOME (~/.cache), and all later ones find it there by the table's
path, size and time of last change. Whatever is deleted there is made again.

    NAME.pictures       the pictures' bytes, one after another; (N + 1,) int64 of where each begins; the mark and N
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from acto.core.errors import RunError
from acto.core.files import cache_folder, disk_errors, open_regular
from acto.core.text import bytes_in_words
from acto.data.readers.parquet import picture_bytes, stored_bytes

_END = struct.Struct("<8sq")
_MARK = b"ACTOPICS"
_SPARE = 1.05


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Stored:
    """Pictures of a column, unpacked."""

    file: Path
    starts: npt.NDArray[np.int64]
    """(N + 1,) bytes of the file at which each picture begins, and at which the last one ends."""

    def place(self, row: int) -> tuple[Path, int, int]:
        """The file, the first byte and the size of the picture in a row; FileNotFoundError if there is no such row."""
        if row >= len(self.starts) - 1:
            raise FileNotFoundError(f"row {row} of {len(self.starts) - 1}")
        return self.file, int(self.starts[row]), int(self.starts[row + 1] - self.starts[row])


def stored(table: Path, column: int) -> Stored:
    """Find the unpacked pictures of a Parquet file's column (from 0), or unpack them.

    Raises:
        OSError: the table is not there.
        UserError: it is damaged, has no such column of pictures, or there is no folder that could hold them.
        RunError: the disk refuses; nothing is left behind.
    """
    facts = os.stat(table)
    found = _stored(os.path.abspath(table), facts.st_size, facts.st_mtime_ns, column)
    if not found.file.exists():  # deleted since
        _stored.cache_clear()
        found = _stored(os.path.abspath(table), facts.st_size, facts.st_mtime_ns, column)
    return found


@lru_cache(maxsize=512)
def _stored(table: str, size: int, time: int, column: int) -> Stored:
    key = hashlib.sha256(f"{column} {size} {time} {table}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
    file = cache_folder("pictures", what="pictures in Parquet files are kept unpacked") / f"{key}.pictures"
    if (found := _read(file)) is None:
        with disk_errors(f"keep the pictures of {table} unpacked in {file.parent}", "XDG_CACHE_HOME names the place."):
            _unpack(Path(table), column, file)
        found = _read(file)
    assert found is not None
    return found


def _read(file: Path) -> Stored | None:
    """The pictures of a finished file; None where there is none, or another one than this module writes."""
    with contextlib.suppress(OSError, ValueError), open(file, "rb", opener=open_regular) as stream:
        end = stream.seek(-_END.size, os.SEEK_END)
        mark, count = _END.unpack(stream.read(_END.size))
        stream.seek(end - 8 * (count + 1))
        starts = np.frombuffer(stream.read(8 * (count + 1)), "<i8")
        if mark == _MARK and len(starts) == count + 1 and starts[-1] == end - starts.nbytes and starts[0] == 0:
            return Stored(file=file, starts=starts.astype(np.int64))
    return None


def _unpack(table: Path, column: int, file: Path) -> None:
    needed, free = stored_bytes(table, column), shutil.disk_usage(file.parent).free
    if free < _SPARE * needed:
        raise RunError(
            f"the pictures of {table} take {bytes_in_words(needed)} unpacked, and {bytes_in_words(free)} are free in "
            f"{file.parent}: XDG_CACHE_HOME names another place"
        )
    draft = file.with_name(f".{file.name}.{os.getpid()}.draft")
    starts = [0]
    try:
        with open(draft, "wb") as stream:
            for picture in picture_bytes(table, column):
                stream.write(picture)
                starts.append(starts[-1] + len(picture))
            stream.write(np.array(starts, "<i8").tobytes())
            stream.write(_END.pack(_MARK, len(starts) - 1))
        os.replace(draft, file)
    finally:
        draft.unlink(missing_ok=True)
