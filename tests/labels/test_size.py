"""Audits in blocks and from the disk: the same numbers to the last bit, and texts that take no room."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acto.core import sample_csv
from acto.core.lazy_texts import LazyTexts
from acto.data.label_columns import read_column
from acto.data.readers.arrays import map_array
from acto.labels import rules, scores
from acto.labels.audit import audit
from acto.labels.report import LabelReport
from acto.labels.rules import RULES, Issues
from acto.labels.scores import SCORES, look_at


def made(num_samples: int, num_classes: int) -> tuple[Any, Any]:
    random = np.random.default_rng(0)
    true = random.integers(0, num_classes, num_samples)
    probs = random.random((num_samples, num_classes), dtype=np.float32)
    probs[np.arange(num_samples), true] += 0.1 * num_classes
    probs /= probs.sum(1, keepdims=True)
    return np.where(random.random(num_samples) < 0.2, random.integers(0, num_classes, num_samples), true), probs


def numbers(report: LabelReport) -> list[Any]:
    noise = report.noise
    columns = [column if isinstance(column, np.ndarray) else list(column) for column in report.columns.values()]
    parts = (noise.rate, noise.rate_low, noise.rate_high, noise.share, noise.low, noise.high)
    return [*columns, *parts, report.look_first, report.warnings, report.facts]


@pytest.mark.parametrize("num_classes", [2, 20])
def test_blocks_change_nothing(num_classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, probs = made(300, num_classes)
    if num_classes == 20:  # sums of a few single numbers are exact in any order
        probs = probs / probs.sum(1, keepdims=True, dtype=np.float64)
    np.save(tmp_path / "p.npy", probs)
    np.save(tmp_path / "columns.npy", np.asfortranarray(probs))

    def found(probs: Any) -> list[Any]:
        look = look_at(given, probs)
        issues = Issues(look, probs)
        return [*numbers(audit(given, probs)), *map(issues.by, RULES), *map(issues.quality, SCORES), look.any_level]

    monkeypatch.setattr(scores, "BLOCK", 10**9)
    monkeypatch.setattr(rules, "_AT_HAND", 10**9)
    whole = found(probs)
    for block in (1, 5 * num_classes, 77 * num_classes, 2**17):
        monkeypatch.setattr(scores, "BLOCK", block)
        monkeypatch.setattr(rules, "_AT_HAND", block)
        for values in (probs, map_array(tmp_path / "p.npy"), map_array(tmp_path / "columns.npy")):
            for mine, its in zip(whole, found(values), strict=True):
                assert np.array_equal(mine, its) if isinstance(mine, np.ndarray) else mine == its


def test_a_level_that_only_another_class_reaches() -> None:
    """Rows 4 and 5: what is predicted is below its level, and the second class reaches its own, which is low."""
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.55, 0.45], [0.52, 0.48], [0.5, 0.5]])
    given = np.array([0, 0, 1, 1, 0, 0, 1])
    first, second, times = Issues(look_at(given, probs), probs).wrong_pairs()
    # Levels .7175 and .4: of class 0's four rows two are sure of it (rows 0, 1), and two of class 1 (4 and 5); of class
    # 1's three rows none is sure of 0.
    assert list(zip(first.tolist(), second.tolist(), times.tolist(), strict=True)) == [(0, 1, 2)]


def test_a_mapped_file_is_not_copied(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", np.ones((3, 2), np.float32))
    mapped = map_array(tmp_path / "p.npy")
    assert isinstance(mapped, np.memmap) and not mapped.flags.writeable and np.array_equal(mapped, np.ones((3, 2)))


def test_tiny_negatives_count_as_nothing() -> None:
    given, probs = made(300, 5)
    clean = probs.copy()
    clean[7] = (1, 0, 0, 0, 0)
    probs[7] = (1, 0, 0, -1e-6, 0)
    mine, its = audit(given, probs), audit(given, clean)
    assert mine.facts["notes"] == ["negative probabilities of at most 0.0001 that count as 0: 1"]
    assert (
        all(np.array_equal(a, b) for a, b in zip(mine.columns.values(), its.columns.values(), strict=True))
        and mine.noise.rate == its.noise.rate
    )
    assert np.array_equal(
        audit(given, probs, score="entropy_weighted").label_quality,
        audit(given, clean, score="entropy_weighted").label_quality,
    )


def test_texts_are_made_when_they_are_looked_at() -> None:
    given, probs = made(400, 4)
    report = audit(given, probs, class_names=["a", "b", "c", "d"])
    for name, column in report.columns.items():
        if not isinstance(column, np.ndarray):
            assert isinstance(column, LazyTexts), name
            texts = list(column)
            assert column == texts and column[3:9] == texts[3:9] and column[-1] == texts[-1] and len(column) == 400
            assert column != [*texts[:-1], "other"] and column != texts[:-1]
    with pytest.raises(IndexError):
        report.columns["id"][400]
    assert "400 texts: '0', '1', '2', ..." in repr(report.columns["id"])
    again = pickle.loads(pickle.dumps(report))
    assert again.columns["reason"] == report.columns["reason"] and any(again.columns["reason"])


def test_files_are_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, probs = made(400, 4)
    report = audit(given, probs, class_names=["=a", 'b "', "c\n", "d"])
    whole = {path.name: path.read_bytes() for path in report.save(tmp_path / "whole")}
    monkeypatch.setattr(sample_csv, "_AT_ONCE", 33)
    parts = {path.name: path.read_bytes() for path in report.save(tmp_path / "parts")}
    tables = [name for name in whole if not name.endswith(".parquet")]
    assert len(tables) == 2 and all(whole[name] == parts[name] for name in tables)
    if "label_report.parquet" in whole:
        parquet = pytest.importorskip("pyarrow.parquet")
        tables = [parquet.read_table(tmp_path / part / "label_report.parquet") for part in ("whole", "parts")]
        assert tables[0].equals(tables[1]) and tables[0].schema == tables[1].schema


NUMBERS = [[3, 1, 3, 2], [-1, 0, 5, 0], [2**40, 0, 1], [7], [200, 201, 200]]
FITTING = [
    (numbers, dtype)
    for numbers in NUMBERS
    for dtype in (np.int64, np.uint8, np.int16, ">i4")
    if np.iinfo(dtype).min <= min(numbers) and max(numbers) <= np.iinfo(dtype).max
]


@pytest.mark.parametrize(("numbers", "dtype"), FITTING)
def test_numbers_are_counted_as_they_are_sorted(numbers: list[int], dtype: Any) -> None:
    column = read_column(np.array(numbers, dtype), where=str)
    distinct, codes = np.unique(numbers, return_inverse=True)
    assert column.texts == tuple(map(str, distinct)) and column.codes.tolist() == codes.tolist()
