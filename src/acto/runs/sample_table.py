"""Table of a run's training samples: the columns of samples.csv, and the model's probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.contradictions import beyond_usual_spread
from acto.core.sample_columns import in_order, of_samples_csv
from acto.core.types import TrainingData
from acto.data.samples import Dataset
from acto.runs.outliers import outlier_scores
from acto.training import evaluation
from acto.training.features import Features
from acto.training.loop import Training

MOST_OF_COURSE = 0.5
"""Part of the trust that the course of training is at most. docs/decisions.md has its choice."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeldOut:
    """Predictions for the M samples that were held out."""

    probs: npt.NDArray[np.float32]
    """(M, K) probabilities of the method's headline prediction."""
    predicted: npt.NDArray[np.int64]
    """(M, P) classes that its other predictions name."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SampleTable:
    """Knowledge of the N training samples and of those that were held out, from training and model."""

    columns: dict[str, Any]
    """The columns of samples.csv, (N,) each."""
    probs: npt.NDArray[np.float32]
    """(N, K) probabilities of the method's headline prediction."""
    held_out: HeldOut | None
    """None where none are to be judged."""
    outlier: npt.NDArray[np.float32]
    """(N + M,) outlier scores, see acto.runs.outliers: those held out follow the others."""


def label_quality(
    training: Training, prob_given: npt.NDArray[np.floating[Any]] | None = None
) -> npt.NDArray[np.float32]:
    """(N,) trust in each given label in [0, 1], 1 = sure.

    That of the method, which remembers the last epochs, averaged with what the model holds of the label now. Where
    contradictions are spread evenly over ten classes and more, as labels are that are wrong by chance, up to half of it
    is the mean probability of the given label over the visits: such labels are known early, and late training believes
    what it has learned to. Classes that are taken for each other are told apart late. Of a method that remembers
    nothing, that mean alone. A sample that training never saw is trusted as much as the model holds its label likely.

    Args:
        training: after any number of epochs.
        prob_given: (N,) probability of the given label now; None: the method's own trust alone.
    """
    history, quality = training.history, training.method.label_quality()
    trust, of_unseen = history.mean_prob_given.float().cpu().numpy(), prob_given
    if quality is not None:
        early, late = trust, quality.float().cpu().numpy()
        if prob_given is None:
            of_unseen = late
        else:
            late = (late + prob_given) / 2
        given, predicted = training.method.labels.cpu().numpy(), history.predicted.cpu().numpy()
        spread = beyond_usual_spread(given, predicted, training.method.task.num_classes)
        trust = late + min(spread, MOST_OF_COURSE) * (early - late)
    if of_unseen is not None:
        trust = np.where(np.isnan(trust), of_unseen, trust)
    return trust.astype(np.float32)


def sample_table(
    training: Training, data: TrainingData, dataset: Dataset, *, held_out: TrainingData | None = None
) -> SampleTable:
    """Look at all samples once, and gather what there is to know of each.

    Args:
        training: after any number of epochs.
        data: the training samples of `dataset`, all of them, in their order.
        dataset: names, given labels and, where known, true ones.
        held_out: the samples of `dataset.test`, if they were held out of training and are to be judged.
    """
    samples, names = dataset.train, np.array(dataset.class_names)
    features = Features(
        training.method.nets[int(np.argmax(np.abs(training.method.headline_weights())))],
        num_samples=len(samples) + (0 if held_out is None else len(dataset.test)),
    )
    given, count = samples.labels, len(samples)
    probs, others = evaluation.headline_probs(training, data, given, features=features)
    predicted, prob_given = probs.argmax(1), probs[np.arange(count), given]
    quality = label_quality(training, prob_given)
    judged = [(given, predicted, quality)]
    found = None
    if held_out is not None:
        unseen, others_unseen = evaluation.headline_probs(training, held_out, dataset.test.labels, features=features)
        prob = unseen[np.arange(len(unseen)), dataset.test.labels]
        judged.append((dataset.test.labels, unseen.argmax(1), prob))
        others_name = [classes for classes, _ in others_unseen.values()]
        found = HeldOut(
            probs=unseen,
            predicted=np.stack(others_name, axis=1) if others_name else np.empty((len(unseen), 0), np.int64),
        )
    labels, classes, trust = map(np.concatenate, zip(*judged, strict=True))
    outlier = outlier_scores(
        features.rows, given=labels, predicted=classes, trust=trust, num_seen=count, device=training.device
    )
    first: dict[str, Any] = {
        "id": list(samples.ids),
        "given_label": names[given],
        "predicted_label": names[predicted],
        "prob_given": prob_given,
        "prob_predicted": probs.max(1),
        "label_quality": quality,
    }
    beside: dict[str, Any] = {}
    for name, (named, prob) in others.items():
        beside[f"predicted_label_{name}"] = names[named]
        beside[f"prob_given_{name}"] = prob
    last: dict[str, Any] = {name: column.numpy() for name, column in training.history.table().items()}
    clean, known = samples.is_clean, samples.is_known
    if clean is not None and known is not None:
        last["label_is_true"] = np.where(known, np.where(clean, "yes", "no"), "unknown")
    order = of_samples_csv()
    return SampleTable(
        columns=in_order(first, order) | beside | in_order(last, order), probs=probs, held_out=found, outlier=outlier
    )
