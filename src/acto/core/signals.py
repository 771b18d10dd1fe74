"""Signals: handlers for a while, names, and which ones ask a process to end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], None]
"""Signal handler, as Python calls it."""
_PLAIN = (signal.SIGINT, signal.SIGTERM)
"""Taken even where they are ignored: a shell's & has what it starts ignore Ctrl-C."""
_OTHER = (
    "SIGKILL", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGCONT", "SIGCHLD", "SIGURG", "SIGWINCH", "SIGINFO",
    "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP", "SIGEMT",
)  # fmt: skip
"""Those that end nothing or cannot be taken, and those of a process that has failed itself."""
STOPPING = tuple(sorted(map(int, signal.valid_signals() - {getattr(signal, name, None) for name in _OTHER})))
"""Numbers of the signals that end a process in good order: Ctrl-C, a closed terminal, a limit of processor time, a
batch system's warning and the real-time signals among them."""
_blocks: list[tuple[Handler, list[int]]] = []
"""Blocks of on_signals under way: the handler that the system has, and the signals that ended it."""


def signal_name(number: int) -> str:
    """Return its name, also of the real-time signals between the first and the last, which Python has no names for."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}" if hasattr(signal, "SIGRTMIN") else f"signal {number}"


@contextmanager
def on_signals(numbers: Iterable[int], handler: Handler) -> Iterator[None]:
    """Let `handler` take these signals inside the block.

    Only the main thread of a process can: in another one whoever owns that handles the signals. Other signals than
    SIGINT and SIGTERM are left alone where they are ignored (nohup) or have a handler from elsewhere. When one has
    raised an error, more of them change nothing: a terminal that closes sends SIGHUP several times.
    """
    ended_by: list[int] = []

    def first(signum: int, frame: FrameType | None) -> None:
        if ended_by and signum not in _PLAIN:
            return
        try:
            handler(signum, frame)
        except BaseException:
            for _, each in _blocks:
                each.append(signum)
            raise

    ours = [signal.SIG_DFL, *(taken for taken, _ in _blocks)]
    taken = [number for number in numbers if number in _PLAIN or signal.getsignal(number) in ours]
    try:
        before = {number: signal.signal(number, first) for number in taken}
    except ValueError:  # not in the main thread
        yield
        return
    block = (first, ended_by)
    _blocks.append(block)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
        _blocks.remove(block)


@contextmanager
def spared_children() -> Iterator[None]:
    """Let processes that start inside the block be reached by SIGTERM only.

    What a terminal sends to all of its processes is for the main one to answer, which ends the others in good order.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set(STOPPING) - {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
