"""Launchers of a sweep's runs: child processes on this machine, or jobs of Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml

from acto.compare.sweep_jobs import Job
from acto.core.child_processes import NO_CURRENT_FOLDER, environment
from acto.core.errors import RunError, UserError
from acto.core.files import disk_errors, open_own, write_atomically
from acto.core.locks import FolderLock, is_locked
from acto.core.resources import usable_cores
from acto.core.settings import plain
from acto.core.signals import signal_name
from acto.run_folder.reading import MARK, RunRecord, last_checkpoint, read_run

FolderState = Literal["new", "finished", "in use", "resume", "redo", "foreign"]
CHILD = "import sys; from acto.cli import main; sys.exit(main())"
SHARED = {
    "cpus_per_task", "gpus_per_node", "mem_gb", "name", "nodes", "stderr_to_stdout", "tasks_per_node", "timeout_min",
}  # fmt: skip
"""Parameters that submitit takes for every kind of cluster; others are Slurm's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Files of a job."""

    out: Path
    name: str

    @property
    def folder(self) -> Path:
        """Return the run's folder."""
        return self.out / self.name

    @property
    def config(self) -> Path:
        """The resolved configuration that the run is started with."""
        return self.out / "configs" / f"{self.name}.yaml"

    @property
    def log(self) -> Path:
        """Return the file of what the run said, one session after the other."""
        return self.out / "logs" / f"{self.name}.log"

    @property
    def claim(self) -> Path:
        """Locked by the sweep that has taken the job."""
        return self.out / "locks" / f"{self.name}.lock"


def state_of(folder: Path) -> tuple[FolderState, RunRecord | None]:
    """Decide what is to be done about a run's folder, and return that with its record.

    new: nothing is there; resume: interrupted or killed, with a checkpoint; redo: failed, damaged, or killed before its
    first checkpoint; foreign: something else lies there.
    """
    try:
        empty = not folder.is_dir() or not any(folder.iterdir())
        if empty:
            return "new", None
        if not (folder / MARK).is_file():
            return "foreign", None
        if is_locked(folder / MARK):
            return "in use", None
        record = read_run(folder)
        state = record.status["state"]
        if state == "finished" and record.summary is not None:
            return "finished", record
        return ("redo" if state == "failed" or last_checkpoint(folder) is None else "resume"), record
    except (RunError, UserError):
        return "redo", None


def prepare(job: Job, place: Place) -> None:
    """Write what a run is started with."""
    with disk_errors(f"write {place.config}"):
        for path in (place.config, place.log):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place.config, yaml.safe_dump(plain(job.run.to_dict()), sort_keys=False).encode())


def command(place: Place, flags: tuple[str, ...]) -> list[str]:
    """The command that does the run, or goes on with it, as its folder demands now."""
    state, _ = state_of(place.folder)
    where = ["--resume", str(place.folder)] if state in ("resume", "finished") else ["--out", str(place.folder)]
    anew = ["--overwrite"] if state == "redo" else []
    return [
        sys.executable,
        "-P",
        "-c",
        CHILD,
        "train",
        "--config",
        str(place.config),
        *where,
        *anew,
        "--no-report",
        *flags,
    ]


class Handle(Protocol):
    """A run that was started."""

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None as long as it runs."""

    def stop(self) -> None:
        """Ask it to end, resumable."""


class Launcher(Protocol):
    """Starts runs."""

    def start(self, job: Job, place: Place) -> Handle:
        """Start one whose configuration has been written."""


Outcome = Literal["waiting", "running", "finished", "failed", "in use", "stopped"]


@dataclass(kw_only=True, slots=True)
class Item:
    """A job and how far it is."""

    job: Job
    place: Place
    outcome: Outcome = "waiting"
    before: bool = False
    """It was finished before this sweep began."""
    seconds: float | None = None
    """Seconds of training and evaluation."""
    wall: float | None = None
    """From its start to its end, where this sweep did all of it."""
    accuracy: float | None = None
    error: str = ""
    handle: Handle | None = None
    claim: FolderLock | None = None
    started: float = 0.0
    log_start: int = 0


class LocalLauncher:
    """Starts child processes of this one."""

    def __init__(self, jobs: int) -> None:
        # The children share the processor; who has set the variable knows better.
        self.environment = {"OMP_NUM_THREADS": str(max(1, usable_cores() // jobs)), **os.environ}

    def start(self, job: Job, place: Place) -> Handle:
        """Start a child in a session of its own: a Ctrl-C reaches it once, through its parent."""
        with disk_errors(f"write {place.log}"), open(place.log, "ab", opener=open_own) as log:
            return _Child(
                subprocess.Popen(
                    command(place, job.flags), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                    env=self.environment, start_new_session=True,
                )
            )  # fmt: skip


class _Child:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def poll(self) -> int | None:
        return self.process.poll()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)


class SlurmLauncher:
    """Submits jobs to Slurm through submitit."""

    def __init__(self, executor: Any) -> None:
        """Make one.

        Args:
            executor: of submitit, or anything with its `submit`.
        """
        self.executor = executor

    @classmethod
    def with_parameters(cls, folder: Path, parameters: Mapping[str, str]) -> SlurmLauncher:
        """Through submitit's AutoExecutor.

        Args:
            folder: for submitit's own files.
            parameters: of the jobs, by submitit's names: partition, timeout_min, gpus_per_node, ...

        Raises:
            UserError: submitit is not installed, there is no Slurm here, or a parameter cannot be used.
        """
        try:
            import submitit
        except ImportError as error:
            raise UserError('--slurm needs submitit: pip install "acto-lnl[slurm]"') from error
        try:
            executor = submitit.AutoExecutor(folder=str(folder), cluster="slurm")
            executor.update_parameters(
                **{
                    name if name in SHARED else f"slurm_{name}": int(value) if value.isdecimal() else value
                    for name, value in {"name": "acto", **parameters}.items()
                }
            )
        except (RuntimeError, NameError, TypeError, ValueError) as error:
            raise UserError(f"--slurm cannot be used: {error}") from error
        return cls(executor)

    def start(self, job: Job, place: Place) -> Handle:
        """Submit one."""
        with environment(NO_CURRENT_FOLDER):  # which Slurm hands on
            return _SlurmJob(self.executor.submit(SlurmTask(place, job.flags)))


class SlurmTask:
    """Work of a Slurm job. When its time is up submitit puts it into the queue again, and it goes on."""

    def __init__(self, place: Place, flags: tuple[str, ...]) -> None:
        self.place = place
        self.flags = flags

    def __call__(self) -> int:
        """Do the run, or go on with it, and return its exit code."""
        with open(self.place.log, "ab", opener=open_own) as log:
            return subprocess.call(
                command(self.place, self.flags), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def checkpoint(self) -> Any:
        """For submitit: what to do in the next job."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class _SlurmJob:
    def __init__(self, job: Any) -> None:
        self.job = job

    def poll(self) -> int | None:
        if not self.job.done():
            return None
        try:
            return int(self.job.result())
        except Exception:  # whatever ended the job; its log and Slurm's say more
            return 1

    def stop(self) -> None:
        self.job.cancel()


def last_words(log: Path, *, start: int, exit_code: int) -> str:
    """Return the reason for a failure: the last line of the log that begins with "error:", else the last line.

    Args:
        log: its file.
        start: where this session's part begins, in bytes.
        exit_code: negative for a signal.
    """
    if exit_code < 0:
        return f"killed by {signal_name(-exit_code)}"
    try:
        with open(log, "rb") as file:
            file.seek(start)
            lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    told = [line for line in lines if line.startswith("error: ")]
    return (told or lines or [f"exit code {exit_code}"])[-1].removeprefix("error: ")
