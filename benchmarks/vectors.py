"""ACTO on a file of frozen features, from the open file to the written report: where the time goes.

    python benchmarks/vectors.py [--samples 1000000] [--features 512] [--classes 100] [--epochs 10] [--batch 128]
        [--precision float32] [--threads 2]

Writes an .npz of random clusters with 30 % wrong labels into a temporary folder, and goes the way of `acto train --data
FILE.npz` on it: open, train, evaluate, write. The floor is the matrix products of a step alone: for each of its passes
those of the forward and of the backward direction (the first layer needs no gradient of its inputs), with the same
shapes, number format and threads, measured before and after training in the same run. On a machine that others use as
well, read the ratio to the floor, not the seconds.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from acto.core.device import resolve_precision
from acto.data.samples import DataSpec
from acto.data.sources import load_data
from acto.labels.report import LabelReport
from acto.labels.run_audit import audit_run
from acto.run_folder.reading import read_run
from acto.run_folder.writing import RunFolder
from acto.runs.events import EpochDone, Event
from acto.runs.execute import execute
from acto.runs.prepare import prepare
from acto.runs.recipes.by_data import setting_of_kind
from acto.runs.recipes.recipe import recipe
from acto.runs.run import Run
from acto.training import evaluation

WIDTH = 256
"""Of the recipe's network for vectors."""


def write_features(path: Path, samples: int, features: int, classes: int) -> None:
    """Clusters that overlap, with 30 % wrong labels."""
    random = np.random.default_rng(0)
    centres = 0.15 * random.standard_normal((classes, features)).astype(np.float32)
    true = random.integers(0, classes, samples)
    values = random.standard_normal((samples, features), dtype=np.float32)
    for start in range(0, samples, 65536):
        values[start : start + 65536] += centres[true[start : start + 65536]]
    given = np.where(random.random(samples) < 0.3, random.integers(0, classes, samples), true)
    np.savez(path, x=values, y=given)


def seconds_a_pass(run: Run, features: int, classes: int, dtype: torch.dtype) -> float:
    """The matrix products of one pass of a batch through one network, forward and backward; the best of 20."""
    batch = run.protocol.batch_size
    products = []
    # The last layer is in float32 whatever the precision of the body.
    for inputs, outputs, kind in ((features, WIDTH, dtype), (WIDTH, WIDTH, dtype), (WIDTH, classes, torch.float32)):
        x, w, g = torch.randn(batch, inputs), torch.randn(outputs, inputs), torch.randn(batch, outputs)
        products.append((x.to(kind), w.to(kind), g.to(kind)))
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        for place, (x, w, g) in enumerate(products):
            x @ w.t()
            g.t() @ x
            if place:
                g @ w
        best = min(best, time.perf_counter() - started)
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, help="samples a step; without it the recipe's")
    parser.add_argument("--precision", help="float32 or bfloat16; without it the recipe's")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        measure(args, Path(folder))


def measure(args: argparse.Namespace, folder: Path) -> None:
    """All in `folder`."""
    parts: dict[str, float] = {}
    clock = time.perf_counter

    source = folder / "features.npz"
    write_features(source, args.samples, args.features, args.classes)
    spec = DataSpec(source=str(source))
    setting = setting_of_kind("vectors", args.samples).lasting(args.epochs)
    setting = replace(
        setting,
        batch_size=args.batch or setting.batch_size,
        precision=args.precision or setting.precision,
    )
    run = recipe(spec, setting)
    dtype = resolve_precision(run.precision, torch.device("cpu"))
    floor = seconds_a_pass(run, args.features, args.classes, dtype)

    started = clock()
    prepared = prepare(run, dataset=load_data(spec))
    parts["open"] = clock() - started
    train_seconds: list[float] = []
    eval_seconds: list[float] = []
    ends: list[float] = []

    def report(event: Event) -> None:
        if isinstance(event, EpochDone):
            ends.append(clock())

    started = clock()
    with RunFolder.create(folder / "run", config=run.to_dict()) as opened:
        execute(prepared, opened, report=report)
    finished = clock()
    for row in read_run(folder / "run").timing:
        train_seconds.append(float(row["train_seconds"] or 0))
        eval_seconds.append(float(row["eval_seconds"] or 0))
    parts["train"], parts["evaluate"] = sum(train_seconds), sum(eval_seconds)
    parts["checkpoints"] = ends[-1] - started - parts["train"] - parts["evaluate"]
    parts["predict and write the samples"] = finished - ends[-1]
    started = clock()
    labels: LabelReport = audit_run(folder / "run", dataset=prepared.dataset)
    parts["look through the labels"] = clock() - started
    started = clock()
    labels.save(folder / "run")
    parts["write the label report"] = clock() - started
    floor = min(floor, seconds_a_pass(run, args.features, args.classes, dtype))

    samples = len(prepared.dataset.train)
    rates = [samples / seconds for seconds in train_seconds]
    steps = samples / run.protocol.batch_size
    passes = 2 * setting.warmup_epochs + 3 * (args.epochs - setting.warmup_epochs)
    bare = passes * steps * floor
    print(
        f"{samples:,} x {args.features} features, {args.classes} classes, {args.epochs} epochs, "
        f"{run.protocol.batch_size} samples a step, {str(dtype).removeprefix('torch.')}, {args.threads} threads, "
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}"
    )
    for name, seconds in parts.items():
        print(f"{name:<32} {seconds:>8.1f} s")
    print(f"{'all of it':<32} {sum(parts.values()):>8.1f} s")
    robust = sorted(rates[setting.warmup_epochs :] or rates)
    print(f"training: {robust[len(robust) // 2]:,.0f} samples/s (median of the robust epochs)")
    print(f"matrix products alone: {bare:.1f} s; training takes {parts['train'] / bare:.2f} times as long")
    print(f"{args.epochs} epochs of training over 10^6 samples at this rate: {10**6 / samples * parts['train']:.0f} s")
    first = evaluation.last_epochs_mean([float(row["test_accuracy"] or 0) for row in read_run(folder / "run").metrics])
    print(f"accuracy against the given labels {first:.4f}")


if __name__ == "__main__":
    main()
