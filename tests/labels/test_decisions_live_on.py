"""Labels that people hold right: through the corrected data and the next run, in its report, its page and its rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import acto
from acto.cli import main
from acto.core.errors import UserError
from acto.data.decision_file import BEFORE_FILE, Decision, confirmed, decided_in, read_whole, to_csv, together
from acto.data.samples import DataSpec
from acto.data.sources import load_data
from acto.labels.confirmed import noise_beside
from acto.labels.corrected_copy import apply_decisions
from acto.labels.decisions import DecisionLog, carried_over
from acto.labels.page import render
from acto.labels.rate import Unseen, estimate_noise
from acto.labels.report import read_report
from acto.labels.scores import look_at
from acto.run_folder.reading import read_run
from label_reports import report_of, small
from labels.test_decisions import HEADER, TIME, accept, pictures, run_on
from labels.test_page import data_of, record_of

LATER = "2026-02-01T09:30:00Z"


def made(id: str, decision: str, given: str = "cat", new: str = "", *, time: str = TIME) -> Decision:
    return Decision(id=id, given_label=given, decision=decision, new_label=new, time=time)


# Files ----------------------------------------------------------------------------------------------------------


def test_the_latest_decision_counts_whoever_wrote_it_down():
    old = [made("a", "keep"), made("b", "keep", time=LATER), made("c", "keep")]
    new = [made("a", "accept", new="dog"), made("b", "remove"), made("c", "skip", time=LATER), made("d", "remove")]
    assert together(old, new) == (new[0], old[1], new[3])
    # What is kept, or was accepted and is the given label by now, is confirmed; a removed sample is not.
    found = confirmed([*old[:1], made("x", "accept", new="dog"), made("y", "remove")], ["a", "x", "y", "z"],
                      ["cat", "dog", "cat", "cat"])  # fmt: skip
    assert found.tolist() == [True, True, False, False]
    assert confirmed(old, ["a"], ["dog"]).tolist() == [False]  # its label has changed since


def test_a_copy_brings_its_decisions_and_those_before(tmp_path: Path):
    root = pictures(tmp_path / "pets")
    run = run_on(tmp_path, DataSpec(source=str(root)), {0: "dog", 6: "cat"})
    before = [made("cat/2.png", "keep"), made("cat/0.png", "keep"), made("gone.png", "remove")]
    (run / BEFORE_FILE).write_bytes(to_csv(before))
    log = DecisionLog(run, read_report(run))
    assert log.num_before == 2 and len(log.decisions) == 2
    log.add(1, "keep")
    log.close()
    done = apply_decisions(accept(run, [0], remove=(8,)), run)
    assert done.decisions_path == tmp_path / "pets-corrected.decisions.csv"
    found = {each.id: (each.decision, each.right_label) for each in read_whole(done.decisions_path)}
    assert found == {
        "cat/0.png": ("accept", "dog"), "cat/1.png": ("keep", "cat"), "cat/2.png": ("keep", "cat"),
        "dog/4.png": ("remove", None), "gone.png": ("remove", None),
    }  # fmt: skip
    after = load_data(DataSpec(source=str(done.path)))
    names = [after.class_names[k] for k in after.train.labels]
    held = confirmed(after.decisions, after.train.ids, names)
    assert [after.train.ids[i] for i in np.flatnonzero(held)] == ["cat/0.png", "cat/1.png", "cat/2.png"]
    assert any(note.startswith("3 labels were confirmed by people") for note in after.notes)
    assert not load_data(DataSpec(source=str(done.path), decisions="none")).decisions
    # A table or manifest next to it keeps its own.
    assert not load_data(DataSpec(source=str(root))).decisions
    assert len(load_data(DataSpec(source=str(root), decisions=str(done.decisions_path))).decisions) == 5


def test_nothing_is_written_over_the_decisions_of_others(tmp_path: Path):
    run = run_on(tmp_path, DataSpec(source=str(pictures(tmp_path / "pets"))), {0: "dog"})
    mine = tmp_path / "pets-corrected.decisions.csv"
    mine.write_text("mine")
    with pytest.raises(UserError, match=r"pets-corrected.decisions.csv exists and is not overwritten"):
        apply_decisions(accept(run, [0]), run)
    assert mine.read_text() == "mine" and not (tmp_path / "pets-corrected.csv").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ("id,label\n", "line 1: the columns are id, label, not id"),
        (HEADER + f"cat/0.png,cat,kept,,{TIME}\n", "line 2 word 'kept'.*'keep'"),
        (HEADER + f"cat/0.png,cat,accept,,{TIME}\n", "line 2: 'accept' needs a new_label"),
        (HEADER + "cat/0.png,cat,kee", "line 2 has 3 cells, not 5"),
        (HEADER + f"cat/0.pgn,cat,keep,,{TIME}\n", r"is about none of these samples.*'cat/0.pgn'.*mean 'cat/0.png'"),
        (HEADER.encode() + b"\xff", "line 2 is not UTF-8"),
    ],
)
def test_bad_files_of_decisions_are_refused(tmp_path: Path, text: str | bytes | None, message: str):
    root, path = pictures(tmp_path / "pets"), tmp_path / "d.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        load_data(DataSpec(source=str(root), decisions=str(path)))


def test_decisions_about_others_are_counted_and_left_alone(tmp_path: Path):
    root, path = pictures(tmp_path / "pets"), tmp_path / "d.csv"
    path.write_bytes(to_csv([made("cat/0.png", "keep"), made("cat/1.png", "keep", given="dog"), made("x", "keep")]))
    notes = load_data(DataSpec(source=str(root), decisions=str(path))).notes
    assert any("1 label was confirmed by people" in note and "2 decisions about samples or labels" in note
               for note in notes)  # fmt: skip


# The next run ---------------------------------------------------------------------------------------------------


def test_a_review_begins_with_what_was_decided_before(tmp_path: Path):
    before = [
        made("a.png", "keep"), made("b.png", "accept", "owl", "cat"), made("=1+1.png", "remove", "dog"),
        made("d'.png", "keep", "owl"), made("f.png", "accept", "owl", "bird"), made("gone", "keep"),
    ]  # fmt: skip
    (tmp_path / BEFORE_FILE).write_bytes(to_csv(before))
    log = DecisionLog(tmp_path, small())
    assert {row: each.decision for row, each in log.decisions.items()} == {0: "keep", 1: "keep", 2: "remove"}
    assert log.num_before == 3 and {each.time for each in log.decisions.values()} == {TIME}
    log.add(0, "skip")
    log.close()
    again = DecisionLog(tmp_path, small())  # begun once, and not a second time
    assert again.num_before == 0 and again.decisions[0].decision == "skip"
    again.close()
    assert {each.id for each in decided_in(tmp_path)} == {"b.png", "=1+1.png", "d'.png", "f.png", "gone"}
    assert carried_over([], report_of(["cat", "dog"], ["cat", "dog"], names=("cat", "dog"), ids=["x", "x"])) == {}


def test_the_page_of_a_file_begins_with_it_too(tmp_path: Path):
    (tmp_path / BEFORE_FILE).write_bytes(to_csv([made("a.png", "accept", new="owl")]))
    report = report_of(["cat", "dog", "owl"], ["dog", "dog", "owl"], ids=["a.png", "b", "c"], facts={"source": "run"})
    assert data_of(render(report, record_of(tmp_path)))["decisions"] == [[0, ["accept", 2, TIME]]]


@pytest.fixture(scope="module")
def reviewed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run r1 of vectors, in whose review two suspects were kept, and r2, which goes on from it."""
    folder = tmp_path_factory.mktemp("runs")
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 40)
    x = (random.normal(size=(120, 4)) + 4 * np.eye(3, 4)[labels]).astype(np.float32)
    given = labels.copy()
    given[[3, 50, 90, 101]] = [1, 2, 0, 1]
    np.savez(folder / "a.npz", x=x, y=given)
    asked = ["--data", str(folder / "a.npz"), "--net", "mlp:8", "--epochs", "6"]
    assert main(["train", *asked, "--out", str(folder / "r1")]) == 0
    report = read_report(folder / "r1")
    log = DecisionLog(folder / "r1", report)
    for row in np.flatnonzero(report.is_label_issue)[:2].tolist():
        log.add(row, "keep")
    log.close()
    assert main(["train", "--data", str(folder / "a.npz"), "--init-from", str(folder / "r1"), "--epochs", "7",
                 "--out", str(folder / "r2")]) == 0  # fmt: skip
    return folder


def test_what_was_kept_is_not_suspected_by_the_run_that_goes_on(reviewed: Path):
    kept = {made.id for made in decided_in(reviewed / "r1")}
    report = read_report(reviewed / "r2")
    rows = [report.columns["id"].index(id) for id in kept]
    assert len(kept) == 2 and np.flatnonzero(report.columns["is_confirmed"]).tolist() == sorted(rows)
    assert not report.is_label_issue[rows].any() and (report.label_quality[rows] == 1).all()
    assert {report.columns["suggested_label"][row] for row in rows} == {""}
    assert all(report.columns["reason"][row].startswith("A person holds this label right.") for row in rows)
    assert report.facts["confirmed"] == 2
    # Its folder alone knows it, whatever becomes of the run before.
    assert decided_in(reviewed / "r2") == decided_in(reviewed / "r1")
    log = DecisionLog(reviewed / "r2", report)
    assert {log.decisions[row].decision for row in rows} == {"keep"}
    log.close()


def test_a_second_look_at_the_same_run_believes_its_review(reviewed: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["audit", str(reviewed / "r1"), "--no-duplicates", "--out", str(reviewed / "again")]) == 0
    assert "2 labels confirmed by people: not suspected" in capsys.readouterr().out
    assert int(read_report(reviewed / "again").columns["is_confirmed"].sum()) == 2
    assert read_run(reviewed / "r1").summary is not None


# The rate and arrays --------------------------------------------------------------------------------------------


def uncertain(count: int = 600, num_classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which some are contradicted, and the probabilities."""
    random = np.random.default_rng(1)
    right = random.integers(0, num_classes, count)
    given = np.where(random.random(count) < 0.2, (right + 1) % num_classes, right)
    scores = 3 * random.random((count, 1)) * np.eye(num_classes)[right] + random.random((count, num_classes))
    probs = np.exp(2 * scores)
    return given, probs / probs.sum(1, keepdims=True)


def test_confirmed_labels_count_as_right():
    given, probs = uncertain()
    look = look_at(given, probs)
    plain, differs = estimate_noise(look), look.differs
    mask = np.zeros(len(given), bool)
    mask[np.flatnonzero(differs)[:60]] = True
    found = noise_beside(look, mask)
    assert found.rate < plain.rate - 0.03 and found.rate_high < plain.rate_high
    assert found.rate_low <= found.rate <= found.rate_high
    np.testing.assert_allclose(found.matrix.sum(1), 1)
    assert found.counts.tolist() == plain.counts.tolist()
    assert found.samples[found.given != found.right].sum() < plain.samples[plain.given != plain.right].sum() - 20
    assert (found.low <= found.share + 1e-12).all() and (found.share <= found.high + 1e-12).all()
    # None of them: the same as without. All of them: nothing can be wrong, as far as three of N tell.
    nobody = noise_beside(look, np.zeros(len(given), bool))
    assert (nobody.rate, nobody.rate_low, nobody.rate_high) == (plain.rate, plain.rate_low, plain.rate_high)
    np.testing.assert_array_equal(nobody.matrix, plain.matrix)
    every = noise_beside(look, np.ones(len(given), bool))
    assert every.rate == 0 and every.rate_high == 3 / len(given) and np.array_equal(every.matrix, np.eye(3))


def test_a_class_whose_labels_are_all_confirmed_has_none_wrong():
    given, probs = uncertain()
    found = noise_beside(look_at(given, probs), given == 1)
    assert found.matrix[1].tolist() == [0, 1, 0] and found.matrix[0, 0] < 1
    assert found.given.tolist() == sorted(found.given.tolist())


def test_unseen_labels_still_bound_the_rate_of_all():
    given, probs = uncertain()
    look = look_at(given, probs)
    unseen = Unseen(agreement=0.7, count=400)
    mask = ~look.differs & (np.arange(len(given)) % 2 == 0)  # what the model agrees with: the wrong ones are elsewhere
    found = noise_beside(look, mask, unseen=unseen)
    assert found.rate_high == pytest.approx(unseen.most_errors)


def test_arrays_take_a_mask():
    given, probs = uncertain()
    plain = acto.audit(given, probs)
    mask = plain.is_label_issue & (np.arange(len(given)) % 2 == 0)
    found = acto.audit(given, probs, confirmed=mask)
    assert np.array_equal(found.is_label_issue, plain.is_label_issue & ~mask)
    assert found.noise.rate < plain.noise.rate and found.facts["confirmed"] == mask.sum()
    assert not set(found.ranked()[: int(found.is_label_issue.sum())]) & set(np.flatnonzero(mask))
    assert "is_confirmed" not in acto.audit(given, probs, confirmed=np.zeros(len(given), bool)).columns
    for bad, message in (
        (np.flatnonzero(mask), "confirmed has .* entries, but pred_probs has 600"),
        (mask.astype(int), "True or False for each sample, but it is int64"),
        (mask[:, None], r"confirmed must be \(N,\)"),
        (["yes"] * 600, "True or False for each sample"),
        (np.where(mask, 1.0, np.nan), "True or False for each sample, but it is float64"),
        (7, "confirmed must be a list or an array, not int"),
    ):
        with pytest.raises(UserError, match=message):
            acto.audit(given, probs, confirmed=bad)
