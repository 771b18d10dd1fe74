"""Numbers and tables in words for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def counted(number: int, noun: str, *, then: str = "/") -> str:
    """Say 1 epoch, 2 epochs, 3 classes, 4 entries, 12,345 samples.

    Args:
        number: >= 0.
        noun: in the singular; what stands before its last word stays as it is.
        then: what follows for one and for several, "is/are": "1 epoch is", "2 epochs are".
    """
    one, several = then.split("/")
    if number != 1:
        noun = f"{noun[:-1]}ies" if noun.endswith("ry") else f"{noun}es" if noun.endswith("ss") else f"{noun}s"
    return f"{number:,} {noun} {one if number == 1 else several}".rstrip()


def percent(share: float | None) -> str:
    """A share in [0, 1] as a percentage; "-" for NaN, which JSON has as null."""
    return "-" if share is None or math.isnan(share) else f"{100 * share:.2f} %"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever is read at a glance."""
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes < 100 * 60 else f"{minutes / 1440:.1f} days"


def bytes_in_words(num_bytes: float) -> str:
    """Bytes in the largest unit of 1024 that leaves a number of at least 1."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if num_bytes < 1024 or unit == "GiB":
            break
        num_bytes /= 1024
    return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.1f} {unit}"


def visible(text: str, *, keep: str = "") -> str:
    """A text from outside on one line: what a terminal would obey or could not show comes as backslash codes.

    Args:
        text: any.
        keep: characters that stay as they are, such as line breaks.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows of cells as lines with aligned columns."""
    rows = [[visible(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
