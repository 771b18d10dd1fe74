"""The environment that child processes are started with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

NO_CURRENT_FOLDER = {"PYTHONSAFEPATH": "1"}
"""By these a Python that is started as `python -c` or `-m` imports nothing from the current folder, which may be a
stranger's. multiprocessing starts its processes so."""


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set `variables` of the environment for the block; processes started in it keep them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
