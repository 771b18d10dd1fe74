"""Contents of a folder: its subfolders, its files, and where links lead."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from acto.core.errors import UserError


def folders_in(folder: Path) -> list[str]:
    """The names of the folders in `folder`, in order (by number, where all are numbers); hidden ones are left out.

    Raises:
        UserError: it cannot be read.
    """
    if not folder.is_dir():
        return []
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"folder {folder} cannot be read: {error.strerror}") from None
    are_numbers = all(name.isdecimal() for name in names)
    return sorted(names, key=lambda name: (int(name), name)) if are_numbers else sorted(names)


def walk(folder: Path) -> Iterator[Path]:
    """Every file below `folder`, sorted; links are followed, hidden files and folders are left out.

    Raises:
        UserError: a folder that cannot be read, or a link to a folder that it lies in.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"folder {error.filename} cannot be read: {error.strerror}") from None

    # Real paths of each folder and of those above it, as links have led there.
    ways = {os.fspath(folder): frozenset({os.path.realpath(folder)})}
    for place, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        way = ways.pop(place)
        for name in folders:
            path = os.path.join(place, name)
            real = os.path.realpath(path)
            if real in way:
                raise UserError(f"{path} is a link to a folder that it lies in: its pictures would be found for ever")
            ways[path] = way | {real}
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))


def links_out(paths: Sequence[Path], root: Path) -> list[str]:
    """A note if some of the files lie outside of `root`, where links lead; else nothing."""
    inside = os.path.join(os.path.realpath(root), "")
    real: dict[Path, str] = {}
    out: list[Path] = []
    for path in paths:
        folder = path.parent
        if folder not in real:
            real[folder] = os.path.realpath(folder)
        target = os.path.realpath(path) if os.path.islink(path) else os.path.join(real[folder], path.name)
        if not target.startswith(inside):
            out.append(path)
    if not out:
        return []
    return [
        f"{len(out)} pictures are reached through links that lead out of {root}, the first: "
        f"{out[0].relative_to(root).as_posix()} -> {os.path.realpath(out[0])}"
    ]
