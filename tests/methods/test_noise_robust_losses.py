"""AGCE, ANL and SOP on hand-written numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from acto.core.errors import UserError
from acto.core.types import Batch, Clock, Step, Task
from acto.data.noise import NoiseSpec
from acto.methods.agce import AGCE, asymmetric_cross_entropy, normalized_cross_entropy
from acto.methods.anl import ANL, active_negative
from acto.methods.sop import SOP, absorb, balance, label_error
from acto.runs.recipes.by_data import SETTINGS
from acto.runs.recipes.by_method import CONFIGS

K = 3
LABELS = torch.tensor([0, 2, 1, 0])
PROBS = torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5], [0.1, 0.3, 0.6], [0.2, 0.7, 0.1]], dtype=torch.float64)
"""Given classes have 0.7, 0.5, 0.3 and 0.2."""
CLOCK = Clock(0, 10)


class Pass(nn.Module):
    """Logits are the inputs, so that they can be written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * inputs


def make(cls: Any, **settings: Any) -> Any:
    return cls(cls.Config(**settings), Task(LABELS, K), Pass)


def step(method: Any, *probs: Tensor) -> Step:
    views = tuple(p.log() for p in (probs or (PROBS,)))
    found: Step = method.loss((Batch(torch.arange(4), views, LABELS),), CLOCK)
    return found


# AGCE -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "q"), [(6.0, 1.5), (0.6, 0.6), (1e-5, 0.5)])
def test_asymmetric_cross_entropy_by_hand(a: float, q: float) -> None:
    found = asymmetric_cross_entropy(PROBS.log(), LABELS, a=a, q=q)
    expected = [((a + 1) ** q - (a + p) ** q) / q for p in (0.7, 0.5, 0.3, 0.2)]
    assert found.tolist() == pytest.approx(expected, rel=1e-9)


def test_asymmetric_cross_entropy_is_bounded() -> None:
    sure = torch.tensor([[40.0, -40.0]], dtype=torch.float64)
    right, wrong = (float(asymmetric_cross_entropy(sure, torch.tensor([c]), a=1.0, q=2.0)) for c in (0, 1))
    assert right == pytest.approx(0, abs=1e-12)
    assert wrong == pytest.approx((4 - 1) / 2)


def test_normalized_cross_entropy_by_hand() -> None:
    found = normalized_cross_entropy(PROBS.log(), LABELS)
    first = math.log(0.7) / math.log(0.7 * 0.2 * 0.1)
    second = math.log(0.5) / math.log(0.5 * 0.25 * 0.25)
    assert found[:2].tolist() == pytest.approx([first, second], rel=1e-9)
    over_all_labels = sum(normalized_cross_entropy(PROBS.log(), torch.full((4,), c)) for c in range(K))
    torch.testing.assert_close(over_all_labels, torch.ones(4, dtype=torch.float64))


def test_agce_weighs_its_terms() -> None:
    both = step(make(AGCE, alpha=10.0, beta=0.1, a=1.8, q=3.0))
    agce = sum((2.8**3 - (1.8 + p) ** 3) / 3 for p in (0.7, 0.5, 0.3, 0.2)) / 4
    nce = sum(
        math.log(float(row[label])) / sum(math.log(float(p)) for p in row)
        for row, label in zip(PROBS, LABELS, strict=True)
    )
    assert float(both.loss.detach()) == pytest.approx(10 * nce / 4 + 0.1 * agce, rel=1e-9)
    alone = step(make(AGCE, alpha=0.0, beta=1.0, a=1.8, q=3.0))
    assert float(alone.loss.detach()) == pytest.approx(agce, rel=1e-9)
    assert float(alone.log["loss_nce"]) == pytest.approx(nce / 4, rel=1e-9)


# ANL --------------------------------------------------------------------------------------------------------------


def test_active_negative_by_hand() -> None:
    active, negative = active_negative(PROBS.log(), LABELS)
    torch.testing.assert_close(active, normalized_cross_entropy(PROBS.log(), LABELS))
    top = -math.log(1e-7)
    expected = [
        1 - (top + math.log(float(row[label]))) / sum(top + math.log(float(p)) for p in row)
        for row, label in zip(PROBS, LABELS, strict=True)
    ]
    assert negative.tolist() == pytest.approx(expected, rel=1e-9)


def test_negative_losses_of_all_labels_sum_to_one_less_than_the_classes() -> None:
    logits = torch.tensor([[3.0, 0.0, -40.0]], dtype=torch.float64)  # the last class lies below the clamp
    total = sum(float(active_negative(logits, torch.tensor([c]))[1]) for c in range(K))
    assert total == pytest.approx(K - 1, rel=1e-12)


def test_a_given_label_below_the_clamp_is_not_pushed_up() -> None:
    logits = torch.tensor([[3.0, 0.0, -40.0]], dtype=torch.float64, requires_grad=True)
    active_negative(logits, torch.tensor([2]))[1].sum().backward()
    assert logits.grad is not None and logits.grad.tolist() == [[0.0, 0.0, 0.0]]


def test_anl_adds_the_sum_of_absolute_weights() -> None:
    method = make(ANL, alpha=2.0, beta=3.0, delta=0.5)
    with torch.no_grad():
        method.nets[0].scale.fill_(-2.0)
    views = (-PROBS.log() / 2,)  # undone by the scale
    found = method.loss((Batch(torch.arange(4), views, LABELS),), CLOCK)
    active, negative = active_negative(PROBS.log(), LABELS)
    assert float(found.loss.detach()) == pytest.approx(
        float(2 * active.mean() + 3 * negative.mean()) + 0.5 * 2, rel=1e-9
    )


# SOP --------------------------------------------------------------------------------------------------------------


def test_label_error_by_hand() -> None:
    given = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    u, v = torch.tensor([[-0.5], [2.0]]), torch.tensor([[9.0, 0.1, -0.2], [3.0, 0.5, 9.0]])
    added, hidden = label_error(u, v, given)
    torch.testing.assert_close(added, torch.tensor([[0.25, 0, 0], [0, 0, 1.0]]))
    torch.testing.assert_close(hidden, torch.tensor([[0, 0.01, 0.04], [1.0, 0.25, 0]]))


def test_absorb_by_hand() -> None:
    probs = torch.tensor([[0.2, 0.7, 0.1]], dtype=torch.float64, requires_grad=True)
    added = torch.tensor([[0.3, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    hidden = torch.tensor([[0.0, 0.9, 0.05]], dtype=torch.float64, requires_grad=True)
    found = absorb(probs, added, hidden)
    sum_ = 0.5 + 1e-4 + 0.05
    assert found[0].tolist() == pytest.approx([0.5 / sum_, 1e-4 / sum_, 0.05 / sum_], rel=1e-9)
    found[0, 0].backward()
    assert hidden.grad is None and added.grad is not None and probs.grad is not None
    assert float(added.grad[0, 0]) == pytest.approx((sum_ - 0.5) / sum_**2)


def test_sop_rows_step_as_worked_out() -> None:
    """One sample's rows by hand: u learns from both terms, v from the squared error alone."""
    method = make(SOP, u_rate=0.5, v_rate=0.25)
    with torch.no_grad():
        method.u.fill_(0.1)
        method.v.fill_(0.2)
    found = step(method)
    found.loss.backward()
    method.step_rows(CLOCK)
    # The last sample: label 0, prediction class 1, p = (.2, .7, .1); U = .01 on class 0, V = .04 off it.
    shifted = (0.2 + 0.01, 0.7 - 0.04, 0.1 - 0.04)
    of_ce = -(1 / shifted[0] - 1 / sum(shifted))
    of_mse = 2 * (0 + 0.01 - 1)
    assert float(method.u[3]) == pytest.approx(0.1 - 0.5 * (of_ce + of_mse) / 4 * 2 * 0.1, rel=1e-5)
    moved = [0.0, -2 * (1 - 0.04), -2 * (0 - 0.04)]  # dL_MSE / dV, which has no part on the given class
    expected = [0.2 - 0.25 * gradient / 4 * 2 * 0.2 for gradient in moved]
    assert method.v[3].tolist() == pytest.approx(expected, rel=1e-5)


def test_sop_loss_by_hand() -> None:
    method = make(SOP)
    with torch.no_grad():
        method.u.fill_(0.5)
        method.v.fill_(0.1)
    found = step(method)
    loss_ce = loss_mse = 0.0
    for row, label in zip(PROBS.tolist(), LABELS.tolist(), strict=True):
        error = [0.25 if c == label else -0.01 for c in range(K)]
        shifted = [p + e for p, e in zip(row, error, strict=True)]
        loss_ce -= math.log(shifted[label] / sum(shifted)) / 4
        guess = row.index(max(row))
        loss_mse += sum(((c == guess) + error[c] - (c == label)) ** 2 for c in range(K)) / 4
    assert float(found.log["loss_ce"]) == pytest.approx(loss_ce, rel=1e-6)
    assert float(found.log["loss_mse"]) == pytest.approx(loss_mse, rel=1e-6)
    assert float(found.loss.detach()) == pytest.approx(loss_ce + loss_mse, rel=1e-6)
    assert set(found.log) == {"loss_ce", "loss_mse"}


def test_sop_plus_adds_balance_and_consistency() -> None:
    strong = PROBS.roll(1, 0)
    plain, plus = make(SOP), make(SOP, consistency_weight=0.9, balance_weight=0.1)
    for method in (plain, plus):
        with torch.no_grad():
            method.u.zero_()
            method.v.zero_()
    assert plain.streams(CLOCK)[0].views == ("weak",)
    assert plus.streams(CLOCK)[0].views == ("weak", "strong")
    found = step(plus, PROBS, strong)
    divergence = float((PROBS * (PROBS / strong).log()).sum(1).mean())
    balanced = -sum(math.log(float(p)) for p in PROBS.mean(0)) / K
    assert float(found.log["loss_cr"]) == pytest.approx(divergence, rel=1e-6)
    assert float(found.log["loss_balance"]) == pytest.approx(balanced, rel=1e-6)
    expected = float(step(plain).loss.detach()) + 0.9 * divergence + 0.1 * balanced
    assert float(found.loss.detach()) == pytest.approx(expected, rel=1e-6)
    assert float(balance(PROBS)) == pytest.approx(balanced)


def test_sop_consistency_teaches_only_the_strong_view() -> None:
    plain, plus = make(SOP), make(SOP, consistency_weight=1.0)
    for method in (plain, plus):
        with torch.no_grad():
            method.u.fill_(0.5)
            method.v.fill_(0.1)
    weak, strong = PROBS.log().requires_grad_(), PROBS.roll(1, 0).log().requires_grad_()
    alone, both = (
        method.loss((Batch(torch.arange(4), views, LABELS),), CLOCK).loss
        for method, views in ((plain, (weak,)), (plus, (weak, strong)))
    )
    (expected,) = torch.autograd.grad(alone, weak)
    of_weak, of_strong = torch.autograd.grad(both, (weak, strong))
    torch.testing.assert_close(of_weak, expected)
    torch.testing.assert_close(of_strong, (strong.softmax(1) - PROBS).detach() / 4)


def test_sop_project_brings_rows_back() -> None:
    for project, expected in ((True, 1.0), (False, 3.0)):
        method = make(SOP, project=project, u_rate=1e-9, v_rate=1e-9)
        with torch.no_grad():
            method.u.fill_(-3.0)
        step(method).loss.backward()
        method.step_rows(CLOCK)
        assert method.u.abs().squeeze(1).tolist() == pytest.approx([expected] * 4, rel=1e-6)
        assert method.label_quality().tolist() == pytest.approx([0.0] * 4, abs=1e-6)


def test_sop_label_quality() -> None:
    method = make(SOP)
    assert method.label_quality().tolist() == [1.0] * 4
    with torch.no_grad():
        method.u.copy_(torch.tensor([[0.5], [-1.0], [0.0], [0.1]]))
    assert method.label_quality().tolist() == pytest.approx([0.75, 0.0, 1.0, 0.99])


# Settings ---------------------------------------------------------------------------------------------------------


def test_recipes() -> None:
    cifar100, small, web = (SETTINGS[name] for name in ("cifar100nc", "digits", "web-car"))
    symmetric, asymmetric = (NoiseSpec(kind=kind, rate=0.4) for kind in ("symmetric", "asymmetric"))
    assert CONFIGS["agce"](cifar100, symmetric) == AGCE.Config(alpha=10, beta=0.1, a=1.8, q=3)
    assert CONFIGS["agce"](small, symmetric) == AGCE.Config(alpha=1, beta=4, a=6, q=1.5)
    assert CONFIGS["agce"](web, symmetric) == AGCE.Config(alpha=0, beta=1, a=1e-5, q=0.5)
    assert CONFIGS["anl"](cifar100, symmetric) == ANL.Config(alpha=10, beta=1, delta=5e-7)
    assert CONFIGS["anl"](small, symmetric) == ANL.Config(alpha=5, beta=5, delta=5e-5)
    assert CONFIGS["sop"](cifar100, asymmetric) == SOP.Config(u_rate=0.1, v_rate=100)
    assert CONFIGS["sop"](cifar100, symmetric) == SOP.Config(u_rate=1, v_rate=10)
    half = CONFIGS["sop"](replace(small, batch_size=64, epochs=60), asymmetric)
    assert half == SOP.Config(u_rate=10, v_rate=100)  # half the batch, half the epochs


@pytest.mark.parametrize(
    ("cls", "settings", "words"),
    [
        (AGCE, {"q": 0.0}, "q is 0"),
        (AGCE, {"alpha": 0.0, "beta": 0.0}, "leaves no loss"),
        (ANL, {"alpha": 0.0, "beta": 0.0}, "leaves no loss"),
        (ANL, {"delta": -1.0}, "delta is -1"),
        (SOP, {"u_rate": 0.0}, "u_rate is 0"),
    ],
)
def test_settings_out_of_range_are_refused(cls: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        cls.Config(**settings)
