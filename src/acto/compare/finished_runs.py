"""Many runs' records at once: what tables and plots are made of. Folders of runs and collected records read alike."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from acto.compare.published import methods, passes
from acto.core.errors import RunError, UserError
from acto.core.settings import flatten, plain
from acto.run_folder.config import read_config
from acto.run_folder.epoch_table import Cell
from acto.run_folder.reading import METRICS, STATUS, SUMMARY, TIMING, read_json, rows_of

PLACES = ("device", "workers")
"""With data.root: settings that say where a run runs, not what it computes."""
PATHS = (("data", "source"), ("data", "noise", "path"), ("weights",))
"""Settings that may be paths."""
SEEDS = ("seed", "data.noise.seed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A finished run."""

    path: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    metrics: list[dict[str, Cell]]
    seconds: float | None
    """Seconds of training and evaluation; None without timing.csv."""

    @property
    def method(self) -> str:
        """By its name on the command line."""
        return str(self.config["method"])

    @property
    def method_config(self) -> dict[str, Any]:
        """The method's own settings."""
        return self.config.get(self.method.replace("-", "_")) or {}

    @property
    def data(self) -> str:
        """The source's name; of a path its last part."""
        return str(self.config["data"]["source"]).rstrip("/").rpartition("/")[2]

    @property
    def noise(self) -> tuple[str, float]:
        """Kind and rate asked for."""
        noise = self.config["data"].get("noise") or {}
        return str(noise.get("kind", "none")), float(noise.get("rate") or 0.0)

    @property
    def seed(self) -> int:
        """Return the run's seed."""
        return int(self.config["seed"])

    @property
    def epochs(self) -> int:
        """Number of epochs."""
        return int(self.config["protocol"]["epochs"])

    @property
    def accuracy(self) -> float:
        """Mean over the last ten epochs, in [0, 1]."""
        return float(self.summary["test_accuracy_last10"])

    @property
    def best(self) -> float:
        """Return the best epoch's accuracy, in [0, 1]: an oracle."""
        return float(self.summary["test_accuracy_best_oracle"])

    @property
    def labels_sha256(self) -> str:
        """Return the sha256 of the labels that were trained on."""
        return str(self.summary.get("labels_sha256") or "")

    @property
    def noise_known(self) -> str:
        """Name what the method was told of the noise: its rate, and settings that follow from its rate or kind."""
        about = methods().get(self.method)
        if about is None:
            return "unknown"
        told = []
        if about.asks_rate:
            given = (self.config.get("assumed_noise_rate"), self.method_config.get("noise_rate"))
            by_user = any(rate is not None for rate in given)
            known = (self.summary.get("noise") or {}).get("rate_realised") is not None
            told.append("rate: user" if by_user else "rate: oracle" if known else "rate: none")
        if about.settings_by:
            told.append(f"settings by {about.settings_by}")
        return "; ".join(told) or "nothing"

    def passes(self) -> tuple[float, float] | None:
        """Forward and backward passes of the whole run, for each training sample; evaluation is not counted."""
        cost = passes(self.method, self.method_config)
        if cost is None:
            return None
        warmup = min(int(self.method_config.get("warmup_epochs") or 0), self.epochs)
        selected = math.fsum(float(row.get("selected_share") or 0.0) for row in self.metrics[warmup:])
        after = self.epochs - warmup
        return (
            warmup * cost.warmup_forward + after * cost.forward + selected * cost.forward_selected,
            warmup * cost.warmup_backward + after * cost.backward + selected * cost.backward_selected,
        )

    def settings(self) -> dict[str, Any]:
        """All that decides the result but the seeds, by dotted key."""
        return {key: value for key, value in flatten(deciding(self.config)).items() if key not in SEEDS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Records found in folders, and what is wrong with others."""

    records: tuple[Record, ...]
    unfinished: tuple[Path, ...]
    damaged: tuple[str, ...]
    """Damaged runs, each in words."""


def deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved configuration without what says only where a run runs."""
    kept = {key: value for key, value in config.items() if key not in PLACES}
    kept["data"] = {key: value for key, value in config["data"].items() if key != "root"}
    return kept


def config_hash(config: Mapping[str, Any]) -> str:
    """sha256 of what decides the result. A setting that is null says nothing: a later version may bring new ones."""
    said = {key: value for key, value in flatten(plain(deciding(config))).items() if value is not None}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without folders: the data root is null, of a path its last part stays."""
    cleaned = _copied(config)
    for *sections, name in PATHS:
        values = cleaned
        for section in sections:
            values = values.get(section) or {}
        if isinstance(value := values.get(name), str):
            values[name] = PurePath(value).name
    cleaned["data"]["root"] = None
    return cleaned


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def read_records(folders: Sequence[Path | str]) -> Found:
    """Every run below `folders`; one that is there twice, as a run and as a collected record, counts once.

    Raises:
        UserError: a folder does not exist.
    """
    records: dict[str, Record] = {}
    unfinished: list[Path] = []
    damaged: list[str] = []
    for top in map(Path, folders):
        if not top.is_dir():
            raise UserError(f"{top} is no folder of runs")
        for path in _run_folders(top):
            try:
                record = _read(path)
            except (RunError, OSError, ValueError, KeyError, TypeError) as error:
                damaged.append(f"{path}: {error}")
                continue
            if record is None:
                unfinished.append(path)
            else:
                records.setdefault(config_hash(without_places(record.config)) + record.labels_sha256, record)
    return Found(records=tuple(records.values()), unfinished=tuple(unfinished), damaged=tuple(damaged))


def _run_folders(top: Path) -> list[Path]:
    found = []
    for folder, inner, files in os.walk(top):
        inner.sort()
        if "config.yaml" in files:
            found.append(Path(folder))
            inner.clear()
    return found


def _read(path: Path) -> Record | None:
    """None if the run is not finished."""
    config = read_config(path)
    summary = read_json(path / "summary.json", SUMMARY)
    status = read_json(path / "status.json", STATUS)
    if summary is None or (status is not None and status["state"] != "finished"):
        return None
    if (config.get("protocol") or {}).get("stop_early") is not None:
        raise RunError("begun with stop_early, and only runs that were trained to their end are compared")
    timing = rows_of(path / "timing.csv", TIMING)
    record = Record(
        path=path,
        config=config,
        summary=summary,
        metrics=rows_of(path / "metrics.csv", METRICS),
        seconds=math.fsum(float(row["train_seconds"] or 0) + float(row["eval_seconds"] or 0) for row in timing)
        if timing
        else None,
    )
    _ = record.method, record.data, record.noise, record.seed, record.epochs, record.accuracy, record.best
    return record
