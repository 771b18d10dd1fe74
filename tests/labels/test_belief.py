"""The rate's interval, the warnings and the first suspects, on made data with known truth."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from acto.core.text import percent
from acto.labels.audit import Trained, audit, report_on
from acto.labels.belief import FITTED, UNSURE, WIDE, first_suspects, unsure_share
from acto.labels.rate import Unseen, estimate_noise, kappa
from acto.labels.report import LabelReport, NoiseEstimate
from acto.labels.rules import Issues
from acto.labels.scores import label_quality, look_at
from acto.methods.standard import Standard

Array = npt.NDArray[Any]


def made(*, skill: float, noise: float, n: int = 2000, k: int = 4, seed: int = 0) -> tuple[Array, Array, Array]:
    """Given labels, probabilities of a calibrated model, and which labels are wrong. `skill`: size of the logits."""
    random = np.random.default_rng(seed)
    true = random.integers(0, k, n)
    given = np.where(random.random(n) < noise, (true + random.integers(1, k, n)) % k, true)
    logits = random.normal(size=(n, k))
    logits[np.arange(n), true] += skill
    probs = np.exp(skill * logits)
    return given, probs / probs.sum(1, keepdims=True), given != true


def codes(report: LabelReport) -> list[str]:
    return [doubt.code for doubt in report.warnings]


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1, 0.3, 0.45])
@pytest.mark.parametrize("skill", [1.5, 2.5, 4.0])
def test_the_interval_holds_the_truth(skill: float, noise: float) -> None:
    given, probs, wrong = made(skill=skill, noise=noise)
    found = estimate_noise(look_at(given, probs))
    assert found.rate_low <= wrong.mean() <= found.rate_high
    assert 0 <= found.rate_low <= found.rate <= found.rate_high <= 1 and found.rate_high > found.rate_low
    assert (found.low <= found.share).all() and (found.share <= found.high).all() and (found.high <= 1).all()
    np.testing.assert_allclose(found.matrix.sum(1), 1)
    if noise == 0:
        assert found.rate_low == 0


def test_a_better_model_knows_more() -> None:
    widths = []
    for skill in (1.5, 2.5, 4.0):
        given, probs, _ = made(skill=skill, noise=0.2)
        found = estimate_noise(look_at(given, probs))
        widths.append(found.rate_high - found.rate_low)
    assert widths[0] > 0.2 > widths[1] > 0.03 > widths[2]


def test_numbers_by_hand() -> None:
    # Of 1,000 given 0, 300 are predicted 1: 200 at .9 (at least the .8 that those given 1 get, and .1 is little beside
    # .9), 100 at .6, which is less. The model expects to err in 19 % and contradicts 15 %.
    probs = np.repeat([[0.8, 0.2], [0.1, 0.9], [0.4, 0.6], [0.2, 0.8]], [700, 200, 100, 1000], axis=0)
    given = np.repeat([0, 1], 1000)
    found = estimate_noise(look_at(given, probs))
    spread = 1.96 / 2 * 100**0.5
    assert found.rate == pytest.approx((200 + 100 / 4) / 2000)
    assert found.rate_low == pytest.approx((200 - 100 / 4 - spread) / 2000)
    assert found.rate_high == pytest.approx((300 - 100 / 5 + 0.75 * 100 * 0.15 + spread) / 2000)
    np.testing.assert_allclose(found.matrix, [[0.775, 0.225], [0, 1]])
    assert found.matrix_high[0, 1] == pytest.approx((300 - 20 + 0.75 * 100 * 0.3 + spread) / 1000)
    assert found.matrix_low[0, 0] == pytest.approx(1 - found.matrix_high[0, 1])
    # Nobody of class 1 is contradicted, and yet three of 1,000 might be wrong.
    assert found.matrix_low[1, 1] == pytest.approx(0.997)
    assert found.counts.tolist() == [1000, 1000] and found.resamples == 0
    np.testing.assert_allclose(found.transition_matrix()[1], [225 / 1225, 1000 / 1225])
    assert found.confusions(5) == [(0, 1, 225.0)]


def test_errors_that_the_model_expects_itself_need_no_wrong_label() -> None:
    # It contradicts 10 % of the labels at .95, and expects to err in 5.5 %: at least the rest needs wrong labels.
    probs = np.repeat([[0.94, 0.06], [0.05, 0.95], [0.06, 0.94]], [800, 200, 1000], axis=0)
    found = estimate_noise(look_at(np.repeat([0, 1], 1000), probs))
    luck = 1.96 * (0.1 / 2000) ** 0.5
    doubt = 0.5 * (1 - 0.94 / 0.95)  # of the second half, beside the surest of class 1
    assert found.rate_low == pytest.approx(min(0.1 - doubt - luck, (200 - 0.98) / 2000))
    assert found.matrix_low[0, 1] == pytest.approx(2 * found.rate_low, rel=0.02)


def test_nothing_found_is_no_proof() -> None:
    probs = np.eye(3)[np.arange(600) % 3]
    found = estimate_noise(look_at(np.arange(600) % 3, probs))
    assert found.rate == 0 and found.rate_low == 0 and found.rate_high == pytest.approx(3 / 600)
    assert (np.diag(found.matrix_low) < 1).all()


def test_a_class_that_is_contradicted_altogether() -> None:
    probs = np.tile([0.05, 0.9, 0.05], (60, 1))
    probs[40:] = [0.9, 0.05, 0.05]
    found = estimate_noise(look_at(np.repeat([0, 1, 2], 20), probs))
    np.testing.assert_allclose(found.matrix.sum(1), 1)
    assert (found.matrix_high >= found.matrix).all() and (found.matrix_low <= found.matrix).all()


def test_unseen_given_labels_bound_the_rate() -> None:
    given, probs, _ = made(skill=4.0, noise=0.2)
    look = look_at(given, probs)
    alone = estimate_noise(look)
    weak = estimate_noise(look, unseen=Unseen(agreement=0.5, count=200))
    assert weak.rate_high == pytest.approx(0.5687, abs=1e-3)  # Wilson's interval of 100 of 200
    assert weak.rate == alone.rate
    taken = weak.given != weak.right
    assert (weak.high[taken] > alone.high[taken]).all() and (weak.low[~taken] < alone.low[~taken]).all()
    # Twice the difference to unseen labels is taken off all contradictions.
    differs = float(look.differs.mean())
    assert weak.rate_low == max(differs - 2 * (0.5 - differs), 0) == 0 < alone.rate_low
    near = estimate_noise(look, unseen=Unseen(agreement=0.95 - differs, count=200))
    assert near.rate_low == pytest.approx(differs - 0.1) and near.rate_low < alone.rate_low
    assert near.low[taken] == pytest.approx(alone.low[taken] * near.rate_low / alone.rate_low)
    assert estimate_noise(look, unseen=Unseen(agreement=1 - differs, count=200)).rate_low == alone.rate_low
    # Unseen labels that agree better than those of training do not bring the bound below what is contradicted.
    lucky = estimate_noise(look, unseen=Unseen(agreement=1.0, count=50))
    assert lucky.rate_high >= look.differs.mean() >= lucky.rate >= lucky.rate_low


def predicted(matrix: list[list[int]]) -> tuple[Array, Array]:
    """Given labels and sure probabilities: matrix[given][predicted] samples of each pair."""
    times, k = np.array(matrix), len(matrix)
    given, best = (np.repeat(side.ravel(), times.ravel()) for side in np.indices((k, k)))
    return given, np.where(np.arange(k) == best[:, None], 0.95, 0.05 / (k - 1))


EVEN = [[80 if k == j else 4 for j in range(6)] for k in range(6)]
TO_ONE = [[80 if k == j else 20 * (j == (k + 1) % 6) for j in range(6)] for k in range(6)]
BOTH = [[70 if k == j else 4 + 10 * (j == (k + 1) % 6) for j in range(6)] for k in range(6)]
NEVER_LEARNED = [
    *([90 * (k == j) + 10 * (j == (k + 1) % 5) for j in range(6)] for k in range(5)),
    [16, 16, 17, 17, 17, 17],
]
FIVE_CLASSES = [[80 if k == j else 5 for j in range(5)] for k in range(5)]
FOUR_CLASSES = [[80 if k == j else 7 for j in range(4)] for k in range(4)]


@pytest.mark.parametrize(
    ("matrix", "least"),
    [
        pytest.param(EVEN, 0.2 - 1.96 * math.sqrt(0.2 / 600), id="all spread evenly"),
        pytest.param(TO_ONE, 0, id="each class taken for one other"),
        pytest.param(BOTH, 0.2 - 0.1 / 2 - 1.96 * math.sqrt(0.2 / 600), id="both"),
        pytest.param(NEVER_LEARNED, 0, id="one class never learned"),
        pytest.param(FIVE_CLASSES, 0.2 - 1.96 * math.sqrt(0.2 / 500), id="just enough classes to tell"),
        pytest.param(FOUR_CLASSES, 0, id="too few classes to tell"),
    ],
)
def test_what_is_spread_evenly_is_no_error_of_the_model(matrix: list[list[int]], least: float) -> None:
    look = look_at(*predicted(matrix))
    # So much more of unseen labels is contradicted that it would excuse every contradiction.
    assert estimate_noise(look, unseen=Unseen(agreement=0.3, count=200)).rate_low == pytest.approx(least)


def test_a_test_set_may_raise_the_upper_end_but_not_lower_it() -> None:
    given, probs, _ = made(skill=4.0, noise=0.2)
    look = look_at(given, probs)
    alone = estimate_noise(look)
    for agreement in (0.5, 1.0):
        known = Unseen(agreement=agreement, count=200, like_training=False)
        found = estimate_noise(look, unseen=known)
        assert found.rate_high == pytest.approx(max(alone.rate_high, known.most_errors))
        assert found.rate == alone.rate and found.rate_low == (alone.rate_low if agreement == 1 else 0)
    doubted = np.arange(len(given)) < 20
    both = estimate_noise(look, unseen=Unseen(agreement=1.0, count=200, like_training=False), doubted=doubted)
    assert both.rate_high == estimate_noise(look, doubted=doubted).rate_high


def test_what_training_hardly_trusted_counts_from_above() -> None:
    given = np.repeat([0, 1], 50)
    probs = np.where(given[:, None] == [0, 1], 0.9, 0.1)
    probs[:10] = [0.1, 0.9]  # ten contradictions
    look = look_at(given, probs)
    doubted = np.arange(100) < 16  # of which six are agreed with
    plain, more = estimate_noise(look), estimate_noise(look, doubted=doubted)
    assert more.rate_high == pytest.approx(plain.rate_high + 0.06)
    assert (more.rate, more.rate_low) == (plain.rate, plain.rate_low)
    known = Unseen(agreement=0.8, count=200)
    assert estimate_noise(look, unseen=known, doubted=doubted).rate_high == pytest.approx(known.most_errors + 0.06)
    trained = Trained(columns={})
    quality = np.where(doubted, 0.4, 0.6)
    found = [report_on(given, probs, "ab", label_quality=quality, trained=t).noise for t in (trained, None)]
    assert [noise.rate_high for noise in found] == [more.rate_high, plain.rate_high]


def test_the_surer_half_of_what_was_trained_on_is_enough_from_below() -> None:
    given, is_surer = np.arange(400) % 2, np.arange(400) < 200
    # Of the surer half a fifth is contradicted, of the others two fifths.
    predicted = np.where(np.arange(400) % 10 < np.where(is_surer, 2, 4), 1 - given, given)

    def found(half: float, less_sure: float, doubted: npt.NDArray[np.bool_] | None) -> NoiseEstimate:
        confidence = np.where(is_surer, np.linspace(0.99, 2 * half - 0.99, 400), less_sure)[:, None]
        return estimate_noise(
            look_at(given, np.where(predicted[:, None] == [0, 1], confidence, 1 - confidence)), doubted=doubted
        )

    trusted = np.zeros(400, bool)
    foreign, own = found(0.95, 0.9, None), found(0.95, 0.9, trusted)
    expected = 0.2 - 1.96 * math.sqrt(0.2 * 0.8 / 200)
    assert own.rate_low == pytest.approx(expected) and foreign.rate_low > 0.19
    wrong = own.given != own.right
    np.testing.assert_allclose(own.low[wrong], foreign.low[wrong] * expected / foreign.rate_low)
    # Where all are within a hundredth of certainty, no half is the surer one.
    assert found(0.985, 0.981, trusted).rate_low == found(0.985, 0.981, None).rate_low > 0.19
    assert found(0.985, 0.979, trusted).rate_low == pytest.approx(expected)


def test_agreement_beyond_chance() -> None:
    given = np.arange(100) % 4
    assert kappa(look_at(given, np.eye(4)[given])) == 1
    assert kappa(look_at(given, np.eye(4)[np.zeros(100, int)])) == 0
    assert kappa(look_at(np.zeros(9, int), np.eye(4)[np.zeros(9, int)])) == 0


def test_a_collapsed_model_is_not_believed() -> None:
    """One class alone is predicted: before, 75 % wrong with every suspect at 100 %, and not a word."""
    probs = np.tile([0.97, 0.01, 0.01, 0.01], (400, 1))
    for robust in (True, False):
        report = audit(np.arange(400) % 4, probs, robust=robust)
        assert codes(report) == ["collapsed_model"]
        assert "predicts 1 of 4 classes" in report.warnings[0].text and "learning rate" in report.warnings[0].text
        assert report.noise.rate_low == 0 and report.noise.rate_high > 0.5
        assert report.look_first == {"0.9": 0, "0.75": 0}


def test_a_model_by_chance_is_not_believed() -> None:
    random = np.random.default_rng(0)
    report = audit(random.integers(0, 5, 3000), random.dirichlet(np.full(5, 0.2), 3000))
    assert codes(report) == ["chance_level"] and "columns" in report.warnings[0].text
    assert report.noise.rate_low == 0 and report.look_first == {"0.9": 0, "0.75": 0}


def test_columns_in_another_order_are_told() -> None:
    given, probs, _ = made(skill=4.0, noise=0.1)
    assert "chance_level" in codes(audit(given, probs[:, [1, 2, 3, 0]]))
    assert codes(audit(given, probs)) == []


def test_a_class_that_is_never_predicted() -> None:
    given, probs, _ = made(skill=4.0, noise=0.0, k=5)
    probs[:, 4] = 0
    report = audit(given, probs / probs.sum(1, keepdims=True), class_names=["a", "b", "c", "d", "<b>\n"])
    assert codes(report)[-1] == "lost_classes" and r"'<b>\\n'" in report.warnings[-1].text


def test_a_weak_model_says_so() -> None:
    given, probs, wrong = made(skill=1.2, noise=0.25)
    report = audit(given, probs)
    assert codes(report) == ["weak_model"] and "pretrained" in report.warnings[0].text
    assert report.noise.rate_low <= wrong.mean() <= report.noise.rate_high


def test_a_robust_model_of_noisy_labels_is_not_called_weak() -> None:
    """It doubts the labels that it agrees with, so its interval is wide, but is sure of its contradictions."""
    given, rows = np.arange(2000) % 4, np.arange(2000)
    predicted = np.where(rows < 600, (given + 1) % 4, given)
    confidence = np.where(rows < 600, 0.85, np.linspace(0.45, 0.9, 2000))
    probs = np.repeat((1 - confidence[:, None]) / 3, 4, axis=1)
    probs[rows, predicted] = confidence
    report = audit(given, probs, robust=True)
    assert report.noise.rate_high - report.noise.rate_low > WIDE
    assert unsure_share(look_at(given, probs)) < UNSURE and codes(report) == []


def test_a_model_that_errs_on_unseen_labels_is_weak() -> None:
    """Sure of its contradictions, of which many are its own errors: features of many classes are such data."""
    given, probs, _ = made(skill=4.0, noise=0.25)
    look = look_at(given, probs)
    differs = float(look.differs.mean())
    assert unsure_share(look) < UNSURE and 0.2 < differs < 0.3

    def found(agreement: float, *, like_training: bool = True) -> list[str]:
        unseen = Unseen(agreement=agreement, count=1000, like_training=like_training)
        return codes(report_on(given, probs, list("abcd"), unseen=unseen, robust=True, facts={"source": "run"}))

    for agreement, like_training, expected in (
        (1 - differs, True, []),
        (1 - differs - FITTED - 0.001, True, ["weak_model"]),
        (1 - differs - FITTED + 0.001, True, []),
        (0.98, False, []),  # of right labels
        (0.8, False, ["weak_model"]),  # of as many wrong ones it would contradict four in ten
    ):
        assert found(agreement, like_training=like_training) == expected, (agreement, like_training)
    words = report_on(given, probs, list("abcd"), robust=True, unseen=Unseen(agreement=0.5, count=99)).warnings[0].text
    assert f"contradicts {percent(differs)} of the labels it was trained on, and 50.00 % of 99 labels that" in words


def test_what_memorized_is_not_told_to_train_longer() -> None:
    given, probs, _ = made(skill=2.0, noise=0.2)
    run = {"source": "run", "epochs": 5, "epochs_asked": 5}
    assert audit(given, probs).look_first["0.75"] > 0
    for agreement, code in ((0.1, ["weak_model", "memorized"]), (0.8, ["weak_model"])):
        report = report_on(given, probs, list("abcd"), unseen=Unseen(agreement=agreement, count=200), facts=run)
        assert codes(report) == code and report.look_first == {"0.9": 0, "0.75": 0}
        assert ("Train longer" in report.warnings[0].text) == (len(code) == 1)
        assert "pretrained" in report.warnings[0].text


def test_nobody_is_told_to_begin_from_the_features_that_they_began_from() -> None:
    given, probs, _ = made(skill=2.0, noise=0.2)
    for agreement, takes, ending in (
        (0.8, True, "Train longer, begin from pretrained weights or their frozen features, or bring more data."),
        (0.8, False, "Train longer, or bring more data."),
        (0.1, False, "Bring more data."),
    ):
        unseen, facts = Unseen(agreement=agreement, count=200), {"source": "run", "takes_pretrained": takes}
        report = report_on(given, probs, list("abcd"), unseen=unseen, facts=facts)
        assert report.warnings[0].text.endswith(f"Begin with the first suspects. {ending}")


def test_memorized_probabilities() -> None:
    given, _, _ = made(skill=4.0, noise=0.3)
    assert codes(audit(given, np.eye(4)[given] * 0.8 + 0.05)) == ["memorized"]
    run = {"source": "run", "epochs": 5, "epochs_asked": 5}
    given, probs, _ = made(skill=4.0, noise=0.05)
    held_out = Unseen(agreement=0.6, count=200)
    report = report_on(given, probs, list("abcd"), unseen=held_out, facts=run)
    assert codes(report) == ["memorized"] and "60.00 %" in report.warnings[0].text
    for method, ending in (
        (Standard.name, "a method that distrusts labels."),
        ("acto", "fewer epochs (--stop-early)."),
    ):
        report = report_on(given, probs, list("abcd"), unseen=held_out, facts={**run, "method": method})
        assert report.warnings[0].text.endswith(ending)
    # --stop-early refuses data with a test set.
    report = report_on(given, probs, list("abcd"), unseen=replace(held_out, like_training=False), facts=run)
    assert codes(report) == ["memorized"] and report.warnings[0].text.endswith("Train for fewer epochs.")
    # Its odds were fitted on unseen labels: a weak model's, of labels it was trained on, promise nothing.
    assert report.look_first == {"0.9": 0, "0.75": 0} != audit(given, probs).look_first


def test_a_run_that_was_cut_short() -> None:
    given, probs, _ = made(skill=4.0, noise=0.1)
    run = {"source": "run", "epochs": 4, "epochs_asked": 5}
    report = report_on(given, probs, list("abcd"), facts=run)
    assert codes(report) == ["cut_short"] and "4 of 5 epochs" in report.warnings[0].text
    assert codes(report_on(given, probs, list("abcd"), facts={**run, "epochs": 5})) == []


def test_few_samples_and_none() -> None:
    given, probs, _ = made(skill=4.0, noise=0.0)
    few = np.flatnonzero((given != 3) | (np.cumsum(given == 3) <= 19))
    report = audit(given[few], probs[few])
    assert codes(report) == ["few_samples"] and "given '3'" in report.warnings[0].text
    enough = np.flatnonzero((given != 3) | (np.cumsum(given == 3) <= 20))
    assert codes(audit(given[enough], probs[enough])) == []


def test_the_first_suspects_keep_their_promise() -> None:
    given, probs, wrong = made(skill=2.5, noise=0.25, n=6000)
    report = audit(given, probs)
    first = report.ranked()
    counts = report.look_first
    assert 20 < counts["0.9"] < counts["0.75"] <= report.is_label_issue.sum()
    assert wrong[first[: counts["0.9"]]].mean() >= 0.9 and wrong[first[: counts["0.75"]]].mean() >= 0.75


def test_no_promise_where_no_label_is_wrong() -> None:
    given, probs, _ = made(skill=2.0, noise=0.0, n=4000)
    look = look_at(given, probs)
    issues = Issues(look, probs).by("predicted_neq_given")
    assert issues.any()
    assert first_suspects(look, issues, label_quality(look, probs, "self_confidence"))["0.9"] == 0
