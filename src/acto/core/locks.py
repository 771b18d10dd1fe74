"""Locks of folders, which end with the process that holds them."""

from __future__ import annotations

import fcntl
import os
import platform
import time
from pathlib import Path

from acto.core.errors import UserError
from acto.core.files import disk_errors

_held: set[FolderLock] = set()


class FolderLock:
    """Keeps a second process out of a folder. The system lets go of it when the process ends, however it ends.

    Raises:
        UserError: another process holds it; names that process.
        RunError: the file cannot be made, or its file system has no locks.
    """

    def __init__(self, path: Path) -> None:
        with disk_errors(f"lock {path.parent}", "Choose a folder on another file system."):
            self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if not _try_lock(self._descriptor, fcntl.LOCK_EX):
                    owner = os.pread(self._descriptor, 200, 0).decode("utf-8", "replace").strip()
                    raise UserError(f"{path.parent} is in use by {owner or 'another process'}; choose another folder")
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
            except BaseException:
                os.close(self._descriptor)
                self._descriptor = None
                raise
        _held.add(self)

    def release(self) -> None:
        """Let others in; nothing if that has happened."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self._forget()

    def _forget(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            _held.discard(self)


def _try_lock(descriptor: int, kind: int) -> bool:
    """Whether the lock was free. is_locked() takes it for an instant, hence the second and third try."""
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
    """Whether a living process holds the FolderLock at `path`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _try_lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _forget_locks() -> None:
    """A forked data worker inherits the lock, and would keep the folder locked after its parent was killed."""
    for lock in list(_held):
        lock._forget()


os.register_at_fork(after_in_child=_forget_locks)
