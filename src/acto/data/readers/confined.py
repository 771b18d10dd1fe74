"""Paths that a table writes: they stay inside its folder, or inside one that was named for absolute paths."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from acto.core.errors import UserError


def base_of(base: str | None) -> Path | None:
    """The folder below which absolute paths may lie.

    Raises:
        UserError: it is no folder.
    """
    if base is None:
        return None
    folder = Path(base).expanduser().absolute()
    if not folder.is_dir():
        raise UserError(f"--data.base {base} is no folder: it names the one below which a table's absolute paths lie")
    return folder


def confined(value: object, *, where: str, folder: Path, base: Path | None) -> tuple[str, str]:
    """The id of a picture, its path relative to `folder` or `base`; and the path to be opened, below `folder`.

    Args:
        value: a cell of a table.
        where: names the cell's row, in the error.
        folder: the table's.
        base: below which absolute paths may lie; None: there may be none.

    Raises:
        UserError: it is no path, or could lead out of both folders.
    """
    text = "" if value is None else value if isinstance(value, str) else repr(value)
    path = PurePosixPath(text)
    is_odd = ".." in path.parts or not path.name or not isinstance(value, str) or "\\" in text or "\0" in text
    if not is_odd and base is not None and Path(text).is_absolute():
        for root in (base, base.resolve()):
            if Path(text).is_relative_to(root):
                return Path(text).relative_to(root).as_posix(), text
        raise UserError(f"{where}: {text!r} does not lie in --data.base {base}")
    if is_odd or path.is_absolute() or PureWindowsPath(text).drive:
        hint = "; --data.base FOLDER allows absolute paths below FOLDER" if path.is_absolute() and not is_odd else ""
        raise UserError(
            f"{where}: {text!r} is no path inside {folder}: paths are relative to the manifest, with forward slashes "
            f"and without '..'{hint}"
        )
    return path.as_posix(), path.as_posix()
