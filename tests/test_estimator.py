"""NoisyLabelClassifier: scikit-learn's own checks, and what it says of wrong labels."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, make_blobs
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import toys
from acto.core.errors import UserError
from acto.core.types import Batch, Clock, Task
from acto.data.pictures.stacks import pixels_of
from acto.estimator import NoisyLabelClassifier
from acto.methods import METHODS
from acto.training import evaluation


def not_expected(estimator: Any) -> dict[str, str]:
    reason = "a row of weight 2 stands in one batch, two rows of weight 1 in two: other steps, and other views"
    return {"check_sample_weight_equivalence_on_dense_data": reason}


@parametrize_with_checks([NoisyLabelClassifier(epochs=4, net="mlp:32")], expected_failed_checks=not_expected)
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


# Pictures -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> tuple[Any, Any, Any]:
    """300 digits of five classes as (N, H, W, C) uint8; a fifth of the labels moved to the next class."""
    data = load_digits(n_class=5)
    pixels = (data.images[:300] * 15.9).astype(np.uint8)[..., None]
    given = data.target[:300].copy()
    given[::5] = (given[::5] + 1) % 5
    return pixels, data.target[:300], given


@pytest.fixture(scope="module")
def seen(digits: tuple[Any, Any, Any]) -> NoisyLabelClassifier:
    pixels, _, given = digits
    return NoisyLabelClassifier(epochs=16, net="cnn_tiny", random_state=0).fit(pixels, given)


def test_pictures_are_learned_from(seen: NoisyLabelClassifier, digits: tuple[Any, Any, Any]) -> None:
    pixels, truth, given = digits
    assert (seen.picture_shape_, seen.n_features_in_) == ((8, 8, 1), 64)
    assert seen.score(pixels, truth) > 0.9
    assert np.mean(seen.label_issues_ == (truth != given)) > 0.9
    restored = joblib.load(io.BytesIO(dumped(seen)))
    assert np.array_equal(restored.predict_proba(pixels), seen.predict_proba(pixels))
    one_by_one = np.concatenate([seen.predict_proba(pixels[i : i + 1]) for i in range(9)])
    np.testing.assert_allclose(one_by_one, seen.predict_proba(pixels)[:9], rtol=1e-12)


def dumped(model: Any) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    return buffer.getvalue()


def test_floats_and_channels_in_front_are_the_same_pictures(
    seen: NoisyLabelClassifier, digits: tuple[Any, Any, Any]
) -> None:
    pixels, _, given = digits
    front = pixels.transpose(0, 3, 1, 2)
    short = clone(seen).set_params(epochs=2)
    as_floats = clone(short).fit(torch.from_numpy(front / np.float32(255)), given)
    assert as_floats.picture_shape_ == (1, 8, 8)
    assert np.array_equal(as_floats.predict_proba(front), short.fit(pixels, given).predict_proba(pixels))
    assert pixels_of(np.full((1, 8, 8, 1), 99.6 / 255)).max() == 100
    # What was trained is what predicts: pixels over 255, normalized, channels first.
    inputs = (torch.from_numpy(front / 255.0) - pixels.mean() / 255) / (pixels.std() / 255)
    np.testing.assert_allclose(seen._model(inputs).numpy(), seen.predict_proba(pixels), rtol=1e-9)


def test_colour_pictures_default_to_the_small_network() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(40) % 2
    pixels = random.integers(0, 100, (40, 12, 9, 3)) + 150 * labels[:, None, None, None] * np.array([1, 0, 0])
    model = NoisyLabelClassifier(epochs=3, random_state=0).fit(list(pixels.astype(np.uint8)), labels)
    assert [net.name for net in model._model.nets] == ["cnn_small"]
    assert model.score(pixels, labels) > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[..., 0], r"\(60, 8, 8\): pictures have four axes, grey ones \(N, H, W, 1\): pass X\[..., None\]"),
        (lambda x: x[:, :3, :, :].repeat(3, 3), r"\(60, 3, 8, 3\), which may be \(N, C, H, W\) or \(N, H, W, C\)"),
        (lambda x: x.repeat(4, 3), "pictures have 1 or 3 channels"),
        (lambda x: x[:, None], r"must be \(N, D\) features, or pictures of shape"),
        (lambda x: x / 1.0, "float64 from 0 to 254, .* or X / 255"),
        (lambda x: (x / 255 - 0.5) / 0.5, "before they are normalized"),
        (lambda x: x.astype(np.int32) * 200, r"of 16 bits pass \(X / 257\)"),
        (
            lambda x: np.where(np.arange(60)[:, None, None, None] == 7, np.nan, x / 255),
            "contains NaN or infinity: row 7",
        ),
        (lambda x: x > 3, "must be uint8, or floats from 0 to 1, not bool"),
        (lambda x: x[:0], r"X has no pictures: its shape is \(0, 8, 8, 1\)"),
        (lambda x: [x[0], *x[1:, :4]], r"other shapes: \(8, 8, 1\) in row 0, \(4, 8, 1\) in row 1"),
    ],
)
def test_pictures_that_cannot_be_used(digits: tuple[Any, Any, Any], change: Any, message: str) -> None:
    pixels, _, given = digits
    with pytest.raises(UserError, match=message):
        NoisyLabelClassifier(epochs=2).fit(change(pixels[:60]), given[:60])


@pytest.mark.parametrize("shape", [(5, 1, 8, 8), (5, 8, 8, 3), (5, 8, 8), (5, 64)])
def test_pictures_of_another_shape_are_not_predicted(seen: NoisyLabelClassifier, shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"fit had pictures of shape \(8, 8, 1\), but those of X have"):
        seen.predict(np.zeros(shape, np.uint8))


def test_features_and_pictures_are_not_taken_for_each_other(
    fitted: NoisyLabelClassifier, digits: tuple[Any, Any, Any]
) -> None:
    pixels, _, given = digits
    with pytest.raises(UserError, match="fit had a table of features, but X has the shape"):
        fitted.predict(pixels)
    with pytest.raises(UserError, match="net 'mlp' needs feature vectors"):
        NoisyLabelClassifier(net="mlp").fit(pixels, given)


# Weights ------------------------------------------------------------------------------------------------------------

WEIGHTED = [name for name, method in METHODS.items() if method.takes_weights]


def test_weights_of_one_change_nothing_and_only_ratios_count(blobs: tuple[Any, Any, Any]) -> None:
    points, _, given = blobs

    def probs(weights: Any, **settings: Any) -> Any:
        model = NoisyLabelClassifier(epochs=2, net="mlp:16", random_state=0, **settings)
        return model.fit(points, given, sample_weight=weights).predict_proba(points)

    plain = probs(None)
    assert np.array_equal(probs(np.full(240, 7.0)), plain) and np.array_equal(probs(2.0), plain)
    assert np.array_equal(probs(None, class_weight={"ant": 3, "bee": 3, "cat": 3}), plain)
    uneven = np.where(given == "ant", 4.0, 1.0)
    assert np.array_equal(probs(uneven), probs(None, class_weight={"ant": 4}))
    assert np.abs(probs(uneven) - plain).max() > 0.01
    counts = {name: 1 / np.sum(given == name) for name in ("ant", "bee", "cat")}
    np.testing.assert_allclose(probs(None, class_weight="balanced"), probs(None, class_weight=counts), rtol=1e-4)


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_weight_multiplies_the_loss_of_its_sample(name: str) -> None:
    """A batch in which one sample weighs all: its loss is the batch's size times that sample's part of the sum."""
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    inputs = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).double()
    index = torch.arange(6)

    def gradient(weights: Any) -> torch.Tensor:
        """Of the loss with respect to the inputs, in evaluation mode: a row depends on its own sample alone."""
        torch.manual_seed(0)
        config = METHODS[name].Config(**({"warmup_epochs": 1} if name == "acto" else {}))
        method = METHODS[name](config, Task(labels, 3, weights=weights), lambda: toys.LinearNet(5, 3)).double().eval()
        seen = inputs.clone().requires_grad_()
        total = torch.zeros(())
        for epoch in range(2):  # of ACTO the warm-up, then the robust phase
            total = total + method.loss((Batch(index, (seen, seen), labels),), Clock(epoch, 2)).loss
        return torch.autograd.grad(total, seen)[0]

    weights = torch.tensor([0.0, 3.0, 1.0, 0.5, 1.0, 0.5])
    plain, weighed = gradient(None), gradient(weights)
    assert plain.abs().sum() > 0
    torch.testing.assert_close(weighed, weights[:, None].double() * plain)


def test_a_row_of_weight_0_is_left_out_and_judged(blobs: tuple[Any, Any, Any]) -> None:
    points, truth, given = blobs
    weights = (np.arange(240) % 8 > 0).astype(float)  # half of the wrong labels
    model = NoisyLabelClassifier(epochs=16, net="mlp:64", random_state=0).fit(points, given, sample_weight=weights)
    left = weights == 0
    assert model.label_issues_[left].mean() > 0.9 and len(model.label_quality_) == 240
    assert model.score(points, truth) > 0.95


@pytest.mark.parametrize(
    ("settings", "weights", "message"),
    [
        (
            {"method": "dividemix"},
            np.ones(240),
            "sample_weight has no meaning for method 'dividemix'.*it has for acto, ",
        ),
        ({"method": "mixup", "class_weight": "balanced"}, None, "class_weight has no meaning for method 'mixup'"),
        ({}, np.ones(239), r"sample_weight has the shape \(239,\), but must be \(240,\)"),
        ({}, np.ones((240, 2)), r"sample_weight has the shape \(240, 2\)"),
        ({}, np.r_[np.ones(239), -1], "finite and at least 0, but that of row 239 is -1"),
        ({}, np.r_[np.nan, np.ones(239)], "finite and at least 0, but that of row 0 is nan"),
        ({}, ["much"] * 240, "sample_weight must be numbers"),
        (
            {"class_weight": {"dog": 2}},
            None,
            r"class_weight names 'dog', which is no class of y: \['ant', 'bee', 'cat'\]",
        ),
        ({"class_weight": {"ant": "2"}}, None, "class_weight of 'ant' is no number, but '2'"),
        ({"class_weight": {"ant": 0, "bee": 0}}, None, "the weights leave 1 class: 'cat'"),
        ({"class_weight": "even"}, None, "class_weight must be 'balanced' or"),
    ],
)
def test_weights_that_cannot_be_used(
    blobs: tuple[Any, Any, Any], settings: dict[str, Any], weights: Any, message: str
) -> None:
    points, _, given = blobs
    with pytest.raises(UserError, match=message):
        NoisyLabelClassifier(**settings).fit(points, given, sample_weight=weights)


def test_weights_of_another_index_are_refused() -> None:
    frame = pd.DataFrame({"a": np.arange(20.0), "b": np.arange(20.0) % 3})
    weights = pd.Series(np.ones(20), index=frame.index[::-1])
    with pytest.raises(UserError, match=r"sample_weight and data have different indexes"):
        NoisyLabelClassifier().fit(frame, np.arange(20) % 2, sample_weight=weights)


def test_one_class_is_refused(blobs: tuple[Any, Any, Any]) -> None:
    with pytest.raises(UserError, match="at least two classes are needed, but y has 1 class: 'bee'"):
        NoisyLabelClassifier().fit(blobs[0], ["bee"] * 240)


def test_importing_acto_loads_no_scikit_learn() -> None:
    code = "import sys, acto; assert 'sklearn' not in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
