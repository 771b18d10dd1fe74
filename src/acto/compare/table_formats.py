"""A table as Markdown or LaTeX, for readers, and as CSV or JSON, with an entry a cell."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from statistics import fmean
from typing import Any

from acto.compare.finished_runs import Record
from acto.compare.tables import TITLES, Cell, Column, Row, Table, marks
from acto.core.sample_csv import disarmed

ORACLE = "oracle (chosen on test data)"
"""Heading of the best epoch's accuracy, wherever it stands."""
COLUMNS_ASIDE = 3
"""Kinds of noise that one part of a table for readers holds."""
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def markdown(table: Table, *, oracle: bool = False) -> str:
    """Tables of a few columns each, padded so that they can be read as they are, and the notes.

    Args:
        table: what to print.
        oracle: add the accuracy of the best epoch, marked as what it is.
    """
    parts = [f"**{TITLES[table.name]}**"]
    for columns in _parts(table.columns):
        if data := _shared_data(columns):
            parts.append(f"{data}:")
        rows = [[cell.replace("|", r"\|") for cell in row] for row in _grid(table, columns, oracle=oracle)]
        widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
        lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
        lines.insert(1, ["-" * width for width in widths])
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    parts.append("\n".join(f"- {note}" for note in table.notes))
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(table: Table, *, oracle: bool = False) -> str:
    """The same as `table` environments for a document that loads booktabs, with the notes below the last one."""
    parts = []
    for columns in _parts(table.columns):
        head, *body = _grid(table, columns, oracle=oracle)
        title = ": ".join(
            part for part in (TITLES[table.name].replace("%", "in percent"), _shared_data(columns)) if part
        )
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(title)}}}",
            rf"\begin{{tabular}}{{{'l' * len(head)}}}",
            r"\toprule",
            _latex_row(head),
            r"\midrule",
            *map(_latex_row, body),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        parts.append("\n".join(lines))
    if table.notes:
        notes = "\n".join(rf"\item {_latex(note)}" for note in table.notes)
        parts.append(f"\\begin{{itemize}}\n{notes}\n\\end{{itemize}}")
    return "\n\n".join(parts) + "\n"


def comma_separated(table: Table, *, oracle: bool = False) -> str:
    """A line a cell. Accuracies in percent; what is not there is empty."""
    cells = [_facts(row, column, cell, oracle=oracle) for row, column, cell in _cells(table)]
    buffer = io.StringIO()
    if cells:
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(cells[0])
        writer.writerows([_csv_text(value) for value in cell.values()] for cell in cells)
    return buffer.getvalue()


def as_json(table: Table, *, oracle: bool = False) -> str:
    """An object with title, notes and an entry a cell. Accuracies in percent; what is not there is null."""
    cells = [_facts(row, column, cell, oracle=oracle) for row, column, cell in _cells(table)]
    facts = {"table": table.name, "title": TITLES[table.name], "cells": cells, "notes": table.notes}
    return json.dumps(facts, indent=1, allow_nan=False) + "\n"


FORMATS: dict[str, Callable[..., str]] = {
    "markdown": markdown,
    "csv": comma_separated,
    "latex": latex,
    "json": as_json,
}


# For readers.


def _parts(columns: Sequence[Column]) -> Iterator[tuple[Column, ...]]:
    """Columns that stand side by side: of one data set, or of several with one column each."""
    by_data = [tuple(group) for _, group in groupby(columns, key=lambda column: column.data)]
    if all(len(group) == 1 for group in by_data):
        by_data = [tuple(columns)]
    for group in by_data:
        for first in range(0, len(group), COLUMNS_ASIDE):
            yield group[first : first + COLUMNS_ASIDE]


def _shared_data(columns: Sequence[Column]) -> str:
    """The data's name, where all columns have the same and more than one does."""
    return columns[0].data_name if len(columns) > 1 and len({column.data for column in columns}) == 1 else ""


def _grid(table: Table, columns: Sequence[Column], *, oracle: bool) -> list[list[str]]:
    """Head and rows of texts."""
    places = [table.columns.index(column) for column in columns]
    with_venue = table.name in ("1", "2", "3")
    kinds = marks(table.rows)
    compared = any(cell.difference is not None for row in table.rows for cell in row.cells)
    difference = "to Standard" if table.name == "study" else "difference"
    head = ["method", *["venue"] * with_venue]
    for column in columns:
        head.append(column.noise if _shared_data(columns) else column.title)
        head += [*["published"] * table.has_published, *[difference] * compared, *[f"best epoch: {ORACLE}"] * oracle]
    head += ["epochs", "forward", "backward", "seconds", "told of the noise"]
    grid = [head]
    for row in table.rows:
        cells = [row.cells[place] for place in places]
        line = [row.name, *[row.venue] * with_venue]
        for cell in cells:
            line.append(_measured(cell))
            if table.has_published:
                mark = (
                    ""
                    if cell.published is None
                    else kinds.get((cell.published.protocol, cell.published.note), ("", ""))[0]
                )
                line.append("" if cell.published is None else f"{cell.published.percent:.2f} {mark}".rstrip())
            line += ["" if cell.difference is None else f"{cell.difference:+.2f}"] * compared
            line += ["" if cell.best is None else f"{cell.best:.2f}"] * oracle
        grid.append([*line, *_budget([run for cell in cells for run in cell.runs])])
    return grid


def _measured(cell: Cell) -> str:
    if cell.mean is None:
        return ""
    spread = "" if cell.deviation is None else f" +- {cell.deviation:.2f}"
    return f"{cell.mean:.2f}{spread} ({len(cell.runs)})"


def _budget(runs: Sequence[Record]) -> list[str]:
    """Epochs, passes, seconds, and what the method was told: of all these runs, a range where they differ."""
    if not runs:
        return [""] * 5
    passes = [cost for run in runs if (cost := run.passes()) is not None]
    seconds = [run.seconds for run in runs if run.seconds is not None]
    return [
        _range([run.epochs for run in runs]),
        _range([forward for forward, _ in passes]),
        _range([backward for _, backward in passes]),
        f"{fmean(seconds):.0f}" if seconds else "",
        " or ".join(sorted({run.noise_known for run in runs})),
    ]


def _range(values: Sequence[float]) -> str:
    low, high = (f"{limit(values):.0f}" if values else "" for limit in (min, max))
    return low if low == high else f"{low} to {high}"


def _latex(text: str) -> str:
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return re.sub(r" \+- ", r" $\\pm$ ", escaped)


def _latex_row(cells: Sequence[str]) -> str:
    # A row that begins with [ would be read as an argument of the \\ before it.
    return " & ".join(f"{{}}{_latex(cell)}" if cell.startswith("[") else _latex(cell) for cell in cells) + r" \\"


# For programs.


def _cells(table: Table) -> Iterator[tuple[Row, Column, Cell]]:
    for row in table.rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            yield row, column, cell


def _facts(row: Row, column: Column, cell: Cell, *, oracle: bool) -> dict[str, Any]:
    runs, published = cell.runs, cell.published
    passes = [cost for run in runs if (cost := run.passes()) is not None]
    seconds = [run.seconds for run in runs if run.seconds is not None]
    facts = {
        "row": row.name,
        "method": row.method,
        "data": column.data,
        "noise": column.kind,
        "rate": column.rate,
        "runs": len(runs),
        "seeds": [run.seed for run in runs],
        "mean": cell.mean,
        "deviation": cell.deviation,
        "published": None if published is None else published.percent,
        "published_in": None if published is None else published.source,
        "published_protocol": None if published is None else published.protocol or "as far as known the same",
        "difference": cell.difference,
        "epochs": sorted({run.epochs for run in runs}),
        "forward_passes": fmean(forward for forward, _ in passes) if passes else None,
        "backward_passes": fmean(backward for _, backward in passes) if passes else None,
        "seconds": fmean(seconds) if seconds else None,
        "told_of_the_noise": sorted({run.noise_known for run in runs}),
        "labels_sha256": [run.labels_sha256 for run in runs],
    }
    return facts | ({f"best epoch: {ORACLE}": cell.best} if oracle else {})


def _csv_text(value: Any) -> str:
    if isinstance(value, list):
        return _csv_text(" ".join(map(str, value)))
    if isinstance(value, str):
        return disarmed(value)
    return "" if value is None else repr(value)
