"""Training into a folder: from the last checkpoint to the results, and what is told and kept on the way."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from acto.core import distributed
from acto.core.device import device_in_words
from acto.core.errors import RunError, UserError
from acto.core.types import Clock
from acto.data.decision_file import BEFORE_FILE, to_csv
from acto.data.noise import sha256_of_labels
from acto.data.samples import Dataset
from acto.data.tables.encoding import ENCODING_FILE
from acto.nets.weights import read_state
from acto.run_folder.checkpoints import BEST, Checkpoint
from acto.run_folder.config import as_reloaded
from acto.run_folder.encoding import array_bytes, json_bytes
from acto.run_folder.reading import (
    HELD_OUT,
    HELD_OUT_PREDICTIONS,
    HELD_OUT_PROBS,
    OUTLIER,
    RunState,
    held_out_before,
    last_checkpoint,
    read_run,
)
from acto.run_folder.writing import RunFolder
from acto.runs import calibration
from acto.runs.events import EpochDone, Listener, Listeners, Note, RunFinished, RunStarted, StepDone, tell_all
from acto.runs.failures import Interrupted, Stop, signals_raise
from acto.runs.frozen.front import FEATURES_FILE
from acto.runs.loggers import RunLog, begun_with
from acto.runs.prepare import Prepared, explained, prepare
from acto.runs.run import Run
from acto.runs.same_data import CHECKS_FILE, digest_of, refuse_foreign_checkpoint
from acto.runs.sample_table import label_quality, sample_table
from acto.training import evaluation
from acto.training.loop import EpochLog, Training, run_epochs
from acto.training.step_modes import step_taken

PACKAGES = ("torch", "torchvision", "numpy", "pillow")
"""Packages whose versions a run's record keeps, beside Python's."""
STARVED_SHARE = 0.01
"""A class of whose samples an epoch selects a smaller share than this is reported."""
FEW_SELECTED = 0.25
"""Share of all samples: where an epoch selects less, the method's advice is added."""


def execute(
    prepared: Prepared,
    folder: RunFolder | Path,
    *,
    report: Listeners = (),
    is_over: Callable[[float], bool] = lambda seconds: False,
) -> dict[str, Any]:
    """Train into `folder`, from its last checkpoint if it has one, and return the summary.

    A signal (SIGINT, SIGTERM) or an error leaves the last checkpoint and says so in the folder's status.

    Args:
        prepared: what to train; used up.
        folder: in processes other than the first only its path: they write nothing, and the summary is empty.
        report: listeners, told what happens in the first process, see acto.runs.events.
        is_over: asked after each epoch, with the seconds that it took, whether to leave the others away. The run is
            finished then, and a resumed one goes on to its last epoch. For one process.

    Raises:
        acto.runs.failures.Interrupted: after a signal.
        UserError: for labels that are not those that the run was begun with.
        acto.core.errors.RunError: if the disk refuses, memory runs out, or another process of the run ends.
        acto.training.divergence.DivergedError: if loss or weights are no longer finite.
    """
    try:
        with signals_raise() as stop, explained(prepared.run, prepared):
            if isinstance(folder, Path):
                return _follow(prepared, folder, stop)
            summary = _train(prepared, folder, tell_all(report), stop, is_over)
    except BaseException as error:
        if isinstance(folder, RunFolder):
            state: RunState = "interrupted" if isinstance(error, (Interrupted, KeyboardInterrupt)) else "failed"
            done = prepared.training.epochs_done
            # On a full disk the status cannot be written either. What has happened is the better message.
            with suppress(RunError):
                folder.set_status(state, epoch=done - 1 if done else None, message=str(error) or type(error).__name__)
        raise
    finally:
        prepared.close()
    folder.set_status("finished", epoch=prepared.training.epochs_done - 1)
    return summary


def train_run(
    run: Run,
    folder: Path | str,
    *,
    dataset: Dataset | None = None,
    resume: bool = False,
    overwrite: bool = False,
    report: Listeners = (),
    log: str | Sequence[str] | None = None,
) -> dict[str, Any]:
    """Train `run` into `folder` and return the summary: what `acto train` does, without its words.

    Args:
        run: what to train.
        folder: where the record goes; read it with `acto.read_run`.
        dataset: what `run.data` stands for, where it has been read already.
        resume: go on from the last checkpoint in `folder`, which must be of the same run.
        overwrite: delete a run that is in `folder`.
        report: a listener, or a sequence of them, told what happens, see acto.runs.events.
        log: names of tools that are told, see acto.runs.loggers; None: those that a resumed run was begun with.

    Raises:
        UserError: data, settings or folder cannot be used; then nothing was written.
        acto.runs.failures.Interrupted: after a signal; `resume` goes on.
        acto.core.errors.RunError: the disk refuses, memory runs out, or another process of the run ends.
        acto.training.divergence.DivergedError: loss or weights are no longer finite.
    """
    if not isinstance(run, Run):
        raise UserError(f"train_run takes a Run, not {type(run).__name__}: acto.fit trains on data in memory")
    if not isinstance(folder, str | Path):
        raise UserError(f"train_run needs the folder that the run is written to, not {type(folder).__name__}")
    if resume and overwrite:
        raise UserError("resume goes on with the run that overwrite deletes: leave one of them away")
    tell = tell_all(report)
    names = log if log is not None else begun_with(folder) if resume else ()
    run_log = RunLog(names, say=(lambda text: tell(Note(text=text))) if report else None)
    prepared = prepare(
        run,
        dataset=dataset,
        folder=Path(folder) if resume else None,
        say=lambda text: tell(Note(text=text)),
    )
    config = run.to_dict()
    opened = (
        RunFolder.open(folder, config=config)
        if resume
        else RunFolder.create(folder, config=config, overwrite=overwrite)
    )
    with opened, run_log:
        return execute(prepared, opened, report=[tell, run_log])


def _follow(prepared: Prepared, path: Path, stop: Stop) -> dict[str, Any]:
    """Train along with the first process."""
    _restore(prepared.training, last_checkpoint(path))

    def tick(clock: Clock) -> None:
        stop.check()

    for log in run_epochs(prepared.training, prepared.train_data, seed=prepared.run.seed, tick=tick):
        prepared.training.judge(log.epoch)
    return {}


def _train(
    prepared: Prepared, folder: RunFolder, tell: Listener, stop: Stop, is_over: Callable[[float], bool]
) -> dict[str, Any]:
    run, dataset, training = prepared.run, prepared.dataset, prepared.training
    device = device_in_words(training.device)
    start = folder.last_checkpoint()
    config = as_reloaded(run.to_dict())
    digest = digest_of(prepared.checks, dataset.class_names)
    made_by = {"config": config, "data": digest}
    refuse_foreign_checkpoint(start, config=config, digest=digest, folder=folder.path)
    if start is None and dataset.decisions:
        folder.save_model(BEFORE_FILE, to_csv(dataset.decisions))
    if start is None and prepared.warm_start is not None:
        prepared.warm_start.begin(folder)
        # Saved, so that a resumed run needs nothing of the run before.
        folder.save_checkpoint(training.epochs_done - 1, {"training.pt": checkpoint(training)}, run=made_by)
    _restore(training, start)
    if dataset.encoding is not None and not (folder.path / ENCODING_FILE).exists():
        folder.save_model(ENCODING_FILE, dataset.encoding.to_bytes())
    if prepared.front is not None and not (folder.path / FEATURES_FILE).exists():
        folder.save_model(FEATURES_FILE, prepared.front.to_bytes())
    lost = folder.truncate_after(training.epochs_done - 1)
    if dataset.test_labels_are_given and held_out_before(folder.path) is None:
        folder.save_model(HELD_OUT, json_bytes({"ids": list(dataset.held_out)}))
    folder.save_labels(dataset.train.labels, facts=dataset.noise, class_names=dataset.class_names, notes=dataset.notes)
    if not (folder.path / CHECKS_FILE).exists():
        folder.save_model(CHECKS_FILE, array_bytes(prepared.checks))
    versions = {package: version(package) for package in PACKAGES}
    folder.add_session(
        versions=versions,
        device=device,
        threads=torch.get_num_threads(),
        step=step_taken(training.method, training.recorder),
    )
    for text in (*dataset.notes, *([start.note] if start is not None and start.note else [])):
        tell(Note(text=text))
    if lost:
        first, last = training.epochs_done, training.epochs_done + lost - 1
        tell(Note(text=f"epochs {first} to {last} left no good checkpoint and are done again"))
    if prepared.warm_start is not None:
        tell(Note(text=prepared.warm_start.in_words()))
    tell(
        RunStarted(
            run=run,
            device=device,
            precision=str(training.precision).removeprefix("torch."),
            data=dataset.name,
            num_train=len(dataset.train),
            num_test=len(dataset.test),
            num_classes=dataset.num_classes,
            test_labels_are_given=dataset.test_labels_are_given,
            noise=dataset.noise,
            epochs_done=training.epochs_done,
            folder=str(folder.path),
        )
    )
    starved: set[int] = set()
    best = start.read(BEST) if start is not None and BEST in start.files else None

    def tick(clock: Clock) -> None:
        stop.check()
        tell(StepDone(epoch=clock.epoch, turn=clock.turn, step=clock.step, steps=clock.steps))

    for log in run_epochs(training, prepared.train_data, seed=run.seed, tick=tick):
        started = time.monotonic()
        row = _metrics(prepared, log)
        is_best = training.judge(log.epoch, row["test_accuracy"])
        if training.early_end is not None:
            row["smoothed_accuracy"] = training.early_end.smoothed
        timing = {
            "train_seconds": log.seconds,
            "eval_seconds": time.monotonic() - started,
            "images_per_second": len(dataset.train) / log.seconds,
        }
        folder.add_metrics(log.epoch, row)
        folder.add_timing(log.epoch, timing)
        saved = checkpoint(training)
        best = saved if is_best else best
        folder.save_checkpoint(log.epoch, {"training.pt": saved, **({} if best is None else {BEST: best})}, run=made_by)
        folder.set_status("running", epoch=log.epoch)
        for text in _starving(prepared, starved):
            tell(Note(text=text))
        tell(EpochDone(epoch=log.epoch, metrics=row, seconds=timing["train_seconds"] + timing["eval_seconds"]))
        if is_over(timing["train_seconds"] + timing["eval_seconds"]):
            break
    if best is not None:
        training.take_back(read_state(best, BEST))
    summary = _finish(prepared, folder)
    tell(RunFinished(summary=summary))
    return summary


def _restore(training: Training, saved: Checkpoint | None) -> None:
    if saved is not None:
        training.load_state_dict(read_state(saved.read("training.pt"), str(saved.path("training.pt"))))
    distributed.require_same(training.epochs_done, "the number of epochs done", device=training.device)


def _metrics(prepared: Prepared, log: EpochLog) -> dict[str, Any]:
    """The epoch's row of metrics.csv. Nothing in it depends on the clock."""
    run, training, samples = prepared.run, prepared.training, prepared.dataset.train
    row: dict[str, Any] = dict(log.metrics)
    if run.evaluates(log.epoch):
        scores = evaluation.accuracy(training, prepared.test_data)
    else:
        scores = dict.fromkeys(evaluation.prediction_names(training, prepared.test_data), math.nan)
    for place, (name, value) in enumerate(scores.items()):
        row["test_accuracy" if place == 0 else f"test_accuracy_{name}"] = value
    clean, known = samples.is_clean, samples.is_known
    if bool((training.history.selectable > 0).any()):
        selected = training.history.selected_now.cpu().numpy()
        row["selected_share"] = float(selected.mean())
        if clean is not None and known is not None:
            row |= evaluation.selection_scores(selected[known], clean[known])
    if clean is not None and known is not None:
        row["label_quality_auroc"] = evaluation.auroc(label_quality(training)[known], clean[known])
    return row


def _starving(prepared: Prepared, known: set[int]) -> Iterator[str]:
    """A sentence on the classes of which hardly any sample was selected, if there are any beside the `known` ones."""
    history = prepared.training.history
    if not bool((history.selectable > 0).any()):
        return
    labels, selected = prepared.dataset.train.labels, history.selected_now.cpu().numpy()
    num_classes = prepared.dataset.num_classes
    sizes = np.bincount(labels, minlength=num_classes)
    chosen = np.bincount(labels[selected], minlength=num_classes)
    new = [int(k) for k in np.flatnonzero((chosen < STARVED_SHARE * sizes) & (sizes > 0)) if int(k) not in known]
    known.update(new)
    if new:
        shown = ", ".join(f"{prepared.dataset.class_names[k]!r} ({chosen[k]} of {sizes[k]})" for k in new[:5])
        more = f" and {len(new) - 5} more" if len(new) > 5 else ""
        advice = prepared.training.method.few_selected() if selected.mean() < FEW_SELECTED else ""
        yield (
            "hardly any sample of these classes was selected in this epoch, so they starve: "
            f"{shown}{more}{advice and '; '}{advice}"
        )


def _finish(prepared: Prepared, folder: RunFolder) -> dict[str, Any]:
    """Write the per-sample table, the weights and the summary."""
    run, dataset, training = prepared.run, prepared.dataset, prepared.training
    samples = dataset.train
    # A real test set is not even looked at here.
    test_data = prepared.test_data if dataset.test_labels_are_given else None
    table = sample_table(training, prepared.train_data, dataset, held_out=test_data)
    folder.save_samples(table.columns)
    folder.save_probs(table.probs)
    folder.save_model(OUTLIER, array_bytes(table.outlier))
    # All that is needed to use the weights lies in the same file, under one key: safetensors writes several keys in an
    # order that differs from process to process, and equal runs shall give equal files.
    views = prepared.front.vectors if prepared.front is not None else dataset.views
    assert views is not None, "a front that is made has a scale"
    facts = {
        "net": run.net,
        "method": run.method,
        "headline": training.method.headline_weights(),
        "input_shape": prepared.train_data.input_shape,
        "class_names": dataset.class_names,
        "views": asdict(views),
        **({} if prepared.front is None else {"features": run.features}),
    }
    for number, net in enumerate(training.method.nets):
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
        folder.save_model(f"net{number}.safetensors", safetensors.torch.save(weights, {"acto": json.dumps(facts)}))
    held_out = None
    if table.held_out is not None:
        held_out = table.held_out.probs, dataset.test.labels
        folder.save_model(HELD_OUT_PROBS, array_bytes(table.held_out.probs))
        folder.save_model(HELD_OUT_PREDICTIONS, array_bytes(table.held_out.predicted))
    folder.save_model(calibration.CALIBRATION_FILE, calibration.calibrate(held_out).to_json())
    metrics: list[dict[str, Any]] = read_run(folder.path).metrics
    early = _early_end(prepared)
    if early:
        metrics = metrics[: early["epoch"] + 1]  # what came after it is not in the model
    # The rows of a run before this one, measured on its test set, are no result of this one.
    first = prepared.warm_start.epochs if prepared.warm_start is not None else 0
    accuracies = [row["test_accuracy"] for row in metrics if row["epoch"] >= first]
    if early:  # the last ten epochs of all are always measured, not those before the chosen one
        accuracies = [accuracy for accuracy in accuracies if not math.isnan(accuracy)]
    last = metrics[-1]
    summary: dict[str, Any] = {
        "method": run.method,
        "data": dataset.name,
        "noise": dataset.noise,
        "seed": run.seed,
        "epochs": len(metrics) if early else training.epochs_done,
        "test_accuracy_last10": evaluation.last_epochs_mean(accuracies),
        "test_accuracy_last": accuracies[-1],
        "test_accuracy_best_oracle": max(a for a in accuracies if not math.isnan(a)),
        "test_labels_are_given": dataset.test_labels_are_given,
        **{name: last[name] for name in sorted(last) if name.startswith(("selection_", "label_quality_"))},
        "mining_open": last.get("mining_open"),
        "num_train": len(samples),
        "num_test": len(dataset.test),
        "labels_sha256": sha256_of_labels(samples.labels),
        **({"early_end": early} if early else {}),
        **({"left_away": left} if (left := _left_away(training)) else {}),
    }
    folder.save_summary(summary)
    return summary


def _left_away(training: Training) -> int:
    """Count the epochs that were asked for and not done, where no early end has chosen so."""
    is_chosen = training.early_end is not None and training.early_end.is_due(training.epochs_done)
    return 0 if is_chosen else training.protocol.epochs - training.epochs_done


def _early_end(prepared: Prepared) -> dict[str, Any]:
    """Facts of the epoch whose model is kept, for the summary; empty if it is the last one because nobody chose."""
    training = prepared.training
    if training.early_end is None or training.early_end.best_epoch is None:
        return {}
    return {
        "epoch": training.early_end.best_epoch,
        "accuracy": training.early_end.best,
        "num_held_out": len(prepared.dataset.test),
        "patience": training.early_end.patience,
        "epochs_done": training.epochs_done,
        "epochs_asked": training.protocol.epochs,
    }


def checkpoint(training: Training) -> bytes:
    """Return the content of a checkpoint's file."""
    buffer = io.BytesIO()
    torch.save(training.state_dict(), buffer)
    return buffer.getvalue()
