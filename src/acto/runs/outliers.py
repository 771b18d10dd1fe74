"""Outliers: samples that look like none of the trusted ones, so that they may belong to no class.

The distance of a sample is the cosine distance, in the features of the network, to its fifth nearest trusted sample,
after Sun et al. 2022, "Out-of-Distribution Detection with Deep Nearest Neighbors" (https://arxiv.org/abs/2204.06507),
who ask it of new samples. Here the network was trained on the samples themselves, with labels that may be wrong: only
the most trusted of each class are neighbours, and nobody is its own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from acto.data.samples import Samples
from acto.runs.trained_model import TrainedModel
from acto.training.features import Features

NEIGHBOURS = 5
LEAST_OF_CLASS = 10
"""Confirmed samples of a class (the model predicts their given label) without which nothing is said of those that the
model takes for this class: their neighbours would be of another one."""
MOST_TRUSTED = 10_000
"""Trusted samples of all classes together, but for LEAST_OF_CLASS of each; drawn from more of them by a fixed seed."""
TAKEN, SHARPNESS = 0.8, 4
"""Share of the trust in its label that the farthest sample loses, and the power of the outlier score by which others
lose less: a usual one a twentieth. docs/decisions.md tells how they were chosen."""
_AT_ONCE = 2**23
"""Distances that are computed at a time: 32 MiB."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]


def outlier_scores(
    features: Tensor, *, given: Ints, predicted: Ints, trust: Floats, num_seen: int, device: torch.device
) -> npt.NDArray[np.float32]:
    """(N,) outlier scores in [0, 1]: the share of the confirmed samples that are nearer to the trusted ones.

    Confirmed are those whose given label the model predicts. Samples that were not trained on lie farther away than the
    others, and are compared with the confirmed ones among themselves. NaN where LEAST_OF_CLASS says so.

    Args:
        features: (N, D) of length 1, as acto.training.features gathers them.
        given: (N,) labels.
        predicted: (N,) classes.
        trust: (N,) in the given labels, in [0, 1].
        num_seen: samples that were trained on, the first ones.
        device: where to compute.
    """
    scores = np.full(len(features), np.nan, np.float32)
    confirmed = given == predicted
    is_seen = np.arange(len(features)) < num_seen
    trusted = _trusted(np.flatnonzero(confirmed & is_seen), given, trust)
    counts = np.bincount(given[confirmed & is_seen], minlength=int(predicted.max()) + 1)
    if len(trusted) <= NEIGHBOURS:
        return scores
    distances = _distances(features, trusted, device=device)
    for part in (is_seen, ~is_seen):
        usual = np.sort(distances[part & confirmed])
        # Half a sample, so that there is no 0 and no 1, and one half where there is nobody to compare with.
        scores[part] = (np.searchsorted(usual, distances[part]) + 0.5) / (len(usual) + 1)
    return np.where(counts[predicted] < LEAST_OF_CLASS, np.float32(np.nan), scores)


def ranked_trust(trust: Floats, outlier: Floats) -> npt.NDArray[np.float64]:
    """(N,) trust in given labels for ranking them, in [0, 1]: that of training, less what speaks for an outlier.

    Args:
        trust: (N,) in [0, 1].
        outlier: (N,) as outlier_scores gives them; NaN takes nothing away.
    """
    return trust * (1 - TAKEN * np.where(np.isnan(outlier), 0.0, outlier).astype(np.float64) ** SHARPNESS)


def judged_by(model: TrainedModel, samples: Samples) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(N, K) probabilities of labelled samples that a model has not seen, and (N,) outlier scores among themselves.

    Raises:
        UserError: see TrainedModel.predict_proba.
    """
    net = model.headline.nets[int(np.argmax(np.abs(model.headline.weights)))]
    features, given = Features(net, num_samples=len(samples)), samples.labels
    probs = model.predict_proba(samples, features=features)
    outlier = outlier_scores(
        features.rows, given=given, predicted=probs.argmax(1), trust=probs[np.arange(len(given)), given],
        num_seen=len(given), device=features.rows.device,
    )  # fmt: skip
    return probs, outlier


def _trusted(rows: Ints, given: Ints, trust: Floats) -> Ints:
    """Those of confirmed rows that are trusted most: of each class the better half, LEAST_OF_CLASS at least.

    A model names some class for a sample of none, at times the given one; such labels are trusted less than right ones.
    """
    rows = rows[np.lexsort((-trust[rows], given[rows]))]
    classes = np.split(rows, np.flatnonzero(np.diff(given[rows])) + 1)
    most = max(LEAST_OF_CLASS, MOST_TRUSTED // len(classes))
    random, found = np.random.default_rng(0), []
    for members in classes:
        best = members[: max(LEAST_OF_CLASS, (len(members) + 1) // 2)]
        found.append(best if len(best) <= most else random.choice(best, most, replace=False))
    return np.sort(np.concatenate(found))


@torch.no_grad()
def _distances(features: Tensor, neighbours: Ints, *, device: torch.device) -> npt.NDArray[np.float64]:
    """(N,) cosine distances to the NEIGHBOURS-th nearest of these ascending rows, none of which is its own."""
    known = features[torch.from_numpy(neighbours)].to(device).float()
    found = np.empty(len(features))
    block = max(1, _AT_ONCE // len(neighbours))
    for start in range(0, len(features), block):
        rows = slice(start, min(start + block, len(features)))
        near = features[rows].to(device).float() @ known.T
        own = np.arange(*np.searchsorted(neighbours, (rows.start, rows.stop)))
        near[torch.from_numpy(neighbours[own] - start), torch.from_numpy(own)] = -torch.inf
        found[rows] = 1 - near.topk(NEIGHBOURS, dim=1).values[:, -1].cpu().numpy()
    return found
