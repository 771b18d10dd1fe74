"""The audit of labels: which are issues, how much noise there is, what is said, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from acto.core.errors import RunError, UserError
from acto.core.sample_columns import of_report
from acto.labels.audit import Trained, audit, find_issues, report_on
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
    report = audit(GIVEN, PROBS, class_names=["ant", "bee", "cat"], score="self_confidence", rule="confident_learning")
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
    found, predicted = find_issues(np.array(GIVEN), PROBS, robust=True)
    assert found.tolist() == [False, True, False, True, False, True] and predicted.tolist() == [0, 1, 1, 2, 2, 2]
    assert audit(GIVEN, PROBS, robust=True).facts["rule"] == "predicted_neq_given"
    assert audit(GIVEN, PROBS).facts["rule"] == "two_of_four"


def test_the_report_says_how_labels_were_judged() -> None:
    facts = audit(GIVEN, PROBS).facts
    assert facts["score"] == "relative_confidence"
    assert facts["rule_counts"]["confident_learning"] == 2 and facts["rule_counts"]["predicted_neq_given"] == 3
    named = audit(GIVEN, PROBS, rule="both", score="normalized_margin").facts
    assert (named["rule"], named["score"], "rule_counts" in named) == ("both", "normalized_margin", False)
    assert audit(GIVEN, PROBS, label_quality=[0.5] * 6).facts["score"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rule": "by_class"}, "unknown rule 'by_class'.*prune_by_class"),
        ({"rule": 3}, "unknown rule '3'"),
        ({"score": "margin"}, "unknown score 'margin'.*normalized_margin"),
        ({"score": ["self_confidence"]}, "unknown score"),
        ({"score": "self_confidence", "label_quality": [0.5] * 6}, "leave out score"),
    ],
)
def test_rules_and_scores_that_do_not_exist(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        audit(GIVEN, PROBS, **options)  # type: ignore[arg-type]


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
    assert back.warnings == report.warnings and [doubt.code for doubt in back.warnings] == ["weak_model", "few_samples"]
    assert back.look_first == report.look_first == {"0.9": 0, "0.75": 0}
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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("warnings", [{"code": "weak_model"}]),
        ("warnings", [{"code": "weak_model", "text": 3}]),
        ("warnings", [7]),
        ("warnings", 7),
        ("look_first", {"0.9": -1}),
        ("look_first", {"0.9": "many"}),
        ("look_first", {"0.9": 7}),
        ("look_first", [3]),
    ],
)
def test_a_report_with_damaged_warnings(tmp_path: Path, name: str, value: object) -> None:
    hostile().save(tmp_path)
    path = tmp_path / "label_report.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(RunError, match="damaged"):
        read_report(tmp_path)


def test_a_report_of_before_there_were_warnings(tmp_path: Path) -> None:
    hostile().save(tmp_path)
    path = tmp_path / "label_report.json"
    described = json.loads(path.read_text())
    del described["warnings"], described["look_first"]
    path.write_text(json.dumps(described))
    back = read_report(tmp_path)
    assert back.warnings == () and back.look_first == {}


def test_rows_are_plain_values() -> None:
    (row,) = audit(GIVEN, PROBS).rows([1])
    assert json.loads(json.dumps(row)) == row and row["is_label_issue"] is True
