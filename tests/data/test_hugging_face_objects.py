"""Dataset and DatasetDict of Hugging Face's library in memory, by its own objects."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import acto
from acto.core.errors import UserError
from acto.data.hugging_face_objects import as_arrays, kind_of_object
from acto.data.in_memory import as_dataset
from acto.data.pictures.files import decode_rgb
from acto.data.samples import DataSpec
from acto.data.sources import load_data
from acto.estimator import NoisyLabelClassifier
from record_data import CLASSES, LEVELS, labels_of, picture, vectors

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what its dependencies say of each other at import is not ours
    datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # acto.fit's notes; those that matter are looked at below
        yield


def made(count: int = 20, *, first: int = 0, size: tuple[int, int] = (12, 10), names: Any = (*CLASSES, "yak")) -> Any:
    kind = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    files = [
        {"bytes": picture(label, first + row, size=size), "path": None} for row, label in enumerate(labels_of(count))
    ]
    return datasets.Dataset.from_dict({"image": files, "label": labels_of(count)}, features=kind)


def two_pictures() -> Any:
    mask = made().rename_column("image", "mask").remove_columns("label")
    return datasets.concatenate_datasets([made(), mask], axis=1)


def embedded(count: int = 20) -> Any:
    return datasets.Dataset.from_dict({"embedding": vectors(count), "label": labels_of(count)})


def greens(samples: Any) -> list[int]:
    """The green of each sample, which tells its class."""
    contents = samples.pixels if samples.pixels is not None else [np.asarray(decode_rgb(p)) for p in samples.paths]
    return [int(content[0, 0, 1]) for content in contents]


def test_a_dataset_by_its_columns() -> None:
    data = as_dataset(made(), "label")
    assert data.class_names == CLASSES and (len(data.train), len(data.test)) == (18, 2)
    assert greens(data.train) == [LEVELS[k] for k in data.train.labels]
    said = " ".join(data.notes)
    assert "the samples are the column 'image' (pictures)" in said and "1 of 3 classes have no sample" in said
    assert as_dataset(made()).class_names == CLASSES


def test_rows_that_were_chosen_and_shuffled_and_another_format() -> None:
    chosen = made().shuffle(seed=3).select(range(4, 18)).with_format("torch")
    data = as_dataset(chosen, "label")
    assert [int(k) for k in chosen["label"]] == [
        dict(zip((*data.train.ids, *data.test.ids), (*data.train.labels, *data.test.labels), strict=True))[str(row)]
        for row in range(14)
    ]
    assert greens(data.train) == [LEVELS[k] for k in data.train.labels]


def test_a_dict_is_divided_by_its_splits() -> None:
    data = as_dataset(
        datasets.DatasetDict({"train": made(), "validation": made(4), "test": made(6, first=50)}), "label"
    )
    assert (len(data.train), len(data.test), data.test_labels_are_given) == (20, 6, False)
    assert data.train.ids[:2] == ("train/0", "train/1") and data.test.ids[0] == "test/0"
    assert greens(data.test) == [LEVELS[k] for k in data.test.labels]
    assert any("the splits validation are left out" in note for note in data.notes)


def test_pictures_of_several_sizes_stay_files() -> None:
    mixed = datasets.concatenate_datasets([made(10), made(10, size=(90, 70))])
    data = as_dataset(mixed, "label")
    assert data.train.paths is not None and data.views.pipeline == "photo"
    assert greens(data.train) == [LEVELS[k] for k in data.train.labels]


def test_vectors() -> None:
    data = as_dataset(embedded(), "label")
    assert data.train.features is not None and data.train.features[:, 1].tolist() == data.train.labels.tolist()


def test_arrays_and_array2d() -> None:
    content = {"x": [[[row, row, row]] * 4 for row in range(8)], "label": labels_of(8)}
    kind = datasets.Features({"x": datasets.Array2D((4, 3), "uint8"), "label": datasets.Value("int64")})
    data = as_dataset(datasets.Dataset.from_dict(content, features=kind), "label", holdout_share=0.5)
    assert data.train.pixels is not None and data.train.pixels.shape[1:] == (4, 3, 1)


def test_fit_and_predict_in_the_words_of_the_labels() -> None:
    result = acto.fit(made(), "label", test=made(6, first=50), epochs=1, net="cnn_tiny")
    assert set(result.predict(made(6, first=90))) <= {0, 1}
    assert len(result.predict(made(6, first=90).remove_columns("label"))) == 6
    with pytest.raises(UserError, match=r"the DatasetDict has several splits \(a, b\): pass one of them"):
        result.predict(datasets.DatasetDict({"a": made(4), "b": made(4)}))


def test_the_classifier_takes_vectors() -> None:
    classifier = NoisyLabelClassifier(epochs=1, random_state=0).fit(embedded(), "label")
    assert classifier.classes_.tolist() == [0, 1]
    assert len(classifier.predict(embedded(6))) == 6
    assert as_arrays(made(4), "label")[0].shape == (4, 10, 12, 3)
    with pytest.raises(UserError, match="pass one of them"):
        NoisyLabelClassifier().fit(datasets.DatasetDict({"a": embedded(), "b": embedded()}), "label")


def test_columns_of_it_are_lists() -> None:
    data = as_dataset(made()["image"], made()["label"])
    assert data.class_names == ("0", "1") and greens(data.train) == [LEVELS[k] for k in data.train.labels]


def test_what_the_library_saves_is_read_back(tmp_path: Path) -> None:
    both = datasets.DatasetDict({"train": made(), "test": made(6, first=50)})
    both.save_to_disk(str(tmp_path / "saved"))
    for split, part in both.items():
        part.to_parquet(str(tmp_path / "hub" / f"{split}-00000-of-00001.parquet"))
    wanted = as_dataset(both)
    for name in ("saved", "hub"):
        found = load_data(DataSpec(source=str(tmp_path / name)), workers=1)
        assert found.class_names == CLASSES
        for ours, theirs in ((found.train, wanted.train), (found.test, wanted.test)):
            assert ours.ids == theirs.ids and ours.labels.tolist() == theirs.labels.tolist()
            assert np.array_equal(ours.pixels, theirs.pixels)


@pytest.mark.parametrize(
    ("data", "label", "says"),
    [
        (
            lambda: made().to_iterable_dataset(),
            "label",
            "the IterableDataset is streamed: load it with streaming=False",
        ),
        (lambda: made(), "lable", "has no column 'lable'. Did you mean 'label'?"),
        (
            lambda: made().rename_column("label", "labels").add_column("y", labels_of(20)),
            None,
            "Say which: labels='labels'",
        ),
        (lambda: made().remove_columns("label"), None, "has no column 'label': labels='NAME' says which"),
        (lambda: two_pictures(), "label", "Keep one of them: data.select_columns"),
        (lambda: datasets.Dataset.from_dict({"a": [1.5] * 4, "label": labels_of(4)}), "label", "4 samples are too few"),
        (lambda: datasets.DatasetDict(), "label", "the DatasetDict has no splits"),
        (lambda: datasets.DatasetDict({"test": made(), "dev": made()}), "label", "none that is called train"),
        (lambda: made().map(lambda row: {"label": -1 if row["label"] else 0}), "label", "a label is missing"),
        (lambda: made(0), "label", "has no rows"),
    ],
)
def test_what_cannot_be_used_is_said(data: Any, label: str | None, says: str) -> None:
    with pytest.raises(UserError) as caught:
        as_dataset(data(), label)
    assert says in str(caught.value)


def test_other_objects_are_none() -> None:
    class Dataset:
        pass

    assert kind_of_object(Dataset()) == kind_of_object([1]) == kind_of_object(io.BytesIO()) == ""


def plain(count: int = 30, *, first: int = 0) -> Any:
    kind = {"size": datasets.Value("float32"), "colour": datasets.ClassLabel(names=["red", "blue"])}
    rows = {
        "size": [10.0 * (row % 2) + 0.1 * row for row in range(count)],
        "colour": [row % 3 % 2 for row in range(first, first + count)],
        "kind": labels_of(count),
    }
    features = datasets.Features(kind | {"kind": datasets.ClassLabel(names=[*CLASSES, "yak"])})
    return datasets.Dataset.from_dict(rows, features=features)


def test_columns_of_numbers_and_categories_are_a_table(tmp_path: Path) -> None:
    parts = datasets.DatasetDict({"train": plain(), "test": plain(6, first=7)})
    data = as_dataset(parts, "kind")
    assert data.class_names == CLASSES and (len(data.train), len(data.test)) == (30, 6)
    assert data.train.rows is not None and data.train.rows.cells["colour"].tolist()[:2] == ["red", "blue"]
    assert data.train.ids[0] == "train/0" and data.train.labels.tolist() == labels_of(30)
    fitted = acto.fit(parts, "kind", epochs=1, net="mlp:8", device="cpu", out=tmp_path / "run")
    assert fitted.predict(parts["test"].remove_columns("kind")).tolist() == fitted.predict(parts["test"]).tolist()
    classifier = NoisyLabelClassifier(random_state=0, epochs=1).fit(
        plain().cast_column("colour", datasets.Value("int8")), "kind"
    )
    assert (
        classifier.n_features_in_ == 2
        and len(classifier.predict(plain(4).cast_column("colour", datasets.Value("int8")))) == 4
    )
    with pytest.raises(UserError, match=r"has no column 'size'"):
        fitted.predict(parts["test"].remove_columns("size"))
    with pytest.raises(UserError, match=r"labels='NAME' says which"):
        as_dataset(plain().rename_column("kind", "x").cast_column("x", datasets.Value("int8")).remove_columns("colour"))
