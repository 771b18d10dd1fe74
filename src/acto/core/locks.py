"""Locks of folders, which end with the process that holds them."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

from acto.core.errors import UserError
from acto.core.files import disk_errors, open_own

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

HELD = ".held"
"""Suffix of the file that stands for a lock where there is no flock, or one that keeps nobody out."""
_held: set[FolderLock] = set()


class FolderLock:
    """Keeps a second process out of a folder. The system lets go of it when the process ends, however it ends.

    A system without flock (Windows) has no such lock, and some network file systems have one that keeps nobody out.
    There a file beside `path`, made by one process alone and deleted by release(), keeps the second process out; a
    process that is killed leaves it, and the message names it.

    Args:
        path: the lock's file in that folder; made if it is missing, and left there.
        on_wait: called if another process holds the lock, before waiting for it; None: refuse. Without a flock that
            works this refuses too, for the holder may be dead.

    Raises:
        UserError: another process holds it (names that process), or `path` is a link, a pipe or a device.
        RunError: the file cannot be made, or its file system has no locks.
    """

    def __init__(self, path: Path, *, on_wait: Callable[[], None] | None = None) -> None:
        self._path = path
        self._descriptor: int | None = None
        with disk_errors(f"lock {path.parent}", "Choose a folder on another file system."):
            descriptor = _opened(path)
            try:
                if fcntl is not None and not _try_flock(descriptor, fcntl.LOCK_EX):
                    if on_wait is None:
                        raise UserError(_in_use(path, os.read(descriptor, 200)))
                    on_wait()
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                self._by_file = fcntl is None or not _keeps_out(path)
                if self._by_file and not _made(_stand_in(path)):
                    raise UserError(_in_use(path, os.read(descriptor, 200), by_file=True))
            except BaseException:
                os.close(descriptor)
                raise
            self._descriptor = descriptor
            _held.add(self)
            try:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())
            except BaseException:
                self.release()
                raise

    def release(self) -> None:
        """Let others in; nothing if that has happened."""
        if self._descriptor is not None:
            if self._by_file:
                _stand_in(self._path).unlink(missing_ok=True)
            if fcntl is not None:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self._forget()

    def _forget(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            _held.discard(self)


def _opened(path: Path) -> int:
    """Open the lock's own file. Through a link it would be another file that is emptied and written to."""
    try:
        descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        if (path.is_file() and not path.is_symlink()) or not os.path.lexists(path):
            raise
        what = "a link, and a lock follows none" if path.is_symlink() else "no file, and a lock is one"
        raise UserError(f"{path} is {what}; delete it or choose another folder") from error
    if os.fstat(descriptor).st_nlink > 1:
        os.close(descriptor)
        raise UserError(
            f"{path} is a file that has another name elsewhere (a hard link), and a lock's file is written to; put a "
            "copy in its place or choose another folder"
        )
    return descriptor


def _stand_in(path: Path) -> Path:
    return path.with_name(path.name + HELD)


def _made(path: Path) -> bool:
    """Make a file; False if it is there."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except FileExistsError:
        return False
    return True


def _keeps_out(path: Path) -> bool:
    """Return True if a locked file cannot be locked a second time: on some file systems flock does nothing."""
    descriptor = _opened(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _in_use(path: Path, note: bytes, *, by_file: bool = False) -> str:
    owner = note.decode("utf-8", "replace").strip() or "another process"
    hint = f", or delete {_stand_in(path)} if that process has ended" if by_file else ""
    return f"{path.parent} is in use by {owner}; choose another folder{hint}"


def _try_flock(descriptor: int, kind: int) -> bool:
    """Return True if the lock was free. is_locked() takes it for an instant, hence the second and third try."""
    for last in (False, False, True):
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if not last:
                time.sleep(0.02)
        else:
            return True
    return False


def is_locked(path: Path) -> bool:
    """Return True if a living process holds the FolderLock at `path`; without a flock also if it died with it."""
    if fcntl is None:
        return _stand_in(path).exists()
    try:
        descriptor = open_own(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        if not _try_flock(descriptor, fcntl.LOCK_SH):
            return True
        if not _stand_in(path).exists():
            return False
        return not _keeps_out(path)
    finally:
        os.close(descriptor)


def _forget_locks() -> None:
    """A forked data worker inherits the lock, and would keep the folder locked after its parent was killed."""
    for lock in list(_held):
        lock._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)
