"""`acto demo`: ACTO, plain training and confident learning on the same wrong labels, seed by seed.

Symmetric noise is put on scikit-learn's digits, and every method gets the same splits and the same labels. What counts
is the paired difference between two methods over the seeds: its 95 % interval says whether one is ahead. The settings
stand in acto.runs.recipes.by_data; they were chosen on Fashion-MNIST, as benchmarks/demo_settings.py tells.
"""

from __future__ import annotations

import math
import os
import platform
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from statistics import fmean, stdev
from types import FrameType
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from scipy.special import stdtrit

from acto.cli.exit_codes import Parser
from acto.cli.progress import duration
from acto.compare import demo_page
from acto.compare.demo_page import Curve, Suspect, draw
from acto.compare.demo_trials import RATES, Outcome, Outcomes, SmallMLP, Trial, digits, measure_all, trials_of
from acto.core.errors import UserError, check_range
from acto.core.resources import usable_cores
from acto.data.samples import Dataset
from acto.runs.recipes.by_data import Setting, setting_for
from acto.training import evaluation

MLP = SmallMLP()
NUM_SEEDS = 10
NUM_SUSPECTS = 24
TITLES = {"standard": "Standard", "confident-learning": "Confident learning", "acto": "ACTO"}
"""The methods, the one that the others are compared with at the end."""
CONFIDENCE = 0.95
PACKAGES = ("acto-lnl", "torch", "numpy", "scikit-learn", "cleanlab")
CLEANLAB_HINT = 'pip install "acto-lnl[cleanlab]"'


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A paired difference over the seeds and its interval."""

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """What may be said of it."""
        return "ahead" if self.low > 0 else "behind" if self.high < 0 else "undecided"


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Mean of the paired differences and its interval by Student's t.

    Args:
        ours: one number a seed, at least two.
        theirs: of the same seeds.
    """
    pairs = [a - b for a, b in zip(ours, theirs, strict=True)]
    reach = float(stdtrit(len(pairs) - 1, (1 + CONFIDENCE) / 2)) * stdev(pairs) / math.sqrt(len(pairs))
    mean = fmean(pairs)
    return Difference(mean=mean, low=mean - reach, high=mean + reach)


def of(outcomes: Outcomes, *, method: str, rate: float) -> list[Outcome]:
    """A method's outcomes at one rate, by seed."""
    chosen = [trial for trial in outcomes if trial.method == method and trial.rate == rate]
    return [outcomes[trial] for trial in sorted(chosen, key=lambda trial: trial.seed)]


def summarize(outcomes: Outcomes) -> list[dict[str, Any]]:
    """A row for each rate and method: means, deviations, and by how much ACTO is ahead of it. Plain values."""
    rows = []
    for rate in RATES:
        ours = [outcome.accuracy for outcome in of(outcomes, method="acto", rate=rate)]
        for method, title in TITLES.items():
            found = of(outcomes, method=method, rate=rate)
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


# The command.


def main(tokens: Sequence[str]) -> int:
    """`acto demo`; returns the exit code.

    Raises:
        UserError: for flags and folders that cannot be used.
    """
    parser = Parser(
        "acto demo",
        "Train ACTO, plain training and confident learning on digits with wrong labels, and compare them seed by seed.",
    )
    parser.add_argument("--out", metavar="DIR", help="folder of report.html, results.json and results.csv (runs/demo)")
    parser.add_argument("--seeds", type=int, metavar="N", help=f"how many seeds ({NUM_SEEDS})")
    parser.add_argument("--workers", type=int, metavar="N", help="processes of one thread each (2, or 1 on one core)")
    given = parser.given(tokens)
    out, num_seeds = Path(getattr(given, "out", "runs/demo")), getattr(given, "seeds", NUM_SEEDS)
    workers = getattr(given, "workers", min(2, usable_cores()))
    check_range("seeds", num_seeds, low=2)
    check_range("workers", workers, low=1)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {out}: {error.strerror}") from error
    methods = list(TITLES)
    if not _has("cleanlab"):
        methods.remove("confident-learning")
        print(f"note: confident learning is left out, it needs cleanlab: {CLEANLAB_HINT}", file=sys.stderr)

    setting, started = setting_for("digits"), time.monotonic()
    trials = trials_of(range(num_seeds), methods=methods)
    with _exit_when_terminated(), _progress(len(trials)) as tell:
        outcomes = measure_all(trials, setting, MLP, workers=workers, tell=tell)
    seconds = time.monotonic() - started

    rows = summarize(outcomes)
    console = Console(highlight=False)
    for rate in RATES:
        console.print(table(rows, rate=rate))
        console.print(verdict(rows, rate=rate), soft_wrap=True)
        console.print()
    console.print(
        f"{num_seeds} seeds in {duration(seconds)}. Accuracy: mean of the last {evaluation.LAST_EPOCHS} epochs, +- "
        "deviation over the seeds. ACTO is ahead only where the whole interval lies above 0. AUROC: of telling wrong "
        "labels from true ones.",
        soft_wrap=True,
    )
    facts = {"command": shlex.join(["acto", "demo", *tokens]), "seconds": seconds, "workers": workers}
    _report(out, outcomes, rows, setting=setting, facts=facts)
    console.print(f"look next at {out / 'report.html'}", soft_wrap=True)
    return 0


def _has(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


@contextmanager
def _exit_when_terminated() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that no worker is left behind; the exit code is 143."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """Shows on stderr how many trainings are done: a bar on a terminal, elsewhere a line for every tenth of them."""
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        columns = (TextColumn("trained"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=total)
            yield partial(bar.advance, task)
        return
    done, started = count(1), time.monotonic()

    def tell() -> None:
        number = next(done)
        if number * 10 // total > (number - 1) * 10 // total:
            print(f"{number}/{total} trained, {duration(time.monotonic() - started)}", file=sys.stderr, flush=True)

    print(f"{total} trainings", file=sys.stderr, flush=True)
    yield tell


def _report(
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
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES if _has(name)},
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
                mean_curve("RTM (ACTO)", of(outcomes, method="acto", rate=rate), net="rtm"),
                mean_curve("NTM (ACTO)", of(outcomes, method="acto", rate=rate), net="ntm"),
                mean_curve("Standard", of(outcomes, method="standard", rate=rate), net="net"),
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
