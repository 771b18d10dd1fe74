"""Labels that a run held out are judged like all others: by a model that has not seen them, and marked."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import acto
from acto.cli import main
from acto.core.errors import RunError, UserError
from acto.data.samples import DataSpec
from acto.data.sources import load_data
from acto.labels.audit import report_on
from acto.labels.corrected_copy import Correction, apply_decisions
from acto.labels.decisions import DecisionLog
from acto.labels.page import render
from acto.labels.rate import Unseen
from acto.runs.outliers import ranked_trust
from labels.test_page import rows_of

COUNT, HELD_OUT = 90, 18
NAMES = ("ant", "bee", "cat")


def contents() -> tuple[Any, Any]:
    """Vectors around three centres, and their classes."""
    right = np.arange(COUNT) % 3
    return np.random.default_rng(0).normal(size=(COUNT, 4)) + 3 * np.eye(3, 4)[right], right


def train(data: Path, out: Path, *more: str) -> Path:
    tokens = ["--data.holdout_share", "0.2", "--epochs", "2", "--warmup-epochs", "1", "--device", "cpu", *more]
    assert main(["train", "--data", str(data), *tokens, "--out", str(out)]) == 0
    return out


def arrays(folder: Path) -> Path:
    values, right = contents()
    np.savez(folder / "data.npz", x=values.astype(np.float32), y=np.array(NAMES)[right])
    return train(folder / "data.npz", folder / "run", "--net", "mlp:16")


def table(folder: Path) -> Path:
    values, right = contents()
    frame = pd.DataFrame(values, columns=list("wxyz")).assign(label=np.array(NAMES)[right])
    frame.to_csv(folder / "data.csv", index=False)
    return train(folder / "data.csv", folder / "run", "--net", "mlp:16")


def manifest(folder: Path) -> Path:
    (folder / "photos").mkdir()
    random, right = np.random.default_rng(0), contents()[1]
    for row, k in enumerate(right):
        pixels = random.integers(0, 120, (8, 8, 3)).astype(np.uint8)
        pixels[..., k] += 120
        Image.fromarray(pixels).save(folder / "photos" / f"{row}.png")
    frame = pd.DataFrame({"path": [f"photos/{row}.png" for row in range(COUNT)], "label": np.array(NAMES)[right]})
    frame.assign(camera=np.arange(COUNT) // 9).to_csv(folder / "data.csv", index=False)
    return train(folder / "data.csv", folder / "run", "--data.group_column", "camera")


KINDS = {"arrays": arrays, "table": table, "manifest": manifest}


@pytest.fixture(scope="module", params=KINDS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return KINDS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def of_arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return arrays(tmp_path_factory.mktemp("of_arrays"))


# The report ---------------------------------------------------------------------------------------------------------


def test_every_label_is_judged(run: Path) -> None:
    report, record = acto.read_report(run), acto.read_run(run)
    config = record.config["data"]
    spec = DataSpec(source=config["source"], holdout_share=0.2, group_column=config["group_column"])
    data = load_data(spec)
    assert len(data.test) == HELD_OUT and len(report) == COUNT
    assert report.columns["id"] == [*data.train.ids, *data.test.ids]
    assert report.facts["takes_pretrained"] == (data.train.features is None)
    held_out = np.asarray(report.columns["held_out"])
    assert np.array_equal(held_out, np.arange(COUNT) >= COUNT - HELD_OUT)
    given = [NAMES[k] for k in [*data.train.labels, *data.test.labels]]
    assert report.columns["given_label"] == given
    # What the model holds of them, without the temperature that predictions have.
    model = acto.load_model(run)
    model.headline.temperature = 1.0
    probs = model.predict_proba(data.test)
    assert np.asarray(report.columns["prob_given"])[held_out] == pytest.approx(
        probs[np.arange(HELD_OUT), data.test.labels], abs=1e-5
    )
    trust = ranked_trust(*(np.asarray(report.columns[name])[held_out] for name in ("prob_given", "outlier")))
    assert np.array_equal(report.label_quality[held_out], trust.astype(np.float32))
    assert np.asarray(report.columns["predicted_label"])[held_out].tolist() == [NAMES[k] for k in probs.argmax(1)]
    assert np.array_equal(
        report.is_label_issue,
        np.asarray(report.columns["predicted_label"]) != np.asarray(report.columns["given_label"]),
    )
    assert report.noise.counts.tolist() == [30, 30, 30] and report.facts["num_held_out"] == HELD_OUT
    assert np.all(np.asarray(report.columns["visits"])[held_out] == 0) and np.all(
        np.asarray(report.columns["visits"])[~held_out] == 2
    )
    assert np.all(np.asarray(report.columns["first_epoch_fit"])[held_out] == -1)
    assert np.isnan(np.asarray(report.columns["mean_prob_given"])[held_out]).all()
    assert not any("training" in reason.lower() for reason in np.asarray(report.columns["reason"])[held_out])
    assert len(record.samples()["id"]) == COUNT - HELD_OUT == len(record.pred_probs())


def test_the_files_and_the_page_say_so(of_arrays: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open(of_arrays / "label_report.csv", newline="") as file:
        marks = [row["held_out"] for row in csv.DictReader(file)]
    assert marks == ["false"] * (COUNT - HELD_OUT) + ["true"] * HELD_OUT
    assert main(["audit", str(of_arrays), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_held_out"] == HELD_OUT
    assert main(["audit", str(of_arrays)]) == 0
    words = f"{HELD_OUT} of the {COUNT} samples were held out: the model had not seen their labels"
    assert words in capsys.readouterr().out
    page = render(acto.read_report(of_arrays), acto.read_run(of_arrays))
    assert words in page.decode()
    assert {row["row"]: row["held_out"] for row in rows_of(page)} == {
        row: row >= COUNT - HELD_OUT for row in range(COUNT)
    }


def test_with_a_test_set_nothing_is_held_out(tmp_path: Path) -> None:
    values, right = contents()
    np.savez(tmp_path / "data.npz", x=values, y=right, test_x=values[:9], test_y=right[:9])
    run = tmp_path / "run"
    tokens = ["--net", "mlp:4", "--epochs", "1", "--device", "cpu", "--out", str(run)]
    assert main(["train", "--data", str(tmp_path / "data.npz"), *tokens]) == 0
    report = acto.read_report(run)
    assert len(report) == COUNT and "held_out" not in report.columns and "num_held_out" not in report.facts
    assert not [*run.glob("held_out*")]


def test_a_test_set_tells_that_labels_were_learned_by_heart(tmp_path: Path) -> None:
    """Half of the labels are wrong, a plain network contradicts none: before, 0 % were wrong without a warning."""
    random, right = np.random.default_rng(0), np.arange(240) % 3
    values = random.normal(size=(240, 20)).astype(np.float32) + 1.5 * np.eye(3, 20, dtype=np.float32)[right]
    given = np.where(random.random(120) < 0.5, (right[:120] + random.integers(1, 3, 120)) % 3, right[:120])
    np.savez(tmp_path / "data.npz", x=values[:120], y=given, test_x=values[120:], test_y=right[120:])
    run = tmp_path / "run"
    tokens = ["--method", "standard", "--net", "mlp:64", "--epochs", "60", "--device", "cpu", "--out", str(run)]
    assert main(["train", "--data", str(tmp_path / "data.npz"), *tokens]) == 0
    report, record = acto.read_report(run), acto.read_run(run)
    missed = 1 - np.mean(record.last_accuracies())
    assert report.is_label_issue.mean() < 0.1 < 0.4 < missed
    assert [doubt.code for doubt in report.warnings if "--stop-early" not in doubt.text][-1] == "memorized"
    assert report.noise.rate_low <= np.mean(given != right[:120]) <= report.noise.rate_high
    assert report.noise.rate_high >= missed


def test_the_rate_is_that_of_the_samples_that_were_trained_on() -> None:
    random = np.random.default_rng(0)
    given = random.integers(0, 3, 400)
    probs = np.full((400, 3), 0.05)
    probs[np.arange(400), np.where(random.random(400) < 0.2, (given + 1) % 3, given)] = 0.9
    unseen = Unseen(agreement=0.7, count=100)
    alone = report_on(given[:300], probs[:300], NAMES, unseen=unseen, robust=True)
    # The model knows nothing of the others: all of its contradictions are its own errors.
    wrong = np.roll(np.eye(3)[given[300:]] * 0.85 + 0.05, 1, axis=1)
    beside = report_on(given, probs[:300], NAMES, unseen=unseen, robust=True, held_out=wrong)
    for name in ("rate", "rate_low", "rate_high", "share", "low", "high"):
        np.testing.assert_array_equal(getattr(alone.noise, name), getattr(beside.noise, name))
    assert beside.noise.counts.tolist() == np.bincount(given).tolist()
    assert [doubt.code for doubt in alone.warnings] == [doubt.code for doubt in beside.warnings]
    assert beside.is_label_issue[300:].all() and np.array_equal(beside.is_label_issue[:300], alone.is_label_issue)
    # A model without a sure contradiction gives no odds.
    assert beside.look_first["0.9"] <= alone.look_first["0.9"]


def test_an_interrupted_run_judges_them_too(tmp_path: Path) -> None:
    run = arrays(tmp_path)
    before = acto.read_report(run)
    for name in ("summary.json", "held_out_probs.npy", "held_out_predictions.npy"):
        (run / name).unlink()
    with acto.RunFolder.open(run) as folder:
        folder.set_status("interrupted", epoch=1)
    after = acto.audit_run(run)
    assert after.columns["id"] == before.columns["id"] and len(after) == COUNT
    assert np.asarray(after.columns["prob_given"]) == pytest.approx(np.asarray(before.columns["prob_given"]), abs=1e-5)


def test_damaged_predictions_are_told(tmp_path: Path) -> None:
    run = arrays(tmp_path)
    np.save(run / "held_out_probs.npy", np.full((3, 3), 1 / 3, np.float32))
    with pytest.raises(RunError, match=r"predictions of 3 samples, but 18 were held out"):
        acto.audit_run(run)
    (run / "held_out.json").write_text('{"ids": 3}')
    with pytest.raises(RunError, match=r"held_out\.json"):
        acto.audit_run(run)


def test_cleanlab_gets_probabilities_of_all(of_arrays: Path, tmp_path: Path) -> None:
    out = tmp_path / "issues.csv"
    assert main(["exchange", "export", str(of_arrays), "--format", "cleanlab", "--out", str(out)]) == 0
    assert len(np.load(tmp_path / "issues.npy")) == COUNT == len(out.read_text().splitlines()) - 1


def test_the_same_id_on_both_sides_is_told_apart(tmp_path: Path) -> None:
    values, right = contents()
    np.savez(
        tmp_path / "data.npz", x=values[9:], y=right[9:], test_x=values[:9], test_y=right[:9], test_is_held_out=True
    )
    run = train(tmp_path / "data.npz", tmp_path / "run", "--net", "mlp:16")
    ids = acto.read_report(run).columns["id"]
    assert len(set(ids)) == COUNT and ids[-9:] == [f"test/{row}" for row in range(9)]
    done = decided(run, {COUNT - 1: acto.read_report(run).class_names[0]})
    after = load_data(DataSpec(source=str(done.path)))
    assert after.test_labels_are_given and after.test.ids[-1] == "8" and after.test.labels[-1] == 0


# Decisions ----------------------------------------------------------------------------------------------------------


def decided(run: Path, labels: dict[int, str], *, remove: tuple[int, ...] = ()) -> Correction:
    (run / "decisions.csv").unlink(missing_ok=True)
    log = DecisionLog(run, acto.read_report(run))
    for row, label in labels.items():
        log.add(row, "accept", new_label=label)
    for row in remove:
        log.add(row, "remove")
    log.close()
    return apply_decisions(log.path, run)


def test_decisions_on_them_are_applied(run: Path) -> None:
    report = acto.read_report(run)
    ids, given = report.columns["id"], list(report.columns["given_label"])
    changed = {0: NAMES[NAMES.index(given[0]) - 1], COUNT - 1: NAMES[NAMES.index(given[-1]) - 1]}
    done = decided(run, changed, remove=(1, COUNT - 2))
    assert done.num_train == COUNT - HELD_OUT - 1
    assert sum(done.changed.values()) == 2 and sum(done.removed.values()) == 2
    spec = DataSpec(source=str(done.path))
    after = load_data(spec)
    labels = {
        name: after.class_names[k]
        for part in (after.train, after.test)
        for name, k in zip(part.ids, part.labels.tolist(), strict=True)
    }
    expected = {name: changed.get(row, given[row]) for row, name in enumerate(ids) if row not in (1, COUNT - 2)}
    assert labels == expected
    if after.train.rows is None:  # a table says nothing of splits: they are drawn anew
        assert after.test_labels_are_given and list(after.test.ids) == [*ids[COUNT - HELD_OUT : -2], ids[-1]]


def test_not_all_of_them_can_go(of_arrays: Path) -> None:
    with pytest.raises(UserError, match="no sample that was held out is left to test on"):
        decided(of_arrays, {}, remove=tuple(range(COUNT - HELD_OUT, COUNT)))


# Clean data ---------------------------------------------------------------------------------------------------------


def test_clean_digits_are_clean() -> None:
    """At most 2 % of right labels are suspected with the recipe for rows."""
    digits = load_digits()
    result = acto.fit((digits.data / 16).astype(np.float32), digits.target, device="cpu")
    report = result.report
    assert len(report) == 1797 and np.asarray(report.columns["held_out"]).sum() == pytest.approx(180, abs=3)
    assert report.is_label_issue.mean() <= 0.02 and report.noise.rate <= 0.02 and report.noise.rate_low == 0
    assert report.warnings == ()
