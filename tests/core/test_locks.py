"""Locks: no link is followed, and acto works on a system that has neither flock nor limits of resources."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from acto.core import locks
from acto.core.errors import UserError
from acto.core.locks import FolderLock, is_locked
from acto.run_folder.reading import MARK, read_run
from acto.run_folder.writing import RunFolder


def test_a_lock_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    link, dangling = tmp_path / "lock", tmp_path / "dangling"
    link.symlink_to(tmp_path / "precious")
    dangling.symlink_to(tmp_path / "made")
    for path in (link, dangling):
        with pytest.raises(UserError, match=rf"{path} is a link, and a lock follows none; delete it or choose"):
            FolderLock(path)
    assert (tmp_path / "precious").read_text() == "kept" and not (tmp_path / "made").exists()
    lock = FolderLock(tmp_path / "precious")
    assert is_locked(tmp_path / "precious") and not is_locked(link)
    lock.release()


def test_who_waits_gets_the_lock_when_it_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, events, flock = FolderLock(tmp_path / "lock"), list[str](), fcntl.flock

    def let_go(descriptor: int, kind: int) -> None:
        if kind == fcntl.LOCK_EX:  # and waits
            events.append("waits")
            first.release()
        flock(descriptor, kind)

    monkeypatch.setattr(locks.fcntl, "flock", let_go)
    second = FolderLock(tmp_path / "lock", on_wait=lambda: events.append("says so"))
    assert events == ["says so", "waits"] and is_locked(tmp_path / "lock")
    second.release()
    assert not is_locked(tmp_path / "lock")


def test_without_flock_a_file_keeps_the_second_process_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    run = RunFolder.create(tmp_path / "run", config={"a": 1})
    held = tmp_path / "run" / f"{MARK}.held"
    assert held.exists() and read_run(run.path).status["state"] == "running"
    in_use = rf"run is in use by process {os.getpid()} on .*; choose another folder, or delete {held} if that process"
    with pytest.raises(UserError, match=in_use):
        RunFolder.open(run.path)
    with pytest.raises(UserError, match=in_use):
        FolderLock(run.path / MARK, on_wait=lambda: pytest.fail("the holder may be dead"))
    run.close()
    assert not held.exists() and not is_locked(run.path / MARK)
    with RunFolder.create(run.path, config={"a": 2}, overwrite=True):
        assert held.exists()
    RunFolder.open(run.path).close()


def test_a_lock_that_cannot_be_signed_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    for there in (locks.fcntl, None):
        with monkeypatch.context() as patch:
            patch.setattr(locks, "fcntl", there)
            with patch.context() as disk:
                disk.setattr(locks.os, "write", full)
                with pytest.raises(Exception, match=r"cannot lock .*: the disk is full"):
                    FolderLock(tmp_path / "lock")
            FolderLock(tmp_path / "lock").release()


ELSEWHERE = """
import os, sys
sys.modules["fcntl"] = sys.modules["resource"] = None
for name in ("O_NOFOLLOW", "O_DIRECTORY", "O_CLOEXEC"):
    delattr(os, name)
at_fork = os.register_at_fork
del os.register_at_fork
import acto, acto.core.locks
os.register_at_fork = at_fork  # torch asks for it wherever the system is not Windows
import numpy as np

rng = np.random.default_rng(0)
labels = np.arange(40) % 2
samples = (rng.normal(size=(40, 3)) + 3 * labels[:, None]).astype("float32")
labels[0] = 1
probs = np.where(samples.mean(1, keepdims=True) > 1.5, (0.1, 0.9), (0.9, 0.1))
assert acto.audit(labels, probs).is_label_issue[0]
fitted = acto.fit(samples, labels, epochs=1, net="mlp:4", method="standard", device="cpu", out=sys.argv[1])
assert acto.read_run(sys.argv[1]).status["state"] == "finished"
assert fitted.predict(samples).shape == (40,) and fitted.report is not None

from acto.core.locks import FolderLock
from acto.diagnostics.machine import open_files
from acto.runs import cost
import torch
assert open_files().text == "this system tells no limit"
assert cost._peak_memory(torch.device("cpu")) is None
FolderLock(__import__("pathlib").Path(sys.argv[1]) / ".acto-run")
os.kill(os.getpid(), 9)
"""


def test_acto_works_without_fcntl_and_resource(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", ELSEWHERE, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "run" / f"{MARK}.held").exists()  # what a killed process leaves there
    assert read_run(tmp_path / "run").status["state"] == "finished"
