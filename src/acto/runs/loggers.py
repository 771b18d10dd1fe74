"""Logs of a run in TensorBoard, Weights & Biases or MLflow: metrics of the epochs, configuration, summary and reports.

acto.train_run(run, "runs/logged", log="tensorboard,mlflow")

FILE in the run's folder keeps which run of theirs it is and how many epochs they were told, so that a resumed run goes
on in the same one: what they missed is read from metrics.csv, and no epoch is told twice.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import yaml

from acto.core.errors import RunError, UserError, choose
from acto.core.files import write_atomically
from acto.core.settings import flatten, plain
from acto.run_folder.encoding import json_bytes
from acto.run_folder.reading import read_json, read_run
from acto.runs.events import EpochDone, Event, RunFinished, RunStarted

FILE = "loggers.json"
NONE = "none"
"""Said in the place of names: nothing is logged, whatever the run was begun with."""
ARTIFACTS = ("report.html", "label_report.csv", "config.yaml", "summary.json")
"""Files of a finished run that go along where the tool keeps files."""
_LONGEST_PARAM, _MOST_PARAMS = 6000, 100
"""Limits of MLflow."""

End = Literal["finished", "interrupted", "failed"]


class Logger(ABC):
    """A run in one tool. Every call may raise anything."""

    def __init__(self, started: RunStarted, kept: Mapping[str, Any]) -> None:
        """Begin the run there, or go on with the one of which FILE has `kept` the "id" and the number of "epochs"."""
        self.folder = Path(started.folder)
        self.config: dict[str, Any] = plain(started.run.to_dict())
        self.id: str | None = None
        self.is_new = True
        """It has not been told any epoch."""
        self.open(kept)

    @abstractmethod
    def open(self, kept: Mapping[str, Any]) -> None:
        """Set `id` and `is_new`, and tell the configuration."""

    @abstractmethod
    def where(self) -> str:
        """Say where the run is seen."""

    @abstractmethod
    def epoch(self, number: int, metrics: Mapping[str, float]) -> None:
        """Keep the numbers of an epoch, whose number is from 0."""

    @abstractmethod
    def summary(self, summary: Mapping[str, Any]) -> None:
        """Keep the results."""

    @abstractmethod
    def close(self, end: End, files: Sequence[Path]) -> None:
        """End, with the files to keep."""


class TensorBoard(Logger):
    """Scalars and texts in RUN/tensorboard. It knows no artefacts."""

    def open(self, kept: Mapping[str, Any]) -> None:
        """Begin a file of events; the first one gets the configuration."""
        from torch.utils.tensorboard import SummaryWriter

        place = self.folder / "tensorboard"
        self.is_new = not kept or not any(place.glob("events.out.*"))
        # Steps from there on, left by a process that was killed, are not shown.
        self._writer = SummaryWriter(str(place), purge_step=kept.get("epochs"))
        if self.is_new:
            text = yaml.safe_dump(self.config, sort_keys=False)
            self._writer.add_text("config", "".join(f"    {line}\n" for line in text.splitlines()))

    def where(self) -> str:
        """Name the command that shows it."""
        return f"`tensorboard --logdir {self.folder.parent}` shows it"

    def epoch(self, number: int, metrics: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, number)
        self._writer.flush()

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Add a table."""
        rows = "".join(f"| {name} | {value} |\n" for name, value in flatten(summary).items())
        self._writer.add_text("summary", f"| | |\n|---|---|\n{rows}", summary["epochs"])
        self._writer.flush()

    def close(self, end: End, files: Sequence[Path]) -> None:
        """Close the file."""
        self._writer.close()


class WeightsAndBiases(Logger):
    """A run of the project "acto" (WANDB_PROJECT), kept in RUN/wandb and sent nowhere unless WANDB_MODE says so."""

    def open(self, kept: Mapping[str, Any]) -> None:
        """Begin or resume the run, without its output and its questions."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when it is imported
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "acto"),
            name=os.environ.get("WANDB_NAME", self.folder.name),
            id=kept.get("id"),
            resume="allow",
            mode=os.environ.get("WANDB_MODE", "offline"),
            dir=os.environ.get("WANDB_DIR", str(self.folder)),
            config=self.config,
            reinit="create_new",  # one that the caller has is left alone
            settings=wandb.Settings(console="off", silent=True),
        )
        self.id, self.is_new = self._run.id, self._run.id != kept.get("id")

    def where(self) -> str:
        """Name the command that sends it, or its address."""
        if self._run.offline:
            return f"`wandb sync {self._run.settings.sync_dir}` sends it"
        return str(self._run.url or "WANDB_MODE leaves it out")

    def epoch(self, number: int, metrics: Mapping[str, float]) -> None:
        """Add a row to the history."""
        self._run.log({"epoch": number, **metrics}, step=number, commit=True)

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Add to the run's summary."""
        self._run.summary.update(plain(summary))

    def close(self, end: End, files: Sequence[Path]) -> None:
        """Keep the files as one artefact, and end the run."""
        if files:
            artifact = self._wandb.Artifact(f"labels-{self.id}", "label-report")
            # Copies of the files wait there to be sent; otherwise in the home directory.
            with _environment("WANDB_DATA_DIR", str(self.folder / "wandb")):
                for file in files:
                    artifact.add_file(str(file))
                self._run.log_artifact(artifact)
        self._run.finish(exit_code=0 if end == "finished" else 1)


class MLflow(Logger):
    """A run of the experiment "acto" (MLFLOW_EXPERIMENT_NAME), where MLFLOW_TRACKING_URI says, or in its default."""

    def open(self, kept: Mapping[str, Any]) -> None:
        """Begin the run with its parameters, or go on with it."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when it is imported
        import mlflow

        for name in ("mlflow", "alembic"):  # they tell of every table that they make
            logging.getLogger(name).setLevel(logging.WARNING)
        self._entities = mlflow.entities
        self._uri = str(mlflow.get_tracking_uri())
        self._client = mlflow.MlflowClient(self._uri)
        if "id" in kept:
            try:
                self.is_new = self._client.get_run(kept["id"]).info.lifecycle_stage != "active"
            except mlflow.exceptions.MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        if not self.is_new:
            self.id = kept["id"]
            self._client.update_run(self.id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "acto")
        experiment = self._client.get_experiment_by_name(name)
        number = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        self.id = self._client.create_run(number, run_name=self.folder.name).info.run_id
        params = [self._entities.Param(key, str(value)[:_LONGEST_PARAM]) for key, value in flatten(self.config).items()]
        for first in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(self.id, params=params[first : first + _MOST_PARAMS])
        self._client.set_tag(self.id, "acto.folder", str(self.folder))

    def where(self) -> str:
        """Name the run and its store."""
        place = "the server that MLFLOW_TRACKING_URI names" if "://" in self._uri and "@" in self._uri else self._uri
        return f"run {self.id} in {place}"

    def epoch(self, number: int, metrics: Mapping[str, float]) -> None:
        """Add a point to each metric."""
        self._tell(metrics, number)

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Add the numbers as metrics, under "summary."."""
        numbers = _numbers(flatten(summary))
        self._tell({f"summary.{name}": value for name, value in numbers.items()}, summary["epochs"])

    def _tell(self, metrics: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        entries = [self._entities.Metric(name, value, now, step) for name, value in metrics.items()]
        self._client.log_batch(self.id, metrics=entries)

    def close(self, end: End, files: Sequence[Path]) -> None:
        """Keep the files, and end the run."""
        for file in files:
            self._client.log_artifact(self.id, str(file))
        self._client.set_terminated(self.id, {"finished": "FINISHED", "interrupted": "KILLED"}.get(end, "FAILED"))


LOGGERS: dict[str, type[Logger]] = {"mlflow": MLflow, "tensorboard": TensorBoard, "wandb": WeightsAndBiases}
"""By the names of their packages, and of the extras that bring them."""


class RunLog:
    """A listener that tells a run to the tools that are named. Leave the context to end their runs.

    What goes wrong there is said once and ends that tool's log, not the training.
    """

    def __init__(self, names: str | Iterable[str], *, say: Callable[[str], None] | None = None) -> None:
        """Check the names and that their packages are there.

        Args:
            names: of LOGGERS, in one text with commas or in several; none at all: nothing is logged.
            say: told where the runs are seen, and what went wrong; None: it is printed on stderr.

        Raises:
            UserError: an unknown name, or a package that is missing; it names the extra that brings it.
        """
        self.names = logger_names(names)
        self._say = say or _print
        self._loggers: dict[str, Logger] = {}
        self._kept: dict[str, Any] = {}
        self._folder: Path | None = None
        self._is_finished = False

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        end: End = "failed" if isinstance(error, Exception) else "interrupted"
        if self._is_finished:  # even if its report was not written
            end = "finished"
        files = [path for name in ARTIFACTS if self._folder and (path := self._folder / name).is_file()]
        for name, logger in list(self._loggers.items()):
            with self._guarded(name):
                logger.close(end, files if end == "finished" else [])
        self._loggers.clear()

    def __call__(self, event: Event) -> None:
        """Tell one event; one that is not known is passed over."""
        match event:
            case RunStarted():
                self._start(event)
            case EpochDone():
                for name in list(self._loggers):
                    with self._guarded(name):
                        self._tell(name, [{"epoch": event.epoch, **event.metrics}])
            case RunFinished():
                self._is_finished = True
                for name, logger in list(self._loggers.items()):
                    with self._guarded(name):
                        logger.summary(event.summary)

    def _start(self, event: RunStarted) -> None:
        self._folder = Path(event.folder)
        try:
            self._kept = _read(self._folder)
        except RunError as error:
            self._say(f"{error.__cause__}: what is logged begins anew")
        for name in self.names:
            kept, where = self._kept.get(name, {}), ""
            with self._guarded(name):
                logger = self._loggers[name] = LOGGERS[name](event, kept)
                again = " anew, as the run of before is not there" if kept and logger.is_new else ""
                if logger.is_new:
                    kept = {"epochs": 0}
                self._kept[name] = kept | ({"id": logger.id} if logger.id is not None else {})
                self._tell(name, read_run(self._folder).metrics[: event.epochs_done])
                where = f"logged in {name}{again}: {logger.where()}"
            if where:
                self._say(where)

    def _tell(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Tell those of the rows of metrics.csv that the tool does not know, and keep that it does."""
        kept = self._kept[name]
        for row in rows:
            if row["epoch"] >= kept["epochs"]:
                metrics = _numbers({key: value for key, value in row.items() if key != "epoch"})
                self._loggers[name].epoch(row["epoch"], metrics)
                kept["epochs"] = row["epoch"] + 1
        assert self._folder is not None
        write_atomically(self._folder / FILE, json_bytes(self._kept))

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except Exception as error:
            self._loggers.pop(name, None)
            first = next(iter(str(error).splitlines()), "")
            self._say(
                f"logging in {name} failed and ends here, the training does not "
                f"({type(error).__name__}{f': {first}' if first else ''})"
            )


def logger_names(asked: str | Iterable[str]) -> tuple[str, ...]:
    """The names of LOGGERS in `asked`, each once; NONE alone gives none.

    Raises:
        UserError: an unknown name, NONE beside others, or a package that is missing; it names the extra.
    """
    texts = list(asked) if isinstance(asked, Iterable) and not isinstance(asked, str) else [asked]
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise UserError(f"log takes names of loggers ({', '.join(LOGGERS)}), not {wrong[0]!r}")
    names = tuple(dict.fromkeys(part.strip() for text in texts for part in text.split(",")))
    if names == (NONE,):
        return ()
    for name in names:
        if name == NONE:
            raise UserError("log none goes with no other name")
        choose("logger", name, [*LOGGERS, NONE])
    for name in names:
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # a folder of the same name is no package
            raise UserError(
                f'logging in {name} needs its package: pip install "acto-lnl[{name}]" '
                f'(in a clone: pip install ".[{name}]"); "none" goes on without'
            )
    return names


def begun_with(folder: Path | str) -> tuple[str, ...]:
    """The loggers that the run in `folder` was told to so far.

    Raises:
        RunError: FILE is damaged.
    """
    return tuple(name for name in _read(Path(folder)) if name in LOGGERS)


def _read(folder: Path) -> dict[str, Any]:
    try:
        found = read_json(folder / FILE, {name: {"epochs": int, "id": str} for name in LOGGERS}) or {}
        if lacking := [name for name in LOGGERS if name in found and "epochs" not in found[name]]:
            raise RunError(f"{folder / FILE} is damaged: {lacking[0]} has no number of epochs")
    except RunError as error:
        raise RunError(f"{error}; delete it, and logs begin anew (acto train --log NAME)") from error
    return found


def _print(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those of the values that a chart can show."""
    return {
        name: float(value) for name, value in values.items() if isinstance(value, int | float) and not math.isnan(value)
    }


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set a variable of the environment where it has no value, for the block."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
