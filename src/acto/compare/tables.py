"""The papers' tables and the table of a study, from records: what was measured, beside what was published.

A cell holds what runs of one configuration gave, whatever their seeds; a cell without a run stays empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from string import ascii_lowercase
from typing import Any

from acto.compare.ablation import ABLATION, ablation_row
from acto.compare.finished_runs import Found, Record
from acto.compare.published import Accuracy, accuracies, methods
from acto.core.errors import UserError
from acto.core.text import counted
from acto.data.catalog import OF_THE_PAPER, SOURCES
from acto.runs.recipes.by_data import SETTINGS

TITLES = {
    "1": "Table 1: test accuracy (%) on CIFAR-100 with synthetic noise",
    "2": "Table 2: test accuracy (%) on Web-aircraft, Web-bird and Web-car",
    "3": "Table 3: test accuracy (%) on Food101N",
    "4": "Table 4: test accuracy (%) of ACTO's parts",
    "study": "Test accuracy (%) by method and noise",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """Data with noise."""

    data: str
    kind: str
    rate: float

    @property
    def noise(self) -> str:
        """In words."""
        return "labels as they come" if self.kind == "none" else f"{self.kind} {100 * self.rate:g} %"

    @property
    def data_name(self) -> str:
        """As in the papers."""
        source = SOURCES.get(self.data)
        return source.title or self.data if source is not None else self.data

    @property
    def title(self) -> str:
        """In words, with the data."""
        return self.data_name if self.kind == "none" else f"{self.data_name}, {self.noise}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """Runs of one method and configuration on one column's data. Accuracies are in percent."""

    runs: tuple[Record, ...] = ()
    published: Accuracy | None = None
    standard: tuple[Record, ...] = ()
    """In a study: Standard's runs in this column."""

    @property
    def mean(self) -> float | None:
        """Return the mean of the last-ten accuracies."""
        return fmean(100 * run.accuracy for run in self.runs) if self.runs else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds; None for fewer than two runs."""
        return stdev(100 * run.accuracy for run in self.runs) if len(self.runs) > 1 else None

    @property
    def best(self) -> float | None:
        """Mean accuracy of each run's best epoch: an oracle."""
        return fmean(100 * run.best for run in self.runs) if self.runs else None

    @property
    def difference(self) -> float | None:
        """Measured minus published, if that is not of another protocol; in a study measured minus Standard.

        The latter is the mean over the seeds that both have: these share wrong labels and test set.
        """
        if self.published is not None:
            same = self.published.protocol != "other protocol"
            return self.mean - self.published.percent if self.mean is not None and same else None
        rival = {run.seed: run.accuracy for run in self.standard}
        pairs = [100 * (run.accuracy - rival[run.seed]) for run in self.runs if run.seed in rival]
        return fmean(pairs) if pairs else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A method, or a method with settings that set it apart from other runs of it."""

    method: str
    name: str
    venue: str
    cells: tuple[Cell, ...]

    @property
    def runs(self) -> tuple[Record, ...]:
        """List the runs of all cells."""
        return tuple(run for cell in self.cells for run in cell.runs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table, ready to be printed."""

    name: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    has_published: bool


def build_table(name: str, found: Found, *, data: Sequence[str] = (), sort: str = "name") -> Table:
    """The table `name` from what was found.

    Args:
        name: 1 to 4 as in ACTO's paper, or study.
        found: the records.
        data: only these data sets. Tables 1 to 4 take any, not only the paper's; empty: the paper's, in a study all.
        sort: a study's rows by "name", or by "accuracy" in its first column. Tables 1 to 4 have the papers' order.

    Raises:
        UserError: nothing is known of one of `data`.
    """
    printed = [cell for cell in accuracies() if cell.table == name]
    columns = _columns(name, found.records, printed, data)
    rows_of = _ablation_rows if name == "4" else _method_rows
    groups = rows_of([run for run in found.records if _column(run) in columns])
    order = list(dict.fromkeys(cell.row for cell in printed))
    if any(row == OURS for row, _ in groups):
        order.insert(1 + next((k for k, row in enumerate(order) if row in ("acto", list(ABLATION)[-1])), -1), OURS)
    keys = [key for row in order for key in sorted(key for key in groups if key[0] == row) or [(row, "")]]
    keys += sorted(key for key in groups if key[0] not in order)
    by_place = {(cell.row, _place(cell)): cell for cell in printed}
    rows = []
    for row, apart in keys:
        cells = []
        for column in columns:
            runs = groups.get((row, apart), {}).get(column, ())
            compared = name == "study" and row != "standard"
            standard = groups.get(("standard", ""), {}).get(column, ()) if compared else ()
            cells.append(
                Cell(
                    runs=tuple(sorted(runs, key=lambda run: run.seed)),
                    published=by_place.get((row, column)),
                    standard=tuple(standard),
                )
            )
        if name == "4" or any(cell.runs or cell.published for cell in cells):
            rows.append(_row(row, apart, tuple(cells)))
    if sort == "accuracy":
        rows.sort(key=lambda row: -(row.cells[0].mean or 0.0) if row.cells else 0.0)
    return Table(
        name=name,
        columns=columns,
        rows=tuple(rows),
        notes=tuple(_notes(name, columns, rows, found)),
        has_published=any(cell.published is not None for row in rows for cell in row.cells),
    )


def _column(run: Record) -> Column:
    kind, rate = run.noise
    return Column(data=run.data, kind=kind, rate=rate)


def _place(cell: Accuracy) -> Column:
    return Column(data=cell.data, kind=cell.noise, rate=cell.rate)


def _columns(
    name: str, records: Iterable[Record], printed: Sequence[Accuracy], data: Sequence[str]
) -> tuple[Column, ...]:
    """The paper's columns in their order, then those that only records have."""
    paper = list(dict.fromkeys(map(_place, printed)))
    measured = sorted({_column(run) for run in records}, key=_by_noise)
    wanted = list(data) if data else [] if name == "study" else list(dict.fromkeys(column.data for column in paper))
    known = {column.data for column in (*paper, *measured)}
    for source in data:
        if source not in known:
            there = ", ".join(sorted(known)) or "none"
            raise UserError(f"no run on {source!r} was found, and table {name} has none. Data sets there: {there}")
    if not wanted:
        return tuple(measured)
    own = {column.data for column in paper}
    columns = [column for column in paper if column.data in wanted]
    return (*columns, *(column for column in measured if column.data in wanted and column.data not in own))


def _by_noise(column: Column) -> tuple[str, int, float]:
    kinds = ("none", "symmetric", "asymmetric", "instance")
    return column.data, kinds.index(column.kind) if column.kind in kinds else len(kinds), column.rate


# Rows.

OURS = "acto steady"
"""The row of ACTO's steady form, which no paper has."""
Groups = dict[tuple[str, str], dict[Column, list[Record]]]
"""(method or row of the ablation, settings that set it apart) -> column -> runs."""


def _method_rows(records: Sequence[Record]) -> Groups:
    """Runs by method, without those in which parts of ACTO are off: they belong to Table 4."""
    return _grouped([run for run in records if not _is_ablated(run)], lambda run: OURS if is_ours(run) else run.method)


def _ablation_rows(records: Sequence[Record]) -> Groups:
    rows = [run for run in records if run.method == "standard" or is_ours(run) or _ablation_row(run) is not None]
    return _grouped(rows, lambda run: OURS if is_ours(run) else _ablation_row(run) or "standard")


def is_ours(run: Record) -> bool:
    """Tell a run of ACTO's steady form from one of the published method."""
    return run.method == "acto" and run.method_config.get("form") == "steady"


def _ablation_row(run: Record) -> str | None:
    return ablation_row(run.method_config) if run.method == "acto" and not is_ours(run) else None


def _is_ablated(run: Record) -> bool:
    return _ablation_row(run) in list(ABLATION)[:-1]


def _grouped(records: Sequence[Record], row_of: Callable[[Record], str]) -> Groups:
    """Split the runs of a row where one column has several configurations, by the settings in which these differ."""
    by_row: dict[str, list[Record]] = {}
    for run in records:
        by_row.setdefault(row_of(run), []).append(run)
    groups: Groups = {}
    for row, runs in by_row.items():
        settings = {run.path: run.settings() for run in runs}
        apart: set[str] = set()
        for column in {_column(run) for run in runs}:
            here = [settings[run.path] for run in runs if _column(run) == column]
            apart |= {key for key in set().union(*here) if len({repr(values.get(key)) for values in here}) > 1}
        for run in runs:
            words = ", ".join(f"{key}={_said(settings[run.path].get(key))}" for key in sorted(apart))
            groups.setdefault((row, words), {}).setdefault(_column(run), []).append(run)
    return groups


def _said(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _row(row: str, apart: str, cells: tuple[Cell, ...]) -> Row:
    about = methods().get(row)
    name, venue = (about.name, about.venue) if about is not None else (row, "")
    method = "acto" if row in ABLATION or row == OURS else row
    return Row(method=method, name=f"{name} ({apart})" if apart else name, venue=venue, cells=cells)


# Notes.


def _notes(name: str, columns: Sequence[Column], rows: Sequence[Row], found: Found) -> Iterable[str]:
    runs = [run for row in rows for run in row.runs]
    if not runs:
        yield "No finished run belongs into this table."
    else:
        yield (
            "Measured: of each run the mean of the last ten epochs' test accuracies; then mean +- standard deviation "
            "over the seeds, in brackets the number of runs. Forward and backward: passes through one network for each "
            "training sample, over the whole run, evaluation not counted. Seconds: of training and evaluation, mean of "
            "the runs, on whatever they ran on."
        )
    if name == "study" and any(cell.difference is not None for row in rows for cell in row.cells):
        yield "To Standard: mean of the differences between runs of one seed, which share their wrong labels."
    for column in columns:
        yield from _labels_note(column, [run for run in runs if _column(run) == column])
    yield from _published_notes(name, rows)
    for data, epochs in sorted({(run.data, run.epochs) for run in runs}):
        if data in OF_THE_PAPER and epochs != (published := SETTINGS[data].epochs):
            yield f"Some runs on {data} had {epochs} epochs; those of ACTO's paper had {published}."
    for data, subset in sorted({(run.data, run.config["data"].get("subset") or 0) for run in runs}):
        if subset:
            yield f"Trained on {counted(subset, 'sample')} of {data} only."
    if any(run.summary.get("test_labels_are_given") for run in runs):
        yield "Some accuracies were measured against given, partly wrong, labels of held-out training data."
    if name != "4" and (left := sum(_is_ablated(run) and _column(run) in columns for run in found.records)):
        yield f"{counted(left, 'run')} of ACTO with parts switched off: see Table 4."
    if found.unfinished:
        shown = ", ".join(_name(path) for path in found.unfinished[:3])
        more = f" and {len(found.unfinished) - 3} more" if len(found.unfinished) > 3 else ""
        yield f"Left out, not finished: {counted(len(found.unfinished), 'run')} ({shown}{more})."
    yield from (f"Left out, damaged: {text}" for text in found.damaged)


def _name(path: Path) -> str:
    return path.name or str(path)


def _labels_note(column: Column, runs: Sequence[Record]) -> Iterable[str]:
    """The seeds of a column and the sha256 of their labels, which all methods must share."""
    by_seed: dict[int, set[str]] = {}
    for run in runs:
        by_seed.setdefault(run.seed, set()).add(run.labels_sha256[:8] or "unknown")
    if not by_seed:
        return
    parts = (f"seed {seed}: {' and '.join(sorted(shas))}" for seed, shas in sorted(by_seed.items()))
    yield f"Labels of {column.title}, sha256: {'; '.join(parts)}."
    if mixed := [seed for seed, shas in sorted(by_seed.items()) if len(shas) > 1]:
        yield (
            f"WARNING: on {column.title} the runs of seed {', '.join(map(str, mixed))} did not all train on the same "
            "labels: their accuracies cannot be compared."
        )


def _published_notes(name: str, rows: Sequence[Row]) -> Iterable[str]:
    cells = [cell.published for row in rows for cell in row.cells if cell.published is not None]
    if not cells:
        return
    sources = "; ".join(dict.fromkeys(cell.source for cell in cells))
    yield f"Published: {sources}. Difference: measured minus published, but not where that is of another protocol."
    if name in ("2", "3"):
        yield "Whether the published numbers here are means of the last epochs or of the best epoch is not known."
    for mark, text in marks(rows).values():
        yield f"{mark} {text}"


def marks(rows: Sequence[Row]) -> dict[tuple[str, str], tuple[str, str]]:
    """(protocol, note) of published numbers that are not of this protocol -> their mark and its meaning."""
    kinds: dict[tuple[str, str], tuple[str, str]] = {}
    for row in rows:
        for cell in row.cells:
            if cell.published is not None and cell.published.protocol:
                key = cell.published.protocol, cell.published.note
                kinds.setdefault(key, (f"[{ascii_lowercase[len(kinds)]}]", f"{key[0]}: {key[1]}"))
    return kinds
