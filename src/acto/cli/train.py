"""`acto train`: from a Run to its end: folder, data, cost beforehand, training, and what the user sees of it."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from acto.cli.audit import report_lines
from acto.cli.flags import parse
from acto.cli.progress import Reporter, summary_lines
from acto.core import distributed
from acto.core.device import resolve_device
from acto.core.errors import RunError, UserError
from acto.core.settings import merged, plain
from acto.core.text import aligned, bytes_in_words, counted, duration
from acto.data.samples import Dataset
from acto.data.sources import load_data
from acto.labels.run_audit import audit_at_the_end, training_data
from acto.run_folder.reading import held_out_before, last_checkpoint, read_run
from acto.run_folder.writing import RunFolder, default_run_name
from acto.runs.cost import Estimate, estimate
from acto.runs.events import Note
from acto.runs.execute import execute
from acto.runs.failures import Interrupted
from acto.runs.prepare import Prepared, prepare
from acto.runs.resolve import resolve, with_whole_paths
from acto.runs.run import Run

MAY_DIFFER = ("device", "step", "workers", "data.root", "data.cache")
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
    notes: tuple[str, ...] = ()
    """Notes for the user, said first."""


def start(run: Run, launch: Launch, *, dataset: Dataset | None = None) -> int:
    """Start a new run and return the exit code.

    Args:
        run: what to do.
        launch: how.
        dataset: what `run.data` stands for, where it has been read already.

    Raises:
        UserError: for data, settings or a folder that cannot be used; then nothing was written.
    """
    distributed.start(resolve_device(run.device))
    if launch.out is None and distributed.world() > 1:
        raise UserError("several processes need one folder: name it with --out")
    out = Path(launch.out or f"{launch.parent}/{Path(default_run_name(run.method, run.data.source)).name}")
    # The other processes would find what the first one has just made.
    new = distributed.rank() == 0 and not (launch.dry_run or launch.overwrite)
    if new and out.is_dir() and any(out.iterdir()):
        raise UserError(
            f"{out} is not empty; go on with --resume, start over with --overwrite, or choose another --out"
        )
    with Reporter(silent=distributed.rank() > 0) as reporter:
        for text in launch.notes:
            reporter(Note(text=text))
        if launch.dry_run and run.data.cache is not None:
            reporter(Note(text="a dry run fills no cache: the times are those of decoding in every epoch"))
            run = run.without_cache()
        prepared = _prepare(run, launch, reporter, dataset=dataset)
        if launch.dry_run:
            try:
                print("\n".join(cost_lines(estimate(prepared), out)))
            finally:
                prepared.close()
            return 0
        with _first_only(lambda: RunFolder.create(out, config=run.to_dict(), overwrite=launch.overwrite)) as folder:
            return _execute(prepared, folder or out, reporter, launch)


def resume(path: str, run: Run, launch: Launch) -> int:
    """Go on with the run in the folder `path`, which must have been begun as `run`, and return the exit code.

    A finished run is left as it is; a report that it lacks, because its end was interrupted, is written.

    Raises:
        UserError: the folder is no run's, or in use; or its settings, other than MAY_DIFFER, are not those of `run`.
    """
    if launch.overwrite or launch.dry_run or launch.out not in (None, path):
        raise UserError("--resume goes on with a run in its own folder: leave --out, --overwrite and --dry-run away")
    distributed.start(resolve_device(run.device))
    record = read_run(path)
    # Data that moved are looked at before their place is written down.
    as_begun = replace(run, data=replace(run.data, source=record.config.get("data", {}).get("source", run.data.source)))
    with (
        _first_only(lambda: RunFolder.open(path, config=as_begun.to_dict(), may_differ=MAY_DIFFER)) as folder,
        Reporter(silent=distributed.rank() > 0) as reporter,
    ):
        summary = record.summary
        if record.status["state"] == "finished" and summary is not None:
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
    run: Run, launch: Launch, reporter: Reporter, *, dataset: Dataset | None = None, folder: Path | None = None
) -> Prepared:
    if dataset is None:
        reporter.say(f"reading {run.data.source}")
        held_out = None if folder is None else held_out_before(folder)
        dataset = load_data(run.data, data_root=run.data.root, download=launch.download, held_out=held_out)
    try:
        return prepare(run, dataset=dataset, folder=folder, say=reporter.say)
    except UserError as error:
        if run.weights == "torchvision" and "weights" in str(error):
            raise UserError(f"{error}. Or start from random weights: --weights none") from error
        raise


def _execute(prepared: Prepared, folder: RunFolder | Path, reporter: Reporter, launch: Launch) -> int:
    path = str(folder.path if isinstance(folder, RunFolder) else folder)
    try:
        summary = execute(prepared, folder, report=reporter)
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
        elif not launch.json:
            print(f"look next at samples.csv there, or let `acto audit {path}` do it")
    return 0


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


def cost_lines(cost: Estimate, out: Path) -> list[str]:
    """Format the cost of a run in words."""
    phases = [
        (
            phase.name,
            counted(phase.epochs, "epoch"),
            f"{counted(phase.steps, 'step')} an epoch",
            f"{phase.seconds_per_step:.3g} s a step",
            f"{duration(phase.seconds_per_epoch)} an epoch",
        )
        for phase in cost.phases
    ]
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    return [
        *aligned(phases),
        f"evaluation: {counted(cost.evaluations, 'time')} {duration(cost.evaluation_seconds)}",
        f"in all: {duration(cost.seconds)}",
        f"memory: {'unknown' if cost.memory_bytes is None else bytes_in_words(cost.memory_bytes)} at the most so far",
        f"disk: {bytes_in_words(cost.checkpoint_bytes)} a checkpoint, of which two are kept; "
        f"{bytes_in_words(shutil.disk_usage(there).free)} are free at {there}",
        "nothing was written",
    ]


def train(tokens: Sequence[str]) -> int:
    """The command `acto train`; returns the exit code.

    Raises:
        UserError: for anything that was asked for and cannot be done.
    """
    asked = parse(tokens)
    how = {name: asked.actions[name] for name in asked.actions.keys() & {f.name for f in fields(Launch)}}
    launch = Launch(**how, report="no_report" not in asked.actions)
    dataset = None
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
        run, dataset = resolve(asked.settings, trust_net=asked.net_was_typed, download=launch.download)
    if asked.actions.get("print_config"):
        print(yaml.safe_dump(plain(run.to_dict()), sort_keys=False), end="")
        return 0
    return resume(asked.actions["resume"], run, launch) if asked.saved else start(run, launch, dataset=dataset)
