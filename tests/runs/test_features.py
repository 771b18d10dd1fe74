"""Frozen features: the same samples as the pictures', a file that survives kills and damage, and runs on it."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from safetensors.torch import save_file

from acto.cli.features import features
from acto.cli.train import train
from acto.core.errors import UserError
from acto.data.samples import Dataset, DataSpec, Samples
from acto.data.sources import IMAGENET_MEAN, IMAGENET_STD, load_data
from acto.nets.build import build_net
from acto.runs.frozen import extraction
from acto.runs.frozen.backbone import Backbone, _folded, make_backbone
from acto.runs.frozen.extraction import extract
from acto.runs.frozen.feature_file import FeatureFile, folder_of

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "SAVE_EVERY", 2)


def arrays(path: Path, *, count: int = 60, side: int = 8, channels: int = 1, **more: Any) -> Path:
    """Random pictures of three classes, with truth, without a test set."""
    random = np.random.RandomState(0)
    true = np.arange(count) % 3
    x = random.randint(0, 256, (count, side, side, channels)).astype(np.uint8)
    x[:, 0] = 60 * true[:, None, None]
    labels = np.where(random.rand(count) < 0.2, (true + 1) % 3, true)
    np.savez(path, x=x, labels=labels, **{"true_labels": true, "class_names": ["cat", "dog", "eel"], **more})
    return path


def folder(root: Path) -> Path:
    """Picture files too large to be held in memory, with a test set."""
    for split, count in (("train", 7), ("val", 3)):
        for number, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                picture = Image.new("RGB", (90 + i, 70), (200 * number, 20 * i, 50))
                picture.save(root / split / name / f"{i}.png")
    return root


def backbone(data: Dataset, *, size: int | None = 16, net: str = "cnn_tiny") -> Backbone:
    return make_backbone(net, "none", data, size=size, device=CPU)


def assert_same_samples(one: Samples, other: Samples) -> None:
    assert one.ids == other.ids
    np.testing.assert_array_equal(one.labels, other.labels)
    for samples, twin in ((one, other), (other, one)):
        if samples.true_labels is not None and (samples.true_labels != samples.labels).any():
            np.testing.assert_array_equal(samples.true_labels, twin.true_labels)


# What is in the file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["arrays", "folder", "noise"])
def test_a_run_on_features_sees_the_samples_of_a_run_on_pictures(kind: str, tmp_path: Path) -> None:
    spec = {
        "arrays": lambda: DataSpec(source=str(arrays(tmp_path / "pictures.npz"))),
        "folder": lambda: DataSpec(source=str(folder(tmp_path / "pictures"))),
        "noise": lambda: DataSpec(source="digits", subset=200),
    }[kind]()
    if kind == "noise":
        spec = replace(spec, noise=replace(spec.noise, kind="asymmetric", rate=0.4, seed=3))
    data = load_data(spec)
    extract(data, backbone(data), tmp_path / "f.npz", batch_size=16)
    found = load_data(DataSpec(source=str(tmp_path / "f.npz")))
    assert_same_samples(found.train, data.train)
    assert_same_samples(found.test, data.test)
    assert found.class_names == data.class_names
    assert found.test_labels_are_given == data.test_labels_are_given == (kind == "arrays")
    assert found.train.noise_rate == data.train.noise_rate
    assert found.train.features is not None and found.train.features.shape == (len(data.train), 64)


def test_noise_put_on_features_is_that_of_the_pictures(tmp_path: Path) -> None:
    """A clean source stays clean: its truth is not written, or `acto train` would refuse to put noise on."""
    clean = DataSpec(source="digits")
    data = load_data(clean)
    extract(data, backbone(data, size=8), tmp_path / "f.npz")
    noise = replace(clean.noise, kind="symmetric", rate=0.3, seed=2)
    on_pictures, on_features = (
        load_data(replace(spec, noise=noise)) for spec in (clean, replace(clean, source=str(tmp_path / "f.npz")))
    )
    assert_same_samples(on_features.train, on_pictures.train)
    np.testing.assert_array_equal(on_features.train.true_labels, on_pictures.train.true_labels)
    assert 0.2 < (on_features.train.noise_rate or 0) < 0.4


def test_features_are_the_networks_of_scaled_and_normalized_pictures(tmp_path: Path) -> None:
    data = load_data(DataSpec(source=str(arrays(tmp_path / "pictures.npz", channels=3))))
    seen = backbone(data, size=20)
    extract(data, seen, tmp_path / "f.npz", batch_size=7, precision="float32")
    torch.manual_seed(0)
    net = build_net("cnn_tiny", input_shape=(3, 20, 20), num_classes=3).eval()
    assert data.train.pixels is not None
    values = torch.from_numpy(data.train.pixels[:5].copy()).permute(0, 3, 1, 2) / 255
    values = F.interpolate(values, size=(20, 20), mode="bilinear", align_corners=False)
    values = (values - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    with np.load(tmp_path / "f.npz", allow_pickle=False) as file, torch.no_grad():
        np.testing.assert_allclose(file["x"][:5], net.features(values).numpy(), rtol=1e-4, atol=1e-5)
        about = json.loads(str(file["about"]))
    assert (about["mean"], about["std"]) == (list(IMAGENET_MEAN), list(IMAGENET_STD))
    assert (about["net"], about["height"], about["width"]) == ("cnn_tiny", 20, 20)


def test_grey_is_repeated_and_small_pictures_grow() -> None:
    data = load_data(DataSpec(source="digits", subset=20))
    seen = make_backbone("cnn_tiny", "none", data, size=None, device=CPU)
    assert seen.net.input_shape == (3, 128, 128)
    out = seen.normalized(torch.full((2, 1, 8, 8), 255, dtype=torch.uint8))
    assert out.shape == (2, 3, 128, 128)
    white = [(1 - mean) / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    torch.testing.assert_close(out[0].mean((1, 2)), torch.tensor(white))


def test_picture_files_are_seen_as_in_training(tmp_path: Path) -> None:
    data = load_data(DataSpec(source=str(folder(tmp_path / "pictures"))))
    extract(data, backbone(data, size=32), tmp_path / "one.npz", batch_size=4, precision="float32")
    with np.load(tmp_path / "one.npz", allow_pickle=False) as file:
        about = json.loads(str(file["about"]))
        assert (about["height"], about["resize"]) == (32, 37)  # 256 around 224, in proportion
        # One colour from edge to edge: scaling and cutting change nothing.
        seen = backbone(data, size=32)
        colour = torch.tensor([200, 40, 50], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 32, 32)
        with torch.no_grad():
            wanted = seen.net.features(seen.normalized(colour)).numpy()
        np.testing.assert_allclose(
            file["x"][list(file["ids"]).index("train/dog/2.png")], wanted[0], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("names", [["10", "20", "30"], ["cat", "0", "x"], ["0", "1", "2"]])
def test_class_names_that_look_like_numbers_come_back(names: list[str], tmp_path: Path) -> None:
    labels = np.array([names[k] for k in [0, 1, 2] * 20])
    source = arrays(tmp_path / "pictures.npz", class_names=names)
    with np.load(source) as file:
        content = dict(file)
    del content["true_labels"]
    np.savez(source, **{**content, "labels": labels})
    data = load_data(DataSpec(source=str(source)))
    extract(data, backbone(data), tmp_path / "f.npz")
    found = load_data(DataSpec(source=str(tmp_path / "f.npz")))
    assert found.class_names == data.class_names == tuple(names)
    assert_same_samples(found.train, data.train)


def test_unknown_and_open_set_truth_comes_back(tmp_path: Path) -> None:
    data = load_data(DataSpec(source=str(arrays(tmp_path / "pictures.npz"))))
    truth = data.train.labels.copy()
    truth[:3] = [-1, 3, 5]
    data = replace(data, train=replace(data.train, true_labels=truth))
    extract(data, backbone(data), tmp_path / "f.npz")
    np.testing.assert_array_equal(load_data(DataSpec(source=str(tmp_path / "f.npz"))).train.true_labels, truth)


def test_half_the_bytes(tmp_path: Path) -> None:
    data = load_data(DataSpec(source=str(arrays(tmp_path / "pictures.npz"))))
    seen = backbone(data)
    extract(data, seen, tmp_path / "f.npz", dtype="float16")
    with np.load(tmp_path / "f.npz", allow_pickle=False) as file:
        assert file["x"].dtype == np.float16
    # A scale at which float16 overflows.
    seen.net.backbone.register_forward_hook(lambda module, inputs, output: output * 1e6 + 1e6)
    with pytest.raises(UserError, match=r"not finite as float16, first of all of 0, 1.*--dtype float32"):
        extract(data, seen, tmp_path / "g.npz", dtype="float16")


# Kills and damage -----------------------------------------------------------------------------------------------

LIVES = """
import os, signal, sys
from pathlib import Path
import torch
from acto.runs.frozen import extraction
from acto.runs.frozen.backbone import make_backbone
from acto.data.samples import DataSpec
from acto.data.sources import load_data

torch.set_num_threads(1)
extraction.SAVE_EVERY = 2
root = Path(sys.argv[1])
data = load_data(DataSpec(source=str(root / "pictures.npz")))
seen = make_backbone("cnn_tiny", "none", data, size=16, device=torch.device("cpu"))

def live(out, death, nth):
    times = 0
    def on_point(name):
        nonlocal times
        times += name == death
        if name == death and times == nth:
            os.kill(os.getpid(), signal.SIGKILL)
    return extraction.extract(data, seen, root / out, batch_size=5, precision="float32", on_point=on_point)

live("calm.npz", "never", 1)
deaths = [("rows appended", 1), ("rows counted", 2), ("rows appended", 2), ("rows counted", 3), ("file written", 1)]
deaths += [("file renamed", 1), ("checksum written", 1)]
for death, nth in deaths:
    child = os.fork()
    if child == 0:
        live("killed.npz", death, nth)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), (death, nth)
done = live("killed.npz", "never", 1)
print(done.computed)
"""


def test_killed_again_and_again_the_file_has_the_same_bytes(tmp_path: Path) -> None:
    """Killed with rows that nobody has counted, between stretches, and at each point of the end."""
    arrays(tmp_path / "pictures.npz")
    command = [sys.executable, "-c", LIVES, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["0"]  # all rows were there when the last life began
    calm, killed = ((tmp_path / name).read_bytes() for name in ("calm.npz", "killed.npz"))
    assert calm == killed
    digest, name = (tmp_path / "killed.npz.sha256").read_text().split()
    assert (digest, name) == (hashlib.sha256(killed).hexdigest(), "killed.npz")
    assert not folder_of(tmp_path / "killed.npz").exists()


class Stop(Exception):
    """Raised where a kill would be."""


def begun(tmp_path: Path, *, stretches: int = 2, **settings: Any) -> tuple[Dataset, Path, bytes]:
    """Data, an extraction stopped after so many stretches of ten rows, and the bytes of an undisturbed file."""
    data = load_data(DataSpec(source=str(arrays(tmp_path / "pictures.npz"))))
    extract(data, backbone(data), tmp_path / "calm.npz", batch_size=5)
    counted = 0

    def on_point(name: str) -> None:
        nonlocal counted
        counted += name == "rows counted"
        if counted == stretches:
            raise Stop

    with pytest.raises(Stop):
        extract(data, backbone(data), tmp_path / "f.npz", batch_size=5, on_point=on_point)
    return data, tmp_path / "f.npz", (tmp_path / "calm.npz").read_bytes()


def test_goes_on_where_it_was(tmp_path: Path) -> None:
    data, out, calm = begun(tmp_path)
    said: list[str] = []
    done = extract(data, backbone(data), out, batch_size=5, say=said.append)
    assert done.computed == 40 and "going on after 20 of 60 samples" in said
    assert out.read_bytes() == calm


def test_other_settings_are_refused_with_the_difference(tmp_path: Path) -> None:
    data, out, _ = begun(tmp_path)
    with pytest.raises(UserError, match=r"begun with other settings: height was 16, not 24; width was 16, not 24\."):
        extract(data, backbone(data, size=24), out, batch_size=5)
    with pytest.raises(UserError, match=r"net was cnn_tiny, not cnn_small; weights_sha256 was \w{12}\.\.\., not"):
        extract(data, backbone(data, net="cnn_small"), out, batch_size=5)
    labels = data.train.labels.copy()
    labels[0] = (labels[0] + 1) % 3
    with pytest.raises(UserError, match=r"labels_sha256 was \w{12}\.\.\."):
        extract(replace(data, train=replace(data.train, labels=labels)), backbone(data), out, batch_size=5)
    with pytest.raises(UserError, match="pictures_sha256 was"):
        assert data.train.pixels is not None
        pixels = 255 - data.train.pixels
        extract(replace(data, train=replace(data.train, pixels=pixels)), backbone(data), out, batch_size=5)
    done = extract(data, backbone(data, size=24), out, batch_size=5, overwrite=True)
    assert done.computed == 60


def test_a_finished_file_is_not_replaced_unasked(tmp_path: Path) -> None:
    data = load_data(DataSpec(source=str(arrays(tmp_path / "pictures.npz"))))
    out = tmp_path / "f.npz"
    out.write_bytes(b"somebody's")
    with pytest.raises(UserError, match=r"f\.npz is there already.*--overwrite"):
        extract(data, backbone(data), out)
    assert out.read_bytes() == b"somebody's" and not folder_of(out).exists()
    extract(data, backbone(data), out, overwrite=True)
    assert load_data(DataSpec(source=str(out))).train.features is not None


@pytest.mark.parametrize(
    ("damage", "computed", "note"),
    [
        ("a byte of the second stretch", 50, "damaged after row 10"),
        ("the end is missing", 50, "damaged after row 10"),
        ("the header", 60, "damaged after row 0"),
        ("no rows", 60, "damaged after row 0"),
        ("the progress", 60, "progress.json is damaged: the work begins anew"),
    ],
)
def test_damage_is_found_and_mended(damage: str, computed: int, note: str, tmp_path: Path) -> None:
    data, out, calm = begun(tmp_path)
    rows, progress = folder_of(out) / "x.npy", folder_of(out) / "progress.json"
    content = bytearray(rows.read_bytes())
    if damage == "no rows":
        rows.unlink()
    elif damage == "the progress":
        progress.write_bytes(progress.read_bytes()[:-40])
    elif damage == "the end is missing":
        rows.write_bytes(content[:-7])
    else:
        content[20 if damage == "the header" else -7] ^= 1
        rows.write_bytes(content)
    said: list[str] = []
    done = extract(data, backbone(data), out, batch_size=5, say=said.append)
    assert done.computed == computed
    assert any(note in text for text in said)
    assert out.read_bytes() == calm


TWO_ROWS = np.ones((2, 3), np.float32)


def of_rows(out: Path, **more: Any) -> FeatureFile:
    return FeatureFile(out, shapes={"x": (2, 3)}, dtype="float32", config={}, **more)


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"marks": {"x": []}}', '{"marks": {"x": [2]}, "config": {}}', '{"marks": 1, "config": {}}',
        '{"marks": {"x": [["two", 1]]}, "config": {}}', "\x00", None]
)  # fmt: skip
def test_progress_that_says_nothing(content: str | None, tmp_path: Path) -> None:
    with of_rows(tmp_path / "f.npz") as file:
        file.add("x", TWO_ROWS)
    progress = folder_of(tmp_path / "f.npz") / "progress.json"
    progress.unlink()
    if content is None:
        os.mkfifo(progress)
    else:
        progress.write_text(content)
    with of_rows(tmp_path / "f.npz") as file:
        assert file.done("x") == 0
        assert [note.endswith("damaged: the work begins anew") for note in file.notes] == [True] * (content is not None)
        file.add("x", TWO_ROWS)
        file.finish({})
    assert np.array_equal(np.load(tmp_path / "f.npz")["x"], TWO_ROWS)


@pytest.mark.parametrize("until", [0, 2, 10**15, 10**30])
def test_progress_that_says_more_than_there_is(until: int, tmp_path: Path) -> None:
    with of_rows(tmp_path / "f.npz") as file:
        file.add("x", TWO_ROWS[:1])
    folder = folder_of(tmp_path / "f.npz")
    size = (folder / "x.npy").stat().st_size
    content = json.loads((folder / "progress.json").read_text())
    content["marks"]["x"].append([until, content["marks"]["x"][0][1]])
    (folder / "progress.json").write_text(json.dumps(content))
    with of_rows(tmp_path / "f.npz") as file:
        assert file.done("x") == 1 and (folder / "x.npy").stat().st_size == size
        assert "damaged after row 1" in file.notes[0]


def test_an_older_checksum_never_stands_beside_a_newer_file(tmp_path: Path) -> None:
    sums, seen = tmp_path / "f.npz.sha256", []
    sums.write_text("of an older file")
    with of_rows(tmp_path / "f.npz", on_point=lambda point: seen.append((point, sums.exists()))) as file:
        file.add("x", TWO_ROWS)
        file.finish({})
    assert ("file renamed", False) in seen and ("checksum written", True) in seen
    assert not folder_of(tmp_path / "f.npz").exists()


def test_two_processes_do_not_share_a_file(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"shapes": {"x": (2, 3)}, "dtype": "float32", "config": {}}
    with (
        FeatureFile(tmp_path / "f.npz", **settings),
        pytest.raises(UserError, match="in use by process"),
    ):
        FeatureFile(tmp_path / "f.npz", **settings)


def test_a_full_disk_is_seen_before_the_work(tmp_path: Path) -> None:
    shapes = {"x": (10**12, 10**3)}
    with pytest.raises(RuntimeError, match=r"needs 8000000000\.0 MB"):
        FeatureFile(tmp_path / "f.npz", shapes=shapes, dtype="float32", config={})


# Networks -------------------------------------------------------------------------------------------------------


def test_folding_changes_nothing() -> None:
    seen = backbone(load_data(DataSpec(source="digits", subset=20)))
    torch.manual_seed(0)
    plain = build_net("cnn_tiny", input_shape=(3, 16, 16), num_classes=10)
    with torch.no_grad():
        for norm in (m for m in plain.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    inputs = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        wanted = plain.eval().features(inputs)
    folded = _folded(plain)
    assert not [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    found = replace(seen, net=folded).features(inputs, torch.float32)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_bfloat16_only_where_it_is_like_float32(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(extraction, "resolve_precision", lambda asked, device: torch.bfloat16)
    data = load_data(DataSpec(source=str(arrays(tmp_path / "pictures.npz"))))
    said: list[str] = []
    for floor, wanted in ((0.5, "bfloat16"), (1.0, "float32")):
        monkeypatch.setattr(extraction, "LIKENESS", floor)
        extract(data, backbone(data), tmp_path / f"{wanted}.npz", say=said.append)
        with np.load(tmp_path / f"{wanted}.npz", allow_pickle=False) as file:
            assert json.loads(str(file["about"]))["precision"] == wanted
    assert len([text for text in said if "too far from float32's" in text]) == 1


def test_timm_models_bring_their_normalization() -> None:
    timm = pytest.importorskip("timm")
    data = load_data(DataSpec(source="digits", subset=20))
    seen = make_backbone("timm:test_vit", "none", data, size=160, device=CPU)
    wanted = timm.get_pretrained_cfg("test_vit")
    assert (seen.mean, seen.std) == (wanted.mean, wanted.std) == ((0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(("name", "head"), [("mobilenet_v2", "classifier.1"), ("shufflenet_v2_x0_5", "fc")])
def test_torchvision_models_keep_their_keys(name: str, head: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    plain = torchvision.models.get_model(name, weights=None, num_classes=5).eval()
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    net = build_net(f"torchvision:{name}", input_shape=(3, 32, 32), num_classes=5, weights=str(tmp_path / "plain.pth"))
    assert net.head_key == head
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(images), plain(images))
    assert net.plain_state_dict().keys() == plain.state_dict().keys()
    other = build_net(
        f"torchvision:{name}", input_shape=(3, 32, 32), num_classes=7, weights=str(tmp_path / "plain.pth")
    )
    assert other.head.out_features == 7 and not other.head.bias.any()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("mobilenet_v22", r"unknown torchvision model 'mobilenet_v22'\. Did you mean 'mobilenet_v2'\?"),
        ("fcn_resnet50", "unknown torchvision model"),
        ("squeezenet1_1", "must end in a torch.nn.Linear"),
        ("googlenet", "classifiers on the side"),
        ("alexnet", "cannot take samples of shape"),
    ],
)
def test_torchvision_models_that_do_not_suit(name: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        build_net(f"torchvision:{name}", input_shape=(3, 32, 32), num_classes=3)


def test_torchvision_models_take_colours() -> None:
    with pytest.raises(UserError, match="takes colour pictures"):
        build_net("torchvision:mobilenet_v2", input_shape=(1, 32, 32), num_classes=3)


def test_torchvision_weights_come_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torchvision.models.shufflenet_v2_x0_5(weights=None)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url, **options: plain.state_dict())
    net = build_net("torchvision:shufflenet_v2_x0_5", input_shape=(3, 32, 32), num_classes=3, weights="torchvision")
    torch.testing.assert_close(net.state_dict()["backbone.conv1.0.weight"], plain.conv1[0].weight.detach())


def test_weights_of_a_run_bring_their_normalization(tmp_path: Path) -> None:
    net = build_net("cnn_tiny", input_shape=(1, 8, 8), num_classes=10)
    facts = {"input_shape": [1, 8, 8], "views": {"pipeline": "digits", "mean": [0.3], "std": [0.4]}}
    weights = tmp_path / "net0.safetensors"
    save_file(net.state_dict(), weights, {"acto": json.dumps(facts)})
    data = load_data(DataSpec(source="digits", subset=20))
    seen = make_backbone("cnn_tiny", str(weights), data, size=None, device=CPU)
    assert (seen.net.input_shape, seen.mean, seen.std) == ((1, 8, 8), (0.3,), (0.4,))
    assert seen.weights_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    out = seen.normalized(torch.full((1, 1, 8, 8), 51, dtype=torch.uint8))
    torch.testing.assert_close(out, torch.full((1, 1, 8, 8), (0.2 - 0.3) / 0.4))
    colour = load_data(DataSpec(source=str(arrays(tmp_path / "pictures.npz", channels=3))))
    with pytest.raises(UserError, match="grey pictures"):
        make_backbone("cnn_tiny", str(weights), colour, size=None, device=CPU)


# The command ----------------------------------------------------------------------------------------------------


def test_from_pictures_to_a_run_on_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = arrays(tmp_path / "pictures.npz", count=90), tmp_path / "f.npz"
    tokens = [str(source), "--net", "cnn_tiny", "--weights", "none", "--size", "16", "--out", str(out)]
    assert features([*tokens, "--data.holdout_seed", "5", "--device", "cpu", "--json"]) == 0
    printed = capsys.readouterr()
    facts = json.loads(printed.out)
    assert facts["out"] == str(out) and facts["num_train"] + facts["num_test"] == 90
    assert facts["num_features"] == 64 and facts["test_labels_are_given"] is True
    assert facts["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert "reading" in printed.err and "held out" in printed.err
    assert train([
        "--data", str(out), "--out", str(tmp_path / "run"), "--epochs", "2", "--warmup-epochs", "1", "--device", "cpu",
        "--batch-size", "16", "--no-report",
    ]) == 0  # fmt: skip
    capsys.readouterr()
    wanted = load_data(DataSpec(source=str(source), holdout_seed=5))
    with (tmp_path / "run" / "samples.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(row["id"] for row in rows) == wanted.train.ids
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test_labels_are_given"] is True and summary["num_test"] == len(wanted.test)


@pytest.mark.parametrize(
    ("tokens", "problem"),
    [
        (["digits", "--net", "cnn_tiny"], "needs --weights"),
        (["digits", "--weights", "none"], "needs --net"),
        (["digits", "--net", "cnn_tiny", "--weights", "none", "--out", "f.npy"], r"must end in \.npz"),
        (["digits", "--net", "cnn_tiny", "--weights", "none", "--out", "no/f.npz"], "does not exist"),
        (["digits", "--net", "cnn_tiny", "--weights", "none", "--dtype", "float46"], "Did you mean 'float16'"),
        (["digits", "--net", "cnn_tiny", "--weights", "none", "--size", "0"], "--size is 0"),
        (["digits", "--net", "cnn_tiny", "--weights", "none", "--data.size", "9"], "as --size"),
        (["digits", "--net", "cnn_tiny", "--weights", "none", "--noise", "symetric"], "symmetric"),
        (["digits", "--net", "cnn_tinny", "--weights", "none"], "Did you mean 'cnn_tiny'"),
        (["digits", "--net", "cnn_tiny", "--weights", "none", "--sizes", "9"], "Did you mean '--size'"),
        (["digits", "--net", "a.b:c", "--weights", "none"], "foreign code"),
    ],
)
def test_what_cannot_be_done_is_refused(
    tokens: list[str], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=problem):
        features(tokens)
    assert os.listdir(tmp_path) == []


def test_vectors_are_no_pictures(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", x=np.random.RandomState(0).rand(40, 5), labels=np.arange(40) % 2)
    with pytest.raises(UserError, match="has feature vectors already"):
        features([str(tmp_path / "v.npz"), "--net", "cnn_tiny", "--weights", "none", "--out", str(tmp_path / "f.npz")])
