"""Listings: picture files or rows with labels as text, read from folders, manifests or lists, and not yet decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.data.classes import ClassCodes, infer_classes, look_alikes, of_no_class
from acto.data.label_columns import Column, Where, exact_column, read_column
from acto.data.samples import DataSpec, Raw, Samples
from acto.data.tables.rows import Rows

HELD_OUT = "heldout"
"""The split of rows that a run held out of noisy data: they are tested on, and their labels may be wrong too."""
ID_COLUMN = "sample_id"
"""A column that only ACTO's own manifests have: ids that stay the same wherever the manifest lies."""
NONE_OF_THESE = "(none of these)"
"""The true label of a sample whose label people found wrong."""
_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """Samples with their labels, as they come."""

    ids: tuple[str, ...]
    """Path of each sample, relative to the data set, with forward slashes."""
    labels: tuple[Any, ...]
    """Names, or the numbers of a table that has numbers."""
    true_labels: tuple[Any, ...] | None = None
    """As labels; empty where nobody knows."""
    paths: tuple[Path, ...] | None = None
    array: npt.NDArray[Any] | None = None
    """(N, H, W, C) uint8 pixels or (N, D) float32 features."""
    cells: Rows | None = None
    """Picture files, numbers in memory, or rows of a table: one of them."""
    groups: tuple[str, ...] | None = None
    """Names of the groups that stay on one side of a hold-out; empty: a sample of its own."""
    file: str = ""
    rows: tuple[int, ...] = ()
    """Name of the manifest and each sample's row in it (the heading is row 1), if the samples come from one."""
    place: Where | None = None
    """Names the place of a sample, where it is not a row of `file`."""

    def where(self, i: int) -> str:
        """Name the place of sample i, for messages."""
        if self.place is not None:
            return f"{self.place(i)} ({self.ids[i]})"
        if self.cells is not None:
            return self.cells.where(i)
        return f"{self.file} row {self.rows[i]} ({self.ids[i]})" if self.rows else self.ids[i]


@dataclass(frozen=True, kw_only=True, slots=True)
class Listings:
    """A data set's splits, before anything is decoded."""

    train: Listing
    test: Listing | None
    class_names: tuple[str, ...] = ()
    """The class list, where the source has one of its own; empty: to be inferred from the labels."""
    test_is_held_out: bool = False
    """True if the test split is held-out training data, so that its labels may be wrong too."""
    notes: tuple[str, ...] = ()


def occurring_classes(
    names: Sequence[str], parts: Sequence[Listing | None], spec: DataSpec
) -> tuple[tuple[str, ...], list[str]]:
    """A source's own class list without classes that no sample has, and a note on these; whole if `spec` has a list."""
    if not names:
        return (), []
    occurring = {label for part in parts if part is not None for label in part.labels}
    unused = [name for name in names if name not in occurring]
    if not unused or spec.classes:
        return tuple(names), []
    more = f" and {len(unused) - _SHOWN} more" if len(unused) > _SHOWN else ""
    note = f"{len(unused)} of {len(names)} classes have no sample, and are left out: "
    return tuple(name for name in names if name in occurring), [note + ", ".join(map(repr, unused[:_SHOWN])) + more]


def labelled(name: str, listings: Listings, *, spec: DataSpec, known_classes: tuple[str, ...] = ()) -> Raw:
    """Bring the labels of listed files to class numbers.

    Args:
        name: the data set's.
        listings: its splits.
        spec: may set the class list.
        known_classes: as in acto.data.readers.place.Place.

    Raises:
        UserError: a label that is missing or names no class.
    """

    # Folder names are class names as they stand; a manifest's labels may be numbers.
    def read(values: Sequence[Any], where: Where, *, may_be_empty: bool = False) -> Column:
        if listings.class_names:
            column = exact_column(values, where=where)
            if "" in column.texts and not may_be_empty:
                raise column.refuse([""], "a label is missing")
            return column
        return read_column(values, where=where, may_be_empty=may_be_empty)

    parts = [listings.train] + ([listings.test] if listings.test is not None else [])
    given = [read(part.labels, part.where) for part in parts]
    truths = [
        None if part.true_labels is None else read(part.true_labels, part.where, may_be_empty=True) for part in parts
    ]
    names = spec.classes or listings.class_names or known_classes or infer_classes(given[0])
    codes = ClassCodes(names, given, [truth for truth in truths if truth is not None])
    notes = [*listings.notes, *look_alikes(names)]

    number_of: dict[str, int] = {}

    def groups(names: Sequence[str]) -> npt.NDArray[np.int64]:
        keys = (name or f"\0{len(number_of)}" for name in names)  # no name: a group of its own
        return np.array([number_of.setdefault(key, len(number_of)) for key in keys], np.int64)

    def samples(listing: Listing, column: Column, true_column: Column | None) -> Samples:
        truth = None
        if true_column is not None:
            truth, num_open = codes.truth(true_column)
            if num_open and not listings.class_names:
                notes.append(of_no_class(num_open, listing.file))
        array = listing.array
        is_pixels = array is not None and array.dtype == np.uint8
        return Samples(
            ids=listing.ids,
            labels=codes.labels(column),
            true_labels=truth,
            pixels=array if is_pixels else None,
            features=None if is_pixels else array,
            paths=listing.paths,
            rows=listing.cells,
            groups=None if listing.groups is None else groups(listing.groups),
        )

    train, *tests = map(samples, parts, given, truths)
    test = tests[0] if tests else None
    where = {"train": listings.train.where} | ({"test": listings.test.where} if listings.test is not None else {})
    return Raw(
        name=name,
        train=train,
        test=test,
        test_is_held_out=listings.test_is_held_out,
        class_names=tuple(names),
        where=where,
        notes=tuple(notes),
    )


def unlabelled(name: str, ids: Sequence[str], *, paths: Sequence[Path], notes: Sequence[str] = ()) -> Raw:
    """Return picture files as samples whose labels are all 0 and mean nothing."""
    samples = Samples(ids=tuple(ids), labels=np.zeros(len(ids), np.int64), paths=tuple(paths))
    return Raw(name=name, train=samples, test=None, class_names=(), notes=tuple(notes))
