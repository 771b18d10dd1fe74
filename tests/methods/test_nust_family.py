"""NPN, SED and their kin on hand-written numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acto.core.errors import UserError
from acto.core.types import Batch, Clock, Step, Task
from acto.data.noise import NoiseSpec
from acto.methods.blocks.losses import jensen_shannon, published_divergence
from acto.methods.blocks.mixing import smoothed
from acto.methods.ca2c import CA2C, weighted_partial_label
from acto.methods.co_ldl import CoLDL, distribution_divergence, random_partners
from acto.methods.jo_src import JoSRC
from acto.methods.npn import NPN
from acto.methods.pnp import PNP
from acto.methods.sed import SED, class_thresholds, confidence_by_class, trust_in_confidence
from acto.runs.recipes.by_data import SETTINGS
from acto.runs.recipes.by_method import CONFIGS

K = 3
LABELS = torch.tensor([0, 2, 1, 0])
PROBS = torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.2, 0.55], [0.1, 0.3, 0.6], [0.2, 0.7, 0.1]])
"""Given classes have 0.7, 0.55, 0.3 and 0.2; the last two are not what is predicted."""
STRONG = torch.tensor([[0.5, 0.4, 0.1], [0.3, 0.3, 0.4], [0.2, 0.6, 0.2], [0.6, 0.3, 0.1]])
WARM_UP, ROBUST = Clock(0, 10), Clock(5, 10)


class Pass(nn.Module):
    """Logits are the inputs, so that they can be written by hand."""

    feature_dim = K

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(K, K, bias=False)
        nn.init.eye_(self.head.weight)

    def features(self, inputs: Tensor) -> Tensor:
        return inputs

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(inputs)


def make(cls: Any, **settings: Any) -> Any:
    return cls(cls.Config(**settings), Task(LABELS, K), Pass)


def step(method: Any, *probs: Tensor, clock: Clock = ROBUST) -> Step:
    views = tuple(p.log() for p in (probs or (PROBS, STRONG)))
    found: Step = method.loss((Batch(torch.arange(4), views, LABELS),), clock)
    return found


def number(tensor: Tensor) -> float:
    return float(tensor.detach())


def log_mean(probs: Tensor, classes: list[int]) -> float:
    """Cross-entropy by hand: the mean of -log p[c]."""
    return -sum(math.log(float(row[c])) for row, c in zip(probs, classes, strict=True)) / len(classes)


# NPN --------------------------------------------------------------------------------------------------------------


def test_npn_votes_in_both_phases_and_they_stay() -> None:
    method = make(NPN, warmup_epochs=1, num_votes=1)
    step(method, clock=WARM_UP)
    assert method.votes.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 1, 0]]
    step(method, STRONG, STRONG)
    assert method.votes.tolist() == [[2, 0, 0], [0, 0, 2], [0, 1, 1], [1, 1, 0]]
    assert method.label_quality().tolist() == [1.0, 1.0, 0.5, 0.5]
    assert make(NPN).label_quality() is None


def test_npn_warm_up_by_hand() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.0]] * 4)
    found = make(NPN, warmup_epochs=1).loss((Batch(torch.arange(4), (logits, logits), LABELS),), WARM_UP)
    given = F.cross_entropy(logits, LABELS)
    clamped = torch.tensor([2.0, 0.0, 0.0]).softmax(0)
    assert number(found.loss) == pytest.approx(float(given + (clamped * clamped.log()).sum()), rel=1e-5)


@pytest.mark.parametrize("hard", [True, False])
def test_npn_robust_loss_by_hand(hard: bool) -> None:
    method = make(NPN, warmup_epochs=1, hard=hard, num_votes=1, negative_weight=3.0, consistency_weight=5.0)
    method.votes.copy_(torch.tensor([[0.0, 3, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1]]))
    # With this visit's vote: [1, 3, 0], [0, 0, 2], [1, 0, 1], [0, 1, 1]; of a tie the lower class wins.
    found = step(method)
    shares = [[0.25, 0.75, 0], [0, 0, 1], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    soft = -sum(float((torch.tensor(q) * p.log()).sum()) for q, p in zip(shares, PROBS, strict=True)) / 4
    pll = log_mean(PROBS, [1, 2, 0, 1]) if hard else soft
    # Outside of {given, predicted}: 1 and 2; 0 and 1; 0; 2.
    negative = -sum(math.log(1 - p) for p in (0.2, 0.1, 0.25, 0.2, 0.1, 0.1)) / 4
    consistency = log_mean(STRONG, [0, 2, 2, 1])
    assert number(found.log["loss_pll"]) == pytest.approx(pll, rel=1e-5)
    assert number(found.log["loss_nl"]) == pytest.approx(negative, rel=1e-5)
    assert number(found.log["loss_cr"]) == pytest.approx(consistency, rel=1e-5)
    assert number(found.loss) == pytest.approx(pll + 3 * negative + 5 * consistency, rel=1e-5)


def test_npn_label_smoothing_reaches_every_cross_entropy() -> None:
    plain, smooth = (make(NPN, warmup_epochs=1, label_smoothing=s) for s in (0.0, 0.3))
    one, two = step(plain), step(smooth)
    uniform = -PROBS.log().mean(1).mean()
    assert number(two.log["loss_pll"]) == pytest.approx(0.7 * number(one.log["loss_pll"]) + 0.3 * float(uniform))
    assert number(two.log["loss_cr"]) > number(one.log["loss_cr"])
    assert number(two.log["loss_nl"]) == number(one.log["loss_nl"])


@pytest.mark.parametrize("cls", [NPN, CA2C])
def test_votes_must_leave_a_class_out(cls: Any) -> None:
    with pytest.raises(UserError, match="below the 3 classes"):
        make(cls, num_votes=3)


# SED --------------------------------------------------------------------------------------------------------------


def test_sed_thresholds_by_hand() -> None:
    found = class_thresholds(torch.tensor(0.6), torch.tensor([0.2, 0.5, 0.3]))
    assert found.tolist() == pytest.approx([0.24, 0.6, 0.36])


def test_sed_confidence_by_hand() -> None:
    mean, var = confidence_by_class(torch.tensor([0.4, 0.8, 0.9, 0.6]), torch.tensor([0, 0, 2, 0]), num_classes=K)
    assert mean.tolist() == pytest.approx([0.6, 0.0, 0.0])  # one sample is as good as none
    assert var.tolist() == pytest.approx([(0.04 + 0.04 + 0) / 2, 1.0, 1.0])


def test_sed_weight_by_hand() -> None:
    confidence = torch.tensor([0.2, 0.6, 0.9])
    found = trust_in_confidence(confidence, torch.full((3,), 0.6), torch.full((3,), 0.06), bell=2.0)
    assert found.tolist() == pytest.approx([math.exp(-0.16 * 4 / 0.12), 1.0, 1.0], rel=1e-5)
    alike = trust_in_confidence(torch.tensor([0.6, 0.5]), torch.full((2,), 0.6), torch.zeros(2), bell=1.0)
    assert alike.tolist() == [1.0, 0.0]


def look(method: Any, student: Tensor, teacher: Tensor, clock: Clock = ROBUST) -> Any:
    def scan(net: nn.Module, *, view: str = "none", train: bool = False) -> Tensor:
        assert view == "weak" and not train
        return (student if net is method.nets[0] else teacher).log()

    return method.on_turn(clock, scan)


def test_sed_selects_corrects_and_weighs() -> None:
    method = make(SED, warmup_epochs=1, threshold_momentum=0.5, weight_momentum=0.0, quantile=None)
    assert look(method, PROBS, STRONG, WARM_UP) is None and not method.clean.any()
    seen = look(method, PROBS, STRONG)
    level = (1 / 3 + (0.7 + 0.55 + 0.3 + 0.2) / 4) / 2
    by_class = [(1 / 3 + mean) / 2 for mean in (1.25 / 4, 1.4 / 4, 1.35 / 4)]
    assert float(method.global_threshold) == pytest.approx(level)
    assert method.class_level.tolist() == pytest.approx(by_class)
    tau = [level * e / max(by_class) for e in by_class]
    assert method.clean.tolist() == [tau[0] <= 0.7, tau[2] <= 0.55, tau[1] <= 0.3, tau[0] <= 0.2]
    assert method.clean.tolist() == [True, True, False, False]
    assert method.pseudo_label.tolist() == [0, 2, 1, 0]
    # The teacher predicts 0 with .5 and .6, and once each 1 and 2: mean .55, variance .005, and no statistics of those.
    below = math.exp(-4 * 0.05**2 / (2 * 0.005))
    assert method.weight.tolist() == pytest.approx([below, 1.0, 1.0, 1.0], rel=1e-4)
    assert method.label_quality().tolist() == pytest.approx([0.5, 0.4, 0.6, 0.6])
    assert torch.equal(seen["selected"], method.clean) and seen["predicted"].tolist() == [0, 2, 2, 1]


def test_sed_takes_its_level_from_a_quantile_and_caps_it() -> None:
    method = make(SED, warmup_epochs=0, threshold_momentum=0.0, quantile=0.5)
    look(method, PROBS, STRONG)
    assert float(method.global_threshold) == pytest.approx((0.55 + 0.3) / 2)
    sure = torch.full((4, K), 1e-3)
    sure[torch.arange(4), LABELS] = 0.998
    look(method, sure, sure)
    assert float(method.global_threshold) == pytest.approx(0.95)


def test_sed_loss_by_hand() -> None:
    method = make(SED, warmup_epochs=1, alpha=0.5)
    method.clean.copy_(torch.tensor([True, False, False, True]))
    method.pseudo_label.copy_(torch.tensor([0, 2, 2, 1]))
    method.weight.copy_(torch.tensor([1.0, 0.5, 0.0, 0.25]))
    found = step(method)
    clean = -(math.log(0.7) + math.log(0.2)) / 2
    corrected = -(math.log(0.5) + 0.5 * math.log(0.4) + 0.25 * math.log(0.3)) / 4
    assert number(found.log["loss_clean"]) == pytest.approx(clean, rel=1e-5)
    assert number(found.log["loss_corrected"]) == pytest.approx(corrected, rel=1e-5)
    assert number(found.loss) == pytest.approx(clean + 0.5 * corrected, rel=1e-5)


def test_sed_teacher_follows() -> None:
    method = make(SED, ema_decay=0.75)
    with torch.no_grad():
        method.nets[0].head.weight.add_(4.0)
    method.on_step(ROBUST)
    torch.testing.assert_close(method.teacher.head.weight, torch.eye(K) + 1.0)
    assert not any(p.requires_grad for p in method.teacher.parameters())


# Jo-SRC -----------------------------------------------------------------------------------------------------------


def test_jo_src_clean_likelihood_of_a_hundred_classes() -> None:
    """The three numbers that tie eps to tau: sure and right, sure and wrong, uniform."""
    target = smoothed(torch.tensor([0, 0, 0]), 100, eps=0.6)
    logits = torch.zeros(3, 100)
    logits[0, 0] = logits[1, 1] = 60.0
    assert (1 - jensen_shannon(logits, target)).tolist() == pytest.approx([0.604, 0.027, 0.794], abs=1e-3)


def test_jo_src_threshold_rises() -> None:
    method = make(JoSRC, warmup_epochs=4, tau_clean=0.6)
    found = [method.tau(Clock(epoch, 11)) for epoch in (0, 1, 3, 4, 10)]
    assert found == pytest.approx([0.0, 0.15, 0.45, 0.6, 0.6 + 0.35 * 6 / 7])


def test_jo_src_warm_up_by_hand() -> None:
    method = make(JoSRC, warmup_epochs=10, eps=0.3, tau_clean=0.95)
    target = smoothed(LABELS, K, eps=0.3)
    keeps = (1 - jensen_shannon(PROBS.log(), target)).sort().values
    clock = Clock(9, 10)
    assert keeps[1] < method.tau(clock) < keeps[2]  # two of four
    found = step(method, PROBS, STRONG, clock=clock)
    losses = -(target * (PROBS.log() + STRONG.log())).sum(1)
    assert number(found.loss) == pytest.approx(float(losses[[0, 1]].mean()), rel=1e-5)
    assert number(found.log["clean_share"]) == 0.5 and "selected" not in found.per_sample


def test_jo_src_robust_loss_by_hand() -> None:
    """Samples 0 (in spite of its second view) and 1 are clean; 2 has views that agree on another class, 3 has not."""
    method = make(JoSRC, warmup_epochs=0, eps=0.3, tau_clean=0.86, alpha=0.25)
    second = torch.tensor([[0.4, 0.5, 0.1], [0.3, 0.3, 0.4], [0.2, 0.2, 0.6], [0.6, 0.3, 0.1]])
    found = step(method, PROBS, second, clock=Clock(0, 10))
    assert found.per_sample["selected"].tolist() == [True, True, False, False]
    assert number(found.log["open_share"]) == 0.25
    target = smoothed(LABELS, K, eps=0.3)
    guess = (PROBS + second) / 2  # the teacher is still the student
    target[2], target[3] = guess[2], (guess[3] / 10).softmax(0)
    loss_c = float(-(target * (PROBS.log() + second.log())).sum(1).mean())
    divergence = ((PROBS - second) * (PROBS / second).log2()).sum(1)
    loss_o = float((divergence * torch.tensor([1.0, 1.0, 1.0, -1.0])).mean())
    assert number(found.log["loss_c"]) == pytest.approx(loss_c, rel=1e-5)
    assert number(found.log["loss_o"]) == pytest.approx(loss_o, rel=1e-5)
    assert number(found.loss) == pytest.approx(0.75 * loss_c + 0.25 * loss_o, rel=1e-5)


def test_jo_src_teacher_follows() -> None:
    method = make(JoSRC, ema_decay=0.75)
    with torch.no_grad():
        method.nets[0].head.weight.add_(4.0)
    method.on_step(ROBUST)
    torch.testing.assert_close(method.teacher.head.weight, torch.eye(K) + 1.0)


# PNP --------------------------------------------------------------------------------------------------------------


WEAK = torch.tensor([[0.6, 0.3, 0.1], [0.3, 0.2, 0.5], [0.1, 0.4, 0.5], [0.3, 0.6, 0.1]])


def pnp(kinds: list[float], **settings: Any) -> Any:
    """A PNP whose noise head says the same of every sample; `kinds` are its outputs before the sigmoid."""
    method = make(PNP, warmup_epochs=1, eps=0.3, **settings)
    with torch.no_grad():
        method.noise_head[2].weight.zero_()
        method.noise_head[2].bias.copy_(torch.tensor(kinds))
    return method


def terms_by_hand(alpha: float, beta: float) -> Tensor:
    """(4, 3) L_clean, L_id, L_ood with T = 0.5."""
    smooth = smoothed(LABELS, K, eps=0.3)
    mixed = (PROBS + WEAK + smooth) / 3
    rows = []
    for i in range(4):
        sharp, flat = (mixed[i] / 0.5).softmax(0), (mixed[i] * 0.5).softmax(0)
        to_label = -(smooth[i] * (PROBS[i].log() + WEAK[i].log()) / 2).sum()
        entropy = -(PROBS[i] * PROBS[i].log() + WEAK[i] * WEAK[i].log()).sum() / 2
        s = STRONG[i].log()
        rows.append(torch.stack([to_label + alpha * entropy, -(sharp * s).sum(), -beta * (flat * s).sum()]))
    return torch.stack(rows)


def test_pnp_soft_by_hand() -> None:
    method = pnp([2.0, 0.0, -1.0], alpha=0.2, beta=0.7, temperature=0.5, gamma=3.0, omega=5.0, eta=0.25)
    found = step(method, PROBS, WEAK, STRONG)
    kinds = torch.tensor([2.0, 0.0, -1.0]).sigmoid().softmax(0)
    loss_cls = float((terms_by_hand(0.2, 0.7) @ kinds).mean())
    divergence = ((PROBS - WEAK) * (PROBS / WEAK).log2()).sum(1)
    loss_con = float((kinds[0] + kinds[1]) * divergence.mean())
    clean = 1 - jensen_shannon(PROBS.log(), smoothed(LABELS, K, eps=0.3))
    entropy = -(PROBS * PROBS.log()).sum(1) / math.log(K)
    strange = 0.25 * jensen_shannon(PROBS.log(), WEAK) + 0.75 * entropy
    loss_aux = float(((kinds[0] - clean).abs() + (kinds[2] - strange).abs()).mean())
    assert number(found.log["loss_cls"]) == pytest.approx(loss_cls, rel=1e-5)
    assert number(found.log["loss_con"]) == pytest.approx(loss_con, rel=1e-5)
    assert number(found.log["loss_aux"]) == pytest.approx(loss_aux, rel=1e-5)
    assert number(found.loss) == pytest.approx(loss_cls + 3 * loss_aux + 5 * loss_con, rel=1e-5)
    assert found.per_sample["selected"].all()
    assert found.per_sample["weight"].tolist() == pytest.approx([float(kinds[0])] * 4)


@pytest.mark.parametrize(("kinds", "kind"), [([1.0, 0.0, 0.0], 0), ([0.0, 1.0, 0.0], 1), ([0.0, 0.0, 1.0], 2)])
def test_pnp_hard_by_hand(kinds: list[float], kind: int) -> None:
    terms = terms_by_hand(0.0, 1.0)
    right = step(pnp(kinds, hard=True, temperature=0.5, added_correction=False), PROBS, WEAK, STRONG)
    assert number(right.log["loss_cls"]) == pytest.approx(float(terms[:, kind].mean()), rel=1e-5)
    as_published = step(pnp(kinds, hard=True, temperature=0.5), PROBS, WEAK, STRONG)
    slip = float(terms[:, 1].mean()) + (1.0 if kind == 1 else float(terms[:, kind].mean()))
    assert number(as_published.log["loss_cls"]) == pytest.approx(slip, rel=1e-5)
    divergence = float(((PROBS - WEAK) * (PROBS / WEAK).log2()).sum(1).mean())
    assert number(right.log["loss_con"]) == pytest.approx(0.0 if kind == 2 else divergence, rel=1e-5)
    assert right.per_sample["selected"].all() == (kind == 0)


def test_pnp_warm_up_by_hand() -> None:
    found = step(pnp([0.0, 0.0, 0.0]), PROBS, WEAK, STRONG, clock=WARM_UP)
    expected = terms_by_hand(0.0, 1.0)[:, 0].mean()
    assert number(found.loss) == pytest.approx(float(expected), rel=1e-5)


# CA2C -------------------------------------------------------------------------------------------------------------


def twins(**settings: Any) -> Any:
    """A CA2C whose second network sees the classes in another order: c becomes c + 1."""
    method = make(CA2C, **settings)
    with torch.no_grad():
        method.nets[1].head.weight.copy_(torch.eye(K).roll(1, 0))
    return method


def test_weighted_partial_label_by_hand() -> None:
    votes = torch.tensor([[1.0, 3.0, 0.0], [2.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, 2.0]])
    found = weighted_partial_label(PROBS.log(), votes, hard_share=0.9)
    first = 0.75 * (-0.9 * math.log(0.2) - 0.1 * (0.25 * math.log(0.7) + 0.75 * math.log(0.2)))
    second = -math.log(0.25)
    assert found[:2].tolist() == pytest.approx([first, second], rel=1e-5)


def test_ca2c_both_vote_in_the_warm_up_and_the_second_alone_after_it() -> None:
    method = twins(warmup_epochs=1, num_votes=1)
    step(method, clock=WARM_UP)  # net 0 says 0 2 2 1, net 1 says 1 0 0 2
    assert method.votes.tolist() == [[1, 1, 0], [1, 0, 1], [1, 0, 1], [0, 1, 1]]
    step(method)
    assert method.votes.tolist() == [[1, 2, 0], [2, 0, 1], [2, 0, 1], [0, 1, 2]]
    assert method.label_quality().tolist() == pytest.approx([1 / 3, 1 / 3, 0, 0])
    assert make(CA2C).label_quality() is None


def test_ca2c_losses_by_hand() -> None:
    method = twins(warmup_epochs=1, num_votes=1, hard_share=0.75, consistency_weight=0.25)
    method.votes.copy_(torch.tensor([[2.0, 0, 0], [0, 0, 4], [0, 3, 0], [0, 0, 0]]))
    found = step(method)
    votes = torch.tensor([[2.0, 1, 0], [1, 0, 4], [1, 3, 0], [0, 0, 1]])
    pll = float(weighted_partial_label(PROBS.log(), votes, hard_share=0.75).mean())
    negative = PROBS.roll(1, 1)
    outside = torch.tensor([[0, 1, 1], [1, 1, 0], [1, 1, 0], [1, 0, 1]])  # of what net 0 predicts
    nl = float(-(outside * (1 - negative).log()).sum(1).mean())
    loss_p = 0.75 * pll + 0.25 * log_mean(STRONG, [0, 2, 2, 1])
    loss_n = 0.75 * nl + 0.25 * log_mean(STRONG.roll(1, 1), [1, 0, 0, 2])
    assert number(found.log["loss_net0"]) == pytest.approx(loss_p, rel=1e-5)
    assert number(found.log["loss_net1"]) == pytest.approx(loss_n, rel=1e-5)
    assert number(found.loss) == pytest.approx(loss_p + loss_n, rel=1e-5)


def test_ca2c_uses_no_label_after_the_warm_up() -> None:
    one, other = twins(warmup_epochs=1), twins(warmup_epochs=1)
    views = (PROBS.log(), STRONG.log())
    losses = [
        number(method.loss((Batch(torch.arange(4), views, labels),), ROBUST).loss)
        for method, labels in ((one, LABELS), (other, (LABELS + 1) % K))
    ]
    assert losses[0] == losses[1]


def test_ca2c_predicts_with_the_mean_of_the_logits() -> None:
    found = twins().predict(PROBS.log())
    logits = (PROBS.log() + PROBS.roll(1, 1).log()) / 2
    assert list(found) == ["ensemble", "net0", "net1"]
    torch.testing.assert_close(found["ensemble"], logits.softmax(1))


# Co-LDL -----------------------------------------------------------------------------------------------------------


def test_random_partners_are_clean_and_change() -> None:
    clean = torch.tensor([False, True, False, True, True, False, False])
    torch.manual_seed(0)
    draws = torch.stack([random_partners(clean) for _ in range(200)])
    assert clean[draws].all()
    counts = [int((draws == c).sum(1).max()) for c in (1, 3, 4)]
    assert counts == [3, 3, 3]  # seven samples, three partners: each is taken two or three times
    assert all(len(draws[:, i].unique()) == 3 for i in range(7))
    assert random_partners(torch.zeros(4, dtype=torch.bool)).tolist() == [0, 1, 2, 3]


def test_distribution_divergence_by_hand() -> None:
    share, other = torch.tensor([0.9, 0.4, 1.0, 0.0]), STRONG.roll(1, 0)
    counted = torch.tensor([True, False, True, True])
    for row in range(4):
        w = float(share[row])
        mixed = [w * float(a) + (1 - w) * float(b) for a, b in zip(STRONG[row], other[row], strict=True)]
        expected = sum(float(p) * math.log(float(p) / m) for p, m in zip(PROBS[row], mixed, strict=True))
        found = distribution_divergence(PROBS.log(), STRONG, other, share, counted)
        assert float(found[row]) == pytest.approx(expected, abs=1e-6)


def test_published_divergence_is_the_broadcast_of_the_public_code() -> None:
    """As written there, over the counted samples alone: weights of shape (m, 1, 1, 1) times labels of shape (m, K)."""
    share, other = torch.tensor([0.9, 0.4, 0.7, 0.2]), STRONG.roll(1, 0)
    counted = torch.tensor([True, False, True, True])
    found = published_divergence(PROBS.log(), STRONG, other, share, counted)
    w = share[counted].view(-1, 1, 1, 1)
    mixed = w * STRONG[counted] + (1 - w) * other[counted]
    probs = PROBS[counted]
    as_run = (probs * (probs.log() - mixed.log())).sum(dim=1).mean()
    assert mixed.shape == (3, 1, 3, K)
    assert float(found[counted].mean()) == pytest.approx(float(as_run), rel=1e-5)


def test_co_ldl_drop_rate_rises() -> None:
    method = make(CoLDL, warmup_epochs=10, last_drop=0.5)
    assert [method.drop_rate(Clock(e, 110)) for e in (10, 109)] == pytest.approx([0.25, 0.5])
    assert method.drop_rate(Clock(43, 110)) == pytest.approx(0.25 + 0.25 / 3)


def test_co_ldl_stage_one_by_hand() -> None:
    found = step(make(CoLDL, warmup_epochs=1, eps=0.3), PROBS, STRONG, clock=WARM_UP)
    smooth = smoothed(LABELS, K, eps=0.3)
    assert number(found.loss) == pytest.approx(float(-(smooth * (PROBS * STRONG).log()).sum(1).mean()), rel=1e-5)


@pytest.mark.parametrize("as_published", [True, False])
def test_co_ldl_loss_by_hand(as_published: bool) -> None:
    settings = {"alpha": 0.2, "gamma": 0.5, "eps": 0.3, "last_drop": 0.5, "label_scale": 1.0}
    method = make(CoLDL, warmup_epochs=0, beta=2.0, as_published=as_published, **settings)
    found = step(method, PROBS, STRONG, clock=Clock(9, 10))
    smooth = smoothed(LABELS, K, eps=0.3)
    label = F.one_hot(LABELS, K).float().softmax(1)
    # The two smallest losses: samples 0 and 1 under the first network, 2 and 3 under the second.
    assert found.per_sample["selected"].tolist() == [False, False, True, True]
    for k, (probs, other, clean) in enumerate(((PROBS, STRONG, [2, 3]), (STRONG, PROBS, [0, 1]))):
        to_label = -(smooth * probs.log()).sum(1)[clean].mean()
        entropy = -(probs * probs.log()).sum(1)[clean].mean()
        held = -(smooth * label.log_softmax(1)).sum(1)[clean].mean()
        predicted = method.predictors[k](probs.log()).detach()
        foretold = 2 - 2 * F.cosine_similarity(predicted, other.log(), dim=1).mean()
        mix = number(found.log[f"loss_mix_net{k}"])
        expected = 0.8 * (float(to_label + entropy) + 2 * mix) + 0.2 * float(held) + 0.5 * float(foretold)
        assert mix > 0
        assert number(found.log[f"loss_net{k}"]) == pytest.approx(expected, rel=1e-5)


def test_co_ldl_mixes_what_is_not_clean_with_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights of 1 nothing is mixed, and L_mix is the KL of the other samples to their own labels."""
    monkeypatch.setattr("acto.methods.co_ldl.Beta.sample", lambda self: torch.ones(4))
    found = step(make(CoLDL, warmup_epochs=0, eps=0.3, as_published=False), PROBS, STRONG, clock=Clock(9, 10))
    label = (10 * F.one_hot(LABELS, K).float()).softmax(1) + 1e-8
    apart = (PROBS * (PROBS / label).log()).sum(1)
    assert number(found.log["loss_mix_net0"]) == pytest.approx(float(apart[[0, 1]].mean()), rel=1e-4)


def test_co_ldl_tables() -> None:
    """As published there is one table, and only the second network teaches it."""
    for as_published, shape in ((True, (4, 1, K)), (False, (4, 2, K))):
        method = make(CoLDL, warmup_epochs=0, as_published=as_published, label_scale=2.0, label_rate=1.0)
        assert method.label_logits.shape == shape and method.label_quality() is None
        torch.manual_seed(3)
        found = step(method, PROBS, STRONG, clock=Clock(9, 10))
        before = method.label_logits.clone()
        (_, _, leaf) = method._leaves[0]
        found.loss.backward()
        method.step_rows(Clock(9, 10))
        torch.testing.assert_close(method.label_logits, before - leaf.grad)
        quality = method.label_quality()
        assert quality is not None and quality.shape == (4,) and (quality > 0).all() and (quality < 1).all()


# Settings ---------------------------------------------------------------------------------------------------------


def test_recipes() -> None:
    cifar100, small, web = (
        replace(SETTINGS[name], epochs=epochs)
        for name, epochs in (("cifar100nc", 150), ("digits", 60), ("web-car", 100))
    )
    noise, heavy = (NoiseSpec(kind="symmetric", rate=rate) for rate in (0.2, 0.8))
    assert CONFIGS["npn"](cifar100, noise) == NPN.Config(warmup_epochs=100)
    web_npn = NPN.Config(warmup_epochs=40, num_votes=1, consistency_weight=2, label_smoothing=0.2)
    assert CONFIGS["npn"](web, noise) == web_npn
    assert CONFIGS["jo-src"](cifar100, noise) == JoSRC.Config(warmup_epochs=8)
    assert CONFIGS["jo-src"](web, noise) == JoSRC.Config(warmup_epochs=10, eps=0.65)
    assert CONFIGS["pnp"](cifar100, noise) == PNP.Config(warmup_epochs=8)
    assert CONFIGS["pnp"](web, noise) == PNP.Config(warmup_epochs=4, eps=0.5, alpha=1, eta=1)
    assert CONFIGS["ca2c"](small, noise) == CA2C.Config(warmup_epochs=34)
    assert CONFIGS["co-ldl"](web, noise) == CoLDL.Config(warmup_epochs=9)
    # 150 epochs in place of 100, 60 in place of 100, 100 in place of 110.
    assert CONFIGS["sed"](cifar100, heavy) == SED.Config(
        warmup_epochs=30, threshold_momentum=0.999 ** (2 / 3), weight_momentum=0.99 ** (2 / 3)
    )
    assert CONFIGS["sed"](small, heavy) == SED.Config(
        warmup_epochs=12, threshold_momentum=0.99 ** (100 / 60), weight_momentum=0.99 ** (100 / 60)
    )
    assert CONFIGS["sed"](web, noise) == SED.Config(
        warmup_epochs=9, threshold_momentum=0.999**1.1, weight_momentum=0.99**1.1, alpha=0.5, label_smoothing=0.3
    )


@pytest.mark.parametrize(
    ("source", "noise", "epochs", "settings"),
    [
        ("cifar100nc", NoiseSpec(kind="symmetric", rate=0.2), 100, (0.9, 0.9, 1, 0.99)),
        ("cifar100nc", NoiseSpec(kind="symmetric", rate=0.8), 100, (0.999, 0.99, 1, 0.95)),
        ("cifar100nc", NoiseSpec(kind="asymmetric", rate=0.4), 140, (0.9, 0.9, 1, 0.99)),
        ("cifar80no", NoiseSpec(kind="symmetric", rate=0.2), 140, (0.999, 0.85, 0.5, 0.99)),
        ("cifar80no", NoiseSpec(kind="symmetric", rate=0.8), 100, (0.95, 0.85, 1, 0.99)),
        ("cifar80no", NoiseSpec(kind="asymmetric", rate=0.4), 140, (0.9, 0.9, 1, 0.99)),
    ],
)
def test_sed_has_a_line_of_its_script_for_each_noise(
    source: str, noise: NoiseSpec, epochs: int, settings: tuple[float, ...]
) -> None:
    found: SED.Config = CONFIGS["sed"](SETTINGS[source].lasting(epochs), noise)
    names = ("threshold_momentum", "weight_momentum", "alpha", "ema_decay")
    assert found == SED.Config(warmup_epochs=20, **dict(zip(names, settings, strict=True)))
    longer: SED.Config = CONFIGS["sed"](SETTINGS[source].lasting(2 * epochs), noise)
    assert (longer.warmup_epochs, longer.threshold_momentum**2) == (40, pytest.approx(settings[0]))


@pytest.mark.parametrize(
    ("cls", "settings", "words"),
    [
        (NPN, {"num_votes": 0}, "num_votes is 0"),
        (SED, {"quantile": 1.5}, "quantile is 1.5"),
        (SED, {"ema_decay": 1.0}, "ema_decay is 1"),
    ],
)
def test_settings_out_of_range_are_refused(cls: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        cls.Config(**settings)
