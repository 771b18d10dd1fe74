"""What a review gains: accuracy after people have looked at the first suspects, beside as many random samples.

    python benchmarks/review_gain.py [--data digits,fashion] [--seeds 3] [--reviewed 50,100,200]
                                     [--out results/review_gain.json] [--work build/review_gain]

A run is trained on wrong labels. Then the true labels answer for a person: the first N suspects of its report (the
order of the page), or N training samples drawn at random, are looked at; wrong labels become right ones, right ones
are kept. `acto apply` writes the corrected data, and `acto train --init-from` goes on from the run, a quarter of its
epochs longer. With nobody's decisions the run goes on as well: what the epochs alone gain. Printed and kept are the
accuracy on a test set with true labels, the mean of the warm start's last ten epochs (all, if there are fewer), and how
many of the N labels were wrong.

    digits    scikit-learn's digits, 1,347 and 450 to test on; 40 % symmetric noise
    fashion   1,000 pictures of Fashion-MNIST and 2,000 to test on, both of its training set; 40 % asymmetric noise

Every seed draws samples, noise, initialization and the random samples. What --out holds already is not measured again;
a base run that --work holds is used.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch

from acto.cli import main as acto
from acto.core.files import write_atomically
from acto.data.decision_file import to_csv
from acto.data.noise import draw_labels, transition_matrix
from acto.data.samples import DataSpec, join
from acto.data.sources import load_data
from acto.labels.decisions import decide
from acto.labels.report import LabelReport, read_report
from acto.run_folder.reading import read_run


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Pictures with noise, and for how long to train on them."""

    source: str
    num_train: int
    num_test: int
    kind: str
    rate: float
    epochs: int


PROBLEMS = {
    "digits": Problem(source="digits", num_train=1_347, num_test=450, kind="symmetric", rate=0.4, epochs=60),
    "fashion": Problem(source="fashion-mnist", num_train=1_000, num_test=2_000, kind="asymmetric", rate=0.4, epochs=40),
}


def draw(problem: Problem, path: Path, *, seed: int) -> dict[str, str]:
    """Write the problem as arrays, and return the true label of each training sample by its id."""
    data = load_data(DataSpec(source=problem.source))
    # Fashion-MNIST's own test set is left alone.
    samples = join([data.train, data.test]) if problem.source == "digits" else data.train
    assert samples.pixels is not None
    order = np.random.RandomState(seed).permutation(len(samples))
    train, test = np.split(order[: problem.num_train + problem.num_test], [problem.num_train])
    true, names = samples.labels[train], np.array(data.class_names)
    matrix = transition_matrix(problem.kind, rate=problem.rate, num_classes=len(names))
    ids = [f"s{row}" for row in train.tolist()]
    np.savez(
        path,
        x=samples.pixels[train].squeeze(-1),
        y=names[draw_labels(true, matrix, seed=seed)],
        ids=np.array(ids),
        test_x=samples.pixels[test].squeeze(-1),
        test_y=names[samples.labels[test]],
        class_names=names,
    )
    return dict(zip(ids, names[true].tolist(), strict=True))


def quietly(*tokens: str) -> None:
    """A command of acto, without its words unless it fails."""
    with contextlib.redirect_stdout(io.StringIO()) as words, contextlib.redirect_stderr(words):
        code = acto(list(tokens))
    if code:
        raise SystemExit(f"acto {' '.join(tokens)} ended with {code}:\n{words.getvalue()}")


def accuracy(run: Path) -> float:
    """Accuracy on the test set, the mean of the last epochs."""
    summary = read_run(run).summary
    assert summary is not None
    return float(summary["test_accuracy_last10"])


def train(data: Path, run: Path, *more: str) -> None:
    """Train, go on with what was interrupted, or leave alone what is finished."""
    if (run / "summary.json").exists():
        return
    if (run / "checkpoints").is_dir() and any((run / "checkpoints").iterdir()):
        quietly("train", "--resume", str(run))
        return
    quietly("train", "--data", str(data), "--out", str(run), "--overwrite", "--device", "cpu", *more)


def review(report: LabelReport, rows: np.ndarray[Any, Any], true: dict[str, str], path: Path) -> int:
    """Write the decisions of somebody who knows the true labels; returns how many of these labels were wrong."""
    made, wrong = [], 0
    for row in rows.tolist():
        right = true[report.columns["id"][row]]
        is_wrong = right != report.columns["given_label"][row]
        wrong += is_wrong
        made.append(decide(report, row, "accept" if is_wrong else "keep", new_label=right if is_wrong else ""))
    write_atomically(path, to_csv(made))
    return wrong


def measure(name: str, seed: int, reviewed: list[int], *, work: Path, done: dict[str, Any], keep: Any) -> None:
    """Measure what is not in `done` yet; `keep` is called after every number."""
    problem, folder = PROBLEMS[name], work / f"{name}-{seed}"
    cases = [("nothing", 0), *((how, count) for count in reviewed for how in ("suspects", "random"))]
    names = {case: f"{name} | seed {seed} | {case[0]} {case[1]}" for case in cases}
    if all(key in done for key in names.values()):
        return
    folder.mkdir(parents=True, exist_ok=True)
    data, base = folder / "data.npz", folder / "run"
    true = draw(problem, data, seed=seed)
    train(data, base, "--epochs", str(problem.epochs), "--seed", str(seed))
    report = read_report(base)
    at_random = np.random.RandomState(1000 + seed).permutation(len(report))
    for (how, count), key in names.items():
        if key in done:
            continue
        case = folder / f"{how}-{count}"
        case.mkdir(exist_ok=True)
        corrected, wrong = data, 0
        if count:
            rows = (report.ranked() if how == "suspects" else at_random)[:count]
            wrong = review(report, rows, true, case / "decisions.csv")
            corrected = case / "corrected.npz"
            corrected.unlink(missing_ok=True)
            quietly("apply", str(case / "decisions.csv"), "--run", str(base), "--out", str(corrected))
        train(corrected, case / "run", "--init-from", str(base), "--seed", str(seed))
        done[key] = {"before": accuracy(base), "after": accuracy(case / "run"), "wrong": wrong}
        keep()
        print(f"{key}: {done[key]}", flush=True)


def table(done: dict[str, Any]) -> list[str]:
    """Markdown: a row for each data set and number of samples looked at, means and deviations over the seeds."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for key, found in done.items():
        name, _, case = key.split(" | ")
        groups.setdefault((name, case), []).append(found)

    def cell(name: str, case: str) -> str:
        found = groups.get((name, case), [])
        values = [100 * each["after"] for each in found]
        spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
        return f"{fmean(values):.2f}{spread} ({fmean(each['wrong'] for each in found):.0f})" if found else ""

    lines = ["| data | looked at | first suspects (wrong) | at random (wrong) |", "|---|---|---|---|"]
    for name in dict.fromkeys(name for name, _ in groups):
        lines.append(f"| {name} | 0 | {cell(name, 'nothing 0').split(' (')[0]} | |")
        counts = sorted({int(case.split()[1]) for other, case in groups if other == name} - {0})
        lines += [
            f"| {name} | {count} | {cell(name, f'suspects {count}')} | {cell(name, f'random {count}')} |"
            for count in counts
        ]
    return lines


def main() -> None:
    """Measure, write every number, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits,fashion")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--reviewed", default="50,100,200")
    parser.add_argument("--out", type=Path, default=Path("results/review_gain.json"))
    parser.add_argument("--work", type=Path, default=Path("build/review_gain"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    done: dict[str, Any] = json.loads(asked.out.read_text())["found"] if asked.out.exists() else {}

    def keep() -> None:
        facts = {
            "command": "python benchmarks/review_gain.py",
            "machine": f"{platform.machine()}, one thread",
            "python": platform.python_version(),
            "versions": {package: version(package) for package in ("torch", "numpy", "scikit-learn")},
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
        }
        write_atomically(asked.out, json.dumps({**facts, "found": done}, indent=1).encode() + b"\n")

    for seed in range(asked.seeds):
        for name in asked.data.split(","):
            measure(name, seed, [int(n) for n in asked.reviewed.split(",")], work=asked.work, done=done, keep=keep)
    print("\n".join(table(done)))


if __name__ == "__main__":
    main()
