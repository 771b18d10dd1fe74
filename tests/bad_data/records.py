"""Cases of records: data sets of Hugging Face, JSON Lines, tar shards, and arrays as keras and MedMNIST name them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from acto.data.samples import DataSpec
from acto.data.sources import load_data
from bad_data.corpus import Case, Found, Pairs, found_in
from bad_data.pictures import CLASSES, MARKS, NAMES, encoded, picture, pipe, write_all
from record_data import write_arrow, write_saved, write_tar

PICTURES = [encoded(picture(mark)) for mark in MARKS]
WHOLE: Pairs = {name: (label, mark) for name, label, mark in zip(NAMES, CLASSES, MARKS, strict=True)}
ROWS: Pairs = {str(row): (label, mark) for row, (label, mark) in enumerate(zip(CLASSES, MARKS, strict=True))}
NUMBERED = [0, 0, 1, 1]
FACTS = {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def read(folder: Path, name: str, **settings: Any) -> Found:
    """Read with the cache inside of the folder."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    try:
        return found_in(load_data(DataSpec(source=str(folder / name), holdout_share=0.5, **settings), workers=1))
    finally:
        if before is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = before


def table(
    pictures: Sequence[bytes | None] = PICTURES,
    labels: Sequence[Any] = NUMBERED,
    names: Sequence[str | None] = NAMES,
    **columns: Any,
) -> pa.Table:
    rows = [{"bytes": content, "path": name} for content, name in zip(pictures, names, strict=True)]
    return pa.table({"image": pa.array(rows, STRUCT), "label": labels, **columns})


def _case(
    reader: str,
    name: str,
    make: Callable[[Path], object],
    source: str,
    *,
    says: Sequence[str] = (),
    pairs: Pairs | None = None,
    notes: Sequence[str] = (),
    **settings: Any,
) -> Case:
    return Case(
        reader=reader,
        name=name,
        make=make,
        read=partial(read, name=source, **settings),
        says=tuple(says),
        pairs=pairs,
        notes=tuple(notes),
    )


def _parquet(name: str, made: pa.Table, *, facts: Any = FACTS, **outcome: Any) -> Case:
    def make(folder: Path) -> None:
        about = {"huggingface": facts if isinstance(facts, str) else json.dumps({"info": {"features": facts}})}
        pyarrow.parquet.write_table(made.replace_schema_metadata(about), folder / "t.parquet")

    return _case("Hugging Face (Parquet)", name, make, "t.parquet", **outcome)


def _saved(name: str, change: Callable[[Path], object] = lambda saved: None, made: Any = None, **outcome: Any) -> Case:
    def make(folder: Path) -> None:
        change(write_saved(folder / "s", table() if made is None else made, FACTS))

    return _case("Hugging Face (save_to_disk)", name, make, "s", **outcome)


def _hub(name: str, make: Callable[[Path], object], **outcome: Any) -> Case:
    return _case("Hugging Face (folder of Parquet)", name, make, "h", **outcome)


def _lines(name: str, *rows: Any, **outcome: Any) -> Case:
    def make(folder: Path) -> None:
        write_all(folder / "data")
        texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (folder / "data" / "l.jsonl").write_text("\n".join(texts) + "\n", errors="surrogateescape")

    return _case("JSON Lines", name, make, "data/l.jsonl", **outcome)


def _tar(
    name: str, members: Sequence[tuple[str, bytes]], *, mode: str = "w", file: str = "t.tar", **outcome: Any
) -> Case:
    return _case("tar shards", name, lambda folder: write_tar(folder / file, members, mode), file, **outcome)


def _npz(name: str, arrays: Mapping[str, Any], **outcome: Any) -> Case:
    return _case(
        "arrays of keras, MedMNIST", name, lambda folder: np.savez(folder / "a.npz", **arrays), "a.npz", **outcome
    )


def _files(*names: str, made: pa.Table | None = None) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for name in names:
            file = folder / "h" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            about = {"huggingface": json.dumps({"info": {"features": FACTS}})}
            pyarrow.parquet.write_table((table() if made is None else made).replace_schema_metadata(about), file)

    return make


def _with_readme(text: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "h").mkdir()
        pyarrow.parquet.write_table(table(), folder / "h" / "train.parquet")
        (folder / "h" / "README.md").write_text(text)

    return make


def _cut(file: Path, share: float = 0.6) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


def _arrow(saved: Path) -> Path:
    return saved / "data-00000-of-00001.arrow"


def _state(content: object) -> Callable[[Path], object]:
    return lambda saved: (saved / "state.json").write_text(json.dumps(content))


def _compressed(saved: Path) -> None:
    write_arrow(_arrow(saved), table(), options=pa.ipc.IpcWriteOptions(compression="zstd"))


LISTS = pa.list_(pa.float32())
VECTORS = [[float(mark), 1.0] for mark in MARKS]
PARQUET = [
    _parquet("whole", table(), pairs=WHOLE, notes=["the column 'image' (pictures)", "are kept unpacked in"]),
    _parquet("no names of pictures", table(names=[None] * 4), pairs=ROWS),
    _parquet("one name for all pictures", table(names=["image.png"] * 4), pairs=ROWS),
    _parquet(
        "no metadata: numbers are the classes",
        table(),
        facts={},
        pairs={n: (str(k), m) for n, k, m in zip(NAMES, NUMBERED, MARKS, strict=True)},
    ),
    _parquet("metadata that are no JSON", table(labels=CLASSES), facts="{", pairs=WHOLE),
    _parquet(
        "metadata of the wrong kinds",
        table(labels=CLASSES),
        facts='{"info": {"features": [1, {"name": 3}]}}',
        pairs=WHOLE,
    ),
    _parquet(
        "a class of the list without samples",
        table(),
        facts={"label": {"names": ["cat", "dog", "yak"]}},
        pairs=WHOLE,
        notes=["1 of 3 classes have no sample", "'yak'"],
    ),
    _parquet(
        "a number beyond the list",
        table(labels=[0, 0, 1, 2]),
        says=["t.parquet row 4: label is 2, but its classes are numbered 0 to 1"],
    ),
    _parquet(
        "a label that is missing (-1)",
        table(labels=[0, 0, 1, -1]),
        says=["a label is missing (1 row): t.parquet row 4 (d.png)"],
    ),
    _parquet(
        "a label that is null", table(labels=[0, None, 1, 1]), says=["a label is missing (1 row): t.parquet row 2"]
    ),
    _parquet(
        "a row without a picture",
        table([*PICTURES[:3], None], names=[*NAMES[:3], None]),
        says=["t.parquet row 4: image is empty: there is no picture"],
    ),
    _parquet(
        "a path outside in place of a picture",
        table([*PICTURES[:3], None], names=[*NAMES[:3], "/etc/passwd"]),
        says=["t.parquet row 4: '/etc/passwd' is no path inside"],
    ),
    _parquet(
        "bytes that are no picture",
        table([*PICTURES[:3], b"no picture"]),
        says=["t.parquet row 4 (d.png): not a picture of a known kind"],
    ),
    _parquet("a picture cut off", table([*PICTURES[:3], PICTURES[3][:40]]), says=["t.parquet row 4 (d.png)"]),
    _parquet(
        "two columns of pictures",
        table(mask=table()["image"]),
        says=["may be the samples: 'image', 'mask'. Say which: --data.path_column image"],
    ),
    _parquet(
        "several columns of labels",
        table().rename_columns(["image", "labels"]).append_column("fine_label", [NUMBERED]),
        says=["may be the labels: 'labels', 'fine_label'. Say which: --data.label_column labels"],
    ),
    _parquet(
        "another column asked for", table(), says=["has no column 'lable'. Did you mean 'label'?"], label_column="lable"
    ),
    _parquet(
        "labels that are lists",
        table(labels=[[1], [1], [2], [2]]),
        says=["column 'label' holds vectors, and no labels"],
    ),
    _parquet(
        "vectors", pa.table({"v": pa.array(VECTORS, LISTS), "label": NUMBERED}), pairs=ROWS, notes=["'v' (vectors)"]
    ),
    _parquet(
        "vectors of several lengths",
        pa.table({"v": pa.array([*VECTORS[:3], [1.0]], LISTS), "label": NUMBERED}),
        says=["t.parquet row 4: v has 1 numbers, t.parquet row 1 2"],
    ),
    _parquet(
        "a vector that is null",
        pa.table({"v": pa.array([*VECTORS[:3], None], LISTS), "label": NUMBERED}),
        says=["t.parquet row 4: v lacks numbers"],
    ),
    _parquet(
        "a number of a vector that is null",
        pa.table({"v": pa.array([*VECTORS[:3], [1.0, None]], LISTS), "label": NUMBERED}),
        says=["t.parquet row 4: v lacks numbers"],
    ),
    _parquet(
        "NaN in a vector",
        pa.table({"v": pa.array([*VECTORS[:3], [1.0, float("nan")]], LISTS), "label": NUMBERED}),
        says=["v has values that are not finite in 1 row, the first 3"],
    ),
    _parquet("no rows", table([], pa.array([], pa.int64()), []), says=["t.parquet has no rows"]),
    _parquet("a split column", table(split=["train", "train", "train", "test"], labels=CLASSES), pairs=WHOLE),
    _parquet(
        "a split that is none",
        table(split=["train", "train", "test", "tset"]),
        says=["split in t.parquet row 4", "'tset'"],
    ),
]
SAVED = [
    _saved("whole", pairs=WHOLE, notes=["'image' (pictures) of data-00000-of-00001.arrow"]),
    _saved(
        "the arrow file cut off",
        lambda saved: _cut(_arrow(saved)),
        says=["data-00000-of-00001.arrow is not a readable Arrow file"],
    ),
    _saved("the arrow file empty", lambda saved: _arrow(saved).write_bytes(b""), says=["is not a readable Arrow file"]),
    _saved("the arrow file compressed", _compressed, says=["data-00000-of-00001.arrow is compressed", "save_to_disk"]),
    _saved(
        "the arrow file missing",
        lambda saved: _arrow(saved).unlink(),
        says=["lacks data-00000-of-00001.arrow, which state.json lists"],
    ),
    _saved(
        "a pipe in its place",
        lambda saved: (_arrow(saved).unlink(), pipe(_arrow(saved))),
        says=["lacks data-00000-of-00001.arrow"],
    ),
    _saved(
        "state.json leads out",
        _state({"_data_files": [{"filename": "../../x.arrow"}]}),
        says=["state.json: '../../x.arrow' is no file in"],
    ),
    _saved(
        "state.json lists numbers",
        _state({"_data_files": [3]}),
        says=["state.json must list its files under _data_files"],
    ),
    _saved("state.json is a list", _state([1]), says=["state.json must hold an object"]),
    _saved(
        "state.json is no JSON",
        lambda saved: (saved / "state.json").write_text("{"),
        says=["cannot read", "state.json"],
    ),
    _saved("a picture cut off", made=table([*PICTURES[:3], PICTURES[3][:40]]), says=["arrow row 4 (d.png)"]),
    _saved(
        "numbers alone",
        made=pa.table({"a": [1.5] * 4, "label": NUMBERED}),
        says=["arrow has no column that can be a feature beside its labels 'label'", "'a', which never varies"],
    ),
]
HUB = [
    _hub("one file without a split", _files("0000.parquet"), pairs=WHOLE),
    _hub(
        "train and test",
        _files("data/train-0.parquet", "data/test-0.parquet"),
        pairs={f"{s}/{n}": p for s in ("train", "test") for n, p in WHOLE.items()},
    ),
    _hub(
        "splits as folders of a configuration",
        _files("default/train/0000.parquet", "default/validation/0000.parquet"),
        pairs={f"{s}/{n}": p for s in ("train", "validation") for n, p in WHOLE.items()},
    ),
    _hub(
        "an unlabelled test split",
        lambda folder: (_files("train.parquet")(folder), _files("test.parquet", made=table(labels=[-1] * 4))(folder)),
        pairs={f"train/{n}": p for n, p in WHOLE.items()},
        notes=["the split test has no labels, and is left out"],
    ),
    _hub(
        "two configurations",
        _files("a/train-0.parquet", "b/train-0.parquet"),
        says=["holds several configurations", "'a', 'b'"],
    ),
    _hub(
        "no split for training",
        _files("test.parquet", "validation.parquet"),
        says=["has the splits 'test', 'validation', and none that is called train"],
    ),
    _hub(
        "a file that lacks a column",
        lambda folder: (
            _files("train-0.parquet")(folder),
            _files("train-1.parquet", made=table().drop_columns(["label"]))(folder),
        ),
        says=["train-1.parquet has no column 'label'"],
    ),
    _hub(
        "a damaged file",
        lambda folder: (_files("train-0.parquet", "train-1.parquet")(folder), _cut(folder / "h" / "train-1.parquet")),
        says=["train-1.parquet is not a readable Parquet file"],
    ),
    _hub(
        "class names at the head of README.md",
        _with_readme(
            "---\ndataset_info:\n  features:\n  - name: label\n    dtype:\n      class_label:\n        names:\n"
            "          '0': cat\n          '1': dog\n---\nwords"
        ),
        pairs=WHOLE,
    ),
    _hub(
        "a README.md that is no YAML",
        _with_readme("---\n{[\n---\n"),
        pairs={n: (str(k), m) for n, k, m in zip(NAMES, NUMBERED, MARKS, strict=True)},
    ),
]
PATHS = [{"path": name, "label": label} for name, label in zip(NAMES, CLASSES, strict=True)]
LINES = [
    _lines("whole", *PATHS, pairs=WHOLE),
    _lines("empty lines", PATHS[0], "", *PATHS[1:], "  ", pairs=WHOLE),
    _lines("vectors", *({"v": v, "label": k} for v, k in zip(VECTORS, CLASSES, strict=True)), pairs=ROWS),
    _lines("a line that is no JSON", *PATHS[:3], '{"path": "d.png"', says=["l.jsonl line 4"]),
    _lines("a line that is a list", *PATHS[:3], ["d.png", "dog"], says=["l.jsonl line 4 is no object"]),
    _lines(
        "nested a thousandfold", *PATHS[:3], "[" * 1000 + "]" * 1000, says=["l.jsonl line 4", "deep in one another"]
    ),
    _lines(
        "a line without a label",
        *PATHS[:3],
        {"path": "d.png"},
        says=["a label is missing (1 row): l.jsonl line 4 (d.png)"],
    ),
    _lines("a line without a path", *PATHS[:3], {"label": "dog"}, says=["l.jsonl line 4: '' is no path inside"]),
    _lines(
        "a label that is an object", *PATHS[:3], {"path": "d.png", "label": {"a": 1}}, says=["not dict: l.jsonl line 4"]
    ),
    _lines(
        "..", *PATHS[:3], {"path": "../d.png", "label": "dog"}, says=["l.jsonl line 4: '../d.png' is no path inside"]
    ),
    _lines(
        "an absolute path",
        *PATHS[:3],
        {"path": "/etc/passwd", "label": "dog"},
        says=["l.jsonl line 4: '/etc/passwd' is no path inside", "--data.base"],
    ),
    _lines("a number as path", *PATHS[:3], {"path": 3, "label": "dog"}, says=["l.jsonl line 4: '3' is no path inside"]),
    _lines(
        "a picture that is missing",
        *PATHS[:3],
        {"path": "x.png", "label": "dog"},
        says=["l.jsonl line 4 (x.png): no such file"],
    ),
    _lines(
        "vectors of several lengths",
        {"v": [1, 2], "label": "a"},
        {"v": [1], "label": "b"},
        says=["l.jsonl line 2: v has 1 numbers, line 1 2"],
    ),
    _lines(
        "a vector of texts",
        {"v": [1, 2], "label": "a"},
        {"v": ["a", "b"], "label": "b"},
        says=["l.jsonl line 2: v is no list of numbers"],
    ),
    _lines("empty", says=["l.jsonl has no rows"]),
    _lines(
        "paths and vectors",
        *({**row, "path": None, "file": row["path"], "v": [1]} for row in PATHS),
        says=["'path' holds nothing that is read"],
    ),
]
MEMBERS = [
    each
    for name, label, content in zip(NAMES, CLASSES, PICTURES, strict=True)
    for each in ((name, content), (f"{name[0]}.cls", label.encode()))
]
KEYS: Pairs = {name[0]: pair for name, pair in WHOLE.items()}
TARS = [
    _tar("whole", MEMBERS, pairs=KEYS),
    _tar(
        "labels in .json",
        [
            (n.replace("cls", "json"), c if n.endswith("png") else json.dumps({"label": c.decode(), "x": [1]}).encode())
            for n, c in MEMBERS
        ],
        pairs=KEYS,
    ),
    _tar(
        "labels in .txt",
        [(n.replace("cls", "txt"), c) for n, c in MEMBERS],
        pairs=KEYS,
        notes=["the labels are the column 'txt'"],
    ),
    _tar("leftovers of macOS", [("._a.png", b"x"), *MEMBERS], pairs=KEYS),
    _tar("gzip", MEMBERS, mode="w:gz", file="t.tar.gz", says=["is compressed (gzip)", "gunzip -c t.tar.gz > t.tar"]),
    _tar("gzip under the name .tar", MEMBERS, mode="w:gz", says=["is compressed (gzip)"]),
    _tar("xz", MEMBERS, mode="w:xz", file="t.tar.xz", says=["is compressed (xz)"]),
    _tar("no pictures", [("a.cls", b"0")], says=["holds no pictures"]),
    _tar("a label without a picture", [*MEMBERS, ("e.cls", b"dog")], says=["e has labels, but no picture"]),
    _tar(
        "two pictures of one key", [*MEMBERS, ("a.jpg", PICTURES[0])], says=["a has several pictures, a.png and a.jpg"]
    ),
    _tar(
        "a picture without a label", [*MEMBERS, ("e.png", PICTURES[0])], says=["a label is missing (1 row): t.tar: e"]
    ),
    _tar("a label twice", [*MEMBERS, ("a.json", b'{"cls": "dog"}')], says=["a has 'cls' twice"]),
    _tar("a label that is no UTF-8", [*MEMBERS[:-1], ("d.cls", b"\xff")], says=["d.cls is not UTF-8"]),
    _tar("a .json that is none", [*MEMBERS, ("a.json", b"{")], says=["a.json"]),
    _tar("a .json that is a list", [*MEMBERS, ("a.json", b"[1]")], says=["a.json is no object"]),
    _tar("a picture cut off", [*MEMBERS[:-2], ("d.png", PICTURES[3][:40]), MEMBERS[-1]], says=["t.tar: d (d)"]),
    _case(
        "tar shards",
        "cut off",
        lambda folder: _cut(write_tar(folder / "t.tar", MEMBERS), 0.2),
        "t.tar",
        says=["t.tar is cut off"],
    ),
    _case(
        "tar shards",
        "no tar",
        lambda folder: (folder / "t.tar").write_bytes(b"x" * 2000),
        "t.tar",
        says=["is a damaged tar archive"],
    ),
    _case(
        "tar shards",
        "empty",
        lambda folder: (folder / "t.tar").touch(),
        "t.tar",
        says=["t.tar is a damaged tar archive"],
    ),
    _case("tar shards", "a pipe", lambda folder: pipe(folder / "t.tar"), "t.tar", says=["t.tar is a pipe, not a file"]),
]
X = np.array([np.full((10, 12, 3), mark, np.uint8) for mark in MARKS])
Y = np.array([[0], [0], [1], [1]], np.uint8)
NUMBERS: Pairs = {str(row): (str(k), mark) for row, (k, mark) in enumerate(zip(NUMBERED, MARKS, strict=True))}
TESTED: Pairs = {**NUMBERS, **{f"test {name}": pair for name, pair in NUMBERS.items()}}
ARRAYS = [
    _npz("keras", {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y}, pairs=TESTED),
    _npz("keras, training alone", {"x_train": X, "y_train": Y[:, 0]}, pairs=NUMBERS),
    _npz(
        "MedMNIST",
        {f"{s}_{w}": a for s in ("train", "val", "test") for w, a in (("images", X), ("labels", Y))},
        pairs=TESTED,
        notes=["validation set of a.npz is left out"],
    ),
    _npz(
        "MedMNIST without a test set",
        {f"{s}_{w}": a for s in ("train", "val") for w, a in (("images", X), ("labels", Y))},
        pairs=TESTED,
        notes=["validation set of a.npz is tested on"],
    ),
    _npz(
        "several labels a sample",
        {"train_images": X, "train_labels": np.eye(4, 14, dtype=np.uint8)},
        says=["labels has shape (4, 14)"],
    ),
    _npz("no labels", {"x_train": X}, says=["a.npz has no labels"]),
    _npz("labels of another number", {"x_train": X, "y_train": Y[:3]}, says=["y has shape (3,), but x 4 rows"]),
    _npz(
        "two arrays of one name",
        {"x_train": X, "y_train": Y, "train_x": X},
        says=["holds several arrays that would be 'x'"],
    ),
    _npz("floats of pictures", {"x_train": X / 255, "y_train": Y}, says=["must be pictures, uint8"]),
]
CASES = [*PARQUET, *SAVED, *HUB, *LINES, *TARS, *ARRAYS]
