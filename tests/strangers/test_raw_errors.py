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
from acto.runs.calibration import read_calibration
from acto.runs.run import Run
from acto.runs.trained_model import from_bytes

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
     ("views", {"a": 1}), ("net", "mlp:16")],
)  # fmt: skip
def test_facts_beside_the_weights(runs: Path, loud: None, key: str, value: Any) -> None:
    path = runs / "finished" / "net0.safetensors"
    with safe_open(path, "pt") as weights:
        facts = json.loads(weights.metadata()["acto"])
    text = json.dumps({**facts, key: value})
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, {"acto": text})
    assert "finished" in said(PREDICT) or key == "net"


@pytest.mark.refused
def test_a_record_that_is_cut_off_is_no_fault_of_the_user(runs: Path) -> None:
    (runs / "finished" / "status.json").write_text('{"state": ')
    with pytest.raises(RunError, match=r"status\.json is damaged"):
        acto.read_run(runs / "finished")


@pytest.mark.refused
def test_fewer_networks_than_the_facts_tell_of(runs: Path) -> None:
    with pytest.raises(RunError, match="headline must be 1 finite number,"):
        from_bytes([(runs / "finished" / "net0.safetensors").read_bytes()])


@pytest.mark.refused
@pytest.mark.parametrize(("key", "value"), [("temperature", 0.01), ("noise_rate_holdout", 2), ("num_holdout", -1)])
def test_a_calibration_that_is_none(runs: Path, key: str, value: object) -> None:
    file = runs / "finished" / "calibration.json"
    put(file, changed(content(file), (key,), value))
    with pytest.raises(RunError, match=rf"calibration\.json is damaged: .*{key}"):
        read_calibration(file.parent)


@pytest.mark.refused
def test_a_row_that_is_missing_in_an_interrupted_run(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = runs / "interrupted" / "metrics.csv"
    title, _, *rows = file.read_text().splitlines(keepends=True)
    file.write_text("".join([title, *rows]))
    doctor([str(file.parent)])
    assert "lacks the rows of 1 epoch, the first 0" in capsys.readouterr().out


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


RELIED_ON: dict[str, dict[str, Any]] = {
    "status.json": {"state": "paused", "epoch": "two", "message": 3},
    "env.json": {"sessions": {"a": 1}, "sessions.0": 3, "sessions.0.versions": [], "sessions.0.argv": "acto train"},
    "summary.json": {
        **dict.fromkeys(("method", "data", "labels_sha256"), 3),
        **dict.fromkeys(("seed", "epochs", "num_train", "num_test", "test_labels_are_given"), "4"),
        **dict.fromkeys(("test_accuracy_last10", "test_accuracy_last", "test_accuracy_best_oracle"), "good"),
        **{"mining_open": "0.5", "noise": [], "noise.kind": 1, "noise.rate": "0", "noise.rate_realised": "0"},
        "noise.sha256": 3,
    },
    "labels.json": {
        **{"file": 3, "sha256": 3, "num_labels": "54", "class_names": "ash", "notes": [3]},
        **{"noise": 3, "noise.kind": 1, "noise.rate": [], "noise.rate_realised": "0", "noise.sha256": 3},
    },
    "samples.json": {"columns": [1]},
    "config.yaml": {
        **{"method": 3, "net": [], "seed": "0", "data": [], "protocol": 4, "protocol.epochs": "4"},
        **{"data.source": 3, "data.root": 3, "data.subset": "9", "data.noise": "none"},
    },
}


@pytest.mark.refused
@pytest.mark.parametrize("name", RELIED_ON)
def test_every_value_that_others_rely_on(runs: Path, name: str) -> None:
    file = runs / "finished" / name
    sound = content(file)
    for key, value in RELIED_ON[name].items():
        put(file, changed(sound, tuple(int(part) if part == "0" else part for part in key.split(".")), value))
        with pytest.raises((UserError, RunError)) as error:
            look(file.parent)
        named = "" if key == "sessions.0" else key.replace("sessions.0.", "")
        assert f"{file}" in str(error.value) and named in str(error.value), key


@pytest.mark.refused
@pytest.mark.parametrize(
    ("name", "table", "key"),
    [
        ("metrics.csv", "epoch,test_accuracy\n1.5,0.5\n", "1.5"),
        ("metrics.csv", "row,epoch,test_accuracy\n0,first,0.5\n", "line 2, .*epoch"),
        ("timing.csv", "epoch,train_seconds,eval_seconds\n0,1.0,0.1\n1,long,0.1\n", "line 3, .*train_seconds"),
        ("timing.csv", "epoch,train_seconds,eval_seconds\n0,1.0,long\n", "line 2, .*eval_seconds"),
    ],
)
def test_a_row_of_the_wrong_type(runs: Path, name: str, table: str, key: str) -> None:
    (runs / "finished" / name).write_text(table)
    with pytest.raises(RunError, match=rf"{name}.*{key}"):
        look(runs / "finished")


@pytest.mark.right
def test_what_is_sound_is_read_as_it_stands(runs: Path) -> None:
    record = acto.read_run(runs / "finished")
    put(record.path / "config.yaml", changed(content(record.path / "config.yaml"), ("data", "cache")))  # of old runs
    for name in ("config.yaml", "labels.json", "summary.json", "status.json"):
        assert getattr(record, name.split(".")[0]) == content(record.path / name)


@pytest.mark.refused
@pytest.mark.parametrize("key", ["seed", "data"])
def test_a_value_that_is_missing_is_named(runs: Path, key: str) -> None:
    file = runs / "finished" / "config.yaml"
    put(file, changed(content(file), (key,)))
    with pytest.raises(UserError, match=rf"config\.yaml: it has no {key}"):
        look(file.parent)
    if key == "data":
        put(file, changed(content(OLD / "finished" / "config.yaml"), ("data", "source")))
        with pytest.raises(UserError, match=r"config\.yaml: it has no data\.source"):
            look(file.parent)


@pytest.mark.refused
def test_parts_that_are_named_many_times_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert documents._MOST_YAML_VALUES <= 10**6 and documents.MOST_YAML <= 2**24 and documents.MOST_JSON <= 2**32
    monkeypatch.setattr(documents, "_MOST_YAML_VALUES", 122)
    file = tmp_path / "file.yaml"
    file.write_text(f"a: &a [{', '.join('1' * 10)}]\nb: [{', '.join(['*a'] * 10)}]\n")
    read = documents.read_yaml(file)
    assert read["b"] == [[1] * 10] * 10
    monkeypatch.setattr(documents, "_MOST_YAML_VALUES", 121)
    with pytest.raises(UserError, match=r"file\.yaml: written out, it has more than 121 values"):
        documents.read_yaml(file)


@pytest.mark.refused
@pytest.mark.parametrize("read", [documents.read_json, documents.read_yaml])
def test_a_device_holds_no_values(tmp_path: Path, read: Callable[..., Any]) -> None:
    (tmp_path / "file.yaml").symlink_to("/dev/null")
    with pytest.raises(UserError, match=r"file\.yaml: it is no file, but a folder, a pipe or a device"):
        read(tmp_path / "file.yaml")


@pytest.mark.refused
@pytest.mark.parametrize(("text", "name"), [("1: 2\n", "1"), ("data: {source: x, 1: 2}\n", r"data\.1")])
def test_a_name_that_is_no_text(runs: Path, text: str, name: str) -> None:
    (runs / "finished" / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"config\.yaml: the name {name} is no text"):
        acto.read_run(runs / "finished")


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
