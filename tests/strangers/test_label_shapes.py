"""Labels of several columns: one-hot rows, or what several annotators said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import acto
from acto.core.errors import UserError
from acto.data.in_memory import as_dataset
from acto.data.noise import NoiseSpec
from acto.data.samples import DataSpec
from acto.data.sources import load_data, read
from acto.estimator import NoisyLabelClassifier

pytestmark = [pytest.mark.kind("raw errors of Python"), pytest.mark.refused]

ROWS = np.array([0, 1, 2] * 4)
X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
ONE_HOT = np.eye(3, dtype=int)[ROWS]
THREE = np.stack([ROWS, ROWS, ROWS[::-1]], 1)
DOORS: dict[str, Callable[[Any], object]] = {
    "audit": lambda labels: acto.audit(labels, np.eye(3)[ROWS]),
    "fit": lambda labels: as_dataset(X, labels),
    "test labels": lambda labels: as_dataset(X, ROWS, test=X, test_labels=labels),
    "estimator": lambda labels: NoisyLabelClassifier(epochs=1).fit(X, labels),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (ONE_HOT, r"\(12, 3\); of one-hot labels, pass labels.argmax\(1\)$"),
        (ONE_HOT.tolist(), r"\(12, 3\); of one-hot labels, pass labels.argmax\(1\)$"),
        (torch.from_numpy(ONE_HOT), r"\(12, 3\); of one-hot labels"),
        (ONE_HOT * 0.7 + 0.1, r"\(12, 3\); of one-hot labels"),
        (
            THREE,
            r"\(12, 3\); they look like 3 annotators' columns: pass one .* one of the columns or .* majority vote$",
        ),
        (THREE.tolist(), "3 annotators' columns"),
        (np.array(["a", "b"])[ONE_HOT[:, :2]], r"\(12, 2\); they look like 2 annotators' columns"),
        (pd.DataFrame({"ann": ROWS, "bob": ROWS}), r"\(12, 2\); they look like 2 annotators' columns"),
        (np.where(THREE == 2, -1, THREE), "3 annotators' columns"),
        (np.zeros((12, 2, 2), int), r"\(12, 2, 2\)$"),
        ([[0], [1, 2]] * 6, "but they are lists$"),
    ],
    ids=["one-hot", "lists", "tensor", "soft", "three", "three lists", "names", "frame", "gaps", "3d", "ragged"],
)
def test_labels_of_several_columns(door: str, labels: Any, says: str) -> None:
    with pytest.raises(UserError, match=rf"must be one for each sample.*{says}"):
        DOORS[door](labels)


@pytest.mark.parametrize("door", ["audit", "fit", "test labels"])
def test_a_single_column(door: str) -> None:
    with pytest.raises(UserError, match=r"\(12, 1\); of a single column, pass labels\[:, 0\]$"):
        DOORS[door](ROWS[:, None])


@pytest.mark.parametrize(("labels", "says"), [(ONE_HOT, "of one-hot labels"), (THREE, "3 annotators' columns")])
def test_files(labels: np.ndarray[Any, Any], says: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=labels)
    with pytest.raises(UserError, match=rf"y has shape \(12, 3\).*{says}"):
        read(DataSpec(source=str(tmp_path / "a.npz")))
    np.savez(tmp_path / "b.npz", x=X, y=ROWS, test_x=X, test_y=ROWS)
    np.save(tmp_path / "n.npy", labels)
    noise = NoiseSpec(kind="file", path=str(tmp_path / "n.npy"))
    with pytest.raises(UserError, match=rf"n\.npy has an array of shape \(12, 3\).*{says}"):
        load_data(DataSpec(source=str(tmp_path / "b.npz"), noise=noise))


def test_items_of_a_dataset() -> None:
    items = [(X[row], torch.from_numpy(label)) for row, label in enumerate(ONE_HOT)]

    class Pairs:
        classes = ("a", "b", "c")

        def __len__(self) -> int:
            return len(items)

        def __getitem__(self, row: int) -> Any:
            return items[row]

    with pytest.raises(UserError, match=r"\(12, 3\); of one-hot labels"):
        as_dataset(Pairs())


@pytest.mark.parametrize(
    ("label", "says"),
    [
        (10**400, "a label is a number of more than 64 bits: row 2"),
        (10**5000, "a label is a number of more than 64 bits: row 2"),
        ("9" * 900, "labels must be names or whole numbers .*row 2: '999"),
    ],
    ids=["400 digits", "5000 digits", "900 digits in text"],
)
def test_numbers_of_very_many_digits(label: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        acto.audit([0, 1, label] if isinstance(label, int) else ["0", "1", label], np.eye(3))


def test_a_number_of_very_many_digits_among_names() -> None:
    with pytest.raises(UserError, match=r"none of the 3 classes.*row 2: '999"):
        acto.audit(["0", "x", "9" * 900], np.eye(3), class_names=["0", "1", "x"])
