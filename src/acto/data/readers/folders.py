"""Folders of picture files, one for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from acto.core.errors import UserError
from acto.data.pictures.files import SUFFIXES
from acto.data.readers.file_tree import folders_in, links_out, walk
from acto.data.readers.listings import TEST_FOLDERS, Listing, Listings, labelled, unlabelled
from acto.data.readers.place import Place
from acto.data.samples import DataSpec, Raw

_SHOWN = 5


def read(spec: DataSpec, place: Place) -> Raw:
    """Read folders of classes, with or without a split, see `read_folder`."""
    return labelled(place.own.resolve().name, read_folder(place.own), spec=spec)


def read_bare(spec: DataSpec, place: Place) -> Raw:
    """Find every picture below the folder, however deep; hidden files and folders are left out, as in training.

    Raises:
        UserError: there is none.
    """
    folder = place.own
    paths: list[Path] = []
    others: list[Path] = []
    for path in walk(folder):
        (paths if path.suffix.lower() in SUFFIXES else others).append(path)
    if not paths:
        raise UserError(f"{folder} has no picture ({', '.join(sorted(SUFFIXES))})")
    notes = []
    if others:
        notes.append(f"{len(others)} files are no pictures and were left out, the first: {others[0].name}")
    notes.extend(links_out(paths, folder))
    ids = [path.relative_to(folder).as_posix() for path in paths]
    return unlabelled(folder.name, ids, paths=paths, notes=notes)


def read_folder(root: Path) -> Listings:
    """List ROOT/CLASS/pictures, or ROOT/train/CLASS/pictures with ROOT/test or ROOT/val beside it.

    Classes are sorted by name (by number, where all are numbers). Folders inside a class are searched too. Links are
    followed; where they lead out of ROOT, a note says so. Files and folders whose name starts with a dot, and files
    that are no pictures, are left out.

    Raises:
        UserError: no classes, a class without a picture, or a link to a folder that it lies in.
    """
    notes: list[str] = []
    tests = []
    folder = root
    if folders_in(root / "train"):
        folder = root / "train"
        tests = [name for name in TEST_FOLDERS if folders_in(root / name)]
        if left_out := [name for name in TEST_FOLDERS if (root / name).is_dir() and name not in tests[:1]]:
            notes.append(
                f"the folders {', '.join(left_out)} are left out" + (f": {tests[0]} is tested on" if tests else "")
            )
    classes = folders_in(folder)
    if len(classes) < 2:
        raise UserError(
            f"{folder} has {len(classes)} class folders, but at least two are needed: "
            "FOLDER/CLASS/picture.jpg, or FOLDER/train/CLASS/picture.jpg with FOLDER/test beside it"
        )
    train = _listing(root, folder, classes, notes)
    test = None
    if tests:
        test_classes = folders_in(root / tests[0])
        if strangers := [name for name in test_classes if name not in classes]:
            shown = ", ".join(map(repr, strangers[:_SHOWN]))
            raise UserError(f"{root / tests[0]} has classes that {folder} has not: {shown}")
        test = _listing(root, root / tests[0], test_classes, notes, may_be_empty=True)
    return Listings(train=train, test=test, class_names=tuple(classes), notes=tuple(notes))


def _listing(
    root: Path, folder: Path, classes: Sequence[str], notes: list[str], *, may_be_empty: bool = False
) -> Listing:
    """Every picture of folder/CLASS for each of `classes`, with ids relative to `root`."""
    paths: list[Path] = []
    labels: list[str] = []
    others: list[str] = []
    for label in classes:
        start = len(paths)
        for path in walk(folder / label):
            if path.suffix.lower() in SUFFIXES:
                paths.append(path)
                labels.append(label)
            else:
                others.append(path.relative_to(root).as_posix())
        if len(paths) == start and not may_be_empty:
            raise UserError(
                f"class {label!r} is empty: {folder / label} has no picture ({', '.join(sorted(SUFFIXES))})"
            )
    if others:
        notes.append(f"{len(others)} files are no pictures and were left out, the first: {others[0]}")
    notes.extend(links_out(paths, root))
    ids = tuple(path.relative_to(root).as_posix() for path in paths)
    return Listing(ids=ids, paths=tuple(paths), labels=tuple(labels))
