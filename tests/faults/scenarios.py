"""What is done to a run, what it must answer, and that it ends as if nothing had been.

Each fault is a function that yields trials: a name, and a call that raises AssertionError where something is lost. It
may return a sentence on what it measured. `rounds` is how many trials there are.
"""

from __future__ import annotations

import errno
import os
import random
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from injections import (
    POINTS,
    at_operation,
    at_step,
    before,
    die,
    in_data,
    in_evaluation,
    in_report,
    in_save,
    jumping_clock,
    little_memory,
    note_operations,
    raising,
    send,
    spoiled,
    swallowed,
    together,
)
from lab import EPOCHS, METHODS, STEPS, Child, Injection, Lab, Life, status_of

from acto.cli import train
from acto.run_folder.reading import last_checkpoint, read_run

Trials = Iterator[tuple[str, Callable[[], str | None]]]
Fault = Callable[[Lab, random.Random, int], Trials]
KINDS = tuple(METHODS)


def epochs_saved(path: Path) -> int:
    """How many epochs the newest good checkpoint holds."""
    saved = last_checkpoint(path)
    return 0 if saved is None else saved.epoch + 1


def must_say(life: Life, *parts: str) -> None:
    missing = [part for part in parts if part not in life.said]
    assert not missing, f"it does not say {missing}, but:\n{life.said}"
    assert "Traceback" not in life.said, life.said


# Killed.


def sigkill(lab: Lab, rng: random.Random, rounds: int) -> Trials:
    """SIGKILL at every point inside a save, then at steps, saves and disk operations that chance picks."""

    def moments(kind: str) -> list[tuple[str, Injection]]:
        operations = operations_of(lab, kind)
        lives: list[tuple[str, Injection]] = []
        for _ in range(rng.randrange(1, 5)):
            step, operation = rng.randrange(1, 2 * STEPS), rng.randrange(len(operations))
            save, point = rng.randrange(EPOCHS - 1), rng.choice(POINTS)
            lives.append(
                rng.choice(
                    [
                        (f"before step {step}", at_step(step, die)),
                        (f"in save {save} at {point!r}", in_save(save, point, die)),
                        (f"before disk operation {operation}", at_operation(operation, die)),
                    ]
                )
            )
        return lives

    def trial(kind: str, lives: list[tuple[str, Injection]]) -> None:
        path = lab.fresh(f"{kind}-killed")
        for _, inject in lives:
            life = lab.live(lab.again(kind, path), path, inject=inject)
            # A later life may have no such moment any more.
            assert life.code in (-signal.SIGKILL, 0), life.said
        lab.must_finish(kind, path)

    def half_written(kind: str) -> list[tuple[str, Injection]]:
        operations = operations_of(lab, kind)
        place = [n for n, name in enumerate(operations) if name.startswith("write ") and "status.json" in name][5]
        return [("when a status is half written", at_operation(place, die))]

    for number in range(rounds):
        kind = KINDS[number % len(KINDS)]
        # Every point inside a save comes first, then what chance brings.
        if number < len(POINTS):
            lives = [(f"in save 1 at {POINTS[number]!r}", in_save(1, POINTS[number], die))]
        else:
            lives = half_written(kind) if number == len(POINTS) else moments(kind)
        yield f"{kind}: {', then '.join(name for name, _ in lives)}", partial(trial, kind, lives)


def sigkill_any_time(lab: Lab, rng: random.Random, rounds: int) -> Trials:
    """SIGKILL from outside after a random time."""

    def trial(kind: str, delays: list[float]) -> None:
        path = lab.fresh(f"{kind}-any-time")
        for delay in delays:
            child = Child(lab.again(kind, path), path)
            life = child.wait(delay)  # it "hangs" at the end of the delay, and is killed
            assert life.code in (None, 0), life.said
        lab.must_finish(kind, path)

    for number in range(rounds):
        kind = KINDS[number % len(KINDS)]
        lab.calm(kind)
        delays = [rng.uniform(0, 2.5) for _ in range(3)]
        yield f"{kind}: after {', '.join(f'{d:.2f} s' for d in delays)}", partial(trial, kind, delays)


def operations_of(lab: Lab, kind: str) -> list[str]:
    """Every disk operation of an undisturbed run, in order."""
    log = lab.root / f"operations-{kind}"
    if not log.exists():
        path = lab.fresh(f"{kind}-counted")
        life = lab.live(lab.start(kind, path), path, inject=note_operations(log))
        assert life.code == 0, life.said
        lab.must_be_equal(kind, path)
    return log.read_text().splitlines()


# Stopped.


def signals(lab: Lab, rng: random.Random, rounds: int) -> Trials:
    """SIGINT and SIGTERM: what was reached is kept, the command says how to go on, and exits with 130 or 143."""
    places: dict[str, Callable[[int], Injection]] = {
        "while the data are read": lambda s: in_data(send(s)),
        "at a step": lambda s: at_step(2 * STEPS + 1, send(s)),
        "in the evaluation": lambda s: in_evaluation(2, send(s)),
        "inside a save": lambda s: in_save(1, "half training.pt", send(s)),
        "before the labels are looked through": lambda s: in_report(send(s)),
        "while an object is destroyed": lambda s: swallowed(STEPS + 1, s),
        "twice": lambda s: together(at_step(5, send(s)), before(train.RunFolder, "set_status", send(s), number=2)),
    }
    chosen = [(place, signum) for place in places for signum in (signal.SIGTERM, signal.SIGINT)]
    if rounds < len(chosen):  # each place once, with one signal or the other
        chosen = [(place, signum) for number, (place, signum) in enumerate(chosen) if number % 4 in (0, 3)][:rounds]

    def trial(kind: str, place: str, signum: int) -> None:
        path = lab.fresh(f"{kind}-stopped")
        life = lab.live(lab.start(kind, path), path, inject=places[place](signum))
        assert life.code == 128 + signum, f"exit code {life.code}\n{life.said}"
        if place != "while an object is destroyed":  # Python itself tells there what it ignores
            must_say(life)
        if place == "while the data are read":
            assert not path.exists()
        elif place == "before the labels are looked through":
            must_say(life, f"acto audit {path}")
            assert status_of(path)["state"] == "finished"
        elif place != "twice":
            assert f"acto train --resume {path}" in life.said, life.said
            assert status_of(path)["state"] == "interrupted"
        lab.must_finish(kind, path)

    for number in range(max(rounds, len(chosen))):
        (place, signum), kind = chosen[number % len(chosen)], KINDS[number // len(chosen) % 2]
        yield f"{kind}: {signal.Signals(signum).name} {place}", partial(trial, kind, place, signum)


# Numbers, memory, the clock, a second process.


def not_finite(lab: Lab, rng: random.Random, rounds: int) -> Trials:
    """A loss is NaN or infinite, or a gradient is: epoch, step and samples are named, the last good state is kept."""

    def trial(kind: str, how: str, epoch: int, step: int) -> None:
        path = lab.fresh(f"{kind}-spoiled")
        # DivideMix trains each network in a turn of its own; later than the warm-up it decides itself on the steps.
        steps = STEPS if kind == "acto" else 2 * STEPS
        # A gradient spoils the last step of all: nothing after it would show.
        number = epoch * steps + (steps - 1 if how == "gradient" else step)
        life = lab.live(lab.start(kind, path), path, inject=spoiled(number, how))
        assert life.code == 1, f"exit code {life.code}\n{life.said}"
        what = "the weights are not finite" if how == "gradient" else "the loss is not finite"
        must_say(life, what, f" in epoch {epoch}", ", step ", "its batch begins with the samples ")
        named = life.said.partition("begins with the samples ")[2].partition(")")[0].split(", ")
        assert len(named) == 8 and set(named) <= set(read_run(lab.calm(kind)).samples()["id"]), named
        assert epochs_saved(path) == epoch
        assert len(read_run(path).metrics) == epoch and status_of(path)["state"] == "failed"
        lab.must_finish(kind, path)

    for number in range(rounds):
        kind, how = KINDS[number % 2], ("nan", "gradient", "infinite")[number % 3]
        epoch, step = (1, 2) if number < 3 else (rng.randrange(EPOCHS if kind == "acto" else 2), rng.randrange(STEPS))
        yield f"{kind}: {how} in epoch {epoch}", partial(trial, kind, how, epoch, step)


def out_of_memory(lab: Lab, rng: random.Random, rounds: int) -> Trials:
    """Memory runs out, on a GPU, on the processor, in Python: the message says what to make smaller."""
    gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of ...")
    cpu = RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to")
    asked = "--batch-size 25 (now 50)"

    def raised(kind: str, error: Exception, *parts: str) -> None:
        path = lab.fresh(f"{kind}-no-memory")
        life = lab.live(lab.start(kind, path), path, inject=at_step(9, raising(error)))
        assert life.code == 1, f"exit code {life.code}\n{life.said}"
        must_say(life, "memory ran out", asked, "kept up to the end of epoch ", *parts)
        lab.must_finish(kind, path)

    def limited(kind: str) -> None:
        """The system itself refuses."""
        path = lab.fresh(f"{kind}-little-memory")

        def too_much() -> None:
            little_memory(50 * 2**20)()
            torch.empty(2**30)

        life = lab.live(lab.start(kind, path), path, inject=at_step(9, too_much))
        assert life.code == 1, f"exit code {life.code}\n{life.said}"
        must_say(life, "memory ran out", "DefaultCPUAllocator", asked)
        lab.must_finish(kind, path)

    trials: list[tuple[str, Callable[[str], None]]] = [
        ("the system refuses", limited),
        ("on a GPU", lambda kind: raised(kind, gpu, "--precision bfloat16 (now float32)")),
        ("on the processor", lambda kind: raised(kind, cpu)),
        ("in Python", lambda kind: raised(kind, MemoryError())),
        ("for a new process", lambda kind: raised(kind, OSError(errno.ENOMEM, "Cannot allocate memory"))),
    ]
    for number in range(rounds):
        (name, trial), kind = trials[number % len(trials)], KINDS[number // len(trials) % 2]
        yield f"{kind}: {name}", partial(trial, kind)


def clock(lab: Lab, rng: random.Random, rounds: int) -> Trials:
    """The wall clock jumps by days at every look, files are from the future: no duration is negative, all is equal."""

    def trial(kind: str, step: int) -> None:
        path = lab.fresh(f"{kind}-clock")
        life = lab.live(lab.start(kind, path), path, inject=together(jumping_clock, at_step(step, die)))
        assert life.code == -signal.SIGKILL, life.said
        for place in (path, *path.rglob("*")):  # files from the future and from long ago
            os.utime(place, (rng.choice([0, 4e9]),) * 2)
        life = lab.live(lab.again(kind, path), path, inject=jumping_clock)
        assert life.code == 0, life.said
        seconds = [row[name] for row in read_run(path).timing for name in ("train_seconds", "eval_seconds")]
        assert len(seconds) == 2 * EPOCHS and all(0 <= value < 60 for value in seconds), seconds
        lab.must_be_equal(kind, path)

    for number in range(rounds):
        kind, step = KINDS[number % 2], rng.randrange(STEPS, 3 * STEPS)
        yield f"{kind}: and a kill at step {step}", partial(trial, kind, step)


def second_process(lab: Lab, rng: random.Random, rounds: int) -> Trials:
    """A second process on the same folder is refused; the first does not notice."""

    def trial(kind: str, step: int) -> None:
        path = lab.fresh(f"{kind}-shared")
        reached, say = os.pipe()
        wait, go = os.pipe()

        def hold() -> None:
            os.write(say, b"x")
            os.read(wait, 1)

        first = Child(lab.start(kind, path), path, inject=at_step(step, hold))
        assert os.read(reached, 1) == b"x"
        tries = [lab.start(kind, path), [*lab.start(kind, path), "--overwrite"], lab.again(kind, path)]
        others = [lab.live(tokens, path) for tokens in tries]
        os.write(go, b"x")
        life = first.wait()
        for descriptor in (reached, say, wait, go):
            os.close(descriptor)
        assert life.code == 0, life.said
        assert [other.code for other in others] == [2, 2, 2], [other.said for other in others]
        must_say(others[0], "is not empty")
        for other in others[1:]:
            must_say(other, f"is in use by process {first.pid} on ")
        lab.must_be_equal(kind, path)

    for number in range(rounds):
        kind, step = KINDS[number % 2], rng.randrange(2 * STEPS)
        yield f"{kind}: at step {step}", partial(trial, kind, step)


FAULTS: dict[str, Fault] = {
    "SIGKILL": sigkill,
    "SIGKILL at any time": sigkill_any_time,
    "SIGINT and SIGTERM": signals,
    "loss or gradient not finite": not_finite,
    "out of memory": out_of_memory,
    "clock jumps": clock,
    "two processes on one folder": second_process,
}
