"""Writing that survives a killed process and a full disk: atomic files, a lock, and checkpoints with checksums.

POSIX only (Linux, macOS). A file or folder appears under its name when all of it is on the disk, or not at all: it is
written beside, flushed to the disk, and renamed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from acto.core.errors import UserError

OnPoint = Callable[[str], None]
"""Called with a point's name inside a save; the fault-injection tests kill the process there."""


class RunError(RuntimeError):
    """A run cannot go on, and the user's input is not to blame: a full disk, a damaged file. Exit code 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileCheck:
    """What a look at one file of a run found."""

    name: str
    state: Literal["ok", "missing", "damaged", "leftover"]
    """leftover: an interrupted save or deletion left it; the next save or `--resume` clears it away."""
    detail: str = ""


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
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        where = f" ({error.filename})" if error.filename else ""
        raise RunError(f"cannot {what}: {reason}{where}.{' ' if hint else ''}{hint}") from error


def nothing(point: str) -> None:
    """The OnPoint of an ordinary run."""


def sync_folder(folder: Path) -> None:
    """Put the folder's list of names on the disk: without it a power cut can undo a rename."""
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
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
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


# The lock.

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


# Checkpoints: folders NNNNNN-epochE with their files and a manifest. NNNNNN counts the saves, so that a run which was
# resumed from an older checkpoint never writes over another one.

_CHECKPOINT = re.compile(r"(\d{6})-epoch(\d+)")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A checkpoint whose checksums held when it was looked up."""

    epoch: int
    """The last epoch that it contains."""
    folder: Path
    files: tuple[str, ...]
    note: str | None
    """For the user: which newer checkpoint was damaged and passed over; None if this is the newest."""

    def path(self, name: str) -> Path:
        """Where the file lies; raises KeyError for a name that the checkpoint does not have."""
        if name not in self.files:
            raise KeyError(f"checkpoint {self.folder} has no file {name!r}, only {', '.join(self.files)}")
        return self.folder / name

    def read(self, name: str) -> bytes:
        """The file's bytes."""
        with disk_errors(f"read {self.folder / name}"):
            return self.path(name).read_bytes()


def save_checkpoint(
    folder: Path, *, epoch: int, files: Mapping[str, bytes], keep: str | None = None, on_point: OnPoint = nothing
) -> str:
    """Add a checkpoint to `folder` and delete all but it and one before it.

    Args:
        folder: made if it is missing.
        epoch: the last epoch done, from 0.
        files: their names and bytes.
        keep: name of the checkpoint before it that is known to be good; None: the newest one there.
        on_point: called at "start"; for each file at "half NAME" and "written NAME"; at "manifest written", "renamed"
            and "older deleted".

    Returns:
        The new checkpoint's name.

    Raises:
        RunError: less than twice the size is free, or the disk refuses. The older checkpoints are untouched then.
    """
    assert files and all(_FILE.fullmatch(name) and name != MANIFEST for name in files), f"file names {list(files)}"
    with disk_errors(f"save the checkpoint of epoch {epoch} in {folder}", "The checkpoints before it are untouched."):
        folder.mkdir(exist_ok=True)
        clear_leftovers(folder)
        _require_space(folder, epoch, 2 * sum(map(len, files.values())))
        older = _checkpoint_names(folder)
        serial = int(older[-1][:6]) + 1 if older else 1
        draft = folder / f".draft-{serial:06d}"
        name = f"{serial:06d}-epoch{epoch}"
        on_point("start")
        try:
            draft.mkdir()
            for file, data in files.items():
                write_new(draft / file, data, on_half=partial(on_point, f"half {file}"))
                on_point(f"written {file}")
            content = {
                file: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for file, data in files.items()
            }
            write_new(draft / MANIFEST, _manifest(epoch, content))
            sync_folder(draft)
            on_point("manifest written")
            os.rename(draft, folder / name)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        sync_folder(folder)
        on_point("renamed")
        kept = keep if keep in older else (older[-1] if older else None)
        for old in older:
            if old != kept:
                # Renamed first: half a deletion must not look like a damaged checkpoint.
                with contextlib.suppress(OSError):
                    os.rename(folder / old, folder / f".old-{old}")
        clear_leftovers(folder)
        on_point("older deleted")
    return name


def start_over(run: Path) -> str:
    """The sentence for a run that cannot be mended: which command begins it anew, with the settings that it had."""
    config, out = shlex.quote(f"{run}/config.yaml"), shlex.quote(str(run))
    return f"To start over with the same settings: acto train --config {config} --out {out} --overwrite"


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose checksums hold; None if there is none at all.

    Raises:
        RunError: there are some, and all are damaged; it says how, and how to start over.
    """
    faults: list[str] = []
    for name in reversed(_checkpoint_names(folder)):
        content, fault = _look(folder / name)
        if content is None:
            faults.append(f"{name}: {fault}")
            continue
        note = f"checkpoint {'; '.join(faults)}. Going on from {name} instead." if faults else None
        return Checkpoint(epoch=content["epoch"], folder=folder / name, files=tuple(content["files"]), note=note)
    if faults:
        raise RunError(f"no checkpoint in {folder} is usable ({'; '.join(faults)}). {start_over(folder.parent)}")
    return None


def check_checkpoints(folder: Path) -> list[FileCheck]:
    """A line for each checkpoint, oldest first, and for each leftover."""
    checks = []
    for name in _checkpoint_names(folder):
        content, fault = _look(folder / name)
        checks.append(
            FileCheck(name=f"{folder.name}/{name}", state="damaged" if content is None else "ok", detail=fault)
        )
    return checks + [FileCheck(name=f"{folder.name}/{path.name}", state="leftover") for path in _leftovers(folder)]


def _checkpoint_names(folder: Path) -> list[str]:
    """Oldest first."""
    return sorted(path.name for path in folder.glob("*-epoch*") if _CHECKPOINT.fullmatch(path.name))


def _leftovers(folder: Path) -> list[Path]:
    return sorted([*folder.glob(".draft-*"), *folder.glob(".old-*")])


def clear_leftovers(folder: Path) -> None:
    """Delete what interrupted saves and deletions left among the checkpoints.

    Errors are left to the next time: an undeletable old checkpoint is no reason to lose a run.
    """
    for path in _leftovers(folder):
        shutil.rmtree(path, ignore_errors=True)


def _require_space(folder: Path, epoch: int, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunError(
            f"cannot save the checkpoint of epoch {epoch} in {folder}: the disk has {free / 1e6:.1f} MB free, and "
            f"{needed / 1e6:.1f} MB (twice its size) are needed. The checkpoints before it are untouched; make room "
            "and go on with --resume"
        )


def _manifest(epoch: int, files: Mapping[str, Any]) -> bytes:
    """The manifest guards the files, and its own checksum guards the manifest."""
    content = {"epoch": epoch, "files": files}
    return json.dumps({**content, "sha256": _digest(content)}, indent=1).encode()


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _look(checkpoint: Path) -> tuple[dict[str, Any] | None, str]:
    """A checkpoint's manifest and "", or None and what is wrong."""
    try:
        content = json.loads((checkpoint / MANIFEST).read_bytes())
        claimed = content.pop("sha256")
        if claimed != _digest(content):
            return None, "its manifest differs from its checksum"
        for name, facts in content["files"].items():
            path = checkpoint / name
            if not path.is_file():
                return None, f"{name} is missing"
            if path.stat().st_size != facts["bytes"]:
                return None, f"{name} has {path.stat().st_size} bytes, not {facts['bytes']}"
            if sha256_of(path) != facts["sha256"]:
                return None, f"{name} differs from its checksum"
    except FileNotFoundError:
        return None, "its manifest is missing"
    except OSError as error:
        return None, f"cannot be read ({error.strerror})"
    except (ValueError, KeyError, AttributeError, TypeError):
        return None, "its manifest is damaged"
    return content, ""
