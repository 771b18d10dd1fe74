"""Writing that survives a killed process and a full disk: atomic files.

A file or folder appears under its name when all of it is on the disk, or not at all: it is written beside, flushed to
the disk, and renamed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from acto.core.errors import RunError

OnPoint = Callable[[str], None]
"""Called with a point's name inside a save; the fault-injection tests kill the process there."""
_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than this process may write",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EIO: "the disk reports an error",
}


@contextlib.contextmanager
def disk_errors(what: str, hint: str = "") -> Iterator[None]:
    """Turn an OSError into a RunError that says what failed, why, and what is still there."""
    try:
        yield
    except OSError as error:
        reason = reason_of(error)
        where = f" ({error.filename})" if error.filename else ""
        raise RunError(f"cannot {what}: {reason}{where}.{' ' if hint else ''}{hint}") from error


def reason_of(error: OSError) -> str:
    """Say in words why the disk refuses."""
    return _REASONS.get(error.errno or 0, error.strerror or str(error))


def pass_point(point: str) -> None:
    """Do nothing: the OnPoint of a run that no test disturbs."""


def sync_folder(folder: Path) -> None:
    """Put the folder's list of names on the disk: without it a power cut can undo a rename."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, data: bytes, *, on_half: Callable[[], None] = lambda: None) -> None:
    """Write a file and put it on the disk. Not atomic: for files that get their name, or their folder's, later."""
    with open(path, "wb") as file:
        view = memoryview(data)
        file.write(view[: len(view) // 2])
        file.flush()
        on_half()
        file.write(view[len(view) // 2 :])
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file by `data`: after any interruption it holds all of the old bytes or all of the new ones."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        write_new(draft, data)
        os.replace(draft, path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    sync_folder(path.parent)


def append(path: Path, data: bytes) -> None:
    """Add `data` to a file's end and put it on the disk. After an OSError the file is as it was."""
    new = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
    if new:
        sync_folder(path.parent)


def sha256_of(path: Path) -> str:
    """The hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
