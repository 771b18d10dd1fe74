"""The parser of flags that every command shares."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from acto.core.errors import UserError, closest


class Parser(argparse.ArgumentParser):
    """Takes flags that are written out, leaves those that are not given out of the result, and raises UserError."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS)

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting."""
        raise UserError(f"{message} (`{self.prog} --help` tells more)")

    def given(self, tokens: Sequence[str]) -> argparse.Namespace:
        """What `tokens` give.

        Raises:
            UserError: for an unknown flag, with the nearest known one, and for a value of the wrong type.
        """
        found, unknown = self.parse_known_args(tokens)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            self.error(f"unknown argument {unknown[0]!r}.{closest(unknown[0].partition('=')[0], flags)}")
        return found


def out_file(text: str, *, source: str, suffixes: Sequence[str]) -> Path:
    """The file that `--out` names, refused before any work is done if nothing can be written there.

    Args:
        text: as it was typed.
        source: what is read: another file.
        suffixes: one of which the name must end in.

    Raises:
        UserError: says what is wrong with it.
    """
    out = Path(text).expanduser()
    if out.suffix not in suffixes:
        raise UserError(f"--out {text} must end in {' or '.join(suffixes)}")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out {text}: the folder {out.absolute().parent} does not exist")
    if out.is_dir():
        raise UserError(f"--out {text} is a folder")
    if out.exists() and os.path.exists(source) and out.samefile(source):
        raise UserError(f"--out {text} is the source itself: choose another file")
    return out
