"""Progress of a sweep, a live table on a terminal, plain lines elsewhere; and its results."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from acto.compare.sweep_launchers import Item, Outcome, state_of
from acto.core.errors import RunError
from acto.core.terminal import behind_screens, for_drawing
from acto.core.text import aligned, counted, duration, percent, visible
from acto.run_folder.reading import STATUS, read_json


class View:
    """A live table on a terminal, a line a run elsewhere, both on stderr."""

    def __init__(
        self,
        items: Sequence[Item],
        *,
        limit: int,
        stream: TextIO | None = None,
        terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make one.

        Args:
            items: of the sweep; read again each time.
            limit: how many run at the same time.
            stream: None: stderr.
            terminal: None: whether `stream` is one.
            clock: gives seconds.
        """
        self.items = items
        self.limit = limit
        self.clock = clock
        self.started = clock()
        self.stream = sys.stderr if stream is None else stream
        console = Console(file=for_drawing(self.stream), force_terminal=terminal, highlight=False)
        self.live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> View:
        if self.live is not None:
            self.live.start()
            behind_screens()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.stop()

    def begin(self) -> None:
        """Say what there is to do."""
        done = self._count("finished")
        text = f"{counted(len(self.items), 'run')}, {done} of them finished before; {self.limit} at a time"
        self._say(text)

    def tell(self, item: Item) -> None:
        """Say how a run ended."""
        parts = [item.outcome.ljust(8), item.place.name]
        if item.job.label != item.job.run.method:
            parts.append(f"({item.job.label})")
        if item.accuracy is not None:
            parts.append(percent(item.accuracy))
        if item.outcome == "finished" and item.seconds is not None:
            parts.append(duration(item.seconds))
        if item.error:
            parts.append(item.error)
        self._say(f"{'  '.join(parts)}  [{self.progress()}]")

    def progress(self) -> str:
        """Counts, the time so far, and what is left."""
        names: tuple[Outcome, ...] = ("finished", "failed", "running", "in use", "stopped", "waiting")
        counts = [f"{self._count(name)} {'left' if name == 'waiting' else name}" for name in names if self._count(name)]
        left = self.seconds_left()
        return ", ".join(
            [*counts, duration(self.clock() - self.started), *([f"about {duration(left)} left"] * (left > 0))]
        )

    def seconds_left(self) -> float:
        """An estimate: a run takes as long as the finished ones of its method, else as all of them; 0 if unknown."""
        known: dict[str, list[float]] = {}
        for item in self.items:
            if item.outcome == "finished" and item.seconds is not None:
                known.setdefault(item.job.run.method, []).append(item.wall or item.seconds)
        if not known:
            return 0.0
        anyone = fmean(seconds for group in known.values() for seconds in group)
        left = 0.0
        for item in self.items:
            if item.outcome in ("waiting", "running"):
                whole = fmean(known.get(item.job.run.method, [anyone]))
                left += max(0.0, whole - (self.clock() - item.started if item.outcome == "running" else 0.0))
        return left / self.limit

    def refresh(self) -> None:
        """Draw the table again."""
        if self.live is None:
            return
        table = Table("run", "epoch", "time", box=None, title=self.progress(), title_justify="left")
        for item in self.items:
            if item.outcome in ("running", "stopped"):
                seconds = duration(self.clock() - item.started) if item.started else ""
                table.add_row(Text(visible(item.place.name)), _epoch(item), seconds)
        self.live.update(table, refresh=True)

    def _say(self, text: str) -> None:
        if self.live is not None:
            self.live.console.print(visible(text), markup=False, soft_wrap=True)
        else:
            print(visible(text), file=self.stream, flush=True)

    def _count(self, outcome: Outcome) -> int:
        return sum(item.outcome == outcome for item in self.items)


def _epoch(item: Item) -> str:
    epochs = item.job.run.protocol.epochs
    try:
        status = read_json(item.place.folder / "status.json", STATUS)
    except RunError:
        status = None
    if status is None:
        return f"-/{epochs}"
    return f"{0 if status['epoch'] is None else status['epoch'] + 1}/{epochs}"


def plan_lines(items: Sequence[Item]) -> Iterator[str]:
    """List what a sweep would do."""
    words = {"new": "to do", "redo": "to do again", "resume": "interrupted: to go on", "foreign": "holds no run"}
    rows = []
    for item in items:
        # Of a run that was collected elsewhere there is no folder here.
        state = "finished" if item.before else state_of(item.place.folder)[0]
        rows.append((item.place.name, item.job.label, words.get(state, state)))
    yield from aligned(rows)
    finished = sum(row[2] == "finished" for row in rows)
    yield f"{counted(len(items), 'run')}, {finished} of them finished; nothing was written"


def result_lines(items: Sequence[Item], out: Path) -> Iterator[str]:
    """List the results of a sweep."""
    for item in items:
        if item.outcome == "failed":
            yield f"failed: {item.place.name}: {item.error}"
            yield f"  its log: {item.place.log}"
    counts = {name: sum(item.outcome == name for item in items) for name in ("finished", "failed", "in use", "stopped")}
    parts = [f"{counts['finished']} of {counted(len(items), 'run')} finished"]
    if counts["failed"]:
        parts.append(f"{counts['failed']} failed")
    if counts["in use"]:
        parts.append(f"{counts['in use']} in use by another process")
    if left := len(items) - sum(counts.values()) + counts["stopped"]:
        parts.append(f"{left} left: the same command goes on")
    yield f"{', '.join(parts)}. Folder: {out}"
    yield f"look next at: acto table study {out}"


def facts(item: Item) -> dict[str, Any]:
    """An item for --json."""
    run = item.job.run
    return {
        "name": item.place.name,
        "folder": str(item.place.folder),
        "method": run.method,
        "label": item.job.label,
        "data": run.data.source,
        "noise": run.data.noise.kind,
        "noise_rate": run.data.noise.rate,
        "seed": run.seed,
        "outcome": item.outcome,
        "test_accuracy_last10": item.accuracy,
        "seconds": item.seconds,
        "error": item.error or None,
    }
