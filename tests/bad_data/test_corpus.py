"""Every input of the corpus is refused with a message that names the place, or handled as documented."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from acto.core.errors import UserError
from bad_data.cases import CASES
from bad_data.corpus import Case, Found, run, table


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case.reader}: {case.name}".encode("ascii", "replace").decode()
)
def test_case(case: Case, tmp_path: Path) -> None:
    outcome = run(case, tmp_path)
    assert outcome.kind == ("refused" if case.says else "handled"), outcome.text


def test_names_are_different() -> None:
    assert len({(case.reader, case.name) for case in CASES}) == len(CASES)


def _raises(folder: Path) -> Found:
    raise KeyError("x")


def _refuses(folder: Path) -> Found:
    raise UserError("list.csv row 3")


def test_the_judge_is_strict() -> None:
    """Else an empty table would prove nothing."""
    taken = Case(reader="r", name="n", make=lambda folder: None, read=lambda folder: Found(pairs={"a": ("cat", 1)}))
    right = replace(taken, pairs={"a": ("cat", 1)})
    for case, kind in (
        (right, "handled"),
        (replace(right, pairs={"a": ("cat", 2)}), "silent"),
        (replace(right, notes=("a note",)), "silent"),
        (replace(right, read=_raises), "crashed"),
        (replace(right, read=_refuses), "silent"),
        (replace(taken, says=("row 3",)), "silent"),
        (replace(taken, read=_refuses, says=("row 3",)), "refused"),
        (replace(taken, read=_refuses, says=("row 4",)), "silent"),
        (replace(taken, read=_raises, says=("row 4",)), "crashed"),
    ):
        assert run(case, Path()).kind == kind
    lines = table([right, replace(right, read=_raises)]).splitlines()
    assert lines[2:4] == ["| r | 2 | 0 | 1 | 1 | 0 |", "| **all** | 2 | 0 | 1 | 1 | 0 |"]
    assert lines[4] == "crashed: r, n: KeyError: 'x'"
