"""Ends of a run before its time, in words: signals, memory, the other processes, divergence."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import torch

from acto.core.distributed import lost_another, world
from acto.core.errors import RunError
from acto.core.signals import STOPPING, on_signals, signal_name
from acto.training.divergence import DivergedError


class Interrupted(BaseException):
    """SIGINT, SIGTERM or another signal reached a run: what the last checkpoint holds is safe."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal_name(signum)}")
        self.exit_code = 128 + signum


class Stop:
    """State of a run that a signal may stop."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def check(self) -> None:
        """Raise Interrupted if one has: Python swallows what is raised while it destroys an object."""
        if self.signum is not None:
            raise Interrupted(self.signum)


@contextmanager
def signals_raise() -> Iterator[Stop]:
    """Turn SIGINT, SIGTERM and their like into Interrupted, at once; only the main thread of a process can."""
    stop = Stop()

    def note_and_raise(signum: int, frame: FrameType | None) -> None:
        stop.signum = signum
        stop.check()

    with on_signals(STOPPING, note_and_raise):
        yield stop


@contextmanager
def in_words(*, batch_size: int, workers: int, precision: str, ids: Sequence[str] = ()) -> Iterator[None]:
    """Say of an error inside the block what it means for a run, and what to try.

    Args:
        batch_size: of the run.
        workers: processes that decode pictures; 0 where there are none.
        precision: of the run: auto, float32, bfloat16, float16.
        ids: (N,) names of the training samples, for a step whose loss is not finite.

    Raises:
        RunError: memory ran out, or another process of the run is gone.
        acto.training.divergence.DivergedError: with the samples' ids.
    """
    try:
        yield
    except DivergedError as error:
        if ids:
            error.ids = tuple(ids[row] for row in error.rows)
        raise
    except (MemoryError, OSError, RuntimeError) as error:
        if isinstance(error, RunError):
            raise
        first_line = (str(error).splitlines() or [""])[0]
        what = f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
        if _is_out_of_memory(error):
            raise RunError(
                f"memory ran out ({what}). "
                f"{_less_memory(batch_size=batch_size, workers=workers, precision=precision, error=error)}"
            ) from error
        if world() > 1 and lost_another(error):
            raise RunError(f"another process of this run ended, and its own output says why ({what})") from error
        raise


def _is_out_of_memory(error: Exception) -> bool:
    """Say whether memory ran out: Python's, the system's, or a device's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # torch has no class of its own for the processor's memory, nor for that of Apple's GPUs.
    return any(
        mark in str(error)
        for mark in ("DefaultCPUAllocator: can't allocate memory", "MPS backend out of memory", "ALLOC_FAILED")
    )


def _less_memory(*, batch_size: int, workers: int, precision: str, error: Exception) -> str:
    """Advise how to need less memory. Fewer workers leave the results as they are; the rest makes another run."""
    fewer = [f"--workers {workers // 2} (now {workers}), which --resume accepts"] if workers else []
    other = [f"--batch-size {max(batch_size // 2, 2)} (now {batch_size})"]
    if precision in ("auto", "float32") and isinstance(error, torch.OutOfMemoryError):
        other.append(f"--precision bfloat16 (now {precision})")
    another = f"{' or '.join(other)}, which makes another run: give it another --out, or --overwrite"
    return f"Try {'; or '.join([*fewer, another])}."
