"""The batches and rates for large tables of features: what `acto.runs.recipes.by_data.VECTORS_IN_BULK` was chosen by.

    python benchmarks/vector_batches.py rows.npz [--seeds 3] [--epochs 10]

ACTO trains on features (x, y: true labels) with wrong labels put on, as the recipe for small tables has it, and with
batches of 1024 at 1, sqrt(8) and 8 times its rates, in bfloat16 where the processor has it. One thread; prints the
AUROC of label quality, the accuracy on the tenth that is held out before the noise, and processor seconds.

On MNIST's 60,000 training pictures as rows of pixels / 255, 10 epochs, seeds 0 to 2, 2 cores of an AMD EPYC, torch
2.14.1, mean and deviation (MNIST is in no table of results):

                         symmetric 40 %                     asymmetric 40 %
    batch, times rate    AUROC   accuracy          s        AUROC   accuracy          s
    128, 1               .9979   96.50 +- 0.09    52        .9805   94.05 +- 0.51    51
    1024, 1              .9955   93.57 +- 0.15    22        .9799   92.86 +- 0.12    22
    1024, sqrt(8)        .9969   95.35 +- 0.12    22        .9844   94.65 +- 0.36    22
    1024, 8              .9978   96.35 +- 0.18    23        .9860   95.49 +- 0.42    22
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from statistics import fmean, stdev

import torch

from acto.data.noise import NoiseSpec
from acto.data.samples import DataSpec
from acto.runs.prepare import prepare
from acto.runs.recipes.by_data import VECTORS, Setting
from acto.runs.recipes.recipe import recipe
from acto.runs.sample_table import label_quality
from acto.training import evaluation
from acto.training.loop import run_epochs

NOISES = (("symmetric", 0.4), ("asymmetric", 0.4))


def in_batches_of(setting: Setting, size: int, factor: float) -> Setting:
    """`setting` with other batches, at `factor` times its rates."""
    assert setting.warmup_lr is not None and setting.lr1 is not None
    rates = {name: factor * getattr(setting, name) for name in ("lr", "warmup_lr", "lr1")}
    return replace(setting, batch_size=size, precision="auto", **rates)


def measure(setting: Setting, source: str, noise: NoiseSpec, seed: int) -> tuple[float, float, float]:
    """AUROC, accuracy in percent, and processor seconds."""
    run = recipe(DataSpec(source=source, noise=noise), setting, seed=seed)
    started = time.process_time()
    prepared = prepare(run)
    for _ in run_epochs(prepared.training, prepared.train_data, seed=seed):
        pass
    seconds = time.process_time() - started
    clean = prepared.dataset.train.is_clean
    assert clean is not None
    found = evaluation.auroc(label_quality(prepared.training), clean)
    return found, 100 * evaluation.accuracy(prepared.training, prepared.test_data)["rtm"], seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", help="an .npz with x and y")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    small = VECTORS.lasting(args.epochs)
    candidates = {"128, 1": small}
    for name, factor in (("1", 1.0), ("sqrt(8)", math.sqrt(8)), ("8", 8.0)):
        candidates[f"1024, {name}"] = in_batches_of(small, 1024, factor)
    for kind, rate in NOISES:
        for name, setting in candidates.items():
            noises = [NoiseSpec(kind=kind, rate=rate, seed=seed) for seed in range(args.seeds)]
            results = [measure(setting, args.source, noise, noise.seed) for noise in noises]
            aurocs, accuracies, seconds = zip(*results, strict=True)
            spread = f" +- {stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
            found = f"{fmean(aurocs):.4f}  {fmean(accuracies):.2f}{spread}  {fmean(seconds):.0f} s"
            print(f"{kind} {rate:g}  {name:13}  {found}")


if __name__ == "__main__":
    main()
