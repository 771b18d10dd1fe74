"""benchmarks/reported_rows.py: which rows it takes, and that rows which are there are not made again."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from acto.data.samples import Samples

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "reported_rows.py"


@pytest.fixture
def reported_rows(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("reported_rows", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "reported_rows", module)
    spec.loader.exec_module(module)
    return module


def cifar100(folder: Path) -> Path:
    labels = np.repeat(np.arange(100), 40)
    x = labels[:, None].astype(np.float16)
    np.savez(folder / "c.npz", x=x, labels=labels, test_x=x[::4], test_labels=labels[::4])
    return folder / "c.npz"


def test_the_reported_half_with_its_noise(reported_rows: Any, tmp_path: Path) -> None:
    development = set(np.random.RandomState(7).permutation(100)[:50].tolist())
    tasks = list(reported_rows.cifar100(cifar100(tmp_path), 0))
    for task, (kind, rate) in zip(tasks, reported_rows.NOISES, strict=True):
        assert not development & set(task.x[:, 0].astype(int).tolist())
        assert len(set(task.test_x[:, 0].tolist())) == 50 and task.true.max() == 49
        wrong = task.given != task.true
        assert wrong.mean() == pytest.approx(rate, abs=0.04)
        assert kind != "asymmetric" or ((task.given - task.true)[wrong] % 50 == 1).all()


def test_the_unbalanced_set_with_its_noise(reported_rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.random.RandomState(1).permutation(np.repeat(np.arange(10), 1000))
    pixels = np.arange(len(labels)).reshape(-1, 1, 1, 1)
    samples = Samples(ids=tuple(map(str, range(len(labels)))), labels=labels, pixels=pixels)
    monkeypatch.setattr(reported_rows, "load_data", lambda spec: SimpleNamespace(test=samples))
    (task,), (other,) = reported_rows.unbalanced(0), reported_rows.unbalanced(2)
    counts = np.bincount(task.true)
    assert sorted(counts) == [8, 12, 18, 28, 43, 66, 102, 157, 243, 375]
    assert set(task.rarest) == set(np.argsort(counts)[:2].tolist()) != set(other.rarest)
    assert (np.bincount(task.test_true) == 500).all() and not set(task.x.ravel()) & set(task.test_x.ravel())
    assert (labels[task.x.ravel()] == task.true).all() and (labels[task.test_x.ravel()] == task.test_true).all()
    assert np.mean(task.given != task.true) == pytest.approx(0.4, abs=0.05) and len(np.unique(task.given)) == 10
    assert set(task.forms) == {*reported_rows.FORMS, *reported_rows.RIVALS}


def test_rows_that_are_there_are_not_made_again(
    reported_rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[tuple[str, str]] = []

    def trained(task: Any, form: str) -> dict[str, float]:
        made.append((task.name, form))
        return {"accuracy": 50.0, "auroc": 0.9}

    monkeypatch.setattr(reported_rows, "trained", trained)
    out = tmp_path / "rows.jsonl"
    for _ in range(2):
        reported_rows.main(["--cifar100", str(cifar100(tmp_path)), "--out", str(out), "--seeds", "1"])
    assert len(made) == len(set(made)) == len(reported_rows.NOISES) * len(reported_rows.FORMS)
    assert len([json.loads(line) for line in out.read_text().splitlines()]) == len(made)
    capsys.readouterr()
    reported_rows.main(["--table", str(out)])
    assert "| cifar100 symmetric:0.8 | steady | 50.00 | 0.9000 |  | 1 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "tokens",
    [
        [],
        ["--out", "rows.jsonl"],
        ["--table", "none"],
        ["--out", "o", "--people", "none"],
        ["--out", "none/o", "--unbalanced"],
    ],
)
def test_what_is_missing_is_named(reported_rows: Any, tokens: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        reported_rows.main(tokens)
    assert ended.value.code == 2 and "error: " in capsys.readouterr().err
