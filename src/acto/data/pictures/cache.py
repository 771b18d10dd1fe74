"""Pictures kept as they are after decoding and scaling, so that later epochs only cut windows out of them.

Kept are the very bytes that `scaled_rgb` gives, so a window is the same with a cache and without. In a folder they
outlive the run, and all runs and processes share them; in memory they belong to one run and the workers that it starts.

A folder holds pictures of many data sets and splits. Each is found by its file's absolute path, size and time of last
change: whatever is not found is decoded and added. A file replaced by one of equal size and time is not noticed.

    FOLDER/pictures-SETTINGS/       one folder for each way to decode: short side, Pillow's and its decoders' versions
        NAME.pixels                 some 32 MiB of pixels, picture after picture, (height, width, 3) uint8
        NAME.json                   whose they are, their sizes, and checksums; written last, to vouch for the pixels
        .lock                       held by the process that adds pictures; the others wait for it

Files never change once they have their names, so reading takes no lock. A filling that was interrupted goes on where
it stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
from PIL import features

from acto.core.documents import read_json
from acto.core.errors import RunError, UserError
from acto.core.files import disk_errors, remove, sha256_of, write_atomically
from acto.core.locks import FolderLock
from acto.core.resources import usable_cores
from acto.core.waiting import in_threads
from acto.data.pictures.files import BadImage, inspect, scaled_rgb, scaled_size
from acto.data.pictures.packed import size_and_time
from acto.data.pictures.pixel_store import MemoryFile, Pixels, StoredPixels

MEMORY = "memory"
"""Instead of a folder."""
_GROUP_BYTES = 32 * 2**20
_HEADERS = 256
"""Pictures whose headers are read to foretell the space for all."""
_SPARE = 1.05
_MEMORY_SHARE = 0.9

Say = Callable[[str], None]
Places = npt.NDArray[np.int64]
_Stamp = tuple[str, int, int]
"""A picture file: hash of its path, bytes, time of last change in nanoseconds."""


def open_cache(
    where: str,
    paths: Sequence[Path],
    *,
    short: int,
    max_pixels: int | None = None,
    threads: int | None = None,
    say: Say = lambda text: None,
) -> tuple[Places, StoredPixels]:
    """Make sure that all pictures are stored, and return where.

    What a folder holds of them already is compared with its checksums. What is missing, changed or damaged is decoded
    anew, as `say` is told. Several processes may do this at once: one works, the others wait and find it done.

    Args:
        where: a folder, made if it is missing, or "memory".
        paths: (N,) picture files.
        short: side in pixels that the short side is scaled to.
        max_pixels: refuse larger pictures; those in the folder were looked at when they were stored.
        threads: that decode (which releases Python's lock); None: one a processor, at most 16.
        say: told what is done, in whole lines.

    Returns:
        places: (N, 4) int64, for each picture its file, offset in bytes, height and width.
        pixels: from which to read.

    Raises:
        BadImage: a picture cannot be decoded; it names the file.
        UserError: the folder's place is no folder.
        RunError: there is too little space or memory, or the disk refuses. What was stored stays.
    """
    threads = threads or min(16, usable_cores())
    job = _Job(paths=paths, short=short, max_pixels=max_pixels, threads=threads, say=say, where=where)
    return _in_memory(job) if where == MEMORY else _in_folder(job)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    paths: Sequence[Path]
    short: int
    max_pixels: int | None
    threads: int
    say: Say
    where: str

    def bytes_of(self, rows: Sequence[int]) -> int:
        """About what these pictures will take, by the headers of some of them."""
        sizes = []
        for row in rows[:: max(1, len(rows) // _HEADERS)]:
            with contextlib.suppress(BadImage):  # it will be named when its turn comes
                facts = inspect(self.paths[row], max_pixels=self.max_pixels)
                width, height = scaled_size(facts.width, facts.height, short=self.short)
                sizes.append(3 * width * height)
        return int(len(rows) * np.mean(sizes)) if sizes else 0

    def fill(self, rows: Sequence[int], keep: Callable[[Sequence[int], Sequence[Pixels]], None]) -> None:
        """Decode the pictures of these rows and hand them to `keep`, group by group, from several threads."""
        count = max(1, _GROUP_BYTES // (4 * self.short**2))  # three bytes a pixel, most pictures are 4:3

        def work(start: int) -> int:
            group = rows[start : start + count]
            keep(
                group,
                [
                    np.asarray(scaled_rgb(self.paths[row], short=self.short, max_pixels=self.max_pixels))
                    for row in group
                ],
            )
            return len(group)

        done, told = 0, 0.0
        file_of: Callable[[int], Path] = lambda start: self.paths[rows[start]]  # noqa: E731
        for finished in in_threads(work, range(0, len(rows), count), threads=self.threads, file_of=file_of):
            done += finished
            if done < len(rows) and done / len(rows) >= told + 0.1:
                told = done / len(rows)
                self.say(f"stored {done:,} of {len(rows):,} pictures")


def _in_memory(job: _Job) -> tuple[Places, StoredPixels]:
    rows = range(len(job.paths))
    needed, free = job.bytes_of(rows), _free_memory()
    if free is not None and needed > _MEMORY_SHARE * free:
        raise RunError(
            f"{len(rows):,} decoded pictures take about {_size(needed)}, and {_size(free)} of memory are free: name a "
            "folder as the cache, or take none"
        )
    job.say(f"decoding {len(rows):,} pictures into memory: about {_size(needed)}")
    file, places = MemoryFile(), np.zeros((len(rows), 4), np.int64)

    def keep(group: Sequence[int], pictures: Sequence[Pixels]) -> None:
        offset = file.append(pictures)
        for row, picture in zip(group, pictures, strict=True):
            places[row, 1:] = offset, *picture.shape[:2]
            offset += picture.nbytes

    with disk_errors("keep the decoded pictures in memory", "Name a folder as the cache, or take none."):
        job.fill(rows, keep)
    return places, StoredPixels(file)


def _in_folder(job: _Job) -> tuple[Places, StoredPixels]:
    parent = Path(job.where).expanduser().absolute()
    if parent.exists() and not parent.is_dir():
        raise UserError(f"the cache of pictures must be a folder or {MEMORY!r}, but {job.where} is a file")
    settings = json.dumps(_decoding(job.short), sort_keys=True, indent=1).encode()
    folder = parent / f"pictures-{hashlib.sha256(settings).hexdigest()[:12]}"
    with disk_errors(f"keep decoded pictures in {parent}", "What is stored stays; name another folder, or take none."):
        if folder.is_symlink():
            raise UserError(
                f"{folder} is a link, and decoded pictures are kept in a folder alone: delete it, or name another cache"
            )
        folder.mkdir(parents=True, exist_ok=True)
        stamps = [_stamp(path) for path in job.paths]
        found = _Found(folder)
        found.look(stamps, job.threads)
        if found.missing(stamps):
            with _alone(folder, job):
                found.look(stamps, job.threads)  # another process may have filled it meanwhile
                rows = found.missing(stamps)
                if rows:
                    _prepare_to_fill(job, found, rows, stamps, settings)
                    job.fill(rows, lambda group, pictures: _write(folder, [stamps[row] for row in group], pictures))
                    found.look(stamps, job.threads)
    entries = [found.entries[stamp] for stamp in stamps]
    names = sorted({name for name, *_ in entries})
    numbers = {name: number for number, name in enumerate(names)}
    places = np.array([(numbers[name], *place) for name, *place in entries], np.int64).reshape(-1, 4)
    return places, StoredPixels([folder / f"{name}.pixels" for name in names])


def _decoding(short: int) -> dict[str, Any]:
    """All that decides what pixels a file gives, apart from the file. Format 1 dropped transparency."""
    decoders = {name: features.version(name) for name in ("jpg", "zlib", "webp", "libtiff")}
    return {"format": 2, "short": short, "filter": "bilinear", "pillow": PIL.__version__, "decoders": decoders}


def _stamp(path: Path) -> _Stamp:
    try:
        size, time = size_and_time(path)
    except FileNotFoundError:
        raise BadImage(str(path), "no such file") from None
    name = hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()[:32]
    return name, size, time


class _Found:
    """Contents of a cache folder, as far as their checksums hold."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[_Stamp, tuple[str, int, int, int]] = {}
        """Name of the file, offset, height, width."""
        self.faults: dict[str, str] = {}
        """Faults of files, in words, by name."""
        self._indexes: dict[str, tuple[str, list[tuple[_Stamp, int, int]]]] = {}
        self._checked: set[str] = set()

    def look(self, stamps: Sequence[_Stamp], threads: int) -> None:
        """Read what is new, and compare with its checksum what is needed for `stamps`."""
        for path in sorted(self.folder.glob("*.json")):
            name = path.stem
            if name in self._indexes or name in self.faults or name == "settings":
                continue
            try:
                self._indexes[name] = _read_index(path)
            except FileNotFoundError:
                continue  # another process has just cleared it away
            except (OSError, ValueError, KeyError, TypeError):
                self.faults[name] = "its index is damaged"
        wanted = set(stamps)
        new = [
            name
            for name, (_, pictures) in self._indexes.items()
            if name not in self._checked and any(stamp in wanted for stamp, *_ in pictures)
        ]
        for name, fault in zip(new, list(in_threads(self._fault, new, threads=threads)), strict=True):
            if fault:
                self.faults[name] = fault
                del self._indexes[name]
                continue
            self._checked.add(name)
            offset = 0
            for stamp, height, width in self._indexes[name][1]:
                self.entries.setdefault(stamp, (name, offset, height, width))
                offset += 3 * height * width

    def missing(self, stamps: Sequence[_Stamp]) -> list[int]:
        """The rows of pictures that are not there, each picture once."""
        first = {stamp: row for row, stamp in reversed(list(enumerate(stamps)))}
        return sorted(row for stamp, row in first.items() if stamp not in self.entries)

    def changed(self, stamps: Sequence[_Stamp]) -> int:
        """Count the pictures that are there as they once were, and have changed since."""
        known = {stamp[0] for _, pictures in self._indexes.values() for stamp, *_ in pictures}
        return sum(stamp[0] in known for stamp in stamps)

    def _fault(self, name: str) -> str:
        path = self.folder / f"{name}.pixels"
        expected, pictures = self._indexes[name]
        size = sum(3 * height * width for _, height, width in pictures)
        if path.is_symlink() or not path.is_file():
            return "it is missing, or no file of its own"
        if path.stat().st_size != size:
            return f"it has {path.stat().st_size} bytes, not {size}"
        return "" if sha256_of(path) == expected else "it differs from its checksum"


def _read_index(path: Path) -> tuple[str, list[tuple[_Stamp, int, int]]]:
    """The checksum of the pixels, and whose they are: stamp, height, width."""
    if path.is_symlink():
        raise ValueError("a link")
    content = read_json(path, error=ValueError)
    if content.pop("sha256") != _digest(content):
        raise ValueError("differs from its checksum")
    return content["pixels"], [((name, size, time), h, w) for name, size, time, h, w in content["pictures"]]


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _prepare_to_fill(job: _Job, found: _Found, rows: Sequence[int], stamps: Sequence[_Stamp], settings: bytes) -> None:
    """Say what will be done and why, clear away what is of no use, and ask for the space."""
    for name, fault in found.faults.items():
        job.say(f"{found.folder / name}.pixels is damaged ({fault}): its pictures are decoded again")
    if changed := found.changed([stamps[row] for row in rows]):
        job.say(f"{changed:,} pictures have changed since they were stored: they are decoded again")
    whole = {path.stem for path in found.folder.glob("*.json")} - set(found.faults)
    for path in found.folder.iterdir():
        # A leftover is a draft, pixels without an index, or damaged. The lock is held, so nobody is writing it.
        if path.name.endswith(".draft") or (path.suffix in (".pixels", ".json") and path.stem not in whole):
            remove(path)
    found.faults.clear()
    needed, free = job.bytes_of(rows), shutil.disk_usage(found.folder).free
    if free < _SPARE * needed:
        raise RunError(
            f"{len(rows):,} decoded pictures take about {_size(needed)}, and {_size(free)} are free in {job.where}: "
            "name a folder on another disk as the cache, or take none"
        )
    write_atomically(found.folder / "settings.json", settings)
    there = len(stamps) - len(rows)
    go_on = f" ({there:,} are there already)" if there else ""
    job.say(f"decoding {len(rows):,} pictures into {job.where}: about {_size(needed)}{go_on}")


def _write(folder: Path, stamps: Sequence[_Stamp], pictures: Sequence[Pixels]) -> None:
    name = hashlib.sha256(json.dumps(stamps).encode()).hexdigest()[:16]
    pixels = b"".join(picture.tobytes() for picture in pictures)
    content = {
        "pixels": hashlib.sha256(pixels).hexdigest(),
        "pictures": [(*stamp, *picture.shape[:2]) for stamp, picture in zip(stamps, pictures, strict=True)],
    }
    write_atomically(folder / f"{name}.pixels", pixels)
    write_atomically(folder / f"{name}.json", json.dumps({**content, "sha256": _digest(content)}).encode())


@contextlib.contextmanager
def _alone(folder: Path, job: _Job) -> Iterator[None]:
    """One process at a time; the others wait."""
    waiting = f"waiting for another process that decodes pictures into {job.where}"
    lock = FolderLock(folder / ".lock", on_wait=lambda: job.say(waiting))
    try:
        yield
    finally:
        lock.release()


def _free_memory() -> int | None:
    """Bytes that this process may still use, by the system and its control group; None if nobody tells."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        facts = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(1024 * int(facts["MemAvailable"].split()[0]))
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"]
        found.append(max(0, limit - used + int(cached)))
    return min(found, default=None)


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
