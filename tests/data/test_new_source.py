"""The data set of CONTRIBUTING.md, added as it says, reaches every place that takes facts of named data sets."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import acto
from acto.cli import main
from acto.compare.tables import Column
from acto.data.catalog import SOURCES, Source
from acto.data.for_prediction import read_new
from acto.data.noise import NoiseSpec
from acto.data.readers.formats import FORMATS, Format
from acto.data.readers.place import Place
from acto.data.samples import DataSpec, Raw
from acto.diagnostics import probe
from acto.runs.recipes import by_data

ROOT = Path(__file__).parents[2]


@pytest.fixture
def blocks() -> tuple[str, ...]:
    """Reader, record, setting and test."""
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("\n## A new data set ")[2].partition("\n## ")[0]
    return tuple(re.findall(r"^```python\n(.*?)^```", section, flags=re.M | re.S))


def module_of(monkeypatch: pytest.MonkeyPatch, path: Path, name: str, text: str) -> ModuleType:
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, blocks: tuple[str, ...]) -> ModuleType:
    """The data set's tests, once its reader, record and setting are there."""
    reader, record, setting, tests = blocks
    monkeypatch.delenv("ACTO_DATA_ROOT", raising=False)
    module = module_of(monkeypatch, tmp_path / "letters.py", "acto.data.readers.letters", reader)
    (entry,) = eval(f"{{{record}}}", {"Source": Source, "letters": module}).items()
    monkeypatch.setitem(SOURCES, *entry)
    (row,) = eval(f"{{{setting}}}", vars(by_data).copy()).items()
    monkeypatch.setitem(by_data.SETTINGS, *row)
    return module_of(monkeypatch, tmp_path / "test_letters.py", "test_letters", tests)


def test_its_own_tests_pass(letters: ModuleType, tmp_path: Path) -> None:
    letters.test_letters(tmp_path / "whole")
    letters.test_damaged_letters_are_refused(tmp_path / "damaged")


def test_its_own_tests_fail_on_a_broken_reader(
    monkeypatch: pytest.MonkeyPatch, letters: ModuleType, tmp_path: Path, blocks: tuple[str, ...]
) -> None:
    broken = blocks[0].replace("4 * len(rows)", "3 * len(rows)")
    module = module_of(monkeypatch, tmp_path / "broken.py", "broken_letters", broken)
    monkeypatch.setitem(SOURCES, "letters", Source(read=module.read, about="broken"))
    with pytest.raises(AssertionError):
        letters.test_letters(tmp_path / "whole")


def test_it_is_known_everywhere(letters: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = letters.write_letters(tmp_path / "root")
    spec = DataSpec(source="letters", noise=NoiseSpec(kind="symmetric", rate=0.4))
    data = acto.load_data(spec, data_root=root)
    assert data.noise["rate_realised"] == data.train.noise_rate and 0.2 < data.noise["rate_realised"] < 0.6
    assert data.views.pipeline == "vectors"
    assert len(read_new("letters", data_root=root).samples) == 130
    assert acto.setting_for("letters") is by_data.VECTORS
    assert Column(data="letters", kind="none", rate=0.0).title == "Letters"
    assert main(["data", "check", "letters", "--data-root", str(root)]) == 0
    assert capsys.readouterr().out.startswith("letters: 104 training samples of 26 classes; 26 test samples\n")
    (finding,) = [finding for finding in probe.data_sets(str(root)) if finding.name == "data letters"]
    assert "104 training and 26 test samples, but the published set has 16,000 and 4,000" in finding.text
    with pytest.raises(acto.UserError, match=r"unknown data source 'leters'.* Did you mean 'letters'"):
        acto.load_data(DataSpec(source="leters"))
    (absent,) = [f for f in probe.data_sets(str(tmp_path)) if "not there" in f.text]
    assert "letters" in absent.text


def test_a_new_format_serves_training_and_prediction(
    letters: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def read(spec: DataSpec, place: Place) -> Raw:
        return SOURCES["letters"].read(spec, Place(path=place.own.parents[1]))

    monkeypatch.setitem(FORMATS, "rows", Format((".data",), "rows of letters", "rows", read, read))
    (path,) = letters.write_letters(tmp_path / "root").rglob("*.data")
    assert len(acto.load_data(DataSpec(source=str(path))).test) == 26
    new = read_new(str(path))
    assert (len(new.samples), new.splits.count("test"), new.samples.labels.any()) == (130, 26, False)
    (tmp_path / "x.odd").touch()
    with pytest.raises(
        acto.UserError, match=r"is no image folder, .*\(\.npz, \.npy\), .* or rows of letters \(\.data\)$"
    ):
        acto.load_data(DataSpec(source=str(tmp_path / "x.odd")))
    with pytest.raises(acto.UserError, match=r"is no folder, picture .*\(\.npz, \.npy\), .* or rows \(\.data\)$"):
        read_new(str(tmp_path / "x.odd"))
