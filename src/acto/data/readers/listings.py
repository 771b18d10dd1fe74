"""Data sets of picture files: folders of classes, manifests (CSV, TSV, Parquet) and Food101N's lists.

Nothing is decoded here: the result names files, their labels as text, and where each row comes from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from acto.core.errors import UserError, choose
from acto.data.pictures.files import SUFFIXES
from acto.data.readers.archives import missing_column, read_parquet
from acto.data.readers.file_tree import folders_in, links_out, walk
from acto.data.readers.text_files import check_titles, read_text, rows_of

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
    labels = _texts(table[columns.label], columns.label, manifest, rows)
    truths = _texts(table.get(columns.true_label, ()), columns.true_label, manifest, rows)
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
    notes = links_out([manifest.parent / file for file in files], manifest.parent)
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
        ids = [text.removeprefix("'") for text in _texts(table[ID_COLUMN], ID_COLUMN, path, rows)]
        if "" in ids:
            raise UserError(f"{path} row {rows[ids.index('')]} has no {ID_COLUMN}")
    name, times = Counter(ids).most_common(1)[0]
    if times > 1:
        twice = [str(row) for each, row in zip(ids, rows, strict=True) if each == name]
        raise UserError(f"{path}: {name} occurs in rows {', '.join(twice[:_SHOWN])}; each sample needs one row")
    return ids, files


def _texts(values: Sequence[object], column: str, path: Path, rows: Sequence[int]) -> list[str]:
    for value, row in zip(values, rows, strict=False):
        if value is not None and not isinstance(value, str | bool | int | float):
            raise UserError(f"{path} row {row}: {column} is {type(value).__name__}, no text and no number")
        if isinstance(value, str) and "\0" in value:
            raise UserError(f"{path} row {row}: {column} holds a NUL character: {value!r}")
    return ["" if value is None else str(value) for value in values]


def _read_csv(manifest: Path, needed: Sequence[str], optional: Sequence[str]) -> tuple[dict[str, list[str]], list[int]]:
    """The columns of a CSV or TSV file by name, and the line on which each row ends."""
    delimiter = "\t" if manifest.suffix.lower() == ".tsv" else ","
    reader = rows_of(read_text(manifest), str(manifest), delimiter=delimiter)
    header = [title.strip() for title in next(reader, (0, []))[1]]
    check_titles(header, [*needed, *optional], str(manifest))
    for column in needed:
        if column not in header:
            raise UserError(missing_column(manifest, column, header))
    wanted = {column: header.index(column) for column in (*needed, *optional) if column in header}
    table: dict[str, list[str]] = {column: [] for column in wanted}
    lines = []
    for line, cells in reader:
        if len(cells) != len(header):
            raise UserError(f"{manifest} row {line} has {len(cells)} cells, the heading {len(header)}")
        lines.append(line)
        for column, position in wanted.items():
            table[column].append(cells[position].strip())
    return table, lines


def _confined(value: object, manifest: Path, row: int) -> str:
    """A path of the manifest as id, refused if it could lead out of the manifest's folder."""
    text = "" if value is None else value if isinstance(value, str) else repr(value)
    path = PurePosixPath(text)
    leaves = path.is_absolute() or ".." in path.parts or PureWindowsPath(text).drive
    if leaves or not path.name or not isinstance(value, str) or "\\" in text or "\0" in text:
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


_HEADING = "class_name"


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
