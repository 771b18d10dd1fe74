"""AFM's mixture and losses against a loop over the pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from acto.core.types import Batch, Clock, Task
from acto.methods.afm import AFM, PairAttention
from toys import ToyNet, make_problem


def make(num_samples: int = 7, **settings: float) -> tuple[AFM, Batch]:
    torch.manual_seed(0)
    labels = torch.arange(num_samples) % 4
    method = AFM(AFM.Config(**settings), Task(labels, 4), ToyNet).double().eval()
    index = torch.randperm(num_samples)
    return method, Batch(index, (torch.randn(num_samples, 8, dtype=torch.float64),), labels[index])


def cross_entropy(logits: list[float], label: int) -> float:
    return math.log(sum(math.exp(z) for z in logits)) - logits[label]


@pytest.mark.parametrize("num_samples", [6, 7, 2, 3])
def test_loss_of_the_pairs(num_samples: int) -> None:
    """An odd batch: the last sample has no partner, and only its unmixed loss."""
    method, batch = make(num_samples, mixed_weight=1.5, original_weight=0.5)
    net, label = method.nets[0], batch.label.tolist()
    step = method.loss((batch,), Clock(0, 1))
    with torch.no_grad():
        features = net.features(batch.views[0])
        half = num_samples // 2
        mixed_loss = 0.0
        for i in range(half):
            first, second = features[i], features[i + half]
            hidden = (method.attention.of_first(first) + method.attention.of_second(second)).clamp(min=0)
            alpha = 1 / (1 + math.exp(-float(method.attention.weight(hidden))))
            logits = net.head(alpha * first + (1 - alpha) * second).tolist()
            mixed_loss += (cross_entropy(logits, label[i]) + cross_entropy(logits, label[i + half])) / (2 * half)
        logits = net.head(features).tolist()
        original_loss = sum(cross_entropy(z, y) for z, y in zip(logits, label, strict=True)) / num_samples
    assert float(step.log["loss_afm"]) == pytest.approx(mixed_loss, rel=1e-6)
    assert float(step.log["loss_org"]) == pytest.approx(original_loss, rel=1e-6)
    assert float(step.loss.detach()) == pytest.approx(1.5 * mixed_loss + 0.5 * original_loss, rel=1e-6)


def test_even_attention_gives_the_mean_of_the_features() -> None:
    method, batch = make(6)
    for parameter in method.attention.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        features = method.nets[0].features(batch.views[0])
        logits = method.nets[0].head((features[:3] + features[3:]) / 2)
        both = torch.cat([logits, logits])
        expected = torch.nn.functional.cross_entropy(both, batch.label)
    assert float(method.loss((batch,), Clock(0, 1)).log["loss_afm"]) == pytest.approx(float(expected), rel=1e-6)


def test_gradients_reach_all_parts_through_the_mixture() -> None:
    method, batch = make(7, mixed_weight=1.0, original_weight=0.0)
    method.loss((batch,), Clock(0, 1)).loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in method.attention.parameters())
    assert all(p.grad.abs().sum() > 0 for p in method.nets[0].head.parameters())
    assert method.nets[0].body[0].weight.grad.abs().sum() > 0


def test_attention_learns_from_the_mixture_alone() -> None:
    method, batch = make(7, mixed_weight=0.0, original_weight=1.0)
    method.loss((batch,), Clock(0, 1)).loss.backward()
    assert all(p.grad.abs().sum() == 0 for p in method.attention.parameters())


@pytest.mark.parametrize(("feature_dim", "units"), [(512, 96), (2048, 384), (4, 1)])
def test_attention_has_the_public_codes_size(feature_dim: int, units: int) -> None:
    assert PairAttention(feature_dim).weight.in_features == units


def test_attention_is_an_extra_group() -> None:
    method, _ = make()
    groups = method.param_groups()
    assert [group["name"] for group in groups] == ["net0", "extra"]
    assert len(groups[1]["params"]) == 6


def test_predicts_without_mixing() -> None:
    method, _ = make()
    images = make_problem().test.features[:5].double()
    with torch.no_grad():
        alone = torch.cat([method.predict(row[None])["net"] for row in images])
        np.testing.assert_allclose(alone, method.predict(images)["net"], rtol=1e-6)
