"""What is said and asked where nobody thinks of it: no data named, a budget of minutes, objects that are printed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import acto
import acto.runs.resolve
from acto.cli import main
from acto.cli.budget import Budget
from acto.cli.demo import _progress as progress_of_demo
from acto.cli.flags import ask_for_data
from acto.core.errors import UserError
from acto.data.samples import DataSpec
from acto.data.sources import load_data

TINY = ("--data", "digits", "--subset", "80", "--device", "cpu", "--net", "cnn_tiny", "--no-report", "--workers", "0")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_data_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "table.csv").write_text("a,label\n")
    (tmp_path / "notes.txt").write_text("")
    assert main(["train", "--epochs", "2"]) == 2
    said = capsys.readouterr().err
    assert "which data?" in said and "in this folder: photos/, table.csv\n" in said and "cifar10, " in said
    assert not (tmp_path / "runs").exists()
    assert main(["train", "--lr", "-1"]) == 2  # what is wrong anyway is said first
    assert "lr is -1.0" in capsys.readouterr().err
    assert main(["train", "--print-config"]) == 0


def test_on_a_terminal_it_asks() -> None:
    shown = Terminal()
    assert ask_for_data(Terminal("  photos \n"), shown) == "photos"
    assert shown.getvalue().endswith("data: ")
    with pytest.raises(UserError, match="no data were named"):
        ask_for_data(Terminal("\n"), Terminal())
    with pytest.raises(UserError, match="which data"):
        ask_for_data(Terminal("digits\n"), io.StringIO())


@pytest.mark.parametrize(
    "flags", [("--out", "full"), ("--device", "cuda:99"), ("--minutes", "0"), ("--minutes", "soon")]
)
def test_options_are_checked_before_data_are_read(
    flags: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: Any, **more: Any) -> None:
        raise AssertionError("the data were read")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    (tmp_path / "photos").mkdir()
    monkeypatch.setattr(acto.runs.resolve, "load_data", refuse)
    assert main(["train", "--data", "photos", *flags]) == 2
    assert "full is not empty" in (said := capsys.readouterr().err) or "cuda:99" in said or "--minutes takes" in said


def cost(*epochs: int) -> Any:
    phases = [SimpleNamespace(epochs=number, seconds_per_epoch=10.0 * (k + 1)) for k, number in enumerate(epochs)]
    return SimpleNamespace(phases=phases, evaluation_seconds=2.0)


def test_how_many_epochs_fit() -> None:
    now = iter([0.0, 60.0, 60.0, 60.0, 60.0, 540.0, 540.0])
    budget = Budget("10", clock=lambda: next(now))
    # 9 of 10 minutes, one is over: 480 s; an epoch takes (5 * 10 + 15 * 20) / 20 + 2 = 19.5 s.
    assert budget.epochs(cost(5, 15)) == 24 - 4  # no more than asked for
    assert budget.epochs(cost(50, 150)) == 24
    assert budget.epochs(cost(50, 150), looking=285.0) == 10
    assert budget.epochs(cost(50, 150), looking=1000.0) == 2
    assert budget.is_over(1.0) and not Budget("10", clock=lambda: 0.0).is_over(539.0)


def test_a_budget_that_runs_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run is finished, and goes on to its end when it is resumed, as if nothing had been."""
    calls: list[float] = []

    def is_over(self: Budget, seconds: float) -> bool:
        calls.append(seconds)
        return len(calls) == 2

    monkeypatch.setattr(Budget, "epochs", lambda self, cost, looking=0.0: 4)
    monkeypatch.setattr(Budget, "is_over", is_over)
    out = tmp_path / "run"
    assert main(["train", *TINY, "--epochs", "8", "--minutes", "3", "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert "4 epochs of 8 fit into 3 minutes" in said
    assert (
        f"2 epochs of 4 left away; model and report are those of the others. Go on with: acto train --resume {out}"
        in said
    )
    record = acto.read_run(out)
    assert (record.status["state"], record.summary and record.summary["epochs"]) == ("finished", 2)
    assert main(["predict", str(out), "digits", "--out", str(tmp_path / "p.csv")]) == 0
    assert main(["train", "--resume", str(out), "--no-report"]) == 0
    assert "going on after epoch 2 of 4: 2 epochs to come" in capsys.readouterr().err
    summary = json.loads((out / "summary.json").read_text())
    assert summary["epochs"] == 4 and "left_away" not in summary
    monkeypatch.setattr(Budget, "is_over", lambda self, seconds: False)
    assert main(["train", *TINY, "--epochs", "4", "--out", str(tmp_path / "whole")]) == 0
    for name in ("metrics.csv", "samples.csv", "net0.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_objects_say_what_they_are() -> None:
    data = load_data(DataSpec(source="digits"))
    assert repr(data) == (
        "<Dataset 'digits': 1,347 training and 450 test samples in 10 classes, pictures of 8x8 pixels in memory>"
    )
    assert repr(data.train.take(np.arange(1))) == "<1 sample: pictures of 8x8 pixels in memory>"
    report = acto.audit([0, 1, 1, 0] * 10, np.tile([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.9, 0.1]], (10, 1)))
    assert repr(report).startswith("<LabelReport: 10 of 40 labels in 2 classes look wrong, an estimated ")


def test_the_demo_shows_epochs_before_a_training_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_of_demo(2) as tell:
        tell(7)
        tell()
        tell(9)
    assert [line.partition(",")[0] for line in capsys.readouterr().err.splitlines()] == ["2 trainings", "1/2 trained"]
