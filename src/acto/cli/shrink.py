"""`acto data shrink`: a smaller copy of a folder of pictures, which training decodes in a fraction of the time."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

from acto.cli.parser import Parser
from acto.cli.progress import Bar
from acto.core.errors import UserError
from acto.core.settings import fields_of, from_values
from acto.core.text import bytes_in_words, counted, visible
from acto.data.pictures.shrink import ShrinkSpec, Shrunk, shrink

_SHOWN = 5


def shrink_command(tokens: Sequence[str]) -> int:
    """`acto data shrink FOLDER --out SMALL`: copy pictures at the size of training; return the exit code."""
    given, settings, unknown = parser().divided(tokens)
    parser().refuse(unknown)
    for name, what in (("folder", "a FOLDER of pictures"), ("out", "--out SMALL, the folder to be made")):
        if name not in given:
            raise UserError(f"`acto data shrink` needs {what}")
    spec = from_values(ShrinkSpec, settings)
    folder, out = (Path(given[name]).expanduser() for name in ("folder", "out"))
    with Bar("shrinking", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True)) as bar:

        def tell(done: int, total: int) -> None:
            bar.show(done, total, sign=f"{done:,} of {total:,} pictures")

        shrunk = shrink(folder, out, spec, tell=tell)
    print("\n".join(map(visible, _lines(shrunk, out))))
    return 0


def parser() -> Parser:
    """Its flags."""
    made = Parser(
        "acto data shrink",
        "Copy a folder's pictures, scaled to the size that training looks at, and its tables, under the same names.",
    )
    made.usage = "acto data shrink FOLDER --out SMALL [--short 256] [--quality 90] [--on-bad-image drop]"
    made.add_argument("folder", nargs="?", metavar="FOLDER", help="pictures, in any folders; never written to")
    made.add_argument("--out", metavar="DIR", help="a new folder; an interrupted copy goes on with the same command")
    made.add_settings(fields_of(ShrinkSpec), short={})
    return made


def _lines(shrunk: Shrunk, out: Path) -> Iterable[str]:
    as_they_are = f", {shrunk.num_as_they_are:,} of them small enough as they are" * bool(shrunk.num_as_they_are)
    there = f", {shrunk.num_there:,} were there already" * bool(shrunk.num_there)
    yield f"{counted(shrunk.num_pictures, 'picture')}{as_they_are}{there}"
    yield f"{bytes_in_words(shrunk.bytes_before)} became {bytes_in_words(shrunk.bytes_after)}"
    if shrunk.tables:
        more = f" and {len(shrunk.tables) - _SHOWN} more" * (len(shrunk.tables) > _SHOWN)
        yield f"copied along: {', '.join(shrunk.tables[:_SHOWN])}{more}"
    if shrunk.bad:
        more = f"; and {len(shrunk.bad) - _SHOWN} more" * (len(shrunk.bad) > _SHOWN)
        yield f"left out: {'; '.join(map(str, shrunk.bad[:_SHOWN]))}{more}"
    yield from (f"note: {text}" for text in shrunk.notes)
    yield f"next: acto train --data {shlex.quote(str(out))}"
