"""Reading a run's folder: its settings, results, tables and checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from acto.core import documents
from acto.core.documents import as_record
from acto.core.errors import RunError, UserError
from acto.core.files import disk_errors, open_regular, sha256_of
from acto.core.locks import is_locked
from acto.core.sample_csv import read_sample_csv
from acto.core.text import percent
from acto.run_folder.checkpoints import Checkpoint, FileCheck, check_checkpoints, newest_checkpoint
from acto.run_folder.config import read_config
from acto.run_folder.epoch_table import Cell, EpochTable

RunState = Literal["running", "finished", "interrupted", "failed"]
MARK = ".acto-run"
"""The lock's file. A folder that has it is a run's."""
NO_HINTS: Mapping[str, Any] = {}
STATUS = {"state": RunState, "epoch": int | None, "message": str}
METRICS = {"epoch": int, "test_accuracy": float}
TIMING = {"train_seconds": float | None, "eval_seconds": float | None}
SAMPLES = {"columns": dict}
ENV = {"sessions": list}
SESSION = {"versions": dict, "argv": list}
SUMMARY = {
    **dict.fromkeys(("method", "data", "labels_sha256"), str),
    **dict.fromkeys(("seed", "epochs", "num_train", "num_test"), int),
    **{f"test_accuracy_{name}": float | None for name in ("last10", "last", "best_oracle")},
    "test_labels_are_given": bool,
    "mining_open": float | None,
    "noise": {"kind": str, "rate": float | None, "rate_realised": float | None, "sha256": str},
    "left_away": int,
    "early_end": {
        "accuracy": float,
        **dict.fromkeys(("epoch", "num_held_out", "patience", "epochs_done", "epochs_asked"), int),
    },
}
LABELS = {
    "file": str,
    "sha256": str,
    "num_labels": int,
    "class_names": tuple[str, ...],
    "noise": SUMMARY["noise"],
    "notes": tuple[str, ...],
}
"""Types of what others rely on in a run's files."""
HELD_OUT, HELD_OUT_PROBS, HELD_OUT_PREDICTIONS = "held_out.json", "held_out_probs.npy", "held_out_predictions.npy"
"""Files on the samples that a run held out of its training data."""
OUTLIER = "outlier.npy"
"""Outlier scores of the training samples, and behind them of those held out."""


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

    @property
    def early_end(self) -> dict[str, Any] | None:
        """Facts of the epoch that `stop_early` chose, from summary.json; None where it chose none."""
        return (self.summary or {}).get("early_end")

    @property
    def model_epochs(self) -> int:
        """Number of epochs that the model was trained for: all that were done, or those up to the chosen one."""
        return len(self.metrics) if self.early_end is None else int(self.early_end["epoch"]) + 1

    def last_accuracies(self, most: int = 10) -> list[float]:
        """Test accuracies, in [0, 1], of the last epochs that were evaluated, the earliest first."""
        found = [row["test_accuracy"] for row in self.metrics]
        return [float(value) for value in found if isinstance(value, float | int) and 0 <= value <= 1][-most:]

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

    def held_out_probs(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None:
        """(M, K) the finished model's probabilities of the samples that the run held out, in their order, and (M, P)
        classes that the method's other predictions name; None where nothing was held out, or an older version did not
        keep them.

        Raises:
            RunError: a file is damaged.
        """
        path = self.path / HELD_OUT_PROBS
        if not path.exists():
            return None
        with disk_errors(f"read {path}"):
            return load_array(path), load_array(self.path / HELD_OUT_PREDICTIONS)

    def outlier(self) -> np.ndarray[Any, Any] | None:
        """(N + M,) outlier scores of the training samples, and behind them of those held out; None without any.

        Raises:
            RunError: the file is damaged.
        """
        path = self.path / OUTLIER
        with disk_errors(f"read {path}"):
            return load_array(path) if path.exists() else None

    def samples(self) -> dict[str, np.ndarray[Any, Any] | list[str]]:
        """The per-sample table: numbers and booleans as (N,) arrays, strings as lists.

        Raises:
            RunError: there is none, or it is damaged.
        """
        types = read_json(self.path / "samples.json", SAMPLES)
        if types is None:
            raise RunError(f"{self.path} has no per-sample table")
        with disk_errors(f"read {self.path / 'samples.csv'}"):
            return read_sample_csv(self.path / "samples.csv", types["columns"])


def early_end_in_words(facts: Mapping[str, Any]) -> str:
    """One sentence on the "early_end" of a summary; epochs are counted from 1, as on the console."""
    done, asked, patience = facts["epochs_done"], facts["epochs_asked"], facts["patience"]
    ended = "trained to the end" if done >= asked else f"ended early, after epoch {done} of {asked}"
    return (
        f"{ended}: the model is that of epoch {facts['epoch'] + 1}, the best by the accuracy against the given labels "
        f"of {facts['num_held_out']:,} held-out samples, {percent(facts['accuracy'])} smoothed "
        f"(patience: {patience})"
    )


def read_run(path: Path | str) -> RunRecord:
    """Everything of a run but the per-sample table and the labels, which are read when asked for.

    Raises:
        UserError: not a run's folder.
        RunError: a file of it is damaged.
    """
    path = Path(path)
    require_run(path)
    status = read_json(path / "status.json", STATUS) or {
        "state": "failed",
        "epoch": None,
        "message": "status.json is missing",
    }
    sessions = (read_json(path / "env.json", ENV) or {"sessions": []})["sessions"]
    if status["state"] == "running" and not is_locked(path / MARK):
        status["state"] = "died"
    return RunRecord(
        path=path,
        config=read_config(path),
        status=status,
        sessions=tuple(as_record(session, SESSION, f"{path / 'env.json'}", error=RunError) for session in sessions),
        metrics=rows_of(path / "metrics.csv", METRICS),
        timing=rows_of(path / "timing.csv", TIMING),
        summary=read_json(path / "summary.json", SUMMARY),
        labels=read_json(path / "labels.json", LABELS),
    )


def rows_of(path: Path, hints: Mapping[str, Any]) -> list[dict[str, Cell]]:
    """Read a table with a row an epoch; RunError if it is damaged, or a value is not of the type in `hints`."""
    rows = EpochTable(path).rows()
    return [as_record(row, hints, f"{path}, line {line},", error=RunError) for line, row in enumerate(rows, 2)]


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
        checksums = read_checksums(path)
        checks = [_check_file(path / name, entry) for name, entry in sorted(checksums.items())]
    except RunError:
        checksums, checks = {}, [FileCheck(name="checksums.json", state="damaged", detail="cannot be read")]
    needed = {"config.yaml", "env.json", "status.json"} - checksums.keys()
    checks += [FileCheck(name=name, state="missing") for name in sorted(needed) if not (path / name).is_file()]
    for name in ("metrics.csv", "timing.csv"):
        if (path / name).is_file():
            fault = EpochTable(path / name).fault()
            checks.append(FileCheck(name=name, state="damaged" if fault else "ok", detail=fault))
    checks += [FileCheck(name=draft.name, state="leftover") for draft in sorted(path.glob(".*.draft"))]
    return checks + check_checkpoints(path / "checkpoints")


def read_json(path: Path, hints: Mapping[str, Any] = NO_HINTS) -> dict[str, Any] | None:
    """Read a mapping whose values are of the types in `hints`, see as_record; None if there is no such file."""
    try:
        return as_record(documents.read_json(path, error=RunError), hints, str(path), error=RunError)
    except FileNotFoundError:
        return None


def read_checksums(path: Path) -> dict[str, dict[str, Any]]:
    """checksums.json of the run's folder `path`: for each file sha256, and before; RunError if it is damaged."""
    checksums = read_json(path / "checksums.json") or {}
    hints = {key: {"sha256": str, "before": str} for key in checksums}
    return as_record(checksums, hints, str(path / "checksums.json"), error=RunError)


def load_array(path: Path) -> np.ndarray[Any, Any]:
    """Read an .npy file; RunError if it is damaged."""
    try:
        with open(path, "rb", opener=open_regular) as file:
            array = np.load(file, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("it is an archive, no array")
        return array
    except (ValueError, EOFError, MemoryError) as error:  # a header may claim what no memory can hold
        raise RunError(f"{path} is damaged: {error}") from error


def held_out_before(path: Path | str) -> tuple[str, ...] | None:
    """Ids of the samples that the run in `path` held out when it read its data, before a run that it goes on from was
    looked at; empty where an older version kept no list; None where it has not begun.

    Raises:
        RunError: the file is damaged.
    """
    found = read_json(Path(path) / HELD_OUT, {"ids": tuple[str, ...]})
    if found is not None:
        return tuple(found["ids"])
    return () if (Path(path) / "labels.json").is_file() else None


def require_run(path: Path) -> None:
    """Raise UserError if `path` is no run's folder."""
    if not (path / MARK).is_file():
        raise UserError(f"{path} is no run's folder")


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
