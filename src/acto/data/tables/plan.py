"""Choice of a table's columns: which holds the labels, which are features, which names the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError, closest
from acto.core.text import counted
from acto.data.pictures.kinds import SUFFIXES as PICTURES
from acto.data.readers.split_columns import SPLIT_NAMES, plain_name
from acto.data.samples import DataSpec
from acto.data.tables.rows import Cells, Plan, are_dates, as_texts
from acto.data.tables.suspects import Suspect, Traits, suspect_of

_LABELS = ("label", "labels", "class", "target", "y", "category", "class_name", "class_label", "given_label", "outcome")
"""Usual names of the column of labels, as `plain_name` writes them, the likeliest first."""
_TEXTS = frozenset(
    ("text", "texts", "sentence", "review", "comment", "message", "body", "content", "document", "abstract", "tweet")
)
"""Usual names of a column of texts."""
_LONG, _LONG_NAMED = 60, 15
"""Characters on average from which on texts are no names: in any column, and in one of _TEXTS."""
_MOST_CODES = 50
"""Different whole numbers that labels are guessed to have at most."""
_SHOWN = 10


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Column:
    """Column of a table, looked at once."""

    name: str
    cells: Cells
    num_different: int
    """Different cells, nothing included."""

    @property
    def is_text(self) -> bool:
        """True if its cells are texts."""
        return self.cells.dtype.kind != "f"

    @property
    def is_whole(self) -> bool:
        """True if it holds whole numbers, and nothing else where something stands."""
        if self.is_text:
            return False
        there = self.cells[~np.isnan(self.cells)]
        return bool(len(there)) and bool((np.isfinite(there) & (np.floor(there) == there)).all())

    def suspect(self) -> Suspect | None:
        """Say that it is hardly a feature; None if nothing tells against it."""
        return suspect_of(
            Traits(
                name=self.name,
                count=len(self.cells),
                is_whole=self.is_whole,
                is_float=not self.is_text and not self.is_whole,
                is_unique=self.num_different == len(self.cells),
                is_constant=self.num_different < 2,
                whole=partial(_whole, self.cells),
            ),
            truth=DataSpec().true_label_column,
        )


def _whole(cells: Cells) -> npt.NDArray[np.int64] | None:
    return None if np.isnan(cells).any() or np.abs(cells).max() >= 2**53 else cells.astype(np.int64)


def looked_at(cells: Mapping[str, Cells]) -> dict[str, Column]:
    """Look at each column once."""
    return {
        name: Column(
            name=name,
            cells=column,
            num_different=len(np.unique(column)) if column.dtype.kind == "f" else len(set(column.tolist())),
        )
        for name, column in cells.items()
    }


def label_column(columns: Mapping[str, Column], spec: DataSpec, file: str) -> tuple[str, list[str]]:
    """Find the column of labels, with a note if it was guessed.

    Raises:
        UserError: there is none of the name that was given, or none that is obvious.
    """
    if spec.label_column in columns:
        return spec.label_column, []
    if spec.label_column != DataSpec().label_column:
        raise UserError(
            f"{file} has no column {spec.label_column!r}.{closest(spec.label_column, columns)} "
            f"Columns: {', '.join(map(repr, columns))}"
        )
    reserved = (spec.split_column, spec.true_label_column, *spec.columns, spec.text_column)
    fitting = [column for name, column in columns.items() if name not in reserved and _may_be_labels(column)]
    by_name = [column for label in _LABELS for column in fitting if plain_name(column.name) == label]
    texts = [column for column in fitting if column.is_text]
    if by_name:
        chosen = by_name[0]
    elif fitting and fitting[-1].name == [name for name in columns if name not in reserved][-1]:
        chosen = fitting[-1]
    elif len(texts) == 1:
        chosen = texts[0]
    else:
        raise UserError(
            f"{file} has no column {DataSpec().label_column!r}, and none that is obviously its labels: "
            f"--data.label_column names it. Columns: {', '.join(map(repr, columns))}"
        )
    return chosen.name, [
        f"column {chosen.name!r} of {file} is taken for the labels ({chosen.num_different} different ones): "
        "--data.label_column names another"
    ]


def _may_be_labels(column: Column) -> bool:
    """Tell whether a column has few enough different texts or whole numbers, each often enough."""
    if not 2 <= column.num_different <= max(2, len(column.cells) // 5) or plain_name(column.name) in SPLIT_NAMES:
        return False
    return column.is_text or (column.is_whole and column.num_different <= _MOST_CODES)


def id_column(columns: Mapping[str, Column], taken: Sequence[str], *, first: str) -> str | None:
    """Find the column that names the rows; `first` goes before all others."""
    for name in sorted(columns, key=lambda name: name != first):
        column = columns[name]
        is_full = bool(all(column.cells)) if column.is_text else column.is_whole and not np.isnan(column.cells).any()
        if name in taken or column.num_different < len(column.cells) or not is_full:
            continue
        suspect = column.suspect()
        if suspect is not None and suspect.kind == "id" and suspect.why == "names the rows":
            return name
    return None


def choose_columns(
    columns: Mapping[str, Column], spec: DataSpec, file: str, *, labels: str, taken: Sequence[str]
) -> tuple[Plan, list[str]]:
    """Choose the columns that are features, and say what was left out or guessed.

    Args:
        columns: all of the table.
        spec: may name them.
        file: name of the table, for messages.
        labels: the column of given labels.
        taken: columns that are no features for certain: labels, split, truth.

    Raises:
        UserError: a column that is named is not there; or none is left.
    """
    named = (*spec.columns, *spec.category_columns, *([spec.text_column] if spec.text_column else []))
    for name in named:
        if name not in columns:
            raise UserError(
                f"{file} has no column {name!r}.{closest(name, columns)} Columns: {', '.join(map(repr, columns))}"
            )
        if name in taken:
            raise UserError(f"column {name!r} of {file} holds labels or splits, and cannot be a feature")
    if spec.text_column is not None and (spec.columns or spec.category_columns):
        raise UserError("data.text_column is learned from alone: leave data.columns and data.category_columns out")
    if len(set(spec.columns)) < len(spec.columns):
        raise UserError(f"data.columns names a column twice: {', '.join(spec.columns)}")
    others = {name: column for name, column in columns.items() if name not in taken}
    if spec.columns:
        if extra := [name for name in spec.category_columns if name not in spec.columns]:
            raise UserError(f"data.category_columns names {extra[0]!r}, which data.columns leaves out")
        return Plan(columns=spec.columns, categories=spec.category_columns, label_column=labels), []
    text, notes = (spec.text_column, []) if spec.text_column is not None else _text_column(others, spec, file)
    if text is not None:
        if not columns[text].is_text:
            raise UserError(f"column {text!r} of {file} holds numbers, and no texts to learn from")
        return Plan(columns=(text,), is_text=True, label_column=labels), notes
    _refuse_pictures(others, spec, file)
    chosen, notes = _features(others, spec)
    if not chosen:
        raise UserError("; ".join([f"{file} has no column that can be a feature beside its labels {labels!r}", *notes]))
    return Plan(columns=tuple(chosen), categories=spec.category_columns, label_column=labels), notes


def _text_column(others: Mapping[str, Column], spec: DataSpec, file: str) -> tuple[str | None, list[str]]:
    """The one column of long texts, if there is just one.

    Raises:
        UserError: there are several.
    """
    found = [name for name, column in others.items() if name not in spec.category_columns and _are_long(column)]
    if len(found) > 1:
        raise UserError(
            f"{file} has {counted(len(found), 'column')} of long texts, {', '.join(map(repr, found[:_SHOWN]))}: "
            "--data.text_column says which is learned from, or --data.columns NAME,NAME the columns of a table"
        )
    if not found:
        return None, []
    unused = [repr(name) for name in others if name != found[0]]
    more = (
        f"; the other columns ({', '.join(unused[:_SHOWN])}) are not used: --data.columns NAME,NAME learns from such"
        if unused
        else ""
    )
    return found[0], [f"column {found[0]!r} of {file} is taken for texts to learn from{more}"]


def _are_long(column: Column) -> bool:
    if not column.is_text or 2 * column.num_different < len(column.cells):
        return False
    texts = [text for text in column.cells.tolist() if text]
    least = _LONG_NAMED if plain_name(column.name) in _TEXTS else _LONG
    return bool(texts) and sum(map(len, texts)) >= least * len(texts) and not _are_pictures(texts)


def _are_pictures(texts: Sequence[str]) -> bool:
    ending = sum(text.lower().endswith(tuple(PICTURES)) for text in texts[:1000])
    return 2 * ending > min(len(texts), 1000)


def _refuse_pictures(others: Mapping[str, Column], spec: DataSpec, file: str) -> None:
    for name, column in others.items():
        if column.is_text and _are_pictures([text for text in as_texts(column.cells) if text] or [""]):
            raise UserError(
                f"{file} has no column {spec.path_column!r}. Columns: {', '.join(map(repr, others))}. Column {name!r} "
                f"names picture files: --data.path_column {name} reads them"
            )


def _features(others: Mapping[str, Column], spec: DataSpec) -> tuple[list[str], list[str]]:
    """The columns that are features, and a note on each kind that is left out or doubtful."""
    chosen: list[str] = []
    left_out: dict[str, list[str]] = {}
    notes = []
    for name, column in others.items():
        suspect = column.suspect()
        is_code = name in spec.category_columns
        texts_differ = column.is_text and not is_code and not are_dates(column.cells) and _hardly_repeat(column)
        if suspect is not None and suspect.kind in ("split", "constant") and not is_code:
            left_out.setdefault(f"{suspect.why} (--data.split_column divides the rows by one)", []).append(name)
        elif suspect is not None and suspect.kind in ("truth", "id") and not is_code:
            left_out.setdefault(suspect.why, []).append(name)
        elif column.num_different < 2:
            left_out.setdefault("never varies", []).append(name)
        elif texts_differ:
            why = "has another text in nearly every row (--data.text_column learns from texts)"
            left_out.setdefault(why, []).append(name)
        else:
            chosen.append(name)
            if suspect is not None and not is_code:
                notes.append(
                    f"column {name!r} {suspect.why}, and is used as a number: --data.category_columns {name} makes "
                    "categories of it, --data.columns leaves it out"
                )
    for why, names in left_out.items():
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        shown = ", ".join(map(repr, names[:_SHOWN])) + more
        notes.append(f"left out: {shown}, which {why}; --data.columns NAME,NAME says which columns are used")
    return chosen, notes


def _hardly_repeat(column: Column) -> bool:
    there = sum(map(bool, column.cells.tolist()))
    return there >= 20 and column.num_different > 0.5 * there
