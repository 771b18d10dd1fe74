from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from acto.cli.sweep import sweep
from acto.compare.ablation import ABLATION
from acto.compare.collect import collect
from acto.compare.finished_runs import config_hash
from acto.compare.sweep import run_all
from acto.compare.sweep_jobs import Block, Job, folder_name, jobs_of, parse_methods, parse_noise, read_study
from acto.compare.sweep_launchers import (
    Item,
    LocalLauncher,
    Place,
    SlurmLauncher,
    SlurmTask,
    command,
    last_words,
    prepare,
    state_of,
)
from acto.compare.sweep_view import View, result_lines
from acto.core.errors import UserError
from acto.core.locks import FolderLock
from acto.methods import METHODS
from acto.nets.pretrained import Found
from acto.run_folder.writing import RunFolder
from acto.runs.resolve import resolve


def block(
    *methods: str, settings: Mapping[str, Any] | None = None, noises: tuple[str, ...] = ("symmetric:0.4",)
) -> Block:
    return Block(
        variants=parse_methods(methods),
        sources=("digits",),
        noises=tuple(map(parse_noise, noises)),
        seeds=(0, 1),
        settings=settings or {},
    )


def one_job() -> Job:
    return jobs_of([block("standard")])[0]


# What a sweep consists of.


def test_methods_noises_and_seeds_are_crossed() -> None:
    jobs = jobs_of([block("standard", "elr", noises=("symmetric:0.5", "none"))])
    assert [(j.run.method, j.run.data.noise.kind, j.run.data.noise.rate, j.run.seed) for j in jobs] == [
        ("standard", "symmetric", 0.5, 0),
        ("standard", "symmetric", 0.5, 1),
        ("standard", "none", 0.0, 0),
        ("standard", "none", 0.0, 1),
        ("elr", "symmetric", 0.5, 0),
        ("elr", "symmetric", 0.5, 1),
        ("elr", "none", 0.0, 0),
        ("elr", "none", 0.0, 1),
    ]


def test_the_seed_is_that_of_the_noise_and_not_of_the_split() -> None:
    run = jobs_of([block("standard")])[1].run
    assert (run.seed, run.data.noise.seed, run.data.holdout_seed) == (1, 1, 0)


def test_all_stands_for_every_method() -> None:
    assert [variant.method for variant in parse_methods(["all"])] == list(METHODS)


def test_the_ablation_switches_parts_off() -> None:
    jobs = jobs_of([replace(block("ablation"), seeds=(0,))])
    assert [job.label for job in jobs] == ["standard", *ABLATION]
    parts = [(job.run.config.mining, job.run.config.reweighting, job.run.config.consistency) for job in jobs[1:]]
    assert parts == [
        (False, False, False),
        (True, False, False),
        (False, True, False),
        (True, True, False),
        (True, True, True),
    ]


def test_a_run_that_occurs_twice_is_done_once() -> None:
    # The ablation's first and last row are Standard and ACTO as published, which is what CIFAR100N gets.
    blocks = [replace(block(name), sources=("cifar100nc",)) for name in ("all", "ablation")]
    assert len(jobs_of(blocks)) == 2 * (len(METHODS) + len(ABLATION) - 1)


def test_the_ablation_is_of_the_published_form_on_all_data() -> None:
    of_acto = [job.run.config for job in jobs_of([block("ablation")]) if job.run.method == "acto"]
    assert of_acto and {config.form for config in of_acto} == {None}
    assert {job.run.config.form for job in jobs_of([block("acto")])} == {"steady"}, "what the digits get"


def test_the_name_tells_what_it_is_and_hashes_what_decides() -> None:
    job = one_job()
    assert job.name.startswith("standard-digits-symmetric0.4-s0-")
    assert len(job.name.rpartition("-")[2]) == 8
    elsewhere = replace(job.run, device="cpu", workers=7, data=replace(job.run.data, root="/data"))
    assert folder_name(elsewhere) == job.name
    assert folder_name(replace(job.run, eval_every=2)) != job.name
    assert folder_name(replace(job.run, data=replace(job.run.data, subset=100))) != job.name


def test_the_run_is_the_one_that_train_would_do() -> None:
    from acto.cli.flags import parse
    from acto.runs.resolve import resolve

    tokens = ["--method", "acto", "--data", "digits", "--noise", "symmetric", "--noise-rate", "0.4", "--epochs", "8"]
    (job, _) = jobs_of([block("acto", settings={"protocol": {"epochs": 8}})])
    assert job.run == resolve(parse(tokens).settings)[0]


def test_flags_of_some_methods_leave_the_others_alone() -> None:
    settings = {"acto": {"tau": "0.5"}, "protocol": {"epochs": "9", "plan": {"lr": "0.3"}}}
    both = block("standard", "acto").with_settings(settings, warmup_epochs="4")
    standard, _, acto, _ = (job.run for job in jobs_of([both]))
    assert (acto.config.tau, acto.config.warmup_epochs, acto.protocol.epochs, acto.protocol.plan.lr) == (0.5, 4, 9, 0.3)
    assert (standard.protocol.epochs, standard.protocol.plan.lr) == (9, 0.3)


def test_data_of_ones_own_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from acto.compare import sweep_jobs

    path = tmp_path / "vectors.npz"
    np.savez(path, x=np.random.RandomState(0).randn(40, 5).astype(np.float32), y=np.arange(40) % 2)
    calls = []
    read = sweep_jobs.load_data
    monkeypatch.setattr(sweep_jobs, "load_data", lambda *a, **k: calls.append(a) or read(*a, **k))
    jobs = jobs_of([replace(block("standard", "acto", settings={"protocol": {"epochs": 4}}), sources=(str(path),))])
    assert [job.run.net for job in jobs] == ["mlp"] * 4
    assert jobs[2].run.config.warmup_epochs == 1
    assert len(calls) == 1
    assert jobs[0].name.startswith("standard-vectors.npz-symmetric0.4-s0-")


def test_data_of_ones_own_get_what_train_gives_them(tmp_path: Path) -> None:
    """Few rows have small batches and rates; a block with fewer rows of the same file gets those of its own."""
    path = tmp_path / "vectors.npz"
    np.savez(path, x=np.random.RandomState(0).randn(4_000, 3).astype(np.float32), y=np.arange(4_000) % 2)
    counts = (None, 200, 1_000)
    blocks = [
        replace(
            block("acto", settings={"data": {"subset": count}} if count else None), sources=(str(path),), seeds=(0,)
        )
        for count in counts
    ]
    jobs = jobs_of(blocks)
    for job, count in zip(jobs, counts, strict=True):
        noise = {"kind": "symmetric", "rate": 0.4, "seed": 0}
        data = {"source": str(path), "noise": noise} | ({"subset": count} if count else {})
        assert job.run == resolve({"method": "acto", "seed": 0, "data": data})[0]
    assert [job.run.protocol.batch_size for job in jobs] == [128, 8, 32]
    assert [job.run.protocol.epochs for job in jobs] == [30, 60, 60]


def test_photographs_in_a_sweep_are_seen_by_a_frozen_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "weights.pth"
    weights.touch()
    found = Found(net="torchvision:mobilenet_v2", path=weights)
    monkeypatch.setattr("acto.runs.resolve.first_found", lambda: found)
    for number in range(20):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.RandomState(number).randint(0, 255, (300, 320, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    source = str(tmp_path / "photos")
    jobs = jobs_of([replace(block("acto", "standard"), sources=(source,), seeds=(0,))])
    assert {(job.run.features, job.run.net) for job in jobs} == {("torchvision:mobilenet_v2", "mlp")}
    noise = {"kind": "symmetric", "rate": 0.4, "seed": 0}
    asked = {"method": "acto", "seed": 0, "data": {"source": source, "noise": noise}}
    assert jobs[0].run == resolve(asked)[0]
    own = jobs_of([replace(block("acto", settings={"net": "resnet18"}), sources=(source,), seeds=(0,))])
    assert (own[0].run.features, own[0].run.net) == (None, "resnet18")


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (("--acot.tau", "1"), "unknown flag '--acot.tau'. Did you mean '--acto.tau'?"),
        (("--data.noise.rate", "0.1"), "data.noise.rate is set by the sweep: give --noises"),
        (("--noise", "symmetric"), "data.noise.kind is set by the sweep: give --noises"),
        (("--method", "elr"), "method is set by the sweep: give --methods"),
        (("--dividemix.alpha", "1"), "a setting of method 'dividemix'"),
        (("--resume", "x"), "--resume is for a single run"),
        (("--epochs", "many"), "protocol.epochs must be a whole number"),
        (("--warmup-epochs", "4", "--methods", "gce"), "unknown flag '--warmup-epochs': none of these methods"),
    ],
)
def test_flags_that_cannot_be_used(
    tokens: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        sweep(["--methods", "acto", "--data", "digits", *tokens])
    assert words in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_flags_stand_before_and_behind_the_study(
    order: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No value of a flag is taken for the study."""
    (tmp_path / "s.yaml").write_text(STUDY)
    planned: list[Any] = []

    def plan(out: Path, slurm: Mapping[str, str]) -> None:
        planned.append(slurm)
        raise UserError("enough")

    monkeypatch.setattr(SlurmLauncher, "with_parameters", plan)
    monkeypatch.setattr("acto.cli.sweep.jobs_of", lambda blocks, **facts: planned.append((blocks, facts)) or [])
    monkeypatch.chdir(tmp_path)
    parts = (
        [str(tmp_path / "s.yaml")],
        ["--lr", "0.3", "--net", "a:b", "--warmup_epochs", "1"],
        ["--slurm.partition", "gpu"],
    )
    tokens = [token for k in order for token in parts[k]]
    with pytest.raises(UserError, match="enough"):
        sweep([*tokens, "--jobs", "1"])
    ((block,), facts), slurm = planned
    assert block.settings["protocol.plan.lr"] == "0.3" and block.settings["acto.warmup_epochs"] == "1"
    assert facts == {"trust_net": False, "download": False} and slurm == {"partition": "gpu"}
    planned.clear()
    with pytest.raises(UserError, match="enough"):
        sweep(["--slurm.partition=gpu", "--net", "a:b", "--data", "digits", "--download", "--methods", "acto,gce"])
    (((block,), facts), slurm) = planned
    assert [variant.method for variant in block.variants] == ["acto", "gce"] and block.sources == ("digits",)
    assert facts == {"trust_net": True, "download": True} and slurm == {"partition": "gpu"}


STUDY = """
- methods: [standard, {method: acto, label: "+ASS", settings: {acto: {mining: false}}}]
  data: digits
  noises: [symmetric:0.4]
  seeds: [3]
  settings: {protocol: {epochs: 5}, acto: {warmup_epochs: 2}, weights: null}
"""


def test_a_study_file(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(STUDY)
    standard, acto = jobs_of(read_study(str(tmp_path / "s.yaml")))
    assert (standard.label, standard.run.seed, standard.run.protocol.epochs) == ("standard", 3, 5)
    assert (acto.label, acto.run.config.mining, acto.run.config.warmup_epochs) == ("+ASS", False, 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("methods: [acto]", "a YAML list of blocks"),
        ("- {methods: acto}", "block 1: data is missing"),
        ("- {methods: acto, data: digits, sedes: 1}", "unknown key 'sedes'. Did you mean 'seeds'?"),
        ("- {methods: actor, data: digits}", "block 1: unknown method 'actor'. Did you mean 'acto'?"),
        ("- {methods: acto, data: digits, noises: symmetric:lots}", "must be KIND:RATE"),
        ("- {methods: acto, data: digits, noises: symetric:0.4}", "unknown noise kind 'symetric'"),
        ("- {methods: acto, data: digits, seeds: [a]}", "seeds must be whole numbers"),
        ("- {methods: acto, data: digits, settings: {protocol: {epoch: 3}}}", "Did you mean 'protocol.epochs'?"),
        ("- {methods: {method: acto, setings: {}}, data: digits}", "not setings"),
    ],
)
def test_study_files_that_cannot_be_used(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        jobs_of(read_study(str(tmp_path / "s.yaml")))
    assert words in str(error.value)


def test_the_study_of_this_repository() -> None:
    jobs = jobs_of(read_study(str(Path(__file__).parents[2] / "benchmarks" / "study.yaml")))
    runs = [job.run for job in jobs]
    assert {run.data.source for run in runs} == {"fashion-mnist"} and {run.net for run in runs} == {"cnn_small"}
    counts = {
        (kind, method): sum(run.data.noise.kind == kind and run.method == method for run in runs)
        for kind in ("symmetric", "asymmetric", "instance")
        for method in METHODS
    }
    three = {"standard", "acto", "dividemix", "elr"}
    for (kind, method), count in counts.items():
        expected = 3 if kind == "symmetric" or method in three else 1
        expected += 12 if kind == "symmetric" and method == "acto" else 0  # four rows of the ablation
        assert count == expected, (kind, method)


# Folders and what is to be done about them.


def folder_in_state(path: Path, state: str) -> Path:
    with RunFolder.create(path, config={"method": "standard"}) as folder:
        if state == "finished":
            folder.save_summary({"test_accuracy_last10": 0.5})
        if state in ("interrupted", "died", "failed"):
            folder.save_checkpoint(0, {"training.pt": b"weights"})
        folder.set_status("running" if state == "died" else state, epoch=0)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize(
    ("status", "expected", "words"),
    [
        ("finished", "finished", ["--resume"]),
        ("interrupted", "resume", ["--resume"]),
        ("died", "resume", ["--resume"]),
        ("failed", "redo", ["--out", "--overwrite"]),
    ],
)
def test_what_a_folder_demands(tmp_path: Path, status: str, expected: str, words: list[str]) -> None:
    place = Place(out=tmp_path, name="run")
    folder_in_state(place.folder, status)
    assert state_of(place.folder)[0] == expected
    given = [word for word in command(place, ()) if word in ("--resume", "--out", "--overwrite")]
    assert given == words


def test_other_folders(tmp_path: Path) -> None:
    assert state_of(tmp_path / "none")[0] == "new"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"")
    assert state_of(tmp_path / "photos")[0] == "foreign"
    with RunFolder.create(tmp_path / "run", config={}):
        assert state_of(tmp_path / "run")[0] == "in use"
    assert state_of(tmp_path / "run")[0] == "redo"  # killed before its first checkpoint


# Running, with children that are not there.


class FakeHandle:
    def __init__(self, end: Callable[[], int], polls: int = 1) -> None:
        self.end, self.polls, self.stopped = end, polls, False

    def poll(self) -> int | None:
        self.polls -= 1
        if self.stopped:
            return 143
        return None if self.polls > 0 else self.end()

    def stop(self) -> None:
        self.stopped = True


class FakeLauncher:
    """Finishes every run but those of the methods that it is told to fail."""

    def __init__(self, fails: tuple[str, ...] = (), polls: int = 1) -> None:
        self.fails, self.polls = fails, polls
        self.started: list[str] = []
        self.handles: list[FakeHandle] = []
        self.most = 0

    def start(self, job: Job, place: Place) -> FakeHandle:
        self.started.append(job.name)

        def end() -> int:
            if job.run.method in self.fails:
                place.log.write_text("epoch 1\nerror: the loss is not finite\ngood bye\n")
                return 1
            folder_in_state(place.folder, "finished")
            return 0

        self.handles.append(FakeHandle(end, self.polls))
        self.most = max(self.most, sum(handle.polls > 0 and not handle.stopped for handle in self.handles))
        return self.handles[-1]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acto.compare.sweep.POLL_SECONDS", 0.0)


def items_of(out: Path, *methods: str) -> list[Item]:
    (out / "locks").mkdir(parents=True, exist_ok=True)
    return [Item(job=job, place=Place(out=out, name=job.name)) for job in jobs_of([block(*methods)])]


def do(items: list[Item], launcher: Any, limit: int = 1) -> int:
    with View(items, limit=limit, terminal=False) as view:
        return run_all(items, launcher, limit=limit, view=view)


def test_a_failed_run_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = items_of(tmp_path, "elr", "standard")
    assert do(items, FakeLauncher(fails=("elr",))) == 0
    assert [item.outcome for item in items] == ["failed", "failed", "finished", "finished"]
    assert items[0].error == "the loss is not finite"
    assert items[2].accuracy == 0.5
    said = capsys.readouterr().err
    assert "failed    elr-digits-symmetric0.4-s0" in said and "the loss is not finite" in said
    assert "2 of 4 runs finished, 2 failed" in "\n".join(result_lines(items, tmp_path))


def test_finished_runs_are_skipped_and_failed_ones_done_again(tmp_path: Path) -> None:
    do(items_of(tmp_path, "elr", "standard"), FakeLauncher(fails=("elr",)))
    for name in (item.place.folder for item in items_of(tmp_path, "elr")):
        folder_in_state(name, "failed")
    again = FakeLauncher(fails=("elr",))
    items = items_of(tmp_path, "elr", "standard")
    do(items, again)
    assert again.started == [item.place.name for item in items[:2]]
    assert [item.before for item in items] == [False, False, True, True]


def test_no_more_than_the_limit_run_at_once(tmp_path: Path) -> None:
    launcher = FakeLauncher(polls=3)
    do(items_of(tmp_path, "elr", "standard", "sce"), launcher, limit=2)
    assert launcher.most == 2 and len(launcher.started) == 6


def test_two_sweeps_share_a_folder(tmp_path: Path) -> None:
    items, others = items_of(tmp_path, "standard"), items_of(tmp_path, "standard")
    claim = FolderLock(items[0].place.claim)
    launcher = FakeLauncher()
    do(others, launcher)
    claim.release()
    assert [item.outcome for item in others] == ["in use", "finished"]
    assert launcher.started == [others[1].place.name]
    assert do(items, launcher) == 0
    assert [item.outcome for item in items] == ["finished", "finished"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_what_runs_and_starts_no_more(tmp_path: Path, signum: int) -> None:
    class Killed(FakeLauncher):
        def start(self, job: Job, place: Place) -> FakeHandle:
            handle = super().start(job, place)
            os.kill(os.getpid(), signum)
            return handle

    launcher = Killed(polls=1000)
    items = items_of(tmp_path, "standard", "elr")
    before = signal.getsignal(signum)
    assert do(items, launcher) == signum
    assert [item.outcome for item in items] == ["stopped", "waiting", "waiting", "waiting"]
    assert launcher.handles[0].stopped
    assert signal.getsignal(signum) is before
    FolderLock(items[0].place.claim).release()  # given back


def test_the_estimate_goes_by_method(tmp_path: Path) -> None:
    items = items_of(tmp_path, "elr", "standard")
    view = View(items, limit=2, terminal=False, clock=lambda: 100.0)
    assert view.seconds_left() == 0.0
    items[0].outcome, items[0].seconds = "finished", 10.0
    assert view.seconds_left() == (10 + 10 + 10) / 2
    items[2].outcome, items[2].seconds, items[2].wall = "finished", 28.0, 30.0
    assert view.seconds_left() == (10 + 30) / 2
    items[1].outcome, items[1].started = "running", 96.0
    assert view.seconds_left() == (6 + 30) / 2


def test_a_terminal_sees_a_table(tmp_path: Path) -> None:
    import io

    items = items_of(tmp_path, "standard")
    stream = io.StringIO()
    with View(items, limit=1, stream=stream, terminal=True, clock=lambda: 100.0) as view:
        items[0].outcome, items[0].started = "running", 40.0
        view.refresh()
    text = stream.getvalue()
    assert items[0].place.name in text and "-/32" in text and "1 running, 1 left" in text


def test_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("error: of the session before\nepoch 1\nerror: no space\nbye\n")
    assert last_words(log, start=0, exit_code=1) == "no space"
    assert last_words(log, start=len("error: of the session before\nepoch 1\nerror: no space\n"), exit_code=1) == "bye"
    assert last_words(log, start=0, exit_code=-9) == "killed by SIGKILL"
    assert last_words(tmp_path / "none", start=0, exit_code=3) == "exit code 3"


# Slurm, with an executor that is none.


class FakeExecutor:
    """Does at once what is submitted."""

    def submit(self, task: SlurmTask) -> Any:
        result = task()

        class Done:
            def done(self) -> bool:
                return True

            def result(self) -> int:
                return result

            def cancel(self) -> None:
                raise AssertionError

        return Done()


def test_slurm_gets_the_same_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def call(tokens: list[str], **settings: Any) -> int:
        calls.append(tokens)
        folder_in_state(Path(tokens[tokens.index("--out") + 1]), "finished")
        return 0

    monkeypatch.setattr(subprocess, "call", call)
    items = items_of(tmp_path, "standard")
    assert do(items, SlurmLauncher(FakeExecutor()), limit=2) == 0
    assert [item.outcome for item in items] == ["finished", "finished"]
    assert [tokens[:3] + tokens[4:5] for tokens in calls] == [[sys.executable, "-P", "-c", "train"]] * 2


def test_slurm_parameters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: dict[str, Any] = {}

    class AutoExecutor:
        def __init__(self, folder: str, cluster: str) -> None:
            given["cluster"] = cluster

        def update_parameters(self, **parameters: Any) -> None:
            given.update(parameters)

    module = type(sys)("submitit")
    module.AutoExecutor = AutoExecutor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "submitit", module)
    SlurmLauncher.with_parameters(tmp_path, {"partition": "gpu", "timeout_min": "90"})
    assert given == {"cluster": "slurm", "name": "acto", "slurm_partition": "gpu", "timeout_min": 90}
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"acto-lnl\[slurm\]"):
        SlurmLauncher.with_parameters(tmp_path, {})


# The command.


def test_a_sweep_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokens = ["--methods", "standard", "--data", "digits", "--noises", "symmetric:0.4", "--epochs", "1", "--json"]
    tokens += ["--subset=100", "--out", str(tmp_path / "runs"), "--collect", str(tmp_path / "records")]
    assert sweep([*tokens, "--dry-run"]) == 0
    assert "to do" in capsys.readouterr().out and not (tmp_path / "runs").exists()
    assert sweep(tokens) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert (facts["outcome"], facts["noise_rate"], facts["error"]) == ("finished", 0.4, None)
    folder = Path(facts["folder"])
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (job,) = jobs_of([replace(block("standard", settings={"protocol.epochs": 1, "data.subset": 100}), seeds=(0,))])
    assert folder.name == job.name and config["data"]["subset"] == 100
    assert "epoch 1/1" in (tmp_path / "runs" / "logs" / f"{folder.name}.log").read_text()
    files = {path.name for path in (tmp_path / "records" / folder.name).iterdir()}
    assert files == {"config.yaml", "env.json", "labels.json", "metrics.csv", "summary.json", "timing.csv"}
    assert sweep(tokens) == 0  # nothing is left to do
    assert json.loads(capsys.readouterr().out)[0]["seconds"] == facts["seconds"]
    shutil.rmtree(tmp_path / "runs")
    assert sweep([*tokens, "--dry-run"]) == 0
    assert "1 run, 1 of them finished" in capsys.readouterr().out
    assert sweep(tokens) == 0  # the collected record is enough
    (again,) = json.loads(capsys.readouterr().out)
    assert (again["outcome"], again["seconds"]) == ("finished", facts["seconds"]) and not folder.exists()


def test_a_setting_that_says_nothing_moves_no_folder() -> None:
    config = {"data": {"source": "digits"}, "seed": 0}
    assert config_hash(config) == config_hash({**config, "brought_by_a_later_version": None})
    assert config_hash(config) != config_hash({**config, "seed": 1})


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["--data", "digits"], "needs --methods"),
        (["--methods", "acto", "--data", "digits", "--seed", "1"], "give --seeds"),
        (["--methods", "acto", "--data", "digits", "--seeds", "x"], "--seeds must be whole numbers"),
        (["--methods", "acto", "--data", "digits", "--jobs", "0"], "jobs is 0"),
        (["a.yaml", "b.yaml"], "one study at a time"),
        (["a.yaml", "--seeds", "1"], "leave --seeds away"),
        (["none.yaml"], "cannot read the study"),
        (["--collect", "x", "--out", "nowhere"], "nowhere is no folder of runs"),
    ],
)
def test_commands_that_cannot_be_used(
    tokens: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        sweep(tokens)
    assert words in str(error.value)
    assert not list(tmp_path.iterdir())


def test_records_name_no_machine_and_no_path(tmp_path: Path) -> None:
    secret = str(tmp_path / "secret")
    job = one_job()
    run = replace(job.run, data=replace(job.run.data, source=f"{secret}/photos", root=f"{secret}/data"))
    with RunFolder.create(tmp_path / "runs" / "a", config=run.to_dict()) as folder:
        folder.add_session(versions={"torch": "2"}, device="cpu", argv=["acto", f"{secret}/photos"])
        folder.save_labels(np.zeros(2, np.int64), facts={}, notes=[f"a link leads to {secret}"])
        folder.save_summary({"test_accuracy_last10": 0.5})
        folder.set_status("finished", epoch=0)
    folder_in_state(tmp_path / "runs" / "b", "interrupted")
    assert collect(tmp_path / "runs", tmp_path / "records") == ["a"]
    texts = {path.name: path.read_text() for path in (tmp_path / "records" / "a").iterdir()}
    assert set(texts) == {"config.yaml", "env.json", "labels.json", "summary.json"}
    (session,) = json.loads(texts["env.json"])["sessions"]
    assert not {"host", "argv"} & session.keys() and session["versions"] == {"torch": "2"}
    assert yaml.safe_load(texts["config.yaml"])["data"]["source"] == "photos"
    for text in texts.values():
        assert "secret" not in text and os.uname().release not in text


def test_children_share_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acto.compare.sweep_launchers.usable_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert LocalLauncher(3).environment["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert LocalLauncher(3).environment["OMP_NUM_THREADS"] == "5"


def test_a_child_is_told_once_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real process: it ends by SIGTERM, and lives in a session of its own."""
    job = one_job()
    place = Place(out=tmp_path, name=job.name)
    prepare(job, place)
    child = [sys.executable, "-c", "import signal; signal.pause()"]
    monkeypatch.setattr("acto.compare.sweep_launchers.command", lambda *_: child)
    handle = LocalLauncher(1).start(job, place)
    assert handle.poll() is None
    assert os.getsid(handle.process.pid) == handle.process.pid  # type: ignore[attr-defined]
    handle.stop()
    assert handle.process.wait(timeout=60) == -signal.SIGTERM  # type: ignore[attr-defined]
    handle.stop()  # nothing is left to stop
