"""Decisions of people about labels as a file: decisions.csv of the report page, `acto review` and `acto apply`.

Columns: id, given_label, decision, new_label, time (UTC). Rows are only ever added, and the last row of an id counts: a
file that was cut off by a crash lacks at most its last row. Read beside the data, it tells which labels people hold
right. torch is never imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError, choose, closest
from acto.core.files import require_regular
from acto.core.sample_csv import rearmed, sample_csv
from acto.core.text import counted
from acto.data.readers.text_files import read_text, rows_of

DECISION_COLUMNS = ("id", "given_label", "decision", "new_label", "time")
WORDS = {
    "accept": "the label becomes new_label",
    "keep": "the given label is right",
    "skip": "undecided, as if there were no row",
    "remove": "the sample is left out",
}
DECISIONS_FILE = "decisions.csv"
BEFORE_FILE = "decisions_before.csv"
"""In a run's folder: what had been decided when it began, by its data's file and by the run before."""
NO_DECISIONS = "none"
"""In place of a file's name: do not look for one either."""


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

    @property
    def right_label(self) -> str | None:
        """The class, as `printable` writes it, that somebody holds right; None: none or undecided."""
        return {"accept": self.new_label, "keep": self.given_label}.get(self.decision)


def printable(id: str) -> str:
    """An id as files and pages show it: bytes of a file's name that are no UTF-8 as backslash codes."""
    return id.encode("utf-8", "backslashreplace").decode()


def check_word(word: str, new_label: str, place: str) -> None:
    """Refuse an unknown word, a class where it takes none, and none where it needs one.

    Raises:
        UserError: beginning with `place`.
    """
    choose(f"{place} word", word, WORDS)
    if word == "accept" and not new_label:
        raise UserError(f"{place}: 'accept' needs a new_label")
    if word != "accept" and new_label:
        raise UserError(f"{place}: {word!r} takes no new_label, but it is {new_label!r}")


def to_csv(decisions: Iterable[Decision]) -> bytes:
    """The file that these decisions make, heading and all; what looks like a formula is disarmed by an apostrophe."""
    found = list(decisions)
    if not found:
        return heading()
    return sample_csv({name: [getattr(decision, name) for decision in found] for name in DECISION_COLUMNS})[0]


def heading() -> bytes:
    """The file's first line."""
    return (",".join(DECISION_COLUMNS) + "\n").encode()


def rows_in(path: Path) -> Iterator[tuple[int, Decision]]:
    """The line on which each row ends, and the row, whose word and class are not looked at.

    Raises:
        UserError: the file is missing or no such table.
    """
    require_regular(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist: the report page downloads it, and `acto review` writes it")
    reader = iter(rows_of(read_text(path), str(path)))
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
                f"{path} line {line} has {counted(len(cells), 'cell')}, not {len(DECISION_COLUMNS)}; a row that a "
                "crash cut off is dropped by `acto review`"
            )
        yield line, Decision(**dict(zip(DECISION_COLUMNS, map(rearmed, cells), strict=True)))


def read_whole(path: Path) -> list[Decision]:
    """The last row of each id, undecided ones included, of whatever data the file is about.

    Raises:
        UserError: the file is missing or no such table, or a row has an unknown word, or a class too many or too few.
    """
    found: dict[str, Decision] = {}
    for line, made in rows_in(path):
        check_word(made.decision, made.new_label, f"{path} line {line}")
        found[made.id] = made
    return list(found.values())


def together(*parts: Iterable[Decision]) -> tuple[Decision, ...]:
    """One decision an id: the latest by its time, of the last part where times are the same. Undecided ones go."""
    found: dict[str, Decision] = {}
    for made in (made for part in parts for made in part):
        if made.id not in found or made.time >= found[made.id].time:
            found[made.id] = made
    return tuple(made for made in found.values() if made.decision != "skip")


def decided_in(folder: Path) -> tuple[Decision, ...]:
    """Everything that a run's folder knows to be decided: before the run, and in its review.

    Raises:
        UserError: a file of the two cannot be read.
    """
    paths = (folder / name for name in (BEFORE_FILE, DECISIONS_FILE))
    return together(*(read_whole(path) for path in paths if path.exists()))


def confirmed(decisions: Iterable[Decision], ids: Iterable[str], labels: Iterable[str]) -> npt.NDArray[np.bool_]:
    """(N,) True where somebody holds a sample's label right.

    Args:
        decisions: of any samples.
        ids: (N,) of the samples.
        labels: (N,) their class names.
    """
    right = {made.id: made.right_label for made in decisions if made.right_label is not None}
    found = zip(map(printable, ids), map(printable, labels), strict=True)
    return np.array([right.get(id) == label for id, label in found], dtype=bool)


def file_beside(source: Path) -> Path:
    """The decisions that belong to the data in the file `source`, as `acto apply` writes them."""
    return source.with_name(f"{source.stem}.{DECISIONS_FILE}")


def decisions_on(
    asked: str | None, source: Path, samples: Callable[[], tuple[Sequence[str], Sequence[str]]], notes: list[str]
) -> tuple[Decision, ...]:
    """The decisions that come with some data.

    Args:
        asked: their file; None: the one beside `source`, if it is there; NO_DECISIONS: none.
        source: the data.
        samples: gives (N,) ids and (N,) class names, where there are decisions.
        notes: takes what the user should know.

    Raises:
        UserError: the file cannot be read, or is about none of the samples.
    """
    path = file_beside(source) if asked is None else Path(asked).expanduser()
    if asked == NO_DECISIONS or (asked is None and not (source.is_file() and path.is_file())):
        return ()
    found, (ids, labels) = together(read_whole(path)), samples()
    known = set(map(printable, ids))
    labelled = [made for made in found if made.right_label is not None]
    strange = [made.id for made in labelled if made.id not in known]
    if labelled and len(strange) == len(labelled):
        raise UserError(
            f"{path} is about none of these samples, the first is {strange[0]!r}."
            f"{closest(strange[0], list(known)[:10_000])} --data.decisions names another file, or none"
        )
    count = int(confirmed(found, ids, labels).sum())
    others = len(labelled) - count
    notes.append(
        f"{counted(count, 'label')} {'was' if count == 1 else 'were'} confirmed by people ({path}), and "
        f"{'is' if count == 1 else 'are'} never suspected"
        + (f"; {counted(others, 'decision')} about samples or labels that the data do not have" if others else "")
    )
    return found
