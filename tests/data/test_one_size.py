"""Small pictures of several sizes, and --data.size for every kind of data that holds pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import acto
from acto.cli import main
from acto.core.errors import UserError
from acto.data.pictures.one_size import are_small, common_side
from acto.data.samples import DataSpec
from acto.data.sources import load_data
from acto.run_folder.reading import read_run
from acto.runs.execute import train_run
from acto.runs.resolve import resolve
from acto.runs.run import Run
from acto.runs.trained_model import load_model
from acto.training.protocol import Protocol

SIZES = ((20, 24), (30, 30), (24, 36), (44, 40))
"""Width and height; the short sides' median is 27."""


def write(root: Path, sizes: tuple[tuple[int, int], ...] = SIZES, *, count: int = 12) -> Path:
    """A folder of red and blue pictures, `count` of each, sizes in turn."""
    random = np.random.default_rng(0)
    for name, channel in (("blue", 2), ("red", 0)):
        (root / name).mkdir(parents=True)
        for i in range(count):
            width, height = sizes[i % len(sizes)]
            pixels = random.integers(0, 120, (height, width, 3), np.uint8)
            pixels[..., channel] += 120
            Image.fromarray(pixels).save(root / name / f"{i:02}.png")
    return root


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    return write(tmp_path / "mixed")


def resolved(source: Path, *, net: str | None = None, **data: Any) -> tuple[Run, Any]:
    settings: dict[str, Any] = {"data": {"source": str(source), **data}}
    return resolve(settings | ({"net": net} if net else {}))


def test_mixed_small_pictures_get_the_small_network_and_one_size(mixed: Path) -> None:
    run, dataset = resolved(mixed)
    assert (run.net, run.data.pictures, run.data.size) == ("cnn_small", "small", 27)
    assert dataset.train.pixels.shape[1:] == (27, 27, 3) and dataset.views.pipeline == "small"
    assert any("24 pictures of 4 sizes are brought to 27x27 pixels" in note for note in dataset.notes)
    again = load_data(run.data)
    assert np.array_equal(again.train.pixels, dataset.train.pixels) and again.train.ids == dataset.train.ids
    assert again.views == dataset.views
    # The same samples are held out as before, when they were photographs.
    assert load_data(DataSpec(source=str(mixed))).test.ids == dataset.test.ids


def test_a_picture_keeps_its_content(tmp_path: Path) -> None:
    root = write(tmp_path / "d", ((30, 30), (60, 30)))
    wide = np.zeros((30, 60, 3), np.uint8)
    wide[:, 15:45] = 200  # what is in the middle stays
    Image.fromarray(wide).save(root / "red" / "01.png")
    dataset = load_data(DataSpec(source=str(root), pictures="small", size=30))
    both = np.concatenate([dataset.train.pixels, dataset.test.pixels])
    row = [*dataset.train.ids, *dataset.test.ids].index("red/01.png")
    assert np.unique(both[row]).tolist() == [200]


@pytest.mark.parametrize(
    ("sizes", "side", "small"),
    [
        (SIZES, 27, True),
        (((28, 28), (64, 64)), 46, True),
        (((28, 28), (65, 65)), 46, False),  # one is no small picture
        (((20, 20), (20, 41)), 20, False),  # more than half would be cut away
        (((6, 6), (30, 30)), 18, True),
        (((4, 4), (60, 60), (60, 60)), 60, False),  # 15 times enlarged
        (((5, 5), (6, 6)), 8, True),
        (((300, 200), (200, 300)), 64, False),
    ],
)
def test_which_pictures_are_small(sizes: tuple[tuple[int, int], ...], side: int, small: bool) -> None:
    assert (common_side(sizes), are_small(sizes)) == (side, small)


@pytest.mark.parametrize(
    ("data", "net", "pipeline", "side"),
    [
        ({"size": 16}, None, "small", 16),
        ({"pictures": "large", "size": 16}, None, "photo", 16),
        ({"pictures": "large"}, "resnet18", "photo", 224),
        ({}, "torchvision:resnet18", "photo", 224),  # a network for large pictures was asked for
        ({}, "cnn_tiny", "small", 27),
    ],
)
def test_what_was_asked_for_goes_first(
    mixed: Path, data: dict[str, Any], net: str | None, pipeline: str, side: int
) -> None:
    run, dataset = resolved(mixed, net=net, **data)
    assert dataset is not None and dataset.views.pipeline == pipeline
    assert (dataset.views.size or dataset.views.resize) == side
    assert run.data.pictures == ("small" if pipeline == "small" else data.get("pictures"))


def arrays(path: Path) -> Path:
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 255, (24, 10, 12, 1), np.uint8), np.arange(24) % 2
    np.savez(path / "a.npz", images=images, labels=labels)
    return path / "a.npz"


def one_size(path: Path) -> Path:
    return write(path / "one", ((32, 32),))


def manifest(path: Path) -> Path:
    root = write(path / "m")
    lines = [f"m/{p.parent.name}/{p.name},{p.parent.name}" for p in sorted(root.rglob("*.png"))]
    (path / "m.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    return path / "m.csv"


def digits(path: Path) -> Path:
    return Path("digits")


@pytest.mark.parametrize("make", [arrays, one_size, manifest, digits])
def test_size_holds_for_every_kind_of_pictures(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    run, dataset = resolved(make(tmp_path), size=14)
    dataset = dataset or load_data(run.data)
    assert dataset.train.pixels.shape[1:3] == (14, 14) and dataset.test.pixels.shape[1:3] == (14, 14)
    again = load_data(run.data)
    assert np.array_equal(again.train.pixels, dataset.train.pixels)
    plain = load_data(DataSpec(source=run.data.source))
    assert np.array_equal(plain.train.labels, again.train.labels)


@pytest.mark.parametrize(
    ("make", "data", "message"),
    [
        (arrays, {"size": 64}, "pictures cannot be brought to 64x64 pixels: 0: it has 12x10 pixels, too few"),
        (arrays, {"resize": 20}, "resize is for large picture files"),
        (digits, {"size": 33}, "it has 8x8 pixels, too few to make the 33x33"),
        (manifest, {"pictures": "tiny"}, "unknown pictures 'tiny'. Choices: auto, large, small"),
        (manifest, {"pictures": "small", "resize": 30}, "resize is for large picture files"),
        (manifest, {"pictures": "small", "size": 200}, r"24 of 24|of 2\d pictures cannot be brought to 200x200"),
        (manifest, {"size": 0}, "size is 0"),
    ],
)
def test_sizes_that_pictures_cannot_have(
    tmp_path: Path, make: Callable[[Path], Path], data: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_data(DataSpec(source=str(make(tmp_path)), **data))


def test_train_predict_and_audit(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", "--data", str(mixed), "--out", str(out), "--epochs", "2", "--method", "standard"]) == 0
    config = read_run(out).config
    assert (config["data"]["pictures"], config["data"]["size"], config["net"]) == ("small", 27, "cnn_small")
    assert "brought to 27x27 pixels" in capsys.readouterr().err
    assert main(["audit", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"] == "mixed"
    model = load_model(out)
    big = np.random.default_rng(0).integers(0, 255, (3, 40, 50, 3), np.uint8)
    assert model.predict_proba(big).shape == (3, 2)
    with pytest.raises(UserError, match="too few to make the 27x27 of the training"):
        model.predict_proba(big[:, :5, :5])
    assert main(["predict", str(out), str(mixed / "red"), "--out", str(tmp_path / "p.csv")]) == 0
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 13
    # More pictures, of other sizes: the run's own size stays.
    more = write(tmp_path / "more", (*SIZES, (60, 60), (64, 60)))
    argv = ["train", "--init-from", str(out), "--data", str(more), "--out", str(tmp_path / "on"), "--epochs", "3"]
    assert main(argv) == 0
    assert read_run(tmp_path / "on").config["data"]["size"] == 27


def test_a_run_of_an_earlier_version_goes_on_as_it_was(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its config knows of no `pictures`: its pictures are photographs, and stay so."""
    out, spec = tmp_path / "old", DataSpec(source=str(mixed), size=12, resize=14)
    protocol = Protocol(epochs=2, batch_size=8)
    run = Run(data=spec, method="standard", net="cnn_tiny", protocol=protocol, device="cpu", workers=0)
    train_run(run, out)
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["data"].pop("pictures") is None
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", "--resume", str(out)]) == 0
    assert "is finished" in capsys.readouterr().err
    assert main(["audit", str(out)]) == 0
    train_run(run, out, resume=True)  # of the same run, as it was called then
    model = load_model(out)
    assert (model.views.pipeline, model.views.size, model.views.resize) == ("photo", 12, 14)
    argv = ["train", "--init-from", str(out), "--out", str(tmp_path / "on"), "--epochs", "3"]
    assert main(argv) == 0
    assert load_model(tmp_path / "on").views.pipeline == "photo"


def test_a_list_of_small_picture_files(mixed: Path, tmp_path: Path) -> None:
    paths = sorted(mixed.rglob("*.png"))
    labels = [path.parent.name for path in paths]
    settings: dict[str, Any] = {"epochs": 2, "method": "standard", "device": "cpu", "out": tmp_path / "run"}
    fitted = acto.fit(paths, labels, **settings)
    assert any("24 pictures of 4 sizes are brought to 27x27 pixels" in note for note in fitted.dataset.notes)
    assert (fitted.dataset.train.pixels is not None, fitted.predict(paths).shape) == (True, (24,))
    config = read_run(tmp_path / "run").config
    assert (config["net"], config["data"]["pictures"], config["data"]["size"]) == ("cnn_small", "small", 27)
    acto.fit(paths, labels, **settings, resume=True)
    # A run of an earlier version, which knew of no `pictures`, goes on with photographs.
    assert acto.as_dataset(paths, labels).views.pipeline == "photo"
    file = tmp_path / "run" / "config.yaml"
    saved = yaml.safe_load(file.read_text())
    del saved["data"]["pictures"], saved["data"]["size"]
    file.write_text(yaml.safe_dump(saved))
    with pytest.raises(UserError, match=r"22 of 22 training samples, .* have another content"):
        acto.fit(paths, labels, **settings, resume=True)
