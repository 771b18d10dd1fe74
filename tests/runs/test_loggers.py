"""Logs of a run in other tools: what they are told, once and whole over every resume, and that none of them ends it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import acto
from acto.cli import main
from acto.core.errors import RunError, UserError
from acto.core.settings import plain
from acto.data.samples import DataSpec
from acto.methods.standard import Standard
from acto.run_folder.writing import RunFolder
from acto.runs.events import EpochDone, Event, Note, RunStarted
from acto.runs.failures import Interrupted
from acto.runs.loggers import FILE, LOGGERS, End, Logger, RunLog, begun_with, logger_names
from acto.runs.run import Run
from acto.training.plans import Plan
from acto.training.protocol import Protocol

RUN = Run(
    data=DataSpec(source="digits", subset=60),
    config=Standard.Config(),
    method="standard",
    net="cnn_tiny",
    device="cpu",
    precision="float32",
    protocol=Protocol(epochs=3, batch_size=60, plan=Plan(lr=0.02)),
)
TINY = (
    "train", "--data", "digits", "--subset", "60", "--device", "cpu", "--net", "cnn_tiny", "--method", "standard",
    "--epochs", "2", "--workers", "0",
)  # fmt: skip


@dataclass
class Tool:
    """What a logger told."""

    sessions: list[tuple[str | None, bool]] = field(default_factory=list)
    steps: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    configs: list[dict[str, Any]] = field(default_factory=list)
    results: list[Mapping[str, Any]] = field(default_factory=list)
    ends: list[tuple[End, list[str]]] = field(default_factory=list)
    fails_in: str = ""
    forgets: bool = False


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Tool:
    """A tool under the name of a package that is there, `json`, and a second one, `csv`, that nothing fails in."""
    made = Tool()

    def logger_of(into: Tool) -> type[Logger]:
        class Kept(Logger):
            def open(self, kept: Mapping[str, Any]) -> None:
                self._fail("open")
                self.is_new = into.forgets or not kept
                self.id = kept["id"] if not self.is_new else f"id{len(into.sessions)}"
                into.sessions.append((kept.get("id"), self.is_new))
                into.configs.append(self.config)

            def where(self) -> str:
                return "in memory"

            def epoch(self, number: int, metrics: Mapping[str, float]) -> None:
                self._fail("epoch" if number else "")
                into.steps.append((number, dict(metrics)))

            def summary(self, summary: Mapping[str, Any]) -> None:
                self._fail("summary")
                into.results.append(summary)

            def close(self, end: End, files: Sequence[Path]) -> None:
                self._fail("close")
                into.ends.append((end, [file.name for file in files]))

            def _fail(self, where: str) -> None:
                if where and where == into.fails_in:
                    raise OSError("no room\nfor more")

        return Kept

    monkeypatch.setitem(LOGGERS, "json", logger_of(made))
    monkeypatch.setitem(LOGGERS, "email", logger_of(Tool()))
    return made


def stop_after(epoch: int) -> Any:
    def listener(event: Event) -> None:
        if isinstance(event, EpochDone) and event.epoch == epoch:
            raise Interrupted(2)

    return listener


def test_a_tool_is_told_the_epochs_the_configuration_and_the_results(tool: Tool, tmp_path: Path) -> None:
    notes: list[str] = []

    def listener(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    summary = acto.train_run(RUN, tmp_path / "run", report=listener, log="json")
    rows = acto.read_run(tmp_path / "run").metrics
    undefined = {"label_quality_auroc"}  # no label of the digits is wrong
    assert [{"epoch": step, **metrics} for step, metrics in tool.steps] == [
        {name: row[name] for name in row.keys() - undefined} for row in rows
    ]
    assert tool.configs == [plain(RUN.to_dict())] and tool.results == [summary]
    assert tool.ends == [("finished", ["config.yaml", "summary.json"])]
    assert json.loads((tmp_path / "run" / FILE).read_text()) == {"json": {"epochs": 3, "id": "id0"}}
    assert "logged in json: in memory" in notes


def test_a_resumed_run_goes_on_in_the_same_one_and_tells_no_epoch_twice(tool: Tool, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):  # before the tool has heard of epoch 1, which is saved
        acto.train_run(RUN, tmp_path / "run", report=stop_after(1), log=["json"])
    assert [step for step, _ in tool.steps] == [0] and tool.ends == [("interrupted", [])]
    acto.train_run(RUN, tmp_path / "run", resume=True)
    assert tool.sessions == [(None, True), ("id0", False)]
    assert [step for step, _ in tool.steps] == [0, 1, 2]
    assert tool.steps[1][1]["loss"] == acto.read_run(tmp_path / "run").metrics[1]["loss"]
    assert tool.ends[1:] == [("finished", ["config.yaml", "summary.json"])]


def test_a_tool_that_comes_later_or_forgot_the_run_is_told_all_of_it(tool: Tool, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        acto.train_run(RUN, tmp_path / "run", report=stop_after(0))
    with pytest.raises(Interrupted):
        acto.train_run(RUN, tmp_path / "run", resume=True, report=stop_after(1), log="json")
    assert [step for step, _ in tool.steps] == [0]
    tool.forgets = True
    notes: list[str] = []
    acto.train_run(
        RUN, tmp_path / "run", resume=True, report=lambda e: notes.append(e.text) if isinstance(e, Note) else None
    )
    assert [step for step, _ in tool.steps[1:]] == [0, 1, 2]
    assert "logged in json anew, as the run of before is not there: in memory" in notes
    assert json.loads((tmp_path / "run" / FILE).read_text())["json"]["id"] == "id1"


@pytest.mark.parametrize(
    ("where", "steps"), [("open", []), ("epoch", [0]), ("summary", [0, 1, 2]), ("close", [0, 1, 2])]
)
def test_a_tool_that_fails_is_named_once_and_ends_nothing(
    where: str, steps: list[int], tool: Tool, tmp_path: Path
) -> None:
    tool.fails_in = where
    notes: list[str] = []
    summary = acto.train_run(
        RUN, tmp_path / "run", report=lambda e: notes.append(e.text) if isinstance(e, Note) else None, log="json,email"
    )
    assert summary["epochs"] == 3
    said = [note for note in notes if "failed" in note]
    assert said == ["logging in json failed and ends here, the training does not (OSError: no room)"]
    assert [step for step, _ in tool.steps] == steps and not tool.ends
    kept = json.loads((tmp_path / "run" / FILE).read_text())
    assert kept["email"]["epochs"] == 3 and kept.get("json", {}).get("epochs", 0) == len(steps)


def test_a_training_that_fails_is_told_so(tool: Tool, tmp_path: Path) -> None:
    def full(event: Event) -> None:
        if isinstance(event, EpochDone):
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        acto.train_run(RUN, tmp_path / "run", report=full, log="json")
    assert tool.ends == [("failed", [])]


def test_the_command_brings_the_report_along(
    tool: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*TINY, "--log", "json", "--log", "email,json", "--out", "run"]) == 0
    assert "note: logged in json: in memory\nnote: logged in email: in memory\n" in capsys.readouterr().err
    assert [step for step, _ in tool.steps] == [0, 1] and len(tool.sessions) == 1
    assert tool.ends == [("finished", ["report.html", "label_report.csv", "config.yaml", "summary.json"])]
    assert begun_with("run") == ("json", "email")
    assert main([*TINY, "--log", "json", "--out", "dry", "--dry-run"]) == 0 and len(tool.sessions) == 1
    assert main(["train", "--resume", "run"]) == 0 and len(tool.sessions) == 1  # it is finished


def test_a_resumed_command_logs_as_it_began(
    tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Interrupted):
        acto.train_run(RUN, tmp_path / "run", report=stop_after(0), log="json")
    resume = ["train", "--resume", str(tmp_path / "run"), "--no-report"]
    monkeypatch.delitem(LOGGERS, "json")
    assert main([*resume, "--log", "json"]) == 2 and "unknown logger 'json'" in capsys.readouterr().err
    monkeypatch.setitem(LOGGERS, "json", tool_that_is_gone := LOGGERS["email"])
    assert tool_that_is_gone
    (tmp_path / "run" / FILE).write_text('{"json": {"id": "id0"}}')
    assert main(resume) == 1
    assert "loggers.json is damaged: json has no number of epochs; delete it" in capsys.readouterr().err
    assert main([*resume, "--log", "none"]) == 0 and "logged in" not in capsys.readouterr().err
    assert acto.read_run(tmp_path / "run").status["state"] == "finished"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("tensorbord", "unknown logger 'tensorbord'. Did you mean 'tensorboard'?"),
        ("", "unknown logger ''"),
        ("none,json", "log none goes with no other name"),
        (["json", ["x"]], r"log takes names of loggers .* not \['x'\]"),
        (5, "log takes names"),
        ("json;email", "unknown logger 'json;email'"),
        ("wandb", r'logging in wandb needs its package: pip install "acto-lnl\[wandb\]"'),
    ],
)
def test_what_cannot_be_logged_in_is_refused_before_data_are_read(
    asked: Any, said: str, tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=said):
        logger_names(asked)
    gone = Run(data=DataSpec(source=str(tmp_path / "gone.npz")), method="standard", config=Standard.Config())
    with pytest.raises(UserError, match=said):
        acto.train_run(gone, tmp_path / "run", log=asked)
    with pytest.raises(UserError, match=said):
        acto.fit(np.zeros((0, 3)), [], log=asked)
    assert not (tmp_path / "run").exists()


def test_the_command_names_the_extra_before_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert main(["train", "--data", str(tmp_path / "gone"), "--log", "mlflow"]) == 2
    assert 'pip install "acto-lnl[mlflow]"' in capsys.readouterr().err


def test_a_folder_of_that_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_folder_of_runs").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(LOGGERS, "a_folder_of_runs", LOGGERS["wandb"])
    with pytest.raises(UserError, match="needs its package"):
        logger_names("a_folder_of_runs")


@pytest.mark.parametrize("content", ["[]", '{"json": 5}', '{"wandb": {"epochs": "many"}}', '{"mlflow": {}}', "{"])
def test_a_damaged_file_is_said_and_the_log_begins_anew(content: str, tool: Tool, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        acto.train_run(RUN, tmp_path / "run", report=stop_after(1), log="json")
    (tmp_path / "run" / FILE).write_text(content)
    with pytest.raises(RunError, match=f"{FILE} is damaged"):
        begun_with(tmp_path / "run")
    notes: list[str] = []
    tool.steps.clear()
    acto.train_run(
        RUN, tmp_path / "run", resume=True, log="json",
        report=lambda e: notes.append(e.text) if isinstance(e, Note) else None,
    )  # fmt: skip
    assert any(f"{FILE} is damaged" in note and "begins anew" in note for note in notes)
    assert [step for step, _ in tool.steps] == [0, 1, 2]


def test_without_a_listener_it_is_told_on_stderr(
    tool: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool.fails_in = "summary"
    acto.train_run(RUN, tmp_path / "run", log="json")
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "note: logged in json: in memory" and said[1].startswith("note: logging in json failed")


def started(folder: Path) -> RunStarted:
    return RunStarted(
        run=RUN, device="cpu", precision="float32", data="digits", num_train=60, num_test=10, num_classes=10,
        test_labels_are_given=True, noise={}, epochs_done=0, folder=str(folder),
    )  # fmt: skip


def test_only_numbers_are_told(tool: Tool, tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", config=RUN.to_dict()), RunLog("json") as log:
        log(started(tmp_path / "run"))
        row = {"loss": 1.5, "test_accuracy": float("nan"), "count": 3, "open": True, "word": "x", "nothing": None}
        log(EpochDone(epoch=0, metrics=row, seconds=1.0))
    assert tool.steps == [(0, {"loss": 1.5, "count": 3.0, "open": 1.0})]


def test_nothing_is_logged_where_nobody_is_named(tmp_path: Path) -> None:
    with RunLog(()) as log:
        log(started(tmp_path))
    assert log.names == () and not list(tmp_path.iterdir())


# The tools themselves.


def of_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch, *, log: str) -> list[dict[str, Any]]:
    """Train two epochs of three, end as if by Ctrl-C, go on; return the rows of metrics.csv."""
    monkeypatch.chdir(folder)
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    assert main([*TINY, "--minutes", "0.0001", "--log", log, "--out", "runs/one"]) == 0
    assert main(["train", "--resume", "runs/one"]) == 0
    return acto.read_run(folder / "runs" / "one").metrics


def test_tensorboard_shows_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = of_the_run(tmp_path, monkeypatch, log="tensorboard")
    assert "note: logged in tensorboard: `tensorboard --logdir runs` shows it" in capsys.readouterr().err
    shown = EventAccumulator(str(tmp_path / "runs" / "one" / "tensorboard"))
    shown.Reload()
    for name in ("loss", "test_accuracy"):
        found = [(event.step, event.value) for event in shown.Scalars(name)]
        assert found == [(row["epoch"], np.float32(row[name])) for row in rows]
    assert set(shown.Tags()["scalars"]) == {
        name for row in rows for name, value in row.items() if name != "epoch" and not np.isnan(value)
    }
    config, summary = (
        shown.Tensors(f"{name}/text_summary")[-1].tensor_proto.string_val[0].decode() for name in ("config", "summary")
    )
    assert "    method: standard\n" in config and "| epochs | 2 |" in summary


def records(path: Path) -> Iterator[Any]:
    """The records of an offline run of W&B: blocks of 32 KiB, in them pieces with checksum, length and place."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    while at < len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield Record.FromString(whole)
            whole = b""


@pytest.mark.integration
def test_wandb_keeps_the_run_and_sends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    rows = of_the_run(tmp_path, monkeypatch, log="wandb")
    assert capsys.readouterr().err.count("note: logged in wandb: `wandb sync runs/one/wandb/offline-run-") == 2
    (tmp_path / "runs" / "one" / "wandb" / "latest-run").unlink()
    files = sorted((tmp_path / "runs" / "one" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1  # of one id
    found = [record for file in files for record in records(file)]
    history = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.WhichOneof("record_type") == "history"
    ]
    assert [(one["_step"], one["epoch"], one["loss"]) for one in history] == [
        (row["epoch"], row["epoch"], row["loss"]) for row in rows
    ]
    runs = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert {(run.run_id, run.display_name, run.project) for run in runs} == {(runs[0].run_id, "one", "acto")}
    assert '"standard"' in {item.value_json for item in runs[0].config.update if item.key == "method"}
    results = {item.key: item.value_json for record in found for item in record.summary.update}
    assert results["epochs"] == "2" and float(results["test_accuracy_last10"]) > 0
    (artifact,) = {record.artifact.name for record in found if record.artifact.name}
    contents = {entry.path for record in found for entry in record.artifact.manifest.contents}
    assert artifact.startswith("labels-") and {"report.html", "label_report.csv"} <= contents


@pytest.mark.integration
def test_mlflow_keeps_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    rows = of_the_run(tmp_path, monkeypatch, log="mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("acto").experiment_id])
    assert (run.info.run_name, run.info.status) == ("one", "FINISHED")
    for name in ("loss", "test_accuracy"):
        found = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]
        assert found == [(row["epoch"], row[name]) for row in rows]
    assert run.data.params["method"] == "standard" and run.data.params["protocol.batch_size"]
    assert run.data.metrics["summary.epochs"] == 2
    kept = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert kept == {"report.html", "label_report.csv", "config.yaml", "summary.json"}
