"""Records: tables whose rows are samples with labels, be the samples pictures in them, vectors, or paths of pictures.

Columns are chosen by the settings. Where these say nothing, a column is taken only if no other could be meant, and a
note says which; else the choices are told. Tables that hold no samples of these kinds are columns of features or texts,
which acto.data.readers.tables chooses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError
from acto.core.sample_csv import rearmed
from acto.core.text import counted
from acto.data.readers.arrays import array_content
from acto.data.readers.confined import base_of, confined
from acto.data.readers.delimited import PlainTable
from acto.data.readers.file_tree import links_out
from acto.data.readers.listings import HELD_OUT, ID_COLUMN, Listing, Listings, labelled, occurring_classes
from acto.data.readers.parquet import missing_column
from acto.data.readers.place import Place
from acto.data.readers.record_columns import Columns, choose_columns, has_samples
from acto.data.readers.record_tables import PICTURE, TEXT, VECTOR, Table
from acto.data.readers.split_columns import group_names, split_of, test_split_of
from acto.data.readers.split_files import ChosenSplits, choose_splits
from acto.data.readers.tables import bare_rows, labelled_rows
from acto.data.readers.text_files import check_titles
from acto.data.samples import DataSpec, Raw, Samples

_USUAL = DataSpec()


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The tables of a data set."""

    name: str
    folder: Path
    """Below which files lie that its rows may name."""
    splits: Mapping[str, Sequence[Table]]
    """By the split's own name; an empty name: no split is said."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Part:
    """Rows of one split, one after another."""

    ids: tuple[str, ...]
    places: tuple[str, ...]
    """(N,) where each stands, for messages."""
    paths: tuple[Path, ...] | None
    array: npt.NDArray[Any] | None
    """(N, ...) pixels or features, where there are no paths."""
    labels: tuple[Any, ...] = ()
    true_labels: tuple[Any, ...] | None = None
    splits: tuple[str, ...] = ()
    """(N,) as a column says; empty if none does."""
    groups: tuple[str, ...] | None = None
    """(N,) as a column says; None if none is asked for."""

    def listing(self, split: str | None = None) -> Listing:
        """The rows of a split, all of them if it is None, for acto.data.readers.listings.labelled."""
        rows = [i for i in range(len(self.ids)) if split is None or self.splits[i] == split]
        places = [self.places[i] for i in rows]
        return Listing(
            ids=tuple(self.ids[i] for i in rows),
            paths=tuple(self.paths[i] for i in rows) if self.paths is not None else None,
            array=None if self.array is None else self.array[rows],
            labels=tuple(self.labels[i] for i in rows),
            true_labels=None if self.true_labels is None else tuple(self.true_labels[i] for i in rows),
            place=places.__getitem__,
            groups=None if self.groups is None else tuple(self.groups[i] for i in rows),
        )


def read_records(source: Source, spec: DataSpec, place: Place) -> Raw:
    """Read the samples of a source with their labels.

    Raises:
        UserError: columns that could be several or are none, or rows that cannot be used.
    """
    chosen = choose_splits(list(source.splits), place=source.name)
    tables = source.splits[chosen.train]
    if not has_samples(tables, spec):
        return _read_plain(source, spec, place, chosen)
    columns = choose_columns(tables, spec, with_labels=True, with_split=len(source.splits) == 1)
    notes = [*chosen.notes, *columns.notes]
    parts = {
        name: part_of(source.splits[name], columns, source, spec, split=name if len(source.splits) > 1 else "")
        for name in (chosen.train, chosen.test)
        if name is not None
    }
    train, test = parts[chosen.train], None if chosen.test is None else parts[chosen.test]
    if test is not None and all(label == "" for label in test.labels):
        notes.append(f"the split {chosen.test} has no labels, and is left out")
        test = None
    listing, tested, is_held_out = train.listing() if not train.splits else None, None, False
    if train.splits:
        name = str(tables[0].file)
        split, more = test_split_of(train.splits, place=name, name=tables[0].file.name)
        listing, tested, is_held_out = (
            train.listing("train"),
            train.listing(split) if split else None,
            split == HELD_OUT,
        )
        notes += more
    elif test is not None:
        tested = test.listing()
    assert listing is not None
    if tested is not None and listing.array is not None and tested.array is not None:
        shapes = [part.array.shape[1:] for part in (listing, tested) if part.array is not None]
        if shapes[0] != shapes[1]:
            raise UserError(f"{source.name}: a test sample has shape {shapes[1]}, others {shapes[0]}")
    notes += links_out(listing.paths or (), source.folder) if tables[0].kind(columns.content) == TEXT else []
    notes += kept(tables)
    names, said = occurring_classes(tables[0].classes.get(columns.label, ()), (listing, tested), spec)
    notes += said
    listings = Listings(train=listing, test=tested, class_names=names, test_is_held_out=is_held_out, notes=tuple(notes))
    return labelled(source.name, listings, spec=spec, known_classes=place.known_classes)


def _read_plain(source: Source, spec: DataSpec, place: Place, chosen: ChosenSplits) -> Raw:
    """Read tables that hold no picture and no vector, see acto.data.readers.tables."""
    table = plain_table(source, [name for name in (chosen.train, chosen.test) if name is not None])
    notes = list(chosen.notes)
    own = [name for name in source.splits[chosen.train][0].classes if name in table.columns]
    if spec.label_column == _USUAL.label_column and spec.label_column not in table.columns and len(own) == 1:
        spec = replace(spec, label_column=own[0])
        notes.append(f"the labels are the column {own[0]!r} of {table.path.name}")
    raw = labelled_rows(table, spec, place)
    return replace(raw, notes=(*notes, *raw.notes))


def read_records_bare(source: Source, spec: DataSpec) -> Raw:
    """Read the samples of a source, in all of its splits, without their labels.

    Raises:
        UserError: as read_records.
    """
    tables = [table for split in source.splits.values() for table in split]
    if not has_samples(tables, spec):
        return bare_rows(plain_table(source, list(source.splits)))
    columns = choose_columns(tables, spec, with_labels=False)
    many = len(source.splits) > 1
    parts = [part_of(found, columns, source, spec, split=name if many else "") for name, found in source.splits.items()]
    ids = tuple(name for part in parts for name in part.ids)
    paths, array = None, None
    if parts[0].paths is not None:
        paths = tuple(path for part in parts for path in part.paths or ())
    else:
        array = np.concatenate([part.array for part in parts if part.array is not None])
    pixels = array if array is not None and array.dtype == np.uint8 else None
    samples = Samples(
        ids=ids,
        labels=np.zeros(len(ids), np.int64),
        paths=paths,
        pixels=pixels,
        features=array if pixels is None else None,
    )
    return Raw(name=source.name, train=samples, test=None, class_names=(), notes=(*columns.notes, *kept(tables)))


def kept(tables: Sequence[Table]) -> list[str]:
    """A note on the folder in which pictures of tables are kept unpacked; nothing if none are."""
    folder = next((table.kept for table in tables if table.kept is not None), None)
    if folder is None:
        return []
    return [f"pictures in Parquet files are kept unpacked in {folder}: what is deleted there is made again"]


def plain_table(source: Source, splits: Sequence[str]) -> PlainTable:
    """Take splits of a source that has neither pictures nor vectors: columns of numbers, categories and texts.

    Args:
        source: the tables.
        splits: those that are taken; the first is for training, the others for tests.

    Raises:
        UserError: there are no rows, or tables have other columns.
    """
    tables = [table for split in splits for table in source.splits[split]]
    first = tables[0]
    check_titles(first.names, first.names, str(first.file))
    for table in tables:
        for name in first.names:
            if name not in table.names:
                raise UserError(missing_column(table.file, name, table.names))
    if not sum(map(len, tables)):
        raise UserError(f"{first.file} has no rows")
    columns = {
        name: label_values(tables, name)
        if name in first.classes
        else [value for table in tables for value in _cells(table, name)]
        for name in first.names
    }
    sizes = [(split, sum(map(len, source.splits[split]))) for split in splits]
    roles = [role for split, size in sizes for role in ["train" if split == splits[0] else "test"] * size]
    alone = len(tables) == 1
    return PlainTable(
        name=source.name,
        path=first.file if alone else source.folder,
        columns=columns,
        classes=first.classes,
        rows=first.numbers if alone else range(1, len(roles) + 1),
        splits=tuple(roles) if len(splits) > 1 else (),
        notes=() if alone else (f"the rows of {source.name} are numbered through its {counted(len(tables), 'file')}",),
    )


def _cells(table: Table, name: str) -> Sequence[Any]:
    """(N,) the cells of a column; lists where they are pictures or vectors, which are not read."""
    return [()] * len(table) if table.kind(name) in (PICTURE, VECTOR) else table.values(name)


def part_of(tables: Sequence[Table], columns: Columns, source: Source, spec: DataSpec, *, split: str) -> Part:
    """Read the rows of a split; its name comes before the ids.

    Args:
        tables: the split's, in their order.
        columns: those that are read.
        source: what they belong to.
        spec: the settings.
        split: its name; empty: it is the only one.

    Raises:
        UserError: a column that a table lacks, or a row that cannot be used.
    """
    for table in tables:
        for name in (columns.content, columns.label, columns.split, columns.group):
            if name and name not in table.names:
                raise UserError(missing_column(table.file, name, table.names))
    if not sum(map(len, tables)):
        raise UserError(f"{tables[0].file} has no rows")
    names, paths, array = sample_contents(tables, columns.content, folder=source.folder, base=base_of(spec.base))
    own = all(table.ids is not None or ID_COLUMN in table.names for table in tables)
    if own:  # a tar's keys, or the column of a table that `acto apply` wrote
        names = [name for table in tables for name in (table.ids or map(_own_id, table.values(ID_COLUMN)))]
    if len(set(names)) < len(names) or "" in names or any("\0" in name for name in names):
        if own:
            odd, times = Counter(names).most_common(1)[0]
            raise UserError(f"{tables[0].file}: each row needs a name of its own, but {odd!r} occurs {times} times")
        names = [str(row) for row in range(len(names))]
    places = tuple(table.place(row) for table in tables for row in range(len(table)))
    truth = columns.truth if all(columns.truth in table.names for table in tables) else ""
    return Part(
        ids=tuple(f"{split}/{name}" if split else name for name in names),
        places=places,
        paths=paths,
        array=array,
        labels=tuple(label_values(tables, columns.label)) if columns.label else (),
        true_labels=tuple(label_values(tables, truth, like=columns.label)) if truth else None,
        splits=tuple(
            split_of(value, place)
            for value, place in zip(
                (value for table in tables for value in table.values(columns.split)), places, strict=True
            )
        )
        if columns.split
        else (),
        groups=group_names(
            (value for table in tables for value in table.values(columns.group)),
            columns.group,
            label_column=columns.label,
            place=str(tables[0].file),
        )
        if columns.group
        else None,
    )


def _own_id(value: object) -> str:
    return rearmed(value) if isinstance(value, str) else "" if value is None else str(value)


def sample_contents(
    tables: Sequence[Table], column: str, *, folder: Path, base: Path | None
) -> tuple[list[str], tuple[Path, ...] | None, npt.NDArray[Any] | None]:
    """The samples in a column of tables: names (N,), empty where they have none, and paths (N,) or an array (N, ...).

    Args:
        tables: in their order.
        column: the samples'.
        folder: below which files lie that rows name.
        base: below which absolute paths may lie.

    Raises:
        UserError: a row that has no sample, or one of another shape.
    """
    kinds = {table.kind(column) for table in tables if len(table)}
    if len(kinds) > 1:
        raise UserError(f"column {column!r} holds {' in one file, '.join(sorted(kinds))} in another")
    kind = kinds.pop()
    if kind == VECTOR:
        arrays = [table.vectors(column) for table in tables if len(table)]
        first = arrays[0].shape[1:]
        if odd := next((i for i, array in enumerate(arrays) if array.shape[1:] != first), None):
            raise UserError(f"{tables[odd].file}: {column} has shape {arrays[odd].shape[1:]}, in other files {first}")
        array = array_content(_pixels(np.concatenate(arrays)), f"{tables[0].file}: {column}")
        return [""] * len(array), None, array
    names: list[str] = []
    paths: list[Path] = []
    for table in tables:
        cells = table.pictures(column) if kind == PICTURE else [None] * len(table)
        texts = [cell.name for cell in cells if cell is not None] or table.values(column)
        for row, (cell, text) in enumerate(zip(cells, texts, strict=True)):
            if cell is not None and cell.path is not None:
                names.append(text)
                paths.append(cell.path)
                continue
            if cell is not None and not text:
                raise UserError(f"{table.place(row)}: {column} is empty: there is no picture")
            name, file = confined(text, where=table.place(row), folder=folder, base=base)
            names.append(name)
            paths.append(folder / file)
    return names, tuple(paths), None


def _pixels(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Whole numbers from 0 to 255 that have the shape of pictures as uint8; everything else as it is."""
    if array.ndim in (3, 4) and array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() <= 255:
        return array.astype(np.uint8)
    return array


def label_values(tables: Sequence[Table], column: str, *, like: str = "") -> list[Any]:
    """(N,) labels of a column: names where numbers count a list of classes, "" where there is none.

    Args:
        tables: in their order.
        column: the labels'.
        like: a column whose classes are meant where `column` has no list of its own.

    Raises:
        UserError: a number beyond the list.
    """
    found: list[Any] = []
    for table in tables:
        names = table.classes.get(column) or table.classes.get(like, ())
        for row, value in enumerate(table.values(column)):
            if names and isinstance(value, float) and value % 1 == 0:
                value = int(value)
            if value is None or (names and (value in (-1, "-1") or value != value)):
                found.append("")
            elif names and isinstance(value, int) and not isinstance(value, bool):
                if not 0 <= value < len(names):
                    raise UserError(
                        f"{table.place(row)}: {column} is {value}, but its classes are numbered 0 to {len(names) - 1}"
                    )
                found.append(names[value])
            else:
                found.append(str(value) if names else value)
    return found
