"""DISC: its three sets on hand-written numbers, and a step against a literal one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Beta

from acto.core.errors import UserError
from acto.core.types import Batch, Clock, Task
from acto.data.noise import NoiseSpec
from acto.methods.disc import (
    CLEAN,
    DISC,
    HARD,
    NEITHER,
    PURIFIED,
    generalized_cross_entropy,
    mixup_among,
    sort_samples,
)
from acto.runs.recipes.by_data import SETTINGS
from acto.runs.recipes.by_method import CONFIGS

K = 3
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("given", "highest", "threshold", "kind"),
    [
        ((0.5, 0.4), 0.5, (0.3, 0.3), CLEAN),
        ((0.5, 0.4), 0.99, (0.3, 0.3), CLEAN),  # a clean one is not purified
        ((0.5, 0.2), 0.5, (0.3, 0.3), HARD),
        ((0.2, 0.5), 0.95, (0.3, 0.3), HARD),
        ((0.2, 0.2), 0.7, (0.1, 0.3), HARD),
        ((0.1, 0.2), 0.75, (0.2, 0.3), NEITHER),  # the bar is (0.2 + 0.3) / 2 + 0.5, and equal is not above
        ((0.1, 0.2), 0.76, (0.2, 0.3), PURIFIED),
        ((0.1, 0.2), 0.985, (0.9, 0.9), NEITHER),  # 1.4 is cut to 0.99
        ((0.1, 0.2), 0.995, (0.9, 0.9), PURIFIED),
        ((0.3, 0.3), 0.3, (0.3, 0.3), NEITHER),  # equal does not pass
    ],
)
def test_sets(given: tuple[float, ...], highest: float, threshold: tuple[float, ...], kind: int) -> None:
    tensors = [torch.tensor([v], dtype=torch.float64) for v in (given, highest, threshold)]
    assert sort_samples(tensors[0], tensors[1], tensors[2], sigma=0.5).tolist() == [kind]


def test_generalized_cross_entropy() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 3.0, 0.5], [0.0, 50.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([0, 2, 0])
    probs = [float(row.exp()[label] / row.exp().sum()) for row, label in zip(logits, labels, strict=True)]
    expected = [(1 - max(p, 1e-7) ** 0.7) / 0.7 for p in probs]
    assert generalized_cross_entropy(logits, labels, q=0.7).tolist() == pytest.approx(expected, rel=1e-9)
    assert float(generalized_cross_entropy(logits[:1], labels[:1], q=1.0)) == pytest.approx(1 - probs[0])


def test_members_only_meet_members() -> None:
    members = torch.tensor([True, False, True, True, False, True])
    inputs = torch.eye(6, dtype=torch.float64)
    seen = torch.zeros(6, 6)
    for seed in range(200):
        torch.manual_seed(seed)
        mixed, targets = mixup_among(inputs, inputs, members, alpha=5.0)
        assert torch.equal(mixed, targets)
        share = mixed.diagonal()
        assert (share >= 0.5).all() and torch.allclose(mixed.sum(1), torch.ones(6, dtype=torch.float64))
        # Each is the partner of one.
        assert torch.allclose(mixed.sum(0), torch.ones(6, dtype=torch.float64))
        seen += mixed > 0
    assert torch.equal(seen > 0, members[:, None] == members)
    for nobody in (torch.zeros(6, dtype=torch.bool), torch.ones(6, dtype=torch.bool)):
        assert mixup_among(inputs, inputs, nobody, alpha=5.0)[0].isfinite().all()


class Scale(nn.Module):
    """Passes its input through, times one number."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * inputs


def make(**settings: Any) -> tuple[DISC, Batch]:
    method = DISC(DISC.Config(**{"warmup_epochs": 2, **settings}), Task(LABELS, K), Scale).double()
    torch.manual_seed(0)
    index = torch.tensor([5, 0, 3, 1, 2, 4])
    views = tuple(2 * torch.randn(6, K, dtype=torch.float64) for _ in range(2))
    return method, Batch(index, views, LABELS[index])


def softmax(logits: Tensor) -> np.ndarray:
    powers = np.exp(logits.detach().numpy())
    return powers / powers.sum(1, keepdims=True)


def no_scan(*args: Any, **kwargs: Any) -> Tensor:
    raise AssertionError("DISC looks at nothing but its memory")


def test_what_is_remembered_belongs_to_the_sample() -> None:
    method, batch = make()
    method.loss((batch,), Clock(0, 10))
    weak, strong = (softmax(view) for view in batch.views)
    for row, sample in enumerate(batch.index.tolist()):
        given = int(LABELS[sample])
        np.testing.assert_allclose(method.prob_given[sample], [weak[row, given], strong[row, given]])
        np.testing.assert_allclose(method.prob_highest[sample], [weak[row].max(), strong[row].max()])
        mean = (weak[row] + strong[row]) / 2
        assert float(method.mean_highest[sample]) == pytest.approx(mean.max())
        assert int(method.mean_class[sample]) == mean.argmax()


def test_sets_are_made_with_the_thresholds_before_their_update() -> None:
    method, batch = make(momentum=0.5)
    method.on_turn(Clock(0, 10), no_scan)
    assert (method.kind == NEITHER).all() and ((method.threshold - 1 / 6).abs() < 1e-7).all(), "nothing has been seen"
    method.loss((batch,), Clock(0, 10))
    method.prob_given[0] = torch.tensor([0.17, 0.17])  # above 1/6, far below the mean with what was highest
    method.prob_highest[0] = torch.tensor([0.9, 0.5])
    method.prob_given[1] = torch.tensor([0.1, 0.1])
    method.mean_highest[1], method.mean_class[1] = 0.8, 2
    method.on_turn(Clock(1, 10), no_scan)
    assert method.kind[:2].tolist() == [CLEAN, PURIFIED]
    assert method.mixing_label[:2].tolist() == [0, 2]
    np.testing.assert_allclose(method.threshold[0], [(1 / 6 + 0.9) / 2, (1 / 6 + 0.5) / 2], rtol=1e-6)
    kind = method.kind.clone()
    method.loss((batch,), Clock(3, 10))
    assert torch.equal(method.kind, kind), "the sets stand for the whole epoch"


def literal_loss(method: DISC, batch: Batch, *, seed: int) -> Tensor:
    config = method.config
    logits = [method.nets[0](view) for view in batch.views]
    kinds = [int(method.kind[i]) for i in batch.index.tolist()]
    size = len(kinds)

    def nll(out: Tensor, c: int) -> Tensor:
        return -(out.exp()[c] / out.exp().sum()).log()

    total = torch.zeros((), dtype=torch.float64)
    for row, (kind, label) in enumerate(zip(kinds, batch.label.tolist(), strict=True)):
        for out in logits:
            if kind == CLEAN:
                total = total + nll(out[row], label) / size
            if kind == HARD:
                prob = (-nll(out[row], label)).exp()
                total = total + config.hard_weight * (1 - prob**config.q) / config.q / size
    rows = [row for row, kind in enumerate(kinds) if kind != NEITHER]
    torch.manual_seed(seed)
    for view in batch.views:
        share = Beta(torch.tensor(config.alpha), torch.tensor(config.alpha)).sample()
        share = max(float(share), float(1 - share))
        draws = torch.rand(size)
        partners = sorted(rows, key=lambda row: float(draws[row]))
        for row, partner in zip(rows, partners, strict=True):
            out = method.nets[0](share * view[row] + (1 - share) * view[partner])
            labels = [int(method.mixing_label[batch.index[r]]) for r in (row, partner)]
            total = total + (share * nll(out, labels[0]) + (1 - share) * nll(out, labels[1])) / len(rows)
    return total


def test_a_step_equals_the_literal_one() -> None:
    method, batch = make(hard_weight=0.3)
    method.kind.copy_(torch.tensor([CLEAN, HARD, NEITHER, PURIFIED, CLEAN, NEITHER]))
    method.mixing_label[3] = 1
    expected = literal_loss(method, batch, seed=4)
    (slope,) = torch.autograd.grad(expected, list(method.parameters()))
    torch.manual_seed(4)
    step = method.loss((batch,), Clock(2, 10))
    step.loss.backward()
    # float32 in the mixing weight's complement and in the targets
    assert float(step.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert float(next(method.parameters()).grad) == pytest.approx(float(slope), rel=1e-6)  # type: ignore[arg-type]
    assert step.per_sample["selected"].tolist() == [i in (0, 4) for i in batch.index.tolist()]
    assert float(step.log["hard_share"]) == pytest.approx(1 / 6)
    assert float(step.log["purified_share"]) == pytest.approx(1 / 6)


def test_nothing_selected() -> None:
    method, batch = make()
    step = method.loss((batch,), Clock(2, 10))
    step.loss.backward()
    assert float(step.loss.detach()) == 0 and all(float(p.grad) == 0 for p in method.parameters() if p.grad is not None)


def test_warm_up_sums_both_views() -> None:
    method, batch = make()
    probs = [softmax(view)[range(6), batch.label] for view in batch.views]
    expected = -np.log(probs[0]).mean() - np.log(probs[1]).mean()
    assert float(method.loss((batch,), Clock(1, 10)).loss.detach()) == pytest.approx(expected)


def test_label_quality() -> None:
    method, batch = make()
    assert method.label_quality() is None
    method.loss((batch,), Clock(0, 10))
    np.testing.assert_allclose(method.label_quality(), method.prob_given.numpy().mean(1))


def test_settings() -> None:
    with pytest.raises(UserError, match="momentum is 1"):
        DISC.Config(momentum=1.0)

    def config(source: str, kind: Any, rate: float, epochs: int) -> DISC.Config:
        found: DISC.Config = CONFIGS["disc"](SETTINGS[source].lasting(epochs), NoiseSpec(kind=kind, rate=rate))
        return found

    light = config("cifar10", "symmetric", 0.2, 200)
    assert light == DISC.Config()
    assert config("cifar100", "symmetric", 0.8, 200) == replace(light, momentum=0.95, hard_weight=0.2)
    assert config("cifar10", "asymmetric", 0.4, 200) == replace(light, momentum=0.95)
    assert config("cifar10", "instance", 0.4, 200).warmup_epochs == 15
    web = config("web-car", "none", 0.0, 100)
    assert (web.warmup_epochs, web.momentum) == (10, 0.95)
    # In half the time a threshold moves twice as fast.
    short = config("cifar10", "symmetric", 0.2, 100)
    assert short.warmup_epochs == 10 and math.isclose(short.momentum, 0.99**2)
