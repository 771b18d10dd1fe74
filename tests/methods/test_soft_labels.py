"""Memories of soft labels: all classes, or the likeliest with the rest; on hand-written numbers and in training."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from acto.cli.flags import parse
from acto.core.errors import UserError
from acto.core.types import Batch, Clock, Task
from acto.data.in_memory import as_dataset
from acto.data.samples import Dataset
from acto.fitting import fit
from acto.methods.acto import ACTO
from acto.methods.blocks.soft_labels import SoftLabels
from acto.methods.elr import ELR
from acto.methods.elr_plus import ELRPlus
from acto.run_folder.reading import last_checkpoint
from acto.runs.prepare import prepare
from acto.runs.run import Run
from acto.runs.warm_start import settings_after
from acto.training.loop import Training, run_epochs
from acto.training.plans import Plan
from acto.training.protocol import Protocol
from toys import NUM_FEATURES, make_problem

K = 20


def probs(rows: int, classes: int = K, *, seed: int = 0) -> Tensor:
    return (3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))).softmax(1)


def row(**masses: float) -> list[float]:
    """A soft label by hand: c3=0.5 means that class 3 has half of the mass."""
    return [masses.get(f"c{c}", 0.0) for c in range(K)]


# The short form -------------------------------------------------------------------------------------------------


def test_two_updates_by_hand() -> None:
    """Two classes of 20 are kept, momentum 3/4: what leaves the two is spread over the other 18."""
    form = SoftLabels(K, classes=2)
    table, place = form.zeros(3), torch.tensor([1])
    first = form.update(table, place, torch.tensor([row(c5=0.6, c0=0.3, c7=0.1)]), momentum=0.75)
    np.testing.assert_allclose(first, [row(c5=0.15, c0=0.075, c7=0.025)], rtol=1e-6)
    share = 0.025 / 18
    kept = [share] * K
    kept[5], kept[0] = 0.15, 0.075
    np.testing.assert_allclose(form.expand(table)[1], kept, rtol=1e-6)
    second = form.update(table, place, torch.tensor([row(c7=0.9, c5=0.1)]), momentum=0.75)
    expected = [0.75 * value for value in kept]
    expected[7] += 0.25 * 0.9
    expected[5] += 0.25 * 0.1
    np.testing.assert_allclose(second, [expected], rtol=1e-6)
    rest = sum(expected) - expected[7] - expected[5]
    after = [rest / 18] * K  # class 0 has left the two, and class 7 has come
    after[7], after[5] = expected[7], expected[5]
    np.testing.assert_allclose(form.expand(table)[1], after, rtol=1e-6)
    assert not form.expand(table)[[0, 2]].any(), "samples outside of the batch"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_fits_into_k_classes_comes_back_and_mass_is_kept(dtype: Any) -> None:
    form, rows = SoftLabels(1000, classes=15, dtype=dtype), torch.arange(8)
    masses = 2.0 ** -torch.arange(1.0, 16.0).expand(8, 15)
    sparse = torch.zeros(8, 1000).scatter_(1, torch.arange(15) * 61 + rows[:, None], masses)
    table = form.zeros(8)
    form.update(table, rows, sparse, momentum=0.0)
    assert torch.equal(form.expand(table), sparse), "powers of two are exact in every format"
    dense = probs(8, 1000)
    form.update(table, rows, dense, momentum=0.0)
    tolerance = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}[dtype]
    np.testing.assert_allclose(form.expand(table).sum(1), np.ones(8), rtol=tolerance)
    kept, likeliest = (labels.topk(15).indices.sort().values for labels in (form.expand(table), dense))
    assert torch.equal(kept, likeliest)
    given, mass = form.given_and_mass(table, dense.argmax(1))
    np.testing.assert_allclose(given, dense.amax(1), rtol=tolerance)
    np.testing.assert_allclose(mass, np.ones(8), rtol=tolerance)


def test_a_start_that_is_sure_of_the_labels() -> None:
    labels = torch.tensor([0, 1, K - 1, K - 2])
    for kept in (None, 2):
        form = SoftLabels(K, classes=kept)
        table = form.one_hot(labels)
        assert form.expand(table).tolist() == torch.eye(K)[labels].tolist()
        given, mass = form.given_and_mass(table, torch.tensor([0, 2, K - 1, 3]))
        assert (given.tolist(), mass.tolist()) == ([1, 0, 1, 0], [1, 1, 1, 1])


def test_the_given_label_among_the_kept_and_among_the_others() -> None:
    """Two networks a sample, as in ELR+."""
    form = SoftLabels(K, classes=2)
    table = form.zeros(1, 2)
    form.update(table, (torch.tensor([0]), 0), torch.tensor([row(c4=0.5, c1=0.3, c2=0.2)]), momentum=0.0)
    form.update(table, (torch.tensor([0]), 1), torch.tensor([row(c2=0.9, c3=0.1)]), momentum=0.0)
    given, mass = form.given_and_mass(table, torch.tensor([2]))
    np.testing.assert_allclose(given, [[0.2 / 18, 0.9]], rtol=1e-6)
    np.testing.assert_allclose(mass, [[1, 1]], rtol=1e-6)


@pytest.mark.parametrize("num_classes", [40_000, 2**15])
def test_class_numbers_that_need_more_than_two_bytes(num_classes: int) -> None:
    form = SoftLabels(num_classes, classes=3)
    sure = torch.zeros(1, num_classes)
    sure[0, [num_classes - 1, 2**15 - 1, 2]] = torch.tensor([0.5, 0.25, 0.25])
    table = form.zeros(1)
    form.update(table, torch.tensor([0]), sure, momentum=0.0)
    assert torch.equal(form.expand(table), sure)


@pytest.mark.parametrize(
    ("num_classes", "classes", "dtype", "bytes_per_sample", "kept"),
    [
        (1000, None, "float32", 4000, None),
        (1000, None, "float16", 2000, None),
        (1000, 10, "float32", 64, 10),  # 11 values of 4 bytes and 10 numbers of 2: a line
        (1000, 15, "float16", 64, 15),
        (1000, 7, "bfloat16", 32, 7),
        (1000, 31, "float16", 128, 31),
        (1000, 32, "float16", 192, 32),
        (10, 10, "float32", 40, None),  # k >= K
        (10, 15, "float32", 40, None),
        (10, 7, "float32", 40, None),  # with their numbers 7 would take more than 10 without
    ],
)
def test_bytes_of_a_sample(
    num_classes: int, classes: int | None, dtype: str, bytes_per_sample: int, kept: int | None
) -> None:
    form = SoftLabels(num_classes, classes=classes, dtype=dtype)
    assert (form.bytes_per_sample, form.classes) == (bytes_per_sample, kept)
    assert form.zeros(5).nbytes == 5 * bytes_per_sample


def test_short_and_dense_agree_where_predictions_are_sure() -> None:
    """Twelve passes over 500 samples whose predictions wander, 100 classes, 10 kept."""
    generator = torch.Generator().manual_seed(1)
    rows, centre = torch.arange(500), 8 * torch.randn(500, 100, generator=generator)
    forms = [SoftLabels(100), SoftLabels(100, classes=10, dtype="float16")]
    tables = [form.zeros(500) for form in forms]
    for _ in range(12):
        seen = (centre + 4 * torch.randn(500, 100, generator=generator)).softmax(1)
        dense, short = (
            form.update(table, rows, seen, momentum=0.9).argmax(1) for form, table in zip(forms, tables, strict=True)
        )
        assert (dense == short).float().mean() >= 0.995
    np.testing.assert_allclose(forms[1].expand(tables[1]).sum(1), forms[0].expand(tables[0]).sum(1), rtol=0.01)


def test_no_update_leaves_bytes_to_chance() -> None:
    """The filling of a row is saved with it: equal runs must give equal files."""
    form, place = SoftLabels(1000, classes=8, dtype="float16"), torch.arange(64)
    table = form.zeros(64)
    torch.full((64, 16), -1, dtype=torch.int32)  # memory that an uninitialised row could take over
    form.update(table, place, probs(64, 1000), momentum=0.0)
    used = 5 + 4  # nine values of two bytes, eight numbers of two bytes
    assert not table[:, used:].any()


# In the methods -------------------------------------------------------------------------------------------------


def make(cls: Any, *, samples: int = 6, classes: int = K, **settings: Any) -> Any:
    labels = torch.arange(samples) % classes
    torch.manual_seed(0)
    return cls(cls.Config(**settings), Task(labels, classes), lambda: torch.nn.Linear(4, classes))


@pytest.mark.parametrize("cls", [ELR, ELRPlus, ACTO])
@pytest.mark.parametrize("settings", [{}, {"memory_classes": 2}, {"memory_dtype": "float16"}])
def test_row_buffers_say_how_they_are_kept(cls: Any, settings: dict[str, Any]) -> None:
    """Two processes and a warm start carry the rows over by these names, so other forms must have other ones."""
    method = make(cls, **settings)
    base = "soft_label" if cls is ACTO else "target"
    name = f"{base}_top2_float32" if "memory_classes" in settings else base
    table = getattr(method, name)
    assert name in method.row_buffers and name in method.state_dict()
    start = SoftLabels(K, classes=settings.get("memory_classes")).expand(table)
    assert torch.equal(start.float(), torch.eye(K)[:6] if cls is ACTO else torch.zeros(6, cls.num_nets, K))
    assert table.dtype == {"memory_classes": torch.int32, "memory_dtype": torch.float16}.get(
        next(iter(settings), ""), torch.float32
    )


@pytest.mark.parametrize("cls", [ELR, ACTO])
def test_as_many_classes_as_there_are_is_the_dense_memory(cls: Any) -> None:
    inputs, index = torch.randn(4, 4), torch.tensor([3, 0, 5, 1])
    losses, states = [], []
    for kept in (None, K, K + 5):
        method = make(cls, memory_classes=kept, **({"warmup_epochs": 0} if cls is ACTO else {}))
        batch = Batch(index, tuple(inputs for _ in method.views), method.labels[index])
        for epoch in range(3):
            step = method.loss((batch,), Clock(epoch, 9))
        losses.append(float(step.loss.detach()))
        states.append(method.state_dict())
    for state, loss in zip(states[1:], losses[1:], strict=True):
        assert loss == losses[0]
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[name], states[0][name]) for name in state)


@pytest.mark.parametrize("cls", [ELR, ELRPlus, ACTO])
def test_trains_resumes_and_ranks_wrong_labels_last(cls: Any) -> None:
    """Twelve epochs with two classes of each sample kept; stopped after three and gone on with, bit for bit."""
    problem = make_problem()
    assert problem.task.num_classes > 2
    config = cls.Config(memory_classes=2, memory_dtype="float16", **({"warmup_epochs": 2} if cls is ACTO else {}))

    def training() -> Training:
        torch.manual_seed(0)
        method = cls(config, wide(problem.task), lambda: torch.nn.Linear(NUM_FEATURES, K))
        return Training(method, Protocol(epochs=12, batch_size=32, plan=Plan(lr=0.02)))

    whole = training()
    for log in run_epochs(whole, problem.train, seed=3):
        if log.epoch == 2:
            saved = io.BytesIO()
            torch.save(whole.state_dict(), saved)
    second = training()
    second.load_state_dict(torch.load(io.BytesIO(saved.getvalue()), weights_only=True))
    for _ in run_epochs(second, problem.train, seed=3):
        pass
    for name, value in whole.method.state_dict().items():
        assert torch.equal(value, second.method.state_dict()[name]), name
    quality = whole.method.label_quality()
    assert quality is not None and quality.min() >= 0 and quality.max() <= 1
    clean = torch.from_numpy(problem.clean)
    assert quality[clean].median() > quality[~clean].median() + 0.2


def wide(task: Task) -> Task:
    """The same labels among more classes, so that the short form is the smaller one."""
    return replace(task, num_classes=K)


@pytest.mark.parametrize("cls", [ELR, ELRPlus, ACTO])
@pytest.mark.parametrize(
    ("settings", "named"),
    [({"memory_classes": 0}, "memory_classes"), ({"memory_dtype": "float8"}, "memory_dtype")],
)
def test_refuses_memories_that_there_are_not(cls: Any, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        cls.Config(**settings)


def test_the_command_line_sets_them() -> None:
    flags = "--data digits --method elr --elr.memory_classes 10 --elr.memory_dtype float16"
    asked = parse(flags.split())
    assert asked.settings["elr"] == {"memory_classes": 10, "memory_dtype": "float16"}


def points(labels: Any) -> Dataset:
    values = np.random.default_rng(0).normal(size=(80, 4))
    return as_dataset(values, labels, ids=[f"p{i}" for i in range(80)], test=values, test_labels=np.arange(80) % K)


def test_a_warm_start_takes_short_memories_over_and_no_others(tmp_path: Path) -> None:
    given, corrected = np.arange(80) % K, np.arange(80) % K
    corrected[:4] = 7
    before, after = tmp_path / "before", tmp_path / "after"
    settings: dict[str, Any] = {"method": "elr", "net": "mlp:8", "device": "cpu", "batch_size": 32}
    fit(points(given), out=before, epochs=2, memory_classes=2, **settings)
    fit(points(corrected), out=after, epochs=3, init_from=before)
    names = [f"target_top2_{dtype}" for dtype in ("float32", "float16")]
    prepared = prepare(Run.from_dict(settings_after(before, {"data": {"source": "memory"}})), dataset=points(corrected))
    method, saved = prepared.training.method, memory_of(before)
    table = getattr(method, names[0])
    assert torch.equal(table[4:], saved[names[0]][4:]) and table[4:].any()
    assert not table[:4].any(), "whose labels people corrected"
    with pytest.raises(UserError, match=names[1]):
        fit(points(corrected), out=tmp_path / "other", epochs=3, init_from=before, memory_dtype="float16")


def memory_of(folder: Path) -> dict[str, Tensor]:
    checkpoint = last_checkpoint(folder)
    assert checkpoint is not None
    state: dict[str, Any] = torch.load(checkpoint.path("training.pt"), weights_only=True)
    return dict(state["method"])
