"""`acto demo`: ACTO, plain training and confident learning on the same wrong labels, seed by seed.

Symmetric noise is put on scikit-learn's digits, and every method gets the same splits and the same labels. What counts
is the paired difference between two methods over the seeds: its 95 % interval says whether one is ahead. The settings
stand in acto.runs.recipes.by_data; they were chosen on Fashion-MNIST, as benchmarks/demo_settings.py tells.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from acto.compare import demo_page
from acto.compare.demo_page import Suspect
from acto.compare.demo_trials import RATES, Outcome, Outcomes, SmallMLP, Trial, digits
from acto.data.samples import Dataset
from acto.pages.charts import Curve, draw
from acto.runs.recipes.by_data import Setting
from acto.training import evaluation

MLP = SmallMLP()
NUM_SEEDS = 10
NUM_SUSPECTS = 24
TITLES = {"standard": "Standard", "confident-learning": "Confident learning", "acto": "ACTO"}
"""The methods, the one that the others are compared with at the end."""
CONFIDENCE = 0.95
PACKAGES = ("acto-lnl", "torch", "numpy", "scikit-learn", "cleanlab")


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A paired difference over the seeds and its interval."""

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Say in a sentence what the rows allow to be claimed."""
        return "ahead" if self.low > 0 else "behind" if self.high < 0 else "undecided"


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Mean of the paired differences and its interval by Student's t.

    Args:
        ours: one number a seed, at least two.
        theirs: of the same seeds.
    """
    from scipy.special import stdtrit

    pairs = [a - b for a, b in zip(ours, theirs, strict=True)]
    reach = float(stdtrit(len(pairs) - 1, (1 + CONFIDENCE) / 2)) * stdev(pairs) / math.sqrt(len(pairs))
    mean = fmean(pairs)
    return Difference(mean=mean, low=mean - reach, high=mean + reach)


def outcomes_of(outcomes: Outcomes, *, method: str, rate: float) -> list[Outcome]:
    """A method's outcomes at one rate, by seed."""
    chosen = [trial for trial in outcomes if trial.method == method and trial.rate == rate]
    return [outcomes[trial] for trial in sorted(chosen, key=lambda trial: trial.seed)]


def summarize(outcomes: Outcomes) -> list[dict[str, Any]]:
    """A row for each rate and method: means, deviations, and by how much ACTO is ahead of it. Plain values."""
    rows = []
    for rate in RATES:
        ours = [outcome.accuracy for outcome in outcomes_of(outcomes, method="acto", rate=rate)]
        for method, title in TITLES.items():
            found = outcomes_of(outcomes, method=method, rate=rate)
            if not found:
                continue
            accuracies = [outcome.accuracy for outcome in found]
            row: dict[str, Any] = {
                "rate": rate,
                "method": method,
                "title": title,
                "accuracy": fmean(accuracies),
                "accuracy_sd": stdev(accuracies),
                "auroc": fmean(outcome.auroc for outcome in found),
                "auroc_sd": stdev(outcome.auroc for outcome in found),
                "seconds": fmean(outcome.seconds for outcome in found),
            }
            if method != "acto":
                ahead = difference(ours, accuracies)
                row["acto_ahead"] = {"mean": ahead.mean, "low": ahead.low, "high": ahead.high, "verdict": ahead.verdict}
            rows.append(row)
    return rows


def title_of(rate: float) -> str:
    """Names a noise rate."""
    return f"{rate:.0%} of the labels wrong"


def table(rows: Iterable[dict[str, Any]], *, rate: float) -> Table:
    """The rows of one rate, for the terminal."""
    shown = Table(title=title_of(rate), title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False)
    for name in ("method", "accuracy, %", "ACTO's lead (95 % interval)", "AUROC", "s"):
        shown.add_column(name, justify="left" if name == "method" else "right")
    for row in rows:
        if row["rate"] == rate:
            shown.add_row(*cells(row))
    return shown


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row of summarize() in words."""
    lead = "-"
    if (ahead := row.get("acto_ahead")) is not None:
        mean, low, high = (100 * ahead[name] for name in ("mean", "low", "high"))
        lead = f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"
    return (
        row["title"],
        f"{100 * row['accuracy']:.2f} +- {100 * row['accuracy_sd']:.2f}",
        lead,
        f"{row['auroc']:.3f}",
        f"{row['seconds']:.1f}",
    )


def verdict(rows: Iterable[dict[str, Any]], *, rate: float) -> str:
    """One sentence that claims no more than the intervals do."""
    leads = {row["title"]: row["acto_ahead"]["verdict"] for row in rows if row["rate"] == rate and "acto_ahead" in row}
    words = {
        "ahead": "ACTO is ahead of {}",
        "behind": "ACTO is behind {}",
        "undecided": "no difference between ACTO and {} is shown",
    }
    parts = [
        words[state].format(" and ".join(title for title in leads if leads[title] == state))
        for state in words
        if state in leads.values()
    ]
    return f"{rate:.0%}: {'; '.join(parts)}."


def has_package(package: str) -> bool:
    """Say whether a distribution is installed."""
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def report_page(
    out: Path,
    outcomes: Outcomes,
    rows: Sequence[dict[str, Any]],
    *,
    setting: Setting,
    facts: dict[str, Any],
) -> None:
    """Write the outcomes into the folder `out`."""
    first = min(trial.seed for trial in outcomes)
    dataset = digits(rate=RATES[0], seed=first)
    counted = min(evaluation.LAST_EPOCHS, setting.epochs)
    has_mlp = any(trial.method == "confident-learning" for trial in outcomes)
    results = {
        **facts,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": f"cpu ({platform.machine()}, {os.cpu_count()} cores), float32",
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in PACKAGES if has_package(name)},
        "seeds": sorted({trial.seed for trial in outcomes}),
        "num_train": len(dataset.train),
        "num_test": len(dataset.test),
        "counted_epochs": counted,
        "setting": asdict(setting),
        "mlp": asdict(MLP) if has_mlp else None,
        "suspects_rate": RATES[0],
        "comparison": rows,
        "trials": [
            {
                **asdict(trial),
                "test_accuracy": outcome.accuracy,
                "label_auroc": outcome.auroc,
                "wrong_share": float(np.mean(~outcome.label_is_true)),
                "labels_sha256": outcome.labels_sha256,
                "seconds": outcome.seconds,
            }
            for trial, outcome in outcomes.items()
        ],
    }
    parts = [
        {
            "title": title_of(rate),
            "rows": [cells(row) for row in rows if row["rate"] == rate],
            "verdict": verdict(rows, rate=rate),
        }
        for rate in RATES
    ]
    charts = [
        draw(
            title_of(rate),
            [
                mean_curve("RTM (ACTO)", outcomes_of(outcomes, method="acto", rate=rate), net="rtm"),
                mean_curve("NTM (ACTO)", outcomes_of(outcomes, method="acto", rate=rate), net="ntm"),
                mean_curve("Standard", outcomes_of(outcomes, method="standard", rate=rate), net="net"),
            ],
            warmup_epochs=setting.warmup_epochs,
            counted_epochs=counted,
        )
        for rate in RATES
    ]
    found = suspects(dataset, outcomes[Trial(method="acto", rate=RATES[0], seed=first)])
    demo_page.write(out, results, table=parts, charts=charts, suspects=found)


def mean_curve(name: str, outcomes: Sequence[Outcome], *, net: str) -> Curve:
    """Accuracy of a network over the epochs, averaged over the seeds."""
    accuracies = np.array([outcome.accuracies[net] for outcome in outcomes])
    return Curve(name=name, mean=accuracies.mean(0), deviation=accuracies.std(0, ddof=1))


def suspects(dataset: Dataset, outcome: Outcome) -> list[Suspect]:
    """The samples whose labels are trusted least, the worst first."""
    samples, names = dataset.train, dataset.class_names
    assert samples.pixels is not None
    return [
        Suspect(
            id=samples.ids[i],
            pixels=samples.pixels[i],
            given=names[samples.labels[i]],
            suggested=names[outcome.suggested[i]],
            label_quality=float(outcome.label_quality[i]),
            is_wrong=not outcome.label_is_true[i],
        )
        for i in np.argsort(outcome.label_quality, kind="stable")[:NUM_SUSPECTS].tolist()
    ]
