"""Thousands of classes: what would grow with their square stays small."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

import acto
from acto.cli import main
from acto.core.errors import RunError, UserError
from acto.data.noise import transition_matrix
from acto.labels import rate as rate_module
from acto.labels.page import render
from acto.labels.rate import estimate_noise
from acto.labels.report import LabelReport, read_report
from acto.labels.scores import look_at
from acto.methods.blocks.mixing import one_hot
from acto.run_folder.encoding import array_bytes
from acto.run_folder.reading import read_run
from acto.runs import prepare
from acto.training import evaluation

pytestmark = pytest.mark.kind("many classes")
MB = 2**20
N, K = 3000, 5000
GIVEN = np.arange(N) % (N // 2)


@pytest.fixture(scope="module")
def looked_at() -> tuple[LabelReport, npt.NDArray[np.int64], float]:
    """A report on labels of 5,000 classes, the classes that the model names, and the memory it took in MB."""
    random = np.random.default_rng(0)
    right = np.where(random.random(N) < 0.3, random.integers(0, K, N), GIVEN)
    probs = np.full((N, K), 0.5 / K, np.float32)
    probs[np.arange(N), right] += 0.5
    tracemalloc.start()
    report = acto.audit(GIVEN, probs, robust=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return report, right, peak / MB


Looked = tuple[LabelReport, npt.NDArray[np.int64], float]


@pytest.mark.right
def test_the_look_takes_little_memory(looked_at: Looked) -> None:
    report, right, megabytes = looked_at
    # One (K, K) of eight bytes takes 191 MB, an (N, K) of four 57.
    assert megabytes < 50
    assert report.is_label_issue.tolist() == (right != GIVEN).tolist()
    assert report.columns["predicted_label"] == [str(k) for k in right]
    assert report.noise.rate_low <= report.noise.rate <= np.mean(right != GIVEN) <= report.noise.rate_high


@pytest.mark.right
def test_the_report_is_short_and_read_again(looked_at: Looked, tmp_path: Path) -> None:
    report, _, _ = looked_at
    tracemalloc.start()
    report.save(tmp_path)
    page = render(report, None)
    back = read_report(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 100 * MB
    tracemalloc.stop()
    assert (tmp_path / "label_report.json").stat().st_size < 5_000_000 and len(page) < 5_000_000
    assert back.noise.confusions(9) == report.noise.confusions(9)
    for name in ("given", "right", "share", "low", "high", "counts"):
        np.testing.assert_array_equal(getattr(back.noise, name), getattr(report.noise, name))


@pytest.mark.right
def test_the_matrix_is_there_when_asked_for(looked_at: Looked) -> None:
    report, right, _ = looked_at
    matrix = report.noise.matrix
    np.testing.assert_allclose(matrix.sum(1), 1)
    wrong = int(np.flatnonzero(right[: N // 2] != GIVEN[: N // 2])[0])
    assert 0 < matrix[wrong, right[wrong]] <= 1 and report.noise.matrix_high[wrong, right[wrong]] == 1


@pytest.mark.refused
def test_a_fault_in_the_last_of_many_rows() -> None:
    probs = np.full((1500, 1000), 0.001, np.float32)
    probs[1499, 7] = np.nan
    with pytest.raises(UserError, match=r"NaN or infinite values: 1 row \(1499\)"):
        acto.audit(np.zeros(1500, int), probs)
    probs[1499] = 0.002
    with pytest.raises(UserError, match=r"add up to 1 .*: 1 row \(1499\)"):
        acto.audit(np.zeros(1500, int), probs)
    probs[1499, 7] = -0.001
    with pytest.raises(UserError, match=r"must lie in \[0, 1\]: 1 row \(1499\)"):
        acto.audit(np.zeros(1500, int), probs)


@pytest.mark.right
def test_only_the_most_frequent_pairs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    given = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2])
    right = np.array([0, 0, 1, 1, 1, 1, 2, 2, 0])
    look = look_at(given, np.eye(4)[right])
    whole = estimate_noise(look)
    monkeypatch.setattr(rate_module, "MOST_PAIRS", 3)
    part = estimate_noise(look)
    assert list(zip(part.given.tolist(), part.right.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 1)]
    assert (part.rate, part.rate_low, part.rate_high) == (whole.rate, whole.rate_low, whole.rate_high)
    assert part.matrix[1, 1] == whole.matrix[1, 1] == 0.75 and part.matrix[1, 2] == 0 and part.matrix[3, 3] == 1


@pytest.mark.right
def test_a_report_of_an_earlier_version(tmp_path: Path) -> None:
    """It holds (K, K) tables, and in them a class without samples."""
    report = acto.audit([0, 0, 1, 1, 3], np.eye(4)[[0, 1, 1, 1, 3]])
    report.save(tmp_path)
    path = tmp_path / "label_report.json"
    described = json.loads(path.read_text())
    for name in ("given", "right", "share", "low", "high"):
        del described["noise"][name]
    for name in ("matrix", "matrix_low", "matrix_high"):
        described["noise"][name] = getattr(report.noise, name).tolist()
    path.write_text(json.dumps(described))
    back = read_report(tmp_path).noise
    for name in ("matrix", "matrix_low", "matrix_high", "counts"):
        np.testing.assert_array_equal(getattr(back, name), getattr(report.noise, name))
    assert back.matrix[2].tolist() == [0, 0, 1, 0] and back.confusions(5) == report.noise.confusions(5)
    np.testing.assert_array_equal(back.transition_matrix(), report.noise.transition_matrix())


@pytest.mark.refused
@pytest.mark.parametrize(
    "noise",
    [
        {"given": [0, 4]},
        {"right": [0, -1]},
        {"share": [1.0]},
        {"counts": [2]},
        {"given": "0, 1"},
        {"matrix": [[1.0, 0.0]], "matrix_low": [[1.0, 0.0]], "matrix_high": [[1.0, 0.0]]},
        {"matrix": [[1.0, 0.0], [0.0]]},
    ],
)
def test_pairs_that_do_not_fit(tmp_path: Path, noise: dict[str, object]) -> None:
    acto.audit([0, 1], np.eye(2)).save(tmp_path)
    path = tmp_path / "label_report.json"
    described = json.loads(path.read_text())
    described["noise"] |= noise
    path.write_text(json.dumps(described))
    with pytest.raises(RunError, match=r"label_report\.json is damaged"):
        read_report(tmp_path)


@pytest.mark.right
def test_an_array_is_written_in_one_piece(tmp_path: Path) -> None:
    array = np.zeros((1000, 5000), np.float32)
    tracemalloc.start()
    data = array_bytes(array)
    assert tracemalloc.get_traced_memory()[1] < 1.05 * array.nbytes
    tracemalloc.stop()
    (tmp_path / "a.npy").write_bytes(data)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)
    numbers = np.arange(12).reshape(3, 4)
    for array in (numbers, numbers.T, numbers[:, ::2]):
        (tmp_path / "a.npy").write_bytes(array_bytes(array))
        np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)


@pytest.mark.right
def test_probabilities_of_all_batches_stand_where_their_samples_do(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = np.random.default_rng(0).dirichlet(np.ones(7), size=(2, 10)).astype(np.float32)
    labels = np.arange(10) * 3 % 7
    batches = [
        (SimpleNamespace(index=rows), {"net0": torch.tensor(first[rows]), "net1": torch.tensor(second[rows])})
        for rows in np.split(np.arange(10), [4, 8])
    ]
    monkeypatch.setattr(evaluation, "predictions", lambda training, data: iter(batches))
    training, data = cast(Any, None), cast(Any, SimpleNamespace(num_samples=10))
    headline, others = evaluation.headline_probs(training, data, labels)
    np.testing.assert_array_equal(headline, first)
    assert list(others) == ["net1"]
    np.testing.assert_array_equal(others["net1"][0], second.argmax(1))
    np.testing.assert_array_equal(others["net1"][1], second[np.arange(10), labels])


@pytest.mark.right
def test_trained_checked_and_audited(tmp_path: Path) -> None:
    many = 600
    labels = np.arange(many)
    x = np.random.default_rng(0).normal(size=(many, 4)).astype(np.float32)
    np.savez(tmp_path / "c.npz", x=x, y=labels, test_x=x[:50], test_y=labels[:50])
    out = tmp_path / "run"
    assert main(["data", "check", str(tmp_path / "c.npz")]) == 0
    settings = ["--method", "acto", "--epochs", "1", "--batch-size", "300", "--out", str(out)]
    assert main(["train", "--data", str(tmp_path / "c.npz"), *settings]) == 0
    probs, columns = read_run(out).pred_probs(), read_run(out).samples()
    assert probs.shape == (many, many)
    assert columns["predicted_label"] == [str(k) for k in probs.argmax(1)]
    np.testing.assert_array_equal(columns["prob_given"], probs[labels, labels])
    others = [name for name in columns if name.startswith("prob_given_")]
    assert others and all(np.isfinite(np.asarray(columns[name])).all() for name in others)
    assert (out / "label_report.json").stat().st_size < 500_000 and len(read_report(out)) == many


@pytest.mark.right
def test_a_folder_for_each_of_many_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for k in range(300):
        (tmp_path / "set" / f"c{k}").mkdir(parents=True)
        (tmp_path / "set" / f"c{k}" / "a.png").hardlink_to(tmp_path / "a.png")
    main(["data", "check", str(tmp_path / "set")])
    assert "300" in capsys.readouterr().out


@pytest.mark.refused
def test_noise_for_more_classes_than_a_square_allows() -> None:
    with pytest.raises(UserError, match="at most 20,000 classes, and these are 100,000"):
        transition_matrix("symmetric", rate=0.2, num_classes=100_000)


@pytest.mark.refused
def test_an_end_that_cannot_be_written_is_refused_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    many = 600
    np.savez(tmp_path / "c.npz", x=np.eye(many, dtype=np.float32), y=np.arange(many), test_x=np.eye(many)[:5],
             test_y=np.arange(5))  # fmt: skip
    needed = 2 * 4 * many * many
    monkeypatch.setattr(prepare, "usable_memory", lambda: needed - 1)
    command = ["train", "--data", str(tmp_path / "c.npz"), "--epochs", "1", "--net", "mlp:4", "--dry-run"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "600 samples of 600 classes are too many for this machine" in said and "2.7 MiB of memory" in said
    monkeypatch.setattr(prepare, "usable_memory", lambda: needed)
    assert main(command) == 0
    assert "at the end: 1.4 MiB of probabilities, held twice while written" in capsys.readouterr().out


@pytest.mark.right
def test_labels_as_targets_take_no_square() -> None:
    labels = torch.tensor([2, 999_999, 0])
    found = one_hot(labels, 1_000_000)  # whose square has 4 TB
    assert found.argmax(1).tolist() == labels.tolist() and found.sum() == 3 and found.dtype == torch.float32
