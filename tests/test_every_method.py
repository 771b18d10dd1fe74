"""`acto train --method M` for every method on each kind of data that people bring: a named set, a folder, a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from acto.cli import main
from acto.methods import METHODS
from acto.nets import cpu_layers
from acto.nets.cpu_kernels import KernelsMissing, kernels
from acto.run_folder.reading import RunRecord, read_run

NUM_CLASSES, PER_CLASS = 3, 24


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The flags for each kind of data; small, with classes that can be told apart."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for name in range(NUM_CLASSES):
        (root / "photos" / f"kind{name}").mkdir(parents=True)
        for number in range(PER_CLASS):
            pixels = random.integers(0, 60, (90 + number, 100, 3), dtype=np.uint8)
            pixels[..., name] += 150
            Image.fromarray(pixels).save(root / "photos" / f"kind{name}" / f"{number}.png")
    labels = np.arange(NUM_CLASSES * PER_CLASS) % NUM_CLASSES
    features = random.normal(size=(len(labels), 6)).astype(np.float32)
    features[np.arange(len(labels)), labels] += 3
    np.savez(root / "features.npz", x=features, y=labels)
    size = ["--data.size", "16", "--data.resize", "18", "--net", "cnn_small", "--workers", "0"]
    return {
        "digits": ["--data", "digits", "--data.subset", "200", "--net", "cnn_tiny"],
        "folder": ["--data", str(root / "photos"), *size],
        "features": ["--data", str(root / "features.npz")],
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["digits", "folder", "features"])
def test_trains_from_the_command_line(
    method: str, kind: str, sources: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(method, [*sources[kind], "--precision", "float32"], tmp_path / "run", capsys)


@pytest.mark.parametrize("method", METHODS)
def test_trains_with_the_c_kernels(
    method: str,
    sources: dict[str, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a machine cannot have them, steps are taken without; there one method tells as much as all."""
    try:
        kernels()
        taken = "compiled"
    except KernelsMissing as why:
        taken = "eager"
        if method != "acto":
            pytest.skip(f"no C kernels here: {why}")
    for least in ("FEWEST_CHANNELS", "FEWEST_PIXELS", "FEWEST_ACTIVATIONS"):
        monkeypatch.setattr(cpu_layers, least, 0)
    run = trained(
        method, [*sources["folder"], "--data.subset", "40", "--precision", "bfloat16"], tmp_path / "run", capsys
    )
    assert run.sessions[0]["step"] == taken


def trained(method: str, flags: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> RunRecord:
    noise = ["--noise", "symmetric", "--noise-rate", "0.3"]
    size = ["--batch-size", "32", "--epochs", "4", "--seed", "1", "--device", "cpu"]
    code = main(["train", "--method", method, *flags, *noise, *size, "--no-report", "--out", str(out)])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    run = read_run(out)
    assert run.status["state"] == "finished" and [row["epoch"] for row in run.metrics] == [0, 1, 2, 3]
    assert all(np.isfinite(row["loss"]) for row in run.metrics)
    assert np.isfinite(run.pred_probs()).all()
    return run
