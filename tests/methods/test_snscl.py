"""SNSCL: contrast, queue and sampler on numbers worked out by hand, and a step against a literal one."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from acto.core.errors import UserError
from acto.core.types import Batch, Clock
from acto.data.noise import NoiseSpec
from acto.methods import snscl
from acto.methods.dividemix import DivideMix
from acto.methods.snscl import SNSCL, Sampler, class_contrast, enqueue
from acto.runs.recipes.by_data import SETTINGS
from acto.runs.recipes.by_method import CONFIGS
from toys import NUM_CLASSES, ToyNet, make_problem

PROBLEM = make_problem()
K = NUM_CLASSES


def test_contrast_by_hand() -> None:
    """Two classes with two kept keys each. The query meets its own key and its class's first, and nothing else."""
    queue = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, -1.0], [-1.0, 0.0]]])
    query, key = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    # Inner products: own 1; class 0: 1 and 0; class 1: 0 and -1. All over tau = 0.5.
    log_sum = math.log(2 * math.e**2 + 2 + math.e**-2)
    in_0 = -(2 + 2 + 0 - 3 * log_sum) / 3 - math.log(3)
    in_1 = -(2 + 0 - 2 - 3 * log_sum) / 3 - math.log(3)
    found = class_contrast(query.repeat(2, 1), key.repeat(2, 1), queue, torch.tensor([0, 1]), tau=0.5)
    assert found.tolist() == pytest.approx([in_0, in_1], rel=1e-6)


def test_a_query_that_meets_its_class_alone_has_no_contrast() -> None:
    same = torch.tensor([[1.0, 0.0]])
    queue = torch.stack([same.repeat(3, 1), -same.repeat(3, 1)])
    assert float(class_contrast(same, same, queue, torch.tensor([0]), tau=0.01)) == pytest.approx(0, abs=1e-6)
    assert float(class_contrast(same, same, queue, torch.tensor([1]), tau=0.01)) > 100


def literal_enqueue(
    queue: list[list[float]], next_slot: list[int], keys: list[float], labels: list[int], accepted: list[bool]
) -> None:
    for key, label, take in zip(keys, labels, accepted, strict=True):
        if take:
            queue[label][next_slot[label]] = key
            next_slot[label] = (next_slot[label] + 1) % len(queue[label])


def test_enqueue_by_hand() -> None:
    queue = torch.zeros(2, 3, 1)
    next_slot = torch.tensor([2, 0])
    keys = torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None]
    enqueue(queue, next_slot, keys, torch.tensor([0, 0, 1, 0]), accepted=torch.tensor([True, False, True, True]))
    assert queue.squeeze(2).tolist() == [[4, 0, 1], [3, 0, 0]], "round the end; the one turned down leaves no trace"
    assert next_slot.tolist() == [1, 1]


@pytest.mark.parametrize("seed", range(5))
def test_enqueue_equals_the_loop(seed: int) -> None:
    """Up to twelve keys for three slots: more than fit, so that the last ones stay."""
    torch.manual_seed(seed)
    labels, accepted = torch.randint(0, 3, (12,)), torch.rand(12) < 0.8
    keys, queue, next_slot = torch.rand(12, 1), torch.rand(3, 3, 1), torch.randint(0, 3, (3,))
    rows, slots = queue.squeeze(2).tolist(), next_slot.tolist()
    literal_enqueue(rows, slots, keys.squeeze(1).tolist(), labels.tolist(), accepted.tolist())
    enqueue(queue, next_slot, keys, labels, accepted=accepted)
    assert queue.squeeze(2).tolist() == rows and next_slot.tolist() == slots


def test_processes_write_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Process 1 of two: process 0 has accepted two keys of class 0 and none of class 1."""
    monkeypatch.setattr(snscl, "world", lambda: 2)
    monkeypatch.setattr(snscl, "rank", lambda: 1)
    others = iter([torch.tensor([[2, 0], [0, 0]]), torch.tensor([7.0, 8, 0, 0, 0, 0])[:, None],
                   torch.tensor([1, 1, 0, 0, 0, 0])])  # fmt: skip
    monkeypatch.setattr(snscl, "total", lambda tensor: tensor + next(others))
    queue, next_slot = torch.zeros(2, 3, 1), torch.zeros(2, dtype=torch.int64)
    keys = torch.tensor([[1.0], [2.0]])
    enqueue(queue, next_slot, keys, torch.tensor([1, 0]), accepted=torch.tensor([True, True]))
    assert queue.squeeze(2).tolist() == [[7, 8, 2], [1, 0, 0]]
    assert next_slot.tolist() == [0, 1]


@pytest.mark.parametrize("public", [False, True])
def test_sampler(public: bool) -> None:
    sampler = Sampler(2, public=public)
    with torch.no_grad():
        for layer in (sampler.mu, sampler.log_variance):
            layer.weight.zero_()
        sampler.mu.bias.copy_(torch.tensor([3.0, -1.0]))
        sampler.log_variance.bias.copy_(torch.tensor([0.0, math.log(4.0)]))
    torch.manual_seed(0)
    drawn, kl = sampler(torch.zeros(5, 2))
    torch.manual_seed(0)
    eps = torch.randn(5, 2)
    mu, sigma = torch.tensor([3.0, -1.0]), torch.tensor([1.0, 2.0])
    np.testing.assert_allclose(drawn.detach(), eps + sigma * mu if public else mu + sigma * eps, rtol=1e-6)
    by_hand = ((1 + 9 - 1 - 0) + (4 + 1 - 1 - math.log(4))) / 2
    assert kl.tolist() == pytest.approx([by_hand] * 5, rel=1e-6)


def make(**settings: Any) -> tuple[SNSCL, Batch, Batch]:
    config = SNSCL.Config(
        **{"warmup_epochs": 2, "batch_size": 8, "queue_size": 3, "projection_dim": 5, "tau": 0.3, **settings}
    )
    torch.manual_seed(0)
    method = SNSCL(config, PROBLEM.task, ToyNet).double().train()
    method.clean_prob.copy_(torch.rand(method.clean_prob.shape))
    for parameter in method.key_nets.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    order = torch.randperm(PROBLEM.task.num_samples)

    def batch(index: Tensor) -> Batch:
        features = PROBLEM.train.features[index].double()
        views = tuple(features + 0.1 * torch.randn_like(features) for _ in range(2))
        return Batch(index, views, PROBLEM.task.labels[index])

    return method, batch(order[:5]), batch(order[5:13])


def unit(rows: Tensor) -> Tensor:
    return torch.stack([row / row.square().sum().sqrt() for row in rows])


@pytest.mark.parametrize("turn", [0, 1])
def test_a_step_equals_the_literal_one(turn: int) -> None:
    method, x, u = make()
    twin, clock = copy.deepcopy(method), Clock(3, 20, turn, 1, 4)
    torch.manual_seed(5)
    found = method.loss((x, u), clock)
    found.loss.backward()

    torch.manual_seed(5)
    base = DivideMix.loss(twin, (x, u), clock)
    parts: list[Any] = [twin.nets, twin.key_nets, twin.samplers, twin.projectors, twin.key_projectors]
    net, key_net, sampler, projector, key_projector = (part[turn] for part in parts)
    first = net.features(torch.cat([x.views[0], u.views[0]]))
    second = key_net.features(torch.cat([x.views[1], u.views[1]])).detach()
    guesses = net.head(first).argmax(1)
    labels = [*x.label.tolist(), *guesses[5:].tolist()]
    new, kl = sampler(first)
    new_key, key_kl = sampler(second)
    losses = []
    kept: list[tuple[int, Tensor]] = []
    for query_features, key_features in ((first, second), (new, new_key)):
        queries = unit(projector(query_features))
        keys = unit(key_projector(key_features)).detach()
        for i, label in enumerate(labels):
            positives = [queries[i] @ keys[i], *(queries[i] @ key for key in twin.queue[turn, label])]
            negatives = [queries[i] @ key for c in range(K) if c != label for key in twin.queue[turn, c]]
            everything = sum((s / 0.3).exp() for s in (*positives, *negatives))
            target = 1 / len(positives)
            losses.append(sum(target * (math.log(target) - (s / 0.3 - everything.log())) for s in positives))
            kept.append((label, keys[i]))
    of_x = sum(losses[i] + losses[13 + i] for i in range(5)) / 10
    of_u = sum(losses[i] + losses[13 + i] for i in range(5, 13)) / 16
    expected = 0.1 * base.loss + of_x + of_u + 1e-4 * (kl.mean() + key_kl.mean())
    expected.backward()
    assert float(found.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
    for (name, parameter), other in zip(method.named_parameters(), twin.named_parameters(), strict=True):
        assert (parameter.grad is None) == (other[1].grad is None), name
        if parameter.grad is not None and other[1].grad is not None:
            np.testing.assert_allclose(parameter.grad, other[1].grad, rtol=1e-6, atol=1e-9, err_msg=name)
            assert name.split(".")[1] == str(turn) and "key" not in name

    # All of X enters; of U what the draw lets in, by its own w and not by that of the sample in its place.
    draws = torch.rand(2, 13).flatten().tolist()
    w = [1.0] * 5 + method.clean_prob[u.index, 1 - turn].tolist()
    queue, slots = twin.queue[turn].clone(), [0] * K
    for (label, key), draw, prob in zip(kept, draws, w * 2, strict=True):
        if draw < prob:
            queue[label, slots[label]] = key
            slots[label] = (slots[label] + 1) % 3
    np.testing.assert_allclose(method.queue[turn], queue, rtol=1e-6)
    assert method.next_slot[turn].tolist() == slots
    assert torch.equal(method.queue[1 - turn], twin.queue[1 - turn]) and not method.next_slot[1 - turn].any()


def test_the_key_network_is_a_copy_in_the_warm_up_and_then_lags() -> None:
    method, _, _ = make(ema_epochs=2.0)
    before = copy.deepcopy(method)
    method.on_step(Clock(3, 20, 1, 0, 4))
    decay = math.exp(-1 / 8)
    for part in ("net", "projector"):
        sources, targets, old = (getattr(m, p) for m, p in ((method, f"{part}s"), (method, f"key_{part}s"),
                                                           (before, f"key_{part}s")))  # fmt: skip
        for source, target, was in zip(sources[1].parameters(), targets[1].parameters(), old[1].parameters(),
                                       strict=True):  # fmt: skip
            expected = decay * was.detach() + (1 - decay) * source.detach()
            np.testing.assert_allclose(target.detach(), expected, rtol=1e-9)
        for target, was in zip(targets[0].parameters(), old[0].parameters(), strict=True):
            assert torch.equal(target, was), "the other network's turn"
    method.on_step(Clock(1, 20, 0, 0, 4))
    for source, target in zip(method.nets[0].parameters(), method.key_nets[0].parameters(), strict=True):
        assert torch.equal(source, target)


def test_the_warm_up_is_dividemixs_own() -> None:
    method, x, _ = make()
    queue = method.queue.clone()
    step = method.loss((x,), Clock(1, 20))
    assert set(step.log) == {"loss_given"} and torch.equal(method.queue, queue)
    step.loss.backward()
    assert all(p.grad is None for p in (*method.projectors.parameters(), *method.samplers.parameters()))


def test_settings() -> None:
    with pytest.raises(UserError, match="queue_size is 0"):
        SNSCL.Config(queue_size=0)
    with pytest.raises(UserError, match="p_threshold is 2"):
        SNSCL.Config(p_threshold=2)
    web = CONFIGS["snscl"](SETTINGS["web-bird"], NoiseSpec())
    assert (web.warmup_epochs, web.projection_dim, web.ema_epochs, web.train_on_unlabelled) == (13, 1024, 5.0, False)
    small = CONFIGS["snscl"](SETTINGS["fashion-mnist"], NoiseSpec(kind="symmetric", rate=0.5))
    assert (small.warmup_epochs, small.projection_dim, small.ema_epochs, small.lambda_u) == (2, 128, 3.0, 25.0)
