"""A run's folder: what a run was asked, what it did, and how it goes on after an interruption.

    config.yaml        the resolved configuration; `acto train` takes it as it is
    env.json           versions, device, command line and git commit of each session that worked on the run
    status.json        running | finished | interrupted | failed, and where it stands
    metrics.csv        a row an epoch, equal bit for bit in two runs of one seed on one machine
    timing.csv         a row an epoch of what depends on the clock
    noisy_labels.npy   the labels that were trained on, with their facts in labels.json
    samples.csv        a row a training sample (samples.parquet if asked for), its columns' types in samples.json
    pred_probs.npy     the model's probabilities of the training samples
    checkpoints/       the newest two, to resume from
    summary.json       the results, and weights under the names that the caller gives them
    checksums.json     sha256 of every file that does not grow

torch is never imported here: the bytes of checkpoints and weights come from the caller.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import os
import platform
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
import yaml

from acto.core.errors import UserError
from acto.core.files import (
    Checkpoint,
    FileCheck,
    FolderLock,
    OnPoint,
    RunError,
    check_checkpoints,
    clear_leftovers,
    disk_errors,
    is_locked,
    newest_checkpoint,
    nothing,
    save_checkpoint,
    sha256_of,
    start_over,
    write_atomically,
)
from acto.core.sample_csv import Cell, Column, EpochTable, read_sample_csv, sample_csv, sample_parquet

__all__ = [
    "Checkpoint", "FileCheck", "RunError", "RunFolder", "RunRecord", "checksum_report", "default_run_name",
    "last_checkpoint", "read_run",
]  # fmt: skip

State = Literal["running", "finished", "interrupted", "failed"]

MARK = ".acto-run"
"""The lock's file. A folder that has it is a run's."""


class RunFolder:
    """A run's folder, locked for this process; made by `create` or `open`, given back by `close` or `with`.

    Every method that writes raises RunError if the disk refuses.
    """

    def __init__(self, path: Path, lock: FolderLock) -> None:
        self.path = path
        self.on_point: OnPoint = nothing
        """For fault-injection tests: called at the points named in durable.save_checkpoint."""
        self._lock = lock
        self._metrics = EpochTable(path / "metrics.csv")
        self._timing = EpochTable(path / "timing.csv")
        self._good: str | None = None  # the last checkpoint whose checksums held or which was written here

    @classmethod
    def create(cls, path: Path | str, *, config: object, overwrite: bool = False) -> RunFolder:
        """A new run in an empty or new folder; with `overwrite` also in another run's, which is emptied.

        Args:
            path: the folder; made, with its parents.
            config: a dataclass or mapping of plain values: what config.yaml will say.
            overwrite: throw away the run that is there.

        Raises:
            UserError: the folder is in use, not empty, not a run, or cannot be made.
        """
        path = Path(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            entries = {entry.name for entry in path.iterdir()}
        except OSError as error:
            raise UserError(f"cannot make the run folder {path}: {error.strerror}") from error
        if entries and MARK not in entries:
            raise UserError(f"{path} is not empty and holds no run; choose another folder")
        lock = FolderLock(path / MARK)
        try:
            # Looked at again under the lock: another process may have been here in between.
            entries = {entry.name for entry in path.iterdir()} - {MARK}
            if entries and not overwrite:
                raise UserError(
                    f"{path} holds a run; go on with --resume, start over with --overwrite, or choose another"
                )
            if entries:
                _empty(path)
            folder = cls(path, lock)
            folder._write_config(config)
            folder.set_status("running")
        except BaseException:
            lock.release()
            raise
        return folder

    @classmethod
    def open(cls, path: Path | str, *, config: object = None, may_differ: Collection[str] = ()) -> RunFolder:
        """An existing run's folder, to go on with it. Its status stays as the last session left it.

        Args:
            path: the folder.
            config: what is asked for now; None: whatever the run was asked.
            may_differ: dotted keys (or the beginnings of such) whose values may be others than the run's: number of
                workers, device. Where they are, config.yaml takes over the new ones.

        Raises:
            UserError: not a run, in use, or a configuration that differs; it lists the keys with both values.
        """
        path = Path(path)
        _require_run(path)
        lock = FolderLock(path / MARK)
        try:
            folder = cls(path, lock)
            saved = _read_config(path)
            if config is not None:
                asked = _reloaded(config)
                _refuse_other_config(path, saved, asked, may_differ)
                if asked != saved:
                    folder._write_config(config)
        except BaseException:
            lock.release()
            raise
        clear_leftovers(path / "checkpoints")
        for draft in path.glob(".*.draft"):
            with suppress(OSError):
                draft.unlink()
        return folder

    def close(self) -> None:
        """Unlock the folder."""
        self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # What the run is.

    @property
    def config(self) -> dict[str, Any]:
        """config.yaml."""
        return _read_config(self.path)

    @property
    def status(self) -> dict[str, Any]:
        """status.json, or an empty dict before there is one."""
        return _read_json(self.path / "status.json") or {}

    def _write_config(self, config: object) -> None:
        self._save("config.yaml", yaml.safe_dump(_plain(config), sort_keys=False).encode())

    def add_session(
        self,
        *,
        versions: Mapping[str, str],
        device: str,
        threads: int | None = None,
        step: str | None = None,
        argv: Sequence[str] | None = None,
    ) -> None:
        """Note in env.json who works on the run from now on; a resumed run has several sessions.

        Args:
            versions: package -> version.
            device: its name in words.
            threads: with which the processor computes; the last bits of a sum depend on it.
            step: how steps are taken, see acto.training.step_modes; so do they on that.
            argv: the command line; sys.argv by default.
        """
        session = {
            "started": _now(),
            "argv": list(sys.argv if argv is None else argv),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "host": platform.node(),
            "processors": os.cpu_count(),
            "threads": threads,
            "step": step,
            "device": device,
            "versions": dict(versions),
            "git": _git_commit(),
        }
        sessions = (_read_json(self.path / "env.json") or {}).get("sessions", [])
        self._save("env.json", _json({"sessions": [*sessions, session]}))

    def set_status(self, state: State, *, epoch: int | None = None, message: str = "") -> None:
        """Replace status.json; `epoch` is the last one done."""
        status = {
            "state": state,
            "epoch": epoch,
            "message": message,
            "time": _now(),
            "pid": os.getpid(),
            "host": platform.node(),
        }
        with disk_errors(f"write {self.path / 'status.json'}"):
            write_atomically(self.path / "status.json", _json(status))

    # What the run does.

    def add_metrics(self, epoch: int, values: Mapping[str, Cell]) -> None:
        """Append the epoch's row to metrics.csv and put it on the disk. Call it before the epoch's checkpoint.

        A later row may lack columns (left empty) and bring new ones. Floats are written so that they read back bit for
        bit.
        """
        self._metrics.append(epoch, values)

    def add_timing(self, epoch: int, values: Mapping[str, Cell]) -> None:
        """The same for timing.csv: seconds, samples a second, memory."""
        self._timing.append(epoch, values)

    def truncate_after(self, epoch: int) -> int:
        """Forget the rows of later epochs and half-written ones; -1 forgets all. To be called on resume.

        Returns:
            How many whole epochs were forgotten.

        Raises:
            RunError: metrics.csv is damaged or lacks a row up to `epoch`.
        """
        before = self._metrics.last_epoch()
        self._metrics.truncate_after(epoch)
        if epoch >= 0 and self._metrics.last_epoch() != epoch:
            raise RunError(
                f"{self.path / 'metrics.csv'} lacks the row of epoch {epoch}, which the checkpoint contains. "
                f"{start_over(self.path)}"
            )
        self._timing.truncate_after(epoch)
        return 0 if before is None else before - epoch

    def save_labels(
        self,
        labels: np.ndarray[Any, Any],
        *,
        facts: Mapping[str, Any],
        class_names: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> None:
        """Keep the labels that are trained on, (N,) integers, the facts of their noise, and the names of the classes.

        `notes` say what reading the data met with and how it was handled.

        Raises:
            UserError: the run was begun with other labels.
        """
        path = self.path / "noisy_labels.npy"
        if path.exists():
            with disk_errors(f"read {path}"):
                before = _load_array(path)
            if not np.array_equal(before, labels):
                count = int((before != labels).sum()) if before.shape == labels.shape else None
                what = f"{count} of {len(labels)} differ" if count else f"there were {len(before)}, now {len(labels)}"
                raise UserError(
                    f"the labels are not those that the run in {self.path} was begun with ({what}): "
                    "the data or its noise has changed"
                )
        data = _array_bytes(labels)
        self._save(path.name, data)
        description = {
            "file": path.name,
            "sha256": hashlib.sha256(data).hexdigest(),
            "num_labels": len(labels),
            "class_names": list(class_names),
            "noise": dict(facts),
            "notes": list(notes),
        }
        self._save("labels.json", _json(description))

    def save_samples(self, columns: Mapping[str, Column], *, parquet: bool = False) -> None:
        """Replace the per-sample table.

        Args:
            columns: name -> (N,) numbers, booleans or strings. A string that a spreadsheet would take for a formula
                gets a leading apostrophe in the CSV; `RunRecord.samples` takes it off again.
            parquet: write samples.parquet as well; without it an older one is deleted.

        Raises:
            UserError: `parquet` without pyarrow installed.
        """
        table = sample_parquet(columns) if parquet else None
        text, types = sample_csv(columns)
        self._save("samples.json", _json({"columns": types}))
        self._save("samples.csv", text)
        if table is not None:
            self._save("samples.parquet", table)
        else:
            self._delete("samples.parquet")

    def save_probs(self, probs: np.ndarray[Any, Any]) -> None:
        """Keep the model's probabilities of the training samples, (N, K), as float32."""
        self._save("pred_probs.npy", _array_bytes(probs.astype(np.float32)))

    def save_checkpoint(self, epoch: int, files: Mapping[str, bytes]) -> None:
        """Keep what a resumed run needs after `epoch`; this checkpoint and the last good one before it stay.

        Killed at any moment, the folder holds the older checkpoint or the new one, never half of one.

        Raises:
            RunError: less than twice the size is free, or the disk refuses; the older checkpoint is untouched.
        """
        self._good = save_checkpoint(
            self.path / "checkpoints", epoch=epoch, files=files, keep=self._good, on_point=self.on_point
        )

    def last_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint whose checksums hold; its `note` says which damaged one was passed over.

        Raises:
            RunError: all are damaged.
        """
        checkpoint = newest_checkpoint(self.path / "checkpoints")
        if checkpoint is not None:
            self._good = checkpoint.folder.name
        return checkpoint

    def save_model(self, name: str, data: bytes) -> None:
        """Keep weights under a file name such as "model.safetensors"."""
        assert PurePath(name).name == name and PurePath(name).suffix in (".safetensors", ".pt", ".json"), name
        self._save(name, data)

    def save_summary(self, results: Mapping[str, Any]) -> None:
        """Replace summary.json; numbers that are not finite become null."""
        self._save("summary.json", _json(results))

    def _save(self, name: str, data: bytes) -> None:
        """Replace a file atomically. Its new checksum is written first, beside the old one: both hold in between."""
        checksums = _read_json(self.path / "checksums.json") or {}
        entry = {"sha256": hashlib.sha256(data).hexdigest()}
        if name in checksums and checksums[name]["sha256"] != entry["sha256"]:
            entry["before"] = checksums[name]["sha256"]
        with disk_errors(f"write {self.path / name}"):
            write_atomically(self.path / "checksums.json", _json({**checksums, name: entry}))
            write_atomically(self.path / name, data)

    def _delete(self, name: str) -> None:
        checksums = _read_json(self.path / "checksums.json") or {}
        if checksums.pop(name, None) is not None:
            with disk_errors(f"delete {self.path / name}"):
                (self.path / name).unlink(missing_ok=True)
                write_atomically(self.path / "checksums.json", _json(checksums))


# Reading.


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """What a run's folder says."""

    path: Path
    config: dict[str, Any]
    status: dict[str, Any]
    """status.json; its "state" is "died" where it says running and no process holds the folder."""
    sessions: tuple[dict[str, Any], ...]
    """One for the start and one for each resume, from env.json."""
    metrics: list[dict[str, Cell]]
    timing: list[dict[str, Cell]]
    summary: dict[str, Any] | None
    labels: dict[str, Any] | None
    """labels.json: num_labels, class_names, sha256, and the noise's facts."""

    def noisy_labels(self) -> np.ndarray[Any, Any]:
        """(N,) the labels that were trained on."""
        with disk_errors(f"read {self.path / 'noisy_labels.npy'}"):
            return _load_array(self.path / "noisy_labels.npy")

    def pred_probs(self) -> np.ndarray[Any, Any]:
        """(N, K) the finished model's probabilities of the training samples, in the order of samples.csv.

        Raises:
            RunError: there are none, or the file is damaged.
        """
        path = self.path / "pred_probs.npy"
        if not path.exists():
            raise RunError(f"{self.path} has no pred_probs.npy: the run has not finished, or an older version made it")
        with disk_errors(f"read {path}"):
            return _load_array(path)

    def samples(self) -> dict[str, np.ndarray[Any, Any] | list[str]]:
        """The per-sample table: numbers and booleans as (N,) arrays, strings as lists.

        Raises:
            RunError: there is none, or it is damaged.
        """
        types = _read_json(self.path / "samples.json")
        if types is None:
            raise RunError(f"{self.path} has no per-sample table")
        with disk_errors(f"read {self.path / 'samples.csv'}"):
            return read_sample_csv(self.path / "samples.csv", types["columns"])


def read_run(path: Path | str) -> RunRecord:
    """Everything of a run but the per-sample table and the labels, which are read when asked for.

    Raises:
        UserError: not a run's folder.
        RunError: a file of it is damaged.
    """
    path = Path(path)
    _require_run(path)
    status = _read_json(path / "status.json") or {"state": "failed", "epoch": None, "message": "status.json is missing"}
    if status["state"] == "running" and not is_locked(path / MARK):
        status["state"] = "died"
    return RunRecord(
        path=path,
        config=_read_config(path),
        status=status,
        sessions=tuple((_read_json(path / "env.json") or {}).get("sessions", [])),
        metrics=EpochTable(path / "metrics.csv").rows(),
        timing=EpochTable(path / "timing.csv").rows(),
        summary=_read_json(path / "summary.json"),
        labels=_read_json(path / "labels.json"),
    )


def last_checkpoint(path: Path | str) -> Checkpoint | None:
    """The same as RunFolder.last_checkpoint, without the lock: for evaluation of a run that may still go on."""
    return newest_checkpoint(Path(path) / "checkpoints")


def checksum_report(path: Path | str) -> list[FileCheck]:
    """A line for every file with a checksum, for what a run cannot be without, for checkpoints and leftovers.

    Raises:
        UserError: not a run's folder.
    """
    path = Path(path)
    _require_run(path)
    try:
        checksums = _read_json(path / "checksums.json") or {}
        checks = [_check_file(path / name, entry) for name, entry in sorted(checksums.items())]
    except (RunError, TypeError, KeyError):
        checksums, checks = {}, [FileCheck(name="checksums.json", state="damaged", detail="cannot be read")]
    needed = {"config.yaml", "env.json", "status.json"} - checksums.keys()
    checks += [FileCheck(name=name, state="missing") for name in sorted(needed) if not (path / name).is_file()]
    for name in ("metrics.csv", "timing.csv"):
        if (path / name).is_file():
            fault = EpochTable(path / name).fault()
            checks.append(FileCheck(name=name, state="damaged" if fault else "ok", detail=fault))
    checks += [FileCheck(name=draft.name, state="leftover") for draft in sorted(path.glob(".*.draft"))]
    return checks + check_checkpoints(path / "checkpoints")


def default_run_name(method: str, data: str) -> str:
    """runs/METHOD-DATA-UTC-4HEX, the folder of a run that was given none. Two runs of one second differ in the hex."""
    data = data.rstrip("/").rpartition("/")[2]
    parts = (re.sub(r"[^A-Za-z0-9._-]+", "_", part) for part in (method, data))
    return f"runs/{'-'.join(parts)}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


# Plain values, files, facts.


def _plain(value: object) -> Any:
    """Dataclasses, tuples, paths and numpy numbers as what YAML and JSON know."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be written to a run's folder: {value!r}")


def _finite(value: Any) -> Any:
    """JSON has no nan and no infinity: null stands for them."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(value: object) -> bytes:
    return json.dumps(_finite(_plain(value)), indent=1, allow_nan=False).encode() + b"\n"


def _read_json(path: Path) -> dict[str, Any] | None:
    """None if there is no such file."""
    with disk_errors(f"read {path}"):
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RunError(f"{path} is damaged: {error}") from error


def _array_bytes(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _load_array(path: Path) -> np.ndarray[Any, Any]:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise RunError(f"{path} is damaged: {error}") from error


def _require_run(path: Path) -> None:
    if not (path / MARK).is_file():
        raise UserError(f"{path} is no run's folder")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git_commit() -> dict[str, Any] | None:
    """Commit of the working folder's repository, and whether tracked files differ from it; None outside of one."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    # A repository's settings may name a program that `status` runs; this turns it off.
    command = ["git", "-c", "core.fsmonitor=false", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()


def _empty(path: Path) -> None:
    """Delete everything in a run's folder but its mark, never following a link."""
    inner = next((mark.parent for mark in path.rglob(MARK) if mark.parent != path), None)
    if inner is not None:
        raise UserError(f"{path} is not overwritten: it holds another run, {inner}")
    with disk_errors(f"empty {path}"):
        for entry in path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != MARK:
                entry.unlink()


def _check_file(path: Path, entry: Mapping[str, str]) -> FileCheck:
    if not path.is_file():
        return FileCheck(name=path.name, state="missing")
    try:
        whole = sha256_of(path) in (entry["sha256"], entry.get("before"))
    except OSError as error:
        return FileCheck(name=path.name, state="damaged", detail=f"cannot be read ({error.strerror})")
    return FileCheck(
        name=path.name, state="ok" if whole else "damaged", detail="" if whole else "differs from its checksum"
    )


# The configuration.


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load((path / "config.yaml").read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path} has no config.yaml: the run ended before it began; use --overwrite") from error
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path / 'config.yaml'}: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path / 'config.yaml'} holds no mapping of settings")
    return config


def _reloaded(config: object) -> dict[str, Any]:
    """The configuration as it comes back from config.yaml."""
    return yaml.safe_load(yaml.safe_dump(_plain(config)))


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("method.tau", 0.025), ... A mapping without entries is a value."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _refuse_other_config(
    path: Path, saved: Mapping[str, Any], asked: Mapping[str, Any], may_differ: Collection[str]
) -> None:
    # A setting that an older version did not have is null in a newer one: that is no difference.
    before, now = dict(_flat(saved)), dict(_flat(asked))
    differing = [
        f"{key}: {before.get(key, 'not set')!r} there, {now.get(key, 'not set')!r} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not any(key == free or key.startswith(f"{free}.") for free in may_differ)
    ]
    if differing:
        raise UserError(
            f"the run in {path} was begun with other settings: {'; '.join(differing)}. Resume it with its own, or "
            "start over with --overwrite"
        )
