"""What a case of the corpus is, and the runner that says what became of it."""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from acto.core.errors import RunError, UserError
from acto.data.pictures.files import decode_rgb
from acto.data.samples import Dataset

Pairs = Mapping[str, tuple[str, int]]
"""Sample id -> (class, mark). The mark is in the sample's content, so a shifted index cannot pass."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a reader made of an input."""

    pairs: Pairs
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """An input, and what has to become of it."""

    reader: str
    name: str
    make: Callable[[Path], Any]
    """Writes the input into an empty folder."""
    read: Callable[[Path], Found]
    says: tuple[str, ...] = ()
    """Refused: what the message has to contain, the file and the row above all. Empty: the input is handled."""
    pairs: Pairs | None = None
    """Handled: what comes out."""
    notes: tuple[str, ...] = ()
    """Handled: what is told and recorded."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a case: as it should (refused, handled), or crashed, or silent."""

    kind: str
    text: str


def run(case: Case, folder: Path) -> Outcome:
    """Build the case in `folder`, read it, and judge."""
    case.make(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = case.read(folder)
        except (UserError, RunError) as error:
            text = str(error).replace(str(folder), "FOLDER")
            if not case.says:
                return Outcome("silent", f"refused, though it should be handled: {text}")
            if missing := [part for part in case.says if part not in text]:
                return Outcome("silent", f"the message lacks {missing}: {text}")
            return Outcome("refused", text)
        except Exception as error:
            return Outcome("crashed", f"{type(error).__name__}: {error}")
    if case.says:
        return Outcome("silent", f"taken without a word: {dict(found.pairs)} {found.notes}")
    assert case.pairs is not None
    if found.pairs != case.pairs:
        return Outcome("silent", f"other samples or labels: {dict(found.pairs)}, not {dict(case.pairs)}")
    text = "; ".join(found.notes)
    if missing := [part for part in case.notes if part not in text]:
        return Outcome("silent", f"no note says {missing}: {text}")
    return Outcome("handled", text)


def table(cases: Sequence[Case]) -> str:
    """Run the cases and return Markdown: a row a reader."""
    counts: dict[str, Counter[str]] = {}
    faults = []
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            outcome = run(case, Path(folder))
        counts.setdefault(case.reader, Counter())[outcome.kind] += 1
        if outcome.kind not in ("refused", "handled"):
            faults.append(f"{outcome.kind}: {case.reader}, {case.name}: {outcome.text[:300]}")
    total = Counter[str]()
    for count in counts.values():
        total += count
    kinds = ("refused", "handled", "crashed", "silent")
    lines = [
        "| reader | inputs tried | refused with a message | handled | crashed | silent |",
        "|---|---|---|---|---|---|",
    ]
    for reader, count in {**counts, "**all**": total}.items():
        lines.append(f"| {reader} | {count.total()} | {' | '.join(str(count[kind]) for kind in kinds)} |")
    return "\n".join([*lines, *faults])


def found_in(data: Dataset) -> Found:
    """Each sample of both splits with its class and the mark in its content."""
    pairs: dict[str, tuple[str, int]] = {}
    for split, samples in (("", data.train), ("test ", data.test)):
        for row, name in enumerate(samples.ids):
            key = f"{split}{name}" if name in pairs else name
            pairs[key] = (data.class_names[samples.labels[row]], mark_of(samples.content[row]))
    return Found(pairs=pairs, notes=data.notes)


def mark_of(content: Any) -> int:
    """The mark of a sample: a picture's green, in steps of ten, or a vector's first number."""
    if isinstance(content, Path):
        content = np.asarray(decode_rgb(content))
    if content.ndim == 3:
        return int(round(float(content[0, 0, min(1, content.shape[2] - 1)]) / 10) * 10)
    return int(content[0])
