"""Columns that say which rows are for training and which for the test, in manifests and data frames alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from acto.core.errors import UserError, choose
from acto.core.text import counted
from acto.data.readers.listings import HELD_OUT
from acto.data.readers.split_folders import split_name

SPLIT_NAMES = (
    *("split", "splits", "data_split", "subset", "set", "partition", "phase", "fold", "folds", "kfold", "cv_fold"),
    *("train", "test", "val", "valid", "validation", "is_train", "is_training", "in_train", "is_test", "in_test"),
    *("is_val", "is_valid", "is_validation", "train_test", "train_test_split"),
)
"""Usual names of columns that divide the rows, as `plain_name` writes them."""


def plain_name(name: str) -> str:
    """A column's name in small letters with underscores: rowId, "Row ID" and row-id are one name."""
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[\W_]+", "_", parts).strip("_").casefold()


def split_of(value: object, place: str) -> str:
    """The split that a cell names: train, test, val or heldout.

    Raises:
        UserError: it names none; `place` says where it stands.
    """
    if (split := _split(value)) is None:
        choose(f"split in {place}", _text(value), ("train", "test", "val", "valid", "validation"))
    return str(split)


def test_split_of(splits: Sequence[str], *, place: str, name: str) -> tuple[str | None, list[str]]:
    """Choose the split that is the test set, None if there is none; with a note on rows that are left out.

    Args:
        splits: of the rows, as `split_of` returns them.
        place: the table, in errors.
        name: of the table, in notes.

    Raises:
        UserError: no row is for training.
    """
    if "train" not in splits:
        raise UserError(f"{place}: no row has the split 'train'")
    chosen = next((split for split in ("test", "val", HELD_OUT) if split in splits), None)
    if chosen == "test" and "val" in splits:
        rows = counted(splits.count("val"), "row")
        verbs = ("has", "was") if rows == "1 row" else ("have", "were")
        return chosen, [f"{rows} of {name} {verbs[0]} the split val and {verbs[1]} left out"]
    return chosen, []


def divides(values: Iterable[object]) -> bool:
    """Tell whether each value names a split, and not all of them training."""
    splits = {_split(value) for value in values}
    return None not in splits and splits != {"train"}


def _split(value: object) -> str | None:
    if (text := _text(value)) == HELD_OUT:
        return text
    split = split_name(text)
    return None if split is None or split.rest else split.role


def _text(value: object) -> str:
    return "" if value is None else str(value).strip().lower()


def group_names(values: Iterable[object], column: str, *, label_column: str, place: str) -> tuple[str, ...]:
    """(N,) the group that each cell names, as text; empty where none stands, so that the sample is on its own.

    Raises:
        UserError: `column` is that of the labels; `place` names the table.
    """
    if column == label_column:
        raise UserError(
            f"{place}: group_column {column!r} is the column of labels: name the one that says which samples belong "
            "together, a patient or a video"
        )
    return tuple(map(_group, values))


def _group(value: object) -> str:
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
