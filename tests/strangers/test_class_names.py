"""Labels that move to other classes, because a number may be the name of a class or its position."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset
from torch.utils.data import Dataset as TorchDataset
from torchvision.datasets import ImageFolder

import acto
from acto.cli import main
from acto.core.errors import UserError
from acto.data.containers import gather
from acto.data.decision_file import to_csv
from acto.data.for_prediction import read_labelled
from acto.data.in_memory import as_dataset
from acto.data.noise import NoiseSpec
from acto.data.readers.label_files import read_human_labels
from acto.data.samples import Dataset, DataSpec, Raw
from acto.data.sources import load_data, read
from acto.labels.corrected_copy import apply_decisions
from acto.run_folder.writing import RunFolder
from acto.runs.recipes.by_data import setting_for
from acto.runs.recipes.recipe import recipe
from label_reports import report_of

pytestmark = pytest.mark.kind("class positions against class names")

OF_FOLDERS = sorted(map(str, range(11)))
"""0, 1, 10, 2, ...: numbers in the order in which ImageFolder lists them."""
POSITIONS = np.array([0, 1, 2] * 6)
X = np.random.default_rng(0).normal(size=(18, 4)).astype(np.float32)
TURNED = ["2", "0", "1"]
ODD = ["1", "2", "other"]
DIFFER = "may be names or positions"


def named(data: Dataset | Raw, split: str = "train") -> list[str]:
    return [data.class_names[k] for k in getattr(data, split).labels.tolist()]


def everything(data: Dataset) -> dict[str, str]:
    """The class of each sample by its id, whether it was held out or not."""
    return dict(zip(data.train.ids + data.test.ids, named(data) + named(data, "test"), strict=True))


def npz(folder: Path, **arrays: Any) -> Raw:
    np.savez(folder / "a.npz", **{"x": X, **arrays})
    return read(DataSpec(source=str(folder / "a.npz")))


def pictures(folder: Path, classes: Sequence[str], count: int = 6, *, flat: bool = False) -> list[str]:
    """Small pictures in a folder a class, or all in one folder; returns their paths below `folder`."""
    paths = []
    for number, name in enumerate(classes):
        for k in range(count):
            path = folder / "all" / f"{name}_{k}.png" if flat else folder / name / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), 10 * k + number, np.uint8)).save(path)
            paths.append(path.relative_to(folder).as_posix())
    return paths


def manifest(folder: Path, labels: Sequence[str], truth: Sequence[str] | None = None, *, name: str = "m.csv") -> Path:
    paths = pictures(folder, ["p"], len(labels), flat=True)
    mark = "\t" if name.endswith("tsv") else ","
    rows = [["path", "label", "true_label"], *zip(paths, labels, truth or labels, strict=True)]
    (folder / name).write_text("".join(mark.join(row) + "\n" for row in rows))
    return folder / name


class Pairs(TorchDataset[Any]):
    def __init__(self, labels: Sequence[Any], **facts: Any) -> None:
        self.labels = labels
        self.__dict__.update(facts)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> Any:
        return torch.from_numpy(X[row]), self.labels[row]


# Positions in a list of numbers -----------------------------------------------------------------------------------


@pytest.mark.refused
@pytest.mark.parametrize(
    "form",
    [np.asarray, np.ndarray.tolist, torch.from_numpy, pd.Series, np.float64],
    ids=["array", "list", "tensor", "series", "floats"],
)
def test_audit_of_numbers_in_another_order(form: Any) -> None:
    labels = np.arange(198) % 11
    probs = np.full((198, 11), 0.01)
    probs[np.arange(198), labels] = 0.9
    with pytest.raises(UserError, match=rf"{DIFFER}.* by name, .* by position.*row .*labels\[?.*\.astype\(str\)"):
        acto.audit(form(labels), probs, class_names=OF_FOLDERS)


@pytest.mark.right
def test_audit_as_the_refusal_says() -> None:
    labels = np.arange(198) % 11
    for names in (OF_FOLDERS, [*map(int, OF_FOLDERS)]):
        as_positions, as_names = np.array(names, str)[labels], labels.astype(str)
        for given, column in ((as_positions, labels), (as_names, [OF_FOLDERS.index(name) for name in as_names])):
            probs = np.full((198, 11), 0.01)
            probs[np.arange(198), column] = 0.9
            assert not acto.audit(given, probs, class_names=names).is_label_issue.any()


@pytest.mark.right
@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["1", "2", "3"], [0, 1, 2]),  # 0 is no name
        (["1", "2", "3"], [1, 2, 3]),  # 3 is no position
        (["01", "02", "03"], [1, 2, 3]),
        (["01", "02", "03"], ["1", "02", "3"]),
        (["1.0", "2.0", "3.0"], ["1.0", "2.0", "3.0"]),
        (ODD, ["1", "2", "other"]),
        (ODD, [1, 2, "other"]),
        (ODD, [0, 1, 2]),
        (["0", "1", "unsure"], [0, 1, 2]),
        (["a", "b", "c"], ["0", "1", "2"]),
        (["-1", "0", "1"], [-1, 0, 1]),
        (["3", "2", "1"], ["3", "2", "1"]),
    ],
)
def test_only_one_reading_fits(names: list[str], labels: list[Any]) -> None:
    report = acto.audit(labels * 6, np.eye(3)[POSITIONS] * 0.8 + 0.2 / 3, class_names=names)
    assert report.columns["given_label"] == names * 6


@pytest.mark.refused
@pytest.mark.parametrize(
    ("names", "labels", "says"),
    [
        (ODD, ["0", "2", "other"], "none of the 3 classes.*row 0: '0'"),
        (ODD, ["0", "1", "2"], "none of the 3 classes.*row 0: '0'"),
        (ODD, [1, 2, 1], DIFFER),
        (["1", "2", "3"], [1, 2, 2], DIFFER),
        (["a", "b", "c"], ["a", "1", "c"], "none of the 3 classes.*row 1: '1'"),
        (["1", "2", "3"], ["1", "01", "2"], "one class in several ways: '01', '1'"),
        (["1", "2", "3"], [1, 2, 7], "none of the 3 classes.*row 2: '7'"),
    ],
)
def test_neither_reading_or_both(names: list[str], labels: list[Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        acto.audit(labels * 6, np.eye(3)[POSITIONS], class_names=names)


# Arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.refused
@pytest.mark.parametrize(
    "arrays",
    [
        {"y": POSITIONS, "class_names": TURNED},
        {"y": POSITIONS, "class_names": [2, 0, 1]},
        {"y": np.array(TURNED)[POSITIONS], "true_labels": POSITIONS, "class_names": TURNED},
        {"y": np.array(ODD)[POSITIONS], "true_labels": np.array([1, 2] * 9)},
        {"y": (POSITIONS + 1).astype(str), "test_x": X[:2], "test_y": np.array([1, 2])},
    ],
    ids=["given", "class list of numbers", "true labels", "some true labels", "test labels"],
)
def test_array_files_that_can_be_read_both_ways(arrays: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{DIFFER}.*a\.npz (y|true_labels|test_y) row \d+: '\d'"):
        npz(tmp_path, **arrays)


@pytest.mark.right
def test_array_files_that_can_be_read_one_way(tmp_path: Path) -> None:
    texts = np.array(ODD)[POSITIONS]
    for truth in (texts, POSITIONS):  # 0 is no name, so the numbers are positions
        assert npz(tmp_path, y=texts, true_labels=truth).train.noise_rate == 0
    both = npz(tmp_path, y=POSITIONS, true_labels=POSITIONS, class_names=ODD)
    assert named(both) == texts.tolist() and both.train.noise_rate == 0
    # The numbers of the test set could be positions; those of the training set could not.
    data = npz(tmp_path, y=POSITIONS + 1, test_x=X[:2], test_y=np.array([1, 2]), test_true_labels=np.array([1, 1]))
    assert data.test is not None and (named(data, "test"), data.test.noise_rate) == (["1", "2"], 0.5)
    signs = np.array([-1, 1] * 9)
    for truth in (signs, signs.astype(str)):  # -1 is a class here, and not unknown
        train = npz(tmp_path, y=signs, true_labels=truth, class_names=["-1", "1"]).train
        assert train.true_labels is not None and train.true_labels.tolist() == [0, 1] * 9
    assert named(npz(tmp_path, y=np.array(["1.0", "0.0"] * 9), class_names=["1.0", "0.0"])) == ["1.0", "0.0"] * 9


@pytest.mark.right
def test_true_labels_that_name_no_class_are_noted(tmp_path: Path) -> None:
    data = npz(tmp_path, y=POSITIONS + 1, true_labels=np.where(POSITIONS == 0, 9, POSITIONS + 1), class_names=[1, 2, 3])
    assert data.train.noise_rate == pytest.approx(1 / 3)
    assert data.notes == ("6 true labels of a.npz name no class: none of the classes is right there",)


@pytest.mark.right
def test_the_class_list_of_a_file_and_another_one(tmp_path: Path) -> None:
    npz(tmp_path, y=POSITIONS, true_labels=POSITIONS, class_names=["a", "b", "c"])
    for classes, expected in ((("c", "a", "b"), ["a", "b", "c"]), (("x", "y", "z"), ["x", "y", "z"])):
        data = read(DataSpec(source=str(tmp_path / "a.npz"), classes=classes))
        assert data.class_names == classes and named(data) == expected * 6 and data.train.noise_rate == 0


@pytest.mark.refused
def test_the_class_list_of_a_file_and_one_that_lacks_a_class(tmp_path: Path) -> None:
    npz(tmp_path, y=POSITIONS, class_names=["a", "b", "c"])
    with pytest.raises(UserError, match="a class list of their own, and the classes that were asked for lack 'c'"):
        read(DataSpec(source=str(tmp_path / "a.npz"), classes=("a", "b", "d")))


@pytest.mark.refused
def test_new_data_for_a_model_of_numbers(tmp_path: Path) -> None:
    npz(tmp_path, y=np.array([1, 2] * 9))
    with pytest.raises(UserError, match=DIFFER):
        read_labelled(str(tmp_path / "a.npz"), ("1", "2", "3"))


# Files of labels --------------------------------------------------------------------------------------------------


def with_noise(folder: Path, labels: np.ndarray[Any, Any], names: Sequence[str], *, name: str = "n.npy") -> Dataset:
    np.savez(folder / "c.npz", x=X, y=np.array(names)[POSITIONS], class_names=names, test_x=X[:3], test_y=names)
    if name.endswith(".npy"):
        np.save(folder / name, labels)
    else:
        (folder / name).write_text("\n".join(map(str, labels.tolist())))
    noise = NoiseSpec(kind="file", path=str(folder / name))
    return load_data(DataSpec(source=str(folder / "c.npz"), noise=noise))


@pytest.mark.right
def test_label_files_that_can_be_read_one_way(tmp_path: Path) -> None:
    for labels, names, name in (
        (POSITIONS, ["1", "2", "3"], "n.npy"),  # as a run of theirs saves its labels
        (POSITIONS + 1, ["1", "2", "3"], "n.npy"),
        (POSITIONS, ODD, "n.npy"),
        (np.array(ODD)[POSITIONS], ODD, "n.txt"),
        (np.array(TURNED)[POSITIONS], TURNED, "n.txt"),
        (POSITIONS, ["a", "b", "c"], "n.txt"),
    ):
        assert with_noise(tmp_path, labels, names, name=name).train.noise_rate == 0


@pytest.mark.refused
def test_label_files_that_can_be_read_both_ways(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{DIFFER}.*n\.npy label 0: '0'"):
        with_noise(tmp_path, POSITIONS, TURNED)
    np.savez(tmp_path / "people.npz", worse_label=POSITIONS, clean_label=POSITIONS)
    with pytest.raises(UserError, match=rf"{DIFFER}.*worse_label row 0: '0'"):
        read_human_labels(tmp_path / "people.npz", name="worse_label", class_names=TURNED, true_labels=POSITIONS)


# Tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.right
@pytest.mark.parametrize("name", ["m.csv", "m.tsv"])
def test_true_labels_of_numbers_and_a_name(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = manifest(tmp_path, ODD * 6, name=name)
    assert main(["data", "check", str(path)]) == 0
    assert "wrong labels, where the truth is known: 0.00 %" in capsys.readouterr().out
    assert read(DataSpec(source=str(path))).train.noise_rate == 0


@pytest.mark.right
@pytest.mark.parametrize("other", ["1.0", "01", "1E0", "+1"])
def test_one_number_in_two_ways_beside_a_name_is_noted(
    other: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = manifest(tmp_path, ["1", other, "cat"] * 6)
    assert main(["data", "check", str(path)]) == 0
    first, second = sorted(["1", other])
    assert f"look alike, and are classes of their own: '{first}', '{second}'" in capsys.readouterr().out
    assert f"'{first}', '{second}'" in " ".join(npz(tmp_path, y=np.array(["1", other, "cat"] * 6)).notes)
    assert f"'{first}', '{second}'" in " ".join(as_dataset(X, ["1", other, "cat"] * 6).notes)


@pytest.mark.right
def test_numbers_of_a_column_of_floats_are_the_same_classes(tmp_path: Path) -> None:
    assert as_dataset(X, [0.0, 1, "cat", 0, np.float64(1), "cat"] * 3).class_names == ("0", "1", "cat")
    column = pd.Series([1.0, "2", "x", "1", "2", "x"] * 3, dtype=object)
    frame = pd.DataFrame(X, columns=list("abcd")).assign(label=column)
    assert as_dataset(frame, "label").class_names == ("1", "2", "x")
    path = manifest(tmp_path, ODD * 6, ["1.0", "2.0", "other"] * 6)
    assert read(DataSpec(source=str(path))).train.noise_rate == 0


@pytest.mark.right
def test_a_text_is_the_class_of_that_name_and_a_truth_of_no_class_is_noted(tmp_path: Path) -> None:
    data = read(DataSpec(source=str(manifest(tmp_path, TURNED * 4)), classes=tuple(TURNED)))
    assert named(data) == TURNED * 4 and data.train.noise_rate == 0
    odd = read(DataSpec(source=str(manifest(tmp_path, ODD * 4, ["0", "2", "other"] * 4))))
    assert odd.train.noise_rate == pytest.approx(1 / 3) and "4 true labels of m.csv name no class" in odd.notes[0]


@pytest.mark.refused
def test_a_number_among_others_that_is_no_class(tmp_path: Path) -> None:
    path = manifest(tmp_path, ["0", "2", "other"] * 4)
    with pytest.raises(UserError, match=r"none of the 3 classes.*m\.csv row 2 .*'0'"):
        read(DataSpec(source=str(path), classes=tuple(ODD)))


@pytest.mark.refused
def test_a_parquet_column_of_numbers_and_a_class_list_in_another_order(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    paths = pictures(tmp_path, ["p"], 18, flat=True)
    parquet.write_table(pyarrow.table({"path": paths, "label": POSITIONS}), tmp_path / "m.parquet")
    spec = DataSpec(source=str(tmp_path / "m.parquet"), classes=tuple(TURNED))
    with pytest.raises(UserError, match=rf"{DIFFER}.*m\.parquet row 1 "):
        read(spec)
    parquet.write_table(pyarrow.table({"path": paths, "label": POSITIONS.astype(str)}), tmp_path / "m.parquet")
    assert named(read(spec)) == ["0", "1", "2"] * 6


# Datasets of torch ------------------------------------------------------------------------------------------------


@pytest.mark.right
def test_folders_of_numbers_keep_their_classes(tmp_path: Path) -> None:
    pictures(tmp_path, OF_FOLDERS, 2)
    folder = ImageFolder(tmp_path)
    for data in (folder, Subset(folder, range(len(folder)))):
        found = everything(as_dataset(data, holdout_share=0.5))
        assert len(found) == 22 and all(Path(id).parent.name == name for id, name in found.items())
    renamed = as_dataset(folder, class_names=[f"class {name}" for name in OF_FOLDERS], holdout_share=0.5)
    assert all(name == f"class {Path(id).parent.name}" for id, name in everything(renamed).items())
    ordered = as_dataset(folder, class_names=[*map(str, range(11))], holdout_share=0.5)
    assert all(Path(id).parent.name == name for id, name in everything(ordered).items())
    values = gather(folder).label_values(ordered.class_names)  # what predict() answers: the folder's own numbers
    assert values.tolist() == [OF_FOLDERS.index(str(k)) for k in range(11)]


@pytest.mark.right
def test_a_test_folder_that_lacks_a_class(tmp_path: Path) -> None:
    pictures(tmp_path / "train", ["ant", "bee", "cat"])
    pictures(tmp_path / "val", ["bee", "cat"])
    for change in (None, int):
        data = as_dataset(
            ImageFolder(tmp_path / "train", target_transform=change),
            test=ImageFolder(tmp_path / "val", target_transform=change),
        )
        assert [Path(id).parent.name for id in data.test.ids] == named(data, "test")


@pytest.mark.right
@pytest.mark.parametrize(
    ("train", "expected"),
    [
        (Pairs(POSITIONS.tolist(), classes=TURNED), TURNED),
        (Pairs([*POSITIONS], classes=TURNED), TURNED),
        (Pairs([*torch.from_numpy(POSITIONS)], classes=TURNED), TURNED),
        (Pairs(POSITIONS.tolist(), classes=np.array(TURNED)), TURNED),
        (Pairs(POSITIONS.tolist(), classes=["0", "1", "2"], class_to_idx={"2": 0, "0": 1, "1": 2}), TURNED),
        (ConcatDataset([Pairs([0, 1, 2] * 3, classes=TURNED)] * 2), TURNED),
        (Pairs([str(k) for k in POSITIONS], classes=TURNED), ["0", "1", "2"]),
    ],
    ids=["numbers", "numpy", "tensors", "array", "class_to_idx", "two parts", "texts"],
)
def test_numbers_of_a_dataset_count_its_classes(train: Any, expected: list[str]) -> None:
    test = Pairs([1, 0, 1], classes=["0", "1"])
    data = as_dataset(train, test=test)
    assert data.class_names == tuple(expected)
    assert named(data) == expected * 6 and named(data, "test") == ["1", "0", "1"]


@pytest.mark.refused
@pytest.mark.parametrize(
    ("train", "test", "says"),
    [
        (Pairs(POSITIONS.tolist(), classes=["a", "b", "c"]), Pairs([0, 1], classes=["a", "aa"]), "test row 1: 'aa'"),
        (Pairs(POSITIONS.tolist(), classes=TURNED), Pairs([0, 1]), DIFFER),
        (Pairs(POSITIONS.tolist()), Pairs([0, 1], classes=["a", "b"]), "calls its classes a, b.*pass class_names"),
        (Pairs([*POSITIONS.tolist()[:-1], 3], classes=["a", "b", "c"]), None, "label out of range 0..2.*row 17: '3'"),
        (ConcatDataset([Pairs([0, 1], classes=["a", "b"]), Pairs([0], classes=["b"])]), None, "number other classes"),
        (Pairs([1, 2], classes=["a", "b"], class_to_idx={"a": 1, "b": 2}), None, "must number 2 classes from 0"),
    ],
    ids=["a class more", "numbers to test on", "no classes to train on", "out of range", "two parts", "from 1"],
)
def test_datasets_that_do_not_fit(train: Any, test: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        as_dataset(train, test=test)


@pytest.mark.refused
def test_arrays_and_frames_with_class_names_in_another_order() -> None:
    frame = pd.DataFrame(X, columns=list("abcd")).assign(label=POSITIONS)
    for data, labels in ((X, POSITIONS), (X, POSITIONS.tolist()), (frame, "label"), (frame[["a"]], frame["label"])):
        with pytest.raises(UserError, match=DIFFER):
            as_dataset(data, labels, class_names=TURNED)
    with pytest.raises(UserError, match=rf"{DIFFER}.*test row 0: '1'"):
        as_dataset(X, (POSITIONS + 1).astype(str), test=X[:2], test_labels=[1, 2])


@pytest.mark.right
def test_training_labels_decide_for_a_test_set_that_lacks_a_class() -> None:
    by_name = as_dataset(X, POSITIONS + 1, test=X[:2], test_labels=[1, 2])
    assert named(by_name, "test") == ["1", "2"]
    by_position = as_dataset(X, POSITIONS, test=X[:2], test_labels=[1, 2], class_names=["1", "2", "3"])
    assert named(by_position, "test") == ["2", "3"]


# Round trips ------------------------------------------------------------------------------------------------------


@pytest.mark.right
@pytest.mark.parametrize("names", [ODD, ["-1", "1", "x"], ["01", "1", "x"], ["10", "9", "x"]], ids="-".join)
@pytest.mark.parametrize("form", ["m.csv", "a.npz"])
def test_what_apply_writes_has_the_same_classes(names: list[str], form: str, tmp_path: Path) -> None:
    given = np.array(names)[POSITIONS].tolist()
    truth = [*given[1:], given[0]]
    if form == "m.csv":
        manifest(tmp_path, given, truth)
    else:
        npz(tmp_path, y=np.array(given), true_labels=np.array(truth), class_names=names)
    spec = DataSpec(source=str(tmp_path / form), holdout_share=0.4)
    before = load_data(spec)
    with RunFolder.create(tmp_path / "run", config=recipe(spec, setting_for("digits"), method="acto").to_dict()) as run:
        run.save_labels(before.train.labels, facts=before.noise)
    predicted = [names[0], *named(before)[1:]]
    report = report_of(named(before), predicted, names=before.class_names, ids=before.train.ids)
    report.save(tmp_path / "run")
    (tmp_path / "decisions.csv").write_bytes(to_csv([]))
    copy = apply_decisions(tmp_path / "decisions.csv", tmp_path / "run")
    after = load_data(DataSpec(source=str(copy.path)))
    assert after.class_names == before.class_names and after.train.noise_rate == before.train.noise_rate
    assert everything(after) == everything(before)
    assert after.test_labels_are_given, "held out of noisy data, as the manifest's split says"
