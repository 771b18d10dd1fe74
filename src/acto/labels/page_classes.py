"""The report page's table of classes: how many labels of each are suspected, and what they look like instead."""

from __future__ import annotations

from collections import Counter

import numpy as np

from acto.core.text import percent
from acto.data.decision_file import printable
from acto.labels.report import LabelReport
from acto.labels.scores import rows_by_class

NUM_CLASS_ROWS = 60


def per_class(report: LabelReport) -> list[dict[str, str]]:
    """A row a class, those with the largest share of suspects first: at most NUM_CLASS_ROWS."""
    names, number = report.class_names, {name: k for k, name in enumerate(report.class_names)}
    given, suggested = (
        np.fromiter((number.get(name, -1) for name in report.columns[column]), np.int64, len(report))
        for column in ("given_label", "suggested_label")
    )
    rows_of, is_issue = rows_by_class(given, None, len(names)), report.is_label_issue
    rows: list[tuple[float, int, dict[str, str]]] = []
    for k, name in enumerate(names):
        mine = rows_of(k)
        count, issues = len(mine), int(is_issue[mine].sum())
        if not count:
            continue
        top = Counter(suggested[mine][is_issue[mine]].tolist()).most_common(1)
        row = {
            "class": printable(name),
            "count": f"{count:,}",
            "issues": f"{issues:,}",
            "share": percent(issues / count),
            "quality": f"{float(np.nanmean(report.label_quality[mine])):.3f}",
            "suggestion": f"{printable(names[top[0][0]])} ({top[0][1]:,})" if top and top[0][0] >= 0 else "-",
        }
        rows.append((-issues / count, len(rows), row))
    return [row for *_, row in sorted(rows)[:NUM_CLASS_ROWS]]
