"""The parts of ACTO's steady form by hand, and one step of it in plain numpy. Golden rows: test_acto.py."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from acto.core.errors import UserError
from acto.core.types import Batch, Clock, Task
from acto.methods import acto
from acto.methods.acto import ACTO, FORMS, REACH, Form, form_of
from acto.methods.blocks.confidence import moments_of, trust_in_confidence
from acto.methods.blocks.losses import cross_entropy
from acto.methods.blocks.mixing import Mixture
from acto.methods.blocks.weight_average import follow
from toys import LinearNet, ToyNet, make_method, make_problem

K, D, B = 3, 4, 5
SHARE, PARTNER = 0.75, [2, 0, 1, 4, 3]


# The parts ----------------------------------------------------------------------------------------------------------


def test_a_form_fills_what_is_open() -> None:
    assert form_of(ACTO.Config()) == form_of(ACTO.Config(form="published")) == FORMS["published"]
    assert form_of(ACTO.Config(form="steady")) == FORMS["steady"]
    own: dict[str, Any] = {
        "selection": "robust", "min_share": 0.5, "judge": "teacher", "average_epochs": 3.0, "selected_weight": 0.3,
        "consistency_weight": 0.7, "confidence": "none", "alignment": False, "mixing": 2.0,
        "warmup_views": "weak", "course": True,
    }  # fmt: skip
    for form in (None, "steady"):
        assert form_of(ACTO.Config(form=form, **own)) == Form(**own)


def test_the_published_form_is_recorded_as_before() -> None:
    assert ACTO.Config(form="published") == ACTO.Config() and ACTO.Config().form is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mixing": 1.0}, "needs acto.judge teacher"),
        ({"form": "steady", "judge": "student"}, "needs acto.judge teacher"),
        ({"consistency_weight": 1.1}, "consistency_weight must lie in"),
        ({"average_epochs": 0.0}, "average_epochs"),
        ({"form": "thorough"}, "form"),
    ],
)
def test_parts_that_do_not_go_together(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ACTO.Config(**settings)


def test_each_part_keeps_only_what_it_needs() -> None:
    def state(**settings: Any) -> set[str]:
        return {
            name.partition(".")[0]
            for name in make_method("acto", PROBLEM.task, config=ACTO.Config(**settings)).state_dict()
        }

    plain = {"nets", "times_selected", "soft_label", "robust_epochs"}
    assert state() == plain
    assert state(judge="teacher") == plain | {"teacher", "teacher_steps"}
    assert state(confidence="gaussian") == plain | {"confidence"}
    assert state(alignment=True) == plain | {"mean_prediction"}


PROBLEM = make_problem()


def test_trust_falls_below_the_mean_like_a_bell() -> None:
    trust = trust_in_confidence(torch.tensor([0.9, 0.6, 0.5, 0.4]), torch.tensor(0.6), torch.tensor(0.01), bell=2.0)
    # One deviation below the mean: exp(-2); two: exp(-8).
    np.testing.assert_allclose(trust, [1, 1, math.exp(-2), math.exp(-8)], rtol=1e-5)


@pytest.mark.parametrize(
    ("members", "mean", "var", "reach"),
    [
        ([1, 1, 1, 0], 0.4, 0.04, 0.1),
        ([0, 0, 1, 1], 0.75, 0.045, 0.1),
        ([0, 0, 0, 1], 0.9, 0.0, 0.0),
        ([0] * 4, 0, 0, 0),
    ],
)
def test_moments_are_those_of_the_members(members: list[int], mean: float, var: float, reach: float) -> None:
    moments, moves = moments_of(torch.tensor([0.2, 0.4, 0.6, 0.9]), torch.tensor(members).bool(), reach=0.1)
    np.testing.assert_allclose(moments, [mean, var], atol=1e-6)
    assert float(moves) == pytest.approx(reach)


def test_a_mixture_weighs_both_of_its_samples() -> None:
    mix = Mixture(torch.tensor(SHARE), torch.tensor([1, 0]))
    assert mix.inputs(torch.tensor([[4.0], [8.0]])).tolist() == [[5.0], [7.0]]

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        return target.float()

    found = mix.loss(loss, torch.zeros(2, K), torch.tensor([1, 2]), torch.tensor([1.0, 0.5]))
    assert found.tolist() == [SHARE * 1 * 1 + (1 - SHARE) * 0.5 * 2, SHARE * 0.5 * 2 + (1 - SHARE) * 1 * 1]


def test_a_sample_has_the_larger_part_in_its_mixture() -> None:
    drawn = [Mixture.of(torch.zeros(6), alpha=1.0) for _ in range(50)]
    assert all(0.5 <= float(mix.share) <= 1 for mix in drawn)
    assert all(sorted(mix.partner.tolist()) == list(range(6)) for mix in drawn)


def test_a_follower_takes_weights_and_statistics_and_counts() -> None:
    ours, theirs = ToyNet(), ToyNet()
    with torch.no_grad():
        for net, value in ((ours, 1.0), (theirs, 3.0)):
            for tensor in (*net.parameters(), *net.buffers()):
                tensor.fill_(value)
    follow(ours, theirs, move=torch.tensor(0.25))
    norm = ours.body[1]
    assert all((p == 1.5).all() for p in ours.parameters())
    assert float(norm.running_mean[0]) == float(norm.running_var[0]) == 1.5 and int(norm.num_batches_tracked) == 3


def test_the_teacher_moves_less_and_less_until_it_reaches_as_far_back_as_asked() -> None:
    method = make_method("acto", PROBLEM.task, config=ACTO.Config(judge="teacher", average_epochs=2.0))
    bias, teacher = method.nets[0].head.bias, method.teacher.head.bias
    far = 1 - math.exp(-1 / 20)
    expected = 0.0
    with torch.no_grad():
        bias.fill_(1.0)
        teacher.fill_(0.0)
    for step in range(200):
        method.on_step(Clock(0, 1, step=0, steps=10))
        expected += max(9 / (10 + step), far) * (1 - expected) if step else 0.9
        assert float(teacher[0]) == pytest.approx(expected, abs=1e-5)


# A step ---------------------------------------------------------------------------------------------------------------


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def logits(net: Any, x: np.ndarray) -> np.ndarray:
    return x @ net.head.weight.detach().numpy().T + net.head.bias.detach().numpy()


def waves(*shape: int, start: float) -> np.ndarray:
    return np.sin(1.9 * np.arange(math.prod(shape)) ** 1.2 + start).reshape(shape)


@pytest.mark.parametrize(("epoch", "warmup_views"), [(0, "weak"), (0, "both"), (3, "both")])
@pytest.mark.parametrize("mixing", [0.0, 1.0])
def test_a_step_is_the_one_in_plain_numpy(
    epoch: int, warmup_views: Any, mixing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        acto.Mixture, "of", classmethod(lambda cls, label, *, alpha: cls(torch.tensor(SHARE), torch.tensor(PARTNER)))
    )
    labels, index = np.array([0, 1, 2, 1, 0, 2, 1]), np.array([1, 6, 3, 0, 4])
    config = ACTO.Config(
        form="steady", warmup_epochs=2, mixing=mixing, tau=5.0, label_smoothing=0.1, selected_weight=0.6,
        consistency_weight=1.3, warmup_views=warmup_views,
    )  # fmt: skip
    method = ACTO(config, Task(torch.from_numpy(labels), K), lambda: LinearNet(D, K)).double()
    rtm, ntm, teacher = *method.nets, method.teacher
    with torch.no_grad():
        for place, net in enumerate((rtm, ntm, teacher)):
            net.head.weight.copy_(torch.from_numpy(1.5 * waves(K, D, start=9 + 3.0 * place)))
            net.head.bias.copy_(torch.from_numpy(waves(K, start=7.0 + place)))
        method.soft_label.copy_(torch.from_numpy(softmax(waves(len(labels), K, start=11.0))))
        method.times_selected.copy_(torch.arange(7) % 3)
        method.mean_prediction.copy_(torch.tensor([0.5, 0.3, 0.2]))
        method.confidence.copy_(torch.tensor([0.8, 0.04]))
    q, w = method.soft_label.numpy()[index].copy(), method.times_selected.numpy()[index].copy()
    weak, strong, label = waves(B, D, start=21.0), waves(B, D, start=33.0), labels[index]
    batch = Batch(torch.from_numpy(index), (torch.from_numpy(weak), torch.from_numpy(strong)), torch.from_numpy(label))
    step = method.loss((batch,), Clock(epoch, 6, step=0, steps=2))

    def mixed(x: np.ndarray) -> np.ndarray:
        return SHARE * x + (1 - SHARE) * x[PARTNER] if mixing else x

    def ce(z: np.ndarray, target: np.ndarray) -> np.ndarray:
        log_p = np.log(softmax(z))
        return -0.9 * log_p[np.arange(B), target] - 0.1 * log_p.mean(1)

    def pair(z: np.ndarray, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
        if not mixing:
            return weight * ce(z, target)
        return SHARE * weight * ce(z, target) + (1 - SHARE) * weight[PARTNER] * ce(z, target[PARTNER])

    loss_n = ce(logits(ntm, weak), label).mean()
    on_weak = logits(rtm, mixed(weak))
    if epoch < config.warmup_epochs:
        expected = loss_n
        for view in (weak, strong) if warmup_views == "both" else (weak,):
            out = logits(rtm, mixed(view))
            z = np.maximum(out, 1e-12)
            penalty = (softmax(z) * np.log(softmax(z))).sum(1).mean()
            expected += pair(out, label, np.ones(B)).mean() + penalty
        assert step.loss.item() == pytest.approx(expected, rel=1e-6)
        return

    judge = softmax(logits(teacher, weak))
    right_r, right_n = judge.argmax(1) == label, logits(ntm, weak).argmax(1) == label
    is_open = right_r.sum() > 0 and right_n.sum() - right_r.sum() < 5 * right_r.sum()
    selected = (right_r & right_n) | (right_n & ~right_r & is_open)
    assert selected.sum() == 3 and (right_r & right_n).sum() == 1, "one agreed, two mined, two left out"
    weight = (w + selected) / (epoch + 1)
    q = 0.8 * q + 0.2 * judge
    mean = (1 - REACH) * np.array([0.5, 0.3, 0.2]) + REACH * judge.mean(0)
    aligned = q * (np.bincount(labels) / len(labels)) / mean
    aligned /= aligned.sum(1, keepdims=True)
    confidence, pseudo = aligned.max(1), aligned.argmax(1)
    rest = confidence[~selected]
    mu = (1 - REACH) * 0.8 + REACH * rest.mean()
    var = (1 - REACH) * 0.04 + REACH * rest.var(ddof=1)
    trust = np.exp(-2 * np.minimum(confidence - mu, 0) ** 2 / var)
    assert (trust[~selected] < 0.99).any()
    target = np.where(selected, label, pseudo)
    if mixing:
        loss_selected = pair(on_weak, target, np.where(selected, weight, trust)).mean()
    else:
        loss_selected = (weight * ce(on_weak, label))[selected].sum() / max(selected.sum(), 0.25 * B)
    loss_whole = pair(logits(rtm, mixed(strong)), target, np.where(selected, 1.0, trust)).mean()
    assert step.loss.item() == pytest.approx(0.6 * loss_selected + 1.3 * loss_whole + loss_n, rel=1e-6)
    np.testing.assert_array_equal(step.per_sample["selected"], selected)
    np.testing.assert_allclose(method.soft_label[index], q, rtol=1e-6)
    np.testing.assert_allclose(method.confidence, [mu, var], rtol=1e-6)


def test_nothing_of_the_teacher_learns() -> None:
    method = make_method("acto steady", PROBLEM.task).train()
    rows = torch.arange(8)
    views = (PROBLEM.train.features[rows], PROBLEM.train.features[rows])
    method.loss((Batch(rows, views, PROBLEM.task.labels[rows]),), Clock(5, 12, steps=4)).loss.backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    assert {id(p) for group in method.param_groups() for p in group["params"]} == {
        id(p) for net in method.nets for p in net.parameters()
    }
    assert method.teacher.training, "the mode comes back"
    assert cross_entropy(method.nets[0](views[0]), PROBLEM.task.labels[rows]).requires_grad


def test_either_form_goes_on_from_the_other() -> None:
    published, steady = (make_method(name, PROBLEM.task, seed=seed) for name, seed in (("acto", 1), ("acto steady", 2)))
    state = published.state_dict()
    steady.load_state_dict(steady.adopted(state))
    for name, tensor in state.items():
        assert torch.equal(steady.state_dict()[name], tensor), name
        if name.startswith("nets.0."):  # not the random start that the teacher had
            assert torch.equal(steady.state_dict()[name.replace("nets.0.", "teacher.")], tensor), name
    steady.mean_prediction.fill_(0.7)
    again = make_method("acto steady", PROBLEM.task, seed=3)
    again.load_state_dict(again.adopted(steady.state_dict()))
    assert float(again.mean_prediction[0]) == pytest.approx(0.7), "its own parts are kept"
    published.load_state_dict(published.adopted(steady.state_dict()))
    del state["nets.0.head.weight"]
    with pytest.raises(RuntimeError, match="head"):
        steady.load_state_dict(steady.adopted(state))
