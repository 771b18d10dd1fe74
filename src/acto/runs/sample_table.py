"""Table of a run's training samples: the columns of samples.csv, and the model's probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.sample_columns import in_order, of_samples_csv
from acto.core.types import TrainingData
from acto.data.samples import Dataset
from acto.training import evaluation
from acto.training.loop import Training


def label_quality(
    training: Training, prob_given: npt.NDArray[np.floating[Any]] | None = None
) -> npt.NDArray[np.float32]:
    """(N,) trust in each given label in [0, 1], 1 = sure.

    That of the method, which remembers the course of training, averaged with what the model holds of the label now. Of
    a method that has none, the mean probability of the given label over the visits: its model has learned wrong labels
    by heart at the end. A sample that training never saw is trusted as much as the model holds its label likely now.

    Args:
        training: after any number of epochs.
        prob_given: (N,) probability of the given label now; None: the method's own trust alone.
    """
    quality = training.method.label_quality()
    trust = (training.history.mean_prob_given if quality is None else quality).float().cpu().numpy()
    if prob_given is None:
        return trust
    known = trust if quality is None else (trust + prob_given) / 2
    return np.where(np.isnan(trust), prob_given, known).astype(np.float32)


def sample_table(
    training: Training, data: TrainingData, dataset: Dataset
) -> tuple[dict[str, Any], npt.NDArray[np.float32]]:
    """The columns of samples.csv, (N,) each, and (N, K) probabilities of the method's headline prediction.

    Args:
        training: after any number of epochs.
        data: the training samples of `dataset`, all of them, in their order.
        dataset: names, given labels and, where known, true ones.
    """
    samples, names = dataset.train, np.array(dataset.class_names)
    probs, others = evaluation.headline_probs(training, data, samples.labels)
    rows = np.arange(len(probs))
    first: dict[str, Any] = {
        "id": list(samples.ids),
        "given_label": names[samples.labels],
        "predicted_label": names[probs.argmax(1)],
        "prob_given": probs[rows, samples.labels],
        "prob_predicted": probs.max(1),
        "label_quality": label_quality(training, probs[rows, samples.labels]),
    }
    beside: dict[str, Any] = {}
    for name, (predicted, prob_given) in others.items():
        beside[f"predicted_label_{name}"] = names[predicted]
        beside[f"prob_given_{name}"] = prob_given
    last: dict[str, Any] = {name: column.numpy() for name, column in training.history.table().items()}
    clean, known = samples.is_clean, samples.is_known
    if clean is not None and known is not None:
        last["label_is_true"] = np.where(known, np.where(clean, "yes", "no"), "unknown")
    order = of_samples_csv()
    return in_order(first, order) | beside | in_order(last, order), probs


def held_out_predictions(
    training: Training, data: TrainingData, dataset: Dataset
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """(M, K) probabilities of the method's headline prediction, and (M, P) classes that its other predictions name.

    Args:
        training: after any number of epochs.
        data: the samples that were held out, `dataset.test`.
        dataset: holds them.
    """
    probs, others = evaluation.headline_probs(training, data, dataset.test.labels)
    predicted = [classes for classes, _ in others.values()]
    return probs, np.stack(predicted, axis=1) if predicted else np.empty((len(probs), 0), np.int64)
