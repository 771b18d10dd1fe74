"""`acto audit --labels FILE --pred-probs FILE`: the kinds of files, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import acto
from acto.cli import main
from acto.labels.report import read_report

NAMES = ("ant", "bee", "cat")
RNG = np.random.default_rng(0)
TRUE = RNG.integers(0, 3, 90)
PROBS = RNG.random((90, 3)) * 0.4 + 2 * np.eye(3)[TRUE]
PROBS /= PROBS.sum(1, keepdims=True)
GIVEN = np.where(RNG.random(90) < 0.15, RNG.integers(0, 3, 90), TRUE)
BY_NAME = np.array(NAMES)[GIVEN]
EXPECTED = acto.audit(GIVEN, PROBS, class_names=NAMES)
ISSUES = np.flatnonzero(EXPECTED.is_label_issue).tolist()


def table(
    values: Any = PROBS, *, titles: tuple[str, ...] = NAMES, ids: Any = None, order: Any = None, mark: str = ","
) -> str:
    """Probabilities as CSV; `order` of the rows."""
    lines = [mark.join((*(["id"] if ids is not None else []), *titles))]
    for i in range(len(values)) if order is None else order:
        cells = ([str(ids[i])] if ids is not None else []) + [f"{value:.9f}" for value in values[i]]
        lines.append(mark.join(cells))
    return "\n".join(lines) + "\n"


def put(folder: Path, name: str, content: Any) -> str:
    """A file of the test: bytes, text, an array, or several as .npz."""
    path = folder / name
    if isinstance(content, bytes | str):
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    elif content is not None:
        np.save(path, content, allow_pickle=True)
    return str(path)


def labels_csv(values: Any = BY_NAME, ids: Any = None) -> str:
    rows = [f"{i},{value}" for i, value in zip(range(len(values)) if ids is None else ids, values, strict=True)]
    return "\n".join(["id,label", *rows]) + "\n"


SHUFFLED = RNG.permutation(90)
READ: dict[str, tuple[str, Any, str, Any, list[str]]] = {
    "arrays": ("l.npy", GIVEN, "p.npy", PROBS, ["--classes", "ant,bee,cat"]),
    "half precision, columns together": ("l.npy", GIVEN, "p.npy", np.asfortranarray(PROBS, "float32"), []),
    "other byte order": ("l.npy", GIVEN.astype(">i2"), "p.npy", PROBS.astype(">f4"), []),
    "one .npz": ("b.npz", {"labels": GIVEN, "pred_probs": PROBS, "class_names": NAMES}, "b.npz", None, []),
    "tables, columns in another order": (
        "l.csv", labels_csv(), "p.csv", table(PROBS[:, [2, 0, 1]], titles=("cat", "ant", "bee"), ids=range(90)), [],
    ),
    "a table and classes in another order": (
        "l.npy", GIVEN, "p.csv", table(PROBS[:, [2, 0, 1]], titles=("cat", "ant", "bee")), ["--classes", "ant,bee,cat"],
    ),
    "tables, rows in another order": (
        "l.csv", labels_csv(), "p.csv", table(ids=range(90), order=SHUFFLED), [],
    ),
    "semicolons and decimal commas": (
        "l.csv", labels_csv(), "p.csv", table(mark=";").replace(".", ","), [],
    ),
    "an index without a title": ("l.csv", labels_csv(), "p.csv", table(ids=range(90)).replace("id", "", 1), []),
    "no heading": ("l.txt", "\n".join(map(str, GIVEN)), "p.csv", table().partition("\n")[2], []),
    "classes in a file": ("l.txt", "\n".join(BY_NAME), "p.npy", PROBS, ["--classes", "CLASSES.json"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", READ)
def test_files_that_are_read(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label_file, labels, prob_file, probs, flags = READ[kind]
    (tmp_path / "CLASSES.json").write_text(json.dumps(NAMES))
    flags = [str(tmp_path / flag) if flag == "CLASSES.json" else flag for flag in flags]
    files = ["--labels", put(tmp_path, label_file, labels), "--pred-probs", put(tmp_path, prob_file, probs)]
    assert main(["audit", *files, *flags, "--out", str(tmp_path / "out"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    report = read_report(tmp_path / "out")
    assert np.flatnonzero(report.is_label_issue).tolist() == ISSUES and said["num_label_issues"] == len(ISSUES)
    np.testing.assert_allclose(report.label_quality, EXPECTED.label_quality, rtol=1e-4)
    names = "ant" in report.class_names
    assert set(report.class_names) == (set(NAMES) if names else {"0", "1", "2"})
    assert names == (kind not in ("half precision, columns together", "other byte order", "no heading"))
    assert report.columns["given_label"] == list(BY_NAME if names else map(str, GIVEN))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "</html>" in page and ("matched by their ids" in str(said.get("notes"))) == ("rows in another" in kind)


def test_parquet_of_pandas(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pandas.DataFrame({"label": BY_NAME}, index=range(90)).to_parquet(tmp_path / "l.parquet")
    pandas.DataFrame(PROBS, columns=NAMES).iloc[SHUFFLED].to_parquet(tmp_path / "p.parquet")
    files = ["--labels", str(tmp_path / "l.parquet"), "--pred-probs", str(tmp_path / "p.parquet")]
    # The index of the labels is a range, which Parquet keeps in its head alone: they have no ids.
    assert main(["audit", *files]) == 2
    pandas.DataFrame({"id": range(90), "label": BY_NAME}).to_parquet(tmp_path / "l.parquet")
    assert main(["audit", *files]) == 0
    assert np.flatnonzero(read_report(tmp_path / "l-audit").is_label_issue).tolist() == ISSUES


def changed(change: Callable[[Any], None], dtype: Any = float) -> Any:
    values = PROBS.astype(dtype)
    change(values)
    return values


L, P = ("l.npy", GIVEN), ("p.npy", PROBS)
REFUSED: dict[str, tuple[tuple[str, Any], tuple[str, Any], list[str], str]] = {
    "NaN": (L, ("p.npy", changed(lambda p: p.__setitem__((3, 1), np.nan))), [], "NaN or infinite values: 1 row (3)"),
    "percentages": (L, ("p.npy", 100 * PROBS), [], "are these percentages? divide them by 100"),
    "logits": (L, ("p.npy", np.log(PROBS)), [], "must lie in [0, 1]"),
    "sums": (L, ("p.npy", changed(lambda p: p.__setitem__(5, p[5] / 2))), [], "add up to 1 (are these logits?): 1 row"),
    "negative": (L, ("p.npy", changed(lambda p: p.__setitem__(5, (1.01, -0.01, 0)))), [], "[0, 1]: 1 row (5)"),
    "complex": (L, ("p.npy", PROBS.astype(complex)), [], "they are complex"),
    "fewer labels": (("l.npy", GIVEN[:50]), P, [], "has 50 labels, but"),
    "a lost heading": (("l.csv", "\n".join(BY_NAME)), P, [], "89 labels, but"),
    "one-hot": (("l.npy", np.eye(3)[GIVEN]), P, [], "pass labels.argmax(1)"),
    "one column of two": (L, ("p.npy", PROBS[:, 0]), [], "pass the probabilities of both"),
    "no class": (("l.npy", GIVEN + 1), P, [], "label out of range 0..2"),
    "names without classes": (("l.npy", BY_NAME), P, [], "say with class_names (--classes)"),
    "objects": (("l.npy", BY_NAME.astype(object)), P, [], "save texts as array.astype(str)"),
    "object probabilities": (L, ("p.npy", PROBS.astype(object)), [], "holds Python objects"),
    "a pickle": (L, ("p.npy", b"\x80\x04K\x01."), [], "no array in numpy's format"),
    "an empty file": (L, ("p.npy", b""), [], "is empty"),
    "an empty table": (L, ("p.csv", ""), [], "is empty"),
    "a heading alone": (L, ("p.csv", "ant,bee,cat\n"), [], "has no rows"),
    "cut off": (L, ("p.npy", b"\x93NUMPY\x01\x00v\x00"), [], "cannot be read as a numpy array"),
    "no rows": (("l.npy", GIVEN[:0]), ("p.npy", PROBS[:0]), [], "no rows"),
    "a text in a cell": (("l.csv", labels_csv()), ("p.csv", table() + "1,x,0\n"), [], "row 92: 'x' is no number"),
    "a short row": (L, ("p.csv", table() + "1,0\n"), [], "row 92 has 2 cells, the first row 3"),
    "numbers beside names": (
        L, ("p.csv", table(titles=("cat", "ant", "bee"))), [], "say with class_names (--classes) which number",
    ),
    "another class": (
        ("l.csv", labels_csv()), ("p.csv", table(titles=("ant", "bee", "dog"))), [], "label is none of the 3 classes",
    ),
    "rows of other samples": (
        ("l.csv", labels_csv()), ("p.csv", table(ids=range(1, 91))), [], "has no row of '0'",
    ),
    "an id twice": (("l.csv", labels_csv(ids=[*range(89), 88])), ("p.csv", table(ids=range(90))), [], "2 rows of '88'"),
    "numbered in another order": (L, ("p.csv", table(ids=SHUFFLED)), ["--classes", "ant,bee,cat"], "another order"),
    "several arrays": (("l.npz", {"a": GIVEN, "b": GIVEN}), P, [], "say which are the labels"),
    "no such array": (("l.npz", {"a": GIVEN}), P, ["--labels", "l.npz:c"], "l.npz"),
    "no file": (("l.npy", None), P, [], "l.npy does not exist"),
    "another kind": (("l.dat", "x"), P, [], "unknown kind of file with labels '.dat'"),
    "too few classes": (L, P, ["--classes", "ant,bee"], "3 different names"),
    "no file of classes": (L, P, ["--classes", "none.txt"], "--classes none.txt does not exist"),
    "a score": (L, P, ["--score", "self_confidnce"], "Did you mean 'self_confidence'?"),
    "a rule": (L, P, ["--rule", "x"], "unknown rule 'x'"),
    "a run as well": (L, P, ["run"], "give either a run, or labels and probabilities"),
    "a flag of runs": (L, P, ["--no-duplicates"], "--no-duplicates is about a run"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_are_refused(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels, probs, flags, words = REFUSED[case]
    files = ["--labels", put(tmp_path, *labels), "--pred-probs", put(tmp_path, *probs)]
    assert main(["audit", *files, *flags]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not list(tmp_path.glob("*-audit"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "A run's folder, or --labels FILE with --pred-probs FILE"),
        (["--labels", "x"], "--pred-probs FILE is missing"),
        (["--pred-probs", "x"], "--labels FILE is missing"),
        (["run", "--score", "self_confidence"], "give either a run"),
    ],
)
def test_half_a_command(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", *flags]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "probs", "warned", "issues"),
    [
        (TRUE, changed(lambda p: p.__setitem__(5, (1.00001, -0.00001, 0))), "note: negative probabilities", None),
        (TRUE, PROBS, "contradicts 0 of 90 labels", 0),
        ((TRUE + 1) % 3, PROBS, "Believe neither the suspects nor the rate", None),
        (np.zeros(90, int), PROBS, "Believe neither the suspects nor the rate", None),
        (np.where(GIVEN == 2, 1, GIVEN), PROBS, "Fewer than 20 samples were given '2'", None),
        (GIVEN[:8], PROBS[:8], "Fewer than 20 samples were given '0', '1', '2'", None),
        (GIVEN[:1], PROBS[:1], "Fewer than 20 samples", None),
    ],
    ids=["tiny negatives", "none wrong", "all wrong", "one class", "a missing class", "few samples", "one sample"],
)
def test_data_that_say_little(
    given: Any, probs: Any, warned: str, issues: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--labels", put(tmp_path, "l.npy", given), "--pred-probs", put(tmp_path, "p.npy", probs)]
    assert main(["audit", *files]) == 0
    said = capsys.readouterr().out
    assert warned in said
    assert issues is None or f"{issues} of {len(given)} labels look wrong" in said


def test_flags_choose_score_and_rule(tmp_path: Path) -> None:
    files = ["--labels", put(tmp_path, "l.npy", GIVEN), "--pred-probs", put(tmp_path, "p.npy", PROBS)]
    assert main(["audit", *files, "--score", "self_confidence", "--rule", "both"]) == 0
    found = read_report(tmp_path / "l-audit")
    wanted = acto.audit(GIVEN, PROBS, score="self_confidence", rule="both")
    assert found.facts["rule"] == "both" and found.facts["score"] == "self_confidence"
    assert np.array_equal(found.is_label_issue, wanted.is_label_issue)
    assert np.array_equal(found.label_quality, wanted.label_quality)


def test_a_file_whose_name_is_a_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """c.json was once taken for --json: its third letter is where a flag's name begins."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.json").write_text(json.dumps(NAMES))
    files = ["--labels", put(tmp_path, "l.npy", BY_NAME), "--pred-probs", put(tmp_path, "p.npy", PROBS)]
    assert main(["audit", *files, "--classes", "c.json"]) == 0
