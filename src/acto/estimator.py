"""A classifier in the way of scikit-learn, for tables, embeddings and small pictures: robust to wrong labels, which it
finds.

from acto.estimator import NoisyLabelClassifier

classifier = NoisyLabelClassifier(random_state=0).fit(X, y)
print(y[classifier.label_issues_], classifier.suggested_labels_[classifier.label_issues_])
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import deepcopy
from numbers import Real
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
from acto.data.moments import moments
from acto.data.pictures.stacks import has_picture_shape, pixels_of, shape_of
from acto.data.samples import Dataset, Samples
from acto.data.splits import holdout
from acto.data.tables.encoding import Encoding, fit_encoding
from acto.data.views.spec import ViewSpec
from acto.labels.audit import report_on
from acto.methods import METHODS
from acto.methods.standard import Standard
from acto.runs.prepare import prepare
from acto.runs.recipes.by_data import for_size, setting_of_kind
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
CHUNK_NUMBERS = 1 << 22
"""Numbers of pictures predicted at a time."""


class NoisyLabelClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Trains a network on labels of which a part is wrong, and tells which.

    Every row of X is trained on, but for the tenth that `stop_early` holds out and rows of weight 0; nothing is written
    to disk. Predictions are computed in float64 on the processor, so that they do not depend on how rows are put
    together.

    Args:
        method: a name of acto.methods.METHODS.
        net: "mlp" (two hidden layers of 256) or "mlp:WIDTH" for features, a name of acto.nets.build for pictures; None:
            "mlp", or "cnn_small".
        epochs: how often each sample is seen, >= 1.
        warmup_epochs: epochs before the method begins to distrust labels; None: the recipe's share of `epochs`.
        batch_size: samples a step, >= 2; None: up to 128, less for small data.
        lr: learning rate of the (first) network; None: the recipe's.
        noise_rate: share of wrong labels in [0, 1], for the methods that ask for it.
        stop_early: hold out a tenth of the rows, end when the accuracy against their given labels has not risen for
            this many epochs, and keep the best epoch's model, see acto.training.early_end; None: train to the end on
            all. The rows held out are judged by the model alone.
        class_weight: {class: weight} (1 where it is not named), or "balanced": as much weight for each class of given
            labels. Multiplies sample_weight, see fit.
        random_state: of initialisation, order and views: a number, a RandomState, or None for another one each time.
        device: auto, cpu, cuda, cuda:N or mps: where it is trained.
        verbose: 1 prints a line an epoch.

    Attributes:
        classes_: (K,) the classes, sorted.
        n_features_in_: D; of pictures the numbers in one of them.
        picture_shape_: shape of one picture as X had it, (H, W, C) or (C, H, W); None for features.
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
        net: str | None = None,
        epochs: int = 40,
        warmup_epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        noise_rate: float | None = None,
        stop_early: int | None = None,
        class_weight: Any = None,
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
        self.class_weight = class_weight
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NoisyLabelClassifier:
        """Train on X (N, D) or (N, H, W, C) and the given labels y (N,), numbers or names of at least two classes.

        A data frame may hold texts (categories), dates and missing cells: they are encoded, see docs/data.md. So is a
        Dataset of Hugging Face's library, unless it has a column of vectors; then y may name the column of labels.

        Pictures are (N, H, W, C) or (N, C, H, W), of 1 or 3 channels: uint8, or floats from 0 to 1, which are
        rounded to uint8. They are learned from in views that are shifted and, where they are strong, changed in colour.

        Args:
            X: features or pictures.
            y: (N,) given labels.
            sample_weight: (N,) weights >= 0, of which one is above 0, or None. A sample's losses are multiplied by its
                weight over the mean weight, so that only ratios count; a sample of weight 0 is left out, and judged by
                the model alone. For methods whose loss is a mean over samples; which samples ACTO selects does not
                depend on their weights.

        Raises:
            ValueError: X, y or the weights cannot be used, a parameter is out of range, or the method takes no weights.
            acto.training.divergence.DivergedError: the loss is no longer finite.
        """
        if kind_of_object(X):
            X, y = as_arrays(X, y)
        if isinstance(y, list | tuple) or getattr(y, "shape", (0,))[1:] not in ((), (1,)):
            check_one_each(y, what="y")  # scikit-learn takes a single column, and warns
        check_same_index(X, y)
        check_same_index(X, sample_weight, "sample_weight")
        _warn_of_columns(X)
        self._encoding: Encoding | None = None
        self.picture_shape_: tuple[int, ...] | None = None
        if has_picture_shape(X):
            pixels = pixels_of(X)
            self.picture_shape_ = shape_of(X)[1:]
            _, y = validate_data(self, pixels.reshape(len(pixels), -1), y, dtype=None)
            X = pixels
        elif is_frame(X) and not are_plain_numbers(X):
            X, y = self._encoded(X, y)
        else:
            X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise UserError(f"at least two classes are needed, but y has 1 class: {classes.tolist()[0]!r}")
        weights = self._weights(sample_weight, labels, classes)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        kept, held_out = np.arange(len(X)), np.empty(0, np.int64)
        if weights is not None:
            kept = np.flatnonzero(weights)
            if len(left := np.unique(y[kept])) < 2:
                raise UserError(f"at least two classes are needed, but the weights leave 1 class: {left.tolist()[0]!r}")
        run = self._run(len(kept), seed=seed)
        if run.protocol.stop_early is not None:
            kept, held_out = (kept[rows] for rows in holdout(labels[kept], share=HELD_OUT_SHARE, seed=seed))
        if self.picture_shape_ is not None:
            mean, std = moments(X)
        else:
            mean, std = (X.mean(0), X.std(0)) if self._encoding is None else (np.zeros(1), np.ones(1))
        self._mean, self._scale = mean, np.where(std > 0, std, 1.0)
        samples = Samples(
            ids=tuple(map(str, range(len(X)))),
            labels=labels.astype(np.int64),
            pixels=None if self.picture_shape_ is None else X,
            features=None if self.picture_shape_ is not None else ((X - self._mean) / self._scale).astype(np.float32),
        )
        dataset = Dataset(
            name="memory",
            train=samples.take(kept),
            test=samples.take(held_out),
            class_names=tuple(map(str, range(len(classes)))),
            test_labels_are_given=True,
            noise={},
            views=self._views(),
        )
        device = resolve_device(run.device)
        # Networks draw from torch's global generator, which is the caller's.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            prepared = prepare(run, dataset=dataset, weights=None if weights is None else weights[kept])
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
        """(N, K) probabilities of X, features or pictures as in fit, columns in the order of classes_."""
        check_is_fitted(self)
        shape = getattr(self, "picture_shape_", None)
        if shape is not None or has_picture_shape(X):
            return self._probs(self._fitting(X, shape))
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
        """(N,) the most likely class of each row of X, features or pictures as in fit."""
        probs = self.predict_proba(X)
        chosen: npt.NDArray[Any] = self.classes_[probs.argmax(1)]
        return chosen

    @torch.no_grad()
    def _probs(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        size = CHUNK if values.ndim == 2 else max(1, min(CHUNK, CHUNK_NUMBERS // values[0].size))
        probs = []
        for k in range(0, len(values), size):
            inputs = torch.from_numpy((values[k : k + size] - self._mean) / self._scale)
            probs.append(self._model(inputs.permute(0, 3, 1, 2) if values.ndim == 4 else inputs))
        return torch.cat(probs).numpy()

    @staticmethod
    def _fitting(X: Any, shape: tuple[int, ...] | None) -> npt.NDArray[np.uint8]:
        """Pictures of the shape that fit had."""
        found = shape_of(X)[1:]
        if shape is None:
            raise UserError(f"fit had a table of features, but X has the shape {shape_of(X)}")
        if found != shape:
            raise UserError(f"fit had pictures of shape {shape}, but those of X have {found}")
        return pixels_of(X)

    def _views(self) -> ViewSpec:
        if self.picture_shape_ is None:
            return ViewSpec(pipeline="vectors")
        return ViewSpec(pipeline="small", mean=tuple(self._mean / 255), std=tuple(self._scale / 255))

    def _weights(
        self, sample_weight: Any, labels: npt.NDArray[np.int64], classes: npt.NDArray[Any]
    ) -> npt.NDArray[np.float64] | None:
        """(N,) weights of samples times those of classes; None if neither is given."""
        if sample_weight is None and self.class_weight is None:
            return None
        method = choose("method", self.method, METHODS)
        if not METHODS[method].takes_weights:
            takes = ", ".join(name for name in METHODS if METHODS[name].takes_weights)
            given = "class_weight" if sample_weight is None else "sample_weight"
            raise UserError(
                f"{given} has no meaning for method {method!r}, whose loss is no mean over single samples; it has for "
                f"{takes}"
            )
        weights = np.ones(len(labels))
        if sample_weight is not None:
            try:
                weights = np.asarray(sample_weight, np.float64)
            except (TypeError, ValueError) as error:
                raise UserError(f"sample_weight must be numbers: {error}") from None
            weights = np.full(len(labels), weights) if weights.ndim == 0 else weights
            if weights.shape != labels.shape:
                raise UserError(f"sample_weight has the shape {weights.shape}, but must be {labels.shape}: one each")
        if isinstance(self.class_weight, Mapping):
            names = classes.tolist()
            if foreign := [name for name in self.class_weight if name not in names]:
                raise UserError(f"class_weight names {foreign[0]!r}, which is no class of y: {names}")
            own = [self.class_weight.get(name, 1.0) for name in names]
            if odd := [name for name, value in zip(names, own, strict=True) if not isinstance(value, Real)]:
                raise UserError(f"class_weight of {odd[0]!r} is no number, but {self.class_weight[odd[0]]!r}")
            weights = weights * np.array(own, np.float64)[labels]
        elif isinstance(self.class_weight, str) and self.class_weight == "balanced":
            sums = np.bincount(labels, weights=weights)
            weights = weights / np.where(sums > 0, sums, 1.0)[labels]
        elif self.class_weight is not None:
            raise UserError(f"class_weight must be 'balanced' or {{class: weight}}, not {self.class_weight!r}")
        if (bad := np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))).size:
            raise UserError(f"weights must be finite and at least 0, but that of row {bad[0]} is {weights[bad[0]]:g}")
        if not weights.any():
            raise UserError("all weights are zero: no sample would be trained on")
        return weights

    def _run(self, num_samples: int, *, seed: int) -> Run:
        """The settings: the recipe's for vectors or small pictures, and what was said."""
        kind = "vectors" if self.picture_shape_ is None else "small"
        setting = for_size(setting_of_kind(kind, num_samples), num_samples)
        net = setting.net if self.net is None else self.net
        if self.picture_shape_ is None and not (isinstance(net, str) and (net == "mlp" or net.startswith("mlp:"))):
            raise UserError(f"net must be 'mlp' or 'mlp:WIDTH', not {net!r}")
        protocol: dict[str, Any] = {"epochs": self.epochs, "stop_early": self.stop_early}
        if self.batch_size is not None:
            protocol["batch_size"] = self.batch_size
        if self.lr is not None:
            protocol["plan"] = {"lr": self.lr}
        asked: dict[str, Any] = {
            "method": choose("method", self.method, METHODS),
            "net": net,
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
