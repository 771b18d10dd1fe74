from __future__ import annotations

import math

import pytest
import torch

from acto.methods.blocks.losses import (
    batch_mean,
    cross_entropy,
    jensen_shannon,
    masked_mean,
    negative_entropy,
    negative_learning,
    prior_penalty,
    soft_cross_entropy,
    symmetric_divergence,
)

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-3.0, 4.0, -2.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 2, 0])


def probs(row: torch.Tensor) -> list[float]:
    exps = [math.exp(v) for v in row.tolist()]
    return [e / sum(exps) for e in exps]


@pytest.mark.parametrize("smoothing", [0.0, 0.35])
def test_cross_entropy_by_a_loop(smoothing: float) -> None:
    expected = []
    for row, label in zip(LOGITS, LABELS.tolist(), strict=True):
        logs = [math.log(p) for p in probs(row)]
        target = [smoothing / 3 + (1 - smoothing) * (c == label) for c in range(3)]
        expected.append(-sum(t * v for t, v in zip(target, logs, strict=True)))
    assert cross_entropy(LOGITS, LABELS, label_smoothing=smoothing).tolist() == pytest.approx(expected)
    targets = smoothing / 3 + (1 - smoothing) * torch.nn.functional.one_hot(LABELS, 3)
    assert soft_cross_entropy(LOGITS, targets.double()).tolist() == pytest.approx(expected)


def test_negative_entropy_by_a_loop_and_the_clamped_form() -> None:
    expected = [sum(p * math.log(p) for p in probs(row)) for row in LOGITS]
    assert negative_entropy(LOGITS).tolist() == pytest.approx(expected)
    clamped = [sum(p * math.log(p) for p in probs(row.clamp(min=0))) for row in LOGITS]
    assert negative_entropy(LOGITS, clamp_logits=True).tolist() == pytest.approx(clamped)
    logits = LOGITS.clone().requires_grad_()
    negative_entropy(logits, clamp_logits=True).sum().backward()
    assert logits.grad is not None
    assert (logits.grad[LOGITS < 0] == 0).all()
    assert (logits.grad[0, 0] != 0).all()


def test_masked_mean_divides_by_the_selected() -> None:
    values = torch.tensor([1.0, 10.0, math.inf, 4.0], requires_grad=True)
    mask = torch.tensor([True, False, False, True])
    mean = masked_mean(values, mask)
    mean.backward()
    assert mean.item() == 2.5
    assert values.grad is not None and values.grad.tolist() == [0.5, 0, 0, 0.5]


def test_masked_mean_divides_by_a_share_of_the_batch_at_least() -> None:
    values, mask = torch.tensor([1.0, 10.0, math.inf, 4.0]), torch.tensor([True, False, False, True])
    assert masked_mean(values, mask, min_share=0.25).item() == 2.5
    assert masked_mean(values, mask, min_share=0.75).item() == pytest.approx(5 / 3)
    assert masked_mean(values, mask, min_share=1.0).item() == 1.25
    assert masked_mean(values, torch.zeros(4, dtype=torch.bool), min_share=0.1).item() == 0


def test_an_empty_mask_gives_zero_and_zero_gradient() -> None:
    values = torch.tensor([1.0, math.inf], requires_grad=True)
    mean = masked_mean(values, torch.zeros(2, dtype=torch.bool))
    mean.backward()
    assert mean.item() == 0
    assert values.grad is not None and values.grad.tolist() == [0, 0]


def test_batch_mean() -> None:
    assert batch_mean(torch.tensor([1.0, 2.0, 6.0])).item() == 3


def test_negative_learning_by_hand() -> None:
    logits = torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.2, 0.55], [0.1, 0.3, 0.6], [0.2, 0.7, 0.1]]).log()
    complement = torch.tensor([[False, True, True], [False, False, False], [False, False, True], [True, False, False]])
    expected = [-math.log(0.8) - math.log(0.9), 0.0, -math.log(0.4), -math.log(0.8)]
    assert negative_learning(logits, complement).tolist() == pytest.approx(expected, abs=1e-5)
    sure = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    found = negative_learning(sure, torch.tensor([[True, False, False]]))
    found.sum().backward()
    assert sure.grad is not None and found.isfinite().all() and sure.grad.isfinite().all()


OTHER = torch.tensor([[0.0, 1.0, 0.0], [0.0, 3.0, 0.0], [-3.0, 4.0, -2.0]], dtype=torch.float64)


def divergence(first: list[float], second: list[float]) -> float:
    """KL(first || second)."""
    return sum(p * math.log(p / q) for p, q in zip(first, second, strict=True))


def test_symmetric_divergence_by_a_loop() -> None:
    pairs = [(probs(a), probs(b)) for a, b in zip(LOGITS, OTHER, strict=True)]
    expected = [divergence(p, q) + divergence(q, p) for p, q in pairs]
    assert expected[2] == 0
    assert symmetric_divergence(LOGITS, OTHER).tolist() == pytest.approx(expected)
    assert symmetric_divergence(OTHER, LOGITS).tolist() == pytest.approx(expected)
    assert symmetric_divergence(LOGITS, LOGITS + 7.0).tolist() == pytest.approx([0.0] * 3, abs=1e-12)


def test_symmetric_divergence_stays_finite() -> None:
    first = torch.tensor([[120.0, -120.0, 0.0]], requires_grad=True)
    second = torch.tensor([[-120.0, 120.0, 0.0]], requires_grad=True)
    value = symmetric_divergence(first, second)
    value.sum().backward()
    assert float(value.detach()) == pytest.approx(480.0)
    assert first.grad is not None and first.grad.isfinite().all()
    assert second.grad is not None and second.grad.isfinite().all()


def test_jensen_shannon_by_a_loop() -> None:
    expected = []
    for row, other in zip(LOGITS, OTHER, strict=True):
        p, q = probs(row), probs(other)
        middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        expected.append((divergence(p, middle) + divergence(q, middle)) / (2 * math.log(2)))
    assert jensen_shannon(LOGITS, OTHER.softmax(1)).tolist() == pytest.approx(expected, abs=1e-12)
    apart = jensen_shannon(torch.tensor([[200.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    assert apart.tolist() == pytest.approx([1.0])


def test_prior_penalty() -> None:
    probs = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3]])
    expected = sum(math.log((1 / 3) / mean) / 3 for mean in (0.5, 0.3, 0.2))
    assert float(prior_penalty(probs.log())) == pytest.approx(expected, rel=1e-6)
    assert float(prior_penalty(torch.zeros(5, 3))) == pytest.approx(0, abs=1e-6)
