"""Label reports as Label Studio, FiftyOne and cleanlab read them, and people's decisions back again.

None of these packages is needed here; only their files are written and read.

    label-studio   tasks (JSON) with the suggestion as prediction, the suspected labels only; the labelling setup beside
                   it (.xml). Back: the project's JSON export with annotations.
    fiftyone       what fiftyone.Dataset.from_json reads; the suggestion is a field, suspected labels have a tag. Back:
                   what write_json wrote; a label edited in `ground_truth` and the tags "keep" and "remove" decide.
    cleanlab       the table of CleanLearning.get_label_issues (CSV), probabilities beside it (.npy). Back: such a
                   table; its issues count as accepted, for no person has looked at the others.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import escape

from acto.core.errors import UserError, choose
from acto.core.files import disk_errors, require_regular, write_atomically
from acto.core.sample_csv import sample_csv
from acto.data.readers.text_files import check_titles, read_text, rows_of
from acto.labels.decisions import Decision, decide, printable, row_of_id
from acto.labels.report import LabelReport
from acto.run_folder.encoding import json_bytes

FORMATS = ("label-studio", "fiftyone", "cleanlab")
REMOVE = "(remove this sample)"
"""A choice that is offered in Label Studio beside the classes."""
_LOCAL_FILES = "/data/local-files/?d="
"""Address by which Label Studio finds a file below LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT."""
_CHOICE = "label"

Verdict = tuple[int, str, str]
"""Row of the report, word of a decision, new label."""


def export_report(
    report: LabelReport, out: Path | str, *, format: str, pred_probs: np.ndarray[Any, Any] | None = None
) -> tuple[list[Path], list[str]]:
    """Write a report for another tool.

    Args:
        report: what to write.
        out: the file; what belongs to it gets the same name with another ending.
        format: one of FORMATS.
        pred_probs: (N, K), written beside cleanlab's table.

    Returns:
        The files, and what to do with them, in words.

    Raises:
        UserError: an unknown format, or a file that is there already.
        acto.core.errors.RunError: the disk refuses.
    """
    choose("format", format, FORMATS)
    out = new_path(out)
    if format == "label-studio":
        files, advice = _label_studio(report, out)
    elif format == "fiftyone":
        files, advice = _fiftyone(report, out)
    else:
        files, advice = _cleanlab(report, out, pred_probs)
    for path in files:
        new_path(path)
    write_files(files)
    return list(files), advice


def import_decisions(path: Path | str, report: LabelReport, *, format: str) -> list[Decision]:
    """Decisions about the report's samples, from what another tool exported.

    Raises:
        UserError: an unknown format; a file that is no such export, or names a sample or class that the report lacks.
    """
    choose("format", format, FORMATS)
    path = Path(path)
    require_regular(path)
    if not path.exists():
        raise UserError(f"{path} does not exist")
    content = read_text(path)
    readers: dict[str, Callable[[str, LabelReport], Iterator[Verdict]]] = {
        "label-studio": _from_label_studio,
        "fiftyone": _from_fiftyone,
        "cleanlab": _from_cleanlab,
    }
    try:
        verdicts = list(readers[format](content, report))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise UserError(f"{path} is no {format} export ({type(error).__name__}: {error})") from error
    decided: dict[int, Decision] = {}
    for row, word, label in verdicts:
        place = f"{path}, sample {report.columns['id'][row]!r}"
        made = decide(report, row, word, new_label=label, place=place)
        before = decided.setdefault(row, made)
        if (before.decision, before.new_label) != (made.decision, made.new_label):
            raise UserError(f"{place} is there more than once, and the verdicts differ")
    return list(decided.values())


def new_path(path: Path | str) -> Path:
    """Return `path` if nothing is there; raise UserError otherwise."""
    path = Path(path)
    if path.exists():
        raise UserError(f"{path} exists and is not overwritten: name another file")
    return path


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write each file whole or not at all."""
    for path, data in files.items():
        with disk_errors(f"write {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)


def _text(cells: Mapping[str, Any], name: str) -> str:
    return printable(cells.get(name, ""))


def _number(cells: Mapping[str, Any], name: str) -> float | None:
    value = cells.get(name)
    return float(value) if value is not None and np.isfinite(value) else None


def _verdict(row: int, label: object, report: LabelReport) -> Verdict:
    """Turn a person's label into a verdict on the given one."""
    if not isinstance(label, str):
        raise TypeError(f"{label!r} is no class name")
    given = printable(report.columns["given_label"][row])
    return (row, "keep", "") if label == given else (row, "accept", label)


def _row(id: object, rows: Mapping[str, int]) -> int:
    if id not in rows:
        raise UserError(f"the label report has no sample {id!r}")
    return rows[str(id)]


# Label Studio ---------------------------------------------------------------------------------------------------------


def _label_studio(report: LabelReport, out: Path) -> tuple[dict[Path, bytes], list[str]]:
    issues = [int(row) for row in report.ranked() if report.is_label_issue[row]]
    cells = report.rows(issues)
    paths = [os.path.abspath(path) for row in cells if (path := _text(row, "path"))]
    root = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    kind = "image" if paths else "text"
    tasks = []
    for row in cells:
        data: dict[str, Any] = {name: _text(row, name) for name in ("id", "given_label", "suggested_label", "reason")}
        if paths:
            data["image"] = _LOCAL_FILES + quote(os.path.relpath(os.path.abspath(_text(row, "path")), root))
        else:
            data["text"] = f"sample {data['id']}"
        choice = {
            "from_name": _CHOICE,
            "to_name": kind,
            "type": "choices",
            "value": {"choices": [data["suggested_label"]]},
        }
        prediction = {"model_version": "acto", "score": _number(row, "confidence"), "result": [choice]}
        data["label_quality"] = _number(row, "label_quality")
        tasks.append({"data": data, "predictions": [prediction]})
    names = [*map(printable, report.class_names), REMOVE]
    tag = "Image" if paths else "Text"
    setup = [
        "<View>",
        f'  <{tag} name="{kind}" value="${kind}"/>',
        '  <Text name="given" value="given: $given_label. $reason"/>',
        f'  <Choices name="{_CHOICE}" toName="{kind}" choice="single" required="true">',
        *(f'    <Choice value="{escape(name)}"/>' for name in names),
        "  </Choices>",
        "</View>",
        "",
    ]
    advice = [
        f"{len(tasks)} suspected labels; paste the .xml into the project's labelling setup, then import the tasks"
    ]
    if paths:
        advice.append(
            "serve the pictures with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
            f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={root}"
        )
    return {out: json_bytes(tasks), out.with_suffix(".xml"): "\n".join(setup).encode()}, advice


def _from_label_studio(text: str, report: LabelReport) -> Iterator[Verdict]:
    rows = row_of_id(report)
    for task in json.loads(text):
        annotations = sorted(task.get("annotations", []), key=lambda each: str(each.get("updated_at", "")))
        if not annotations:
            continue
        row = _row(task["data"]["id"], rows)
        last = annotations[-1]
        chosen = [part["value"]["choices"] for part in last["result"] if part.get("from_name") == _CHOICE]
        if last.get("was_cancelled") or not chosen:
            yield row, "skip", ""
        elif chosen[0][0] == REMOVE and REMOVE not in report.class_names:
            yield row, "remove", ""
        else:
            yield _verdict(row, chosen[0][0], report)


# FiftyOne -------------------------------------------------------------------------------------------------------------


def _fiftyone(report: LabelReport, out: Path) -> tuple[dict[Path, bytes], list[str]]:
    if not any(report.columns.get("path", ())):
        raise UserError("FiftyOne shows files, and the samples of this report are none")

    def label(name: str, confidence: float | None = None) -> dict[str, Any] | None:
        if not name:
            return None
        known = {} if confidence is None else {"confidence": confidence}
        return {"_cls": "Classification", "tags": [], "label": name, **known}

    samples = []
    for row in report.rows(range(len(report))):
        samples.append(
            {
                "filepath": os.path.abspath(_text(row, "path")),
                "tags": ["label_issue"] if row["is_label_issue"] else [],
                "metadata": None,
                "ground_truth": label(_text(row, "given_label")),
                "suggested": label(_text(row, "suggested_label"), _number(row, "confidence")),
                "acto_id": _text(row, "id"),
                "given_label": _text(row, "given_label"),
                "label_quality": _number(row, "label_quality"),
                "reason": _text(row, "reason"),
            }
        )
    field = "fiftyone.core.fields."
    document = f"{field}EmbeddedDocumentField(fiftyone.core."
    content = {
        "name": out.stem,
        "media_type": "image",
        "num_samples": len(samples),
        "sample_fields": {
            "filepath": f"{field}StringField",
            "tags": f"{field}ListField({field}StringField)",
            "metadata": f"{document}metadata.ImageMetadata)",
            "ground_truth": f"{document}labels.Classification)",
            "suggested": f"{document}labels.Classification)",
            **dict.fromkeys(("acto_id", "given_label", "reason"), f"{field}StringField"),
            "label_quality": f"{field}FloatField",
        },
        "info": {"classes": list(map(printable, report.class_names))},
        "samples": samples,
    }
    advice = [
        f"load it: fiftyone.Dataset.from_json({str(out)!r}). Edit ground_truth, or tag samples keep or remove; then "
        "dataset.write_json(FILE) and `acto exchange import FILE`"
    ]
    return {out: json_bytes(content)}, advice


def _from_fiftyone(text: str, report: LabelReport) -> Iterator[Verdict]:
    rows = row_of_id(report)
    for sample in json.loads(text)["samples"]:
        row = _row(sample["acto_id"], rows)
        label = (sample.get("ground_truth") or {}).get("label")
        given = printable(report.columns["given_label"][row])
        if "remove" in sample["tags"]:
            yield row, "remove", ""
        elif label not in (None, given) or "keep" in sample["tags"]:
            yield _verdict(row, given if label is None else label, report)


# cleanlab -------------------------------------------------------------------------------------------------------------


def _cleanlab(
    report: LabelReport, out: Path, pred_probs: np.ndarray[Any, Any] | None
) -> tuple[dict[Path, bytes], list[str]]:
    names = ("id", "is_label_issue", "label_quality", "given_label", "predicted_label")
    texts = {name: column for name, column in report.columns.items() if isinstance(column, list)}
    table, _ = sample_csv(
        {name: list(map(printable, texts[name])) if name in texts else report.columns[name] for name in names}
    )
    files = {out: table}
    if pred_probs is not None:
        buffer = io.BytesIO()
        np.save(buffer, pred_probs, allow_pickle=False)
        files[out.with_suffix(".npy")] = buffer.getvalue()
    classes = ", ".join(map(printable, report.class_names[:10])) + (", ..." if len(report.class_names) > 10 else "")
    return files, [f"columns of the probabilities, in this order: {classes}"] if pred_probs is not None else []


def _from_cleanlab(text: str, report: LabelReport) -> Iterator[Verdict]:
    reader = rows_of(text, "the table")
    titles = next(reader, (0, [""]))[1]
    check_titles(titles, ("id", "is_label_issue", "predicted_label"), "the table")
    table = list(reader)
    if not table or not {"is_label_issue", "predicted_label"} <= set(titles):
        raise UserError("a table with the columns is_label_issue and predicted_label is needed")
    has_ids = "id" in titles
    if not has_ids and len(table) != len(report):
        raise UserError(f"without a column id, a row for each of the {len(report)} samples is needed, not {len(table)}")
    rows = row_of_id(report)
    for place, (line, row_cells) in enumerate(table):
        if len(row_cells) != len(titles):
            raise UserError(f"row {line} has {len(row_cells)} cells, the heading {len(titles)}")
        cells = dict(zip(titles, row_cells, strict=True))
        verdict = choose("value of is_label_issue", cells["is_label_issue"].lower(), ("true", "false"))
        row = _row(cells["id"].removeprefix("'"), rows) if has_ids else place
        if verdict == "true":
            yield _verdict(row, cells["predicted_label"].removeprefix("'"), report)
