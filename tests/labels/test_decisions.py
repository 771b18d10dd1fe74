"""decisions.csv: what may stand in it, what survives a crash, and what `acto apply` makes of it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from acto.cli.apply import apply
from acto.cli.flags import parse
from acto.core.errors import RunError, UserError
from acto.core.settings import from_values
from acto.data.decision_file import to_csv
from acto.data.noise import NoiseSpec
from acto.data.samples import DataSpec
from acto.data.sources import load_data
from acto.labels.corrected_copy import apply_decisions
from acto.labels.decisions import DecisionLog, corrected, read_decisions
from acto.labels.report import read_report
from acto.run_folder.writing import RunFolder
from acto.runs.recipes.by_data import setting_for
from acto.runs.recipes.recipe import recipe
from label_reports import report_of, small

HEADER = "id,given_label,decision,new_label,time\n"
TIME = "2026-01-31T09:30:00Z"


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "decisions.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_the_last_row_of_an_id_counts(tmp_path: Path):
    text = HEADER + f"a.png,cat,accept,dog,{TIME}\nb.png,cat,remove,,{TIME}\na.png,cat,accept,owl,{TIME}\n"
    decided = read_decisions(written(tmp_path, text), small())
    assert {row: (d.decision, d.new_label) for row, d in decided.items()} == {0: ("accept", "owl"), 1: ("remove", "")}
    labels, stays = corrected(small(), decided)
    assert labels == ["owl", "cat", "dog", "dog", "owl", "owl"]
    assert stays.tolist() == [True, False, True, True, True, True]


def test_spreadsheets_may_have_touched_the_file(tmp_path: Path):
    text = "\ufeff" + HEADER + f"'=1+1.png,dog,accept,cat,{TIME}\n" + '"e,""<b>.png",owl,keep,,31/01/2026\n\n'
    decided = read_decisions(written(tmp_path, text.replace("\n", "\r\n")), small())
    assert {row: d.decision for row, d in decided.items()} == {2: "accept", 4: "keep"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + f"a.png,cat,keep,,{TIME}\na.pgn,cat,keep,,{TIME}\n", r"line 3: .* no sample 'a.pgn'.*mean 'a.png'"),
        (HEADER + f"a.png,cat,accept,dgo,{TIME}\n", r"line 2: new_label 'dgo' is none of the 3 classes.*mean 'dog'"),
        (HEADER + f"a.png,dog,keep,,{TIME}\n", r"line 2: sample 'a.png' was given 'dog' there and 'cat'"),
        (HEADER + f"a.png,cat,acept,dog,{TIME}\n", r"line 2 word 'acept'.*'accept'.*keep, remove, skip"),
        (HEADER + f"a.png,cat,accept,,{TIME}\n", r"line 2: 'accept' needs a new_label"),
        (HEADER + f"a.png,cat,keep,dog,{TIME}\n", r"line 2: 'keep' takes no new_label"),
        (HEADER + HEADER, r"line 2: the heading comes a second time"),
        (HEADER + "a.png,cat,keep\n", r"line 2 has 3 cells, not 5"),
        (HEADER.replace(",", ";"), r"line 1: .* semicolons"),
        ("id,decision\n", r"line 1: the columns are id, decision, not id, given_label"),
        (HEADER.encode() + b"\xff\xfe", r"line 2 is not UTF-8"),
    ],
)
def test_what_is_refused(tmp_path: Path, text, message):
    with pytest.raises(UserError, match=message):
        read_decisions(written(tmp_path, text), small())


def test_a_missing_file_says_where_it_comes_from(tmp_path: Path):
    with pytest.raises(UserError, match="the report page downloads it"):
        read_decisions(tmp_path / "decisions.csv", small())


def test_two_samples_of_one_id_cannot_be_decided_on(tmp_path: Path):
    report = report_of(["cat", "dog", "owl"], ["dog", "dog", "owl"], ids=["x", "y", "x"])
    with pytest.raises(UserError, match="'x' occurs more than once"):
        read_decisions(written(tmp_path, HEADER), report)


def test_a_log_goes_on_where_it_was(tmp_path: Path):
    log = DecisionLog(tmp_path, small())
    log.add(2, "accept", new_label="owl")
    log.add(4, "remove")
    log.close()
    lines = (tmp_path / "decisions.csv").read_text().splitlines()
    assert lines[0] == HEADER.strip()
    assert lines[1].startswith("'=1+1.png,dog,accept,owl,20")
    assert lines[2].startswith('"e,""<b>.png",owl,remove,"",20')
    again = DecisionLog(tmp_path, small())
    assert {row: d.decision for row, d in again.decisions.items()} == {2: "accept", 4: "remove"}
    assert again.repaired == ""
    again.close()


@pytest.mark.parametrize(
    "tail", ["b.png,cat,rem", "b.png,cat,accept,do", '"e,""<b>.p\n', f"b.png,cat,keep,,{TIME[:12]}"]
)
def test_a_half_written_row_is_dropped_and_said(tmp_path: Path, tail: str):
    whole = HEADER + f"a.png,cat,accept,dog,{TIME}\n"
    path = written(tmp_path, whole + tail)
    log = DecisionLog(tmp_path, small())
    assert "half written" in log.repaired and tail[:5].strip('"') in log.repaired
    assert path.read_text() == whole
    log.add(1, "keep")
    log.close()
    assert set(read_decisions(path, small())) == {0, 1}


def test_a_half_written_heading_leaves_no_file(tmp_path: Path):
    path = written(tmp_path, HEADER[:9])
    log = DecisionLog(tmp_path, small())
    assert not path.exists()
    log.add(0, "keep")
    log.close()
    assert set(read_decisions(path, small())) == {0}


def test_an_editor_that_left_the_last_line_break_away_loses_nothing(tmp_path: Path):
    path = written(tmp_path, HEADER + f"a.png,cat,accept,dog,{TIME}")
    log = DecisionLog(tmp_path, small())
    log.add(1, "keep")
    log.close()
    assert log.repaired == "" and set(read_decisions(path, small())) == {0, 1}


def test_one_reviewer_at_a_time(tmp_path: Path):
    log = DecisionLog(tmp_path, small())
    with pytest.raises(UserError, match=f"being reviewed by process {os.getpid()} on"):
        DecisionLog(tmp_path, small())
    log.close()
    DecisionLog(tmp_path, small()).close()


def test_a_log_of_other_labels_is_refused_and_let_go(tmp_path: Path):
    path = written(tmp_path, HEADER + f"a.png,owl,keep,,{TIME}\n")
    with pytest.raises(UserError, match="belong to other labels"):
        DecisionLog(tmp_path, small())
    path.unlink()
    DecisionLog(tmp_path, small()).close()


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = DecisionLog(tmp_path, small())
    log.add(0, "keep")
    before = (tmp_path / "decisions.csv").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="the disk is full"):
        log.add(1, "keep")
    monkeypatch.undo()
    log.close()
    assert (tmp_path / "decisions.csv").read_bytes() == before
    assert set(log.decisions) == {0}


# apply ----------------------------------------------------------------------------------------------------------


def run_on(tmp_path: Path, spec: DataSpec, suggestions: dict[int, str]) -> Path:
    """The folder of a run on `spec`, with a report that suggests other labels for some rows, and nothing else."""
    run = recipe(spec, setting_for("digits"), method="acto")
    dataset = load_data(spec)
    given = [dataset.class_names[k] for k in dataset.train.labels.tolist()]
    predicted = [suggestions.get(i, name) for i, name in enumerate(given)]
    folder = tmp_path / "run"
    with RunFolder.create(folder, config=run.to_dict()) as opened:
        opened.save_labels(dataset.train.labels, facts=dataset.noise)
    report_of(given, predicted, names=dataset.class_names, ids=dataset.train.ids).save(folder)
    return folder


def accept(run: Path, rows: list[int], *, remove: tuple[int, ...] = ()) -> Path:
    report = read_report(run)
    log = DecisionLog(run, report)
    for row in rows:
        log.add(row, "accept", new_label=report.columns["suggested_label"][row])
    for row in remove:
        log.add(row, "remove")
    log.close()
    return log.path


def pictures(root: Path, *, classes=("cat", "dog"), count: int = 6, size: int = 80) -> Path:
    random = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for k in range(count):
            Image.fromarray(random.integers(0, 255, (size, size, 3), dtype=np.uint8)).save(root / name / f"{k}.png")
    return root


@pytest.mark.parametrize("size", [80, 16], ids=["picture files", "pictures decoded into memory"])
def test_three_accepted_suggestions_change_three_labels(tmp_path: Path, size: int):
    root = pictures(tmp_path / "pets", size=size)
    (root / "cat" / "5.png").rename(root / "cat" / 'it\'s <b>, "so".png')
    spec = DataSpec(source=str(root), holdout_share=0.2)
    before = load_data(spec)
    run = run_on(tmp_path, spec, {0: "dog", 2: "dog", 6: "cat", 7: "cat"})
    done = apply_decisions(accept(run, [0, 2, 6]), run)
    assert done.path == tmp_path / "pets-corrected.csv"
    assert done.changed == {("cat", "dog"): 2, ("dog", "cat"): 1} and done.removed == {}
    after = load_data(DataSpec(source=str(done.path)))
    assert after.class_names == before.class_names
    assert after.train.ids == before.train.ids and after.test.ids == before.test.ids
    assert np.flatnonzero(after.train.labels != before.train.labels).tolist() == [0, 2, 6]
    assert after.test.labels.tolist() == before.test.labels.tolist()
    assert after.test_labels_are_given and before.test_labels_are_given
    if size == 16:
        assert before.train.pixels is not None and after.train.pixels is not None
        assert np.array_equal(before.train.pixels, after.train.pixels)
    header, first, *_ = done.path.read_text().splitlines()
    assert header == "path,label,split,original_label,sample_id"
    assert first == "pets/cat/0.png,dog,train,cat,cat/0.png"


def test_removed_samples_are_left_out_and_the_next_command_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = pictures(tmp_path / "pets")
    run = run_on(tmp_path, DataSpec(source=str(root)), {0: "dog"})
    decisions = accept(run, [0], remove=(1, 8))
    assert apply([str(decisions), "--run", str(run)]) == 0
    text = capsys.readouterr().out
    assert "1 label changed, 2 removed, 8 training samples are left" in text
    assert "cat -> dog" in text and "dog, removed" in text
    command = text.splitlines()[-1].split()
    assert command[:4] == ["acto", "train", "--config", str(run / "config.yaml")]
    after = load_data(DataSpec(source=str(tmp_path / "pets-corrected.csv")))
    assert len(after.train) == 8 and "cat/1.png" not in after.train.ids


def test_nothing_is_overwritten(tmp_path: Path):
    root = pictures(tmp_path / "pets")
    run = run_on(tmp_path, DataSpec(source=str(root)), {0: "dog"})
    decisions = accept(run, [0])
    (tmp_path / "pets-corrected.csv").write_text("mine")
    with pytest.raises(UserError, match="exists and is not overwritten"):
        apply_decisions(decisions, run)
    assert (tmp_path / "pets-corrected.csv").read_text() == "mine"
    with pytest.raises(UserError, match=r"must end in \.csv"):
        apply_decisions(decisions, run, out=tmp_path / "x.npz")
    with pytest.raises(UserError, match="lies outside of"):
        apply_decisions(decisions, run, out=tmp_path / "elsewhere" / "x.csv")


def test_a_class_cannot_be_emptied(tmp_path: Path):
    root = pictures(tmp_path / "pets", count=3)
    run = run_on(tmp_path, DataSpec(source=str(root), holdout_share=0.4), {0: "dog", 1: "dog"})
    with pytest.raises(UserError, match="class 'cat' has no training sample"):
        apply_decisions(accept(run, [0, 1]), run)


def test_data_that_changed_since_are_refused(tmp_path: Path):
    root = pictures(tmp_path / "pets")
    run = run_on(tmp_path, DataSpec(source=str(root)), {0: "dog"})
    decisions = accept(run, [0])
    (root / "cat" / "3.png").rename(root / "dog" / "13.png")
    with pytest.raises(UserError, match=r"have changed since the run|no longer what its label report"):
        apply_decisions(decisions, run)


def test_names_that_look_like_formulas_come_back_as_they_are(tmp_path: Path):
    root = pictures(tmp_path / "pets", classes=("=cmd", "'quoted", "-1 or less"))
    before = load_data(DataSpec(source=str(root)))
    run = run_on(tmp_path, DataSpec(source=str(root)), {0: "=cmd"})
    done = apply_decisions(accept(run, [0]), run, out=root / "fixed.csv")
    after = load_data(DataSpec(source=str(done.path)))
    assert after.class_names == before.class_names and after.train.ids == before.train.ids
    assert np.flatnonzero(after.train.labels != before.train.labels).tolist() == [0]
    cells = done.path.read_text().replace("\n", ",").split(",")
    assert not [cell for cell in cells if cell.startswith(("=", "-", "+", "@"))]


def test_digits_become_arrays_with_their_ids_and_truth(tmp_path: Path):
    spec = DataSpec(source="digits", noise=NoiseSpec(kind="symmetric", rate=0.2), subset=300)
    before = load_data(spec)
    first, second, gone = np.flatnonzero(before.train.labels != 9)[3:6].tolist()
    run = run_on(tmp_path, spec, {first: "9", second: "9"})
    done = apply_decisions(accept(run, [first, second], remove=(gone,)), run, out=tmp_path / "digits.npz")
    after = load_data(DataSpec(source=str(done.path)))
    kept = [i for i in range(300) if i != gone]
    assert after.train.ids == tuple(before.train.ids[i] for i in kept)
    assert after.test.ids == before.test.ids and not after.test_labels_are_given
    assert after.views.pipeline == "digits" and after.class_names == before.class_names
    expected = before.train.labels.copy()
    expected[[first, second]] = 9
    assert after.train.labels.tolist() == expected[kept].tolist()
    assert after.train.true_labels is not None and before.train.true_labels is not None
    assert after.train.true_labels.tolist() == before.train.true_labels[kept].tolist()
    assert "--data.noise.kind none" in done.command and "--data.subset null" in done.command


def test_the_copy_s_command_names_the_run_s_settings(tmp_path: Path):
    spec = DataSpec(source="digits", noise=NoiseSpec(kind="symmetric", rate=0.2))
    run = run_on(tmp_path, spec, {5: "9"})
    done = apply_decisions(accept(run, [5]), run, out=tmp_path / "digits.npz")
    asked = parse(done.command.split()[2:])
    assert from_values(DataSpec, asked.settings["data"]) == DataSpec(source=str(done.path))
    assert asked.settings["net"] == "cnn_tiny"


def test_a_decision_file_of_nothing_is_a_heading():
    assert to_csv([]) == HEADER.encode()


def test_ids_of_a_copy_must_name_each_sample(tmp_path: Path):
    arrays = {"x": np.zeros((4, 2), np.float32), "y": np.array([0, 1, 0, 1])}
    np.savez(tmp_path / "a.npz", **arrays, ids=np.array(["p", "q", "p", "r"]))
    with pytest.raises(UserError, match=r"ids must name each of the 4 samples differently"):
        load_data(DataSpec(source=str(tmp_path / "a.npz")))
    np.savez(tmp_path / "b.npz", **arrays, pipeline=np.array("photo"))
    with pytest.raises(UserError, match=r"unknown pipeline of .*b.npz 'photo'"):
        load_data(DataSpec(source=str(tmp_path / "b.npz")))
    root = pictures(tmp_path / "pets")
    lines = [
        "path,label,split,sample_id",
        *(f"{c}/{k}.png,{c},train,{k % 5}" for c in ("cat", "dog") for k in range(6)),
    ]
    (root / "list.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"0 occurs in rows 2, 7, 8"):
        load_data(DataSpec(source=str(root / "list.csv")))
