"""Label reports as Label Studio, FiftyOne and cleanlab read them, and people's decisions back again.

None of these packages is needed here; only their files are written and read.

    label-studio   tasks (JSON) with the suggestion as prediction, the suspected labels only; the labelling setup beside
                   it (.xml). Back: the project's JSON or JSON-MIN export with annotations.
    fiftyone       what fiftyone.Dataset.from_json reads; the suggestion is a field, suspected labels have a tag. Back:
                   what write_json wrote; a label edited in `ground_truth` and the tags "keep" and "remove" decide.
    cleanlab       the table of CleanLearning.get_label_issues (CSV), probabilities beside it (.npy). Back: such a
                   table; its issues count as accepted, for no person has looked at the others. Of the exported table
                   itself only the rows that were changed decide.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import escape

from acto.core.errors import UserError, choose
from acto.core.files import disk_errors, require_regular, write_atomically
from acto.core.sample_csv import sample_csv
from acto.core.text import counted
from acto.data.decision_file import Decision, printable
from acto.data.readers.text_files import read_text
from acto.labels.decisions import decide
from acto.labels.report import LabelReport
from acto.labels.verdicts import (
    CHOICE,
    FILE_PARAMETER,
    REMOVE,
    TEXT_START,
    from_cleanlab,
    from_fiftyone,
    from_label_studio,
)
from acto.run_folder.encoding import json_bytes

READERS = {"label-studio": from_label_studio, "fiftyone": from_fiftyone, "cleanlab": from_cleanlab}
FORMATS = tuple(READERS)
_LOCAL_FILES = f"/data/local-files/{FILE_PARAMETER}"
"""Address by which Label Studio finds a file below LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT."""
_DIFFER = {"label-studio": ": delete all annotations but one, or mark the right one as ground truth"}
"""Advice where verdicts differ."""


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


def import_decisions(
    path: Path | str, report: LabelReport, *, format: str, field: str | None = None
) -> tuple[list[Decision], str]:
    """Decisions about the report's samples, from what another tool exported.

    Args:
        path: the file.
        report: what was exported to the tool.
        format: one of FORMATS.
        field: the control of Label Studio or field of FiftyOne with people's labels; None: the one that was exported,
            or the only one.

    Returns:
        The decisions, at least one of which is no "skip"; and what the file leaves undecided, in words.

    Raises:
        UserError: an unknown format; a file that is no such export, names a sample or class that the report lacks, can
            be read in two ways, or decides nothing.
    """
    choose("format", format, FORMATS)
    path = Path(path)
    require_regular(path)
    if not path.exists():
        raise UserError(f"{path} does not exist")
    content = read_text(path)
    try:
        verdicts = list(READERS[format](content, report, field))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise UserError(f"{path} is no {format} export ({type(error).__name__}: {error})") from error
    decided: dict[int, Decision] = {}
    for verdict in verdicts:
        if verdict.why:
            continue
        place = f"{path}, sample {report.columns['id'][verdict.row]!r}"
        made = decide(report, verdict.row, verdict.word, new_label=verdict.label, place=place)
        before = decided.setdefault(verdict.row, made)
        if (before.decision, before.new_label) != (made.decision, made.new_label):
            both = " and ".join(f"{each.decision} {each.new_label}".rstrip() for each in (before, made))
            raise UserError(
                f"{place} is there more than once, and the verdicts differ ({both}){_DIFFER.get(format, '')}"
            )
    # Somebody else may have decided what one leaves open.
    left = {verdict.row: verdict for verdict in verdicts if verdict.row not in decided}
    undecided = ", ".join(f"{count} {why}" for why, count in Counter(each.why for each in left.values()).items())
    if not decided:
        raise UserError(f"{path}: nothing was decided: {undecided or 'the file is about no sample'}")
    skipped = [decide(report, row, verdict.word) for row, verdict in left.items() if verdict.word]
    return [*decided.values(), *skipped], undecided


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
        data["acto_id"] = data["id"]  # JSON-MIN puts a number of its own in the place of the id
        if paths:
            data["image"] = _LOCAL_FILES + quote(os.path.relpath(os.path.abspath(_text(row, "path")), root))
        else:
            data["text"] = TEXT_START + data["id"]
        choice = {
            "from_name": CHOICE,
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
        f'  <Choices name="{CHOICE}" toName="{kind}" choice="single" required="true">',
        *(f'    <Choice value="{escape(name)}"/>' for name in names),
        "  </Choices>",
        "</View>",
        "",
    ]
    suspects = counted(len(tasks), "suspected label")
    advice = [f"{suspects}; paste the .xml into the project's labelling setup, then import the tasks"]
    if paths:
        advice.append(
            "serve the pictures with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
            f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={root}"
        )
    return {out: json_bytes(tasks), out.with_suffix(".xml"): "\n".join(setup).encode()}, advice


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


# cleanlab -------------------------------------------------------------------------------------------------------------


def _cleanlab(
    report: LabelReport, out: Path, pred_probs: np.ndarray[Any, Any] | None
) -> tuple[dict[Path, bytes], list[str]]:
    names = ("id", "is_label_issue", "label_quality", "given_label", "predicted_label")
    texts = {name: column for name, column in report.columns.items() if not isinstance(column, np.ndarray)}
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
