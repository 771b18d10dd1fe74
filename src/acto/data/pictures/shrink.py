"""Smaller copies of folders of pictures, which training decodes in a fraction of the time.

A copy has the same names in the same folders, so that tables, votes and decisions fit it too. Each picture is what
training makes of it before windows are cut (upright, RGB, its short side scaled), in its own file format. What is
lossless stays so, and trains to the same result, bit for bit.

While it is in work a copy holds the file .shrinking.json with its settings; an interrupted copy goes on with the same.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from acto.core.documents import read_json
from acto.core.errors import UserError
from acto.core.files import disk_errors, irregular, remove, write_atomically
from acto.core.locks import FolderLock
from acto.core.resources import usable_cores
from acto.core.settings import Settings, setting
from acto.core.text import counted
from acto.core.waiting import in_threads
from acto.data.pictures.files import (
    HARD_MAX_PIXELS,
    MAX_PIXELS,
    BadImage,
    PictureFacts,
    decode_rgb,
    inspect,
    scaled_rgb,
)
from acto.data.pictures.kinds import SUFFIXES
from acto.data.readers.file_tree import LeftOut, walk

COPIED = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".parquet", ".npy", ".npz", ".yaml", ".yml")
"""Ends of the names of files that may say something about the pictures, and are copied along."""
_LOCK, _SETTINGS, _DRAFT = ".shrinking", ".shrinking.json", ".shrinking-{}.draft"
_WORK = (_LOCK, f"{_LOCK}.held", _SETTINGS)
_INSIDE = {"MPO": "JPEG", "GIF": "PNG"}
"""Formats that stay no longer what they are: several pictures in one, and few colours."""
_SHOWN = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ShrinkSpec(Settings):
    """Settings of a smaller copy."""

    short: int = setting(256, low=1)
    """Side in pixels to which the short side is scaled; smaller pictures stay as they are."""
    quality: int = setting(90, low=1, high=100)
    """Quality of JPEG, AVIF and lossy WebP."""
    max_image_pixels: int = setting(MAX_PIXELS, low=1, high=HARD_MAX_PIXELS)
    """Larger pictures count as bad before they are decoded."""
    on_bad_image: str = setting("error", choices=("error", "drop"))
    """Treatment of a picture that cannot be decoded: error once all others are copied, or drop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shrunk:
    """Facts of a finished copy."""

    num_pictures: int
    num_as_they_are: int
    """Pictures that were small enough."""
    num_there: int
    """Pictures that an interrupted copy had brought there."""
    tables: tuple[str, ...]
    """Files copied along."""
    bad: tuple[BadImage, ...]
    """Pictures left out."""
    bytes_before: int
    bytes_after: int
    """Sizes of all pictures but the bad ones."""
    notes: tuple[str, ...]


def shrink(
    folder: Path,
    out: Path,
    spec: ShrinkSpec,
    *,
    threads: int | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Shrunk:
    """Make a smaller copy of `folder` at `out`, or go on with one.

    Args:
        folder: pictures in any folders below it; links are followed, hidden files left out, as in training.
        out: a new or empty folder, or an interrupted copy of `folder` with the same settings.
        spec: how.
        threads: that work at once (decoding releases Python's lock); None: one a processor, at most 16.
        tell: told how many pictures are done, and of how many.

    Raises:
        UserError: a folder cannot be used, or (once all other pictures are there) pictures cannot be decoded.
        RunError: the disk refuses. What was copied stays.
    """
    _check(folder, out)
    left_out = LeftOut()
    pictures: list[Path] = []
    tables: list[Path] = []
    others: list[Path] = []
    for path in walk(folder, left_out):
        suffix = path.suffix.lower()
        kind = pictures if suffix in SUFFIXES else tables if suffix in COPIED and not irregular(path) else others
        kind.append(path)
    if not pictures:
        raise UserError(f"{folder} has no picture ({', '.join(sorted(SUFFIXES))})")
    with (
        disk_errors(f"write the copy {out}", "What is there stays; the same command goes on."),
        _alone(folder, out, spec),
    ):
        job = _Job(folder, out, spec)
        for number, path in enumerate(tables):
            job.put(path, f"t{number}")
        done: list[_Done | BadImage] = []
        threads = threads or min(16, usable_cores())
        tell(0, len(pictures))
        for each in in_threads(job.bring, [*enumerate(pictures)], threads=threads, file_of=lambda item: item[1]):
            done.append(each)
            tell(len(done), len(pictures))
        bad = tuple(each for each in done if isinstance(each, BadImage))
        good = [each for each in done if isinstance(each, _Done)]
        if bad and spec.on_bad_image == "error":
            more = f"; and {len(bad) - _SHOWN} more" * (len(bad) > _SHOWN)
            shown = "; ".join(map(str, bad[:_SHOWN])) + more
            raise UserError(
                f"{len(bad)} of {len(pictures)} pictures cannot be used: {shown}. The others are in {out}. Replace "
                "these and give the same command again, or add --on-bad-image drop, which leaves them out"
            )
        if hasattr(os, "sync"):
            os.sync()  # once, before the copy counts as finished, and not for each of thousands of files
    notes = left_out.notes()
    if others:
        kinds = Counter(path.suffix.lower() or path.name for path in others).most_common(_SHOWN)
        listed = ", ".join(f"{kind} {count}" for kind, count in kinds)
        notes.append(
            f"neither pictures that can be read nor tables, and not copied: {counted(len(others), 'file')} ({listed})"
        )
    return Shrunk(
        num_pictures=len(good),
        num_as_they_are=sum(each.is_small for each in good),
        num_there=sum(each.was_there for each in good),
        tables=tuple(path.relative_to(folder).as_posix() for path in tables),
        bad=bad,
        bytes_before=sum(each.before for each in good),
        bytes_after=sum(each.after for each in good),
        notes=tuple(notes),
    )


@dataclass(frozen=True, slots=True)
class _Done:
    before: int
    after: int
    is_small: bool = False
    was_there: bool = False


@dataclass(frozen=True, slots=True)
class _Job:
    folder: Path
    out: Path
    spec: ShrinkSpec

    def bring(self, item: tuple[int, Path]) -> _Done | BadImage:
        """Bring one picture there; a bad one is handed back."""
        number, path = item
        target = self.out / path.relative_to(self.folder)
        try:
            facts = inspect(path, max_pixels=self.spec.max_image_pixels)
            before = path.stat()
            is_small = min(facts.width, facts.height) <= self.spec.short
            if was_there := _is_there(target, before.st_mtime_ns):
                after = target.stat().st_size
            elif is_small and not facts.turned:
                inspect(path, max_pixels=self.spec.max_image_pixels, thorough=True)
                after = self.put(path, number)
            else:
                after = self.put(path, number, self._smaller(path, facts, is_small=is_small))
        except BadImage as bad:
            return bad
        return _Done(before.st_size, after, is_small=is_small, was_there=was_there)

    def put(self, path: Path, number: int | str, content: bytes | None = None) -> int:
        """Write `content`, or that of `path`, under a name with `number`, then under its own; returns its size."""
        target = self.out / path.relative_to(self.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        inside = path.relative_to(self.folder).parent
        if os.path.realpath(target.parent) != os.path.normpath(os.path.join(os.path.realpath(self.out), inside)):
            raise UserError(f"{target.parent} is reached through a link, and nothing is written through one: delete it")
        draft, time = target.with_name(_DRAFT.format(number)), os.stat(path).st_mtime_ns
        remove(draft)
        try:
            if content is None:
                shutil.copyfile(path, draft)
            else:
                draft.write_bytes(content)
            os.utime(draft, ns=(time, time))  # by which a copy that goes on knows what has changed
            size = draft.stat().st_size
            os.replace(draft, target)
        finally:
            remove(draft)
        return size

    def _smaller(self, path: Path, facts: PictureFacts, *, is_small: bool) -> bytes:
        limit = self.spec.max_image_pixels
        decode = decode_rgb if is_small else partial(scaled_rgb, short=self.spec.short)
        picture = decode(path, max_pixels=limit)
        picture.info.clear()  # colour profiles and transparency of the pixels that were
        format = _INSIDE.get(facts.format, facts.format)
        options: dict[str, Any] = {"quality": self.spec.quality} if format in ("JPEG", "AVIF", "WEBP") else {}
        if format == "WEBP":
            options["lossless"] = b"VP8L" in path.read_bytes()  # the name of the part that holds such pixels
        if format == "TIFF":
            options["compression"] = "tiff_deflate"
        stream = io.BytesIO()
        picture.save(stream, format, **options)
        return stream.getvalue()


def _is_there(target: Path, time: int) -> bool:
    """Say whether a copy of a picture last changed at `time` is there, and whole."""
    try:
        facts = os.lstat(target)
        if not stat.S_ISREG(facts.st_mode) or facts.st_mtime_ns != time:
            return False
        inspect(target)
    except (OSError, BadImage):
        return False
    return True


def _check(folder: Path, out: Path) -> None:
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}: give the folder that holds the pictures; tables in it are copied along")
    source, target = Path(os.path.realpath(folder)), Path(os.path.realpath(out))
    if source == target or source in target.parents or target in source.parents:
        raise UserError(f"--out {out} and {folder} lie in one another: nothing is written over or into the originals")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: name a new folder")


def _said(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


@contextmanager
def _alone(folder: Path, out: Path, spec: ShrinkSpec) -> Iterator[None]:
    """Keep a second process away from the copy, and its settings in it until it is finished."""
    asked = {"folder": os.path.realpath(folder), "short": spec.short, "quality": spec.quality}
    out.mkdir(parents=True, exist_ok=True)
    if set(os.listdir(out)) - set(_WORK) and not (out / _SETTINGS).is_file():
        raise UserError(f"--out {out} is not empty, and no unfinished copy: name a new folder")
    lock = FolderLock(out / _LOCK)
    try:
        if (out / _SETTINGS).is_file() and (begun := read_json(out / _SETTINGS)) != asked:
            raise UserError(
                f"{out} is an unfinished copy with other settings: {_said(begun)}, and now {_said(asked)}. Go on with "
                "those, or name a new folder"
            )
        write_atomically(out / _SETTINGS, json.dumps(asked).encode())
        for draft in out.rglob(_DRAFT.format("*")):
            remove(draft)
        yield
        remove(out / _SETTINGS)
    finally:
        lock.release()
        remove(out / _LOCK)
