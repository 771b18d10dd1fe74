"""The parser of flags that every command shares."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
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
