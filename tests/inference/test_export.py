"""Exports give the trained model's probabilities, load into the libraries they claim to, and say how."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import yaml
from PIL import Image
from safetensors.torch import load_file

from acto.cli.export import export_command
from acto.core.errors import RunError, UserError
from acto.data.for_prediction import read_new
from acto.data.views.spec import ViewSpec
from acto.inference import export as exporting
from acto.inference.export import Exported, export
from acto.inference.hub import hub_folder
from acto.inference.model_card import plain_text
from acto.runs.trained_model import load_model
from trained_runs import finished_run

HAS_ONNX = True
try:
    import onnxruntime
    import onnxscript  # noqa: F401
except ImportError:
    HAS_ONNX = False
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="onnx is not installed")


def code_blocks(folder: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)


def run_block(block: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run what the card says, in its folder, and return the names it made."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    return names


def trained_probs(run: Path, inputs: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return load_model(run).headline(inputs).numpy()


@pytest.mark.parametrize(
    ("format", "net", "shape", "headline"),
    [
        ("safetensors", "cnn_tiny", (1, 8, 8), (1.0,)),
        ("safetensors", "mlp:8", (4,), (0.5, 0.5)),
        ("torch", "mlp:8", (4,), (0.5, 0.5)),
        ("torch", "mlp", (4,), (0, 1)),
    ],
)
def test_the_cards_code_gives_the_trained_models_probabilities(
    format: str,
    net: str,
    shape: tuple[int, ...],
    headline: tuple[float, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    finished_run(tmp_path / "run", net, shape, headline=headline, temperature=0.5)
    done = export(tmp_path / "run", tmp_path / "out", format=format)
    assert done.max_difference < 1e-5 and (done.num_random, done.num_real) == (16, 0)
    assert {path.name for path in done.files} == {path.name for path in (tmp_path / "out").iterdir()}
    (block,) = code_blocks(tmp_path / "out")
    names = run_block(block, tmp_path / "out", monkeypatch)
    expected = trained_probs(tmp_path / "run", torch.zeros(1, *shape))
    np.testing.assert_allclose(np.asarray(names["probs"]), expected, atol=1e-5)
    assert capsys.readouterr().out.strip() == names["facts"]["class_names"][expected.argmax()]


def run_alone(folder: Path, files: dict[str, Path]) -> dict[str, Any]:
    """Run the card's code in a process that has neither acto nor torch, once for each file under the name it reads."""
    (block,) = [block for block in code_blocks(folder) if "onnxruntime" in block]
    asked = "features.npy" if "features.npy" in block else "picture.jpg"
    code = f"""
import json, shutil, sys
for name in ("acto", "torch"):
    sys.modules[name] = None
found = {{}}
for name, file in {[(name, str(path)) for name, path in files.items()]}:
    shutil.copy(file, {asked!r})
    names = {{}}
    exec({block!r}, names)
    found[name] = names["probs"].tolist()
print(json.dumps(found))
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    *said, found = run.stdout.splitlines()
    assert said and all(re.fullmatch(r"(apple|pear|quince) \d+\.\d\d%", line) for line in said)
    return json.loads(found)


@needs_onnx
@pytest.mark.parametrize("kind", ["files of any size", "small grey ones"])
def test_the_cards_code_for_onnx_reads_a_picture_file_as_acto_does(kind: str, tmp_path: Path) -> None:
    views, shape = ViewSpec(pipeline="small", mean=(0.4,), std=(0.2,)), (1, 8, 8)
    if kind == "files of any size":
        views = ViewSpec(pipeline="photo", size=24, resize=32, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
        shape = (3, 24, 24)
    finished_run(tmp_path / "run", "cnn_tiny", shape, views=views, temperature=0.5)
    export(tmp_path / "run", tmp_path / "out", format="onnx")
    side = 160 if kind == "files of any size" else 10
    noise = np.random.RandomState(0).randint(0, 256, (side, side + side // 3, 4), np.uint8)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    plain = Image.fromarray(noise[..., :3].copy())
    turned = Image.Exif()
    turned[0x0112] = 6
    plain.save(pictures / "large.jpg", quality=95)
    plain.save(pictures / "turned.jpg", exif=turned)
    Image.fromarray(noise).save(pictures / "transparent.png")
    Image.fromarray(noise[..., 0].astype(np.uint16) * 200).save(pictures / "deep.png")
    plain.convert("P").save(pictures / "palette.png")
    plain.convert("L").resize((8, 8)).save(pictures / "small.png")
    files = {path.name: path for path in sorted(pictures.iterdir())}
    if kind == "files of any size":
        del files["small.png"]
        (pictures / "small.png").unlink()
    found = run_alone(tmp_path / "out", files)
    samples = read_new(str(pictures)).samples
    expected = load_model(tmp_path / "run").predict_proba(samples)
    assert list(samples.ids) == list(found)
    np.testing.assert_allclose(np.concatenate(list(found.values())), expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 1e-3  # they are told apart
    import onnx

    kept = {entry.key: json.loads(entry.value) for entry in onnx.load(tmp_path / "out" / "model.onnx").metadata_props}
    assert kept["class_names"] == ["apple", "pear", "quince"]
    assert kept["acto"] == json.loads((tmp_path / "out" / "preprocessing.json").read_text())


@needs_onnx
def test_onnx_takes_batches_of_any_size_and_any_number_of_formats_share_a_folder(tmp_path: Path) -> None:
    finished_run(tmp_path / "run", "mlp:8", (4,), headline=(1.0, 1.0), temperature=2.0)
    export(tmp_path / "run", format="torch")
    export(tmp_path / "run", format="onnx")
    folder = tmp_path / "run" / "exported"
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    program = torch.export.load(folder / "model.pt2").module()
    for count in (1, 5):
        inputs = torch.randn(count, 4)
        expected = trained_probs(tmp_path / "run", inputs)
        np.testing.assert_allclose(session.run(None, {"inputs": inputs.numpy()})[0], expected, atol=1e-5)
        np.testing.assert_allclose(program(inputs).numpy(), expected, atol=1e-5)
    facts = json.loads((folder / "preprocessing.json").read_text())
    assert facts["files"] == {"onnx": ["model.onnx"], "torch": ["model.pt2"]}
    assert len(code_blocks(folder)) == 2
    vectors = np.random.RandomState(0).randn(3, 4)
    np.save(tmp_path / "mine.npy", vectors)
    expected = load_model(tmp_path / "run").predict_proba(vectors)
    np.testing.assert_allclose(run_alone(folder, {"": tmp_path / "mine.npy"})[""], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "conv1"), [((3, 8, 8), (64, 3, 3, 3)), ((3, 72, 72), (64, 3, 7, 7)), ((1, 72, 72), (64, 1, 7, 7))]
)
def test_resnet_weights_load_into_plain_torchvision(
    shape: tuple[int, ...], conv1: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_run(tmp_path / "run", "resnet18", shape)
    export(tmp_path / "run", tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert weights["conv1.weight"].shape == conv1 and weights["fc.weight"].shape == (3, 512)
    inputs = torch.randn(2, *shape)
    if shape == (3, 72, 72):
        plain = torchvision.models.resnet18(num_classes=3)
        plain.load_state_dict(weights, strict=True)
        with torch.no_grad():
            found = plain.eval()(inputs).softmax(1)
        np.testing.assert_allclose(found, trained_probs(tmp_path / "run", inputs), atol=1e-5)
    (block,) = code_blocks(tmp_path / "out")
    assert "acto" not in block
    names = run_block(block, tmp_path / "out", monkeypatch)
    expected = trained_probs(tmp_path / "run", torch.zeros(1, *shape))
    np.testing.assert_allclose(names["probs"], expected, atol=1e-5)


@pytest.mark.parametrize(("name", "size"), [("test_resnet", 32), ("test_vit", 160)])
def test_timm_weights_load_into_plain_timm(
    name: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = pytest.importorskip("timm")
    finished_run(tmp_path / "run", f"timm:{name}", (3, size, size))
    export(tmp_path / "run", tmp_path / "out")
    plain = timm.create_model(name, num_classes=3)
    plain.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"), strict=True)
    inputs = torch.randn(2, 3, size, size)
    with torch.no_grad():
        found = plain.eval()(inputs).softmax(1)
    np.testing.assert_allclose(found, trained_probs(tmp_path / "run", inputs), atol=1e-5)
    (block,) = code_blocks(tmp_path / "out")
    names = run_block(block, tmp_path / "out", monkeypatch)
    assert names["probs"].shape == (1, 3)


def test_real_samples_are_compared_where_they_still_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.random.RandomState(0).randn(5, 4))
    finished_run(tmp_path / "run", "mlp:8", (4,), source=str(tmp_path / "data.npz"))
    assert export(tmp_path / "run").num_real == 5
    np.savez(tmp_path / "data.npz", x=np.zeros((5, 9)))  # other data by now
    assert export(tmp_path / "run").num_real == 0


def test_a_model_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished_run(tmp_path / "run", "mlp:8", (4,))

    def off_by_a_little(model: Any) -> Any:
        return {"model.pt2": b""}, lambda inputs: model.headline(inputs).numpy() + np.float32(2e-4)

    monkeypatch.setitem(exporting.FORMATS, "torch", off_by_a_little)
    with pytest.raises(RunError, match=r"differs from the trained model by 0.0002.*nothing was written"):
        export(tmp_path / "run", tmp_path / "out", format="torch")

    def gives_nan(model: Any) -> Any:
        return {"model.pt2": b""}, lambda inputs: model.headline(inputs).numpy() * np.float32(np.nan)

    monkeypatch.setitem(exporting.FORMATS, "torch", gives_nan)
    with pytest.raises(RunError, match="differs from the trained model by nan"):
        export(tmp_path / "run", tmp_path / "out", format="torch")
    assert not (tmp_path / "out").exists()


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    finished_run(tmp_path / "run", "mlp:8", (4,))
    finished_run(tmp_path / "other", "mlp:8", (4,), headline=(0.0, 1.0))
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "README.md").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        export(tmp_path / "run", tmp_path / "project")
    with pytest.raises(UserError, match="is no folder"):
        export(tmp_path / "run", tmp_path / "project" / "README.md")
    export(tmp_path / "run", tmp_path / "out")
    export(tmp_path / "run", tmp_path / "out")  # once more is fine
    with pytest.raises(UserError, match="holds the export of another model"):
        export(tmp_path / "other", tmp_path / "out")
    assert (tmp_path / "project" / "README.md").read_text() == "mine"


def test_without_onnx_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished_run(tmp_path / "run", "mlp:8", (4,))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r'pip install "acto-lnl\[onnx\]"'):
        export(tmp_path / "run", format="onnx")
    assert not (tmp_path / "run" / "exported").exists()


def test_preprocessing_says_all_that_is_needed(tmp_path: Path) -> None:
    views = ViewSpec(pipeline="photo", size=32, resize=40, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    finished_run(tmp_path / "run", "cnn_tiny", (3, 32, 32), views=views, temperature=0.8)
    export(tmp_path / "run", tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "preprocessing.json").read_text())
    wanted = {
        "class_names": ["apple", "pear", "quince"],
        "input_shape": [3, 32, 32],
        "size": 32,
        "resize": 40,
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "temperature": 0.8,
        "logit_weights": [1.0],
        "net": "cnn_tiny",
        "files": {"safetensors": ["model.safetensors"]},
    }
    assert {key: facts[key] for key in wanted} == wanted
    card = (tmp_path / "out" / "README.md").read_text()
    assert "scale the short side to 40 pixels" in card and "the temperature, 0.8" in card


@pytest.mark.parametrize("given", [True, False])
def test_the_card_tells_what_was_measured(given: bool, tmp_path: Path) -> None:
    finished_run(tmp_path / "run", "mlp:8", (4,), given=given, temperature=0.5 if given else 1.0)
    export(tmp_path / "run", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    _, header, body = card.split("---\n", 2)
    found = yaml.safe_load(header)
    metric = found["model-index"][0]["results"][0]["metrics"][0]
    assert found["pipeline_tag"] == "tabular-classification" and metric["value"] == 0.875
    assert "Accuracy 87.50 %, the mean of the last ten epochs, on 10 samples" in body
    assert ("which may be wrong too" in body) == given == ("given labels" in metric["name"])
    assert ("not calibrated" in body) == (not given)
    for line in ("| training samples | 90 |", "symmetric, rate 0.3", "28.00 %", "abab", "seeds: run, noise, split"):
        assert line in body


def test_names_from_outside_mean_nothing_in_the_card(tmp_path: Path) -> None:
    names = ("<script>alert(1)</script>", "a\n# Free | table `code` [x](http://y)", 'quote"\\ and {{ 7 * 7 }}')
    finished_run(tmp_path / "run", "mlp:8", (4,), classes=names)
    export(tmp_path / "run", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "<script>" not in card and "\n# Free" not in card and "49" not in card.split("## Input")[0]
    assert yaml.safe_load(card.split("---\n")[1])["pipeline_tag"] == "tabular-classification"
    assert str(plain_text("a|b *c*\n<d>")) == r"a\|b \*c\* \<d\>"


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    finished_run(tmp_path / "run", "mlp:8", (4,))
    assert export_command(["run"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("run/exported/model.safetensors\n") and "largest difference" in said
    assert export_command(["run", "--format", "torch", "--out", "out", "--json"]) == 0
    found = json.load(io.StringIO(capsys.readouterr().out))
    assert found["files"][0] == "out/model.pt2" and found["max_difference"] < 1e-5
    with pytest.raises(UserError, match="Did you mean 'onnx'"):
        export_command(["run", "--format", "onx"])
    with pytest.raises(UserError, match="RUN"):
        export_command([])


def test_exports_of_one_model_are_equal(tmp_path: Path) -> None:
    finished_run(tmp_path / "run", "mlp:8", (4,))
    first, second = (export(tmp_path / "run", tmp_path / name) for name in ("a", "b"))
    assert isinstance(first, Exported)
    for one, other in zip(first.files, second.files, strict=True):
        assert one.read_bytes() == other.read_bytes()


# Hubs -----------------------------------------------------------------------------------------------------------


def test_a_folder_for_a_hub_has_all_that_one_looks_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished_run(tmp_path / "run", "mlp:8", (4,), headline=(0.5, 0.5))
    out = tmp_path / "hub"
    assert export_command([str(tmp_path / "run"), "--hub", str(out), "--format", "torch"]) == 0
    said = capsys.readouterr().out
    assert f"hf upload USER/NAME {out} ." in said and "nothing was sent" in said and "no license" in said
    names = {"README.md", "config.json", "model0.safetensors", "model1.safetensors", "model.pt2", "preprocessing.json"}
    assert {path.name for path in out.iterdir()} == names
    assert {Path(line).name for line in said.splitlines() if line.startswith(str(out))} == names
    config = json.loads((out / "config.json").read_text())
    assert config["id2label"] == {"0": "apple", "1": "pear", "2": "quince"} and config["label2id"]["quince"] == 2
    assert "architecture" not in config  # two networks are none of timm's
    assert export_command([str(tmp_path / "run"), "--hub", str(out), "--json"]) == 0  # again, into the same folder
    assert json.loads(capsys.readouterr().out)["files"][-1] == str(out / "config.json")


def test_the_hubs_own_library_reads_the_card(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    names = ("a: b # c", "- no\n---\nlicense: mit", "'quoted' \"twice\"")
    finished_run(tmp_path / "run", "mlp:8", (4,), classes=names)
    hub_folder(tmp_path / "run", tmp_path / "hub")
    card = hub.ModelCard.load(tmp_path / "hub" / "README.md", ignore_metadata_errors=False)
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("fruit", "accuracy", 0.875)
    assert card.data.pipeline_tag == "tabular-classification" and card.data.license is None
    assert json.loads((tmp_path / "hub" / "config.json").read_text())["id2label"]["1"] == names[1]


def test_timm_loads_a_folder_for_a_hub(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    views = ViewSpec(pipeline="photo", size=32, resize=40, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    finished_run(tmp_path / "run", "timm:test_resnet", (3, 32, 32), views=views)
    hub_folder(tmp_path / "run", tmp_path / "hub")
    assert '\nlibrary_name: "timm"\n' in (tmp_path / "hub" / "README.md").read_text()
    net = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True).eval()
    inputs = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = net(inputs).softmax(1)
    np.testing.assert_allclose(found, trained_probs(tmp_path / "run", inputs), atol=1e-5)
    view = timm.data.resolve_data_config(model=net)
    assert tuple(tuple(view[name]) for name in ("mean", "std", "input_size")) == (views.mean, views.std, (3, 32, 32))
    assert round(32 / view["crop_pct"]) == 40


def test_what_no_folder_for_a_hub_can_be_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished_run(tmp_path / "run", "mlp:8", (4,))
    run, out = str(tmp_path / "run"), tmp_path / "hub"
    with pytest.raises(UserError, match="leave --out away"):
        export_command([run, "--hub", str(out), "--out", str(out)])
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"acto-lnl\[onnx\]"):
        export_command([run, "--hub", str(out), "--format", "onnx"])
    with pytest.raises(UserError, match="Did you mean 'onnx'"):
        export_command([run, "--hub", str(out), "--format", "onx"])
    with pytest.raises(UserError, match="is no run's folder"):
        export_command([str(tmp_path), "--hub", str(out)])
    assert not out.exists()
    out.mkdir()
    (out / "README.md").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        export_command([run, "--hub", str(out)])
    assert [path.name for path in out.iterdir()] == ["README.md"]
