"""main.py, main_web.py and main_food101n.py: the flags of the public scripts with the settings of the papers."""

from __future__ import annotations

import pickle
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from acto.cli import papers
from acto.core.errors import UserError
from acto.data.samples import DataSpec
from acto.methods.acto import ACTO
from acto.run_folder.reading import read_run
from acto.runs.run import Run
from acto.training.plans import Plan

ROOT = Path(__file__).parents[2]
SCRIPTS = ("main.py", "main_web.py", "main_food101n.py")


def run_of(script: str, command: str = "") -> Run:
    return papers.paper_run(papers.parse(script, command.split()), dataset=papers.DEFAULT_DATASETS[script])[0]


def notes_of(command: str) -> tuple[str, ...]:
    return papers.paper_run(papers.parse("main.py", command.split()), dataset="cifar100nc")[1]


@pytest.fixture(autouse=True)
def no_data_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ACTO_DATA_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)


# Settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["cifar100nc", "cifar80no"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_cifar_has_the_papers_settings_in_all_scripts(script: str, dataset: str) -> None:
    run = run_of(script, f"--gpu 0 --noise-type symmetric --closeset-ratio 0.2 --dataset {dataset}")
    protocol, config = run.protocol, run.config
    assert (run.method, run.net, run.weights, run.seed) == ("acto", "cnn7", None, 123)
    assert (run.data.source, run.data.noise.kind, run.data.noise.rate) == (dataset, "symmetric", 0.2)
    assert (protocol.epochs, protocol.batch_size, protocol.weight_decay) == (150, 128, 5e-4)
    assert (protocol.optimizer, protocol.momentum, protocol.nesterov) == ("sgd", 0.9, True)
    assert protocol.plan == Plan(lr=0.01, schedule="cosine:20,5e-4,100", warmup_epochs=50, warmup_lr=0.01)
    assert protocol.plans["net1"].lr == 0.08
    assert (config.warmup_epochs, config.tau, config.selection, config.label_smoothing) == (50, 0.025, "both", 0.0)


@pytest.mark.parametrize("dataset", ["web-aircraft", "web-bird", "web-car"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_web_data_pick_resnet50_and_the_web_rule(script: str, dataset: str) -> None:
    run = run_of(script, f"--gpu 0 --dataset {dataset}")
    assert (run.net, run.weights, run.data.noise.kind) == ("resnet50", "torchvision", "none")
    assert (run.protocol.epochs, run.protocol.batch_size, run.protocol.plan.lr) == (100, 16, 0.005)
    assert (run.config.selection, run.config.label_smoothing) == ("robust", 0.35)


def test_the_published_food101n_command_means_what_it_says() -> None:
    command = (
        "--gpu 9 --warmup-epoch 5 --epoch 50 --batch-size 100 --lr 0.0005 --lr1 0.001 --warmup-lr 0.001 "
        "--lr-decay cosine:5,5e-5,50 --opt sgd --dataset food101n"
    )
    run = run_of("main_food101n.py", command)
    assert run == run_of("main_food101n.py", "--gpu 9")  # the paper's settings are those of the command
    assert (run.net, run.weights, run.protocol.epochs, run.protocol.batch_size) == ("resnet50", "torchvision", 50, 100)
    assert run.protocol.plan == Plan(lr=5e-4, schedule="cosine:5,5e-5,50", warmup_epochs=5, warmup_lr=1e-3)
    assert run.protocol.plans["net1"].lr == 1e-3
    assert (run.config.warmup_epochs, run.config.selection) == (5, "robust")


def test_each_script_has_its_own_data_set() -> None:
    assert [run_of(script).data.source for script in SCRIPTS] == ["cifar100nc", "web-aircraft", "food101n"]


def test_explicit_flags_win() -> None:
    run = run_of(
        "main.py",
        "--seed 7 --batch-size 32 --lr 0.3 --lr1 0.4 --lr-decay linear:1,0.1,9 --weight-decay 0.01 --opt adam "
        "--tau 0.5 --warmup-epochs 4 --warmup-lr 0.2 --epochs 9 --noise-type asymmetric --closeset-ratio 0.4 "
        "--model Resnet18",
    )
    protocol = run.protocol
    assert (run.seed, run.net, run.weights) == (7, "resnet18", None)
    assert (protocol.batch_size, protocol.weight_decay, protocol.optimizer, protocol.epochs) == (32, 0.01, "adam", 9)
    assert protocol.plan == Plan(lr=0.3, schedule="linear:1,0.1,9", warmup_epochs=4, warmup_lr=0.2)
    assert protocol.plans["net1"].lr == 0.4
    assert (run.config.tau, run.config.warmup_epochs) == (0.5, 4)
    assert (run.data.noise.kind, run.data.noise.rate) == ("asymmetric", 0.4)


def test_a_model_keeps_the_papers_weights_only_where_they_fit() -> None:
    assert run_of("main_web.py", "--model Resnet18").weights == "torchvision"
    assert run_of("main_web.py", "--model cnn").weights is None
    assert run_of("main.py", "--model Resnet50").weights is None
    assert run_of("main_web.py", "--weights none").weights is None


def test_standard_is_the_same_without_ntm() -> None:
    run = run_of("main.py", "--method standard")
    assert (run.method, run.net, run.protocol.plans) == ("standard", "cnn7", {})
    assert run.protocol.plan.lr == 0.01


@pytest.mark.parametrize(
    ("flags", "warmup", "note"),
    [
        ("", 50, None),
        ("--epochs 60", 50, "the paper's warm-up of 50 epochs is kept"),
        ("--epochs 50", 17, "does not fit into 50: it is scaled to 17"),
        ("--epochs 2", 1, "does not fit into 2: it is scaled to 1"),
        ("--epochs 2 --warmup-epochs 2", 2, None),
    ],
)
def test_fewer_epochs_keep_the_warm_up_or_scale_it(flags: str, warmup: int, note: str | None) -> None:
    run = run_of("main.py", flags)
    assert (run.config.warmup_epochs, run.protocol.plan.warmup_epochs) == (warmup, warmup)
    said = " ".join(notes_of(flags))
    assert note in said if note else "warm-up" not in said


def test_a_gpu_that_is_not_there_is_replaced_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(papers, "available_devices", lambda: ["cuda:0", "cuda:1", "cpu"])
    assert run_of("main.py", "--gpu 1").device == "cuda:1"
    assert run_of("main.py", "--gpu 9").device == "cuda:0"
    assert "this machine has no GPU 9: cuda:0 is used instead" in notes_of("--gpu 9")
    assert run_of("main.py", "--gpu 9 --device cpu").device == "cpu"
    assert run_of("main.py").device == "auto"
    assert not notes_of("--gpu 0")
    with pytest.raises(UserError, match="takes the number of a GPU"):
        run_of("main.py", "--gpu first")


def test_what_has_no_meaning_is_said() -> None:
    given = papers.parse(
        "main_web.py", ["--closeset-ratio", "0.4", "--method", "standard", "--tau", "0.1", "--save-weights", "False"]
    )
    said = " ".join(papers.paper_run(given, dataset="web-car")[1])
    assert all(word in said for word in ("--closeset-ratio has no meaning", "--tau has no meaning", "last weights"))


# Flags ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "warns"),
    [
        ("--closeset-ratio 0.8", True),
        ("--closeset-ratio 0.5", False),
        ("--closeset-ratio 0.8 --noise-type asymmetric", False),
        ("--closeset-ratio 0.8 --form steady", False),
        ("--closeset-ratio 0.8 --method standard", False),
    ],
)
def test_the_published_form_is_warned_of_where_it_collapses(flags: str, warns: bool) -> None:
    assert any("known to collapse" in note and "--form steady" in note for note in notes_of(flags)) == warns


def test_the_steady_form_is_there_for_the_papers_data() -> None:
    published, steady = (run_of("main.py", flags).config for flags in ("", "--form steady"))
    assert isinstance(published, ACTO.Config) and isinstance(steady, ACTO.Config)
    assert (published.form, published.selection, published.consistency_weight) == (None, "both", 0.2)
    assert steady == ACTO.Config(form="steady", tau=published.tau, warmup_epochs=published.warmup_epochs)


def test_every_unambiguous_prefix_of_an_old_flag_is_taken() -> None:
    for flag in papers.OLD_FLAGS:
        for length in range(3, len(flag) + 1):
            prefix = flag[:length]
            meant = [other for other in papers.OLD_FLAGS if other.startswith(prefix)]
            if prefix in (*papers.OLD_FLAGS, *papers.NEW_FLAGS) or len(meant) == 1:
                expected = prefix if prefix in (*papers.OLD_FLAGS, *papers.NEW_FLAGS) else flag
                assert papers._written_out(prefix) == expected
                assert papers._written_out(f"{prefix}=5") == f"{expected}=5"
            else:
                with pytest.raises(UserError, match=f"ambiguous flag '{prefix}': it could be {', '.join(meant)}"):
                    papers._written_out(prefix)


def test_every_flag_of_the_public_scripts_exists() -> None:
    values = {"--save-weights": "True", "--ablation": "false", "--gpu": "0", "--lr-decay": "cosine:20,5e-4,100"}
    tokens = [token for flag in papers.OLD_FLAGS for token in (flag, values.get(flag, "1"))]
    given = papers.parse("main.py", tokens)
    assert given.keys() == {flag[2:].replace("-", "_") for flag in papers.OLD_FLAGS}
    assert (given["save_weights"], given["ablation"]) == (True, False)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "--dataset cifar100n",
            "unknown dataset 'cifar100n'. Did you mean 'cifar100nc'? Choices: cifar100nc, cifar80no",
        ),
        ("--datset cifar100nc", "unknown argument '--datset'. Did you mean '--dataset'?"),
        ("--method theirs", "unknown method 'theirs'. Choices: ours, standard"),
        ("--model VGG", "unknown model 'vgg'. Choices: cnn, resnet18, resnet50"),
        ("--opt lion", "unknown optimizer 'lion'. Choices: adam, sgd"),
        ("--noise-type pair", "unknown noise-type 'pair'"),
        ("--closeset-ratio 1.2", "noise rate is 1.2, but must lie in [0, 1]"),
        ("--tau -0.1", "tau is -0.1, but must lie in [0, inf]"),
        ("--epochs 2 --warmup-epochs 5", "warmup_epochs is 5, more than the 2 epochs of the run"),
        ("--epochs two", "argument --epochs: invalid int value: 'two'"),
        ("--ablation maybe", "'maybe' is neither true nor false"),
        ("--lr-decay cosin:1,2", "unknown schedule 'cosin'. Did you mean 'cosine'?"),
        ("", "cifar100nc needs a data root: give --data-root FOLDER or set ACTO_DATA_ROOT"),
        ("--data-root nowhere", "nowhere (from --data-root) does not exist"),
    ],
)
def test_bad_input_exits_with_2_and_says_why(command: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert papers.main("main.py", command.split()) == 2
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()


def test_missing_imagenet_weights_name_the_ways(
    web: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    command = f"--data-root {web} --dataset web-bird".split()
    monkeypatch.setattr("acto.nets.pretrained.first_found", lambda nets: None)
    assert papers.main("main_web.py", command) == 2
    message = capsys.readouterr().err
    assert "no weights of resnet50 are on this machine" in message and "--download fetches them" in message
    assert papers.main("main_web.py", [*command, "--download"]) == 2
    message = capsys.readouterr().err
    assert "cannot get the ImageNet weights of resnet50: no network" in message
    assert all(way in message for way in ("as weights", "put it at", "checkpoints/resnet50", "--weights none"))


# Small trees with the real layouts ------------------------------------------------------------------------------


def picture(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(level).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Datasets/web-*/{train,val}/CLASS/, seen in small crops."""
    for name in ("web-aircraft", "web-bird"):
        for split, count in (("train", 5), ("val", 2)):
            for label in ("A", "B"):
                for i in range(count):
                    picture(tmp_path / "Datasets" / name / split / label / f"{split}{i}.jpg", i)
    monkeypatch.setattr(papers, "DataSpec", lambda **fields: DataSpec(size=72, resize=72, **fields))
    return tmp_path


@pytest.fixture
def food(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Datasets/food-101/ with Food-101's test split nested in it."""
    root = tmp_path / "Datasets" / "food-101"
    lines = [f"{label}/{i}.jpg" for label in ("pie", "soup") for i in range(6)]
    tests = [f"{label}/{i}" for label in ("pie", "soup") for i in range(2)]
    for i, line in enumerate(lines):
        picture(root / "images" / line, i)
    for i, line in enumerate(tests):
        picture(root / "food-101" / "images" / f"{line}.jpg", i)
    for folder in (root / "meta", root / "food-101" / "meta"):
        folder.mkdir(parents=True)
    (root / "meta" / "classes.txt").write_text("class_name\npie\nsoup\n")
    (root / "meta" / "imagelist.tsv").write_text("class_name/key\n" + "\n".join(lines) + "\n")
    (root / "food-101" / "meta" / "classes.txt").write_text("pie\nsoup\n")
    (root / "food-101" / "meta" / "test.txt").write_text("\n".join(tests) + "\n")
    monkeypatch.setattr(papers, "DataSpec", lambda **fields: DataSpec(size=72, resize=72, **fields))
    return tmp_path


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    """data/cifar100/cifar-100-python/ with a picture a class for training and one for the test."""
    folder = tmp_path / "data" / "cifar100" / "cifar-100-python"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, per_class in (("train", 1), ("test", 1)):
        count = 100 * per_class
        batch = {
            "data": random.integers(0, 256, (count, 3072), dtype=np.uint8),
            "fine_labels": [i % 100 for i in range(count)],
        }
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"class{i}" for i in range(100)]}))
    return tmp_path


FAST = "--device cpu --workers 0"


@pytest.mark.parametrize(("dataset", "classes"), [("cifar100nc", 100), ("cifar80no", 80)])
def test_the_cifar_commands_run(dataset: str, classes: int, cifar: Path) -> None:
    command = (
        f"--gpu 0 --noise-type symmetric --closeset-ratio 0.2 --dataset {dataset} --epochs 2 --warmup-epochs 1 "
        f"--log out {FAST}"
    )
    assert papers.main("main.py", command.split()) == 0
    record = read_run("out")
    assert record.status["state"] == "finished"
    assert [row["epoch"] for row in record.metrics] == [0, 1]
    assert record.summary is not None
    assert (record.summary["num_train"], record.summary["num_test"]) == (100, classes)
    assert record.config["net"] == "cnn7"
    assert record.config["data"]["root"] == str(cifar)
    assert record.labels is not None
    assert record.noisy_labels().max() == classes - 1
    assert {"samples.csv", "net0.safetensors", "net1.safetensors"} <= {path.name for path in Path("out").iterdir()}


def test_a_run_is_resumed_with_its_command_or_alone(cifar: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"--method standard --epochs 1 --batch-size 100 --log out {FAST}"
    assert papers.main("main.py", command.split()) == 0
    assert papers.main("main.py", ["--resume", "out"]) == 0
    assert papers.main("main.py", [*command.split(), "--resume", "out"]) == 0
    assert "is finished" in capsys.readouterr().err
    assert papers.main("main.py", [*command.split(), "--lr", "0.5", "--resume", "out"]) == 2
    assert "protocol.plan.lr: 0.01 there, 0.5 now" in capsys.readouterr().err


def test_the_web_command_runs(web: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(papers.NETS, "resnet18", "cnn_small")
    command = f"--gpu 0 --dataset web-aircraft --model Resnet18 --weights none --epochs 2 --warmup-epochs 1 {FAST}"
    assert papers.main("main_web.py", [*command.split(), "--batch-size", "4"]) == 0
    assert "web-aircraft has 2 classes, the published web-aircraft 100" in capsys.readouterr().err
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("acto-web-aircraft-")
    assert read_run(folder).config["acto"]["selection"] == "robust"


def test_the_food101n_command_runs(food: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(papers.NETS, "resnet18", "cnn_small")
    command = (
        "--gpu 9 --warmup-epoch 1 --epoch 2 --batch-size 4 --lr 0.0005 --lr1 0.001 --warmup-lr 0.001 "
        f"--lr-decay cosine:5,5e-5,50 --opt sgd --dataset food101n --model Resnet18 --ablation true {FAST}"
    )
    assert papers.main("main_food101n.py", [*command.split(), "--weights", "none"]) == 0
    (folder,) = Path("runs/ablation").iterdir()
    record = read_run(folder)
    assert record.summary is not None
    assert (record.summary["num_train"], record.summary["num_test"]) == (12, 4)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_are_there(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: {script}")
    assert f"(default: {papers.DEFAULT_DATASETS[script]})" in shown
