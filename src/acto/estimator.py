"""A classifier in the way of scikit-learn, for tables and embeddings: robust to wrong labels, and it finds them.

from acto.estimator import NoisyLabelClassifier

classifier = NoisyLabelClassifier(random_state=0).fit(X, y)
print(y[classifier.label_issues_], classifier.suggested_labels_[classifier.label_issues_])
"""

from __future__ import annotations

import warnings
from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from acto.core.device import resolve_device
from acto.core.errors import UserError, choose
from acto.core.settings import merged
from acto.data.alignment import check_same_index, is_frame
from acto.data.frames import are_plain_numbers, rows_of_frame, suspects
from acto.data.hugging_face_objects import as_arrays, kind_of_object
from acto.data.label_columns import check_one_each
from acto.data.samples import Dataset, Samples
from acto.data.splits import holdout
from acto.data.tables.encoding import Encoding, fit_encoding
from acto.data.views.spec import ViewSpec
from acto.labels.audit import report_on
from acto.methods import METHODS
from acto.methods.standard import Standard
from acto.runs.prepare import prepare
from acto.runs.recipes.by_data import batch_size_for, setting_of_kind
from acto.runs.resolve import checked, run_of, section
from acto.runs.run import Run
from acto.runs.sample_table import label_quality
from acto.runs.trained_model import Headline
from acto.training import evaluation
from acto.training.loop import run_epochs

HELD_OUT_SHARE = 0.1
"""Share of each class that stop_early holds out, rounded; one sample always stays."""
CHUNK = 4096
"""Samples predicted at a time."""


class NoisyLabelClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Trains a network on labels of which a part is wrong, and tells which.

    Every row of X is trained on, but for the tenth that `stop_early` holds out; nothing is written to disk. Predictions
    are computed in float64 on the processor, so that they do not depend on how rows are put together.

    Args:
        method: a name of acto.methods.METHODS.
        net: "mlp" (two hidden layers of 256) or "mlp:WIDTH".
        epochs: how often each sample is seen, >= 1.
        warmup_epochs: epochs before the method begins to distrust labels; None: the recipe's share of `epochs`.
        batch_size: samples a step, >= 2; None: up to 128, less for small data.
        lr: learning rate of the (first) network; None: the recipe's.
        noise_rate: share of wrong labels in [0, 1], for the methods that ask for it.
        stop_early: hold out a tenth of the rows, end when the accuracy against their given labels has not risen for
            this many epochs, and keep the best epoch's model, see acto.training.early_end; None: train to the end on
            all. The rows held out are judged by the model alone.
        random_state: of initialisation, order and views: a number, a RandomState, or None for another one each time.
        device: auto, cpu, cuda, cuda:N or mps: where it is trained.
        verbose: 1 prints a line an epoch.

    Attributes:
        classes_: (K,) the classes, sorted.
        n_features_in_: D.
        label_quality_: (N,) trust in each given label of the training, 0 to 1, 1 = trustworthy. It ranks; it is no
            calibrated probability.
        label_issues_: (N,) bool, whether the given label is thought to be wrong.
        suggested_labels_: (N,) what it should be where it is thought to be wrong, else the given label.
        transition_matrix_: (K, K) P(given label | right label): rows are right classes, columns given ones, both in the
            order of classes_; rows add up to 1. An estimate from label_issues_ and suggested_labels_.
        noise_rate_: the estimated share of wrong labels.
        n_epochs_: number of epochs that the model was trained for.
    """

    def __init__(
        self,
        *,
        method: str = "acto",
        net: str = "mlp",
        epochs: int = 40,
        warmup_epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        noise_rate: float | None = None,
        stop_early: int | None = None,
        random_state: Any = None,
        device: str = "cpu",
        verbose: int = 0,
    ) -> None:
        self.method = method
        self.net = net
        self.epochs = epochs
        self.warmup_epochs = warmup_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.noise_rate = noise_rate
        self.stop_early = stop_early
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> NoisyLabelClassifier:
        """Train on X (N, D) and the given labels y (N,), numbers or names of at least two classes.

        A data frame may hold texts (categories), dates and missing cells: they are encoded, see docs/data.md. So is a
        Dataset of Hugging Face's library, unless it has a column of vectors; then y may name the column of labels.

        Raises:
            ValueError: X or y cannot be used, or a parameter is out of range.
            acto.training.divergence.DivergedError: the loss is no longer finite.
        """
        if kind_of_object(X):
            X, y = as_arrays(X, y)
        if isinstance(y, list | tuple) or getattr(y, "shape", (0,))[1:] not in ((), (1,)):
            check_one_each(y, what="y")  # scikit-learn takes a single column, and warns
        check_same_index(X, y)
        _warn_of_columns(X)
        self._encoding: Encoding | None = None
        if is_frame(X) and not are_plain_numbers(X):
            X, y = self._encoded(X, y)
        else:
            X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise UserError(f"at least two classes are needed, but y has 1 class: {classes.tolist()[0]!r}")
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        mean, std = (X.mean(0), X.std(0)) if self._encoding is None else (np.zeros(1), np.ones(1))
        self._mean, self._scale = mean, np.where(std > 0, std, 1.0)
        run = self._run(len(X), seed=seed)
        kept, held_out = np.arange(len(X)), np.empty(0, np.int64)
        if run.protocol.stop_early is not None:
            kept, held_out = holdout(labels, share=HELD_OUT_SHARE, seed=seed)
        dataset = _dataset(
            (X - self._mean) / self._scale, labels.astype(np.int64), kept, held_out, num_classes=len(classes)
        )
        device = resolve_device(run.device)
        # Networks draw from torch's global generator, which is the caller's.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            prepared = prepare(run, dataset=dataset)
            training = prepared.training
            try:
                best = None
                for log in run_epochs(training, prepared.train_data, seed=seed):
                    if self.verbose:
                        print(f"epoch {log.epoch + 1}/{run.protocol.epochs}  loss {log.metrics['loss']:.4g}")
                    if len(held_out):
                        found = next(iter(evaluation.accuracy(training, prepared.test_data).values()))
                        best = deepcopy(training.state_dict()) if training.judge(log.epoch, found) else best
                if best is not None:
                    training.take_back(best)
            finally:
                prepared.close()
        method = training.method
        shares = [share for share in method.headline_weights() if share]
        nets = [net for net, share in zip(method.nets, method.headline_weights(), strict=True) if share]
        self._model = Headline([deepcopy(net).cpu().double() for net in nets], shares).eval().requires_grad_(False)
        self.classes_ = classes
        self.n_epochs_ = training.epochs_done if best is None else int(best["epochs_done"])
        probs = self._probs(X)
        prob_given = probs[np.arange(len(X)), labels]
        quality = prob_given.astype(np.float32)
        quality[kept] = label_quality(training, prob_given[kept])
        report = report_on(
            labels.astype(np.int64),
            probs,
            dataset.class_names,
            label_quality=quality,
            robust=self.method != Standard.name,
        )
        suggested = np.array([int(name) if name else -1 for name in report.columns["suggested_label"]])
        self.label_quality_ = report.label_quality
        self.label_issues_ = report.is_label_issue
        self.suggested_labels_ = classes[np.where(suggested >= 0, suggested, labels)]
        self.transition_matrix_ = report.noise.transition_matrix()
        self.noise_rate_ = report.noise.rate
        return self

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """(N, K) probabilities of X (N, D), columns in the order of classes_."""
        check_is_fitted(self)
        if kind_of_object(X):
            X = as_arrays(X, columns=getattr(self, "feature_names_in_", ()))[0]
        if self._encoding is None:
            return self._probs(validate_data(self, X, reset=False, dtype=np.float64))
        if not is_frame(X):
            raise UserError(f"fit had a data frame with the columns {', '.join(self.feature_names_in_)}: pass such")
        validate_data(self, X, reset=False, skip_check_array=True)
        return self._probs(self._encoding.encode(rows_of_frame(X, list(X.columns))).astype(np.float64))

    def _encoded(self, X: Any, y: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[Any]]:
        """The features of a frame with texts, dates or missing cells, and the labels; fits the encoding."""
        validate_data(self, X, reset=True, skip_check_array=True)
        if not all(isinstance(name, str) for name in X.columns) or not X.columns.is_unique:
            raise UserError("a data frame with texts or missing cells needs different texts as names of its columns")
        y = column_or_1d(y, warn=True)
        check_consistent_length(X, y)
        if bool(np.any([value is None or value != value for value in y.tolist()])):
            raise UserError("y has missing labels: fill them in, or take their rows out")
        rows = rows_of_frame(X, list(X.columns))
        self._encoding, notes = fit_encoding(rows)
        for note in notes:
            warnings.warn(note, stacklevel=4)
        return self._encoding.encode(rows).astype(np.float64), y

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """(N,) the most likely class of each row of X (N, D)."""
        probs = self.predict_proba(X)
        chosen: npt.NDArray[Any] = self.classes_[probs.argmax(1)]
        return chosen

    @torch.no_grad()
    def _probs(self, features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        inputs = torch.from_numpy((features - self._mean) / self._scale)
        return torch.cat([self._model(inputs[k : k + CHUNK]) for k in range(0, len(inputs), CHUNK)]).numpy()

    def _run(self, num_samples: int, *, seed: int) -> Run:
        """The settings: the recipe's for vectors, and what was said."""
        if not isinstance(self.net, str) or not (self.net == "mlp" or self.net.startswith("mlp:")):
            raise UserError(f"net must be 'mlp' or 'mlp:WIDTH', not {self.net!r}")
        setting = setting_of_kind("vectors", num_samples)
        size = batch_size_for(num_samples, most=setting.batch_size)
        protocol: dict[str, Any] = {
            "epochs": self.epochs,
            "batch_size": self.batch_size if self.batch_size is not None else size,
            "stop_early": self.stop_early,
        }
        if self.lr is not None:
            protocol["plan"] = {"lr": self.lr}
        asked: dict[str, Any] = {
            "method": choose("method", self.method, METHODS),
            "net": self.net,
            "protocol": protocol,
            "seed": seed,
            "device": self.device,
            "assumed_noise_rate": self.noise_rate,
        }
        if self.warmup_epochs is not None:
            asked = merged(asked, {section(self.method): {"warmup_epochs": self.warmup_epochs}})
        return run_of(checked(asked, method=self.method), setting)


def _warn_of_columns(X: Any) -> None:
    """Warn of columns that are hardly features; they stay, for what X is has been decided by who passes it."""
    if is_frame(X) and X.columns.is_unique:
        for each in suspects(X, [name for name in X.columns if isinstance(name, str)]):
            warnings.warn(
                f"column {each.name!r} {each.why}, and is used as a feature: drop it if it is none", stacklevel=3
            )


def _dataset(
    features: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    kept: npt.NDArray[np.int64],
    held_out: npt.NDArray[np.int64],
    *,
    num_classes: int,
) -> Dataset:
    """Standardized features, the rows `kept` to train on and those `held_out` to measure on."""
    samples = Samples(ids=tuple(map(str, range(len(labels)))), labels=labels, features=features.astype(np.float32))
    return Dataset(
        name="memory",
        train=samples.take(kept),
        test=samples.take(held_out),
        class_names=tuple(map(str, range(num_classes))),
        test_labels_are_given=True,
        noise={},
        views=ViewSpec(pipeline="vectors"),
    )
