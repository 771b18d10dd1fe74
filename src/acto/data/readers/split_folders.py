"""Training and test folders beside each other: told from classes by their names and by the class folders in them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from acto.data.pictures.kinds import SUFFIXES
from acto.data.readers.file_tree import LeftOut, folders_in, walk
from acto.data.readers.place import Refuse

_ROLE_OF = {
    word: role
    for role, words in {
        "train": "train training trn trainval",
        "test": "test testing tst holdout heldout",
        "val": "val valid validation dev devel development eval evaluation",
    }.items()
    for word in words.split()
}
_FILLERS = frozenset(
    {"set", "sets", "data", "dataset", "image", "images", "img", "imgs", "pictures", "photos", "split"}
)
_WORDS = re.compile(r"[^\W\d_]+|\d+")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_ENDING = re.compile(r"(set|data|images|imgs)$")
_NO_CLASSES = frozenset(
    {"unlabeled", "unlabelled", "extra", "pred", "prediction", "predictions", "annotations", "masks"}
)
"""Names of folders that lie beside splits in published data sets and are neither a split nor a class."""
_SHOWN, _NAMED = 5, 12


@dataclass(frozen=True, slots=True)
class SplitName:
    """A name that may mean a split."""

    role: str
    """train, test or val."""
    rest: tuple[str, ...] = ()
    """Its other words: ("seg",) in seg_train, none in Training Set."""


def split_name(name: str) -> SplitName | None:
    """Read a name as that of a split, without regard to case, ends (trainset) and fillers (test images).

    Returns:
        None for a name without the word of a split, or with words of several.
    """
    words = [word.casefold() for word in _WORDS.findall(_HUMP.sub(" ", name))]
    words = [short if (short := _ENDING.sub("", word)) in _ROLE_OF else word for word in words]
    roles = {_ROLE_OF[word] for word in words if word in _ROLE_OF}
    if roles == {"train", "val"}:  # train_val: trained on both
        roles = {"train"}
    if len(roles) != 1:
        return None
    rest = tuple(word for word in words if word not in _ROLE_OF and word not in _FILLERS)
    return SplitName(roles.pop(), rest)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Places of the classes of a folder."""

    train: Path
    """The folder of the class folders."""
    classes: tuple[str, ...]
    test: Path | None = None
    test_classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def layout_of(root: Path, *, refuse: Refuse, classes: Sequence[str] = (), left_out: LeftOut) -> Layout:
    """Tell whether the folders in `root` are classes, or splits with classes in them.

    A training folder with a test or validation folder is a split; so is one that stands alone. A folder called train
    beside several others that hold pictures of their own is a class.

    Args:
        root: the folder.
        refuse: told of what could be read in two ways, or in none.
        classes: names that the classes have, so that what could be read in two ways is clear.
        left_out: told what was left out.

    Raises:
        UserError: a folder cannot be read.
    """
    return _Folders(root, refuse, classes, left_out).layout()


class _Folders:
    """The folders of a root, their roles, and the class folders in them."""

    def __init__(self, root: Path, refuse: Refuse, classes: Sequence[str], left_out: LeftOut) -> None:
        self.root, self.refuse, self.classes, self.left_out = root, refuse, classes, left_out
        self.names = folders_in(root, left_out)
        self.splits = {name: split for name in self.names if (split := split_name(name)) is not None}
        self.inner = {name: self._class_folder(root / name) for name in self.names}

    def layout(self) -> Layout:
        """Decide: classes, or splits."""
        if self.classes and set(self.classes) <= set(self.names):
            others = [name for name in self.names if name not in self.classes and name in self.splits]
            notes = self._left(others, "as the classes are given by name")
            return self._as_classes(*notes, without=others)
        tests = [name for name, split in self.splits.items() if split.role != "train"]
        trains = [
            name
            for name, split in self.splits.items()
            if split.role == "train" and (not split.rest or any(self._are_pair(name, test) for test in tests))
        ]
        if not trains:
            return self._without_train(tests)
        with_classes = [name for name in trains if self.inner[name][1]]
        if self.classes and (fitting := [n for n in with_classes if set(self.classes) <= set(self.inner[n][1])]):
            with_classes = fitting
        if not with_classes:
            if self._tests_of(trains[0], tests) or len(trains) > 1:
                self.refuse(
                    f"{self.root} has {_listed(trains + tests)}, which look like splits, but no class "
                    f"folders are in {trains[0]}: sort its pictures into {trains[0]}/CLASS, or write a manifest with "
                    f"the columns path, label and split. {self._are_classes()}"
                )
            return self._as_classes()
        train = with_classes[0]
        if len(with_classes) > 1:
            self.refuse(
                f"{self.root} has several training folders: {_listed(with_classes)}. Keep one of them there, or give "
                f"the one to be trained on as the source, {self.root / train}. {self._are_classes()}"
            )
        return self._beside(train, self._tests_of(train, tests))

    def _beside(self, train: str, tests: list[str]) -> Layout:
        """The layout with a training folder that has class folders: what lies beside it decides."""
        others = [name for name in self.names if name != train and name not in tests]
        inner = self.inner[train][1]
        if not tests and not (self.classes and set(self.classes) <= set(inner)):
            rivals = [n for n in others if n.casefold() not in _NO_CLASSES and _has_picture(self.root / n)]
            alike = [name for name in rivals if _share(self.inner[name][1], inner)]
            as_split = f"--data.classes {_yaml(inner, self.inner[train][0])}"
            if len(rivals) > 1 and not alike:
                return self._as_classes(
                    f"the folder {train} is read as a class, as {_listed(rivals)} beside it: "
                    f"{as_split} would read it as the training set, and leave the others out"
                )
            if rivals:
                has = f"the same folders as {train}" if alike else "pictures too"
                as_classes = f"--data.classes {_yaml([train, *rivals], self.root)}"
                self.refuse(
                    f"{self.root / train} may be the training set, or a class beside {_listed(rivals)}, which has "
                    f"{has}. {as_split} reads it as the training set and leaves the others out; {as_classes} reads "
                    "them as classes; a test set should be called test"
                )
        usable = [name for name in tests if self.inner[name][1]]
        test = usable[0] if usable else None
        notes = []
        if test is not None and self.splits[test].rest != self.splits[train].rest:
            notes.append(f"{train} is the training set, {test} the test set")
        left = [name for name in self.names if name not in (train, test)]
        notes += self._left(left, f"{test} is tested on" if test is not None else "")
        folder = self.root if test is None else self._class_folder(self.root / test, known=inner)[0]
        return Layout(
            train=self.inner[train][0],
            classes=inner,
            test=None if test is None else folder,
            test_classes=() if test is None else tuple(folders_in(folder, self.left_out)),
            notes=tuple(notes),
        )

    def _without_train(self, tests: Sequence[str]) -> Layout:
        """The layout without a training folder: classes, unless some of them look like a test set."""
        exact = [name for name in tests if not self.splits[name].rest]
        others = [name for name in self.names if name not in exact]
        twins = [
            name
            for name in exact
            if _share(self.inner[name][1], others) or any(_share(self.inner[name][1], self.inner[n][1]) for n in others)
        ]
        if twins or (len(exact) > 1 and not others):
            self.refuse(
                f"{self.root} has {_listed(twins or exact)}, which looks like a test set, but no folder that is called "
                f"train: put the training classes into {self.root / 'train'}. {self._are_classes()}"
            )
        notes = []
        if exact and not self.classes:
            notes.append(
                f"the folders {_listed(exact)} are read as classes, as {_listed(others)} beside them: for a test set, "
                "put the training classes into train/CLASS and the others into test/CLASS"
            )
        inner = [set(self.inner[name][1]) for name in self.names]
        if len(inner) > 1 and len(set.intersection(*inner)) > 1:
            notes.append(
                f"all classes ({_listed(self.names)}) have folders of the same names in them "
                f"({_listed(sorted(set.intersection(*inner)))}): if those are the classes, lay them out as train/CLASS "
                "and test/CLASS, or write a manifest"
            )
        return self._as_classes(*notes)

    def _tests_of(self, train: str, tests: Sequence[str]) -> list[str]:
        """The test folders that go with a training folder, those for testing before those for validation."""
        own = [name for name in tests if not self.splits[name].rest or self._are_pair(train, name)]
        rest = self.splits[train].rest
        return sorted(own, key=lambda name: (self.splits[name].role != "test", self.splits[name].rest != rest))

    def _are_pair(self, train: str, test: str) -> bool:
        """Say whether two names differ in the split alone, or the folders have the same classes."""
        if self.splits[train].rest == self.splits[test].rest:
            return True
        return _share(self.inner[train][1], self.inner[test][1])

    def _as_classes(self, *notes: str, without: Sequence[str] = ()) -> Layout:
        names = tuple(name for name in self.names if name not in without)
        return Layout(train=self.root, classes=names, notes=notes)

    def _are_classes(self) -> str:
        return f"If they are classes: --data.classes {_yaml(self.names, self.root)}"

    def _left(self, names: Sequence[str], why: str) -> list[str]:
        """A note on folders that are not used; nothing where there are none."""
        if not names:
            return []
        return [f"the folders {', '.join(names)} are left out" + (f": {why}" if why else "")]

    def _class_folder(self, folder: Path, *, known: Sequence[str] = ()) -> tuple[Path, tuple[str, ...]]:
        """The folder in which the class folders lie, and their names: folder, or the only folder in it."""
        names = folders_in(folder, self.left_out)
        if len(names) == 1 and names[0] not in known and not pictures_in(folder, self.left_out):
            deeper = folders_in(folder / names[0], self.left_out)
            if len(deeper) > 1 or (deeper and set(deeper) <= set(known)):
                return folder / names[0], tuple(deeper)
        return folder, tuple(names)


def pictures_in(folder: Path, left_out: LeftOut) -> list[str]:
    """The names of the picture files that lie in a folder itself, in no folder of it."""
    names = [entry.name for entry in folder.iterdir() if Path(entry.name).suffix.lower() in SUFFIXES]
    return [name for name in left_out.without(folder, names) if (folder / name).is_file()]


def _has_picture(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES for path in walk(folder))


def _share(some: Sequence[str], others: Sequence[str]) -> bool:
    """Say whether at least half of the fewer names are among the others."""
    common = set(some) & set(others)
    return bool(common) and 2 * len(common) >= min(len(some), len(others))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _yaml(names: Sequence[str], folder: Path) -> str:
    """The folders of a folder as the command line takes a list, or in words where they are too many."""
    if len(names) > _NAMED:
        return f"with the names of the {len(names)} folders in {folder}"
    return f"'{json.dumps(list(names), ensure_ascii=False)}'"
