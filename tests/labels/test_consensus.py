"""Consensus of several people's labels: methods against slow ones, forms of input, the report and the command."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

import acto
from acto.cli import main
from acto.core.errors import UserError
from acto.data.dawid_skene import dawid_skene
from acto.data.vote_forms import read_cells, votes_of
from acto.data.votes import Votes
from acto.labels.consensus_report import ConsensusReport

Floats = npt.NDArray[np.float64]
NAMES = ["cat", "dog", "fox"]
K = len(NAMES)
ACCURACY = (0.9, 0.85, 0.8, 0.75, 0.0, 0.33)
"""Of six annotators: the fifth takes each class for the next one, the last says anything."""


def drawn(count: int = 600, *, seed: int = 0, gaps: float = 0.4) -> tuple[Floats, npt.NDArray[np.int64], Floats]:
    """Labels (N, 6), truth (N,) and a model's probabilities (N, K)."""
    random = np.random.default_rng(seed)
    truth = random.integers(K, size=count)
    labels = np.full((count, len(ACCURACY)), np.nan)
    for j, share in enumerate(ACCURACY):
        wrong = (truth + (1 if j == 4 else random.integers(1, K, size=count))) % K
        labels[:, j] = np.where(random.random(count) < share, truth, wrong)
    labels[random.random(labels.shape) < gaps] = np.nan
    labels[np.isnan(labels).all(1), 0] = 0
    scores = random.normal(size=(count, K))
    scores[np.arange(count), truth] += 1.5
    probs = np.exp(scores)
    return labels, truth, probs / probs.sum(1, keepdims=True)


def votes(labels: Any) -> Votes:
    return votes_of(read_cells(labels), [str(k) for k in range(K)])


def cells(report: ConsensusReport) -> tuple[Any, ...]:
    return (report.samples["id"], report.samples["consensus_label"], report.quality.tolist())


# Methods ---------------------------------------------------------------------------------------------------------


def test_dawid_skene_turns_round_who_is_always_wrong() -> None:
    labels, truth, probs = drawn()
    accuracy = {
        method: float(np.mean(acto.consensus(labels, pred_probs, method=method).consensus == truth))
        for method, pred_probs in (("majority", None), ("dawid_skene", None))
    }
    assert accuracy["dawid_skene"] > accuracy["majority"] + 0.05
    report = acto.consensus(labels)
    given = ~np.isnan(labels)
    right = ((labels == truth[:, None]) & given).sum(0) / given.sum(0)
    assert np.abs(np.asarray(report.annotators["quality"]) - right).max() < 0.05
    table = report.confusion_matrix("4")
    assert table[np.arange(K), (np.arange(K) + 1) % K].min() > 0.85
    assert (report.annotators["often_given"][4], report.annotators["instead_of"][4]) in {
        ("0", "2"),
        ("1", "0"),
        ("2", "1"),
    }
    with_model = acto.consensus(labels, probs)
    assert np.mean(with_model.consensus == truth) > np.mean(report.consensus == truth)
    right_ones = with_model.consensus == truth
    assert with_model.quality[right_ones].mean() > with_model.quality[~right_ones].mean() + 0.1


@pytest.mark.parametrize("with_model", [False, True])
def test_probabilities_are_those_of_bayes_rule(with_model: bool) -> None:
    labels, _, probs = drawn(80)
    found = dawid_skene(votes(labels), probs if with_model else None)
    assert found.converged
    prior = (found.probs.sum(0) + 1) / (len(labels) + K)
    for i, row in enumerate(labels):
        chances = prior.copy() if found.power is None else probs[i] ** found.power
        for j, label in enumerate(row):
            if not np.isnan(label):
                chances *= found.tables[j, :, int(label)]
        assert found.probs[i] == pytest.approx(chances / chances.sum(), abs=2e-3)


def test_an_only_vote_does_not_confirm_itself() -> None:
    """The last annotator says anything, on samples of its own and on some that others labelled too."""
    labels, _, _ = drawn(400, gaps=0.2)
    alone = np.full((400, 6), np.nan)
    alone[:, 5] = np.random.default_rng(1).integers(K, size=400)
    quality = np.asarray(acto.consensus(np.concatenate([labels, alone])).annotators["quality"])
    assert quality[5] < 0.55 < quality[:4].min()
    stranger = np.concatenate([np.c_[labels, np.full(400, np.nan)], np.c_[np.full((400, 6), np.nan), alone[:, 5]]])
    report = acto.consensus(stranger)
    assert report.annotators["quality"][6] < 0.9
    assert any("'6'" in note and "others labelled too" in note for note in report.notes)


@pytest.mark.parametrize(
    "labels", [np.zeros((4, 3), int), [[0, 1, 0], [1, 1, None], [0, 0, 0], [1, 0, 1], [1, None, 1]]]
)
def test_a_handful_of_votes_does_not_swap_classes(labels: Any) -> None:
    report = acto.consensus(labels, class_names=["0", "1"])
    majority = acto.consensus(labels, class_names=["0", "1"], method="majority")
    assert report.consensus.tolist() == majority.consensus.tolist()
    assert report.quality.min() > 0.8


@pytest.mark.parametrize("method", ["dawid_skene", "crowdlab", "majority"])
def test_neither_order_nor_names_matter(method: str) -> None:
    labels, _, probs = drawn(200)
    report = acto.consensus(labels, probs, method=method)
    random = np.random.default_rng(3)
    rows, people, classes = random.permutation(200), random.permutation(6), np.array([2, 0, 1])
    moved = np.where(np.isnan(labels), np.nan, classes[np.nan_to_num(labels).astype(int)])[rows][:, people]
    again = acto.consensus(moved, probs[:, np.argsort(classes)][rows], method=method)
    assert again.consensus.tolist() == classes[report.consensus[rows]].tolist()
    assert again.quality == pytest.approx(report.quality[rows], abs=1e-4)
    quality = np.asarray(report.annotators["quality"])[people]
    assert again.annotators["quality"] == pytest.approx(quality, abs=1e-4)


def test_crowdlab_against_its_equations() -> None:
    labels, _, probs = drawn(60)
    report = acto.consensus(labels, probs, method="crowdlab")
    given = [[(j, int(y)) for j, y in enumerate(row) if not np.isnan(y)] for row in labels]
    majority = []
    for i, pairs in enumerate(given):
        counts = [sum(y == k for _, y in pairs) for k in range(K)]
        majority.append(max(range(K), key=lambda k: (counts[k], probs[i, k])))
    several = [i for i, pairs in enumerate(given) if len(pairs) > 1]
    likelihood = np.mean([np.mean([y == majority[i] for _, y in given[i]]) for i in several])
    model_right = np.mean([probs[i].argmax() == majority[i] for i in several])
    frequent = np.bincount([y for pairs in given for _, y in pairs]).argmax()
    baseline = np.mean([majority[i] == frequent for i in several])
    weights = []
    for j in range(6):
        same = total = 0
        for i in several:
            mine = dict(given[i]).get(j)
            if mine is not None:
                others = [y for other, y in given[i] if other != j]
                same, total = same + sum(y == mine for y in others), total + len(others)
        weights.append(max(1e-6, 1 - (1 - same / total) / (1 - baseline)))
    model_weight = (1 - (1 - model_right) / (1 - baseline)) * np.sqrt(np.mean([len(pairs) for pairs in given]))
    assert report.facts["model_weight"] == pytest.approx(model_weight)
    for i, pairs in enumerate(given):
        mean = model_weight * probs[i]
        for j, y in pairs:
            vote = np.full(K, (1 - likelihood) / (K - 1))
            vote[y] = likelihood
            mean = mean + weights[j] * vote
        assert report.probs[i] == pytest.approx(mean / mean.sum())


def test_ties_of_a_majority() -> None:
    labels = [[0, 1], [1, 0], [1, 1]]
    assert acto.consensus(labels, method="majority").consensus.tolist() == [1, 1, 1]  # 1 has more votes over all
    probs = [[0.9, 0.1], [0.2, 0.8], [0.9, 0.1]]
    assert acto.consensus(labels, probs, method="majority").consensus.tolist() == [0, 1, 1]


def test_a_model_that_is_too_sure_counts_for_less() -> None:
    labels, _, probs = drawn()
    sharp = probs**4 / (probs**4).sum(1, keepdims=True)
    power = [acto.consensus(labels, p).facts["model_power"] for p in (probs, sharp)]
    assert power[1] == pytest.approx(power[0] / 4, rel=0.1)


def test_label_next_begins_with_what_is_least_certain() -> None:
    labels, _, probs = drawn(50)
    labels[7] = np.nan
    report = acto.consensus(labels)
    first = report.label_next(50)
    assert first[0] == "7" and set(first) == set(map(str, range(50)))  # nobody labelled it
    quality = [float(report.quality[int(name)]) for name in first[1:]]
    assert quality == sorted(quality)
    with_model = acto.consensus(labels, probs)
    assert with_model.samples["label_next"][7] == pytest.approx(1 - probs[7].max() ** with_model.facts["model_power"]
        / (probs[7] ** with_model.facts["model_power"]).sum(), abs=1e-5)  # fmt: skip


def test_agreement_of_people() -> None:
    facts = acto.consensus([["a", "a"], ["b", "b"], ["a", "b"], ["b", "a"]]).facts
    assert facts["pairwise_agreement"] == 0.5
    assert facts["alpha"] == pytest.approx(1 - 0.5 / (1 - (4 * 3 + 4 * 3) / (8 * 7)))


# Forms -----------------------------------------------------------------------------------------------------------


def wide_and_long(count: int = 40) -> tuple[Floats, pd.DataFrame, pd.DataFrame]:
    labels, _, _ = drawn(count)
    wide = pd.DataFrame(
        [[None if np.isnan(y) else NAMES[int(y)] for y in row] for row in labels],
        columns=[f"ann{j}" for j in range(6)],
        index=[f"{i}.png" for i in range(count)],
    )
    samples, people = np.nonzero(~np.isnan(labels))
    long = pd.DataFrame(
        {
            "task": [f"{i}.png" for i in samples],
            "worker": [f"ann{j}" for j in people],
            "answer": [NAMES[int(labels[i, j])] for i, j in zip(samples, people, strict=True)],
        }
    )
    return labels, wide, long


def test_all_forms_mean_the_same(tmp_path: Path) -> None:
    labels, wide, long = wide_and_long()
    ids, people = list(wide.index), list(wide.columns)
    expected = cells(acto.consensus(labels, class_names=NAMES, ids=ids, annotators=people))
    whole = np.nan_to_num(labels, nan=-1).astype(np.int8)
    texts = wide.to_numpy()
    for form in (
        whole,
        np.ma.masked_less(whole, 0),
        labels.tolist(),
        texts,
        texts.tolist(),
        np.where(pd.isna(texts), "", texts).astype(str),
    ):
        assert cells(acto.consensus(form, class_names=NAMES, ids=ids)) == expected
    for frame in (
        wide,
        wide.reset_index(names="id"),
        wide.astype("category"),
        long,
        long.sample(frac=1, random_state=0),
    ):
        assert cells(acto.consensus(frame, ids=ids if "worker" in frame else None)) == expected
    wide.to_csv(tmp_path / "wide.csv")
    wide.to_csv(tmp_path / "wide.tsv", sep="\t", index_label="id")
    wide.to_parquet(tmp_path / "wide.parquet")
    long.to_csv(tmp_path / "long.csv", index=False)
    np.save(tmp_path / "votes.npy", whole)
    for name in ("wide.csv", "wide.tsv", "long.csv"):
        assert main(["consensus", str(tmp_path / name), "--out", str(tmp_path / name.replace(".", "-"))]) == 0
        with (tmp_path / name.replace(".", "-") / "consensus.csv").open() as file:
            rows = {row["id"]: row for row in csv.DictReader(file)}
        assert [rows[name]["consensus_label"] for name in ids] == expected[1]
        assert [float(rows[name]["consensus_quality"]) for name in ids] == pytest.approx(expected[2], abs=1e-6)


def test_gaps_are_told() -> None:
    report = acto.consensus([["a", "NA", "a"], ["b", "a", None], ["b", "b", float("nan")], ["-1", "a", " "]])
    assert report.samples["num_labels"].tolist() == [2, 2, 2, 1]  # type: ignore[union-attr]
    assert [note.split(":")[0] for note in report.notes] == ["1 label '-1'", "1 label 'NA'"]
    kept = acto.consensus([[-1, 1], [1, 1], [-1, -1]], class_names=["-1", "1"])
    assert kept.consensus.tolist()[1:] == [1, 0] and not kept.notes


def test_probabilities_are_aligned_by_name() -> None:
    _, wide, long = wide_and_long()
    _, _, probs = drawn(40)
    frame = pd.DataFrame(probs, index=wide.index, columns=NAMES)
    expected = cells(acto.consensus(wide, frame))
    moved = frame.sample(frac=1, random_state=0)[NAMES[::-1]]
    names = NAMES[::-1]
    for form in (wide, long):
        found = acto.consensus(form, moved, ids=list(wide.index) if form is long else None, class_names=names)
        order = [found.samples["id"].index(name) for name in wide.index]  # type: ignore[union-attr]
        assert [found.samples["consensus_label"][i] for i in order] == expected[1]
        assert found.quality[order] == pytest.approx(expected[2], abs=1e-5)
    more = pd.concat([frame, pd.DataFrame([[0.2, 0.2, 0.6]], index=["new.png"], columns=NAMES)])
    assert acto.consensus(long, more).samples["consensus_label"][-1] == ""
    numbered = long.assign(task=[name.removesuffix(".png") for name in long.task])
    assert acto.consensus(numbered, probs, class_names=NAMES).samples["id"] == [str(i) for i in range(40)]


# The report and the command --------------------------------------------------------------------------------------


def test_the_report_as_files(tmp_path: Path) -> None:
    labels, _, probs = drawn(30)
    report = acto.consensus(labels, probs, class_names=["=1+1", "dog", "fox"], annotators=["=cmd", *"bcdef"])
    paths = report.save(tmp_path / "new")
    assert [path.name for path in paths] == [
        "consensus.csv", "consensus_annotators.csv", "consensus_confusion.csv", "consensus.json",
    ]  # fmt: skip
    assert "'=cmd" in paths[1].read_text() and ",=1+1" not in paths[2].read_text()
    described = json.loads(paths[3].read_text())
    assert described["facts"]["num_samples"] == 30 and described["class_names"] == ["=1+1", "dog", "fox"]
    assert len(report.to_frame()) == 30 and len(report.to_frame("annotators")) == 6
    assert report.confusion.sum(2) == pytest.approx(1)
    assert "30 samples, 6 annotators, 3 classes, dawid_skene with a model" in repr(report)
    with pytest.raises(UserError, match="unknown annotator"):
        report.confusion_matrix("nobody")
    with pytest.raises(UserError, match="unknown table"):
        report.to_frame("people")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, wide, _ = wide_and_long()
    _, _, probs = drawn(40)
    wide.to_csv(tmp_path / "votes.csv")
    pd.DataFrame(probs, index=wide.index, columns=NAMES)[::-1].to_csv(tmp_path / "probs.csv")
    np.save(tmp_path / "probs.npy", probs)
    command = ["consensus", str(tmp_path / "votes.csv"), "--classes", ",".join(NAMES), "--json", "--pred-probs"]
    found = []
    for name in ("probs.csv", "probs.npy"):
        assert main([*command, str(tmp_path / name)]) == 0
        found.append(json.loads(capsys.readouterr().out))
        assert (tmp_path / "votes-consensus" / "consensus.csv").is_file()
    assert found[0] == found[1] and found[0]["with_model"] and found[0]["num_annotators"] == 6
    assert main(["consensus", str(tmp_path / "votes.csv"), "--annotators", "ann0,ann4", "--method", "majority"]) == 0
    out = capsys.readouterr().out
    assert "2 annotators" in out and "least trusted first" in out and "label next:" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["gone.csv"], "does not exist"),
        (["votes.txt"], "unknown kind of file with annotators' labels '.txt'"),
        (["votes.csv", "--method", "dawid"], "unknown method 'dawid'. Did you mean 'dawid_skene'"),
        (["votes.csv", "--annotators", "ann0,bob"], "no column 'bob'"),
        (["votes.csv", "--pred-probs", "probs.npy"], "give class_names"),
        (["votes.csv", "--pred-probs", "odd.csv"], "odd.csv row 2: 'high' in column 'cat' is no number"),
        (["odd.csv"], "no sample has labels of two annotators"),
        (["votes.csv", "--pred-probs", "votes.npy"], "votes.npy does not exist"),
    ],
    ids=["no file", "suffix", "method", "annotator", "classes", "words", "one column", "no probs"],
)
def test_what_the_command_refuses(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _, wide, _ = wide_and_long(10)
    wide.to_csv("votes.csv")
    Path("votes.txt").write_text("a,b\n")
    Path("odd.csv").write_text("id,cat\n0.png,high\n1.png,low\n")
    np.save("probs.npy", drawn(10)[2])
    before = sorted(Path().iterdir())
    assert main(["consensus", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert sorted(Path().iterdir()) == before
