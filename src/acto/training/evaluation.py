"""Evaluation: how good the model is on held-out data, and how well the noise was found. The only reader of true
labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from acto.core.types import Batch, TrainingData
from acto.training.features import Features
from acto.training.loop import Training

LAST_EPOCHS = 10


@torch.no_grad()
def predictions(
    training: Training, data: TrainingData, *, batch_size: int | None = None
) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
    """Batches of `data` in sample order, each with the method's (B, K) probabilities by name.

    Args:
        training: whose networks look.
        data: what they look at.
        batch_size: None: what suits the samples and the device.
    """
    method = training.method
    mode = method.training
    method.eval()
    try:
        for batch in data.scan(batch_size=batch_size):
            with training.autocast():
                probs = method.predict(batch.views[0])
            yield batch, probs
    finally:
        method.train(mode)


def prediction_names(training: Training, data: TrainingData) -> tuple[str, ...]:
    """Return the method's names of its predictions, the headline first."""
    return tuple(next(predictions(training, data, batch_size=2))[1])


def accuracy(training: Training, data: TrainingData) -> dict[str, float]:
    """Share of `data` that each of the method's predictions gets right, in [0, 1]; the headline comes first."""
    right: dict[str, Tensor] = {}
    for batch, probs_by_name in predictions(training, data):
        for name, probs in probs_by_name.items():
            hits = (probs.argmax(1) == batch.label).sum()
            right[name] = right[name] + hits if name in right else hits
    return {name: int(hits) / data.num_samples for name, hits in right.items()}


def headline_probs(
    training: Training, data: TrainingData, labels: npt.NDArray[np.integer], *, features: Features | None = None
) -> tuple[npt.NDArray[np.float32], dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]]:
    """(N, K) probabilities of the method's headline prediction, in sample order, and two columns of each other one.

    These are, by its name, the (N,) predicted classes and the (N,) probabilities of `labels`: with thousands of classes
    the (N, K) of each would take gigabytes.

    Args:
        training: whose networks look.
        data: what they look at.
        labels: (N,) classes.
        features: gathers what a network's head sees meanwhile.
    """
    headline = np.empty((data.num_samples, 0), np.float32)
    others: dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]] = {}
    done = 0
    with nullcontext() if features is None else features.watched():
        for batch, probs_by_name in predictions(training, data):
            rows = slice(done, done + len(batch.index))
            done = rows.stop
            if features is not None:
                features.keep()
            for place, (name, tensor) in enumerate(probs_by_name.items()):
                probs = tensor.float().cpu().numpy()
                if place == 0:
                    if rows.start == 0:
                        headline = np.empty((data.num_samples, probs.shape[1]), np.float32)
                    headline[rows] = probs
                    continue
                if rows.start == 0:
                    others[name] = np.empty(data.num_samples, np.int64), np.empty(data.num_samples, np.float32)
                predicted, prob = others[name]
                predicted[rows], prob[rows] = probs.argmax(1), probs[np.arange(len(probs)), labels[rows]]
    assert done == data.num_samples, (done, data.num_samples)
    return headline, others


def last_epochs_mean(values: list[float]) -> float:
    """Mean over the last ten epochs (all, if there are fewer): the headline accuracy."""
    return math.fsum(values[-LAST_EPOCHS:]) / len(values[-LAST_EPOCHS:])


def selection_scores(selected: npt.NDArray[np.bool_], clean: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Precision, recall and F1 of a selection of clean samples, each in [0, 1]; NaN where nothing defines it.

    Args:
        selected: (N,) what the method took for clean.
        clean: (N,) whether the given label is true.
    """
    hits = float(np.sum(selected & clean))
    num_selected, num_clean = float(np.sum(selected)), float(np.sum(clean))
    return {
        "selection_precision": hits / num_selected if num_selected else math.nan,
        "selection_recall": hits / num_clean if num_clean else math.nan,
        "selection_f1": 2 * hits / (num_selected + num_clean) if num_selected + num_clean else math.nan,
    }


def auroc(scores: npt.NDArray[np.floating], positive: npt.NDArray[np.bool_]) -> float:
    """Area under the ROC curve: the chance that a positive sample scores higher than a negative one, ties half.

    NaN if one of the two kinds is missing.
    """
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if not num_positive or not num_negative:
        return math.nan
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # the mean rank of each group of equal scores, from 1
    rank_sum = ranks[inverse][positive].sum()
    return float((rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))
