"""What ends a run, in the words that its user reads."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest
import torch

from acto.core import distributed
from acto.core.errors import RunError
from acto.core.types import Clock
from acto.run_folder.checkpoints import start_over
from acto.runs.failures import Interrupted, in_words, signals_raise
from acto.training.divergence import DivergedError


def told(error: BaseException, *, workers: int = 4, precision: str = "float32") -> str:
    with pytest.raises(RunError) as found, in_words(batch_size=128, workers=workers, precision=precision):
        raise error
    assert found.value.__cause__ is error
    return str(found.value)


ANOTHER = "--batch-size 64 (now 128), which makes another run: give it another --out, or --overwrite."


def test_memory_of_the_processor() -> None:
    message = "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried\nsecond line"
    assert told(RuntimeError(message)) == (
        f"memory ran out (RuntimeError: {message.splitlines()[0]}). "
        f"Try --workers 2 (now 4), which --resume accepts; or {ANOTHER}"
    )
    assert told(MemoryError(), workers=0) == f"memory ran out (MemoryError). Try {ANOTHER}"
    assert "memory ran out" in told(OSError(errno.ENOMEM, "Cannot allocate memory"))


def test_memory_of_a_gpu() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert "--batch-size 64 (now 128) or --precision bfloat16 (now float32), which" in told(error, workers=0)
    assert "precision" not in told(error, precision="bfloat16")


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shape mismatch"), OSError(errno.ENOENT, "gone"), ValueError("x"), RunError("the disk is full")],
)
def test_other_errors_pass_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as found, in_words(batch_size=128, workers=0, precision="auto"):
        raise error
    assert found.value is error and error.__cause__ is None


def test_a_lost_process_is_one_only_where_there_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:15822")
    with pytest.raises(RuntimeError) as found, in_words(batch_size=128, workers=0, precision="auto"):
        raise error
    assert found.value is error
    monkeypatch.setattr("acto.runs.failures.world", lambda: 2)
    assert told(error).startswith("another process of this run ended, and its own output says why (RuntimeError: [gloo")


def test_the_samples_of_a_bad_step_are_called_by_their_ids() -> None:
    error = DivergedError("the loss is not finite", clock=Clock(3, 9, 1, 4, 7), rows=(2, 0), advice="Try less.")
    assert str(error) == (
        "the loss is not finite in epoch 3, turn 1, step 4 of 7 (its batch begins with the samples 2, 0). Try less."
    )
    with (
        pytest.raises(DivergedError, match=r"with the samples c\.png, a\.png\)"),
        in_words(batch_size=2, workers=0, precision="auto", ids=("a.png", "b.png", "c.png")),
    ):
        raise error
    elsewhere = DivergedError("the loss is not finite", clock=Clock(0, 1), rows=(), advice="")
    assert "epoch 0, step 0 of 1 (in another process)" in str(elsewhere)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_raises_and_is_remembered(signum: int) -> None:
    before = signal.getsignal(signum)
    with pytest.raises(Interrupted) as found, signals_raise() as stop:
        stop.check()  # nothing yet
        os.kill(os.getpid(), signum)
    assert found.value.exit_code == 128 + signum and stop.signum == signum
    with pytest.raises(Interrupted):
        stop.check()
    assert signal.getsignal(signum) is before


def test_one_process_agrees_with_itself() -> None:
    distributed.require_same(7, "epochs", device=torch.device("cpu"))


def test_processes_that_stand_at_different_epochs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    others = {3: [6, 18], 4: [7, 25]}  # sums of the numbers and of their squares over 3 and 3, and over 3 and 4
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(distributed, "total", lambda mine: torch.tensor(others[3]))
    distributed.require_same(3, "epochs", device=torch.device("cpu"))
    monkeypatch.setattr(distributed, "total", lambda mine: torch.tensor(others[4]))
    with pytest.raises(RuntimeError, match="epochs is 3 in process 0 and not the same in all"):
        distributed.require_same(3, "epochs", device=torch.device("cpu"))


def test_the_command_that_starts_over_can_be_copied() -> None:
    sentence = start_over(Path("runs/my photos"))
    assert sentence.endswith("acto train --config 'runs/my photos/config.yaml' --out 'runs/my photos' --overwrite")
