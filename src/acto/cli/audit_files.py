"""The part of `acto audit` about files of labels and of any model's probabilities. torch is never imported here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError, choose, closest
from acto.core.text import counted
from acto.data.alignment import column_order
from acto.data.readers.probabilities import GivenLabels, GivenProbs, read_classes, read_labels, read_probs
from acto.labels.audit import audit
from acto.labels.page import write_report_page
from acto.labels.report import LabelReport
from acto.labels.rules import RULES
from acto.labels.scores import SCORES


def audit_files(given: Mapping[str, Any]) -> tuple[LabelReport, Path]:
    """Audit what the flags name, and save the report with its page; gives its folder as well.

    Raises:
        UserError: a flag that is missing, a file that cannot be read, or what acto.audit refuses.
    """
    if lacking := [flag for flag in ("labels", "pred_probs") if flag not in given]:
        raise UserError(f"--{lacking[0].replace('_', '-')} FILE is missing: labels and probabilities go together")
    for flag, choices in (("score", SCORES), ("rule", RULES)):
        if flag in given:
            choose(flag, given[flag], choices)
    named = read_classes(given["classes"]) if "classes" in given else ()
    labels, probs = read_labels(given["labels"]), read_probs(given["pred_probs"])
    names: Sequence[str] | None = named or labels.class_names or probs.class_names or None
    _check_lengths(labels, probs)
    values, ids, notes = _in_one_order(labels, probs)
    if probs.columns is not None:
        order, names = column_order(probs.columns, names, labels.values)
        values = values if order == list(range(len(order))) else values[:, order]
    report = audit(labels.values, values, class_names=names, ids=ids, score=given.get("score"), rule=given.get("rule"))
    facts = {**report.facts, "data": labels.path.stem}
    if notes:
        facts["notes"] = [*notes, *facts.get("notes", ())]
    report = replace(report, facts=facts)
    folder = Path(given["out"]).expanduser() if "out" in given else labels.path.with_name(f"{labels.path.stem}-audit")
    report.save(folder)
    write_report_page(report, None, folder / "report.html")
    return report, folder


def _check_lengths(labels: GivenLabels, probs: GivenProbs) -> None:
    num_labels, num_rows = len(labels.values), len(probs.values)
    if num_labels != num_rows and probs.values.ndim == 2:
        hint = ": does one of them lack its heading?" if abs(num_labels - num_rows) == 1 else ""
        raise UserError(
            f"{labels.path} has {counted(num_labels, 'label')}, but {probs.path} {counted(num_rows, 'row')}{hint}"
        )


def _in_one_order(labels: GivenLabels, probs: GivenProbs) -> tuple[npt.NDArray[Any], tuple[str, ...] | None, list[str]]:
    """The probabilities in the order of the labels, the samples' names, and notes."""
    for part in (labels, probs):
        if part.ids is not None and len(set(part.ids)) < len(part.ids):
            twice = next(name for name in part.ids if part.ids.count(name) > 1)
            raise UserError(f"{part.path} has {counted(part.ids.count(twice), 'row')} of {twice!r}")
    if labels.ids is None or probs.ids is None:
        ids = labels.ids or probs.ids
        numbers = list(map(str, range(len(ids or ()))))
        if ids is not None and list(ids) != numbers and set(ids) == set(numbers):
            named, other = (labels, probs) if labels.ids is not None else (probs, labels)
            raise UserError(
                f"the rows of {named.path} are numbered in another order than they stand in, and {other.path} has no "
                "ids: sort the rows, or give both files a column id"
            )
        return probs.values, ids, []
    if labels.ids == probs.ids:
        return probs.values, labels.ids, []
    row_of = {name: row for row, name in enumerate(probs.ids)}
    if (lost := next((name for name in labels.ids if name not in row_of), None)) is not None:
        raise UserError(f"{probs.path} has no row of {lost!r}, which {labels.path} has.{closest(lost, row_of)}")
    rows = np.array([row_of[name] for name in labels.ids])
    return probs.values[rows], labels.ids, [f"the rows of {probs.path.name} were matched by their ids"]
