"""The temperature that makes a model's probabilities mean what they say, fitted on held-out labels that may be wrong.

Robust training leaves probabilities too flat (label smoothing, mixtures) or too sharp. Dividing the logits by one
number T corrects most of that (Guo et al. 2017). Where the held-out labels are noisy themselves, the usual fit of T
would learn the noise and make the model doubt everything; so the noise is part of the likelihood here,

    p(given = j) = sum_k p_T(k) M_kj,   M_kk = 1 - e,   M_kj = e / (K - 1) off the diagonal,

and T and e are fitted together.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.documents import read_json
from acto.core.errors import RunError, UserError
from acto.core.settings import Settings, from_values, setting

CALIBRATION_FILE = "calibration.json"
"""Its name in a run's folder."""
LOWEST, HIGHEST = 0.05, 20.0
"""Bounds of the temperature."""
FEWEST_SAMPLES = 50
"""Held-out samples below which nothing is fitted."""
MOST_SAMPLES = 5000
"""Held-out samples that are looked at, spread evenly: for two numbers more would bring nothing but work."""
MOST_PROBS = 5_000_000
"""Probabilities of them that are looked at: with over 1,000 classes fewer samples are."""
_PRIOR = 0.5
"""Deviation of log T before any sample is seen. T of 0.3, which strong label smoothing needs, costs three nats."""
_STARTS = ((0.0, 0.05), (0.0, 0.4), (-1.0, 0.2))
"""(log T, e as a share of its bound): the likelihood may have more than one summit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration(Settings):
    """Calibration of a model's probabilities."""

    temperature: float = setting(1.0, low=LOWEST, high=HIGHEST)
    """By which logits are divided; 1 leaves the probabilities as they are."""
    noise_rate_holdout: float | None = setting(None, low=0, high=1)
    """Share of wrong labels among the held-out ones, in [0, 1], as fitted with the temperature; None: not fitted."""
    num_holdout: int = setting(0, low=0)
    """Held-out samples that the temperature was fitted on."""
    reason: str = "the run has no calibration.json"
    """Origin of the temperature, in words."""

    def to_json(self) -> bytes:
        """As it stands in a run's folder."""
        return json.dumps(asdict(self), indent=1).encode() + b"\n"


def read_calibration(folder: Path) -> Calibration:
    """A run's calibration; a temperature of 1 where it has none.

    Raises:
        RunError: the file is damaged.
    """
    path = folder / CALIBRATION_FILE
    try:
        return from_values(Calibration, read_json(path))
    except FileNotFoundError:
        return Calibration()
    except UserError as error:
        raise RunError(f"{path} is damaged: {error}") from error


def calibrate(held_out: tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.integer[Any]]] | None) -> Calibration:
    """The calibration of a finished run.

    Args:
        held_out: (M, K) headline probabilities and (M,) given labels of the training data that were held out; None:
            there is a real test set. That one chooses nothing: accuracy on it would no longer be that of unseen data.
    """
    if held_out is None:
        return Calibration(reason="not fitted: the test set is no part of the training data, and must not choose it")
    probs, labels = held_out
    if len(labels) < FEWEST_SAMPLES:
        return Calibration(
            num_holdout=len(labels),
            reason=f"not fitted: {len(labels)} held-out samples are fewer than {FEWEST_SAMPLES}",
        )
    if not np.isfinite(probs).all():
        return Calibration(num_holdout=len(labels), reason="not fitted: the model's probabilities are not finite")
    most = min(len(labels), MOST_SAMPLES, max(FEWEST_SAMPLES, MOST_PROBS // probs.shape[1]))
    rows = np.linspace(0, len(labels) - 1, most).round().astype(np.int64)
    temperature, noise_rate = fit_temperature(probs[rows], labels[rows])
    return Calibration(
        temperature=temperature,
        noise_rate_holdout=noise_rate,
        num_holdout=len(rows),
        reason=f"fitted on {len(rows)} held-out samples with their given labels, together with their noise rate",
    )


def fit_temperature(probs: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.integer[Any]]) -> tuple[float, float]:
    """T in [LOWEST, HIGHEST] and the noise rate e in [0, (K - 1) / K), of greatest likelihood.

    A weak prior keeps T near 1 where the labels say little of it: a model that gets every sample right would be the
    better, the colder, and with two classes doubt and noise look much alike. Deterministic, in float64.

    Args:
        probs: (N, K), K at least 2, rows sum to 1.
        labels: (N,) in 0..K - 1.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    num_classes = probs.shape[1]
    # A probability that float32 rounded to 0 must not make a label impossible.
    logits = np.log(np.maximum(probs.astype(np.float64), 1e-30))
    rows = np.arange(len(labels))
    highest_rate = 0.95 * (num_classes - 1) / num_classes  # there labels say nothing any more

    def negative_log_posterior(point: npt.NDArray[np.float64]) -> float:
        log_temperature, rate = float(point[0]), highest_rate * float(point[1])
        given = np.exp(log_softmax(logits / math.exp(log_temperature), axis=1)[rows, labels])
        likely = (1 - rate) * given + rate / (num_classes - 1) * (1 - given)
        return -float(np.log(np.maximum(likely, 1e-300)).sum()) + (log_temperature / _PRIOR) ** 2 / 2

    found = [
        minimize(
            negative_log_posterior, start, method="L-BFGS-B", bounds=((math.log(LOWEST), math.log(HIGHEST)), (0.0, 1.0))
        )
        for start in _STARTS
    ]
    best = min(found, key=lambda result: float(result.fun))
    return math.exp(float(best.x[0])), highest_rate * float(best.x[1])


def expected_calibration_error(
    probs: npt.NDArray[np.floating[Any]], true_labels: npt.NDArray[np.integer[Any]], *, bins: int = 15
) -> float:
    """Mean distance of confidence and accuracy over bins of equal width, weighted by their samples; 0 is perfect.

    Args:
        probs: (N, K).
        true_labels: (N,).
        bins: how many.
    """
    confidence, right = probs.max(1), probs.argmax(1) == true_labels
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, weights=right - confidence.astype(np.float64), minlength=bins)
    return float(np.abs(gaps).sum() / len(true_labels))
