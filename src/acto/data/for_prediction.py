"""Data that a trained model looks at: any source that training takes, and picture files that lie in no class.

Where samples are to be predicted, labels that are there are not even read, so they need not be right, complete, or of
the classes that the model knows. Where labels are to be audited, they must be of these classes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from acto.core.errors import UserError, closest
from acto.data.catalog import SOURCES
from acto.data.readers.formats import FORMATS, read_bare_path
from acto.data.readers.place import DATA_ROOT_VARIABLE, Place
from acto.data.samples import DataSpec, Raw, Samples, join, told_apart
from acto.data.sources import load_data, read
from acto.data.tables.encoding import Encoding

_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NewData:
    """Samples to be predicted."""

    samples: Samples
    """Their labels are all 0 and mean nothing."""
    splits: tuple[str, ...] = ()
    """(N,) train or test, where the source has both: the same id may be in each of them."""
    notes: tuple[str, ...] = ()
    """Notes for the user."""


def read_new(
    source: str,
    *,
    data_root: str | Path | None = None,
    path_column: str = "path",
    base: str | None = None,
    encoding: Encoding | None = None,
) -> NewData:
    """Read what `source` names, in its own order.

    Args:
        source: a name of SOURCES; or a path, also below the data root: a folder (every picture in it, however deep), a
            picture file, a table (.csv, .tsv, .parquet, .jsonl) with a column of paths, arrays (.npz, .npy), a data set
            of Hugging Face or tar shards.
        data_root: folder of the data sets; else the variable ACTO_DATA_ROOT.
        path_column: a table's column of samples; picture files are relative to the table.
        base: a folder below which absolute paths of a table may lie.
        encoding: of a model that takes rows: it knows which columns are what.

    Raises:
        UserError: there is no such source, or it cannot be used.
    """
    root = data_root or os.environ.get(DATA_ROOT_VARIABLE)
    if source in SOURCES and source not in FORMATS:
        return _together(read(DataSpec(source=source), data_root=data_root))
    if source in FORMATS:
        if not root:
            raise UserError(f"data source {source!r} needs its place: give the path itself as source")
        path = Path(root)
    else:
        path = Path(source).expanduser()
        if not path.exists() and root:
            path = Path(root).expanduser() / path
    if not path.exists():
        raise UserError(
            f"data source {source} does not exist, and no data set has that name.{closest(source, SOURCES)}"
        )
    spec = _columns_of(encoding, DataSpec(source=source, path_column=path_column, base=base))
    return _together(read_bare_path(spec, Place(path=path)))


def _columns_of(encoding: Encoding | None, spec: DataSpec) -> DataSpec:
    """A spec with the columns that an encoding knows; as it is without one."""
    if encoding is None:
        return spec
    plan = encoding.plan
    label_column = spec.label_column
    if label_column == DataSpec().label_column and plan.label_column:
        label_column = plan.label_column
    return replace(
        spec,
        label_column=label_column,
        text_column=plan.columns[0] if plan.is_text else None,
        columns=() if plan.is_text else plan.columns,
    )


def _together(raw: Raw) -> NewData:
    """Both splits in one, without their labels."""
    parts = [raw.train] if raw.test is None else [raw.train, raw.test]
    samples = join(parts)
    return NewData(
        samples=replace(samples, labels=np.zeros(len(samples), np.int64), true_labels=None),
        splits=("train",) * len(raw.train) + ("test",) * len(raw.test) if raw.test is not None else (),
        notes=raw.notes,
    )


def read_labelled(
    source: str,
    class_names: Sequence[str],
    *,
    data_root: str | Path | None = None,
    columns: DataSpec | None = None,
    encoding: Encoding | None = None,
) -> tuple[Raw, Samples]:
    """Every labelled sample of a source, for a model that knows `class_names`; not every class needs a sample.

    Nothing is held out, decoded or left out.

    Args:
        source: what acto.data.sources.load_data takes.
        class_names: the model's. A table or arrays without a class list of their own may name them or number them.
        data_root: folder of the data sets; else the variable ACTO_DATA_ROOT.
        columns: names a table's columns, and the folder of its absolute paths; None: they have their usual names.
        encoding: of a model that takes rows: it knows which columns are what.

    Returns:
        What the source holds; and all its samples, a test set behind the rest, with positions in `class_names` as
        labels. Ids of the test set that occur before it get "test/" in front.

    Raises:
        UserError: there is no such source, it cannot be used, or it has other classes.
    """
    spec = DataSpec(source=source, root=None if data_root is None else str(data_root))
    if columns is not None:
        kept = {name: getattr(columns, name) for name in ("path_column", "label_column", "true_label_column", "base")}
        spec = replace(spec, **kept)
    spec = _columns_of(encoding, spec)
    if source in SOURCES and source not in FORMATS:  # `load_data` knows which labels belong to it
        data = load_data(spec)
        raw = Raw(name=data.name, train=data.train, test=data.test, class_names=data.class_names, notes=data.notes)
    else:
        raw = read(spec, known_classes=tuple(class_names))
    if unknown := sorted(set(raw.class_names) - set(class_names)):
        known = f"{', '.join(class_names[:_SHOWN])}{', ...' if len(class_names) > _SHOWN else ''}"
        raise UserError(
            f"{source} has classes that the model does not know: {', '.join(unknown[:_SHOWN])}. It knows {known}"
        )
    parts = [raw.train]
    if raw.test is not None:
        parts.append(told_apart(raw.train, raw.test))
    samples = join(parts)
    if not len(samples):
        raise UserError(f"{source} has no samples")
    number = {name: k for k, name in enumerate(class_names)}
    labels = np.array([number[name] for name in raw.class_names], np.int64)[samples.labels]
    return raw, replace(samples, labels=labels)
