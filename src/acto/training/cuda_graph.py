"""A step of training as one CUDA graph: recorded once, then replayed without Python between its kernels.

A recording holds what the host said when it was made: numbers of the clock, learning rates, the places of tensors. So
every turn makes its own, and a method that reads the step within the turn (`Method.follows_steps`) is not recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from acto.core.errors import RunError
from acto.core.types import Batch
from acto.methods.base import Method

Batches = tuple[Batch, ...]
Take = Callable[[Batches], tuple[str, ...]]
"""Takes a step, and says by name what it logged: the same at every call."""
WARM_UP = 2
"""Steps that run as they are before one is recorded: optimizers and libraries make their lasting tensors there."""


class Recorder(Protocol):
    """Makes recordings of what a device is told to do."""

    def beside(self) -> AbstractContextManager[None]:
        """Return the context in which steps run that are not recorded, so that what they leave suits a recording."""
        ...

    def record(self, run: Callable[[], tuple[str, ...]]) -> tuple[Callable[[], None], tuple[str, ...]]:
        """Note what `run` tells the device, without doing it: what does it, and what `run` returned."""
        ...


class CudaRecorder:
    """Records CUDA graphs, on a stream of its own. Only the last recording may be replayed: all share one memory.

    `torch.cuda.graph` would collect garbage and empty the allocator's cache before each recording, of which an epoch
    of half a second needs one.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._memory = torch.cuda.graph_pool_handle()
        # Kept until the next one is made: memory that no recording holds is given up, and would have to be asked for
        # anew every epoch.
        self._last: torch.cuda.CUDAGraph | None = None

    @contextmanager
    def beside(self) -> Iterator[None]:
        """On the recordings' stream, in order with the rest."""
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)

    def record(self, run: Callable[[], tuple[str, ...]]) -> tuple[Callable[[], None], tuple[str, ...]]:
        """Capture `run` as a graph."""
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self._stream.device)
        with torch.cuda.stream(self._stream):
            # Another thread may pin a loader's pictures meanwhile.
            graph.capture_begin(pool=self._memory, capture_error_mode="thread_local")
            try:
                logged = run()
                graph.capture_end()
            except RuntimeError as error:
                raise RunError(f"the step cannot be recorded here: {error}. --step eager goes without") from error
        self._last = graph
        return graph.replay, logged


def recorder_for(method: Method, *, device: torch.device, precision: torch.dtype, world: int) -> Recorder | str:
    """Make the recorder of this method's steps; or say in words why they cannot be recorded.

    Args:
        method: on its device.
        device: of the training, a CUDA device.
        precision: of the training.
        world: number of processes.
    """
    if not method.fixed_shapes or method.follows_steps:
        return f"a step of {method.name} depends on its place in the epoch and cannot be recorded"
    if precision == torch.float16:
        return "float16 needs its loss scale at every step, so steps cannot be recorded; bfloat16 needs none"
    if world > 1:
        return "steps are recorded in one process only"
    return CudaRecorder(device)


@dataclass(slots=True)
class _Recording:
    inputs: Batches
    replay: Callable[[], None]
    logged: tuple[str, ...]


class RecordedStep:
    """Takes steps: a few as they are, then from a recording. A batch of another shape is taken as it is.

    Args:
        take: reads nothing that changes from call to call but the batches and tensors that keep their place.
        recorder: of the device.
    """

    def __init__(self, take: Take, recorder: Recorder) -> None:
        self._take, self._recorder = take, recorder
        self._recording: _Recording | None = None
        self._taken = 0

    def __call__(self, batches: Batches) -> tuple[str, ...]:
        """Take a step, and say by name what it logged."""
        if self._taken < WARM_UP:
            self._taken += 1
            return self._plainly(batches)
        if self._recording is None:
            inputs = tuple(_copied(batch) for batch in batches)
            replay, logged = self._recorder.record(lambda: self._take(inputs))
            self._recording = _Recording(inputs, replay, logged)
        recording = self._recording
        pairs = list(zip(_tensors(recording.inputs), _tensors(batches), strict=True))
        if any(place.shape != value.shape for place, value in pairs):
            return self._plainly(batches)
        for place, value in pairs:
            place.copy_(value, non_blocking=True)
        recording.replay()
        return recording.logged

    def _plainly(self, batches: Batches) -> tuple[str, ...]:
        with self._recorder.beside():
            return self._take(batches)


def _copied(batch: Batch) -> Batch:
    return Batch(index=batch.index.clone(), views=tuple(v.clone() for v in batch.views), label=batch.label.clone())


def _tensors(batches: Batches) -> list[Tensor]:
    return [tensor for batch in batches for tensor in (batch.index, *batch.views, batch.label)]
