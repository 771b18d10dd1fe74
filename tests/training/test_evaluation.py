from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from acto.training.evaluation import auroc, last_epochs_mean, selection_scores


def test_auroc_is_scikit_learns_with_ties() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 12, 300).astype(np.float64)
    positive = rng.random(300) < 0.3
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    assert auroc(np.array([0.1, 0.9]), np.array([False, True])) == 1
    assert math.isnan(auroc(scores, np.ones(300, dtype=bool)))


def test_selection_scores_are_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    selected, clean = rng.random(200) < 0.6, rng.random(200) < 0.7
    scores = selection_scores(selected, clean)
    assert scores["selection_precision"] == pytest.approx(precision_score(clean, selected))
    assert scores["selection_recall"] == pytest.approx(recall_score(clean, selected))
    assert scores["selection_f1"] == pytest.approx(f1_score(clean, selected))
    assert math.isnan(selection_scores(np.zeros(3, dtype=bool), np.ones(3, dtype=bool))["selection_precision"])


def test_the_headline_is_the_mean_of_the_last_ten() -> None:
    assert last_epochs_mean([0.0] * 5 + [float(v) for v in range(10)]) == 4.5
    assert last_epochs_mean([0.25, 0.75]) == 0.5
