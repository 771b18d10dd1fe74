"""What of docs/reproducibility.md is called exact, run and compared byte for byte.

In other files: SIGKILL and resume (faults/), SIGTERM and resume (cli/test_cli.py), two processes
(training/test_distributed.py), views and any number of workers (data/test_loader.py).
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from acto.cli.flags import parse
from acto.core.types import Clock, Stream
from acto.run_folder.reading import read_run
from acto.runs.execute import train_run
from acto.runs.prepare import prepare
from acto.runs.resolve import resolve
from acto.runs.run import Run
from acto.training import evaluation
from acto.training.loop import run_epochs

SAME = ("metrics.csv", "samples.csv", "pred_probs.npy", "noisy_labels.npy", "net0.safetensors", "net1.safetensors")
TINY = [
    *("--data", "digits", "--noise", "symmetric", "--noise-rate", "0.4", "--subset", "160", "--batch-size", "64"),
    *("--epochs", "3", "--device", "cpu"),
]


def asked(*tokens: str) -> Run:
    return resolve(parse([*TINY, *tokens]).settings)[0]


def differing(first: Path, second: Path) -> list[str]:
    return [name for name in SAME if (first / name).read_bytes() != (second / name).read_bytes()]


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("first") / "run"
    with threads(1):
        train_run(asked(), out)
    return out


def test_python_and_the_command_and_any_hash_seed(first: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    subprocess.run(
        [sys.executable, "-m", "acto.cli", "train", *TINY, "--no-report", "--out", str(out)],
        env={**os.environ, "PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
    )
    assert differing(first, out) == []
    assert (out / "summary.json").read_bytes() == (first / "summary.json").read_bytes()


def test_bfloat16_is_as_exact_as_float32(first: Path, tmp_path: Path) -> None:
    with threads(1):
        for name in ("a", "b"):
            train_run(asked("--precision", "bfloat16"), tmp_path / name)
    assert differing(tmp_path / "a", tmp_path / "b") == []
    assert "net0.safetensors" in differing(first, tmp_path / "a")


def test_another_seed_is_another_run_on_the_same_labels(first: Path, tmp_path: Path) -> None:
    with threads(1):
        train_run(replace(asked(), seed=1), tmp_path / "run")
    assert {"noisy_labels.npy"} == set(SAME) - set(differing(first, tmp_path / "run"))


def test_torchs_deterministic_algorithms_are_those_that_run_anyway(first: Path, tmp_path: Path) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        with threads(1):
            train_run(asked(), tmp_path / "run")
    finally:
        torch.use_deterministic_algorithms(False)
    assert differing(first, tmp_path / "run") == []


def test_what_was_drawn_before_is_of_no_account(first: Path, tmp_path: Path) -> None:
    torch.rand(7), np.random.default_rng().random(7)
    torch.manual_seed(99)
    with threads(1):
        train_run(asked(), tmp_path / "run")
    assert differing(first, tmp_path / "run") == []


@pytest.mark.parametrize("size", [33, 2000])
def test_the_batches_of_an_evaluation_change_no_prediction(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(evaluation, "predictions", partial(evaluation.predictions, batch_size=size))
    with threads(1):
        train_run(asked(), tmp_path / "run")
    # Whether the last bit stays depends on the matrix library: the networks cannot notice, and no class changes.
    assert not {"net0.safetensors", "net1.safetensors"} & set(differing(first, tmp_path / "run"))
    probs = [read_run(out).pred_probs() for out in (first, tmp_path / "run")]
    np.testing.assert_allclose(probs[0], probs[1], atol=1e-5)
    assert np.array_equal(probs[0].argmax(1), probs[1].argmax(1))


def test_other_threads_change_only_the_last_bits_of_a_step(tmp_path: Path) -> None:
    """One epoch of few steps: later the differences grow, as docs/reproducibility.md says."""
    run = asked("--epochs", "1", "--warmup-epochs", "0", "--precision", "float32")
    for name, count in (("1", 1), ("2", 2), ("again", 2)):
        with threads(count):
            train_run(run, tmp_path / name)
    assert differing(tmp_path / "2", tmp_path / "again") == []
    one, two = (read_run(tmp_path / name) for name in ("1", "2"))
    assert one.metrics[0]["loss"] == pytest.approx(two.metrics[0]["loss"], rel=1e-3)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures") / "data"
    random = np.random.default_rng(0)
    for level, name in enumerate(("dark", "light")):
        (root / name).mkdir(parents=True)
        for number in range(24):
            height, width = random.integers(70, 90, 2)
            pixels = random.integers(90 * level, 90 * level + 120, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def test_workers_change_nothing(pictures: Path, tmp_path: Path) -> None:
    tokens = ["--data", str(pictures), "--data.size", "24", "--net", "cnn_small", "--weights", "none", "--epochs", "2"]
    run = resolve(parse([*tokens, "--warmup-epochs", "1", "--batch-size", "16", "--device", "cpu"]).settings)[0]
    for workers in (0, 2):
        with threads(1):
            train_run(replace(run, workers=workers), tmp_path / str(workers))
    assert differing(tmp_path / "0", tmp_path / "2") == []


def test_bfloat16_selects_what_float32_selects() -> None:
    """One step from one state, on a batch of pictures, in both formats."""
    run = resolve(parse(["--data", "digits", "--noise", "symmetric", "--noise-rate", "0.4", "--epochs", "5"]).settings)[
        0
    ]
    ready = prepare(replace(run, device="cpu", precision="float32"))
    for _ in run_epochs(ready.training, ready.train_data, seed=0):
        pass
    method = ready.training.method
    batch = next(iter(ready.train_data.batches(Stream(views=method.views, batch_size=1024), epoch=9)))
    selected, losses = [], []
    for enabled in (False, True):
        torch.manual_seed(0)  # of the partners that samples are mixed with
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            step = copy.deepcopy(method).loss((batch,), Clock(4, 5))
        selected.append(step.per_sample["selected"])
        losses.append(step.loss.item())
    share = selected[0].float().mean().item()
    assert 0.3 < share < 0.9, "a selection that could differ"
    assert (selected[0] == selected[1]).float().mean() > 0.99
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
