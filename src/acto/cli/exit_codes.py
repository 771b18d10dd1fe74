"""Errors of commands: one message, and an exit code.

Exit codes: 0 done; 1 failed; 2 something given by the user cannot be used; 130 and 143 stopped by SIGINT and SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from acto.core.signals import on_signals


class Terminated(KeyboardInterrupt):
    """SIGTERM reached a command: it ends as after Ctrl-C, its files and processes in order, with another exit code."""


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated


def guarded(command: Callable[[], int]) -> int:
    """Run `command`; turn an error into one message on stderr and an exit code.

    ACTO_DEBUG=1 lets errors through, traceback and all.
    """
    debug = os.environ.get("ACTO_DEBUG") == "1"
    try:
        with on_signals([signal.SIGTERM], _terminate):
            code = command()
        sys.stdout.flush()
        return code
    except SystemExit as error:  # of a parser, which has said what it had to say
        return error.code if isinstance(error.code, int) else 0
    except KeyboardInterrupt as stop:
        _tell("stopped")
        return 143 if isinstance(stop, Terminated) else 130
    except BrokenPipeError:  # whoever read the output has seen enough, as in `acto methods | head -3`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            raise
        _tell(f"error: {_described(error)}")
        return 2 if isinstance(error, ValueError) else 1


def _tell(text: str) -> None:
    """Print to stderr; if that lies on a full disk, the exit code has to do."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _described(error: Exception) -> str:
    """An error of ours explains itself; of another's the kind is half of the message."""
    if isinstance(error, ValueError) or type(error).__module__.startswith("acto."):
        return str(error)
    return f"{type(error).__name__}: {error}\n(ACTO_DEBUG=1 shows where it happened)"
