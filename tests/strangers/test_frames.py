"""Data frames whose rows or columns are not what they seem: aligned, left out with a word, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from acto.core.errors import UserError
from acto.data.in_memory import as_dataset
from acto.data.samples import Dataset, DataSpec
from acto.data.sources import load_data
from acto.estimator import NoisyLabelClassifier
from acto.fitting import fit
from acto.labels.audit import audit
from acto.labels.report import LabelReport

pytestmark = pytest.mark.kind("frames")

right, refused = pytest.mark.right, pytest.mark.refused
COUNT = 48
WORDS = ["train", "train", "train", "test"] * 12


def frame_of(**columns: Any) -> pd.DataFrame:
    """Four features, the label x, y or z, and these columns."""
    values = np.random.default_rng(0).normal(size=(COUNT, 4))
    return pd.DataFrame(values, columns=list("abcd")).assign(label=list("xyz") * 16).assign(**columns)


def width(dataset: Dataset) -> int:
    assert dataset.train.features is not None
    return dataset.train.features.shape[1]


def manifest(folder: Path, **columns: Any) -> pd.DataFrame:
    """Pictures, and a table m.csv of them with path, label and these columns."""
    frame = pd.DataFrame({"path": [f"{k}.png" for k in range(COUNT)], "label": list("xyz") * 16}).assign(**columns)
    for k, name in enumerate(frame["path"]):
        picture = Image.linear_gradient("L").resize((8, 8)).convert("RGB")
        picture.putpixel((0, 0), (k, 2 * k, 0))
        picture.save(folder / name)
    frame.to_csv(folder / "m.csv", index=False)
    return frame


# A split column ---------------------------------------------------------------------------------------------------


@right
@pytest.mark.parametrize(
    "words", [WORDS, [word.replace("test", "Valid ") for word in WORDS], ["train", "val", "test", "val"] * 12]
)
def test_a_split_column_means_the_same_in_a_table_and_in_a_frame(tmp_path: Path, words: list[str]) -> None:
    frame = manifest(tmp_path, split=words)
    table = load_data(DataSpec(source=str(tmp_path / "m.csv")))
    frame["path"] = [str(tmp_path / name) for name in frame["path"]]
    dataset = as_dataset(frame, "label")
    for mine, theirs in ((dataset.train, table.train), (dataset.test, table.test)):
        assert [Path(id).name for id in mine.ids] == list(theirs.ids)
        assert mine.labels.tolist() == theirs.labels.tolist()
    assert len(dataset.test) == 12 and not dataset.test_labels_are_given
    assert len(dataset.notes) == len(table.notes) == ("val" in words)


@right
def test_features_ids_and_messages_follow_their_rows() -> None:
    frame = frame_of(split=WORDS)
    dataset = as_dataset(frame.drop(columns="label"), frame["label"], ids=[f"s{k}" for k in range(COUNT)])
    assert dataset.test.ids == tuple(f"s{k}" for k in range(3, COUNT, 4)) and width(dataset) == 4
    assert dataset.test.features is not None
    np.testing.assert_allclose(dataset.test.features, frame[list("abcd")].to_numpy()[3::4], rtol=1e-6)
    assert as_dataset(frame.set_axis([0] * COUNT), "label").test.ids[:2] == ("3", "7")
    with pytest.raises(UserError, match=r"test label is none of .* row 3: 'new', row 7"):
        as_dataset(frame.assign(label=["x", "y", "z", "new"] * 12), "label")


@right
def test_what_a_run_held_out_is_held_out_again() -> None:
    dataset = as_dataset(frame_of(split=[word.replace("test", "heldout") for word in WORDS]), "label")
    assert (len(dataset.train), len(dataset.test), dataset.test_labels_are_given) == (36, 12, True)


@right
def test_parts_that_were_divided_by_hand_keep_their_column() -> None:
    frame = frame_of(split=WORDS)
    train, test = frame[frame["split"] == "train"], frame[frame["split"] == "test"]
    dataset = as_dataset(train, "label", test=test)
    assert (len(dataset.train), len(dataset.test), width(dataset)) == (36, 12, 4)
    assert len(as_dataset(train, "label").train) == 33


@refused
@pytest.mark.parametrize(
    ("frame", "more", "says"),
    [
        (frame_of(split=[0, 0, 0, 1] * 12), {}, "'split', row 0 '0'. .*Rename the column to keep it as a feature"),
        (frame_of(split=["train", None, "train", "test"] * 12), {}, "'split', row 1"),
        (frame_of(split="test"), {}, "no row has the split 'train'"),
        (frame_of(split=WORDS), {"test": frame_of()}, "a test set is given, but the data have rows"),
        (frame_of(), {"test": frame_of(split=WORDS)}, "the test set has rows whose split is train"),
        (frame_of(is_test=[False, True] * 24), {}, "column 'is_test' looks like a split and would become a feature"),
        (frame_of(IsTrain=[0, 1] * 24), {}, "column 'IsTrain' looks like a split"),
        (frame_of(fold=[0, 1, 2, 3] * 12), {}, "column 'fold' looks like a split .*rename it or make it float"),
        (frame_of(Split=WORDS), {}, "column 'Split' holds splits: call it 'split'"),
        (frame_of(path="x.png", part=WORDS), {}, "column 'part' holds splits"),
        (frame_of(split=WORDS, label=["x", None, "y", "z"] * 12), {}, r"a label is missing \(12 rows\): row 1.*row 5"),
    ],
)  # fmt: skip
def test_splits_that_cannot_be_used_are_refused(frame: pd.DataFrame, more: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        as_dataset(frame, "label", **more)


@right
@pytest.mark.parametrize("name", ["Split", "SUBSET", "partition"])
def test_a_table_s_split_by_another_name_is_not_overlooked(tmp_path: Path, name: str) -> None:
    manifest(tmp_path, **{name: WORDS})
    (note, _) = load_data(DataSpec(source=str(tmp_path / "m.csv"))).notes
    assert f"column '{name}' of m.csv holds splits, and is not used: --data.split_column {name} divides" in note
    divided = load_data(DataSpec(source=str(tmp_path / "m.csv"), split_column=name))
    assert (len(divided.test), divided.notes) == (12, ())


@right
def test_a_column_that_may_be_a_split_is_noted_where_it_is_not_used(tmp_path: Path) -> None:
    frame = manifest(tmp_path, is_test=[0, 0, 0, 1] * 12, sets="train", true_label="x")
    notes = load_data(DataSpec(source=str(tmp_path / "m.csv"))).notes
    assert "column 'is_test' of m.csv looks like a split, and is not used" in notes[0] and len(notes) == 2
    frame["path"] = [str(tmp_path / name) for name in frame["path"]]
    notes = as_dataset(frame, "label").notes
    assert "column 'is_test' looks like a split: it is not used" in notes
    assert "column 'true_label' holds true labels: it is not used" in notes


# Columns that name rows -------------------------------------------------------------------------------------------

NAMING = {
    "id": range(COUNT, 2 * COUNT),
    "Unnamed: 0": range(COUNT),
    "uuid": [f"{k:08x}-aa" for k in range(COUNT)],
    "PassengerId": range(892, 892 + 5 * COUNT, 5),
    "nr": range(1, COUNT + 1),
    "shuffled": np.random.default_rng(1).permutation(COUNT),
    "nullable": pd.array(range(COUNT), dtype="Int64"),
    "true_label": [0, 1, 2] * 16,
    "set": 1,
}


@right
@pytest.mark.parametrize("name", NAMING)
def test_what_names_the_rows_is_no_feature(name: str) -> None:
    dataset = as_dataset(frame_of(**{name: NAMING[name]}), "label")
    assert width(dataset) == 4
    assert any(f"column '{name}'" in note and "left out: to keep it as a feature," in note for note in dataset.notes)


@right
@pytest.mark.parametrize(
    "columns",
    [{"sample_size": range(COUNT)[::-1], "doubled": np.arange(COUNT) * 1.0}, {"k": np.arange(COUNT) % 7}],
)
def test_features_stay_features(columns: Any) -> None:
    floats = {name: np.asarray(values, dtype=float) for name, values in columns.items()}
    dataset = as_dataset(frame_of(**floats), "label")
    assert width(dataset) == 4 + len(columns) and len(dataset.notes) == 1


@right
@pytest.mark.parametrize(("name", "values"), [("income", np.arange(COUNT) ** 2), ("machine_id", [1, 2] * 24)])
def test_what_may_be_an_id_is_used_and_said(name: str, values: Any) -> None:
    dataset = as_dataset(frame_of(**{name: values}), "label")
    assert width(dataset) == 5
    assert any(note.startswith(f"column '{name}'") and "is used as a feature" in note for note in dataset.notes)


@right
def test_fit_warns_and_predicts_frames_with_and_without_the_column() -> None:
    frame = frame_of(id=range(COUNT))
    with pytest.warns(UserWarning, match="column 'id' names the rows and is left out"):
        model = fit(frame, "label", epochs=1, net="mlp:8", device="cpu")
    expected = model.predict_proba(frame)
    assert np.array_equal(model.predict_proba(frame[list("dcba")]), expected)
    assert np.array_equal(model.predict_proba(frame.assign(split="nonsense")), expected)


@right
def test_tables_of_other_libraries() -> None:
    arrow = pytest.importorskip("pyarrow")
    table, labels = arrow.Table.from_pandas(frame_of(id=range(COUNT), split=WORDS)), arrow.array(list("xyz") * 16)
    assert len(as_dataset(table, "label").train) == 36 and width(as_dataset(table, "label")) == 4
    assert as_dataset(table.select(list("abcd")), labels).class_names == ("x", "y", "z")
    named = frame_of().set_axis([f"r{k}" for k in range(COUNT)])[list("abcd")]
    assert as_dataset(named, labels).class_names == ("x", "y", "z")


@refused
@pytest.mark.parametrize(
    ("data", "labels", "says"),
    [
        (frame_of(label=[0, 1, 2] * 16), pd.Series([0, 1, 2] * 16), "column 'label' is a copy of the labels"),
        (frame_of(id=range(COUNT))[["id", "label"]], "label", "no column beside the labels; column 'id' names"),
        (frame_of()[list("abcd")], frame_of()["label"].sample(frac=1), "labels.reindex.*labels.to_numpy"),
        (frame_of()[list("abcd")], frame_of()[["label", "a"]], "they look like 2 annotators"),
        (frame_of(id=[[1, 2]] * COUNT), "label", "column 'id' holds list, no single numbers or texts"),
    ],
)  # fmt: skip
def test_frames_that_would_teach_something_else(data: Any, labels: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        as_dataset(data, labels)


@refused
def test_a_table_that_cannot_become_a_data_frame_says_what_to_pass() -> None:
    class Table:
        def to_pandas(self) -> pd.DataFrame:
            raise ModuleNotFoundError("pyarrow is required")

    with pytest.raises(UserError, match=r"to_pandas\(\) of the Table fails .pyarrow is required.: pass to_numpy"):
        as_dataset(Table(), "label")


# NoisyLabelClassifier ---------------------------------------------------------------------------------------------


@right
def test_the_classifier_warns_of_columns_that_are_hardly_features() -> None:
    frame = frame_of(row_id=range(COUNT), is_test=[0, 1] * 24)
    with pytest.warns(UserWarning) as said:
        classifier = NoisyLabelClassifier(epochs=1, net="mlp:8").fit(frame.drop(columns="label"), frame["label"])
    assert ["'row_id'" in str(said[0].message), "'is_test'" in str(said[1].message), len(said)] == [True, True, 2]
    assert classifier.n_features_in_ == 6
    with pytest.raises(ValueError, match="feature names should match"):
        classifier.predict(frame.drop(columns="label").iloc[:, ::-1])


@refused
def test_the_classifier_takes_no_labels_of_other_rows() -> None:
    frame = frame_of()
    with pytest.raises(UserError, match="labels and data have different indexes"):
        NoisyLabelClassifier(epochs=1).fit(frame[list("abcd")], frame["label"].sample(frac=1, random_state=0))


# Probabilities ----------------------------------------------------------------------------------------------------

CLASSES = ["ant", "bee", "cat"]
GIVEN = pd.Series([CLASSES[k % 3] for k in range(30)], index=[f"r{k}" for k in range(30)])
PROBS = pd.DataFrame(np.eye(3)[np.arange(30) % 3] * 0.7 + 0.1, columns=CLASSES, index=GIVEN.index)
PROBS.iloc[4] = [0.8, 0.1, 0.1]
ROWS = np.random.default_rng(0).permutation(30)
NUMBERED = PROBS.reset_index(drop=True)
POSITIONS = PROBS.set_axis(range(3), axis=1)


def found(report: LabelReport) -> list[tuple[int, str]]:
    return [(row, report.columns["suggested_label"][row]) for row in np.flatnonzero(report.is_label_issue)]


@right
@pytest.mark.parametrize("names", [None, CLASSES])
@pytest.mark.parametrize(
    ("labels", "probs"),
    [
        (GIVEN, PROBS),
        (GIVEN, PROBS[["cat", "ant", "bee"]]),
        (GIVEN, PROBS.iloc[ROWS]),
        (GIVEN, PROBS.iloc[ROWS, [1, 2, 0]]),
        (GIVEN.tolist(), PROBS[["bee", "cat", "ant"]]),
        (GIVEN.reset_index(drop=True), NUMBERED.iloc[ROWS]),
        (GIVEN, NUMBERED),
        (GIVEN.set_axis([0] * 30), PROBS.set_axis([0] * 30)),
    ],
)
def test_probabilities_are_aligned_by_class_and_row(labels: Any, probs: pd.DataFrame, names: list[str] | None) -> None:
    report = audit(labels, probs, class_names=names)
    assert found(report) == [(4, "ant")]
    assert list(report.class_names) == (names or list(probs.columns))


@right
def test_numbered_columns_are_positions_and_other_columns_follow() -> None:
    assert found(audit(GIVEN, POSITIONS[[2, 0, 1]], class_names=CLASSES)) == [(4, "ant")]
    assert found(audit([k % 3 for k in range(30)], NUMBERED.set_axis(list("012"), axis=1)[list("201")])) == [(4, "0")]
    quality = pd.Series(np.linspace(0, 1, 30), index=GIVEN.index)
    paths = GIVEN.index.to_series() + ".png"
    report = audit(GIVEN, PROBS, label_quality=quality.iloc[ROWS], paths=paths.iloc[ROWS])
    np.testing.assert_allclose(report.label_quality, quality, rtol=1e-6)
    assert list(report.columns["path"]) == [f"r{k}.png" for k in range(30)]


@right
def test_probabilities_in_tables_of_other_libraries() -> None:
    arrow = pytest.importorskip("pyarrow")
    table = arrow.Table.from_pandas(NUMBERED[["cat", "ant", "bee"]], preserve_index=False)
    assert found(audit(arrow.array(GIVEN.tolist()), table, class_names=CLASSES)) == [(4, "ant")]


@refused
@pytest.mark.parametrize(
    ("labels", "probs", "names", "says"),
    [
        (GIVEN, PROBS.set_axis(["ant", "bee", "cow"], axis=1), CLASSES, "'cow' is only in one of them"),
        (GIVEN, PROBS.assign(id=1), CLASSES, "'id' is only in one of them"),
        (GIVEN, PROBS.set_axis(["ant", "ant", "cat"], axis=1), None, "pred_probs has 2 columns 'ant'"),
        (GIVEN, PROBS.set_axis([f"q{k}" for k in range(30)]), None, "pred_probs and labels have different indexes"),
        (GIVEN, PROBS.set_axis([*GIVEN.index[:-1], "r0"]), None, "pred_probs: 'r0' is in the index more than once"),
        (GIVEN.tolist(), NUMBERED.iloc[ROWS], None, "another order than the rows of the labels, which have no"),
        (GIVEN.reset_index(drop=True).iloc[ROWS], NUMBERED, None, "have one index, but in another order"),
        (["2", "0", "1"] * 10, POSITIONS, ["2", "0", "1"], "columns 0 to 2 of pred_probs may be the classes"),
        ([0, 1, 2] * 10, PROBS[["cat", "ant", "bee"]], None, "labels are numbers.*say with class_names"),
        (GIVEN[:5], PROBS, None, "labels has 5 entries, but pred_probs has 30 rows"),
    ],
)  # fmt: skip
def test_probabilities_that_fit_in_two_ways_or_in_none(labels: Any, probs: Any, names: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        audit(labels, probs, class_names=names)


@refused
def test_rows_named_otherwise_than_the_ids_are_not_taken_in_their_order() -> None:
    with pytest.raises(UserError, match="in another order"):
        audit(GIVEN.tolist(), PROBS.iloc[ROWS], ids=GIVEN.index)
    assert found(audit(GIVEN.tolist(), PROBS, ids=GIVEN.index)) == [(4, "ant")]
