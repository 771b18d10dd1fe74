"""`acto table`: the papers' tables and a study's, from records, beside what was published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from acto.cli.parser import Parser
from acto.compare.finished_runs import Found, read_records
from acto.compare.plots import plot
from acto.compare.table_formats import FORMATS, ORACLE
from acto.compare.tables import TITLES, build_table
from acto.core.errors import UserError, choose

DESCRIPTION = """\
Print a table of ACTO's paper, or that of a study, from the records below the folders: what was measured with its spread
and number of runs, what was published, and the difference. Cells without a run stay empty. Headline is the mean of the
last ten epochs.
"""
DEFAULT_FOLDERS = {"study": "results/study"}


def table(tokens: Sequence[str]) -> int:
    """The command `acto table`; returns the exit code.

    Raises:
        UserError: for a table, folder, data set or format that is not there.
    """
    parser = Parser("acto table", DESCRIPTION)
    parser.add_argument("name", nargs="?", metavar="TABLE", help=f"one of {', '.join(TITLES)}")
    parser.add_argument(
        "folders",
        nargs="*",
        default=[],
        metavar="DIR",
        help="where runs or collected records lie; runs, for a study results/study",
    )
    parser.add_argument("--format", help=f"one of {', '.join(FORMATS)}; markdown by default")
    parser.add_argument("--data", metavar="SOURCE,...", help="these data sets only; they need not be the paper's")
    parser.add_argument("--sort", help="rows of a study by name (default) or by accuracy in the first column")
    parser.add_argument("--oracle", action="store_true", help=f"add the best epoch's accuracy, an {ORACLE}")
    parser.add_argument("--plot", metavar="DIR", help="draw accuracy and selection by epoch there, as PNG and SVG")
    given = parser.given(tokens)
    if not hasattr(given, "name"):
        raise UserError(f"which table? One of {', '.join(TITLES)} (`acto table --help` tells more)")
    name = choose("table", given.name, TITLES)
    text = FORMATS[choose("format", getattr(given, "format", "markdown"), FORMATS)]
    sort = choose("order", getattr(given, "sort", "name"), ("name", "accuracy"))
    if sort != "name" and name != "study":
        raise UserError("--sort is for `acto table study`: the other tables have the papers' order")
    data = [part for part in getattr(given, "data", "").split(",") if part]
    found = _found(given.folders, DEFAULT_FOLDERS.get(name, "runs"))
    built = build_table(name, found, data=data, sort=sort)
    print(text(built, oracle=hasattr(given, "oracle")), end="")
    if (folder := getattr(given, "plot", None)) is not None:
        plot(built, Path(folder))
    return 0


def _found(folders: Sequence[str], default: str) -> Found:
    """Read the records below the folders; a default folder that is not there holds none."""
    if not folders and not Path(default).is_dir():
        return Found(records=(), unfinished=(), damaged=())
    return read_records(folders or [default])
