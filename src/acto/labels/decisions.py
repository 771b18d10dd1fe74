"""Decisions of people about suspicious labels: decisions.csv, as the report page and `acto review` write it.

Columns: id, given_label, decision, new_label, time (UTC). Rows are only ever added, and the last row of an id counts:
a file that was cut off by a crash lacks at most its last row. torch is never imported here.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError, choose, closest
from acto.core.files import append, disk_errors, open_own, read_file, require_regular, write_atomically
from acto.core.locks import FolderLock, is_locked
from acto.core.sample_csv import rearmed, sample_csv
from acto.data.readers.text_files import read_text, rows_of
from acto.labels.report import LabelReport

DECISION_COLUMNS = ("id", "given_label", "decision", "new_label", "time")
WORDS = {
    "accept": "the label becomes new_label",
    "keep": "the given label is right",
    "skip": "undecided, as if there were no row",
    "remove": "the sample is left out",
}
DECISIONS_FILE = "decisions.csv"
LOCK = ".acto-review"
"""In a run's folder: held while somebody reviews the run."""
MAX_TAIL = 20_000
"""Bytes that a half-written last row may have; more than that is another kind of damage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Decision of somebody about one sample."""

    id: str
    """As `printable` writes it."""
    given_label: str
    decision: str
    """One of WORDS."""
    new_label: str = ""
    """A class name for "accept", else empty."""
    time: str = ""
    """UTC, as 2026-01-31T09:30:00Z."""


def now() -> str:
    """The time as decisions carry it."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def printable(id: str) -> str:
    """An id as files and pages show it: bytes of a file's name that are no UTF-8 as backslash codes."""
    return id.encode("utf-8", "backslashreplace").decode()


def decide(
    report: LabelReport, row: int, decision: str, *, new_label: str = "", time: str = "", place: str = "decision"
) -> Decision:
    """A decision about the sample in `row` of the report.

    Raises:
        UserError: an unknown word or class, a class where the word takes none, or none where it needs one; the message
            begins with `place`.
    """
    choose(f"{place} word", decision, WORDS)
    if decision == "accept" and not new_label:
        raise UserError(f"{place}: 'accept' needs a new_label")
    if decision != "accept" and new_label:
        raise UserError(f"{place}: {decision!r} takes no new_label, but it is {new_label!r}")
    names = [printable(name) for name in report.class_names]
    if new_label and new_label not in names:
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise UserError(
            f"{place}: new_label {new_label!r} is none of the {len(names)} classes."
            f"{closest(new_label, names)} Classes: {shown}"
        )
    return Decision(
        id=printable(report.columns["id"][row]),
        given_label=printable(report.columns["given_label"][row]),
        decision=decision,
        new_label=new_label,
        time=time or now(),
    )


def to_csv(decisions: Iterable[Decision]) -> bytes:
    """The file that these decisions make, heading and all; what looks like a formula is disarmed by an apostrophe."""
    found = list(decisions)
    if not found:
        return _line(DECISION_COLUMNS)
    return sample_csv({name: [getattr(decision, name) for decision in found] for name in DECISION_COLUMNS})[0]


def row_of_id(report: LabelReport) -> dict[str, int]:
    """The report's row of each id, as printed.

    Raises:
        UserError: two samples have one id, so that no decision can be about one of them.
    """
    ids = [printable(id) for id in report.columns["id"]]
    rows = {id: row for row, id in enumerate(ids)}
    if len(rows) < len(ids):
        twice = next(id for row, id in enumerate(ids) if rows[id] != row)
        raise UserError(f"the id {twice!r} occurs more than once in the label report")
    return rows


def read_decisions(path: Path | str, report: LabelReport) -> dict[int, Decision]:
    """The decision that counts for each row of `report` on which there is one.

    Raises:
        UserError: the file is missing or no such table; or a row, which the message names by its line, has an unknown
            id, word or class, or is about another given label than the report's.
    """
    path = Path(path)
    require_regular(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist: the report page downloads it, and `acto review` writes it")
    rows = row_of_id(report)
    given = [printable(name) for name in report.columns["given_label"]]
    decisions: dict[int, Decision] = {}
    for line, cells in _rows(read_text(path), path):
        place = f"{path} line {line}"
        id, given_label, word, new_label, time = cells
        if id not in rows:
            raise UserError(f"{place}: the label report has no sample {id!r}.{closest(id, rows)}")
        row = rows[id]
        if given_label != given[row]:
            raise UserError(
                f"{place}: sample {id!r} was given {given_label!r} there and {given[row]!r} in the label report: "
                "the decisions belong to other labels"
            )
        decisions[row] = decide(report, row, word, new_label=new_label, time=time, place=place)
    return decisions


def _rows(text: str, path: Path) -> Iterable[tuple[int, list[str]]]:
    """The line on which each row ends, and its cells without the apostrophes that disarm formulas."""
    reader = iter(rows_of(text, str(path)))
    header = [title.strip() for title in next(reader, (0, []))[1]]
    if len(header) == 1 and ";" in header[0]:
        raise UserError(f"{path} line 1: the cells are separated by semicolons; save it with commas")
    if tuple(header) != DECISION_COLUMNS:
        raise UserError(f"{path} line 1: the columns are {', '.join(header)}, not {', '.join(DECISION_COLUMNS)}")
    for line, cells in reader:
        if tuple(cells) == DECISION_COLUMNS:
            raise UserError(
                f"{path} line {line}: the heading comes a second time; if two files were joined, leave "
                "the second heading out, and mind that the last row of an id counts"
            )
        if len(cells) != len(DECISION_COLUMNS):
            raise UserError(
                f"{path} line {line} has {len(cells)} cells, not {len(DECISION_COLUMNS)}; a row that a crash cut "
                "off is dropped by `acto review`"
            )
        yield line, list(map(rearmed, cells))


def corrected(report: LabelReport, decisions: Mapping[int, Decision]) -> tuple[list[str], npt.NDArray[np.bool_]]:
    """Apply the decisions to the samples: (N,) class names, and (N,) bool, True where a sample stays."""
    labels = list(report.columns["given_label"])
    names = {printable(name): name for name in report.class_names}
    stays = np.ones(len(labels), dtype=bool)
    for row, decision in decisions.items():
        if decision.decision == "accept":
            labels[row] = names[decision.new_label]
        stays[row] = decision.decision != "remove"
    return labels, stays


class DecisionLog:
    """decisions.csv of a run, open for one reviewer.

    Args:
        folder: the run's.
        report: what is reviewed.

    Raises:
        UserError: somebody else reviews the run, or the file that is there belongs to other labels.
        acto.core.errors.RunError: the disk refuses.
    """

    def __init__(self, folder: Path | str, report: LabelReport) -> None:
        folder = Path(folder)
        if is_locked(folder / LOCK):
            owner = read_file(folder / LOCK).decode(errors="replace").strip()
            raise UserError(f"{folder} is being reviewed by {owner or 'another process'}; one reviewer at a time")
        self.path = folder / DECISIONS_FILE
        self.report = report
        self._lock = FolderLock(folder / LOCK)
        try:
            self.repaired = _repair(self.path)
            """Repair of a last row that a crash had cut off, in words; empty: none was needed."""
            self.decisions = read_decisions(self.path, report) if self.path.exists() else {}
            """By row of the report; the last ones, "skip" included."""
        except BaseException:
            self._lock.release()
            raise

    def add(self, row: int, decision: str, *, new_label: str = "") -> Decision:
        """Append a decision; when this returns it is on the disk.

        Raises:
            UserError: see `decide`.
            acto.core.errors.RunError: the disk refuses; the file is as it was.
        """
        made = decide(self.report, row, decision, new_label=new_label)
        heading = _line(DECISION_COLUMNS)
        line = to_csv([made]).removeprefix(heading)
        with disk_errors(f"write {self.path}"):
            append(self.path, line if self.path.exists() else heading + line)
        self.decisions[row] = made
        return made

    def close(self) -> None:
        """Let the next reviewer in."""
        self._lock.release()


def _line(cells: Iterable[str]) -> bytes:
    return (",".join(cells) + "\n").encode()


def _repair(path: Path) -> str:
    """End the file behind its last whole row; says what was done."""
    with disk_errors(f"repair {path}"):
        if not os.path.lexists(path):
            return ""
        # Not through a link: decisions will be written to this very file.
        with open(path, "rb", opener=open_own) as file:
            content = file.read()
        end = _end_of_last_row(content)
        tail = content[end:]
        if not tail:
            return ""
        if len(tail) > MAX_TAIL:
            raise UserError(f"{path} is damaged: a quotation mark opens a cell and nothing closes it")
        if _is_whole(tail):  # an editor left the last line break away
            append(path, b"\n")
            return ""
        write_atomically(path, content[:end])
        if end == 0:
            os.unlink(path)  # not even the heading was whole
    return f"the last row of {path} was half written and is dropped: {tail.decode(errors='replace')!r}"


def _end_of_last_row(content: bytes) -> int:
    """Behind the last line break that stands outside of quotation marks."""
    end = len(content)
    while (end := content.rfind(b"\n", 0, end)) >= 0:
        if content.count(b'"', 0, end) % 2 == 0:
            return end + 1
    return 0


def _is_whole(tail: bytes) -> bool:
    try:
        cells = next(csv.reader([tail.decode()], strict=True), [])
    except (UnicodeDecodeError, csv.Error):
        return False
    try:
        return (
            len(cells) == len(DECISION_COLUMNS)
            and len(cells[-1]) == len("2026-01-31T09:30:00Z")
            and bool(datetime.fromisoformat(cells[-1]))
        )
    except ValueError:
        return False
