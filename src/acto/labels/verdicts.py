"""Verdicts of people in what Label Studio, FiftyOne and cleanlab export: which sample, which word, which class.

A sample about which nothing is said gives a verdict too, an undecided one that says why: nobody is left to wonder
where a decision went. Where a file can be read in two ways, it is refused with what helps.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from acto.core.errors import UserError, choose
from acto.core.sample_csv import rearmed
from acto.core.text import counted
from acto.data.decision_file import printable
from acto.data.readers.text_files import check_titles, rows_of
from acto.labels.decisions import row_of_id
from acto.labels.report import LabelReport

REMOVE = "(remove this sample)"
"""A choice that is offered in Label Studio beside the classes."""
CHOICE = "label"
"""Name of the control in the labelling setup that is written for Label Studio."""
GROUND_TRUTH, SUGGESTED = "ground_truth", "suggested"
"""Fields of FiftyOne: the one that people edit, and what is thought of the sample."""
FILE_PARAMETER = "?d="
"""Before the path in the address of a file that Label Studio serves."""
TEXT_START = "sample "
"""Before the id, where a task shows no picture."""
_MIN_FIELDS = {
    *("id", "acto_id", "given_label", "suggested_label", "reason", "label_quality", "image", "text"),
    *("annotator", "annotation_id", "created_at", "updated_at", "lead_time"),
}
"""Fields of a JSON-MIN record that are no answers: ours and Label Studio's."""
_QUALITY_TOLERANCE = 1e-3
"""A spreadsheet may round what it shows."""


class Verdict(NamedTuple):
    """Verdict on one sample; without a word, or with the word skip, nothing is decided."""

    row: int
    """Row of the report."""
    word: str = ""
    """As in decisions.csv."""
    label: str = ""
    """The new label, for the word accept."""
    why: str = ""
    """Reason why nothing is decided, about several samples: "without an annotation"."""


class _Samples:
    """Rows of a report by what other tools know of a sample."""

    def __init__(self, report: LabelReport) -> None:
        self.report = report
        self.rows = row_of_id(report)
        self._by_name: dict[str, list[int]] = defaultdict(list)
        for row, path in enumerate(report.columns.get("path", ())):
            if path:
                self._by_name[PurePath(printable(path)).name].append(row)

    def by_id(self, id: object, *, given: object = None) -> int:
        """The row of an id; `given` is the label that it had there.

        Raises:
            UserError: no such sample, or its given label is another one.
        """
        if id not in self.rows:
            raise UserError(f"the label report has no sample {id!r}")
        return self.checked(self.rows[str(id)], given)

    def by_file(self, file: str, *, given: object = None) -> int:
        """The row of a picture file, absolute or from any folder above it; errors as those of `by_id`."""
        parts = PurePath(file).parts
        found = [
            row
            for row in self._by_name.get(PurePath(file).name, ())
            if PurePath(os.path.abspath(printable(self.report.columns["path"][row]))).parts[-len(parts) :] == parts
        ]
        if len(found) != 1:
            start = (
                f"{counted(len(found), 'sample')} of the label report have"
                if found
                else "no sample of the label report has"
            )
            raise UserError(f"{start} the file {file!r}, and nothing else in the export names the sample")
        return self.checked(found[0], given)

    def checked(self, row: int, given: object) -> int:
        mine = self.given(row)
        if given is not None and given != mine:
            raise UserError(
                f"sample {self.report.columns['id'][row]!r} was given {given!r} there and {mine!r} in the label "
                "report: the decisions belong to other labels"
            )
        return row

    def given(self, row: int) -> str:
        return printable(self.report.columns["given_label"][row])

    def verdict(self, row: int, label: object) -> Verdict:
        """Turn a person's label into a verdict on the given one."""
        if not isinstance(label, str):
            raise TypeError(f"{label!r} is no class name")
        return Verdict(row, "keep") if label == self.given(row) else Verdict(row, "accept", label)


# Label Studio ---------------------------------------------------------------------------------------------------------


def from_label_studio(text: str, report: LabelReport, field: str | None) -> Iterator[Verdict]:
    """Verdicts of a JSON or JSON-MIN export; `field` is the control that people chose the class with."""
    samples, tasks = _Samples(report), json.loads(text)
    if not isinstance(tasks, list):
        raise TypeError("a list of tasks is needed")
    ballots: dict[int, list[Mapping[str, Any]]] = {}
    for task in tasks:
        row = _row_of_task(task.get("data", task), samples)
        ballots.setdefault(row, []).extend(_annotations(task))
    control = _control([ballot for each in ballots.values() for ballot in each], report, field)
    for row, cast in ballots.items():
        if not cast:
            yield Verdict(row, why="without an annotation")
            continue
        # A skip takes no verdict back, and what is marked as ground truth stands above the rest.
        valid = [each for each in cast if _choices(each, control) and not _is_cancelled(each)]
        valid = [each for each in valid if each.get("ground_truth")] or valid
        last: dict[str, Mapping[str, Any]] = {}
        for number, each in enumerate(sorted(valid, key=_age)):
            who = each.get("completed_by")
            last[json.dumps(who) if who is not None else f"unknown {number}"] = each
        if not last:
            yield Verdict(row, "skip", why="skipped")
        for each in last.values():
            chosen = _choices(each, control)
            if len(chosen) > 1:
                raise UserError(f"sample {report.columns['id'][row]!r} has {len(chosen)} choices in one annotation")
            if chosen[0] == REMOVE and REMOVE not in report.class_names:
                yield Verdict(row, "remove")
            else:
                yield samples.verdict(row, chosen[0])


def _row_of_task(data: Mapping[str, Any], samples: _Samples) -> int:
    given, id = data.get("given_label"), data.get("acto_id", data.get("id"))
    if not isinstance(id, int | None):
        return samples.by_id(id, given=given)
    # JSON-MIN has Label Studio's own number in the place of our id.
    if isinstance(shown := data.get("text"), str) and shown.startswith(TEXT_START):
        return samples.by_id(shown.removeprefix(TEXT_START), given=given)
    if not isinstance(image := data.get("image"), str):
        return samples.by_id(id)
    path = image.partition(FILE_PARAMETER)[2] or (urlsplit(image).path if "://" in image else "")
    return samples.by_file(unquote(path) or image, given=given)


def _annotations(task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The annotations of a task; a record of JSON-MIN is one."""
    if "data" in task:
        return list(task.get("annotations") or task.get("completions") or ())
    answers = {name: value for name, value in task.items() if name not in _MIN_FIELDS}
    result = [
        {"from_name": name, "value": {"choices": [part]} if isinstance(part, str) else part, "is_guess": True}
        for name, value in answers.items()
        for part in (value if isinstance(value, list) else [value])
    ]
    return [{"completed_by": task.get("annotator"), "updated_at": task.get("updated_at"), "result": result}]


def _choices(annotation: Mapping[str, Any], control: str | None) -> list[Any]:
    """The different choices that one annotation has made with a control."""
    found: list[Any] = []
    for part in annotation.get("result") or ():
        if part.get("from_name") == control:
            found += [choice for choice in _chosen(part) or () if choice not in found]
    return found


def _chosen(part: Mapping[str, Any]) -> list[Any] | None:
    """The choices that a part of an annotation holds; None if it is of another kind."""
    value = part.get("value")
    if not isinstance(value, Mapping) or "choices" not in value:
        return None
    choices = value["choices"]
    return [choices] if isinstance(choices, str) else list(choices)


def _is_cancelled(annotation: Mapping[str, Any]) -> bool:
    return bool(annotation.get("was_cancelled") or annotation.get("skipped"))


def _age(annotation: Mapping[str, Any]) -> str:
    return str(annotation.get("updated_at") or annotation.get("created_at") or "")


def _control(annotations: Sequence[Mapping[str, Any]], report: LabelReport, field: str | None) -> str | None:
    """The control that holds the classes; None if nobody has answered anything.

    Raises:
        UserError: there is none, or nobody can say which.
    """
    classes = {*map(printable, report.class_names), REMOVE}
    answers: list[tuple[set[str], bool]] = []
    with_classes: set[str] = set()
    others: set[str] = set()
    for annotation in annotations:
        names, is_guess = set(), False
        for part in annotation.get("result") or ():
            name, choices = str(part.get("from_name")), _chosen(part)
            if choices is None:
                others.add(name)
                continue
            names.add(name)
            is_guess |= bool(part.get("is_guess"))
            # In JSON-MIN any text may be an answer: fields in which no class ever stands are none.
            if not part.get("is_guess") or name in (CHOICE, field) or not classes.isdisjoint(choices):
                with_classes.add(name)
        answers.append((names, is_guess))
    found = [names & with_classes for names, _ in answers if names & with_classes]
    union = set().union(*found)
    if field is not None:
        return _asked("control", field, union)
    if found and CHOICE in set.intersection(*found) and not any(is_guess for _, is_guess in answers):
        return CHOICE
    if len(union) > 1:
        raise UserError(f"the choices are in several controls, {_listed(union)}: say which with --field")
    if not union and (others := others.union(*(names for names, _ in answers))):
        raise UserError(f"no control holds a choice of a class: the answers are in {_listed(others)}")
    return next(iter(union), None)


def _asked(what: str, field: str, there: Collection[str]) -> str:
    if field not in there:
        raise UserError(f"no {what} {field!r} holds a class; there is {_listed(there) or 'none'}")
    return field


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, sorted(names)))


# FiftyOne -------------------------------------------------------------------------------------------------------------


def from_fiftyone(text: str, report: LabelReport, field: str | None) -> Iterator[Verdict]:
    """Verdicts of a dataset that write_json wrote; `field` is the one with the labels that people edited."""
    samples, found = _Samples(report), json.loads(text)["samples"]
    there = dict.fromkeys(
        name for each in found for name, value in each.items() if isinstance(value, Mapping) and "label" in value
    )
    others = set(there) - {SUGGESTED, GROUND_TRUTH}
    name = GROUND_TRUTH
    if field is not None:
        name = _asked("field", field, there)
    elif found and not any(GROUND_TRUTH in each for each in found) and others:
        if len(others) > 1:
            raise UserError(f"there is no field {GROUND_TRUTH!r}, but labels are in {_listed(others)}: say --field")
        name = next(iter(others))
    unread = others - {name}
    why = "as exported" + (f" in {name!r} (labels are also in {_listed(unread)}: see --field)" if unread else "")
    for each in found:
        id, given = each.get("acto_id"), each.get("given_label")
        if id is not None:
            row = samples.by_id(id, given=given)
        elif isinstance(file := each.get("filepath"), str):
            row = samples.by_file(file, given=given)
        else:
            raise UserError("a sample has neither acto_id nor filepath")
        edited = each.get(name)
        if isinstance(edited, Mapping) and "label" not in edited:
            raise UserError(f"field {name!r} of sample {report.columns['id'][row]!r} holds no single label")
        label = (edited or {}).get("label")
        tags = {str(tag).casefold() for tag in [*each.get("tags", ()), *((edited or {}).get("tags") or ())]}
        is_edited = label not in (None, samples.given(row))
        if "keep" in tags and ("remove" in tags or is_edited):
            problem = "is tagged keep and remove" if "remove" in tags else f"is tagged keep, but labelled {label!r}"
            raise UserError(f"sample {report.columns['id'][row]!r} {problem}")
        if "remove" in tags:
            yield Verdict(row, "remove")
        elif is_edited:
            yield samples.verdict(row, label)
        else:
            yield Verdict(row, "keep") if "keep" in tags else Verdict(row, why=why)


# cleanlab -------------------------------------------------------------------------------------------------------------


def from_cleanlab(text: str, report: LabelReport, field: str | None) -> Iterator[Verdict]:
    """Verdicts of a table of cleanlab, whose issues count as accepted; of the exported table only changes decide."""
    if field is not None:
        raise UserError("--field is for Label Studio and FiftyOne: tables of cleanlab have predicted_label")
    reader = rows_of(text, "the table")
    titles = next(reader, (0, [""]))[1]
    check_titles(titles, ("id", "is_label_issue", "predicted_label", "label_quality", "given_label"), "the table")
    table = list(reader)
    if not table or not {"is_label_issue", "predicted_label"} <= set(titles):
        raise UserError("a table with the columns is_label_issue and predicted_label is needed")
    has_ids = "id" in titles
    if not has_ids and len(table) != len(report):
        raise UserError(f"without a column id, a row for each of the {len(report)} samples is needed, not {len(table)}")
    samples = _Samples(report)
    names = set(map(printable, report.class_names))
    for place, (line, row_cells) in enumerate(table):
        if len(row_cells) != len(titles):
            raise UserError(f"row {line} has {counted(len(row_cells), 'cell')}, the heading {len(titles)}")
        cells = {title: rearmed(cell) for title, cell in zip(titles, row_cells, strict=True)}
        is_issue = choose("value of is_label_issue", cells["is_label_issue"].lower(), ("true", "false")) == "true"
        given, label = cells.get("given_label"), cells["predicted_label"]
        given = given if given in names else None  # cleanlab numbers the classes
        row = samples.by_id(cells["id"], given=given) if has_ids else samples.checked(place, given)
        was_issue, predicted = bool(report.is_label_issue[row]), printable(report.columns["predicted_label"][row])
        was_exported = has_ids and _has_quality(cells.get("label_quality"), float(report.label_quality[row]))
        if was_exported and (is_issue, label) == (was_issue, predicted):
            yield Verdict(row, why="as exported (without the column label_quality, issues count as accepted)")
        elif not is_issue:
            yield Verdict(row, "keep") if was_exported and was_issue else Verdict(row, why="not marked as issues")
        elif label == samples.given(row):
            yield Verdict(row, why="an issue whose predicted_label is the given one")
        else:
            yield samples.verdict(row, label)


def _has_quality(cell: str | None, quality: float) -> bool:
    try:
        return cell is not None and abs(float(cell) - quality) <= _QUALITY_TOLERANCE
    except ValueError:
        return False
