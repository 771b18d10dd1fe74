"""Runs of before the package moved into rooms are read, audited and resumed.

tests/old_run holds two, made by the last commit before (torch 2.14.1) from 60 feature vectors of three classes, some 15
of them labelled wrongly: ACTO on mlp:8. `finished` went through its four epochs; `interrupted` is the same run, stopped
by SIGTERM when two were kept. Names of the machine were taken out, and pages and older checkpoints left out.
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import acto
from acto.cli import main
from acto.diagnostics.run_checks import examine

RUNS = Path(__file__).parents[1] / "old_run"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy to work in. Its data lie where the configuration says: beside the runs."""
    shutil.copytree(RUNS, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def rows(name: str) -> list[dict[str, str]]:
    with open(Path(name) / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_finished_run_is_read() -> None:
    record = acto.read_run("finished")
    assert record.status["state"] == "finished" and record.config["method"] == "acto" and len(record.metrics) == 4
    accuracies = [float(row["test_accuracy"]) for row in record.metrics]
    assert record.summary is not None and record.summary["test_accuracy_last10"] == pytest.approx(sum(accuracies) / 4)
    assert len(record.samples()["id"]) == 54 and record.pred_probs().shape == (54, 3)
    assert all(row["loss"] == float(text["loss"]) for row, text in zip(record.metrics, rows("finished"), strict=True))
    assert len(acto.read_report("finished")) == 54
    model = acto.load_model("finished")
    assert model.class_names == ("ash", "birch", "cedar")
    assert not [finding for finding in examine("finished") if finding.state == "BAD"]


@pytest.mark.parametrize("name", ["finished", "interrupted"])
def test_it_is_audited(name: str) -> None:
    assert main(["audit", name]) == 0
    report = acto.read_report(name)
    assert report.columns["id"] == acto.read_report("finished").columns["id"] and report.is_label_issue.any()


def test_the_audit_says_what_it_said() -> None:
    before = acto.read_report("finished")
    assert main(["audit", "finished"]) == 0
    after = acto.read_report("finished")
    for name, column in before.columns.items():
        np.testing.assert_array_equal(after.columns[name], column)
    # The share of suspects was the rate; now it covers the model's errors, which 54 samples leave wide open.
    assert after.noise.rate_low < before.noise.rate < after.noise.rate_high
    assert before.warnings == () and {doubt.code for doubt in after.warnings} >= {"weak_model"}


def test_it_is_resumed_and_ends_like_the_undisturbed_run() -> None:
    assert main(["train", "--resume", "interrupted"]) == 0
    assert acto.read_run("interrupted").status["state"] == "finished"
    before, after = rows("finished"), rows("interrupted")
    assert after[:2] == before[:2] and [row["epoch"] for row in after] == ["0", "1", "2", "3"]
    # Another processor may add in another order. On one that does not, all is equal to the bit.
    assert main(["train", "--config", "finished/config.yaml", "--out", "undisturbed"]) == 0
    same_machine = rows("undisturbed") == before
    for name in ("loss", "label_quality_auroc"):
        assert [float(row[name]) for row in after] == pytest.approx([float(row[name]) for row in before], rel=0.05)
    if same_machine:
        assert after == before
        for net in ("net0.safetensors", "net1.safetensors"):
            there, here = (safetensors.torch.load_file(f"{run}/{net}") for run in ("finished", "interrupted"))
            assert there.keys() == here.keys() and all(torch.equal(there[key], here[key]) for key in there)
        assert Path("interrupted/samples.csv").read_bytes() == Path("finished/samples.csv").read_bytes()


def test_its_settings_are_still_told_from_others() -> None:
    config = acto.read_run("interrupted").config
    config["protocol"]["epochs"] = 5
    with pytest.raises(acto.UserError, match=r"was begun with other settings: protocol.epochs: 4 there, 5 now"):
        acto.RunFolder.open("interrupted", config=config)
