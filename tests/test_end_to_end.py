"""What a user does: a folder of pictures with wrong labels, one command, the page, three corrections, and on."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from acto.cli import main
from acto.data.samples import DataSpec, Samples, join
from acto.data.sources import load_data
from acto.labels.report import read_report
from acto.run_folder.reading import read_run
from browser import Browser

NAMES = ("zero", "one <b>", 'two "quoted"')
WRONG = 0.3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 digits a class, 30 % of them in the wrong folder; the file's name begins with the true class."""
    digits = load_data(DataSpec(source="digits")).train
    assert digits.pixels is not None
    root = tmp_path_factory.mktemp("pictures") / "digits"
    random = np.random.RandomState(0)
    for name in NAMES:
        (root / name).mkdir(parents=True)
    for true in range(3):
        for number, row in enumerate(np.flatnonzero(digits.labels == true)[:90]):
            given = (true + random.randint(1, 3)) % 3 if random.random_sample() < WRONG else true
            picture = Image.fromarray(digits.pixels[row, :, :, 0]).resize((16, 16))
            picture.save(root / NAMES[given] / f"{true}-{number}.png")
    return root


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "mine"
    flags = "--epochs 12 --warmup-epochs 2 --net cnn_tiny --workers 0 --protocol.plan.lr 0.05 --batch-size 32"
    assert main(["train", "--data", str(folder), "--out", str(out), *flags.split()]) == 0
    return out


def test_the_report_finds_them(run: Path) -> None:
    report = read_report(run)
    truly = np.array([Path(name).name[0] != str(NAMES.index(Path(name).parent.name)) for name in report.columns["id"]])
    found = report.is_label_issue
    assert truly.mean() > 0.2
    assert (found & truly).sum() / found.sum() > 0.9 and (found & truly).sum() / truly.sum() > 0.9
    assert report.noise.rate_low <= truly.mean() <= report.noise.rate_high
    suggested = [NAMES.index(name) for name in np.array(report.columns["suggested_label"])[found & truly]]
    true = [int(Path(name).name[0]) for name in np.array(report.columns["id"])[found & truly]]
    assert np.mean(np.array(suggested) == np.array(true)) > 0.9


def everything(source: Path) -> Samples:
    """The samples of training, and those that are held out."""
    dataset = load_data(DataSpec(source=str(source)))
    return join([dataset.train, dataset.test])


def test_three_accepted_suggestions(run: Path, folder: Path, tmp_path: Path) -> None:
    before = everything(folder)
    browser = Browser(tmp_path / "browser")
    try:
        browser.open((run / "report.html").as_uri())
        browser.until("document.images.length > 10 && [0, 1, 2].every(k => document.images[k].naturalWidth > 0)")
        browser.press("a", "a", "a")
        decisions = tmp_path / "decisions.csv"
        decisions.write_bytes(browser.download("#download"))
        assert browser.complaints() == []
    finally:
        browser.close()

    assert main(["apply", str(decisions), "--run", str(run), "--out", str(folder.parent / "corrected.csv")]) == 0
    after = everything(folder.parent / "corrected.csv")
    changed = [name for name, old, new in zip(before.ids, before.labels, after.labels, strict=True) if old != new]
    with decisions.open(newline="", encoding="utf-8") as file:
        asked = {row["id"]: row["new_label"] for row in csv.DictReader(file)}
    assert sorted(changed) == sorted(asked) and len(asked) == 3
    assert all(NAMES[int(Path(name).name[0])] == label for name, label in asked.items()), (
        "a good label was called wrong"
    )

    out = tmp_path / "again"
    corrected = ["--data", str(folder.parent / "corrected.csv"), "--epochs", "14", "--out", str(out)]
    assert main(["train", *corrected, "--init-from", str(run)]) == 0
    facts = json.loads((out / "init_from.json").read_text())
    trained_on = set(read_run(run).samples()["id"]) & set(asked)  # the others were held out
    assert (facts["relabelled"], facts["new"], facts["gone"]) == (len(trained_on), 0, 0)
    assert not set(asked) & {
        row["id"] for row in read_report(out).rows(np.flatnonzero(read_report(out).is_label_issue))
    }


def test_an_interrupted_run_is_audited_from_its_checkpoint(run: Path, tmp_path: Path) -> None:
    whole, cut = read_report(run), tmp_path / "cut"
    cut.mkdir()
    for name in (
        ".acto-run",
        "config.yaml",
        "env.json",
        "metrics.csv",
        "timing.csv",
        "noisy_labels.npy",
        "labels.json",
        "held_out.json",
    ):
        (cut / name).write_bytes((run / name).read_bytes())
    for file in (run / "checkpoints").rglob("*"):
        if file.is_file():
            target = cut / file.relative_to(run)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    (cut / "status.json").write_text('{"state": "interrupted", "epoch": 11, "message": "stopped by SIGTERM"}')
    assert main(["audit", str(cut)]) == 0
    report = read_report(cut)
    assert report.facts["state"] == "interrupted" and read_run(cut).summary is None
    # The checkpoint is that of the last epoch here, so it knows what the finished run knew.
    np.testing.assert_allclose(report.label_quality, whole.label_quality, atol=1e-6)
    assert "interrupted" in (cut / "report.html").read_text()


def test_labels_that_the_run_never_saw(run: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(run), "--data", str(folder), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["source"] == "new data" and summary["num_samples"] == 270
    assert 0.2 < summary["noise_rate"] < 0.4
    assert (Path(summary["folder"]) / "report.html").is_file()


def test_other_classes_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("zero", "three"):
        (tmp_path / "new" / name).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(np.full((16, 16), number * 20, np.uint8)).save(tmp_path / "new" / name / f"{number}.png")
    assert main(["audit", str(run), "--data", str(tmp_path / "new")]) == 2
    assert "does not know: three" in capsys.readouterr().err


def test_a_run_without_an_epoch(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (".acto-run", "config.yaml", "status.json", "noisy_labels.npy", "labels.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    assert main(["audit", str(tmp_path)]) == 2
    assert "nothing to audit yet" in capsys.readouterr().err
