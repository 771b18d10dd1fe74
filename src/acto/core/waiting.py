"""Waiting for files that may never come, as on a network folder whose server is gone: in words, and not for ever."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import TypeVar

from acto.core.text import visible

PATIENCE = 60.0
"""Seconds without any progress, after which the user is told what is waited for."""
GRACE = 2.0
"""Seconds that work under way has to end in when nobody wants it any more."""
_SHOWN = 5
Item = TypeVar("Item")
Result = TypeVar("Result")


class Stalled(UserWarning):
    """Files that have been waited for for a minute."""


def warn_of(files: Iterable[str]) -> None:
    """Warn that these files are waited for."""
    names = sorted(set(files))
    shown = ", ".join(map(visible, names[:_SHOWN])) + (f" and {len(names) - _SHOWN} more" * (len(names) > _SHOWN))
    text = f"waiting for {shown} for {PATIENCE:.0f} seconds: does that disk or network folder answer? Ctrl-C ends it"
    warnings.warn(text, Stalled, stacklevel=2)


def in_threads(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    threads: int,
    file_of: Callable[[Item], object] = str,
) -> Iterator[Result]:
    """Do `work` on every item, and give the results in the items' order.

    Left early, by an error or a signal, it waits for the threads for GRACE seconds: one may hang in the system, and
    neither this nor Python's exit waits for that.

    Args:
        work: takes one item; what it raises is raised here, in its turn.
        items: any.
        threads: how many at once.
        file_of: the file that an item stands for, named when nothing has come for PATIENCE seconds.
    """
    todo, done = SimpleQueue[tuple[int, Item]](), SimpleQueue[tuple[int, Result | None, BaseException | None]]()
    for job in enumerate(items):
        todo.put(job)
    at: dict[int, Item] = {}
    left = threading.Event()

    def serve(number: int) -> None:
        while not left.is_set():
            try:
                place, at[number] = todo.get_nowait()
            except Empty:
                break
            try:
                done.put((place, work(at[number]), None))
            except BaseException as error:
                done.put((place, None, error))
        at.pop(number, None)

    servers = [threading.Thread(target=serve, args=(i,), daemon=True) for i in range(min(threads, len(items)))]
    for server in servers:
        server.start()
    came: dict[int, tuple[Result | None, BaseException | None]] = {}
    try:
        for place in range(len(items)):
            while place not in came:
                try:
                    number, result, error = done.get(timeout=PATIENCE)
                    came[number] = result, error
                except Empty:
                    warn_of(str(file_of(item)) for item in list(at.values()))
            result, error = came.pop(place)
            if error is not None:
                raise error
            yield result  # type: ignore[misc]
    finally:
        left.set()
        for server in servers:
            server.join(GRACE / len(servers))
