"""ACTO on CIFAR-100, in the readings that papers and public code allow and three more: compared without test data.

    python benchmarks/acto_rates.py --noise symmetric:0.8 [--data cifar100nc] [--epochs 66] [--jobs 3] [--step compiled]

5,000 training pictures are held out after the noise was put on. The candidates train on the rest, with the settings of
the papers, up to `--epochs` of 150, and are compared by RTM's accuracy against the GIVEN labels of those held out: mean
of the last five epochs. A perfect model reaches the share of right labels. CIFAR-100 must lie under the data root.

    baseline    NTM: 0.08, a tenth from epoch 60 and from epoch 120 on: what the recipe takes
    cosine      NTM: 0.08 in the warm-up, then RTM's cosine from there
    late        NTM: 0.01 in the warm-up, then RTM's cosine from 0.08
    same        NTM: RTM's own rate and plan, as the script main.py has it, whatever --lr1 says
    slow        NTM as in baseline; RTM: 0.01 in the warm-up, then the script's default of 0.001
    quarter     baseline, and the selected samples' loss is divided by no less than a quarter of the batch
    batch       baseline, and it is divided by the batch

results/acto_rates_h100.txt holds what it printed for symmetric noise of 80 %.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np

from acto.data.noise import NoiseSpec
from acto.data.samples import Dataset, DataSpec
from acto.data.sources import load_data
from acto.runs.prepare import prepare
from acto.runs.recipes.by_data import CIFAR_NUST
from acto.runs.recipes.recipe import recipe
from acto.training import evaluation
from acto.training.loop import run_epochs
from acto.training.plans import Plan

HELD_OUT, LAST = 5_000, 5
SHARED = Plan(lr=CIFAR_NUST.lr, schedule=CIFAR_NUST.schedule, warmup_epochs=50, warmup_lr=CIFAR_NUST.warmup_lr)
BASELINE = Plan(lr=0.08, schedule="baseline")
CANDIDATES = {
    "baseline": (SHARED, BASELINE),
    "cosine": (SHARED, replace(SHARED, lr=0.08, warmup_lr=0.08)),
    "late": (SHARED, replace(SHARED, lr=0.08)),
    "same": (SHARED, SHARED),
    "slow": (replace(SHARED, lr=0.001), BASELINE),
    "quarter": (SHARED, BASELINE),
    "batch": (SHARED, BASELINE),
}
"""RTM's and NTM's plan."""
MIN_SHARES = {"quarter": 0.25, "batch": 1.0}


def noisy_split(spec: DataSpec) -> Dataset:
    """The data with 5,000 of its noisy training samples in the place of its test set."""
    dataset = load_data(spec)
    order = np.random.default_rng(0).permutation(len(dataset.train)).astype(np.int64)
    held_out, rest = np.sort(order[:HELD_OUT]), np.sort(order[HELD_OUT:])
    return replace(
        dataset, train=dataset.train.take(rest), test=dataset.train.take(held_out), test_labels_are_given=True
    )


def train(name: str, source: str, noise: NoiseSpec, epochs: int, step: str | None) -> dict[str, float | str]:
    """RTM's held-out accuracy in percent, and how the selection did in the last epoch."""
    spec = DataSpec(source=source, noise=noise)
    run = recipe(spec, CIFAR_NUST)
    robust, non_robust = CANDIDATES[name]
    config = replace(run.config, min_share=MIN_SHARES.get(name))
    protocol = replace(run.protocol, plan=robust, plans={"net1": non_robust})
    run = replace(run, step=step, config=config, protocol=protocol)
    prepared = prepare(run, dataset=noisy_split(spec))
    started, accuracies, log = time.monotonic(), [], {}
    for epoch in run_epochs(prepared.training, prepared.train_data, seed=run.seed):
        accuracies.append(100 * evaluation.accuracy(prepared.training, prepared.test_data)["rtm"])
        log = epoch.metrics
        print(f"{name:9} epoch {epoch.epoch}: held out {accuracies[-1]:.2f} %, RTM fits {100 * log['fit_rtm']:.1f} %")
        if epoch.epoch + 1 == epochs:
            break
    prepared.close()
    return {
        "candidate": name,
        "held_out": statistics.fmean(accuracies[-LAST:]),
        "best_in_warm_up": max(accuracies[:50]),
        "fit_rtm": 100 * log["fit_rtm"],
        "fit_ntm": 100 * log["fit_ntm"],
        "seconds": time.monotonic() - started,
    }


def main() -> None:
    """Train the candidates and print them, best first."""
    parser = argparse.ArgumentParser(description="ACTO's learning rates, by held-out noisy labels")
    parser.add_argument("--data", default="cifar100nc", choices=("cifar100nc", "cifar80no"))
    parser.add_argument("--noise", default="symmetric:0.8", metavar="KIND:RATE")
    parser.add_argument("--candidates", default=",".join(CANDIDATES), metavar="NAME,...")
    parser.add_argument("--epochs", type=int, default=66)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--step", help="as in acto train")
    args = parser.parse_args()
    kind, rate = args.noise.split(":")
    noise = NoiseSpec(kind=kind, rate=float(rate))
    with ProcessPoolExecutor(args.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [
            pool.submit(train, name, args.data, noise, args.epochs, args.step) for name in args.candidates.split(",")
        ]
        results = sorted((job.result() for job in jobs), key=lambda result: -float(result["held_out"]))
    print(f"{args.data}, {args.noise}, {args.epochs} of {CIFAR_NUST.epochs} epochs, seed 0")
    for result in results:
        print(json.dumps({key: round(v, 2) if isinstance(v, float) else v for key, v in result.items()}))


if __name__ == "__main__":
    main()
