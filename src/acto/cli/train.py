"""`acto train`: from a Run to its end: folder, data, cost beforehand, training, and what the user sees of it."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from acto.cli.audit import report_lines
from acto.cli.budget import Budget
from acto.cli.cost import cost_lines, proposals
from acto.cli.flags import ask_for_data, parse
from acto.cli.progress import Reporter, summary_lines
from acto.core import distributed
from acto.core.device import resolve_device
from acto.core.errors import RunError, UserError
from acto.core.settings import merged, plain
from acto.core.text import counted
from acto.data.samples import Dataset
from acto.data.sources import load_data
from acto.labels.run_audit import audit_at_the_end, training_data
from acto.run_folder.config import notes_on_config
from acto.run_folder.reading import held_out_before, last_checkpoint, read_run
from acto.run_folder.writing import RunFolder, default_run_name
from acto.runs.cost import estimate
from acto.runs.events import Note
from acto.runs.execute import execute
from acto.runs.failures import Interrupted
from acto.runs.loggers import RunLog, begun_with, logger_names
from acto.runs.prepare import Prepared, prepare
from acto.runs.resolve import resolve, with_whole_paths
from acto.runs.run import Run

MAY_DIFFER = ("device", "step", "workers", "data.root")
"""Settings that a resumed run may change: where it runs, not what it computes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """Choices of how a run is started."""

    out: str | None = None
    """Its folder; None: a new one under `parent`."""
    parent: str = "runs"
    overwrite: bool = False
    """Delete what the folder holds."""
    dry_run: bool = False
    """Print what the run will cost and write nothing."""
    download: bool = False
    """Data may be fetched."""
    json: bool = False
    """Print the summary as JSON."""
    report: bool = True
    """At the end, write the report on the labels."""
    minutes: Budget | None = None
    """Time that the run may take."""
    log: tuple[str, ...] = ()
    """Loggers that are told, of acto.runs.loggers."""
    notes: tuple[str, ...] = ()
    """Notes for the user, said first."""


def start(
    run: Run,
    launch: Launch,
    *,
    dataset: Dataset | None = None,
    lasting: Callable[[int, Dataset], Run] | None = None,
) -> int:
    """Start a new run and return the exit code.

    Args:
        run: what to do.
        launch: how.
        dataset: what `run.data` stands for, where it has been read already.
        lasting: gives the same run with another number of epochs, for a budget of minutes.

    Raises:
        UserError: for data, settings or a folder that cannot be used; then nothing was written.
    """
    distributed.start(resolve_device(run.device))
    if launch.out is None and distributed.world() > 1:
        raise UserError("several processes need one folder: name it with --out")
    if launch.minutes is not None and distributed.world() > 1:
        raise UserError("--minutes is for one process")
    out = Path(launch.out or f"{launch.parent}/{Path(default_run_name(run.method, run.data.source)).name}")
    if distributed.rank() == 0:  # the others would find what the first one has just made
        _refuse_full(out, launch)
    with Reporter(silent=distributed.rank() > 0) as reporter:
        for text in launch.notes:
            reporter(Note(text=text))
        prepared = _prepare(run, launch, reporter, dataset=dataset)
        if launch.dry_run:
            try:
                print("\n".join(cost_lines(prepared, out, launch.minutes)))
            finally:
                prepared.close()
            return 0
        if launch.minutes is not None and lasting is not None:
            run, prepared = _fitting(prepared, launch.minutes, launch, reporter, lasting)
        with _first_only(lambda: RunFolder.create(out, config=run.to_dict(), overwrite=launch.overwrite)) as folder:
            return _execute(prepared, folder or out, reporter, launch)


def _refuse_full(out: Path, launch: Launch) -> None:
    if not (launch.dry_run or launch.overwrite) and out.is_dir() and any(out.iterdir()):
        raise UserError(
            f"{out} is not empty; go on with --resume, start over with --overwrite, or choose another --out"
        )


def resume(path: str, run: Run, launch: Launch) -> int:
    """Go on with the run in the folder `path`, which must have been begun as `run`, and return the exit code.

    A finished run is left as it is; a report that it lacks, because its end was interrupted, is written.

    Raises:
        UserError: the folder is no run's, or in use; or its settings, other than MAY_DIFFER, are not those of `run`.
    """
    if launch.overwrite or launch.dry_run or launch.out not in (None, path):
        raise UserError("--resume goes on with a run in its own folder: leave --out, --overwrite and --dry-run away")
    distributed.start(resolve_device(run.device))
    record, notes = read_run(path), notes_on_config(Path(path))
    # Data that moved are looked at before their place is written down.
    as_begun = replace(run, data=replace(run.data, source=record.config.get("data", {}).get("source", run.data.source)))
    with (
        _first_only(lambda: RunFolder.open(path, config=as_begun.to_dict(), may_differ=MAY_DIFFER)) as folder,
        Reporter(silent=distributed.rank() > 0) as reporter,
    ):
        for text in notes:
            reporter(Note(text=text))
        summary = record.summary
        if record.status["state"] == "finished" and summary is not None and not summary.get("left_away"):
            if folder is not None:
                folder.set_status("finished", epoch=record.status["epoch"])
            if folder is not None and run != as_begun:
                record = replace(record, config=plain(run.to_dict()))
                training_data(record, data_root=run.data.root)
                folder.write_config(record.config)
            reporter.say(f"the run in {path} is finished: there is nothing to go on with")
            _show(summary, path, launch)
            if launch.report and folder is not None and not (Path(path) / "report.html").exists():
                _look_through_labels(path, training_data(record, data_root=run.data.root), reporter, launch)
            return 0
        prepared = _prepare(run, launch, reporter, folder=Path(path))
        if folder is not None and run != as_begun:
            folder.write_config(run.to_dict())
        return _execute(prepared, folder or Path(path), reporter, launch)


def _first_only(make: Callable[[], RunFolder]) -> AbstractContextManager[RunFolder | None]:
    """The folder in the process that writes it, None in the others."""
    return make() if distributed.rank() == 0 else nullcontext()


def _prepare(
    run: Run,
    launch: Launch,
    reporter: Reporter,
    *,
    dataset: Dataset | None = None,
    folder: Path | None = None,
    again: bool = False,
) -> Prepared:
    if dataset is None:
        reporter.say(f"reading {run.data.source}")
        held_out = None if folder is None else held_out_before(folder)
        dataset = load_data(run.data, data_root=run.data.root, download=launch.download, held_out=held_out)
    try:
        return prepare(
            run, dataset=dataset, folder=folder, say=(lambda text: None) if again else reporter.say,
            tell=reporter.looked, fetch_weights=launch.download, only_measure=launch.dry_run,
        )  # fmt: skip
    except UserError as error:
        if run.weights == "torchvision" and "weights" in str(error):
            raise UserError(f"{error}. Or start from random weights: --weights none") from error
        raise


def _execute(prepared: Prepared, folder: RunFolder | Path, reporter: Reporter, launch: Launch) -> int:
    with RunLog(launch.log, say=lambda text: reporter(Note(text=text))) as log:
        return _executed(prepared, folder, reporter, log, launch)


def _executed(prepared: Prepared, folder: RunFolder | Path, reporter: Reporter, log: RunLog, launch: Launch) -> int:
    path = str(folder.path if isinstance(folder, RunFolder) else folder)
    try:
        summary = execute(prepared, folder, report=[reporter, log], **_end(launch))
    except Interrupted as stop:
        reporter.say(f"{stop}; go on with: {_resume_command(path)}")
        return stop.exit_code
    except Exception:
        if isinstance(folder, RunFolder):
            _say_what_is_kept(path, reporter)
        raise
    finally:
        distributed.stop()
    if isinstance(folder, RunFolder):
        _show(summary, path, launch)
        if launch.report:
            _look_through_labels(path, prepared.dataset, reporter, launch)
        if left := summary.get("left_away"):
            reporter.say(
                f"the minutes are over: {counted(left, 'epoch')} of {prepared.run.protocol.epochs} left away; model "
                f"and report are those of the others. Go on with: {_resume_command(path)}"
            )
        if not launch.report and not launch.json:
            print(f"look next at samples.csv there, or let `acto audit {path}` do it")
    return 0


def _end(launch: Launch) -> dict[str, Any]:
    return {} if launch.minutes is None else {"is_over": launch.minutes.is_over}


def _fitting(
    prepared: Prepared, budget: Budget, launch: Launch, reporter: Reporter, lasting: Callable[[int, Dataset], Run]
) -> tuple[Run, Prepared]:
    """The run with as many epochs as the budget allows, by a few steps of it."""
    run, dataset = prepared.run, prepared.dataset
    begun = prepared.training.epochs_done
    reporter.say("measuring a few steps")
    try:
        epochs = begun + budget.epochs(estimate(prepared))
    finally:
        prepared.close()
    if epochs < run.protocol.epochs:
        reporter(
            Note(
                text=f"{counted(epochs, 'epoch')} of {run.protocol.epochs} fit into {budget.minutes:g} minutes; "
                "warm-up and learning rates are those of a run of that length"
            )
        )
        run = lasting(epochs, dataset)
    # Measuring has trained the networks; what is to be said of them was said.
    return run, _prepare(run, launch, reporter, dataset=dataset, again=True)


def _look_through_labels(path: str, dataset: Dataset, reporter: Reporter, launch: Launch) -> None:
    """Write the report on the labels of a finished run."""
    reporter.say("looking through the labels")
    try:
        report = audit_at_the_end(path, dataset)
    except BaseException:
        reporter.say(f"training is finished and saved; only the report is missing: acto audit {shlex.quote(path)}")
        raise
    if not launch.json:
        print("\n".join(report_lines(report, Path(path))))


def _say_what_is_kept(path: str, reporter: Reporter) -> None:
    """After a failure: how far the run had come, and the command that goes on from there."""
    try:
        saved = last_checkpoint(path)
    except RunError:  # the failure itself, which says what to do
        return
    if saved is not None and saved.epoch >= 0:
        reporter.say(f"kept up to the end of epoch {saved.epoch}; go on with: {_resume_command(path)}")
    else:
        reporter.say(f"no epoch was finished, so there is nothing to keep; begin again with: {_resume_command(path)}")


def _resume_command(path: str) -> str:
    return f"acto train --resume {shlex.quote(path)}"


def _show(summary: Mapping[str, Any], path: str, launch: Launch) -> None:
    """The results on stdout."""
    if launch.json:
        finite = {key: None if value != value else value for key, value in summary.items()}
        print(json.dumps({**finite, "folder": path}))
    else:
        print("\n".join(summary_lines(summary, path)))


def train(tokens: Sequence[str]) -> int:
    """The command `acto train`; returns the exit code.

    Raises:
        UserError: for anything that was asked for and cannot be done.
    """
    asked = parse(tokens)
    how = {name: asked.actions[name] for name in asked.actions.keys() & {f.name for f in fields(Launch)}}
    if "minutes" in how:
        how["minutes"] = Budget(how["minutes"])
    how["log"] = logger_names(
        how["log"] if "log" in how else begun_with(asked.actions["resume"]) if asked.saved else ()
    )
    launch = Launch(**how, report="no_report" not in asked.actions)
    dataset = lasting = None
    if asked.saved:
        before = asked.saved.get("method")
        if (method := asked.settings.get("method", before)) != before:
            raise UserError(
                f"the run in {asked.actions['resume']} was begun with method {before!r}, not {method!r}: resume it "
                "with its own, or start a new run with another --out"
            )
        settings = merged(asked.saved, with_whole_paths(asked.settings))
        run = Run.from_dict(settings, trust_net=asked.net_was_typed)
    else:
        resolve_device(str(asked.settings.get("device", "auto")))  # before data are read
        if launch.out is not None and int(os.environ.get("WORLD_SIZE", "1")) == 1:
            _refuse_full(Path(launch.out), launch)
        resolved = partial(resolve, trust_net=asked.net_was_typed, download=launch.download)
        if "print_config" not in asked.actions and not asked.names_data:
            resolved(asked.settings)  # whatever else is wrong is said first
            asked.settings.setdefault("data", {})["source"] = ask_for_data(sys.stdin, sys.stderr)
        run, dataset = resolved(asked.settings)
        if dataset is not None and "features" not in asked.settings:
            launch = replace(launch, notes=tuple(proposals(run, dataset)))

        def lasting(epochs: int, dataset: Dataset) -> Run:
            return resolved(merged(asked.settings, {"protocol": {"epochs": epochs}}), dataset=dataset)[0]

    if asked.actions.get("print_config"):
        print(yaml.safe_dump(plain(run.to_dict()), sort_keys=False), end="")
        return 0
    return (
        resume(asked.actions["resume"], run, launch)
        if asked.saved
        else start(run, launch, dataset=dataset, lasting=lasting)
    )
