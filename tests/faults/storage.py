"""Faults of the disk and of what lies on it: refused operations, full and read-only disks, damaged checkpoints."""

from __future__ import annotations

import errno
import os
import random
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from injections import FULL, die, in_evaluation, in_save, refused_operation, small_files
from lab import Injection, Lab, Life, status_of
from scenarios import KINDS, Fault, Trials, epochs_saved, must_say, operations_of

from acto.run_folder.reading import read_run

# The disk.


def disk(lab: Lab, rng: random.Random, rounds: int) -> Trials:
    """The disk refuses an operation: full, quota, read-only, or broken. What is there stays whole."""

    def trial(kind: str, inject: Injection) -> None:
        path = lab.fresh(f"{kind}-refused")
        life = lab.live(lab.start(kind, path), path, inject=inject)
        # 0: what was refused was only the clearing away of an older checkpoint. 2: the folder could not be made.
        assert life.code in (0, 1, 2), life.said
        if life.code:
            assert life.said.count("error: ") == 1, life.said
            must_say(life)
        if life.code == 2:
            assert not (path / "config.yaml").exists(), life.said
        lab.must_finish(kind, path)

    for number in range(rounds):
        kind = KINDS[number % len(KINDS)]
        operations = operations_of(lab, kind)
        place = rng.randrange(len(operations))
        code, times = FULL[number % len(FULL)], rng.choice([1, 10**6])
        name = f"{kind}: {errno.errorcode[code]} {'once' if times == 1 else 'for good'} at {operations[place]!r}"
        yield name, partial(trial, kind, refused_operation(place, code, times=times))


def disk_in_a_save(lab: Lab, rng: random.Random, rounds: int) -> Trials:
    """A checkpoint does not fit: a limit on the size of files, a full file system, a read-only one, a full log."""

    def must_keep(life: Life, path: Path, reason: str, *, saved: int) -> None:
        assert life.code == 1, f"exit code {life.code}\n{life.said}"
        must_say(life, reason, f"kept up to the end of epoch {saved - 1}", f"acto train --resume {path}")
        assert epochs_saved(path) == saved

    def limited(kind: str) -> None:
        path = lab.fresh(f"{kind}-limited")
        life = lab.live(lab.start(kind, path), path, inject=in_save(2, "start", small_files(20_000)))
        must_keep(life, path, "the file is larger than this process may write", saved=2)
        assert status_of(path)["state"] == "failed"
        lab.must_finish(kind, path)

    def refused(kind: str) -> None:
        """Everything, from the third save on: the status cannot be written, and must not hide why."""
        path = lab.fresh(f"{kind}-refused-save")
        place = operations_of(lab, kind).index("mkdir checkpoints/.draft-000003")
        life = lab.live(lab.start(kind, path), path, inject=refused_operation(place, errno.ENOSPC, times=10**6))
        must_keep(life, path, "cannot save the checkpoint of epoch 2", saved=2)
        assert read_run(path).status["state"] == "died"
        lab.must_finish(kind, path)

    def mounted(kind: str, trial: Callable[[str, Path], None]) -> None:
        place = lab.fresh(f"{kind}-mounted")
        place.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", place], capture_output=True).returncode:
            return  # it takes the rights to mount; other trials refuse the same operations by themselves
        try:
            trial(kind, place)
        finally:
            subprocess.run(["umount", "-l", place], check=True)

    def full(kind: str, place: Path) -> None:
        path, filler = place / "run", place / "filler"

        def fill() -> None:
            with filler.open("wb") as file:
                file.write(bytes(shutil.disk_usage(place).free - 50_000))

        life = lab.live(lab.start(kind, path), path, inject=in_save(2, "start", fill))
        must_keep(life, path, "the disk is full", saved=2)
        filler.unlink()
        lab.must_finish(kind, path)

    def read_only(kind: str, place: Path) -> None:
        path = place / "run"
        life = lab.live(lab.start(kind, path), path, inject=in_save(2, "start", die))
        assert life.code == -signal.SIGKILL, life.said
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        life = lab.live(lab.again(kind, path), path)
        assert life.code == 1, life.said
        must_say(life, "the file system is read-only")
        subprocess.run(["mount", "-o", "remount,rw", place], check=True)
        lab.must_finish(kind, path)

    def no_output(kind: str) -> None:
        """The log of the command lies on the full disk, which is no reason to lose a run on another."""
        path = lab.fresh(f"{kind}-full-log")

        def inject(path: Path) -> None:
            full = os.open("/dev/full", os.O_WRONLY)
            os.dup2(full, 1)
            os.dup2(full, 2)

        life = lab.live(lab.start(kind, path), path, inject=inject)
        assert life.code == 0, life.said
        lab.must_finish(kind, path)

    kinds: list[tuple[str, Callable[[str], None]]] = [
        ("a limit on the size of files", limited),
        ("every write is refused", refused),
        ("a full file system", partial(mounted, trial=full)),
        ("a resume on a read-only file system", partial(mounted, trial=read_only)),
        ("stdout and stderr on a full disk", no_output),
    ]
    for number in range(rounds):
        (name, trial), kind = kinds[number % len(kinds)], KINDS[number // len(kinds) % 2]
        yield f"{kind}: {name}", partial(trial, kind)


# Damage.


def damage(lab: Lab, rng: random.Random, rounds: int) -> Trials:
    """A checkpoint is cut, has a flipped bit, or is gone. The one before it serves; without any the run starts over."""

    def cut(file: Path) -> None:
        data = file.read_bytes()
        file.write_bytes(data[: rng.randrange(len(data))])

    def flip(file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(bytes(data))

    ways: dict[str, Callable[[Path], None]] = {
        "cut off": lambda checkpoint: cut(checkpoint / "training.pt"),
        "with a flipped bit": lambda checkpoint: flip(checkpoint / "training.pt"),
        "without its file": lambda checkpoint: (checkpoint / "training.pt").unlink(),
        "with a damaged manifest": lambda checkpoint: flip(checkpoint / "manifest.json"),
        "gone": shutil.rmtree,
    }

    def killed(kind: str) -> tuple[Path, list[Path]]:
        path = lab.fresh(f"{kind}-damaged")
        life = lab.live(lab.start(kind, path), path, inject=in_evaluation(3, die))
        assert life.code == -signal.SIGKILL, life.said
        saved = sorted((path / "checkpoints").iterdir())
        assert [checkpoint.name for checkpoint in saved] == ["000002-epoch1", "000003-epoch2"]
        return path, saved

    def newest(kind: str, way: str) -> None:
        path, saved = killed(kind)
        ways[way](saved[1])
        said = lab.must_finish(kind, path)
        assert "epochs 2 to 2 left no good checkpoint and are done again" in said, said
        if way != "gone":
            assert "000003-epoch2: " in said and "Going on from 000002-epoch1 instead" in said, said

    def both(kind: str, way: str) -> None:
        path, saved = killed(kind)
        for checkpoint in saved:
            ways[way](checkpoint)
        if way == "gone":
            said = lab.must_finish(kind, path)
            assert "epochs 0 to 2 left no good checkpoint and are done again" in said, said
            return
        life = lab.live(lab.again(kind, path), path)
        assert life.code == 1, life.said
        must_say(life, "no checkpoint in ", "To start over with the same settings: acto ")
        command = life.said.partition("with the same settings: acto ")[2].splitlines()[0]
        life = lab.live(shlex.split(command), path)
        assert life.code == 0, life.said
        lab.must_be_equal(kind, path)

    trials = [pair for way in ways for pair in ((f"the newest {way}", partial(newest, way=way)),
                                                (f"both {way}", partial(both, way=way)))]  # fmt: skip
    if rounds < len(trials):
        trials = [trials[2], trials[1], trials[8]][:rounds]
    for number in range(rounds):
        (name, trial), kind = trials[number % len(trials)], KINDS[number // len(trials) % 2]
        yield f"{kind}: {name}", partial(trial, kind)


FAULTS: dict[str, Fault] = {
    "disk refuses": disk,
    "disk full or read-only in a save": disk_in_a_save,
    "damaged checkpoint": damage,
}
