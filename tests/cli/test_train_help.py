"""`acto COMMAND --help` needs no torch: a table holds what the parsers and the settings' fields say.

    python tests/cli/test_train_help.py

writes the table anew.
"""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import SUPPRESS
from pathlib import Path

import pytest

import acto.cli
from acto.cli import COMMANDS, main
from acto.cli.completion import parsers
from acto.cli.parser import Parser
from acto.cli.quick_help import TABLE, parser_of

PLACE = Path(acto.cli.__file__).with_name(TABLE)


def true_parsers() -> dict[str, Parser]:
    """By the words before --help; `acto data` shows what `acto data check` does."""
    found = parsers()
    return found | {"data": found["data check"]}


def table_text() -> str:
    """An argument a line, so that a change shows as one."""
    rows = []
    for words, parser in sorted(true_parsers().items()):
        assert not any(group.description for group in parser._action_groups) and parser.epilog is None, "not in TABLE"
        group_of = {id(action): group.title for group in parser._action_groups for action in group._group_actions}
        arguments = [
            json.dumps(
                [group_of[id(a)], a.option_strings or [a.dest], a.nargs, a.metavar, a.help,
                 bool(a.option_strings and a.required)],
                ensure_ascii=False,
            )
            for a in parser._actions
            if a.help != SUPPRESS and a.dest != "help"
        ]  # fmt: skip
        head = {"prog": parser.prog, "usage": parser.usage, "description": parser.description}
        head_text = json.dumps(head, ensure_ascii=False).removesuffix("}")
        rows.append(f'"{words}": {head_text}, "arguments": [\n' + ",\n".join(arguments) + "\n]}")
    return "{\n" + ",\n".join(rows) + "\n}\n"


def test_the_table_says_what_the_parsers_say() -> None:
    mend = f"{PLACE} is out of date: run `python tests/cli/test_train_help.py`, which writes it anew"
    assert PLACE.read_text(encoding="utf-8") == table_text(), mend


def test_a_help_from_the_table_is_that_of_the_parser() -> None:
    table = json.loads(PLACE.read_text(encoding="utf-8"))
    for words, parser in true_parsers().items():
        assert parser_of(table[words]).format_help() == parser.format_help(), words


def test_help_needs_no_torch() -> None:
    code = f"""
import sys
from acto.cli import main
for words in {[words.split() for words in json.loads(PLACE.read_text(encoding="utf-8"))]!r}:
    assert main([*words, "--help"]) == 0 == main([*words, "-h"])
assert not {{"torch", "numpy"}} & set(sys.modules), sorted(sys.modules)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for command in set(COMMANDS) - {"exchange"}:  # which says what its directions are
        assert f"usage: acto {command}" in shown
    assert (
        "(short: --epochs) Total number, those of `init_from` counted. At least 1. (a whole number; default: 32)"
        in " ".join(shown.split())
    )


def test_help_is_the_same_with_the_defaults_named(capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for named in ([], ["--data", "digits"], ["--method", "acto"]):
        assert main(["train", *named, "--help"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] == texts[2]


if __name__ == "__main__":
    PLACE.write_text(table_text(), encoding="utf-8")
    print(f"{PLACE} is written")
