"""`acto sweep`: many runs, each in a folder of its own, begun, resumed or skipped as their folders demand."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from acto.compare.sweep_launchers import (
    Item,
    Launcher,
    last_words,
    prepare,
    state_of,
)
from acto.compare.sweep_view import View
from acto.core.errors import RunError, UserError
from acto.core.locks import FolderLock
from acto.core.signals import STOPPING, on_signals
from acto.run_folder.reading import RunRecord, read_run

POLL_SECONDS = 0.2


# The command line.


# Running.


def run_all(items: Sequence[Item], launcher: Launcher, *, limit: int, view: View) -> int:
    """Do what is left to do of `items`, `limit` at a time; returns the number of a signal that stopped it, or 0.

    A failed run does not stop the others. After a signal the running ones are told to stop, and waited for.
    """
    for item in items:
        if item.outcome == "waiting":
            _observe(item)
    waiting = [item for item in items if item.outcome == "waiting"]
    running: list[Item] = []
    view.begin()
    with _signals() as stopped:
        while (waiting and not stopped) or running:
            while waiting and len(running) < limit and not stopped:
                item = waiting.pop(0)
                if _start(item, launcher):
                    running.append(item)
                else:
                    view.tell(item)
            if stopped:
                for item in running:
                    if item.outcome == "running" and item.handle is not None:
                        item.handle.stop()
                        item.outcome = "stopped"
            for item in [item for item in running if _ended(item)]:
                running.remove(item)
                view.tell(item)
            view.refresh()
            if running:
                time.sleep(POLL_SECONDS)
    return stopped[0] if stopped else 0


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that the numbers of arriving signals are put into."""
    arrived: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        arrived.append(signum)

    with on_signals(STOPPING, note):
        yield arrived


def _observe(item: Item) -> None:
    """Take in a run that is finished."""
    state, record = state_of(item.place.folder)
    if state == "finished" and record is not None:
        item.before = True
        _note_result(item, record)


def _note_result(item: Item, record: RunRecord) -> None:
    item.outcome = "finished"
    item.accuracy = (record.summary or {}).get("test_accuracy_last10")
    item.seconds = math.fsum(
        float(row[name] or 0) for row in record.timing for name in ("train_seconds", "eval_seconds")
    )


def _start(item: Item, launcher: Launcher) -> bool:
    """Start an item's run; False if another process has it, has done it, or it cannot be started."""
    try:
        item.claim = FolderLock(item.place.claim)
    except UserError:
        item.outcome = "in use"
        return False
    try:
        state, record = state_of(item.place.folder)
        if state == "finished" and record is not None:
            _note_result(item, record)
        elif state == "in use":
            item.outcome = "in use"
        elif state == "foreign":
            item.outcome, item.error = "failed", f"{item.place.folder} is not empty and holds no run"
        else:
            prepare(item.job, item.place)
            item.log_start = item.place.log.stat().st_size if item.place.log.exists() else 0
            item.handle, item.started = launcher.start(item.job, item.place), time.monotonic()
            item.outcome = "running"
            return True
    except (RunError, OSError) as error:
        item.outcome, item.error = "failed", str(error)
    item.claim.release()
    return False


def _ended(item: Item) -> bool:
    """Say whether a run has ended; then its outcome is in the item."""
    assert item.handle is not None and item.claim is not None
    code = item.handle.poll()
    if code is None:
        return False
    with contextlib.suppress(RunError, UserError):
        record = read_run(item.place.folder)
        if code == 0 and record.summary is not None:
            _note_result(item, record)
            item.wall = time.monotonic() - item.started if len(record.sessions) == 1 else None
    if item.outcome == "running":
        item.outcome = "failed"
        item.error = last_words(item.place.log, start=item.log_start, exit_code=code)
    item.claim.release()
    return True
