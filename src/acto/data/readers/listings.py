"""Listings: picture files with their labels as text, read from folders, manifests or lists, and not yet decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from acto.data.classes import encode, encode_truth, exact_column, infer_classes, look_alikes, read_column
from acto.data.samples import DataSpec, Raw, Samples

HELD_OUT = "heldout"
"""The split of rows that a run held out of noisy data: they are tested on, and their labels may be wrong too."""
ID_COLUMN = "sample_id"
"""A column that only ACTO's own manifests have: ids that stay the same wherever the manifest lies."""
NONE_OF_THESE = "(none of these)"
"""The true label of a sample whose label people found wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """Picture files with their labels, as text."""

    ids: tuple[str, ...]
    """Path of each sample, relative to the data set, with forward slashes."""
    paths: tuple[Path, ...]
    labels: tuple[str, ...]
    true_labels: tuple[str, ...] | None = None
    """Empty where nobody knows."""
    file: str = ""
    rows: tuple[int, ...] = ()
    """Name of the manifest and each sample's row in it (the heading is row 1), if the samples come from one."""

    def where(self, i: int) -> str:
        """Name the place of sample i, for messages."""
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
    read_labels = exact_column if listings.class_names else read_column
    train_column = read_labels(listings.train.labels, where=listings.train.where)
    names = spec.classes or listings.class_names or known_classes or infer_classes(train_column)
    notes = [*listings.notes, *look_alikes(names)]

    def samples(listing: Listing) -> Samples:
        truth = None
        if listing.true_labels is not None:
            if listings.class_names:
                column = exact_column(listing.true_labels, where=listing.where)
            else:
                column = read_column(listing.true_labels, where=listing.where, may_be_empty=True)
            truth, num_open = encode_truth(column, names)
            if num_open and not listings.class_names:
                notes.append(
                    f"{num_open} true labels of {listing.file} name no class: none of the classes is right there"
                )
        labels = encode(read_labels(listing.labels, where=listing.where), names)
        return Samples(ids=listing.ids, labels=labels, true_labels=truth, paths=listing.paths)

    train = samples(listings.train)
    test = None if listings.test is None else samples(listings.test)
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
