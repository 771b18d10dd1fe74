"""Label Studio, FiftyOne and cleanlab: what they get, and what comes back from there."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from acto.cli.exchange import exchange
from acto.core.errors import UserError
from acto.data.samples import DataSpec
from acto.labels.exchange import export_report, import_decisions
from acto.labels.verdicts import REMOVE
from acto.run_folder.writing import RunFolder
from acto.runs.recipes.by_data import setting_for
from acto.runs.recipes.recipe import recipe
from label_reports import NAMES, report_of, small


def told(imported) -> dict[str, tuple[str, str]]:
    decisions, _ = imported
    return {d.id: (d.decision, d.new_label) for d in decisions}


def test_label_studio_gets_tasks_with_predictions(tmp_path: Path):
    paths, advice = export_report(small(tmp_path / "my data"), tmp_path / "tasks.json", format="label-studio")
    assert [path.name for path in paths] == ["tasks.json", "tasks.xml"]
    tasks = json.loads(paths[0].read_text())
    assert [task["data"]["id"] for task in tasks] == ["a.png", "b.png", 'e,"<b>.png']
    assert tasks[1] == {
        "data": {
            "id": "b.png",
            "given_label": "cat",
            "suggested_label": "owl",
            "reason": "The model sees 'owl'.",
            "image": "/data/local-files/?d=1.png",
            "acto_id": "b.png",
            "label_quality": pytest.approx(0.23),
        },
        "predictions": [
            {
                "model_version": "acto",
                "score": pytest.approx(0.9),
                "result": [
                    {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["owl"]}}
                ],
            }
        ],
    }
    assert advice[1].endswith(f"DOCUMENT_ROOT={tmp_path / 'my data'}")
    setup = ElementTree.fromstring(paths[1].read_text())
    assert setup.find("Image").attrib == {"name": "image", "value": "$image"}  # type: ignore[union-attr]
    assert [choice.attrib["value"] for choice in setup.iter("Choice")] == ["cat", "dog", "owl", REMOVE]


def annotated(choice: str | None, *, cancelled: bool = False, at: str = "2026-01-01T00:00:00Z") -> dict:
    part = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [choice]}}
    return {"completed_by": 1, "was_cancelled": cancelled, "updated_at": at, "result": [part] if choice else []}


def test_label_studio_s_annotations_come_back(tmp_path: Path):
    tasks = [
        {"data": {"id": "a.png"}, "annotations": [annotated("dog")], "predictions": []},
        {"data": {"id": "b.png"}, "annotations": [annotated("cat")]},
        {"data": {"id": "=1+1.png"}, "annotations": [annotated(REMOVE)]},
        {"data": {"id": "d'.png"}, "annotations": [annotated(None, cancelled=True)]},
        {
            "data": {"id": "f.png"},
            "annotations": [annotated("cat", at="2026-03-01T00:00:00Z"), annotated("dog", at="2026-02-01T00:00:00Z")],
        },
        {"data": {"id": 'e,"<b>.png'}, "annotations": []},
    ]
    (tmp_path / "back.json").write_text(json.dumps(tasks))
    assert told(import_decisions(tmp_path / "back.json", small(), format="label-studio")) == {
        "a.png": ("accept", "dog"),
        "b.png": ("keep", ""),
        "=1+1.png": ("remove", ""),
        "d'.png": ("skip", ""),
        "f.png": ("accept", "cat"),
    }


def test_label_studio_shows_text_where_samples_are_no_files(tmp_path: Path):
    paths, advice = export_report(small(), tmp_path / "tasks.json", format="label-studio")
    assert json.loads(paths[0].read_text())[0]["data"]["text"] == "sample a.png"
    assert '<Text name="text" value="$text"/>' in paths[1].read_text() and len(advice) == 1


def test_fiftyone_and_back(tmp_path: Path):
    report = small(tmp_path)
    (path,), _ = export_report(report, tmp_path / "set.json", format="fiftyone")
    content = json.loads(path.read_text())
    first = content["samples"][0]
    assert first["filepath"] == str(tmp_path / "0.png") and first["tags"] == ["label_issue"]
    assert first["ground_truth"] == {"_cls": "Classification", "tags": [], "label": "cat"}
    assert first["suggested"]["label"] == "dog" and content["samples"][2]["suggested"] is None
    assert set(first) == set(content["sample_fields"])
    with pytest.raises(UserError, match="nothing was decided: 6 as exported"):
        import_decisions(path, report, format="fiftyone")
    content["samples"][0]["ground_truth"]["label"] = "dog"
    content["samples"][1]["tags"].append("keep")
    content["samples"][4]["tags"] = ["remove"]
    path.write_text(json.dumps(content))
    assert told(import_decisions(path, report, format="fiftyone")) == {
        "a.png": ("accept", "dog"),
        "b.png": ("keep", ""),
        'e,"<b>.png': ("remove", ""),
    }


def test_fiftyone_needs_files(tmp_path: Path):
    with pytest.raises(UserError, match="FiftyOne shows files"):
        export_report(small(), tmp_path / "set.json", format="fiftyone")


def test_cleanlab_and_back(tmp_path: Path):
    probs = np.full((6, 3), 1 / 3, np.float32)
    paths, _ = export_report(small(), tmp_path / "issues.csv", format="cleanlab", pred_probs=probs)
    assert np.array_equal(np.load(paths[1], allow_pickle=False), probs)
    with paths[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[2] == {
        "id": "'=1+1.png",
        "is_label_issue": "false",
        "label_quality": "0.41",
        "given_label": "dog",
        "predicted_label": "dog",
    }
    expected = {"a.png": ("accept", "dog"), "b.png": ("accept", "owl"), 'e,"<b>.png': ("accept", "cat")}
    with pytest.raises(UserError, match="nothing was decided: 6 as exported"):
        import_decisions(paths[0], small(), format="cleanlab")
    without = [{key: row[key] for key in ("is_label_issue", "predicted_label")} for row in rows]
    lines = [
        "is_label_issue,predicted_label",
        *(f"{r['is_label_issue'].title()},{r['predicted_label']}" for r in without),
    ]
    (tmp_path / "pandas.csv").write_text("\n".join(lines))
    assert told(import_decisions(tmp_path / "pandas.csv", small(), format="cleanlab")) == expected


@pytest.mark.parametrize(
    ("format", "content", "message"),
    [
        ("label-studio", '[{"data": {"id": "zzz"}, "annotations": [{"result": []}]}]', "has no sample 'zzz'"),
        ("label-studio", '{"tasks": 1}', "is no label-studio export"),
        ("label-studio", "{", "is no label-studio export"),
        ("label-studio", "[" * 100_000, "is no label-studio export"),
        (
            "label-studio",
            '[{"data": {"id": "a.png"}, "annotations": '
            '[{"result": [{"from_name": "label", "value": {"choices": [5]}}]}]}]',
            "5 is no class name",
        ),
        (
            "fiftyone",
            '{"samples": [{"acto_id": "a.png", "tags": [], "ground_truth": {"label": 5}}]}',
            "5 is no class name",
        ),
        ("fiftyone", "[]", "is no fiftyone export"),
        ("fiftyone", '{"samples": [{"acto_id": ["a.png"], "tags": []}]}', "is no fiftyone export"),
        ("cleanlab", "a,b\n1,2\n", "with the columns is_label_issue and predicted_label"),
        ("cleanlab", "is_label_issue,predicted_label\ntrue,cat\n", "a row for each of the 6 samples"),
        ("cleanlab", "id,is_label_issue,predicted_label\na.png,true,caat\n", "mean 'cat'"),
        ("cleanlab", "id,is_label_issue,predicted_label\na.png,maybe,cat\n", "unknown value of is_label_issue"),
    ],
)
def test_what_does_not_come_back(tmp_path: Path, format: str, content: str, message: str):
    (tmp_path / "file").write_text(content)
    with pytest.raises(UserError, match=message):
        import_decisions(tmp_path / "file", small(), format=format)


def test_names_that_are_no_utf_8_come_back_from_cleanlab(tmp_path: Path):
    report = report_of(["cat", "dog"], ["dog", "dog"], names=NAMES[:2], ids=["x\udcff.png", "b.png"])
    paths, _ = export_report(report, tmp_path / "new" / "issues.csv", format="cleanlab")
    (tmp_path / "back.csv").write_text(paths[0].read_text().replace(",0.05,", ",0.4,"))
    assert told(import_decisions(tmp_path / "back.csv", report, format="cleanlab")) == {
        "x\\udcff.png": ("accept", "dog")
    }
    with pytest.raises(UserError, match="a directory, not a file"):
        import_decisions(tmp_path, report, format="cleanlab")


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = recipe(DataSpec(source="digits"), setting_for("digits"), method="acto").to_dict()
    with RunFolder.create(tmp_path / "run", config=config) as folder:
        folder.save_probs(np.full((6, 3), 1 / 3, np.float32))
    small().save(tmp_path / "run")
    run, table, out = (str(tmp_path / name) for name in ("run", "issues.csv", "decisions.csv"))
    assert exchange(["export", run, "--format", "cleanlab", "--out", table]) == 0
    with pytest.raises(UserError, match="nothing was decided"):
        exchange(["import", table, "--format", "cleanlab", "--run", run, "--out", out])
    assert not Path(out).exists()
    Path(table).write_text(Path(table).read_text().replace("a.png,true", "a.png,false").replace(",owl\n", ",dog\n", 1))
    assert exchange(["import", table, "--format", "cleanlab", "--run", run, "--out", out]) == 0
    told = capsys.readouterr().out
    assert f"2 decisions written to {out}: 1 keep, 1 accept\nundecided: 4 as exported" in told
    with pytest.raises(UserError, match="exists and is not overwritten"):
        exchange(["import", table, "--format", "cleanlab", "--run", run, "--out", out])
    with pytest.raises(UserError, match="unknown format 'cleanlabs'"):
        exchange(["export", run, "--format", "cleanlabs", "--out", "x"])
    with pytest.raises(UserError, match="unknown command 'exchange exprt'"):
        exchange(["exprt"])
