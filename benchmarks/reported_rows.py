"""ACTO's two forms beside others: reported rows of data whose other part served to choose.

    python benchmarks/reported_rows.py --cifar100 c100.npz --people human.npz --unbalanced --out rows.jsonl
    python benchmarks/reported_rows.py --table rows.jsonl

Features of both files: what a frozen network sees in the pictures, as `acto features` writes it.

CIFAR-100: the half of its classes that benchmarks/development.py leaves out, 10,000 of its training rows by seed, with
symmetric noise of 80 and 20 % and asymmetric noise of 40 % (to the next class); all test rows of those classes.
People's labels, of an .npz with train_x, train_label (given) and train_true_label (true): trained on the nine tenths
that served development, tested by true labels on the tenth that it never saw. There cleanlab comes along: held-out
probabilities of logistic regression in five folds, its ranking by self-confidence, and as a classifier the same
regression without the samples that `find_label_issues` takes for wrong.
Unbalanced: pictures of Fashion-MNIST's test set, which served no choice, 375 of a class down to 8 with 40 % symmetric
noise, and 500 others of each class to test on; which class is how frequent is drawn by the seed. Beside the accuracy
stands the recall of the rarest fifth of the classes after the last epoch. Methods that ask for the rate are told it.

A row is a line of JSON; rows that are there are not made again. Accuracy is the mean of the last ten epochs, AUROC
tells wrong labels of the training set from right ones by label quality. True labels serve these numbers alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score

import acto
from acto.cli.exit_codes import guarded
from acto.data.samples import DataSpec
from acto.data.sources import load_data

ROWS = 10_000
COMMONEST, TAIL = 375, 50
RIVALS = ("disc", "npn", "pencil", "co-ldl", "dividemix", "promix")
NOISES = (("symmetric", 0.8), ("symmetric", 0.2), ("asymmetric", 0.4))
FORMS = ("published", "steady", "standard")


@dataclass(frozen=True, kw_only=True)
class Task:
    """Training rows with given and true labels, and test rows with true ones."""

    name: str
    seed: int
    x: npt.NDArray[Any]
    given: npt.NDArray[np.int64]
    true: npt.NDArray[np.int64]
    test_x: npt.NDArray[Any]
    test_true: npt.NDArray[np.int64]
    rarest: tuple[int, ...] = ()
    """The rarest fifth of the classes; none: all are as frequent."""

    @property
    def forms(self) -> tuple[str, ...]:
        """What is trained on it."""
        return FORMS + (("cleanlab",) if self.name == "people's labels" else RIVALS if self.rarest else ())


def cifar100(path: Path, seed: int) -> Iterator[Task]:
    """The reported half of the classes with each noise."""
    held = np.load(path)
    labels, test_labels = held["labels"], held["test_labels"]
    half = np.sort(np.random.RandomState(7).permutation(100)[50:])  # development.py has the first fifty
    random = np.random.RandomState(9000 + seed)
    rows = random.permutation(np.flatnonzero(np.isin(labels, half)))[:ROWS]
    test = np.flatnonzero(np.isin(test_labels, half))
    true = np.searchsorted(half, labels[rows])
    for kind, rate in NOISES:
        wrong = random.random_sample(len(true)) < rate
        step = random.randint(1, 50, len(true)) if kind == "symmetric" else 1
        yield Task(
            name=f"cifar100 {kind}:{rate:g}",
            seed=seed,
            x=held["x"][rows].astype(np.float32),
            given=np.where(wrong, (true + step) % 50, true),
            true=true,
            test_x=held["test_x"][test].astype(np.float32),
            test_true=np.searchsorted(half, test_labels[test]),
        )


def people(path: Path, seed: int) -> Iterator[Task]:
    """Rows of development for training, the tenth that it left out for the test."""
    held = np.load(path)
    x, given, true = held["train_x"].astype(np.float32), held["train_label"], held["train_true_label"]
    kept = np.random.RandomState(77).permutation(len(x))  # as development.py
    test, rows = kept[: len(x) // 10], kept[len(x) // 10 :]
    yield Task(
        name="people's labels", seed=seed, x=x[rows], given=given[rows], true=true[rows], test_x=x[test],
        test_true=true[test],
    )  # fmt: skip


def unbalanced(seed: int) -> Iterator[Task]:
    """Few pictures of most classes."""
    samples = load_data(DataSpec(source="fashion-mnist")).test
    assert samples.pixels is not None
    random = np.random.RandomState(9000 + seed)
    rows, classes = random.permutation(len(samples)), random.permutation(10)
    sizes = np.rint(COMMONEST * TAIL ** (-np.arange(10) / 9)).astype(int)
    parts = [rows[samples.labels[rows] == label] for label in classes]
    train = random.permutation(np.concatenate([part[:size] for part, size in zip(parts, sizes, strict=True)]))
    test = np.concatenate([part[-500:] for part in parts])
    true = samples.labels[train]
    wrong = random.random_sample(len(true)) < 0.4
    yield Task(
        name="unbalanced symmetric:0.4",
        seed=seed,
        x=samples.pixels[train],
        given=np.where(wrong, (true + random.randint(1, 10, len(true))) % 10, true),
        true=true,
        test_x=samples.pixels[test],
        test_true=samples.labels[test],
        rarest=tuple(classes[-2:].tolist()),
    )


def trained(task: Task, form: str) -> dict[str, float]:
    """Accuracy, AUROC and recall of a form of ACTO, or of another method."""
    settings: dict[str, Any] = {"form": form} if form in ("published", "steady") else {"method": form}
    if task.rarest:
        settings["noise_rate"] = 0.4
    fitted = acto.fit(
        task.x, task.given, test=task.test_x, test_labels=task.test_true, seed=task.seed, device="cpu", **settings
    )
    quality = np.asarray(fitted.report.label_quality)
    auroc = roc_auc_score(task.given == task.true, quality)
    found = {"accuracy": 100 * fitted.summary["test_accuracy_last10"], "auroc": float(auroc)}
    if task.rarest:
        right = fitted.predict(task.test_x) == task.test_true
        found["rarest"] = 100 * float(np.mean([right[task.test_true == label].mean() for label in task.rarest]))
    return found


def cleanlab(task: Task) -> dict[str, float]:
    """The same of cleanlab with logistic regression."""
    from cleanlab.filter import find_label_issues
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    folds = StratifiedKFold(5, shuffle=True, random_state=task.seed)
    probs = cross_val_predict(model, task.x, task.given, cv=folds, method="predict_proba")
    auroc = roc_auc_score(task.given == task.true, probs[np.arange(len(probs)), task.given])
    kept = ~find_label_issues(task.given, probs)
    accuracy = model.fit(task.x[kept], task.given[kept]).score(task.test_x, task.test_true)
    return {"accuracy": 100 * float(accuracy), "auroc": float(auroc)}


def table(rows: list[dict[str, Any]]) -> str:
    """A line a task and form: mean and deviation over the seeds."""
    lines = ["| task | form | accuracy | AUROC | recall of the rarest | seeds |", "|---|---|---|---|---|---|"]
    for key in sorted({(row["task"], row["form"]) for row in rows}):
        found = [row for row in rows if (row["task"], row["form"]) == key]
        cells = []
        for name, digits in (("accuracy", 2), ("auroc", 4), ("rarest", 2)):
            values = [row[name] for row in found if name in row]
            spread = f" +- {stdev(values):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{fmean(values):.{digits}f}{spread}" if values else "")
        lines.append(f"| {key[0]} | {key[1]} | {' | '.join(cells)} | {len(found)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the rows that are missing, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cifar100", type=Path, help=".npz of `acto features` on CIFAR-100")
    parser.add_argument("--people", type=Path, help=".npz with train_x, train_label and train_true_label")
    parser.add_argument("--unbalanced", action="store_true", help="Fashion-MNIST with 1 : 50")
    parser.add_argument("--out", type=Path, help="file of the rows")
    parser.add_argument("--table", type=Path, help="print the table of this file, no more")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args(argv)
    if not (args.table or (args.out and (args.cifar100 or args.people or args.unbalanced))):
        parser.error("give --out and data (--cifar100, --people, --unbalanced), or --table")
    for given in (args.table, args.cifar100, args.people):
        if given is not None and not given.is_file():
            parser.error(f"there is no file {given}")
    if args.out and not args.out.parent.is_dir():
        parser.error(f"there is no folder {args.out.parent} for --out")
    path: Path = args.table or args.out
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    torch.set_num_threads(1)
    for seed in range(args.seeds if args.table is None else 0):
        tasks = [*(people(args.people, seed) if args.people else ())]
        tasks += cifar100(args.cifar100, seed) if args.cifar100 else ()
        tasks += unbalanced(seed) if args.unbalanced else ()
        for task in tasks:
            for form in task.forms:
                if any((row["task"], row["seed"], row["form"]) == (task.name, seed, form) for row in rows):
                    continue
                begun = time.process_time()
                found = cleanlab(task) if form == "cleanlab" else trained(task, form)
                row = {"task": task.name, "seed": seed, "form": form, **found}
                row |= {"seconds": round(time.process_time() - begun, 1), "torch": torch.__version__}
                row |= {"machine": platform.machine(), "date": time.strftime("%F")}
                rows.append(row)
                with path.open("a", encoding="utf-8") as file:
                    file.write(f"{json.dumps(row)}\n")
                print(row, flush=True)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
