"""The audit of labels: which are issues, how much noise there is, what is said, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from acto.core.errors import RunError, UserError
from acto.core.sample_columns import of_report
from acto.labels.audit import Trained, audit, estimate_noise, find_issues, report_on
from acto.labels.report import LabelReport, read_report

PROBS = np.array(
    [
        [0.90, 0.05, 0.05],  # given 0: as the model sees it
        [0.02, 0.95, 0.03],  # given 0: surely 1
        [0.10, 0.80, 0.10],  # given 1
        [0.30, 0.32, 0.38],  # given 0: predicted 2, but hardly
        [0.05, 0.05, 0.90],  # given 2
        [0.01, 0.01, 0.98],  # given 1: surely 2
    ]
)
GIVEN = [0, 0, 1, 0, 2, 1]


def trained() -> Trained:
    return Trained(
        columns={
            "times_selected": np.array([8, 0, 9, 2, 10, 1]),
            "reliability": np.array([0.8, 0.0, 0.9, 0.2, 1.0, 0.1]),
            "first_epoch_fit": np.array([0, -1, 0, 3, 0, 9]),
            "memorization": np.array([0.0, 0.7, 0.0, 0.1, 0.0, 0.0]),
            "visits": np.array([10] * 6),
        },
        other_predictions=(np.array([0, 1, 1, 2, 2, 0]),),
        epochs=10,
    )


def test_issues_and_suggestions() -> None:
    report = audit(GIVEN, PROBS, class_names=["ant", "bee", "cat"])
    assert report.is_label_issue.tolist() == [False, True, False, False, False, True]
    assert report.columns["suggested_label"] == ["", "bee", "", "", "", "cat"]
    assert report.columns["predicted_label"] == ["ant", "bee", "bee", "cat", "cat", "cat"]
    np.testing.assert_allclose(report.label_quality, [0.9, 0.02, 0.8, 0.3, 0.9, 0.01], rtol=1e-6)
    assert report.ranked().tolist() == [5, 1, 3, 2, 0, 4]
    assert report.facts["source"] == "pred_probs"
    assert list(report.columns) == [c.name for c in of_report() if c.name in report.columns]


def test_names_and_numbers_are_the_same_labels() -> None:
    names = ["ant", "bee", "cat"]
    by_name = audit([names[k] for k in GIVEN], PROBS, class_names=names)
    assert by_name.columns["given_label"] == audit(GIVEN, PROBS, class_names=names).columns["given_label"]


def test_tensors_and_frames() -> None:
    torch, pandas = pytest.importorskip("torch"), pytest.importorskip("pandas")
    plain = audit(GIVEN, PROBS)
    probs = torch.tensor(PROBS, dtype=torch.bfloat16, requires_grad=True)
    tensors = audit(torch.tensor(GIVEN), probs, label_quality=torch.tensor(plain.label_quality))
    frames = audit(pandas.Series(GIVEN, index=list("fedcba")), pandas.DataFrame(PROBS))
    for report in (tensors, frames):
        assert report.columns["given_label"] == plain.columns["given_label"]
        assert report.columns["suggested_label"] == plain.columns["suggested_label"]
    assert list(plain.to_frame().columns) == list(plain.columns)


def test_many_copies_of_one_sample_are_not_all_listed() -> None:
    given = [0] * 30 + [1] * 25
    probs = np.full((55, 2), 0.5)
    columns = report_on(np.array(given), probs, list("012")[: probs.shape[1]], duplicates=[range(55)]).columns
    assert columns["near_duplicates"][0] == "; ".join([*map(str, range(1, 21)), "and 34 more"])
    assert columns["conflicting_duplicates"][0] == "; ".join([*map(str, range(30, 50)), "and 5 more"])
    assert columns["conflicting_duplicates"][54] == "; ".join([*map(str, range(20)), "and 10 more"])
    assert (
        report_on(np.array([0, 0, 1]), np.full((3, 2), 0.5), ["0", "1"], duplicates=[(0, 1)]).columns[
            "conflicting_duplicates"
        ]
        == [""] * 3
    )


def test_a_robust_model_need_not_be_sure() -> None:
    given = np.array(GIVEN)
    assert find_issues(given, PROBS, robust=True)[0].tolist() == [False, True, False, True, False, True]
    # Class 2 is given to one sample, at 0.90: 0.38 is less. Class 1 is given to two, at 0.405 on average.
    assert find_issues(given, PROBS, robust=False)[0].tolist() == [False, True, False, False, False, True]


def test_the_threshold_is_reached_by_what_is_equal_to_it() -> None:
    probs = np.array([[0.25, 0.75, 0.0], [0.25, 0.75, 0.0], [0.25, 0.75, 0.0]])
    assert find_issues(np.array([1, 1, 0]), probs, robust=False)[0].tolist() == [False, False, True]


def test_the_threshold_is_that_of_the_predicted_class() -> None:
    # Class 0 is given to two samples, at (1 + 0.4) / 2 = 0.7 on average; class 1 at (0.6 + 0.4) / 2 = 0.5.
    # 0.6 lies between: it is enough for class 1 (second row), but not for class 0 (last row).
    probs = np.array([[1.0, 0.0], [0.4, 0.6], [0.4, 0.6], [0.6, 0.4]])
    assert find_issues(np.array([0, 0, 1, 1]), probs, robust=False)[0].tolist() == [False, True, False, False]


def test_what_training_saw_becomes_columns_and_words() -> None:
    report = report_on(np.array(GIVEN), PROBS, ["ant", "bee", "cat"], trained=trained(), duplicates=[[1, 2], [4, 5]])
    reasons = report.columns["reason"]
    assert reasons[1] == (
        "The model sees 'bee' (95 %), not 'ant' (2 %). Both networks say so. Training never took the label for clean. "
        "The model never predicted it in training. Only the network that memorizes fits it. Nearly the same sample "
        "has another label: 2."
    )
    assert reasons[5] == (
        "The model sees 'cat' (98 %), not 'bee' (1 %). The other network disagrees. "
        "Training took the label for clean in 1 of 10 visits. The model first predicted it late (epoch 10 of 10). "
        "Nearly the same sample has another label: 4."
    )
    assert reasons[0] == "" and reasons[2] == "Nearly the same sample has another label: 1."
    assert report.columns["near_duplicates"] == ["", "2", "1", "", "5", "4"]
    assert np.asarray(report.columns["networks_agree"]).tolist() == [True, True, True, True, True, False]


def test_exactly_half_is_late_and_is_memorized() -> None:
    # Half of 10 epochs is 5; counted from 0, epoch 5 is the sixth.
    seen = Trained(columns={"first_epoch_fit": np.array([4, 5]), "memorization": np.array([0.49, 0.5])}, epochs=10)
    probs = np.array([[0.25, 0.75], [0.25, 0.75]])
    early, late = report_on(np.array([0, 0]), probs, ["ant", "bee"], trained=seen, robust=True).columns["reason"]
    assert early == "The model sees 'bee' (75 %), not 'ant' (25 %)."
    assert late == (
        f"{early} The model first predicted it late (epoch 6 of 10). Only the network that memorizes fits it."
    )


def test_noise_by_hand() -> None:
    # Of 4 given 0, one is a 1; of 2 given 1, both are 2; nothing was given 3.
    given, right = np.array([0, 0, 0, 0, 1, 1, 2, 2]), np.array([0, 0, 0, 1, 2, 2, 2, 2])
    noise = estimate_noise(given, right, num_classes=4)
    assert noise.rate == 3 / 8
    assert noise.matrix.tolist() == [[0.75, 0.25, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert noise.counts.tolist() == [4, 2, 2, 0]
    assert 0 <= noise.rate_low < 3 / 8 < noise.rate_high <= 1
    assert noise.matrix_low[0, 1] == 0 and noise.matrix_high[0, 1] > 0.5
    # Of the right class 2 there are 4 samples: two were given 1, two 2. Nothing is a 3, and the 1 was given 0.
    assert noise.transition_matrix().tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 1]]
    assert noise.confusions(5) == [(1, 2, 2.0), (0, 1, 1.0)]


def test_given_classes_of_different_size_count_by_their_samples() -> None:
    # Of 4 given 0, three are a 1; of 2 given 1, one is a 0.
    noise = estimate_noise(np.array([0, 0, 0, 0, 1, 1]), np.array([0, 1, 1, 1, 0, 1]), num_classes=2)
    assert noise.counts.tolist() == [4, 2] and noise.matrix.tolist() == [[0.25, 0.75], [0.5, 0.5]]
    # Two are a 0: one was given 0, one 1. Four are a 1: three were given 0, one 1.
    assert noise.transition_matrix().tolist() == [[0.5, 0.5], [0.75, 0.25]]


def test_the_interval_holds_the_rate_of_a_new_draw() -> None:
    """Of 200 draws of 500 labels with 30 % noise, about 95 % of the intervals hold 30 %."""
    random = np.random.default_rng(1)
    held = 0
    for seed in range(200):
        given = random.integers(0, 3, 500)
        right = np.where(random.random(500) < 0.3, (given + 1) % 3, given)
        noise = estimate_noise(given, right, num_classes=3, seed=seed)
        held += noise.rate_low <= 0.3 <= noise.rate_high
    assert 0.90 <= held / 200 <= 0.99


@pytest.mark.parametrize(
    ("labels", "probs", "words"),
    [
        ([0, 1], PROBS, "labels has 2 entries, but pred_probs has 6 rows"),
        (GIVEN, np.where(np.eye(6, 3) > 0, np.nan, PROBS), r"NaN or infinite values: 3 rows \(0, 1, 2\)"),
        (GIVEN, PROBS * 2, r"must lie in \[0, 1\]"),
        (GIVEN, PROBS / 2, "add up to 1"),
        (GIVEN, PROBS[:, :1], "at least two classes"),
        (GIVEN, PROBS[0], "must be"),
        ([], np.zeros((0, 3)), "no rows"),
        ([0, 0, 1, 0, 2, 3], PROBS, "3"),
        ([0, 0, 1, 0, 2, -1], PROBS, "-1"),
        ([0, 0, 1, 0, 2, 0.5], PROBS, "whole numbers"),
        ([0, 0, 1, 0, 2, None], PROBS, "missing"),
        (GIVEN, "probabilities", "numbers"),
        (7, PROBS, "must be a list"),
    ],
)
def test_refused(labels: object, probs: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        audit(labels, probs)  # type: ignore[arg-type]


@pytest.mark.parametrize("names", [["ant", "bee"], ["ant", "ant", "bee"]])
def test_names_that_do_not_fit(names: list[str]) -> None:
    with pytest.raises(UserError, match="3 different names"):
        audit(GIVEN, PROBS, class_names=names)


def test_quality_out_of_range() -> None:
    with pytest.raises(UserError, match=r"label_quality must lie in \[0, 1\]: 1 row \(4\)"):
        audit(GIVEN, PROBS, label_quality=[0, 0, 0, 0, 1.5, 0])


def hostile() -> LabelReport:
    ids = ["=1+1", 'a"b.png', "<script>.png", "plain", "-x", "ä.png"]
    return report_on(np.array(GIVEN), PROBS, ["=ant", "<b>", "cat"], ids=ids, trained=trained())


def test_saved_and_read_again(tmp_path: Path) -> None:
    report = hostile()
    files = report.save(tmp_path / "new")
    back = read_report(tmp_path / "new")
    assert {file.name for file in files} >= {"label_report.csv", "label_report.json"}
    assert back.class_names == report.class_names and back.facts == report.facts
    assert list(back.columns) == list(report.columns)
    for name, column in report.columns.items():
        np.testing.assert_array_equal(np.asarray(back.columns[name]), np.asarray(column))
    np.testing.assert_array_equal(back.noise.matrix_high, report.noise.matrix_high)
    text = (tmp_path / "new" / "label_report.csv").read_text()
    assert "\n'=1+1," in text, "a spreadsheet would run this cell"


def test_parquet_holds_the_same(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    report = hostile()
    report.save(tmp_path)
    table = parquet.read_table(tmp_path / "label_report.parquet").to_pydict()
    assert table["id"] == report.columns["id"]
    assert table["is_label_issue"] == report.is_label_issue.tolist()


def test_a_damaged_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no label report"):
        read_report(tmp_path)
    hostile().save(tmp_path)
    described = json.loads((tmp_path / "label_report.json").read_text())
    del described["noise"]["rate"]
    (tmp_path / "label_report.json").write_text(json.dumps(described))
    with pytest.raises(RunError, match="damaged"):
        read_report(tmp_path)


def test_rows_are_plain_values() -> None:
    (row,) = audit(GIVEN, PROBS).rows([1])
    assert json.loads(json.dumps(row)) == row and row["is_label_issue"] is True
