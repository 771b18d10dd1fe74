"""Manifests: CSV, TSV or Parquet tables with a row for each picture file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from acto.core.errors import UserError
from acto.core.sample_csv import rearmed
from acto.core.text import counted
from acto.data.readers.confined import base_of, confined
from acto.data.readers.file_tree import leftover_rows, links_out
from acto.data.readers.given_votes import voted_labels
from acto.data.readers.listings import HELD_OUT, ID_COLUMN, Listing, Listings, labelled, unlabelled
from acto.data.readers.parquet import missing_column, read_parquet
from acto.data.readers.place import Place
from acto.data.readers.split_columns import SPLIT_NAMES, divides, group_names, split_of, test_split_of
from acto.data.readers.text_files import check_titles, read_text, rows_of, separator_notes, separator_of
from acto.data.samples import DataSpec, Raw

T = TypeVar("T")
_SHOWN = 5
_STRICT = Place()
"""Raises the first problem."""
_SPLIT_TITLES = [form for name in SPLIT_NAMES for form in (name, name.capitalize(), name.upper())]
"""Columns that are looked at where the split column is missing."""


def read(spec: DataSpec, place: Place) -> Raw:
    """Read a manifest with its labels, see `read_manifest`."""
    listings = read_manifest(place.own, spec, place=place)
    return labelled(place.own.stem, listings, spec=spec, known_classes=place.known_classes)


def read_bare(spec: DataSpec, place: Place) -> Raw:
    """Read the files in a table's column of paths. Every row counts, whatever its split."""
    path = place.own
    table, rows, notes = _read_table(path, (spec.path_column,), (ID_COLUMN,), place=place)
    ids, files = _ids_and_files(table, rows, path, spec=spec, place=place)
    paths = [path.parent / name for name in files]
    return unlabelled(path.stem, ids, paths=paths, notes=[*notes, *links_out(paths, path.parent)])


def read_manifest(manifest: Path, spec: DataSpec, *, place: Place = _STRICT) -> Listings:
    """List the rows of a table with a row for each picture: path, label, and optionally split and true_label.

    Paths are relative to the manifest's folder and may not leave it. Splits are train, test, and val, each as folders
    may spell it too (acto.data.readers.split_folders); val is the test set where no row says test. The split and
    true_label columns may be missing under their usual names; another name must be there. A manifest of `acto apply`
    has a column sample_id as well: ids are taken from it, and texts lose the apostrophe that disarms formulas. It may
    have the split heldout.

    Raises:
        UserError: a missing column, a path that leaves the folder or occurs twice, or an unknown split.
    """
    needed = [spec.path_column] + ([spec.label_column] if spec.votes is None else [])
    usual = DataSpec()
    optional = [ID_COLUMN, *(name for name in _SPLIT_TITLES if name not in needed)]
    if spec.votes is not None:
        optional.append(spec.label_column)
    for column, name in ((spec.split_column, usual.split_column), (spec.true_label_column, usual.true_label_column)):
        (optional if column == name else needed).append(column)
    needed += [spec.group_column] if spec.group_column is not None else []
    table, rows, said = _read_table(manifest, needed, optional, place=place)
    ids, files = _ids_and_files(table, rows, manifest, spec=spec, place=place)
    own = ID_COLUMN in table
    cells = table.get(spec.split_column, ())
    splits = _each(cells, rows, place, read=lambda value, row: split_of(value, f"{manifest} row {row}"), instead="")
    notes = [] if splits else _other_splits(table, manifest, spec)
    labels = _cells(table.get(spec.label_column, [""] * len(ids)), spec.label_column, manifest, rows)
    truths = _cells(table.get(spec.true_label_column, ()), spec.true_label_column, manifest, rows)
    groups = None
    if (group := spec.group_column) is not None:
        groups = group_names(table[group], group, label_column=spec.label_column, place=str(manifest))
    if own:
        labels, truths = ([rearmed(str(text)) for text in texts] for texts in (labels, truths))

    if spec.votes is not None:
        labels = voted_labels(spec, ids, labels, notes, classes=spec.classes or place.known_classes)
    usable = {i for i in range(len(ids)) if spec.votes is None or labels[i] != ""}
    if len(usable) < len(ids):
        notes.append(f"{counted(len(ids) - len(usable), 'row')} of {manifest.name} without votes or label: left out")
    if place.problems is not None:  # rows of which that is known are no samples
        if (without := [row for row, label in zip(rows, labels, strict=True) if label == ""]) and spec.votes is None:
            shown = ", ".join(map(str, without[:_SHOWN]))
            place.refuse(
                f"{manifest}: {counted(len(without), 'row', then='has/have')} no label, the first: {shown}. Fill it in "
                "or take them out"
            )
        first = {name: i for i, name in reversed(list(enumerate(ids)))}
        usable = {i for i in usable if labels[i] != "" and files[i] and first[ids[i]] == i}

    def listing(split: str) -> Listing:
        chosen = [i for i in range(len(ids)) if i in usable and (not splits or splits[i] == split)]
        return Listing(
            ids=tuple(ids[i] for i in chosen),
            paths=tuple(manifest.parent / files[i] for i in chosen),
            labels=tuple(labels[i] for i in chosen),
            true_labels=tuple(truths[i] for i in chosen) if truths else None,
            file=manifest.name,
            rows=tuple(rows[i] for i in chosen),
            groups=None if groups is None else tuple(groups[i] for i in chosen),
        )

    test_split, left_out = test_split_of(splits, place=str(manifest), name=manifest.name) if splits else (None, [])
    notes += [
        *said,
        *links_out([manifest.parent / file for file in files], manifest.parent),
        *leftover_rows(files),
        *left_out,
    ]
    return Listings(
        train=listing("train"),
        test=listing(test_split) if test_split else None,
        test_is_held_out=test_split == HELD_OUT,
        notes=tuple(notes),
    )


def _read_table(
    path: Path, needed: Sequence[str], optional: Sequence[str] = (), *, place: Place
) -> tuple[dict[str, list[Any]], Sequence[int], list[str]]:
    """These columns of a .csv, .tsv or .parquet table by name, the line (or row) on which each row ends, and notes.

    Raises:
        UserError: a needed column is missing, the table cannot be read, or it has no rows.
    """
    notes: list[str] = []
    if path.suffix.lower() == ".parquet":
        table: dict[str, list[Any]] = read_parquet(path, needed, optional=optional)
        rows: Sequence[int] = range(1, len(table[needed[0]]) + 1)
    else:
        table, rows, notes = _read_csv(path, needed, optional, place)
    if not rows:
        raise UserError(f"{path} has no rows")
    return table, rows, notes


def _ids_and_files(
    table: Mapping[str, Sequence[object]], rows: Sequence[int], path: Path, *, spec: DataSpec, place: Place
) -> tuple[list[str], list[str]]:
    """The ids of a table's rows, and their files, below the table's folder; no text where that is refused.

    Raises:
        UserError: a path that leaves the folder, or an id that occurs twice.
    """
    values = table[spec.path_column]
    base = base_of(spec.base)
    if ID_COLUMN in table:  # a manifest of `acto apply`
        values = [rearmed(value) if isinstance(value, str) else value for value in values]

    def read(value: object, row: int) -> tuple[str, str]:
        return confined(value, where=f"{path} row {row}", folder=path.parent, base=base)

    pairs = _each(values, rows, place, read=read, instead=("", ""))
    ids, files = [name for name, _ in pairs], [file for _, file in pairs]
    if ID_COLUMN in table:
        ids = [rearmed(str(text)) for text in _cells(table[ID_COLUMN], ID_COLUMN, path, rows)]
        if "" in ids:
            raise UserError(f"{path} row {rows[ids.index('')]} has no {ID_COLUMN}")
    for name, times in Counter(filter(None, ids)).most_common(_SHOWN):
        if times > 1:
            twice = [str(row) for each, row in zip(ids, rows, strict=True) if each == name]
            place.refuse(f"{path}: {name} occurs in rows {', '.join(twice[:_SHOWN])}; each sample needs one row")
    return ids, files


def _each(
    values: Sequence[object], rows: Sequence[int], place: Place, *, read: Callable[[object, int], T], instead: T
) -> list[T]:
    """Each row's value as `read` makes it; where all problems are wanted, `instead` stands for what it refuses."""
    found: list[T] = []
    problems = []
    for value, row in zip(values, rows, strict=False):
        try:
            found.append(read(value, row))
        except UserError as error:
            if place.problems is None:
                raise
            found.append(instead)
            problems.append(str(error))
    _refuse_rows(problems, place)
    return found


def _refuse_rows(problems: Sequence[str], place: Place) -> None:
    """One problem of those that several rows have."""
    if problems:
        more = f"; and {counted(len(problems) - _SHOWN, 'more row')}" if len(problems) > _SHOWN else ""
        place.refuse("; ".join(problems[:_SHOWN]) + more)


def _cells(values: Sequence[object], column: str, path: Path, rows: Sequence[int]) -> list[Any]:
    """Texts and numbers as they stand; an empty text where there is nothing."""
    for value, row in zip(values, rows, strict=False):
        if value is not None and not isinstance(value, str | bool | int | float):
            raise UserError(f"{path} row {row}: {column} is {type(value).__name__}, no text and no number")
        if isinstance(value, str) and "\0" in value:
            raise UserError(f"{path} row {row}: {column} holds a NUL character: {value!r}")
    return ["" if value is None else value for value in values]


def _read_csv(
    manifest: Path, needed: Sequence[str], optional: Sequence[str], place: Place
) -> tuple[dict[str, list[str]], list[int], list[str]]:
    """The columns of a CSV or TSV file by name, the line on which each row ends, and notes."""
    text = read_text(manifest)
    separator = separator_of(text, manifest, titles=needed)
    notes = separator_notes(separator, manifest)
    reader = rows_of(text, str(manifest), delimiter=separator)
    header = [title.strip() for title in next(reader, (0, []))[1]]
    check_titles(header, [*needed, *optional], str(manifest))
    for column in needed:
        if column not in header:
            raise UserError(missing_column(manifest, column, header))
    wanted = {column: header.index(column) for column in (*needed, *optional) if column in header}
    table: dict[str, list[str]] = {column: [] for column in wanted}
    lines: list[int] = []
    odd: list[str] = []
    for line, cells in reader:
        if len(cells) != len(header):
            odd.append(f"{manifest} row {line} has {counted(len(cells), 'cell')}, the heading {len(header)}")
            if place.problems is None:
                break
            continue
        lines.append(line)
        for column, position in wanted.items():
            table[column].append(cells[position].strip())
    _refuse_rows(odd, place)
    return table, lines, notes


def _other_splits(table: Mapping[str, Sequence[object]], manifest: Path, spec: DataSpec) -> list[str]:
    """A note on each column that looks like a split and is not read."""
    taken = (spec.path_column, spec.label_column, spec.split_column, spec.true_label_column)
    return [
        f"column {name!r} of {manifest.name} {'holds splits' if divides(table[name]) else 'looks like a split'}, and "
        f"is not used: --data.split_column {name} divides the rows by train, val and test in it"
        for name in _SPLIT_TITLES
        if name in table and name not in taken
    ]
