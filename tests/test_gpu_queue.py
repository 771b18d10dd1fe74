from __future__ import annotations

import importlib.util
import io
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from acto.cli import main as acto
from acto.data.samples import DataSpec
from acto.data.sources import load_data

FILE = Path(__file__).parents[1] / "benchmarks" / "gpu_queue.py"
SMALL_RUN = ("config.yaml", "summary.json", "metrics.csv", "timing.csv", "labels.json", "env.json")


def _loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_queue", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_queue"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


gpu_queue = _loaded()
TEST, LONG, SHORT = (
    gpu_queue.Job(name="check", arguments=("-m", "check"), expected=10),
    gpu_queue.Job(name="long", arguments=("-m", "acto.cli", "train", "--seed", "0"), expected=150, form="f", seed=0),
    gpu_queue.Job(name="short", arguments=("-m", "acto.cli", "train", "--seed", "1"), expected=30, form="f", seed=1),
)


@dataclass
class Machine:
    """A machine whose commands take the seconds they are expected to, and do what they are told."""

    folder: Path
    codes: dict[str, int] = field(default_factory=dict)
    now: float = 0.0
    ran: list[list[str]] = field(default_factory=list)

    def place(self, **changes: Any) -> Any:
        root = self.folder / "data"
        (root / "cifar-100-python").mkdir(parents=True, exist_ok=True)
        place = gpu_queue.Place(
            out=self.folder / "out",
            runs=self.folder / "runs",
            data_root=root,
            device="a card",
            commit="abc",
            execute=self.execute,
            clock=lambda: self.now,
        )
        return replace(place, **changes)

    def execute(self, arguments: Sequence[str], log: Path, *, seconds: float) -> int | None:
        self.ran.append(list(arguments))
        job = next(job for job in (TEST, LONG, SHORT) if job.run == log.stem)
        log.write_text(f"of {job.name}\n\nthe last line, in {self.folder / 'data'} on {platform.node()}\n")
        run = log.with_suffix("")
        if job.form:
            run.mkdir(exist_ok=True)
            for name in SMALL_RUN:
                (run / name).write_text('{"test_accuracy_last10": 0.5, "sessions": [{"host": "here", "device": "x"}]}')
            rows = 100 if seconds < job.expected else 150
            (run / "metrics.csv").write_text("epoch\n" + "0\n" * rows)
        self.now += min(seconds, job.expected)
        return None if seconds < job.expected else self.codes.get(job.name, 0)


def _record(machine: Machine, name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((machine.folder / "out" / name / "job.json").read_text())
    return record


def test_the_order_of_the_jobs() -> None:
    found = gpu_queue.jobs()
    names = [job.name for job in found]
    assert names[:3] == ["gpu-tests", "bench", "step"] and len(set(names)) == len(names)
    noises = ("symmetric0.8", "asymmetric0.4", "symmetric0.2")
    ours = [f"acto-steady-{data}-{noise}-s0" for data in ("cifar100nc", "cifar80no") for noise in noises]
    assert names[3:11] == ours + [f"acto-published-cifar80no-{noise}-s0" for noise in noises[:2]]
    methods = [job.arguments[job.arguments.index("--method") + 1] for job in found[11:29]]
    rivals = ("sed", "ca2c", "promix", "disc", "elr", "standard")
    assert methods == [name for name in rivals for _ in range(3)]
    assert [job.seed for job in found[3:]] == sorted(job.seed for job in found[3:])
    assert "--acto.form" not in found[9].arguments  # published


def test_acto_understands_every_training(capsys: pytest.CaptureFixture[str]) -> None:
    firsts = {job.form: job for tiny in (True, False) for job in reversed(gpu_queue.jobs(tiny=tiny)) if job.form}
    assert len(firsts) == 8
    for job in firsts.values():
        assert job.arguments[:3] == ("-m", "acto.cli", "train")
        assert acto([*job.arguments[2:], "--print-config"]) == 0
        assert "epochs: 150" in capsys.readouterr().out


def test_what_fits_is_run_and_the_rest_at_the_next_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = Machine(tmp_path)
    queue = (TEST, LONG, SHORT)
    assert gpu_queue.work_off(queue, machine.place(), seconds=60)
    assert [arguments[-1] for arguments in machine.ran] == ["check", "--overwrite"]  # LONG does not fit
    shown = capsys.readouterr().out
    assert "long   no time left     ~150\n" in shown and "short  done               30  50.00 %\n" in shown
    # On another machine, with the records only.
    other = Machine(tmp_path)
    assert gpu_queue.work_off(queue, other.place(runs=tmp_path / "elsewhere"), seconds=150)
    assert [arguments[:5] for arguments in other.ran] == [list(LONG.arguments)]
    assert gpu_queue.work_off(queue, other.place(), seconds=1000) and len(other.ran) == 1
    record = _record(machine, "check")
    assert record["state"] == "done" and record["sessions"][0]["device"] == "a card"
    assert record["headline"] == "the last line, in DATA on HOST"
    assert sorted(path.name for path in (tmp_path / "out" / "short").iterdir()) == sorted([*SMALL_RUN, "job.json"])
    env = json.loads((tmp_path / "out" / "short" / "env.json").read_text())
    assert "host" not in env["sessions"][0] and env["sessions"][0]["device"] == "x"


def test_a_training_that_is_cut_short_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = Machine(tmp_path)
    assert gpu_queue.carry_out(LONG, machine.place(), seconds=100) == "stopped"
    assert "--resume" not in machine.ran[0]
    # 50 of 150 epochs are left, so that it fits into less than all of its time.
    gpu_queue.work_off([LONG], machine.place(), seconds=40)
    assert len(machine.ran) == 1 and "stopped, no time left" in capsys.readouterr().out
    gpu_queue.work_off([LONG], machine.place(execute=_finish(machine)), seconds=51)
    assert machine.ran[1][-2:] == ["--resume", str(tmp_path / "runs" / LONG.run)]
    record = _record(machine, "long")
    assert record["state"] == "done" and [session["seconds"] for session in record["sessions"]] == [100, 50]
    assert record["seconds"] == 150


def _finish(machine: Machine) -> Any:
    def execute(arguments: Sequence[str], log: Path, *, seconds: float) -> int:
        machine.execute(arguments, log, seconds=seconds)
        machine.now -= 1
        return 0

    return execute


def test_a_job_that_fails_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = Machine(tmp_path, codes={"check": 3, "long": 1})
    assert not gpu_queue.work_off((TEST, LONG, SHORT), machine.place(), seconds=1000)
    assert [_record(machine, job.name)["state"] for job in (TEST, LONG, SHORT)] == ["failed", "failed", "done"]
    record = _record(machine, "check")
    assert record["exit_code"] == 3 and record["tail"] == ["of check", "the last line, in DATA on HOST"]
    # Once more: those that never ran would come first, and a failed training begins anew.
    machine.codes.clear()
    assert gpu_queue.work_off((TEST, LONG, SHORT), machine.place(), seconds=1000)
    assert len(machine.ran) == 5 and "--overwrite" in machine.ran[-1]
    assert "failed" not in capsys.readouterr().out.splitlines()[-1]


def test_records_of_other_settings_and_broken_ones_do_not_count(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    gpu_queue.carry_out(TEST, machine.place(), seconds=100)
    out = tmp_path / "out"
    assert gpu_queue.read_record(TEST, out)["state"] == "done"
    assert gpu_queue.read_record(replace(TEST, arguments=("-m", "other")), out) is None
    (out / "check" / "job.json").write_text('{"name": "che')
    assert gpu_queue.read_record(TEST, out) is None


def test_a_command_is_run_with_the_sources_and_the_data_root(tmp_path: Path) -> None:
    code = "from os import *; print(environ['PYTHONPATH'].split(pathsep)[0], environ['ACTO_DATA_ROOT']); exit(4)"
    log = tmp_path / "log"
    assert gpu_queue.execute(["-c", code], log, seconds=60, data_root=tmp_path) == 4
    assert log.read_text().split() == [str(FILE.parents[1] / "src"), str(tmp_path)]
    endless = "import signal; signal.pause()"
    assert gpu_queue.execute(["-c", endless], log, seconds=0, data_root=None) is None


def _parquet(folder: Path, *, train: int = 250, test: int = 100) -> dict[str, npt.NDArray[np.uint8]]:
    """A small CIFAR-100 as Hugging Face has it, training part in two files; returns the pictures."""
    folder.mkdir(parents=True)
    (folder / "fine_label_names.txt").write_text("\n".join(f"class{i}" for i in range(100)) + "\n")
    random, pictures = np.random.default_rng(0), {}
    for split, count, files in (("train", train, 2), ("test", test, 1)):
        low = random.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
        pictures[split] = low.repeat(8, axis=1).repeat(8, axis=2)
        pictures[split][0] = random.integers(0, 256, (32, 32, 3))  # no format packs this one
        rows = [{"bytes": _png(picture), "path": f"{i}.png"} for i, picture in enumerate(pictures[split])]
        labels = pa.array([i % 100 for i in range(count)], pa.int64())
        table = pa.table({"img": rows, "fine_label": labels, "coarse_label": labels})
        for number in range(files):
            half = table.slice(number * (count // files), count // files)
            pq.write_table(half, folder / f"{split}-{number:05}-of-{files:05}.parquet")
    return pictures


def _png(picture: npt.NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def test_packed_pictures_are_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, parts = tmp_path / "source", tmp_path / "parts"
    pictures = _parquet(source)
    assert gpu_queue.main(["pack", "--data", str(source), "--out", str(parts)]) == 0
    assert capsys.readouterr().out.count(" MB") == 2
    part2 = (parts / "part2").rename(tmp_path / "part2")
    assert gpu_queue.missing(parts) == "CIFAR-100's train split is not all there"
    part2.rename(parts / "part2")
    assert gpu_queue.missing(parts) == "" == gpu_queue.missing(parts)
    found = load_data(DataSpec(source="cifar100"), data_root=parts)
    assert np.array_equal(found.train.pixels, pictures["train"]) and np.array_equal(found.test.pixels, pictures["test"])
    assert found.class_names[7] == "class7" and found.train.labels.tolist() == [i % 100 for i in range(250)]
    first = pq.read_table(parts / "cifar100" / "train-00000-of-00002.parquet")
    assert first.schema.equals(pq.read_schema(source / "train-00000-of-00002.parquet"))
    assert first["img"][1].as_py()["bytes"][8:12] == b"WEBP" and first["img"][1].as_py()["path"] == "1.png"
    formats = {row["bytes"][:4] for row in first["img"].to_pylist()}
    assert b"RIFF" in formats


def test_trainings_wait_for_all_of_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = Machine(tmp_path)
    assert gpu_queue.work_off((TEST, LONG), machine.place(data_root=None), seconds=1000)
    assert len(machine.ran) == 1 and "skipped: no data root" in capsys.readouterr().out
    empty = tmp_path / "empty"
    empty.mkdir()
    assert gpu_queue.missing(empty) == "CIFAR-100's train split is not all there"


def test_a_real_training_leaves_a_record_without_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    _parquet(root / "cifar100")
    monkeypatch.setenv("ACTO_DATA_ROOT", str(root))

    def execute(arguments: Sequence[str], log: Path, *, seconds: float) -> int:
        code = acto(arguments[2:])
        log.write_text("".join(capsys.readouterr()))
        return code

    place = Machine(tmp_path).place(data_root=root, execute=execute)
    job = next(job for job in gpu_queue.jobs(tiny=True) if job.form)
    assert gpu_queue.carry_out(job, place, seconds=60) == "done"
    folder = place.out / job.name
    texts = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(texts) == {*SMALL_RUN, "job.json"}
    assert not any(str(tmp_path) in text for text in texts.values())
    assert "host" not in texts["env.json"] and "argv" not in texts["env.json"]
    assert texts["metrics.csv"].count("\n") == 3 and "form: steady" in texts["config.yaml"]
    record = json.loads(texts["job.json"])
    assert record["form"] == "acto, steady" and record["headline"].endswith(" %")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jobs", "nothing"], "no job is named 'nothing'. Choices: gpu-tests, bench, step, acto-"),
        (["--tiny", "--data-root", "nowhere"], "nowhere does not exist"),
        (["pack", "--data", "nowhere"], "nowhere has no train*.parquet"),
    ],
)
def test_what_cannot_be_used_is_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_queue.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_pack_needs_its_data() -> None:
    with pytest.raises(SystemExit) as stop:
        gpu_queue.main(["pack"])
    assert stop.value.code == 2


def test_the_list_shows_every_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_queue.main(["--list", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(gpu_queue.jobs()) and lines[1].split() == ["gpu-tests", "waiting", "~80"]
