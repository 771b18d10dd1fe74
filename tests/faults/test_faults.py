"""A few trials of every fault; `make soak` makes many. What is demanded stands with the faults."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

QUICK = {
    "one process": [
        "SIGKILL", "SIGINT and SIGTERM", "disk refuses", "disk full or read-only in a save", "damaged checkpoint",
        "out of memory",
    ],
    "and more": [
        "loss or gradient not finite", "clock jumps", "two processes on one folder", "decoding process killed",
        "main process killed, workers left", "one of two processes killed",
    ],
}  # fmt: skip
"""By group: one process that loads torch and forks its trials."""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the traps look into /proc")
@pytest.mark.parametrize("group", QUICK)
def test_nothing_is_lost(group: str, tmp_path: Path) -> None:
    soak = Path(__file__).with_name("soak.py")
    command = [sys.executable, str(soak), "--keep", str(tmp_path), "--only", *QUICK[group]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("lost   0") == len(QUICK[group]), done.stdout
