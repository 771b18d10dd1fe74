"""The commit of the code that a run is trained with.

git itself is never started: the settings, attributes and hooks of a stranger's repository name programs that it runs,
and `git status` runs most of them.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from acto.core.files import open_regular

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_BRANCH = re.compile(r"ref: (refs/[^\x00-\x20\x7f~^:?*\[\\]+)")
_MOST = 4096
"""Bytes of a file that holds a commit, a branch or a folder."""
_MOST_PACKED = 2**26


def git_commit(folder: Path | None = None) -> dict[str, str] | None:
    """Commit of the repository that `folder` (None: the working one) lies in; None outside of one.

    None also for a repository without a commit, and where branches are kept as reftable.
    """
    try:
        inner = _git_folder(Path.cwd() if folder is None else folder)
        commit = None if inner is None else _commit(inner)
    except (OSError, ValueError):
        return None
    return None if commit is None else {"commit": commit}


def version_in_words() -> str:
    """Version of the package, and the commit where it is used from a clone: "0.2.0 (commit 0123456789ab)"."""
    try:
        number = version("acto-lnl")
    except PackageNotFoundError:
        number = "not installed"
    clone = Path(__file__).resolve().parents[3]
    found = git_commit(clone) if (clone / "src" / "acto").is_dir() else None
    return number if found is None else f"{number} (commit {found['commit'][:12]})"


def _git_folder(folder: Path) -> Path | None:
    for place in (folder, *folder.parents):
        inner = place / ".git"
        if inner.is_dir():
            return inner
        if inner.is_file():  # of a worktree or a submodule
            return place / _text(inner).removeprefix("gitdir:").strip()
    return None


def _commit(inner: Path) -> str | None:
    head = _text(inner / "HEAD")
    branch = _BRANCH.fullmatch(head)
    if branch is None:
        return head if _COMMIT.fullmatch(head) else None
    name = branch[1]
    if ".." in name:
        return None
    # Worktrees share the branches of the repository that they belong to.
    common = inner / _text(inner / "commondir") if (inner / "commondir").is_file() else inner
    for place in dict.fromkeys((inner, common)):
        if (place / name).is_file() and _COMMIT.fullmatch(found := _text(place / name)):
            return found
    packed = common / "packed-refs"
    lines = _text(packed, most=_MOST_PACKED).splitlines() if packed.is_file() else []
    return next((line[: -len(name) - 1] for line in lines if line.endswith(f" {name}") and _is_entry(line)), None)


def _is_entry(line: str) -> bool:
    return _COMMIT.fullmatch(line.partition(" ")[0]) is not None


def _text(path: Path, *, most: int = _MOST) -> str:
    with open(path, "rb", opener=open_regular) as file:
        return file.read(most).decode("utf-8").strip()
