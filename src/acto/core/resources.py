"""Cores and memory that this process may use: the machine's, or a container's share of them."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
WAITING = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
"""Variables by which users say how threads wait; where one is set, it stays."""
TURNS = "2000"
"""Turns of the waiting loop before a thread sleeps: the fewest that lose nothing on an idle machine, see
docs/performance.md."""


def share_cores() -> None:
    """Have the threads of torch's operations sleep soon where they wait for each other, if nobody has said otherwise.

    GNU's OpenMP, which torch comes with on Linux, looks only once, when it is loaded: this has to come before. By
    default a thread that waits turns in a loop 300,000 times before it sleeps, and where other programs want the cores
    as well, it keeps the one that it waits for from running.
    """
    if "torch" not in sys.modules and not WAITING & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = TURNS


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Cores that this process may run on at once: its affinity, and a container's quota, rounded up. At least 1."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    quota = _quota(cgroup)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def usable_memory(cgroup: Path = CGROUP) -> int:
    """Bytes that this process may hold: the machine's memory, or a container's limit where that is less."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [_number(cgroup / name) for name in ("memory.max", "memory/memory.limit_in_bytes")]
    return min([there, *(limit for limit in limits if limit is not None)])


def _quota(cgroup: Path) -> float | None:
    """Processor seconds a second, by version 2 of control groups or version 1; None: as many as there are."""
    try:
        share, period = (cgroup / "cpu.max").read_text().split()
        return None if share == "max" else int(share) / int(period)
    except (OSError, ValueError):
        pass
    share_us, period_us = (_number(cgroup / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return share_us / period_us if share_us is not None and period_us and share_us > 0 else None


def _number(path: Path) -> int | None:
    """Read a number from one of the kernel's files; None for "max" and where there is no such file."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
