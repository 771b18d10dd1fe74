"""A light installation: without PyTorch and scikit-learn audits run and reports are read; all else says what lacks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import acto
from acto.cli import COMMANDS, main
from acto.core.errors import MissingPackage, UserError, missing_package

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "torchvision", "sklearn", "scipy")
LIGHT = {"audit", "consensus", "review", "exchange", "table", "doctor"}
"""Commands that do something without what is heavy."""
SCRIPT = f"""
import sys
from importlib import import_module
for name in {HEAVY!r}:
    sys.modules[name] = None
import acto
from acto.cli import COMMANDS, main
labels, probs, votes, run, out = sys.argv[1:]
codes = [
    main(["audit", "--labels", labels, "--pred-probs", probs, "--out", out + "/audit"]),
    main(["consensus", votes, "--pred-probs", probs, "--out", out + "/consensus"]),
    main(["audit", run]),
    main(["table", "study", out]),
    main(["methods"]),
    main(["train", "--data", "digits"]),
    main(["audit", run, "--data", "digits"]),
]
print("codes", codes)
for command, place in COMMANDS.items():
    try:
        import_module(place.partition(":")[0])
        print("light", command)
    except ModuleNotFoundError:
        pass
import numpy
report = acto.audit(numpy.load(labels), numpy.load(probs))
print("issues", int(report.is_label_issue.sum()), len(acto.read_report(out + "/audit")))
try:
    acto.fit
except ImportError as error:
    print("missing", error)
from acto.cli.review import _pictures
print("review", *_pictures(acto.read_run(run), acto.read_report(run), None))
"""


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("light")
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 60)
    probs = random.random((60, 3)) + np.eye(3)[labels]
    np.save(folder / "labels.npy", np.where(random.random(60) < 0.2, (labels + 1) % 3, labels))
    np.save(folder / "probs.npy", probs / probs.sum(1, keepdims=True))
    np.save(folder / "votes.npy", labels[:, None] * np.ones(3, int))
    shutil.copytree(ROOT / "tests" / "old_run" / "finished", folder / "run")
    command = [sys.executable, "-c", SCRIPT, "labels.npy", "probs.npy", "votes.npy", "run", "."]
    path = str(Path(acto.__file__).parents[1])
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env={**os.environ, "PYTHONPATH": path, "ACTO_DEBUG": ""}
    ), folder


def test_audits_consensus_and_reports_need_nothing_heavy(light: Any) -> None:
    done, folder = light
    assert done.returncode == 0, done.stderr
    assert "codes [0, 0, 0, 0, 2, 2, 2]" in done.stdout
    assert {path.name for path in (folder / "audit").iterdir()} >= {"label_report.csv", "report.html"}
    assert (folder / "consensus" / "consensus.csv").is_file()
    issues = acto.audit(np.load(folder / "labels.npy"), np.load(folder / "probs.npy")).is_label_issue
    assert f"issues {int(issues.sum())} 60" in done.stdout
    assert (
        {line.split()[1] for line in done.stdout.splitlines() if line.startswith("light ")}
        - {
            "completion"  # which loads the others when it is called
        }
        == LIGHT
        < set(COMMANDS)
    )


def test_what_is_missing_is_said_in_a_line(light: Any) -> None:
    done, _ = light
    said = done.stderr.splitlines()
    assert [line.partition(" needs PyTorch")[0] for line in said if "needs PyTorch" in line] == [
        "note: the report of before is shown, and not made anew: acto audit RUN",
        "error: acto methods",
        "error: acto train",
        "error: acto audit RUN",
    ]
    for line in (*said, *(line for line in done.stdout.splitlines() if line.startswith(("missing", "review")))):
        assert 'pip install "acto-lnl[train]"' in line and "PyTorch's own index of CPU wheels" in line, line
    assert "review None None no pictures are shown: reading a run's data needs PyTorch" in done.stdout


def test_the_report_of_before_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    shutil.copytree(ROOT / "tests" / "old_run" / "finished", tmp_path / "run")
    (tmp_path / "run" / "label_report.json").unlink()
    monkeypatch.setitem(sys.modules, "acto.cli.audit_run", None)
    monkeypatch.setattr("acto.cli.audit.missing_package", lambda error, what: MissingPackage(f"{what} needs it"))
    assert main(["audit", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == "error: acto audit RUN needs it\n"
    assert main(["audit", str(tmp_path / "none")]) == 2
    assert "none is no run's folder" in capsys.readouterr().err


def test_other_missing_packages_are_not_explained() -> None:
    assert missing_package(ModuleNotFoundError("no module", name="torchaudio"), "x") is None
    assert missing_package(ModuleNotFoundError("no module"), "x") is None
    found = missing_package(ModuleNotFoundError("no module", name="torch.nn"), "x")
    assert isinstance(found, ImportError) and isinstance(found, UserError)


def test_the_extras_bring_what_is_heavy() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {"torch", "torchvision", "scikit-learn", "scipy"}
    extras = project["optional-dependencies"]

    def asked(wanted: list[str]) -> set[str]:
        return {text.partition(">")[0].partition("[")[0] for text in wanted}

    assert not names & asked(project["dependencies"]) and asked(extras["train"]) == names
    for extra in ("timm", "onnx", "slurm", "all", "dev"):
        assert any(text.startswith("acto-lnl[train") for text in extras[extra]), extra
