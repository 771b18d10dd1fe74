"""ELR and ELR+ on hand-written numbers: targets, regularizer, teachers, mixtures, ramps."""

from __future__ import annotations

import math
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from acto.core.errors import UserError
from acto.core.types import Batch, Clock, Task
from acto.data.noise import NoiseSpec
from acto.methods import elr_plus
from acto.methods.elr import ELR
from acto.methods.elr_plus import ELRPlus, ramp_up
from acto.runs.recipes.by_data import SETTINGS
from acto.runs.recipes.by_method import CONFIGS
from acto.training.loop import Training, run_epochs
from acto.training.plans import Plan
from acto.training.protocol import Protocol
from toys import make_method, make_problem, make_training

K = 3
LABELS = torch.tensor([0, 2, 1, 1, 0])
INDEX = torch.tensor([3, 0, 1])
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.3, 0.1], [-3.0, 1.0, 12.0]], dtype=torch.float64)


class Scaled(nn.Module):
    """Logits are the inputs times a factor, so that they can be written by hand."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * inputs


def make(cls: Any, *, scales: tuple[float, ...] = (1.0,), **settings: Any) -> Any:
    numbers = count()
    method = cls(cls.Config(**settings), Task(LABELS, K), lambda: Scaled(scales[next(numbers)]))
    return method.double()


def batch(inputs: Tensor = LOGITS) -> Batch:
    return Batch(INDEX, (inputs,), LABELS[INDEX])


def softmax(row: list[float]) -> list[float]:
    exps = [math.exp(v) for v in row]
    return [e / sum(exps) for e in exps]


def clamped(row: list[float]) -> list[float]:
    return [min(max(p, 1e-4), 1 - 1e-4) for p in row]


def regularizer(logits: list[float], target: list[float]) -> float:
    return math.log(1 - sum(p * t for p, t in zip(clamped(softmax(logits)), target, strict=True)))


# ELR --------------------------------------------------------------------------------------------------------------


def test_targets_are_a_moving_average_from_zero() -> None:
    method = make(ELR, beta=0.7)
    method.loss((batch(),), Clock(0, 9))
    method.loss((batch(2 * LOGITS),), Clock(1, 9))
    for row, sample in enumerate(INDEX.tolist()):
        expected = [0.0] * K
        for factor in (1, 2):
            guess = clamped(softmax((factor * LOGITS[row]).tolist()))
            expected = [0.7 * t + 0.3 * p / sum(guess) for t, p in zip(expected, guess, strict=True)]
        np.testing.assert_allclose(method.target[sample, 0], expected, rtol=1e-12)
    assert not method.target[[2, 4]].any(), "samples outside of the batch"


def test_the_loss_by_a_loop() -> None:
    method = make(ELR, beta=0.7, weight=3.0)
    method.target[:, 0] = torch.tensor([0.1, 0.2, 0.6], dtype=torch.float64)
    step = method.loss((batch(),), Clock(1, 9))
    expected = 0.0
    for row, label in zip(LOGITS.tolist(), LABELS[INDEX].tolist(), strict=True):
        guess = clamped(softmax(row))
        target = [0.7 * t + 0.3 * p / sum(guess) for t, p in zip((0.1, 0.2, 0.6), guess, strict=True)]
        expected += (-math.log(softmax(row)[label]) + 3.0 * regularizer(row, target)) / 3
    assert float(step.loss.detach()) == pytest.approx(expected, rel=1e-12)


def test_targets_are_constants_and_the_gradient_is_the_papers() -> None:
    """d/dz_k of log(1 - <p, t>) is -p_k (t_k - <p, t>) / (1 - <p, t>): towards what is remembered."""
    target = torch.tensor([[0.1, 0.7, 0.2]], dtype=torch.float64, requires_grad=True)
    logits = LOGITS[1:2].clone().requires_grad_()
    value = ELR.regularizer(logits, target.detach())
    value.sum().backward()
    p = torch.tensor(softmax(LOGITS[1].tolist()), dtype=torch.float64)
    inner = float((p * target.detach()[0]).sum())
    np.testing.assert_allclose(logits.grad, (-p * (target.detach() - inner) / (1 - inner)).reshape(1, K), rtol=1e-10)
    method = make(ELR)
    method.loss((batch(),), Clock(0, 9)).loss.backward()
    assert not method.target.requires_grad


def test_perfect_agreement_and_an_empty_memory_stay_finite() -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    value = ELR.regularizer(logits, torch.tensor([[1.0, 0.0, 0.0]]))
    value.sum().backward()
    assert float(value.detach()) == pytest.approx(math.log(1e-4), rel=1e-3)
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert ELR.regularizer(logits, torch.zeros(1, K)).tolist() == [0.0]


def test_label_quality_is_the_remembered_share_of_the_given_label() -> None:
    method = make(ELR)
    assert method.label_quality() is None
    method.target[:, 0] = 0.5 * torch.tensor(
        [[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0, 1, 0], [0.5, 0.25, 0.25], [0, 0, 0]], dtype=torch.float64
    )
    np.testing.assert_allclose(method.label_quality(), [0.8, 0.2, 1.0, 0.25, 0.0])


def test_holds_off_memorization_on_toy_data() -> None:
    """The same network on the same data: which share of the wrong labels does it predict in the end?"""
    problem = make_problem()
    fits = {}
    for name in ("elr", "standard"):
        protocol = Protocol(epochs=40, batch_size=32, plan=Plan(lr=0.05))
        training = Training(make_method(name, problem.task), protocol)
        for _ in run_epochs(training, problem.train, seed=3):
            pass
        fits[name] = (training.history.predicted == problem.task.labels).numpy()[~problem.clean].mean()
    assert fits["elr"] < 0.1 < 0.2 < fits["standard"]


# ELR+ -------------------------------------------------------------------------------------------------------------

SHARE = 0.75


@pytest.fixture
def even_mixup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mixup with a known weight and partner: three quarters of a row, and a quarter of its mirror image."""

    def mixup(inputs: Tensor, targets: Tensor, *, alpha: float) -> tuple[Tensor, Tensor]:
        assert alpha == 1.0
        return SHARE * inputs + (1 - SHARE) * inputs.flip(0), SHARE * targets + (1 - SHARE) * targets.flip(0)

    monkeypatch.setattr(elr_plus, "mixup", mixup)


def mixed(rows: list[list[float]]) -> list[list[float]]:
    pairs = zip(rows, rows[::-1], strict=True)
    return [[SHARE * a + (1 - SHARE) * b for a, b in zip(row, mirror, strict=True)] for row, mirror in pairs]


@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize("reweighting", [False, True])
def test_the_step_of_elr_plus_by_a_loop(turn: int, reweighting: bool, even_mixup: None) -> None:
    """Net 0 multiplies by 1, net 1 by 2, average 0 by 3, average 1 by 5."""
    method = make(ELRPlus, scales=(1.0, 2.0), beta=0.6, weight=3.0, label_reweighting=reweighting)
    with torch.no_grad():
        method.averages[0].scale.fill_(3.0)
        method.averages[1].scale.fill_(5.0)
    method.target[:, turn] = torch.tensor([0.1, 0.2, 0.6], dtype=torch.float64)
    before = method.target.clone()
    step = method.loss((batch(),), Clock(1, 9, turn))

    teacher, student = (5.0, 1.0) if turn == 0 else (3.0, 2.0)
    targets = []
    for row in LOGITS.tolist():
        guess = softmax([teacher * z for z in row])
        targets.append([0.6 * t + 0.4 * p for t, p in zip((0.1, 0.2, 0.6), guess, strict=True)])
    labels = mixed(np.eye(K)[LABELS[INDEX]].tolist())
    expected = 0.0
    for inputs, label, target in zip(mixed(LOGITS.tolist()), labels, mixed(targets), strict=True):
        logits = [student * z for z in inputs]
        if reweighting:
            products = [y * q for y, q in zip(label, target, strict=True)]
            label = [y / sum(products) for y in products]
        supervised = -sum(y * math.log(p) for y, p in zip(label, softmax(logits), strict=True))
        expected += (supervised + 3.0 * regularizer(logits, target)) / 3
    assert float(step.loss.detach()) == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(method.target[INDEX, turn], targets, rtol=1e-10)
    assert torch.equal(method.target[INDEX, 1 - turn], before[INDEX, 1 - turn]), "the other network's targets"
    assert step.per_sample["predicted"].tolist() == LOGITS.argmax(1).tolist()

    step.loss.backward()
    learning = [net.scale.grad is not None for net in (*method.nets, *method.averages)]
    assert learning == [turn == 0, turn == 1, False, False]


@pytest.mark.parametrize("turn", [0, 1])
def test_only_the_average_of_the_network_that_learned_moves(turn: int) -> None:
    """Ten steps an epoch, half way up the ramp: gamma = exp(-1 / (0.5 * 10)) * exp(-5 / 4)."""
    method = make(ELRPlus, scales=(1.0, 2.0), ema_epochs=0.5, ema_ramp_epochs=5.0)
    with torch.no_grad():
        for net in method.averages:
            net.scale.fill_(11.0)
    method.on_step(Clock(2, 9, turn, step=5, steps=10))
    gamma = math.exp(-0.2) * math.exp(-1.25)
    moved = [float(net.scale) for net in method.averages]
    assert moved[turn] == pytest.approx(gamma * 11.0 + (1 - gamma) * (turn + 1.0))
    assert moved[1 - turn] == 11.0


def test_the_default_average_is_the_papers() -> None:
    config = ELRPlus.Config()
    assert math.exp(-1 / (config.ema_epochs * 352)) == pytest.approx(0.997, abs=1e-4)
    assert config.ema_ramp_epochs * 352 == pytest.approx(40_000, rel=0.01)


def test_ramp() -> None:
    values = [ramp_up(Clock(epoch, 9, step=1, steps=2), over=4.0) for epoch in (0, 1, 3, 4, 8)]
    assert values == pytest.approx([math.exp(-5 * s**2) for s in (3.5 / 4, 2.5 / 4, 0.5 / 4, 0, 0)])
    assert ramp_up(Clock(0, 9), over=4.0) == pytest.approx(math.exp(-5))
    assert ramp_up(Clock(0, 9), over=0.0) == 1.0


def test_the_weight_rises_with_its_ramp(even_mixup: None) -> None:
    def loss(clock: Clock) -> float:
        return float(make(ELRPlus, scales=(1.0, 2.0), weight_ramp_epochs=4.0).loss((batch(),), clock).loss.detach())

    early, middle, late = loss(Clock(0, 9)), loss(Clock(2, 9)), loss(Clock(4, 9))
    plain = make(ELRPlus, scales=(1.0, 2.0), weight=0.0).loss((batch(),), Clock(0, 9)).loss
    full = late - float(plain.detach())
    assert early - float(plain.detach()) == pytest.approx(full * math.exp(-5))
    assert middle - float(plain.detach()) == pytest.approx(full * math.exp(-1.25))


def test_averages_start_as_copies_and_no_optimizer_moves_them() -> None:
    problem = make_problem()
    training = make_training("elr-plus", problem.task)
    method: Any = training.method
    for net, teacher in zip(method.nets, method.averages, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), teacher.parameters(), strict=True))
        assert not any(p.requires_grad for p in teacher.parameters())
    method.on_step = lambda clock: None
    before = [p.clone() for p in method.averages.parameters()]
    next(run_epochs(training, problem.train, seed=3))
    assert all(torch.equal(a, b) for a, b in zip(before, method.averages.parameters(), strict=True))


def test_reweighting_survives_labels_that_the_memory_excludes(even_mixup: None) -> None:
    method = make(ELRPlus, scales=(1.0, 2.0), label_reweighting=True, beta=0.99)
    sure_of_class_0 = torch.tensor([[1000.0, 0.0, 0.0]] * 3, dtype=torch.float64)
    step = method.loss((batch(sure_of_class_0),), Clock(0, 9))
    step.loss.backward()
    assert step.loss.isfinite() and method.nets[0].scale.grad.isfinite()


def test_the_model_is_the_mean_of_the_students_logits() -> None:
    method = make(ELRPlus, scales=(1.0, 2.0))
    found = method.predict(LOGITS)
    assert list(found) == ["ensemble", "net0", "net1"]
    expected = [softmax((1.5 * row).tolist()) for row in LOGITS]
    np.testing.assert_allclose(found["ensemble"].detach(), expected)


# Settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "settings"),
    [(ELR, {"beta": 1.0}), (ELR, {"weight": -1.0}), (ELRPlus, {"beta": 1.0}), (ELRPlus, {"ema_epochs": 0.0})],
)
def test_refuses_values_out_of_range(cls: Any, settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        cls.Config(**settings)


def test_recipes_have_the_constants_of_the_public_code() -> None:
    def config(name: str, source: str, kind: str = "symmetric") -> Any:
        return CONFIGS[name](SETTINGS[source].lasting(100), NoiseSpec(kind=kind, rate=0.2 if kind != "none" else 0.0))

    elr = [config("elr", "cifar10"), config("elr", "cifar10", "asymmetric"), config("elr", "cifar100")]
    assert [(c.beta, c.weight) for c in elr] == [(0.7, 3.0), (0.9, 1.0), (0.9, 7.0)]
    ten, hundred = (config("elr-plus", source) for source in ("cifar10", "cifar100nc"))
    assert (ten.ema_ramp_epochs, ten.weight_ramp_epochs, ten.label_reweighting) == (57.0, 0.0, False)
    assert (hundred.ema_ramp_epochs, hundred.weight_ramp_epochs) == pytest.approx((45.6, 45.6))
    assert hundred.label_reweighting and (hundred.beta, hundred.weight) == (0.9, 7.0)
    assert not config("elr-plus", "web-aircraft", "none").label_reweighting, "100 classes, but not CIFAR-100"
