"""Tables of numbers, categories or texts with a label in each row, and the CSV files that hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from acto.core.errors import UserError
from acto.core.text import counted
from acto.data.pictures.kinds import SUFFIXES as PICTURES
from acto.data.readers.delimited import SUFFIXES, PlainTable, read_delimited, titles_of
from acto.data.readers.file_tree import LeftOut, walk
from acto.data.readers.listings import HELD_OUT, ID_COLUMN, Listing, Listings, labelled, occurring_classes
from acto.data.readers.parquet import missing_column
from acto.data.readers.place import Place
from acto.data.readers.split_columns import group_names, split_of, test_split_of
from acto.data.samples import DataSpec, Raw, Samples
from acto.data.tables.plan import choose_columns, id_column, label_column, looked_at
from acto.data.tables.rows import Cells, Plan, Rows, read_cells

TABLES = (*SUFFIXES, ".jsonl", ".ndjson", ".parquet")
"""Suffixes of files that may hold a table of features or texts, in small letters."""
_USUAL = DataSpec()
_SHOWN = 5
_HARMLESS = frozenset((".md", ".txt", ".rst", ".json", ".yaml", ".yml", ".html", ".pdf", ""))
"""Suffixes of what may lie beside the one table of a folder: descriptions and licences."""


def is_plain(path: Path, spec: DataSpec) -> bool:
    """Tell a CSV file of numbers or texts from a manifest of picture files, by its heading."""
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return False
    if asks_for_rows(spec):
        return True
    if spec.path_column != _USUAL.path_column:
        return False
    try:
        titles = titles_of(path, wanted=(spec.path_column,))
    except UserError:  # whoever reads it says what is wrong
        return False
    return bool(titles) and spec.path_column not in titles


def asks_for_rows(spec: DataSpec) -> bool:
    """Say whether a spec names columns that are features or texts, so that no others are samples."""
    return bool(spec.columns or spec.text_column or spec.category_columns) and spec.path_column == _USUAL.path_column


def table_in(place: Path) -> Path | None:
    """The one table of a folder that holds no other data; the path itself if it is a table; else None."""
    if place.is_file():
        return place if place.suffix.lower() in TABLES else None
    found = []
    for file in walk(place, LeftOut()):
        suffix = file.suffix.lower()
        if suffix in PICTURES:
            return None
        if suffix not in _HARMLESS:
            found.append(file)
    return found[0] if len(found) == 1 and found[0].suffix.lower() in TABLES else None


def read(spec: DataSpec, place: Place) -> Raw:
    """Read the rows of a CSV file with their labels, see `labelled_rows`."""
    return labelled_rows(read_delimited(place.own, place), spec, place)


def read_bare(spec: DataSpec, place: Place) -> Raw:
    """Read all rows of a CSV file with all their columns, see `bare_rows`."""
    return bare_rows(read_delimited(place.own, place))


def labelled_rows(table: PlainTable, spec: DataSpec, place: Place) -> Raw:
    """The rows of a table with their labels.

    Which column holds the labels, which are features, and whether one holds texts is taken from the spec, or guessed
    where it is obvious, with a note. The columns of splits and of true labels are those of a manifest. A column that
    names the rows gives the samples their ids; without one it is the row.

    Raises:
        UserError: no such columns, a row without a label, an unknown split, or nothing that could be a feature.
    """
    path = table.path
    cells, notes = _cells_of(table)
    columns = looked_at(cells)
    labels, guessed = label_column(columns, spec, path.name)
    special = []
    for name, usual in ((spec.split_column, _USUAL.split_column), (spec.true_label_column, _USUAL.true_label_column)):
        if name in columns and name not in spec.columns:
            special.append(name)
        elif name != usual:
            raise UserError(f"{path} has no column {name!r}. Columns: {', '.join(map(repr, columns))}")
    groups = None
    if (group := spec.group_column) is not None:
        if group not in columns:
            raise UserError(missing_column(path, group, list(columns)))
        groups = group_names(table.columns[group], group, label_column=labels, place=str(path))
        special += [group] if group not in spec.columns else []
    taken = [labels, *special]
    names_rows = id_column(columns, [*taken, *spec.columns], first=ID_COLUMN)
    plan, said = choose_columns(columns, spec, path.name, labels=labels, taken=taken)
    notes += [*guessed, *said]
    rows = _rows(table, cells, plan, without=taken)
    ids = _ids(table, names_rows)
    splits: Sequence[str] = table.splits
    if not splits and spec.split_column in special:
        splits = _splits(table, spec.split_column, place)
    given = ["" if value is None or value != value else value for value in table.columns[labels]]
    truths = None
    if spec.true_label_column in special:
        truths = ["" if value is None else value for value in table.columns[spec.true_label_column]]
    if table.splits and all(label == "" for label, split in zip(given, splits, strict=True) if split == "test"):
        if "test" in splits:
            notes.append("the split for testing has no labels, and is left out")
        splits = ["" if split == "test" else split for split in splits]
    if without := [rows.where(i) for i, label in enumerate(given) if label == "" and not (splits and not splits[i])]:
        place.refuse(
            f"{path}: {counted(len(without), 'row', then='has/have')} no label in column {labels!r}, the first: "
            f"{', '.join(without[:_SHOWN])}. Fill it in or take them out"
        )

    def listing(split: str) -> Listing:
        chosen = [i for i, label in enumerate(given) if label != "" and (not splits or splits[i] == split)]
        return Listing(
            ids=tuple(ids[i] for i in chosen),
            labels=tuple(given[i] for i in chosen),
            true_labels=None if truths is None else tuple(truths[i] for i in chosen),
            file=path.name,
            cells=rows.take(np.array(chosen, np.int64)),
            groups=None if groups is None else tuple(groups[i] for i in chosen),
        )

    test_split: str | None = None
    left_out: Sequence[str] = ()
    if "test" in table.splits:
        test_split = "test" if "test" in splits else None
    elif splits:
        test_split, left_out = test_split_of(splits, place=str(path), name=path.name)
    train, test = listing("train"), listing(test_split) if test_split else None
    names, unused = occurring_classes(table.classes.get(labels, ()), (train, test), spec)
    listings = Listings(
        train=train,
        test=test,
        class_names=names,
        test_is_held_out=test_split == HELD_OUT,
        notes=(*notes, *left_out, *unused),
    )
    return labelled(table.name, listings, spec=spec, known_classes=place.known_classes)


def bare_rows(table: PlainTable) -> Raw:
    """All rows of a table with all their columns. Which of them are needed is a model's to say."""
    cells, notes = _cells_of(table)
    rows = _rows(table, cells, Plan(columns=tuple(cells)), without=())
    ids = _ids(table, id_column(looked_at(cells), (), first=ID_COLUMN))
    samples = Samples(ids=tuple(ids), labels=np.zeros(len(rows), np.int64), rows=rows)
    return Raw(name=table.name, train=samples, test=None, class_names=(), notes=tuple(notes))


def _cells_of(table: PlainTable) -> tuple[dict[str, Cells], list[str]]:
    """The columns as cells, with a note on those that have none."""
    read = {name: read_cells(values, decimal_comma=table.decimal_comma) for name, values in table.columns.items()}
    if odd := [repr(name) for name, cells in read.items() if cells is None]:
        notes = [f"left out: {', '.join(odd[:_SHOWN])}, which holds no single numbers or texts"]
    else:
        notes = []
    return {name: cells for name, cells in read.items() if cells is not None}, [*table.notes, *notes]


def _rows(table: PlainTable, cells: Mapping[str, Cells], plan: Plan, *, without: Sequence[str]) -> Rows:
    kept = {name: column for name, column in cells.items() if name not in without}
    return Rows(cells=kept, numbers=np.array(table.rows, np.int64), plan=plan, file=table.path.name)


def _ids(table: PlainTable, column: str | None) -> list[str]:
    if column is None:
        return list(map(str, table.rows))
    return [_id(value) for value in table.columns[column]]


def _id(value: Any) -> str:
    """A name as text: 3.0, which a column of numbers may hold, is 3."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _splits(table: PlainTable, column: str, place: Place) -> list[str]:
    found, problems = [], []
    for value, row in zip(table.columns[column], table.rows, strict=True):
        try:
            found.append(split_of(value, f"{table.path} row {row}"))
        except UserError as error:
            found.append("")
            problems.append(str(error))
    if problems:
        place.refuse("; ".join(problems[:_SHOWN]))
    return found
