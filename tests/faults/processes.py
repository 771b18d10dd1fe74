"""Faults of runs with several processes, and what a long run must not pile up."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import select
import signal
import socket
import time
from functools import partial
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from injections import at_step, die, in_evaluation, in_save
from lab import COMMON, METHODS, STEPS, Child, Injection, Lab, Life
from PIL import Image
from scenarios import Fault, Trials, must_say

from acto.data.loading import decode_workers
from acto.run_folder.writing import RunFolder

PICTURES = [
    "--method", "acto", "--warmup-epochs", "2", "--net", "cnn_small", "--data.size", "16", "--epochs", "4",
    "--data.pictures", "large",
    "--batch-size", "8", "--device", "cpu", "--workers", "0",
]  # fmt: skip
SOON = 30.0
"""Seconds within which a process must notice that another one has died; torch looks every five."""


def pictures(lab: Lab) -> str:
    """The kind of run that decodes picture files; of many sizes, or they would be held in memory."""
    folder = lab.root / "pictures"
    if not folder.exists():
        draw = np.random.default_rng(0)
        for level, name in enumerate(("dark", "light")):
            (folder / name).mkdir(parents=True)
            for i in range(24):
                pixels = draw.integers(90 * level, 90 * level + 160, (20 + i % 5, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{i}.png")
        lab.adopt("pictures", ["--data", str(folder), *PICTURES])
    return "pictures"


def with_workers(lab: Lab, path: Path) -> list[str]:
    """The command that begins the run, or goes on with it, with two workers."""
    return [*lab.again(pictures(lab), path), "--workers", "2"]


# The processes that decode pictures.


def decoding_process_killed(lab: Lab, rng: random.Random, rounds: int) -> Trials:
    """A worker dies: an error that says what to do, and nothing is lost."""

    def kill_one() -> None:
        os.kill(rng.choice(multiprocessing.active_children()).pid or 0, signal.SIGKILL)

    def trial(step: int) -> None:
        kind, path = pictures(lab), lab.fresh("pictures-worker")
        life = lab.live(with_workers(lab, path), path, inject=at_step(step, kill_one))
        assert life.code == 1, f"exit code {life.code}\n{life.said}"
        must_say(life, "a process that decodes pictures died", "try fewer --workers", "kept up to the end of epoch ")
        lab.must_finish(kind, path)

    for _ in range(rounds):
        step = rng.randrange(6, 12)  # in the second epoch of six steps
        yield f"before step {step}", partial(trial, step)


def left_behind(lab: Lab, rng: random.Random, rounds: int) -> Trials:
    """The main process is killed: its workers, and what they share, go with it."""

    def trial(step: int) -> None:
        kind, path = pictures(lab), lab.fresh("pictures-main")
        family = lab.root / "family.json"

        def note_and_die() -> None:
            pids = [worker.pid for worker in multiprocessing.active_children()]
            servers = [forkserver._forkserver._forkserver_pid, resource_tracker._resource_tracker._pid]
            maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
            shared = {int(line[4]) for line in maps if line[-1].startswith("/dev/shm/") or "/dev/shm/" in line[-2]}
            family.write_text(json.dumps({"pids": [*pids, *servers], "shared": sorted(shared)}))
            die()

        life = lab.live(with_workers(lab, path), path, inject=at_step(step, note_and_die))
        assert life.code == -signal.SIGKILL, life.said
        left = json.loads(family.read_text())
        assert len(left["pids"]) >= 4 and all(left["pids"]) and left["shared"], left
        until = time.monotonic() + SOON
        alive = [pid for pid in left["pids"] if not ends(pid, until)]
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
        assert not alive, f"{len(alive)} processes outlived the run"
        still = [entry.name for entry in os.scandir("/dev/shm") if entry.inode() in left["shared"]]
        assert not still, f"shared memory was left behind: {still}"
        lab.must_finish(kind, path)

    for _ in range(rounds):
        step = rng.randrange(1, 12)
        yield f"before step {step}", partial(trial, step)


def ends(pid: int, until: float) -> bool:
    """Whether the process has ended, or does so in time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0])
    finally:
        os.close(descriptor)


def start_methods(lab: Lab, rng: random.Random, rounds: int) -> Trials:
    """Workers that are forked and such that are spawned do what the fork server's do, and what none does."""

    def trial(method: str) -> None:
        kind, path = pictures(lab), lab.fresh(f"pictures-{method}")

        def inject(path: Path) -> None:
            decode_workers._context = lambda: multiprocessing.get_context(method)

        life = lab.live(with_workers(lab, path), path, inject=inject)
        assert life.code == 0, life.said
        lab.live(lab.again(kind, path), path)  # config.yaml now says what the calm run's does
        lab.must_be_equal(kind, path)

    for number in range(rounds):
        method = ("fork", "spawn", "forkserver")[number % 3]
        yield method, partial(trial, method)


# Two processes that train together.


def pair(
    lab: Lab, tokens: list[str], path: Path, injections: tuple[Injection | None, ...] = (None, None)
) -> list[Life]:
    """How both ended."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    children = [
        Child(tokens, path, inject=inject, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank, inject in enumerate(injections)
    ]
    return [child.wait(SOON if any(injections) else 120.0) for child in children]


def one_of_two(lab: Lab, rng: random.Random, rounds: int) -> Trials:
    """One of two processes is killed: the other ends with an error, soon, and the run goes on from there."""
    kind = "two processes"

    def calm() -> None:
        if kind not in lab.tokens:
            lab.adopt(kind, [*COMMON, *METHODS["acto"]], lab.root / "calm-pair")
            lives = pair(lab, lab.start(kind, lab.calm(kind)), lab.calm(kind))
            assert [life.code for life in lives] == [0, 0], [life.said for life in lives]

    def trial(rank: int, inject: Injection) -> None:
        calm()
        path = lab.fresh("pair")
        lives = pair(lab, lab.start(kind, path), path, (None, inject) if rank else (inject, None))
        killed, other = lives[rank], lives[1 - rank]
        assert killed.code == -signal.SIGKILL, killed.said
        assert other.code == 1, f"exit code {other.code}\n{other.said}"
        must_say(other, "another process of this run ended")
        if rank == 1:
            must_say(other, f"acto train --resume {path}")
        lives = pair(lab, lab.again(kind, path), path)
        assert [life.code for life in lives] == [0, 0], [life.said for life in lives]
        lab.must_be_equal(kind, path)

    moments: list[tuple[str, int, Injection]] = [
        ("the second at a step", 1, at_step(STEPS + 2, die)),
        ("the first at a step", 0, at_step(2 * STEPS + 1, die)),
        ("the first in its evaluation", 0, in_evaluation(1, die)),
        ("the first inside a save", 0, in_save(1, "half training.pt", die)),
        ("the second before its first step", 1, at_step(0, die)),
    ]
    for number in range(rounds):
        name, rank, inject = moments[number % len(moments)]
        yield name, partial(trial, rank, inject)


# What piles up.


def measured(log: Path) -> Injection:
    """Write down after every epoch what the process holds."""

    def lay(path: Path) -> None:
        add_timing = RunFolder.add_timing

        def with_measures(self: RunFolder, epoch: int, values: Any) -> None:
            add_timing(self, epoch, values)
            files = [file for file in path.rglob("*") if file.is_file()]
            sizes = {file.name: file.stat().st_size for file in files if file.name not in ("metrics.csv", "timing.csv")}
            row = {
                "seconds": values["train_seconds"],
                "memory": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE"),
                "descriptors": len(os.listdir("/proc/self/fd")),
                "threads": len(os.listdir("/proc/self/task")),
                "files": len(files),
                "bytes": sum(sizes.values()),
            }
            with log.open("a") as file:
                file.write(f"{json.dumps(row)}\n")

        RunFolder.add_timing = with_measures

    return lay


def drift(lab: Lab, rng: random.Random, rounds: int, *, epochs: int = 200) -> Trials:
    """A long run: memory, open files, threads, step time and the folder's size stay what they are."""

    def trial(kind: str) -> str:
        path, log = lab.fresh(f"{kind}-long"), lab.root / f"drift-{kind}-{epochs}"
        workers = ["--workers", "2"] if kind == "pictures" else []
        tokens = [*lab.start(kind, path), "--epochs", str(epochs), *workers, "--no-report"]
        life = Child(tokens, path, inject=measured(log)).wait(900.0)
        assert life.code == 0, life.said
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        assert len(rows) == epochs

        def part(name: str, quarter: int) -> list[float]:
            return [row[name] for row in rows[quarter * epochs // 4 : (quarter + 1) * epochs // 4]]

        for name in ("descriptors", "threads", "files"):
            assert set(part(name, 1)) == set(part(name, 3)), f"{name}: {part(name, 1)} and later {part(name, 3)}"
        grown = median(part("memory", 3)) - median(part("memory", 1))
        assert grown < 8 * 2**20, f"the process grew by {grown / 2**20:.1f} MiB"
        assert max(part("bytes", 3)) - max(part("bytes", 1)) < 10_000, (max(part("bytes", 3)), max(part("bytes", 1)))
        slower = median(part("seconds", 3)) / median(part("seconds", 1))
        assert slower < 1.5, f"the steps became {slower:.2f} times as slow"  # generous: others use the machine too
        held = f"{rows[-1]['descriptors']} open files, {rows[-1]['files']} files of {rows[-1]['bytes'] / 1e6:.2f} MB"
        return (
            f"{kind}, from the second quarter to the last: memory {grown / 2**20:+.2f} MiB, seconds an epoch "
            f"x{slower:.2f}; {held} in the folder throughout"
        )

    for number in range(rounds):
        kind = ("acto", "pictures", "dividemix")[number % 3]
        if kind == "pictures":
            pictures(lab)
        yield kind, partial(trial, kind)


FAULTS: dict[str, Fault] = {
    "decoding process killed": decoding_process_killed,
    "main process killed, workers left": left_behind,
    "workers forked or spawned": start_methods,
    "one of two processes killed": one_of_two,
    "drift over 200 epochs": drift,
}
