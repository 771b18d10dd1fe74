"""Trials of `acto demo`: a method trained on digits with wrong labels, many times over, in processes of its own."""

from __future__ import annotations

import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.child_processes import NO_CURRENT_FOLDER, environment
from acto.core.signals import STOPPING, on_signals, spared_children
from acto.data.noise import NoiseSpec, sha256_of_labels
from acto.data.samples import Dataset, DataSpec
from acto.data.sources import load_data
from acto.methods.standard import Standard
from acto.runs.prepare import prepare
from acto.runs.recipes.by_data import Setting
from acto.runs.recipes.recipe import recipe
from acto.runs.sample_table import label_quality
from acto.training import evaluation
from acto.training.loop import run_epochs

RATES = (0.4, 0.6)
"""Shares of wrong labels."""
COMPARED = ("acto", "confident-learning", "standard")
"""Methods of the demo, the slowest first, so that the last worker does not end long after the others."""
LOOK_EVERY = 0.5
"""Seconds between two looks at how far the processes are."""
_epochs: Any = None
"""Counter of the epochs that all processes have trained, in each of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SmallMLP:
    """The network of confident learning: one hidden layer on pixels, trained by Adam.

    Attributes:
        width: of the hidden layer.
        epochs: passes over the training part.
        penalty: of squared weights, scikit-learn's alpha.
        folds: parts of the cross-validation.
    """

    width: int = 100
    epochs: int = 200
    penalty: float = 1.0
    folds: int = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A method on the digits with one split, one draw of labels and one initialisation, all from the seed."""

    method: str
    rate: float
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Result of a method on a data set."""

    accuracies: dict[str, list[float]]
    """Test accuracy after each epoch (the last ten at least) by network; the headline's comes first."""
    label_quality: npt.NDArray[np.floating]
    """(N,) trust in each given label in [0, 1]."""
    suggested: npt.NDArray[np.int64]
    """(N,) the class that the model itself gives each training sample."""
    label_is_true: npt.NDArray[np.bool_]
    """(N,)."""
    labels_sha256: str
    seconds: float

    @property
    def accuracy(self) -> float:
        """Mean of the last ten epochs."""
        return evaluation.last_epochs_mean(next(iter(self.accuracies.values())))

    @property
    def auroc(self) -> float:
        """Return the AUROC of telling wrong labels from true ones by label_quality."""
        return evaluation.auroc(self.label_quality, self.label_is_true)


Outcomes = dict[Trial, Outcome]


def train(dataset: Dataset, setting: Setting, *, method: str, seed: int) -> Outcome:
    """Train one of the package's methods on the CPU, in float32: half precision costs time on networks so small."""
    spec = DataSpec(noise=NoiseSpec(kind="symmetric", rate=dataset.noise["rate"], seed=seed))
    run = replace(recipe(spec, setting, method=method, seed=seed), device="cpu", precision="float32")
    if method == "standard":  # it shares all that is not ACTO's own
        run = replace(run, config=Standard.Config(label_smoothing=setting.label_smoothing))
    prepared = prepare(run, dataset=dataset)
    started = time.monotonic()
    accuracies: dict[str, list[float]] = {}
    for _ in run_epochs(prepared.training, prepared.train_data, seed=seed):
        for name, value in evaluation.accuracy(prepared.training, prepared.test_data).items():
            accuracies.setdefault(name, []).append(value)
        if _epochs is not None:
            with _epochs.get_lock():
                _epochs.value += 1
    probs, _ = evaluation.headline_probs(prepared.training, prepared.train_data, dataset.train.labels)
    seconds = time.monotonic() - started
    return _outcome(dataset, accuracies, label_quality(prepared.training), probs.argmax(1), seconds)


def learn_confidently(dataset: Dataset, mlp: SmallMLP, *, seed: int) -> Outcome:
    """Cross-validated probabilities, cleanlab's default pruning, and training on what is left.

    Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_self_confidence_for_each_label
    from sklearn.model_selection import StratifiedKFold

    started = time.monotonic()
    images, labels = _flat(dataset, dataset.train.pixels), dataset.train.labels
    test_images, test_labels = _flat(dataset, dataset.test.pixels), dataset.test.labels
    probs = np.zeros((len(labels), dataset.num_classes))
    for seen, held_out in StratifiedKFold(mlp.folds, shuffle=True, random_state=seed).split(images, labels):
        net = _fit_mlp(images[seen], labels[seen], mlp, epochs=mlp.epochs, seed=seed)
        probs[np.ix_(held_out, net.classes_)] = net.predict_proba(images[held_out])
    kept = ~find_label_issues(labels, probs, n_jobs=1)
    counted = min(evaluation.LAST_EPOCHS, mlp.epochs)
    net = _fit_mlp(images[kept], labels[kept], mlp, epochs=mlp.epochs - counted + 1, seed=seed)
    accuracies = [float(np.mean(net.predict(test_images) == test_labels))]
    while len(accuracies) < counted:
        net.partial_fit(images[kept], labels[kept])
        accuracies.append(float(np.mean(net.predict(test_images) == test_labels)))
    quality = get_self_confidence_for_each_label(labels, probs)
    return _outcome(dataset, {"mlp": accuracies}, quality, probs.argmax(1), time.monotonic() - started)


def _flat(dataset: Dataset, pixels: npt.NDArray[np.uint8] | None) -> npt.NDArray[np.float32]:
    """Pictures as normalized vectors (N, D): what the other methods' networks see, without augmentation."""
    assert pixels is not None
    normalized = (pixels / 255 - dataset.views.mean) / dataset.views.std
    return normalized.reshape(len(pixels), -1).astype(np.float32)


def _fit_mlp(
    images: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], mlp: SmallMLP, *, epochs: int, seed: int
) -> Any:
    """A scikit-learn classifier after exactly so many epochs; partial_fit adds one, in an order of its own."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    net = MLPClassifier(
        (mlp.width,),
        alpha=mlp.penalty,
        max_iter=epochs,
        tol=0.0,
        n_iter_no_change=epochs,
        # A generator: from a plain number every later partial_fit would draw the same order.
        random_state=np.random.RandomState(seed),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it always says so at the last epoch
        return net.fit(images, labels)


def _outcome(
    dataset: Dataset,
    accuracies: dict[str, list[float]],
    quality: npt.NDArray[np.floating],
    suggested: npt.NDArray[np.int64],
    seconds: float,
) -> Outcome:
    is_clean = dataset.train.is_clean
    assert is_clean is not None
    return Outcome(
        accuracies=accuracies,
        label_quality=quality,
        suggested=suggested,
        label_is_true=is_clean,
        labels_sha256=sha256_of_labels(dataset.train.labels),
        seconds=seconds,
    )


def trials_of(seeds: Iterable[int], *, methods: Sequence[str]) -> list[Trial]:
    """Every method at every rate, the long ones first, so that no process is left alone with one at the end."""
    seeds = list(seeds)
    return [
        Trial(method=method, rate=rate, seed=seed)
        for method in COMPARED
        if method in methods
        for rate in RATES
        for seed in seeds
    ]


def digits(*, rate: float, seed: int) -> Dataset:
    """The digits with a split and noisy labels of their own for each seed."""
    noise = NoiseSpec(kind="symmetric", rate=rate, seed=seed)
    return load_data(DataSpec(source="digits", holdout_seed=seed, noise=noise))


def measure(trial: Trial, setting: Setting, mlp: SmallMLP) -> Outcome:
    """Do one trial. Runs in a process of its own."""
    dataset = digits(rate=trial.rate, seed=trial.seed)
    if trial.method == "confident-learning":
        return learn_confidently(dataset, mlp, seed=trial.seed)
    return train(dataset, setting, method=trial.method, seed=trial.seed)


def measure_all(
    trials: Sequence[Trial], setting: Setting, mlp: SmallMLP, *, workers: int, tell: Callable[..., None]
) -> Outcomes:
    """Do all trials in `workers` processes of one thread each.

    Args:
        trials: what to do, first things first.
        setting: of the package's methods.
        mlp: of confident learning.
        workers: how many processes.
        tell: called after each trial, and meanwhile with the number of epochs that all have trained so far.
    """
    epochs = get_context("spawn").Value("q", 0)
    with processes(workers, epochs) as pool:
        with _undisturbed():
            futures = {pool.submit(measure, trial, setting, mlp): trial for trial in trials}
        outcomes = {}
        left = set(futures)
        while left:
            done, left = wait(left, timeout=LOOK_EVERY, return_when=FIRST_COMPLETED)
            for future in done:
                outcomes[futures[future]] = future.result()
                tell()
            tell(epochs.value)
    return {trial: outcomes[trial] for trial in trials}


_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
"""Has processes begin with one thread: numpy and torch look only once, when they are loaded."""


@contextmanager
def processes(count: int, epochs: Any = None) -> Iterator[Executor]:
    """Processes of one thread each that end with the block, at once if it is left by an error or a signal."""
    others = set(active_children())
    with (
        environment(_ONE_THREAD | NO_CURRENT_FOLDER),
        ProcessPoolExecutor(count, get_context("spawn"), initializer=_begin, initargs=(epochs,)) as pool,
    ):
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(active_children()) - others:
                process.terminate()
            raise


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM: interrupted while it starts a process, Python loses track of that process."""
    held: list[int] = []
    try:
        with on_signals(STOPPING, lambda signum, frame: held.append(signum)), spared_children():
            yield
    finally:
        for signum in held[:1]:
            signal.raise_signal(signum)


def _begin(epochs: Any) -> None:
    """Ctrl-C reaches every process of the terminal: only the first one shall answer. Epochs are counted together."""
    global _epochs
    _epochs = epochs
    signal.signal(signal.SIGINT, signal.SIG_IGN)
