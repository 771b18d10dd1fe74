"""Data frames of pandas: which columns are features, and which rows are for training.

Columns that name rows, divide them or hold the truth are no features: they are left out with a note, or refused where
it matters what they say. The note or refusal names the column and how to keep it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError
from acto.data.alignment import check_same_index
from acto.data.readers.split_columns import divides, split_of
from acto.data.samples import DataSpec
from acto.data.tables.rows import Plan, Rows, are_dates, as_texts, read_cells, text_cells
from acto.data.tables.suspects import Suspect, Traits, suspect_of

PATH_COLUMN = "path"
"""A data frame's column of picture files."""
_SPLIT, _TRUTH = DataSpec().split_column, DataSpec().true_label_column
_SHOWN = 5
_SOME = 20
"""Rows from which on different texts are hardly a coincidence."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FrameContent:
    """Contents of a data frame."""

    values: npt.NDArray[np.float64] | tuple[Path, ...] | Rows
    """(N, D) features, (N,) picture files, or (N,) rows that have cells of other kinds, or lack some."""
    labels: Any
    """(N,) as they come; None if there are none."""
    ids: tuple[str, ...] | None
    columns: tuple[str, ...]
    """Names of the features."""
    splits: tuple[str, ...] = ()
    """(N,) as acto.data.readers.split_columns.split_of writes them; empty if no column says."""
    notes: tuple[str, ...] = ()


def read_frame(frame: Any, labels: Any, columns: Sequence[str], *, as_rows: bool | None = None) -> FrameContent:
    """Take samples and labels out of a data frame.

    Args:
        frame: with a column "path", or numbers.
        labels: the name of their column, (N,) labels, or None: then no row is divided off and no column doubted.
        columns: the features in their order; empty: all but the labels' and those that are none.
        as_rows: whether cells are to be kept for an encoding; None: where they are no plain numbers.

    Raises:
        UserError: columns that cannot be used.
    """
    names = [str(name) for name in frame.columns]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"the data frame has two columns of one name: {twice[0]!r}")
    frame = frame.set_axis(names, axis=1)
    label_column = labels if isinstance(labels, str) else None
    if label_column is not None:
        if label_column not in names:
            raise UserError(f"the data frame has no column {label_column!r}; it has {', '.join(names)}")
        labels = frame[label_column]
    check_same_index(frame, labels)
    others = [name for name in names if name != label_column]
    splits: tuple[str, ...] = ()
    if labels is not None and _SPLIT in others and _SPLIT not in columns:
        splits = _splits(frame[_SPLIT])
        others.remove(_SPLIT)
    if PATH_COLUMN in others and (not columns or tuple(columns) == (PATH_COLUMN,)):
        given = frame[PATH_COLUMN]
        if bad := [row for row, value in enumerate(given) if not isinstance(value, str | Path) or not str(value)]:
            raise UserError(f"column {PATH_COLUMN!r} has no path in row {', '.join(map(str, bad[:_SHOWN]))}")
        paths = tuple(Path(value) for value in given)
        doubted = [each for each in suspects(frame, others) if each.kind in ("split", "truth")] if not columns else []
        _refuse_words(frame, others)
        notes = [f"column {each.name!r} {each.why}: it is not used" for each in doubted]
        return FrameContent(
            values=paths,
            labels=labels,
            ids=tuple(map(str, paths)),
            columns=(PATH_COLUMN,),
            splits=splits,
            notes=tuple(notes),
        )
    notes = []
    if columns or labels is None:
        wanted = list(columns) or others
    else:
        wanted, notes = _features(frame, others, labels if label_column is None else None)
    if missing := [name for name in wanted if name not in names]:
        raise UserError(f"the data frame has no column {missing[0]!r}; it has {', '.join(names)}")
    if not wanted:
        raise UserError("; ".join(["the data frame has no column beside the labels", *notes]))
    if as_rows is False:
        for name in wanted:
            if frame[name].dtype.kind not in "iufb":
                raise UserError(f"column {name!r} is {frame[name].dtype}, but training had plain numbers there")
    if as_rows is False or (as_rows is None and are_plain_numbers(frame[wanted])):
        values: Any = frame[wanted].to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        if labels is not None and not columns:
            wanted, said = _varying(frame, wanted)
            notes += said
        values = rows_of_frame(frame, wanted)
    return FrameContent(
        values=values,
        labels=labels,
        ids=tuple(map(str, frame.index)) if frame.index.is_unique else None,
        columns=tuple(wanted),
        splits=splits,
        notes=tuple(notes),
    )


def are_plain_numbers(frame: Any) -> bool:
    """Tell a frame of numbers and booleans, none of them missing, from one that needs an encoding."""
    return all(dtype.kind in "iufb" for dtype in frame.dtypes) and not bool(frame.isna().any(axis=None))


def rows_of_frame(frame: Any, columns: Sequence[str], *, label_column: str = "") -> Rows:
    """The cells of a data frame's columns; a category or an object becomes the text or the number that it is.

    Raises:
        UserError: a column of lists, pictures and the like.
    """
    cells = {}
    for name in columns:
        found = read_cells(frame[name].tolist())
        if found is None:
            odd = next(value for value in frame[name] if read_cells([value]) is None)
            raise UserError(
                f"column {name!r} holds {type(odd).__name__}, no single numbers or texts: encode it, leave it out, or "
                f"call it {PATH_COLUMN!r} if it holds picture files"
            )
        is_code = str(frame[name].dtype) in ("category", "object", "string", "str")
        cells[name] = text_cells(as_texts(found)) if is_code and _are_texts(frame[name]) else found
    plan = Plan(columns=tuple(columns), label_column=label_column)
    return Rows(cells=cells, numbers=np.arange(len(frame)), plan=plan)


def _are_texts(column: Any) -> bool:
    """Tell a column whose values are texts, even such as write numbers, from one of numbers among other objects."""
    return any(isinstance(value, str) for value in column.tolist())


def _varying(frame: Any, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The columns that may help, and a note on those of which each row has another text, or all the same."""
    kept, notes = [], []
    for name in names:
        column = frame[name]
        if not _has_values(column):
            kept.append(name)
        elif column.nunique(dropna=False) < 2:
            notes.append(f"column {name!r} never varies and is left out")
        elif _hardly_repeat(column):
            notes.append(f"column {name!r} has another text in nearly every row and is left out")
        else:
            kept.append(name)
    if not kept:
        raise UserError("; ".join(["no column of the data frame can be a feature", *notes]))
    return kept, notes


def _hardly_repeat(column: Any) -> bool:
    """Tell a column of texts, no dates, of which nearly every row has another."""
    if column.dtype.kind in "iufbMm" or len(column) < _SOME or column.nunique() <= 0.5 * column.notna().sum():
        return False
    cells = read_cells(column.tolist())
    return cells is not None and not are_dates(cells)


def suspects(frame: Any, names: Sequence[str]) -> Iterator[Suspect]:
    """Columns among `names` that are hardly features: by their name, or because they number the rows."""
    for name in names:
        if not _has_values(column := frame[name]):
            continue
        traits = Traits(
            name=name,
            count=len(column),
            is_whole=column.dtype.kind in "iu",
            is_float=column.dtype.kind == "f",
            is_unique=column.is_unique,
            is_constant=column.nunique(dropna=False) < 2,
            whole=partial(_whole, column),
            index=frame.index,
        )
        if (found := suspect_of(traits, truth=_TRUTH)) is not None:
            yield found


def _whole(column: Any) -> npt.NDArray[np.int64] | None:
    return np.asarray(column, dtype=np.int64) if column.notna().all() else None


def _has_values(column: Any) -> bool:
    """Tell a column of numbers, texts and the like from one of lists, say, which cannot be compared."""
    try:
        return column.is_unique is not None
    except TypeError:
        return False


def _features(frame: Any, others: Sequence[str], labels: Any) -> tuple[list[str], list[str]]:
    """The columns that are features, and a note on each that is left out or doubtful.

    Raises:
        UserError: a column divides the rows, or is a copy of `labels`.
    """
    _refuse_words(frame, others)
    notes, left_out = [], set()
    for each in suspects(frame, others):
        if each.kind == "split":
            raise UserError(
                f"column {each.name!r} {each.why} and would become a feature: drop it, or call it {_SPLIT!r} and fill "
                f"it with train, val and test to divide the rows; to keep it as a feature, {each.keep}"
            )
        if each.kind == "perhaps":
            notes.append(f"column {each.name!r} {each.why}, and is used as a feature: drop it if it is none")
        else:
            left_out.add(each.name)
            notes.append(f"column {each.name!r} {each.why} and is left out: to keep it as a feature, {each.keep}")
    wanted = [name for name in others if name not in left_out]
    if labels is not None and not hasattr(labels, "detach"):
        given = np.asarray(labels)
        if copies := [name for name in wanted if np.array_equal(np.asarray(frame[name]), given)]:
            raise UserError(
                f"column {copies[0]!r} is a copy of the labels and would become a feature: drop it, or pass "
                f"labels={copies[0]!r}"
            )
    return wanted, notes


def _refuse_words(frame: Any, others: Sequence[str]) -> None:
    """Refuse a column of train and test that is called otherwise than the one that is read."""
    for name in others:
        column = frame[name]
        is_text = column.dtype.kind not in "iufbMm" and name != PATH_COLUMN and _has_values(column)
        if is_text and divides(column.unique()):
            raise UserError(f"column {name!r} holds splits: call it {_SPLIT!r} to divide the rows by it, or drop it")


def _splits(column: Any) -> tuple[str, ...]:
    try:
        return tuple(split_of(value, f"column {_SPLIT!r}, row {row}") for row, value in enumerate(column))
    except UserError as error:
        raise UserError(f"{error}. Rename the column to keep it as a feature, or drop it") from None
