"""Data in memory: what is taken, what it becomes, and what is refused."""

from __future__ import annotations

import gc
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder

import acto
from acto import fitting
from acto.core.errors import UserError
from acto.data.in_memory import as_dataset
from acto.data.samples import DataSpec
from acto.fitting import Fitted, fit
from acto.runs.recipes.by_data import batch_size_for
from acto.runs.run import Run
from acto.training.plans import Plan
from acto.training.protocol import Protocol

LABELS = np.arange(40) % 2
VECTORS = np.arange(120, dtype=np.float64).reshape(40, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 8, 9, 3), dtype=np.uint8)


def everything(data: Any, labels: Any = None, **settings: Any) -> Any:
    """Train and test samples together, in the order of the ids."""
    dataset = as_dataset(data, labels, **settings)
    parts = [(int(name), part, row) for part in (dataset.train, dataset.test) for row, name in enumerate(part.ids)]
    return [part.content[row] for _, part, row in sorted(parts, key=lambda item: item[0])]


class Pairs(Dataset[Any]):
    """A map-style Dataset of given items."""

    def __init__(self, items: list[Any], classes: list[str] | None = None) -> None:
        self.items = items
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> Any:
        return self.items[row]


# What is taken --------------------------------------------------------------------------------------------------


def test_vectors_become_features_with_a_part_held_out() -> None:
    dataset = as_dataset(VECTORS, LABELS)
    assert (len(dataset.train), len(dataset.test), dataset.test_labels_are_given) == (36, 4, True)
    assert sorted(map(int, dataset.train.ids + dataset.test.ids)) == list(range(40))
    assert dataset.views.pipeline == "vectors"
    assert dataset.class_names == ("0", "1")
    assert dataset.noise["kind"] == "none"
    assert "4 of 40 samples are held out" in dataset.notes[0]
    row = int(dataset.train.ids[5])
    assert dataset.train.features is not None
    assert dataset.train.features[5].tolist() == VECTORS[row].tolist()
    assert dataset.train.labels[5] == LABELS[row]


@pytest.mark.parametrize(
    "pictures",
    [
        PIXELS,
        PIXELS.astype(np.int64),
        PIXELS / 255,
        torch.from_numpy(PIXELS).permute(0, 3, 1, 2),
        torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 255,
        [Image.fromarray(picture) for picture in PIXELS],
        list(torch.from_numpy(PIXELS)),
    ],
)
def test_pictures_of_any_form_become_the_same_pixels(pictures: Any) -> None:
    assert np.array_equal(np.stack(everything(pictures, LABELS)), PIXELS)


def test_grey_pictures() -> None:
    grey = PIXELS[..., 0]
    for form in (grey, [Image.fromarray(picture) for picture in grey], torch.from_numpy(grey)[:, None] / 255):
        assert np.array_equal(np.stack(everything(form, LABELS))[..., 0], grey)


def test_a_dataset_of_pairs_brings_labels_and_class_names() -> None:
    items = [(Image.fromarray(p), int(k)) for p, k in zip(PIXELS, LABELS, strict=True)]
    dataset = as_dataset(Pairs(items, classes=["cat", "dog"]))
    assert dataset.class_names == ("cat", "dog")
    assert np.array_equal(np.stack(everything(Pairs(items))), PIXELS)
    tensors = TensorDataset(torch.from_numpy(VECTORS), torch.from_numpy(LABELS))
    assert as_dataset(tensors).train.features is not None
    half = as_dataset(Subset(tensors, range(20)))
    assert len(half.train) + len(half.test) == 20
    others = as_dataset(tensors, np.array(["a", "b"])[LABELS])
    assert others.class_names == ("a", "b")


def test_an_image_folder_is_read_as_files(tmp_path: Path) -> None:
    for row, label in enumerate(LABELS):
        (tmp_path / "ab"[label]).mkdir(exist_ok=True)
        size = (80 + row, 90)  # files of many sizes: they stay on the disk
        Image.new("RGB", size, (row, 0, 0)).save(tmp_path / "ab"[label] / f"{row}.png")
    folder = ImageFolder(tmp_path)
    dataset = as_dataset(folder)
    assert dataset.class_names == ("a", "b")
    assert dataset.views.pipeline == "photo"
    assert dataset.train.paths is not None
    some = as_dataset(Subset(folder, [0, 1, 2, 3, 20, 21, 22, 23]), holdout_share=0.25)
    assert {*some.train.ids, *some.test.ids} == {folder.samples[i][0] for i in (0, 1, 2, 3, 20, 21, 22, 23)}
    frame = pd.DataFrame({"path": [path for path, _ in folder.samples], "kind": [k for _, k in folder.samples]})
    assert as_dataset(frame, "kind").train.ids == dataset.train.ids


def test_a_data_frame_keeps_its_index_as_ids() -> None:
    frame = pd.DataFrame(VECTORS, columns=["x", "y", "z"], index=[f"row{i}" for i in range(40)])
    frame["kind"] = np.array(["no", "yes"])[LABELS]
    dataset = as_dataset(frame, "kind")
    assert set(dataset.train.ids) < set(frame.index)
    assert dataset.class_names == ("no", "yes")
    assert dataset.train.features is not None
    assert dataset.train.features.shape == (36, 3)
    assert as_dataset(frame[["x", "y"]], frame["kind"]).train.ids == dataset.train.ids

    class Polars:
        def to_pandas(self) -> pd.DataFrame:
            return frame

    assert as_dataset(Polars(), "kind").train.ids == dataset.train.ids


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (LABELS == 1, ("0", "1")),
        ((LABELS == 1).tolist(), ("0", "1")),
        (LABELS.astype(np.float32) + 1, ("1", "2")),
        (torch.from_numpy(LABELS), ("0", "1")),
        (np.array(["b", "a"])[LABELS].tolist(), ("a", "b")),
        (pd.Series(np.array(["b", "a"])[LABELS]).astype("category"), ("a", "b")),
        (pd.Series(LABELS).astype("Int64"), ("0", "1")),
    ],
)
def test_labels_of_any_form(labels: Any, names: tuple[str, ...]) -> None:
    assert as_dataset(VECTORS, labels).class_names == names


def test_class_names_set_the_order_and_a_test_set_leaves_all_for_training() -> None:
    names = np.array(["b", "a"])[LABELS]
    dataset = as_dataset(VECTORS, names, test=VECTORS[:6], test_labels=names[:6], class_names=["b", "a"])
    assert dataset.train.labels.tolist() == LABELS.tolist()
    assert (len(dataset.train), len(dataset.test), dataset.test_labels_are_given) == (40, 6, False)
    assert dataset.notes == ()


# What is refused ------------------------------------------------------------------------------------------------


def _with(values: Any, row: int, value: Any) -> Any:
    values = list(values)
    values[row] = value
    return values


@pytest.mark.parametrize(
    ("data", "labels", "message"),
    [
        (VECTORS, LABELS[:39], "there are 39 labels for 40 samples"),
        (VECTORS, None, "there are no labels"),
        (VECTORS, [1] * 40, "at least two classes are needed, but the labels have one: '1'"),
        (VECTORS, np.eye(2)[LABELS], r"shape is \(40, 2\); of one-hot labels, pass labels.argmax\(1\)"),
        (VECTORS, _with(LABELS.astype(float), 3, np.nan), r"\(1 row\): row 3"),
        (VECTORS, _with(LABELS.astype(float), 3, 0.5), r"whole numbers \(1 row\): row 3: '0.5'"),
        (VECTORS, _with(np.array(["a", "b"])[LABELS], 7, float("nan")), r"a label is missing \(1 row\): row 7"),
        (VECTORS, _with(np.array(["a", "b"])[LABELS], 7, None), r"a label is missing \(1 row\): row 7"),
        (VECTORS, pd.Series(_with(LABELS, 9, None), dtype="Int64"), r"a label is missing \(1 row\): row 9"),
        (VECTORS, LABELS * 5, "class 1 has no sample"),
        (VECTORS, "kind", "no data frame"),
        (VECTORS[:, 0], LABELS, r"reshape\(-1, 1\)"),
        (np.where(np.arange(40)[:, None] == 4, np.inf, VECTORS), LABELS, "not finite in 1 row, the first 4"),
        (VECTORS * 1e300, LABELS, "not finite"),
        (VECTORS.astype(complex), LABELS, "real numbers"),
        (VECTORS[:0], LABELS[:0], "there are no samples"),
        (PIXELS / 255 - 0.5, LABELS, "look like pictures.*before any normalization"),
        (PIXELS[..., [0, 1]], LABELS, "1 or 3 channels"),
        ([PIXELS[0], PIXELS[1][:5]], [0, 1], "row 0 has .* and row 1"),
        ("photos", None, "load_data"),
        (iter(VECTORS), LABELS, "cannot be used"),
        (Pairs([1, 2]), None, "must be .sample, label., but item 0 is not"),
        (pd.DataFrame({"x": ["a"] * 40}), LABELS, "column 'x' never varies"),
        (pd.DataFrame({"x": VECTORS[:, 0]}), "label", "no column 'label'; it has x"),
        (pd.DataFrame({"x": VECTORS[:, 0]}), pd.Series(LABELS, index=range(1, 41)), "different indexes"),
        (pd.DataFrame({"path": ["a.png", None]}), [0, 1], "no path in row 1"),
        (pd.DataFrame({"path": ["no.png"] * 2, "k": [0, 1]}), "k", "'no.png' occurs 2 times"),
    ],
)  # fmt: skip
def test_refusals_name_the_fault(data: Any, labels: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        as_dataset(data, labels)


def test_more_refusals() -> None:
    with pytest.raises(UserError, match=r"the test set has vectors of .2,., but the data vectors of .3,."):
        as_dataset(VECTORS, LABELS, test=VECTORS[:, :2], test_labels=LABELS)
    with pytest.raises(UserError, match="pass test_labels"):
        as_dataset(VECTORS, LABELS, test=VECTORS)
    with pytest.raises(UserError, match="test label is none of the 2 classes"):
        as_dataset(VECTORS, np.array(["a", "b"])[LABELS], test=VECTORS, test_labels=["c"] * 40)
    with pytest.raises(UserError, match="'x' occurs 40 times"):
        as_dataset(VECTORS, LABELS, ids=["x"] * 40)
    with pytest.raises(UserError, match="1 of 3 classes have no training sample: '2'"):
        as_dataset(VECTORS, LABELS, class_names=["0", "1", "2"])


def test_a_dataset_with_random_views_is_refused() -> None:
    class Random(Pairs):
        def __getitem__(self, row: int) -> Any:
            return np.random.default_rng().random(3), row % 2

    with pytest.raises(UserError, match="another sample at each look: take random transforms away"):
        as_dataset(Random([0] * 40))


# acto.fit -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    """A pair of clusters; the labels of ten of the 200 samples are wrong."""
    return fit(clusters(), wrong_labels(), epochs=6, net="mlp:32", device="cpu", warmup_epochs=2)


def clusters() -> np.ndarray[Any, Any]:
    noise = np.random.default_rng(0).normal(size=(200, 4))
    return noise + 4.0 * (np.arange(200) % 2)[:, None]


def wrong_labels() -> np.ndarray[Any, Any]:
    labels = np.arange(200) % 2
    labels[:10] = 1 - labels[:10]
    return labels == 1


def test_fit_predicts_in_the_words_of_the_labels(fitted: Fitted) -> None:
    predicted = fitted.predict(clusters())
    assert predicted.dtype == bool
    assert np.mean(predicted == (np.arange(200) % 2 == 1)) > 0.97
    probs = fitted.predict_proba(clusters()[:3])
    assert probs.shape == (3, 2)
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-6)
    assert fitted.class_names == ("0", "1")
    with pytest.raises(UserError, match="takes feature vectors of 4 numbers"):
        fitted.predict(clusters()[:, :3])


def test_fit_hands_back_a_report(fitted: Fitted) -> None:
    report = fitted.report
    issues = {int(name) for name, found in zip(report.columns["id"], report.is_label_issue, strict=True) if found}
    assert len(report) == 200
    assert issues and issues <= set(range(10))


def test_a_temporary_folder_goes_with_its_object(tmp_path: Path) -> None:
    kept = fit(clusters(), wrong_labels(), epochs=1, net="mlp:8", device="cpu", out=tmp_path / "run")
    lent = fit(clusters(), wrong_labels(), epochs=1, net="mlp:8", device="cpu")
    folder = lent.folder
    assert (folder / "summary.json").is_file()
    del kept, lent
    gc.collect()
    assert not folder.exists()
    assert (tmp_path / "run" / "summary.json").is_file()


def test_frames_are_predicted_by_column_name() -> None:
    frame = pd.DataFrame(clusters(), columns=list("abcd")).assign(label=np.where(wrong_labels(), "yes", "no"))
    model = fit(frame, "label", epochs=2, net="mlp:16", device="cpu")
    assert np.array_equal(model.predict(frame[list("dcba")]), model.predict(frame))
    assert set(model.predict(frame)) <= {"yes", "no"}
    with pytest.raises(UserError, match="no column 'd'"):
        model.predict(frame[list("abc")])


def test_settings_are_found_by_their_names(tmp_path: Path) -> None:
    fit(
        clusters(), wrong_labels(), out=tmp_path / "run", epochs=2, device="cpu", batch_size=50, lr=0.03, tau=0.5,
        warmup_epochs=1, weight_decay=0.0, **{"protocol.plans.net1.lr": 0.07},
    )  # fmt: skip
    config = acto.read_run(tmp_path / "run").config
    assert config["protocol"]["batch_size"] == 50
    assert config["protocol"]["plan"]["lr"] == 0.03
    assert config["protocol"]["plans"]["net1"]["lr"] == 0.07
    assert (config["acto"]["tau"], config["acto"]["warmup_epochs"]) == (0.5, 1)
    with pytest.raises(UserError, match=r"unknown setting 'taus' of method 'acto'. Did you mean 'tau'"):
        fit(clusters(), wrong_labels(), taus=0.5)
    with pytest.raises(UserError, match=r"the setting data.cache is gone: .*acto data shrink"):
        fit(clusters(), wrong_labels(), **{"data.cache": "memory"})
    for given, words in (
        ({"epochs": "two"}, "protocol.epochs must be a whole number, but got 'two'"),
        ({"tau": [1]}, "acto.tau must be a number, but got"),
    ):
        with pytest.raises(UserError, match=words):
            fit(clusters(), wrong_labels(), **given)
    with pytest.raises(UserError, match="unknown net 'mpl'"):
        fit(clusters(), wrong_labels(), net="mpl")


def test_fit_still_takes_a_run_and_a_folder(tmp_path: Path) -> None:
    data = as_dataset(clusters(), wrong_labels())
    run = Run(
        data=DataSpec(source="memory"), method="standard", net="mlp:8", device="cpu", precision="float32",
        protocol=Protocol(epochs=1, plan=Plan(lr=0.01)),
    )  # fmt: skip
    summary = fit(run, tmp_path / "run", dataset=data)
    assert summary["epochs"] == 1
    assert fit(run, str(tmp_path / "run"), dataset=data, overwrite=True) == summary
    with pytest.raises(UserError, match="epochs belongs into the Run"):
        fit(run, tmp_path / "other", epochs=3)  # type: ignore[call-overload]
    with pytest.raises(UserError, match="labels cannot be given"):
        fit(data, wrong_labels())
    with pytest.raises(UserError, match="needs the folder"):
        fit(run, LABELS)  # type: ignore[call-overload]


KEYWORDS = [p.name for p in inspect.signature(fit).parameters.values() if p.kind is p.KEYWORD_ONLY]
OF_A_RUN = ["dataset", "resume", "overwrite", "report", "log"]
"""What `fit(run, folder)` takes."""
GIVEN: dict[str, Any] = {
    "labels": 1 - LABELS, "out": "here", "dataset": as_dataset(VECTORS, LABELS),
    "test": TensorDataset(torch.from_numpy(VECTORS[:6]), torch.from_numpy(LABELS[:6])), "test_labels": LABELS[:6],
    "class_names": ["no", "yes"], "ids": range(100, 140), "holdout_share": 0.3, "method": "standard", "net": "mlp:8",
    "epochs": 3, "noise_rate": 0.25, "seed": 7, "device": "cpu", "init_from": "no-run", "resume": True,
    "overwrite": True, "report": print, "log": "none", "batch_size": 9,
}  # fmt: skip
"""A value of every argument that makes a difference, and of one setting."""


class Asked(Exception):
    """Stands for the training."""


def asked_of(data: Any, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """What fit would train on, or its refusal in words."""

    def train_run(run: Run, folder: Path, *, dataset: Any, **rest: Any) -> None:
        parts = [(part.ids, part.labels.tolist()) for part in (dataset.train, dataset.test)]
        raise Asked(run.to_dict(), folder if "out" in given else None, parts, dataset.class_names, rest)

    monkeypatch.setattr(fitting, "train_run", train_run)
    labels = {} if isinstance(data, acto.data.samples.Dataset) else {"labels": LABELS}
    try:
        fit(data, **labels | given)
    except Asked as asked:
        return asked.args
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("name", GIVEN)
def test_no_argument_is_ignored_beside_data(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = ["dataset", "test_labels", "init_from", "resume", "overwrite"]  # the last two without a folder
    brought = ["labels", "test", "test_labels", "class_names", "ids", "holdout_share"]
    for data, wrong in ((VECTORS, refused), (as_dataset(VECTORS, LABELS), [*refused, *brought])):
        before = asked_of(data, {}, monkeypatch)
        assert not isinstance(before, str)
        after = asked_of(data, {name: GIVEN[name]}, monkeypatch)
        if name in wrong:
            assert after.startswith("no-run" if name == "init_from" else name), after
        else:
            assert not isinstance(after, str), after
            assert after != before
        if name in ("resume", "overwrite"):
            *_, rest = asked_of(data, {name: True, "out": "here"}, monkeypatch)
            assert rest == {"resume": False, "overwrite": False, "report": (), "log": None, name: True}


@pytest.mark.parametrize("name", GIVEN)
def test_no_argument_is_ignored_beside_a_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: dict[str, Any] = {}
    monkeypatch.setattr(fitting, "train_run", lambda run, folder, **arguments: taken.update(arguments))
    run = Run(data=DataSpec(source="memory"), method="standard", net="mlp:8", protocol=Protocol(epochs=1))
    given: Any = {name: 0.1 if name == "holdout_share" else GIVEN[name]}  # the default, if it is said
    if name in OF_A_RUN:
        fit(run, tmp_path / "run", **given)
        assert taken == given
    elif name != "labels":
        with pytest.raises(UserError, match=f"^{name} belongs into the Run: .* takes {', '.join(OF_A_RUN)}$"):
            fit(run, tmp_path / "run", **given)
        assert not taken


def test_every_argument_of_fit_was_tried() -> None:
    assert {"labels", *KEYWORDS, "batch_size"} == GIVEN.keys()
    assert list(inspect.signature(acto.train_run).parameters)[2:] == OF_A_RUN


def test_what_does_not_go_with_data_in_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^holdout_share cannot be given beside test"):
        fit(VECTORS, LABELS, test=VECTORS, test_labels=LABELS, holdout_share=0.1)
    for settings in ({"noise": "symmetric"}, {"subset": 10}, {"data.holdout_share": 0.3}, {"data.root": "."}):
        with pytest.raises(UserError, match=f"^{next(iter(settings))} is for data that are still to be read"):
            fit(VECTORS, LABELS, **settings)
    settings: dict[str, Any] = {"epochs": 1, "net": "mlp:8", "device": "cpu", "data.max_image_pixels": 100}
    fit(VECTORS, LABELS, out=tmp_path / "run", **settings)
    config = acto.read_run(tmp_path / "run").config["data"]
    assert (config["max_image_pixels"], config["holdout_share"]) == (100, 0.1)


def test_small_data_get_small_batches() -> None:
    assert [batch_size_for(n, most=128) for n in (1, 20, 128, 200, 1347, 2047, 2048, 10**6)] == [
        8, 8, 8, 8, 64, 64, 128, 128,
    ]  # fmt: skip
