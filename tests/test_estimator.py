"""NoisyLabelClassifier: scikit-learn's own checks, and what it says of wrong labels."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from acto.core.errors import UserError
from acto.estimator import NoisyLabelClassifier
from acto.training import evaluation


@parametrize_with_checks([NoisyLabelClassifier(epochs=4, net="mlp:32")])
def test_scikit_learn_checks(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def blobs() -> tuple[Any, Any, Any]:
    """Three clusters, 240 points; a quarter of the labels moved to the next class."""
    points, truth = make_blobs(240, centers=3, n_features=4, random_state=0)
    names = np.array(["ant", "bee", "cat"])
    given = truth.copy()
    given[::4] = (truth[::4] + 1) % 3
    return points, names[truth], names[given]


@pytest.fixture(scope="module")
def fitted(blobs: tuple[Any, Any, Any]) -> NoisyLabelClassifier:
    points, _, given = blobs
    return NoisyLabelClassifier(epochs=16, net="mlp:64", random_state=0).fit(points, given)


def test_it_finds_the_wrong_labels(fitted: NoisyLabelClassifier, blobs: tuple[Any, Any, Any]) -> None:
    points, truth, given = blobs
    wrong = truth != given
    assert fitted.classes_.tolist() == ["ant", "bee", "cat"]
    assert fitted.score(points, truth) > 0.97
    assert fitted.label_quality_[wrong].max() < 0.5 < fitted.label_quality_[~wrong].mean()
    assert np.mean(fitted.label_issues_ == wrong) > 0.95
    assert np.mean(fitted.suggested_labels_ == truth) > 0.95
    assert (fitted.suggested_labels_ == given)[~fitted.label_issues_].all()
    assert fitted.noise_rate_ == pytest.approx(fitted.label_issues_.mean())


def test_the_transition_matrix_has_right_classes_as_rows(
    fitted: NoisyLabelClassifier, blobs: tuple[Any, Any, Any]
) -> None:
    # Every wrong label is the class after the right one: cat is taken for ant.
    matrix = fitted.transition_matrix_
    np.testing.assert_allclose(matrix.sum(1), 1)
    for right, given in ((0, 1), (1, 2), (2, 0)):
        assert 0.15 < matrix[right, given] < 0.35
        assert matrix[given, right] < 0.05


def test_equal_random_states_give_equal_models_and_leave_torch_alone(blobs: tuple[Any, Any, Any]) -> None:
    points, _, given = blobs

    def probs(seed: Any) -> Any:
        return NoisyLabelClassifier(epochs=2, net="mlp:16", random_state=seed).fit(points, given).predict_proba(points)

    before = torch.random.get_rng_state()
    assert np.array_equal(probs(1), probs(1))
    assert np.array_equal(probs(np.random.RandomState(3)), probs(np.random.RandomState(3)))
    assert not np.array_equal(probs(1), probs(2))
    assert torch.equal(before, torch.random.get_rng_state())


def test_it_works_in_pipeline_search_and_cross_validation(blobs: tuple[Any, Any, Any]) -> None:
    points, truth, given = blobs
    model = make_pipeline(StandardScaler(), NoisyLabelClassifier(epochs=4, net="mlp:32", random_state=0))
    search = GridSearchCV(model, {"noisylabelclassifier__lr": [1e-5, 0.05]}, cv=2).fit(points, given)
    assert search.best_params_ == {"noisylabelclassifier__lr": 0.05}
    held_out = cross_val_predict(clone(model), points, given, cv=2, method="predict_proba")
    assert held_out.shape == (240, 3)
    assert np.mean(np.unique(truth)[held_out.argmax(1)] == truth) > 0.9


def test_a_stored_model_predicts_the_same(fitted: NoisyLabelClassifier, blobs: tuple[Any, Any, Any]) -> None:
    points = blobs[0]
    buffer = io.BytesIO()
    joblib.dump(fitted, buffer)
    assert len(buffer.getvalue()) < 200_000  # two layers of 64 in float64, and no memory of every sample
    buffer.seek(0)
    assert np.array_equal(joblib.load(buffer).predict_proba(points), fitted.predict_proba(points))


def test_features_far_from_zero_keep_their_digits(blobs: tuple[Any, Any, Any]) -> None:
    # In float32 a time stamp has no seconds left.
    points, truth, given = blobs
    model = NoisyLabelClassifier(epochs=8, net="mlp:32", random_state=0).fit(1.7e9 + points, given)
    assert model.score(1.7e9 + points, truth) > 0.95


@pytest.mark.parametrize("method", ["standard", "dividemix", "elr-plus"])
def test_other_methods_fit_too(blobs: tuple[Any, Any, Any], method: str) -> None:
    points, truth, given = blobs
    model = NoisyLabelClassifier(method=method, epochs=6, net="mlp:32", random_state=0).fit(points, given)
    assert model.score(points, truth) > 0.8
    assert np.isfinite(model.label_quality_).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "acot"}, "unknown method 'acot'. Did you mean 'acto'"),
        ({"net": "resnet18"}, "net must be 'mlp' or 'mlp:WIDTH', not 'resnet18'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": "two"}, "protocol.epochs must be a whole number, but got 'two'"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"noise_rate": 1.5}, "assumed_noise_rate is 1.5"),
        ({"warmup_epochs": 50}, "warmup_epochs is 50, more than the 40 epochs"),
        ({"stop_early": 0}, "stop_early is 0"),
        ({"stop_early": True}, "protocol.stop_early must be a whole number or null, but got True"),
        ({"stop_early": 2, "warmup_epochs": 40}, "chooses among the epochs after the warm-up, and all 40"),
    ],
)
def test_parameters_that_cannot_be_used(blobs: tuple[Any, Any, Any], settings: dict[str, Any], message: str) -> None:
    points, _, given = blobs
    with pytest.raises(UserError, match=message):
        NoisyLabelClassifier(**settings).fit(points, given)


def test_an_early_end_holds_a_tenth_out_and_keeps_the_best_epoch(
    blobs: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    points, _, given = blobs
    settings: dict[str, Any] = {"method": "standard", "net": "mlp:32", "random_state": 0}
    seen: list[int] = []

    def scripted(training: Any, data: Any) -> dict[str, float]:
        seen.append(data.num_samples)
        return {"net": [0.3, 0.5, 0.7, 0.2, 0.2, 0.2][training.epochs_done - 1]}

    monkeypatch.setattr(evaluation, "accuracy", scripted)
    model = NoisyLabelClassifier(epochs=30, stop_early=2, **settings).fit(points, given)
    assert (model.n_epochs_, seen) == (3, [24] * 5)
    assert len(model.label_quality_) == 240 and np.isfinite(model.label_quality_).all()
    # Rows held out have what the model holds of their label now, the others the mean over their visits.
    now = model.predict_proba(points)[np.arange(240), np.searchsorted(model.classes_, given)]
    assert (model.label_quality_ == now.astype(np.float32)).sum() == 24
    # One epoch more of patience, or one less: the model that is kept is the same.
    impatient = NoisyLabelClassifier(epochs=30, stop_early=1, **settings).fit(points, given)
    assert impatient.n_epochs_ == 3 and np.array_equal(impatient.predict_proba(points), model.predict_proba(points))
    monkeypatch.undo()
    last = NoisyLabelClassifier(epochs=30, **settings).fit(points, given)
    assert last.n_epochs_ == 30 and np.abs(last.predict_proba(points) - model.predict_proba(points)).max() > 0.1


def test_too_few_rows_to_hold_any_out() -> None:
    with pytest.raises(UserError, match="4 samples are too few to hold out 10% of each class"):
        NoisyLabelClassifier(stop_early=2).fit(np.eye(4), [0, 1, 0, 1])


def test_one_class_is_refused(blobs: tuple[Any, Any, Any]) -> None:
    with pytest.raises(UserError, match="at least two classes are needed, but y has 1 class: 'bee'"):
        NoisyLabelClassifier().fit(blobs[0], ["bee"] * 240)


def test_importing_acto_loads_no_scikit_learn() -> None:
    code = "import sys, acto; assert 'sklearn' not in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
