"""Labels by several people as strangers have them: in acto.consensus, and given to `acto train`."""

from __future__ import annotations

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
from acto.data.samples import DataSpec
from acto.data.sources import load_data

pytestmark = pytest.mark.kind("labels by several people")

GAP = np.nan
VOTES = np.array([[0, 1, 0], [1, 1, GAP], [0, 0, 0], [1, 0, 1], [1, GAP, 1]])
PROBS = np.array([[0.8, 0.2], [0.1, 0.9], [0.7, 0.3], [0.4, 0.6], [0.2, 0.8]])
APART = np.array([[0, GAP], [GAP, 1], [1, GAP], [GAP, 0]])
LONG = pd.DataFrame({"task": [1, 1, 2, 2, 3, 3], "worker": ["x", "y"] * 3, "answer": ["a", "a", "b", "a", "b", "b"]})
WIDE = pd.DataFrame({"id": ["p", "q", "r"], "ann": [0, 1, 1], "bob": [0, 1, 0]})


@pytest.mark.refused
@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: acto.consensus(VOTES[:, :1]), r"no sample has labels of two annotators \(1 annotator, 5 labels\)"),
        (lambda: acto.consensus(APART), r"no sample has labels of two annotators .*pred_probs"),
        (lambda: acto.consensus(VOTES[:, 0]), r"not \(5,\): labels of one person are for acto.audit"),
        (lambda: acto.consensus(VOTES[None]), r"must be \(N, M\).*not \(1, 5, 3\)"),
        (lambda: acto.consensus("votes.csv"), "or a data frame, not str"),
        (lambda: acto.consensus([[0, 1], [0]]), "different lengths or none; where somebody gave no label put None"),
        (lambda: acto.consensus([[{}, 1], [0, 1]]), "names or whole numbers, not dict"),
        (lambda: acto.consensus(VOTES + 0.5), r"whole numbers \(2 rows\): row 0, annotator 0: '0.5'"),
        (lambda: acto.consensus(np.where(VOTES == 1, np.inf, VOTES)), "row 0, annotator 1: 'inf'"),
        (lambda: acto.consensus(np.zeros((4, 3), int)), "at least two classes .*by name"),
        (lambda: acto.consensus([[-1, 1], [1, 1]]), r"at least two classes .*'-1' counts as no label\).*by name"),
        (lambda: acto.consensus(np.full((3, 2), GAP)), "there are no labels"),
        (
            lambda: acto.consensus([["a", "b"], ["a", "c"]], class_names="ab"),
            "none of the 2 classes.*row 1, annotator 1: 'c'",
        ),
        (lambda: acto.consensus([[1, 2], [2, 2], [1, 1]], class_names="210"), "may be names or positions"),
        (lambda: acto.consensus(VOTES, method="crowdlab"), "crowdlab needs a model's probabilities"),
        (lambda: acto.consensus(VOTES, PROBS[:3]), "pred_probs has 3 rows, but there are 5 samples"),
        (lambda: acto.consensus(VOTES, PROBS * GAP), r"NaN or infinite values: 5 rows \(0, 1"),
        (lambda: acto.consensus(VOTES, PROBS * 5), r"lie in \[0, 1\]"),
        (lambda: acto.consensus(VOTES, PROBS * 0.9), "add up to 1"),
        (lambda: acto.consensus(VOTES, PROBS, class_names=["a"]), "2 columns, and there are 1 class names"),
        (
            lambda: acto.consensus([["a", "b"], ["a", "a"]], pd.DataFrame(PROBS[:2], columns=["a", "x"])),
            "none of the 2 classes.*'b'",
        ),
        (lambda: acto.consensus([["a", "b"], ["b", "b"]], PROBS[:2]), "count the classes from 0: give class_names"),
        (
            lambda: acto.consensus(pd.concat([LONG, LONG[:1].assign(answer="b")], ignore_index=True)),
            r"different labels, 1 time: '1' by 'x': 'a' \(labels row 0\) and 'b' \(labels row 6\)",
        ),
        (lambda: acto.consensus(LONG, ids=[1, 2, 4]), r"that the data do not have, the first '3' \(row 4\)"),
        (lambda: acto.consensus(LONG.assign(task=[1, 1, 2, None, 3, 3])), "row 3 has no task"),
        (lambda: acto.consensus(LONG, PROBS[:3], class_names="ab"), "pred_probs is an array without names"),
        (
            lambda: acto.consensus(LONG, pd.DataFrame(PROBS[:2], index=[3, 2], columns=["a", "b"])),
            "that the data do not have, the first '1'",
        ),
        (lambda: acto.consensus(WIDE.assign(label=1)), "'label' may be one annotator's .*say which columns"),
        (lambda: acto.consensus(WIDE.assign(id="p")), "several have the id: 'p' occurs 3 times"),
        (lambda: acto.consensus(WIDE, annotators=["anne"]), "no column 'anne'. Did you mean 'ann'"),
        (lambda: acto.consensus(VOTES, annotators=["a"]), "annotators has 1 entry for 3"),
        (lambda: acto.consensus(VOTES, ids=list("aabcd")), "ids must be different: 'a' occurs 2 times"),
        (
            lambda: acto.consensus([[0, 9999]] * 3, class_names=list(map(str, range(10000)))),
            "200,000,000 cells.*choose the method majority",
        ),
    ],
)
def test_what_is_no_labels_of_several_people(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        call()


@pytest.mark.right
@pytest.mark.parametrize(
    ("call", "labels", "notes"),
    [
        (
            lambda: acto.consensus(APART, PROBS[:4]),
            "0110",
            ["no sample that others labelled too; the quality rests on the model"],
        ),
        (lambda: acto.consensus(VOTES[:, :1], PROBS), "01011", ["1 annotator ('0')"]),
        (
            lambda: acto.consensus(np.vstack([VOTES, [GAP] * 3])),
            ["0", "1", "0", "1", "1", ""],
            ["1 sample without any label, the first '5'"],
        ),
        (lambda: acto.consensus(np.zeros((3, 2), int), class_names=["0", "1"]), "000", []),
        (
            lambda: acto.consensus(np.nan_to_num(VOTES, nan=-1).astype(np.int16)),
            "01011",
            ["2 labels '-1': a negative number counts as no label"],
        ),
        (lambda: acto.consensus(pd.concat([LONG, LONG[:1]])), "aab", ["a second time, the same: left out"]),
        (lambda: acto.consensus(LONG.assign(seconds=3)), "aab", ["not read: 'seconds'"]),
        (lambda: acto.consensus(WIDE.assign(true_label=1)), "01?", ["no annotator's: 'true_label'"]),
        (lambda: acto.consensus(WIDE.assign(label=1), annotators=["ann", "bob"]), "01?", []),
        (lambda: acto.consensus({"id": list("aabb"), "annotator": [1, 2] * 2, "label": list("xxyx")}), "x?", []),
        (lambda: acto.consensus(np.c_[VOTES, np.full(5, GAP)]), "01011", ["1 annotator ('3'): no label"]),
    ],
)
def test_what_can_be_used(call: Callable[[], Any], labels: str | list[str], notes: list[str]) -> None:
    report = call()
    assert [
        label if told != "?" else "?" for label, told in zip(report.samples["consensus_label"], labels, strict=True)
    ] == list(labels)
    assert len(report.notes) == len(notes)
    for note, expected in zip(report.notes, notes, strict=True):
        assert expected in note


# acto train -----------------------------------------------------------------------------------------------------

COUNT = 24
TRUTH = np.arange(COUNT) % 2


def pictures(folder: Path, *, votes: str | None = None, manifest: str | None = None) -> DataSpec:
    """Write pictures, a list of them, and what three people say: all are right but at the first."""
    for i in range(COUNT):
        Image.fromarray(np.full((8, 8), 40 + 5 * i, np.uint8)).save(folder / f"{i}.png")
    lines = [f"{i}.png,{TRUTH[i]},{TRUTH[i]},{1 - TRUTH[i] if i == 0 else TRUTH[i]}" for i in range(COUNT)]
    (folder / "votes.csv").write_text(votes or "\n".join(["path,ann,bob,eve", *lines]) + "\n")
    (folder / "list.csv").write_text(manifest or "\n".join(["path", *(f"{i}.png" for i in range(COUNT))]) + "\n")
    return DataSpec(source=str(folder / "list.csv"), votes=str(folder / "votes.csv"))


def given(dataset: Any) -> dict[str, str]:
    return {
        name: dataset.class_names[label]
        for part in (dataset.train, dataset.test)
        for name, label in zip(part.ids, part.labels.tolist(), strict=True)
    }


@pytest.mark.right
def test_votes_beside_a_manifest(tmp_path: Path) -> None:
    dataset = load_data(pictures(tmp_path))
    assert given(dataset) == {f"{i}.png": str(TRUTH[i]) for i in range(COUNT)}
    assert any("the consensus of 3 annotators" in note and "72 labels of 24 samples" in note for note in dataset.notes)


@pytest.mark.right
def test_test_samples_keep_their_labels_and_what_has_none_is_left_out(tmp_path: Path) -> None:
    rows = [f"{i}.png,{'test' if i > 19 else 'train'},{'1' if i > 19 else ''}" for i in range(COUNT)]
    manifest = "\n".join(["path,split,label", *rows])
    votes = "\n".join(
        ["id,annotator,label", *(f"{i}.png,{name},{i % 2}" for i in range(3, 20) for name in ("ann", "bob"))]
    )
    dataset = load_data(pictures(tmp_path, votes=votes, manifest=manifest))
    assert dataset.test.ids == tuple(f"{i}.png" for i in range(20, COUNT)) and set(dataset.test.labels.tolist()) == {1}
    assert dataset.train.ids == tuple(f"{i}.png" for i in range(3, 20))
    assert dataset.train.labels.tolist() == [i % 2 for i in range(3, 20)]
    assert any("3 rows of list.csv without votes or label: left out" in note for note in dataset.notes)


@pytest.mark.right
@pytest.mark.parametrize("beside", [False, True])
def test_votes_of_arrays(beside: bool, tmp_path: Path) -> None:
    votes = np.stack([TRUTH] * 3, 1)
    votes[0, 0], votes[5] = 1, -1
    features = np.random.default_rng(0).normal(size=(COUNT, 3)).astype(np.float32)
    arrays: dict[str, Any] = {"x": features, "true_labels": TRUTH, "class_names": ["cat", "dog"]}
    if beside:
        np.save(tmp_path / "votes.npy", votes)
    else:
        arrays["votes"] = votes
    np.savez(tmp_path / "data.npz", **arrays, test_x=features, test_y=TRUTH)
    spec = DataSpec(source=str(tmp_path / "data.npz"), votes=str(tmp_path / "votes.npy") if beside else None)
    dataset = load_data(spec)
    kept = [i for i in range(COUNT) if i != 5]
    assert dataset.train.ids == tuple(map(str, kept)) and dataset.class_names == ("cat", "dog")
    assert dataset.train.labels.tolist() == TRUTH[kept].tolist() == dataset.train.true_labels.tolist()  # type: ignore[union-attr]
    assert (dataset.train.features == features[kept]).all()
    assert any("1 sample of data.npz without votes" in note for note in dataset.notes)


@pytest.mark.right
def test_the_command_trains_on_votes_and_audits_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = np.random.default_rng(0).normal(size=(COUNT, 3)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=features)
    lines = [f"{i},{name},{'ab'[TRUTH[i]]}" for i in range(COUNT) for name in ("ann", "bob")]
    (tmp_path / "votes.csv").write_text("\n".join(["task,worker,label", *lines]))
    out = str(tmp_path / "run")
    flags = ["--data", str(tmp_path / "data.npz"), "--data.votes", str(tmp_path / "votes.csv"), "--method", "standard"]
    assert main(["train", *flags, "--out", out, "--protocol.epochs", "1", "--no-report", "--device", "cpu"]) == 0
    said = capsys.readouterr()
    assert "the consensus of 2 annotators of" in said.out + said.err
    assert main(["audit", out, "--no-duplicates", "--json"]) == 0
    lines[0] = "0,ann,b"
    (tmp_path / "votes.csv").write_text("\n".join(["task,worker,label", lines[0], "0,bob,b", *lines[2:]]))
    assert main(["audit", out, "--no-duplicates"]) == 2  # other votes are other data


@pytest.mark.refused
@pytest.mark.parametrize(
    ("votes", "says"),
    [
        ("path,ann,bob\n0.png,0,0\nO.png,1,1\n", "'O.png', and 23 samples of the data without votes. Did you mean "),
        ("path,ann\n0.png,0\n1.png,1\n", "no sample has labels of two annotators"),
        ("path,ann,bob\n0.png,0,0.5\n1.png,1,1\n", "votes.csv row 2, column bob: '0.5'"),
        ("path,ann,ann\n0.png,0,0\n", "2 columns 'ann'"),
        ("path,ann,bob\n0.png,0\n", "row 2 has 2 cells, the heading 3"),
        ("path,ann,bob\n", "has no rows"),
        ("path,ann,label\n0.png,0,0\n", "column 'label' may be one annotator's"),
        ("path,ann,bob\n0.png,0,0\n1.png,2,2\n", "class 1 has no sample"),
    ],
)
def test_votes_that_do_not_fit_the_data(votes: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        load_data(pictures(tmp_path, votes=votes))


@pytest.mark.refused
def test_votes_where_they_are_not_read(tmp_path: Path) -> None:
    spec = pictures(tmp_path)
    with pytest.raises(UserError, match="digits has labels of its own"):
        load_data(DataSpec(source="digits", votes=spec.votes))
    with pytest.raises(UserError, match=r"data\.votes is for the samples of a table or array file"):
        load_data(DataSpec(source=str(tmp_path), votes=spec.votes))
    np.savez(tmp_path / "short.npz", x=np.zeros((3, 2)), votes=np.zeros((4, 2), int))
    with pytest.raises(UserError, match="votes are about 4 samples, but there are 3"):
        load_data(DataSpec(source=str(tmp_path / "short.npz"), classes=("0", "1")))
