"""Columns of records: which of them holds the samples, the labels, the truth and the split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from acto.core.errors import UserError
from acto.data.readers.parquet import missing_column
from acto.data.readers.record_tables import NUMBER, PICTURE, TEXT, VECTOR, Table
from acto.data.readers.split_columns import plain_name
from acto.data.readers.tables import asks_for_rows
from acto.data.samples import DataSpec

LABEL_NAMES = (
    *("label", "labels", "y", "target", "targets", "class", "classes", "category", "cls", "class_id", "label_id"),
    *("fine_label", "coarse_label", "noisy_label", "given_label", "class_label", "label_name", "class_name"),
)
"""Usual names of columns of labels, as `plain_name` writes them."""
PATH_NAMES = (
    *("path", "paths", "file", "files", "file_name", "file_path", "filename", "filepath", "image", "image_path"),
    *("image_file", "image_name", "img", "img_path", "picture", "photo"),
)
"""Usual names of columns of picture files."""
_USUAL = DataSpec()
_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Columns that are read."""

    content: str
    label: str = ""
    truth: str = ""
    split: str = ""
    group: str = ""
    notes: tuple[str, ...] = ()


def has_samples(tables: Sequence[Table], spec: DataSpec) -> bool:
    """Say whether there is a column that may hold the samples: pictures, vectors or paths."""
    table = tables[0]
    if asks_for_rows(spec):
        return False
    if spec.path_column != _USUAL.path_column or table.of_kind(PICTURE, VECTOR):
        return True
    return any(plain_name(name) in PATH_NAMES for name in table.of_kind(TEXT))


def choose_columns(tables: Sequence[Table], spec: DataSpec, *, with_labels: bool, with_split: bool = False) -> Columns:
    """Choose the columns by the settings, or where these say nothing, by what the first table has.

    Raises:
        UserError: a column is missing, holds something else, or could be several.
    """
    table = tables[0]
    for name in set(table.names):
        if table.names.count(name) > 1:
            raise UserError(
                f"{table.file} has {table.names.count(name)} columns {name!r}: rename or remove all but one"
            )
    notes: list[str] = []
    content = _content_column(table, spec, notes)
    if not with_labels:
        return Columns(content=content, notes=tuple(notes))
    label = column_of_labels(table, spec, content, notes)
    truth = split = ""
    for column, usual in ((spec.true_label_column, _USUAL.true_label_column), (spec.split_column, _USUAL.split_column)):
        if column not in table.names and column != usual:
            raise UserError(missing_column(table.file, column, table.names))
    if (group := spec.group_column or "") and group not in table.names:
        raise UserError(missing_column(table.file, group, table.names))
    if group and table.kind(group) not in (TEXT, NUMBER):
        raise UserError(f"{table.file}: column {group!r} holds {table.kind(group)}, and no groups. {told(table)}")
    if spec.true_label_column in table.names:
        truth = spec.true_label_column
    if with_split and spec.split_column in table.names:
        split = spec.split_column
    return Columns(content=content, label=label, truth=truth, split=split, group=group, notes=tuple(notes))


def _content_column(table: Table, spec: DataSpec, notes: list[str]) -> str:
    name = spec.path_column
    pictures, vectors = table.of_kind(PICTURE), table.of_kind(VECTOR)
    if name in table.names and not (name == _USUAL.path_column and pictures and name not in pictures):
        if table.kind(name) not in (PICTURE, VECTOR, TEXT):
            raise UserError(f"{table.file}: {name!r} holds {table.kind(name)}, and no samples. {told(table)}")
        return name
    if name != _USUAL.path_column:
        raise UserError(missing_column(table.file, name, table.names))
    paths = [each for each in table.of_kind(TEXT) if plain_name(each) in PATH_NAMES]
    found = pictures or [*vectors, *paths]
    if len(found) > 1:
        raise UserError(
            f"{table.file} has several columns that may be the samples: {', '.join(map(repr, found))}. Say which: "
            + " or ".join(f"--data.path_column {each}" for each in found[:_SHOWN])
        )
    if found:
        what = "picture files" if found[0] in paths else table.kind(found[0])
        notes.append(f"the samples are the column {found[0]!r} ({what}) of {table.file.name}")
        return found[0]
    raise AssertionError("has_samples was not asked")


def column_of_labels(table: Table, spec: DataSpec, content: str, notes: list[str]) -> str:
    """The column of labels beside that of the samples; `notes` takes what is to be said of it.

    Raises:
        UserError: it is missing, holds something else, or could be several.
    """
    name = spec.label_column
    own = [each for each in table.classes if each in table.names]
    usual = [
        each for each in table.of_kind(TEXT, NUMBER) if plain_name(each) in LABEL_NAMES and each not in (content, *own)
    ]
    likely = [each for each in table.names if each in own or each in usual]
    if name in table.names:
        if table.kind(name) not in (TEXT, NUMBER):
            raise UserError(f"{table.file}: column {name!r} holds {table.kind(name)}, and no labels. {told(table)}")
        others = [each for each in likely if each not in (name, spec.true_label_column)]
        if others and name == _USUAL.label_column:
            notes.append(
                f"the labels are the column {name!r}; {listed(others)} may be labels too (--data.label_column)"
            )
        return name
    if name != _USUAL.label_column:
        raise UserError(missing_column(table.file, name, table.names))
    likely = likely or [each for each in table.perhaps_labels if each in table.names]
    if len(likely) == 1:
        notes.append(f"the labels are the column {likely[0]!r} of {table.file.name}")
        return likely[0]
    if not likely:
        raise UserError(
            f"{table.file} has no column {name!r}: --data.label_column NAME says which it is. {told(table)}"
        )
    raise UserError(
        f"{table.file} has several columns that may be the labels: {', '.join(map(repr, likely))}. Say which: "
        + " or ".join(f"--data.label_column {each}" for each in likely[:_SHOWN])
    )


def told(table: Table) -> str:
    """Tell the columns of a table, and what each holds."""
    shown = [f"{name!r} ({table.kind(name)})" for name in table.names[: 4 * _SHOWN]]
    return f"Columns: {', '.join(shown) or 'none'}{', ...' if len(table.names) > len(shown) else ''}"


def listed(names: Sequence[str]) -> str:
    """List some names."""
    return ", ".join(map(repr, names[:_SHOWN])) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
