"""Data of the user's own: which reader takes a path, by what lies there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from acto.core.errors import UserError
from acto.data.pictures.kinds import SUFFIXES as PICTURES
from acto.data.pictures.kinds import UNREAD
from acto.data.readers import arrays, folders, listings, manifests, tables
from acto.data.readers.delimited import SUFFIXES as TABLES
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
    fits: Callable[[Path, DataSpec], bool] = lambda path, spec: True
    """Tells it by its contents from the later formats that have its suffix."""


FORMATS: Mapping[str, Format] = {
    "folder": Format((), "image folder", "folder", folders.read, folders.read_bare),
    "manifest": Format(
        (".csv", ".tsv", ".parquet"), "manifest", "table", manifests.read, manifests.read_bare, tables.lists_files
    ),
    "arrays": Format((".npz", ".npy"), "array file", "array file", arrays.read, arrays.read_bare),
    "table": Format(TABLES, "table of features or texts", "table of features or texts", tables.read, tables.read_bare),
}
"""By the name of the source that stands for it. Messages list them in this order."""
FILE_SUFFIXES = tuple(dict.fromkeys(suffix for format in FORMATS.values() for suffix in format.suffixes))


def format_of(path: Path, spec: DataSpec) -> Format | None:
    """Find the format of what is at `path`, by its suffix, its heading, or because it is a folder; None for others."""
    suffix = path.suffix.lower()
    is_folder = path.is_dir()
    if is_folder and (table := tables.table_in(path)) is not None and not tables.lists_files(table, spec):
        return FORMATS["table"]
    fitting = [f for f in FORMATS.values() if (not f.suffixes if is_folder else suffix in f.suffixes)]
    return next((f for f in fitting[:-1] if f.fits(path, spec)), fitting[-1]) if fitting else None


def read_path(spec: DataSpec, place: Place) -> Raw:
    """Read a file or folder of the user's own, recognised by what it is.

    Raises:
        UserError: it is in none of FORMATS, or cannot be used.
    """
    if place.path is None:
        raise UserError(
            f"data source {spec.source!r} needs its place: give the path itself as source, or as --data-root"
        )
    if (format := format_of(place.path, spec)) is None:
        raise UserError(f"{place.path} is no {_either([_said(f.words, f.suffixes) for f in FORMATS.values()])}")
    return format.read(spec, place)


def read_bare_path(spec: DataSpec, place: Place) -> Raw:
    """Read the samples of a file or folder without their labels; a single picture file is one, too.

    Raises:
        UserError: it is in none of FORMATS and no picture, or cannot be used.
    """
    path = place.own
    if (format := format_of(path, spec)) is not None:
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
