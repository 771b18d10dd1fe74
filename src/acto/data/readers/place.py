"""The signature of all readers: a spec and a place to look at, and what lies there comes back as a Raw data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from acto.core.errors import UserError
from acto.data.samples import DataSpec, Raw

DATA_ROOT_VARIABLE = "ACTO_DATA_ROOT"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Place where a reader looks, and what it is told beside the spec."""

    path: Path | None = None
    """Data root of a named data set, which need not be set; else the file or folder itself."""
    download: bool = False
    """True if what is missing may be fetched."""
    known_classes: tuple[str, ...] = ()
    """The class list of a file that has none of its own; empty: from its labels."""

    problems: list[str] | None = None
    """Problems that the data have, where all of them are wanted; None: the first is raised."""

    def refuse(self, problem: str) -> None:
        """Raise a problem, or keep it where all are wanted; then the reader goes on as well as it can.

        Raises:
            UserError: the problem.
        """
        if self.problems is None:
            raise UserError(problem)
        self.problems.append(problem)

    @property
    def own(self) -> Path:
        """The path of a file or folder that the caller has seen."""
        assert self.path is not None
        return self.path


Refuse = Callable[[str], None]
"""Takes a problem, as `Place.refuse` does."""

Reader = Callable[[DataSpec, Place], Raw]
"""Raises a UserError that says "needs a data root" or "was not found in" where nothing is there; `acto doctor` tells
by these words what is absent from what is broken."""


def find(
    root: Path | None, name: str, *, folders: Sequence[str], layout: str, has: Callable[[Path], bool] = Path.is_dir
) -> Path:
    """Find the first folder under the data root that `has` what is looked for.

    Args:
        root: the data root.
        name: the data set's.
        folders: names that its folder may have.
        layout: what should be there, in words.
        has: whether a folder is the one.

    Raises:
        UserError: with the folders and the layout that was expected.
    """
    places = places_below(needed(root, name, layout=layout), folders)
    for place in places:
        if has(place):
            return place
    raise not_found(name, places, layout=layout)


def needed(root: Path | None, name: str, *, layout: str) -> Path:
    """Return the data root of a data set that cannot do without.

    Raises:
        UserError: it is not set.
    """
    if root is None:
        raise UserError(
            f"{name} needs a data root: give --data-root FOLDER or set {DATA_ROOT_VARIABLE}. Expected there: {layout}"
        )
    return root


def not_found(name: str, places: Sequence[Path], *, layout: str) -> UserError:
    """Say where a data set was looked for."""
    return UserError(f"{name} was not found in {', '.join(map(str, places))}. Expected there: {layout}")


def places_below(root: Path, folders: Sequence[str]) -> list[Path]:
    """List where a data set may lie: the root's own folders, then those of the papers' code, then the root itself."""
    return [*(root / top / folder for folder in folders for top in ("", "data", "Datasets")), root]
