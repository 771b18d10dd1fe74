"""Files that divide a data set by their names: train-00000-of-00002.parquet, val/000003.tar, test.parquet."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from acto.core.errors import UserError
from acto.data.readers.split_folders import split_name

_WORDS = re.compile(r"[^\W\d_]+")
_PLAIN = ("data", "plain_text", "default")
"""Folders between a data set and its files that say nothing."""
_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenSplits:
    """Splits to be trained and tested on."""

    train: str
    test: str | None
    notes: tuple[str, ...] = ()


def splits_of_files(root: Path, files: Sequence[Path]) -> Mapping[str, Sequence[Path]]:
    """Group files by the split that their names, or those of their folders, say; without any they are one, ''.

    Raises:
        UserError: they lie in several folders that are no splits: configurations of a data set.
    """
    groups: dict[str, list[Path]] = {}
    folders = set()
    for file in files:
        *above, name = file.relative_to(root).parts
        words = " ".join(word for word in _WORDS.findall(name.split(".")[0]) if word != "of")
        split = words
        if split_name(words) is None and (said := next((part for part in above[::-1] if split_name(part)), None)):
            split = said
            above.remove(said)
        folders.add("/".join(part for part in above if part not in _PLAIN))
        groups.setdefault(split, []).append(file)
    if len(folders) > 1:
        raise UserError(
            f"{root} holds several configurations of a data set: {_listed(sorted(folders))}. Give the folder of one as "
            f"the source, {root / max(folders)}"
        )
    if not any(split_name(split) for split in groups):
        return {"": list(files)}
    return groups


def choose_splits(names: Sequence[str], *, place: str) -> ChosenSplits:
    """Choose what is trained on, and what is tested on: test before validation, named as the training split is.

    Raises:
        UserError: no split is for training, or several may be; `place` is the data set's.
    """
    if len(names) == 1:
        name = names[0]
        said = split_name(name)
        odd = said is not None and said.role != "train"
        return ChosenSplits(train=name, test=None, notes=(f"{name}, the only split, is trained on",) if odd else ())
    roles = {name: split for name in names if (split := split_name(name)) is not None}
    trains = [name for name, split in roles.items() if split.role == "train"]
    train = next((name for name in trains if not roles[name].rest), trains[0] if len(trains) == 1 else None)
    if train is None:
        which = "several that are for training" if trains else "none that is called train"
        raise UserError(
            f"{place} has the splits {_listed(names)}, and {which}: give the folder, the files or the Dataset of one "
            "of them as the data"
        )
    rest = roles[train].rest
    tests = [name for name, split in roles.items() if split.role != "train" and split.rest in (rest, ())]
    tests.sort(key=lambda name: (roles[name].role != "test", roles[name].rest != rest))
    test = tests[0] if tests else None
    left = [name for name in names if name not in (train, test)]
    why = f": {test} is tested on" if test else ""
    notes = (f"the splits {', '.join(left)} are left out{why}",) if left else ()
    return ChosenSplits(train=train, test=test, notes=notes)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
