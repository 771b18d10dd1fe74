"""What ACTO's label quality and its rule for issues were chosen by, and the warm-up on tables of features.

The problems are `--set choice` of benchmarks/detection.py: MNIST and the first five classes of Fashion-MNIST, each with
five kinds of noise. `scores` prints the AUROC of candidates for label quality and the F1 and count of candidates for
the rule; `warmup` trains on the same pictures as rows of features with warm-ups of several lengths.

Usage: python benchmarks/label_scores.py scores|warmup --mnist DIR [--seeds 1]
What docs/decisions.md quotes was measured before this file had its present form: one seed, instance-dependent noise
drawn on raw pixels, nine problems (Fashion-MNIST with 20 % symmetric noise was not among them).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.data.moments import moments
from acto.data.samples import Dataset, DataSpec, Samples
from acto.data.views.spec import ViewSpec
from acto.labels.rules import Issues
from acto.labels.scores import look_at
from acto.runs.outliers import ranked_trust
from acto.runs.prepare import prepare
from acto.runs.recipes.by_data import Setting
from acto.runs.recipes.recipe import recipe
from acto.runs.sample_table import label_quality, sample_table
from acto.training import evaluation
from acto.training.loop import Training, run_epochs
from detection import NOISES, Problem, dataset, setting_of, sources

WARMUPS = (1, 2, 3, 7)
VECTOR_EPOCHS, NUM_VECTORS = 30, 3000

Values = npt.NDArray[Any]


def problems(mnist: str, seeds: int) -> Iterator[Problem]:
    """Every source with every noise."""
    for seed in range(seeds):
        for source in sources("choice", mnist=mnist, features=""):
            for kind, rate in NOISES:
                yield Problem(source=source, kind=kind, rate=rate, seed=seed)


def trained(
    data: Dataset, setting: Setting, *, seed: int
) -> tuple[Training, dict[str, npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    """ACTO after its last epoch, its (N, K) probabilities by name, and (N,) outlier scores."""
    run = replace(recipe(DataSpec(), setting, method="acto", seed=seed), device="cpu", precision="float32")
    ready = prepare(run, dataset=data)
    for _ in run_epochs(ready.training, ready.train_data, seed=seed):
        pass
    parts: dict[str, list[npt.NDArray[np.float32]]] = {}
    for _, probs_by_name in evaluation.predictions(ready.training, ready.train_data):
        for name, probs in probs_by_name.items():
            parts.setdefault(name, []).append(probs.float().cpu().numpy())
    outlier = sample_table(ready.training, ready.train_data, data).outlier
    return ready.training, {name: np.concatenate(rows) for name, rows in parts.items()}, outlier


def candidates(
    training: Training, probs: dict[str, npt.NDArray[np.float32]], outlier: Values, given: Values
) -> dict[str, Values]:
    """(N,) scores by name, the high end for trustworthy labels."""
    rows = np.arange(len(given))
    quality = training.method.label_quality()
    assert quality is not None
    robust, memory = probs["rtm"][rows, given], quality.numpy()
    rivals = probs["rtm"].copy()
    rivals[rows, given] = -1
    history = training.history.table()
    return {
        "RTM's probability": robust,
        "soft label": memory,
        "mean of both": (robust + memory) / 2,
        "mean of both, less outliers": ranked_trust((robust + memory) / 2, outlier),
        "product of both": robust * memory,
        "mean over the visits": history["mean_prob_given"].numpy(),
        "mean of both, with the visits' where spread": label_quality(training, robust),
        "share of selections": np.nan_to_num(history["reliability"].numpy()),
        "margin": robust - rivals.max(1),
        "NTM's probability": probs["ntm"][rows, given],
    }


def rules(training: Training, probs: dict[str, npt.NDArray[np.float32]], given: Values) -> dict[str, Values]:
    """(N,) bool by name, which labels are called wrong."""
    quality = training.method.label_quality()
    assert quality is not None
    issues = Issues(look_at(given, probs["rtm"]), probs["rtm"])
    return {
        "prediction differs": issues.by("predicted_neq_given"),
        "and is sure": issues.by("confident_learning"),
        "soft label below 0.5": quality.numpy() < 0.5,
    }


def as_features(data: Dataset) -> Dataset:
    """The same pictures as rows of numbers."""

    def flat(samples: Samples) -> Samples:
        assert samples.pixels is not None
        rows = (samples.pixels.reshape(len(samples), -1) / 255).astype(np.float32)
        return replace(samples, features=rows, pixels=None)

    train = flat(data.train)
    assert train.features is not None
    mean, deviation = moments(train.features)
    std = np.where(deviation > 0, deviation, 1)
    views = ViewSpec(pipeline="vectors", mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    return replace(data, train=train, test=flat(data.test), views=views)


def compare_scores(mnist: str, seeds: int) -> None:
    """Print a line a problem and candidate, and the means."""
    found: dict[str, list[float]] = {}
    for problem in problems(mnist, seeds):
        data = dataset(problem)
        given, clean = data.train.labels, data.train.is_clean
        assert clean is not None
        training, probs, outlier = trained(data, setting_of(problem.source), seed=problem.seed)
        print(f"{problem.source.name}, {problem.kind} {problem.rate:.0%}, seed {problem.seed}:")
        for name, score in candidates(training, probs, outlier, given).items():
            auroc = evaluation.auroc(score, clean)
            found.setdefault(f"AUROC, {name}", []).append(auroc)
            print(f"  AUROC {auroc:.4f}  {name}")
        for name, issues in rules(training, probs, given).items():
            f1 = 2 * float((issues & ~clean).sum()) / float(issues.sum() + (~clean).sum())
            found.setdefault(f"F1, {name}", []).append(f1)
            print(f"  F1 {f1:.3f}, {issues.mean():.1%} called wrong of {1 - clean.mean():.1%}  {name}", flush=True)
    print("\n".join(f"mean {fmean(values):.4f}  {name}" for name, values in found.items()))


def compare_warmups(mnist: str, seeds: int) -> None:
    """Print the AUROC of each length on each problem, and the means."""
    found: dict[int, list[float]] = {warmup: [] for warmup in WARMUPS}
    for problem in problems(mnist, seeds):
        source = replace(problem.source, setting="vectors", epochs=VECTOR_EPOCHS, num_train=NUM_VECTORS)
        data = as_features(dataset(replace(problem, source=source)))
        clean = data.train.is_clean
        assert clean is not None
        for warmup in WARMUPS:
            setting = replace(setting_of(source), warmup_epochs=warmup)
            training, probs, outlier = trained(data, setting, seed=problem.seed)
            scores = candidates(training, probs, outlier, data.train.labels)
            auroc = evaluation.auroc(scores["mean of both"], clean)
            found[warmup].append(auroc)
            print(f"{source.name}, {problem.kind} {problem.rate:.0%}, warm-up {warmup}: {auroc:.4f}", flush=True)
    print("\n".join(f"mean {fmean(values):.4f}  warm-up {warmup}" for warmup, values in found.items()))


def main() -> None:
    """Compare what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("scores", "warmup"))
    parser.add_argument("--mnist", required=True, help="folder of MNIST's idx files")
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args()
    (compare_scores if asked.what == "scores" else compare_warmups)(asked.mnist, asked.seeds)


if __name__ == "__main__":
    main()
