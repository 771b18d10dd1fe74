"""What holds for every method, generated from METHODS. A method's own rule is tested in a file of its own."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from acto.core.types import Batch, Clock, Step
from acto.methods import METHODS
from acto.methods.base import Method
from acto.training import evaluation
from acto.training.loop import Training, run_epochs
from toys import NUM_CLASSES, TOYS, make_method, make_problem, make_training, method_of, tensors_in, through_a_file

PROBLEM = make_problem()
EPOCHS = 12
each_method = pytest.mark.parametrize("name", TOYS)


def train(training: Training, *, epochs: int | None = None) -> Training:
    for log in run_epochs(training, PROBLEM.train, seed=3):
        if log.epoch + 1 == epochs:
            break
    return training


@pytest.fixture(scope="module")
def trained() -> dict[str, Training]:
    return {name: train(make_training(name, PROBLEM.task)) for name in TOYS}


def test_every_method_has_a_toy_setting_and_a_card() -> None:
    assert sorted({method_of(name).name for name in TOYS}) == list(METHODS), "a method without a row in TOYS, or METHODS not sorted"
    for name, method in METHODS.items():
        assert method.name == name
        assert method.title and method.paper and method.venue
        card = sys.modules[method.__module__].__doc__ or ""
        assert all(word in card for word in ("Symbols", "Departures", "Result: ")), name


@each_method
def test_learns_the_clean_classes(name: str, trained: dict[str, Training]) -> None:
    accuracy = evaluation.accuracy(trained[name], PROBLEM.test)
    assert next(iter(accuracy.values())) >= TOYS[name].accuracy, accuracy


@each_method
def test_ranks_right_labels_above_wrong_ones(name: str, trained: dict[str, Training]) -> None:
    quality = trained[name].method.label_quality()
    if quality is None:
        quality = trained[name].history.mean_prob_given
    assert quality.shape == (PROBLEM.task.num_samples,)
    assert quality.min() >= 0 and quality.max() <= 1
    assert evaluation.auroc(quality.numpy(), PROBLEM.clean) >= TOYS[name].auroc


@each_method
def test_every_sample_was_seen(name: str, trained: dict[str, Training]) -> None:
    table = trained[name].history.table()
    assert (table["visits"] >= EPOCHS).all()
    assert (trained[name].history.predicted >= 0).all() and not table["mean_prob_given"].isnan().any()


@each_method
def test_resumes_bit_for_bit(name: str, trained: dict[str, Training]) -> None:
    halted = train(make_training(name, PROBLEM.task), epochs=3)
    resumed = make_training(name, PROBLEM.task, seed=99)
    resumed.load_state_dict(through_a_file(halted.state_dict()))
    assert resumed.epochs_done == 3
    train(resumed)
    expected, found = (tensors_in(training.state_dict()) for training in (trained[name], resumed))
    assert expected.keys() == found.keys()
    different = [
        path for path in expected if not torch.equal(expected[path].nan_to_num(-7), found[path].nan_to_num(-7))
    ]
    assert not different


def attributes(method: Method) -> Iterator[tuple[str, Any]]:
    """Every attribute of the method and of its parts that can hold state, by its name in a state_dict."""
    for prefix, module in method.named_modules():
        own = {**vars(module), **module._parameters, **module._buffers}
        for name, value in own.items():
            if name not in ("training", "_parameters", "_buffers", "_modules"):
                yield f"{prefix}.{name}" if prefix else name, value


def test_attributes_finds_everything() -> None:
    method = make_method("acto", PROBLEM.task)
    names = {name for name, _ in attributes(method)}
    assert method.state_dict().keys() <= names
    assert {"labels", "config", "_leaves"} <= names


@each_method
def test_all_that_changes_is_saved(name: str) -> None:
    def picture(value: Any) -> Any:
        return {k: v.clone() for k, v in tensors_in([value]).items()}, repr(value) if not isinstance(
            value, Tensor
        ) else ""

    training = make_training(name, PROBLEM.task)
    before = {key: picture(value) for key, value in attributes(training.method)}
    train(training)
    changed = set()
    for key, value in attributes(training.method):
        tensors, words = picture(value)
        old_tensors, old_words = before.get(key, ({}, None))
        same = words == old_words and tensors.keys() == old_tensors.keys()
        if not same or any(not torch.equal(tensors[k], old_tensors[k]) for k in tensors):
            changed.add(key)
    assert changed, "training changed nothing"
    assert changed <= training.method.state_dict().keys()


@each_method
def test_the_seed_decides(name: str) -> None:
    first, second = (train(make_training(name, PROBLEM.task), epochs=1) for _ in range(2))
    other = train(make_training(name, PROBLEM.task, seed=2), epochs=1)
    states = [tensors_in(training.method.state_dict()) for training in (first, second, other)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])


def steps_of(
    method: Method, clock: Clock, *, labels: Tensor | None = None, size: int = 24, count: int = 2
) -> Iterator[tuple[tuple[Batch, ...], Clock]]:
    """Full batches of equal size as the loop would hand them to loss(), after on_turn; `labels` replaces the given."""

    def scan(net: nn.Module, *, view: str = "none", train: bool = False) -> Tensor:
        with torch.no_grad():
            return net(PROBLEM.train.features)

    method.on_turn(clock, scan)
    streams = [
        replace(stream, views=stream.views or method.views, batch_size=min(size, stream.batch_size or size))
        for stream in method.streams(clock)
    ]
    passes = [PROBLEM.train.batches(s, epoch=clock.epoch, turn=clock.turn, number=k) for k, s in enumerate(streams)]
    for step, batches in zip(range(count), zip(*passes, strict=False), strict=False):
        if labels is not None:
            batches = tuple(replace(batch, label=labels[batch.index]) for batch in batches)
        yield batches, replace(clock, step=step, steps=8)


def clocks(method: Method) -> Iterator[Clock]:
    for epoch in (0, 5, EPOCHS - 1):
        for turn in range(method.turns(Clock(epoch, EPOCHS))):
            yield Clock(epoch, EPOCHS, turn)


def backward(method: Method, step: Step) -> None:
    assert step.loss.shape == () and step.loss.isfinite()
    step.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


@each_method
def test_nothing_to_select_gives_a_finite_loss(name: str) -> None:
    """Labels that no network predicts: nothing fits, nothing agrees, every loss is large."""
    method = make_method(name, PROBLEM.task).train()
    with torch.no_grad():
        for net in method.nets:
            net.head.bias.copy_(torch.tensor([30.0, 0.0, 0.0, 0.0]))
    labels = 1 + PROBLEM.task.labels % (NUM_CLASSES - 1)
    for clock in clocks(method):
        for batches, at in steps_of(method, clock, labels=labels):
            backward(method, method.loss(batches, at))
            if "selected" in method.loss(batches, at).per_sample and not TOYS[name].always_selects:
                assert not method.loss(batches, at).per_sample["selected"].any()
        method.zero_grad(set_to_none=True)


@each_method
def test_a_batch_of_two_is_enough(name: str) -> None:
    method = make_method(name, PROBLEM.task).train()
    for clock in clocks(method):
        for batches, at in steps_of(method, clock, size=2):
            backward(method, method.loss(batches, at))
        method.zero_grad(set_to_none=True)


@each_method
def test_trains_under_bfloat16(name: str) -> None:
    training = make_training(name, PROBLEM.task, precision=torch.bfloat16)
    for log in run_epochs(training, PROBLEM.train, seed=3):
        assert math.isfinite(log.metrics["loss"])
        assert log.epoch < 4 or training.epochs_done == log.epoch + 1
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in training.method.parameters())
    assert next(iter(evaluation.accuracy(training, PROBLEM.test).values())) >= TOYS[name].accuracy


class Recorder(TorchDispatchMode):
    """Notes every operation with the shapes that it returns, and stops those that the host has to wait for."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal", "bincount")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple[tuple[int, ...], ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = [t for path, t in tensors_in(args).items() if "/" in path[1:] and t.dtype in (torch.bool, torch.uint8)]
        if name.strip("_").startswith(self.WAITING) or name == "_local_scalar_dense":
            raise AssertionError(f"{name} waits for the device")
        if name in ("index", "index_put", "index_put_") and masks:
            raise AssertionError(f"{name} with a mask waits for the device")
        result = func(*args, **(kwargs or {}))
        self.seen.append((name, tuple(tuple(t.shape) for t in tensors_in([result]).values())))
        return result


@pytest.mark.parametrize(
    "slip",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: (x > 0).nonzero(),
        lambda x: bool((x > 0).any()),
        lambda x: x.unique(),
        lambda x: x.masked_fill_(x > 0, 0.0)[x.argsort()[: int((x > 0).sum())]],
        lambda x: x.__setitem__(x > 0, torch.zeros(1)),
    ],
)
def test_recorder_catches(slip: Any) -> None:
    with pytest.raises(AssertionError, match="waits"), Recorder():
        slip(torch.arange(-2.0, 3.0))


@each_method
def test_a_step_has_fixed_shapes_and_never_waits(name: str) -> None:
    method = make_method(name, PROBLEM.task).train()
    assert method.fixed_shapes
    for clock in clocks(method):
        records = []
        for batches, at in steps_of(method, clock):
            with Recorder() as recorder:
                step = method.loss(batches, at)
            records.append(recorder.seen)
            assert all(value.shape == () and not value.requires_grad for value in step.log.values())
            assert all(value.shape == batches[0].label.shape for value in step.per_sample.values())
        assert len(records) == 2 and records[0] == records[1]
        assert len(records[0]) > 5


@each_method
def test_predicts_probabilities(name: str, trained: dict[str, Training]) -> None:
    method = trained[name].method.eval()
    with torch.no_grad():
        for probs in method.predict(PROBLEM.test.features).values():
            assert probs.shape == (PROBLEM.test.num_samples, NUM_CLASSES)
            assert probs.min() >= 0
            np.testing.assert_allclose(probs.sum(1), 1.0, rtol=1e-5)


@each_method
def test_every_parameter_belongs_to_one_group(name: str) -> None:
    method = make_method(name, PROBLEM.task)
    groups = method.param_groups()
    names = [group["name"] for group in groups]
    assert names[: method.num_nets] == [f"net{k}" for k in range(method.num_nets)]
    assert len(set(names)) == len(names)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in method.parameters() if p.requires_grad)


@each_method
def test_networks_start_different(name: str) -> None:
    method = make_method(name, PROBLEM.task)
    starts = [net.head.weight.detach() for net in method.nets]
    assert all(not torch.equal(starts[0], other) for other in starts[1:])
