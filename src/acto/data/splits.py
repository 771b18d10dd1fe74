"""Choosing samples class by class: a held-out part, a smaller set."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError
from acto.core.text import counted

Labels = npt.NDArray[np.int64]


def holdout(labels: Labels, *, share: float, seed: int, groups: Labels | None = None) -> tuple[Labels, Labels]:
    """Rows to keep and rows to hold out, each ascending: `share` of every class, rounded; one sample always stays.

    Args:
        labels: (N,) class numbers.
        share: in (0, 0.9].
        seed: of the draw.
        groups: (N,) numbers of which equal ones stay on one side, so that the shares are met as nearly as whole groups
            allow; None: each row is on its own, which is the same as different numbers.

    Raises:
        UserError: no class is large enough to give a sample away, or no group small enough.
    """
    rank, size = _rank_in_class(labels, seed=seed)
    held_out = rank < np.minimum(np.rint(share * size), size - 1)
    if groups is not None and held_out.any():
        held_out = _whole_groups(labels, groups, share=share, seed=seed)
        if not held_out.any():
            raise UserError(
                f"the groups of {len(labels)} samples are too large to hold one of them out for {share:.0%}: the "
                f"largest of {len(np.unique(groups))} has {np.bincount(groups).max()} samples. Give a test set of "
                "other groups, or finer groups"
            )
    if not held_out.any():
        raise UserError(
            f"{counted(len(labels), 'sample', then='is/are')} too few to hold out {share:.0%} of each class: "
            "give a test set or a larger holdout_share"
        )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _whole_groups(labels: Labels, groups: Labels, *, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """(N,) True for the rows to hold out.

    Groups come in a random order, and one is held out where that brings the numbers of the classes nearer to what is
    wanted. Of groups of one row these are the rows that are drawn without groups.
    """
    sizes = np.bincount(labels)
    wanted = np.minimum(np.rint(share * sizes), sizes - 1).astype(np.int64).tolist()
    most = (sizes - 1).tolist()  # one sample of a class always stays
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    place = np.argsort(np.random.RandomState(seed).permutation(len(labels)), kind="stable")
    members.sort(key=lambda rows: int(place[rows[0]]))
    taken = [0] * len(sizes)
    held_out = np.zeros(len(labels), np.bool_)
    for rows in members:
        classes, counts = np.unique(labels[rows], return_counts=True)
        pairs = list(zip(classes.tolist(), counts.tolist(), strict=True))
        before = sum(abs(wanted[k] - taken[k]) for k, _ in pairs)
        after = sum(abs(wanted[k] - taken[k] - count) for k, count in pairs)
        if after < before and all(taken[k] + count <= most[k] for k, count in pairs):
            held_out[rows] = True
            for k, count in pairs:
                taken[k] += count
    return held_out


def subset(labels: Labels, count: int, *, seed: int) -> Labels:
    """`count` rows, ascending, with the classes' shares as they are and at least one sample of each class.

    Raises:
        UserError: more rows than there are, or fewer than classes.
    """
    num_present = len(np.unique(labels))
    if not num_present <= count <= len(labels):
        raise UserError(f"subset is {count}, but must lie between {num_present} (one a class) and {len(labels)} (all)")
    rank, size = _rank_in_class(labels, seed=seed)
    order = np.where(rank == 0, 0.0, (rank + 0.5) / size)
    return np.sort(np.argsort(order, kind="stable")[:count])


def _rank_in_class(labels: Labels, *, seed: int) -> tuple[Labels, Labels]:
    """Each sample's place (from 0) in a random order of its class, and the size of its class."""
    order = np.random.RandomState(seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    sizes = np.bincount(labels)
    rank = np.empty_like(labels)
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return rank, sizes[labels]
