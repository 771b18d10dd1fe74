"""What belongs together, by a column or because it is the same, stays on one side of the hold-out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import acto
from acto.cli import main
from acto.core.errors import UserError
from acto.data import hold_out
from acto.data.in_memory import as_dataset
from acto.data.samples import Dataset, DataSpec
from acto.data.sources import load_data
from acto.data.splits import holdout

COUNT = 60
LABELS = np.arange(COUNT) % 3
PATIENTS = [f"p{row // 6}" for row in range(COUNT)]


def noise(count: int, *shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)


def sides(data: Dataset) -> tuple[set[str], set[str]]:
    return set(data.train.ids), set(data.test.ids)


# The draw -----------------------------------------------------------------------------------------------------------


def test_groups_of_one_row_are_no_groups() -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        labels = random.integers(0, 5, 200)
        plain = holdout(labels, share=0.1, seed=seed)
        grouped = holdout(labels, share=0.1, seed=seed, groups=random.permutation(200))
        assert np.array_equal(plain[0], grouped[0]) and np.array_equal(plain[1], grouped[1])


def test_groups_stay_whole_and_shares_are_nearly_met() -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        labels, groups = random.integers(0, 3, 900), random.integers(0, 150, 900)
        kept, held_out = holdout(labels, share=0.1, seed=seed, groups=groups)
        assert sorted([*kept, *held_out]) == list(range(900))
        assert not set(groups[kept]) & set(groups[held_out])
        assert np.bincount(labels[held_out]) == pytest.approx(0.1 * np.bincount(labels), abs=9)


def test_a_class_is_never_held_out_whole() -> None:
    labels, groups = np.repeat([0, 1], 10), np.repeat(np.arange(6), [5, 5, 4, 3, 2, 1])
    for seed in range(20):
        kept, held_out = holdout(labels, share=0.9, seed=seed, groups=groups)
        assert set(labels[kept]) == {0, 1} and len(held_out)


def test_groups_that_are_too_large_are_refused_with_their_sizes() -> None:
    with pytest.raises(UserError, match=r"too large to hold one of them out for 10%: the largest of 2 has 40 samples"):
        holdout(LABELS, share=0.1, seed=0, groups=np.repeat([0, 1], [40, 20]))


# Copies -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [0, 1], ids=["copies", "brighter"])
def test_copies_of_a_picture_are_not_tested_on(change: int) -> None:
    """The first 20 pictures come a second time, behind the others."""
    pictures = noise(COUNT, 8, 8, 3) // 2
    pictures, labels = np.concatenate([pictures, pictures[:20] + change]), np.concatenate([LABELS, LABELS[:20]])
    apart = 0
    for seed in range(8):
        plain = set(holdout(labels, share=0.2, seed=seed)[1])
        apart += sum((row in plain) != (COUNT + row in plain) for row in range(20))
        _, tested = sides(as_dataset(pictures, labels, holdout_share=0.2, seed=seed))
        assert all((str(row) in tested) == (str(COUNT + row) in tested) for row in range(20))
        assert 10 <= len(tested) <= 22
    assert apart > 20


def test_copies_of_files_and_of_rows_are_not_tested_on(tmp_path: Path) -> None:
    rows = []
    for row, pixels in enumerate(noise(30, 65, 65, 3)):
        for copy in "ab":  # larger than what is decoded at once
            Image.fromarray(pixels).save(tmp_path / f"{row}{copy}.{'png' if copy == 'a' else 'bmp'}")
            rows.append({"path": f"{row}{copy}.{'png' if copy == 'a' else 'bmp'}", "label": "xyz"[row % 3]})
    pd.DataFrame(rows).to_csv(tmp_path / "pictures.csv", index=False)
    cells = np.random.default_rng(0).normal(size=(30, 2)).round(3)
    table = pd.DataFrame({"a": cells[:, 0], "b": cells[:, 1], "label": list("xyz") * 10})
    pd.concat([table, table]).to_csv(tmp_path / "rows.csv", index=False)
    for seed in range(2):
        spec = DataSpec(source=str(tmp_path / "pictures.csv"), holdout_share=0.2, holdout_seed=seed)
        tested = sides(load_data(spec))[1]
        assert {name for name in tested if "a" in name} == {
            name.replace("b.bmp", "a.png") for name in tested if "b." in name
        }
        spec = DataSpec(source=str(tmp_path / "rows.csv"), holdout_share=0.2, holdout_seed=seed)
        tested = sides(load_data(spec))[1]
        assert {int(name) for name in tested} == {(int(name) + 28) % 60 + 2 for name in tested}  # rows 2 to 61


def test_crowded_data_are_drawn_as_ever() -> None:
    """Each point of a line is like the next: chained, all of them would be one copy."""
    points = np.stack([np.arange(600) / 600, np.zeros(600)], 1).astype(np.float32)
    data = as_dataset(points, np.arange(600) % 3)
    assert data.test.ids == tuple(map(str, holdout(np.arange(600) % 3, share=0.1, seed=0)[1]))


def test_beyond_a_size_equal_samples_alone_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = noise(COUNT, 8, 8, 3) // 2
    pictures[1], pictures[3] = pictures[0], pictures[2] + 1
    samples = as_dataset(pictures, LABELS, test=pictures, test_labels=LABELS).train
    groups = hold_out.together(samples, largest=6)
    assert groups is not None and groups[0] == groups[1] and groups[2] == groups[3]
    monkeypatch.setattr(hold_out, "MOST_NUMBERS", 10)
    groups = hold_out.together(samples, largest=6)
    assert groups is not None and groups[0] == groups[1] and groups[2] != groups[3]


# Groups of a column -------------------------------------------------------------------------------------------------


def frame_of(folder: Path, groups: list[Any]) -> pd.DataFrame:
    for row, pixels in enumerate(noise(COUNT, 8, 8, 3)):
        Image.fromarray(pixels).save(folder / f"{row}.png")
    return pd.DataFrame(
        {"path": [f"{row}.png" for row in range(COUNT)], "label": np.array(list("xyz"))[LABELS], "patient": groups}
    )


def as_manifest(folder: Path, groups: list[Any]) -> Path:
    frame_of(folder, groups).to_csv(folder / "data.csv", index=False)
    return folder / "data.csv"


def as_parquet(folder: Path, groups: list[Any]) -> Path:
    frame_of(folder, groups).to_parquet(folder / "data.parquet")
    return folder / "data.parquet"


def as_json_lines(folder: Path, groups: list[Any]) -> Path:
    vectors = np.random.default_rng(0).normal(size=(COUNT, 4)).round(3).tolist()
    rows = zip(vectors, LABELS.tolist(), groups, strict=True)
    lines = [json.dumps({"v": v, "label": "xyz"[label], "patient": group}) for v, label, group in rows]
    (folder / "data.jsonl").write_text("\n".join(lines))
    return folder / "data.jsonl"


def as_hub_folder(folder: Path, groups: list[Any]) -> Path:
    vectors = np.random.default_rng(0).normal(size=(COUNT, 4)).tolist()
    frame = pd.DataFrame({"v": vectors, "label": np.array(list("xyz"))[LABELS], "patient": groups})
    (folder / "hub" / "data").mkdir(parents=True)
    frame.to_parquet(folder / "hub" / "data" / "train-00000-of-00001.parquet")
    return folder / "hub"


def as_table(folder: Path, groups: list[Any]) -> Path:
    numbers = np.random.default_rng(0).normal(size=(COUNT, 2))
    frame = pd.DataFrame(
        {"a": numbers[:, 0], "b": numbers[:, 1], "patient": groups, "label": np.array(list("xyz"))[LABELS]}
    )
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


KINDS = (as_manifest, as_parquet, as_json_lines, as_hub_folder, as_table)
Kind = Callable[[Path, list[Any]], Path]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("groups", [PATIENTS, [row // 6 for row in range(COUNT)]], ids=["names", "numbers"])
def test_a_column_of_groups(kind: Kind, groups: list[Any], tmp_path: Path) -> None:
    data = load_data(DataSpec(source=str(kind(tmp_path, groups)), group_column="patient", holdout_share=0.2))
    assert data.train.groups is not None and data.test.groups is not None
    assert len(set(data.test.groups)) == 2 and not set(data.train.groups) & set(data.test.groups)
    assert len(data.test) == 12 and data.held_out == data.test.ids
    assert "these are 2 whole groups of 10" in data.notes
    if kind is as_table:
        assert data.encoding is not None and data.encoding.columns == ("a", "b")


def test_rows_without_a_group_are_on_their_own(tmp_path: Path) -> None:
    spec = DataSpec(source=str(as_manifest(tmp_path, [*PATIENTS[:30], *[None] * 30])), group_column="patient")
    data = load_data(spec)
    assert data.train.groups is not None and data.test.groups is not None
    assert len({*data.train.groups, *data.test.groups}) == 5 + 30


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_that_is_not_there_is_refused(kind: Kind, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no column 'patent'.*patient"):
        load_data(DataSpec(source=str(kind(tmp_path, PATIENTS)), group_column="patent"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_labels_are_no_groups(kind: Kind, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"group_column 'label' is the column of labels"):
        load_data(DataSpec(source=str(kind(tmp_path, PATIENTS)), group_column="label"))


@pytest.mark.parametrize("kind", KINDS)
def test_one_group_of_all_is_refused(kind: Kind, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the largest of 1 has 60 samples. Give a test set"):
        load_data(DataSpec(source=str(kind(tmp_path, ["p"] * COUNT)), group_column="patient"))


def test_vectors_are_no_groups(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"column 'v' holds vectors, and no groups"):
        load_data(DataSpec(source=str(as_json_lines(tmp_path, PATIENTS)), group_column="v"))


def test_what_has_no_columns_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "data.npz", x=noise(COUNT, 8, 8, 3), y=LABELS)
    for name in "xy":
        (tmp_path / "folder" / name).mkdir(parents=True)
        for row, pixels in enumerate(noise(12, 8, 8, 3)):
            Image.fromarray(pixels).save(tmp_path / "folder" / name / f"{row}.png")
    for source in (tmp_path / "data.npz", tmp_path / "folder", "digits"):
        with pytest.raises(UserError, match=r"has no columns, and so no group_column 'patient': list its samples in a"):
            load_data(DataSpec(source=str(source), group_column="patient"))
    out = tmp_path / "run"
    assert main(["train", "--data", "digits", "--data.group_column", "patient", "--out", str(out)]) == 2
    assert "digits has no columns" in capsys.readouterr().err and not out.exists()
    assert main(["data", "check", str(tmp_path / "data.npz"), "--data.group_column", "patient"]) == 2
    assert "no group_column 'patient'" in capsys.readouterr().out


def test_groups_on_both_sides_of_a_given_split_are_told(tmp_path: Path) -> None:
    frame = frame_of(tmp_path, PATIENTS).assign(split=["test", "train", "train", "train"] * 15)
    frame.to_csv(tmp_path / "data.csv", index=False)
    data = load_data(DataSpec(source=str(tmp_path / "data.csv"), group_column="patient"))
    assert len(data.test) == 15 and data.held_out == ()
    assert any("15 of 15 test samples belong to groups that have training samples too" in note for note in data.notes)


# Runs that were begun before ----------------------------------------------------------------------------------------


def test_a_run_of_before_keeps_the_split_it_was_begun_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It kept no list of what it held out, and copies could lie on both sides."""
    rows = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=np.concatenate([rows, rows]), y=np.arange(80) % 2)
    source, run = str(tmp_path / "data.npz"), tmp_path / "run"
    tokens = ["--net", "mlp:4", "--epochs", "1", "--device", "cpu", "--no-report", "--out"]
    with monkeypatch.context() as patched:
        patched.setattr(hold_out, "together", lambda *samples, **settings: None)
        assert main(["train", "--data", source, *tokens, str(run)]) == 0
    drawn = json.loads((run / "held_out.json").read_text())["ids"]
    assert drawn != list(load_data(DataSpec(source=source)).held_out)
    assert main(["audit", str(run)]) == 0 and len(acto.read_report(run)) == 80
    for name in ("held_out.json", "held_out_probs.npy", "held_out_predictions.npy", "outlier.npy"):
        (run / name).unlink()
    assert main(["audit", str(run)]) == 0
    report = acto.read_report(run)
    assert len(report) == 72 and "held_out" not in report.columns and not set(drawn) & set(report.columns["id"])
    assert any("8 samples that this run held out cannot be judged" in note for note in report.facts["notes"])
