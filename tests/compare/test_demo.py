from __future__ import annotations

import base64
import contextlib
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from acto.cli import demo as demo_command
from acto.cli import main
from acto.compare import demo, demo_page, demo_trials
from acto.compare.demo_page import Suspect
from acto.compare.demo_trials import Outcome, Outcomes, SmallMLP, Trial, learn_confidently, train
from acto.data.samples import Dataset, Samples
from acto.data.views.spec import ViewSpec
from acto.pages.charts import Curve, draw
from acto.runs.recipes.by_data import setting_for

QUICK = replace(setting_for("digits"), epochs=3, warmup_epochs=1)
QUICK_MLP = SmallMLP(width=8, epochs=2, folds=2)


def blocks(*, count: int = 240, wrong: int = 60, pure_noise: bool = False) -> Dataset:
    """Four classes, each with its own bright quarter of an 8x8 picture; the first `wrong` training labels are wrong."""
    random = np.random.RandomState(0)
    true = np.arange(count) % 4
    pixels = random.randint(0, 100, (count, 8, 8, 1)).astype(np.uint8)
    if not pure_noise:
        for i, label in enumerate(true):
            row, column = divmod(int(label), 2)
            pixels[i, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 150

    def samples(index: np.ndarray, labels: np.ndarray) -> Samples:
        return Samples(ids=tuple(map(str, index)), labels=labels[index], true_labels=true[index], pixels=pixels[index])

    given = np.where(np.arange(count) < wrong, (true + 1 + random.randint(0, 3, count)) % 4, true)
    if pure_noise:
        given = random.randint(0, 4, count)
    split = count - 40
    return Dataset(
        name="blocks",
        train=samples(np.arange(split), given),
        test=samples(np.arange(split, count), true),
        class_names=("a", "b", "c", "d"),
        test_labels_are_given=False,
        noise={"kind": "symmetric", "rate": wrong / count, "rate_realised": None},
        views=ViewSpec(pipeline="digits", mean=(0.3,), std=(0.25,)),
    )


def outcome(accuracy: float, **changes: Any) -> Outcome:
    values = {
        "accuracies": {"net": [accuracy] * 3},
        "label_quality": np.array([0.1, 0.4, 0.8]),
        "suggested": np.array([2, 1, 0]),
        "label_is_true": np.array([False, True, True]),
        "labels_sha256": "0" * 64,
        "seconds": 2.0,
    }
    return Outcome(**(values | changes))


def outcomes_of(accuracies: dict[str, Sequence[float]]) -> Outcomes:
    """The same accuracies, one a seed, at every rate."""
    return {
        Trial(method=method, rate=rate, seed=seed): outcome(value)
        for method, values in accuracies.items()
        for rate in demo_trials.RATES
        for seed, value in enumerate(values)
    }


# Confident learning and training.


def test_confident_learning_finds_the_wrong_labels_and_learns_without_them() -> None:
    found = learn_confidently(blocks(), SmallMLP(width=20, epochs=60), seed=0)
    assert found.auroc > 0.97
    assert found.accuracy > 0.95
    assert len(found.accuracies["mlp"]) == 10
    wrong = ~found.label_is_true
    assert np.mean(found.suggested[wrong] == blocks().train.true_labels[wrong]) > 0.9


def test_confident_learning_judges_a_label_only_by_networks_that_have_not_seen_it() -> None:
    # Nothing can be learned here but the labels themselves: networks that had seen them would be sure of every one.
    found = learn_confidently(blocks(pure_noise=True), SmallMLP(width=100, epochs=150), seed=0)
    assert np.mean(found.label_quality) < 0.45


def test_the_mlp_trains_as_long_as_asked_and_then_goes_on_in_new_orders() -> None:
    data = blocks()
    images, labels = demo_trials._flat(data, data.train.pixels), data.train.labels
    net = demo_trials._fit_mlp(images, labels, SmallMLP(width=8), epochs=30, seed=3)
    assert net.n_iter_ == 30
    states = [net.random_state.get_state()[1:3]]
    for _ in range(2):
        net.partial_fit(images, labels)
        states.append(net.random_state.get_state()[1:3])
    assert len({(keys.tobytes(), place) for keys, place in states}) == 3


@pytest.mark.parametrize(("method", "nets"), [("acto", ["rtm", "ntm"]), ("standard", ["net"])])
def test_training_reports_every_epoch_of_every_network(method: str, nets: list[str]) -> None:
    data = blocks()
    found = train(data, QUICK, method=method, seed=0)
    assert list(found.accuracies) == nets
    assert all(len(values) == 3 for values in found.accuracies.values())
    assert found.accuracy == pytest.approx(np.mean(found.accuracies[nets[0]]))
    assert found.suggested.shape == found.label_quality.shape == (200,)
    assert found.label_is_true.tolist() == [False] * 60 + [True] * 140
    again = train(data, QUICK, method=method, seed=0)
    assert again.accuracies == found.accuracies
    assert train(data, QUICK, method=method, seed=1).accuracies != found.accuracies


def test_the_headline_is_the_mean_of_the_last_ten_epochs() -> None:
    rising = [0.0] * 5 + [0.5, 0.9] * 5
    assert outcome(0, accuracies={"rtm": rising, "ntm": [1.0] * 15}).accuracy == pytest.approx(0.7)


def test_auroc_counts_pairs_of_a_wrong_and_a_true_label() -> None:
    assert outcome(0, label_quality=np.array([0.5, 0.4, 0.8])).auroc == pytest.approx(1 / 2)


def test_a_seed_decides_split_and_labels_for_every_method() -> None:
    first, again, other = (demo_trials.digits(rate=0.4, seed=seed) for seed in (1, 1, 2))
    assert first.train.ids == again.train.ids
    assert first.noise["sha256"] == again.noise["sha256"]
    assert (first.noise["seed"], other.noise["seed"]) == (1, 2)
    assert first.train.ids != other.train.ids
    assert not np.array_equal(first.train.labels[:50], other.train.labels[:50])
    assert set(first.train.ids).isdisjoint(first.test.ids)
    assert np.array_equal(first.test.labels, first.test.true_labels)
    assert first.noise["rate_realised"] == pytest.approx(0.4, abs=0.05)


def test_long_trials_come_first_and_every_one_occurs() -> None:
    trials = demo_trials.trials_of(range(2), methods=["standard", "acto"])
    assert [trial.method for trial in trials] == ["acto"] * 4 + ["standard"] * 4
    assert {(trial.rate, trial.seed) for trial in trials} == {(0.4, 0), (0.4, 1), (0.6, 0), (0.6, 1)}


# Comparison.


def test_difference_is_paired() -> None:
    # Differences 1, 2, 3, 4: mean 2.5, deviation sqrt(5/3); Student's t for 3 degrees of freedom at 97.5 % is 3.182446.
    found = demo.difference([11, 22, 33, 44], [10, 20, 30, 40])
    reach = 3.182446305 * (5 / 3) ** 0.5 / 2
    assert (found.mean, found.low, found.high) == pytest.approx((2.5, 2.5 - reach, 2.5 + reach))


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.001, 0.2, "ahead"),
        (0.0, 0.2, "undecided"),
        (-0.1, 0.2, "undecided"),
        (-0.2, 0.0, "undecided"),
        (-0.2, -0.001, "behind"),
    ],
)
def test_ahead_means_that_the_whole_interval_lies_above_zero(low: float, high: float, verdict: str) -> None:
    assert demo.Difference(mean=(low + high) / 2, low=low, high=high).verdict == verdict


def test_the_sentence_claims_no_more_than_the_intervals() -> None:
    better, same, worse = [0.90, 0.91, 0.92], [0.80, 0.99, 0.92], [0.70, 0.71, 0.72]
    rows = demo.summarize(outcomes_of({"acto": better, "standard": worse, "confident-learning": same}))
    assert demo.verdict(rows, rate=0.4) == (
        "40%: ACTO is ahead of Standard; no difference between ACTO and Confident learning is shown."
    )
    rows = demo.summarize(outcomes_of({"acto": worse, "standard": better, "confident-learning": better}))
    assert demo.verdict(rows, rate=0.6) == "60%: ACTO is behind Standard and Confident learning."


def test_summary_of_hand_written_numbers() -> None:
    rows = demo.summarize(outcomes_of({"standard": [0.5, 0.7], "acto": [0.8, 0.8]}))
    assert [(row["rate"], row["method"]) for row in rows] == [
        (0.4, "standard"), (0.4, "acto"), (0.6, "standard"), (0.6, "acto"),
    ]  # fmt: skip
    assert rows[0]["accuracy"] == pytest.approx(0.6)
    assert rows[0]["accuracy_sd"] == pytest.approx(0.02**0.5)
    assert rows[0]["acto_ahead"]["mean"] == pytest.approx(0.2)
    assert "acto_ahead" not in rows[1]
    assert demo.cells(rows[1]) == ("ACTO", "80.00 +- 0.00", "-", "1.000", "2.0")
    assert demo.cells(rows[0])[2] == "+20.00 (-107.06 to +147.06)"


# The report.


def test_chart_in_pixels() -> None:
    flat = Curve(name="flat", mean=np.array([0.5, 1.0, 0.75]), deviation=np.zeros(3))
    chart = draw("title", [flat], warmup_epochs=1, counted_epochs=2)
    left, right, top, bottom = chart.left, chart.right, chart.top, chart.bottom
    assert (left, right, top, bottom) == (46, 356, 14, 262)
    # The axis runs from 50 % to 100 %, from epoch 1 to 3.
    assert chart.lines[0].path == "46.0,262.0 201.0,14.0 356.0,138.0"
    assert chart.lines[0].band == "46.0,262.0 201.0,14.0 356.0,138.0 356.0,138.0 201.0,14.0 46.0,262.0"
    assert [text for _, text in chart.y_ticks] == ["50%", "60%", "70%", "80%", "90%", "100%"]
    assert (chart.y_ticks[0][0], chart.y_ticks[-1][0]) == (262, 14)
    assert [text for _, text in chart.x_ticks] == ["1", "3"]
    assert chart.warmup_x == pytest.approx(46 + 310 / 4)
    assert chart.counted_x == 201


def test_names_of_lines_that_end_together_do_not_overlap() -> None:
    curves = [Curve(name=str(k), mean=np.array([0.2, end]), deviation=np.zeros(2)) for k, end in enumerate([0.2] * 3)]
    heights = sorted(line.label_y for line in draw("title", curves, warmup_epochs=0, counted_epochs=1).lines)
    assert np.diff(heights).min() >= demo_page.LABEL_DISTANCE
    assert heights[-1] <= demo_page.HEIGHT - demo_page.BOTTOM


def test_thumbnail_is_the_picture() -> None:
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    suspect = Suspect(id="1", pixels=pixels, given="3", suggested="8", label_quality=0.0, is_wrong=True)
    head, data = suspect.thumbnail.split(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), pixels[..., 0])


def test_suspects_are_the_least_trusted_first() -> None:
    data = blocks(count=43, wrong=1)  # three training samples
    found = demo.suspects(data, outcome(0.5, label_quality=np.array([0.5, 0.2, 0.9])))
    assert [(s.id, s.label_quality, s.is_wrong) for s in found] == [
        ("1", 0.2, False),
        ("0", 0.5, True),
        ("2", 0.9, False),
    ]
    assert [s.suggested for s in found] == ["b", "c", "a"]
    assert [s.given for s in found] == [data.class_names[data.train.labels[i]] for i in (1, 0, 2)]


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    suspect = Suspect(
        id="<b>",
        pixels=np.zeros((8, 8, 1), np.uint8),
        given="<script>",
        suggested='"',
        label_quality=0.0,
        is_wrong=True,
    )
    results = {
        "command": "acto demo --out '<i>'", "finished": "now", "seconds": 1.0, "workers": 1, "device": "cpu",
        "versions": {"torch": "2"}, "seeds": [0], "num_train": 3, "num_test": 1, "counted_epochs": 1,
        "setting": {"lr": 1}, "mlp": None, "suspects_rate": 0.4, "trials": [{"seed": 0}],
    }  # fmt: skip
    demo_page.write(tmp_path, results, table=[], charts=[], suspects=[suspect])
    page = (tmp_path / "report.html").read_text()
    assert "&lt;script&gt;" in page and "&lt;b&gt;" in page and "&lt;i&gt;" in page
    assert not re.search(r"<script|<b>|<i>", page)


# The command.


def test_the_whole_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(demo_command, "setting_for", lambda source: QUICK)
    monkeypatch.setattr(demo_command, "MLP", QUICK_MLP)
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["demo", "--seeds", "2", "--workers", "2", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines()[0] == "12 trainings"
    assert "12/12 trained" in printed.err
    for text in ("40% of the labels wrong", "60% of the labels wrong", "Standard", "Confident learning", "report.html"):
        assert text in printed.out

    results = json.loads((tmp_path / "results.json").read_text())
    assert results["command"] == f"acto demo --seeds 2 --workers 2 --out {tmp_path}"
    assert results["seeds"] == [0, 1]
    assert {"python", "acto-lnl", "torch", "numpy", "scikit-learn", "cleanlab"} == results["versions"].keys()
    assert (results["num_train"], results["num_test"]) == (1347, 450)
    assert results["device"].startswith("cpu")
    labels = {}
    for trial in results["trials"]:
        labels.setdefault((trial["rate"], trial["seed"]), []).append(trial["labels_sha256"])
    assert len(labels) == 4
    assert len({hashes[0] for hashes in labels.values()}) == 4
    assert all(len(hashes) == 3 and len(set(hashes)) == 1 for hashes in labels.values())

    with open(tmp_path / "results.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["test_accuracy"]) for row in rows] == [trial["test_accuracy"] for trial in results["trials"]]

    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)
    assert page.count("data:image/png;base64,") == demo.NUM_SUSPECTS
    assert page.count("<polyline") == 6


def test_without_cleanlab_the_rest_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Trial] = []

    def measure_all(trials: Sequence[Trial], *_: Any, workers: int, tell: Callable[[], None]) -> Outcomes:
        asked.extend(trials)
        nets = {"acto": {"rtm": [0.9, 0.9], "ntm": [0.5, 0.5]}, "standard": {"net": [0.8, 0.8]}}
        many = {
            "label_quality": np.zeros(1347),
            "suggested": np.zeros(1347, np.int64),
            "label_is_true": np.arange(1347) > 9,
        }
        return {trial: outcome(0, accuracies=nets[trial.method], **many) for trial in trials}

    monkeypatch.setattr(demo_command, "has_package", lambda package: package != "cleanlab")
    monkeypatch.setattr(demo_command, "measure_all", measure_all)
    assert main(["demo", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert 'pip install "acto-lnl[cleanlab]"' in printed.err
    assert {trial.method for trial in asked} == {"acto", "standard"}
    assert "Confident learning" not in printed.out
    assert json.loads((tmp_path / "results.json").read_text())["mlp"] is None


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["--sees", "3"], "--seeds"),
        (["--seeds", "1"], "seeds is 1"),
        (["--workers", "0"], "workers is 0"),
        (["--seeds", "many"], "invalid int value"),
    ],
)
def test_bad_flags(tokens: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", *tokens]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["demo", "--out", str(tmp_path / "file")]) == 2
    assert "cannot make the folder" in capsys.readouterr().err


BUSY = """
import os, signal, sys
from acto import cli
from acto.cli import demo

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & makes what it starts ignore Ctrl-C

class Telling:  # says so in the worker that receives it
    def __reduce__(self):
        return os.write, (2, b"a worker is busy\\n")

setting = demo.setting_for("digits").lasting(100_000)  # hours: only a worker that is stopped ends in time
demo.setting_for, demo.MLP = lambda source: setting, Telling()
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("moment", "signum", "code"),
    [("60 trainings\n", signal.SIGINT, 130), ("a worker is busy\n", signal.SIGTERM, 143)],
)
def test_a_signal_ends_the_workers_too(tmp_path: Path, moment: str, signum: signal.Signals, code: int) -> None:
    command = [sys.executable, "-c", BUSY, "demo", "--workers", "1", "--out", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stderr is not None
            assert moment in iter(process.stderr.readline, "")
            process.send_signal(signum)
            # A worker left behind would hold stderr open, and this would not return.
            _, said = process.communicate(timeout=60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == code
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())
