"""What a run tells its listeners, in types and in the words of before, and what happens if one of them raises."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import acto
from acto.core import distributed
from acto.core.errors import UserError
from acto.data.samples import DataSpec
from acto.methods.standard import Standard
from acto.runs import events
from acto.runs.events import EpochDone, Event, Note, RunFinished, RunStarted, StepDone, tell_all
from acto.runs.run import Run
from acto.training.plans import Plan
from acto.training.protocol import Protocol

RUN = Run(
    data=DataSpec(source="digits", subset=100),
    config=Standard.Config(),
    method="standard",
    net="cnn_tiny",
    device="cpu",
    precision="float32",
    protocol=Protocol(epochs=2, batch_size=50, plan=Plan(lr=0.02)),
)


def test_every_listener_is_told_the_whole_run(tmp_path: Path) -> None:
    first: list[Event] = []
    second: list[Event] = []
    summary = acto.train_run(RUN, tmp_path / "run", report=[first.append, second.append])
    assert first == second
    kinds = [type(event) for event in first if not isinstance(event, Note)]
    assert kinds == [RunStarted, *2 * [StepDone, StepDone, EpochDone], RunFinished]
    steps = [(event.epoch, event.step, event.steps) for event in first if isinstance(event, StepDone)]
    assert steps == [(0, 0, 2), (0, 1, 2), (1, 0, 2), (1, 1, 2)]
    record = acto.read_run(tmp_path / "run")
    rows = [{"epoch": event.epoch, **event.metrics} for event in first if isinstance(event, EpochDone)]
    assert [row["epoch"] for row in rows] == [0, 1]
    assert [set(row) for row in rows] == [set(row) for row in record.metrics]
    assert [row["test_accuracy"] for row in rows] == [row["test_accuracy"] for row in record.metrics]
    started, finished = (next(e for e in first if isinstance(e, kind)) for kind in (RunStarted, RunFinished))
    assert (started.run, started.num_train, started.folder) == (RUN, 100, str(tmp_path / "run"))
    assert finished.summary is summary


def test_a_function_of_two_arguments_is_told_names_and_facts(tmp_path: Path) -> None:
    told: list[tuple[str, dict[str, Any]]] = []

    def before(event: str, facts: Mapping[str, Any]) -> None:
        told.append((event, dict(facts)))

    summary = acto.train_run(RUN, tmp_path / "run", report=before)
    facts = dict(told)
    assert [name for name, _ in told if name != "note"] == ["start", *2 * ["step", "step", "epoch"], "finish"]
    assert set(facts["start"]) == {
        "run", "device", "precision", "data", "num_train", "num_test", "num_classes", "test_labels_are_given", "noise",
        "epochs_done", "folder",
    }  # fmt: skip
    assert facts["step"] == {"epoch": 1, "turn": 0, "step": 1, "steps": 2}
    assert {"epoch", "loss", "test_accuracy", "seconds"} <= set(facts["epoch"])
    assert "metrics" not in facts["epoch"]
    assert facts["finish"] == summary
    tell_all(before)(Note(text="careful"))
    assert told[-1] == ("note", {"text": "careful"})


def test_a_second_argument_with_a_default_is_a_listeners_own() -> None:
    told: list[Event] = []

    def listener(event: Event, into: list[Event] = told) -> None:
        into.append(event)

    tell_all((listener, lambda *anything: told.extend(anything)))(Note(text="x"))
    assert told == [Note(text="x")] * 2


def test_what_cannot_be_told_is_refused(tmp_path: Path) -> None:
    nothing: Any = None
    word: Any = ["log.csv"]
    with pytest.raises(UserError, match=r"report takes functions of one event.*, not None"):
        tell_all(nothing)
    with pytest.raises(UserError, match=r"not 'log.csv'"):
        acto.train_run(RUN, tmp_path / "run", report=word)
    assert not (tmp_path / "run").exists()


def test_a_listener_that_raises_ends_the_run_and_it_can_go_on(tmp_path: Path) -> None:
    class Full(Exception):
        pass

    def raises(event: Event) -> None:
        if isinstance(event, EpochDone):
            raise Full("no more room")

    after: list[Event] = []
    with pytest.raises(Full):
        acto.train_run(RUN, tmp_path / "run", report=[raises, after.append])
    assert not any(isinstance(event, EpochDone) for event in after)
    status = acto.read_run(tmp_path / "run").status
    assert (status["state"], status["epoch"], status["message"]) == ("failed", 0, "no more room")
    acto.train_run(RUN, tmp_path / "run", resume=True, report=after.append)
    assert [event.epochs_done for event in after if isinstance(event, RunStarted)] == [0, 1]


def test_only_the_first_process_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Event] = []
    tell = tell_all(told.append)
    tell(Note(text="first"))
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    tell(Note(text="second"))
    assert told == [Note(text="first")]


def test_train_run_refuses_what_is_no_run_and_no_folder(tmp_path: Path) -> None:
    anything: Any = [1, 2]
    with pytest.raises(UserError, match=r"takes a Run, not list: acto.fit trains on data in memory"):
        acto.train_run(anything, tmp_path / "run")
    with pytest.raises(UserError, match="needs the folder that the run is written to, not list"):
        acto.train_run(RUN, anything)
    with pytest.raises(UserError, match="leave one of them away"):
        acto.train_run(RUN, tmp_path / "run", resume=True, overwrite=True)
    assert list(tmp_path.iterdir()) == []


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert events.__doc__ is not None
    example = events.__doc__.partition("\n\n")[2].partition("\n\nListeners are")[0]
    exec(compile(example, "example", "exec"), {"acto": acto, "run": RUN})
    rows = acto.read_run("runs/logged").metrics
    assert capsys.readouterr().out.splitlines() == [f"{row['epoch']} {row['test_accuracy']}" for row in rows]
    assert len(rows) == 2
