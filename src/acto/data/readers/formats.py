"""Data of the user's own: which reader takes a path, by what lies there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from acto.core.errors import UserError
from acto.data.pictures.kinds import SUFFIXES as PICTURES
from acto.data.pictures.kinds import UNREAD
from acto.data.readers import arrays, folders, hugging_face, json_lines, listings, manifests, shards, voted_arrays
from acto.data.readers.place import Place, Reader
from acto.data.samples import DataSpec, Raw


@dataclass(frozen=True, slots=True)
class Format:
    """A form that data may have, and its readers."""

    suffixes: tuple[str, ...]
    """Suffixes of its files, in small letters; empty: it is a folder."""
    words: str
    bare_words: str
    """Names of it in messages: with labels, and without."""
    read: Reader
    read_bare: Reader
    """The samples alone: labels are not read and all 0, and a test set is there where the file names one."""
    fits: Callable[[Path], bool] | None = None
    """Tells whether a file or folder has the form, where suffixes do not suffice."""


FORMATS: Mapping[str, Format] = {
    "folder": Format((), "image folder", "folder", folders.read, folders.read_bare),
    "manifest": Format((".csv", ".tsv", ".parquet"), "manifest", "table", manifests.read, manifests.read_bare),
    "arrays": Format((".npz", ".npy"), "array file", "array file", voted_arrays.read, arrays.read_bare),
    "json-lines": Format((".jsonl", ".ndjson"), "JSON Lines", "JSON Lines", json_lines.read, json_lines.read_bare),
    "hugging-face": Format(
        (".arrow",),
        "data set of Hugging Face",
        "data set of Hugging Face",
        hugging_face.read,
        hugging_face.read_bare,
        fits=hugging_face.is_hugging_face,
    ),
    "shards": Format((".tar",), "tar shards", "tar shards", shards.read, shards.read_bare, fits=shards.are_shards),
}
"""By the name of the source that stands for it. Messages list them in this order."""
FILE_SUFFIXES = tuple(suffix for format in FORMATS.values() for suffix in format.suffixes)


def format_of(path: Path) -> Format | None:
    """Find the format of what is at `path`, by its suffix or because it is a folder; None if it has none of them."""
    suffix = path.suffix.lower()
    is_folder = path.is_dir()

    def fits(format: Format) -> bool:
        if format.fits is not None:
            return format.fits(path)
        return not format.suffixes if is_folder else suffix in format.suffixes

    # Those that look inside come first: a folder of theirs is no folder of pictures.
    return next(filter(fits, sorted(FORMATS.values(), key=lambda format: format.fits is None)), None)


def read_path(spec: DataSpec, place: Place) -> Raw:
    """Read a file or folder of the user's own, recognised by what it is.

    Raises:
        UserError: it is in none of FORMATS, or cannot be used.
    """
    if place.path is None:
        raise UserError(
            f"data source {spec.source!r} needs its place: give the path itself as source, or as --data-root"
        )
    if (format := format_of(place.path)) is None:
        raise UserError(f"{place.path} is no {_either([_said(f.words, f.suffixes) for f in FORMATS.values()])}")
    return format.read(spec, place)


def read_bare_path(spec: DataSpec, place: Place) -> Raw:
    """Read the samples of a file or folder without their labels; a single picture file is one, too.

    Raises:
        UserError: it is in none of FORMATS and no picture, or cannot be used.
    """
    path = place.own
    if (format := format_of(path)) is not None:
        return format.read_bare(spec, place)
    if path.suffix.lower() in PICTURES:
        return listings.unlabelled(path.name, (path.name,), paths=(path,))
    if (kind := UNREAD.get(path.suffix.lower())) is not None:
        raise UserError(f"{path} is {kind}, which is not read: save it as JPEG or PNG")
    first, *others = (_said(f.bare_words, f.suffixes) for f in FORMATS.values())
    raise UserError(f"{path} is no {_either([first, _said('picture', sorted(PICTURES)), *others])}")


def _said(words: str, suffixes: Sequence[str]) -> str:
    return f"{words} ({', '.join(suffixes)})" if suffixes else words


def _either(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} or {parts[-1]}"
