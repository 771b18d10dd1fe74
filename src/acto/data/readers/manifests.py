"""Manifests: CSV, TSV or Parquet tables with a row for each picture file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from acto.core.errors import UserError
from acto.data.readers.file_tree import links_out
from acto.data.readers.listings import HELD_OUT, ID_COLUMN, Listing, Listings, labelled, unlabelled
from acto.data.readers.parquet import missing_column, read_parquet
from acto.data.readers.place import Place
from acto.data.readers.split_columns import SPLIT_NAMES, divides, split_of, test_split_of
from acto.data.readers.text_files import check_titles, read_text, rows_of
from acto.data.samples import DataSpec, Raw

_SHOWN = 5
_SPLIT_TITLES = [form for name in SPLIT_NAMES for form in (name, name.capitalize(), name.upper())]
"""Columns that are looked at where the split column is missing."""


def read(spec: DataSpec, place: Place) -> Raw:
    """Read a manifest with its labels, see `read_manifest`."""
    listings = read_manifest(place.own, spec)
    return labelled(place.own.stem, listings, spec=spec, known_classes=place.known_classes)


def read_bare(spec: DataSpec, place: Place) -> Raw:
    """Read the files in a table's column of paths. Every row counts, whatever its split."""
    path = place.own
    table, rows = _read_table(path, (spec.path_column,), (ID_COLUMN,))
    ids, files = _ids_and_files(table, rows, path, path_column=spec.path_column)
    paths = [path.parent / name for name in files]
    return unlabelled(path.stem, ids, paths=paths, notes=links_out(paths, path.parent))


def read_manifest(manifest: Path, spec: DataSpec) -> Listings:
    """List the rows of a table with a row for each picture: path, label, and optionally split and true_label.

    Paths are relative to the manifest's folder and may not leave it. Splits are train, test, and val (also valid,
    validation), which is the test set where no row says test. The split and true_label columns may be missing under
    their usual names; another name must be there. A manifest of `acto apply` has a column sample_id as well: ids are
    taken from it, and texts lose the apostrophe that disarms formulas. It may have the split heldout.

    Raises:
        UserError: a missing column, a path that leaves the folder or occurs twice, or an unknown split.
    """
    needed = [spec.path_column, spec.label_column]
    usual = DataSpec()
    optional = [ID_COLUMN, *(name for name in _SPLIT_TITLES if name not in needed)]
    for column, name in ((spec.split_column, usual.split_column), (spec.true_label_column, usual.true_label_column)):
        (optional if column == name else needed).append(column)
    table, rows = _read_table(manifest, needed, optional)
    ids, files = _ids_and_files(table, rows, manifest, path_column=spec.path_column)
    own = ID_COLUMN in table
    cells = zip(table.get(spec.split_column, ()), rows, strict=False)
    splits = [split_of(value, f"{manifest} row {row}") for value, row in cells]
    notes = [] if splits else _other_splits(table, manifest, spec)
    labels = _texts(table[spec.label_column], spec.label_column, manifest, rows)
    truths = _texts(table.get(spec.true_label_column, ()), spec.true_label_column, manifest, rows)
    if own:
        labels, truths = ([text.removeprefix("'") for text in texts] for texts in (labels, truths))

    def listing(split: str) -> Listing:
        chosen = [i for i in range(len(ids)) if not splits or splits[i] == split]
        return Listing(
            ids=tuple(ids[i] for i in chosen),
            paths=tuple(manifest.parent / files[i] for i in chosen),
            labels=tuple(labels[i] for i in chosen),
            true_labels=tuple(truths[i] for i in chosen) if truths else None,
            file=manifest.name,
            rows=tuple(rows[i] for i in chosen),
        )

    test_split, left_out = test_split_of(splits, place=str(manifest), name=manifest.name) if splits else (None, [])
    notes += [*links_out([manifest.parent / file for file in files], manifest.parent), *left_out]
    return Listings(
        train=listing("train"),
        test=listing(test_split) if test_split else None,
        test_is_held_out=test_split == HELD_OUT,
        notes=tuple(notes),
    )


def _read_table(
    path: Path, needed: Sequence[str], optional: Sequence[str] = ()
) -> tuple[dict[str, list[Any]], Sequence[int]]:
    """These columns of a .csv, .tsv or .parquet table by name, and the line (or row) on which each row ends.

    Raises:
        UserError: a needed column is missing, the table cannot be read, or it has no rows.
    """
    if path.suffix.lower() == ".parquet":
        table: dict[str, list[Any]] = read_parquet(path, needed, optional=optional)
        rows: Sequence[int] = range(1, len(table[needed[0]]) + 1)
    else:
        table, rows = _read_csv(path, needed, optional)
    if not rows:
        raise UserError(f"{path} has no rows")
    return table, rows


def _ids_and_files(
    table: Mapping[str, Sequence[object]], rows: Sequence[int], path: Path, *, path_column: str
) -> tuple[list[str], list[str]]:
    """The ids of a table's rows, and their files relative to the table's folder.

    Raises:
        UserError: a path that leaves the folder, or an id that occurs twice.
    """
    files = ids = [_confined(value, path, row) for value, row in zip(table[path_column], rows, strict=True)]
    if ID_COLUMN in table:  # a manifest of `acto apply`
        ids = [text.removeprefix("'") for text in _texts(table[ID_COLUMN], ID_COLUMN, path, rows)]
        if "" in ids:
            raise UserError(f"{path} row {rows[ids.index('')]} has no {ID_COLUMN}")
    name, times = Counter(ids).most_common(1)[0]
    if times > 1:
        twice = [str(row) for each, row in zip(ids, rows, strict=True) if each == name]
        raise UserError(f"{path}: {name} occurs in rows {', '.join(twice[:_SHOWN])}; each sample needs one row")
    return ids, files


def _texts(values: Sequence[object], column: str, path: Path, rows: Sequence[int]) -> list[str]:
    for value, row in zip(values, rows, strict=False):
        if value is not None and not isinstance(value, str | bool | int | float):
            raise UserError(f"{path} row {row}: {column} is {type(value).__name__}, no text and no number")
        if isinstance(value, str) and "\0" in value:
            raise UserError(f"{path} row {row}: {column} holds a NUL character: {value!r}")
    return ["" if value is None else str(value) for value in values]


def _read_csv(manifest: Path, needed: Sequence[str], optional: Sequence[str]) -> tuple[dict[str, list[str]], list[int]]:
    """The columns of a CSV or TSV file by name, and the line on which each row ends."""
    delimiter = "\t" if manifest.suffix.lower() == ".tsv" else ","
    reader = rows_of(read_text(manifest), str(manifest), delimiter=delimiter)
    header = [title.strip() for title in next(reader, (0, []))[1]]
    check_titles(header, [*needed, *optional], str(manifest))
    for column in needed:
        if column not in header:
            raise UserError(missing_column(manifest, column, header))
    wanted = {column: header.index(column) for column in (*needed, *optional) if column in header}
    table: dict[str, list[str]] = {column: [] for column in wanted}
    lines = []
    for line, cells in reader:
        if len(cells) != len(header):
            raise UserError(f"{manifest} row {line} has {len(cells)} cells, the heading {len(header)}")
        lines.append(line)
        for column, position in wanted.items():
            table[column].append(cells[position].strip())
    return table, lines


def _confined(value: object, manifest: Path, row: int) -> str:
    """A path of the manifest as id, refused if it could lead out of the manifest's folder."""
    text = "" if value is None else value if isinstance(value, str) else repr(value)
    path = PurePosixPath(text)
    leaves = path.is_absolute() or ".." in path.parts or PureWindowsPath(text).drive
    if leaves or not path.name or not isinstance(value, str) or "\\" in text or "\0" in text:
        raise UserError(
            f"{manifest} row {row}: {text!r} is no path inside {manifest.parent}: "
            "paths are relative to the manifest, with forward slashes and without '..'"
        )
    return path.as_posix()


def _other_splits(table: Mapping[str, Sequence[object]], manifest: Path, spec: DataSpec) -> list[str]:
    """A note on each column that looks like a split and is not read."""
    taken = (spec.path_column, spec.label_column, spec.split_column, spec.true_label_column)
    return [
        f"column {name!r} of {manifest.name} {'holds splits' if divides(table[name]) else 'looks like a split'}, and "
        f"is not used: --data.split_column {name} divides the rows by train, val and test in it"
        for name in _SPLIT_TITLES
        if name in table and name not in taken
    ]
