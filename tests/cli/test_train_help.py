"""`acto train --help` needs no torch: a table holds what the settings' fields say.

    python tests/cli/test_train_help.py

writes the table anew.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import acto.cli
from acto.cli import main
from acto.cli.flags import help_table
from acto.cli.train_parser import TABLE

PLACE = Path(acto.cli.__file__).with_name(TABLE)


def table_text() -> str:
    """A setting a line, so that a change shows as one."""
    table = help_table()
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in table["settings"])
    return f'{{"short": {json.dumps(table["short"], indent=1)},\n"settings": [\n{rows}\n]}}\n'


def test_the_table_says_what_the_fields_say() -> None:
    mend = f"{PLACE} is out of date: run `python tests/cli/test_train_help.py`, which writes it anew"
    assert PLACE.read_text(encoding="utf-8") == table_text(), mend


def test_help_needs_no_torch() -> None:
    code = """
import sys
from acto.cli import main
assert main(["train", "--help"]) == 0
assert not {"torch", "numpy"} & set(sys.modules), sorted(sys.modules)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "usage: acto train" in shown
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
