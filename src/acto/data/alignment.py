"""Data frames and columns that belong together: rows by their index, columns by the names of the classes.

Where names and positions both fit and differ, or neither fits, nothing is guessed. pandas is not imported here: what
has `iloc` has an index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from acto.core.errors import UserError, closest

_SHOWN = 10


def as_pandas(values: Any) -> Any:
    """Tables of other libraries as data frames, and their columns, which have no index, as arrays; all else as it is.

    Raises:
        UserError: the library lacks a package for it.
    """
    if not hasattr(values, "to_pandas") or hasattr(values, "iloc"):
        return values
    try:
        made = values.to_pandas()
    except ImportError as error:
        raise UserError(f"to_pandas() of the {type(values).__name__} fails ({error}): pass to_numpy()") from None
    return made if is_frame(made) else np.asarray(made)


def is_frame(values: Any) -> bool:
    """Tell a data frame of pandas from its columns and from all else."""
    return hasattr(values, "iloc") and hasattr(values, "columns")


def check_same_index(data: Any, labels: Any, what: str = "labels") -> None:
    """Refuse a column of labels, or of `what`, whose index is not that of the data frame: it is about other rows, or in
    another order.

    Raises:
        UserError: with both ways out.
    """
    if is_frame(data) and hasattr(labels, "iloc") and not labels.index.equals(data.index):
        raise UserError(
            f"{what} and data have different indexes: pass {what}.reindex(data.index) to go by the index, or "
            f"{what}.to_numpy() to go by the order"
        )


def in_one_order(named: Mapping[str, Any]) -> dict[str, Any]:
    """Bring columns and frames of N rows into the order of the labels, by their indexes.

    Args:
        named: labels, pred_probs and others by name; what has no index is taken as it stands.

    Raises:
        UserError: an index with duplicates, indexes of different rows, rows in another order beside labels that have no
            index, or labels in another order beside rows that pandas may have numbered.
    """
    values = dict(named)
    with_index = {name: each for name, each in values.items() if hasattr(each, "iloc")}
    if not with_index:
        return values
    leader = "labels" if "labels" in with_index else next(iter(with_index))
    index = with_index[leader].index
    for name, each in with_index.items():
        if each.index.equals(index) or len(each.index) != len(index):
            continue  # another length is refused with its number
        for what, rows in ((leader, index), (name, each.index)):
            if not rows.is_unique:
                raise UserError(
                    f"{what}: {str(rows[rows.duplicated()][0])!r} is in the index more than once, so that {leader} and "
                    f"{name} cannot be aligned: pass to_numpy() of both if their rows are in the same order"
                )
        fits = bool(index.isin(each.index).all())
        if not fits and (_is_default(index) or _is_default(each.index)):
            continue  # numbers that pandas gave say nothing beside names
        if not fits or _is_default(each.index):
            problem = "have different indexes" if not fits else "have one index, but in another order"
            raise UserError(
                f"{name} and {leader} {problem}: give {name} the index of {leader}, or pass {name}.to_numpy() if their "
                "rows are in the same order"
            )
        values[name] = each.reindex(index)
    if leader != "labels":
        _check_order(index, named.get("ids"), leader)
    return values


def _is_default(index: Any) -> bool:
    return list(index) == list(range(len(index)))


def _check_order(index: Any, ids: Any, name: str) -> None:
    """Refuse an index that says another order than that of labels without one."""
    rows = [str(row) for row in index]
    others = [list(map(str, ids))] if hasattr(ids, "__len__") else []
    for known in (*others, [str(row) for row in range(len(rows))]):
        if rows == known:
            return
        if len(rows) == len(known) and set(rows) == set(known):
            raise UserError(
                f"the index of {name} is in another order than the rows of the labels, which have no index: pass the "
                f"labels with their index, or {name}.to_numpy() if the rows are in the same order"
            )


def by_class(probs: Any, class_names: Sequence[str] | None, labels: Any) -> tuple[Any, Sequence[str] | None]:
    """Bring the columns of a frame of probabilities into the order of the classes, which may be its own.

    Args:
        probs: (N, K) frame; anything else is returned as it is.
        class_names: K names; None: the columns' names, unless these are 0 to K - 1.
        labels: (N,) as given.

    Raises:
        UserError: see column_order.
    """
    if not is_frame(probs):
        return probs, class_names
    order, names = column_order(list(map(str, probs.columns)), class_names, labels)
    return probs.iloc[:, order], names


def column_order(
    columns: Sequence[str], class_names: Sequence[str] | None, labels: Any
) -> tuple[list[int], Sequence[str] | None]:
    """Find the column of each class in a table of probabilities, and the classes; see by_class.

    Args:
        columns: K titles.
        class_names: see by_class.
        labels: (N,) as given.

    Raises:
        UserError: columns of one name, or that are neither the classes nor 0 to K - 1, or could be both.
    """
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise UserError(f"pred_probs has {columns.count(twice[0])} columns {twice[0]!r}")
    positions = [str(k) for k in range(len(columns))]
    is_numbered = set(columns) == set(positions)
    if class_names is None:
        if is_numbered:
            return [columns.index(name) for name in positions], None
        if columns != sorted(columns) and np.asarray(labels).dtype.kind in "iufb" and not _are_numbers(columns):
            raise UserError(
                f"labels are numbers, and the columns of pred_probs are {_listed(columns)}: say with class_names "
                "(--classes) which number is which class"
            )
        return list(range(len(columns))), columns
    names = list(map(str, class_names))
    if set(columns) == set(names) and len(columns) == len(names):
        if is_numbered and columns == positions != names:
            raise UserError(
                f"columns 0 to {len(columns) - 1} of pred_probs may be the classes of these names or stand in the "
                "order of class_names, which is another: name them otherwise, or pass the bare numbers (to_numpy(), "
                ".npy) in that order"
            )
        return [columns.index(name) for name in names], class_names
    if is_numbered:
        return [columns.index(name) for name in positions], class_names
    other = next(name for name in (*columns, *names) if name not in names or name not in columns)
    raise UserError(
        f"the columns of pred_probs are {_listed(columns)}, but the classes {_listed(names)}: {other!r} is only in one "
        f"of them.{closest(other, columns if other in names else names)} Pass the bare numbers (to_numpy(), .npy) if "
        "the columns are in the order of class_names"
    )


def _are_numbers(names: Sequence[str]) -> bool:
    return all(name.removeprefix("-").isdecimal() for name in names)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
