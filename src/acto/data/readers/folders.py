"""Folders of picture files, one for each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from acto.core.errors import UserError, closest
from acto.core.text import counted
from acto.data.pictures.kinds import SUFFIXES, UNREAD
from acto.data.readers.file_tree import LeftOut, folders_in, links_out, walk
from acto.data.readers.listings import Listing, Listings, labelled, unlabelled
from acto.data.readers.place import Place
from acto.data.readers.split_folders import layout_of, pictures_in, split_name
from acto.data.samples import DataSpec, Raw

_SHOWN = 5


def read(spec: DataSpec, place: Place) -> Raw:
    """Read folders of classes, with or without a split, see `read_folder`."""
    listings = read_folder(place.own, place, classes=spec.classes or place.known_classes)
    return labelled(place.own.resolve().name, listings, spec=spec)


def read_bare(spec: DataSpec, place: Place) -> Raw:
    """Find every picture below the folder, however deep; what is no data is left out, as in training.

    Raises:
        UserError: there is none.
    """
    folder = place.own
    paths: list[Path] = []
    others: list[str] = []
    left_out = LeftOut()
    for path in walk(folder, left_out):
        if path.suffix.lower() in SUFFIXES:
            paths.append(path)
        else:
            others.append(path.relative_to(folder).as_posix())
    if not paths:
        raise UserError(f"{folder} has no picture ({', '.join(sorted(SUFFIXES))}){_instead(others, folder, left_out)}")
    notes = [*_others(others), *left_out.notes(), *links_out(paths, folder)]
    ids = [path.relative_to(folder).as_posix() for path in paths]
    return unlabelled(folder.name, ids, paths=paths, notes=notes)


def read_folder(root: Path, place: Place, *, classes: Sequence[str] = ()) -> Listings:
    """List ROOT/CLASS/pictures, or ROOT/train/CLASS/pictures with ROOT/test or ROOT/val beside it.

    Splits go by many names, see acto.data.readers.split_folders. Classes are sorted by name (by number, where all are
    numbers). Folders inside a class are searched too. Links are followed; where they lead out of ROOT, a note says so.
    Hidden files, what systems and programs leave behind, and files that are no pictures are left out with a note.

    Args:
        root: the folder.
        place: told of problems.
        classes: names that the classes have, where ROOT could be read in two ways.

    Raises:
        UserError: no classes, a class without a picture, classes that could as well be splits, or a link to a folder
            that it lies in.
    """
    left_out = LeftOut()
    layout = layout_of(root, refuse=place.refuse, classes=classes, left_out=left_out)
    folder, names = layout.train, layout.classes
    if len(names) < 2:
        only = f"; {folder / names[0]} has several folders: is it the source?" if _has_folders(folder, names) else ""
        raise UserError(
            f"{folder} has {len(names)} class folders, but at least two are needed: "
            f"FOLDER/CLASS/picture.jpg, or FOLDER/train/CLASS/picture.jpg with FOLDER/test beside it{only}"
        )
    files = _Files(root, place, left_out)
    train = files.listing(folder, names, is_test=False)
    test, notes = None, list(layout.notes)
    if layout.test is not None:
        if strangers := [name for name in layout.test_classes if name not in names]:
            shown = ", ".join(map(repr, strangers[:_SHOWN]))
            place.refuse(
                f"{layout.test} has classes that {folder} has not: {shown}.{closest(strangers[0], names)} "
                "Rename them as in training, or take them out"
            )
        known = [name for name in layout.test_classes if name in names]
        test = files.listing(layout.test, known, is_test=True)
        if test.labels and (missing := [name for name in names if name not in set(test.labels)]):
            shown = ", ".join(map(repr, missing[:_SHOWN]))
            notes.append(f"the test set has no picture of {len(missing)} of {len(names)} classes: {shown}")
    return Listings(train=train, test=test, class_names=names, notes=(*notes, *files.notes, *left_out.notes()))


def _has_folders(folder: Path, names: Sequence[str]) -> bool:
    return len(names) == 1 and len(folders_in(folder / names[0])) > 1


class _Files:
    """The files of class folders, and notes on those that are no samples."""

    def __init__(self, root: Path, place: Place, left_out: LeftOut) -> None:
        self.root, self.place, self.left_out = root, place, left_out
        self.notes: list[str] = []

    def listing(self, folder: Path, classes: Sequence[str], *, is_test: bool) -> Listing:
        """Every picture of folder/CLASS for each of `classes`, with ids relative to the root."""
        paths: list[Path] = []
        labels: list[str] = []
        others: list[str] = []
        for label in classes:
            start, strange = len(paths), len(others)
            for path in walk(folder / label, self.left_out):
                if path.suffix.lower() in SUFFIXES:
                    paths.append(path)
                    labels.append(label)
                else:
                    others.append(self._id(path))
            if len(paths) == start and not is_test:
                self.place.refuse(
                    f"class {label!r} is empty: {folder / label} has no picture ({', '.join(sorted(SUFFIXES))})"
                    f"{_instead(others[strange:], folder / label, self.left_out)}. Put some there, or take it away"
                )
        ids = tuple(map(self._id, paths))
        self.notes += [*_others(others), *self._splits_inside(folder, paths), *links_out(paths, self.root)]
        if strays := pictures_in(folder, self.left_out):
            self.notes.append(
                f"{counted(len(strays), 'picture', then='lies/lie')} in {folder} itself, in no class, and "
                f"{'is' if len(strays) == 1 else 'are'} left out, the first: {strays[0]}"
            )
        return Listing(ids=ids, paths=tuple(paths), labels=tuple(labels))

    def _id(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _splits_inside(self, folder: Path, paths: Sequence[Path]) -> list[str]:
        """A note if the classes have training and test folders in them, which are read as one."""
        inside: Counter[str] = Counter()
        for path in paths:
            inside.update(set(path.relative_to(folder).parts[1:-1]))
        splits = {name: split.role for name in inside if (split := split_name(name)) and not split.rest}
        if "train" not in splits.values() or len(set(splits.values())) < 2:
            return []
        shown = ", ".join(f"{name} ({inside[name]})" for name in sorted(splits))
        return [
            f"classes have folders of splits in them, whose pictures are all trained on: {shown}. For a test set, lay "
            "them out as train/CLASS and test/CLASS, or write a manifest with a column split"
        ]


def _others(names: Sequence[str]) -> list[str]:
    """Notes on files that are not read: pictures of other formats, and what is no picture."""
    kinds = {name: UNREAD.get(Path(name).suffix.lower(), "") for name in names}
    plain = [name for name in names if not kinds[name]]
    notes = []
    if plain:
        left_out = counted(len(plain), "file", then="is no picture and was/are no pictures and were")
        notes.append(f"{left_out} left out, the first: {plain[0]}")
    if unread := [name for name in names if kinds[name]]:
        notes.append(
            f"{counted(len(unread), 'picture', then='is left out, for its/are left out, for their')} format is not "
            f"read ({_formats(unread)}), the first: {unread[0]}; save them as JPEG or PNG"
        )
    return notes


def _instead(others: Sequence[str], folder: Path, left_out: LeftOut) -> str:
    """The contents of a folder without pictures, in words, behind a message that says so."""
    hidden = left_out.below(folder)
    unread = [name for name in others if Path(name).suffix.lower() in UNREAD]
    parts = []
    if unread:
        pictures = counted(len(unread), "picture")
        parts.append(f"{pictures} of a format that is not read ({_formats(unread)}): save them as JPEG or PNG")
    if len(others) > len(unread):
        parts.append(counted(len(others) - len(unread), "other file"))
    if hidden:
        parts.append(f"{hidden} hidden or left there by systems and programs")
    return f", but {', '.join(parts)}" if parts else ""


def _formats(names: Sequence[str]) -> str:
    counts = Counter(UNREAD[Path(name).suffix.lower()] for name in names)
    return ", ".join(f"{kind} {count}" for kind, count in counts.items())
