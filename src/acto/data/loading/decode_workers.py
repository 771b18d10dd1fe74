"""Workers that decode picture files and cut the views' windows out of them. Everything else is done on the device."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import BaseContext
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from acto.core import waiting
from acto.core.child_processes import NO_CURRENT_FOLDER, environment, without_script
from acto.core.errors import RunError
from acto.core.signals import spared_children
from acto.data.pictures.files import BadImage, scaled_rgb
from acto.data.views.pipelines import window
from acto.data.views.spec import ViewSpec

_LONGEST_PATH = 1024
"""Bytes of a path that a warning has room for."""
_ROOM = 2**26
"""Bytes of whole pictures from which windows are cut together."""


@dataclass(frozen=True, slots=True)
class Request:
    """A batch to be decoded. It carries all that it needs, so that no worker holds the list of all samples."""

    paths: tuple[str, ...]
    views: tuple[str, ...]
    draws: npt.NDArray[np.float32]
    """(views, B, WINDOW_DRAWS) in [0, 1)."""


class Decoder(Dataset[Tensor | BadImage]):
    """Work of a decoding worker: from a request for pictures to their pixels.

    A bad picture is handed back and not raised, so that the error reaches the user as it is.

    Args:
        spec: how pictures are seen; its size is given.
        max_pixels: refuse larger pictures; None: Pillow's limit.
    """

    def __init__(self, spec: ViewSpec, *, max_pixels: int | None) -> None:
        assert spec.size is not None
        self._spec, self._size, self._max_pixels = spec, spec.size, max_pixels
        self.desk: Desk | None = None

    def __getitem__(self, request: Request) -> Tensor | BadImage:
        """(views, B, size, size, 3) uint8."""
        shape = (len(request.views), len(request.paths), self._size, self._size, 3)
        windows = torch.empty(shape, dtype=torch.uint8)
        draws = torch.from_numpy(request.draws)
        pictures: list[Tensor] = []
        for i, path in enumerate(request.paths, start=1):
            try:
                with nullcontext() if self.desk is None else self.desk.working_on(path):
                    scaled = scaled_rgb(path, short=self._spec.resize or self._size, max_pixels=self._max_pixels)
            except BadImage as bad:
                return bad
            pictures.append(torch.from_numpy(np.array(scaled)))
            if i == len(request.paths) or sum(map(Tensor.numel, pictures)) > _ROOM:
                these = slice(i - len(pictures), i)
                self._cut_all(pictures, request.views, draws[:, these], into=windows[:, these])
                pictures.clear()
        return windows

    def _cut_all(self, pictures: Sequence[Tensor], views: Sequence[str], draws: Tensor, *, into: Tensor) -> None:
        """Cut every view's window out of every picture: places for all at once, as each call of torch has its price."""
        height, width = torch.tensor([picture.shape[:2] for picture in pictures]).unbind(1)
        for name, numbers, places in zip(views, draws, into, strict=True):
            spots = torch.stack(window(name, self._spec, numbers, height=height, width=width), 1).tolist()
            for picture, (top, left, flip), place in zip(pictures, spots, places, strict=True):
                _cut(picture, top, left, flip=bool(flip), into=place)


def _cut(picture: Tensor, top: int, left: int, *, flip: bool, into: Tensor) -> None:
    """Copy a window of (H, W, 3) into (size, size, 3). Beyond the picture all is black."""
    size = len(into)
    inside = picture[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)]
    if inside.shape != into.shape:
        whole = torch.zeros_like(into)
        whole[max(-top, 0) :, max(-left, 0) :][: inside.shape[0], : inside.shape[1]] = inside
        inside = whole
    into.copy_(inside.flip(1) if flip else inside)


class Desk:
    """A worker's place in memory that the main process sees: which process works there, and on which picture.

    Args:
        context: starts the worker.
    """

    def __init__(self, context: BaseContext) -> None:
        self._process = context.RawValue("i", 0)
        self._path = context.RawArray("c", _LONGEST_PATH)

    def take(self) -> None:
        """Sit down: called in the worker."""
        self._process.value = os.getpid()

    @contextmanager
    def working_on(self, path: str) -> Iterator[None]:
        """Leave the picture's name there inside the block."""
        self._path.value = os.fsencode(path)[: _LONGEST_PATH - 1]
        try:
            yield
        finally:
            self._path.value = b""

    def path(self) -> str:
        """The picture that is being read; empty if none is."""
        return os.fsdecode(self._path.value)

    def kill(self) -> None:
        """End the process. SIGTERM would have to wait for what hangs in the system."""
        if self._process.value:
            with suppress(OSError):
                os.kill(self._process.value, getattr(signal, "SIGKILL", signal.SIGTERM))


class Workers:
    """Processes that can be given one pass after another, until they are closed or forgotten.

    Where no batch has come for a minute, a warning names the pictures that they are at.

    Args:
        decoder: what they do.
        count: how many; 0: this process does it.
        pinned: hand the windows over in page-locked memory, from which a GPU can fetch them by itself.
    """

    def __init__(self, decoder: Decoder, count: int, *, pinned: bool) -> None:
        self._requests = _Requests()
        context = _context() if count else None
        self._desks = [] if context is None else [Desk(context) for _ in range(count)]
        self._loader: DataLoader[Any] = DataLoader(
            decoder,
            batch_size=None,
            sampler=self._requests,
            num_workers=count,
            persistent_workers=count > 0,
            multiprocessing_context=context,
            pin_memory=pinned,
            worker_init_fn=partial(_live_with_the_parent, self._desks),
            generator=torch.Generator(),  # or every pass would draw from the global one
        )

    def decode(self, requests: Iterable[Request]) -> Iterator[Tensor]:
        """(views, B, size, size, 3) uint8 for each request, in their order.

        Raises:
            BadImage: a picture cannot be decoded.
            RunError: one of the processes died.
        """
        self._requests.waiting = requests
        try:
            # Without a name for the iterator: a traceback would keep it, and with it the processes.
            for windows in _watched(self._loader, self._desks):
                if isinstance(windows, BadImage):
                    raise windows
                yield windows
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise RunError(
                f"a process that decodes pictures died ({error}). Most often the system has killed it because "
                "memory, or the shared memory in /dev/shm, ran out: try fewer --workers; 0 does without"
            ) from error

    def close(self) -> None:
        """End the processes and wait for them. A traceback may keep this object alive, but not the loader.

        A process that has been at one picture for some time is killed: it may wait for it for ever.
        """
        before = [desk.path() for desk in self._desks]
        end = time.monotonic() + waiting.GRACE
        hung = [(desk, path) for desk, path in zip(self._desks, before, strict=True) if path]
        while hung and time.monotonic() < end:
            time.sleep(0.02)
            hung = [(desk, path) for desk, path in hung if desk.path() == path]
        for desk, _ in hung:
            desk.kill()
        del self._loader


def _watched(batches: Iterable[Any], desks: Sequence[Desk]) -> Iterator[Any]:
    """Hand the batches on, and warn of the pictures at hand where the next one does not come for long."""
    since = math.inf
    ended = threading.Event()

    def watch() -> None:
        told = math.inf
        while not ended.wait(waiting.PATIENCE / 10):
            paths = [path for desk in desks if (path := desk.path())]
            if paths and since != told and time.monotonic() - since >= waiting.PATIENCE:
                told = since
                waiting.warn_of(paths)

    if desks:
        threading.Thread(target=watch, daemon=True).start()
    with spared_children(), environment(NO_CURRENT_FOLDER), without_script():
        iterator = iter(batches)
    try:
        while True:
            since = time.monotonic()
            batch = next(iterator)
            since = math.inf
            yield batch
    except StopIteration:
        return
    finally:
        ended.set()
        del iterator


class _Requests:
    """The sampler of a DataLoader that outlives its passes."""

    def __init__(self) -> None:
        self.waiting: Iterable[Request] = ()

    def __iter__(self) -> Iterator[Request]:
        return iter(self.waiting)


def _live_with_the_parent(desks: Sequence[Desk], worker: int) -> None:
    """End this worker when the process that it serves dies, and only then.

    A killed process cannot end its workers, and torch's own watch looks at the process that forked them: here the fork
    server, which lives as long as they do.
    """
    # A Ctrl-C in a terminal reaches the workers too, but their end is the main process's affair.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    desks[worker].take()
    info = get_worker_info()
    assert info is not None, "this is not a worker"
    cast(Decoder, info.dataset).desk = desks[worker]
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is not a worker"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _context() -> BaseContext:
    """Fresh processes: one that uses torch runs threads, and must not be forked."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # torch is imported once, not in every worker
    return context
