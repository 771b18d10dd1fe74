"""`acto demo`: ACTO beside plain training on wrong labels."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TimeElapsedColumn, TimeRemainingColumn

from acto.cli.parser import Parser
from acto.cli.progress import Bar
from acto.compare.demo import MLP, NUM_SEEDS, TITLES, has_package, report_page, summarize, table, verdict
from acto.compare.demo_trials import RATES, measure_all, trials_of
from acto.core.errors import UserError, check_range
from acto.core.resources import usable_cores
from acto.core.terminal import for_drawing
from acto.core.text import counted, duration
from acto.runs.recipes.by_data import setting_for
from acto.training import evaluation

CLEANLAB_HINT = 'pip install "acto-lnl[cleanlab]"'


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
    if not has_package("cleanlab"):
        methods.remove("confident-learning")
        print(f"note: confident learning is left out, it needs cleanlab: {CLEANLAB_HINT}", file=sys.stderr)

    setting, started = setting_for("digits"), time.monotonic()
    trials = trials_of(range(num_seeds), methods=methods)
    with _progress(len(trials)) as tell:
        outcomes = measure_all(trials, setting, MLP, workers=workers, tell=tell)
    seconds = time.monotonic() - started

    rows = summarize(outcomes)
    console = Console(file=for_drawing(sys.stdout), highlight=False)
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
    report_page(out, outcomes, rows, setting=setting, facts=facts)
    print(f"look next at {out / 'report.html'}")
    return 0


@contextmanager
def _progress(total: int) -> Iterator[Callable[..., None]]:
    """Shows on stderr how many trainings are done: a bar on a terminal, elsewhere a line for every tenth of them.

    Told a number, it is that of the epochs so far, of all trainings together: the first training ends late.
    """
    done, started = count(1), time.monotonic()

    def tell(epochs: int | None = None) -> None:
        if epochs is not None:
            bar.show(total=total, epochs=counted(epochs, "epoch"), sign=f"{counted(epochs, 'epoch')} trained so far")
            return
        number = next(done)
        bar.show(number, total)
        if not bar.is_drawn and number * 10 // total > (number - 1) * 10 // total:
            bar.say(f"{number}/{total} trained, {duration(time.monotonic() - started)}")

    looks = ("trained", BarColumn(), MofNCompleteColumn(), "{task.fields[epochs]}", TimeElapsedColumn())
    with Bar(*looks, TimeRemainingColumn()) as bar:
        bar.show(0, total, epochs="")
        if not bar.is_drawn:
            bar.say(f"{total} trainings")
        yield tell
