"""--stop-early: where a run ends, which model it keeps, and what its record says. The accuracies are scripted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from acto.cli import main
from acto.cli.flags import parse
from acto.compare.finished_runs import read_records
from acto.core.errors import UserError
from acto.data.in_memory import as_dataset
from acto.fitting import Fitted, fit
from acto.run_folder.reading import last_checkpoint, read_run
from acto.runs.events import EpochDone, Event
from acto.training import evaluation

RISES_TO_4 = [0.2, 0.3, 0.4, 0.5, 0.6, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9, 0.9]
"""With a patience of 3 epoch 4 is the best, and epochs 5 to 7 are its patience; what would come later is never seen."""
SAME = ("metrics.csv", "samples.csv", "pred_probs.npy", "net0.safetensors", "calibration.json", "summary.json")
X = np.random.default_rng(0).normal(size=(120, 4)) + 1.5 * (np.arange(120) % 2)[:, None]
Y = np.where(np.arange(120) < 30, 1 - np.arange(120) % 2, np.arange(120) % 2)
SMALL: dict[str, Any] = {
    **{"net": "mlp:16", "method": "standard", "device": "cpu", "batch_size": 32, "schedule": "constant"},
    **{"epochs": 12, "stop_early": 3},
}


def scripted(monkeypatch: pytest.MonkeyPatch, accuracies: Sequence[float]) -> None:
    monkeypatch.setattr(evaluation, "accuracy", lambda training, data: {"net": accuracies[training.epochs_done - 1]})


def fitted(out: Path, **settings: Any) -> Fitted:
    made = fit(X, Y, out=out, **{**SMALL, **settings})
    assert isinstance(made, Fitted)
    return made


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ended") / "run"
    with pytest.MonkeyPatch.context() as patch:
        scripted(patch, RISES_TO_4)
        fitted(out)
    return out


def test_the_model_is_that_of_the_best_epoch_and_the_record_says_so(
    ended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = read_run(ended)
    assert record.summary is not None and len(record.metrics) == 8
    assert record.summary["early_end"] == {
        **{"epoch": 4, "accuracy": pytest.approx(0.4), "num_held_out": 12, "patience": 3},
        **{"epochs_done": 8, "epochs_asked": 12},
    }
    assert (record.summary["epochs"], record.model_epochs) == (5, 5)
    assert record.summary["test_accuracy_last"] == record.summary["test_accuracy_best_oracle"] == 0.6
    assert record.summary["test_accuracy_last10"] == pytest.approx(0.4)
    smoothed = [row["smoothed_accuracy"] for row in record.metrics]
    assert smoothed == pytest.approx([0.2, 0.25, 0.3, 0.35, 0.4, 0.38, 0.34, 0.28])
    # With constant rates epochs 0 to 4 are those of a run of five epochs, in model, memory and probabilities.
    scripted(monkeypatch, RISES_TO_4)
    plain = fitted(tmp_path / "plain", epochs=5, stop_early=None)
    for name in ("samples.csv", "pred_probs.npy", "net0.safetensors"):
        assert (ended / name).read_bytes() == (tmp_path / "plain" / name).read_bytes(), name
    assert "early_end" not in plain.summary and "smoothed_accuracy" not in read_run(tmp_path / "plain").metrics[0]
    assert "best.pt" not in last_checkpoint(tmp_path / "plain").files  # type: ignore[union-attr]
    assert main(["doctor", str(ended)]) == 0
    assert "finished, 8 epochs of 12 done" in capsys.readouterr().out


def test_console_report_and_page_name_epoch_and_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, RISES_TO_4)
    np.savez(tmp_path / "points.npz", features=X.astype(np.float32), labels=Y)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    assert main(["train", "--data", str(tmp_path / "points.npz"), *flags, "--out", str(tmp_path / "run")]) == 0
    words = (
        "ended early, after epoch 8 of 12: the model is that of epoch 5, the best by the accuracy against the given "
        "labels of 12 held-out samples, 40.00 % smoothed (patience: 3)"
    )
    told = capsys.readouterr()
    assert words in told.out and "at most" in told.err and "standard on points, 5 epochs" in told.out
    facts = json.loads((tmp_path / "run" / "label_report.json").read_text())["facts"]
    assert words in facts["notes"] and (facts["epochs"], facts["epochs_asked"]) == (5, 12)
    page = (tmp_path / "run" / "report.html").read_text()
    assert words in page and "the model is that of epoch 5, chosen by them" in page


@pytest.mark.parametrize("cut", [0, 4, 6, 7])
def test_a_resumed_run_ends_with_the_same_bytes(
    ended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """Cut off before, at and after the best epoch, and between the last epoch and the end."""

    def cuts(event: Event) -> None:
        if isinstance(event, EpochDone) and event.epoch == cut:
            raise InterruptedError

    scripted(monkeypatch, RISES_TO_4)
    with pytest.raises(InterruptedError):
        fitted(tmp_path / "run", report=cuts)
    fitted(tmp_path / "run", resume=True)
    assert [name for name in SAME if (ended / name).read_bytes() != (tmp_path / "run" / name).read_bytes()] == []


def test_a_run_that_rises_to_its_end_and_one_that_is_measured_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.1 * k for k in range(5)])
    summary = fitted(tmp_path / "rises", epochs=4).summary
    assert (summary["early_end"]["epoch"], summary["early_end"]["epochs_done"], summary["epochs"]) == (3, 4, 4)
    # Epochs 1, 3, 5, ... are measured; the rest would be far better.
    scripted(monkeypatch, [0.99, 0.3, 0.99, 0.5, 0.99, 0.1, 0.99, 0.1] + 22 * [0.0])
    summary = fitted(tmp_path / "seldom", epochs=30, eval_every=2).summary
    assert (summary["early_end"]["epoch"], summary["early_end"]["epochs_done"]) == (3, 7)
    assert summary["test_accuracy_last10"] == pytest.approx(0.4)


def test_the_warm_up_of_a_method_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [0.9, 0.9, 0.9, 0.9, 0.5, 0.1, 0.1, 0.1, 0.1])
    summary = fitted(tmp_path / "run", method="acto", warmup_epochs=4, epochs=9, stop_early=2).summary
    assert (summary["early_end"]["epoch"], summary["early_end"]["epochs_done"]) == (4, 7)
    with pytest.raises(UserError, match="chooses among the epochs after the warm-up, and all 9 are warm-up"):
        fitted(tmp_path / "none", method="acto", warmup_epochs=9, epochs=9)
    assert not (tmp_path / "none").exists()


def test_another_run_goes_on_from_the_model_that_was_kept(
    ended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: dict[str, torch.Tensor] = {}

    def first(training: Any, data: Any) -> dict[str, float]:
        if not weights:
            weights.update({name: value.clone() for name, value in training.method.state_dict().items()})
        return {"net": 0.5}

    monkeypatch.setattr(evaluation, "accuracy", first)
    settings = {"epochs": 6, "lr": 1e-12, "weight_decay": 0.0, "stop_early": 3}
    new = as_dataset(X + 0.0, Y, ids=[str(i) for i in range(120)], test=X, test_labels=Y)
    with pytest.raises(UserError, match=r"stop_early is judged by training samples that are held out.*holdout_share"):
        fit(new, out=tmp_path / "on", init_from=ended, **settings)
    summary = fit(new, out=tmp_path / "on", init_from=ended, **{**settings, "stop_early": None}).summary
    assert summary["epochs"] == 6 and [row["epoch"] for row in read_run(tmp_path / "on").metrics] == list(range(6))
    saved = last_checkpoint(ended)
    assert saved is not None
    best = torch.load(saved.path("best.pt"), weights_only=True)
    assert best["epochs_done"] == 5
    for name, value in best["method"].items():
        if value.is_floating_point() and "running" not in name and name in weights and value.shape[:1] != (120,):
            torch.testing.assert_close(weights[name], value, msg=name)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--stop-early"], "digits none are: it has a test set, which must choose nothing"),
        (["--stop-early", "0"], "stop_early is 0"),
        (["--stop-early", "-3"], "stop_early is -3"),
        (["--stop-early", "soon"], "stop_early must be a whole number or null, but got 'soon'"),
        (["--stop-early", "2.5"], "stop_early must be a whole number or null, but got '2.5'"),
        (["--stop-early", "true"], "stop_early must be a whole number or null, but got 'true'"),
        (["--stop-eraly", "3"], "Did you mean '--stop-early'"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--data", "digits", "--epochs", "40", *flags, "--out", str(tmp_path / "run")]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_flag_alone_means_ten_epochs() -> None:
    for tokens in (["--stop-early"], ["--stop-early", "--epochs", "40"], ["--protocol.stop-early=10"]):
        assert parse(tokens).settings["protocol"]["stop_early"] == 10
    assert "stop_early" not in parse(["--epochs", "40"]).settings["protocol"]


def test_sweeps_papers_and_tables_have_none_of_it(
    ended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = read_records([ended])
    assert not found.records and "only runs that were trained to their end are compared" in found.damaged[0]
    sweep = ["sweep", "--methods", "standard", "--data", "digits", "--protocol.stop_early", "3"]
    assert main([*sweep, "--out", str(tmp_path / "sweep")]) == 2
    assert "stop_early is not for a sweep" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()
