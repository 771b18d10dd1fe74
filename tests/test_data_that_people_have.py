"""Each form of data that people have, by the commands: looked at, trained on, corrected, trained on anew, predicted."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from acto.cli import main
from acto.data.samples import DataSpec
from acto.data.sources import load_data
from acto.labels.report import read_report
from record_data import (
    CLASSES,
    features,
    labels_of,
    pixels,
    shard,
    struct_table,
    vectors,
    write_dict,
    write_files,
    write_hub,
    write_json_lines,
    write_saved,
    write_tar,
)

FLAGS = "--epochs 1 --net cnn_tiny --workers 0 --batch-size 8 --device cpu"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def saved_dict(root: Path) -> tuple[Path, str]:
    tables = {"train": struct_table(20), "test": struct_table(6, first=50)}
    return write_dict(root / "saved", tables, features(label=CLASSES)), ""


def saved_vectors(root: Path) -> tuple[Path, str]:
    table = struct_table(24).drop_columns(["image"]).append_column("embedding", [vectors(24)])
    return write_saved(root / "saved", table, {}), "--net mlp"


def hub(root: Path) -> tuple[Path, str]:
    people = {"true_label": labels_of(20), "annotator_1": labels_of(20)}
    tables = {"train": struct_table(20, **people), "test": struct_table(6, first=50)}
    return write_hub(root / "hub", tables, features(label=CLASSES)), "--data.label_column label"


def json_lines(root: Path) -> tuple[Path, str]:
    names = write_files(root / "json", 24)
    rows = [
        {"file_name": n, "class": CLASSES[k], "other": {"a": [1]}} for n, k in zip(names, labels_of(24), strict=True)
    ]
    return write_json_lines(root / "json" / "list.jsonl", rows), "--data.label_column class"


def keras(root: Path) -> tuple[Path, str]:
    x, y = pixels(24), np.array(labels_of(24), np.uint8)[:, None]
    np.savez(root / "keras.npz", x_train=x[:18], y_train=y[:18], x_test=x[18:], y_test=y[18:])
    return root / "keras.npz", ""


def absolute(root: Path) -> tuple[Path, str]:
    names = write_files(root / "pictures", 24)
    lines = [f"{root}/pictures/{name};{CLASSES[k]}\n" for name, k in zip(names, labels_of(24), strict=True)]
    (root / "lists").mkdir()
    (root / "lists" / "list.csv").write_text("path;label\n" + "".join(lines))
    return root / "lists" / "list.csv", f"--data.base {root}/pictures"


def shards(root: Path) -> tuple[Path, str]:
    for number in range(2):
        write_tar(root / "shards" / f"train-{number:06d}.tar", shard(10, first=10 * number, label="txt"))
    write_tar(root / "shards" / "val-000000.tar", shard(6, first=50, label="txt"))
    return root / "shards", ""


KINDS = [saved_dict, saved_vectors, hub, json_lines, keras, absolute, shards]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_check_train_correct_and_predict(
    tmp_path: Path, kind: Callable[[Path], tuple[Path, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    source, flags = kind(tmp_path)
    assert main(["data", "check", str(source), *(flags.replace("--net mlp", "").split())]) == 0
    looked_at = capsys.readouterr().out
    assert "training samples of 2 classes" in looked_at and "would refuse: nothing" in looked_at

    run = tmp_path / "run"
    assert main(["train", "--data", str(source), "--out", str(run), *FLAGS.split(), *flags.split()]) == 0
    report = read_report(run)
    number = dict(zip(CLASSES, ("0", "1"), strict=True)) if kind in (saved_vectors, keras) else {n: n for n in CLASSES}
    assert set(report.class_names) == set(number.values())
    assert (run / "report.html").is_file()
    base = str(tmp_path / "pictures") if kind is absolute else None
    assert main(["audit", str(run), "--data", str(source), "--out", str(tmp_path / "audit")]) == 0
    assert len(read_report(tmp_path / "audit").columns["id"]) >= 24

    name, given = report.columns["id"][0], report.columns["given_label"][0]
    new = next(each for each in report.class_names if each != given)
    with open(run / "decisions.csv", "w", newline="") as file:
        row = [name, given, "accept", new, "2026-01-31T09:30:00Z"]
        csv.writer(file).writerows([["id", "given_label", "decision", "new_label", "time"], row])
    capsys.readouterr()
    assert main(["apply", str(run / "decisions.csv"), "--run", str(run)]) == 0
    said = capsys.readouterr().out
    command = next(line for line in said.splitlines() if "acto train" in line)
    words = shlex.split(command[command.index("acto train") :])[2:]
    settings = {key.removeprefix("--data."): value for key, value in zip(words[::2], words[1::2], strict=True)}
    copy = load_data(DataSpec(source=settings["source"], base=base), workers=1)
    before = load_data(
        DataSpec(source=str(source), base=base, label_column="class" if kind is json_lines else "label"),
        workers=1,
    )
    assert copy.train.ids == before.train.ids
    old, found = (dict(zip(d.train.ids, d.train.labels, strict=True)) for d in (before, copy))
    assert [each for each in old if old[each] != found[each]] == [name]
    contents = [d.train.pixels if d.train.pixels is not None else d.train.features for d in (before, copy)]
    assert contents[0] is not None and np.array_equal(*contents)

    if kind in (hub, shards):  # pictures inside of files, at one go
        weights, out = next(run.rglob("*.safetensors")), tmp_path / "features.npz"
        words = ["features", str(source), "--net", "cnn_tiny", "--weights", str(weights), "--out", str(out)]
        assert main([*words, "--device", "cpu", *flags.split()]) == 0
        assert load_data(DataSpec(source=str(out))).train.ids == before.train.ids
    capsys.readouterr()
    assert main(["predict", str(run), str(source), *(["--base", base] if base else [])]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 1 + 24
