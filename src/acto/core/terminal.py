"""Standard output and standard error of a command, whatever is printed there and whoever has stopped reading it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from acto.core.text import visible

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EAGAIN)
"""Errors of a stream that may take more later: a full disk, a pipe that another program has told not to wait."""


class OutputGone(BrokenPipeError):
    """Nobody reads a command's output any longer, as in `acto methods | head -3`."""


class Screen:
    """A text stream for what comes from outside: names with control codes, in letters that the terminal may not have.

    Args:
        stream: is written to.
        lasting: go on silently where nothing can be written, because the terminal or the reader is gone; else raise.
        drawing: let control codes pass, for a progress bar. Who draws passes texts from outside through `visible`.
    """

    def __init__(self, stream: TextIO, *, lasting: bool, drawing: bool = False) -> None:
        self._stream, self._lasting, self._drawing = stream, lasting, drawing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write `text`; what cannot be shown comes as backslash codes."""
        shown = text if self._drawing else visible(text, keep="\n\t")
        if not shown.isascii():
            encoding = getattr(self._stream, "encoding", None) or "utf-8"
            shown = shown.encode(encoding, "backslashreplace").decode(encoding)
        self._try(lambda: self._stream.write(shown))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand over what was written."""
        self._try(self._stream.flush)

    def drawing(self) -> Screen:
        """The same stream for one who draws."""
        return Screen(self._stream, lasting=self._lasting, drawing=True)

    def close(self) -> None:
        """Hand over the rest. Python would try it again at its exit, and end with code 120: that goes to nowhere."""
        try:
            self._stream.flush()
        except OSError:
            self._drop()

    def _try(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except OSError as error:
            if not self._lasting:
                raise OutputGone(*error.args) if isinstance(error, BrokenPipeError) else error from None
            if error.errno not in _FULL:
                self._drop()

    def _drop(self) -> None:
        """Lead the descriptor to nowhere, for all that writes to it."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(nowhere, self._stream.fileno())
            finally:
                os.close(nowhere)


def for_drawing(stream: TextIO) -> TextIO:
    """The stream under a Screen, through which control codes pass; any other as it is."""
    return cast(TextIO, stream.drawing()) if isinstance(stream, Screen) else stream


def behind_screens() -> None:
    """Put Screens before the streams that rich puts in the place of the standard ones while it draws."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, Screen) and hasattr(stream, "rich_proxied_file"):
            setattr(sys, name, Screen(stream, lasting=True))


@contextmanager
def screens(*, lasting: bool) -> Iterator[None]:
    """Put Screens before standard output and standard error inside the block, also where they are closed.

    Args:
        lasting: of standard output; standard error always is.
    """
    _open_descriptors()
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:
        out, err = Screen(before[0] or nowhere, lasting=lasting), Screen(before[1] or nowhere, lasting=True)
        sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
        try:
            yield
        finally:
            out.close()
            err.close()
            sys.stdout, sys.stderr = before


def _open_descriptors() -> None:
    """Open those of 0, 1 and 2 that are closed: or a file of ours gets the number, and what is said stands in it."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
