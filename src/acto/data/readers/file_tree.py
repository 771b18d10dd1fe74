"""Contents of a folder: its subfolders, its files, what is no data in it, and where links lead."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from acto.core.errors import UserError
from acto.core.text import counted

# In small letters: Synology and QNAP, archives of macOS, Windows, Android, fsck, Python. What starts with a dot is
# hidden and left out as well.
_LEFTOVERS = frozenset(
    {"@eadir", "@__thumb", "@recycle", "@recently-snapshot", "@synoresource", "@tmp", "#recycle", "#snapshot"}
    | {"__macosx", "icon\r", "network trash folder", "temporary items", "lost.dir", "lost+found", "__pycache__"}
    | {"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "recycler"}
    | {"system volume information"}
)
_NUMBERED = re.compile(r"found\.\d{3}", re.ASCII)
_KINDS_SHOWN = 8


def is_leftover(name: str) -> bool:
    """Say whether a file or folder of that name is hidden, or left behind by a system or a program."""
    small = name.casefold()
    return name.startswith(".") or small in _LEFTOVERS or _NUMBERED.fullmatch(small) is not None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Hidden files and folders and those that programs leave behind, as they are met."""

    paths: set[str] = field(default_factory=set)

    def without(self, place: str | Path, names: Sequence[str]) -> list[str]:
        """The names that are data, sorted; the others are remembered."""
        self.paths.update(os.path.join(place, name) for name in names if is_leftover(name))
        return sorted(name for name in names if not is_leftover(name))

    def below(self, folder: Path) -> int:
        """The number of those in `folder`, however deep."""
        inside = os.path.join(folder, "")
        return sum(path.startswith(inside) for path in self.paths)

    def notes(self) -> list[str]:
        """A note that counts them by name, with the files in their folders; nothing where there are none."""
        kinds: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
        for path in self.paths:
            name = os.path.basename(path)
            count = kinds["._*" if name.startswith("._") else name]
            count[0] += 1
            if not os.path.islink(path):  # it could lead anywhere
                count[1] += sum(len(files) for _, _, files in os.walk(path))
        if not kinds:
            return []
        parts = [
            f"{name} ({number}, {counted(inside, 'file')} inside)" if inside else f"{name} ({number})"
            for name, (number, inside) in sorted(kinds.items())
        ]
        if len(parts) > _KINDS_SHOWN:
            parts[_KINDS_SHOWN:] = [f"and {counted(len(parts) - _KINDS_SHOWN, 'other name')}"]
        return [f"hidden, or left there by systems and programs, and left out: {', '.join(parts)}"]


def leftover_rows(ids: Sequence[str]) -> list[str]:
    """A note if a list of files names some that programs leave behind: they are read, for somebody listed them."""
    odd = [name for name in ids if any(map(is_leftover, PurePosixPath(name).parts))]
    if not odd:
        return []
    return [
        f"{counted(len(odd), 'row')} of {len(ids)} name files that are hidden, or left there by systems and programs "
        f"(thumbnails, archives' leftovers), and are used like the others, the first: {odd[0]}; take out those that "
        "are no samples"
    ]


def folders_in(folder: Path, left_out: LeftOut | None = None) -> list[str]:
    """The names of the folders in `folder`, in order (by number, where all are numbers), without `is_leftover` ones.

    Args:
        folder: where to look; nothing is in it where it is none.
        left_out: told what was left out.

    Raises:
        UserError: it cannot be read.
    """
    if not folder.is_dir():
        return []
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except OSError as error:
        raise UserError(f"folder {folder} cannot be read: {error.strerror}") from None
    names = (LeftOut() if left_out is None else left_out).without(folder, names)
    are_numbers = all(name.isdecimal() for name in names)
    return sorted(names, key=lambda name: (int(name), name)) if are_numbers else sorted(names)


def walk(folder: Path, left_out: LeftOut | None = None) -> Iterator[Path]:
    """Every file below `folder`, sorted; links are followed, what `is_leftover` is left out.

    Args:
        folder: where to start.
        left_out: told what was left out.

    Raises:
        UserError: a folder that cannot be read, or a link to a folder that it lies in.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"folder {error.filename} cannot be read: {error.strerror}") from None

    left_out = LeftOut() if left_out is None else left_out
    # Real paths of each folder and of those above it, as links have led there.
    ways = {os.fspath(folder): frozenset({os.path.realpath(folder)})}
    for place, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        folders[:] = left_out.without(place, folders)
        way = ways.pop(place)
        for name in folders:
            path = os.path.join(place, name)
            real = os.path.realpath(path)
            if real in way:
                raise UserError(f"{path} is a link to a folder that it lies in: its pictures would be found for ever")
            ways[path] = way | {real}
        yield from (Path(place, name) for name in left_out.without(place, files))


def links_out(paths: Sequence[Path], root: Path) -> list[str]:
    """A note if some of the files below `root` lie outside of it, where links lead; else nothing."""
    inside = os.path.join(os.path.realpath(root), "")
    real: dict[Path, str] = {}
    out: list[Path] = []
    for path in (path for path in paths if path.is_relative_to(root)):
        folder = path.parent
        if folder not in real:
            real[folder] = os.path.realpath(folder)
        target = os.path.realpath(path) if os.path.islink(path) else os.path.join(real[folder], path.name)
        if not target.startswith(inside):
            out.append(path)
    if not out:
        return []
    return [
        f"{counted(len(out), 'picture', then='is/are')} reached through links that lead out of {root}, the first: "
        f"{out[0].relative_to(root).as_posix()} -> {os.path.realpath(out[0])}"
    ]
