"""The audit of a run: what it knows of its labels, and of labels that it never saw, as a report in its folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.errors import RunError, UserError
from acto.core.sample_columns import TALLIES, of_training
from acto.core.settings import from_values
from acto.core.text import counted
from acto.data.catalog import SOURCES
from acto.data.decision_file import confirmed, decided_in
from acto.data.for_prediction import read_labelled
from acto.data.in_memory import NAME as IN_MEMORY
from acto.data.near_duplicates import near_duplicate_groups
from acto.data.samples import Dataset, DataSpec, Samples, encoded, join, told_apart
from acto.data.sources import load_data, read
from acto.labels.audit import Trained, report_on
from acto.labels.page import write_report_page
from acto.labels.rate import Unseen
from acto.labels.report import LabelReport
from acto.labels.thumbnails import pictures_of
from acto.methods.standard import Standard
from acto.nets.weights import read_state
from acto.run_folder.reading import (
    HELD_OUT,
    RunRecord,
    early_end_in_words,
    held_out_before,
    last_checkpoint,
    read_run,
)
from acto.runs.outliers import judged_by, ranked_trust
from acto.runs.prepare import prepare
from acto.runs.run import Run
from acto.runs.same_data import refuse_other_data
from acto.runs.sample_table import SampleTable, sample_table
from acto.runs.trained_model import load_model as load_model
from acto.runs.warm_start import as_begun


def audit_run(
    path: Path | str,
    *,
    dataset: Dataset | None = None,
    data_root: str | None = None,
    find_duplicates: bool = True,
    trust: bool = False,
) -> LabelReport:
    """The report on the labels that a run was trained on.

    A finished run is read; of one that was interrupted, the networks of its last checkpoint look at the data once more.

    Args:
        path: the run's folder.
        dataset: what it was trained on, where it is at hand; None: read again, as config.yaml says.
        data_root: where data sets lie, if not where they lay.
        find_duplicates: look for samples that are nearly the same; takes a look at every picture.
        trust: allow an unfinished run's network to be code outside of this package; a finished one's is not needed.

    Raises:
        UserError: the run has no checkpoint yet, or its data cannot be read, or are not what they were.
    """
    record = read_run(path)
    if dataset is None:
        dataset = training_data(record, data_root=data_root)
    else:
        refuse_other_data(record.path, dataset)
    if record.summary is not None:
        columns, probs, held_out = record.samples(), record.pred_probs(), record.held_out_probs()
        outlier = record.outlier()  # a run of an earlier version has none
        if list(columns["id"]) != list(dataset.train.ids):
            raise UserError(f"the data are not those that the run in {path} was trained on: other samples")
    else:
        table = _at_last_checkpoint(record, dataset, trust=trust)
        columns, probs, outlier, unseen = table.columns, table.probs, table.outlier, table.held_out
        held_out = None if unseen is None else (unseen.probs, unseen.predicted)
    number = {name: k for k, name in enumerate(dataset.class_names)}
    others = [
        np.array([number[name] for name in values], dtype=np.int64)
        for column, values in columns.items()
        if column.startswith("predicted_label_")
    ]
    quality = np.asarray(columns["label_quality"])
    quality = np.where(np.isnan(quality), columns["prob_given"], quality)
    trained = {c.name: np.asarray(columns[c.name]) for c in of_training() if c.name in columns}
    given, samples = record.noisy_labels(), judged_samples(dataset, held_out=held_out is not None)
    if held_out is not None:
        if len(held_out[0]) != len(dataset.test) or held_out[1].shape != (len(dataset.test), len(others)):
            raise RunError(
                f"{record.path} holds predictions of {len(held_out[0])} samples, but {len(dataset.test)} were held out"
            )
        given = np.concatenate([given, dataset.test.labels])
        quality = np.concatenate([quality, held_out[0][np.arange(len(dataset.test)), dataset.test.labels]])
        others = [np.concatenate(pair) for pair in zip(others, held_out[1].T, strict=True)]
        trained = {name: _unseen_by_training(name, column, len(dataset.test)) for name, column in trained.items()}
    if outlier is not None and (outlier.shape != given.shape or outlier.dtype.kind != "f"):
        raise RunError(
            f"{record.path} holds outlier scores {outlier.dtype} of shape {outlier.shape}, not one for each of "
            f"{counted(len(given), 'sample')}"
        )
    max_pixels = record.config["data"].get("max_image_pixels")
    return report_on(
        given,
        probs,
        dataset.class_names,
        ids=samples.ids,
        paths=_files(record, samples, data_root=data_root),
        texts=None if samples.rows is None else samples.rows.shown(),
        label_quality=quality if outlier is None else ranked_trust(quality, outlier),
        outlier=outlier,
        trained=Trained(trust=quality, columns=trained, other_predictions=tuple(others), epochs=record.model_epochs),
        unseen=_unseen(record, dataset),
        robust=record.config["method"] != Standard.name,
        held_out=None if held_out is None else held_out[0],
        duplicates=near_duplicate_groups(samples, max_pixels=max_pixels) if find_duplicates else (),
        confirmed=confirmed(decided_in(record.path), samples.ids, [dataset.class_names[k] for k in given.tolist()]),
        facts=_facts(record, dataset, held_out_is_judged=held_out is not None),
    )


def judged_samples(dataset: Dataset, *, held_out: bool) -> Samples:
    """The samples of a run's label report, in its order: those of training, and behind them those that were held out.

    Args:
        dataset: what the run was trained on.
        held_out: whether the report has the column held_out. An id that training has too gets "test/" in front.
    """
    if not held_out:
        return dataset.train
    return join([dataset.train, told_apart(dataset.train, dataset.test)])


def _unseen_by_training(name: str, column: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """A column of training, and `count` samples behind it that training never saw."""
    known = next(each for each in of_training() if each.name == name)
    start = math.nan if column.dtype.kind == "f" else TALLIES[known.tally].start
    return np.concatenate([column, np.full(count, start, column.dtype)])


def _unseen(record: RunRecord, dataset: Dataset) -> Unseen | None:
    """The run's accuracy on labels that were held out or are of a test set, over its last epochs; None without any."""
    found = record.last_accuracies()
    if not found or not len(dataset.test):
        return None
    return Unseen(
        agreement=math.fsum(found) / len(found), count=len(dataset.test), like_training=dataset.test_labels_are_given
    )


def _files(record: RunRecord, samples: Samples, *, data_root: str | None) -> list[str] | None:
    """The samples' picture files, also of small pictures that were decoded into memory; None if they are no files."""
    paths, spec = samples.paths, from_values(DataSpec, record.config["data"])
    # Named data sets are archives, which would be read and decoded a second time.
    if samples.pixels is not None and spec.source not in (*SOURCES, IN_MEMORY):
        raw = read(spec, data_root=data_root or spec.root)
        parts = [part for part in (raw.train, raw.test) if part is not None and part.paths is not None]
        file_of = {name: path for part in parts for name, path in zip(part.ids, part.paths or (), strict=True)}
        if all(name in file_of for name in samples.ids):
            paths = tuple(file_of[name] for name in samples.ids)
    return None if paths is None else list(map(str, paths))


def training_data(record: RunRecord, *, data_root: str | None = None) -> Dataset:
    """Read again the data that a run was trained on.

    Raises:
        UserError: it cannot be read, or its labels are others than the run's.
    """
    spec = from_values(DataSpec, record.config["data"])
    if spec.source == IN_MEMORY:
        raise UserError(
            f"the run in {record.path} was trained on data in memory, which are not kept: use what acto.fit returned "
            "(its .report), or acto.audit_run with dataset="
        )
    data = load_data(spec, data_root=data_root or spec.root, held_out=held_out_before(record.path))
    dataset = as_begun(record.path, data)
    refuse_other_data(record.path, dataset)
    return dataset


def _at_last_checkpoint(record: RunRecord, dataset: Dataset, *, trust: bool) -> SampleTable:
    checkpoint = last_checkpoint(record.path)
    if checkpoint is None:
        raise UserError(f"the run in {record.path} has not finished an epoch: there is nothing to audit yet")
    # With the folder, a run that began from another one needs nothing of that one.
    run = Run.from_dict(record.config, trust_net=trust)
    prepared = prepare(run, dataset=dataset, folder=record.path)
    try:
        state = read_state(checkpoint.read("training.pt"), str(checkpoint.path("training.pt")))
        prepared.training.load_state_dict(state)
        # An older version kept no list of what it held out, so that nobody can tell whether these are the same.
        is_known = dataset.test_labels_are_given and (record.path / HELD_OUT).is_file()
        held_out = prepared.test_data if is_known else None
        return sample_table(prepared.training, prepared.train_data, dataset, held_out=held_out)
    finally:
        prepared.close()


def _facts(record: RunRecord, dataset: Dataset, *, held_out_is_judged: bool) -> dict[str, Any]:
    summary: Mapping[str, Any] = record.summary or {}
    notes = [*dataset.notes, *([early_end_in_words(record.early_end)] if record.early_end else [])]
    if dataset.test_labels_are_given and not held_out_is_judged:
        notes.append(
            f"{counted(len(dataset.test), 'sample')} that this run held out cannot be judged: the version that made it "
            "kept no predictions of them"
        )
    return {
        "source": "run",
        "folder": str(record.path),
        "method": record.config["method"],
        "data": dataset.name,
        "state": record.status["state"],
        "epochs": record.model_epochs,
        "epochs_asked": record.config["protocol"]["epochs"],
        "test_accuracy_last10": summary.get("test_accuracy_last10"),
        "test_labels_are_given": dataset.test_labels_are_given,
        "takes_pretrained": record.config.get("weights") is None and dataset.views.pipeline != "vectors",
        "notes": notes,
    }


def audit_at_the_end(run: Path | str, dataset: Dataset) -> LabelReport:
    """The report of a run that has just finished, written into its folder."""
    record = read_run(run)
    report = audit_run(run, dataset=dataset)
    save(report, record, judged_samples(dataset, held_out="held_out" in report.columns), Path(run))
    return report


def audit_others(
    record: RunRecord,
    source: str,
    *,
    data_root: str | None = None,
    columns: Mapping[str, Any] | None = None,
    find_duplicates: bool = True,
    trust: bool = False,
) -> tuple[LabelReport, Samples]:
    """Audit labels that a run's model never saw.

    Args:
        record: of a finished run.
        source: the data. All its samples are looked at, its own test set included.
        data_root: where data sets lie.
        columns: fields of DataSpec that name a table's columns and the folder of its absolute paths; those that are
            missing are the run's.
        find_duplicates: look for samples that are nearly the same.
        trust: allow a network that is code outside of this package.

    Raises:
        UserError: data that cannot be read, have other classes, or samples of another kind or shape.
    """
    model = load_model(record.path, trust=trust)
    named = replace(from_values(DataSpec, record.config["data"]), **(columns or {}))
    raw, samples = read_labelled(source, model.class_names, data_root=data_root, columns=named, encoding=model.encoding)
    if samples.rows is not None and model.encoding is not None:
        samples = encoded(samples, model.encoding)
    probs, outlier = judged_by(model, samples)
    report = report_on(
        samples.labels,
        probs,
        model.class_names,
        outlier=outlier,
        ids=samples.ids,
        paths=None if samples.paths is None else list(map(str, samples.paths)),
        texts=None if samples.rows is None else samples.rows.shown(),
        duplicates=near_duplicate_groups(samples, max_pixels=model.max_pixels) if find_duplicates else (),
        facts={
            "source": "new data",
            "folder": str(record.path),
            "method": model.method,
            "data": raw.name,
            "state": record.status["state"],
            "notes": list(raw.notes),
        },
    )
    return report, samples


def save(report: LabelReport, record: RunRecord, samples: Samples, folder: Path) -> None:
    """Write the report's files and its page."""
    report.save(folder)
    pictures = pictures_of(samples, max_pixels=record.config["data"].get("max_image_pixels"))
    write_report_page(report, record, folder / "report.html", picture_of=pictures)
