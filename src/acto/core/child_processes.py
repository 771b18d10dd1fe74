"""Starting child processes: their environment, and without the script of this one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType

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


@contextmanager
def without_script() -> Iterator[None]:
    """Let processes of multiprocessing that start inside the block not run this process's script again.

    They would, to know its classes, and a script that trains without asking for `__name__` would train in each of them.
    For workers that are given nothing but objects of this package.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script
