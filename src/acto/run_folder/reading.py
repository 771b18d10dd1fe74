"""Reading a run's folder: its settings, results, tables and checkpoints."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from acto.core.errors import RunError, UserError
from acto.core.files import disk_errors, require_regular, sha256_of
from acto.core.locks import is_locked
from acto.core.sample_csv import read_sample_csv
from acto.run_folder.checkpoints import Checkpoint, FileCheck, check_checkpoints, newest_checkpoint
from acto.run_folder.config import read_config
from acto.run_folder.epoch_table import Cell, EpochTable

RunState = Literal["running", "finished", "interrupted", "failed"]
MARK = ".acto-run"
"""The lock's file. A folder that has it is a run's."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """Contents of a run's folder."""

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
            return load_array(self.path / "noisy_labels.npy")

    def pred_probs(self) -> np.ndarray[Any, Any]:
        """(N, K) the finished model's probabilities of the training samples, in the order of samples.csv.

        Raises:
            RunError: there are none, or the file is damaged.
        """
        path = self.path / "pred_probs.npy"
        if not path.exists():
            raise RunError(f"{self.path} has no pred_probs.npy: the run has not finished, or an older version made it")
        with disk_errors(f"read {path}"):
            return load_array(path)

    def samples(self) -> dict[str, np.ndarray[Any, Any] | list[str]]:
        """The per-sample table: numbers and booleans as (N,) arrays, strings as lists.

        Raises:
            RunError: there is none, or it is damaged.
        """
        types = read_json(self.path / "samples.json")
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
    require_run(path)
    status = read_json(path / "status.json") or {"state": "failed", "epoch": None, "message": "status.json is missing"}
    if status["state"] == "running" and not is_locked(path / MARK):
        status["state"] = "died"
    return RunRecord(
        path=path,
        config=read_config(path),
        status=status,
        sessions=tuple((read_json(path / "env.json") or {}).get("sessions", [])),
        metrics=EpochTable(path / "metrics.csv").rows(),
        timing=EpochTable(path / "timing.csv").rows(),
        summary=read_json(path / "summary.json"),
        labels=read_json(path / "labels.json"),
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
    require_run(path)
    try:
        checksums = read_json(path / "checksums.json") or {}
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


def read_json(path: Path) -> dict[str, Any] | None:
    """None if there is no such file."""
    with disk_errors(f"read {path}"):
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RunError(f"{path} is damaged: {error}") from error


def load_array(path: Path) -> np.ndarray[Any, Any]:
    """Read an .npy file; RunError if it is damaged."""
    try:
        array = np.load(path, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("it is an archive, no array")
        return array
    except (ValueError, EOFError, MemoryError) as error:  # a header may claim what no memory can hold
        raise RunError(f"{path} is damaged: {error}") from error


def require_run(path: Path) -> None:
    """Raise UserError if `path` is no run's folder."""
    if not (path / MARK).is_file():
        raise UserError(f"{path} is no run's folder")
    with disk_errors(f"read {path}"), os.scandir(path) as entries:
        for entry in entries:
            if not entry.is_dir():  # a run writes no pipe: one that lies there would be waited for
                require_regular(entry.path)


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
