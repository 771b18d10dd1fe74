"""DivideMix: its split on hand-written numbers, its step against a literal one, its turns and its history."""

from __future__ import annotations

import copy
import math
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributions import Beta

from acto.core import distributed
from acto.core.types import Batch, Clock, Task
from acto.data.loading.loader import DeviceData
from acto.data.samples import Samples
from acto.data.views.spec import ViewSpec
from acto.methods.blocks.selection import min_max, two_mode_mixture
from acto.methods.dividemix import DivideMix, divide
from acto.training.loop import Training, run_epochs
from toys import NUM_CLASSES, TOYS, ToyNet, columns_of, make_method, make_problem, make_training, tensors_in

PROBLEM = make_problem()
K = NUM_CLASSES


@pytest.mark.parametrize(
    ("clean_prob", "threshold", "floor", "labelled"),
    [
        ([0.9, 0.1, 0.6, 0.4], 0.5, 1, [0, 2]),
        ([0.9, 0.1, 0.6, 0.4], 0.6, 1, [0]),
        ([0.5, 0.5, 0.5, 0.51], 0.5, 1, [3]),  # at the threshold is not above it
        ([0.1, 0.3, 0.2, 0.0], 0.5, 2, [1, 2]),  # X is empty: the likeliest fill it
        ([0.9, 0.7, 0.8, 1.0], 0.5, 2, [0, 3]),  # U is empty: the least likely fill it
        ([0.0, 0.0, 0.0, 0.0], 0.5, 1, [0]),
        ([1.0, 1.0, 1.0, 1.0], 0.5, 1, [0, 1, 2]),
        ([0.1, 0.2, 0.3, 0.4, 0.9], 0.5, 64, [3, 4]),  # never more than half
        ([math.nan, 0.9, 0.2, 0.8], 0.95, 1, [1]),
    ],
)
def test_divide(clean_prob: list[float], threshold: float, floor: int, labelled: list[int]) -> None:
    x, u = divide(torch.tensor(clean_prob).nan_to_num(0.0), threshold=threshold, floor=floor)
    assert x.tolist() == labelled
    assert u.tolist() == [i for i in range(len(clean_prob)) if i not in labelled]


def make(seed: int = 0, **settings: Any) -> tuple[DivideMix, Batch, Batch]:
    """A method with clean_prob made up, in train mode, and a batch of X and of U of different sizes."""
    config = DivideMix.Config(**{"warmup_epochs": 2, "lambda_u": 10.0, "ramp_epochs": 4.0, "batch_size": 8, **settings})
    torch.manual_seed(seed)
    method = DivideMix(config, PROBLEM.task, ToyNet).double().train()
    method.clean_prob.copy_(torch.rand(method.clean_prob.shape))
    order = torch.randperm(PROBLEM.task.num_samples)

    def batch(index: Tensor) -> Batch:
        features = PROBLEM.train.features[index].double()
        views = tuple(features + 0.1 * torch.randn_like(features) for _ in range(2))
        return Batch(index, views, PROBLEM.task.labels[index])

    return method, batch(order[:5]), batch(order[5:13])


def softmax(logits: Tensor) -> np.ndarray:
    powers = np.exp(logits.detach().numpy())
    return powers / powers.sum(1, keepdims=True)


def sharpened(probs: np.ndarray, temperature: float) -> np.ndarray:
    out = np.zeros_like(probs)
    for i, row in enumerate(probs):
        powers = [p ** (1 / temperature) for p in row]
        out[i] = [p / sum(powers) for p in powers]
    return out


def literal_loss(method: DivideMix, x: Batch, u: Batch, clock: Clock, *, seed: int) -> Tensor:
    """The step of network `clock.turn`, written down from the paper's algorithm with loops over the rows."""
    config = method.config
    net, partner = method.nets[clock.turn], method.nets[1 - clock.turn]
    assert net.training
    own_u = [softmax(net(view)) for view in u.views]
    own_x = [softmax(net(view)) for view in x.views]
    partner.eval()
    partner_u = [softmax(partner(view)) for view in u.views]
    partner.train()
    guess_u = sum([*own_u, *partner_u]) / 4
    guess_x = np.zeros((len(x.index), K))
    for i, sample in enumerate(x.index.tolist()):
        w = float(method.clean_prob[sample, 1 - clock.turn])
        guess_x[i] = w * np.eye(K)[int(x.label[i])] + (1 - w) * (own_x[0][i] + own_x[1][i]) / 2
    target_x, target_u = sharpened(guess_x, config.temperature), sharpened(guess_u, config.temperature)

    stack = torch.cat([x.views[0], x.views[1], u.views[0], u.views[1]])
    targets = np.concatenate([target_x, target_x, target_u, target_u])
    torch.manual_seed(seed)
    concentration = torch.tensor(config.alpha)
    drawn = Beta(concentration, concentration).sample()  # in single precision, so its complement is taken there too
    share, rest = float(max(drawn, 1 - drawn)), float(min(drawn, 1 - drawn))
    partner_rows = torch.randperm(len(stack)).tolist()
    mixed = torch.stack([share * stack[i] + rest * stack[j] for i, j in enumerate(partner_rows)])
    mixed_targets = torch.from_numpy(
        np.stack([share * targets[i] + rest * targets[j] for i, j in enumerate(partner_rows)])
    )
    num_x = 2 * len(x.index)
    num_rows = len(stack) if config.train_on_unlabelled else num_x
    probs = net(mixed[:num_rows]).softmax(1)
    loss_x = sum(-(mixed_targets[i] * probs[i].log()).sum() for i in range(num_x)) / num_x
    mean_probs = probs.sum(0) / num_rows
    loss_reg = sum((1 / K) * ((1 / K) / mean_probs[c]).log() for c in range(K))
    loss = loss_x + loss_reg
    if config.train_on_unlabelled:
        rows = range(num_x, num_rows)
        loss_u = sum(((probs[i] - mixed_targets[i]) ** 2).sum() / K for i in rows) / len(rows)
        ramp = (clock.epoch + clock.step / clock.steps - config.warmup_epochs) / config.ramp_epochs
        loss = loss + config.lambda_u * min(max(ramp, 0.0), 1.0) * loss_u
    return loss


@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize(("epoch", "step"), [(2, 0), (3, 2), (9, 1)])
@pytest.mark.parametrize("train_on_unlabelled", [True, False])
def test_a_step_equals_the_literal_one(turn: int, epoch: int, step: int, train_on_unlabelled: bool) -> None:
    method, x, u = make(train_on_unlabelled=train_on_unlabelled)
    twin = copy.deepcopy(method)
    clock = Clock(epoch, 20, turn, step, 4)
    expected = literal_loss(twin, x, u, clock, seed=7)
    expected.backward()
    torch.manual_seed(7)
    found = method.loss((x, u), clock).loss
    found.backward()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    for (key, parameter), other in zip(method.named_parameters(), twin.parameters(), strict=True):
        if key.startswith(f"nets.{turn}."):
            np.testing.assert_allclose(parameter.grad, other.grad, rtol=1e-5, atol=1e-9, err_msg=key)
        else:
            assert parameter.grad is None, f"{key}: the partner only guesses"
    # The own guesses move the batch statistics, the partner's do not.
    for (key, buffer), other in zip(method.nets.named_buffers(), twin.nets.buffers(), strict=True):
        np.testing.assert_allclose(buffer, other, rtol=1e-5, atol=1e-9, err_msg=key)
    batches_seen = [int(net.body[1].num_batches_tracked) for net in method.nets]
    assert batches_seen[turn] == 5 and batches_seen[1 - turn] == 0
    assert all(net.training for net in method.nets), "the partner's mode is put back"


def test_the_unlabelled_loss_rises_to_lambda_u() -> None:
    method, x, u = make(lambda_u=10.0, ramp_epochs=4.0)

    def weight(epoch: int, step: int) -> float:
        torch.manual_seed(0)
        result = method.eval().loss((x, u), Clock(epoch, 20, 0, step, 4))
        rest = result.loss.detach() - result.log["loss_x"] - result.log["loss_reg"]
        return float(rest / result.log["loss_u"])

    weights = [weight(2, 0), weight(2, 2), weight(4, 0), weight(6, 0), weight(15, 3)]
    np.testing.assert_allclose(weights, [0, 1.25, 5, 10, 10], atol=1e-6)


@pytest.mark.parametrize("entropy_weight", [0.0, 1.0])
@pytest.mark.parametrize("turn", [0, 1])
def test_warm_up(entropy_weight: float, turn: int) -> None:
    method, x, _ = make(entropy_weight=entropy_weight)
    with torch.no_grad():
        probs = method.nets[turn](x.views[0]).softmax(1)
    expected = -probs[range(5), x.label].log().mean() + entropy_weight * (probs * probs.log()).sum(1).mean()
    loss = method.loss((x,), Clock(1, 20, turn)).loss
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-6)
    loss.backward()
    assert all(p.grad is None for p in method.nets[1 - turn].parameters())
    assert [stream.views for stream in method.streams(Clock(1, 20, turn))] == [("weak",)]


def scan(net: nn.Module, *, view: str = "none", train: bool = False) -> Tensor:
    assert view == "none" and not train
    mode = net.training
    with torch.no_grad():
        logits = net.eval()(PROBLEM.train.features.double())
    net.train(mode)
    return logits


def fresh_losses(method: DivideMix, k: int) -> Tensor:
    logits = scan(method.nets[k])
    return min_max(-logits.log_softmax(1)[range(len(logits)), PROBLEM.task.labels])


def test_both_mixtures_are_fitted_before_the_first_turn_only() -> None:
    method, _, _ = make()
    before = method.clean_prob.clone()
    assert method.on_turn(Clock(1, 20, 0), scan) is None and torch.equal(method.clean_prob, before), "warm-up"
    found = method.on_turn(Clock(2, 20, 0), scan)
    for k in range(2):
        np.testing.assert_allclose(method.clean_prob[:, k], two_mode_mixture(fresh_losses(method, k)), atol=1e-9)
    mean = method.clean_prob.mean(1)
    assert found is not None
    assert torch.equal(found["selected"], mean > 0.5) and torch.equal(found["weight"], mean)
    assert torch.equal(found["predicted"], (scan(method.nets[0]) + scan(method.nets[1])).argmax(1))
    fitted = method.clean_prob.clone()
    torch.nn.init.zeros_(method.nets[0].head.weight)
    assert method.on_turn(Clock(2, 20, 1), scan) is None and torch.equal(method.clean_prob, fitted)


def test_each_network_learns_from_the_others_split() -> None:
    method, _, _ = make(p_threshold=0.6)
    for turn in range(2):
        x, u = method.streams(Clock(5, 20, turn))
        assert x.index is not None and u.index is not None
        assert x.index.tolist() == [i for i, w in enumerate(method.clean_prob[:, 1 - turn].tolist()) if w > 0.6]
        assert sorted([*x.index.tolist(), *u.index.tolist()]) == list(range(PROBLEM.task.num_samples))
        assert (x.batch_size, x.drop_last, u.batch_size, u.drop_last) == (8, False, 8, True)


def test_losses_of_several_epochs_are_averaged() -> None:
    method, _, _ = make(loss_epochs=3)
    seen: list[Tensor] = []
    for epoch in range(2, 7):
        torch.manual_seed(epoch)
        for net in method.nets:
            nn.init.normal_(net.head.weight)
        seen.append(fresh_losses(method, 1))
        method.on_turn(Clock(epoch, 20, 0), scan)
        expected = two_mode_mixture(torch.stack(seen[-3:]).mean(0))
        np.testing.assert_allclose(method.clean_prob[:, 1], expected, atol=1e-9)


@pytest.mark.parametrize("p_threshold", [0.0, 1.0])
def test_an_empty_side_is_filled_up_and_trains(p_threshold: float) -> None:
    config = DivideMix.Config(warmup_epochs=1, batch_size=16, p_threshold=p_threshold)
    training = Training(make_method("dividemix", PROBLEM.task, config=config), TOYS["dividemix"].protocol)
    for log in run_epochs(training, PROBLEM.train, seed=0):
        assert math.isfinite(log.metrics["loss"])
        if log.epoch == 3:
            break
    assert training.epochs_done == 4


def test_few_samples_train() -> None:
    """Nine samples: X and U get four at least, less than a batch."""
    small = make_problem(num_train=9)
    training = make_training("dividemix", small.task)
    for log in run_epochs(training, small.train, seed=0):
        assert math.isfinite(log.metrics["loss"])


def test_history_scores_the_mixture_and_not_the_batches() -> None:
    training = make_training("dividemix", PROBLEM.task)
    warmup = training.method.config.warmup_epochs
    for log in run_epochs(training, PROBLEM.train, seed=3):
        if log.epoch >= warmup:
            assert torch.equal(training.history.selected_now, training.method.clean_prob.mean(1) > 0.5)
    robust = TOYS["dividemix"].epochs - warmup
    table = training.history.table()
    assert (table["visits"] == 2 * warmup + robust).all(), "two turns an epoch, then one look at all samples"
    assert (training.history.selectable == robust).all()
    assert torch.equal(table["weight"], training.method.clean_prob.mean(1))


def test_the_ensemble_comes_first() -> None:
    method, x, _ = make()
    with torch.no_grad():
        found = method.eval().predict(x.views[0])
        logits = [net(x.views[0]) for net in method.nets]
    assert list(found) == ["ensemble", "net0", "net1"]
    np.testing.assert_allclose(found["ensemble"], softmax(logits[0] + logits[1]), rtol=1e-6)
    np.testing.assert_allclose(found["net1"], softmax(logits[1]), rtol=1e-6)


def test_label_quality() -> None:
    method, _, _ = make()
    np.testing.assert_allclose(method.label_quality(), method.clean_prob.numpy().mean(1))
    fresh = DivideMix(method.config, Task(PROBLEM.task.labels, K), ToyNet)
    assert fresh.label_quality() is None


def worker(rank: int, port: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    distributed.start(torch.device("cpu"))
    num_samples, num_features = PROBLEM.train.features.shape
    samples = Samples(
        ids=tuple(map(str, range(num_samples))),
        labels=PROBLEM.task.labels.numpy(),
        features=PROBLEM.train.features.numpy(),
    )
    spec = ViewSpec(pipeline="vectors", mean=(0.0,) * num_features, std=(1.0,) * num_features)
    training = make_training("dividemix", PROBLEM.task)
    data = DeviceData(samples, spec, seed=0, rank=rank, world=2)
    metrics = [log.metrics for _, log in zip(range(6), run_epochs(training, data, seed=0), strict=False)]
    state = {"method": training.method.state_dict(), "history": columns_of(training.history), "metrics": metrics}
    torch.save(state, Path(folder) / f"{rank}.pt")
    distributed.stop()


def test_two_processes_agree_about_the_split(tmp_path: Path) -> None:
    """With batch norm, whose statistics each process gathers from its own half of the batches: were they not brought
    together, the processes would see other losses, make other splits and take different numbers of steps.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(worker, args=(port, str(tmp_path)), nprocs=2)
    first, second = (tensors_in(torch.load(tmp_path / f"{rank}.pt", weights_only=True)) for rank in range(2))
    assert first.keys() == second.keys()
    assert not [key for key in first if not torch.equal(first[key].nan_to_num(-7), second[key].nan_to_num(-7))]
    selected = first["/history/selected_now"].numpy()
    assert selected[PROBLEM.clean].mean() > 0.9 and selected[~PROBLEM.clean].mean() < 0.1
