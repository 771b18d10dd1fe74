"""`acto`: what its flags mean, what it writes, and what it exits with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import acto
from acto.cli import COMMANDS, USAGE, main, train
from acto.cli.flags import parse
from acto.cli.progress import Reporter
from acto.compare.sweep_jobs import Block, Variant, jobs_of
from acto.core.errors import RunError, UserError
from acto.core.settings import flatten, plain
from acto.methods import METHODS
from acto.run_folder.reading import read_run
from acto.runs.events import Event, StepDone
from acto.runs.resolve import checked, known_fields, resolve
from acto.runs.run import Run
from acto.training.plans import Plan
from acto.training.protocol import Protocol

TINY = [
    *("--data", "digits", "--noise", "symmetric", "--noise-rate", "0.4", "--subset", "160", "--batch-size", "64"),
    *("--epochs", "3", "--device", "cpu", "--precision", "float32"),
]


def run_of(*tokens: str) -> Run:
    asked = parse(tokens)
    return resolve(asked.settings, trust_net=asked.net_was_typed)[0]


# The command ----------------------------------------------------------------------------------------------------


def test_every_command_is_there_and_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for name, place in COMMANDS.items():
        module, _, function = place.partition(":")
        assert callable(getattr(import_module(module), function)), name
        assert f"\n  {name} " in USAGE
        assert main([name, "--help"]) == 0
        assert f"acto {name}" in capsys.readouterr().out
    module_run = [sys.executable, "-m", "acto.cli", "methods", "act"]  # as torchrun starts it
    assert "Did you mean 'acto'?" in subprocess.run(module_run, capture_output=True, text=True, check=False).stderr


def test_help_and_version_load_neither_torch_nor_numpy() -> None:
    code = """
import sys
from acto.cli import main
assert main(["--help"]) == main([]) == main(["--version"]) == 0
assert not {"torch", "numpy", "argparse", "rich", "yaml"} & set(sys.modules), sorted(sys.modules)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.count("usage: acto COMMAND") == 2
    assert "acto 0." in shown


def test_public_names_are_loaded_when_used() -> None:
    assert sorted(acto._PUBLIC) == acto.__all__
    assert acto.METHODS is METHODS
    assert acto.Run is Run
    assert all(getattr(acto, name) is not None for name in acto.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        acto.nothing  # noqa: B018


def test_errors_are_one_line_and_choose_the_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: BaseException) -> int:
        def command(tokens: Any) -> int:
            raise error

        monkeypatch.setattr("acto.cli.methods.methods", command)
        return main(["methods"])

    assert fail(UserError("no such thing")) == 2
    assert capsys.readouterr().err == "error: no such thing\n"
    assert fail(RunError("the disk is full")) == 1
    assert capsys.readouterr().err == "error: the disk is full\n"
    assert fail(KeyError("x")) == 1
    assert capsys.readouterr().err.startswith("error: KeyError: 'x'\n")
    assert fail(KeyboardInterrupt()) == 130
    assert fail(SystemExit(0)) == 0
    monkeypatch.setenv("ACTO_DEBUG", "1")
    with pytest.raises(UserError):
        fail(UserError("no such thing"))


# Flags and files ------------------------------------------------------------------------------------------------


def test_recipes_give_what_is_not_said() -> None:
    run = run_of("--data", "cifar100nc", "--noise", "asymmetric", "--noise-rate", "0.4")
    assert (run.net, run.protocol.epochs, run.protocol.batch_size) == ("cnn7", 150, 128)
    assert run.protocol.plan == Plan(lr=0.01, schedule="cosine:20,5e-4,100", warmup_epochs=50, warmup_lr=0.01)
    assert run.protocol.plans == {"net1": Plan(lr=0.08, schedule="baseline")}
    assert run.config == METHODS["acto"].Config(warmup_epochs=50, selection="both", consistency_weight=0.2)
    assert (run.data.noise.kind, run.data.noise.rate) == ("asymmetric", 0.4)


def test_the_recipe_for_features_depends_on_how_many_there_are(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for rows, batch, lr in ((100, 8, 0.0025), (1_000, 32, 0.005), (55_000, 128, 0.02), (56_000, 1024, 0.16)):
        np.savez(tmp_path / "rows.npz", x=random.normal(size=(rows, 3)), y=np.arange(rows) % 2)
        source = ("--data", str(tmp_path / "rows.npz"))
        found = run_of(*source).protocol  # a tenth is held out
        assert (found.batch_size, found.plan.lr, found.plans["net1"].lr) == (batch, lr, 2 * lr)
    block = Block(variants=(Variant(method="acto"),), sources=(source[1],), noises=(("none", 0.0),), seeds=(0,))
    (job,) = jobs_of([block])
    assert (job.run.protocol.batch_size, job.run.protocol.plan.lr) == (1024, 0.16)
    asked = run_of(*source, "--batch-size", "256").protocol
    assert (asked.batch_size, asked.plan.lr, asked.plans["net1"].lr) == (256, 0.04, 0.08)
    assert run_of(*source, "--batch-size", "256", "--lr", "0.5").protocol.plan.lr == 0.5


def test_explicit_flags_win_over_the_recipe() -> None:
    run = run_of(
        *("--data", "cifar100nc", "--lr", "0.2", "--schedule", "constant", "--acto.tau", "0.5"),
        *("--protocol.plans.net1.lr", "0.3", "--acto.mining", "false", "--protocol.clip_norm=2"),
    )
    assert run.protocol.plan == Plan(lr=0.2, schedule="constant", warmup_epochs=50, warmup_lr=0.01)
    assert run.protocol.plans == {"net1": Plan(lr=0.3, schedule="baseline")}
    assert (run.config.tau, run.config.mining, run.config.warmup_epochs) == (0.5, False, 50)
    assert run.protocol.clip_norm == 2.0


def test_another_number_of_epochs_scales_the_recipe() -> None:
    run = run_of("--data", "cifar100nc", "--epochs", "30")
    assert (run.config.warmup_epochs, run.protocol.plan.warmup_epochs) == (10, 10)
    assert run.protocol.plan.schedule == "cosine:4,5e-4,20"
    run = run_of("--data", "cifar100nc", "--epochs", "30", "--warmup-epochs", "3")
    assert (run.config.warmup_epochs, run.protocol.plan.warmup_epochs) == (3, 3)


def test_dashes_are_underscores_in_every_flag() -> None:
    run = run_of(
        "--data", "digits", "--assumed-noise-rate", "0.3", "--acto.memory-momentum=0.7", "--data.holdout-seed", "4"
    )
    assert (run.assumed_noise_rate, run.config.memory_momentum, run.data.holdout_seed) == (0.3, 0.7, 4)
    with pytest.raises(UserError, match="unknown flag '--assumed-noise'"):
        run_of("--data", "digits", "--assumed-noise", "0.3")


def test_every_field_of_a_run_has_a_flag() -> None:
    hidden = {"trust_net"}
    for method in METHODS.values():
        run = Run(method=method.name, protocol=Protocol(epochs=1000))  # above every default warm-up
        keys = set(known_fields(method))
        sections = {key.rpartition(".")[0] for key in keys} | {"protocol.plans"}

        def check(values: Mapping[str, Any], prefix: str, keys: set[str] = keys, sections: set[str] = sections) -> None:
            for name, value in values.items():
                key = f"{prefix}{name}"
                assert key in keys or (key in sections | {"data", "protocol"} and isinstance(value, Mapping)), key
                if isinstance(value, Mapping):
                    check(value, f"{key}.")

        check({name: value for name, value in run.to_dict().items() if value != {}}, "")
        assert not keys & hidden


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("source", ["cifar100nc", "web-bird"])
def test_settings_survive_the_way_through_a_file(method: str, source: str, tmp_path: Path) -> None:
    run = run_of("--data", source, "--method", method)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(plain(run.to_dict())))
    assert run_of("--config", str(path)) == run


def test_print_config_prints_what_a_file_takes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train", *TINY, "--print_config"]) == 0
    path = tmp_path / "config.yaml"
    path.write_text(capsys.readouterr().out)
    assert run_of("--config", str(path)) == run_of(*TINY)
    changed = run_of("--config", str(path), "--lr", "0.5", "--seed=4")
    assert (changed.protocol.plan.lr, changed.seed) == (0.5, 4)


def test_paths_are_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "cifar100nc").mkdir()
    monkeypatch.chdir(tmp_path)
    run = run_of("--data", "cifar100nc", "--data-root", "root")
    assert run.data.root == str(tmp_path / "root")
    assert run.data.source == "cifar100nc"


def test_code_is_named_on_the_command_line_only(tmp_path: Path) -> None:
    assert run_of("--net", "package.module:make").trust_net
    file = tmp_path / "c.yaml"
    file.write_text("net: package.module:make\n")
    with pytest.raises(UserError, match="names code to run"):
        run_of("--config", str(file))
    assert run_of("--config", str(file), "--net", "package.module:make").trust_net
    file.write_text("trust_net: true\n")
    with pytest.raises(UserError, match="unknown setting 'trust_net'"):
        run_of("--config", str(file))


def test_help_shows_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", "cifar100nc", "--method", "pencil", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert (
        "(short: --epochs) Total number, those of `init_from` counted. At least 1. (a whole number; default: 150)"
        in text
    )
    assert "--pencil.alpha" in text
    assert "--acto.tau" not in text


@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [
        ("protocol.plan.lr", "1e-3", 0.001),
        ("protocol.plan.lr", 1, 1.0),
        ("protocol.plan.lr", ".inf", float("inf")),
        ("seed", "010", 10),
        ("seed", "1_000", 1000),
        ("seed", "0x10", 16),
        ("acto.mining", "yes", True),
        ("sync_batchnorm", "null", None),
        ("protocol.clip_norm", "~", None),
        ("weights", "null", None),
        ("weights", "none", None),
        ("weights", "", ""),
        ("weights", "[a, b]", "[a, b]"),
        ("acto.memory_dtype", "null", None),
        ("data.root", "7", "7"),
        ("data.classes", "[cat, dog]", ("cat", "dog")),
        ("data.classes", ["cat", "dog"], ("cat", "dog")),
    ],
)
def test_a_value_means_what_its_setting_wants(key: str, value: object, meant: object) -> None:
    found = flatten(checked({key: value}))
    assert found == {key: meant} and type(found[key]) is type(meant)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("seed", value) for value in (True, 3.0, "1e3", "", "nan", "#x", None, {"a": 1}, "9" * 5000)),
        *(("protocol.plan.lr", value) for value in (False, "nan", "inf", "true", [1.0], 10**400, "2020-13-01")),
        *(("acto.mining", value) for value in (1, "1", "none", None)),
        *(("data.classes", value) for value in ("cat", "[1, 2]", [None], "null")),
        *(("net", value) for value in (3, None, ["cnn7"])),
        *(("acto.memory_dtype", value) for value in ("float8", 16)),
        *(("protocol.clip_norm", value) for value in ("", "&x", "[1")),
    ],
)
def test_a_value_of_another_type_is_refused(key: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"^f: {key} must be .*, but got "):
        checked({key: value}, where="f: ")


# Runs -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "first"
    assert main(["train", *TINY, "--out", str(out)]) == 0
    return out


def test_a_run_writes_its_record_and_says_how_it_went(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = read_run(finished)
    assert record.status["state"] == "finished"
    assert len(record.metrics) == 3
    assert record.summary is not None
    assert main(["train", "--resume", str(finished)]) == 0
    shown = capsys.readouterr()
    assert "is finished: there is nothing to go on with" in shown.err
    accuracy = record.summary["test_accuracy_last10"]
    assert f"test accuracy, mean of all 3 epochs                         {100 * accuracy:.2f} %" in shown.out
    assert "best epoch (oracle" in shown.out
    assert str(finished) in shown.out
    assert read_run(finished).status["state"] == "finished"


def test_json_alone_is_on_stdout(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", str(finished), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["folder"] == str(finished)
    assert summary["epochs"] == 3


def test_a_saved_config_runs_again_as_it_is(finished: Path, tmp_path: Path) -> None:
    assert main(["train", "--config", str(finished / "config.yaml"), "--out", str(tmp_path / "again")]) == 0
    for name in ("config.yaml", "metrics.csv", "samples.csv", "noisy_labels.npy"):
        assert (tmp_path / "again" / name).read_bytes() == (finished / name).read_bytes(), name


def test_resume_refuses_other_settings(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", str(finished), "--epochs", "9", "--acto.tau", "0.5", "--workers", "0"]) == 2
    message = capsys.readouterr().err
    assert "protocol.epochs: 3 there, 9 now" in message
    assert "acto.tau: 0.1 there, 0.5 now" in message
    assert "workers" not in message
    assert main(["train", "--resume", str(finished), "--out", "elsewhere"]) == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_goes_on_to_the_same_end(
    number: int, code: int, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopping(Reporter):
        def __call__(self, event: Event) -> None:
            super().__call__(event)
            if isinstance(event, StepDone) and (event.epoch, event.step) == (1, 1):
                os.kill(os.getpid(), number)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(train, "Reporter", Stopping)
        assert main(["train", *TINY, "--out", str(out)]) == code
    assert read_run(out).status["state"] == "interrupted"
    assert main(["train", "--resume", str(out), "--device", "cpu"]) == 0
    for name in ("metrics.csv", "samples.csv"):
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name


def test_a_dry_run_measures_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("acto.runs.cost.PHASE_SECONDS", 0.01)
    assert main(["train", *TINY, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    warmup, robust = (line.split() for line in shown.splitlines()[1:3])
    assert warmup[:6] == ["warm-up", "1", "epoch", "3", "steps", "an"]
    assert robust[:7] == ["after", "the", "warm-up", "2", "epochs", "3", "steps"]
    assert all(word in shown for word in ("s a step", "an epoch", "in all:", "memory:", "a checkpoint", "are free at"))
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_start_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *TINY, "--net", "cnn7", "--out", str(tmp_path / "run")]) == 2
    assert "net 'cnn7' needs pictures of shape (3, 32, 32)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# One's own data -------------------------------------------------------------------------------------------------


def pictures(folder: Path, *, side: int, per_class: int = 12) -> Path:
    random = np.random.default_rng(0)
    for level, name in enumerate(("dark", "light")):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = random.integers(100 * level, 100 * level + 100, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def test_a_folder_of_small_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pictures(tmp_path / "pictures", side=32)
    command = ["train", "--data", str(folder), "--method", "standard", "--epochs", "1", "--device", "cpu"]
    assert main([*command, "--batch-size", "8", "--out", str(tmp_path / "small")]) == 0
    shown = capsys.readouterr()
    assert "accuracy against the given labels, mean of the only epoch" in shown.out
    assert "accuracy against the given labels" in shown.err
    assert read_run(tmp_path / "small").config["net"] == "cnn_small"
    assert read_run(tmp_path / "small").config["data"]["source"] == str(folder)
    assert main([*command, "--batch-size", "8", "--net", "cnn7", "--out", str(tmp_path / "cnn7")]) == 0


def test_a_table_of_feature_vectors(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    np.savez(tmp_path / "vectors.npz", x=random.normal(labels[:, None], 0.1, (60, 5)).astype(np.float32), y=labels)
    run, dataset = resolve(parse(["--data", str(tmp_path / "vectors.npz"), "--epochs", "2"]).settings)
    assert (run.net, dataset is not None) == ("mlp", True)
    assert train.start(run, train.Launch(out=str(tmp_path / "run")), dataset=dataset) == 0


# Looking --------------------------------------------------------------------------------------------------------


def test_methods_in_a_table_and_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(METHODS)
    assert main(["methods", "acto"]) == 0
    card = capsys.readouterr().out
    assert "Departures" in card
    assert "--acto.tau 0.025\n      Memorization threshold. At least 0." in card


def test_data_check_counts_and_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pictures(tmp_path / "pictures", side=16, per_class=3)
    assert main(["data", "check", str(folder), "--data.holdout_share", "0.4"]) == 0
    assert "pictures: 6 training samples of 2 classes; no test set" in capsys.readouterr().out
    (folder / "light" / "9.png").write_bytes((folder / "dark" / "0.png").read_bytes())
    (folder / "light" / "empty.png").touch()
    assert main(["data", "check", str(folder)]) == 2
    shown = capsys.readouterr().out
    assert "pictures that cannot be used: 1\n  light/empty.png: the file is empty (0 bytes)" in shown
    assert "groups of equal samples: 1\n  with labels that contradict each other: 1" in shown
    assert "train dark/0.png (dark), train light/9.png (light)" in shown
