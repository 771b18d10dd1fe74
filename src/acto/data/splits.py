"""Choosing samples class by class: a held-out part, a smaller set."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError

Labels = npt.NDArray[np.int64]


def holdout(labels: Labels, *, share: float, seed: int) -> tuple[Labels, Labels]:
    """Rows to keep and rows to hold out, each ascending: `share` of every class, rounded; one sample always stays.

    Raises:
        UserError: no class is large enough to give a sample away.
    """
    rank, size = _rank_in_class(labels, seed=seed)
    held_out = rank < np.minimum(np.rint(share * size), size - 1)
    if not held_out.any():
        raise UserError(
            f"{len(labels)} samples are too few to hold out {share:.0%} of each class: "
            "give a test set or a larger holdout_share"
        )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


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
