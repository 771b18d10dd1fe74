"""Small data sets in the forms that people have: two classes of pictures, or of vectors, told apart by one number."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

CLASSES = ("cat", "dog")
LEVELS = (40, 200)
"""Green of the pictures of each class."""


def picture(label: int, row: int, *, size: tuple[int, int] = (12, 10)) -> bytes:
    """A PNG whose green tells the class, and whose red the row."""
    stream = io.BytesIO()
    Image.new("RGB", size, (row, LEVELS[label], 9)).save(stream, "PNG")
    return stream.getvalue()


def labels_of(count: int) -> list[int]:
    return [row % 2 for row in range(count)]


def struct_table(count: int, *, first: int = 0, names: bool = True, **columns: Sequence[Any]) -> pa.Table:
    """Pictures as `datasets` stores them, with the column label and others."""
    rows = [
        {"bytes": picture(label, first + row), "path": f"{first + row}.png" if names else None}
        for row, label in enumerate(labels_of(count))
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.table({"image": pa.array(rows, kind), "label": labels_of(count), **columns})


def features(**labels: Sequence[str]) -> dict[str, Any]:
    """What `datasets` says of a table with a column of pictures and ClassLabels."""
    named = {name: {"names": list(names), "_type": "ClassLabel"} for name, names in labels.items()}
    return {"image": {"_type": "Image"}, **named}


def write_hub(root: Path, splits: Mapping[str, pa.Table], facts: dict[str, Any] | None = None) -> Path:
    """Parquet files as the Hub has them."""
    (root / "data").mkdir(parents=True)
    for split, table in splits.items():
        about = {"huggingface": json.dumps({"info": {"features": facts}})} if facts else None
        file = root / "data" / f"{split}-00000-of-00001.parquet"
        pyarrow.parquet.write_table(table.replace_schema_metadata(about), file)
    return root


def write_saved(folder: Path, table: pa.Table, facts: Mapping[str, Any]) -> Path:
    """A folder as `Dataset.save_to_disk` writes it."""
    folder.mkdir(parents=True)
    write_arrow(folder / "data-00000-of-00001.arrow", table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": facts}))
    return folder


def write_arrow(file: Path, table: pa.Table, **options: Any) -> None:
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema, **options) as writer:
        writer.write_table(table, max_chunksize=5)


def write_dict(root: Path, tables: Mapping[str, pa.Table], facts: Mapping[str, Any]) -> Path:
    """A folder as `DatasetDict.save_to_disk` writes it."""
    for split, table in tables.items():
        write_saved(root / split, table, facts)
    (root / "dataset_dict.json").write_text(json.dumps({"splits": list(tables)}))
    return root


def write_tar(file: Path, members: Sequence[tuple[str, bytes]], mode: str = "w") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode) as tar:  # type: ignore[call-overload]
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file


def shard(count: int, *, first: int = 0, label: str = "cls") -> list[tuple[str, bytes]]:
    """The members of a shard: KEY.png, and KEY.cls, KEY.txt or KEY.json."""
    members = []
    for row, number in enumerate(labels_of(count)):
        text = {
            "cls": str(number),
            "txt": CLASSES[number],
            "json": json.dumps({"label": CLASSES[number], "caption": "a picture"}),
        }[label]
        key = f"{first + row:04d}"
        members += [(f"{key}.png", picture(number, first + row)), (f"{key}.{label}", text.encode())]
    return members


def write_files(root: Path, count: int) -> list[str]:
    """Picture files; their names."""
    root.mkdir(parents=True)
    names = [f"{row}.png" for row in range(count)]
    for row, (name, label) in enumerate(zip(names, labels_of(count), strict=True)):
        (root / name).write_bytes(picture(label, row))
    return names


def write_json_lines(file: Path, rows: Sequence[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def pixels(count: int) -> np.ndarray[Any, Any]:
    """(count, 10, 12, 3) uint8, as the pictures are."""
    stack = [np.asarray(Image.open(io.BytesIO(picture(k, row)))) for row, k in enumerate(labels_of(count))]
    return np.stack(stack)


def vectors(count: int) -> list[list[float]]:
    """Three numbers a row: row, class, 1."""
    return [[float(row), float(label), 1.0] for row, label in enumerate(labels_of(count))]
