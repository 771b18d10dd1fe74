"""The parser of flags that every command shares."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from acto.core.errors import UserError, closest
from acto.core.settings import Field, nested, plain, type_name

WANTED: ContextVar[list[Parser] | None] = ContextVar("WANTED", default=None)
"""A list that takes the parsers that are asked for their help, instead of printing it: see acto.cli.completion."""


class Parser(argparse.ArgumentParser):
    """Takes flags that are written out, leaves those that are not given out of the result, and raises UserError.

    Dashes and underscores are the same in a flag's name.
    """

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS)
        self._settings: set[str] = set()
        self._long: dict[str, str] = {}

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting."""
        raise UserError(f"{message} (`{self.prog} --help` tells more)")

    def print_help(self, file: Any = None) -> None:
        """Print the help, or hand the parser itself over where that is WANTED."""
        if (wanted := WANTED.get()) is None:
            super().print_help(file)
        else:
            wanted.append(self)

    def add_settings(
        self,
        fields: Iterable[Field],
        *,
        short: Mapping[str, str],
        shown: bool = True,
        bare: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Take a flag --KEY for each setting of a run, and short forms of them ({"--lr": "--protocol.plan.lr"}).

        The flags of those in `bare` may stand without a value, and then mean the one there.
        """
        short_of = {long: name for name, long in short.items()}
        groups = {}
        for field in fields:
            place, _, name = field.key.rpartition(".")
            if place not in groups:
                groups[place] = self.add_argument_group(place or "run")
            flag, default = f"--{field.key}", plain(field.default)
            said = f"(short: {short_of[flag]}) " if flag in short_of else ""
            shown_default = default if isinstance(default, str) else json.dumps(default)
            text = f"{said}{field.text} ({type_name(field.hint)}; default: {shown_default})".replace("%", "%%")
            alone: dict[str, Any] = {"nargs": "?", "const": bare[field.key]} if field.key in bare else {}
            groups[place].add_argument(flag, metavar=name.upper(), help=text if shown else argparse.SUPPRESS, **alone)
            self._settings.add(field.key)
        self._long |= short

    def divided(self, tokens: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
        """The command's own flags, the settings of a run (nested, their values texts), and what is neither."""
        found, unknown = self.parse_known_args([self._written_out(token) for token in tokens])
        own: dict[str, Any] = {}
        settings: dict[str, Any] = {}
        for name, value in vars(found).items():
            (settings if name in self._settings else own)[name] = value
        return own, nested(settings), unknown

    def given(self, tokens: Sequence[str]) -> argparse.Namespace:
        """Parse `tokens`; flags that are not given are left out.

        Raises:
            UserError: for an unknown flag, with the nearest known one, and for a value of the wrong type.
        """
        own, _, unknown = self.divided(tokens)
        self.refuse(unknown)
        return argparse.Namespace(**own)

    def refuse(self, unknown: Sequence[str]) -> None:
        """Raise UserError for the first of the arguments that are not known, with the nearest known flag."""
        if unknown:
            self.error(f"unknown argument {unknown[0]!r}.{closest(unknown[0].partition('=')[0], self.flags())}")

    def flags(self) -> list[str]:
        """Every flag in all its forms."""
        return [*self._option_string_actions, *self._long]

    def _written_out(self, token: str) -> str:
        if not token.startswith("--"):
            return token
        name, equals, value = token.partition("=")
        dashes, key = name.replace("_", "-"), f"--{name[2:].replace('-', '_')}"
        for form in (name, self._long.get(dashes), dashes, key):
            if form in self._option_string_actions:
                return f"{form}{equals}{value}"
        return token


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
