"""Disturb runs in every way that scenarios.py knows and count what is lost: nothing may be.

Usage: python tests/faults/soak.py [--rounds N] [--seed S] [--only FAULT ...] [--markdown docs/reliability.md]

Prints a line for each fault: tried, survived, lost, seconds. Exits with 1 if anything was lost; what, is told on
stderr. Without --rounds it is the quick part, as the tests run it; 10 rounds are the full soak. --markdown puts the
table between the two marker comments of that file.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded; children are forked from a single thread

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import scipy.optimize
import scipy.special  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch
import torch._dynamo
from lab import Lab
from processes import FAULTS as OF_PROCESSES
from scenarios import FAULTS as OF_RUNS
from storage import FAULTS as OF_STORAGE

# What a training loads late is loaded once, before the children are forked, like the packages above.
from acto.cli import flags, train  # noqa: F401
from acto.data.samples import DataSpec
from acto.data.sources import load_data
from acto.runs import execute  # noqa: F401

FAULTS = {**OF_RUNS, **OF_STORAGE, **OF_PROCESSES}
TRIALS = {
    "SIGKILL": (7, 6),
    "SIGKILL at any time": (0, 3),
    "SIGINT and SIGTERM": (3, 3),
    "disk refuses": (2, 8),
    "disk full or read-only in a save": (2, 1),
    "damaged checkpoint": (2, 2),
    "loss or gradient not finite": (2, 1),
    "out of memory": (1, 1),
    "clock jumps": (1, 0.5),
    "two processes on one folder": (1, 0.5),
    "decoding process killed": (1, 0.3),
    "main process killed, workers left": (1, 0.3),
    "workers forked or spawned": (0, 0.3),
    "one of two processes killed": (1, 0.5),
    "drift over 200 epochs": (0, 0.3),
}
"""Of each fault: trials in the quick part, and in a round of the long one."""
BEGIN, END = "<!-- soak: begin -->", "<!-- soak: end -->"


@dataclass
class Tally:
    """What came of one fault."""

    fault: str
    tried: int = 0
    survived: int = 0
    seconds: float = 0.0
    losses: list[str] = field(default_factory=list)
    measured: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        return self.tried - self.survived

    def line(self) -> str:
        return (
            f"{self.fault:36} tried {self.tried:4}  survived {self.survived:4}  lost {self.lost:3}  "
            f"{self.seconds:6.1f} s"
        )


def disturb(lab: Lab, fault: str, *, trials: int, seed: int) -> Tally:
    """Try one fault so many times."""
    tally = Tally(fault)
    begun = time.monotonic()
    for name, trial in FAULTS[fault](lab, random.Random(f"{seed} {fault}"), trials):
        tally.tried += 1
        there = set(lab.root.iterdir())
        try:
            if (measured := trial()) is not None:
                tally.measured.append(measured)
        except Exception:
            tally.losses.append(f"{fault}: {name}\n{traceback.format_exc()}")
            continue
        tally.survived += 1
        for path in set(lab.root.iterdir()) - there:  # of what is lost the folder stays, to be looked at
            if path.is_dir() and not path.name.startswith("calm-"):
                shutil.rmtree(path)
    tally.seconds = time.monotonic() - begun
    return tally


def soak(root: Path, faults: Sequence[str], *, rounds: float | None, seed: int) -> Iterator[Tally]:
    """Try each fault as often as TRIALS says, at least once; without `rounds` the quick part."""
    torch.set_num_threads(1)
    load_data(DataSpec(source="digits"))
    lab = Lab(root)
    for fault in faults:
        quick, a_round = TRIALS[fault]
        yield disturb(lab, fault, trials=quick if rounds is None else max(1, round(a_round * rounds)), seed=seed)


def table(tallies: Sequence[Tally], command: str) -> str:
    rows = [f"| {t.fault} | {t.tried} | {t.survived} | {t.lost} | {t.seconds:.0f} |" for t in tallies]
    total = sum(t.seconds for t in tallies)
    tried, lost = sum(t.tried for t in tallies), sum(t.lost for t in tallies)
    return "\n".join(
        [
            f"`{command}`, {os.cpu_count()} cores, Python {sys.version.split()[0]}, torch {torch.__version__}:",
            "",
            "| fault | tried | survived | lost | seconds |",
            "|---|---|---|---|---|",
            *rows,
            f"| **all** | {tried} | {tried - lost} | **{lost}** | {total:.0f} |",
            *[f"\n{tally.fault}: {sentence}." for tally in tallies for sentence in tally.measured],
        ]
    )


def write_into(page: Path, text: str) -> None:
    """Replace what stands between the two markers."""
    head, begin, rest = page.read_text().partition(BEGIN)
    _, end, tail = rest.partition(END)
    assert begin and end, f"{page} has no lines {BEGIN} and {END}"
    page.write_text(f"{head}{begin}\n{text}\n{end}{tail}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Disturb runs, and count what is lost.")
    parser.add_argument("--rounds", type=float, help="without it: the quick part, which has no drift")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--keep", type=Path, help="a folder for the runs; those that lost something stay there")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is mounted is taken down again
    with tempfile.TemporaryDirectory(prefix="acto-soak-") as folder:
        root = given.keep or Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        tallies = []
        for tally in soak(root.resolve(), given.only, rounds=given.rounds, seed=given.seed):
            tallies.append(tally)
            print(tally.line(), flush=True)
            for sentence in tally.measured:
                print(f"    {sentence}", flush=True)
            for loss in tally.losses:
                print(loss, file=sys.stderr, flush=True)
    if given.markdown is not None:
        rounds = "" if given.rounds is None else f" --rounds {given.rounds:g}"
        write_into(given.markdown, table(tallies, f"python tests/faults/soak.py{rounds} --seed {given.seed}"))
    return int(any(tally.lost for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
