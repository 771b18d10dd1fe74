"""Facts about the methods that go into tables: published accuracies, names, and what an epoch costs.

    accuracies.csv   published test accuracies in percent, each with its table and how its protocol differs from ours
    methods.csv      name and venue; whether a method is told the noise rate, and which facts of the noise decide
                     settings in our recipe for it
    passes.csv       passes through a network for each sample and epoch

No number here is measured by us but those of passes.csv, which tests/compare/test_tables.py counts again on toy data.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """A published test accuracy."""

    table: str
    """1 to 4, as in ACTO's paper."""
    row: str
    """A method by its name on the command line, or a row of the ablation."""
    data: str
    noise: str
    rate: float
    percent: float
    source: str
    protocol: str
    """Empty, "other protocol", "perhaps other protocol" or "second-hand"."""
    note: str
    """Explanation of the mark."""


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """A method in a table."""

    name: str
    """As in the papers."""
    venue: str
    asks_rate: bool
    """True if it is told the noise rate."""
    settings_by: str
    """Facts of the noise that decide settings in our recipe: empty, "rate", "kind" or "rate and kind"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Passes:
    """Passes through one network, for each training sample and epoch.

    Where a method trains on what it has selected, the number grows with that share: forward + forward_selected *
    selected_share.
    """

    warmup_forward: float
    warmup_backward: float
    forward: float
    forward_selected: float
    backward: float
    backward_selected: float


@cache
def accuracies() -> tuple[Accuracy, ...]:
    """All published accuracies, in the order of their tables."""
    return tuple(
        Accuracy(
            table=row["table"], row=row["row"], data=row["data"], noise=row["noise"], rate=float(row["rate"]),
            percent=float(row["percent"]), source=row["source"], protocol=row["protocol"], note=row["note"],
        )
        for row in _rows("accuracies.csv")
    )  # fmt: skip


@cache
def methods() -> Mapping[str, About]:
    """By the method's name on the command line."""
    return {
        row["method"]: About(
            name=row["name"], venue=row["venue"], asks_rate=row["asks_rate"] == "yes", settings_by=row["settings_by"]
        )
        for row in _rows("methods.csv")
    }


def passes(method: str, config: Mapping[str, Any]) -> Passes | None:
    """Return the passes of an epoch of `method` with its settings `config`; None if they were never counted."""
    found = None
    for row in _rows("passes.csv"):
        if row["method"] == method and _holds(row["where"], config):
            found = Passes(**{name: float(row[name]) for name in Passes.__dataclass_fields__})
    return found


def _holds(where: str, config: Mapping[str, Any]) -> bool:
    """Evaluate conditions like consistency=false or weight>0, several with "and"; none is true."""
    if not where:
        return True
    if " and " in where:
        return all(_holds(part, config) for part in where.split(" and "))
    name, more, low = where.partition(">")
    if more:
        return float(config.get(name, 0)) > float(low)
    name, _, value = where.partition("=")
    return str(config.get(name)).lower() == value


def _rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((files("acto.compare.published") / name).read_text(encoding="utf-8").splitlines()))
