"""What `--stop-early` costs and gains: the digits, with the model of the last epoch and with the one that it keeps.

    python benchmarks/stop_early.py [--seeds 3] [--epochs 60] [--patience 10] [--rate 0.4] [--methods acto,standard]

The digits' 1,347 training pictures get symmetric noise, and then a tenth of each class is held out with its given
labels, as it is where data have no test set. A run with --stop-early and one without train on the same rest, with the
recipe for the digits. Printed are the accuracy against the given labels held out, that on the 450 test pictures, which
choose nothing, the AUROC of label quality, the epochs trained and kept, and processor seconds on one thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch

from acto.data.noise import NoiseSpec
from acto.data.samples import Dataset, DataSpec
from acto.data.sources import load_data
from acto.data.splits import holdout
from acto.run_folder.reading import read_run
from acto.runs.execute import train_run
from acto.runs.recipes.by_data import DIGITS
from acto.runs.recipes.recipe import recipe
from acto.runs.trained_model import load_model
from acto.training import evaluation

HELD_OUT = 0.1


def split(data: Dataset, *, seed: int) -> Dataset:
    """The training part of `data`, a tenth of it held out with its given labels."""
    kept, held_out = holdout(data.train.labels, share=HELD_OUT, seed=seed)
    return replace(data, train=data.train.take(kept), test=data.train.take(held_out), test_labels_are_given=True)


def measure(method: str, patience: int | None, *, epochs: int, rate: float, seed: int) -> tuple[float, ...]:
    """Held-out accuracy, test accuracy, AUROC (percent each), epochs done and kept, processor seconds."""
    spec = DataSpec(source="digits", noise=NoiseSpec(kind="symmetric", rate=rate, seed=seed), holdout_seed=seed)
    data = load_data(spec)
    run = recipe(spec, DIGITS.lasting(epochs), method=method, seed=seed)
    run = replace(run, protocol=replace(run.protocol, stop_early=patience), device="cpu")
    noisy = split(data, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        summary = train_run(run, Path(folder) / "run", dataset=noisy)
        seconds = time.process_time() - started
        record = read_run(Path(folder) / "run")
        test = load_model(record.path).predict(data.test) == data.test.labels
        quality = np.asarray(record.samples()["label_quality"])
    clean = noisy.train.is_clean
    assert clean is not None
    found = (summary["test_accuracy_last"], float(test.mean()), evaluation.auroc(quality, clean))
    return (*(100 * share for share in found), len(record.metrics), record.model_epochs, seconds)


def main() -> None:
    """Measure and print a line a run, and the means."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--patience", type=int, default=10)
    parser.add_argument("--rate", type=float, default=0.4)
    parser.add_argument("--methods", default="acto,standard")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("method    end    seed  held out  test   AUROC  epochs  kept  seconds")
    for method in args.methods.split(","):
        for name, patience in (("late", None), ("early", args.patience)):
            rows = []
            for seed in range(args.seeds):
                rows.append(measure(method, patience, epochs=args.epochs, rate=args.rate, seed=seed))
                print(f"{method:9} {name:6} {seed:4}  " + "  ".join(f"{value:6.2f}" for value in rows[-1]), flush=True)
            spread = [f"{fmean(v):.2f} +- {stdev(v) if len(v) > 1 else 0:.2f}" for v in zip(*rows, strict=True)]
            print(f"{method:9} {name:6} mean  " + "  ".join(spread), flush=True)


if __name__ == "__main__":
    main()
