"""UNICON: divergence, selection and contrast on hand-written numbers, and a step against a literal one."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Beta

from acto.core.errors import UserError
from acto.core.types import Batch, Clock
from acto.data.noise import NoiseSpec
from acto.methods.unicon import (
    UNICON,
    label_divergence,
    label_weight,
    select_uniformly,
    share_below_cut,
    view_contrast,
)
from acto.runs.recipes.by_data import SETTINGS
from acto.runs.recipes.by_method import CONFIGS
from toys import NUM_CLASSES, ToyNet, make_problem

PROBLEM = make_problem()
K = NUM_CLASSES


def literal_divergence(p: list[float], label: int) -> float:
    y = [float(c == label) for c in range(len(p))]
    m = [(a + b) / 2 for a, b in zip(p, y, strict=True)]

    def kl(a: list[float]) -> float:
        return sum(x * math.log(x / z) for x, z in zip(a, m, strict=True) if x > 0)

    return (kl(p) + kl(y)) / 2


def test_divergence() -> None:
    rows = [[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1 / 3] * 3]
    labels = [0, 2, 0, 1, 1]
    probs = torch.tensor(rows, dtype=torch.float64)
    expected = [literal_divergence(p, c) for p, c in zip(rows, labels, strict=True)]
    assert expected[2:4] == pytest.approx([0, math.log(2)])
    found = label_divergence(probs, torch.tensor(labels), in_bits=False)
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    in_bits = label_divergence(probs, torch.tensor(labels), in_bits=True)
    assert in_bits.tolist() == pytest.approx([d / math.log(2) for d in expected], abs=1e-12)


def test_weight_of_a_label() -> None:
    assert label_weight(torch.tensor([0.0, 0.49, 0.5, 0.6])).tolist() == pytest.approx([1, 1, 0.5, 0.4])


def test_cut() -> None:
    low = torch.tensor([0.1, 0.2, 0.6, 0.7])  # mean 0.4
    assert share_below_cut(low, d_mu=0.7, tau=5) == 0.5
    high = torch.tensor([0.4, 0.7, 0.74, 0.95, 0.96])  # mean 0.75, lowered by 0.35 / 5 to 0.68
    assert share_below_cut(high, d_mu=0.7, tau=5) == 0.2
    assert share_below_cut(high, d_mu=0.8, tau=5) == 0.6
    assert share_below_cut(torch.full((4,), 0.3), d_mu=0.7, tau=5) == 0


@pytest.mark.parametrize(
    ("share", "floor", "selected"),
    [
        (0.5, 0, [0, 2, 4, 5]),  # int(0.5 * 9 / 3) = 1 of each class
        (0.7, 0, [0, 2, 3, 4, 5, 6]),  # 2 of each; class 2 has only one
        (0.1, 0, []),
        (0.1, 3, [0, 2, 4, 5]),
        (1.0, 0, [0, 2, 3, 4, 5, 6]),  # never more than leaves two
        (0.0, 64, [0, 2, 3, 4, 5, 6]),  # the floor is at most half, 4: two of each
    ],
)
def test_uniform_selection(share: float, floor: int, selected: list[int]) -> None:
    #                         0    1    2    3    4    5    6    7    8
    divergence = torch.tensor([0.1, 0.6, 0.0, 0.5, 0.9, 0.3, 0.2, 0.9, 0.7])
    labels = torch.tensor([0, 0, 1, 0, 2, 0, 0, 1, 1])
    by_hand = {0: [0, 6, 5, 3, 1], 1: [2, 8, 7], 2: [4]}
    num_each = {(): 0, (0, 2, 4, 5): 1, (0, 2, 3, 4, 5, 6): 2}[tuple(selected)]
    expected = sorted(i for order in by_hand.values() for i in order[:num_each])
    found = select_uniformly(divergence, labels, share=share, num_classes=3, floor=floor)
    assert found.nonzero().squeeze(1).tolist() == expected


def test_contrast() -> None:
    first = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    second = torch.tensor([[1.0, 1.0], [0.0, -2.0]])
    rows = torch.nn.functional.normalize(torch.cat([first, second]), dim=1).tolist()
    expected = []
    for i in range(4):
        scores = [sum(a * b for a, b in zip(rows[i], rows[j], strict=True)) / 0.5 for j in range(4)]
        others = sum(math.exp(scores[j]) for j in range(4) if j != i)
        expected.append(-math.log(math.exp(scores[(i + 2) % 4]) / others))
    assert view_contrast(first, second, temperature=0.5).tolist() == pytest.approx(expected, rel=1e-5)
    alone = first[:1].clone().requires_grad_()
    loss = view_contrast(alone, second[:1], temperature=0.05).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0 and alone.grad is not None and alone.grad.isfinite().all()


def make(**settings: Any) -> tuple[UNICON, Batch, Batch]:
    config = UNICON.Config(
        **{"warmup_epochs": 2, "lambda_u": 10.0, "ramp_epochs": 4.0, "batch_size": 8, "projection_dim": 6, **settings}
    )
    torch.manual_seed(0)
    method = UNICON(config, PROBLEM.task, ToyNet).double().train()
    method.divergence.copy_(math.log(2) * torch.rand(PROBLEM.task.num_samples))
    order = torch.randperm(PROBLEM.task.num_samples)

    def batch(index: Tensor) -> Batch:
        features = PROBLEM.train.features[index].double()
        views = tuple(features + 0.1 * (1 + k) * torch.randn_like(features) for k in range(4))
        return Batch(index, views, PROBLEM.task.labels[index])

    return method, batch(order[:5]), batch(order[5:12])


def sharpened(probs: Tensor, temperature: float) -> Tensor:
    powers = probs ** (1 / temperature)
    return torch.stack([row / sum(row) for row in powers])


@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize(("epoch", "step"), [(2, 0), (3, 2), (9, 1)])
def test_a_step_equals_the_literal_one(turn: int, epoch: int, step: int) -> None:
    method, x, u = make()
    twin, clock = copy.deepcopy(method), Clock(epoch, 20, turn, step, 4)
    torch.manual_seed(7)
    found = method.loss((x, u), clock).loss
    found.backward()

    net, partner, projector = twin.nets[turn], twin.nets[1 - turn], twin.projectors[turn]
    features: list[Any] = [net]
    z = [projector(features[0].features(view)) for view in u.views[2:]]
    stack = torch.cat(z)
    units = [row / row.square().sum().sqrt() for row in stack]
    contrast = []
    for i in range(14):
        scores = {j: (units[i] @ units[j]) / 0.05 for j in range(14) if j != i}
        contrast.append(-scores[(i + 7) % 14] + sum(s.exp() for s in scores.values()).log())  # type: ignore[union-attr]
    loss_c = sum(contrast) / 14
    with torch.no_grad():
        partner.eval()
        guess_u = sum(f(u.views[k]).softmax(1) for f in (net, partner) for k in range(2)) / 4
        partner.train()
        own_x = (net(x.views[0]).softmax(1) + net(x.views[1]).softmax(1)) / 2
        refined = []
        for row, sample in enumerate(x.index.tolist()):
            d = float(method.divergence[sample])
            w = 1.0 if d < 0.5 else 1 - d
            refined.append(w * torch.eye(K, dtype=torch.float64)[x.label[row]] + (1 - w) * own_x[row])
        target_x, target_u = sharpened(torch.stack(refined), 0.5), sharpened(guess_u, 0.5)
    torch.manual_seed(7)
    drawn = Beta(torch.tensor(4.0), torch.tensor(4.0)).sample()
    share, rest = float(max(drawn, 1 - drawn)), float(min(drawn, 1 - drawn))
    strong = torch.cat([*x.views[2:], *u.views[2:]])
    targets = torch.cat([target_x, target_x, target_u, target_u])
    partners = torch.randperm(24).tolist()
    mixed = torch.stack([share * strong[i] + rest * strong[j] for i, j in enumerate(partners)])
    mixed_targets = torch.stack([share * targets[i] + rest * targets[j] for i, j in enumerate(partners)])
    probs = net(mixed).softmax(1)
    loss_x = sum(-(mixed_targets[i] * probs[i].log()).sum() for i in range(10)) / 10
    loss_u = sum(((probs[i] - mixed_targets[i]) ** 2).sum() / K for i in range(10, 24)) / 14
    loss_reg = sum((1 / K) * ((1 / K) / probs.mean(0)[c]).log() for c in range(K))
    ramp = min((epoch + step / 4 - 2) / 4, 1.0)
    expected: Any = loss_x + 10 * ramp * loss_u + 0.025 * loss_c + loss_reg
    expected.backward()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    for (name, parameter), other in zip(method.named_parameters(), twin.parameters(), strict=True):
        if name.split(".")[1] == str(turn):
            assert parameter.grad is not None and other.grad is not None
            np.testing.assert_allclose(parameter.grad, other.grad, rtol=1e-5, atol=1e-8, err_msg=name)
        else:
            assert parameter.grad is None, f"{name}: the partner only guesses"


def scan(net: nn.Module, *, view: str = "none", train: bool = False) -> Tensor:
    assert view == "none" and not train
    mode = net.training
    with torch.no_grad():
        logits = net.eval()(PROBLEM.train.features.double())
    net.train(mode)
    return logits


def test_every_turn_selects_anew_by_the_mean_of_both_networks() -> None:
    method, _, _ = make()
    before = method.divergence.clone()
    assert method.on_turn(Clock(1, 20, 0), scan) is None and torch.equal(method.divergence, before), "warm-up"
    for turn in range(2):
        seen = method.on_turn(Clock(2, 20, turn), scan)
        mean = (scan(method.nets[0]).softmax(1) + scan(method.nets[1]).softmax(1)) / 2
        expected = [literal_divergence(p, c) for p, c in zip(mean.tolist(), PROBLEM.task.labels.tolist(), strict=True)]
        np.testing.assert_allclose(method.divergence, expected, atol=1e-9)
        assert seen is not None and torch.equal(seen["selected"], method.selected)
        assert torch.equal(seen["predicted"], mean.argmax(1))
        below = np.mean(np.array(expected) < np.mean(expected))
        num_each = int(below * 241 / K)
        for c in range(K):
            of_class = np.flatnonzero(PROBLEM.task.labels.numpy() == c)
            best = sorted(of_class, key=lambda i: expected[i])[:num_each]
            assert np.flatnonzero(method.selected.numpy() & (PROBLEM.task.labels.numpy() == c)).tolist() == sorted(best)
        nn.init.normal_(next(p for name, p in method.nets[1].named_parameters() if name == "head.weight"))


def test_streams() -> None:
    method, _, _ = make()
    assert [s.views for s in method.streams(Clock(1, 20))] == [("weak",)]
    method.selected[:60] = True
    x, u = method.streams(Clock(2, 20))
    assert x.index is not None and u.index is not None
    assert x.index.tolist() == list(range(60)) and u.index.tolist() == list(range(60, 241))
    assert (x.batch_size, u.batch_size) == (8, int(8 / (2 * 60 / 241))) and x.drop_last and u.drop_last


def test_label_quality_and_predictions() -> None:
    method, x, _ = make()
    assert method.label_quality() is None
    method.selected[0] = True
    np.testing.assert_allclose(method.label_quality(), 1 - method.divergence.numpy() / math.log(2))
    with torch.no_grad():
        logits = [net(x.views[0]) for net in method.eval().nets]
        np.testing.assert_allclose(method.predict(x.views[0])["ensemble"], (logits[0] + logits[1]).softmax(1))


def test_settings() -> None:
    with pytest.raises(UserError, match="tau is 0"):
        UNICON.Config(tau=0)

    def config(source: str, kind: Any, epochs: int) -> UNICON.Config:
        found: UNICON.Config = CONFIGS["unicon"](
            SETTINGS[source].lasting(epochs), NoiseSpec(kind=kind, rate=0.4 * (kind != "none"))
        )
        return found

    assert config("cifar10", "symmetric", 350) == UNICON.Config()
    assert config("cifar100", "asymmetric", 350) == UNICON.Config(warmup_epochs=30, entropy_weight=1.0)
    short = config("cifar10", "symmetric", 35)
    assert (short.warmup_epochs, short.ramp_epochs) == (1, pytest.approx(1.6))
    web = config("web-car", "none", 120)
    assert (web.warmup_epochs, web.lambda_u, web.alpha) == (2, 0.0, 0.5)
