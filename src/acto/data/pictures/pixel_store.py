"""Storage of decoded pictures: files that every process maps into its memory, or one file without a name in memory."""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Pixels = npt.NDArray[np.uint8]


class StoredPixels:
    """Reads stored pictures. Travels to worker processes; a file is mapped into memory when it is first needed.

    Args:
        files: the files of pixels, or the one that lies in memory.
    """

    def __init__(self, files: Sequence[Path] | MemoryFile) -> None:
        self._files = files if isinstance(files, MemoryFile) else tuple(files)
        self._maps: dict[int, Tensor | None] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Every process makes its own mappings."""
        return {"_files": self._files, "_maps": {}}

    def picture(self, place: Sequence[int]) -> Tensor | None:
        """(height, width, 3) uint8, not to be written to; None if its file has been deleted, of which it warns once,
        or cut.

        Args:
            place: file, offset, height, width; a row of the table that `open_cache` returns.
        """
        number, offset, height, width = place
        if number not in self._maps:
            self._maps[number] = self._map(number)
        pixels = self._maps[number]
        if pixels is None or len(pixels) < offset + height * width * 3:  # gone, or cut since it was looked at
            return None
        return pixels[offset : offset + height * width * 3].view(height, width, 3)

    def _map(self, number: int) -> Tensor | None:
        if isinstance(self._files, MemoryFile):
            return self._files.map()
        path = self._files[number]
        try:
            # Unlike mmap.mmap this keeps no file open: a large data set has more files than a process may open.
            return torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
        except (OSError, RuntimeError) as error:
            warnings.warn(f"a file of the cache of pictures is gone; they are decoded again: {error}", stacklevel=2)
            return None


class MemoryFile:
    """A file without a name that lies in memory (macOS: among the temporary files). Worker processes inherit it."""

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            if hasattr(os, "memfd_create"):
                descriptor = os.memfd_create("acto-pictures")
            else:
                with tempfile.TemporaryFile() as file:
                    descriptor = os.dup(file.fileno())
        self._descriptor, self._size, self._lock = descriptor, 0, threading.Lock()
        weakref.finalize(self, os.close, descriptor)

    def __reduce__(self) -> tuple[Callable[[Any], MemoryFile], tuple[Any]]:
        return _received, (DupFd(self._descriptor),)

    def append(self, pictures: Sequence[Pixels]) -> int:
        """Add pictures, one after another, and return where the first begins. Threads may do so side by side."""
        size = sum(picture.nbytes for picture in pictures)
        with self._lock:
            start, self._size = self._size, self._size + size
        place = start
        for picture in pictures:
            view = picture.data.cast("B")
            while view:
                count = os.pwrite(self._descriptor, view, place)
                view, place = view[count:], place + count
        return start

    def map(self) -> Tensor:
        """All its bytes."""
        return torch.frombuffer(mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_COPY), dtype=torch.uint8)


def _received(duplicate: Any) -> MemoryFile:
    return MemoryFile(duplicate.detach())
