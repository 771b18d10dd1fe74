"""Two independent computations side by side on one device."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar

import torch

First = TypeVar("First")
Second = TypeVar("Second")


def run_concurrently(
    first: Callable[[], First], second: Callable[[], Second], *, device: torch.device
) -> tuple[First, Second]:
    """Run two computations of which neither needs the other, and return the results of both.

    On a CUDA device the second one runs on a stream of its own, forward and later backward: a small network's kernels
    leave part of the device idle, and the other network's fill it. The next call waits for all work before it, so that
    memory that one stream gives back is never written by the other while it is still read.

    Args:
        first: a computation.
        second: another one. Both read the same tensors at most, and write none of the other's.
        device: where they compute.
    """
    if device.type != "cuda":
        return first(), second()
    here, beside = torch.cuda.current_stream(device), _beside(device)
    beside.wait_stream(here)
    with torch.cuda.stream(beside):
        later = second()
    now = first()
    here.wait_stream(beside)
    return now, later


@cache
def _beside(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
