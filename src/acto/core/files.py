"""Writing that survives a killed process and a full disk, and checks of foreign files before they are read.

A file or folder appears under its name when all of it is on the disk, or not at all: it is written beside, flushed to
the disk, and renamed. A folder may come from a stranger: nothing is written or deleted through a link that lies in it,
and no pipe in a file's place is waited for.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from acto.core.errors import RunError, UserError

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
    errno.ELOOP: "it is a link, and nothing is written through one",
    errno.ENXIO: "it is no file, but a folder, a pipe or a device",
}
_AT_ONCE = getattr(os, "O_NONBLOCK", 0)  # opening a pipe would wait for its other end
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_IRREGULAR = {stat.S_IFDIR: "directory", stat.S_IFIFO: "pipe", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}
_UNSUSPECTED_BYTES = 2**30
_MAX_RATIO = 100
"""Limits of a decompression bomb: a file that unpacks to more than that many bytes and by more than that factor."""


@contextlib.contextmanager
def disk_errors(what: str, hint: str = "") -> Iterator[None]:
    """Turn an OSError into a RunError that says what failed, why, and what is still there."""
    try:
        yield
    except OSError as error:
        reason = reason_of(error)
        where = f" ({error.filename})" if error.filename else ""
        raise RunError(f"cannot {what}: {reason}{where}.{' ' if hint else ''}{hint}") from error


def check_locale(names: Iterable[str]) -> None:
    """Check that names of files stay the same on their way through a run's files, which hold UTF-8.

    Raises:
        UserError: one does not, because Python takes names for another encoding here; names the locale.
    """
    encoding = sys.getfilesystemencoding()
    if encoding == "utf-8":
        return
    for name in names:
        if not name.isascii() and _in_utf8(name) != name:
            raise UserError(
                f"the name {_in_utf8(name)!r} cannot be kept: names of files are {encoding} in this locale (LC_ALL, "
                "LC_CTYPE or LANG), and UTF-8 in what acto writes. Set LC_ALL=C.UTF-8 or PYTHONUTF8=1"
            )


def _in_utf8(name: str) -> str:
    try:
        return os.fsencode(name).decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # it comes from a table, and is no name that a file could have here
        return ascii(name)[1:-1]


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


def open_regular(path: str | Path, flags: int, mode: int = 0o666) -> int:
    """Open a file, or raise OSError: a pipe or a device in its place could keep a reader waiting for ever.

    Takes and gives what the `opener` of Python's open() does.
    """
    descriptor = os.open(path, flags | _AT_ONCE, mode)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO), str(path))
    return descriptor


def open_own(path: str | Path, flags: int, mode: int = 0o666) -> int:
    """The same for a file that will be written to, which may be no link either: that may lead anywhere."""
    if not _NO_LINK and os.path.islink(path):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return open_regular(path, flags | _NO_LINK, mode)


def read_file(path: Path) -> bytes:
    """The bytes of a file; OSError for anything else, at once."""
    with open(path, "rb", opener=open_regular) as file:
        return file.read()


def remove(path: Path) -> None:
    """Delete a file, a folder and all that is in it, or a link but not what it leads to; what cannot be, stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def write_new(path: Path, data: bytes, *, on_half: Callable[[], None] = lambda: None) -> None:
    """Make a file and put it on the disk; FileExistsError if anything has its name, be it a link.

    Not atomic: for files that get their name, or their folder's, later.
    """
    with open(path, "xb") as file:
        view = memoryview(data)
        file.write(view[: len(view) // 2])
        file.flush()
        on_half()
        file.write(view[len(view) // 2 :])
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, data: bytes | Iterator[bytes]) -> None:
    """Replace a file by `data`: after any interruption it holds all of the old bytes or all of the new ones.

    Args:
        path: the file.
        data: its bytes, or parts of them that are made one after the other.
    """
    draft = path.with_name(f".{path.name}.draft")
    write = write_new if isinstance(data, bytes) else _write_parts
    try:
        try:
            write(draft, data)  # type: ignore[arg-type]
        except FileExistsError:  # a killed process left it, or a stranger put it there
            draft.unlink()
            write(draft, data)  # type: ignore[arg-type]
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    sync_folder(path.parent)


def _write_parts(path: Path, parts: Iterator[bytes]) -> None:
    with open(path, "xb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def append(path: Path, data: bytes) -> None:
    """Add `data` to a file's end and put it on the disk. After an OSError the file is as it was.

    A file that has another name elsewhere (a hard link) is replaced by a longer copy: the other one keeps its bytes.
    """
    new = not path.exists()
    descriptor = open_own(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        facts = os.fstat(descriptor)
        if facts.st_nlink > 1:
            write_atomically(path, read_file(path) + data)
            return
        size = facts.st_size
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


def cache_folder(name: str, *, what: str) -> Path:
    """Make and return the folder acto/NAME below XDG_CACHE_HOME (~/.cache); `what` is kept there, in words.

    Raises:
        UserError: it cannot be made.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:  # a relative path would begin in the current folder, which may be a stranger's
        folder = (cache if cache.is_absolute() else Path.home() / ".cache") / "acto" / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else error
        raise UserError(
            f"{what}, but there is no place for them: {reason}. Set XDG_CACHE_HOME to a folder that can be written to"
        ) from None
    return folder


def irregular(path: Path | str) -> str:
    """Name what is at `path` if it is there and no file ("a pipe, not a file"); else an empty string.

    To read a pipe would wait for a writer, and some devices never end.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return ""
    return "" if stat.S_ISREG(mode) else f"a {_IRREGULAR.get(stat.S_IFMT(mode), 'socket')}, not a file"


def require_regular(path: Path | str) -> None:
    """Refuse what is at `path` if it is there and no file, before it is opened.

    Raises:
        UserError: a directory, pipe, device or socket.
    """
    if kind := irregular(path):
        hint = "" if "directory" in kind else ": save what comes out of it in a file, and give that"
        raise UserError(f"{path} is {kind}{hint}")


def most_unpacked(packed: int) -> int:
    """Most bytes that a file of `packed` bytes may unpack to."""
    return max(_UNSUSPECTED_BYTES, _MAX_RATIO * packed)


def check_bomb(name: str, *, unpacked: int, packed: int) -> None:
    """Refuse a file before it is unpacked, if it would take far more memory than a file of its size should.

    Raises:
        UserError: with both sizes.
    """
    if unpacked > most_unpacked(packed):
        raise UserError(f"{name} has {packed} bytes and would unpack to {unpacked}: it is damaged, or a bomb")


def check_zip(archive: zipfile.ZipFile, name: str, *, packed: int) -> None:
    """The same of all members of an archive together."""
    check_bomb(name, unpacked=sum(member.file_size for member in archive.infolist()), packed=packed)
