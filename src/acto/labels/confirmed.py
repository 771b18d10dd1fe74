"""Estimate of the noise where people hold some labels right: these count as right, and tell nothing of the others.

torch is never imported here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from acto.labels.rate import NONE_SEEN, Unseen, estimate_noise
from acto.labels.report import NoiseEstimate
from acto.labels.scores import Look

_OF_SAMPLES = ("given", "predicted", "confidence", "prob_given", "prob_other")
"""The (N,) parts of a Look."""


def noise_beside(
    look: Look,
    confirmed: npt.NDArray[np.bool_],
    *,
    unseen: Unseen | None = None,
    doubted: npt.NDArray[np.bool_] | None = None,
) -> NoiseEstimate:
    """Estimate the noise of all labels from those that nobody confirmed.

    What the model makes of confirmed ones is left out: they were looked at because it contradicts them, so that its
    errors are more frequent there than anywhere else.

    Args:
        look: at the probabilities of all N samples.
        confirmed: (N,) labels that are right.
        unseen: what the model makes of labels that it has not seen, and nobody has confirmed.
        doubted: see acto.labels.rate.estimate_noise.
    """
    num_samples, num_classes, counts = len(look.given), len(look.counts), look.counts
    rest = np.flatnonzero(~confirmed)
    every = np.arange(num_classes)[counts > 0]
    if not len(rest):
        least = 1 - np.minimum(1, NONE_SEEN / counts[every])
        return NoiseEstimate(
            rate=0.0, rate_low=0.0, rate_high=min(1.0, NONE_SEEN / num_samples), given=every, right=every,
            share=np.ones(len(every)), low=least, high=np.ones(len(every)), counts=counts, resamples=0,
        )  # fmt: skip
    columns = {name: getattr(look, name)[rest] for name in _OF_SAMPLES}
    doubted = None if doubted is None else doubted[rest]
    counts_rest = np.bincount(columns["given"], minlength=num_classes)
    part = len(rest) / num_samples
    if unseen is not None:
        unseen = replace(unseen, share=part)
    found = estimate_noise(replace(look, **columns, counts=counts_rest), unseen=unseen, doubted=doubted)
    whole = np.setdiff1d(every, found.given)  # all of these classes were confirmed
    given, right = np.append(found.given, whole), np.append(found.right, whole)
    part_of = counts_rest[given] / counts[given]
    values = (np.append(column, np.ones(len(whole))) for column in (found.share, found.low, found.high))
    share, low, high = (np.where(given == right, 1 - (1 - v) * part_of, v * part_of) for v in values)
    order = np.lexsort((right, given))
    return NoiseEstimate(
        rate=found.rate * part,
        rate_low=found.rate_low * part,
        rate_high=found.rate_high * part,
        given=given[order],
        right=right[order],
        share=share[order],
        low=low[order],
        high=high[order],
        counts=counts,
        resamples=0,
    )
