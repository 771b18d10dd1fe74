"""Damaged run folders: whatever is wrong in one of their files, the error says which file, and what of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import yaml
from safetensors import safe_open

import acto
from acto.cli import main
from acto.cli.doctor import doctor
from acto.compare.finished_runs import read_records
from acto.core import documents
from acto.core.errors import RunError, UserError
from acto.runs.run import Run

pytestmark = pytest.mark.kind("damaged run folders")

OLD = Path(__file__).parents[1] / "old_run"
RECORDS = ("status.json", "config.yaml", "env.json", "summary.json", "labels.json", "samples.json", "calibration.json",
           "checksums.json")  # fmt: skip
WRONG: tuple[Any, ...] = (None, [1, [2]], "abc", 10**12, -7, {"a": {"b": 1}}, 10**400, True)
BYTES = (
    b"",
    b"{",
    b"[1]",
    b"null",
    b"3",
    b'"abc"',
    b"\xff\xfe\x00abc",
    b"[" * 2000,
    b'{"a": ' * 200 + b"1" + b"}" * 200,
)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parts(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in nested mappings and short lists."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from parts(inner, (*path, key))
    elif isinstance(value, list) and value:
        yield (*path, 0)
        yield from parts(value[0], (*path, 0))


def changed(value: Any, path: tuple[Any, ...], *new: Any) -> Any:
    """A copy with another value at `path`, or without it."""
    copy = json.loads(json.dumps(value))
    place = copy
    for key in path[:-1]:
        place = place[key]
    if new:
        place[path[-1]] = new[0]
    else:
        del place[path[-1]]
    return copy


def content(path: Path) -> Any:
    return (yaml.safe_load if path.suffix == ".yaml" else json.loads)(path.read_bytes())


def put(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))  # which is YAML as well


def outcome(action: Callable[[], object], file: Path) -> bool:
    """Say whether `action` was refused; any other error than ours passes through."""
    try:
        action()
    except (UserError, RunError) as error:
        assert str(file.parent) in str(error) or file.parent.name in str(error), error
        return True
    return False


def look(run: Path) -> None:
    """Whatever reads a run without torch's help."""
    record = acto.read_run(run)
    record.samples()
    _ = record.config["data"]["source"], record.config["protocol"]["epochs"], record.config["seed"]
    _ = record.labels and record.labels["class_names"], record.summary and record.summary["data"]


@pytest.mark.refused
@pytest.mark.parametrize("name", RECORDS)
def test_any_value_of_any_record(runs: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = runs / "finished"
    file = run / name
    sound, value = file.read_bytes(), content(file)
    places = [path for path in parts(value) if name != "config.yaml" or path[0] != "acto"]
    refused = 0
    for turn, path in enumerate(places):
        for kind, damaged in enumerate([changed(value, path), *(changed(value, path, new) for new in WRONG)]):
            if len(places) > 10 and (turn + kind) % 6:  # every place and every kind, not each with each
                continue
            put(file, damaged)
            refused += outcome(lambda: look(run), file)
            if name == "config.yaml":
                with suppress(UserError):
                    Run.from_dict(damaged)
    assert refused or name in ("calibration.json", "checksums.json")
    file.write_bytes(sound)
    look(run)


@pytest.mark.refused
@pytest.mark.parametrize("name", [*RECORDS, "metrics.csv", "timing.csv", "samples.csv"])
def test_a_file_that_is_something_else(runs: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = runs / "finished"
    file = run / name
    for data in (*BYTES, "folder", "pipe"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
        if isinstance(data, bytes):
            file.write_bytes(data)
        else:
            file.mkdir() if data == "folder" else os.mkfifo(file)
        outcome(lambda: look(run), file)
        doctor([str(run)])
        read_records([run])


@pytest.fixture
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors that are not ours are not turned into messages."""
    monkeypatch.setenv("ACTO_DEBUG", "1")


def said(argv: list[str]) -> str:
    with pytest.raises((UserError, RunError)) as error:
        main(argv)
    return str(error.value)


RESUME, PREDICT = ["train", "--resume", "interrupted"], ["predict", "finished", "samples.npz"]


@pytest.mark.refused
@pytest.mark.parametrize(
    ("argv", "file", "path", "value"),
    [
        (RESUME, "status.json", ("epoch",), "two"),
        (RESUME, "status.json", ("state",), ["running"]),
        (RESUME, "env.json", ("sessions",), {"a": 1}),
        (RESUME, "labels.json", ("class_names",), 3),
        (RESUME, "config.yaml", ("data",), ["samples.npz"]),
        (RESUME, "config.yaml", ("protocol", "plan"), 0.1),
        (RESUME, "config.yaml", ("protocol", "batch_size"), [1]),
        (RESUME, "config.yaml", ("acto", "tau"), {"a": 1}),
        (RESUME, "config.yaml", ("method",), None),
        (RESUME, "checksums.json", ("config.yaml",), []),
        (PREDICT, "calibration.json", ("temperature",), "warm"),
        (PREDICT, "calibration.json", ("temperature",), float("nan")),
        (PREDICT, "calibration.json", ("temperature",), 10**400),
        (PREDICT, "calibration.json", ("temperatur",), 1),
        (PREDICT, "config.yaml", ("data", "source"), 3),
        (["audit", "finished"], "samples.json", ("columns",), [1]),
        (["audit", "finished"], "config.yaml", ("seed",), "x"),
        (["apply", "decisions.csv", "--run", "finished"], "config.yaml", ("data", "holdout_share"), [2]),
        (["export", "finished", "--out", "x"], "summary.json", ("data",), 3),
        (["table", "study", "--records", "."], "summary.json", ("test_accuracy_last10",), "good"),
    ],
)
def test_a_wrong_value(runs: Path, loud: None, argv: list[str], file: str, path: tuple[str, ...], value: Any) -> None:
    place = runs / ("interrupted" if "interrupted" in argv else "finished") / file
    (runs / "decisions.csv").write_text("id,given_label,decision,new_label,time\n")
    put(place, changed(content(place), path, value))
    if argv[0] == "table":
        found = read_records([runs]).damaged
        assert len(found) == 1 and "test_accuracy_last10" in found[0]
        return
    assert path[-1] in said(argv)


@pytest.mark.refused
@pytest.mark.parametrize(
    ("key", "value"),
    [("headline", []), ("headline", [0, 0]), ("headline", "x"), ("input_shape", [10**12]), ("input_shape", [[2]]),
     ("class_names", 3), ("views", []), ("views", {"pipeline": 3}), ("net", None), ("net", "mlp:x"),
     ("views", {"a": 1})],
)  # fmt: skip
def test_facts_beside_the_weights(runs: Path, loud: None, key: str, value: Any) -> None:
    path = runs / "finished" / "net0.safetensors"
    with safe_open(path, "pt") as weights:
        facts = json.loads(weights.metadata()["acto"])
    text = json.dumps({**facts, key: value})
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, {"acto": text})
    assert "finished" in said(PREDICT) or key == "net"


@pytest.mark.refused
@pytest.mark.parametrize("text", ["[" * 5000, "3", "null", "{", '{"a": NaN}'])
def test_facts_that_are_no_facts(runs: Path, loud: None, text: str) -> None:
    path = runs / "finished" / "net0.safetensors"
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, {"acto": text})
    assert "net0.safetensors" in said(PREDICT)


@pytest.mark.refused
@pytest.mark.parametrize("row", ["3,good", "3,", "3,true"])
def test_a_row_of_metrics_that_is_no_number(runs: Path, loud: None, row: str) -> None:
    (runs / "finished" / "metrics.csv").write_text(f"epoch,test_accuracy\n{row}\n")
    assert "test_accuracy" in said(["audit", "finished"]) and "line 2" in said(["audit", "finished"])


@pytest.mark.refused
@pytest.mark.parametrize(
    "text",
    ["!!bool x", "!!timestamp x", "!!int ''", "a: &a [*a]", "[" * 5000, "a: 2001-13-01", "1: 2", "a: *b", "? [a]\n: 1",
     "\n".join(["a0: &a0 [1, 1]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))])],
)  # fmt: skip
def test_settings_that_are_no_settings(runs: Path, loud: None, text: str) -> None:
    (runs / "settings.yaml").write_text(text)
    assert "settings.yaml" in said(["train", "--config", "settings.yaml"]) or text == "1: 2"


@pytest.mark.refused
@pytest.mark.parametrize("read", [documents.read_json, documents.read_yaml])
def test_depth_and_size_are_bounded(tmp_path: Path, read: Callable[..., Any]) -> None:
    file = tmp_path / "file"
    file.write_text("[" * 60 + "]" * 60)
    read(file)
    file.write_text("[" * 70 + "]" * 70)  # Python itself gives up at a thousand
    with pytest.raises(UserError, match=r"file: its parts lie more than 64 deep"):
        read(file)
    with pytest.raises(UserError, match=r"file: it has 140 bytes, more than the 139 allowed"):
        read(file, most_bytes=139)


@pytest.mark.right
def test_a_status_that_is_one_epoch_ahead(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = runs / "interrupted" / "status.json"
    put(file, changed(content(file), ("epoch",), content(file)["epoch"] + 1))
    assert doctor([str(runs / "interrupted")]) == 0, capsys.readouterr().out


@pytest.mark.right
@pytest.mark.parametrize("name", ["interrupted", "finished"])
def test_sound_folders_are_sound(runs: Path, loud: None, name: str) -> None:
    assert doctor([str(runs / name)]) == 0
