"""Label Studio's exports of every kind and age, edited tables, renamed fields: right or refused, and never nothing."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acto.cli import main
from acto.labels.exchange import FORMATS, export_report
from acto.labels.verdicts import REMOVE
from label_reports import report_of, small

pytestmark = pytest.mark.kind("exchange")

right, refused = pytest.mark.right, pytest.mark.refused
A, B, E = "a.png", "b.png", 'e,"<b>.png'
Told = dict[str, tuple[str, str]]
Import = Callable[..., tuple[int, Told, str]]


@pytest.fixture
def imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Import:
    """Take a file back by the command: its exit code, the decisions that were written, and what was printed."""
    small(tmp_path).save(tmp_path)

    def run(format: str, content: Any, *flags: str) -> tuple[int, Told, str]:
        file, out = tmp_path / "back", tmp_path / "decisions-back.csv"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        tokens = ["import", str(file), "--run", str(tmp_path), "--format", format, "--out", str(out), *flags]
        code = main(["exchange", *tokens])
        printed = "".join(capsys.readouterr())
        found: Told = {}
        if out.exists():
            with out.open(newline="") as table:
                rows = csv.DictReader(table)
                found = {row["id"].removeprefix("'"): (row["decision"], row["new_label"]) for row in rows}
        assert (code == 0) == bool(found), printed
        return code, found, printed

    return run


def answer(choice: str | None, *, control: str = "label", by: Any = 1, at: str = "2026-01-01", **more: Any) -> Any:
    part = {"from_name": control, "to_name": "image", "type": "choices", "value": {"choices": [choice]}}
    return {"completed_by": by, "updated_at": at, "result": [part] if choice else [], **more}


def task(*annotations: Any, id: str = A, key: str = "annotations") -> Any:
    return {"id": 7, "data": {"id": id, "image": "/data/local-files/?d=0.png"}, key: list(annotations)}


# Label Studio: controls -------------------------------------------------------------------------------------------


@right
@pytest.mark.parametrize("key", ["annotations", "completions"])
def test_a_control_by_another_name_is_used_if_it_is_the_only_one(imported: Import, key: str) -> None:
    tasks = [task(answer("dog", control="choice"), key=key), task(answer("cat", control="choice"), id=B, key=key)]
    _, found, printed = imported("label-studio", tasks)
    assert found == {A: ("accept", "dog"), B: ("keep", "")}
    assert "2 decisions written" in printed and "1 accept, 1 keep" in printed


@refused
def test_two_controls_are_named_and_one_can_be_chosen(imported: Import) -> None:
    both = answer("dog", control="animal")
    both["result"] += answer("owl", control="second_guess")["result"]
    code, _, printed = imported("label-studio", [task(both)])
    assert code == 2 and "several controls, 'animal', 'second_guess': say which with --field" in printed
    code, _, printed = imported("label-studio", [task(both)], "--field", "third")
    assert code == 2 and "no control 'third'" in printed
    assert imported("label-studio", [task(both)], "--field", "animal")[1] == {A: ("accept", "dog")}


@refused
def test_answers_without_a_choice_of_a_class_are_named(imported: Import) -> None:
    box = {"from_name": "label", "type": "rectanglelabels", "value": {"rectanglelabels": ["dog"]}}
    code, _, printed = imported("label-studio", [task({"result": [box]})])
    assert code == 2 and "no control holds a choice of a class: the answers are in 'label'" in printed


@refused
def test_a_control_that_was_renamed_halfway_is_not_half_read(imported: Import) -> None:
    tasks = [task(answer("dog")), task(answer("owl", control="choice"), id=B)]
    code, _, printed = imported("label-studio", tasks)
    assert code == 2 and "'choice', 'label'" in printed


@refused
def test_several_choices_in_one_annotation_are_no_label(imported: Import) -> None:
    two = answer("dog")
    two["result"][0]["value"]["choices"].append("owl")
    code, _, printed = imported("label-studio", [task(two)])
    assert code == 2 and "sample 'a.png' has 2 choices" in printed


# Label Studio: people ---------------------------------------------------------------------------------------------


@right
@pytest.mark.parametrize("by", [1, 2])
@pytest.mark.parametrize(("key", "mark"), [("annotations", "was_cancelled"), ("completions", "skipped")])
def test_a_later_skip_takes_no_verdict_back(imported: Import, by: int, key: str, mark: str) -> None:
    skips = [answer(choice, by=by, at="2026-02-02", **{mark: True}) for choice in (None, "owl")]
    assert imported("label-studio", [task(answer("dog"), *skips, key=key)])[1] == {A: ("accept", "dog")}


@refused
@pytest.mark.parametrize("people", [(1, 2), (None, None), ({"id": 1}, {"id": 2})])
def test_annotators_who_differ_are_refused(imported: Import, people: tuple[Any, Any]) -> None:
    first, second = people
    tasks = [task(answer("dog", by=first), answer("cat", by=second, at="2026-02-02"))]
    code, _, printed = imported("label-studio", tasks)
    assert code == 2 and "sample 'a.png'" in printed and "(accept dog and keep)" in printed
    assert "mark the right one as ground truth" in printed


@right
def test_annotators_who_agree_a_second_thought_and_a_ground_truth(imported: Import) -> None:
    agreed = task(answer("dog", by=1), answer("dog", by=2))
    again = task(answer("dog", at="2026-02-02"), answer("owl", at="2026-03-03"), id=B)
    settled = task(answer("cat", by=1, ground_truth=True), answer("dog", by=2, at="2026-04-04"), id=E)
    _, found, printed = imported(
        "label-studio", [agreed, again, settled, task(id="f.png"), task(answer(None), id="d'.png")]
    )
    assert found == {A: ("accept", "dog"), B: ("accept", "owl"), E: ("accept", "cat"), "d'.png": ("skip", "")}
    assert "undecided: 1 without an annotation, 1 skipped" in printed


@refused
@pytest.mark.parametrize(
    ("tasks", "why"),
    [
        ([], "the file is about no sample"),
        ([task()], "1 without an annotation"),
        ([{**task(), "annotations": None, "drafts": [answer("dog")], "predictions": [answer("dog")]}], "1 without an"),
        ([{"data": {"id": A}, "predictions": [answer("dog")]}], "1 without an annotation"),
        ([task(answer("dog", was_cancelled=True)), task(id=B)], "1 skipped, 1 without an annotation"),
    ],
)
def test_where_nothing_is_decided_the_reason_is_said(imported: Import, tasks: Any, why: str) -> None:
    code, found, printed = imported("label-studio", tasks)
    assert (code, found) == (2, {}) and f"nothing was decided: {why}" in printed and "0 decisions" not in printed


@refused
def test_decisions_on_other_labels_are_refused(imported: Import) -> None:
    other = task(answer("dog"))
    other["data"]["given_label"] = "owl"
    code, _, printed = imported("label-studio", [other])
    assert code == 2 and "was given 'owl' there and 'cat' in the label report" in printed


# Label Studio: JSON-MIN -------------------------------------------------------------------------------------------


def record(**cells: Any) -> Any:
    """What JSON-MIN makes of a task: its data and the answers side by side, its own number as id."""
    data = {"given_label": "cat", "suggested_label": "dog", "reason": "", "label_quality": 0.1}
    own = {"id": 1, "annotator": 1, "annotation_id": 3, "created_at": "2026", "updated_at": "2026", "lead_time": 2.5}
    return {"image": "/data/local-files/?d=0.png", **data, **cells, **own}


@right
@pytest.mark.parametrize(
    "cells",
    [
        {"label": "dog"},
        {"acto_id": A, "image": "/data/upload/1/x.png", "choice": "dog"},
        {"choice": "dog", "comment": "a dog, I think"},
        {"image": "http://localhost:8080/data/local-files/?d=0.png", "choice": {"choices": ["dog"]}},
        {"choice": [{"choices": ["dog"]}]},
    ],
)
def test_json_min_is_read_by_picture_or_id(imported: Import, cells: dict[str, Any]) -> None:
    assert imported("label-studio", [record(**cells)])[1] == {A: ("accept", "dog")}


@right
def test_json_min_of_samples_without_files(imported: Import) -> None:
    shown = {"text": f"sample {B}", "image": None, "label": REMOVE}
    assert imported("label-studio", [record(**shown)])[1] == {B: ("remove", "")}


@refused
@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([record(label="dog"), record(label="owl") | {"annotator": 2}], "the verdicts differ"),
        ([record(choice="dog", label="cat")], "several controls, 'choice', 'label'"),
        ([record(comment="nice")], "the answers are in 'comment'"),
        ([record(label="dgo")], "Did you mean 'dog'?"),
        ([record(label="dog", image="/data/upload/1/7f-0.png")], "no sample of the label report has the file"),
        ([record(label="dog", image=None)], "has no sample 1"),
    ],
)
def test_json_min_that_can_be_read_in_two_ways_or_in_none(imported: Import, records: Any, says: str) -> None:
    code, _, printed = imported("label-studio", records)
    assert code == 2 and says in printed


@right
def test_numbers_of_tasks_are_never_taken_for_ids(imported: Import, tmp_path: Path) -> None:
    report_of(["cat", "dog", "owl"], ["dog", "owl", "cat"], ids=["2", "1", "0"]).save(tmp_path)
    assert imported("label-studio", [record(text="sample 2", image=None, label="dog")])[1] == {"2": ("accept", "dog")}


# cleanlab ---------------------------------------------------------------------------------------------------------


def table_of(folder: Path) -> str:
    (path,), _ = export_report(small(folder), folder / "issues.csv", format="cleanlab")
    return path.read_text()


@refused
@pytest.mark.parametrize("format", FORMATS)
def test_an_unchanged_export_decides_nothing(imported: Import, tmp_path: Path, format: str) -> None:
    paths, _ = export_report(small(tmp_path), tmp_path / "export", format=format)
    code, found, printed = imported(format, paths[0].read_text())
    assert (code, found) == (2, {}) and "nothing was decided" in printed


@refused
def test_a_table_that_a_spreadsheet_saved_anew_is_still_unchanged(imported: Import, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(table_of(tmp_path))))
    for row in rows:
        row |= {"is_label_issue": row["is_label_issue"].upper(), "label_quality": f"{float(row['label_quality']):.3f}"}
    text = io.StringIO()
    writer = csv.DictWriter(text, [*rows[0]][::-1])
    writer.writeheader()
    writer.writerows(rows[::-1])
    code, _, printed = imported("cleanlab", text.getvalue())
    assert code == 2 and "nothing was decided: 6 as exported" in printed


@right
def test_changed_rows_of_the_exported_table_decide(imported: Import, tmp_path: Path) -> None:
    table = table_of(tmp_path).replace("a.png,true", "a.png,false")
    table = table.replace("f.png,false,0.95,owl,owl", "f.png,True,0.95,owl,cat")
    assert imported("cleanlab", table)[1] == {A: ("keep", ""), "f.png": ("accept", "cat")}


@right
def test_tables_of_cleanlab_itself_count_as_before(imported: Import) -> None:
    rows = ["dog", "owl", "dog", "dog", "cat", "owl"]
    lines = [f"{'True' if k in (0, 4) else 'False'},0.3,{k},{name}" for k, name in enumerate(rows)]
    table = "\n".join(["is_label_issue,label_quality,given_label,predicted_label", *lines])
    assert imported("cleanlab", table)[1] == {A: ("accept", "dog"), E: ("accept", "cat")}


@refused
@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("a.png,true,0.2,owl,dog", "was given 'owl' there and 'cat'"),
        ("a.png,true,0.2,cat,cat", "1 an issue whose predicted_label is the given one"),
        ("b.png,false,0.2,cat,dog", "1 not marked as issues"),
    ],
)
def test_rows_that_decide_nothing_or_something_else(imported: Import, row: str, says: str) -> None:
    code, _, printed = imported("cleanlab", f"id,is_label_issue,label_quality,given_label,predicted_label\n{row}\n")
    assert code == 2 and says in printed


# FiftyOne ---------------------------------------------------------------------------------------------------------


def sample(label: str | None = "cat", *, field: str = "ground_truth", tags: Any = (), **more: Any) -> Any:
    return {"acto_id": A, "tags": list(tags), field: {"label": label, "tags": []} if label else None, **more}


@right
def test_a_field_by_another_name_and_files_instead_of_ids(imported: Import, tmp_path: Path) -> None:
    relative = sample("dog", field="truth", suggested={"label": "owl"}, filepath="0.png", acto_id=None)
    absolute = sample("dog", field="truth", filepath=str(tmp_path / "1.png"), acto_id=None)
    _, found, _ = imported("fiftyone", {"samples": [relative, absolute]})
    assert found == {A: ("accept", "dog"), B: ("accept", "dog")}


@right
def test_tags_of_samples_and_labels_in_any_case(imported: Import) -> None:
    of_label = sample() | {"ground_truth": {"label": "cat", "tags": ["Keep"]}}
    gone = sample(None, acto_id=B, tags=["REMOVE"])
    assert imported("fiftyone", {"samples": [of_label, gone]})[1] == {A: ("keep", ""), B: ("remove", "")}


@right
def test_a_copy_that_says_nothing_takes_no_verdict_back(imported: Import) -> None:
    assert imported("fiftyone", {"samples": [sample("dog"), sample()]})[1] == {A: ("accept", "dog")}


@refused
@pytest.mark.parametrize(
    ("samples", "says"),
    [
        ([sample(more_={"label": "dog"})], "1 as exported in 'ground_truth' (labels are also in 'more_': see --field)"),
        ([sample(field="one", two={"label": "dog"})], "labels are in 'one', 'two': say --field"),
        ([sample() | {"ground_truth": {"detections": []}}], "field 'ground_truth' of sample 'a.png' holds no single"),
        ([sample(tags=["keep", "remove"])], "is tagged keep and remove"),
        ([sample("dog", tags=["keep"])], "is tagged keep, but labelled 'dog'"),
        ([sample("dog"), sample(tags=["remove"])], "is there more than once"),
        ([sample(acto_id=None)], "neither acto_id nor filepath"),
        ([sample("dog", acto_id=None, filepath="/elsewhere/0.png")], "no sample of the label report has the file"),
        ([sample("dog", given_label="owl")], "belong to other labels"),
        ([], "nothing was decided: the file is about no sample"),
    ],
)
def test_fields_tags_and_files_that_do_not_fit(imported: Import, samples: Any, says: str) -> None:
    code, _, printed = imported("fiftyone", {"samples": samples})
    assert code == 2 and says in printed


@refused
def test_a_file_that_several_samples_share_names_none_of_them(imported: Import, tmp_path: Path) -> None:
    twice = [str(tmp_path / "0.png")] * 2
    report_of(["cat", "dog"], ["dog", "cat"], names=("cat", "dog"), ids=["x", "y"], paths=twice).save(tmp_path)
    code, _, printed = imported("fiftyone", {"samples": [sample("dog", acto_id=None, filepath=twice[0])]})
    assert code == 2 and "2 samples of the label report have the file" in printed


@right
def test_another_field_is_read_where_it_is_named(imported: Import) -> None:
    both = sample(corrected={"label": "dog"})
    assert imported("fiftyone", {"samples": [both]}, "--field", "corrected")[1] == {A: ("accept", "dog")}
