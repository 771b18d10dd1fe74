"""The audit of a run's own labels and of others: classes keep their numbers, rows their ids, files their names."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from acto.cli import main
from acto.cli.audit import audit, report_lines
from acto.cli.exchange import exchange
from acto.core.errors import UserError
from acto.data.for_prediction import read_labelled
from acto.fitting import fit
from acto.labels.exchange import export_report
from acto.labels.report import LabelReport, read_report
from acto.labels.run_audit import audit_run
from acto.run_folder.writing import RunFolder
from label_reports import report_of

ODD = os.fsdecode(b"3/x\xff; =1\n.png")


def paint(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.random.default_rng(level).normal(level, 20, (8, 8)).clip(0, 255).astype(np.uint8)
    with open(path, "wb") as file:
        Image.fromarray(grey).save(file, format="PNG")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of pictures in folders 1, 2 and 3; one is no picture, one has a name that is no UTF-8."""
    place = tmp_path_factory.mktemp("numbered")
    for label in (1, 2, 3):
        for k in range(12):
            paint(place / "data" / str(label) / f"{k}.png", 80 * (label - 1) + 20)
    paint(place / "data" / ODD, 40)
    (place / "data" / "2" / "bad.png").write_bytes(b"no picture")
    tokens = ["--epochs", "2", "--warmup-epochs", "1", "--batch-size", "8", "--device", "cpu", "--no-report"]
    source = ["--data", str(place / "data"), "--on-bad-image", "drop"]
    assert main(["train", *source, *tokens, "--out", str(place / "run")]) == 0
    return place / "run"


@pytest.fixture(scope="module")
def report(run: Path) -> LabelReport:
    return audit_run(run)


def test_classes_that_are_numbers_keep_their_names(report: LabelReport) -> None:
    """The second of the classes 1, 2, 3 has the number 1, and is not the class called 1."""
    assert report.class_names == ("1", "2", "3")
    assert [name.partition("/")[0] for name in report.columns["id"]] == report.columns["given_label"]
    assert report.noise.counts.tolist() == [report.columns["given_label"].count(name) for name in "123"]
    fitted = fit(np.arange(60.0).reshape(30, 2), np.arange(30) % 3 + 1, epochs=1, net="mlp:8", device="cpu")
    given = fitted.report.columns["given_label"]
    assert given == [str(int(name) % 3 + 1) for name in fitted.report.columns["id"]]


def test_small_pictures_keep_their_files(report: LabelReport, run: Path, tmp_path: Path) -> None:
    """They are decoded into memory for training, but other tools want the files."""
    folder = run.parent / "data"
    assert report.columns["path"] == [str(folder / name) for name in report.columns["id"]]
    assert "2/bad.png" not in report.columns["id"]
    export_report(report, tmp_path / "set.json", format="fiftyone")


def test_odd_file_names_are_printed(run: Path, report: LabelReport, capsys: pytest.CaptureFixture[str]) -> None:
    worst = LabelReport(
        class_names=report.class_names,
        columns={**report.columns, "is_label_issue": np.array([name == ODD for name in report.columns["id"]])},
        noise=report.noise,
        facts=report.facts,
    )
    if ODD not in report.columns["id"]:  # held out
        worst = report_of(["cat"], ["dog"], ids=[ODD])
    text = "\n".join(report_lines(worst, run))
    assert "3/x\\udcff; =1\\n.png" in text
    text.encode()
    assert audit([str(run), "--out", str(run.parent / "else where")]) == 0
    assert "next:" not in capsys.readouterr().out  # a review would look into the run's folder
    assert audit([str(run)]) == 0
    assert f"next: acto review {run}," in capsys.readouterr().out


@pytest.mark.parametrize(
    ("labels", "stated", "expected"),
    [
        ([1, 1, 1], None, ["dog", "dog", "dog"]),  # by number: one class only is no fault here
        (["owl", "owl", "cat"], None, ["owl", "owl", "cat"]),
        ([0, 1, 1], ["dog", "cat"], ["dog", "cat", "cat"]),  # the file's own list counts
    ],
)
def test_labels_of_new_data(labels: list[Any], stated: list[str] | None, expected: list[str], tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"x": np.zeros((3, 4)), "y": np.array(labels)}
    if stated:
        arrays["class_names"] = np.array(stated)
    np.savez(tmp_path / "new.npz", **arrays, test_x=np.ones((1, 4)), test_y=np.array(labels[:1]))
    names = ("cat", "dog", "owl")
    _, samples = read_labelled(str(tmp_path / "new.npz"), names)
    assert [names[k] for k in samples.labels.tolist()] == [*expected, expected[0]]
    assert samples.ids == ("0", "1", "2", "test/0")
    assert samples.features is not None and samples.features[:, 0].tolist() == [0, 0, 0, 1]


def test_new_data_of_other_classes(tmp_path: Path) -> None:
    np.savez(tmp_path / "new.npz", x=np.zeros((2, 4)), y=np.array(["cat", "cow"]))
    with pytest.raises(UserError, match=r"none of the 2 classes.*'cow'"):
        read_labelled(str(tmp_path / "new.npz"), ("cat", "dog"))
    np.savez(tmp_path / "own.npz", x=np.zeros((2, 4)), y=np.arange(2), class_names=np.array(["cat", "cow"]))
    with pytest.raises(UserError, match=r"does not know: cow. It knows cat, dog"):
        read_labelled(str(tmp_path / "own.npz"), ("cat", "dog"))


def test_a_batch_with_two_of_three_classes(run: Path, tmp_path: Path) -> None:
    for label in (2, 3):
        paint(tmp_path / "batch" / str(label) / "a.png", 80 * (label - 1) + 20)
    assert audit([str(run), "--data", str(tmp_path / "batch"), "--out", str(tmp_path / "found")]) == 0
    found = read_report(tmp_path / "found")
    assert found.columns["id"] == ["2/a.png", "3/a.png"] and found.columns["given_label"] == ["2", "3"]
    assert found.noise.counts.tolist() == [0, 1, 1]
    # What is decided there cannot be applied to the run's own data.
    assert "acto apply" not in (tmp_path / "found" / "report.html").read_text()


def test_an_interrupted_run_needs_nothing_of_the_run_before(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(48, 3)) + np.arange(48)[:, None] % 2
    np.savez(tmp_path / "table.npz", x=rows, y=np.arange(48) % 2)
    tokens = ["--data", str(tmp_path / "table.npz"), "--net", "mlp:8", "--device", "cpu", "--no-report"]
    assert main(["train", *tokens, "--epochs", "2", "--out", str(tmp_path / "first")]) == 0
    after = ["--init-from", str(tmp_path / "first"), "--epochs", "3", "--no-report"]
    assert main(["train", *after, "--out", str(tmp_path / "second")]) == 0
    (tmp_path / "second" / "summary.json").unlink()
    with RunFolder.open(tmp_path / "second") as folder:
        folder.set_status("interrupted", epoch=2)
    shutil.rmtree(tmp_path / "first")
    report = audit_run(tmp_path / "second")
    assert len(report) == 48 and np.flatnonzero(report.columns["held_out"]).tolist() == [44, 45, 46, 47]
    assert report.facts["state"] == "interrupted"
    report.save(tmp_path / "second")
    (tmp_path / "second" / "pred_probs.npy").unlink()
    arguments = [str(tmp_path / "second"), "--format", "cleanlab", "--out", str(tmp_path / "issues.csv")]
    assert exchange(["export", *arguments]) == 0 and not (tmp_path / "issues.npy").exists()
