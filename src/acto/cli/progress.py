"""What a run tells its user: a progress bar on a terminal, plain lines elsewhere, both on stderr; results on stdout."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from acto.core.text import columns, counted, duration, percent

HEARTBEAT_SECONDS = 30.0
"""Without a terminal, an epoch that takes longer shows a sign of life this often."""


class Reporter:
    """Tells what happens in a run, as an `acto.runs.events.Report`.

    Events: ``start``, ``step``, ``epoch``, ``note``, ``finish``. Leave the context to put the terminal back as it was.
    """

    def __init__(
        self,
        *,
        silent: bool = False,
        stream: TextIO | None = None,
        terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make one.

        Args:
            silent: say nothing, as in all but the first of several processes.
            stream: None: stderr.
            terminal: None: whether `stream` is one.
            clock: gives seconds.
        """
        self.silent = silent
        self.stream = sys.stderr if stream is None else stream
        # rich reads NO_COLOR and TERM by itself.
        console = Console(file=self.stream, force_terminal=terminal, highlight=False, soft_wrap=True)
        self.clock = clock
        self.bar = (
            Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[left]}"),
                console=console,
                transient=True,
            )
            if console.is_terminal and not silent
            else None
        )
        self.task: TaskID | None = None
        self.last_sign = clock()
        self.epochs = 0
        self.uncertain_epochs = 0
        self.accuracy_name = "test accuracy"
        self.seconds: deque[float] = deque(maxlen=3)

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def __call__(self, event: str, facts: Mapping[str, Any]) -> None:
        """Tell one event."""
        tell: dict[str, Callable[[Mapping[str, Any]], None]] = {
            "note": lambda facts: self.say(f"note: {facts['text']}"),
            "start": self._start,
            "step": self._step,
            "epoch": self._epoch,
            "finish": lambda summary: self._stop(),
        }
        tell[event](facts)

    def say(self, text: str) -> None:
        """One line, above the progress bar if there is one."""
        self.last_sign = self.clock()
        if self.silent:
            return
        if self.bar is not None:
            self.bar.console.print(text, markup=False)
        else:
            print(text, file=self.stream, flush=True)

    def _stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()

    def _start(self, facts: Mapping[str, Any]) -> None:
        run = facts["run"]
        self.epochs = run.protocol.epochs
        self.uncertain_epochs = getattr(run.config, "warmup_epochs", 0)
        if facts["test_labels_are_given"]:
            self.accuracy_name = "accuracy against the given labels"
        self.say(
            f"{run.method} on {facts['data']}: {facts['num_train']:,} training and {facts['num_test']:,} test samples, "
            f"{facts['num_classes']} classes"
        )
        if (rate := facts["noise"].get("rate_realised")) is not None:
            kind = facts["noise"].get("kind", "none")
            self.say(f"wrong labels: {percent(rate)} of the training set{'' if kind == 'none' else f' ({kind})'}")
        self.say(
            f"{run.net}, {counted(self.epochs, 'epoch')}, {run.protocol.batch_size} samples a step, "
            f"on {facts['device']} in {facts['precision']}"
        )
        self.say(f"folder: {facts['folder']}")
        if facts["epochs_done"]:
            self.say(f"going on after epoch {facts['epochs_done']} of {self.epochs}")
        if self.bar is not None:
            self.task = self.bar.add_task("", total=1, left="")
            self.bar.start()

    def _step(self, facts: Mapping[str, Any]) -> None:
        epoch, step, steps = facts["epoch"] + 1, facts["step"] + 1, facts["steps"]
        if self.bar is not None and self.task is not None:
            if step == 1:  # a new epoch, or a new turn of it
                self.bar.reset(self.task, total=steps)
            self.bar.update(self.task, completed=step, description=f"epoch {epoch}/{self.epochs}")
        elif self.clock() - self.last_sign >= HEARTBEAT_SECONDS:
            self.say(f"epoch {epoch}/{self.epochs}: step {step}/{steps}")

    def _epoch(self, row: Mapping[str, Any]) -> None:
        done = row["epoch"] + 1
        self.seconds.append(row["seconds"])
        parts = [f"epoch {done:>{len(str(self.epochs))}}/{self.epochs}", f"loss {row['loss']:.4g}"]
        if not math.isnan(row["test_accuracy"]):
            parts.append(f"{self.accuracy_name} {percent(row['test_accuracy'])}")
        if "selected_share" in row:
            parts.append(f"selected {percent(row['selected_share'])}")
        parts.append(duration(row["seconds"]))
        left = ""
        if done < self.epochs:
            # Epochs after the warm-up take longer, by how much is not known yet.
            sign = "more than " if done < self.uncertain_epochs < self.epochs else ""
            left = f"{sign}{duration((self.epochs - done) * sum(self.seconds) / len(self.seconds))} left"
            parts.append(left)
        self.say("  ".join(parts))
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, left=left)


def summary_lines(summary: Mapping[str, Any], folder: str) -> list[str]:
    """A finished run in words: the headline first, the best epoch marked as what it is."""
    against = "accuracy against the given labels" if summary["test_labels_are_given"] else "test accuracy"
    epochs = summary["epochs"]
    last = "the last 10 epochs" if epochs > 10 else f"all {epochs} epochs" if epochs > 1 else "the only epoch"
    rows = [
        (f"{against}, mean of {last}", percent(summary["test_accuracy_last10"])),
        ("last epoch", percent(summary["test_accuracy_last"])),
        ("best epoch (oracle: it takes the test labels to choose it)", percent(summary["test_accuracy_best_oracle"])),
    ]
    known = {
        "selection_precision": "share of the selected labels that are true",
        "selection_recall": "share of the true labels that were selected",
        "selection_f1": "F1 of the selection",
        "mining_open": "share of the last epoch's batches in which mining was open",
    }
    rows += [(text, percent(value)) for key, text in known.items() if (value := summary.get(key)) is not None]
    if (value := summary.get("label_quality_auroc")) is not None and not math.isnan(value):
        rows.append(("AUROC of telling true labels from wrong ones", f"{value:.3f}"))
    return [
        f"{summary['method']} on {summary['data']}, {counted(epochs, 'epoch')}, seed {summary['seed']}",
        *(f"  {line}" for line in columns(rows)),
        f"folder: {folder}",
    ]
