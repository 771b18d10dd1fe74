"""Outliers: samples that look like none of the trusted ones, from their features to the report and its page."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import acto
from acto.cli import main
from acto.core.errors import RunError
from acto.labels.page import render
from acto.labels.reasons import OUTLYING
from acto.nets.build import build_net
from acto.run_folder.reading import OUTLIER
from acto.runs import outliers
from acto.runs.outliers import LEAST_OF_CLASS, outlier_scores, ranked_trust
from acto.training import evaluation, features
from acto.training.features import Features
from labels.test_page import rows_of

CPU = torch.device("cpu")


def problem(num: int = 90, *, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    vectors = torch.from_numpy(random.normal(size=(num, 5)) + 3 * np.eye(1, 5)).float()
    given, predicted = random.integers(0, 2, num), random.integers(0, 2, num)
    return {
        "features": F.normalize(vectors, dim=1).half(), "given": given, "predicted": predicted,
        "trust": random.random(num), "num_seen": num - 30, "device": CPU,
    }  # fmt: skip


def literally(features: Any, given: Any, predicted: Any, trust: Any, num_seen: int, device: Any) -> list[float]:
    """The same, one sample after another."""
    rows, num = features.double().numpy(), len(given)
    trusted: list[int] = []
    for label in set(given.tolist()):
        members = [i for i in range(num_seen) if given[i] == predicted[i] == label]
        members.sort(key=lambda i: -trust[i])
        trusted += members[: max(10, (len(members) + 1) // 2)]
    far = [sorted(1 - float(rows[i] @ rows[j]) for j in trusted if j != i)[4] for i in range(num)]
    found = []
    for i in range(num):
        group = range(num_seen) if i < num_seen else range(num_seen, num)
        confirmed = [far[j] for j in group if given[j] == predicted[j]]
        found.append((sum(d < far[i] for d in confirmed) + 0.5) / (len(confirmed) + 1))
    return found


def test_scores_are_what_they_are_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = problem()
    expected = literally(**asked)
    found = outlier_scores(**asked)
    assert found.dtype == np.float32 and found == pytest.approx(expected, abs=1e-6)
    assert 0 < found.min() < 0.1 < 0.9 < found.max() < 1
    monkeypatch.setattr(outliers, "_AT_ONCE", 7 * 40)  # in blocks of some rows
    assert outlier_scores(**asked) == pytest.approx(expected, abs=1e-6)


def test_of_many_trusted_samples_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = problem(900)
    before = outlier_scores(**asked)
    monkeypatch.setattr(outliers, "MOST_TRUSTED", 60)
    after = outlier_scores(**asked)
    assert not np.array_equal(before, after) and np.corrcoef(before, after)[0, 1] > 0.5
    assert np.array_equal(after, outlier_scores(**asked))


def test_nothing_is_said_of_a_class_with_few_confirmed_samples() -> None:
    asked = problem()
    confirmed = np.flatnonzero((asked["given"] == 1) & (asked["predicted"] == 1))
    asked["given"][confirmed[LEAST_OF_CLASS - 1 :]] = 0
    found = outlier_scores(**asked)
    assert np.array_equal(np.isnan(found), asked["predicted"] == 1)
    asked["given"] = 1 - asked["predicted"]
    assert np.isnan(outlier_scores(**asked)).all()


def test_an_outlier_takes_trust_away() -> None:
    outlier = np.array([0.0, 0.5, 1.0, np.nan, 1.0])
    assert ranked_trust(np.array([1.0, 1.0, 1.0, 0.7, 0.5]), outlier) == pytest.approx([1, 0.95, 0.2, 0.7, 0.1])


@pytest.mark.parametrize("limit", [None, 64 * 40])
def test_features_are_what_the_head_sees(limit: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if limit is not None:
        monkeypatch.setattr(features, "MOST_NUMBERS", limit)
    torch.manual_seed(0)
    net = build_net("mlp:256", input_shape=(4,), num_classes=3).eval()
    inputs = torch.randn(40, 4)
    kept = Features(net, num_samples=40)
    with torch.no_grad():
        with kept.watched():
            for part in inputs.split(16):
                net(part)
                kept.keep()
        net(inputs)  # nobody watches any more
        expected = F.normalize(net.features(inputs), dim=1)
    rows = kept.rows.float()
    assert rows.shape == (40, 256 if limit is None else 64) and rows.norm(dim=1) == pytest.approx(np.ones(40), abs=2e-3)
    assert rows @ rows.T == pytest.approx((expected @ expected.T).numpy(), abs=2e-3 if limit is None else 0.5)
    with pytest.raises(AssertionError, match="not been watched"):
        kept.keep()


# A run --------------------------------------------------------------------------------------------------------------

COUNT, OPEN = 300, 30


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes around three centres, and samples of none around a fourth one, whose labels are drawn."""
    folder, random = tmp_path_factory.mktemp("outliers"), np.random.default_rng(0)
    right = np.arange(COUNT) % 3
    right[:OPEN] = 3
    values = random.normal(size=(COUNT, 8)) + 5 * np.eye(4, 8)[right]
    given = np.where(right < 3, right, random.integers(0, 3, COUNT))
    ids = np.array([f"{'open' if k == 3 else 'known'}-{i}" for i, k in enumerate(right)])
    order = random.permutation(COUNT)
    np.savez(folder / "data.npz", x=values[order].astype(np.float32), y=given[order], ids=ids[order])
    tokens = ["--net", "mlp:32", "--epochs", "12", "--device", "cpu", "--out", str(folder / "run")]
    assert main(["train", "--data", str(folder / "data.npz"), *tokens]) == 0
    return folder / "run"


def is_open(report: acto.LabelReport) -> Any:
    return np.array([id.startswith("open") for id in report.columns["id"]])


def test_samples_of_no_class_are_outliers(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = acto.read_report(run)
    outlier, beyond = np.asarray(report.columns["outlier"]), is_open(report)
    assert evaluation.auroc(outlier, beyond) > 0.9
    assert outlier == pytest.approx(acto.read_run(run).outlier(), abs=1e-6) and len(outlier) == COUNT
    far = np.flatnonzero(report.is_label_issue & (outlier >= OUTLYING))
    near = np.flatnonzero(report.is_label_issue & ~(outlier >= OUTLYING))
    assert beyond[far].mean() > 0.5 and len(near)
    reasons = np.array(list(report.columns["reason"]))
    assert all("belong to no class" in text for text in reasons[far])
    assert not any("no class" in text for text in np.delete(reasons, far))
    words = f"{len(far)} of the suspects may belong to no class"
    page = render(report, acto.read_run(run))
    assert words in page.decode() and 'value="outlier"' in page.decode()
    assert {row["row"]: row["outlier"] for row in rows_of(page)} == pytest.approx(
        dict(enumerate(outlier.tolist())), abs=1e-4
    )
    assert main(["audit", str(run)]) == 0
    assert words in capsys.readouterr().out


def test_the_ranking_takes_them_into_account(run: Path) -> None:
    report, record = acto.read_report(run), acto.read_run(run)
    outlier = np.asarray(report.columns["outlier"])
    trust = np.concatenate([record.samples()["label_quality"], report.columns["prob_given"][COUNT // 10 * 9 :]])
    assert report.label_quality == pytest.approx(ranked_trust(trust, outlier), abs=1e-6)


def test_held_out_samples_are_compared_with_one_another(run: Path) -> None:
    report = acto.read_report(run)
    held_out, outlier = np.asarray(report.columns["held_out"]), np.asarray(report.columns["outlier"])
    for part in (held_out, ~held_out):
        count = int((part & ~report.is_label_issue).sum())
        nearer = outlier[part] * (count + 1) - 0.5  # how many of them are
        assert nearer == pytest.approx(np.rint(nearer), abs=1e-3)
        assert -1e-3 < nearer.min() < count / 2 < nearer.max() < count + 1e-3


def test_labels_that_the_run_never_saw_have_them_too(run: Path, tmp_path: Path) -> None:
    assert main(["audit", str(run), "--data", str(run.parent / "data.npz"), "--out", str(tmp_path)]) == 0
    report = acto.read_report(tmp_path)
    assert evaluation.auroc(np.asarray(report.columns["outlier"]), is_open(report)) > 0.9


def test_the_last_checkpoint_gives_the_same_scores(run: Path, tmp_path: Path) -> None:
    expected = np.asarray(acto.read_report(run).columns["outlier"])
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "summary.json").unlink()
    assert main(["audit", str(copy), "--no-duplicates"]) == 0
    assert np.asarray(acto.read_report(copy).columns["outlier"]) == pytest.approx(expected, abs=1e-3)


def test_a_damaged_file_is_named_and_a_run_of_before_has_none(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    for damaged in (np.zeros(7, np.float32), np.full(COUNT, "far")):
        np.save(copy / OUTLIER, damaged)
        with pytest.raises(RunError, match=rf"{damaged.dtype} of shape \({len(damaged)},\), not one for each of 300"):
            acto.audit_run(copy)
    (copy / OUTLIER).unlink()
    report = acto.audit_run(copy)
    assert "outlier" not in report.columns
    assert np.array_equal(report.label_quality[:270], acto.read_run(copy).samples()["label_quality"])


def test_probabilities_alone_have_no_outliers() -> None:
    report = acto.audit([0, 1, 0, 1], [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6]])
    assert "outlier" not in report.columns and 'value="outlier"' not in render(report, None).decode()
