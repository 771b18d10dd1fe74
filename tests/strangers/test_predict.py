"""`acto predict` on a folder of strangers' pictures, and weights that other scripts have saved."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from acto.cli import main
from acto.core.errors import UserError
from acto.data.for_prediction import read_new
from acto.data.views.spec import ViewSpec
from acto.fitting import Fitted
from acto.inference.predictions import predictions
from acto.nets.build import build_net
from acto.runs.prepare import prepare
from acto.runs.run import Run
from acto.runs.trained_model import load_model
from trained_runs import finished_run

pytestmark = pytest.mark.kind("predict and weights")

SIDE = 8
NET = {"input_shape": (3, SIDE, SIDE), "num_classes": 3}
SMALL = ("small", (3, SIDE, SIDE), None)
PHOTO = ("photo", (3, 16, 16), ViewSpec(pipeline="photo", size=16, resize=20, mean=(0.5,) * 3, std=(0.25,) * 3))


def picture(width: int = SIDE, height: int = SIDE, *, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8))


def encoded(kind: str, *, cut: int = 0, hole: int = 0) -> bytes:
    """A noisy picture without its last bytes, or with zeros in its middle: then its header and end look right."""
    content = io.BytesIO()
    picture(96, 96).save(content, kind)
    data = bytearray(content.getvalue())
    data[len(data) // 2 : len(data) // 2 + hole] = bytes(hole)
    return bytes(data[: len(data) - cut])


HOLE = encoded("PNG", hole=50)


@pytest.fixture(params=[SMALL, PHOTO], ids=lambda kind: kind[0])
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run, and a folder `new` with three good pictures, in the current folder."""
    monkeypatch.chdir(tmp_path)
    _, shape, views = request.param
    finished_run(tmp_path / "run", "cnn_tiny", shape, views=views)
    (tmp_path / "new").mkdir()
    for i in range(3):
        picture(seed=i).save(tmp_path / "new" / f"{i}.png")
    return tmp_path


BROKEN: dict[str, tuple[bytes, str]] = {
    "cut.jpg": (encoded("JPEG", cut=900), "truncated|Truncated"),
    "hole.png": (HOLE, "broken|truncated"),
    "empty.png": (b"", "0 bytes"),
    "text.png": (b"<html>404</html>", "not a picture of a known kind"),
    "header.png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "."),
    "pixels.tiff": (b"II*\0\x08\0\0\0\0\0", "."),
}


def predicted(capsys: pytest.CaptureFixture[str], *tokens: str, code: int) -> tuple[list[dict[str, str]], str]:
    assert main(["predict", "run", *tokens, "--device", "cpu"]) == code
    said = capsys.readouterr()
    return list(csv.DictReader(io.StringIO(said.out))), said.err


@pytest.mark.right
@pytest.mark.parametrize("name", BROKEN)
def test_one_broken_picture_costs_its_row(run: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    good, _ = predicted(capsys, "new", code=0)
    assert [row["problem"] for row in good] == ["", "", ""]
    content, problem = BROKEN[name]
    (run / "new" / name).write_bytes(content)
    rows, said = predicted(capsys, "new", "--probs", code=1)
    bad = rows.pop([row["id"] for row in rows].index(name))
    assert [(row["id"], row["predicted_label"]) for row in rows] == [
        (row["id"], row["predicted_label"]) for row in good
    ]
    assert [row["confidence"] for row in rows] == pytest.approx([row["confidence"] for row in good])
    assert bad["predicted_label"] == "" and bad["confidence"] == bad["prob_apple"] == "nan"
    assert "1 of 4 pictures cannot be used, their rows have no class" in said and f"{name} (" in said
    assert re.search(problem, bad["problem"]) and bad["problem"] in said


@pytest.mark.right
def test_bad_pictures_are_left_out_if_asked(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "new" / "1x.png").write_bytes(HOLE)
    (run / "new" / "a.txt").touch()
    rows, said = predicted(capsys, "new", "--on-bad-image", "drop", code=0)
    assert "note: 1 file is no picture and was left out, the first: a.txt" in said
    assert [row["id"] for row in rows] == ["0.png", "1.png", "2.png"] and "problem" not in rows[0]
    assert "1 of 4 pictures cannot be used, and were left out: 1x.png" in said
    predicted(capsys, "new", "--on-bad-image", "drop", "--out", "p.csv", code=0)
    assert (run / "p.csv").read_text().count("\n") == 4


@pytest.mark.refused
def test_bad_pictures_stop_the_work_if_asked(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "new" / "text.png").write_bytes(b"text")
    (run / "new" / "empty.png").write_bytes(b"")
    rows, said = predicted(capsys, "new", "--on-bad-image", "error", "--out", "p.csv", code=2)
    assert not rows and not (run / "p.csv").exists()
    assert "2 of 5 cannot be used: empty.png (the file is empty (0 bytes)); text.png (not a picture" in said
    _, said = predicted(capsys, "new", "--on-bad-image", "leave", code=2)
    assert "unknown on_bad_image 'leave'" in said and "drop, error, keep" in said
    with pytest.raises(UserError, match="unknown on_bad_image 'leave'"):
        predictions(load_model("run"), read_new("new"), on_bad_image="leave")


@pytest.mark.refused
def test_where_no_picture_can_be_used_nothing_is_written(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "bad.png").write_bytes(b"text")
    for what in ("keep", "drop"):
        _, said = predicted(capsys, "bad.png", "--on-bad-image", what, "--out", "p.csv", code=2)
        assert not (run / "p.csv").exists() and "1 of 1 cannot be used: bad.png (not a picture" in said


@pytest.mark.right
def test_rows_of_a_table_that_are_no_files(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "new" / "folder.png").mkdir()
    os.mkfifo(run / "new" / "pipe.png")
    Image.new("RGB", (3, 2000)).save(run / "new" / "long.png")
    names = ["0.png", "gone.png", "folder.png", "pipe.png", "long.png", "2.png"]
    (run / "new" / "list.csv").write_text("\n".join(["path", *names]))
    rows, said = predicted(capsys, "new/list.csv", code=1)
    assert [row["id"] for row in rows] == names
    assert [bool(row["predicted_label"]) for row in rows] == [True, False, False, False, False, True]
    parts = ["", "no such file", "a directory", "a pipe", "one side is over 400 times", ""]
    assert all(part in row["problem"] for part, row in zip(parts, rows, strict=True))
    assert "4 of 6 pictures cannot be used" in said


@pytest.mark.right
def test_machines_read_it_too(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "new" / "text.png").write_bytes(b"text")
    assert main(["predict", "run", "new", "--json", "--probs", "--device", "cpu"]) == 1
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found[3]["predicted_label"] is found[3]["confidence"] is found[3]["prob_pear"] is None
    assert "not a picture" in found[3]["problem"] and found[0]["problem"] is None
    assert main(["predict", "run", "new", "--out", "p.csv", "--json", "--device", "cpu"]) == 1
    assert json.loads(capsys.readouterr().out) == {"out": "p.csv", "num_samples": 4, "num_bad_images": 1}
    assert main(["predict", "run", "new", "--out", "p.csv", "--device", "cpu"]) == 1
    assert "3 predictions in p.csv, and 1 without a class" in capsys.readouterr().out


@pytest.mark.right
def test_from_python_a_row_may_be_empty(run: Path) -> None:
    (run / "new" / "1x.png").write_bytes(HOLE)
    model, samples = load_model("run"), read_new("new").samples
    with pytest.raises(UserError, match=r"1x\.png"):
        model.predict_proba(samples, device="cpu")
    with pytest.raises(UserError, match=r"1 of 1 cannot be used: 1x\.png"):
        model.predict_proba(samples.take(np.array([2])), device="cpu", on_bad_image="nan")
    with pytest.raises(UserError, match="unknown on_bad_image 'keep'"):
        model.predict_proba(samples, device="cpu", on_bad_image="keep")
    probs = model.predict_proba(samples, device="cpu", on_bad_image="nan")
    assert np.isnan(probs).all(1).tolist() == [False, False, True, False]
    good = model.predict_proba(samples.take(np.array([0, 1, 3])), device="cpu")
    np.testing.assert_allclose(probs[[0, 1, 3]], good, atol=1e-6)
    assert model.predict(samples, device="cpu", on_bad_image="nan").tolist()[2] == -1
    fitted = Fitted(Path("run"), {}, None, classes=np.array(model.class_names))  # type: ignore[arg-type]
    paths = [str(path) for path in samples.paths or ()]
    np.testing.assert_allclose(fitted.predict_proba(paths, on_bad_image="nan"), probs, atol=1e-6)


# Another size ---------------------------------------------------------------------------------------------------


@pytest.mark.right
def test_pictures_of_another_size_are_scaled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    finished_run(tmp_path / "run", "cnn_tiny", (3, SIDE, SIDE))
    (tmp_path / "new").mkdir()
    small = picture()
    wide = Image.new("RGB", (6 * SIDE, 4 * SIDE), (255, 0, 0))  # a sixth is cut away at either side
    wide.paste(small.resize((4 * SIDE, 4 * SIDE), Image.Resampling.NEAREST), (SIDE, 0))
    for name, image in {
        "small": small,
        "wide": wide,
        "twice": small.resize((16, 16), Image.Resampling.NEAREST),
    }.items():
        image.save(tmp_path / "new" / f"{name}.png")
    rows, said = predicted(capsys, "new", code=0)
    assert "2 of 3 pictures have another size than the 8x8 pixels of the training" in said
    assert "twice.png, wide.png" in said
    usable = load_model("run").usable(read_new("new").samples)
    assert usable.samples.pixels is not None
    for row in (1, 2):
        difference = np.abs(usable.samples.pixels[row].astype(int) - usable.samples.pixels[0])
        assert difference.mean() < 40, "red from the sides, or other places of the picture"
    assert {row["predicted_label"] for row in rows} <= {"apple", "pear", "quince"}


@pytest.mark.right
def test_sizes_out_of_which_the_training_cannot_be_made_keep_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    finished_run(tmp_path / "run", "cnn_tiny", (1, SIDE, SIDE))
    (tmp_path / "new").mkdir()
    for width, height in ((8, 8), (1, 1), (2, 1), (2, 2), (40, 8), (30, 4), (64, 48), (1000, 30)):
        picture(width, height).save(tmp_path / "new" / f"{width}x{height}.png")
    rows, _ = predicted(capsys, "new", code=1)
    assert {row["id"] for row in rows if row["problem"]} == {
        *("1x1.png", "2x1.png", "40x8.png", "30x4.png", "1000x30.png")
    }
    by_id = {row["id"]: row["problem"] for row in rows}
    assert "too few to make the 8x8" in by_id["1x1.png"] and "too few" in by_id["2x1.png"]
    assert "too odd" in by_id["40x8.png"] and "too odd" in by_id["30x4.png"]


@pytest.mark.right
def test_sizes_of_a_model_for_wide_pictures(here: Path) -> None:
    finished_run(here / "run", "cnn_tiny", (3, 8, 12))
    (here / "new").mkdir()
    stripes = np.zeros((16, 24, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(here / "new" / "stripes.png")
    picture(12, 8).save(here / "new" / "same.png")
    usable = load_model("run").usable(read_new("new").samples)
    assert usable.samples.pixels is not None and "1 of 2 pictures have another size than the 12x8" in usable.notes[0]
    assert np.array_equal(usable.samples.pixels[0], np.asarray(picture(12, 8)))
    assert usable.samples.pixels[1].min() > 60 and usable.samples.pixels[1].max() < 195, "the stripes' mean"


# Weights --------------------------------------------------------------------------------------------------------


def plain(name: str = "cnn_tiny") -> dict[str, Tensor]:
    torch.manual_seed(7)
    return build_net(name, **NET).state_dict()


def with_prefix(prefix: str, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in (state or plain()).items()}


def loaded(content: object, *, said: list[str]) -> dict[str, Tensor]:
    torch.save(content, "w.pth")
    return build_net("cnn_tiny", **NET, weights="w.pth", say=said.append).state_dict()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.right
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "net.", "encoder_q.", "module._orig_mod.model."])
def test_a_prefix_of_all_names_comes_off(here: Path, prefix: str) -> None:
    said: list[str] = []
    found = loaded(with_prefix(prefix), said=said)
    assert all(torch.equal(found[key], value) for key, value in plain().items())
    (line,) = said
    assert f"{prefix!r} was taken off every name" in line


@pytest.mark.right
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {"model_state_dict": state, "loss": torch.zeros(1)},
        lambda state: {"ema": {"module": state}, "step": 9},
        lambda state: {"epoch": 1, "state_dict": {"model": state}},
        lambda state: {"ema": {"w": torch.zeros(1)}, "state_dict": state},
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_are_found_beside_other_things(here: Path, wrap, prefix: str) -> None:  # type: ignore[no-untyped-def]
    said: list[str] = []
    found = loaded(wrap(with_prefix(prefix)), said=said)
    assert all(torch.equal(found[key], value) for key, value in plain().items())
    assert bool(said) == bool(prefix)


@pytest.mark.right
def test_own_names_stay(here: Path) -> None:
    said: list[str] = []
    backbone = {key: value for key, value in plain().items() if key.startswith("backbone.")}
    found = loaded(backbone, said=said)
    assert not said and all(torch.equal(found[key], value) for key, value in backbone.items())


@pytest.mark.right
def test_training_says_what_was_taken_off(here: Path) -> None:
    torch.manual_seed(7)
    state = build_net("cnn_tiny", input_shape=(1, 8, 8), num_classes=10).state_dict()
    torch.save({"state_dict": with_prefix("module.", state)}, "w.pth")
    said: list[str] = []
    prepare(Run(method="acto", net="cnn_tiny", weights="w.pth", device="cpu", step="eager"), say=said.append)
    assert sum("'module.' was taken off every name" in line for line in said) == 1, "once, not for each network"


@pytest.mark.refused
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lambda: with_prefix("module.") | {"module.more.weight": torch.zeros(2)},
            r"do not fit net 'cnn_tiny', even without 'module\.' before every name: unknown more\.weight",
        ),
        (
            lambda: with_prefix("encoder_q.") | with_prefix("encoder_k.") | {"queue": torch.zeros(2)},
            r"\(\d+ of \d+ names begin with 'encoder_q\.': save those alone",
        ),
        (lambda: with_prefix("model.") | {"loss.weight": torch.zeros(2)}, r"begin with 'model\.': save those alone"),
        (
            lambda: {"epoch": 3, "best": [0.5]},
            r"hold no mapping from names to tensors: it holds 'epoch', 'best'[\s\S]*torch\.save",
        ),
        (lambda: [torch.zeros(1)], "hold no mapping from names to tensors: it is no mapping"),
    ],
)
def test_what_does_not_fit_is_named(here: Path, content, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=message):
        loaded(content(), said=[])


@pytest.mark.refused
@pytest.mark.parametrize(
    ("beside", "name"),
    [
        (argparse.Namespace(lr=0.1), "argparse.Namespace"),
        (np.float64(0.5), r"numpy[\w.]*\.scalar"),
        (np.zeros(3), r"numpy[\w.]*\._reconstruct"),
        (Path("x"), r"pathlib[\w.]*"),
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
)
def test_what_is_no_tensor_is_named_with_the_way_out(here: Path, beside: object, name: str) -> None:
    with pytest.raises(
        UserError, match=rf"w.pth' are no file of plain tensors: it also holds {name}, which"
    ) as refused:
        loaded({"state_dict": plain(), "args": beside}, said=[])
    text = str(refused.value)
    assert "\x1b" not in text and "two options" not in text
    assert [line.split()[0] for line in text.splitlines()[1:]] == [
        "import",
        "content",
        'torch.save(content["state_dict"],',
    ]
    lines = text.splitlines()[1:]
    exec("\n".join(line.strip() for line in lines), {})
    found = build_net("cnn_tiny", **NET, weights="weights.pth").state_dict()
    assert all(torch.equal(found[key], value) for key, value in plain().items())
