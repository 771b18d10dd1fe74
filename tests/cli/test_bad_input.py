"""Bad input: every kind ends with exit code 2 and one message that names the thing and the choices."""

from __future__ import annotations

import csv
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from acto.cli import main
from acto.run_folder.reading import read_run
from acto.run_folder.writing import RunFolder

DIGITS = ["--data", "digits", "--method", "standard", "--device", "cpu", "--subset", "100", "--epochs", "1"]
SMALL = ["--method", "standard", "--device", "cpu", "--epochs", "1", "--batch-size", "4"]

Refuse = Callable[..., str]


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Runs `acto train` in an empty folder, checks that it exits with 2 and writes nothing, and returns the message."""
    monkeypatch.delenv("ACTO_DATA_ROOT", raising=False)
    start = tmp_path / "start"
    start.mkdir()
    monkeypatch.chdir(start)

    def command(*tokens: str) -> str:
        assert main(["train", *tokens]) == 2
        assert list(start.iterdir()) == []
        message = capsys.readouterr().err
        assert "Traceback" not in message
        assert message.count("error: ") == 1
        return message

    return command


def picture(path: Path, seed: int = 0, side: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label in ("cat", "dog"):
        for i in range(10):
            picture(tmp_path / "pets" / label / f"{i}.png", i)
    return tmp_path / "pets"


# Settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--data digit", "unknown data source 'digit', and no folder of that name. Did you mean 'digits'? Choices: "),
        ("--data no/such/folder", "data source no/such/folder does not exist"),
        ("--method acot", "unknown method 'acot'. Did you mean 'acto'? Choices: acto, afm, "),
        ("--noise-rat 0.2", "unknown flag '--noise-rat'. Did you mean '--noise-rate'?"),
        ("--acto.taw 0.2", "unknown flag '--acto.taw'. Did you mean '--acto.tau'?"),
        ("--pencil.alpha 1", "--pencil.alpha is a setting of method 'pencil', but the method is 'acto'"),
        ("--noise symetric --noise-rate 0.2", "unknown noise kind 'symetric'. Did you mean 'symmetric'? Choices: "),
        ("--noise symmetric --noise-rate 1.2", "noise rate is 1.2, but must lie in [0, 1]"),
        ("--noise symmetric --noise-rate .nan", "noise rate is nan, but must lie in [0, 1]"),
        ("--noise-rate nan", "data.noise.rate must be a number, but got 'nan'"),
        ("--noise-rate 0.2", "noise kind 'none' has no rate to set"),
        ("--acto.tau -0.1", "tau is -0.1, but must lie in [0, inf]"),
        ("--epochs 3 --acto.warmup_epochs 5", "warmup_epochs is 5, more than the 3 epochs of the run"),
        ("--epochs 0", "epochs is 0, but must lie in [1, inf]"),
        ("--epochs 2.5", "protocol.epochs must be a whole number, but got '2.5'"),
        ("--lr ten", "protocol.plan.lr must be a number, but got 'ten'"),
        ("--acto.mining perhaps", "acto.mining must be true or false, but got 'perhaps'"),
        ("--optimizer sdg", "protocol.optimizer must be one of sgd, adam, but got 'sdg'. Did you mean 'sgd'?"),
        ("--device gpu", "device 'gpu' is not on this machine. Choices: auto, "),
        ("--data digits --precision half", "unknown precision 'half'. Choices: auto, bfloat16, float16, float32"),
        ("--data digits --net cnn", "unknown net 'cnn'. Did you mean 'cnn7'?"),
        ("--data digits --net cnn7", "net 'cnn7' needs pictures of shape (3, 32, 32), but these are (1, 8, 8)"),
        (
            "--data digits --weights no-such-file",
            "weights 'no-such-file' are neither 'torchvision' nor 'timm' nor a file",
        ),
        ("--schedule cosine:1,5", "schedule 'cosine:1,5' ends at 5, not below the rate lr=0.05"),
        ("--epochs", "argument --protocol.epochs: expected one argument"),
        ("--data cifar100nc", "cifar100nc needs a data root: give --data-root FOLDER or set ACTO_DATA_ROOT"),
        ("--data cifar100nc --data-root nowhere", "data root nowhere (from --data-root) does not exist"),
        ("--data web-car --noise symmetric --noise-rate 0.2", "the labels of web-car are noisy as they come"),
        ("--resume nowhere", "nowhere is no run's folder"),
        ("--config nowhere.yaml", "cannot read the settings in nowhere.yaml"),
        ("digits", "unrecognized arguments: digits"),
    ],
)
def test_settings(flags: str, message: str, refuse: Refuse) -> None:
    assert message in refuse(*flags.split())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed: 3", "unknown setting 'sed'. Did you mean 'seed'?"),
        ("protocol: {epoch: 3}", "unknown setting 'protocol.epoch'. Did you mean 'protocol.epochs'?"),
        ("protocol: 3", "protocol is a section of settings, but got 3"),
        ("pencil: {alpha: 1}", "pencil.alpha is a setting of method 'pencil', but the method is 'acto'"),
        (
            "protocol: {optimizer: sdg}",
            "protocol.optimizer must be one of sgd, adam, but got 'sdg'. Did you mean 'sgd'?",
        ),
        (
            "acto: {memory_dtype: float8}",
            "must be one of float32, float16, bfloat16 or null, but got 'float8'. Did",
        ),
        ("seed: {a: 1}", "seed must be a whole number, but got {'a': 1}"),
        ("seed: null", "seed must be a whole number, but got None"),
        ("acto: {tau: small}", "acto.tau must be a number, but got 'small'"),
        ("acto: {tau: -1}", "tau is -1.0, but must lie in [0, inf]"),
        ("net: os:system", "net 'os:system' names code to run"),
        ("!!python/object/apply:os.system ['true']", "cannot read the settings"),
        ("- a list", "holds no settings"),
        ("seed: [1", "cannot read the settings"),
    ],
)
def test_a_file_of_settings(text: str, message: str, refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text(text)
    assert message in refuse("--config", str(tmp_path / "settings.yaml"))


def test_settings_are_checked_before_anything_is_read(
    folder: Path, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*args: object, **kwargs: object) -> None:
        raise AssertionError("data was read")

    monkeypatch.setattr("acto.runs.resolve.load_data", read)
    monkeypatch.setattr("acto.cli.train.load_data", read)
    assert "tau is -1.0" in refuse("--data", str(folder), "--acto.tau", "-1")
    assert "more than the 2 epochs" in refuse("--data", str(folder), "--epochs", "2", "--warmup-epochs", "3")
    assert "noise rate is 7.0" in refuse("--data", str(folder), "--noise", "symmetric", "--noise-rate", "7")


# Data -----------------------------------------------------------------------------------------------------------


def test_an_empty_class(folder: Path, refuse: Refuse) -> None:
    (folder / "fish").mkdir()
    assert "class 'fish' is empty" in refuse("--data", str(folder), *SMALL)


def manifest(folder: Path, rows: list[tuple[str, str]]) -> Path:
    path = folder / "labels.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    return path


def test_a_row_of_a_table_whose_file_is_missing(folder: Path, refuse: Refuse) -> None:
    rows = [(f"{label}/{i}.png", label) for label in ("cat", "dog") for i in range(10)]
    path = manifest(folder, [*rows, ("dog/77.png", "dog")])
    message = refuse("--data", str(path), *SMALL)
    assert "row 22" in message
    assert "dog/77.png" in message


def test_a_label_out_of_range(folder: Path, refuse: Refuse) -> None:
    rows = [(f"{label}/{i}.png", number) for label, number in (("cat", "0"), ("dog", "1")) for i in range(10)]
    path = manifest(folder, [*rows[:-1], ("dog/9.png", "5")])
    message = refuse("--data", str(path), "--data.classes", "[cat, dog]", *SMALL)
    assert "label out of range 0..1 (1 row): labels.csv row 21" in message
    assert "'5'" in message


@pytest.mark.parametrize("kind", ["truncated", "empty"])
def test_a_picture_that_cannot_be_decoded(kind: str, folder: Path, refuse: Refuse, tmp_path: Path) -> None:
    bad = folder / "cat" / "3.png"
    bad.write_bytes(bad.read_bytes()[:200] if kind == "truncated" else b"")
    message = refuse("--data", str(folder), *SMALL)
    assert "1 of 20 pictures of pets cannot be used: cat/3.png" in message
    assert "--on-bad-image drop" in message
    out = tmp_path / "out"
    flags = ["--data", str(folder), *SMALL, "--on-bad-image", "drop", "--data.holdout_share", "0.2", "--out", str(out)]
    assert main(["train", *flags]) == 0
    ids = set(read_run(out).samples()["id"])
    everything = {f"{label}/{i}.png" for label in ("cat", "dog") for i in range(10)}
    assert ids < everything - {"cat/3.png"}  # the others are called what they were called
    assert len(ids) == 19 - 4
    assert read_run(out).config["data"]["on_bad_image"] == "drop"


def test_a_malicious_pickle_in_a_cifar_archive(tmp_path: Path, refuse: Refuse) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "attacked"),)

    folder = tmp_path / "cifar100" / "cifar-100-python"
    folder.mkdir(parents=True)
    for name in ("train", "test", "meta"):
        (folder / name).write_bytes(pickle.dumps({"data": Attack()}))
    message = refuse("--data", "cifar100", "--data-root", str(tmp_path))
    assert "mkdir" in message
    assert not (tmp_path / "attacked").exists()


# Folders --------------------------------------------------------------------------------------------------------


def test_a_folder_that_holds_something(tmp_path: Path, refuse: Refuse) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").touch()
    assert "thesis is not empty" in refuse(*DIGITS, "--out", str(tmp_path / "thesis"))
    assert "holds no run" in refuse(*DIGITS, "--out", str(tmp_path / "thesis"), "--overwrite")
    assert (tmp_path / "thesis" / "chapter1").exists()


def test_a_folder_that_holds_a_run(tmp_path: Path, refuse: Refuse) -> None:
    out = tmp_path / "run"
    assert main(["train", *DIGITS, "--out", str(out)]) == 0
    message = refuse(*DIGITS, "--out", str(out))
    assert "is not empty; go on with --resume, start over with --overwrite" in message
    assert main(["train", *DIGITS, "--seed", "5", "--out", str(out), "--overwrite"]) == 0
    assert read_run(out).config["seed"] == 5


def test_a_folder_in_use(tmp_path: Path, refuse: Refuse) -> None:
    with RunFolder.create(tmp_path / "run", config={"method": "standard"}):
        assert "in use" in refuse(*DIGITS, "--out", str(tmp_path / "run"), "--overwrite")
        assert "in use" in refuse("--resume", str(tmp_path / "run"))


# Other commands -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "trian",
            "unknown command 'trian'. Did you mean 'train'? Choices: apply, audit, ",
        ),
        ("methods acot", "unknown method 'acot'. Did you mean 'acto'?"),
        ("methods --jsn", "unknown argument '--jsn'"),
        ("data chek digits", "unknown command 'data chek'. Did you mean 'data check'?"),
        ("data check", "needs a SOURCE"),
        ("data check digits --epochs 3", "takes settings of the data only, not protocol"),
        ("data check digit", "unknown data source 'digit'"),
        ("data check digits --data.cache x", "`acto data shrink FOLDER"),
        ("doctor nowhere", "nowhere is no run's folder"),
        ("doctor --data-rot x", "unknown argument '--data-rot'. Did you mean '--data-root'?"),
    ],
)
def test_other_commands(command: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command.split()) == 2
    assert message in capsys.readouterr().err
