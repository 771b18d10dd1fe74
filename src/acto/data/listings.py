"""Data sets of picture files: folders of classes, manifests (CSV, TSV, Parquet) and Food101N's lists.

Nothing is decoded here: the result names files, their labels as text, and where each row comes from.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from acto.data.archives import missing_column, read_parquet
from acto.data.pictures import SUFFIXES
from acto.errors import UserError, choose

MANIFEST_SUFFIXES = (".csv", ".tsv", ".parquet")
TEST_FOLDERS = ("test", "val", "valid", "validation")
HELD_OUT = "heldout"
"""The split of rows that a run held out of noisy data: they are tested on, and their labels may be wrong too."""
ID_COLUMN = "sample_id"
"""A column that only ACTO's own manifests have: ids that stay the same wherever the manifest lies."""
NONE_OF_THESE = "(none of these)"
"""The true label of a sample whose label people found wrong."""
_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """Picture files with their labels, as text."""

    ids: tuple[str, ...]
    """Path of each sample, relative to the data set, with forward slashes."""
    paths: tuple[Path, ...]
    labels: tuple[str, ...]
    true_labels: tuple[str, ...] | None = None
    """Empty where nobody knows."""
    file: str = ""
    rows: tuple[int, ...] = ()
    """Where a manifest says so: its name, and each sample's row (the heading is row 1)."""

    def where(self, i: int) -> str:
        """The place of sample i, for messages."""
        return f"{self.file} row {self.rows[i]} ({self.ids[i]})" if self.rows else self.ids[i]


@dataclass(frozen=True, kw_only=True, slots=True)
class Listings:
    """A data set's splits, before anything is decoded."""

    train: Listing
    test: Listing | None
    class_names: tuple[str, ...] = ()
    """The class list, where the source has one of its own; empty: to be inferred from the labels."""
    test_is_held_out: bool = False
    """Whether the test split is held-out training data, so that its labels may be wrong too."""
    notes: tuple[str, ...] = ()


def read_folder(root: Path) -> Listings:
    """ROOT/CLASS/pictures, or ROOT/train/CLASS/pictures with ROOT/test or ROOT/val beside it.

    Classes are sorted by name (by number, where all are numbers). Folders inside a class are searched too. Files and
    folders whose name starts with a dot, and files that are no pictures, are left out.

    Raises:
        UserError: no classes, or a class without a picture.
    """
    notes: list[str] = []
    tests = []
    folder = root
    if _classes_in(root / "train"):
        folder = root / "train"
        tests = [name for name in TEST_FOLDERS if _classes_in(root / name)]
        if left_out := [name for name in TEST_FOLDERS if (root / name).is_dir() and name not in tests[:1]]:
            notes.append(
                f"the folders {', '.join(left_out)} are left out" + (f": {tests[0]} is tested on" if tests else "")
            )
    classes = _classes_in(folder)
    if len(classes) < 2:
        raise UserError(
            f"{folder} has {len(classes)} class folders, but at least two are needed: "
            "FOLDER/CLASS/picture.jpg, or FOLDER/train/CLASS/picture.jpg with FOLDER/test beside it"
        )
    train = _listing(root, folder, classes, notes)
    test = None
    if tests:
        test_classes = _classes_in(root / tests[0])
        if strangers := [name for name in test_classes if name not in classes]:
            shown = ", ".join(map(repr, strangers[:_SHOWN]))
            raise UserError(f"{root / tests[0]} has classes that {folder} has not: {shown}")
        test = _listing(root, root / tests[0], test_classes, notes, may_be_empty=True)
    return Listings(train=train, test=test, class_names=tuple(classes), notes=tuple(notes))


def _classes_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    names = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


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
    ids = tuple(path.relative_to(root).as_posix() for path in paths)
    return Listing(ids=ids, paths=tuple(paths), labels=tuple(labels))


def walk(folder: Path) -> Iterator[Path]:
    """Every file below `folder`, sorted; hidden files and folders are left out."""
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestColumns:
    """Names of a manifest's columns."""

    path: str = "path"
    label: str = "label"
    split: str = "split"
    true_label: str = "true_label"


def read_manifest(manifest: Path, columns: ManifestColumns) -> Listings:
    """A table with a row for each picture: path, label, and optionally split and true_label.

    Paths are relative to the manifest's folder and may not leave it. Splits are train, test, and val (also valid,
    validation), which is the test set where no row says test. The split and true_label columns may be missing under
    their usual names; another name must be there. A manifest of `acto apply` has a column sample_id as well: ids are
    taken from it, and texts lose the apostrophe that disarms formulas. It may have the split heldout.

    Raises:
        UserError: a missing column, a path that leaves the folder or occurs twice, or an unknown split.
    """
    needed = [columns.path, columns.label]
    usual = ManifestColumns()
    optional = [ID_COLUMN]
    for column, usual_name in ((columns.split, usual.split), (columns.true_label, usual.true_label)):
        (optional if column == usual_name else needed).append(column)
    table, rows = read_table(manifest, needed, optional)
    ids, files = ids_and_files(table, rows, manifest, path_column=columns.path)
    own = ID_COLUMN in table
    splits = [_split(value, manifest, row) for value, row in zip(table.get(columns.split, ()), rows, strict=False)]
    labels, truths = _texts(table[columns.label]), _texts(table.get(columns.true_label, ()))
    if own:
        labels, truths = ([text.removeprefix("'") for text in texts] for texts in (labels, truths))

    def listing(split: str) -> Listing:
        chosen = [i for i in range(len(ids)) if not splits or splits[i] == split]
        return Listing(
            ids=tuple(ids[i] for i in chosen),
            paths=tuple(manifest.parent / files[i] for i in chosen),
            labels=tuple(labels[i] for i in chosen),
            true_labels=tuple(truths[i] for i in chosen) if truths else None,
            file=manifest.name,
            rows=tuple(rows[i] for i in chosen),
        )

    if splits and "train" not in splits:
        raise UserError(f"{manifest}: no row has the split 'train'")
    test_split = next((split for split in ("test", "val", HELD_OUT) if split in splits), None)
    notes = []
    if test_split == "test" and "val" in splits:
        notes.append(f"{splits.count('val')} rows of {manifest.name} have the split val and were left out")
    return Listings(
        train=listing("train"),
        test=listing(test_split) if test_split else None,
        test_is_held_out=test_split == HELD_OUT,
        notes=tuple(notes),
    )


def read_table(
    path: Path, needed: Sequence[str], optional: Sequence[str] = ()
) -> tuple[dict[str, list[Any]], Sequence[int]]:
    """These columns of a .csv, .tsv or .parquet table by name, and the line (or row) on which each row ends.

    Raises:
        UserError: a needed column is missing, the table cannot be read, or it has no rows.
    """
    if path.suffix.lower() == ".parquet":
        table: dict[str, list[Any]] = read_parquet(path, needed, optional=optional)
        rows: Sequence[int] = range(1, len(table[needed[0]]) + 1)
    else:
        table, rows = _read_csv(path, needed, optional)
    if not rows:
        raise UserError(f"{path} has no rows")
    return table, rows


def ids_and_files(
    table: Mapping[str, Sequence[object]], rows: Sequence[int], path: Path, *, path_column: str
) -> tuple[list[str], list[str]]:
    """The ids of a table's rows, and their files relative to the table's folder.

    Raises:
        UserError: a path that leaves the folder, or an id that occurs twice.
    """
    files = ids = [_confined(value, path, row) for value, row in zip(table[path_column], rows, strict=True)]
    if ID_COLUMN in table:  # a manifest of `acto apply`
        ids = [text.removeprefix("'") for text in _texts(table[ID_COLUMN])]
    name, times = Counter(ids).most_common(1)[0]
    if times > 1:
        twice = [str(row) for each, row in zip(ids, rows, strict=True) if each == name]
        raise UserError(f"{path}: {name} occurs in rows {', '.join(twice[:_SHOWN])}; each sample needs one row")
    return ids, files


def _texts(values: Sequence[object]) -> list[str]:
    return ["" if value is None else str(value) for value in values]


def _read_csv(manifest: Path, needed: Sequence[str], optional: Sequence[str]) -> tuple[dict[str, list[str]], list[int]]:
    """The columns of a CSV or TSV file by name, and the line on which each row ends."""
    delimiter = "\t" if manifest.suffix.lower() == ".tsv" else ","
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            header = [title.strip() for title in next(reader, [])]
            for column in needed:
                if column not in header:
                    raise UserError(missing_column(manifest, column, header))
            wanted = {column: header.index(column) for column in (*needed, *optional) if column in header}
            table: dict[str, list[str]] = {column: [] for column in wanted}
            lines = []
            for cells in reader:
                if not cells:
                    continue  # an empty line
                if len(cells) != len(header):
                    raise UserError(
                        f"{manifest} row {reader.line_num} has {len(cells)} cells, the heading {len(header)}"
                    )
                lines.append(reader.line_num)
                for column, position in wanted.items():
                    table[column].append(cells[position].strip())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{manifest} cannot be read as a table: {error}") from error
    return table, lines


def _confined(value: object, manifest: Path, row: int) -> str:
    """A path of the manifest as id, refused if it could lead out of the manifest's folder."""
    text = "" if value is None else str(value)
    path = PurePosixPath(text)
    leaves = path.is_absolute() or ".." in path.parts or PureWindowsPath(text).drive
    if leaves or not text or "\\" in text or "\0" in text:
        raise UserError(
            f"{manifest} row {row}: {text!r} is no path inside {manifest.parent}: "
            "paths are relative to the manifest, with forward slashes and without '..'"
        )
    return path.as_posix()


def _split(value: object, manifest: Path, row: int) -> str:
    text = "" if value is None else str(value).lower()
    if text not in ("train", *TEST_FOLDERS, HELD_OUT):
        choose(f"split in {manifest} row {row}", text, ("train", *TEST_FOLDERS))
    return "val" if text in ("valid", "validation") else text


def read_food101n(root: Path) -> Listings:
    """Food101N with the Food-101 test split nested in it, as the public code lays them out.

    ROOT/meta/classes.txt, ROOT/meta/imagelist.tsv (class/file a line), ROOT/images; ROOT/food-101/meta/classes.txt,
    ROOT/food-101/meta/test.txt (class/id a line) and ROOT/food-101/images. A first line that names no class is a
    heading. ROOT/meta/verified_train.tsv and verified_val.tsv, where they are, tell of some labels whether they are
    right: a right one is the true label, of a wrong one no more is known than that it is NONE_OF_THESE.

    Raises:
        UserError: a list is missing, or a line names no class.
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
            verdicts |= _keys(root / "meta" / name, classes)
    if strangers := verdicts.keys() - keys.keys():
        notes.append(
            f"{len(strangers)} verdicts are for pictures that imagelist.tsv does not have, e.g. {min(strangers)}"
        )
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


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Food101N: {path} cannot be read: {error}") from None


def _classes_of(path: Path) -> list[str]:
    return [line for line in _lines(path) if line and line != "class_name"]


def _keys(path: Path, classes: Sequence[str]) -> dict[str, str]:
    """The lines of a list: class/file, and what stands after a tab."""
    known = set(classes)
    keys = {}
    for number, line in enumerate(_lines(path), start=1):
        key, _, value = line.partition("\t")
        label, slash, file = key.partition("/")
        if label in known and slash and file and "/" not in file and file != "..":
            keys[key] = value.strip()
        elif number > 1 and line:
            raise UserError(f"{path} line {number} names no class and picture: {line!r}")
    return keys
