"""Runs that are disturbed, and what they are compared with. Used by the scenarios, few in the tests, many in soak.py.

A life is a forked child that runs the command `acto` with something wrong in it; the process that forks has loaded
torch once, computes nothing, and has one thread. What a run comes to after all its lives is compared, bit by bit, with
the same run that was never disturbed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from acto.cli import main
from acto.run_folder.reading import checksum_report, last_checkpoint, read_run

EPOCHS, STEPS = 4, 4
COMMON = [
    "--data", "digits", "--data.subset", "200", "--noise", "symmetric", "--noise-rate", "0.4", "--net", "cnn_tiny",
    "--epochs", str(EPOCHS), "--batch-size", "50", "--device", "cpu", "--workers", "0",
]  # fmt: skip
METHODS = {
    "acto": ["--method", "acto", "--warmup-epochs", "2"],
    "dividemix": ["--method", "dividemix", "--warmup-epochs", "2", "--dividemix.batch_size", "25"],
}
SAME = (
    "config.yaml", "metrics.csv", "samples.csv", "samples.json", "noisy_labels.npy", "labels.json", "pred_probs.npy",
    "calibration.json", "net0.safetensors", "net1.safetensors", "summary.json", "label_report.csv",
)  # fmt: skip
"""Files that must be equal to the byte. Of the checkpoint every tensor must be; its file names the time in its zip."""
DEADLINE = 120.0
"""Seconds after which a life counts as hanging."""

Injection = Callable[[Path], None]
"""Called in the child with the run's folder, before the command: it lays the trap."""


@dataclass(frozen=True)
class Life:
    """How a child ended."""

    code: int | None
    """Its exit code, negative for a signal; None: it hung and was killed."""
    said: str
    """stdout and stderr."""


class Child:
    """A life that is under way."""

    def __init__(
        self,
        tokens: Sequence[str],
        path: Path,
        *,
        inject: Injection | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by wait)
        self._end, held = os.pipe()  # nobody but the child holds it, so it closes with the child's death
        self.pid = os.fork()
        if self.pid:
            os.close(held)
            return
        code = 70
        # A worker of its own would load the program that forked it.
        vars(sys.modules["__main__"]).pop("__file__", None)
        # A shell lets what it starts with & ignore Ctrl-C, and children inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            for descriptor in (1, 2):
                os.dup2(self._log.fileno(), descriptor)
            os.environ.update(env or {})
            if inject is not None:
                inject(path)
            code = main(tokens)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            os._exit(code)

    def wait(self, deadline: float = DEADLINE) -> Life:
        """Its end, which is a violent one if it takes too long."""
        hung = True
        try:
            hung = not select.select([self._end], [], [], deadline)[0]
        finally:
            if hung:
                os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        os.close(self._end)
        self._log.seek(0)
        said = self._log.read().decode("utf-8", "replace")
        self._log.close()
        return Life(None if hung else os.waitstatus_to_exitcode(status), said)


class Lab:
    """A folder for runs, and the undisturbed run of each method."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tokens: dict[str, list[str]] = {name: [*COMMON, *tokens] for name, tokens in METHODS.items()}
        self._calm: dict[str, Path] = {}
        self._number = 0

    def fresh(self, name: str) -> Path:
        """A path for a new run."""
        self._number += 1
        return self.root / f"{self._number:04d}-{name}"

    def start(self, kind: str, path: Path) -> list[str]:
        """The command that begins a run of this kind."""
        return ["train", *self.tokens[kind], "--out", str(path)]

    def calm(self, kind: str) -> Path:
        """The undisturbed run."""
        if kind not in self._calm:
            path = self.root / f"calm-{kind}"
            life = self.live(self.start(kind, path), path)
            assert life.code == 0, life.said
            self._calm[kind] = path
        return self._calm[kind]

    def adopt(self, kind: str, tokens: list[str], calm: Path | None = None) -> None:
        """Another kind of run; `calm` is the undisturbed one where it is made in another way."""
        self.tokens[kind] = tokens
        if calm is not None:
            self._calm[kind] = calm

    def live(self, tokens: Sequence[str], path: Path, *, inject: Injection | None = None) -> Life:
        """One life, to its end."""
        return Child(tokens, path, inject=inject).wait()

    def again(self, kind: str, path: Path) -> list[str]:
        """The command that a user gives after an interruption."""
        if (path / "config.yaml").exists():
            return ["train", "--resume", str(path), "--device", "cpu", "--workers", "0"]
        overwrite = ["--overwrite"] if path.exists() and any(path.iterdir()) else []
        return [*self.start(kind, path), *overwrite]

    def must_finish(self, kind: str, path: Path) -> str:
        """Go on with the run undisturbed, compare it with the calm one, and return what the last life said."""
        life = self.live(self.again(kind, path), path)
        assert life.code == 0, f"the run did not go on: exit code {life.code}\n{life.said}"
        self.must_be_equal(kind, path)
        return life.said

    def must_be_equal(self, kind: str, path: Path) -> None:
        """Every result of the finished run is that of the undisturbed one, to the bit."""
        calm = self.calm(kind)
        unlike = [name for name in SAME if (calm / name).exists() and _bytes(calm / name) != _bytes(path / name)]
        assert not unlike, f"{', '.join(unlike)} differ from those of the undisturbed run"
        assert (path / "report.html").exists(), "there is no report"
        assert checkpoint_differences(calm, path) == []
        assert read_run(path).status["state"] == "finished"
        faults = [check for check in checksum_report(path) if check.state != "ok"]
        assert not faults, f"the folder is not in order: {faults}"


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def checkpoint_differences(first: Path, second: Path) -> list[str]:
    """Names of the values in which the newest checkpoints of two runs differ."""
    states = []
    for path in (first, second):
        saved = last_checkpoint(path)
        assert saved is not None and saved.epoch == EPOCHS - 1, f"no checkpoint of the last epoch in {path}"
        states.append(dict(_leaves(torch.load(io.BytesIO(saved.read("training.pt")), weights_only=True))))
    ours, theirs = states
    return sorted({*(ours.keys() ^ theirs.keys()), *(key for key in ours if not _equal(ours[key], theirs.get(key)))})


def _leaves(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in _leaves(item, f"{name}.{key}")]
    if isinstance(value, list | tuple):
        return [leaf for number, item in enumerate(value) for leaf in _leaves(item, f"{name}.{number}")]
    return [(name, value)]


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first.nan_to_num(-7), second.nan_to_num(-7))
    return bool(first == second)


def status_of(path: Path) -> dict[str, Any]:
    return json.loads((path / "status.json").read_text())
