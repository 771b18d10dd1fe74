"""ProMix: its three selections on hand-written numbers, its mixtures, and a step against a literal one."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from acto.core.errors import UserError
from acto.core.types import Batch, Clock, Task
from acto.data.noise import NoiseSpec
from acto.methods.promix import ProMix, agreement, fill_up, mix_among, small_loss_by_class
from acto.runs.recipes.by_data import SETTINGS
from acto.runs.recipes.by_method import CONFIGS

K = 3
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])


@pytest.mark.parametrize(
    ("rho", "own_class_size", "selected"),
    [
        (0.3, False, [1, 3, 5]),  # ceil(0.3 * 8 / 3) = 1 of each class
        (0.5, False, [0, 1, 3, 4, 5, 2]),  # ceil(1.33) = 2 of each
        (1.0, False, [0, 1, 2, 3, 4, 5, 7]),  # 3 of each: two classes have only 2
        (0.5, True, [0, 1, 3, 5]),  # half of 4, of 2 and of 2
        (0.75, True, [0, 1, 2, 3, 4, 5, 7]),
        (0.0, False, []),
    ],
)
def test_small_loss_by_class(rho: float, own_class_size: bool, selected: list[int]) -> None:
    losses = torch.tensor([0.5, 0.1, 2.0, 0.2, 0.9, 1.0, 4.0, 3.0])
    found = small_loss_by_class(losses, LABELS, rho=rho, num_classes=K, own_class_size=own_class_size)
    assert found.nonzero().squeeze(1).tolist() == sorted(selected)


def test_a_share_of_a_class_is_exact() -> None:
    """0.07 * 100 is 7.000000000000001 in doubles."""
    found = small_loss_by_class(torch.rand(100), torch.zeros(100, dtype=torch.int64), rho=0.07, num_classes=1)
    assert int(found.sum()) == 7


def test_agreement() -> None:
    first = torch.tensor([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.0, 0.0, 1.0]])
    second = torch.tensor([[0.8, 0.2, 0.0], [0.1, 0.9, 0.0], [0.9, 0.1, 0.0], [0.0, 0.1, 0.9]])
    agreed, confidence = agreement(first, second, tau=0.7)
    assert agreed.tolist() == [True, False, False, True]
    assert confidence.tolist() == pytest.approx([0.85, 0.9, 0.75, 0.95])


@pytest.mark.parametrize(
    ("trusted", "candidates", "added"),
    [
        ([0, 1], [2, 3, 4, 5, 6, 7, 8, 9], [3, 4, 5, 6, 7, 8, 9]),  # 9 of 10: all but the least confident
        ([0, 1], [5, 9], [5, 9]),
        ([2, 3, 4, 5, 6, 7, 8], [0, 1, 8, 9], [1, 9]),  # two places left; 8 has one already
        (list(range(9)), [9], []),
        (list(range(10)), [9], []),
        ([], [], []),
    ],
)
def test_filling_up(trusted: list[int], candidates: list[int], added: list[int]) -> None:
    """The confidence of a sample is its number."""

    def mask(rows: list[int]) -> Tensor:
        return torch.tensor([i in rows for i in range(10)])

    found = fill_up(mask(trusted), mask(candidates), torch.arange(10.0) / 10)
    assert found.nonzero().squeeze(1).tolist() == added


@pytest.mark.parametrize("shape", [(5,), (2, 4, 5)])
def test_members_only_meet_members(shape: tuple[int, ...]) -> None:
    members = torch.tensor([True, False, True, True, False, True])
    inputs = torch.rand(6, *shape)
    labels = torch.eye(6)
    for seed in range(30):
        torch.manual_seed(seed)
        (mixup_inputs, mixup_targets), (fmix_inputs, fmix_targets) = mix_among(inputs, labels, members, alpha=4.0)
        for targets in (mixup_targets, fmix_targets):
            met = targets > 0
            assert not (met & (members[:, None] != members)).any()
            assert torch.allclose(targets.sum(1), torch.ones(6))
        assert (mixup_targets.diagonal() >= 0.5).all()
        torch.testing.assert_close(mixup_inputs.flatten(1), mixup_targets @ inputs.flatten(1))
        # Every value of an FMix mixture is the row's own or its partner's, by the share that the targets say.
        own = fmix_inputs == inputs
        for row in range(6):
            assert float(own[row].float().mean()) == pytest.approx(float(fmix_targets[row, row]), abs=1e-6)


class Double(nn.Module):
    """Two tanh features of the input, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_dim = 4
        self.body = nn.Linear(5, 4)
        self.head = nn.Linear(4, K)

    def features(self, inputs: Tensor) -> Tensor:
        return self.body(inputs).tanh()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.features(inputs))


def make(**settings: Any) -> tuple[ProMix, Batch]:
    config = ProMix.Config(
        **{"warmup_epochs": 2, "ramp_epochs": 8.0, "unreliable_ramp_epochs": 12.0, "tau": 0.45, "guess_epochs": 10,
           "prior_epochs": 0.5, **settings}
    )  # fmt: skip
    torch.manual_seed(3)
    method = ProMix(config, Task(LABELS, K), Double).double().train()
    with torch.no_grad():
        for net in method.nets:
            for parameter in net.parameters():
                parameter.mul_(2)
    method.prior.copy_((5 * torch.rand(2, 2, K)).softmax(2))
    method.small_loss.copy_(torch.rand(8, 2) < 0.3)
    index = torch.tensor([7, 2, 0, 5, 3, 1, 4, 6])
    views = tuple(torch.randn(8, 5, dtype=torch.float64) for _ in range(2))
    return method, Batch(index, views, LABELS[index])


def nll(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * (logits.exp() / logits.exp().sum()).log()).sum()


@pytest.mark.parametrize("epoch", [4, 10, 15])
def test_a_step_equals_the_literal_one(epoch: int) -> None:
    """Of 20 epochs the last ten may guess, from the number 11 on; beta is 0 from epoch 12 on."""
    method, batch = make()
    twin, clock, config = copy.deepcopy(method), Clock(epoch, 20, 0, 0, 4), method.config
    torch.manual_seed(11)
    step = method.loss((batch,), clock)
    step.loss.backward()

    torch.manual_seed(11)
    weak, strong = batch.views
    nets: list[Any] = list(twin.nets)
    probs = [net(weak).softmax(1).detach() for net in nets]
    ramp, beta = min(epoch / 8, 1), 0.1 * epoch / 12 if epoch < 12 else 0
    total: Any = 0
    num_added, num_debiased, trusted_rows = 0, 0, []
    for k, (net, aux_head) in enumerate(zip(nets, twin.aux_heads, strict=True)):
        log_prior, log_prior_u = 0.8 * twin.prior[k, 0].log(), 0.8 * twin.prior[k, 1].log()
        trusted = [
            row
            for row, sample in enumerate(batch.index.tolist())
            if twin.small_loss[sample, k] or probs[k][row, batch.label[row]] > 0.45
        ]
        trusted_rows.append(set(trusted))
        labels = {row: int(batch.label[row]) for row in trusted}
        if epoch > 20 - 10:
            sure = [
                row for row in range(8)
                if row not in labels and min(p[row].max() for p in probs) > 0.45
                and probs[0][row].argmax() == probs[1][row].argmax()
            ]  # fmt: skip
            sure.sort(key=lambda row: -float(probs[0][row].max() + probs[1][row].max()))
            for row in sure[: max(0, int(0.9 * 8) - len(trusted))]:
                labels[row] = int((net(weak)[row] - log_prior).argmax())
                num_added += 1
                num_debiased += labels[row] != int(net(weak)[row].argmax())
        rest = [row for row in range(8) if row not in labels]
        assert labels and rest
        targets = torch.zeros(8, K, dtype=torch.float64)
        for row in range(8):
            targets[row, labels.get(row, int(batch.label[row]))] = 1
        members = torch.tensor([row in labels for row in range(8)])
        for head in (net.head, aux_head):
            (mixed, mixed_targets), (cut, cut_targets) = mix_among(weak, targets, members, alpha=4.0)
            for row in labels:
                terms = [
                    (1.0, weak, targets), (ramp, strong, targets),
                    (ramp, mixed, mixed_targets), (ramp, cut, cut_targets),
                ]  # fmt: skip
                for weight, images, wanted in terms:
                    out = head(net.features(images))[row] + log_prior
                    total = total + weight * nll(out, wanted[row]) / len(labels)
        for row in rest:
            guess = (net(weak)[row].detach() - log_prior_u).softmax(0) ** 2
            guess = guess / guess.sum()
            for weight, images in ((1.0, weak), (ramp, strong)):
                out = aux_head(net.features(images))[row] + log_prior_u
                total = total + beta * weight * nll(out, guess) / len(rest)
        momentum = math.exp(-1 / (0.5 * 4))
        for part, rows in enumerate((list(labels), rest)):
            expected = momentum * twin.prior[k, part] + (1 - momentum) * probs[k][rows].mean(0)
            np.testing.assert_allclose(method.prior[k, part], expected, rtol=1e-6)
            assert float(method.prior[k, part].sum()) == pytest.approx(1)
    total.backward()
    assert float(step.loss.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
    for (name, parameter), other in zip(method.named_parameters(), twin.parameters(), strict=True):
        assert parameter.grad is not None and other.grad is not None, name
        np.testing.assert_allclose(parameter.grad, other.grad, rtol=1e-3, atol=1e-6, err_msg=name)
    assert (num_added > 0) == (num_debiased > 0) == (epoch == 15), "the numbers try LGA, and guesses freed from pi"
    both = trusted_rows[0] & trusted_rows[1]
    assert step.per_sample["selected"].nonzero().squeeze(1).tolist() == sorted(both)
    assert config.unreliable_stops


def test_beta() -> None:
    def betas(**settings: Any) -> list[float]:
        method = make(unreliable_ramp_epochs=100.0, **settings)[0]
        return [method._beta(Clock(epoch, 600)) for epoch in (0, 50, 99, 100, 400)]

    assert betas() == pytest.approx([0, 0.05, 0.099, 0, 0])
    assert betas(unreliable_stops=False) == pytest.approx([0, 0.05, 0.099, 0.1, 0.1])


@pytest.mark.parametrize("everything", [False, True])
def test_an_empty_side_keeps_its_prior(everything: bool) -> None:
    method, batch = make(tau=1.0)
    method.small_loss.fill_(everything)
    before = method.prior.clone()
    loss = method.loss((batch,), Clock(4, 20)).loss
    loss.backward()
    assert loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())
    empty = 1 if everything else 0
    assert torch.equal(method.prior[:, empty], before[:, empty])
    assert not torch.equal(method.prior[:, 1 - empty], before[:, 1 - empty])


def test_selection_by_small_loss_belongs_to_each_network() -> None:
    method, _ = make(rho_start=0.2, rho_end=0.6)
    inputs = torch.randn(8, 5, dtype=torch.float64)

    def scan(net: nn.Module, *, view: str = "none", train: bool = False) -> Tensor:
        with torch.no_grad():
            return net(inputs)

    before = method.small_loss.clone()
    method.on_turn(Clock(1, 20), scan)
    assert torch.equal(method.small_loss, before), "warm-up"
    for epoch, rho in ((4, 0.4), (12, 0.6)):
        method.on_turn(Clock(epoch, 20), scan)
        for k in range(2):
            losses = -scan(method.nets[k]).log_softmax(1)[range(8), LABELS]
            expected = set()
            for c in range(K):
                of_class = [i for i in range(8) if LABELS[i] == c]
                expected |= set(sorted(of_class, key=lambda i: float(losses[i]))[: math.ceil(rho * 8 / K)])
            assert set(method.small_loss[:, k].nonzero().squeeze(1).tolist()) == expected


@pytest.mark.parametrize("clamp", [True, False])
def test_warm_up(clamp: bool) -> None:
    method, batch = make(entropy_weight=0.5, entropy_clamp=clamp)
    expected = 0.0
    for net in method.nets:
        logits = net(batch.views[0]).detach()
        probs = logits.softmax(1)
        shown = (logits.clamp(min=1e-12) if clamp else logits).softmax(1)
        expected += float(-probs[range(8), batch.label].log().mean() + 0.5 * (shown * shown.log()).sum(1).mean())
    assert float(method.loss((batch,), Clock(1, 20)).loss.detach()) == pytest.approx(expected)


def test_settings() -> None:
    with pytest.raises(UserError, match=r"rho_end is 1\.5"):
        ProMix.Config(rho_end=1.5)

    def config(source: str, kind: Any, rate: float, epochs: int = 600) -> ProMix.Config:
        found: ProMix.Config = CONFIGS["promix"](SETTINGS[source].lasting(epochs), NoiseSpec(kind=kind, rate=rate))
        return found

    assert config("cifar10", "symmetric", 0.5) == ProMix.Config()
    hard = config("cifar100", "symmetric", 0.2)
    assert hard == ProMix.Config(warmup_epochs=30, tau=0.95, debias=0.5, rho_start=0.7, rho_end=0.7)
    assert config("cifar10", "symmetric", 0.8).rho_end == pytest.approx(0.2)
    assert config("cifar10", "asymmetric", 0.4) == ProMix.Config(entropy_weight=1.0)
    assert config("cifar10", "instance", 0.4) == ProMix.Config(own_class_size=True)
    short = config("cifar10", "symmetric", 0.5, epochs=60)
    assert (short.warmup_epochs, short.guess_epochs, short.ramp_epochs) == (1, 25, 5)
    assert (short.prior_epochs, short.unreliable_ramp_epochs) == (pytest.approx(5.1), 10)
