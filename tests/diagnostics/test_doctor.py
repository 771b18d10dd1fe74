"""`acto doctor`: every fault of a machine or a run's folder is named, with what to do about it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from acto.cli import main
from acto.core import device
from acto.core.resources import WAITING, usable_cores, usable_memory
from acto.data.samples import DataSpec
from acto.diagnostics import machine
from acto.diagnostics.findings import Finding, as_lines, worst
from acto.diagnostics.machine import cores, disk, open_files, packages, probe, satisfies, shared_memory
from acto.diagnostics.run_checks import examine
from acto.run_folder.reading import MARK
from acto.run_folder.writing import RunFolder

TINY = [
    *("--data", "digits", "--noise", "symmetric", "--noise-rate", "0.4", "--subset", "160", "--batch-size", "64"),
    *("--epochs", "3", "--device", "cpu", "--precision", "float32"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("doctor") / "run"
    assert main(["train", *TINY, "--out", str(out)]) == 0
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy to do harm to."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def found(findings: list[Finding], name: str) -> Finding:
    (finding,) = [finding for finding in findings if finding.name == name]
    return finding


def as_it_was(run: Path, state: str, *, epochs: int = 3) -> None:
    """Turn a finished run into one that ended otherwise: what only the end writes is gone."""
    for name in ("summary.json", "samples.csv", "samples.json", "pred_probs.npy", "calibration.json"):
        (run / name).unlink()
    for path in [*run.glob("*.safetensors"), *run.glob("label_report.*"), run / "report.html"]:
        path.unlink()
    checksums = json.loads((run / "checksums.json").read_text())
    kept = {name: entry for name, entry in checksums.items() if (run / name).is_file()}
    (run / "checksums.json").write_text(json.dumps(kept))
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**status, "state": state, "epoch": epochs - 1 if epochs else None}))


# The findings -----------------------------------------------------------------------------------------------------


def test_findings_in_words() -> None:
    fine, less, broken = Finding("ok", "a", "1"), Finding("warn", "bb", "2", "do this"), Finding("BAD", "c", "3\n4")
    assert as_lines([fine]) == ["ok    a  1", "all is well"]
    assert as_lines([fine, less]) == [
        "ok    a   1",
        "warn  bb  2",
        "          -> do this",
        "nothing must be mended; 1 warning",
    ]
    assert as_lines([broken, less])[0] == "BAD   c   3\\n4"
    assert as_lines([broken, less])[-1] == "1 thing must be mended, 1 warning"
    assert [worst([]), worst([fine, less]), worst([less, broken, fine])] == ["ok", "warn", "BAD"]


# The machine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "bounds", "kept"),
    [
        ("2.6.0", ">=2.6,<3", True),
        ("2.6", ">=2.6.0", True),
        ("2.10.1+cu130", "<3,>=2.6", True),
        ("2.5.9", ">=2.6,<3", False),
        ("3.0.0", ">=2.6,<3", False),
        ("3.0.0", ">=2.6,<=3", True),
        ("1.2", "!=1.2", False),
        ("1.2", "==1.2.0", True),
        ("1.2.1", ">1.2", True),
        ("0.4.3rc1", ">=0.4.3", True),
        ("2.6.0a0+df5bbc0", ">=2.6,<3", True),
        ("not a version", ">=2.6", False),
        ("9", "", True),
    ],
)
def test_bounds_of_versions(version: str, bounds: str, kept: bool) -> None:
    assert satisfies(version, bounds) is kept


def test_packages_that_are_missing_or_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"acto-lnl": "1.0", "torch": "2.4.1", "numpy": "2.0", "pyarrow": "10.0"}

    def version(name: str) -> str:
        if name not in there:
            raise machine.PackageNotFoundError(name)
        return there[name]

    asked = [
        "numpy<3,>=1.26",
        "torch<3,>=2.6",
        "rich>=13.7",
        "pyarrow>=16; extra == 'parquet'",
        "timm>=1.0.12; extra == 'timm'",
        "acto-lnl[parquet,timm]; extra == 'all'",
        "pytest>=8.3; extra == 'dev'",
    ]
    monkeypatch.setattr(machine, "requires", lambda name: asked)
    monkeypatch.setattr(machine, "version", version)
    assert list(packages()) == [
        Finding("ok", "acto", "1.0"),
        Finding("ok", "numpy", "2.0"),
        Finding("BAD", "torch", "2.4.1, but acto is made for <3,>=2.6", 'pip install "torch<3,>=2.6"'),
        Finding("BAD", "rich", "is not installed (needed: >=13.7)", 'pip install "rich>=13.7"'),
        Finding("warn", "pyarrow", "10.0, but acto is made for >=16", 'pip install "acto-lnl[parquet]"'),
        Finding("ok", "timm", 'not installed, only needed for the extra timm: pip install "acto-lnl[timm]"'),
    ]
    del there["acto-lnl"]
    assert worst(packages()) == "BAD"


def test_the_other_project_called_acto_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"acto-lnl": "1.0", "acto": "0.6.3"}

    def version(name: str) -> str:
        if name not in there:
            raise machine.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(machine, "requires", lambda name: [])
    monkeypatch.setattr(machine, "version", version)
    finding = found(list(packages()), "namesake")
    assert finding.state == "BAD" and "acto 0.6.3 is another project" in finding.text
    assert "pip uninstall acto acto-lnl" in finding.advice
    del there["acto"]
    assert [finding.name for finding in packages()] == ["acto"]


def test_the_disk_is_really_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = disk(tmp_path / "not" / "there" / "yet")
    assert finding.state == "ok"
    assert f"in {tmp_path}; a file was written, synced, renamed and locked there" in finding.text
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(machine, "LEAST_DISK", 2**80)
    assert disk(tmp_path).state == "warn"

    def refuse(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(machine, "write_atomically", refuse)
    broken = disk(tmp_path)
    assert (broken.state, broken.text) == ("BAD", f"runs cannot be written to {tmp_path}: No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_little_shared_memory_and_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(shared_memory(tmp_path / "none")) == []
    (fine,) = shared_memory(tmp_path)
    assert fine.state == "ok"
    monkeypatch.setattr(machine, "LEAST_SHARED", 2**80)
    (little,) = shared_memory(tmp_path)
    assert (little.state, "--shm-size" in little.advice, "--workers 0" in little.advice) == ("warn", True, True)
    limits = {"now": (256, 4096)}
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits["now"])
    assert (open_files().state, open_files().advice.partition(";")[0]) == (
        "warn",
        "raise it before training: ulimit -n 1024",
    )
    limits["now"] = (256, 256)
    assert "ask the administrator" in open_files().advice
    limits["now"] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert open_files().state == "ok"


def test_cores_and_memory_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert usable_cores(tmp_path) == 8
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cores(tmp_path) == 8
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert usable_cores(tmp_path) == 3
    (tmp_path / "cpu.max").write_text("10000 100000\n")
    assert usable_cores(tmp_path) == 1
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("200000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == 2
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert usable_cores(tmp_path) == 8
    there = usable_memory(tmp_path)
    assert there > 2**20
    (tmp_path / "memory.max").write_text("1048576\n")
    assert usable_memory(tmp_path) == 2**20
    (tmp_path / "memory.max").write_text("max\n")
    assert usable_memory(tmp_path) == there


def test_fewer_threads_than_cores_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert (cores().state, "OMP_NUM_THREADS=2" in cores().text) == ("warn", True)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert cores().state == "ok"


@pytest.mark.parametrize(("asked", "taken"), [(None, 1), ("2", 2)])
def test_torch_takes_no_more_threads_than_a_container_gets(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, taken: int
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(device, "usable_cores", lambda: 1)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    try:
        torch.set_num_threads(2)
        device.resolve_device("cpu")
        assert torch.get_num_threads() == taken
        device.resolve_device("cpu")
        assert torch.get_num_threads() == taken
    finally:
        torch.set_num_threads(before)


def test_a_torch_that_cannot_be_imported_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (finding,) = probe(data_root=None)
    assert finding.state == "BAD"
    assert finding.text == "does not work here: ImportError: libcudart.so.12: cannot open shared object file"
    assert finding.advice.startswith("install it again: pip install")
    (tmp_path / "torch.py").write_text("import os\nos.abort()\n")
    (finding,) = probe(data_root=None)
    assert finding.text == "does not work here: it was killed by signal 6"


def test_doctor_computes_on_the_device_and_reads_the_data_root(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    for split in ("train", "val"):
        for number in range(100):
            (root / "web-aircraft" / split / f"{number:03}").mkdir(parents=True)
            (root / "web-aircraft" / split / f"{number:03}" / "1.jpg").touch()
    (root / "cifar10" / "cifar-10-batches-py").mkdir(parents=True)
    code = main(["doctor", "--data-root", str(root), "--out", str(tmp_path), "--json"])
    shown = json.loads(capsys.readouterr().out)
    by_name = {finding["name"]: finding for finding in shown["findings"]}
    assert code == 1 and shown["state"] == "BAD"
    assert by_name["device cpu"]["state"] == "ok"
    assert "products in float32" in by_name["device cpu"]["text"]
    aircraft = by_name["data web-aircraft"]
    assert aircraft["state"] == "warn"
    assert aircraft["text"].endswith("but the published set has 13,503 and 3,333")
    assert "acto data check web-aircraft" in aircraft["advice"]
    assert by_name["data cifar10"]["state"] == "BAD"  # a folder without the files that belong into it
    assert "not there: cifar100, " in by_name["data root"]["text"]

    monkeypatch.setenv("ACTO_DATA_ROOT", str(tmp_path / "nowhere"))
    assert main(["doctor", "--out", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "BAD   data root" in shown
    assert f"{tmp_path / 'nowhere'} does not exist, so no data can be read" in shown


def test_a_wrong_product_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from acto.diagnostics import probe

    monkeypatch.setattr(probe, "available_devices", lambda: ["cpu"])
    assert [finding.state for finding in probe.devices() if finding.name == "device cpu"] == ["ok"]
    right = torch.Tensor.__matmul__

    def wrong(a: Any, b: Any) -> Any:
        product = right(a, b)
        return product if product.dtype == torch.int64 else product + 1

    monkeypatch.setattr(torch.Tensor, "__matmul__", wrong)
    (finding,) = [finding for finding in probe.devices() if finding.name == "device cpu"]
    assert (finding.state, "came out wrong" in finding.text) == ("BAD", True)


def test_a_source_is_absent_only_if_the_reader_says_so() -> None:
    """The probe tells "not there" from "broken" by these words of acto.data.readers.place."""
    from acto.core.errors import UserError
    from acto.data.catalog import SOURCES
    from acto.data.sources import read

    for name in [name for name, source in SOURCES.items() if source.published and name != "fashion-mnist"]:
        with pytest.raises(UserError, match=" needs a data root"):
            read(DataSpec(source=name))
        with pytest.raises(UserError, match=" was not found in "):
            read(DataSpec(source=name), data_root=Path(__file__).parent)


# A run's folder ---------------------------------------------------------------------------------------------------


def test_a_whole_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert main(["doctor", str(finished)]) == 0
    shown = capsys.readouterr().out
    assert "finished, 3 epochs of 3 done" in shown
    assert "160 labels, rows and probabilities, which agree" in shown
    assert shown.endswith("all is well\n")
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before
    assert main(["doctor", str(finished), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "ok"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", ["samples.csv", "net1.safetensors", "pred_probs.npy"])
@pytest.mark.parametrize("harm", [flip, Path.unlink])
def test_results_that_are_damaged_or_missing(run: Path, name: str, harm: Callable[[Path], None]) -> None:
    harm(run / name)
    finding = found(examine(run), name)
    assert finding.state == "BAD"
    assert finding.advice.endswith(f"rm -f {run}/summary.json && acto train --resume {run}")


def test_the_advice_for_damaged_results_brings_the_same_bytes_back(
    run: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("samples.csv", "net0.safetensors"):
        flip(run / name)
    (run / "summary.json").unlink()
    assert main(["train", "--resume", str(run), "--device", "cpu", "--no-report"]) == 0
    assert worst(examine(run)) == "ok"
    for name in ("samples.csv", "net0.safetensors", "summary.json", "metrics.csv"):
        assert (run / name).read_bytes() == (finished / name).read_bytes(), name


def test_a_row_that_is_missing(run: Path) -> None:
    lines = (run / "metrics.csv").read_text().splitlines(keepends=True)
    (run / "metrics.csv").write_text("".join(lines[:2] + lines[3:]))
    finding = [f for f in examine(run) if f.name == "metrics.csv" and f.state == "BAD"]
    assert [f.text for f in finding] == ["lacks the rows of 1 epoch, the first 1"]
    assert "acto train --config" in finding[0].advice


def test_tables_of_another_number_of_samples(run: Path) -> None:
    folder = RunFolder.open(run)
    with folder:
        folder.save_probs(np.full((159, 10), 0.1))
    assert (
        found(examine(run), "samples").text == "samples.csv has 160 rows and pred_probs.npy (159, 10), for 160 labels"
    )
    with RunFolder.open(run) as folder:
        folder.save_probs(np.full((160, 10), np.nan))
    assert found(examine(run), "samples").state == "BAD"


def test_labels_that_are_not_those_of_the_record(run: Path) -> None:
    labels = np.load(run / "noisy_labels.npy", allow_pickle=False)
    labels[0] = (labels[0] + 1) % 10
    np.save(run / "noisy_labels.npy", labels)
    texts = [finding.text for finding in examine(run) if finding.state == "BAD"]
    assert "its labels are not those that labels.json tells of" in texts
    assert "it was made with other labels than noisy_labels.npy" in texts


def test_a_label_report_that_is_not_whole(run: Path) -> None:
    (run / "report.html").unlink()
    finding = found(examine(run), "label report")
    assert (finding.state, finding.advice) == ("warn", f"make it again: acto audit {run}")
    for path in run.glob("label_report.*"):
        path.unlink()
    assert found(examine(run), "label report").state == "ok"
    (run / "decisions.csv").write_text("id,given_label,decision,new_label,time\n")
    assert found(examine(run), "label report").state == "warn"


def test_decisions_that_cannot_be_read(run: Path) -> None:
    (run / "decisions.csv").write_text("id,given_label,decision,new_label,time\n")
    assert found(examine(run), "decisions").text == "on 0 samples"
    (run / "decisions.csv").write_text("id,given_label,decision,new_label,time\nnobody,1,keep,,\n")
    assert found(examine(run), "decisions").state == "BAD"


@pytest.mark.parametrize(("state", "told"), [("running", "died"), ("interrupted", "interrupted"), ("failed", "failed")])
def test_a_run_that_can_go_on(run: Path, state: str, told: str) -> None:
    as_it_was(run, state)
    findings = examine(run)
    assert found(findings, "state").state == "warn" and found(findings, "state").text.startswith(told)
    assert worst(findings) == "warn"
    assert found(findings, "next") == Finding("ok", "next", "it can go on after 3 epochs", f"acto train --resume {run}")


def test_a_run_that_is_being_worked_on(run: Path) -> None:
    as_it_was(run, "running", epochs=2)
    with RunFolder.open(run):
        findings = examine(run)
    assert found(findings, "state").text == "running, 2 epochs of 3 done"
    assert found(findings, "next").text.startswith("a process works on it: process ")


def test_a_damaged_checkpoint_is_spare_as_long_as_another_is_whole(run: Path) -> None:
    as_it_was(run, "interrupted")
    older, newer = sorted((run / "checkpoints").iterdir())
    flip(newer / "training.pt")
    findings = examine(run)
    assert found(findings, f"checkpoints/{newer.name}").state == "warn"
    assert found(findings, "next").text == "it can go on after 2 epochs"
    flip(older / "training.pt")
    findings = examine(run)
    assert found(findings, f"checkpoints/{newer.name}").state == "BAD"
    assert found(findings, "next").state == "BAD"
    assert f"acto train --config {run}/config.yaml --out {run} --overwrite" in found(findings, "next").advice


def test_a_run_without_its_configuration_or_its_data(run: Path) -> None:
    as_it_was(run, "interrupted")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("source: digits", "source: gone/pictures"))
    finding = found(examine(run), "next")
    assert (finding.state, finding.text) == ("BAD", "its data, gone/pictures, are not there")
    (run / "config.yaml").write_text("[")
    assert found(examine(run), "next").text == "it cannot go on without its configuration"


@pytest.mark.parametrize("name", ["status.json", "env.json", "labels.json", "checksums.json"])
def test_the_advice_for_what_is_written_anew_works(run: Path, name: str, finished: Path) -> None:
    as_it_was(run, "interrupted")
    (run / name).write_text("{")
    (finding,) = [f for f in examine(run) if f.state == "BAD"]
    what = "status.json" if name == "status.json" else "it"  # its own finding is that of the state
    assert finding.advice == f"delete {what}, then: acto train --resume {run}"
    (run / name).unlink()
    assert main(["train", "--resume", str(run), "--device", "cpu", "--no-report"]) == 0
    assert (run / "samples.csv").read_bytes() == (finished / "samples.csv").read_bytes()


def test_little_room_to_go_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_it_was(run, "interrupted")
    usage = shutil.disk_usage(run)
    monkeypatch.setattr("acto.diagnostics.run_checks.shutil.disk_usage", lambda path: usage._replace(free=1))
    assert found(examine(run), "next").state == "BAD"


def test_an_empty_run_can_go_on_from_its_first_epoch(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "new", config={"data": {"source": "digits"}, "protocol": {"epochs": 2}}).close()
    assert (tmp_path / "new" / MARK).is_file()
    findings = examine(tmp_path / "new")
    assert found(findings, "state").text.startswith("died, no epoch of 2 done")
    assert found(findings, "next").text == "it can go on, from its first epoch"
    assert worst(findings) == "warn"


@pytest.mark.parametrize(
    ("first", "given", "found"),
    [
        ("acto", {}, "2000"),
        ("torch, acto", {}, None),
        ("acto", {"GOMP_SPINCOUNT": "7"}, "7"),
        ("acto", {"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_threads_that_wait_sleep_soon_unless_told_otherwise(
    first: str, given: dict[str, str], found: str | None
) -> None:
    code = f"import {first}, os; print(os.environ.get('GOMP_SPINCOUNT'))"
    environment = {key: value for key, value in os.environ.items() if key not in WAITING} | given
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == str(found)
