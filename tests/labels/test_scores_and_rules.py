"""Scores and rules for other people's probabilities, on numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from acto.labels import scores
from acto.labels.rules import RULES, VOTERS, Issues
from acto.labels.scores import SCORES, label_quality, look_at

# Means of the given label's probability: class 0 (.9 + .2 + .7) / 3 = .6, class 1 (.6 + .5 + .1) / 3 = .4.
PROBS = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6], [0.5, 0.5], [0.9, 0.1]])
GIVEN = np.array([0, 0, 0, 1, 1, 1])


def by(rule: str, given: np.ndarray = GIVEN, probs: np.ndarray = PROBS) -> list[int]:
    return np.flatnonzero(Issues(look_at(given, probs), probs).by(rule)).tolist()


def test_a_look_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "BLOCK", 4)  # two rows at a time
    look = look_at(GIVEN, PROBS)
    assert look.predicted.tolist() == [0, 1, 0, 1, 0, 0] and look.counts.tolist() == [3, 3]
    np.testing.assert_allclose(look.prob_given, [0.9, 0.2, 0.7, 0.6, 0.5, 0.1])
    np.testing.assert_allclose(look.prob_other, [0.1, 0.8, 0.3, 0.4, 0.5, 0.9])
    np.testing.assert_allclose(look.own_level, [0.6, 0.4])
    np.testing.assert_allclose(look.any_level, [0.6, 0.4])
    assert look.is_sure.tolist() == [True, True, True, True, False, True]


def test_scores_by_hand() -> None:
    look = look_at(GIVEN, PROBS)
    found = {score: label_quality(look, PROBS, score) for score in SCORES}
    np.testing.assert_allclose(found["self_confidence"], look.prob_given)
    np.testing.assert_allclose(found["normalized_margin"][:2], [(0.9 - 0.1 + 1) / 2, (0.2 - 0.8 + 1) / 2])
    entropy = -(0.9 * math.log2(0.9) + 0.1 * math.log2(0.1))
    np.testing.assert_allclose(found["entropy_weighted"][[0, 5]], [0.9 / (0.9 + entropy), 0.1 / (0.1 + entropy)])
    ratio = 0.1 / (0.4**0.5 * 0.4 * 0.9**0.125)
    assert found["relative_confidence"][5] == pytest.approx(ratio / (1 + ratio))


@pytest.mark.parametrize("score", SCORES)
def test_scores_stay_in_their_range_where_there_is_nothing_between(score: str) -> None:
    probs = np.array([[1.0, 0, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0]], np.float32)  # nobody is given or predicted 2
    given = np.array([0, 1, 0, 2])
    quality = label_quality(look_at(given, probs), probs, score)
    assert np.isfinite(quality).all() and ((quality >= 0) & (quality <= 1)).all()
    assert quality[:2].min() > 0.5 > quality[2:].max()


def test_the_usual_level_of_a_class_counts() -> None:
    """0.3 is much for a class that gets 0.3 in all its samples, and little for one that gets 0.9."""
    probs = np.array([[0.3, 0.4, 0.3]] * 4 + [[0.05, 0.9, 0.05]] * 3 + [[0.4, 0.3, 0.3]])
    quality = label_quality(look_at(np.array([0] * 4 + [1] * 4), probs), probs, "relative_confidence")
    assert quality[0] > 0.6 > quality[7]


def test_rules_by_hand() -> None:
    # Sure of class 0 from .6, of class 1 from .4: of those given 0 one of three is sure of 1 (row 1); of those given 1
    # two are sure of 1 (rows 3 and 4) and one of 0 (row 5). Row 4 has .5 and .5, and 0 is predicted.
    assert by("predicted_neq_given") == [1, 4, 5]
    assert by("confident_learning") == [1, 5]
    assert by("prune_by_noise_rate") == by("prune_by_class") == by("both") == [1, 5]
    for rule in ("low_self_confidence", "low_normalized_margin", "low_relative_confidence", "two_of_four"):
        assert by(rule) == [1, 5]


def test_pairs_and_classes_are_counted_apart() -> None:
    """Sure of 2 are two of the four that were given 0, sure of 1 none: by pairs those two, by class the two lowest."""
    probs = np.array(
        [[0.8, 0.1, 0.1], [0.8, 0.1, 0.1], [0.3, 0.1, 0.6], [0.35, 0.05, 0.6], [0.1, 0.45, 0.45]]
        + [[0.2, 0.6, 0.2]] * 2
        + [[0.2, 0.2, 0.6]] * 2
    )
    given = np.array([0, 0, 0, 0, 0, 1, 1, 2, 2])
    look = look_at(given, probs)
    first, second, times = Issues(look, probs).wrong_pairs()
    # Two of four sure ones; the fifth is sure of nothing, and the two count for 2.5 of five, rounded to even.
    assert (first.tolist(), second.tolist(), times.tolist()) == ([0], [2], [2])
    assert by("prune_by_noise_rate", given, probs) == [3, 4] or by("prune_by_noise_rate", given, probs) == [2, 4]
    assert by("prune_by_class", given, probs) == [2, 4] and by("both", given, probs) in ([4], [2, 4])
    assert by("confident_learning", given, probs) == [2, 3]


def test_the_vote_takes_what_two_rules_name() -> None:
    random = np.random.default_rng(0)
    given = random.integers(0, 4, 300)
    probs = random.dirichlet(np.ones(4), 300) * 0.6
    probs[np.arange(300), np.where(random.random(300) < 0.8, given, (given + 1) % 4)] += 0.4
    issues = Issues(look_at(given, probs), probs)
    votes = np.sum([issues.by(rule) for rule in VOTERS], axis=0)
    assert {0, 1, 2, 3, 4} == set(votes.tolist()), "all numbers of votes should occur, or nothing is told apart"
    np.testing.assert_array_equal(issues.by("two_of_four"), votes >= 2)
    for rule in RULES:
        assert not issues.by(rule)[probs.argmax(1) == given].any(), rule


def test_rules_do_not_depend_on_the_number_format() -> None:
    random = np.random.default_rng(1)
    given = random.integers(0, 5, 400)
    probs = random.dirichlet(np.full(5, 0.4), 400).astype(np.float32)
    for rule in RULES:
        assert by(rule, given, probs) == by(rule, given, probs.astype(np.float64)), rule


@pytest.mark.parametrize("rule", RULES)
def test_rules_where_there_is_nothing_to_find(rule: str) -> None:
    probs = np.array([[0.9, 0.1, 0], [0.9, 0.1, 0], [0.1, 0.9, 0]])
    assert by(rule, np.array([0, 0, 1]), probs) == []
    assert set(by(rule, np.array([2, 2, 2]), probs)) <= {0, 1, 2}, "a class that the model never names"
