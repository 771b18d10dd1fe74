"""Consensus of several people's labels: acto.consensus beside cleanlab's multiannotator module, in one run.

Made data: annotators of known quality (good, confusing pairs of classes, always one class, at random, adversarial) with
gaps; a model's probabilities are made, too. Real data: three labels a picture by CIFAR-10's annotators, with
held-out probabilities of logistic regression on features (--features FILE, an .npz with train_x, train_annotator_1 to
_3 and train_true_label; without it these rows are left out). True labels are for the numbers alone.

    python benchmarks/annotators.py --features human.npz --out annotators.md

Written for cleanlab 2.9; needs scikit-learn and scipy as well. What was tuned (pseudo-votes, the form of the prior) was
tuned on draws of other seeds (0 to 5, 1000 to 1005) of a generator of the same kinds.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import numpy.typing as npt
from cleanlab import multiannotator
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

import acto

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
FIRST_SEED = 9000


@dataclass(frozen=True, kw_only=True)
class Case:
    """Made data of one kind."""

    samples: int = 2000
    classes: int = 5
    annotators: int = 15
    votes: tuple[int, ...] = (4,)
    """Votes of a sample, one of these by chance."""
    kinds: tuple[str, ...] = ("good", "good", "good", "pairs", "pairs", "one", "random", "adversarial")
    """Annotators are of these, by chance."""
    model: float = 1.9
    """Lead of the right class in the model's scores, in deviations."""
    hard: float = 0.0
    """Share of samples at which everybody sees another class by half."""


CASES = {
    "mixed annotators": Case(),
    "good annotators": Case(kinds=("good",)),
    "spammers": Case(kinds=("good", "good", "one", "random"), votes=(5,)),
    "adversarial": Case(kinds=("good", "good", "good", "adversarial"), votes=(5,)),
    "few: 3 annotators": Case(annotators=3, votes=(3,), kinds=("good", "pairs")),
    "many: 200, few votes each": Case(annotators=200, votes=(2, 3, 4)),
    "gaps: 1 to 3 votes": Case(votes=(1, 2, 3)),
    "two classes": Case(classes=2, votes=(5,)),
    "50 classes": Case(classes=50, samples=4000, annotators=30, model=3.5),
    "hard samples": Case(hard=0.4, votes=(5,), kinds=("good", "good", "pairs")),
    "a weak model": Case(model=1.0),
}


@dataclass(frozen=True)
class Problem:
    """Labels (N, M) with NaN as gaps, a model's probabilities and the truth."""

    labels: Floats
    probs: Floats
    truth: Labels

    @property
    def annotator_accuracy(self) -> Floats:
        """(M,)"""
        given = ~np.isnan(self.labels)
        right = self.labels == self.truth[:, None]
        found: Floats = right.sum(0) / given.sum(0)
        return found


def made(case: Case, seed: int) -> Problem:
    """Draw data of a kind."""
    random = np.random.default_rng(seed)
    truth = random.choice(case.classes, case.samples, p=random.dirichlet(np.full(case.classes, 5.0)))
    tables = np.stack([_table(random.choice(case.kinds), case.classes, random) for _ in range(case.annotators)])
    busy = random.dirichlet(np.full(case.annotators, 2.0))
    seen_as = (truth + 1 + random.integers(case.classes - 1, size=case.samples)) % case.classes
    is_hard = random.random(case.samples) < case.hard
    confused = is_hard[:, None] & (random.random((case.samples, case.annotators)) < 0.5)
    seen = np.where(confused, seen_as[:, None], truth[:, None])
    # Who labels a sample: drawn by how busy they are, without anybody twice (the largest of Gumbel keys).
    keys = np.log(busy) + random.gumbel(size=(case.samples, case.annotators))
    place = (-keys).argsort(1).argsort(1)
    chosen = place < random.choice(case.votes, case.samples)[:, None]
    chances = tables[np.arange(case.annotators), seen].cumsum(2)
    said = (random.random(chances.shape[:2])[..., None] > chances).sum(2).clip(max=case.classes - 1)
    labels = np.where(chosen, said, np.nan)
    scores = random.normal(size=(case.samples, case.classes))
    scores[np.arange(case.samples), truth] += case.model
    probs = np.exp(2 * scores)
    worked = ~np.isnan(labels).all(0)
    return Problem(labels[:, worked], probs / probs.sum(1, keepdims=True), truth)


def _table(kind: str, classes: int, random: np.random.Generator) -> Floats:
    def with_right(share: float) -> Floats:
        table = np.full((classes, classes), (1 - share) / (classes - 1))
        np.fill_diagonal(table, share)
        return table

    if kind == "good":
        return with_right(random.uniform(0.65, 0.95))
    if kind == "random":
        return np.full((classes, classes), 1 / classes)
    if kind == "one":
        table = np.full((classes, classes), 0.03 / classes)
        table[:, random.integers(classes)] += 0.97
        return table
    table = with_right(random.uniform(0.7, 0.9))
    if kind == "pairs":
        for k in random.choice(classes, max(1, classes // 3), replace=False):
            table[k] = 0.1 / classes
            table[k, k] += 0.3
            table[k, (k + 1 + random.integers(classes - 1)) % classes] += 0.6
        return table
    return np.roll(table, 1, axis=1)  # adversarial: the next class


def human(features: Path, gaps: float, seed: int) -> Problem:
    """Read the labels of CIFAR-10's annotators without some of them, and fit a model out of folds to a majority."""
    with np.load(features, allow_pickle=False) as arrays:
        labels = np.stack([arrays[f"train_annotator_{j}"] for j in (1, 2, 3)], 1).astype(np.float64)
        truth, vectors = arrays["train_true_label"].astype(np.int64), arrays["train_x"].astype(np.float32)
    random = np.random.default_rng(seed)
    taken = random.random(labels.shape) < gaps
    taken[np.arange(len(labels)), random.integers(labels.shape[1], size=len(labels))] = False
    labels[taken] = np.nan
    names = list(map(str, range(10)))
    given = acto.consensus(labels, method="majority", class_names=names).consensus
    vectors = StandardScaler().fit_transform(vectors)
    probs = np.zeros((len(truth), 10))
    for fitted, rest in StratifiedKFold(5, shuffle=True, random_state=seed).split(vectors, given):
        model = LogisticRegression(C=1e-3, max_iter=100).fit(vectors[fitted], given[fitted])
        probs[rest] = model.predict_proba(vectors[rest])
    return Problem(labels, probs, truth)


Result = tuple[Labels, Floats, Floats]
"""Consensus (N,), its quality (N,) and the annotators' (M,)."""


def ours(problem: Problem, *, method: str, with_model: bool) -> Result:
    """Run acto.consensus."""
    names = list(map(str, range(problem.probs.shape[1])))
    report = acto.consensus(problem.labels, problem.probs if with_model else None, method=method, class_names=names)
    return report.consensus, report.quality.astype(float), np.asarray(report.annotators["quality"], float)


def cleanlab_majority(problem: Problem) -> Result:
    """Run cleanlab's majority vote; quality, which it does not give without a model, is the share that agrees."""
    found = multiannotator.get_majority_vote_label(problem.labels, verbose=False).astype(np.int64)
    given = ~np.isnan(problem.labels)
    agrees = problem.labels == found[:, None]
    return found, agrees.sum(1) / given.sum(1), agrees.sum(0) / given.sum(0)


def cleanlab_crowdlab(problem: Problem) -> Result:
    """Run cleanlab's default with a model."""
    found = multiannotator.get_label_quality_multiannotator(problem.labels, problem.probs, verbose=False)
    table, people = found["label_quality"], found["annotator_stats"].sort_index()
    return (
        table["consensus_label"].to_numpy(np.int64),
        table["consensus_quality_score"].to_numpy(float),
        people["annotator_quality"].to_numpy(float),
    )


METHODS: dict[str, Callable[[Problem], Result]] = {
    "cleanlab, majority": cleanlab_majority,
    "acto, Dawid-Skene": lambda problem: ours(problem, method="dawid_skene", with_model=False),
    "cleanlab, with model": cleanlab_crowdlab,
    "acto, CROWDLAB": lambda problem: ours(problem, method="crowdlab", with_model=True),
    "acto, Dawid-Skene with model": lambda problem: ours(problem, method="dawid_skene", with_model=True),
}


def measured(problem: Problem) -> dict[str, tuple[float, ...]]:
    """Measure each method: accuracy, AUROC of the quality, rank correlation and mean error of the annotators' quality,
    and CPU seconds.
    """
    found: dict[str, tuple[float, ...]] = {}
    for name, method in METHODS.items():
        start = time.process_time()
        consensus, quality, people = method(problem)
        seconds = time.process_time() - start
        right = consensus == problem.truth
        auroc = roc_auc_score(right, quality) if 0 < right.mean() < 1 else float("nan")
        rank = spearmanr(people, problem.annotator_accuracy)[0]
        error = np.abs(people - problem.annotator_accuracy).mean()
        found[name] = (float(right.mean()), float(auroc), float(rank), float(error), seconds)
    return found


def rows(problems: Sequence[Problem]) -> Iterator[list[str]]:
    """Mean and deviation over the draws, a row a method; the best of those with and without a model is bold."""
    results = [measured(problem) for problem in problems]
    names = list(METHODS)
    for group in (names[:2], names[2:]):
        # Of an error the least is best.
        best = [max((-1) ** (k == 3) * fmean(r[name][k] for r in results) for name in group) for k in range(4)]
        for name in group:
            cells = [name]
            for k in range(4):
                values = [r[name][k] for r in results]
                spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
                text = f"{fmean(values):.4f}"
                cells.append((f"**{text}**" if (-1) ** (k == 3) * fmean(values) >= best[k] - 5e-5 else text) + spread)
            yield [*cells, f"{fmean(r[name][4] for r in results):.2f} s"]


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    seeds = range(FIRST_SEED, FIRST_SEED + given.seeds)
    cases: dict[str, Callable[[int], Problem]] = {name: partial(made, case) for name, case in CASES.items()}
    if given.features:
        for words, gaps in (("", 0.0), (", 40 % taken away", 0.4)):
            cases[f"CIFAR-10's annotators{words}"] = partial(human, given.features, gaps)
    lines = [
        f"`python benchmarks/annotators.py {' '.join(sys.argv[1:])}`: seeds {seeds[0]} to {seeds[-1]}, mean ± "
        f"deviation; CPU seconds. {platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}, "
        f"scikit-learn {version('scikit-learn')}, cleanlab {version('cleanlab')}",
        "",
        "| data | method | accuracy of the consensus | AUROC of its quality | rank correlation of annotators | mean "
        "error of their quality | time |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, draw in cases.items():
        for cells in rows([draw(seed) for seed in seeds]):
            lines.append(f"| {' | '.join([name, *cells])} |")
            print(lines[-1], flush=True)
    if given.out:
        given.out.write_text("\n".join(lines) + "\n")
    else:
        print("\n".join(lines[:4]))


if __name__ == "__main__":
    main()
