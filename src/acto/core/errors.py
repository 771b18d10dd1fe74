"""Errors that are the user's to mend: they name the thing, the value and the choices. The command line exits with 2."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable


class UserError(ValueError):
    """A value, file or setting from outside that cannot be used."""


class MissingPackage(UserError, ImportError):
    """A package that a light installation lacks."""


_OF_TRAINING = {"torch", "torchvision", "sklearn", "scipy"}


def missing_package(error: ImportError, what: str) -> MissingPackage | None:
    """Say what is missing and how to get it, if it is a package of the extra `train`; else None.

    Args:
        error: of the import.
        what: needs the package: a command, a function.
    """
    if (error.name or "").partition(".")[0] not in _OF_TRAINING:
        return None
    return MissingPackage(
        f"{what} needs PyTorch and what goes with it ({error.name} is missing), which a light installation lacks: "
        'pip install "acto-lnl[train]" brings it (in a clone: pip install ".[train]"). Builds of PyTorch for '
        "processors alone, a fraction of the size, are on PyTorch's own index of CPU wheels: install torch and "
        "torchvision from there first"
    )


def closest(value: str, choices: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for a near miss, else an empty string."""
    near = difflib.get_close_matches(value, list(choices), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def choose(name: str, value: str, choices: Iterable[str]) -> str:
    """Return `value` if it is one of `choices`.

    Raises:
        UserError: with the choices and the nearest of them.
    """
    choices = sorted(choices)
    if value not in choices:
        raise UserError(f"unknown {name} {value!r}.{closest(value, choices)} Choices: {', '.join(choices)}")
    return value


def check_range(
    name: str, value: float, *, low: float = -math.inf, high: float = math.inf, open_low: bool = False
) -> None:
    """Refuse a number outside [low, high] ((low, high] with `open_low`), and NaN.

    Raises:
        UserError: with the value and the range.
    """
    if not ((value > low if open_low else value >= low) and value <= high):
        raise UserError(f"{name} is {value}, but must lie in {'(' if open_low else '['}{low:g}, {high:g}]")


class RunError(RuntimeError):
    """A run cannot go on, and the user's input is not to blame: a full disk, a damaged file. Exit code 1."""
