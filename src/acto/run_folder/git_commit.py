"""The commit of the code that a run is trained with."""

from __future__ import annotations

import subprocess
from typing import Any


def git_commit() -> dict[str, Any] | None:
    """Commit of the working folder's repository, and whether tracked files differ from it; None outside of one."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    # A repository's settings may name a program that `status` runs; this turns it off.
    command = ["git", "-c", "core.fsmonitor=false", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
