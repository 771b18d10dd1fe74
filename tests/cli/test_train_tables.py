"""Tables and texts from end to end: check, train, report, apply, audit, predict, export, go on."""

from __future__ import annotations

import csv
import io
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris

from acto.cli import main
from acto.core.errors import UserError
from acto.data import sources
from acto.data.for_prediction import read_new
from acto.data.tables.encoding import Encoding, fit_encoding
from acto.data.tables.rows import Rows
from acto.estimator import NoisyLabelClassifier
from acto.fitting import fit
from acto.labels.report import read_report
from acto.run_folder.reading import read_run
from acto.runs.events import EpochDone, Event
from acto.runs.execute import train_run
from acto.runs.run import Run
from acto.runs.trained_model import load_model

FAST = ("--net", "mlp:32", "--device", "cpu", "--seed", "0", "--batch-size", "32", "--protocol.plan.lr", "0.1")
WORDS = {"animals": "cat dog horse mouse bird", "money": "bank euro stock price loan"}


def iris() -> pd.DataFrame:
    data = load_iris(as_frame=True)
    frame = data.data.assign(species=np.array(data.target_names)[data.target])
    wrong = np.arange(0, 150, 10)
    names = data.target_names
    frame.loc[wrong, "species"] = [names[(k + 1) % 3] for k in data.target[wrong]]
    return frame


def mixed() -> pd.DataFrame:
    """Iris with a hole in every seventh row, a column of categories, dates and names of the rows."""
    frame = iris()
    frame.insert(0, "plant_id", [f"p{k}" for k in range(150)])
    frame.insert(2, "colour", np.where(load_iris().target == 0, "blue", "white"))
    frame.insert(3, "found", pd.date_range("2024-01-01", periods=150).astype(str))
    frame.loc[::7, "petal length (cm)"] = np.nan
    return frame


def texts() -> pd.DataFrame:
    random = np.random.default_rng(0)
    rows = []
    for k in range(120):
        label = "money" if k % 2 else "animals"
        words = random.choice(WORDS[label].split(), 8)
        rows.append({"text": f'The {" and the ".join(words)}; "<b>{k}</b>"', "topic": label})
    for k in range(0, 120, 12):
        rows[k]["topic"] = "money" if rows[k]["topic"] == "animals" else "animals"
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Case:
    name: str
    frame: pd.DataFrame
    label: str

    def write(self, folder: Path, name: str = "") -> Path:
        path = folder / (name or self.name)
        if path.suffix == ".parquet":
            self.frame.to_parquet(path, index=False)
        elif path.suffix == ".jsonl":
            self.frame.to_json(path, orient="records", lines=True)
        else:
            path.write_bytes(self.frame.to_csv(sep=";" if self.name == "mixed.csv" else ",", index=False,
                                               lineterminator="\r\n").encode())  # fmt: skip
        return path

    def read(self, path: Path) -> pd.DataFrame:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix == ".jsonl":
            return pd.read_json(path, lines=True)
        return pd.read_csv(path, sep=";" if self.name == "mixed.csv" else ",")


CASES = [
    Case("iris.csv", iris(), "species"),
    Case("mixed.csv", mixed(), "species"),
    Case("mixed.parquet", mixed(), "species"),
    Case("texts.jsonl", texts(), "topic"),
]


def train(source: Path, run: Path, *flags: str, epochs: int = 6) -> None:
    assert main(["train", "--data", str(source), "--out", str(run), "--epochs", str(epochs), *FAST, *flags]) == 0


def decide(run: Path, rows: Sequence[tuple[str, str, str, str]]) -> Path:
    path, content = run / "decisions.csv", io.StringIO()
    title = ("id", "given_label", "decision", "new_label", "time")
    csv.writer(content).writerows([title, *((*row, "") for row in rows)])
    path.write_text(content.getvalue())
    return path


@pytest.mark.parametrize("case", CASES[1:], ids=lambda case: case.name)
def test_from_end_to_end(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, run = case.write(tmp_path), tmp_path / "run"
    assert main(["data", "check", str(source)]) == 0
    assert "is taken for the labels" in capsys.readouterr().out
    train(source, run, epochs=8)
    assert "is taken for the labels" in capsys.readouterr().err

    report = read_report(run)
    shown = dict(zip(report.columns["id"], report.columns["text"], strict=True))
    page = (run / "report.html").read_text()
    if case.label == "topic":
        marked = next(text[text.index("<b>") : text.index("</b>")] for text in shown.values())
        assert marked not in page and marked.replace("<b>", r"\u003cb\u003e") in page
    else:
        assert "sepal length (cm) 4.9" in shown.get("3", shown.get("p1", shown.get("2", "")))
    accuracy = read_run(run).summary
    assert accuracy is not None and accuracy["test_accuracy_last"] > 0.7

    # Labels of new rows are neither needed nor read.
    new = Case(case.name, case.frame.drop(columns=case.label).iloc[::-1], "").write(tmp_path, f"new{source.suffix}")
    assert main(["predict", str(run), str(new), "--out", str(tmp_path / "found.csv")]) == 0
    found = pd.read_csv(tmp_path / "found.csv")["predicted_label"].tolist()[::-1]
    truth = case.frame[case.label].tolist()
    assert np.mean([a == b for a, b in zip(found, truth, strict=True)]) > 0.8
    capsys.readouterr()

    given, ids = list(report.columns["given_label"]), list(report.columns["id"])
    other = next(name for name in report.class_names if name != given[0])
    decisions = decide(run, [(ids[0], given[0], "accept", other), (ids[3], given[3], "keep", "")])
    assert main(["apply", str(decisions), "--run", str(run)]) == 0
    copy = source.with_name(f"{source.stem}-corrected{source.suffix}")
    row = case.frame.index[[str(name) == ids[0] for name in names_of(case, source)]][0]
    expected = case.frame.copy()
    expected.loc[row, case.label] = other
    if source.suffix != ".parquet":
        assert (
            copy.read_bytes() == Case(case.name, expected, case.label).write(tmp_path, f"e{source.suffix}").read_bytes()
        )
    pd.testing.assert_frame_equal(case.read(copy), expected, check_dtype=False)

    capsys.readouterr()
    assert main(["audit", str(run), "--data", str(copy), "--out", str(tmp_path / "audit"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_samples"] == len(case.frame)


def names_of(case: Case, source: Path) -> list[str]:
    if "plant_id" in case.frame:
        return case.frame["plant_id"].tolist()
    first = 2 if source.suffix == ".csv" else 1
    return [str(k + first) for k in range(len(case.frame))]


@pytest.mark.parametrize("name", ["texts.csv", "texts.jsonl", "iris.parquet"])
def test_removed_rows_leave_the_others_their_names(name: str, tmp_path: Path) -> None:
    case = Case(name, iris() if name == "iris.parquet" else texts(), "topic" if "texts" in name else "species")
    source, run = case.write(tmp_path), tmp_path / "run"
    train(source, run, epochs=1)
    report = read_report(run)
    ids, given = list(report.columns["id"]), list(report.columns["given_label"])
    other = next(name for name in report.class_names if name != given[7])
    decisions = decide(run, [(ids[2], given[2], "remove", ""), (ids[7], given[7], "accept", other)])
    assert main(["apply", str(decisions), "--run", str(run), "--out", str(tmp_path / f"c{source.suffix}")]) == 0
    copy = case.read(tmp_path / f"c{source.suffix}").astype({"sample_id": str})
    before = case.frame.assign(sample_id=names_of(case, source))
    before.loc[before["sample_id"] == ids[7], case.label] = other
    expected = before[before["sample_id"] != ids[2]].reset_index(drop=True)
    pd.testing.assert_frame_equal(copy[expected.columns], expected, check_dtype=False)
    # The networks go on, with the encoding that they know.
    on = tmp_path / "on"
    train(tmp_path / f"c{source.suffix}", on, "--init-from", str(run), epochs=2)
    facts = json.loads((on / "init_from.json").read_text())
    assert facts["gone"] == 1 and facts["relabelled"] == 1 and facts["new"] == 0
    assert (on / "encoding.safetensors").read_bytes() == (run / "encoding.safetensors").read_bytes()


def test_noise_that_was_put_on_is_not_written_back(tmp_path: Path) -> None:
    case = CASES[0]
    source, run = case.write(tmp_path), tmp_path / "run"
    train(source, run, "--noise", "symmetric", "--noise-rate", "0.4", epochs=2)
    report = read_report(run)
    truth = dict(zip(names_of(case, source), case.frame["species"], strict=True))
    wrong = [(i, g) for i, g in zip(report.columns["id"], report.columns["given_label"], strict=True) if truth[i] != g]
    decisions = decide(run, [(name, given, "accept", truth[name]) for name, given in wrong])
    assert len(wrong) > 20 and main(["apply", str(decisions), "--run", str(run)]) == 0
    assert (tmp_path / "iris-corrected.csv").read_bytes() == source.read_bytes()


def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, whole, halves = CASES[1].write(tmp_path), tmp_path / "whole", tmp_path / "halves"
    train(source, whole, epochs=3)

    def stop(event: Event) -> None:
        if isinstance(event, EpochDone) and event.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(Run.from_dict(read_run(whole).config), halves, report=stop)

    def otherwise(rows: Rows) -> tuple[Encoding, list[str]]:
        encoding, notes = fit_encoding(rows)
        assert encoding.numbers is not None
        return replace(encoding, numbers=replace(encoding.numbers, means=(0.5,) * len(encoding.numbers.means))), notes

    # Whatever would be fitted now: the run goes on, and is audited, with what it keeps.
    monkeypatch.setattr(sources, "fit_encoding", otherwise)
    assert main(["train", "--resume", str(halves)]) == 0
    for name in ("metrics.csv", "encoding.safetensors", "label_report.csv"):
        assert (halves / name).read_bytes() == (whole / name).read_bytes(), name
    assert main(["audit", str(halves), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "label_report.csv").read_bytes() == (whole / "label_report.csv").read_bytes()
    source.write_text(source.read_text().replace("blue", "grey", 1))
    assert main(["audit", str(halves)]) == 2


def test_what_does_not_suit_a_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, run = CASES[1].write(tmp_path), tmp_path / "run"
    train(source, run, epochs=1)
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 4)))
    CASES[1].frame.drop(columns="colour").to_csv(tmp_path / "less.csv", sep=";", index=False)
    odd = CASES[1].frame.astype({"sepal length (cm)": str})
    odd.loc[4, "sepal length (cm)"] = "long"
    odd.to_csv(tmp_path / "odd.csv", sep=";", index=False)
    for name, words in {
        "x.npz": "rows of a table in the columns 'sepal length (cm)'",
        "less.csv": "lacks 1 of the 6 columns that the model needs: 'colour'",
        "odd.csv": "odd.csv row 6: column 'sepal length (cm)' was one of numbers in training, but 'long' is no number",
    }.items():
        capsys.readouterr()
        assert main(["predict", str(run), str(tmp_path / name)]) == 2
        assert words in capsys.readouterr().err
    pixels = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "p.npz", x=pixels, y=np.arange(40) % 2)
    train(tmp_path / "p.npz", tmp_path / "pictures", "--net", "cnn_tiny", epochs=1)
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "pictures"), str(source)]) == 2
    assert "mixed.csv is a table without a column of picture files" in capsys.readouterr().err


def test_an_export_brings_the_encoding(tmp_path: Path) -> None:
    source, run = CASES[1].write(tmp_path), tmp_path / "run"
    train(source, run, epochs=1)
    assert main(["export", str(run), "--format", "safetensors"]) == 0
    exported = run / "exported"
    assert (exported / "encoding.safetensors").read_bytes() == (run / "encoding.safetensors").read_bytes()
    assert "encoding.safetensors" in (exported / "README.md").read_text()
    assert json.loads((exported / "preprocessing.json").read_text())["encoding"] == "encoding.safetensors"


def test_the_card_reads_the_rows_of_a_table_for_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    source, run = CASES[1].write(tmp_path), tmp_path / "run"
    train(source, run, epochs=1)
    assert main(["export", str(run), "--format", "onnx"]) == 0
    card = (run / "exported" / "README.md").read_text()
    (block,) = [code for code in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "onnxruntime" in code]
    monkeypatch.chdir(run / "exported")
    CASES[1].frame.to_csv("rows.csv", index=False)
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    model = load_model(run)
    expected = model.predict_proba(read_new(str(source), encoding=model.encoding).samples)
    np.testing.assert_allclose(names["probs"], expected, atol=1e-5)


# Data frames --------------------------------------------------------------------------------------------------------


def test_frames_with_texts_and_gaps_in_fit() -> None:
    frame = mixed().drop(columns="plant_id").astype({"colour": "category"})
    fitted = fit(frame, "species", epochs=6, net="mlp:32", device="cpu")
    assert fitted.dataset.encoding is not None
    assert any("days since 1970" in text for text in fitted.dataset.notes)
    whole = fitted.predict(frame.drop(columns="species"))
    assert (whole == frame["species"]).mean() > 0.7
    complete = frame.dropna().drop(columns=["species"])
    np.testing.assert_array_equal(fitted.predict(complete), whole[frame.notna().all(axis=1)])
    assert "colour blue" in fitted.report.columns["text"][0]
    with pytest.raises(UserError, match="'colour'"):
        fitted.predict(frame.drop(columns="colour"))


def test_frames_in_the_estimator() -> None:
    frame = mixed().drop(columns="plant_id")
    X, y = frame.drop(columns="species"), frame["species"]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        classifier = NoisyLabelClassifier(random_state=0, epochs=6).fit(X, y)
    assert len(warned) == 2 and "the median stands there" in str(warned[0].message)
    assert classifier.n_features_in_ == 6 and classifier.feature_names_in_.tolist() == list(X.columns)
    assert classifier.score(X, y) > 0.8
    np.testing.assert_allclose(classifier.predict_proba(X.iloc[5:9]), classifier.predict_proba(X)[5:9])
    with pytest.raises(ValueError, match="feature names"):
        classifier.predict(X.rename(columns={"colour": "color"}))
    with pytest.raises(UserError, match="data frame"):
        classifier.predict(X.to_numpy())
    with pytest.raises(UserError, match="missing labels"):
        NoisyLabelClassifier(epochs=1).fit(X, y.where(y != "setosa"))
