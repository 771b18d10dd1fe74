"""A run's folder: what a run was asked, what it did, and how it goes on after an interruption.

    config.yaml        the resolved configuration; `acto train` takes it as it is
    env.json           versions, device, command line and git commit of each session that worked on the run
    status.json        running | finished | interrupted | failed, and where it stands
    metrics.csv        a row an epoch, equal bit for bit in two runs of one seed on one machine
    timing.csv         a row an epoch of what depends on the clock
    noisy_labels.npy   the labels that were trained on, with their facts in labels.json
    samples.csv        a row a training sample (samples.parquet if asked for), its columns' types in samples.json
    pred_probs.npy     the model's probabilities of the training samples
    encoding.safetensors   what makes numbers of the cells of a table, or of texts
    features.safetensors   the frozen network that makes vectors of pictures, where the run stands on one
    checkpoints/       the newest two, to resume from
    summary.json       the results, and weights under the names that the caller gives them
    checksums.json     sha256 of every file that does not grow

torch is never imported here: the bytes of checkpoints and weights come from the caller.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import yaml

from acto.core.errors import RunError, UserError
from acto.core.files import OnPoint, disk_errors, pass_point, remove, write_atomically
from acto.core.locks import HELD, FolderLock
from acto.core.sample_csv import Column, sample_csv, sample_parquet
from acto.run_folder.checkpoints import (
    Checkpoint,
    clear_leftovers,
    newest_checkpoint,
    save_checkpoint,
    start_over,
)
from acto.run_folder.config import as_reloaded, read_config, refuse_other_config
from acto.run_folder.encoding import array_bytes, json_bytes, plain_values
from acto.run_folder.epoch_table import Cell, EpochTable
from acto.run_folder.git_commit import git_commit
from acto.run_folder.reading import (
    ENV,
    MARK,
    RunState,
    load_array,
    read_checksums,
    read_json,
    require_run,
)

_LOCK_FILES = {MARK, MARK + HELD}


class RunFolder:
    """A run's folder, locked for this process; made by `create` or `open`, given back by `close` or `with`.

    Every method that writes raises RunError if the disk refuses.
    """

    def __init__(self, path: Path, lock: FolderLock) -> None:
        self.path = path
        self.on_point: OnPoint = pass_point
        """For fault-injection tests: called at the points named in run_folder.checkpoints.save_checkpoint."""
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
            entries = {entry.name for entry in path.iterdir()} - _LOCK_FILES
            if entries and not overwrite:
                raise UserError(
                    f"{path} holds a run; go on with --resume, start over with --overwrite, or choose another"
                )
            if entries:
                _empty(path)
            folder = cls(path, lock)
            folder.write_config(config)
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
            UserError: not a run, in use, its checkpoints are a link to another place, or a configuration that differs;
                it lists the keys with both values.
        """
        path = Path(path)
        require_run(path)
        lock = FolderLock(path / MARK)
        try:
            folder = cls(path, lock)
            saved = read_config(path)
            clear_leftovers(path / "checkpoints")
            if config is not None:
                asked = as_reloaded(config)
                refuse_other_config(path, saved, asked, may_differ)
                if asked != saved:
                    folder.write_config(config)
        except BaseException:
            lock.release()
            raise
        for draft in path.glob(".*.draft"):
            remove(draft)
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
        return read_config(self.path)

    @property
    def status(self) -> dict[str, Any]:
        """status.json, or an empty dict before there is one."""
        return read_json(self.path / "status.json") or {}

    def write_config(self, config: object) -> None:
        """Replace config.yaml."""
        self._save("config.yaml", yaml.safe_dump(plain_values(config), sort_keys=False).encode())

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
            "git": git_commit(),
        }
        sessions = (read_json(self.path / "env.json", ENV) or {}).get("sessions", [])
        self._save("env.json", json_bytes({"sessions": [*sessions, session]}))

    def set_status(self, state: RunState, *, epoch: int | None = None, message: str = "") -> None:
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
            write_atomically(self.path / "status.json", json_bytes(status))

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
                before = load_array(path)
            if not np.array_equal(before, labels):
                count = int((before != labels).sum()) if before.shape == labels.shape else None
                what = f"{count} of {len(labels)} differ" if count else f"there were {len(before)}, now {len(labels)}"
                raise UserError(
                    f"the labels are not those that the run in {self.path} was begun with ({what}): "
                    "the data or its noise has changed"
                )
        data = array_bytes(labels)
        self._save(path.name, data)
        description = {
            "file": path.name,
            "sha256": hashlib.sha256(data).hexdigest(),
            "num_labels": len(labels),
            "class_names": list(class_names),
            "noise": dict(facts),
            "notes": list(notes),
        }
        self._save("labels.json", json_bytes(description))

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
        self._save("samples.json", json_bytes({"columns": types}))
        self._save("samples.csv", text)
        if table is not None:
            self._save("samples.parquet", table)
        else:
            self._delete("samples.parquet")

    def save_probs(self, probs: np.ndarray[Any, Any]) -> None:
        """Keep the model's probabilities of the training samples, (N, K), as float32."""
        self._save("pred_probs.npy", array_bytes(probs.astype(np.float32, copy=False)))

    def save_checkpoint(self, epoch: int, files: Mapping[str, bytes], *, run: Mapping[str, Any] | None = None) -> None:
        """Keep what a resumed run needs after `epoch`; this checkpoint and the last good one before it stay.

        Killed at any moment, the folder holds the older checkpoint or the new one, never half of one.

        Raises:
            RunError: less than twice the size is free, or the disk refuses; the older checkpoint is untouched.
        """
        self._good = save_checkpoint(
            self.path / "checkpoints", epoch=epoch, files=files, run=run, keep=self._good, on_point=self.on_point
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
        """Keep weights, or what belongs to them, under a file name such as "model.safetensors"."""
        suffixes = (".safetensors", ".pt", ".json", ".npy", ".csv")
        assert PurePath(name).name == name and PurePath(name).suffix in suffixes, name
        self._save(name, data)

    def save_summary(self, results: Mapping[str, Any]) -> None:
        """Replace summary.json; numbers that are not finite become null."""
        self._save("summary.json", json_bytes(results))

    def _save(self, name: str, data: bytes) -> None:
        """Replace a file atomically. Its new checksum is written first, beside the old one: both hold in between."""
        checksums = read_checksums(self.path)
        entry = {"sha256": hashlib.sha256(data).hexdigest()}
        if name in checksums and checksums[name]["sha256"] != entry["sha256"]:
            entry["before"] = checksums[name]["sha256"]
        with disk_errors(f"write {self.path / name}"):
            write_atomically(self.path / "checksums.json", json_bytes({**checksums, name: entry}))
            write_atomically(self.path / name, data)

    def _delete(self, name: str) -> None:
        checksums = read_checksums(self.path)
        if checksums.pop(name, None) is not None:
            with disk_errors(f"delete {self.path / name}"):
                (self.path / name).unlink(missing_ok=True)
                write_atomically(self.path / "checksums.json", json_bytes(checksums))


# Reading.


def default_run_name(method: str, data: str) -> str:
    """runs/METHOD-DATA-UTC-4HEX, the folder of a run that was given none. Two runs of one second differ in the hex."""
    data = data.rstrip("/").rpartition("/")[2]
    parts = (re.sub(r"[^A-Za-z0-9._-]+", "_", part) for part in (method, data))
    return f"runs/{'-'.join(parts)}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


# Plain values, files, facts.


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _empty(path: Path) -> None:
    """Delete everything in a run's folder but its mark, never following a link."""
    inner = next((mark.parent for mark in path.rglob(MARK) if mark.parent != path), None)
    if inner is not None:
        raise UserError(f"{path} is not overwritten: it holds another run, {inner}")
    with disk_errors(f"empty {path}"):
        for entry in path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name not in _LOCK_FILES:
                entry.unlink()
