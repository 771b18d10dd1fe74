"""GCE, SCE and mixup on hand-written numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acto.core.errors import UserError
from acto.core.types import Batch, Clock, Task
from acto.data.noise import NoiseSpec
from acto.methods import METHODS, mixup
from acto.methods.blocks.mixing import one_hot
from acto.methods.gce import GCE, generalized_cross_entropy
from acto.methods.mixup import Mixup
from acto.methods.sce import SCE, reverse_cross_entropy
from acto.runs.recipes.by_data import SETTINGS
from acto.runs.recipes.by_method import CONFIGS

K = 3
LABELS = torch.tensor([0, 2, 1, 0])
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-3.0, 1.0, 2.0], [-1.0, 4.0, 0.0]], dtype=torch.float64)
TWO_LABELS = torch.tensor([0])


class Pass(nn.Module):
    """Logits are the inputs, so that they can be written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * inputs


def make(cls: Any, **settings: Any) -> Any:
    return cls(cls.Config(**settings), Task(LABELS, K), Pass)


def batch(inputs: Tensor = LOGITS) -> Batch:
    return Batch(torch.arange(4), (inputs,), LABELS)


def with_prob(prob: float) -> Tensor:
    """Logits of two classes of which the first has this probability."""
    return torch.tensor([[math.log(prob), math.log1p(-prob)]], dtype=torch.float64)


def prob_given() -> list[float]:
    probs = LOGITS.exp() / LOGITS.exp().sum(1, keepdim=True)
    return [float(row[label]) for row, label in zip(probs, LABELS, strict=True)]


# GCE --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prob", "loss"), [(0.9, 0.10157), (0.5, 0.54918), (0.1, 1.14353), (0.01, 1.37170)])
def test_gce_of_two_classes(prob: float, loss: float) -> None:
    assert float(generalized_cross_entropy(with_prob(prob), TWO_LABELS, q=0.7)) == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("q", [0.1, 0.7, 1.0])
def test_gce_by_a_loop(q: float) -> None:
    expected = [(1 - p**q) / q for p in prob_given()]
    assert generalized_cross_entropy(LOGITS, LABELS, q=q).tolist() == pytest.approx(expected)
    step = make(GCE, q=q).loss((batch(),), Clock(0, 9))
    assert float(step.loss.detach()) == pytest.approx(sum(expected) / 4)
    assert "selected" not in step.per_sample


def test_gce_lies_between_cross_entropy_and_absolute_error() -> None:
    nearly_ce = generalized_cross_entropy(LOGITS, LABELS, q=1e-9)
    np.testing.assert_allclose(nearly_ce, F.cross_entropy(LOGITS, LABELS, reduction="none"), rtol=1e-6)
    assert generalized_cross_entropy(LOGITS, LABELS, q=1.0).tolist() == pytest.approx([1 - p for p in prob_given()])


def test_gces_gradient_is_that_of_cross_entropy_times_p_to_the_q() -> None:
    logits, plain = LOGITS.clone().requires_grad_(), LOGITS.clone().requires_grad_()
    generalized_cross_entropy(logits, LABELS, q=0.7).sum().backward()
    F.cross_entropy(plain, LABELS, reduction="sum").backward()
    assert plain.grad is not None
    np.testing.assert_allclose(logits.grad, plain.grad * torch.tensor(prob_given())[:, None] ** 0.7, rtol=1e-6)


def test_gce_is_bounded_and_finite_where_the_probability_vanishes() -> None:
    logits = torch.tensor([[-300.0, 300.0, 0.0]], requires_grad=True)
    loss = generalized_cross_entropy(logits, torch.tensor([0]), q=0.7)
    loss.sum().backward()
    assert float(loss.detach()) == pytest.approx(1 / 0.7)
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_gce_prunes_what_the_network_does_not_believe() -> None:
    """p of the given labels: 0.786, 0.333, 0.268, 0.007; k = 0.3 keeps two. Only in epochs 2, 5, 8."""
    method = make(GCE, truncation=0.3, prune_from=2, prune_every=3)
    table = {0: LOGITS, 1: LOGITS, 2: LOGITS, 3: -LOGITS, 4: -LOGITS, 5: -LOGITS}
    kept = []
    for epoch, logits in table.items():
        method.on_turn(Clock(epoch, 9), lambda net, logits=logits: logits)
        kept.append(method.kept.tolist())
    first, second = [True, True, False, False], [False, True, False, True]
    assert kept == [[True] * 4] * 2 + [first] * 3 + [second]


def test_pruned_samples_have_no_gradient_but_count_in_the_mean() -> None:
    method = make(GCE, truncation=0.3)
    method.kept.copy_(torch.tensor([True, True, False, False]))
    inputs = LOGITS.clone().requires_grad_()
    step = method.loss((batch(inputs),), Clock(50, 60))
    step.loss.backward()
    losses = [(1 - p**0.7) / 0.7 for p in prob_given()]
    assert float(step.loss.detach()) == pytest.approx((losses[0] + losses[1]) / 4)
    assert inputs.grad is not None and inputs.grad.any(dim=1).tolist() == [True, True, False, False]
    assert step.per_sample["selected"].tolist() == [True, True, False, False]
    method.kept.zero_()
    empty = method.loss((batch(),), Clock(50, 60)).loss
    empty.backward()
    assert empty == 0


# SCE --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prob", "loss"), [(0.9, 0.921), (0.5, 4.605), (0.1, 8.289)])
def test_rce_of_two_classes(prob: float, loss: float) -> None:
    value = reverse_cross_entropy(with_prob(prob), TWO_LABELS, log_zero=math.log(1e-4))
    assert float(value) == pytest.approx(loss, abs=1e-3)


@pytest.mark.parametrize("zero", [1e-4, math.exp(-4)])
def test_sce_by_a_loop(zero: float) -> None:
    """Cross-entropy with prediction and label in each other's place, the label's zeros raised to `zero`."""
    probs = (LOGITS.exp() / LOGITS.exp().sum(1, keepdim=True)).tolist()
    expected, reverse = 0.0, []
    for row, label in zip(probs, LABELS.tolist(), strict=True):
        raised = [1.0 if c == label else zero for c in range(K)]
        reverse.append(-sum(p * math.log(y) for p, y in zip(row, raised, strict=True)))
        expected += (0.3 * -math.log(row[label]) + 0.5 * reverse[-1]) / 4
    assert reverse_cross_entropy(LOGITS, LABELS, log_zero=math.log(zero)).tolist() == pytest.approx(reverse)
    step = make(SCE, alpha=0.3, beta=0.5, log_zero=math.log(zero)).loss((batch(),), Clock(0, 9))
    assert float(step.loss.detach()) == pytest.approx(expected)


def test_rce_is_absolute_error_in_other_units() -> None:
    probs = F.softmax(LOGITS, dim=1)
    absolute = (probs - F.one_hot(LABELS, K)).abs().sum(1)
    np.testing.assert_allclose(reverse_cross_entropy(LOGITS, LABELS, log_zero=-4.0), 2 * absolute)


# mixup ------------------------------------------------------------------------------------------------------------


def test_mixup_is_two_cross_entropies(monkeypatch: pytest.MonkeyPatch) -> None:
    """lambda CE(f(x'), y_i) + (1 - lambda) CE(f(x'), y_j), with partners and a weight that are known."""
    share, partner = 0.7, torch.tensor([2, 3, 1, 0])

    def known(inputs: Tensor, targets: Tensor, *, alpha: float) -> tuple[Tensor, Tensor]:
        assert alpha == 5.0
        return share * inputs + (1 - share) * inputs[partner], share * targets + (1 - share) * targets[partner]

    monkeypatch.setattr(mixup, "mixup", known)
    step = make(Mixup, alpha=5.0).loss((batch(),), Clock(0, 9))
    inputs = share * LOGITS + (1 - share) * LOGITS[partner]
    expected = share * F.cross_entropy(inputs, LABELS) + (1 - share) * F.cross_entropy(inputs, LABELS[partner])
    assert float(step.loss.detach()) == pytest.approx(float(expected), rel=1e-6)
    assert step.per_sample["predicted"].tolist() == inputs.argmax(1).tolist()


def test_mixup_sees_mixtures_only() -> None:
    """Samples are unit vectors, so that a mixture shows its weights: two of them, the larger one the row's own."""
    torch.manual_seed(0)
    method = Mixup(Mixup.Config(), Task(torch.arange(8), 8), Pass)
    seen: list[Tensor] = []
    method.nets[0].register_forward_pre_hook(lambda net, args: seen.append(args[0]))
    method.loss((Batch(torch.arange(8), (torch.eye(8),), torch.arange(8)),), Clock(0, 9))
    (mixtures,) = seen
    assert not torch.equal(mixtures, torch.eye(8))
    assert ((mixtures > 0).sum(1) <= 2).all() and (mixtures.diagonal() >= 0.5).all()
    np.testing.assert_allclose(mixtures.sum(1), 1.0, rtol=1e-6)


def test_one_hot() -> None:
    assert torch.equal(one_hot(LABELS, K), F.one_hot(LABELS, K).float())


# Settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gce", {"q": 0.0}),
        ("gce", {"q": 1.1}),
        ("gce", {"truncation": 1.0}),
        ("gce", {"prune_every": 0}),
        ("sce", {"alpha": -0.1}),
        ("sce", {"log_zero": 0.0}),
        ("mixup", {"alpha": 0.0}),
    ],
)
def test_refuses_values_out_of_range(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        METHODS[name].Config(**settings)


def test_recipes_weigh_sces_parts_by_data_set() -> None:
    configs = [CONFIGS["sce"](SETTINGS[source], NoiseSpec()) for source in ("cifar10", "cifar100nc", "web-bird")]
    assert [(config.alpha, config.beta) for config in configs] == [(0.1, 1.0), (6.0, 0.1), (10.0, 1.0)]
