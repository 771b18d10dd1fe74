"""Content that the report page's script reads: rows, pictures, decisions, and trusted samples of each class."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from acto.core.sample_columns import of_page
from acto.core.waiting import in_threads
from acto.data.decision_file import DECISION_COLUMNS, Decision, printable
from acto.labels.reasons import OUTLYING
from acto.labels.report import LabelReport
from acto.labels.thumbnails import PictureOf, data_uri

NUM_REFERENCES = 3
"""Trusted samples of a class that are shown beside its suspects."""
REFERENCE_CLASSES = 100
"""Classes whose trusted samples a page holds itself, those that suspects have most often."""
_THREADS = 4
_AT_ONCE = 10_000
"""Texts that are made at a time, where all of them are read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """Facts that the page of a review server knows beside the report."""

    token: str
    """Goes with every request."""
    decisions: Mapping[int, Decision]
    """Made so far, by row of the report."""
    has_pictures: bool
    has_large: bool = False
    """True if larger pictures can be asked for."""
    revision: int = 0
    """Decisions in the log's history by then."""


def embedded(rows: Sequence[int], picture_of: PictureOf | None) -> list[str]:
    """Pictures of these rows as addresses of themselves; empty where there are none."""
    if picture_of is None:
        return []
    # Decoding releases Python's lock.
    return list(map(data_uri, in_threads(picture_of, rows, threads=_THREADS, file_of="the picture of row {}".format)))


def page_data(
    report: LabelReport,
    rows: Sequence[int],
    name: str,
    *,
    pictures: Sequence[str],
    served: Served | None,
    decisions: Mapping[int, Decision],
    references: Mapping[int, Any],
) -> Markup:
    """Encode what the page's script reads as JSON that cannot end the element it stands in."""
    names = list(map(printable, report.class_names))
    number = {name: k for k, name in enumerate(report.class_names)}
    listed = of_page()
    number_shown = {name: k for k, name in enumerate(names)}
    content = {
        "name": name,
        "fingerprint": _fingerprint(report),
        "classes": names,
        "outlying": OUTLYING,
        "decision_columns": list(DECISION_COLUMNS),
        "fields": ["row", *(column.name for column in listed)],
        "rows": [
            [row, *(_cell(column.kind, cells.get(column.name), number) for column in listed)]
            for row, cells in zip(rows, report.rows(rows), strict=True)
        ],
        "pictures": pictures,
        "photos": any(report.columns.get("path", ())),
        "served": served is not None,
        "token": "" if served is None else served.token,
        "has_pictures": served is not None and served.has_pictures,
        "has_large": served is not None and served.has_large,
        "revision": 0 if served is None else served.revision,
        "decisions": [[row, as_cells(made, number_shown)] for row, made in decisions.items()],
        "references": references,
    }
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def as_cells(made: Decision, number: Mapping[str, int]) -> list[Any]:
    """A decision as the page's script keeps it: word, class number or -1, time."""
    return [made.decision, number[made.new_label] if made.new_label else -1, made.time]


def references_of(
    report: LabelReport, listed: npt.NDArray[np.int64], picture_of: PictureOf | None, served: Served | None
) -> dict[int, list[list[Any]]]:
    """The most trusted samples of classes, by class number: row, id, picture, text; none of samples without both."""
    texts = report.columns.get("text")
    has_pictures = picture_of is not None if served is None else served.has_pictures
    if not has_pictures and texts is None:
        return {}
    number = {name: k for k, name in enumerate(report.class_names)}
    given, predicted = (
        np.fromiter((number.get(name, -1) for name in report.columns[column]), np.int64, len(report))
        for column in ("given_label", "predicted_label")
    )
    order = np.lexsort((-report.label_quality, given))
    order = order[(~report.is_label_issue & (given == predicted))[order]]
    starts = np.searchsorted(given[order], np.arange(len(number)))
    ends = np.searchsorted(given[order], np.arange(len(number)), side="right")
    wanted = np.bincount(np.concatenate([given[listed], predicted[listed]]).clip(0), minlength=len(number))
    classes = np.argsort(-wanted, kind="stable")
    classes = classes[wanted[classes] > 0][: None if served is not None else REFERENCE_CLASSES]
    rows = {int(k): order[starts[k] : min(ends[k], starts[k] + NUM_REFERENCES)].tolist() for k in classes}
    flat = [row for some in rows.values() for row in some]
    pictures = dict(zip(flat, embedded(flat, picture_of if served is None else None), strict=False))
    return {
        k: [
            [row, printable(report.columns["id"][row]), pictures.get(row, ""), printable(texts[row]) if texts else ""]
            for row in some
        ]
        for k, some in rows.items()
        if some
    }


def _fingerprint(report: LabelReport) -> str:
    """Ids and given labels as one number, made of some rows at a time."""
    digest, columns = hashlib.sha256(), (report.columns["id"], report.columns["given_label"])
    parts = (column[start : start + _AT_ONCE] for column in columns for start in range(0, len(column), _AT_ONCE))
    for k, part in enumerate(parts):
        digest.update(b"\0" * bool(k) + "\0".join(part).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()[:16]


def _cell(kind: str, value: Any, number: Mapping[str, int]) -> Any:
    """A cell as the page's script reads it: a class by its number, -1 for none; null where nothing is known."""
    if kind == "text":
        return printable(value or "")
    if kind == "class":
        return number.get(value, -1)
    return _rounded(value) if kind == "float32" else value


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)
