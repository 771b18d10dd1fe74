"""`acto methods`: the methods in a table, or one method's card."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence

import yaml

from acto.cli.parser import Parser
from acto.core.errors import choose
from acto.core.settings import fields_of, plain
from acto.core.text import aligned
from acto.methods import METHODS
from acto.runs.resolve import section


def methods(tokens: Sequence[str]) -> int:
    """`acto methods [NAME]`: all methods in a table, or one method's card and settings."""
    parser = Parser("acto methods", "The methods in a table; with a NAME, that method's card and settings.")
    parser.add_argument("name", nargs="?", metavar="NAME")
    name = getattr(parser.given(tokens), "name", None)
    if name is None:
        rows = [("name", "venue", "networks", "views", "what it does")]
        rows += [
            (method.name, method.venue, str(method.num_nets), "+".join(method.views), method.title)
            for method in METHODS.values()
        ]
        print("\n".join(aligned(rows)))
        return 0
    method = METHODS[choose("method", name, METHODS)]
    print(inspect.getdoc(sys.modules[method.__module__]))
    print("\nSettings, with their defaults where no recipe says otherwise:")
    for field in fields_of(method.Config, section(method.name)):
        print(f"  --{field.key} {yaml.safe_dump(plain(field.default)).splitlines()[0]}\n      {field.text}")
    return 0
