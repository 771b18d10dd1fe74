"""The part of the training data that is held out where there is no test set: what belongs together stays together.

A model that has seen a sample's copy, or another picture of the same patient, is no judge of it. So samples of one
group and near duplicates lie on one side.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError
from acto.core.text import counted
from acto.data.near_duplicates import near_duplicate_groups
from acto.data.pictures.packed import open_picture, size_and_time
from acto.data.samples import Samples
from acto.data.splits import Labels, holdout

MOST_FILES, MOST_NUMBERS = 50_000, 2**26
"""Picture files, or numbers in memory, up to which samples that are nearly the same are looked for; beyond, equal ones
alone."""
LARGEST = 0.5
"""Near duplicates that are more than this share of what is held out are no copies: in crowded data, such as points in a
plane, each is like the next."""


def divided(
    samples: Samples,
    *,
    share: float,
    seed: int,
    before: Collection[str] | None = None,
    max_pixels: int | None = None,
) -> tuple[Labels, Samples, Samples, tuple[str, ...]]:
    """The rows that stay for training, ascending; these samples, those that are held out, and notes for the user.

    Args:
        samples: all for training, undivided.
        share: of each class that is held out, in (0, 0.9].
        seed: of the draw.
        before: ids that a run held out of these samples, when it was begun; empty: it kept no list, so that it was
            drawn class by class alone; None: drawn now.
        max_pixels: larger picture files are not looked at.

    Raises:
        UserError: nothing can be held out.
    """
    known = set(before or ())
    is_held_out = np.array([name in known for name in samples.ids], np.bool_)
    said: list[str] = []
    if not is_held_out.any():
        groups = None
        if before is None:
            groups = together(samples, largest=LARGEST * share * len(samples), max_pixels=max_pixels)
        try:
            _, rows = holdout(samples.labels, share=share, seed=seed, groups=groups)
        except UserError:
            if groups is None or samples.groups is not None:
                raise
            # So few samples that their copies are all that could be held out: copies are better than nothing.
            _, rows = holdout(samples.labels, share=share, seed=seed)
            said.append("nearly the same samples may lie on both sides of what is held out: the data are too few")
        is_held_out[rows] = True
    kept = np.flatnonzero(~is_held_out)
    train, tested = samples.take(kept), samples.take(np.flatnonzero(is_held_out))
    notes = [
        f"no test set: {len(tested)} of {len(samples)} samples are held out, and accuracy is measured against "
        "their given labels, which may be wrong too",
        *said,
    ]
    if samples.groups is not None and tested.groups is not None:
        count, total = len(np.unique(tested.groups)), len(np.unique(samples.groups))
        notes.append(f"these are {counted(count, 'whole group')} of {total:,}")
    return kept, train, tested, tuple(notes)


def groups_on_both_sides(train: Samples, test: Samples) -> tuple[str, ...]:
    """A note on groups that have samples for training and in the test set; nothing if there are none."""
    if train.groups is None or test.groups is None:
        return ()
    shared = np.intersect1d(train.groups, test.groups)
    count = int(np.isin(test.groups, shared).sum())
    return (
        (
            f"{count} of {len(test)} test samples belong to groups that have training samples too: accuracy on "
            "them is too kind",
        )
        if count
        else ()
    )


def together(samples: Samples, *, largest: float, max_pixels: int | None = None) -> Labels | None:
    """(N,) numbers that are equal for samples of one group, and for duplicates; None if all would differ.

    Args:
        samples: whose own groups, equal contents and near duplicates count.
        largest: near duplicates of more samples are taken for different ones.
        max_pixels: larger picture files are not looked at.
    """
    links = [rows for rows in _near(samples, max_pixels) if len(rows) <= largest]
    links += equal_samples([samples])
    if samples.groups is not None:
        order = np.argsort(samples.groups, kind="stable")
        starts = np.flatnonzero(np.diff(samples.groups[order])) + 1
        links += [rows.tolist() for rows in np.split(order, starts) if len(rows) > 1]
    if not links:
        return None
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first = np.concatenate([rows[:-1] for rows in links])
    second = np.concatenate([rows[1:] for rows in links])
    graph = coo_array((np.ones(len(first), np.bool_), (first, second)), shape=(len(samples), len(samples)))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def equal_samples(parts: Sequence[Samples]) -> list[list[int]]:
    """Find groups of rows whose samples are the same byte for byte, by their first rows.

    Args:
        parts: samples; rows are numbered through them. Picture files that cannot be read are in no group.
    """
    rows_of: defaultdict[bytes, list[int]] = defaultdict(list)
    times = Counter(_size(path) for part in parts for path in part.paths or ())
    for row, data in enumerate(data for part in parts for data in _bytes_of(part, times)):
        if data is not None:
            rows_of[hashlib.blake2b(data, digest_size=16).digest()].append(row)
    return [rows for rows in rows_of.values() if len(rows) > 1]


def _bytes_of(samples: Samples, times: Counter[int]) -> Iterator[bytes | None]:
    if samples.rows is not None:
        yield from samples.rows.contents()
    elif samples.paths is None:
        array: Any = samples.content
        yield from (row.tobytes() for row in array)
    else:
        # A file of a size of its own need not be read.
        yield from (_content(path) if times[_size(path)] > 1 else None for path in samples.paths)


def _content(path: Path) -> bytes | None:
    try:
        with open_picture(path) as file:
            return file.read()
    except OSError:
        return None


def _size(path: Path) -> int:
    try:
        return size_and_time(path)[0]
    except OSError:
        return -1


def _near(samples: Samples, max_pixels: int | None) -> list[list[int]]:
    array: npt.NDArray[Any] | None = samples.pixels if samples.pixels is not None else samples.features
    if array is not None:
        return near_duplicate_groups(samples) if array.size <= MOST_NUMBERS else []
    if samples.paths is None or len(samples) > MOST_FILES:
        return []
    return near_duplicate_groups(samples, max_pixels=max_pixels)


def refuse_missing_groups(samples: Samples, column: str | None, name: str) -> None:
    """Refuse groups of samples that have no columns.

    Raises:
        UserError: a column is asked for, and `samples` have no groups.
    """
    if column is not None and samples.groups is None:
        raise UserError(
            f"{name} has no columns, and so no group_column {column!r}: list its samples in a table (.csv, .tsv, "
            ".parquet or .jsonl) with a column path and one of groups"
        )
