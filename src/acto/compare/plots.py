"""Curves of the runs behind a table, by epoch: test accuracy, and precision and recall of the selection."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from acto.compare.finished_runs import Record
from acto.compare.tables import Table
from acto.core.errors import UserError
from acto.core.files import disk_errors, write_atomically

PICTURES = ("png", "svg")
SELECTION = {
    "selection_precision": "precision, % of the selected labels that are true",
    "selection_recall": "recall, % of the true labels that were selected",
}


def plot(table: Table, folder: Path) -> list[Path]:
    """Draw every column of a table that has runs, a line a row: the mean over its runs.

    Args:
        table: as `acto.compare.tables.build_table` makes it.
        folder: made if it is missing; gets accuracy-COLUMN and selection-COLUMN as PNG and SVG.

    Returns:
        The files.

    Raises:
        UserError: matplotlib is not installed, or there is no run.
        acto.core.errors.RunError: if the disk refuses.
    """
    files = []
    for place, column in enumerate(table.columns):
        runs = {row.name: row.cells[place].runs for row in table.rows if row.cells[place].runs}
        if not runs:
            continue
        name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{column.data} {column.kind} {100 * column.rate:g}")
        accuracy = {"test accuracy, %": _lines(runs, "test_accuracy")}
        files += _draw(folder / f"accuracy-{name}", column.title, accuracy)
        selection = {text: _lines(runs, key) for key, text in SELECTION.items()}
        if any(selection.values()):
            files += _draw(folder / f"selection-{name}", column.title, selection)
    if not files:
        raise UserError("there is no run to draw")
    return files


def _lines(runs: Mapping[str, Sequence[Record]], column: str) -> dict[str, tuple[list[int], list[float]]]:
    """By row: epochs from 1 and the mean over the runs in percent, where at least one run has a number."""
    lines = {}
    for name, records in runs.items():
        by_epoch: dict[int, list[float]] = {}
        for record in records:
            for row in record.metrics:
                value, epoch = row.get(column), row["epoch"]
                if isinstance(value, int | float) and isinstance(epoch, int) and math.isfinite(value):
                    by_epoch.setdefault(epoch + 1, []).append(100 * value)
        if any(value for values in by_epoch.values() for value in values):
            epochs = sorted(by_epoch)
            lines[name] = epochs, [fmean(by_epoch[epoch]) for epoch in epochs]
    return lines


def _draw(stem: Path, title: str, panels: Mapping[str, Mapping[str, tuple[list[int], list[float]]]]) -> list[Path]:
    """One picture with a panel for each entry, side by side, and one legend."""
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError('--plot needs matplotlib: pip install "acto-lnl[report]"') from error
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    figure = Figure(figsize=(6.0 * len(panels) + 2.5, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    drawn: dict[str, Any] = {}
    for axes, (label, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, (epochs, values) in lines.items():
            number = names.index(name)
            # Ten colours, then the same with other strokes.
            stroke = ("-", "--", ":", "-.")[number // 10 % 4]
            marker = "o" if len(epochs) == 1 else ""
            (drawn[name],) = axes.plot(epochs, values, stroke, color=f"C{number % 10}", marker=marker, label=name)
        axes.set(xlabel="epoch", ylabel=label, title=title)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    figure.legend(
        [drawn[name] for name in names], names, loc="outside right upper", fontsize="small", ncols=1 + len(names) // 20
    )
    files = []
    for kind in PICTURES:
        buffer = io.BytesIO()
        # Without date and with fixed names inside, equal curves give equal files.
        with rc_context({"svg.hashsalt": "acto"}):
            figure.savefig(
                buffer, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else {"Software": None}
            )
        path = stem.with_name(f"{stem.name}.{kind}")
        with disk_errors(f"write {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, buffer.getvalue())
        files.append(path)
    return files
