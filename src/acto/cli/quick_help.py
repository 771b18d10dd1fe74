"""The help of a command without what the command itself loads: a table holds what its parser says.

Torch takes seconds to load, and most commands need it for what they do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from acto.cli.parser import WANTED, Parser

TABLE = "help.json"
"""By the words that ask for it, of each parser its name, usage, description and arguments: each with its group, names,
nargs, metavar, text, and whether it is a flag that must be given. Of `acto train` those of ACTO on the digits."""


def print_help(words: Sequence[str]) -> bool:
    """Print the help of a command, say `["data", "check"]`; return whether there is one, and no parser is WANTED."""
    if WANTED.get() is not None:
        return False
    row = json.loads(files("acto.cli").joinpath(TABLE).read_text(encoding="utf-8")).get(" ".join(words))
    if row is not None:
        parser_of(row).print_help()
    return row is not None


def parser_of(row: Mapping[str, Any]) -> Parser:
    """A parser that prints the help of a row of TABLE; it is not there to parse anything."""
    parser = Parser(row["prog"], row["description"])
    parser.usage = row["usage"]
    groups = {group.title: group for group in parser._action_groups}
    for title, names, nargs, metavar, text, required in row["arguments"]:
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        how: dict[str, Any] = {"action": "store_true"} if nargs == 0 else {"nargs": nargs, "metavar": metavar}
        if required:
            how["required"] = True
        groups[title].add_argument(*names, help=text, **how)
    return parser
