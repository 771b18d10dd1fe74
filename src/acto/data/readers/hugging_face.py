"""Data sets of Hugging Face on the disk: folders of `save_to_disk`, and Parquet files as the Hub has them.

Read with pyarrow alone: a folder of `save_to_disk` is Arrow streams and JSON. Class names stand in its JSON, in the
metadata of a Parquet file, in dataset_infos.json, at the head of README.md, or in COLUMN_names.txt, a name a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from acto.core.documents import parse_yaml, read_json
from acto.core.errors import UserError
from acto.data.pictures.kinds import SUFFIXES
from acto.data.readers.file_tree import folders_in, walk
from acto.data.readers.parquet import parquet_file
from acto.data.readers.place import Place
from acto.data.readers.record_tables import PICTURE, VECTOR, ParquetTable, Table, arrow_file, kind_of
from acto.data.readers.records import Source, read_records, read_records_bare
from acto.data.readers.split_files import splits_of_files
from acto.data.readers.tables import asks_for_rows
from acto.data.readers.text_files import read_text
from acto.data.samples import DataSpec, Raw

DICT, STATE, INFO, INFOS = "dataset_dict.json", "state.json", "dataset_info.json", "dataset_infos.json"
_DEEPEST = 3
"""Levels of folders below which Parquet files are looked for: CONFIGURATION/SPLIT/FILE, or data/FILE."""
_README_BYTES = 1 << 20

Classes = Mapping[str, Sequence[str]]


def is_hugging_face(path: Path, spec: DataSpec) -> bool:
    """Tell a data set of Hugging Face from folders of pictures, its Parquet files from tables of numbers and paths."""
    if path.suffix.lower() == ".arrow":
        return path.is_file()
    if path.suffix.lower() == ".parquet" and path.is_file():
        return _is_no_manifest(path, spec)
    if not path.is_dir():
        return False
    if _is_saved(path) or (path / DICT).is_file():
        return True
    return bool(_parquet_files(path)) and not any(file.suffix.lower() in SUFFIXES for file in walk(path))


def read(spec: DataSpec, place: Place) -> Raw:
    """Read a data set with its labels, see acto.data.readers.records."""
    return read_records(open_source(place.own), spec, place)


def read_bare(spec: DataSpec, place: Place) -> Raw:
    """Read the samples of all its splits that would be trained or tested on, without their labels."""
    return read_records_bare(open_source(place.own), spec)


def open_source(path: Path) -> Source:
    """Open the tables of a data set.

    Raises:
        UserError: its files are missing or damaged, or it has several configurations.
    """
    if path.suffix.lower() == ".parquet" and path.is_file():
        return Source(name=path.stem, folder=path.parent, splits={"": [_parquet(path, path.parent)]})
    if path.is_file():
        return Source(name=path.stem, folder=path.parent, splits={"": [arrow_file(path)]})
    if (path / DICT).is_file():
        names = _mapping(read_json(path / DICT), path / DICT).get("splits")
        if not _are_texts(names) or not names or any(_is_no_name(name) for name in names):
            raise UserError(f"{path / DICT} must list the folders of its splits")
        return Source(name=path.name, folder=path, splits={name: _saved(path / name) for name in names})
    if _is_saved(path):
        return Source(name=path.name, folder=path, splits={"": _saved(path)})
    return _hub(path)


def _is_saved(folder: Path) -> bool:
    return (folder / STATE).is_file() and (folder / INFO).is_file()


def _saved(folder: Path) -> list[Table]:
    """The tables of a folder that `Dataset.save_to_disk` wrote."""
    if not _is_saved(folder):
        raise UserError(f"{folder} lacks {STATE} or {INFO}: it is no whole folder of save_to_disk")
    state, info = (_mapping(read_json(folder / name), folder / name) for name in (STATE, INFO))
    files = state.get("_data_files")
    if not isinstance(files, list) or not all(isinstance(file, dict) for file in files):
        raise UserError(f"{folder / STATE} must list its files under _data_files")
    names = [file.get("filename") for file in files]
    if odd := [name for name in names if not isinstance(name, str) or _is_no_name(name)]:
        raise UserError(f"{folder / STATE}: {odd[0]!r} is no file in {folder}")
    if missing := [name for name in names if not (folder / str(name)).is_file()]:
        raise UserError(f"{folder} lacks {missing[0]}, which {STATE} lists: it is no whole folder of save_to_disk")
    classes = classes_in(info.get("features"))
    return [arrow_file(folder / str(name), classes=classes) for name in names]


def _hub(root: Path) -> Source:
    """Parquet files as the Hub has them: data/train-00000-of-00002.parquet, or CONFIGURATION/train/0000.parquet."""
    beside = _classes_beside(root)
    splits = {
        split: [_parquet(file, root, beside) for file in files]
        for split, files in splits_of_files(root, _parquet_files(root)).items()
    }
    return Source(name=root.resolve().name, folder=root, splits=splits)


def _parquet_files(root: Path) -> list[Path]:
    """The Parquet files of a folder, or of folders in it where it has none itself."""
    level = [root]
    for _ in range(_DEEPEST):
        if files := [file for folder in level for file in _files_in(folder)]:
            return files
        level = [folder / name for folder in level for name in folders_in(folder)]
    return []


def _files_in(folder: Path) -> Iterable[Path]:
    return sorted(file for file in folder.glob("*.parquet") if not file.name.startswith(".") and file.is_file())


def _is_no_manifest(file: Path, spec: DataSpec) -> bool:
    """Tell a Parquet file of pictures, vectors, features or texts from one of paths, or one that cannot be read."""
    if asks_for_rows(spec):
        return True
    try:
        with parquet_file(file) as opened:
            kinds = {field.name: kind_of(field.type) for field in opened.schema_arrow}
            if any(
                str(field.type).startswith("struct") for field in opened.schema_arrow if kinds[field.name] == PICTURE
            ):
                return True
            usual = DataSpec().path_column
            has_content = spec.path_column == usual or not {PICTURE, VECTOR}.isdisjoint(kinds.values())
            return has_content and usual not in kinds
    except UserError:
        return False  # the reader of tables says why


def _parquet(file: Path, root: Path, beside: Classes | None = None) -> Table:
    table = ParquetTable(file)
    facts = (table.schema.metadata or {}).get(b"huggingface", b"{}")
    found = dict(_classes_beside(root) if beside is None else beside)
    with suppress(ValueError, KeyError, TypeError, RecursionError):  # another program's, or none
        found |= classes_in(json.loads(facts)["info"]["features"])
    table.classes = {name: tuple(names) for name, names in found.items()}
    return table


def classes_in(features: Any) -> dict[str, tuple[str, ...]]:
    """The class names of the columns that are a ClassLabel, as JSON and YAML of `datasets` write features."""
    if isinstance(features, list):  # YAML: a list, in which a dtype holds what JSON has itself
        features = {
            each["name"]: _class_label(each.get("dtype"))
            for each in features
            if isinstance(each, dict) and isinstance(each.get("name"), str)
        }
    if not isinstance(features, dict):
        return {}
    found = {}
    for name, feature in features.items():
        names = feature.get("names") if isinstance(feature, dict) else None
        if _are_texts(names) and names:
            found[str(name)] = tuple(names)
    return found


def _class_label(kind: Any) -> Any:
    """Say what YAML says of a class label, {class_label: {names: {"0": cat, ...}}}, as JSON says it."""
    label = kind.get("class_label") if isinstance(kind, dict) else None
    names = label.get("names") if isinstance(label, dict) else None
    if isinstance(names, dict):
        try:
            in_order = sorted(names.items(), key=lambda item: int(item[0]))
        except ValueError:
            return None
        names = [str(name) for number, name in in_order]
        if [int(number) for number, _ in in_order] != list(range(len(in_order))):
            return None
    return {"names": [str(name) for name in names]} if isinstance(names, list) else None


def _classes_beside(root: Path) -> dict[str, tuple[str, ...]]:
    """The class names that stand beside Parquet files.

    Raises:
        UserError: a file of them cannot be read.
    """
    found: dict[str, tuple[str, ...]] = {}
    for folder in dict.fromkeys((root.parent, root)):
        if (folder / "README.md").is_file():
            found |= _in_each(_front_matter(folder / "README.md").get("dataset_info"))
        if (folder / INFOS).is_file():
            found |= _in_each(list(_mapping(read_json(folder / INFOS), folder / INFOS).values()))
        if folder == root:
            for file in sorted(folder.glob("*_names.txt")):
                column = file.name.removesuffix("_names.txt")
                found[column] = tuple(line.strip() for line in read_text(file).splitlines() if line.strip())
    return found


def _in_each(infos: Any) -> dict[str, tuple[str, ...]]:
    """The class names of all configurations, where those that name a column do so alike."""
    found: dict[str, tuple[str, ...]] = {}
    odd = set()
    for info in infos if isinstance(infos, list) else [infos]:
        for column, names in classes_in(info.get("features") if isinstance(info, dict) else None).items():
            if found.setdefault(column, names) != names:
                odd.add(column)
    return {column: names for column, names in found.items() if column not in odd}


def _front_matter(readme: Path) -> dict[str, Any]:
    """The YAML at the head of a file, between lines of three dashes; nothing where it has none that can be read."""
    try:
        if readme.stat().st_size > _README_BYTES:
            return {}
        parts = read_text(readme).replace("\r\n", "\n").split("---\n", 2)
        found = parse_yaml(parts[1], str(readme)) if len(parts) == 3 and not parts[0] else {}
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}


def _mapping(content: Any, file: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UserError(f"{file} must hold an object, not a {type(content).__name__}")
    return content


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _is_no_name(name: str) -> bool:
    """Say whether a name leads elsewhere than into its folder."""
    return name in ("", ".", "..") or any(mark in name for mark in "/\\\0:")
