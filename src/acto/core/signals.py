"""Signal handlers for a while."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], None]
"""Signal handler, as Python calls it."""


@contextmanager
def on_signals(numbers: Iterable[int], handler: Handler) -> Iterator[None]:
    """Let `handler` take these signals inside the block.

    Only the main thread of a process can: in another one whoever owns that handles the signals.
    """
    try:
        before = {number: signal.signal(number, handler) for number in numbers}
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
