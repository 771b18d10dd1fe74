"""`acto apply`: the corrected data beside the old ones."""

from __future__ import annotations

from collections.abc import Sequence

from acto.cli.parser import Parser
from acto.core.text import aligned, counted, visible
from acto.data.readers.place import DATA_ROOT_VARIABLE
from acto.labels.corrected_copy import apply_decisions

SHOWN = 20
"""Kinds of change that `acto apply` prints."""


def apply(tokens: Sequence[str]) -> int:
    """The command `acto apply DECISIONS --run RUN`; returns the exit code."""
    parser = Parser(
        "acto apply",
        "Write a copy of a run's data with the labels that were decided on. The data itself is not touched.",
    )
    parser.add_argument("decisions", metavar="DECISIONS", help="decisions.csv of the report page or of `acto review`")
    parser.add_argument("--run", required=True, metavar="RUN", help="the run whose labels were reviewed")
    parser.add_argument(
        "--out", metavar="FILE", help=".csv for picture files, .npz for arrays; default: beside the data"
    )
    parser.add_argument("--data-root", metavar="DIR", help=f"instead of the run's, or of ${DATA_ROOT_VARIABLE}")
    given = parser.given(tokens)
    done = apply_decisions(
        given.decisions, given.run, out=getattr(given, "out", None), data_root=getattr(given, "data_root", None)
    )
    rows = [(count, f"{old} -> {new}", counted(count, "label")) for (old, new), count in done.changed.items()]
    rows += [(count, f"{name}, removed", counted(count, "sample")) for name, count in done.removed.items()]
    lines = aligned(words for _, *words in sorted(rows, key=lambda row: (-row[0], row[1])))
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"and {counted(len(lines) - SHOWN, 'more kind')} of change"]
    print(f"{counted(sum(done.changed.values()), 'label')} changed, {sum(done.removed.values())} removed, ", end="")
    print(counted(done.num_train, "training sample", then="is left/are left"))
    print("\n".join(f"  {visible(line)}" for line in lines or ["no decision asks for a change"]))
    beside = f", and in {visible(done.decisions_path.name)} beside it what was decided" if done.decisions_path else ""
    print(f"written: {visible(str(done.path))}{beside}\ntrain on it as before:\n  {visible(done.command)}")
    return 0
