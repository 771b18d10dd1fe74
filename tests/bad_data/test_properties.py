"""Properties of the readers on inputs that nobody thought of; ACTO_SOAK=1 looks at forty times as many."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from acto.core.errors import RunError, UserError
from acto.data.classes import encode, infer_classes
from acto.data.decision_file import Decision, to_csv
from acto.data.label_columns import read_column
from acto.data.pictures.files import BadImage, decode_rgb, inspect
from acto.data.readers.arrays import read_arrays
from acto.data.readers.food101n import read_food101n
from acto.data.readers.idx import read_idx
from acto.data.readers.label_files import read_label_file
from acto.data.readers.manifests import read_manifest
from acto.data.readers.parquet import read_parquet
from acto.data.readers.safe_pickle import load_plain, load_torch_arrays
from acto.data.samples import DataSpec
from acto.labels.decisions import read_decisions
from acto.labels.exchange import FORMATS, import_decisions
from bad_data import arrays, labels, manifests, pictures, published
from label_reports import report_of, small

SOAK = os.environ.get("ACTO_SOAK") == "1"


def examples(count: int) -> settings:
    """So many examples, the same ones in each ordinary run."""
    return settings(
        max_examples=40 * count if SOAK else count,
        deadline=None,
        derandomize=not SOAK,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


# Damage -----------------------------------------------------------------------------------------------------------


def _food(folder: Path, content: bytes) -> None:
    published.food(folder, {"meta/imagelist.tsv": content})
    read_food101n(folder / "food-101")


def _exchanged(format: str) -> Callable[[Path], object]:
    return lambda path: import_decisions(path, small(), format=format)


def _torch_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        published._human(Path(folder), {})
        return (Path(folder) / published.FILE).read_bytes()


READERS: dict[str, tuple[str, bytes, Callable[[Path], object]]] = {
    "csv": ("list.csv", manifests.rows(), lambda path: read_manifest(path, DataSpec())),
    "parquet": (
        "l.parquet",
        manifests.parquet({"path": ["a.png", "b.png"], "label": ["x", "y"]}),
        lambda path: read_parquet(path, ("path", "label")),
    ),
    "npz": ("set.npz", arrays.npz(), read_arrays),
    "npy": ("set.npy", arrays.npy(arrays.X), read_arrays),
    "idx": ("file", published.idx(published.DIGITS), read_idx),
    "pickle": (
        "batch",
        pickle.dumps({"data": np.arange(9, dtype=np.uint8), "labels": [1, 2]}, protocol=2),
        lambda path: load_plain(io.BytesIO(path.read_bytes()), name=str(path)),
    ),
    "torch": ("human.pt", _torch_file(), load_torch_arrays),
    "label file": ("labels.csv", labels.IDS, read_label_file),
    "food": ("imagelist.tsv", published.LINES, lambda path: _food(path.parent, path.read_bytes())),
    "decisions": ("decisions.csv", labels.HEADING + labels.ROW, lambda path: read_decisions(path, small())),
    "label-studio": ("export", json.dumps([labels.task()]).encode(), _exchanged(FORMATS[0])),
    "fiftyone": ("export", json.dumps({"samples": [labels.sample()]}).encode(), _exchanged(FORMATS[1])),
    "cleanlab": ("export", labels.TABLE, _exchanged(FORMATS[2])),
}
"""File name, whole content, reader."""


@st.composite
def damages(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with up to four places changed, put in, taken out or cut off."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["change", "put", "take", "cut"])):
            case "change":
                data[place : place + 1] = bytes([draw(st.integers(0, 255))])
            case "put":
                data[place:place] = draw(st.binary(min_size=1, max_size=8))
            case "take":
                del data[place : place + draw(st.integers(1, 16))]
            case "cut":
                del data[place:]
    return bytes(data)


@pytest.mark.parametrize("reader", READERS)
def test_damage_never_crashes_a_reader(reader: str, tmp_path: Path) -> None:
    name, whole, read = READERS[reader]
    path = tmp_path / name
    path.write_bytes(whole)
    read(path)  # or the property would hold for nothing

    @examples(40)
    @given(damages(whole))
    def holds(content: bytes) -> None:
        path.write_bytes(content)
        try:
            read(path)
        except (UserError, RunError) as error:
            assert path.name in str(error) or path.stem in str(error) or "FOOD" in str(error)

    holds()


KINDS = {name: make(110) for name, make in pictures.GOOD.items()}


@examples(300)
@given(st.sampled_from(sorted(KINDS)).flatmap(lambda name: damages(KINDS[name])))
def test_a_damaged_picture_is_a_picture_or_bad(content: bytes) -> None:
    try:
        picture = decode_rgb(content, name="x.png")
    except BadImage as bad:
        assert bad.name == "x.png"
    else:
        assert picture.mode == "RGB"


@examples(100)
@given(st.sampled_from(sorted(KINDS)).flatmap(lambda name: damages(KINDS[name])))
def test_what_a_thorough_look_passes_can_be_decoded(content: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        file.write(content)
        file.flush()
        try:
            facts = inspect(file.name, thorough=True)
        except BadImage:
            return
        assert decode_rgb(file.name).size == (facts.width, facts.height)


# Round trips ------------------------------------------------------------------------------------------------------

LINE = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=12)
CELLS = LINE.map(str.strip).filter(bool)
NAMES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0/\\"), min_size=1, max_size=12).filter(
    lambda name: name == name.strip() and name not in (".", "..") and ":" not in name
)


@examples(150)
@given(
    st.lists(st.tuples(NAMES, CELLS), min_size=1, max_size=8, unique_by=lambda row: row[0]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_what_csv_writes_is_read_row_by_row(rows: list[tuple[str, str]], end: str) -> None:
    stream = io.StringIO()
    csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator=end).writerows([("path", "label"), *rows])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.csv"
        path.write_bytes(stream.getvalue().encode())
        listing = read_manifest(path, DataSpec()).train
    assert list(zip(listing.ids, listing.labels, strict=True)) == rows


VALUES = st.one_of(
    LINE,
    st.integers(-3, 12),
    st.floats(),
    st.booleans(),
    st.none(),
    st.sampled_from(["1", "01", "1.0", "+1", "1e0", "nan", "\u0661", "1_0"]),
)


@examples(300)
@given(st.lists(VALUES, min_size=1, max_size=10))
def test_a_label_stays_in_its_row(values: list[Any]) -> None:
    """Or the column is refused. What a label is called is decided here a second time, by hand."""
    try:
        column = read_column(values, where=str)
        names = infer_classes(column)
        codes = encode(column, names)
    except UserError:
        return
    found = [names[code] for code in codes]
    for value, name in zip(values, found, strict=True):
        text = str(value).strip()
        assert name == text or float(text) == float(name)
    for i, first in enumerate(values):
        for j, second in enumerate(values):
            if str(first).strip() == str(second).strip():
                assert found[i] == found[j]


@examples(150)
@given(st.data())
def test_arrays_of_any_type_and_order_keep_their_rows(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 9))
    kind = data.draw(st.sampled_from(["<f8", ">f8", "<f4", ">f4", "<f2", "<i8", ">i8", "<i2", "u1", "<u4", "?"]))
    order = data.draw(st.sampled_from("CF"))
    whole = np.array(np.arange(count * 3).reshape(count, 3) % 2, dtype=kind, order=order)  # type: ignore[call-overload]
    whole[:, 0] = np.arange(count) % 2 if kind == "?" else np.arange(count)
    labels_kind = data.draw(st.sampled_from(["<i8", ">i8", "u1", "<f8", ">u2", "U3", ">U3", "S3", "?"]))
    codes = data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    path = Path(tempfile.mkdtemp()) / "set.npz"
    np.savez(path, x=whole, y=np.array(codes).astype(labels_kind))
    read = read_arrays(path)
    assert np.array_equal(read["x"], whole)
    column = read_column(read["y"], where=str)
    assert [int(column.texts[code] in ("1", "True")) for code in column.codes] == codes
    path.unlink()
    path.parent.rmdir()


@examples(60)
@given(st.permutations("pqrstuv"))
def test_a_label_file_is_matched_by_id(order: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.csv"
        path.write_text("id,label\n" + "".join(f"{id},of {id}\n" for id in order))
        assert read_label_file(path).in_order("pqrstuv") == [f"of {id}" for id in "pqrstuv"]


IDS = st.lists(LINE, min_size=1, max_size=6, unique=True)


@examples(100)
@given(IDS, st.data())
def test_decisions_come_back_and_survive_a_cut(ids: list[str], data: st.DataObject) -> None:
    report = report_of(
        [*["cat"] * len(ids), "dog"], [*["dog"] * len(ids), "cat"], names=("cat", "dog"), ids=[*ids, "the last of them"]
    )
    words = [data.draw(st.sampled_from(["accept", "keep", "skip", "remove"])) for _ in ids]
    made = [
        Decision(
            id=id,
            given_label="cat",
            decision=word,
            new_label="dog" if word == "accept" else "",
            time="2026-01-31T09:30:00Z",
        )
        for id, word in zip(ids, words, strict=True)
    ]
    content = to_csv(made)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "decisions.csv"
        path.write_bytes(content)
        assert read_decisions(path, report) == dict(enumerate(made))
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        try:
            found = read_decisions(path, report)
        except UserError:
            return
        for row, decision in found.items():  # a cut may shorten the time, which decides nothing
            assert (decision.id, decision.decision, decision.new_label) == (
                ids[row],
                made[row].decision,
                made[row].new_label,
            )


@examples(60)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 65535))
def test_sixteen_bits_are_scaled(width: int, height: int, value: int) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((height, width), value, np.uint16)).save(stream, "PNG")
    assert (np.asarray(decode_rgb(stream.getvalue())) == round(value * 255 / 65535)).all()
