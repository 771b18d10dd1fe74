"""Corrected copy of a run's data, written beside it and never over it, that `acto train` takes.

Picture files stay where they are: the copy is a manifest of their paths. A table stays a table. What lies in memory
becomes an .npz file.
"""

from __future__ import annotations

import io
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from acto.core.errors import UserError
from acto.core.files import disk_errors, write_atomically
from acto.core.sample_csv import disarmed, sample_csv
from acto.core.settings import flatten, from_values, plain
from acto.data.catalog import SOURCES
from acto.data.classes import UNKNOWN
from acto.data.decision_file import BEFORE_FILE, file_beside, printable, read_whole, to_csv, together
from acto.data.readers.confined import base_of
from acto.data.readers.listings import HELD_OUT, ID_COLUMN, NONE_OF_THESE
from acto.data.readers.place import DATA_ROOT_VARIABLE
from acto.data.readers.tables import table_in
from acto.data.samples import Dataset, DataSpec, Raw, Samples
from acto.data.sources import read
from acto.labels.corrected_table import corrected_table, refuse_other_cells
from acto.labels.decisions import corrected, read_decisions
from acto.labels.report import read_report
from acto.labels.run_audit import judged_samples, training_data
from acto.run_folder.reading import read_run

Texts = Sequence[str]
_IN_MEMORY = ("cifar", "digits", "fashion", "small")
"""Pipelines of pictures that an .npz file can hold and name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Correction:
    """Result of `apply_decisions`."""

    path: Path
    """The manifest, table or .npz file."""
    decisions_path: Path | None
    """Decisions of people on its samples, beside it; None where there are none."""
    num_train: int
    changed: dict[tuple[str, str], int]
    """(given class, new class) -> number of samples."""
    removed: dict[str, int]
    """Given class -> number of samples."""
    command: str
    """Trains on it as the run did."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """Samples of the copy."""

    samples: Samples
    labels: list[str]
    """(N,) the class names that they get."""
    originals: list[str]
    """(N,) those that they had."""

    @classmethod
    def of(cls, samples: Samples, labels: Texts, stays: npt.NDArray[np.bool_], originals: Texts) -> _Part:
        """Those of `samples` that stay; none where nothing is said of them."""
        kept = np.flatnonzero(stays)
        rows = kept.tolist()
        return cls(samples=samples.take(kept), labels=[labels[i] for i in rows], originals=[originals[i] for i in rows])


def apply_decisions(
    decisions: Path | str, run: Path | str, *, out: Path | str | None = None, data_root: str | None = None
) -> Correction:
    """Write a copy of the run's data with the labels that were decided on.

    The copy holds every training sample that was not removed, under its id, and the test samples with their labels.
    What a run held out of its noisy training data stays held out, with the labels that were decided on. Before this
    returns, the copy was read back and its labels compared. Beside it, in NAME.decisions.csv, stands what people
    decided, before this run too: with it, readers know which labels somebody holds right.

    Args:
        decisions: decisions.csv.
        run: the folder of the run that was reviewed.
        out: the copy; None: NAME-corrected.csv or .npz beside the data, or in the current folder for data that comes
            with a package.
        data_root: where the data lies, if not where the run found it.

    Raises:
        UserError: the decisions, the data or `out` cannot be used; then nothing was written.
    """
    record, report = read_run(run), read_report(run)
    decided = read_decisions(decisions, report)
    spec = from_values(DataSpec, record.config["data"])
    dataset = training_data(record, data_root=data_root)
    names = np.array(dataset.class_names)
    given = list(report.columns["given_label"])
    judged = judged_samples(dataset, held_out="held_out" in report.columns)
    if list(report.columns["id"]) != list(judged.ids) or given != names[judged.labels].tolist():
        raise UserError(f"the data of {run} is no longer what its label report is about: samples or labels differ")
    labels, stays = corrected(report, decided)
    count = len(dataset.train)
    left = Counter(label for label, stay in zip(labels[:count], stays.tolist(), strict=False) if stay)
    if gone := [name for name in report.class_names if not left[name]]:
        raise UserError(
            f"after these decisions class {gone[0]!r} has no training sample, and nothing can train on that: keep one, "
            "or take the class out of the data by hand"
        )
    raw = read(spec, data_root=data_root or spec.root)
    place = _default_place(spec, raw, data_root) if out is None else Path(out)
    path = Path(os.path.abspath(place.expanduser()))
    before = record.path / BEFORE_FILE
    known = together(read_whole(before) if before.exists() else (), decided.values())
    path_beside = file_beside(path) if known else None
    for each in (path, path_beside):
        if each is not None and each.exists():
            raise UserError(f"{each} exists and is not overwritten: name another file with --out")
    wanted = _suffix(spec, raw, data_root)
    if path.suffix != wanted:
        raise UserError(f"--out must end in {wanted} for {raw.name}, but it is {path}")
    train = _Part.of(dataset.train, labels[:count], stays[:count], given[:count])
    test = _Part.of(dataset.test, labels[count:], stays[count:], given[count:])
    if len(labels) == count:  # a test set of its own is not judged
        untouched = names[dataset.test.labels].tolist()
        test = _Part(samples=dataset.test, labels=untouched, originals=untouched)
    elif not test.labels:
        raise UserError("after these decisions no sample that was held out is left to test on: keep one")
    if raw.train.rows is not None:
        new_label = dict(zip(judged.ids, labels, strict=True))
        removed = {judged.ids[i] for i in np.flatnonzero(~stays).tolist()}
        data = corrected_table(_source(spec, data_root), raw, spec, new_label, removed)
    elif raw.train.paths is None:
        data = _arrays(dataset, train, test)
    else:
        data = _manifest(path, dataset, raw, train, test, base=base_of(spec.base))
    with disk_errors(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    try:
        if path_beside is not None:
            with disk_errors(f"write {path_beside}"):
                write_atomically(path_beside, to_csv(known))
        as_copy = _spec_of_copy(spec, path, raw)
        classes = _read_back(as_copy, raw, dataset.class_names, train, test)
    except BaseException:
        for each in (path, path_beside):
            if each is not None:
                each.unlink(missing_ok=True)
        raise
    pairs = zip(train.originals + test.originals, train.labels + test.labels, strict=True)
    changes = Counter((old, new) for old, new in pairs if old != new)
    return Correction(
        path=path,
        decisions_path=path_beside,
        num_train=len(train.labels),
        changed=dict(changes),
        removed=dict(Counter(given[i] for i in np.flatnonzero(~stays).tolist())),
        command=_command(record.path, spec, replace(as_copy, classes=classes)),
    )


def _default_place(spec: DataSpec, raw: Raw, data_root: str | None) -> Path:
    """Beside the data; for arrays of a named source in the data root or, without one, in the current folder."""
    source, suffix = _source(spec, data_root), _suffix(spec, raw, data_root)
    root = data_root or spec.root or os.environ.get(DATA_ROOT_VARIABLE)
    if raw.train.rows is not None and source.is_dir():  # beside the folder: within it there would be two tables
        return Path(os.path.abspath(source)).parent / f"{raw.name}-corrected{suffix}"
    if source.is_file():
        return source.with_name(f"{source.stem}-corrected{suffix}")
    if raw.train.paths is None and source.is_dir() and spec.source not in SOURCES:  # vectors in a folder's files
        return Path(os.path.abspath(source)).parent / f"{raw.name}-corrected.npz"
    if raw.train.paths is None:
        return Path(root or ".") / f"{raw.name}-corrected.npz"
    parts = [raw.train, *([raw.test] if raw.test is not None else [])]
    files = [os.path.abspath(path.parent) for part in parts for path in part.paths or ()]
    folder = source if source.is_dir() else Path(os.path.commonpath(files))
    return Path(os.path.abspath(folder)).parent / f"{raw.name}-corrected.csv"


def _source(spec: DataSpec, data_root: str | None) -> Path:
    """The place of the data, below the data root if they are there."""
    source = Path(spec.source).expanduser()
    root = data_root or spec.root or os.environ.get(DATA_ROOT_VARIABLE)
    if not source.exists() and root is not None and (Path(root) / source).exists():
        return Path(root) / source
    return source


def _suffix(spec: DataSpec, raw: Raw, data_root: str | None) -> str:
    """The suffix of the copy."""
    if raw.train.rows is not None:
        if (table := table_in(source := _source(spec, data_root))) is None:
            raise UserError(
                f"{source} is no single .csv, .tsv, .jsonl or .parquet file, and only such tables can be corrected as "
                "yet: save its rows as one, and train on that"
            )
        return table.suffix
    return ".npz" if raw.train.paths is None else ".csv"


def _truth(samples: Samples, names: Texts) -> list[str] | None:
    """True labels as a manifest and an .npz file write them; None if no truth is known."""
    if samples.true_labels is None:
        return None
    words = [*names, NONE_OF_THESE]
    return ["" if code == UNKNOWN else words[min(code, len(names))] for code in samples.true_labels.tolist()]


def _manifest(
    path: Path,
    dataset: Dataset,
    raw: Raw,
    train: _Part,
    test: _Part,
    *,
    base: Path | None,
) -> bytes:
    names = dataset.class_names
    file_of = {
        id: file for part in (raw.train, raw.test) if part for id, file in zip(part.ids, part.paths or (), strict=True)
    }
    split = HELD_OUT if dataset.test_labels_are_given else "test"
    ids = [*train.samples.ids, *test.samples.ids]
    table: dict[str, Any] = {
        "path": [_written(file_of[id], path.parent, base=base) for id in ids],
        "label": train.labels + test.labels,
        "split": ["train"] * len(train.labels) + [split] * len(test.labels),
    }
    truths = (_truth(train.samples, names), _truth(test.samples, names))
    if truths[0] is not None:
        table["true_label"] = [*truths[0], *(truths[1] or [""] * len(test.labels))]
    table |= {"original_label": train.originals + test.originals, ID_COLUMN: ids}
    data, _ = sample_csv(table)
    try:
        data.decode()
    except UnicodeDecodeError:
        texts = (*table["path"], *ids, *names)
        odd = next(text for text in texts if any("\udc80" <= mark <= "\udcff" for mark in text))
        raise UserError(f"a manifest is UTF-8, but the name {printable(odd)} is not: rename it") from None
    return data


def _written(file: Path, folder: Path, *, base: Path | None) -> str:
    """A picture's path as a manifest in `folder` writes it: relative, or else absolute, where it lies below `base`.

    Raises:
        UserError: it lies elsewhere, or its name is one that a manifest cannot hold.
    """
    text = os.path.relpath(os.path.abspath(file), folder)
    if text.startswith(f"..{os.sep}") and base is not None and file.is_relative_to(base):
        text = str(file)
    if text.startswith(f"..{os.sep}"):
        raise UserError(f"{file} lies outside of {folder}: --out must lie in a folder around all the pictures")
    if text != text.strip() or "\\" in text:
        raise UserError(f"a manifest cannot hold {text!r}: no backslash, no space at an end of a path; rename the file")
    # The same path to a reader, and no formula to a spreadsheet.
    return f"./{text}" if disarmed(text).startswith("'") else text


def _arrays(dataset: Dataset, train: _Part, test: _Part) -> bytes:
    names = dataset.class_names
    arrays: dict[str, Any] = {
        "x": np.asarray(train.samples.content),
        "y": np.array(train.labels),
        "ids": np.array(train.samples.ids),
        "original_labels": np.array(train.originals),
        "class_names": np.array(names),
        "test_x": np.asarray(test.samples.content),
        "test_y": np.array(test.labels),
        "test_ids": np.array(test.samples.ids),
        "test_is_held_out": np.array(dataset.test_labels_are_given),
    }
    if (truth := _truth(train.samples, names)) is not None:
        arrays["true_labels"] = np.array(truth)
    if dataset.views.pipeline in _IN_MEMORY:
        arrays["pipeline"] = np.array(dataset.views.pipeline)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _read_back(copy: DataSpec, before: Raw, names: tuple[str, ...], train: _Part, test: _Part) -> tuple[str, ...]:
    """Check that `acto train` will see these labels; return the class list that it has to be told, empty if it finds
    it.

    Raises:
        UserError: it would not.
    """
    for classes in ((), names):
        try:
            raw = read(replace(copy, classes=classes))
        except UserError:
            if classes:
                raise
            continue
        if raw.class_names == names:
            break
    parts = [(raw.train, train), (raw.test, test)]
    if raw.train.rows is not None:  # what the run held out, or left away, stands among the others
        refuse_other_cells(before.train, _only(raw.train, (*train.samples.ids, *test.samples.ids)))
        rest = raw.train if raw.test is None else raw.test
        parts = [(_only(raw.train, train.samples.ids), train), (_only(rest, test.samples.ids), test)]
    for found, wanted in parts:
        labels = [] if found is None else [raw.class_names[k] for k in found.labels.tolist()]
        if found is None or (list(found.ids), labels) != (list(wanted.samples.ids), wanted.labels):
            raise UserError(
                f"{copy.source} does not read back as it was written: a class or file name in it is too odd"
            )
    if raw.class_names != names:
        raise UserError(f"{copy.source} does not read back as it was written: a class or file name in it is too odd")
    return classes


def _only(samples: Samples, ids: Iterable[str]) -> Samples:
    """Those of these samples that have one of the ids, in the order of these."""
    row_of = {name: row for row, name in enumerate(samples.ids)}
    return samples.take(np.array([row_of[name] for name in ids if name in row_of], np.int64))


def _spec_of_copy(spec: DataSpec, path: Path, raw: Raw) -> DataSpec:
    """The spec that reads the copy. A table's columns stay what they were, a manifest's get their usual names."""
    if raw.train.rows is not None:
        columns: dict[str, Any] = {"label_column": raw.train.rows.plan.label_column}
    else:
        names = [field.name for field in fields(DataSpec) if field.name.endswith("_column")]
        columns = {name: getattr(DataSpec(), name) for name in names}
    return replace(
        spec, source=str(path), root=None, noise=DataSpec().noise, subset=None, classes=(), decisions=None, **columns
    )


def _command(run: Path, spec: DataSpec, copy: DataSpec) -> str:
    """The run's own settings, on other data."""
    before, after = (flatten(plain(asdict(each))) for each in (spec, copy))
    flags: Iterable[str] = (
        f"--data.{key} {shlex.quote(_one_line(value))}" for key, value in after.items() if before[key] != value
    )
    return f"acto train --config {shlex.quote(str(run / 'config.yaml'))} {' '.join(flags)}"


def _one_line(value: object) -> str:
    """A value as YAML on one line, without the mark that ends a document."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**9).split("\n")[0]
