"""What a run says: lines, their numbers and words, the bar on a terminal, and the summary."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest

from acto.cli.demo import _progress as progress_of_demo
from acto.cli.progress import Bar, Reporter, summary_lines
from acto.core.text import aligned, bytes_in_words, counted, duration, percent
from acto.data.samples import DataSpec
from acto.methods import METHODS
from acto.runs.events import EpochDone, Event, Note, RunStarted, StepDone
from acto.runs.run import Run
from acto.training.protocol import Protocol

RUN = Run(data=DataSpec(source="digits"), config=METHODS["acto"].Config(warmup_epochs=2), protocol=Protocol(epochs=12))


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def start(**changes: Any) -> RunStarted:
    facts = {
        "run": RUN,
        "device": "cpu",
        "precision": "float32",
        "data": "digits",
        "num_train": 1347,
        "num_test": 450,
        "num_classes": 10,
        "test_labels_are_given": False,
        "noise": {"kind": "symmetric", "rate_realised": 0.4053},
        "epochs_done": 0,
        "folder": "runs/x",
        **changes,
    }
    return RunStarted(**facts)


def row(epoch: int, *, seconds: float = 60.0, **changes: Any) -> EpochDone:
    values = {"loss": 1.23456, "test_accuracy": 0.5, "selected_share": 0.25, **changes}
    metrics = {name: value for name, value in values.items() if value is not None}
    return EpochDone(epoch=epoch, metrics=metrics, seconds=seconds)


def told(*events: Event, **options: Any) -> list[str]:
    stream = io.StringIO()
    with Reporter(stream=stream, terminal=False, **options) as reporter:
        for event in events:
            reporter(event)
    return stream.getvalue().splitlines()


def test_plain_lines() -> None:
    lines = told(start(), Note(text="careful"), row(1), row(2, seconds=120.0))
    assert lines == [
        "acto on digits: 1,347 training and 450 test samples, 10 classes",
        "wrong labels: 40.53 % of the training set (symmetric)",
        "cnn_small, 12 epochs, 128 samples a step, on cpu in float32",
        "folder: runs/x",
        "note: careful",
        "epoch  2/12  loss 1.235  test accuracy 50.00 %  selected 25.00 %  60 s  10 min left",
        "epoch  3/12  loss 1.235  test accuracy 50.00 %  selected 25.00 %  2 min  14 min left",
    ]


def test_what_is_not_known_is_not_said() -> None:
    lines = told(
        start(noise={"rate_realised": None}, test_labels_are_given=True, epochs_done=3),
        row(0, selected_share=None, test_accuracy=math.nan),
        row(11),
    )
    assert not [line for line in lines if "wrong labels" in line]
    assert "going on after epoch 3 of 12: 9 epochs to come" in lines
    assert lines[-2] == "epoch  1/12  loss 1.235  60 s  more than 11 min left"  # the warm-up is the cheap part
    assert lines[-1] == "epoch 12/12  loss 1.235  accuracy against the given labels 50.00 %  selected 25.00 %  60 s"


def test_long_epochs_show_signs_of_life() -> None:
    clock = Clock()
    stream = io.StringIO()
    with Reporter(stream=stream, terminal=False, clock=clock) as reporter:
        reporter(start())
        for step in range(100):
            clock.now += 1.0
            reporter(StepDone(epoch=4, turn=0, step=step, steps=100))
    steps = [line for line in stream.getvalue().splitlines() if "step " in line and line.startswith("epoch")]
    assert steps == ["epoch 5/12: step 30/100", "epoch 5/12: step 60/100", "epoch 5/12: step 90/100"]


def test_a_terminal_gets_a_bar_and_the_same_lines() -> None:
    stream = io.StringIO()
    with Reporter(stream=stream, terminal=True) as reporter:
        reporter(start())
        reporter(StepDone(epoch=0, turn=0, step=0, steps=22))
        reporter(row(0))
    assert "epoch  1/12  loss 1.235" in stream.getvalue()
    assert "step 1/22" in stream.getvalue()


def test_no_color_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = io.StringIO()
    with Reporter(stream=stream, terminal=True) as reporter:
        reporter(start())
        reporter(StepDone(epoch=0, turn=0, step=0, steps=22))
    assert "\x1b[3" not in stream.getvalue()
    assert "\x1b[9" not in stream.getvalue()


def test_other_processes_are_silent() -> None:
    assert told(start(), row(0), Note(text="x"), silent=True) == []


def test_an_event_of_tomorrow_is_passed_over() -> None:
    class Tomorrow:
        pass

    tomorrow: Any = Tomorrow()
    assert told(tomorrow, Note(text="x")) == ["note: x"]


def test_a_bar_of_samples_counts_on_a_terminal_and_shows_signs_of_life_elsewhere() -> None:
    seen = {}
    for terminal in (True, False):
        clock, stream = Clock(), io.StringIO()
        looks = ("{task.completed:,.0f}/{task.total:,.0f} samples", "{task.description}")
        with Bar(*looks, stream=stream, terminal=terminal, clock=clock) as bar:
            bar.say("reading :cat: and [red]dogs")
            for done in (1000, 2000, 3000, 4000):
                clock.now += 20.0
                bar.show(done, 4000, sign=f"{done} of 4000", description="half" if done > 2000 else "")
            bar.show(description="the end")
        seen[terminal] = stream.getvalue()
    assert seen[False].splitlines() == ["reading :cat: and [red]dogs", "2000 of 4000", "4000 of 4000"]
    assert "reading :cat: and [red]dogs" in seen[True]
    assert "4,000/4,000 samples the end" in seen[True]
    assert " of 4000" not in seen[True]


def test_a_demo_tells_every_tenth_training(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_of_demo(20) as tell:
        for _ in range(20):
            tell()
    lines = [line.partition(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["20 trainings", *(f"{number}/20 trained" for number in range(2, 21, 2))]


def test_the_summary_puts_the_headline_first_and_marks_the_oracle() -> None:
    summary = {
        "method": "acto", "data": "digits", "epochs": 12, "seed": 3, "test_labels_are_given": False,
        "test_accuracy_last10": 0.9, "test_accuracy_last": 0.91, "test_accuracy_best_oracle": 0.95,
        "selection_precision": 0.99, "selection_recall": None, "mining_open": 0.5, "label_quality_auroc": 0.98765,
    }  # fmt: skip
    lines = summary_lines(summary, "runs/x")
    assert lines[0] == "acto on digits, 12 epochs, seed 3"
    assert lines[1].split("  ")[1:] == ["test accuracy, mean of the last 10 epochs", *lines[1].split("  ")[2:]]
    assert lines[1].endswith("90.00 %")
    assert "oracle" in lines[3]
    assert lines[3].endswith("95.00 %")
    assert any("AUROC" in line and line.endswith("0.988") for line in lines)
    assert "folder: runs/x" in lines
    given = summary_lines({**summary, "test_labels_are_given": True, "epochs": 1}, "runs/x")
    assert given[1].strip().startswith("accuracy against the given labels, mean of the only epoch")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"), (9.9, "9.9 s"), (60.4, "60 s"), (99.4, "99 s"), (99.6, "2 min"), (5940, "99 min"),
        (6000, "1 h 40 min"), (7 * 3600 + 299, "7 h 05 min"), (3600 * 240, "10.0 days"),
    ],
)  # fmt: skip
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_numbers_in_words() -> None:
    assert [percent(0.1234), percent(math.nan), percent(None)] == ["12.34 %", "-", "-"]
    assert [bytes_in_words(512), bytes_in_words(1536), bytes_in_words(5 * 2**40)] == [
        "512 bytes",
        "1.5 KiB",
        "5120.0 GiB",
    ]
    words = [counted(number, noun) for number in (1, 2) for noun in ("epoch", "more class", "entry", "day")]
    assert words[:4] == ["1 epoch", "1 more class", "1 entry", "1 day"]
    assert words[4:] == ["2 epochs", "2 more classes", "2 entries", "2 days"]
    assert [counted(n, "row", then="is/are") for n in (0, 1, 12_345)] == ["0 rows are", "1 row is", "12,345 rows are"]
    assert aligned([("a", "bb"), ("ccc", "d")]) == ["a    bb", "ccc  d"]
