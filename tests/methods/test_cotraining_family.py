"""Small-loss selection, Co-teaching, Co-teaching+, JoCoR and Decoupling on hand-written numbers.

Each of the two networks passes a slice of its input through, so logits are written by hand and the gradient in the
input says which network learns from which sample, and how much.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from acto.core.errors import UserError
from acto.core.types import Batch, Clock, Step, Task
from acto.data.noise import NoiseSpec
from acto.methods import METHODS
from acto.methods.base import Method
from acto.methods.blocks.selection import forget_rate, small_loss
from acto.methods.co_teaching import CoTeaching
from acto.methods.co_teaching_plus import CoTeachingPlus
from acto.methods.decoupling import Decoupling
from acto.methods.jocor import JoCoR
from acto.runs.recipes.by_data import SETTINGS
from acto.runs.recipes.by_method import CONFIGS

K = 3
LATE = Clock(50, 200)

# Six samples; the given labels, and the classes that each network predicts:
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
FIRST = torch.tensor(
    [
        [3.0, 0.0, 0.0],  # 0, right
        [0.0, 0.5, 0.0],  # 1, right
        [0.0, 2.0, 0.0],  # 1, wrong
        [0.0, 0.0, 1.0],  # 2, wrong
        [0.0, 4.0, 0.0],  # 1, right
        [0.0, 0.0, 0.2],  # 2, right
    ],
    dtype=torch.float64,
)
SECOND = torch.tensor(
    [
        [0.0, 1.0, 0.0],  # 1, wrong
        [0.0, 3.0, 0.0],  # 1, right
        [0.0, 0.0, 2.0],  # 2, right
        [2.5, 0.0, 0.0],  # 0, right
        [0.0, 0.1, 0.0],  # 1, right
        [0.0, 5.0, 0.0],  # 1, wrong
    ],
    dtype=torch.float64,
)
# By loss, ascending, first network: 4 0 1 5 3 2; second network: 1 3 2 4 0 5.
DISPUTED = [0, 2, 3, 5]


class Slice(nn.Module):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * inputs[:, self.number]


def make(cls: type[Method], *, noise_rate: float | None = None, **settings: Any) -> Any:
    numbers = count()
    return cls(cls.Config(**settings), Task(LABELS, K, noise_rate, "oracle"), lambda: Slice(next(numbers)))


def run(
    method: Method, clock: Clock = LATE, *, first: Tensor = FIRST, second: Tensor = SECOND, labels: Tensor = LABELS
) -> tuple[Step, Tensor, Tensor]:
    """The step, and its gradient in the logits of either network, (B, K) each."""
    inputs = torch.stack([first, second], dim=1).requires_grad_()
    step = method.loss((Batch(torch.arange(len(labels)), (inputs,), labels),), clock)
    step.loss.backward()
    assert inputs.grad is not None
    return step, inputs.grad[:, 0], inputs.grad[:, 1]


def probs(logits: Tensor) -> Tensor:
    return logits.exp() / logits.exp().sum(1, keepdim=True)


def ce(logits: Tensor, labels: Tensor = LABELS) -> list[float]:
    return [-math.log(float(row[label])) for row, label in zip(probs(logits), labels, strict=True)]


def mean_gradient(logits: Tensor, samples: list[int], *, over: float | None = None) -> np.ndarray:
    """Of the cross-entropy: (p - onehot) / `over`, 0 outside of `samples`."""
    gradient = np.zeros((len(logits), K))
    for i in samples:
        gradient[i] = probs(logits)[i].numpy() - np.eye(K)[LABELS[i]]
        gradient[i] /= len(samples) if over is None else over
    return gradient


# Small-loss selection ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "picked"), [(0.0, [0, 1, 2, 3, 4]), (0.3, [0, 1, 3]), (0.4, [0, 1, 3]), (0.6, [1, 3]), (1.0, [1])]
)
def test_small_loss_keeps_the_floor_of_the_share(rate: float, picked: list[int]) -> None:
    losses = torch.tensor([0.3, 0.1, 0.5, 0.2, 0.4])
    assert small_loss(losses, rate).nonzero().flatten().tolist() == picked


@pytest.mark.parametrize(
    ("rate", "size", "kept"), [(0.9, 10, 1), (0.41, 100, 59), (0.2, 128, 102), (0.2 / 9, 128, 125)]
)
def test_small_loss_does_not_stumble_over_binary_fractions(rate: float, size: int, kept: int) -> None:
    assert small_loss(torch.rand(size), rate).sum() == kept


def test_small_loss_among_candidates() -> None:
    losses = torch.tensor([0.0, 0.5, 0.1, 0.4, 0.3])
    among = torch.tensor([False, True, False, True, True])
    assert small_loss(losses, 0.3, among=among).tolist() == [False, False, False, True, True], "floor(0.7 * 3) = 2"
    assert small_loss(losses, 0.9, among=among).tolist() == [False, False, False, False, True], "at least one"
    assert not small_loss(losses, 0.0, among=torch.zeros(5, dtype=torch.bool)).any()


def test_small_loss_of_ties_and_of_what_is_not_a_number() -> None:
    losses = torch.tensor([0.5, math.nan, 0.5, 0.5, math.inf])
    assert small_loss(losses, 0.6).tolist() == [True, False, True, False, False]
    assert small_loss(losses, 0.2).tolist() == [True, False, True, True, True]


def test_small_loss_by_a_loop() -> None:
    random = np.random.RandomState(0)
    for _ in range(50):
        size = random.randint(1, 20)
        losses, among, rate = random.rand(size), random.rand(size) < 0.6, random.randint(0, 101) / 100
        candidates = sorted((loss, i) for i, loss in enumerate(losses) if among[i])
        num_kept = max(1, len(candidates) * (100 - round(100 * rate)) // 100)
        kept = {i for _, i in candidates[:num_kept]}
        found = small_loss(torch.from_numpy(losses), rate, among=torch.from_numpy(among))
        assert set(found.nonzero().flatten().tolist()) == kept


def test_small_loss_passes_no_gradient() -> None:
    assert not small_loss(torch.rand(4, requires_grad=True), 0.5).requires_grad


def test_forget_rate_rises_to_the_noise_rate() -> None:
    rates = [forget_rate(epoch, noise_rate=0.4, ramp_epochs=4) for epoch in range(6)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    assert forget_rate(0, noise_rate=0.4, ramp_epochs=0) == 0.4


# Co-teaching ------------------------------------------------------------------------------------------------------


def test_co_teaching_learns_from_the_others_choice() -> None:
    """A third of six is left out: net 0 learns from {1, 3, 2, 4} (chosen by net 1), net 1 from {4, 0, 1, 5}."""
    step, grad_first, grad_second = run(make(CoTeaching, noise_rate=1 / 3))
    np.testing.assert_allclose(grad_first, mean_gradient(FIRST, [1, 3, 2, 4]), atol=1e-12)
    np.testing.assert_allclose(grad_second, mean_gradient(SECOND, [4, 0, 1, 5]), atol=1e-12)
    first, second = ce(FIRST), ce(SECOND)
    expected = sum(first[i] for i in (1, 3, 2, 4)) / 4 + sum(second[i] for i in (4, 0, 1, 5)) / 4
    assert float(step.loss.detach()) == pytest.approx(expected)
    assert step.per_sample["selected"].nonzero().flatten().tolist() == [1, 2, 3, 4], "what net 0 learns from"
    assert step.per_sample["predicted"].tolist() == FIRST.argmax(1).tolist()


def test_co_teaching_starts_with_nearly_all_samples() -> None:
    method = make(CoTeaching, noise_rate=0.5, ramp_epochs=10)
    sizes = [int(run(method, Clock(epoch, 200))[0].per_sample["selected"].sum()) for epoch in (0, 4, 8, 9, 30)]
    assert sizes == [5, 4, 3, 3, 3]  # floor of 6 * (.95, .75, .55, .5, .5)


@pytest.mark.parametrize("cls", [CoTeaching, CoTeachingPlus, JoCoR])
def test_the_noise_rate_comes_from_the_settings_or_the_task(cls: Any) -> None:
    assert make(cls, noise_rate=0.3).forget_rate(LATE) == 0.3
    method = cls(cls.Config(noise_rate=0.1), Task(LABELS, K, 0.3, "oracle"), lambda: Slice(0))
    assert method.forget_rate(LATE) == 0.1
    with pytest.raises(UserError, match=f"{cls.name}.*noise_rate is not known"):
        make(cls)
    with pytest.raises(UserError, match=r"noise_rate is 1\.2"):
        cls.Config(noise_rate=1.2)


def test_the_model_is_one_network_beside_the_mean_of_both() -> None:
    inputs = torch.stack([FIRST, SECOND], dim=1)
    for cls in (CoTeaching, Decoupling):
        found = make(cls, **({"noise_rate": 0.2} if cls is CoTeaching else {})).predict(inputs)
        assert list(found) == ["net0", "net1", "ensemble"]
        np.testing.assert_allclose(found["net0"].detach(), probs(FIRST))
        np.testing.assert_allclose(found["ensemble"].detach(), (probs(FIRST) + probs(SECOND)) / 2)


# Co-teaching+ -----------------------------------------------------------------------------------------------------


def test_co_teaching_plus_warms_up_as_co_teaching() -> None:
    clock = Clock(19, 200)
    plus, plain = (run(make(cls, noise_rate=1 / 3), clock) for cls in (CoTeachingPlus, CoTeaching))
    assert plus[0].loss == plain[0].loss
    assert torch.equal(plus[1], plain[1]) and torch.equal(plus[2], plain[2])
    assert run(make(CoTeachingPlus, noise_rate=1 / 3), Clock(20, 200))[0].loss != plain[0].loss


def test_co_teaching_plus_teaches_within_the_dispute() -> None:
    """D = {0, 2, 3, 5}; half of it by net 0's loss: {0, 5}, by net 1's: {3, 2}."""
    step, grad_first, grad_second = run(make(CoTeachingPlus, noise_rate=0.5))
    np.testing.assert_allclose(grad_first, mean_gradient(FIRST, [2, 3]), atol=1e-12)
    np.testing.assert_allclose(grad_second, mean_gradient(SECOND, [0, 5]), atol=1e-12)
    assert step.per_sample["selected"].nonzero().flatten().tolist() == [2, 3]
    assert float(step.log["disagreement"]) == pytest.approx(4 / 6)


def test_co_teaching_plus_keeps_one_of_a_small_dispute_and_rests_without_one() -> None:
    _, grad_first, grad_second = run(make(CoTeachingPlus, noise_rate=0.9))
    np.testing.assert_allclose(grad_first, mean_gradient(FIRST, [3]), atol=1e-12)
    np.testing.assert_allclose(grad_second, mean_gradient(SECOND, [0]), atol=1e-12)
    step, grad_first, grad_second = run(make(CoTeachingPlus, noise_rate=0.5), second=FIRST)
    assert step.loss == 0 and not grad_first.any() and not grad_second.any()
    assert not step.per_sample["selected"].any()


def test_co_teaching_plus_with_the_double_softmax_of_the_public_code() -> None:
    step, _, _ = run(make(CoTeachingPlus, noise_rate=0.5, double_softmax=True))
    first, second = ce(probs(FIRST)), ce(probs(SECOND))
    expected = (first[2] + first[3]) / 2 + (second[0] + second[5]) / 2
    assert float(step.loss.detach()) == pytest.approx(expected)
    assert all(math.log(math.e + 2) - 1 <= loss <= math.log(math.e + 2) for loss in first + second), "width 1"


# JoCoR ------------------------------------------------------------------------------------------------------------


def divergence(first: Tensor, second: Tensor) -> list[float]:
    sums = []
    for p, q in zip(probs(first).tolist(), probs(second).tolist(), strict=True):
        there = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        back = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
        sums.append(there + back)
    return sums


@pytest.mark.parametrize(("co_lambda", "expected"), [(0.0, [0, 1, 4]), (0.65, [1, 3, 4]), (0.9, [1, 3, 4])])
def test_jocor_ranks_and_learns_by_the_joint_loss(co_lambda: float, expected: list[int]) -> None:
    """By cross-entropy alone sample 0 would be among the best three; but the networks contradict each other on it."""
    step, grad_first, grad_second = run(make(JoCoR, noise_rate=0.5, co_lambda=co_lambda))
    both = [a + b for a, b in zip(ce(FIRST), ce(SECOND), strict=True)]
    joint = [(1 - co_lambda) * c + co_lambda * d for c, d in zip(both, divergence(FIRST, SECOND), strict=True)]
    kept = sorted(sorted(range(6), key=lambda i: joint[i])[:3])
    assert float(step.loss.detach()) == pytest.approx(sum(joint[i] for i in kept) / 3)
    assert step.per_sample["selected"].nonzero().flatten().tolist() == kept
    for gradient in (grad_first, grad_second):
        assert gradient.any(dim=1).nonzero().flatten().tolist() == kept
    assert kept == expected


def test_agreement_pulls_both_networks() -> None:
    _, grad_first, grad_second = run(make(JoCoR, noise_rate=0.0, co_lambda=1.0))
    assert (grad_first.abs().sum(1) > 0).all() and (grad_second.abs().sum(1) > 0).all()
    # Sample 0: net 0 says class 0, net 1 class 1; each is pulled towards the other.
    assert grad_first[0, 0] > 0 > grad_first[0, 1] and grad_second[0, 1] > 0 > grad_second[0, 0]


# Decoupling -------------------------------------------------------------------------------------------------------


def test_decoupling_updates_where_the_networks_differ_whatever_the_label() -> None:
    step, grad_first, grad_second = run(make(Decoupling))
    np.testing.assert_allclose(grad_first, mean_gradient(FIRST, DISPUTED), atol=1e-12)
    np.testing.assert_allclose(grad_second, mean_gradient(SECOND, DISPUTED), atol=1e-12)
    assert float(step.loss.detach()) == pytest.approx(sum(ce(FIRST)[i] + ce(SECOND)[i] for i in DISPUTED) / 4)
    assert "selected" not in step.per_sample
    _, other, _ = run(make(Decoupling), labels=(LABELS + 1) % K)
    assert (other.abs().sum(1) > 0).nonzero().flatten().tolist() == DISPUTED


def test_decoupling_warms_up_on_everything() -> None:
    method = make(Decoupling, warmup_epochs=2)
    _, early, _ = run(method, Clock(1, 9))
    np.testing.assert_allclose(early, mean_gradient(FIRST, list(range(6))), atol=1e-12)
    _, late, _ = run(method, Clock(2, 9))
    np.testing.assert_allclose(late, mean_gradient(FIRST, DISPUTED), atol=1e-12)


def test_decoupling_takes_a_small_step_for_a_small_dispute_and_none_without() -> None:
    second = FIRST.clone()
    second[3] = torch.tensor([1.0, 0.0, 0.0])
    _, gradient, _ = run(make(Decoupling, min_share=0.5), second=second)
    np.testing.assert_allclose(gradient, mean_gradient(FIRST, [3], over=3.0), atol=1e-12)
    step, grad_first, grad_second = run(make(Decoupling), second=FIRST)
    assert step.loss == 0 and not grad_first.any() and not grad_second.any()


# Settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("co-teaching", {"ramp_epochs": -1}),
        ("co-teaching-plus", {"warmup_epochs": -1}),
        ("jocor", {"co_lambda": 1.5}),
        ("decoupling", {"min_share": 0.0}),
        ("decoupling", {"warmup_epochs": -1}),
    ],
)
def test_refuses_values_out_of_range(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        METHODS[name].Config(**settings)


def test_recipes_keep_the_papers_shares_and_constants() -> None:
    def config(name: str, source: str, *, epochs: int, kind: str = "symmetric", rate: float = 0.2) -> Any:
        return CONFIGS[name](SETTINGS[source].lasting(epochs), NoiseSpec(kind=kind, rate=rate))

    for name in ("co-teaching", "co-teaching-plus", "jocor"):
        assert [config(name, "cifar10", epochs=epochs).ramp_epochs for epochs in (200, 60, 5)] == [10, 3, 1]
    plus = [config("co-teaching-plus", source, epochs=200).warmup_epochs for source in ("cifar10", "cifar100nc")]
    assert plus == [20, 5]
    assert config("jocor", "cifar10", epochs=200).co_lambda == 0.9
    assert config("jocor", "cifar10", epochs=200, rate=0.8).co_lambda == 0.65
    assert config("jocor", "cifar100", epochs=200, rate=0.8).co_lambda == 0.85
    web = replace(SETTINGS["web-bird"], warmup_epochs=7)
    assert CONFIGS["decoupling"](web, NoiseSpec()).warmup_epochs == 7
    assert config("decoupling", "cifar10", epochs=200).warmup_epochs == 0
