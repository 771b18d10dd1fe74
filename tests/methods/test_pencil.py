"""PENCIL's losses, stages and label updates on hand-written numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from acto.core.errors import UserError
from acto.core.types import Batch, Clock, Task
from acto.methods.pencil import PENCIL, classification, compatibility
from acto.training.loop import run_epochs
from toys import LinearNet, make_problem, make_training

PROBS = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]], dtype=torch.float64)
DISTRIBUTIONS = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]], dtype=torch.float64)
LABELS = torch.tensor([0, 2])
B, K = 2, 3


def test_classification_is_the_reversed_divergence_over_the_classes() -> None:
    expected = 0.0
    for p_row, d_row in zip(PROBS.tolist(), DISTRIBUTIONS.tolist(), strict=True):
        for p, d in zip(p_row, d_row, strict=True):
            expected += p * math.log(p / d) / (B * K)
    assert float(classification(PROBS.log(), DISTRIBUTIONS.log())) == pytest.approx(expected, rel=1e-12)


def test_gradient_of_classification_in_the_labels() -> None:
    label_logits = (DISTRIBUTIONS.log() + 2.0).requires_grad_()
    classification(PROBS.log(), label_logits).backward()
    np.testing.assert_allclose(label_logits.grad, (DISTRIBUTIONS - PROBS) / (B * K), rtol=1e-10)


def test_gradient_of_classification_reaches_the_network_through_p() -> None:
    """d/dz_k of sum_c p_c log(p_c / d_c) is p_k (log(p_k / d_k) - KL)."""
    logits = (PROBS.log() + 1.0).requires_grad_()
    classification(logits, DISTRIBUTIONS.log()).backward()
    ratio = (PROBS / DISTRIBUTIONS).log()
    divergence = (PROBS * ratio).sum(1, keepdim=True)
    np.testing.assert_allclose(logits.grad, PROBS * (ratio - divergence) / (B * K), rtol=1e-10)


def test_compatibility_of_the_paper() -> None:
    expected = -(math.log(0.5) + math.log(0.6)) / 2
    assert float(compatibility(DISTRIBUTIONS.log(), LABELS, double_softmax=False)) == pytest.approx(expected)


def test_compatibility_of_the_public_code() -> None:
    first = math.exp(0.5) / (math.exp(0.5) + 2 * math.exp(0.25))
    second = math.exp(0.6) / (math.exp(0.6) + 2 * math.exp(0.2))
    expected = -(math.log(first) + math.log(second)) / 2
    assert float(compatibility(DISTRIBUTIONS.log(), LABELS, double_softmax=True)) == pytest.approx(expected)


def make(**settings: float) -> tuple[PENCIL, Batch]:
    torch.manual_seed(0)
    labels = torch.tensor([0, 2, 1, 1, 0])
    config = PENCIL.Config(warmup_epochs=2, correction_epochs=3, label_rate=30.0, **settings)
    method = PENCIL(config, Task(labels, K), lambda: LinearNet(4, K)).double()
    index = torch.tensor([3, 0, 1])
    return method, Batch(index, (torch.randn(3, 4, dtype=torch.float64),), labels[index])


def parts(method: PENCIL, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """p, y^d and L_e of the batch, each written out."""
    with torch.no_grad():
        probs = F.softmax(method.nets[0](batch.views[0]), 1)
    distributions = F.softmax(method.label_logits[batch.index], 1)
    return probs, distributions, -(probs * probs.log()).sum() / (len(batch.index) * K)


@pytest.mark.parametrize("epoch", [0, 1])
def test_stage_1_is_plain_training(epoch: int) -> None:
    method, batch = make()
    probs, _, _ = parts(method, batch)
    loss = method.loss((batch,), Clock(epoch, 9)).loss.detach()
    assert float(loss) == pytest.approx(float(-probs[range(3), batch.label].log().mean()))


@pytest.mark.parametrize("epoch", [2, 4])
def test_stage_2_learns_the_network_and_the_touched_labels(epoch: int) -> None:
    """Lo's gradient in y~ is (1/B) J (softmax(d) - onehot) with J = diag(d) - d d'; Le has none."""
    method, batch = make(alpha=0.4, beta=0.1)
    start = method.label_logits.clone()
    probs, d, entropy = parts(method, batch)
    loss_c = (probs * (probs / d).log()).sum() / (3 * K)
    loss_o = -(d.exp() / d.exp().sum(1, keepdim=True))[range(3), batch.label].log().mean()
    step = method.loss((batch,), Clock(epoch, 9))
    assert float(step.loss.detach()) == pytest.approx(float(loss_c + 0.4 * loss_o + 0.1 * entropy), rel=1e-9)
    step.loss.backward()
    method.step_rows(Clock(epoch, 9))
    assert torch.equal(method.label_logits[[2, 4]], start[[2, 4]]), "samples outside of the batch"
    for row, sample in enumerate(batch.index.tolist()):
        dist, p, before = d[row].numpy(), probs[row].numpy(), start[sample].numpy()
        outer = np.exp(dist) / np.exp(dist).sum() - np.eye(K)[batch.label[row]]
        gradient = (dist - p) / (3 * K) + 0.4 / 3 * (np.diag(dist) - np.outer(dist, dist)) @ outer
        np.testing.assert_allclose(method.label_logits[sample], before - 30.0 * gradient, rtol=1e-9)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters())


def test_a_scaled_loss_moves_labels_as_much_and_an_overflow_rests() -> None:
    plain, batch = make()
    scaled, _ = make()
    plain.loss((batch,), Clock(2, 9)).loss.backward()
    plain.step_rows(Clock(2, 9))
    (scaled.loss((batch,), Clock(2, 9)).loss * 1024.0).backward()
    scaled.step_rows(Clock(2, 9), loss_scale=1024.0)
    np.testing.assert_allclose(scaled.label_logits, plain.label_logits, rtol=1e-12)
    start = scaled.label_logits.clone()
    (scaled.loss((batch,), Clock(2, 9)).loss * math.inf).backward()
    scaled.step_rows(Clock(2, 9), loss_scale=1024.0)
    assert torch.equal(scaled.label_logits, start)


def test_stage_3_leaves_the_labels() -> None:
    method, batch = make()
    start = method.label_logits.clone()
    probs, d, _ = parts(method, batch)
    step = method.loss((batch,), Clock(5, 9))
    assert float(step.loss.detach()) == pytest.approx(float((probs * (probs / d).log()).sum() / (3 * K)), rel=1e-9)
    step.loss.backward()
    method.step_rows(Clock(5, 9))
    assert torch.equal(method.label_logits, start)


def test_labels_start_on_the_given_one() -> None:
    method, _ = make()
    np.testing.assert_allclose(F.softmax(method.label_logits, 1)[range(5), method.labels], 0.9999, atol=1e-4)
    assert method.label_quality() is None, "nothing has been learned of the labels"


def test_label_quality_is_what_is_left_of_the_given_label() -> None:
    method, _ = make()
    method.label_logits.copy_(torch.tensor([[0.0, 0, 0], [9, 0, 0], [0, 9, 0], [2, 2, 2], [0, 0, 9]]))
    expected = [1 / 3, 1 / (2 + math.exp(9)), 1 / (1 + 2 * math.exp(-9)), 1 / 3, 1 / (2 + math.exp(9))]
    np.testing.assert_allclose(method.label_quality(), expected, rtol=1e-5)


def test_wrong_labels_are_corrected_on_toy_data() -> None:
    problem = make_problem()
    training = make_training("pencil", problem.task)
    for _ in run_epochs(training, problem.train, seed=3):
        pass
    corrected = training.method.label_logits.argmax(1)
    kept = (corrected == problem.task.labels).numpy()
    assert kept[problem.clean].mean() > 0.95
    assert kept[~problem.clean].mean() < 0.2


@pytest.mark.parametrize("settings", [{"alpha": -0.1}, {"label_rate": 0.0}, {"label_scale": math.nan}])
def test_refuses_values_out_of_range(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        PENCIL.Config(**settings)
