"""Recorded steps: whether a method may be recorded, and that a recording trains as the plain loop does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from acto.core.types import Batch, Clock
from acto.training.cuda_graph import WARM_UP, CudaRecorder, RecordedStep, recorder_for
from acto.training.divergence import LossWatch
from acto.training.loop import Training, run_epochs
from toys import BATCH_SIZE, TOYS, make_method, make_problem, make_training, method_of, tensors_in

PROBLEM = make_problem()
RECORDABLE = [name for name in TOYS if method_of(name).fixed_shapes and not method_of(name).follows_steps]


class Watched:
    """A clock that notes whether its step was read."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self.was_read = clock, False

    def __getattr__(self, name: str) -> Any:
        self.was_read |= name in ("step", "progress")
        return getattr(self._clock, name)


class Again:
    """Stands in for a device on the CPU: a recording does its work when it is made, and again at every later replay."""

    def __init__(self) -> None:
        self.recordings, self.replays = 0, 0

    @contextmanager
    def beside(self) -> Iterator[None]:
        yield

    def record(self, run: Callable[[], tuple[str, ...]]) -> tuple[Callable[[], None], tuple[str, ...]]:
        self.recordings += 1
        logged, done = run(), True

        def replay() -> None:
            nonlocal done
            self.replays += 1
            if not done:
                run()
            done = False

        return replay, logged


def trained(name: str, *, recorder: Again | CudaRecorder | None, epochs: int = 3, device: str = "cpu") -> Training:
    plain = make_training(name, PROBLEM.task)
    training = Training(plain.method.to(device), plain.protocol, recorder=recorder)
    for log in run_epochs(training, PROBLEM.train, seed=3):
        if log.epoch + 1 == epochs:
            break
    return training


@pytest.mark.parametrize("name", TOYS)
def test_a_method_says_whether_it_follows_the_steps(name: str) -> None:
    method = make_method(name, PROBLEM.task).train()
    was_read = False
    for epoch in range(TOYS[name].epochs):
        for turn in range(method.turns(Clock(epoch, TOYS[name].epochs))):
            clock = Watched(Clock(epoch, TOYS[name].epochs, turn, step=1, steps=3))
            method.on_turn(clock, lambda net, **how: net(PROBLEM.train.features).detach())  # type: ignore[arg-type]
            streams = [
                replace(s, views=s.views or method.views, batch_size=min(24, s.batch_size or 24))
                for s in method.streams(clock)  # type: ignore[arg-type]
            ]
            batches = tuple(next(iter(PROBLEM.train.batches(s, epoch=epoch, turn=turn))) for s in streams)
            method.loss(batches, clock).loss.backward()  # type: ignore[arg-type]
            method.step_rows(clock)  # type: ignore[arg-type]
            method.on_step(clock)  # type: ignore[arg-type]
            was_read |= clock.was_read
    assert was_read == method_of(name).follows_steps


@pytest.mark.parametrize("name", RECORDABLE)
def test_a_recording_trains_as_the_plain_loop(name: str) -> None:
    recorder = Again()
    plain, recorded = trained(name, recorder=None), trained(name, recorder=recorder)
    assert recorder.recordings > 0 and recorder.replays > recorder.recordings
    expected, got = tensors_in(plain.state_dict()), tensors_in(recorded.state_dict())
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[key].nan_to_num(), got[key].nan_to_num()) for key in expected)


def test_logs_of_a_recording_count_every_step() -> None:
    logs = []
    for recorder in (None, Again()):
        training = Training(make_training("acto", PROBLEM.task).method, TOYS["acto"].protocol, recorder=recorder)
        logs.append([log.metrics for log in run_epochs(training, PROBLEM.train, seed=3)])
    assert logs[0] == logs[1]


def test_the_device_sees_each_batch_and_other_shapes_are_taken_as_they_are() -> None:
    seen: list[tuple[Tensor, list[int]]] = []

    def take(batches: tuple[Batch, ...]) -> tuple[str, ...]:
        seen.append((batches[0].index, batches[0].index.tolist()))
        return ("loss",)

    step = RecordedStep(take, Again())
    sizes = [4] * (WARM_UP + 3) + [2, 4]
    for k, size in enumerate(sizes):
        index = torch.arange(size) + 10 * k
        assert step((Batch(index=index, views=(index.float(),), label=index),)) == ("loss",)
    assert [rows[0] for _, rows in seen] == [10 * k for k in range(len(sizes))]
    places = [place.data_ptr() for place, _ in seen]
    replayed = [*range(WARM_UP, WARM_UP + 3), len(sizes) - 1]
    assert len({places[k] for k in replayed}) == 1, "a recording knows one place"
    assert places[replayed[0]] not in {places[k] for k in range(len(sizes)) if k not in replayed}


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("dividemix", {}, "dividemix depends on its place in the epoch"),
        ("acto", {"precision": torch.float16}, "bfloat16 needs none"),
        ("acto", {"world": 2}, "in one process only"),
    ],
)
def test_says_why_steps_are_not_recorded(name: str, change: dict[str, Any], words: str) -> None:
    how = {"device": torch.device("cuda"), "precision": torch.bfloat16, "world": 1} | change
    answer = recorder_for(make_method(name, PROBLEM.task), **how)
    assert isinstance(answer, str) and words in answer


@pytest.mark.gpu
@pytest.mark.parametrize("name", RECORDABLE)
def test_a_cuda_graph_trains_as_the_plain_loop(name: str) -> None:
    device = torch.device("cuda")
    here = PROBLEM.train
    moved = type(here)(here.features.to(device), here.labels.to(device))
    states: list[dict[str, Tensor]] = []
    for recorder in (None, CudaRecorder(device)):
        made = make_training(name, PROBLEM.task)
        training = Training(made.method.to(device), made.protocol, recorder=recorder)
        for log in run_epochs(training, moved, seed=3):
            if log.epoch == 2:
                break
        states.append(tensors_in(training.state_dict()))
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-4, atol=1e-5, equal_nan=True, msg=f"{name}: {key}")
    assert len(here.labels) > 3 * BATCH_SIZE


def test_the_first_bad_step_and_its_samples_are_kept_on_the_device() -> None:
    watch = LossWatch(4, torch.device("cpu"))
    for step, loss in enumerate((1.0, float("nan"), 2.0, float("inf"))):
        watch.update(torch.tensor(loss), torch.arange(2 + step) + 10 * step)
    assert int(watch.first_bad) == 1
    assert watch.bad_rows.tolist() == [10, 11, 12, -1, -1, -1, -1, -1]
    assert watch.last_rows.tolist() == [30, 31, 32, 33, 34, -1, -1, -1]
