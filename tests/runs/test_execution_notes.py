"""What is said during a run of classes that starve."""

from __future__ import annotations

from pathlib import Path

import pytest

from acto.cli import main

FEW = [
    *("train", "--data", "digits", "--noise", "symmetric", "--noise-rate", "0.8", "--subset", "200", "--epochs", "4"),
    *("--acto.warmup_epochs", "1", "--device", "cpu", "--no-report", "--out"),
]


@pytest.mark.parametrize(("flags", "advised"), [(["--acto.form", "published"], True), ([], False)])
def test_classes_that_starve_are_named_with_what_may_help(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], advised: bool
) -> None:
    assert main([*FEW, str(tmp_path / "run"), *flags]) == 0
    said = capsys.readouterr()
    notes = [line for line in (said.out + said.err).splitlines() if "so they starve" in line]
    assert notes and "' (0 of " in notes[0]
    assert notes[0].endswith("--acto.form steady keeps RTM from following the few that are") == advised
