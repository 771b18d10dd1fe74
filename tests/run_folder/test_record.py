"""A run's folder: what it refuses, what survives a kill and a full disk, what reads back as it was."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import math
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from acto.core import files, locks
from acto.core.errors import RunError, UserError
from acto.core.files import write_atomically
from acto.core.locks import FolderLock
from acto.run_folder import checkpoints
from acto.run_folder.reading import checksum_report, last_checkpoint, read_run
from acto.run_folder.writing import RunFolder, default_run_name

CONFIG = {"acto": {"name": "acto", "tau": 0.025}, "epochs": 3, "device": "cpu"}


@pytest.fixture
def run(tmp_path: Path) -> Any:
    with RunFolder.create(tmp_path / "run", config=CONFIG) as folder:
        yield folder


def in_child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in another process, which ends with 3 and the message on a UserError."""
    body = "".join(f"    {line}\n" for line in code.strip().splitlines())
    program = (
        "import os, sys\nfrom acto.core.errors import UserError\nfrom acto.run_folder.writing import RunFolder\n"
        f"try:\n{body}except UserError as error:\n    print(error)\n    sys.exit(3)\n"
    )
    command = [sys.executable, "-W", "error", "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def states(path: Path) -> dict[str, str]:
    return {check.name: check.state for check in checksum_report(path)}


def test_torch_is_not_imported() -> None:
    code = "import sys, acto.run_folder.writing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Opening a folder.


@dataclasses.dataclass(frozen=True)
class Inner:
    rates: tuple[float, ...] = (0.1, 1e-5)
    path: Path = Path("some/where")


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    words: str = "on"
    nothing: None = None


def test_config_is_saved_so_that_it_reloads(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "a" / "b", config=Outer()) as folder:
        expected = {"inner": {"rates": [0.1, 1e-5], "path": "some/where"}, "words": "on", "nothing": None}
        assert folder.config == yaml.safe_load((tmp_path / "a/b/config.yaml").read_text()) == expected
        assert folder.status["state"] == "running"
    RunFolder.open(tmp_path / "a" / "b", config=Outer()).close()
    with RunFolder.create(tmp_path / "again", config=folder.config) as again:
        assert again.config == folder.config


def test_a_config_that_yaml_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a set cannot be written"):
        RunFolder.create(tmp_path / "run", config={"a": {1, 2}})
    RunFolder.create(tmp_path / "run", config=CONFIG).close()  # the folder is free and counts as empty


def test_create_refuses_a_folder_with_a_run(run: RunFolder) -> None:
    run.close()
    with pytest.raises(UserError, match="holds a run; go on with --resume, start over with --overwrite"):
        RunFolder.create(run.path, config=CONFIG)


def test_create_refuses_a_folder_that_is_not_a_run_even_with_overwrite(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"dear")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="is not empty and holds no run"):
            RunFolder.create(tmp_path, config=CONFIG, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_create_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make the run folder"):
        RunFolder.create(tmp_path / "file", config=CONFIG)


def test_overwrite_empties_the_run_and_follows_no_link(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "dear").touch()
    (run.path / "link").symlink_to(tmp_path / "outside")
    run.add_metrics(0, {"loss": 1.0})
    run.save_checkpoint(0, {"state.pt": b"x"})
    run.close()
    with RunFolder.create(run.path, config={"new": 1}, overwrite=True) as again:
        names = {path.name for path in run.path.iterdir()}
        assert names == {".acto-run", "config.yaml", "status.json", "checksums.json"}
        assert again.config == {"new": 1}
    assert (tmp_path / "outside" / "dear").exists()


def test_overwrite_refuses_a_folder_with_another_run_inside(run: RunFolder) -> None:
    RunFolder.create(run.path / "sweep" / "one", config=CONFIG).close()
    run.close()
    with pytest.raises(UserError, match=r"holds another run, .*sweep/one"):
        RunFolder.create(run.path, config=CONFIG, overwrite=True)
    assert (run.path / "sweep" / "one" / "config.yaml").exists()


def test_open_lists_every_setting_that_differs(run: RunFolder) -> None:
    run.close()
    asked = {"acto": {"name": "acto", "tau": 0.03}, "epochs": 3, "seed": 1}
    with pytest.raises(UserError) as error:
        RunFolder.open(run.path, config=asked)
    assert ("acto.tau: 0.025 there, 0.03 now; device: 'cpu' there, 'not set' now; seed: 'not set' there, 1 now") in str(
        error.value
    )
    RunFolder.open(run.path, config=CONFIG).close()  # the refusal has unlocked the folder
    RunFolder.open(run.path).close()


def test_a_setting_that_an_older_version_lacked_is_null(run: RunFolder) -> None:
    run.close()
    with RunFolder.open(run.path, config={**CONFIG, "step": None}):
        pass
    with pytest.raises(UserError, match="step: None there, 'graph' now"):
        RunFolder.open(run.path, config={**CONFIG, "step": "graph"})


def test_open_takes_over_what_may_differ(run: RunFolder) -> None:
    run.close()
    asked = {**CONFIG, "device": "cuda", "acto": {"name": "acto", "tau": 0.03}}
    with pytest.raises(UserError, match=r"acto\.tau"):
        RunFolder.open(run.path, config=asked, may_differ=("device",))
    with RunFolder.open(run.path, config=asked, may_differ=("device", "acto")) as folder:
        assert folder.config == asked


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_open_and_read_refuse_what_is_no_run(tmp_path: Path, name: str) -> None:
    for look in (RunFolder.open, read_run, checksum_report):
        with pytest.raises(UserError, match="is no run's folder"):
            look(tmp_path / name)


def test_open_after_a_kill_inside_create(run: RunFolder) -> None:
    run.close()
    (run.path / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"no config\.yaml.*--overwrite"):
        RunFolder.open(run.path)
    (run.path / "config.yaml").write_text("a: [1")
    with pytest.raises(UserError, match=r"cannot read .*config\.yaml"):
        RunFolder.open(run.path)


# The lock.


def test_a_second_process_is_refused_and_told_who_has_the_folder(run: RunFolder) -> None:
    for code in (
        "RunFolder.open(sys.argv[1])",
        "RunFolder.create(sys.argv[1], config={}, overwrite=True)",
    ):
        child = in_child(code, run.path)
        assert child.returncode == 3, child.stderr
        assert f"{run.path} is in use by process {os.getpid()} on " in child.stdout
    run.close()
    assert in_child("RunFolder.open(sys.argv[1])", run.path).returncode == 0


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    code = "RunFolder.create(sys.argv[1], config={'a': 1})\nos.kill(os.getpid(), 9)"
    assert in_child(code, tmp_path / "run").returncode == -signal.SIGKILL
    assert read_run(tmp_path / "run").status["state"] == "died"
    RunFolder.open(tmp_path / "run", config={"a": 1}).close()


def test_a_forked_worker_that_outlives_its_parent_does_not_keep_the_lock(tmp_path: Path) -> None:
    read, write = os.pipe()
    code = """
RunFolder.create(sys.argv[1], config={})
if os.fork() == 0:
    os.read(int(sys.argv[2]), 1)
    os._exit(0)
os.kill(os.getpid(), 9)
"""
    program = f"import os, sys\nfrom acto.run_folder.writing import RunFolder\n{code}"
    command = [sys.executable, "-c", program, str(tmp_path / "run"), str(read)]
    assert subprocess.run(command, pass_fds=[read], timeout=60, check=False).returncode == -signal.SIGKILL
    RunFolder.open(tmp_path / "run").close()  # while the worker still waits
    os.write(write, b"x")
    os.close(write)
    os.close(read)


def test_status_says_running_while_the_folder_is_held(run: RunFolder) -> None:
    assert read_run(run.path).status["state"] == "running"
    run.set_status("finished", epoch=2, message="done")
    run.close()
    status = read_run(run.path).status
    assert (status["state"], status["epoch"], status["message"], status["pid"]) == ("finished", 2, "done", os.getpid())


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    with pytest.raises(RunError, match=r"cannot lock .*No locks available.*another file system"):
        FolderLock(tmp_path / "lock")


# metrics.csv and timing.csv.


def test_metrics_read_back_bit_for_bit(run: RunFolder) -> None:
    values = [0.1 + 0.2, 1e-310, -0.0, 1 / 3, math.pi * 1e22, float(np.float32(0.1)), 5e-324, float("inf")]
    for epoch, value in enumerate(values):
        run.add_metrics(epoch, {"loss": value, "np": np.float64(value), "count": epoch, "open": epoch % 2 == 0})
    rows = read_run(run.path).metrics
    for epoch, (row, value) in enumerate(zip(rows, values, strict=True)):
        assert struct.pack("d", row["loss"]) == struct.pack("d", row["np"]) == struct.pack("d", value)
        assert (row["epoch"], row["count"], row["open"]) == (epoch, epoch, epoch % 2 == 0)
        assert type(row["count"]) is int and type(row["open"]) is bool


def test_metrics_file_to_the_byte(run: RunFolder) -> None:
    run.add_metrics(0, {"loss": 0.5, "note": "a,b", "nan": float("nan")})
    run.add_metrics(1, {"loss": 1})
    assert (run.path / "metrics.csv").read_bytes() == b'epoch,loss,note,nan\n0,0.5,"a,b",nan\n1,1,,\n'
    assert read_run(run.path).metrics[1] == {"epoch": 1, "loss": 1, "note": None, "nan": None}


def test_a_later_row_may_bring_columns(run: RunFolder) -> None:
    run.add_metrics(0, {"loss": 0.1})
    run.add_metrics(1, {"loss": 0.2, "gate": 1.0})
    run.add_metrics(2, {"gate": 0.5})
    assert (run.path / "metrics.csv").read_bytes() == b"epoch,loss,gate\n0,0.1,\n1,0.2,1.0\n2,,0.5\n"
    run.add_timing(0, {"seconds": 1.0})  # the two tables know nothing of each other
    run.truncate_after(0)
    run.add_metrics(1, {"loss": 0.2, "gate": 1.0})
    assert (run.path / "metrics.csv").read_bytes() == b"epoch,loss,gate\n0,0.1,\n1,0.2,1.0\n"


def test_an_epoch_comes_once_and_in_order(run: RunFolder) -> None:
    run.add_metrics(3, {"loss": 0.5})
    with pytest.raises(AssertionError, match="has epoch 3; now comes 3"):
        run.add_metrics(3, {"loss": 0.5})


def test_truncate_after_keeps_the_other_bytes(run: RunFolder) -> None:
    for epoch in range(4):
        run.add_metrics(epoch, {"loss": 1 / (epoch + 3)})
        run.add_timing(epoch, {"seconds": 1.5})
    whole = (run.path / "metrics.csv").read_bytes()
    with open(run.path / "metrics.csv", "ab") as file:
        file.write(b"4,0.1")  # cut off by a kill
    assert [row["epoch"] for row in read_run(run.path).metrics] == [0, 1, 2, 3]
    assert states(run.path)["metrics.csv"] == "damaged"
    run.truncate_after(3)
    assert (run.path / "metrics.csv").read_bytes() == whole
    run.truncate_after(1)
    assert (run.path / "metrics.csv").read_bytes() == b"".join(whole.splitlines(keepends=True)[:3])
    assert [row["epoch"] for row in read_run(run.path).timing] == [0, 1]
    run.add_metrics(2, {"loss": 1 / 5})
    run.truncate_after(-1)
    assert not (run.path / "metrics.csv").exists()
    run.add_metrics(0, {"other": 1})


def test_half_a_header_counts_as_no_file(run: RunFolder) -> None:
    (run.path / "metrics.csv").write_bytes(b"epoch,lo")
    assert read_run(run.path).metrics == []
    run.truncate_after(-1)
    run.add_metrics(0, {"loss": 1})
    assert (run.path / "metrics.csv").read_bytes() == b"epoch,loss\n0,1\n"


def test_a_row_after_half_a_row_is_an_own_slip(run: RunFolder) -> None:
    run.add_metrics(0, {"loss": 1})
    with open(run.path / "metrics.csv", "ab") as file:
        file.write(b"1,0.")
    with pytest.raises(AssertionError, match="ends in half a row"):
        run.add_metrics(1, {"loss": 1})


def test_truncate_after_misses_a_row(run: RunFolder) -> None:
    run.add_metrics(0, {"loss": 0.5})
    with pytest.raises(RunError, match=r"lacks the row of epoch 1, which the checkpoint contains"):
        run.truncate_after(1)


@pytest.mark.parametrize(
    "content", [b"epoch,loss\n0,1\nx,1\n1,2\n", b"epoch,loss\n0\n", b"epoch,loss\n0,1,2\n", b"\xff\n0,1\n", b"a\n\n"]
)
def test_damaged_metrics_are_refused(run: RunFolder, content: bytes) -> None:
    (run.path / "metrics.csv").write_bytes(content)
    with pytest.raises(RunError, match=r"metrics\.csv is damaged"):
        read_run(run.path)
    assert states(run.path)["metrics.csv"] == "damaged"


# Labels.


def test_labels_and_their_checksum(run: RunFolder) -> None:
    labels = np.array([3, 1, 4, 1, 5])
    run.save_labels(labels, facts={"kind": "symmetric", "rate_realised": 0.2, "sha256": "of the labels"})
    record = read_run(run.path)
    assert np.array_equal(record.noisy_labels(), labels)
    assert record.labels is not None and record.labels["num_labels"] == 5
    assert record.labels["noise"] == {"kind": "symmetric", "rate_realised": 0.2, "sha256": "of the labels"}
    tool = subprocess.run(["sha256sum", run.path / "noisy_labels.npy"], capture_output=True, text=True, check=True)
    assert tool.stdout.split()[0] == record.labels["sha256"]
    run.save_labels(labels.copy(), facts={})


@pytest.mark.parametrize(("labels", "message"), [([3, 1, 4, 1, 6], "1 of 5 differ"), ([3, 1], "there were 5, now 2")])
def test_a_resumed_run_must_have_the_same_labels(run: RunFolder, labels: list[int], message: str) -> None:
    run.save_labels(np.array([3, 1, 4, 1, 5]), facts={})
    with pytest.raises(UserError, match=message):
        run.save_labels(np.array(labels), facts={})


def test_labels_that_are_a_pickle_are_refused(run: RunFolder) -> None:
    np.save(run.path / "noisy_labels.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(RunError, match=r"noisy_labels\.npy is damaged"):
        read_run(run.path).noisy_labels()


# The per-sample table.

NASTY = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "'=1", "'", "", "a,b", 'say "hi"', "line\nbreak", "é", "00012"]


def test_samples_read_back_as_they_were(run: RunFolder) -> None:
    rng = np.random.default_rng(0)
    count = len(NASTY)
    columns = {
        "id": NASTY,
        "label": rng.integers(0, 100, count),
        "prob": rng.random(count, dtype=np.float32),
        "quality": [0.1, float("nan"), float("inf"), -0.0] + [1 / 3] * (count - 4),
        "clean": rng.random(count) < 0.5,
        "=class": [1] * count,
    }
    run.save_samples(columns)
    samples = read_run(run.path).samples()
    assert list(samples) == list(columns)
    assert samples["id"] == NASTY
    for name in list(columns)[1:]:
        expected = np.asarray(columns[name])
        got = samples[name]
        assert isinstance(got, np.ndarray) and got.dtype == expected.dtype
        assert got.tobytes() == expected.tobytes()


def test_float32_survives_its_text(run: RunFolder) -> None:
    bits = np.random.default_rng(1).integers(0, 0x7F800000, 20_000, dtype=np.uint32)
    values = bits.view(np.float32)
    run.save_samples({"prob": values})
    assert read_run(run.path).samples()["prob"].tobytes() == values.tobytes()


def test_no_cell_of_samples_csv_is_a_formula(run: RunFolder) -> None:
    run.save_samples({"id": NASTY, "=name": NASTY, "loss": [-1.5] * len(NASTY)})
    with open(run.path / "samples.csv", encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "'=name", "loss"]
    assert [row[0] for row in rows][:8] == ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\tx", "'\rx", "''=1", "''"]
    assert not any(text.startswith(tuple("=+-@\t\r")) for row in rows for text in row[:2])
    assert rows[0][2] == "-1.5"  # a number is no formula


def test_samples_of_a_file_name_that_is_no_utf8(run: RunFolder) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    run.save_samples({"id": [name]}, parquet=True)
    assert (run.path / "samples.csv").read_bytes() == b"id\ncaf\xe9.jpg\n"
    assert read_run(run.path).samples()["id"] == [name]


def test_samples_as_parquet(run: RunFolder) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    run.save_samples({"id": ["=1", "b"], "prob": np.array([0.5, 0.25], dtype=np.float32)}, parquet=True)
    assert parquet.read_table(run.path / "samples.parquet").to_pydict() == {"id": ["=1", "b"], "prob": [0.5, 0.25]}
    run.save_samples({"id": ["a"]})
    assert not (run.path / "samples.parquet").exists()  # a table of another epoch would stay behind
    assert "samples.parquet" not in states(run.path)


def test_parquet_without_pyarrow(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r'pip install "acto-lnl\[parquet\]"'):
        run.save_samples({"id": ["a"]}, parquet=True)


@pytest.mark.parametrize("content", ["id,n\na,1\n", "id\na,1\n", "id,flag,n\na,maybe,1\n", "id,flag,n\na,true,x\n"])
def test_damaged_samples_are_refused(run: RunFolder, content: str) -> None:
    with pytest.raises(RunError, match="no per-sample table"):
        read_run(run.path).samples()
    run.save_samples({"id": ["a"], "flag": [True], "n": [1]})
    (run.path / "samples.csv").write_text(content)
    with pytest.raises(RunError, match=r"samples\.csv is damaged"):
        read_run(run.path).samples()


# Other files.


def test_summary_session_and_model(run: RunFolder) -> None:
    run.save_summary({"accuracy": np.float64(0.5), "auroc": float("nan"), "rows": (1, 2)})
    run.add_session(versions={"torch": "2.6"}, device="one CPU", argv=["acto", "train"])
    run.add_session(versions={"torch": "2.7"}, device="one CPU", argv=["acto", "train", "--resume"])
    run.save_model("model.safetensors", b"weights")
    record = read_run(run.path)
    assert record.summary == {"accuracy": 0.5, "auroc": None, "rows": [1, 2]}
    assert [session["versions"]["torch"] for session in record.sessions] == ["2.6", "2.7"]
    assert record.sessions[1]["argv"] == ["acto", "train", "--resume"]
    assert record.sessions[0]["python"].startswith("3.") and record.sessions[0]["device"] == "one CPU"
    assert states(run.path) == {
        "config.yaml": "ok", "env.json": "ok", "model.safetensors": "ok", "summary.json": "ok",
    }  # fmt: skip


def test_git_commit(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run.add_session(versions={}, device="")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "code.py").write_text("1")
    for arguments in (["init", "-q"], ["add", "code.py"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *arguments], check=True)
    run.add_session(versions={}, device="")
    subprocess.run([*git, "pack-refs", "--all"], check=True)
    run.add_session(versions={}, device="")
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    facts = [session["git"] for session in read_run(run.path).sessions]
    assert facts == [None, {"commit": head}, {"commit": head}]


def test_checksum_report_names_what_is_wrong(run: RunFolder) -> None:
    run.save_summary({"a": 1})
    run.save_samples({"id": ["a", "b"]})
    run.save_labels(np.arange(3), facts={})
    run.add_metrics(0, {"loss": 1})
    run.save_checkpoint(0, {"state.pt": b"one"})
    assert states(run.path) == {
        "config.yaml": "ok", "labels.json": "ok", "metrics.csv": "ok", "noisy_labels.npy": "ok", "samples.csv": "ok",
        "samples.json": "ok", "summary.json": "ok", "checkpoints/000001-epoch0": "ok", "env.json": "missing",
    }  # fmt: skip
    flip(run.path / "samples.csv")
    (run.path / "noisy_labels.npy").unlink()
    flip(run.path / "checkpoints/000001-epoch0/state.pt")
    (run.path / "checkpoints/.draft-000002").mkdir()
    (run.path / ".summary.json.draft").touch()
    (run.path / "status.json").unlink()
    wrong = {name: state for name, state in states(run.path).items() if state != "ok"}
    assert wrong == {
        "samples.csv": "damaged", "noisy_labels.npy": "missing", "checkpoints/000001-epoch0": "damaged",
        "checkpoints/.draft-000002": "leftover", ".summary.json.draft": "leftover", "env.json": "missing",
        "status.json": "missing",
    }  # fmt: skip
    (run.path / "checksums.json").write_bytes(b"{")
    assert states(run.path)["checksums.json"] == "damaged"


def test_a_kill_between_checksum_and_file_is_no_damage(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run.save_summary({"a": 1})
    replace = os.replace

    def killed(source: Path, target: Path) -> None:
        if target.name == "summary.json":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        run.save_summary({"a": 2})
    assert read_run(run.path).summary == {"a": 1}
    assert states(run.path)["summary.json"] == "ok"


def test_damaged_json_is_refused(run: RunFolder) -> None:
    (run.path / "status.json").write_bytes(b'{"state":')
    with pytest.raises(RunError, match=r"status\.json is damaged"):
        read_run(run.path)


def test_default_run_name() -> None:
    name = default_run_name("acto", "/data/my photos: 2/")
    stem, digits = name.rsplit("-", 1)
    assert stem.startswith("runs/acto-my_photos_2-20") and len(digits) == 4
    assert len({default_run_name("acto", "digits") for _ in range(20)}) > 10


# Checkpoints.

FILES = {"state.pt": b"state" * 1000, "model.safetensors": b"model" * 1000}


def flip(path: Path) -> None:
    """Turn one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def of_epoch(epoch: int) -> dict[str, bytes]:
    return {name: data + str(epoch).encode() for name, data in FILES.items()}


def assert_whole(run: RunFolder | Path, epoch: int) -> None:
    checkpoint = run.last_checkpoint() if isinstance(run, RunFolder) else last_checkpoint(run)
    assert checkpoint is not None and checkpoint.epoch == epoch
    assert {name: checkpoint.read(name) for name in checkpoint.files} == of_epoch(epoch)


def test_no_checkpoint_yet(run: RunFolder) -> None:
    assert run.last_checkpoint() is None


def test_newest_two_checkpoints_stay(run: RunFolder) -> None:
    for epoch in range(4):
        run.save_checkpoint(epoch, of_epoch(epoch))
        assert_whole(run, epoch)
    assert sorted(path.name for path in (run.path / "checkpoints").iterdir()) == ["000003-epoch2", "000004-epoch3"]


def test_what_a_last_save_left_goes_when_the_run_is_opened_again(run: RunFolder) -> None:
    """No save follows that could clear it away."""
    run.save_checkpoint(0, of_epoch(0))
    (run.path / "checkpoints" / ".old-000001-epoch0").mkdir()
    (run.path / ".summary.json.draft").write_bytes(b"half")
    run.close()
    with RunFolder.open(run.path):
        pass
    assert "leftover" not in states(run.path).values()
    checkpoint = last_checkpoint(run.path)
    assert checkpoint is not None and checkpoint.note is None
    with pytest.raises(KeyError, match="has no file 'other'"):
        checkpoint.read("other")


def test_points_inside_a_save(run: RunFolder) -> None:
    points: list[str] = []
    run.on_point = points.append
    run.save_checkpoint(0, FILES)
    assert points == [
        "start", "half state.pt", "written state.pt", "half model.safetensors", "written model.safetensors",
        "manifest written", "renamed", "older deleted",
    ]  # fmt: skip


POINTS = [
    ("start", 1), ("half state.pt", 1), ("written state.pt", 1), ("half model.safetensors", 1),
    ("written model.safetensors", 1), ("manifest written", 1), ("renamed", 2), ("older deleted", 2),
]  # fmt: skip


@pytest.mark.parametrize("saved", [1, 2])
def test_killed_at_every_point_of_a_save(tmp_path: Path, saved: int) -> None:
    """SIGKILL inside the save of epoch 2, with one or two checkpoints before it: the newest one is whole."""
    code = """
def files(epoch):
    parts = (("state.pt", b"state"), ("model.safetensors", b"model"))
    return {name: data * 1000 + str(epoch).encode() for name, data in parts}
def kill(point):
    if point == deadly:
        os.kill(os.getpid(), 9)
for number, deadly in enumerate(sys.argv[3:]):
    if os.fork() == 0:
        folder = RunFolder.create(f"{sys.argv[1]}/{number}", config={})
        for epoch in range(2 - int(sys.argv[2]), 2):
            folder.save_checkpoint(epoch, files(epoch))
        folder.on_point = kill
        folder.save_checkpoint(2, files(2))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    child = in_child(code, tmp_path, saved, *(point for point, _ in POINTS))
    assert child.stdout.split() == [str(-signal.SIGKILL)] * len(POINTS), child.stderr
    for number, (_, epoch) in enumerate(POINTS):
        path = tmp_path / str(number)
        with RunFolder.open(path) as folder:
            assert_whole(folder, epoch)
            # The resumed run saves again, and clears away what the killed one left.
            folder.save_checkpoint(epoch + 1, of_epoch(epoch + 1))
            assert_whole(folder, epoch + 1)
            assert set(states(path).values()) <= {"ok", "missing"}
            assert len(list((path / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("file", ["state.pt", "model.safetensors", "manifest.json"])
def test_damaged_checkpoint_falls_back_and_says_so(run: RunFolder, damage: Callable[[Path], None], file: str) -> None:
    for epoch in range(2):
        run.save_checkpoint(epoch, of_epoch(epoch))
    damage(run.path / "checkpoints/000002-epoch1" / file)
    run.close()
    with RunFolder.open(run.path) as resumed:
        assert_whole(resumed, 0)
        checkpoint = resumed.last_checkpoint()
        assert checkpoint is not None and checkpoint.note is not None
        assert checkpoint.note.startswith("checkpoint 000002-epoch1: ") and "000001-epoch0 instead" in checkpoint.note
        # What is kept beside the next checkpoint is the good one, not the damaged one.
        resumed.save_checkpoint(1, of_epoch(1))
        names = sorted(path.name for path in (run.path / "checkpoints").iterdir())
        assert names == ["000001-epoch0", "000003-epoch1"]
        assert_whole(resumed, 1)


def test_every_bit_of_a_manifest_is_guarded(run: RunFolder) -> None:
    run.save_checkpoint(7, {"state.pt": b"x"})
    manifest = run.path / "checkpoints/000001-epoch7/manifest.json"
    good = manifest.read_bytes()
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 1
        manifest.write_bytes(bytes(bad))
        # White space is the only place where a bit may flip and leave the meaning.
        if good[place : place + 1].isspace():
            continue
        with pytest.raises(RunError):
            run.last_checkpoint()
    manifest.write_bytes(good)
    assert run.last_checkpoint() is not None


@pytest.mark.parametrize(
    "content",
    [{"epoch": "7", "files": {}}, {"epoch": 7, "files": []}, {"epoch": 7, "files": {}, "run": 1}, {"files": {}},
     {"epoch": 7, "files": {"state.pt": {}}}, {"epoch": 7, "files": {"state.pt": 1}}],
)  # fmt: skip
def test_a_manifest_of_other_values_with_the_right_checksum(content: dict[str, Any], run: RunFolder) -> None:
    run.save_checkpoint(7, {"state.pt": b"x"})
    manifest = run.path / "checkpoints/000001-epoch7/manifest.json"
    manifest.write_text(json.dumps({**content, "sha256": checkpoints._digest(content)}))
    with pytest.raises(RunError, match="000001-epoch7: its manifest is damaged"):
        run.last_checkpoint()
    for text in ("[]", "1", "{}", "{"):
        manifest.write_text(text)
        with pytest.raises(RunError, match="000001-epoch7: its manifest is damaged"):
            run.last_checkpoint()


def test_a_checkpoint_that_the_disk_does_not_give(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error", str(path))

    run.save_checkpoint(7, {"state.pt": b"x"})
    monkeypatch.setattr(checkpoints, "sha256_of", refuse)
    with pytest.raises(RunError, match=r"000001-epoch7: cannot be read \(Input/output error\)"):
        run.last_checkpoint()


def test_all_checkpoints_damaged_says_how_to_start_over(run: RunFolder) -> None:
    for epoch in range(2):
        run.save_checkpoint(epoch, of_epoch(epoch))
    flip(run.path / "checkpoints/000001-epoch0/state.pt")
    (run.path / "checkpoints/000002-epoch1/state.pt").unlink()
    with pytest.raises(RunError) as error:
        run.last_checkpoint()
    assert "000002-epoch1: state.pt is missing; 000001-epoch0: state.pt differs from its checksum" in str(error.value)
    assert "To start over with the same settings: acto train --config " in str(error.value)


def test_too_little_space_is_noticed_before_writing(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run.save_checkpoint(0, of_epoch(0))
    size = sum(map(len, of_epoch(1).values()))
    usage = shutil.disk_usage(run.path)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: usage._replace(free=2 * size - 1))
    with pytest.raises(RunError, match=r"0\.0 MB free, and 0\.0 MB \(twice its size\).*go on with --resume"):
        run.save_checkpoint(1, of_epoch(1))
    assert_whole(run, 0)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: usage._replace(free=2 * size))
    run.save_checkpoint(1, of_epoch(1))


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EIO, "the disk reports an error"),
    ],
)
@pytest.mark.parametrize("call", ["mkdir", "open", "fsync", "rename"])
def test_disk_errors_in_a_save_leave_the_old_checkpoint(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, number: int, message: str, call: str
) -> None:
    run.save_checkpoint(0, of_epoch(0))

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        if call == "open":
            patch.setattr(files, "open", refuse, raising=False)
        else:
            patch.setattr(files.os, call, refuse)
        with pytest.raises(RunError, match=f"cannot save the checkpoint of epoch 1 in .*: {message}.*untouched"):
            run.save_checkpoint(1, of_epoch(1))
    assert_whole(run, 0)
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["000001-epoch0"]
    run.save_checkpoint(1, of_epoch(1))
    assert_whole(run, 1)


def test_disk_full_for_real(run: RunFolder) -> None:
    """The kernel itself refuses in the middle of a file: a limit on the size of files."""
    run.save_checkpoint(0, of_epoch(0))
    run.add_metrics(0, {"loss": 1.0})
    run.save_summary({"a": 1})
    before = (run.path / "metrics.csv").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(RunError, match="the file is larger than this process may write"):
            run.save_checkpoint(1, of_epoch(1))
        with pytest.raises(RunError, match=r"cannot write .*summary\.json"):
            run.save_summary({"a": "x" * 3000})
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 3, hard))
        with pytest.raises(RunError, match=r"cannot write .*metrics\.csv"):
            run.add_metrics(1, {"loss": 0.123456})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_whole(run, 0)
    assert (run.path / "metrics.csv").read_bytes() == before  # three bytes had been written
    assert read_run(run.path).summary == {"a": 1}
    assert "leftover" not in states(run.path).values()


def test_an_older_checkpoint_that_cannot_be_deleted_does_not_stop_the_run(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for epoch in range(2):
        run.save_checkpoint(epoch, of_epoch(epoch))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.shutil, "rmtree", lambda path, ignore_errors: None)
        run.save_checkpoint(2, of_epoch(2))
    assert_whole(run, 2)
    assert states(run.path)["checkpoints/.old-000001-epoch0"] == "leftover"
    run.save_checkpoint(3, of_epoch(3))
    assert sorted(path.name for path in (run.path / "checkpoints").iterdir()) == ["000003-epoch2", "000004-epoch3"]


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "manifest.json", ""])
def test_checkpoint_file_names_are_plain(run: RunFolder, name: str) -> None:
    with pytest.raises(AssertionError, match="file names"):
        run.save_checkpoint(0, {name: b"x"})


# Atomic files.


def test_write_atomically_never_shows_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        events.append(f"fsync {os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}'))}")
        assert path.read_bytes() == (b"new" if "replace" in events else b"old")
        fsync(descriptor)

    def watched_replace(source: Path, target: Path) -> None:
        events.append("replace")
        assert source.read_bytes() == b"new"
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", watched_fsync)
    monkeypatch.setattr(files.os, "replace", watched_replace)
    write_atomically(path, b"new")
    assert events == ["fsync .file.draft", "replace", f"fsync {tmp_path.name}"]


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    events: list[str] = []
    fsync, rename = os.fsync, os.rename

    def watched_fsync(descriptor: int) -> None:
        events.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def watched_rename(source: Path, target: Path) -> None:
        events.append(f"rename to {target.name}")
        rename(source, target)

    monkeypatch.setattr(files.os, "fsync", watched_fsync)
    monkeypatch.setattr(files.os, "rename", watched_rename)
    run.save_checkpoint(0, {"state.pt": b"x"})
    expected = ["state.pt", "manifest.json", ".draft-000001", "rename to 000001-epoch0", "checkpoints"]
    assert events == expected


def test_manifest_is_readable_by_hand(run: RunFolder) -> None:
    run.save_checkpoint(5, {"state.pt": b"abc"})
    manifest = json.loads((run.path / "checkpoints/000001-epoch5/manifest.json").read_text())
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert (manifest["epoch"], manifest["files"]) == (5, {"state.pt": {"bytes": 3, "sha256": digest}})
