"""The two-mode mixture against scikit-learn's, against a hand-written EM step, and on losses that have no two modes.

Small-loss selection is tested with Co-teaching, and over several processes in test_distributed.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from acto.methods.blocks.selection import min_max, place_in_class, top_classes, two_mode_mixture


def losses_of_two_kinds(num_low: int, num_high: int, *, seed: int) -> Tensor:
    random = np.random.RandomState(seed)
    low, high = random.gamma(1.0, 0.15, num_low), np.abs(random.normal(2.5, 0.8, num_high))
    return torch.from_numpy(random.permutation(np.concatenate([low, high]))).float()


def with_sklearn(values: Tensor, *, tolerance: float = 1e-2) -> np.ndarray:
    mixture = GaussianMixture(n_components=2, max_iter=10, tol=tolerance, reg_covar=5e-4, random_state=0)
    column = values.double().numpy().reshape(-1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(column)
    return mixture.predict_proba(column)[:, mixture.means_.argmin()]


@pytest.mark.parametrize(("num_low", "num_high"), [(800, 200), (500, 500), (200, 800), (950, 50)])
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_sklearn(num_low: int, num_high: int, seed: int) -> None:
    values = min_max(losses_of_two_kinds(num_low, num_high, seed=seed))
    found = two_mode_mixture(values)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, with_sklearn(values), atol=2e-3)


def test_one_em_step_by_hand() -> None:
    """The best split of 0, 0, 0.4, 1, 1 is {0, 0, 0.4} | {1, 1}: squares within of 0.107 against 0.24 for the next."""
    losses = torch.tensor([0.0, 0.0, 0.4, 1.0, 1.0])
    means = (0.4 / 3, 1.0)
    variances = (0.4**2 / 3 - (0.4 / 3) ** 2 + 5e-4, 5e-4)
    weights = (3 / 5, 2 / 5)

    def joint(x: float, k: int, means: tuple, variances: tuple, weights: tuple) -> float:
        density = math.exp(-((x - means[k]) ** 2) / (2 * variances[k])) / math.sqrt(2 * math.pi * variances[k])
        return weights[k] * density

    def shares(means: tuple, variances: tuple, weights: tuple) -> list[float]:
        both = [[joint(x, k, means, variances, weights) for k in range(2)] for x in losses.tolist()]
        return [low / (low + high) for low, high in both]

    first = shares(means, variances, weights)
    counts = (sum(first), 5 - sum(first))
    split = (first, [1 - s for s in first])
    means = tuple(sum(s * x for s, x in zip(split[k], losses.tolist(), strict=True)) / counts[k] for k in range(2))
    variances = tuple(
        sum(s * (x - means[k]) ** 2 for s, x in zip(split[k], losses.tolist(), strict=True)) / counts[k] + 5e-4
        for k in range(2)
    )
    expected = shares(means, variances, (counts[0] / 5, counts[1] / 5))
    np.testing.assert_allclose(two_mode_mixture(losses, max_steps=1), expected, atol=1e-6)


def test_low_losses_look_clean() -> None:
    found = two_mode_mixture(min_max(torch.tensor([0.1, 2.0, 0.2, 2.2, 0.15, 1.9])))
    assert (found > 0.5).tolist() == [True, False, True, False, True, False]
    assert found.min() >= 0 and found.max() <= 1


def test_ten_steps_are_taken_where_the_tolerance_does_not_stop_it() -> None:
    values = min_max(losses_of_two_kinds(200, 800, seed=3))
    found = two_mode_mixture(values, tolerance=0.0)
    np.testing.assert_allclose(found, with_sklearn(values, tolerance=0.0), atol=2e-3)
    assert (found - two_mode_mixture(values, tolerance=0.0, max_steps=100)).abs().max() > 0.01


@pytest.mark.parametrize("num_samples", [1, 2, 7])
def test_equal_losses_all_look_clean(num_samples: int) -> None:
    losses = torch.full((num_samples,), 0.7)
    assert min_max(losses).tolist() == [0.0] * num_samples
    assert two_mode_mixture(losses).tolist() == [1.0] * num_samples


def test_what_is_not_finite_looks_wrong_and_changes_nothing_else() -> None:
    finite = losses_of_two_kinds(60, 40, seed=5)
    broken = torch.cat([torch.tensor([math.nan]), finite, torch.tensor([math.inf, math.nan])])
    scaled = min_max(broken)
    assert torch.equal(scaled[1:-2], min_max(finite))
    found = two_mode_mixture(scaled)
    assert found[[0, -2, -1]].tolist() == [0.0, 0.0, 0.0]
    assert torch.equal(found[1:-2], two_mode_mixture(min_max(finite)))


def test_nothing_finite() -> None:
    losses = torch.full((3,), math.nan)
    assert two_mode_mixture(min_max(losses)).tolist() == [0.0, 0.0, 0.0]


def test_one_outlier_among_zeros_stays_finite() -> None:
    found = two_mode_mixture(min_max(torch.tensor([0.0] * 50 + [9.0])))
    assert found.isfinite().all()
    assert (found > 0.5).tolist() == [True] * 50 + [False]


def test_min_max() -> None:
    assert min_max(torch.tensor([3.0, 1.0, 2.0])).tolist() == [1.0, 0.0, 0.5]


def test_the_order_of_samples_does_not_matter() -> None:
    values = min_max(losses_of_two_kinds(70, 30, seed=6))
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(two_mode_mixture(values[order]), two_mode_mixture(values)[order], atol=1e-6)


def test_place_in_class() -> None:
    losses = torch.tensor([0.5, 0.1, 2.0, 0.1, 0.5, math.nan, 0.5, 0.0])
    labels = torch.tensor([0, 3, 0, 0, 0, 3, 1, 0])
    assert place_in_class(losses, labels, num_classes=4).tolist() == [2, 0, 4, 1, 3, 1, 0, 0]


def test_top_classes() -> None:
    logits = torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.2, 0.55], [0.1, 0.3, 0.6], [0.2, 0.7, 0.1]]).log()
    assert top_classes(logits, 2).int().tolist() == [[1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 0]]
    assert top_classes(logits, 1).int().argmax(1).tolist() == [0, 2, 2, 1]
