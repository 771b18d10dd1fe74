"""Food-101N: lists of picture files, with the test split of Food-101 nested in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from acto.core.errors import UserError
from acto.core.text import counted
from acto.data.readers.listings import NONE_OF_THESE, Listing, Listings, labelled
from acto.data.readers.place import Place, find
from acto.data.readers.text_files import read_text
from acto.data.samples import DataSpec, Raw

_HEADING = "class_name"
_SHOWN = 5


def read(spec: DataSpec, place: Place) -> Raw:
    """Read the lists of both data sets below the data root."""
    layout = (
        "food-101/meta/classes.txt, food-101/meta/imagelist.tsv and food-101/images of Food-101N, with the test split "
        "of Food-101 in food-101/food-101/meta and food-101/food-101/images"
    )
    folder = find(
        place.path,
        spec.source,
        folders=("food-101", "food101n", "Food-101N_release"),
        layout=layout,
        has=lambda folder: (folder / "meta" / "imagelist.tsv").is_file(),
    )
    return labelled(spec.source, read_food101n(folder), spec=spec)


def read_food101n(root: Path) -> Listings:
    """Read Food101N with the Food-101 test split nested in it, as the public code lays them out.

    ROOT/meta/classes.txt, ROOT/meta/imagelist.tsv (class/file a line), ROOT/images; ROOT/food-101/meta/classes.txt,
    ROOT/food-101/meta/test.txt (class/id a line) and ROOT/food-101/images. A first line that begins with class_name is
    a heading. ROOT/meta/verified_train.tsv and verified_val.tsv, where they are, tell of some labels whether they are
    right (1) or wrong (0): a right one is the true label; of a wrong one no more is known than that the true label is
    NONE_OF_THESE.

    Raises:
        UserError: a list is missing, or a line names no class, names one twice, or has another verdict.
    """
    nested = root / "food-101"
    classes = _classes_of(root / "meta" / "classes.txt")
    test_classes = _classes_of(nested / "meta" / "classes.txt")
    if set(classes) != set(test_classes):
        odd = sorted(set(classes) ^ set(test_classes))
        raise UserError(f"Food101N and Food-101 name different classes: {', '.join(odd[:_SHOWN])}")
    keys, notes = _keys(root / "meta" / "imagelist.tsv", classes), []
    verdicts: dict[str, str] = {}
    for name in ("verified_train.tsv", "verified_val.tsv"):
        if (root / "meta" / name).is_file():
            verdicts |= _keys(root / "meta" / name, classes, values=("0", "1"))
    if strangers := verdicts.keys() - keys.keys():
        those = counted(len(strangers), "verdict", then="is for a picture/are for pictures")
        notes.append(f"{those} that imagelist.tsv does not have, e.g. {min(strangers)}")
    labels = tuple(key.partition("/")[0] for key in keys)
    truths = (
        "" if key not in verdicts else label if verdicts[key] == "1" else NONE_OF_THESE
        for key, label in zip(keys, labels, strict=True)
    )
    train = Listing(
        ids=tuple(f"images/{key}" for key in keys),
        paths=tuple(root / "images" / key for key in keys),
        labels=labels,
        true_labels=tuple(truths) if verdicts else None,
    )
    test_keys = _keys(nested / "meta" / "test.txt", classes)
    test = Listing(
        ids=tuple(f"food-101/images/{key}.jpg" for key in test_keys),
        paths=tuple(nested / "images" / f"{key}.jpg" for key in test_keys),
        labels=tuple(key.partition("/")[0] for key in test_keys),
    )
    return Listings(train=train, test=test, class_names=tuple(classes), notes=tuple(notes))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines with their numbers, without a heading and empty ones."""
    for number, line in enumerate(read_text(path, what="Food101N:").split("\n"), start=1):
        if line.strip() and not (number == 1 and line.startswith(_HEADING)):
            yield number, line.strip()


def _classes_of(path: Path) -> list[str]:
    names: list[str] = []
    for number, name in _lines(path):
        if not _is_file_name(name):
            raise UserError(f"{path} line {number}: {name!r} is the name of no folder of pictures")
        if name in names:
            raise UserError(f"{path} line {number} names the class {name!r} a second time")
        names.append(name)
    return names


def _keys(path: Path, classes: Sequence[str], *, values: Sequence[str] = ("",)) -> dict[str, str]:
    """The lines of a list: class/file, and what stands after a tab, one of `values`."""
    known = set(classes)
    keys: dict[str, str] = {}
    for number, line in _lines(path):
        key, _, value = (part.strip() for part in line.partition("\t"))
        label, _, file = key.partition("/")
        if label not in known or not _is_file_name(file):
            raise UserError(f"{path} line {number} names no class and picture: {line!r}")
        if key in keys:
            raise UserError(f"{path} line {number} names {key} a second time")
        if value not in values:
            wanted = " or ".join(values) or "nothing"
            raise UserError(f"{path} line {number}: after {key} stands {value!r}, not {wanted}")
        keys[key] = value
    return keys


def _is_file_name(name: str) -> bool:
    return bool(name) and name not in (".", "..") and not any(mark in name for mark in "/\\\0")
