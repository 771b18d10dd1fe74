"""--init-from: what a run takes over from a finished one, and what starts fresh."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from acto.cli import main
from acto.cli.flags import parse
from acto.core.errors import UserError
from acto.data.in_memory import as_dataset
from acto.data.samples import Dataset
from acto.fitting import fit
from acto.labels.run_audit import audit_run
from acto.methods import METHODS
from acto.methods.acto import FORMS, form_of
from acto.run_folder.reading import last_checkpoint, read_run
from acto.run_folder.writing import RunFolder
from acto.runs.cost import estimate
from acto.runs.events import EpochDone, Event, StepDone
from acto.runs.execute import train_run
from acto.runs.prepare import prepare
from acto.runs.recipes.by_data import setting_of_kind
from acto.runs.resolve import resolve, run_of
from acto.runs.run import Run
from acto.runs.same_data import refuse_foreign_checkpoint
from acto.runs.warm_start import plan, settings_after

N, WRONG = 200, 80
SAME = ("metrics.csv", "samples.csv", "net0.safetensors", "net1.safetensors", "init_from.json")


def points() -> np.ndarray[Any, Any]:
    noise = np.random.default_rng(0).normal(size=(N, 4))
    return noise + 1.5 * (np.arange(N) % 2)[:, None]


def labels(wrong: int) -> np.ndarray[Any, Any]:
    """Names of the classes, the first `wrong` of them wrong."""
    classes = np.arange(N) % 2
    classes[:wrong] = 1 - classes[:wrong]
    return np.array(["left", "right"])[classes]


def dataset(wrong: int, *, rows: Any = slice(None), **settings: Any) -> Dataset:
    """With a clean test set, unless `settings` say otherwise."""
    settings = settings or {"test": points(), "test_labels": labels(0)}
    ids = np.array([f"p{i}" for i in range(N)])
    return as_dataset(points()[rows], labels(wrong)[rows], ids=ids[rows], **settings)


FITTING = {"net": "mlp:32", "device": "cpu", "warmup_epochs": 2, "batch_size": 32}


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 6 epochs on 80 wrong labels of 200."""
    folder = tmp_path_factory.mktemp("before") / "run"
    fit(dataset(WRONG), out=folder, epochs=6, **FITTING)
    return folder


def planned(before: Path, **asked: Any) -> Run:
    return Run.from_dict(settings_after(before, {"data": {"source": "memory"}, **asked}))


def memory_of(folder: Path) -> dict[str, Any]:
    checkpoint = last_checkpoint(folder)
    assert checkpoint is not None
    return torch.load(checkpoint.path("training.pt"), weights_only=True)


def test_unchanged_rows_keep_their_memory_and_others_start_fresh(before: Path) -> None:
    # p0 and p1 were corrected, p10 was removed, and p199 is called "new": the order of the rows changed as well.
    ids = np.array([f"p{i}" for i in range(N)])[::-1].copy()
    given = labels(WRONG)[::-1].copy()
    given[ids == "p0"], given[ids == "p1"] = labels(0)[:2]
    ids[ids == "p199"] = "new"
    keep = ids != "p10"
    now = as_dataset(points()[::-1][keep], given[keep], ids=ids[keep], test=points(), test_labels=labels(0))
    prepared = prepare(planned(before), dataset=now)
    saved, training = memory_of(before), prepared.training
    start = prepared.warm_start
    assert start is not None
    assert [start.facts[name] for name in ("kept", "relabelled", "new", "gone")] == [196, 2, 1, 2]
    for row, name in enumerate(now.train.ids):
        fresh = name in ("p0", "p1", "new")
        soft, times = training.method.soft_label[row], training.method.times_selected[row]
        if fresh:
            assert soft.tolist() == torch.nn.functional.one_hot(torch.tensor(now.train.labels[row]), 2).tolist()
            assert int(times) == 6, "a label that people corrected would weigh nothing"
            assert int(training.history.visits[row]) == 0
        else:
            old = int(name[1:])
            assert torch.equal(soft, saved["method"]["soft_label"][old])
            assert int(times) == saved["method"]["times_selected"][old]
            for column, table in training.history.state_dict().items():
                assert torch.equal(table[row].nan_to_num(-9), saved["history"][column][old].nan_to_num(-9)), column
    assert training.epochs_done == 6
    # The networks see the samples normalized as before, though the mean of the data is another one.
    assert prepared.dataset.views == dataset(WRONG).views != now.views
    assert int(training.method.robust_epochs) == int(saved["method"]["robust_epochs"]) == 4
    weights = {key: value for key, value in training.method.state_dict().items() if key.startswith("nets.")}
    assert weights
    assert all(torch.equal(value, saved["method"][key]) for key, value in weights.items())
    assert not training.optimizer.state_dict()["state"]


def test_it_goes_on_and_improves(before: Path, tmp_path: Path) -> None:
    after = fit(dataset(0), out=tmp_path / "after", init_from=before)
    first, last = read_run(before), read_run(tmp_path / "after")
    assert [row["epoch"] for row in last.metrics] == list(range(11))  # a quarter of 6 is less than 5
    assert last.metrics[:6] == first.metrics
    assert first.summary is not None
    assert after.summary["test_accuracy_last"] > first.summary["test_accuracy_last"]
    own = [row["test_accuracy"] for row in last.metrics[6:]]
    assert after.summary["test_accuracy_last10"] == pytest.approx(np.mean(own))
    assert last.config["init_from"] == str(before)
    assert last.config["acto"]["warmup_epochs"] == 2
    wrong_before = audit_run(before, dataset=dataset(WRONG)).label_quality[:WRONG]
    assert after.report.label_quality[:WRONG].mean() > wrong_before.mean() + 0.2


def test_a_run_from_before_there_were_forms_goes_on_as_published() -> None:
    settings = settings_after(Path(__file__).parents[1] / "old_run" / "finished", {})
    config = run_of(settings, setting_of_kind("vectors", 100)).config
    assert form_of(config) == FORMS["published"]
    assert run_of({"data": settings["data"]}, setting_of_kind("vectors", 100)).config.form == "steady", "a new one"


def test_other_methods_go_on(tmp_path: Path) -> None:
    for name in ("dividemix", "sop"):  # memories of three dimensions, and learned rows
        folder = tmp_path / name
        settings = {key: value for key, value in FITTING.items() if key != "warmup_epochs"}
        fit(dataset(WRONG), out=folder, method=name, epochs=1, **settings)
        fit(dataset(0), out=tmp_path / f"{name}-after", epochs=2, init_from=folder)
        assert len(read_run(tmp_path / f"{name}-after").metrics) == 2


def test_its_first_checkpoint_says_what_made_it(before: Path, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, StepDone):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(planned(before), tmp_path / "run", dataset=dataset(0), report=stop)
    first = last_checkpoint(tmp_path / "run")
    assert first is not None and first.epoch == 5 and first.run is not None
    assert first.run["config"] == read_run(tmp_path / "run").config
    with pytest.raises(UserError, match=r"data have changed|other data|made with other"):
        refuse_foreign_checkpoint(first, config=first.run["config"], digest="of others", folder=tmp_path / "run")


@pytest.mark.parametrize("moment", ["before the first save", "in the first epoch", "after two epochs"])
def test_a_resumed_warm_start_ends_with_the_same_bytes(before: Path, tmp_path: Path, moment: str) -> None:
    run, now = planned(before), dataset(0)
    calm, broken = tmp_path / "calm", tmp_path / "broken"
    train_run(run, calm, dataset=now)

    class Killed(BaseException):
        pass

    def kill(event: Event) -> None:
        kind, epoch = (EpochDone, 7) if moment == "after two epochs" else (StepDone, 6)
        if isinstance(event, kind) and event.epoch == epoch:
            raise Killed

    copy = tmp_path / "origin"
    shutil.copytree(before, copy)
    moved = replace(run, init_from=str(copy))
    if moment != "before the first save":
        with pytest.raises(Killed):
            train_run(moved, broken, dataset=now, report=kill)
        shutil.rmtree(copy)  # nothing of it is needed any more
    else:
        prepared = prepare(moved, dataset=now)
        with RunFolder.create(broken, config=moved.to_dict()) as folder:
            assert prepared.warm_start is not None
            prepared.warm_start.begin(folder)  # and here it dies: rows and facts are there, no checkpoint is
        prepared.close()
    train_run(moved, broken, dataset=now, resume=True)
    for name in SAME:
        here, there = ((folder / name).read_text(errors="replace") for folder in (calm, broken))
        assert here == there.replace(str(copy), str(before)), name


def test_nothing_that_was_trained_on_is_tested_on(tmp_path: Path) -> None:
    # Without a test set. Once rows are gone, another part of the data would be held out.
    first = fit(dataset(WRONG, holdout_share=0.2), out=tmp_path / "before", epochs=3, **FITTING)
    trained_on = set(first.dataset.train.ids)
    fewer = dataset(0, rows=slice(30, None), holdout_share=0.2)
    assert trained_on & set(fewer.test.ids)
    second = fit(fewer, out=tmp_path / "after", epochs=4, init_from=tmp_path / "before")
    tested, trained = set(second.dataset.test.ids), set(second.dataset.train.ids)
    assert tested and not tested & (trained | trained_on)
    assert len(second.report) == len(trained) + len(tested)
    facts = json.loads((tmp_path / "after" / "init_from.json").read_text())
    held_out = set(facts["held_out"])
    assert held_out and not held_out & trained_on
    samples = set(read_run(tmp_path / "after").samples()["id"])
    assert not samples & held_out
    assert samples | held_out == set(fewer.train.ids) | set(fewer.test.ids)
    assert facts["kept"] + facts["relabelled"] + facts["new"] == len(samples)


def test_all_trained_on_leaves_nothing_to_test(before: Path) -> None:
    with pytest.raises(UserError, match="none is left to test on: give a test set"):
        prepare(planned(before), dataset=dataset(0, holdout_share=0.1))


def test_what_does_not_fit_is_named(before: Path, tmp_path: Path) -> None:
    now = dataset(0)
    renamed = as_dataset(
        points(), np.where(labels(0) == "left", "links", "right"), test=points(), test_labels=["right"] * N
    )
    with pytest.raises(UserError, match=r"it has no 'links'; the data lack 'left'"):
        prepare(planned(before), dataset=renamed)
    swapped = as_dataset(points(), labels(0), test=points(), test_labels=labels(0), class_names=["right", "left"])
    with pytest.raises(UserError, match="their order differs"):
        prepare(planned(before), dataset=swapped)
    with pytest.raises(UserError, match=r"method is 'standard', but the run in .* has 'acto'"):
        settings_after(before, {"method": "standard"})
    with pytest.raises(UserError, match=r"net is 'mlp', but the run in .* has 'mlp:32'"):
        fit(now, init_from=before, net="mlp")
    with pytest.raises(UserError, match=r"epochs is 6, the total, but the run in .* has done 6"):
        fit(now, init_from=before, epochs=6)
    pictures = as_dataset(
        np.zeros((N, 8, 8), np.uint8), labels(0), test=np.zeros((N, 8, 8), np.uint8), test_labels=labels(0)
    )
    with pytest.raises(UserError, match=r"seen as small of size None, but the run in .* saw vectors"):
        plan(before, pictures, method="acto", net="mlp:32", epochs=9)
    with pytest.raises(UserError, match="is no run's folder"):
        fit(now, init_from=tmp_path)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(before, unfinished)
    status = json.loads((unfinished / "status.json").read_text()) | {"state": "interrupted"}
    (unfinished / "status.json").write_text(json.dumps(status))
    with pytest.raises(UserError, match=r"has not finished .interrupted.: `acto train --resume"):
        fit(now, init_from=unfinished)


def test_a_dry_run_counts_from_where_the_run_before_ended(before: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acto.runs.cost.PHASE_SECONDS", 0.01)
    run = Run.from_dict(settings_after(before, {"protocol": {"epochs": 9}}))
    cost = estimate(prepare(run, dataset=dataset(0)))
    assert [(phase.name, phase.epochs) for phase in cost.phases] == [("training", 3)]
    assert cost.evaluations == 3


def test_asking_for_settings_runs_no_network(before: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's files may name code to run, which only the command line can allow."""
    monkeypatch.setattr("acto.runs.warm_start.load_model", None)
    assert settings_after(before, {"data": {"source": "new.csv"}})["data"]["classes"] == ["left", "right"]


def test_flags_take_method_settings_and_classes_of_the_run_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "table.npz"
    np.savez(table, x=points(), y=labels(WRONG))
    quiet = ("--net", "mlp:16", "--device", "cpu", "--batch-size", "32")
    first = ("--data", str(table), "--method", "gce", "--epochs", "2", "--gce.q", "0.6", *quiet)
    assert main(["train", *first, "--out", str(tmp_path / "before")]) == 0

    def run_of(*tokens: str) -> Run:
        return resolve(parse(["--init-from", str(tmp_path / "before"), *tokens]).settings)[0]

    run = run_of()
    assert (run.method, run.net, run.config.q, run.data.source) == ("gce", "mlp:16", 0.6, str(table))
    assert (run.protocol.epochs, run.protocol.batch_size) == (7, 32)
    assert run.init_from == str(tmp_path / "before")
    monkeypatch.chdir(tmp_path)
    assert resolve(parse(["--init-from", "before"]).settings)[0].init_from == str(tmp_path / "before")
    changed = run_of("--data", str(tmp_path / "corrected.csv"), "--epochs", "9", "--lr", "0.001", "--gce.q", "0.5")
    assert (changed.data.source, changed.data.classes) == (str(tmp_path / "corrected.csv"), ("left", "right"))
    assert (changed.protocol.epochs, changed.protocol.plan.lr, changed.config.q) == (9, 0.001, 0.5)
    assert isinstance(changed.config, METHODS["gce"].Config)

    np.savez(table, x=points(), y=labels(0))
    out = tmp_path / "after"
    assert main(["train", "--init-from", str(tmp_path / "before"), "--data", str(table), "--out", str(out)]) == 0
    assert len(read_run(out).metrics) == 7
    assert main(["train", "--config", str(out / "config.yaml"), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "metrics.csv").read_bytes() == (out / "metrics.csv").read_bytes()
