"""Decisions of people about suspicious labels: decisions.csv, as the report page and `acto review` write it.

acto.data.decision_file has the file's form. torch is never imported here.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError, closest
from acto.core.files import append, disk_errors, open_own, read_file, write_atomically
from acto.core.locks import FolderLock, is_locked
from acto.data.decision_file import (
    BEFORE_FILE,
    DECISION_COLUMNS,
    DECISIONS_FILE,
    Decision,
    check_word,
    heading,
    printable,
    read_whole,
    rows_in,
    to_csv,
    together,
)
from acto.labels.report import LabelReport

LOCK = ".acto-review"
"""In a run's folder: held while somebody reviews the run."""
MAX_TAIL = 20_000
"""Bytes that a half-written last row may have; more than that is another kind of damage."""


def now() -> str:
    """The time as decisions carry it."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def decide(
    report: LabelReport,
    row: int,
    decision: str,
    *,
    new_label: str = "",
    time: str = "",
    place: str = "decision",
    names: Collection[str] = (),
) -> Decision:
    """A decision about the sample in `row` of the report; `names` are its classes as printed, where they are at hand.

    Raises:
        UserError: an unknown word or class, a class where the word takes none, or none where it needs one; the message
            begins with `place`.
    """
    check_word(decision, new_label, place)
    names = names or [printable(name) for name in report.class_names]
    if new_label and new_label not in names:
        names = [printable(name) for name in report.class_names]
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
    found = rows_in(path)
    rows = row_of_id(report)
    given = [printable(name) for name in report.columns["given_label"]]
    names = frozenset(map(printable, report.class_names))
    decisions: dict[int, Decision] = {}
    for line, made in found:
        place = f"{path} line {line}"
        id, given_label = made.id, made.given_label
        if id not in rows:
            raise UserError(f"{place}: the label report has no sample {id!r}.{closest(id, rows)}")
        row = rows[id]
        if given_label != given[row]:
            raise UserError(
                f"{place}: sample {id!r} was given {given_label!r} there and {given[row]!r} in the label report: "
                "the decisions belong to other labels"
            )
        decisions[row] = decide(
            report, row, made.decision, new_label=made.new_label, time=made.time, place=place, names=names
        )
    return decisions


def carried_over(decisions: Iterable[Decision], report: LabelReport) -> dict[int, Decision]:
    """Earlier decisions that say something of the samples of a report, by its rows.

    A label that was accepted before and is the given one by now was kept, as far as this report goes. Decisions about
    samples or labels that are no longer there say nothing.
    """
    decisions = tuple(decisions)
    if not decisions:
        return {}
    rows = row_of_id(report)
    given = [printable(name) for name in report.columns["given_label"]]
    names = frozenset(map(printable, report.class_names))
    found: dict[int, Decision] = {}
    for made in decisions:
        row = rows.get(made.id)
        if row is None:
            continue
        if made.right_label == given[row]:
            found[row] = Decision(id=made.id, given_label=given[row], decision="keep", time=made.time)
        elif made.given_label == given[row] and (made.decision == "remove" or made.new_label in names):
            found[row] = made
    return found


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
    """decisions.csv of a run, open for one reviewer. It begins with what had been decided before the run.

    Args:
        folder: the run's.
        report: what is reviewed.

    Raises:
        UserError: somebody else reviews the run, or a file that is there cannot be read or belongs to other labels.
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
            self.num_before = self._begin(folder / BEFORE_FILE)
            """Decisions taken over just now."""
            self.decisions = read_decisions(self.path, report) if self.path.exists() else {}
            """By row of the report; the last ones, "skip" included."""
            self.history: list[int] = []
            """Rows in the order in which they were decided on since this was opened."""
        except BaseException:
            self._lock.release()
            raise

    def _begin(self, before: Path) -> int:
        if self.path.exists() or not before.exists():
            return 0
        found = carried_over(together(read_whole(before)), self.report)
        if found:
            with disk_errors(f"write {self.path}"):
                write_atomically(self.path, to_csv(found.values()))
        return len(found)

    def add(self, row: int, decision: str, *, new_label: str = "") -> Decision:
        """Append a decision, see `add_all`."""
        return self.add_all([(row, decision, new_label)])[0]

    def add_all(self, wanted: Sequence[tuple[int, str, str]]) -> list[Decision]:
        """Append decisions, (row, word, class or empty) each; when this returns all of them are on the disk.

        Raises:
            UserError: see `decide`.
            acto.core.errors.RunError: the disk refuses; the file is as it was.
        """
        names, time = frozenset(map(printable, self.report.class_names)), now()
        made = [decide(self.report, row, word, new_label=label, time=time, names=names) for row, word, label in wanted]
        lines = to_csv(made)
        with disk_errors(f"write {self.path}"):
            append(self.path, lines.removeprefix(heading()) if self.path.exists() else lines)
        rows = [row for row, *_ in wanted]
        self.decisions.update(zip(rows, made, strict=True))
        self.history += rows
        return made

    def close(self) -> None:
        """Let the next reviewer in."""
        self._lock.release()


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
