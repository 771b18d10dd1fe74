"""Labels by several people as users have them: arrays (N, M), data frames and tables, wide or long; they become Votes.

    wide   a row a sample, a column an annotator; where somebody gave no label there is a gap
    long   a row a label: columns id, annotator, label (or what else they are often called)

A gap is None, NaN, an empty text, a word that pandas reads as NaN, or a negative number; all but the first three are
told in a note, and are classes where the class list has them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from acto.core.errors import UserError, closest
from acto.core.text import counted
from acto.data.alignment import as_pandas, is_frame
from acto.data.classes import ClassCodes, infer_classes, look_alikes
from acto.data.label_columns import Column, Labels, Where, is_whole, read_column
from acto.data.vote_cells import Cells, distinct_cells, find_gaps, is_nothing
from acto.data.votes import Votes

ID_NAMES = ("id", "sample_id", "sample", "task", "item", "example", "question", "path", "", "unnamed: 0", "index")
ANNOTATOR_NAMES = ("annotator", "annotator_id", "worker", "worker_id", "rater", "labeler", "coder")
LABEL_NAMES = ("label", "vote", "answer", "response", "class")
"""Titles of the columns of long form, in small letters; of several the first is taken. pandas writes an index without a
title."""
NO_ANNOTATORS = ("true_label", "split", "path", "image")
"""Columns beside the annotators' in a wide table; they are left out with a note."""
IN_USE = ("label", "given_label", "consensus_label")
"""Columns that may be an annotator's or what became of all of them."""
_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VoteCells:
    """Labels as they come, those that are gaps included, in no certain order."""

    values: Cells
    """(V,) cells."""
    samples: Labels
    """(V,)"""
    annotators: Labels
    """(V,)"""
    ids: tuple[str, ...]
    annotator_names: tuple[str, ...]
    where: Where
    """Names the place of cell i."""
    is_long: bool = False
    notes: tuple[str, ...] = ()


def read_cells(
    labels: Any,
    *,
    ids: Sequence[Any] | None = None,
    annotators: Sequence[str] | None = None,
    name: str = "labels",
    rows: Sequence[int] | None = None,
) -> VoteCells:
    """Take labels in any of the forms above apart.

    Args:
        labels: an (N, M) array or list of rows, a data frame, or a mapping of titles to columns.
        ids: (N,) different names of the samples, in their order; in long form those that nobody labelled may be among
            them; None: the table's, or the numbers of the rows.
        annotators: of an array the M names; of a table the columns that are annotators'.
        name: what messages call the table.
        rows: the line of each row of a table in its file, for messages; None: numbers from 0.

    Raises:
        UserError: another shape, columns that are missing or could be something else, names that occur twice.
    """
    labels = as_pandas(labels)
    if is_frame(labels):
        titles = [str(title) for title in labels.columns]
        _refuse_twice(titles, f"{name} has several columns of one name")
        table = {title: _column_of(labels.iloc[:, i]) for i, title in enumerate(titles)}
        index = labels.index if labels.index.is_unique else None
        return _of_table(table, ids, annotators, name, rows, index=index)
    if isinstance(labels, Mapping):
        return _of_table({str(title): column for title, column in labels.items()}, ids, annotators, name, rows)
    return _of_array(labels, ids, annotators, name)


def votes_of(cells: VoteCells, class_names: Sequence[str] | None = None) -> Votes:
    """Bring the labels to class numbers, without the gaps and without what occurs twice.

    Args:
        cells: see read_cells.
        class_names: K names; None: inferred from the labels.

    Raises:
        UserError: no labels, labels that are no class, or two different ones of one annotator for one sample.
    """
    distinct, codes = distinct_cells(cells.values)
    is_gap, said = find_gaps(distinct, class_names)
    notes, counts = list(cells.notes), np.bincount(codes, minlength=len(distinct))
    for word in sorted(said):
        times = int(counts[said[word]].sum())
        notes.append(
            f"{counted(times, 'label')} {word!r}: {'a negative number' if is_whole(word) else 'such a word'} counts as "
            "no label (if it is a class, give the classes by name)"
        )
    kept = np.flatnonzero(~is_gap[codes])
    if not len(kept):
        raise UserError("there are no labels: every cell is empty or counts as no label")
    kept = kept[np.lexsort((cells.annotators[kept], cells.samples[kept]))]
    codes = codes[kept]
    kinds = np.flatnonzero(~is_gap)
    first_of = np.zeros(len(distinct), np.int64)
    first_of[codes[::-1]] = kept[::-1]
    values = distinct[kinds] if isinstance(distinct, np.ndarray) else [distinct[kind] for kind in kinds.tolist()]
    found = read_column(values, where=lambda i: cells.where(int(first_of[kinds[i]])))
    place = np.zeros(len(distinct), np.int64)
    place[kinds] = found.codes
    column = Column(found.texts, place[codes], lambda i: cells.where(int(kept[i])), found.are_numbers)
    names = tuple(map(str, class_names)) if class_names is not None else _inferred(column, said)
    labels = ClassCodes(names, [column]).labels(column)
    samples, annotators = cells.samples[kept], cells.annotators[kept]
    again = np.flatnonzero((np.diff(samples) == 0) & (np.diff(annotators) == 0)) + 1
    if len(again):
        if len(differ := again[labels[again] != labels[again - 1]]):
            shown = "; ".join(
                f"{cells.ids[samples[i]]!r} by {cells.annotator_names[annotators[i]]!r}: {names[labels[i - 1]]!r} "
                f"({cells.where(int(kept[i - 1]))}) and {names[labels[i]]!r} ({cells.where(int(kept[i]))})"
                for i in differ[:_SHOWN].tolist()
            )
            raise UserError(
                f"an annotator gave one sample different labels, {counted(len(differ), 'time')}: {shown}. Keep the one "
                "that counts, or give the second reading an annotator's name of its own"
            )
        notes.append(
            f"{counted(len(again), 'label')} that an annotator gave a sample a second time, the same: left out"
        )
        once = np.ones(len(labels), bool)
        once[again] = False
        samples, annotators, labels = samples[once], annotators[once], labels[once]
    return Votes(
        samples=samples,
        annotators=annotators,
        labels=labels,
        ids=cells.ids,
        annotator_names=cells.annotator_names,
        class_names=names,
        notes=(*notes, *look_alikes(names)),
    )


# Forms ----------------------------------------------------------------------------------------------------------


def _of_array(labels: Any, ids: Sequence[Any] | None, annotators: Sequence[str] | None, name: str) -> VoteCells:
    if hasattr(labels, "detach"):
        labels = labels.detach().cpu().numpy()
    if isinstance(labels, np.ma.MaskedArray):
        is_masked = np.ma.getmaskarray(labels)
        labels = labels.data.astype(object)
        labels[is_masked] = None
    if not isinstance(labels, np.ndarray):
        if isinstance(labels, str | bytes) or not hasattr(labels, "__len__"):
            raise UserError(
                f"{name} must be (N, M), a row a sample and a column an annotator, or a data frame, not "
                f"{type(labels).__name__}"
            )
        lengths = {len(row) if isinstance(row, list | tuple | np.ndarray) else -1 for row in labels}
        if len(lengths) > 1 or -1 in lengths:
            raise UserError(
                f"{name} must be (N, M), a row a sample and a column an annotator, but the rows are of different "
                "lengths or none; where somebody gave no label put None"
            )
        made = np.empty((len(labels), next(iter(lengths), 0)), object)
        for i, row in enumerate(labels):
            made[i] = row
        labels = made
    if labels.ndim != 2 or 0 in labels.shape:
        hint = ": labels of one person are for acto.audit" if labels.ndim == 1 else ""
        raise UserError(f"{name} must be (N, M), a row a sample and a column an annotator, not {labels.shape}{hint}")
    if labels.dtype.kind not in "iufbUSO":
        raise UserError(f"{name} must be names or whole numbers, not {labels.dtype}")
    num_samples, num_annotators = labels.shape
    names = _named(annotators, num_annotators, "annotators", f"columns of {name}") or tuple(
        map(str, range(num_annotators))
    )
    sample_ids = _named(ids, num_samples, "ids", f"rows of {name}") or tuple(map(str, range(num_samples)))
    return VoteCells(
        values=labels.reshape(-1),
        samples=np.repeat(np.arange(num_samples), num_annotators),
        annotators=np.tile(np.arange(num_annotators), num_samples),
        ids=sample_ids,
        annotator_names=names,
        where=lambda i: f"row {i // num_annotators}, annotator {names[i % num_annotators]}",
    )


def _of_table(
    table: Mapping[str, Cells],
    ids: Sequence[Any] | None,
    annotators: Sequence[str] | None,
    name: str,
    rows: Sequence[int] | None,
    *,
    index: Any = None,
) -> VoteCells:
    titles = [_title(table, names) for names in (ID_NAMES, ANNOTATOR_NAMES, LABEL_NAMES)]
    if annotators is None and None not in titles:
        return _of_long(table, [str(title) for title in titles], ids, name, rows)
    notes: list[str] = []
    id_title = _title(table, [word for word in ID_NAMES if word not in (annotators or ())])
    chosen = _annotators_of(table, annotators, id_title, name, notes)
    length = len(table[chosen[0]])
    if not length:
        raise UserError(f"{name} has no rows")
    sample_ids = _named(ids, length, "ids", f"rows of {name}")
    if sample_ids is None:
        own = table[id_title] if id_title is not None else index
        sample_ids = tuple(map(str, range(length))) if own is None else _texts(own, id_title or "index", name, rows)
        _refuse_twice(sample_ids, f"{name}: a row is a sample, but several have the {id_title or 'index'}")
    return VoteCells(
        values=_joined([table[title] for title in chosen]),
        samples=np.tile(np.arange(length), len(chosen)),
        annotators=np.repeat(np.arange(len(chosen)), length),
        ids=sample_ids,
        annotator_names=tuple(chosen),
        where=lambda i: f"{name} row {_line(rows, i % length)}, column {chosen[i // length]}",
        notes=tuple(notes),
    )


def _of_long(
    table: Mapping[str, Cells], titles: Sequence[str], ids: Sequence[Any] | None, name: str, rows: Sequence[int] | None
) -> VoteCells:
    id_title, annotator_title, label_title = titles
    if not len(table[label_title]):
        raise UserError(f"{name} has no rows")
    samples, sample_ids = _numbered(_texts(table[id_title], id_title, name, rows))
    annotators, names = _numbered(_texts(table[annotator_title], annotator_title, name, rows))
    others = [title for title in table if title not in titles]
    notes = (f"columns of {name} that are not read: {', '.join(map(repr, others[:_SHOWN]))}",) if others else ()
    if ids is not None:
        known = _named(ids, len(ids), "ids", "") or ()
        number = {text: i for i, text in enumerate(known)}
        if unknown := [text for text in sample_ids if text not in number]:
            row = int(np.flatnonzero(samples == sample_ids.index(unknown[0]))[0])
            raise UserError(
                f"{name}: {counted(len(unknown), 'sample')} that the data do not have, the first {unknown[0]!r} (row "
                f"{_line(rows, row)}).{closest(unknown[0], known[:10_000])}"
            )
        samples, sample_ids = np.array([number[text] for text in sample_ids], np.int64)[samples], known
    return VoteCells(
        values=table[label_title],
        samples=samples,
        annotators=annotators,
        ids=sample_ids,
        annotator_names=names,
        where=lambda i: f"{name} row {_line(rows, i)}",
        is_long=True,
        notes=notes,
    )


def _annotators_of(
    table: Mapping[str, Cells],
    wanted: Sequence[str] | None,
    id_title: str | None,
    name: str,
    notes: list[str],
) -> list[str]:
    """Titles of the columns that are annotators'; what else is left out is noted."""
    if wanted is not None:
        for title in wanted:
            if title not in table:
                columns = ", ".join(map(repr, list(table)[:20]))
                raise UserError(f"{name} has no column {title!r}.{closest(title, table)} Columns: {columns}")
        _refuse_twice(list(wanted), "an annotator is named twice")
        if not wanted:
            raise UserError("no annotator is named")
        return list(wanted)
    others = [title for title in table if title != id_title]
    if doubtful := [title for title in others if title.lower() in IN_USE]:
        raise UserError(
            f"{name}: column {doubtful[0]!r} may be one annotator's labels or those that are in use: say which columns "
            f"are annotators' (annotators). Long form needs columns for the sample ({', '.join(ID_NAMES[:4])}, ...), "
            f"the annotator ({', '.join(ANNOTATOR_NAMES[:4])}, ...) and the label"
        )
    left_out = [title for title in others if title.lower() in NO_ANNOTATORS or title.lower() in ID_NAMES]
    chosen = [title for title in others if title not in left_out]
    if left_out:
        notes.append(f"columns of {name} that are no annotator's: {', '.join(map(repr, left_out))}")
    if not chosen:
        raise UserError(f"{name} has no column of an annotator: its columns are {', '.join(map(repr, table))}")
    return chosen


def _title(table: Mapping[str, Cells], names: Sequence[str]) -> str | None:
    by_name = {title.strip().lower(): title for title in reversed(list(table))}
    return next((by_name[name] for name in names if name in by_name), None)


def _texts(values: Any, title: str, name: str, rows: Sequence[int] | None) -> tuple[str, ...]:
    """The names in a column; 3.0 is 3.

    Raises:
        UserError: one is missing.
    """
    found = []
    for row, value in enumerate(values):
        if is_nothing(value):
            raise UserError(f"{name} row {_line(rows, row)} has no {title}")
        whole = isinstance(value, float | np.floating) and value % 1 == 0
        found.append(str(int(value)) if whole else str(value).strip())
    return tuple(found)


def _numbered(texts: Sequence[str]) -> tuple[Labels, tuple[str, ...]]:
    """Numbers (V,) in the order in which the texts first occur, and the texts."""
    number: dict[str, int] = {}
    codes = np.array([number.setdefault(text, len(number)) for text in texts], np.int64)
    return codes, tuple(number)


def _named(names: Sequence[Any] | None, count: int, what: str, of: str) -> tuple[str, ...] | None:
    if names is None:
        return None
    texts = tuple(str(name) for name in names)
    if len(texts) != count:
        raise UserError(f"{what} has {counted(len(texts), 'entry')} for {count} {of}")
    _refuse_twice(texts, f"{what} must be different")
    return texts


def _refuse_twice(names: Sequence[str], problem: str) -> None:
    if len(set(names)) < len(names):
        name, times = Counter(names).most_common(1)[0]
        raise UserError(f"{problem}: {name!r} occurs {times} times")


def _line(rows: Sequence[int] | None, row: int) -> int:
    return row if rows is None else rows[row]


def _column_of(series: Any) -> Cells:
    """A frame's column as an array of numbers, or as a list."""
    values = series.to_numpy()
    return values if values.dtype.kind in "iufb" else list(series)


def _joined(columns: Sequence[Cells]) -> Cells:
    if all(isinstance(column, np.ndarray) and column.dtype.kind in "iuf" for column in columns):
        return np.concatenate(columns)
    return [value for column in columns for value in (column.tolist() if isinstance(column, np.ndarray) else column)]


def _inferred(column: Column, said: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    try:
        return infer_classes(column)
    except UserError as error:
        gaps = f" ({', '.join(map(repr, sorted(said)))} counts as no label)" if said else ""
        help = "" if "if that is meant" in str(error) else "; if that is meant, give the classes by name (classes)"
        raise UserError(f"{error}{gaps}{help}") from None
