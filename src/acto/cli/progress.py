"""Progress of a run: a bar on a terminal, plain lines elsewhere, both on stderr; results on stdout."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TimeRemainingColumn

from acto.core.terminal import behind_screens, for_drawing
from acto.core.text import aligned, counted, duration, percent, visible
from acto.run_folder.reading import early_end_in_words
from acto.runs.events import EpochDone, Event, Note, RunFinished, RunStarted, StepDone

HEARTBEAT_SECONDS = 30.0
"""Without a terminal, work that takes longer shows a sign of life this often."""


class Bar:
    """A progress bar on a terminal, elsewhere a line now and then. Leave the context to put the terminal back."""

    def __init__(
        self,
        *looks: str | ProgressColumn,
        silent: bool = False,
        stream: TextIO | None = None,
        terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make one; it appears when it is first shown.

        Args:
            *looks: columns of rich.progress.
            silent: say nothing, as in all but the first of several processes.
            stream: None: stderr.
            terminal: None: whether `stream` is one.
            clock: gives seconds.
        """
        self.silent = silent
        self.stream = sys.stderr if stream is None else stream
        # rich reads NO_COLOR and TERM by itself.
        console = Console(
            file=for_drawing(self.stream), force_terminal=terminal, highlight=False, soft_wrap=True, emoji=False
        )
        self.is_drawn = console.is_terminal and not silent
        self._progress = Progress(*looks, console=console, transient=True)
        self._task: TaskID | None = None
        self._clock = clock
        self._last_sign = clock()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def say(self, text: str) -> None:
        """One line, above the bar if there is one."""
        self._last_sign = self._clock()
        if self.is_drawn:
            self._progress.console.print(visible(text), markup=False)
        elif not self.silent:
            print(visible(text), file=self.stream, flush=True)

    def show(
        self, done: int | None = None, total: int | None = None, *, anew: bool = False, sign: str = "", **texts: Any
    ) -> None:
        """Show that so many of `total` are done; None: as many as before.

        Args:
            done: number.
            total: number.
            anew: the speed of what was done before says nothing about the rest.
            sign: said after a long silence where there is no bar.
            **texts: the columns' fields, and "description".
        """
        if not self.is_drawn:
            if sign and self._clock() - self._last_sign >= HEARTBEAT_SECONDS:
                self.say(sign)
            return
        if self._task is None:
            self._task = self._progress.add_task("")
        elif anew:
            self._progress.reset(self._task, total=total)
        self._progress.update(self._task, completed=done, total=total, **texts)
        self._progress.start()
        behind_screens()

    def stop(self) -> None:
        """Put the terminal back as it was."""
        if self._task is not None:
            self._progress.stop()


class Reporter:
    """A listener of a run that tells on stderr what happens. Leave the context to put the terminal back as it was."""

    def __init__(self, **options: Any) -> None:
        """Make one; `options` are those of Bar."""
        remaining = TimeRemainingColumn(compact=True)
        step = "{task.fields[what]} {task.completed:.0f}/{task.total:.0f}"
        self.bar = Bar("{task.description}", BarColumn(), step, remaining, "{task.fields[left]}", **options)
        self.epochs = 0
        self.uncertain_epochs = 0
        self.may_end_early = False
        self.accuracy_name = "test accuracy"
        self.seconds: deque[float] = deque(maxlen=3)

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def __call__(self, event: Event) -> None:
        """Tell one event; one that is not known is passed over."""
        match event:
            case Note():
                self.say(f"note: {event.text}")
            case RunStarted():
                self._start(event)
            case StepDone():
                self._step(event)
            case EpochDone():
                self._epoch(event)
            case RunFinished():
                self.bar.stop()

    def say(self, text: str) -> None:
        """One line, above the progress bar if there is one."""
        self.bar.say(text)

    def looked(self, done: int, total: int) -> None:
        """Show how many pictures a frozen network has looked at."""
        sign = f"{done:,} of {total:,} pictures"
        self.bar.show(done, total, anew=done == 0, sign=sign, description="features", what="picture", left="")

    def _start(self, event: RunStarted) -> None:
        run = event.run
        self.epochs = run.protocol.epochs
        self.may_end_early = run.protocol.stop_early is not None
        self.uncertain_epochs = getattr(run.config, "warmup_epochs", 0)
        if event.test_labels_are_given:
            self.accuracy_name = "accuracy against the given labels"
        self.say(
            f"{run.method} on {event.data}: {event.num_train:,} training and {counted(event.num_test, 'test sample')}, "
            f"{event.num_classes} classes"
        )
        if (rate := event.noise.get("rate_realised")) is not None:
            kind = event.noise.get("kind", "none")
            self.say(f"wrong labels: {percent(rate)} of the training set{'' if kind == 'none' else f' ({kind})'}")
        self.say(
            f"{run.net}, {counted(self.epochs, 'epoch')}, {counted(run.protocol.batch_size, 'sample')} a step, "
            f"on {event.device} in {event.precision}"
        )
        self.say(f"folder: {event.folder}")
        if event.epochs_done:
            more = self.epochs - event.epochs_done
            self.say(f"going on after epoch {event.epochs_done} of {self.epochs}: {counted(more, 'epoch')} to come")
        self.bar.show(0, 1, anew=True, what="step", left="")

    def _step(self, event: StepDone) -> None:
        epoch, step, steps = f"epoch {event.epoch + 1}/{self.epochs}", event.step + 1, event.steps
        sign = f"{epoch}: step {step}/{steps}"
        # Step 1 is that of a new epoch, or of a new turn of it.
        self.bar.show(step, steps, anew=step == 1, sign=sign, description=epoch)

    def _epoch(self, event: EpochDone) -> None:
        done, row = event.epoch + 1, event.metrics
        self.seconds.append(event.seconds)
        parts = [f"epoch {done:>{len(str(self.epochs))}}/{self.epochs}", f"loss {row['loss']:.4g}"]
        if not math.isnan(row["test_accuracy"]):
            parts.append(f"{self.accuracy_name} {percent(row['test_accuracy'])}")
        if "selected_share" in row:
            parts.append(f"selected {percent(row['selected_share'])}")
        parts.append(duration(event.seconds))
        left = ""
        if done < self.epochs:
            # Epochs after the warm-up take longer, by how much is not known yet.
            sign = "at most " if self.may_end_early else ""
            sign = "more than " if done < self.uncertain_epochs < self.epochs else sign
            left = f"{sign}{duration((self.epochs - done) * sum(self.seconds) / len(self.seconds))} left"
            parts.append(left)
        self.say("  ".join(parts))
        self.bar.show(left=left)


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
        *([early_end_in_words(summary["early_end"])] if "early_end" in summary else []),
        *(f"  {line}" for line in aligned(rows)),
        f"folder: {folder}",
    ]
