"""Data of the user's own: which reader takes a path, by what lies there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from acto.core.errors import UserError
from acto.data.pictures.kinds import SUFFIXES as PICTURES
from acto.data.pictures.kinds import UNREAD
from acto.data.readers import (
    arrays,
    folders,
    hugging_face,
    json_lines,
    listings,
    manifests,
    shards,
    tables,
    voted_arrays,
)
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
    looks: Callable[[Path, DataSpec], bool] | None = None
    """Tells it by what is inside, where suffixes do not suffice."""

    def fits(self, path: Path, spec: DataSpec) -> bool:
        """Tell whether what is at `path` may have this form: then it has, unless a later one of FORMATS fits."""
        if self.looks is not None:
            return self.looks(path, spec)
        return path.suffix.lower() in self.suffixes and not path.is_dir() if self.suffixes else path.is_dir()


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
        hugging_face.is_hugging_face,
    ),
    "shards": Format((".tar",), "tar shards", "tar shards", shards.read, shards.read_bare, shards.are_shards),
    "table": Format(
        tables.TABLES,
        "table of features or texts",
        "table of features or texts",
        tables.read,
        tables.read_bare,
        tables.is_plain,
    ),
}
"""By the name of the source that stands for it. Messages list them in this order; of those that fit, the last is it.

JSON Lines, Parquet and Arrow files without a column of pictures, vectors or paths become tables of features or texts in
acto.data.readers.records, once they were opened.
"""
FILE_SUFFIXES = tuple(dict.fromkeys(suffix for format in FORMATS.values() for suffix in format.suffixes))


def format_of(path: Path, spec: DataSpec) -> Format | None:
    """Find the format of what is at `path`; None if it has none of them."""
    return next((format for format in reversed(list(FORMATS.values())) if format.fits(path, spec)), None)


def _at(place: Place, spec: DataSpec) -> tuple[Format | None, Place, tuple[str, ...]]:
    """The format of what is at a place, the place itself, and notes: a folder may hold one table and nothing else."""
    path = place.own
    format = format_of(path, spec)
    if format is not FORMATS["folder"] or (table := tables.table_in(path)) is None:
        return format, place, ()
    inner = format_of(table, spec)
    if inner is FORMATS["manifest"]:  # there are no pictures below it
        return format, place, ()
    return inner, replace(place, path=table), (f"the one table in {path} is read: {table.relative_to(path)}",)


def read_path(spec: DataSpec, place: Place) -> Raw:
    """Read a file or folder of the user's own, recognised by what it is.

    Raises:
        UserError: it is in none of FORMATS, or cannot be used.
    """
    if place.path is None:
        raise UserError(
            f"data source {spec.source!r} needs its place: give the path itself as source, or as --data-root"
        )
    format, place, notes = _at(place, spec)
    if format is None:
        raise UserError(f"{place.path} is no {_either([_said(f.words, f.suffixes) for f in FORMATS.values()])}")
    raw = format.read(spec, place)
    return replace(raw, notes=(*notes, *raw.notes))


def read_bare_path(spec: DataSpec, place: Place) -> Raw:
    """Read the samples of a file or folder without their labels; a single picture file is one, too.

    Raises:
        UserError: it is in none of FORMATS and no picture, or cannot be used.
    """
    format, place, notes = _at(place, spec)
    path = place.own
    if format is not None:
        raw = format.read_bare(spec, place)
        return replace(raw, notes=(*notes, *raw.notes))
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
