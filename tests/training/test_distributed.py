"""Two gloo processes, with every other sample of a batch each, walk all methods and all rules on a batch.

Both must end in the same state. What is more, together they must do what one process does with whole batches: a method
may differ only if OWN_PART says what it does within each process's part of a batch. Four processes do the same with
both forms of ACTO, and with the rules.
"""

from __future__ import annotations

import math
import os
import socket
from dataclasses import replace
from functools import cache
from multiprocessing import set_forkserver_preload
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

from acto.core import distributed
from acto.core.errors import UserError
from acto.data.in_memory import as_dataset
from acto.data.loading.loader import DeviceData
from acto.data.samples import DataSpec, Samples
from acto.data.views.spec import ViewSpec
from acto.methods.acto import select
from acto.methods.blocks.losses import batch_mean, masked_mean, prior_penalty, published_divergence
from acto.methods.blocks.selection import small_loss
from acto.methods.promix import fill_up
from acto.nets.base import Net
from acto.run_folder.reading import read_run
from acto.run_folder.writing import RunFolder
from acto.runs.execute import execute
from acto.runs.prepare import prepare
from acto.runs.run import Run
from acto.training import evaluation
from acto.training.heads import begin_at_centroids
from acto.training.loop import Training, run_epochs
from acto.training.plans import Plan
from acto.training.protocol import Protocol
from toys import NUM_CLASSES, NUM_FEATURES, TOYS, columns_of, make_problem, method_of, tensors_in

EPOCHS = 6
BATCH_SIZE = 60  # of 121 samples: the last one joins the batch before it, where one process has 31 and the other 30
PROBLEM = make_problem(num_train=121)
CONFIGS = {name: toy.config for name, toy in TOYS.items()} | {
    "acto": replace(TOYS["acto"].config, tau=0.5),
    "jo-src": replace(TOYS["jo-src"].config, tau_clean=0.75),
    "acto unmixed": replace(TOYS["acto steady"].config, mixing=0.0, tau=0.5),
    "acto looking back": replace(TOYS["acto steady"].config, mixing=0.0, tau=0.5, course=True),
}
IN_FOUR = ("acto", "acto steady", "acto unmixed")
UNMIXED = [name for name in CONFIGS if name not in TOYS]
"""A method with all that it does but what OWN_PART says."""

OWN_PART = {
    "acto steady": "draws a sample's partner from its part",
    "afm": "pairs the first half of its part of a batch with the second",
    "co-ldl": "draws a weight for every sample, and its partner among the clean samples of its part",
    "disc": "draws a sample's partner from its part",
    "dividemix": "draws a sample's partner from its part of X and U",
    "elr-plus": "draws a sample's partner from its part",
    "mixup": "draws a sample's partner from its part",
    "promix": "draws a sample's partner from its part, for mixup and for FMix",
    "snscl": "draws partners like DivideMix, and for every sample features and whether its key is kept",
    "unicon": "draws partners like DivideMix, contrasts the views of its part, and normalizes projections over it",
}
"""Methods whose numbers depend on which samples one process holds, and why. All others equal one process."""


class PlainNet(nn.Module):
    """No batch normalization: its statistics would depend on how the batch is split."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_dim = 32
        self.features = nn.Sequential(nn.Linear(NUM_FEATURES, self.feature_dim), nn.Tanh())
        self.head = nn.Linear(self.feature_dim, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def share_of_the_data() -> DeviceData:
    """This process's rows. In double precision, so that rounding decides about no sample."""
    samples = Samples(
        ids=tuple(map(str, range(PROBLEM.train.num_samples))),
        labels=PROBLEM.train.labels.numpy(),
        features=PROBLEM.train.features.numpy(),
    )
    spec = ViewSpec(pipeline="vectors", mean=(0.0,) * NUM_FEATURES, std=(1.0,) * NUM_FEATURES)
    rank, world = distributed.rank(), distributed.world()
    return DeviceData(samples, spec, seed=3, dtype=torch.float64, rank=rank, world=world)


def train(name: str) -> dict[str, Any]:
    """What a training leaves."""
    data = share_of_the_data()
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(0)
        method = method_of(name)(CONFIGS[name], PROBLEM.task, PlainNet).double()
        training = Training(method, Protocol(epochs=EPOCHS, batch_size=BATCH_SIZE, plan=Plan(lr=0.1), clip_norm=5.0))
        rows = [log.metrics for log in run_epochs(training, data, seed=3)]
        with torch.no_grad():
            predicted = next(iter(method.eval().predict(PROBLEM.test.features.double()).values())).argmax(1)
    finally:
        torch.set_default_dtype(torch.float32)
    return {
        "method": method.state_dict(),
        "history": columns_of(training.history),
        "rows": rows,
        "accuracy": float((predicted == PROBLEM.test.labels).double().mean()),
    }


def heads() -> dict[str, Tensor]:
    """Heads that begin at class centroids, and how many samples are nearest to their own."""

    def make() -> Net:
        body = nn.Sequential(nn.Linear(NUM_FEATURES, 32), nn.Tanh())
        return Net(body, name="toy", input_shape=(NUM_FEATURES,), feature_dim=32, num_classes=NUM_CLASSES)

    torch.manual_seed(0)
    method = method_of("acto steady")(CONFIGS["acto steady"], PROBLEM.task, make).double()
    for net in method.modules():
        if isinstance(net, Net):
            net.backbone.load_state_dict(method.nets[0].backbone.state_dict())
    share = begin_at_centroids(Training(method, Protocol(batch_size=BATCH_SIZE)), share_of_the_data(), seed=0)
    return {"share": torch.tensor(share), **{key: value for key, value in method.state_dict().items() if "head" in key}}


def rules(own: slice) -> dict[str, Tensor]:
    """What the rules on a batch say of 11 samples: what a process picks of its own ones, and its share of each mean."""
    losses = torch.tensor([0.5, 0.2, 0.5, 0.0, 3.0, 0.2, 0.5, math.nan, 0.2, 0.5, 0.5])  # the 6th least is one of five
    some = torch.tensor([1, 1, 0, 1, 1, 1, 1, 1, 0, 0, 1]).bool()
    few = torch.tensor([0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0]).bool()
    logits = torch.linspace(-1, 2, 33).view(11, 3).sin()
    label, share = logits.flip(0).softmax(1), torch.linspace(0, 1, 11)
    loss, some, few, logits, label, share = (part[own] for part in (losses, some, few, logits, label, share))
    log_probs, partner_label = logits.log_softmax(1), label.roll(1, 1)
    finite = loss.nan_to_num(9.0)
    leaf = logits.clone().requires_grad_()
    penalty = prior_penalty(leaf)
    penalty.backward()
    assert leaf.grad is not None
    return {
        "small_loss": small_loss(loss, 0.5),
        "small_loss among some": small_loss(loss, 0.5, among=some),
        "small_loss among few": small_loss(loss, 0.9, among=few),
        "fill_up": fill_up(few, some, (9 - finite) / 10),
        "gate": select(some, some | few, tau=0.2)[2][None],
        "published_divergence": published_divergence(log_probs, label, partner_label, share, some),
        "batch_mean": batch_mean(finite)[None],
        "masked_mean": masked_mean(finite, few)[None],
        "masked_mean over a share": masked_mean(finite, few, min_share=0.3)[None],
        "prior_penalty": penalty.detach()[None],
        "gradient of the prior_penalty": leaf.grad,
    }


MEANS = ("batch_mean", "masked_mean", "masked_mean over a share", "prior_penalty")
"""Add up over the processes; all else is what one process finds for these samples."""


def end_early(folder: Path) -> None:
    """A run of two processes that the first one's accuracies end after epoch 3; the second one measures nothing."""
    x, y = np.random.default_rng(0).normal(size=(80, 4)), np.arange(80) % 2
    accuracies = iter([0.5, 0.6, 0.2, 0.2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "accuracy", lambda training, data: {"net": next(accuracies)})
        run = Run(
            data=DataSpec(source="memory"), method="standard", net="mlp:8", device="cpu",
            protocol=Protocol(epochs=9, batch_size=16, stop_early=2),
        )  # fmt: skip
        prepared = prepare(run, dataset=as_dataset(x, y))
        if distributed.rank() > 0:
            execute(prepared, folder / "run")
            assert prepared.training.epochs_done == 4
            return
        with RunFolder.create(folder / "run", config=run.to_dict()) as opened:
            execute(prepared, opened)


def worker(rank: int, ports: dict[int, int], folder: Path) -> None:
    """One of four processes, of which the first two are a pair before."""
    torch.set_num_threads(1)
    distributed._CHUNK = 50  # so that rows are merged in several pieces
    for world, names in ((2, CONFIGS), (4, IN_FOUR)):
        if rank >= world:
            continue
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ports[world])}
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), **where)
        distributed.start(torch.device("cpu"))
        try:
            assert distributed.world() == world
            found = {name: train(name) for name in names}
            others = {"rules": rules(slice(rank, None, world)), "heads": heads()}
            torch.save({"methods": found, **others}, folder / f"{rank} of {world}.pt")
            if world == 2:
                end_early(folder)
        finally:
            distributed.stop()


@pytest.fixture(scope="module")
def folder_of_the_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        ports = {2: first.getsockname()[1], 4: second.getsockname()[1]}
    # What is slow to import is imported once, and not by each of them.
    set_forkserver_preload(["acto.runs.execute", "torch._dynamo"])
    mp.start_processes(worker, args=(ports, folder), nprocs=4, start_method="forkserver")
    return folder


def found_by(world: int, folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{rank} of {world}.pt", weights_only=True) for rank in range(world)]


@pytest.fixture(scope="module")
def pair(folder_of_the_processes: Path) -> list[dict[str, Any]]:
    """What each of two processes found."""
    return found_by(2, folder_of_the_processes)


@pytest.fixture(scope="module")
def four(folder_of_the_processes: Path) -> list[dict[str, Any]]:
    """What each of four processes found."""
    return found_by(4, folder_of_the_processes)


@cache
def alone(name: str) -> dict[str, Any]:
    return train(name)


def differing(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    ours, theirs = ({key: t.nan_to_num(-7) for key, t in tensors_in(state).items()} for state in (first, second))
    assert ours.keys() == theirs.keys()
    return [key for key in ours if not torch.equal(ours[key], theirs[key])]


@pytest.mark.parametrize("name", TOYS)
def test_the_processes_agree_bit_for_bit(name: str, pair: list[dict[str, Any]]) -> None:
    first, second = (found["methods"][name] for found in pair)
    assert not differing(first, second)
    assert first["rows"] == second["rows"] and len(first["rows"]) == EPOCHS


def assert_equal_one(several: dict[str, Any], one: dict[str, Any]) -> None:
    """Weights, memories and the history to 1e-6, what was counted exactly; the epochs' losses to 1e-5."""
    for part in ("method", "history"):
        for key, value in one[part].items():
            if value.is_floating_point():  # in the history they are single precision
                torch.testing.assert_close(several[part][key], value, atol=1e-6, rtol=1e-6, equal_nan=True)
            else:
                assert torch.equal(several[part][key], value), f"{part} {key} depends on the number of processes"
    for expected, found in zip(one["rows"], several["rows"], strict=True):
        assert found == pytest.approx(expected, abs=1e-5, rel=1e-5)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in OWN_PART])
def test_two_processes_equal_one(name: str, pair: list[dict[str, Any]]) -> None:
    assert_equal_one(pair[0]["methods"][name], alone(name))


@pytest.mark.parametrize("name", IN_FOUR)
def test_four_processes_agree_and_equal_one(name: str, four: list[dict[str, Any]]) -> None:
    first, *others = (found["methods"][name] for found in four)
    assert not any(differing(first, other) for other in others) and len(first["rows"]) == EPOCHS
    assert all(first["rows"] == other["rows"] for other in others)
    if name not in OWN_PART:
        assert_equal_one(first, alone(name))


@pytest.mark.parametrize("name", OWN_PART)
def test_what_depends_on_a_process_s_part_learns_all_the_same(name: str, pair: list[dict[str, Any]]) -> None:
    one, two = alone(name), pair[0]["methods"][name]
    assert all(t.isfinite().all() for t in two["method"].values())
    assert all(math.isfinite(value) for row in two["rows"] for value in row.values())
    assert torch.equal(two["history"]["visits"], one["history"]["visits"])
    assert two["accuracy"] > 0.85 and two["accuracy"] > one["accuracy"] - 0.05
    assert differing(one["method"], two["method"]), "equals one process: take it out of OWN_PART"


@pytest.mark.parametrize("processes", ["pair", "four"])
def test_heads_begin_alike_in_all_processes(processes: str, request: pytest.FixtureRequest) -> None:
    one = heads()
    first, *others = (found["heads"] for found in request.getfixturevalue(processes))
    assert one["nets.0.head.weight"].any() and 0.5 < one["share"] < 1
    for key, value in one.items():
        torch.testing.assert_close(first[key], value, atol=1e-6, rtol=1e-6)
        assert all(torch.equal(first[key], other[key]) for other in others)


def test_two_processes_end_early_together(folder_of_the_processes: Path) -> None:
    record = read_run(folder_of_the_processes / "run")
    assert record.summary is not None and record.status["state"] == "finished"
    assert (record.summary["early_end"]["epoch"], record.summary["early_end"]["epochs_done"]) == (1, 4)


def test_something_is_picked_and_something_is_not(pair: list[dict[str, Any]]) -> None:
    """Equal selections say nothing where they are trivial."""
    methods = pair[0]["methods"]
    assert methods["acto"]["rows"][-1]["mining_open"] > 0
    names = ("acto", "co-ldl", "co-teaching", "co-teaching-plus", "gce", "jo-src", "jocor", "pnp", "promix", "sed")
    for name in (*names, *UNMIXED):
        history = methods[name]["history"]
        assert 0.1 < history["selected"].sum() / history["selectable"].sum() < 0.98, name


@pytest.mark.parametrize("processes", ["pair", "four"])
@pytest.mark.parametrize("rule", rules(slice(None)))
def test_a_rule_sees_the_global_batch(rule: str, processes: str, request: pytest.FixtureRequest) -> None:
    whole = rules(slice(None))[rule]
    parts = [found["rules"][rule] for found in request.getfixturevalue(processes)]
    if rule in MEANS:
        torch.testing.assert_close(sum(parts), whole)
    elif rule == "gate":
        assert all(torch.equal(part, whole) for part in parts)
    else:
        for rank, part in enumerate(parts):
            torch.testing.assert_close(part, whole[rank :: len(parts)])


def test_the_rules_would_find_other_things_in_a_part() -> None:
    whole, even, odd = rules(slice(None)), rules(slice(0, None, 2)), rules(slice(1, None, 2))
    for rule in whole:
        if rule in MEANS or rule == "gate":
            assert not torch.equal(odd[rule], whole[rule]), rule
        else:
            assert not (torch.equal(even[rule], whole[rule][0::2]) and torch.equal(odd[rule], whole[rule][1::2])), rule


def test_one_process_gathers_nothing() -> None:
    values = torch.arange(3.0, requires_grad=True)
    (gathered, flags), own = distributed.gather(values, values > 1)
    assert gathered.data_ptr() == values.data_ptr() and not gathered.requires_grad
    assert flags.tolist() == [False, False, True] and own == slice(None)


def test_statistics_over_all_processes_need_cuda_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world", lambda: 2)
    with pytest.raises(UserError, match="sync_batchnorm needs CUDA devices, and this process trains on cpu"):
        prepare(Run(sync_batchnorm=True, device="cpu"))
