"""Texts of a label report: why a label is suspected, and which samples are nearly the same.

They are made when somebody looks at them. torch is never imported here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from acto.core.lazy_texts import LazyTexts, Rows
from acto.data.label_columns import Labels
from acto.labels.report import SEPARATOR, Table, cells

MOST_DUPLICATES = 20
"""Ids that a cell of duplicates names."""
OUTLYING = float(np.float32(0.95))  # as the scores are kept
"""Outlier score from which a sample may belong to no class."""
LATE_SHARE = 0.5
"""A label that is first fitted after this share of the epochs was learned late."""


def nothing(rows: Rows) -> list[str]:
    """Empty texts."""
    return [""] * len(rows)


def duplicate_columns(
    groups: Sequence[Sequence[int]], given: Labels, ids: Sequence[str]
) -> tuple[Sequence[str], Sequence[str]]:
    """Name the nearly equal samples of each, and those of them with another label, (N,) each.

    Args:
        groups: row numbers of samples with nearly the same content.
        given: (N,) class numbers.
        ids: (N,).
    """
    if not groups:
        return LazyTexts(len(ids), nothing), LazyTexts(len(ids), nothing)
    near, conflicting = [""] * len(ids), [""] * len(ids)
    for group in groups:
        by_class: dict[int, list[int]] = {}
        for row in group:
            by_class.setdefault(int(given[row]), []).append(row)
        for row in group:
            # Thousands of copies of one picture are common: nothing here may grow with the square of a group.
            near[row] = _listed((other for other in group if other != row), len(group) - 1, ids)
            mine = by_class[int(given[row])]
            if len(mine) < len(group):
                others = (other for label, rows in by_class.items() if label != given[row] for other in rows)
                conflicting[row] = _listed(others, len(group) - len(mine), ids)
    return near, conflicting


def _listed(rows: Iterator[int], count: int, ids: Sequence[str]) -> str:
    """The ids of the first MOST_DUPLICATES of `count` rows, and how many are left out."""
    shown = SEPARATOR.join(ids[row] for row in islice(rows, MOST_DUPLICATES))
    return shown if count <= MOST_DUPLICATES else f"{shown}{SEPARATOR}and {count - MOST_DUPLICATES:,} more"


def reasons(columns: Table, epochs: int, rows: Rows) -> list[str]:
    """Say in a few sentences why a label is suspected or contradicted by a duplicate; nothing on the others.

    Args:
        columns: the report's, as far as they are there.
        epochs: trained; 0: by nobody who tells.
        rows: which to write, M of them.

    Returns:
        (M,) texts.
    """
    found = [""] * len(rows)
    conflicts = cells(columns["conflicting_duplicates"], rows)
    spoken = [i for i, issue in enumerate(cells(columns["is_label_issue"], rows)) if issue or conflicts[i]]
    wanted = rows[spoken]

    def column(name: str, default: Any) -> Any:
        return cells(columns[name], wanted) if name in columns else [default] * len(wanted)

    for place, issue, predicted, given, confidence, prob, agree, held_out, selected, visits, first, memorized in zip(
        spoken,
        column("is_label_issue", None),
        column("predicted_label", None),
        column("given_label", None),
        column("confidence", None),
        column("prob_given", None),
        column("networks_agree", None),
        column("held_out", False),
        column("times_selected", 0),
        _selectable(columns, wanted),
        column("first_epoch_fit", None),
        column("memorization", float("nan")),
        strict=True,
    ):
        parts = []
        if issue:
            parts.append(f"The model sees {predicted!r} ({_percent(confidence)}), not {given!r} ({_percent(prob)}).")
            if agree is not None:
                parts.append("Both networks say so." if agree else "The other network disagrees.")
            if visits > 0:
                if selected:
                    parts.append(f"Training took the label for clean in {selected} of {visits} visits.")
                else:
                    parts.append("Training never took the label for clean.")
            if first is not None and not held_out:  # training never saw such a one
                if first < 0:
                    parts.append("The model never predicted it in training.")
                elif epochs > 0 and first >= LATE_SHARE * epochs:
                    parts.append(f"The model first predicted it late (epoch {first + 1} of {epochs}).")
            if memorized >= LATE_SHARE:
                parts.append("Only the network that memorizes fits it.")
        if conflicts[place]:
            parts.append(f"Nearly the same sample has another label: {conflicts[place]}.")
        found[place] = " ".join(parts)
    if "outlier" in columns:
        for place, issue, far in zip(spoken, column("is_label_issue", None), column("outlier", None), strict=True):
            if issue and far >= OUTLYING:
                found[place] += (
                    f" It may belong to no class: {_percent(far)} of the samples with a confirmed label look more like "
                    "the trusted ones."
                )
    if "is_confirmed" in columns:
        for place, holds in enumerate(cells(columns["is_confirmed"], rows)):
            if holds:
                found[place] = f"A person holds this label right. {found[place]}".strip()
    return found


def _selectable(columns: Table, rows: Rows) -> Sequence[int]:
    """Visits that could have selected each of these samples."""
    if "reliability" not in columns or "times_selected" not in columns:
        return [0] * len(rows)
    reliability = np.asarray(columns["reliability"], dtype=np.float64)[rows]
    selected = np.asarray(columns["times_selected"], dtype=np.float64)[rows]
    visits = np.asarray(columns["visits"])[rows] if "visits" in columns else np.zeros(len(rows))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(reliability > 0, np.rint(selected / reliability), np.where(np.isnan(reliability), 0, visits))
    return found.astype(np.int64).tolist()


def _percent(share: float) -> str:
    return (
        f"{100 * share:.0f} %" if 0.005 <= share <= 0.995 else (f"{100 * share:.2g} %" if share < 0.5 else "over 99 %")
    )
