"""`acto completion`: what a shell needs to complete commands, flags and files when Tab is pressed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from acto.cli import COMMANDS, dispatch
from acto.cli.parser import WANTED, Parser
from acto.core.errors import MissingPackage, UserError, choose

SHELLS = ("bash", "zsh", "tcsh")
DIRECTIONS = {"data": ("check", "shrink"), "exchange": ("export", "import")}
"""Commands that have a parser for each second word."""
FOLDERS, FILES = {"DIR", "RUN", "FOLDER"}, {"FILE", "SOURCE", "DECISIONS", "VOTES", "STUDY.yaml"}
"""Names of values that are a folder, and those that are a file or a folder."""


def completion(tokens: Sequence[str]) -> int:
    """`acto completion SHELL`: print a script for the shell; returns the exit code.

    Raises:
        UserError: for a shell that is not known, and without shtab.
    """
    parser = Parser("acto completion", "Print a script that completes commands, flags and files in a shell.")
    parser.add_argument("shell", metavar="SHELL", help=f"one of {', '.join(SHELLS)}")
    shell = choose("shell", parser.given(tokens).shell, SHELLS)
    try:
        import shtab
    except ImportError as error:
        raise UserError('`acto completion` needs shtab: pip install "acto-lnl[completion]"') from error
    found = parsers()
    if lacking := without_parser(found):
        print(
            f"note: the flags of {', '.join(lacking)} are not completed, for a light installation lacks them: "
            "make the script anew after 'pip install \"acto-lnl[train]\"'",
            file=sys.stderr,
        )
    print(shtab.complete(tree(found), shell))
    return 0


def tree(found: Mapping[str, Parser]) -> argparse.ArgumentParser:
    """One parser of all commands, whose values say whether they are files or folders.

    Args:
        found: the commands' own parsers, as `parsers` returns them. A command without one is completed by its name.
    """
    import shtab

    root = argparse.ArgumentParser("acto")
    branches: dict[str, argparse._SubParsersAction[argparse.ArgumentParser]] = {"": root.add_subparsers()}
    for name in without_parser(found):
        branches[""].add_parser(name, help=name)
    for name, parser in found.items():
        *above, last = name.split()
        for word in above:
            if word not in branches:
                branches[word] = branches[""].add_parser(word, help=word).add_subparsers()  # shtab wants a help
        for action in parser._actions:
            kind = "DIRECTORY" if action.metavar in FOLDERS else "FILE" if action.metavar in FILES else None
            if kind is not None:
                action.complete = getattr(shtab, kind)  # type: ignore[attr-defined]
        about = (parser.description or "").partition(". ")[0]
        branch = branches[above[0] if above else ""].add_parser(last, parents=[parser], add_help=False, help=about)
        for flag in sorted(set(parser.flags()) - set(branch._option_string_actions)):  # short forms of settings
            branch.add_argument(flag)
    return root


def parsers() -> dict[str, Parser]:
    """The parser of every command, by the words that call it ("train", "data check", ...), in the order of the help.

    Those of commands that a light installation lacks are not among them.
    """
    found: list[Parser] = []
    before = WANTED.set(found)
    try:
        for command in COMMANDS:
            for words in [[word] for word in DIRECTIONS.get(command, ())] or [[]]:
                with suppress(SystemExit, MissingPackage):  # argparse ends with the first after a help
                    dispatch([command, *words, "--help"])
    finally:
        WANTED.reset(before)
    return {parser.prog.partition(" ")[2]: parser for parser in found}


def without_parser(found: Mapping[str, Parser]) -> list[str]:
    """Commands of which `parsers` found none."""
    return [command for command in COMMANDS if command not in {name.partition(" ")[0] for name in found}]
