"""What starting costs: processor seconds of every command, and which imports take them.

    python benchmarks/startup.py [--rounds 7] [--other SRC] [--only WORD ...]

Each command runs in a fresh process, as `python -m acto.cli ...`, on small inputs that are made before; with
--other, two trees of sources (folders that hold the package) take turns, so that a noisy machine disturbs both alike.
Times are the processor's, of the process and its children: to the end, and to the first line that a user reads
(stdout or stderr, the first flush). Commands of acto.cli.COMMANDS without a line in CASES are refused, so none is
forgotten. One more process each with -X importtime gives the share of the imports and the five files whose own code
takes the most of it; that process is slower than the others, by what it prints.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import acto
from acto.cli import COMMANDS
from acto.cli.completion import DIRECTIONS

HEAVY = ("torch", "torchvision", "sklearn", "pandas")
CASES = {
    "train": ("--data digits --method acto --dry-run", "--data digits --epochs 1 --no-report --out new"),
    "features": (),
    "audit": ("--labels labels.npy --pred-probs probs.npy --out new", "run"),
    "consensus": ("votes.npy --out new",),
    "review": (),
    "apply": (),
    "exchange": ("export run --format label-studio --out new.json",),
    "predict": ("run samples.npz --out new.csv",),
    "export": ("run --out new",),
    "sweep": ("--data digits --methods standard --dry-run",),
    "table": ("study run",),
    "demo": (),
    "methods": ("", "acto"),
    "data": ("check samples.npz",),
    "doctor": ("", "run"),
    "bench": (),
    "completion": ("bash",),
}
"""What is asked of each command beside --help; nothing of those that go on for minutes, or wait for somebody."""


def cases() -> Iterator[list[str]]:
    """Every command line that is timed, without `acto`."""
    assert CASES.keys() == COMMANDS.keys(), f"commands without a case: {COMMANDS.keys() ^ CASES.keys()}"
    yield from (["--help"], ["--version"])
    for command, lines in CASES.items():
        yield from (
            [command, *direction, "--help"] for direction in [[word] for word in DIRECTIONS.get(command, ())] or [[]]
        )
        yield from ([command, *line.split()] for line in lines)


def make_inputs(folder: Path) -> None:
    """Labels, probabilities, votes, a table of features and a finished run."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 300)
    probs = random.random((300, 3)) + 2 * np.eye(3)[labels]
    given = np.where(random.random(300) < 0.2, (labels + 1) % 3, labels)
    np.save(folder / "labels.npy", given)
    np.save(folder / "probs.npy", probs / probs.sum(1, keepdims=True))
    np.save(folder / "votes.npy", given[:, None] * np.ones(3, int))
    x = (random.normal(size=(300, 8)) + 3 * labels[:, None]).astype(np.float32)
    np.savez(folder / "samples.npz", x=x, y=given)
    made = "train --data samples.npz --net mlp:16 --epochs 2 --out run"
    subprocess.run([sys.executable, "-m", "acto.cli", *made.split()], cwd=folder, check=True, capture_output=True)


class Timed:
    """Processor seconds of a command's fresh processes."""

    def __init__(self, tokens: Sequence[str], source: Path, inputs: Path) -> None:
        self.tokens, self.source, self.inputs = tokens, source, inputs
        self.first: list[float] = []
        self.whole: list[float] = []

    def run(self) -> None:
        """Once more."""
        code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from acto.cli import main; sys.exit(main())"
        before = os.times()
        with (
            self._folder() as folder,
            subprocess.Popen(
                [sys.executable, "-c", code, str(self.source), *self.tokens],
                cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            ) as process,
        ):  # fmt: skip
            assert process.stdout is not None
            process.stdout.read(1)
            self.first.append(_seconds_of(process.pid))
            said = process.stdout.read()
        if process.returncode:
            sys.exit(f"acto {' '.join(self.tokens)} failed:\n{said.decode()}")
        after = os.times()
        self.whole.append(after.children_user + after.children_system - before.children_user - before.children_system)

    def imports(self) -> tuple[float, list[tuple[str, float]], list[str]]:
        """Seconds of all imports, the five modules whose own take the most, and which of HEAVY are among them."""
        code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from acto.cli import main; main()"
        with self._folder() as folder:
            done = subprocess.run(
                [sys.executable, "-X", "importtime", "-c", code, str(self.source), *self.tokens],
                cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
            )  # fmt: skip
        rows = re.findall(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", done.stderr, flags=re.M)
        own = sorted(((name, int(us) / 1e6) for us, name in rows), key=lambda row: -row[1])
        return sum(seconds for _, seconds in own), own[:5], [name for name in HEAVY if name in dict(own)]

    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        """A fresh copy of the inputs, in which files may be made."""
        folder = tempfile.TemporaryDirectory()
        shutil.copytree(self.inputs, folder.name, dirs_exist_ok=True)
        return folder


def _seconds_of(process: int) -> float:
    """Processor seconds of a process so far, to a hundredth."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def in_words(numbers: Sequence[float]) -> str:
    """The median and the quartiles."""
    low, middle, high = statistics.quantiles(numbers, n=4)
    return f"{middle:5.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--other", type=Path, help="a second folder that holds a package acto, measured beside this one"
    )
    parser.add_argument("--only", nargs="*", default=[], help="commands that begin with one of these words")
    args = parser.parse_args()
    here = Path(acto.__file__).parents[1]
    sources = [here, *([args.other.resolve()] if args.other else [])]
    with tempfile.TemporaryDirectory() as name:
        inputs = Path(name)
        make_inputs(inputs)
        wanted = [case for case in cases() if not args.only or case[0] in args.only]
        timed = [[Timed(case, source, inputs) for source in sources] for case in wanted]
        columns = ["this", "other"][: len(sources)]
        heads = [f"{column}: {what}" for column in columns for what in ("first line", "whole, seconds")]
        print("acto ...".ljust(58) + "".join(head.ljust(24) for head in heads) + ("ratio" if args.other else ""))
        for row in timed:
            for _ in range(args.rounds):
                for each in row:
                    each.run()
            cells = [in_words(numbers).ljust(24) for each in row for numbers in (each.first, each.whole)]
            if args.other:
                ratios = [a / b for a, b in zip(row[0].whole, row[1].whole, strict=True)]
                cells.append(in_words(ratios))
            print(" ".join(row[0].tokens).ljust(58) + "".join(cells), flush=True)
        print("\nimports of a process with -X importtime: seconds, and the five files whose own code takes the most")
        for row in timed:
            for column, each in zip(columns, row, strict=True):
                seconds, five, heavy = each.imports()
                shown = ", ".join(f"{module} {own:.2f}" for module, own in five)
                print(
                    f"{' '.join(each.tokens)[:56]:<58}{column:<6} {seconds:5.2f}  {'+'.join(heavy) or '-':<32} {shown}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
