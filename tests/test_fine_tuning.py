"""benchmarks/fine_tuning.py on a few tiny pictures: the whole way, and what is left out when it is called again."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from acto.data.samples import Dataset, clean_samples
from acto.data.views.spec import ViewSpec

FILE = Path(__file__).parents[1] / "benchmarks" / "fine_tuning.py"


def _loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fine_tuning", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fine_tuning"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


fine_tuning = _loaded()


def pictures() -> Dataset:
    """Four classes of 32x32 pictures, told apart by their brightness."""
    labels = np.arange(80) % 4
    noise = np.random.default_rng(0).integers(0, 30, (80, 32, 32, 3))
    samples = clean_samples((noise + 60 * labels[:, None, None, None]).astype(np.uint8), labels.astype(np.int64))
    return Dataset(
        name="cifar100", train=samples.take(np.arange(60)), test=samples.take(np.arange(60, 80)),
        class_names=("ant", "bee", "cat", "dog"), test_labels_are_given=False, noise={},
        views=ViewSpec(pipeline="cifar"),
    )  # fmt: skip


def test_it_trains_once_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fine_tuning, "load_data", lambda spec: pictures())
    out, runs = tmp_path / "records.jsonl", tmp_path / "runs"
    asked = [
        "--weights",
        "none",
        "--net",
        "cnn_tiny",
        "--classes",
        "1-3",
        "--side",
        "72",
        "--sizes",
        "24",
        "--seeds",
        "1",
    ]
    asked += ["--flags", "--epochs 2 --device cpu --workers 0 --batch-size 8", "--out", str(out), "--runs", str(runs)]
    fine_tuning.main([*asked, "--methods", "standard", "--rates", "0.4"])
    (record,) = map(json.loads, out.read_text().splitlines())
    assert (record["method"], record["size"], record["num_train"], record["rate"]) == ("standard", 24, 24, 0.4)
    assert 0 < record["rate_realised"] < 1 and 0 <= record["label_quality_auroc"] <= 1
    assert "pictures.csv" in record["flags"] and str(tmp_path) not in out.read_text()
    text = (runs / "pictures-1-3-72" / "pictures.csv").read_text()
    assert "ant" not in text and len(text.splitlines()) == 61 and text.count(",test") == 15

    # A line that was cut off is forgiven; what has a record is not trained again; no time leaves the rest.
    with out.open("a") as file:
        file.write('{"name": "cut o')
    told = capsys.readouterr().out
    assert "24 pictures, 40%" in told and "left" not in told
    more = ["--methods", "standard", "acto --acto.min_share 0.25", "--rates", "0.4"]
    fine_tuning.main([*asked, *more, "--seconds", "-1"])
    told = capsys.readouterr().out
    assert "1 of 2 cells are left" in told and "acto" not in told
    fine_tuning.main([*asked, *more])
    told = capsys.readouterr().out
    assert "standard-24-0.4" not in told and "acto --acto.min_share 0.25" in told and "left" not in told
    assert list(fine_tuning.read_records(out)) == [record["name"], fine_tuning.read_records(out).popitem()[0]]
    assert len(fine_tuning.read_records(out)) == 2


def test_the_table_by_hand() -> None:
    rows = [("acto", 0.4, 0.5), ("acto", 0.4, 0.6), ("standard", 0.0, 0.25)]
    made = [{"method": m, "size": 300, "rate": r, "test_accuracy_last10": a} for m, r, a in rows]
    assert fine_tuning.table(made).splitlines() == [
        "method    300 pictures, 0%  300 pictures, 40%",
        "acto      -                 55.00 +- 7.07 (2)",
        "standard  25.00 (1)         -",
    ]


def test_too_small_pictures_and_classes_as_texts(capsys: pytest.CaptureFixture[str]) -> None:
    assert (fine_tuning.classes_of("0-3"), fine_tuning.classes_of("3,17")) == ([0, 1, 2, 3], [3, 17])
    with pytest.raises(SystemExit):
        fine_tuning.main(["--weights", "none", "--side", "64"])
    assert "not trained on as photographs" in capsys.readouterr().err
