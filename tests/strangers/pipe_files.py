"""Pipes that lie where a file should be."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def pipe(path: Path, data: bytes = b"x") -> Iterator[None]:
    """A pipe with a writer: a reader that should not be one gets `data`, instead of keeping the tests waiting."""

    def write() -> None:
        descriptor = os.open(path, os.O_WRONLY)
        with suppress(BrokenPipeError):
            os.write(descriptor, data)
        os.close(descriptor)

    os.mkfifo(path)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        writer.join()
        os.close(descriptor)
