"""Workers that decode picture files and cut the views' windows out of them. Everything else is done on the device."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from acto.core.child_processes import NO_CURRENT_FOLDER, environment
from acto.core.errors import RunError
from acto.data.pictures.files import BadImage, scaled_rgb
from acto.data.pictures.pixel_store import StoredPixels
from acto.data.views.pipelines import window
from acto.data.views.spec import ViewSpec


@dataclass(frozen=True, slots=True)
class Request:
    """A batch to be decoded. It carries all that it needs, so that no worker holds the list of all samples."""

    paths: tuple[str, ...]
    views: tuple[str, ...]
    draws: npt.NDArray[np.float32]
    """(views, B, WINDOW_DRAWS) in [0, 1)."""
    places: npt.NDArray[np.int64] | None = None
    """(B, 4) where the pictures are stored, as open_cache says; None: nowhere."""


class Decoder(Dataset[Tensor | BadImage]):
    """Work of a decoding worker: from a request for pictures to their pixels.

    A bad picture is handed back and not raised, so that the error reaches the user as it is.

    Args:
        spec: how pictures are seen; its size is given.
        max_pixels: refuse larger pictures; None: Pillow's limit.
        stored: pictures that need no decoding.
    """

    def __init__(self, spec: ViewSpec, *, max_pixels: int | None, stored: StoredPixels | None = None) -> None:
        assert spec.size is not None
        self._spec, self._size, self._max_pixels, self._stored = spec, spec.size, max_pixels, stored

    def __getitem__(self, request: Request) -> Tensor | BadImage:
        """(views, B, size, size, 3) uint8."""
        shape = (len(request.views), len(request.paths), self._size, self._size, 3)
        windows = torch.empty(shape, dtype=torch.uint8)
        draws = torch.from_numpy(request.draws)
        places = None if request.places is None else request.places.tolist()
        known = None if request.places is None else self._windows(request.views, draws, request.places[:, 2:])
        for i, path in enumerate(request.paths):
            picture = None if self._stored is None or places is None else self._stored.picture(places[i])
            if picture is None:
                try:
                    scaled = scaled_rgb(path, short=self._spec.resize or self._size, max_pixels=self._max_pixels)
                except BadImage as bad:
                    return bad
                picture = torch.from_numpy(np.array(scaled))
            size = np.array([picture.shape[:2]])
            spots = self._windows(request.views, draws[:, i : i + 1], size)[0] if known is None else known[i]
            for view, (top, left, flip) in zip(windows[:, i], spots, strict=True):
                _cut(picture, top, left, flip=bool(flip), into=view)
        return windows

    def _windows(
        self, views: tuple[str, ...], draws: Tensor, sizes: npt.NDArray[np.int64]
    ) -> list[list[tuple[int, int, int]]]:
        """For each picture each view's (top, left, flip). `draws` (views, B, WINDOW_DRAWS), `sizes` (B, 2)."""
        height, width = torch.from_numpy(sizes.astype(np.int64)).unbind(1)
        found = [window(view, self._spec, draws[k], height=height, width=width) for k, view in enumerate(views)]
        return torch.stack([torch.stack(spot, 1) for spot in found], 1).tolist() if found else [[]] * len(height)


def _cut(picture: Tensor, top: int, left: int, *, flip: bool, into: Tensor) -> None:
    """Copy a window of (H, W, 3) into (size, size, 3). Beyond the picture all is black."""
    size = len(into)
    inside = picture[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)]
    if inside.shape != into.shape:
        whole = torch.zeros_like(into)
        whole[max(-top, 0) :, max(-left, 0) :][: inside.shape[0], : inside.shape[1]] = inside
        inside = whole
    into.copy_(inside.flip(1) if flip else inside)


class Workers:
    """Processes that can be given one pass after another, until they are closed or forgotten.

    Args:
        decoder: what they do.
        count: how many; 0: this process does it.
        pinned: hand the windows over in page-locked memory, from which a GPU can fetch them by itself.
    """

    def __init__(self, decoder: Decoder, count: int, *, pinned: bool) -> None:
        self._requests = _Requests()
        self._loader: DataLoader[Any] = DataLoader(
            decoder,
            batch_size=None,
            sampler=self._requests,
            num_workers=count,
            persistent_workers=count > 0,
            multiprocessing_context=_context() if count else None,
            pin_memory=pinned,
            worker_init_fn=_live_with_the_parent,
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
            for windows in _begun(self._loader):
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
        """End the processes and wait for them. A traceback may keep this object alive, but not the loader."""
        del self._loader


def _begun(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's iterator, which starts the processes if there are none yet."""
    with environment(NO_CURRENT_FOLDER):
        return iter(loader)


class _Requests:
    """The sampler of a DataLoader that outlives its passes."""

    def __init__(self) -> None:
        self.waiting: Iterable[Request] = ()

    def __iter__(self) -> Iterator[Request]:
        return iter(self.waiting)


def _live_with_the_parent(worker: int) -> None:
    """End this worker when the process that it serves dies, and only then.

    A killed process cannot end its workers, and torch's own watch looks at the process that forked them: here the fork
    server, which lives as long as they do.
    """
    # A Ctrl-C in a terminal reaches the workers too, but their end is the main process's affair.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
