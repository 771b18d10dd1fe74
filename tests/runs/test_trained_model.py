"""A trained model comes back as what was evaluated: for every method, every kind of data, with its temperature."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.special import softmax
from torch import Tensor

from acto.cli.predict import predict
from acto.core.errors import RunError, UserError
from acto.data.for_prediction import read_new
from acto.data.noise import NoiseSpec
from acto.data.samples import DataSpec
from acto.data.sources import load_data as load_data
from acto.data.views.spec import ViewSpec
from acto.methods import METHODS
from acto.methods.standard import Standard
from acto.nets.build import build_net
from acto.run_folder.reading import read_run
from acto.run_folder.writing import RunFolder
from acto.runs.calibration import (
    FEWEST_SAMPLES,
    Calibration,
    calibrate,
    expected_calibration_error,
    fit_temperature,
    read_calibration,
)
from acto.runs.execute import train_run
from acto.runs.run import Run
from acto.runs.trained_model import Headline, load_model
from acto.training.plans import Plan
from acto.training.protocol import Protocol
from toys import TOYS, make_problem
from trained_runs import CLASSES, finished_run, random_net

PROBLEM = make_problem()


@pytest.mark.parametrize("name", METHODS)
def test_the_headline_is_what_the_method_predicts(name: str) -> None:
    torch.manual_seed(0)
    method = METHODS[name](
        TOYS[name].config, PROBLEM.task, partial(build_net, "mlp:8", input_shape=(8,), num_classes=4)
    )
    method.eval()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    inputs = 3 * torch.randn(16, 8)
    with torch.no_grad():
        weights = method.headline_weights()
        expected = next(iter(method.predict(inputs).values()))
        found = Headline(list(method.nets), weights)(inputs)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert len(weights) == len(method.nets)
    assert method.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


def test_a_headline_of_another_form_is_not_taken_for_one() -> None:
    class MeanOfProbs(Standard):
        num_nets = 2

        def predict(self, images: Tensor) -> dict[str, Tensor]:
            return {"net": sum(F.softmax(net(images), dim=1) for net in self.nets) / 2}

    make = partial(build_net, "mlp:8", input_shape=(8,), num_classes=4)
    with pytest.raises(AssertionError, match="no softmax of a sum of logits"):
        MeanOfProbs(Standard.Config(), PROBLEM.task, make).headline_weights()


def test_temperature_and_weights_by_hand() -> None:
    first, second = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])

    class Says(torch.nn.Module):
        def __init__(self, logits: Tensor) -> None:
            super().__init__()
            self.logits = logits

        def forward(self, inputs: Tensor) -> Tensor:
            return self.logits

    model = Headline([Says(first), Says(second)], [1.0, 0.5], temperature=2.0)
    # Logits (2, 2) / 2: even. With the second alone (0, 4) / 2: 1 / (1 + e^2).
    assert model(torch.zeros(1)).tolist() == [[0.5, 0.5]]
    alone = Headline([Says(second)], [1.0], temperature=2.0)
    assert alone(torch.zeros(1))[0, 0].item() == pytest.approx(0.11920292)


# Whole runs -----------------------------------------------------------------------------------------------------


def short_run(source: str, method: str, **data: object) -> Run:
    return Run(
        data=DataSpec(source=source, **data),
        method=method,
        config=TOYS[method].config,
        net="cnn_tiny",
        protocol=Protocol(epochs=5 if method == "ca2c" else 2, batch_size=32, plan=Plan(lr=0.05)),
        precision="float32",
        device="cpu",
        workers=0,
    )


@pytest.mark.parametrize("method", ["acto", "ca2c", "dividemix"])
def test_a_runs_model_gives_the_runs_probabilities(method: str, tmp_path: Path) -> None:
    run = short_run("digits", method, noise=NoiseSpec(kind="symmetric", rate=0.4), subset=200)
    train_run(run, tmp_path / "run")
    model = load_model(tmp_path / "run")
    train = load_data(run.data).train
    probs = model.predict_proba(train, device="cpu", batch_size=64)
    assert model.class_names == tuple("0123456789") and model.input_shape == (1, 8, 8) and model.method == method
    np.testing.assert_allclose(probs, read_run(tmp_path / "run").pred_probs(), atol=1e-5)
    assert model.temperature == 1.0, "digits has a real test set, which may not choose a temperature"
    assert "must not choose" in json.loads((tmp_path / "run" / "calibration.json").read_text())["reason"]
    assert np.array_equal(probs, model.predict_proba(train.pixels, device="cpu", batch_size=64))
    assert np.array_equal(model.predict(train.pixels, device="cpu"), probs.argmax(1))


def picture_folder(folder: Path, *, sides: tuple[int, ...], each: int) -> Path:
    """Two classes of pictures, dark and bright; sides go round."""
    random = np.random.RandomState(0)
    for k, name in enumerate(("dark", "light")):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            side = sides[i % len(sides)]
            pixels = random.randint(0, 100, (side, side + 4, 3)) + 120 * k
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i:03}.png")
    return folder


def test_picture_files_are_scaled_and_cut_as_in_training_and_a_hold_out_gives_the_temperature(tmp_path: Path) -> None:
    source = picture_folder(tmp_path / "data", sides=(40, 50, 72), each=120)
    run = short_run(str(source), "standard", size=24, holdout_share=0.25)
    train_run(run, tmp_path / "run")
    model = load_model(tmp_path / "run")
    calibration = read_calibration(tmp_path / "run")
    assert calibration.num_holdout == 60 and calibration.noise_rate_holdout is not None
    assert model.temperature == calibration.temperature != 1.0
    everything = read_new(str(source)).samples
    by_id = dict(zip(everything.ids, model.predict_proba(everything, device="cpu"), strict=True))
    record = read_run(tmp_path / "run")
    logits = np.log(np.maximum(record.pred_probs(), 1e-30)) / model.temperature
    expected = softmax(logits, axis=1)
    np.testing.assert_allclose([by_id[name] for name in record.samples()["id"]], expected, atol=1e-4)
    with pytest.raises(UserError, match=r"takes picture files, but these are pixels in memory"):
        model.predict_proba(np.zeros((1, 24, 24, 3), np.uint8))


# Loading --------------------------------------------------------------------------------------------------------


def test_a_network_without_a_say_is_not_read(tmp_path: Path) -> None:
    made = finished_run(tmp_path / "run", "mlp:8", (4,), headline=(0.0, 1.0), temperature=2.0)
    model = load_model(tmp_path / "run")
    assert len(model.nets) == 1 and not any(net.training for net in model.nets)
    features = np.array([[1, 3, 5, 7], [1, 1, 1, 1]], np.float32)
    normalized = torch.tensor([[0.0, 1, 2, 3], [0, 0, 0, 0]])  # mean 1, deviation 2
    expected = F.softmax(made[1](normalized).detach() / 2, dim=1)
    np.testing.assert_allclose(model.predict_proba(features, device="cpu"), expected, atol=1e-6)


def test_runs_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run's folder"):
        load_model(tmp_path)
    with RunFolder.create(tmp_path / "run", config={"data": {}}) as run:
        run.set_status("interrupted", epoch=2)
    with pytest.raises(UserError, match=r"has no model yet \(interrupted\).*--resume"):
        load_model(tmp_path / "run")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file[:-40], "do not fit net 'mlp:8'"),
        (lambda file: b"\xff" * 20, "is damaged, or no model of ours"),
        (lambda file: file.replace(b'\\"headline\\"', b'\\"heedline\\"'), "does not say what is needed"),
        (lambda file: file.replace(b"vectors", b"vektors"), "unknown pipeline 'vektors'"),
        (lambda file: file.replace(b"mlp:8", b"os:ab"), "runs foreign code"),
    ],
)
def test_damaged_and_foreign_models(damage: Callable[[bytes], bytes], message: str, tmp_path: Path) -> None:
    finished_run(tmp_path / "run", "mlp:8", (4,))
    path = tmp_path / "run" / "net0.safetensors"
    damaged = damage(path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    with pytest.raises((RunError, UserError), match=message):
        load_model(tmp_path / "run")


def foreign_net(input_shape: tuple[int, ...], num_classes: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(input_shape[0], num_classes))


def test_a_network_of_the_users_own_is_run_only_if_trusted(tmp_path: Path) -> None:
    finished_run(tmp_path / "run", f"{__name__}:foreign_net", (4,))
    with pytest.raises(UserError, match="runs foreign code"):
        load_model(tmp_path / "run")
    assert load_model(tmp_path / "run", trust=True).predict_proba(np.zeros((2, 4)), device="cpu").shape == (2, 3)


# What a model refuses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 5)), "takes feature vectors of 4 numbers, but these have 5 features"),
        (np.zeros((2, 8, 8), np.uint8), "takes feature vectors of 4 numbers, but these are pictures"),
        (np.zeros((2, 2, 2, 2)), "it is float64 of"),
        (np.array([["a"]]), "it is <U1 of"),
        (np.array([[0, 0, 0, 0], [0, np.nan, 0, 0]]), "1 sample with features that are not finite: 1"),
    ],
)
def test_features_that_do_not_suit(array: np.ndarray, message: str, tmp_path: Path) -> None:
    finished_run(tmp_path / "run", "mlp:8", (4,))
    with pytest.raises(UserError, match=message):
        load_model(tmp_path / "run").predict_proba(array, device="cpu")


def test_no_samples_give_no_rows(tmp_path: Path) -> None:
    finished_run(tmp_path / "run", "mlp:8", (4,))
    assert load_model(tmp_path / "run").predict_proba(np.zeros((0, 4)), device="cpu").shape == (0, 3)


def test_pictures_of_one_size(tmp_path: Path) -> None:
    finished_run(tmp_path / "grey", "cnn_tiny", (1, 8, 9))
    finished_run(tmp_path / "colour", "cnn_tiny", (3, 8, 9))
    grey, colour = load_model(tmp_path / "grey"), load_model(tmp_path / "colour")
    pixels = np.random.RandomState(0).randint(0, 256, (3, 8, 9)).astype(np.uint8)
    (tmp_path / "new" / "deep").mkdir(parents=True)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / "new" / ("deep" if i else "") / f"{i}.png")
    files = read_new(str(tmp_path / "new")).samples
    assert files.ids == ("0.png", "deep/1.png", "deep/2.png")
    for model in (grey, colour):
        assert np.array_equal(model.predict_proba(files, device="cpu"), model.predict_proba(pixels, device="cpu"))
    with pytest.raises(UserError, match=r"8x9 pixels and 1 channel, but these are 8x9 pixels and 3 channels"):
        grey.predict_proba(np.zeros((1, 8, 9, 3), np.uint8), device="cpu")
    Image.fromarray(np.zeros((9, 1), np.uint8)).save(tmp_path / "new" / "thin.png")
    (tmp_path / "new" / "torn.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"2 of 5 cannot be used: thin.png \(it has 1x9.*torn.png \(not a picture"):
        grey.predict_proba(read_new(str(tmp_path / "new")).samples, device="cpu")


# The temperature ------------------------------------------------------------------------------------------------


def noisy_hold_out(*, temperature: float, rate: float, count: int, classes: int = 10) -> tuple[np.ndarray, ...]:
    """Probabilities that are too flat or too sharp, true labels and given ones."""
    random = np.random.RandomState(0)
    logits = 2 * random.randn(count, classes)
    logits[np.arange(count), random.randint(0, classes, count)] += 4
    truth = (softmax(logits, axis=1).cumsum(1) > random.rand(count, 1)).argmax(1)
    given = np.where(random.rand(count) < rate, (truth + random.randint(1, classes, count)) % classes, truth)
    return softmax(logits * temperature, axis=1), truth, given


@pytest.mark.parametrize(("temperature", "rate"), [(0.4, 0.3), (1.0, 0.0), (2.5, 0.4)])
def test_temperature_and_noise_rate_are_recovered(temperature: float, rate: float) -> None:
    probs, truth, given = noisy_hold_out(temperature=temperature, rate=rate, count=4000)
    found, found_rate = fit_temperature(probs.astype(np.float32), given)
    assert found == pytest.approx(temperature, rel=0.1) and found_rate == pytest.approx(rate, abs=0.03)
    after = expected_calibration_error(softmax(np.log(probs) / found, axis=1), truth)
    assert after < 0.03
    assert temperature == 1.0 or expected_calibration_error(probs, truth) > 3 * after
    assert fit_temperature(probs.astype(np.float32), given) == (found, found_rate)


def test_a_model_without_faults_does_not_freeze() -> None:
    labels = np.arange(60) % 3
    temperature, rate = fit_temperature(np.eye(3)[labels] * 0.7 + 0.1, labels)
    assert 0.2 < temperature < 1 and rate < 0.01


def test_probabilities_that_are_zero_on_the_given_label() -> None:
    temperature, rate = fit_temperature(np.tile([1.0, 0.0], (60, 1)), np.array([0] * 45 + [1] * 15))
    assert np.isfinite(temperature) and rate == pytest.approx(0.25, abs=0.02)


def test_where_nothing_is_fitted() -> None:
    few = calibrate((np.full((FEWEST_SAMPLES - 1, 2), 0.5), np.zeros(FEWEST_SAMPLES - 1, np.int64)))
    assert (few.temperature, few.num_holdout) == (1.0, FEWEST_SAMPLES - 1) and "fewer than 50" in few.reason
    bad = calibrate((np.full((60, 2), np.nan), np.zeros(60, np.int64)))
    assert bad.temperature == 1.0 and "not finite" in bad.reason
    assert calibrate(None).temperature == 1.0


def test_only_so_many_held_out_samples_are_looked_at() -> None:
    probs, _, given = noisy_hold_out(temperature=2.0, rate=0.2, count=6000)
    found = calibrate((probs, given))
    assert found.num_holdout == 5000 and found.temperature == pytest.approx(2.0, rel=0.1)


def test_expected_calibration_error_by_hand() -> None:
    # Bins of 0.5: 0.6 and 0.8 (one of two right) lie 0.2 apart from 0.5; 0.4 is right: 0.6 apart.
    probs = np.array([[0.6, 0.2, 0.2], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
    error = expected_calibration_error(probs, np.array([0, 0, 2]), bins=2)
    assert error == pytest.approx((2 * 0.2 + 0.6) / 3)


def test_a_damaged_calibration_is_refused(tmp_path: Path) -> None:
    assert read_calibration(tmp_path) == Calibration()
    for text in ("{", '{"temperature": -1}', '{"temperature": NaN}', '{"warmth": 1}', '{"temperature": "hot"}'):
        (tmp_path / "calibration.json").write_text(text)
        with pytest.raises(RunError, match=r"calibration.json is damaged"):
            read_calibration(tmp_path)
    saved = Calibration(temperature=0.5, noise_rate_holdout=0.25, num_holdout=80, reason="because")
    (tmp_path / "calibration.json").write_bytes(saved.to_json())
    assert read_calibration(tmp_path) == saved


# acto predict ---------------------------------------------------------------------------------------------------


@pytest.fixture
def fruit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run on vectors of 4 features, in the current folder."""
    monkeypatch.chdir(tmp_path)
    finished_run(tmp_path / "run", "mlp:8", (4,), temperature=0.5)
    return tmp_path


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_on_stdout(fruit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = np.random.RandomState(0).randn(5, 4)
    np.savez(fruit / "new.npz", x=features, labels=np.array(["no", "such", "class", "at", "all"]))
    assert predict(["run", "new.npz", "--probs", "--device", "cpu"]) == 0
    table = rows(capsys.readouterr().out)
    assert list(table[0]) == ["id", "predicted_label", "confidence", "prob_apple", "prob_pear", "prob_quince"]
    net = random_net("mlp:8", (4,))
    expected = F.softmax(net(torch.from_numpy((features - 1) / 2).float()).detach() / 0.5, dim=1).numpy()
    for i, row in enumerate(table):
        assert row["id"] == str(i) and row["predicted_label"] == CLASSES[expected[i].argmax()]
        found = [float(row[f"prob_{name}"]) for name in CLASSES]
        np.testing.assert_allclose(found, expected[i], atol=1e-6)
        assert float(row["confidence"]) == max(found)


def test_both_splits_and_own_ids(fruit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(fruit / "new.npz", features=np.zeros((2, 4)), test_x=np.ones((1, 4)), ids=np.array(["=a", "b"]))
    assert predict(["run", "new.npz", "--json", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["id"], row["split"]) for row in found] == [("=a", "train"), ("b", "train"), ("0", "test")]
    assert predict(["run", "new.npz", "--out", "p.csv", "--device", "cpu"]) == 0
    assert "3 predictions in p.csv" in capsys.readouterr().out
    assert [row["id"] for row in rows((fruit / "p.csv").read_text())] == ["'=a", "b", "0"]


def test_parquet(fruit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    np.save(fruit / "new.npy", np.zeros((2, 4), np.float32))
    assert predict(["run", "new.npy", "--out", "p.parquet", "--json", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": "p.parquet", "num_samples": 2}
    assert parquet.read_table(fruit / "p.parquet").column_names == ["id", "predicted_label", "confidence"]


def test_tables_need_no_labels(fruit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished_run(fruit / "grey", "cnn_tiny", (1, 8, 8))
    for name in ("a", "b"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(fruit / f"{name}.png")
    (fruit / "new.csv").write_text("file,split\nb.png,nonsense\n\na.png,\n")
    assert predict(["grey", "new.csv", "--path-column", "file", "--device", "cpu"]) == 0
    assert [row["id"] for row in rows(capsys.readouterr().out)] == ["b.png", "a.png"]
    (fruit / "own.csv").write_text("path,label,sample_id\nb.png,x,c1/b.png\n")
    assert predict(["grey", "own.csv", "--device", "cpu"]) == 0
    assert rows(capsys.readouterr().out)[0]["id"] == "c1/b.png"
    assert predict(["grey", "a.png", "--device", "cpu"]) == 0
    assert rows(capsys.readouterr().out)[0]["id"] == "a.png"


def test_notes_go_to_stderr(fruit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished_run(fruit / "grey", "cnn_tiny", (1, 8, 8))
    (fruit / "new").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(fruit / "new" / "a.png")
    (fruit / "new" / "read.me").write_text("")
    assert predict(["grey", "new", "--device", "cpu"]) == 0
    said = capsys.readouterr()
    assert "1 file is no picture and was left out, the first: read.me" in said.err and said.out.count("\n") == 2


def test_a_named_source_is_read_with_both_its_splits() -> None:
    data = read_new("digits")
    assert data.splits.count("train") == 1347 and data.splits.count("test") == 450
    assert len(data.samples) == 1797 and not data.samples.labels.any()


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["run"], "SOURCE"),
        (["run", "nothing"], "data source nothing does not exist"),
        (["run", "digitz"], "Did you mean 'digits'"),
        (["run", "folder"], "needs its place"),
        (["run", "empty"], "empty has no picture"),
        (["run", "new.txt"], "is no folder, picture"),
        (["run", "outside.csv"], r"outside.csv row 2: '../a.png' is no path inside"),
        (["run", "absolute.csv"], r"absolute.csv row 2: '/a.png' is no path inside"),
        (["run", "twice.csv"], "a.png occurs in rows 2, 3"),
        (["run", "ragged.csv"], "row 2 has 1 cell, the heading 2"),
        (["run", "bare.csv"], "a table without a column of picture files.*columns 'a'"),
        (["run", "labels.npz"], r"has no samples \(x or images or features\); it holds 'y'"),
        (["run", "wide.npz"], "takes feature vectors of 4 numbers, but these have 5 features"),
        (["run", "same.npz"], "ids must name each of the 2 samples differently"),
        (["run", "wide.npz", "--out", "p.txt"], "must end in .csv or .parquet"),
        (["run", "wide.npz", "--out", "none/p.csv"], "none does not exist"),
        (["run", "bare.csv", "--out", "bare.csv"], "is the source itself"),
        (["run", "wide.npz", "--device", "gpu"], "device 'gpu' is not on this machine"),
        (["run", "wide.npz", "--batch-size", "0"], "batch_size is 0"),
        (["run", "wide.npz", "--prob"], "unknown argument '--prob'. Did you mean '--probs'"),
    ],
)
def test_what_cannot_be_predicted(tokens: list[str], message: str, fruit: Path) -> None:
    (fruit / "empty").mkdir()
    (fruit / "new.txt").write_text("")
    (fruit / "outside.csv").write_text("path\n../a.png\n")
    (fruit / "absolute.csv").write_text("path\n/a.png\n")
    (fruit / "twice.csv").write_text("path\na.png\na.png\n")
    (fruit / "ragged.csv").write_text("path,label\na.png\n")
    (fruit / "bare.csv").write_text("a\nb\n")
    np.savez(fruit / "labels.npz", y=np.zeros(2))
    np.savez(fruit / "wide.npz", x=np.zeros((2, 5)))
    np.savez(fruit / "same.npz", x=np.zeros((2, 4)), ids=np.array(["a", "a"]))
    before = sorted(path.name for path in fruit.iterdir())
    with pytest.raises(UserError, match=message):
        predict(tokens)
    assert sorted(path.name for path in fruit.iterdir()) == before


def test_views_are_the_runs_own(tmp_path: Path) -> None:
    finished_run(tmp_path / "run", "cnn_tiny", (1, 8, 8), views=ViewSpec(pipeline="digits", mean=(0.2,), std=(0.4,)))
    (batch,) = load_model(tmp_path / "run").inputs(np.full((1, 8, 8), 102, np.uint8))
    torch.testing.assert_close(batch, torch.full((1, 1, 8, 8), 0.5))  # (102 / 255 - 0.2) / 0.4
