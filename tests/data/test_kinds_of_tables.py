"""Tables in files of other kinds: what Hugging Face has, JSON Lines, and what tells them from lists of pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from acto.core.errors import UserError
from acto.data.for_prediction import read_new
from acto.data.readers.text_files import separator_of
from acto.data.samples import Dataset, DataSpec
from acto.data.sources import load_data, read
from record_data import write_hub, write_saved


def loaded(path: Path, **spec: Any) -> Dataset:
    return load_data(DataSpec(source=str(path), **spec))


def note(dataset: Dataset, words: str) -> str:
    (found,) = [text for text in dataset.notes if words in text]
    return found


def of_texts(count: int, *, first: int = 0, **labels: Sequence[Any]) -> pa.Table:
    texts = [f"Row {k} of these is about {'cats and dogs' if k % 2 else 'banks and loans'}, and no more than that."
             for k in range(first, first + count)]  # fmt: skip
    return pa.table({"text": texts, "topic": [k % 2 for k in range(count)]} | labels)


FACTS = {"topic": {"names": ["money", "animals"], "_type": "ClassLabel"}}


def test_tables_of_hugging_face(tmp_path: Path) -> None:
    hub = write_hub(tmp_path / "hub", {"train": of_texts(30), "test": of_texts(6, first=40)}, FACTS)
    data = loaded(hub)
    assert data.class_names == ("money", "animals") and (len(data.train), len(data.test)) == (30, 6)
    assert (
        data.encoding is not None
        and data.encoding.columns == ("text",)
        and data.test.ids == tuple(map(str, range(31, 37)))
    )
    note(data, "the labels are the column 'topic'")
    assert len(read_new(str(hub)).samples) == 36
    (one,) = (hub / "data").glob("train*")
    assert loaded(one).class_names == ("money", "animals")
    saved = loaded(write_saved(tmp_path / "saved", of_texts(30), FACTS))
    assert saved.encoding is not None and saved.class_names == data.class_names
    without = write_hub(tmp_path / "w", {"train": of_texts(30), "test": of_texts(6, topic=[-1] * 6)}, FACTS)
    note(loaded(without), "the split for testing has no labels, and is left out")
    write_hub(tmp_path / "odd", {"train": of_texts(30), "test": of_texts(6).rename_columns(["words", "topic"])}, FACTS)
    with pytest.raises(UserError, match=r"test-00000-of-00001.parquet has no column 'text'.*Columns: 'words'"):
        loaded(tmp_path / "odd")
    write_hub(tmp_path / "lost", {"train": of_texts(30, topic=[7] * 30)}, FACTS)
    with pytest.raises(UserError, match=r"row 1: topic is 7, but its classes are numbered 0 to 1"):
        loaded(tmp_path / "lost")


def test_contents_say_what_a_file_is(tmp_path: Path) -> None:
    rows = [{"path": f"{k}.png", "n": k % 5 + 0.5, "label": "ab"[k % 2]} for k in range(40)]
    lines = tmp_path / "l.jsonl"
    lines.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    frame = pd.DataFrame(rows)
    frame.to_csv(tmp_path / "l.csv", index=False)
    frame.to_parquet(tmp_path / "l.parquet", index=False)
    for name in ("l.jsonl", "l.csv", "l.parquet"):
        spec = DataSpec(source=str(tmp_path / name))
        assert read(spec).train.paths is not None, name
        assert read(replace(spec, columns=("n",))).train.rows is not None, name
    lines.write_text("".join(f'{{"n": [{k}, 1], "label": "{"ab"[k % 2]}"}}\n' for k in range(40)))
    (tmp_path / "folder").mkdir()
    lines.rename(tmp_path / "folder" / "l.jsonl")
    vectors = loaded(tmp_path / "folder")  # the one table of a folder, whatever it holds
    assert vectors.encoding is None and vectors.train.features is not None


@pytest.mark.parametrize(
    ("heading", "suffix", "titles", "expected"),
    [
        ("path,label,a;b;c;d", ".csv", ("path", "label"), ","),
        ("path,label", ".tsv", (), ","),
        ("height, weight, and age\tlabel", ".tsv", (), "\t"),
        ("a;b,c;d", ".csv", (), ";"),
        ("a;b,c", ".csv", (), ","),
        ("path|label", ".csv", ("path", "label"), "|"),
    ],
)
def test_separator_of_a_heading(heading: str, suffix: str, titles: tuple[str, ...], expected: str) -> None:
    assert separator_of(f"{heading}\n1,2\n", Path(f"t{suffix}"), titles=titles) == expected
