"""Errors of commands: one message, and an exit code.

Exit codes: 0 done; 1 failed; 2 something given by the user cannot be used; 128 + its number after a signal, so 129 for
SIGHUP, 130 for SIGINT and 143 for SIGTERM. A terminal or a reader that goes away changes none of them, except where
the output is the command's work: 1.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from acto.core.errors import UserError
from acto.core.files import check_locale
from acto.core.signals import STOPPING, on_signals, signal_name
from acto.core.terminal import OutputGone, screens
from acto.core.waiting import Stalled


class Terminated(KeyboardInterrupt):
    """A signal reached a command: it ends as after Ctrl-C, its files and processes in order, with another exit code."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal_name(signum)}")
        self.exit_code = 128 + signum


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated(signum)


def guarded(command: Callable[[], int], *, lasting: bool = True) -> int:
    """Run `command`; turn an error into one message on stderr and an exit code.

    ACTO_DEBUG=1 lets errors through, traceback and all.

    Args:
        command: gives the exit code.
        lasting: it makes files, and goes on where nobody can read its output.
    """
    with screens(lasting=lasting), _plain_warnings():
        return _guarded(command)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show what a user has to know without the line of code that found it."""
    show = warnings.showwarning

    def shown(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if issubclass(category, Stalled):
            print(f"warning: {message}", file=sys.stderr, flush=True)
        else:
            show(message, category, *place)

    warnings.showwarning = shown  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.showwarning = show


def _guarded(command: Callable[[], int]) -> int:
    debug = os.environ.get("ACTO_DEBUG") == "1"
    try:
        with on_signals([number for number in STOPPING if number != signal.SIGINT], _terminate):
            code = command()
        sys.stdout.flush()
        return code
    except SystemExit as error:  # of a parser, which has said what it had to say
        return error.code if isinstance(error.code, int) else 0
    except KeyboardInterrupt as stop:
        _tell(str(stop) or "stopped")
        return stop.exit_code if isinstance(stop, Terminated) else 130
    except OutputGone:  # whoever read it has seen enough
        return 1
    except Exception as error:
        if debug:
            raise
        if isinstance(error, UnicodeEncodeError) and error.encoding == sys.getfilesystemencoding():
            error = _of_locale(error)
        _tell(f"error: {_described(error)}")
        return 2 if isinstance(error, ValueError) else 1


def _of_locale(error: UnicodeEncodeError) -> Exception:
    """A name from a table that no file has in this locale; any other text that cannot be encoded as it is."""
    try:
        check_locale([error.object])
    except UserError as refused:
        return refused
    return error


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _described(error: Exception) -> str:
    """An error of ours explains itself; of another's the kind is half of the message."""
    if isinstance(error, ValueError) or type(error).__module__.startswith("acto."):
        return str(error)
    return f"{type(error).__name__}: {error}\n(ACTO_DEBUG=1 shows where it happened)"
