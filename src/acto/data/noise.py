"""Label noise made on purpose: symmetric, asymmetric, open-set and instance-dependent labels from clean ones.

"Symmetric" and "asymmetric" are those of the CIFAR100N/CIFAR80N papers, where `rate` is the true share of wrong labels
among the closed classes; other papers mean other things by them. Everything is drawn from numpy's legacy RandomState,
whose numbers never change between versions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError, check_range, choose
from acto.core.settings import Settings, setting
from acto.data.moments import moments

KINDS = ("none", "symmetric", "asymmetric", "instance", "file", "human")
PIXEL_SCALES = ("raw", "unit", "standardized")
MOST_CLASSES = 20_000
"""Classes whose table of chances is made: 3.2 GB."""

Labels = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float64]

_RATE_DEVIATION = 0.1
"""Spread of the flip rate over the samples (part-dependent noise)."""
_CHUNK = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseSpec(Settings):
    """Noise to put on the labels of the training set."""

    kind: str = setting("none", choices=KINDS, name="noise kind")
    """none: labels as they are; symmetric, asymmetric, instance: drawn; file: read from `path`; human: one of the label
    sets in a CIFAR-N file."""
    rate: float = setting(0.0, low=0, high=1, name="noise rate")
    """Share of wrong labels; with open-set classes: among the closed ones."""
    open_rate: float = setting(0.0, low=0, high=1, name="noise open_rate")
    """Share of the classes, the last ones, whose pictures stay but get labels of the others (open-set noise)."""
    seed: int = setting(0, low=0, high=2**32 - 1, name="noise seed")
    """Seed of the draws, apart from every other seed; the published labels have 0."""
    path: str | None = None
    """Label file of kinds file and human; for human None finds it under the data root."""
    name: str | None = None
    """Name of the labels in the file: a key of .npz and CIFAR-N files, a column of .csv files."""
    pixel_scale: str = setting("raw", choices=PIXEL_SCALES, name="pixel scale")
    """Input of kind instance: raw (0 to 255), unit (0 to 1) or standardized (mean 0, deviation 1 of each channel). It
    decides the noise: raw flips most of a class to one other, standardized spreads over many."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.rate and self.kind in ("none", "file", "human"):
            raise UserError(f"noise kind {self.kind!r} has no rate to set, but rate is {self.rate:g}")
        if self.open_rate and self.kind in ("instance", "file", "human"):
            raise UserError(f"noise kind {self.kind!r} has no open_rate to set, but it is {self.open_rate:g}")
        if self.kind == "file" and not self.path:
            raise UserError("noise kind 'file' needs the path of a label file (.npy, .npz, .csv or .txt)")
        if self.kind not in ("file", "human") and (self.path or self.name):
            raise UserError(f"noise kind {self.kind!r} reads no file, but path is {self.path!r} and name {self.name!r}")


def num_closed_classes(num_classes: int, open_rate: float) -> int:
    """Count the classes that remain of `num_classes` when the last `open_rate` of them are open-set.

    Raises:
        UserError: open_rate is no whole number of classes, or fewer than two classes remain.
    """
    num_open = round(num_classes * open_rate)
    if abs(num_open - num_classes * open_rate) > 1e-6:
        raise UserError(f"open_rate {open_rate:g} of {num_classes} classes is no whole number of classes")
    if num_classes - num_open < 2:
        raise UserError(f"open_rate {open_rate:g} of {num_classes} classes leaves fewer than 2 classes")
    return num_classes - num_open


def transition_matrix(kind: str, *, rate: float, num_classes: int, open_rate: float = 0.0) -> Matrix:
    """Chances (C, C) that a sample of class [row] gets label [column], over all C original classes.

    With K closed classes: symmetric keeps a label with 1 - rate, else takes any of the other K - 1 alike; asymmetric
    turns y into (y + 1) mod K with chance `rate`. The last `open_rate` of the classes are open-set: their rows are
    spread evenly over the K closed ones, and no row leads to them.

    Args:
        kind: symmetric or asymmetric.
        rate: share of wrong labels among closed classes, in [0, 1].
        num_classes: C, open-set classes included.
        open_rate: share of open-set classes in [0, 1), a whole number of classes.

    Raises:
        UserError: an unknown kind, a number out of range, or more than MOST_CLASSES.
    """
    choose("noise kind", kind, ("symmetric", "asymmetric"))
    if num_classes > MOST_CLASSES:
        raise UserError(
            f"noise is put on labels of at most {MOST_CLASSES:,} classes, and these are {num_classes:,}: its table of "
            "chances has their square. Bring the noisy labels with the data (true labels beside them are compared)"
        )
    check_range("noise rate", rate, low=0.0, high=1.0)
    check_range("noise open_rate", open_rate, low=0.0, high=1.0)
    num_closed = num_closed_classes(num_classes, open_rate)
    matrix = np.zeros((num_classes, num_classes))
    closed = np.arange(num_closed)
    if kind == "symmetric":
        matrix[:num_closed, :num_closed] = rate / (num_closed - 1)
    else:
        matrix[closed, (closed + 1) % num_closed] = rate
    matrix[closed, closed] = 1.0 - rate
    matrix[num_closed:, :num_closed] = 1.0 / num_closed
    return matrix


def draw_labels(labels: npt.ArrayLike, matrix: Matrix, *, seed: int = 0) -> Labels:
    """Draw a label for each sample, in order: RandomState(seed).multinomial(1, matrix[label]), bit for bit.

    Args:
        labels: (N,) true classes.
        matrix: (C, C) chances as of transition_matrix.
        seed: of the draws.

    Raises:
        UserError: a label that is no row of the matrix, or a row that is no distribution.
    """
    labels = np.asarray(labels, np.int64)
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]
    if not square or not np.allclose(matrix.sum(1), 1.0) or matrix.min() < 0:
        raise UserError(f"a transition matrix is square and its rows sum to 1; this one is {matrix.shape}")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(matrix):
        raise UserError(f"labels run from {labels.min()} to {labels.max()}, but the matrix has {len(matrix)} classes")
    rows = [np.ascontiguousarray(row, np.float64) for row in matrix]
    multinomial = np.random.RandomState(seed).multinomial
    drawn = np.empty_like(labels)
    # One call draws a run of equal labels: the same numbers, and sorted data is fast.
    bounds = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    for start, stop in pairwise(bounds) if len(labels) else ():
        drawn[start:stop] = multinomial(1, rows[labels[start]], size=stop - start).argmax(1)
    return drawn


def instance_dependent(
    features: npt.NDArray[np.generic],
    labels: npt.ArrayLike,
    *,
    rate: float,
    num_classes: int,
    seed: int = 0,
    scale: str = "raw",
) -> Labels:
    """Part-dependent noise (Xia et al., NeurIPS 2020): each sample has its own flip rate and its own wrong classes.

    A sample's flip rate q comes from a normal distribution around `rate` with deviation 0.1, cut to [0, 1]; the label
    goes wrong with chance q, to the other classes by the softmax of its features times a random matrix of its class.
    The cut makes the mean rate at 0.1 about 0.129. A rate of 0 leaves all labels as they are.

    Only one class's matrix and a chunk of its samples are in memory at a time. The law is the paper's; its public
    labels cannot be matched, because they were computed in float32 on a GPU.

    Args:
        features: (N, ...) pixels (uint8, channels last) or feature vectors.
        labels: (N,) true classes, 0 to num_classes - 1.
        rate: mean share of wrong labels in [0, 1].
        num_classes: K.
        seed: of all draws.
        scale: raw, unit or standardized; see NoiseSpec.pixel_scale.

    Raises:
        UserError: a value out of range, or unit scale for vectors.
    """
    check_range("noise rate", rate, low=0.0, high=1.0)
    choose("pixel scale", scale, PIXEL_SCALES)
    labels = np.asarray(labels, np.int64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise UserError(f"labels run from {labels.min()} to {labels.max()}, but there are {num_classes} classes")
    if rate == 0:
        return labels.copy()
    shift, factor = _scaling(features, scale)
    random = np.random.RandomState(seed)
    flip_rates = _truncated_normal(random, rate, len(labels))
    dice = random.random_sample(len(labels))
    noisy = np.empty_like(labels)
    for label in range(num_classes):
        weights = random.standard_normal((features[0].size, num_classes))
        members = np.flatnonzero(labels == label)
        for start in range(0, len(members), _CHUNK):
            part = members[start : start + _CHUNK]
            inputs = ((features[part].astype(np.float64) - shift) * factor).reshape(len(part), -1)
            scores = inputs @ weights
            scores[:, label] = -np.inf
            chances = np.exp(scores - scores.max(1, keepdims=True))
            chances *= (flip_rates[part] / chances.sum(1))[:, None]
            chances[:, label] = 1.0 - flip_rates[part]
            passed = np.cumsum(chances, axis=1) <= dice[part, None]
            noisy[part] = np.minimum(passed.sum(1), num_classes - 1)  # rounding may leave the sum just below the dice
    return noisy


def sha256_of_labels(labels: npt.ArrayLike) -> str:
    """Hex digest over the labels as little-endian int64: the same on every machine."""
    return hashlib.sha256(np.ascontiguousarray(labels, "<i8").tobytes()).hexdigest()


def _truncated_normal(random: np.random.RandomState, mean: float, count: int) -> npt.NDArray[np.float64]:
    draws = random.normal(mean, _RATE_DEVIATION, count)
    while (outside := np.flatnonzero((draws < 0) | (draws > 1))).size:
        draws[outside] = random.normal(mean, _RATE_DEVIATION, outside.size)
    return draws


def _scaling(features: npt.NDArray[np.generic], scale: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Shift and factor of each channel (of each feature for vectors) that bring the features to `scale`."""
    if scale == "raw":
        return np.zeros(1), np.ones(1)
    if scale == "unit":
        if features.dtype != np.uint8:
            raise UserError("pixel scale 'unit' needs pixels from 0 to 255; choose raw or standardized for vectors")
        return np.zeros(1), np.full(1, 1 / 255)
    mean, deviation = moments(features)
    return mean, 1 / np.where(deviation > 0, deviation, 1.0)
