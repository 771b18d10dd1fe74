"""Cases of tables of picture files: CSV, TSV and Parquet."""

from __future__ import annotations

import csv
import datetime
import io
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from acto.data.samples import DataSpec
from acto.data.sources import load_data
from bad_data import pictures
from bad_data.corpus import Case, Found, Pairs, found_in
from bad_data.pictures import CLASSES, MARKS, NAMES, write_all

WHOLE: Pairs = {name: (label, mark) for name, label, mark in zip(NAMES, CLASSES, MARKS, strict=True)}


def read(folder: Path, name: str = "list.csv", **settings: Any) -> Found:
    spec = DataSpec(source=str(folder / "data" / name), holdout_share=0.5, **settings)
    return found_in(load_data(spec, workers=1))


def write(content: bytes, folder: Path, *, name: str = "list.csv") -> None:
    write_all(folder / "data")
    (folder / "data" / name).write_bytes(content)


def rows(labels: Sequence[str] = CLASSES, names: Sequence[str] = NAMES, heading: str = "path,label") -> bytes:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(zip(names, labels, strict=True))
    return f"{heading}\n{stream.getvalue()}".encode()


def labelled(*labels: str) -> Pairs:
    return {name: (label, mark) for name, label, mark in zip(NAMES, labels, MARKS, strict=True)}


def _refused(name: str, content: bytes, *says: str, **settings: Any) -> Case:
    return Case(
        reader="manifests (CSV, TSV)",
        name=name,
        make=partial(write, content),
        read=partial(read, **settings),
        says=says,
    )


def _handled(name: str, content: bytes, pairs: Pairs = WHOLE, *notes: str, **settings: Any) -> Case:
    return Case(
        reader="manifests (CSV, TSV)",
        name=name,
        make=partial(write, content),
        read=partial(read, **settings),
        pairs=pairs,
        notes=notes,
    )


def _also(make: Callable[[Path], object], content: bytes) -> Callable[[Path], None]:
    def both(folder: Path) -> None:
        write(content, folder)
        make(folder / "data")

    return both


def _link_out(data: Path) -> None:
    os.rename(data / "c.png", data.parent / "secret.png")
    (data / "c.png").symlink_to(data.parent / "secret.png")


def _odd_file(data: Path) -> None:
    os.rename(data / "c.png", data / 'c,"\n.png')


def _pipe(data: Path) -> None:
    (data / "c.png").unlink()
    pictures.pipe(data / "c.png")


SPLITS = b"path,label,split\na.png,cat,train\nb.png,cat,train\nc.png,dog,train\nd.png,dog,"

CSV = [
    _refused("zero bytes", b"", "list.csv has no column 'path'"),
    _refused("only a heading", rows((), ()), "list.csv has no rows"),
    _refused("cut off inside quotation marks", rows()[:-6] + b'"do', "list.csv", "row 5"),
    _refused("a quotation mark inside a cell", rows().replace(b"c.png,dog", b'"c"x.png,dog'), "list.csv", "row 4"),
    _refused("a row cut off", rows()[:-5], "list.csv row 5 has 1 cell, the heading 2"),
    _refused("a cell too many", rows().replace(b"c.png,dog", b"c.png,dog,1"), "list.csv row 4 has 3 cells"),
    _refused("NUL in a label", rows().replace(b"c.png,dog", b"c.png,dog\0"), "list.csv row 4 holds a NUL"),
    _refused("NUL in a path", rows().replace(b"c.png,", b"c.png\0,"), "list.csv row 4 holds a NUL"),
    _refused("Latin-1", rows().replace(b"c.png,dog", b"c.png,ch\xeet"), "list.csv", "line 4 is not UTF-8 (byte 0xee)"),
    _refused("UTF-16", rows().decode().encode("utf-16"), "list.csv", "line 1 is not UTF-8"),
    _handled("bars", rows().replace(b",", b"|"), WHOLE, "list.csv are separated by vertical bars"),
    _refused(
        "semicolons, and a row that has commas",
        rows().replace(b",", b";").replace(b"c.png;", b"c.png,"),
        "list.csv row 4 has 1 cell, the heading 2",
    ),
    _refused("a base that is no folder", rows(), "--data.base no/such is no folder", base="no/such"),
    _refused(
        "an absolute path outside of the base",
        rows().replace(b"c.png", b"/etc/passwd"),
        "list.csv row 4: '/etc/passwd' does not lie in --data.base",
        base="/usr",
    ),
    _refused(
        "an absolute path that climbs out of the base",
        rows().replace(b"c.png", b"/usr/../etc/passwd"),
        "list.csv row 4: '/usr/../etc/passwd' is no path inside",
        base="/usr",
    ),
    _refused("two columns of labels", b"path,label,label\na.png,cat,dog\n", "list.csv has 2 columns 'label'"),
    _refused("two columns of splits", b"path,label,split,split\na.png,cat,train,test\n", "has 2 columns 'split'"),
    _refused(
        "a cell of 200 kB", rows().replace(b"dog", b"d" * 200_000, 1), "list.csv", "row 4", "larger than field limit"
    ),
    _refused("..", rows().replace(b"c.png", b"../c.png"), "list.csv row 4: '../c.png' is no path inside"),
    _refused(".. further on", rows().replace(b"c.png", b"x/../../c.png"), "list.csv row 4", "is no path inside"),
    _refused("an absolute path", rows().replace(b"c.png", b"/etc/passwd"), "list.csv row 4: '/etc/passwd' is no path"),
    _refused("a drive of Windows", rows().replace(b"c.png", b"C:c.png"), "list.csv row 4: 'C:c.png' is no path inside"),
    _refused("backslashes", rows().replace(b"c.png", b"..\\c.png"), "list.csv row 4", "is no path inside"),
    _refused("an empty path", rows().replace(b"c.png", b""), "list.csv row 4: '' is no path inside"),
    _refused("the folder itself as path", rows().replace(b"c.png", b"."), "list.csv row 4: '.' is no path inside"),
    _refused("one path, two labels", rows().replace(b"c.png", b"./a.png"), "list.csv: a.png occurs in rows 2, 4"),
    _refused("a picture that is missing", rows().replace(b"c.png", b"x.png"), "list.csv row 4 (x.png): no such file"),
    _refused("an empty label", rows(("cat", "cat", "", "dog")), "a label is missing (1 row): list.csv row 4 (c.png)"),
    _refused("a label of spaces", rows(("cat", "cat", "  ", "dog")), "a label is missing (1 row): list.csv row 4"),
    _refused("a fraction", rows(("0", "0", "1.5", "1")), "whole numbers (1 row): list.csv row 4 (c.png): '1.5'"),
    _refused("NaN", rows(("0", "0", "nan", "1")), "whole numbers (1 row): list.csv row 4 (c.png): 'nan'"),
    _refused("infinity", rows(("0", "0", "-Inf", "1")), "whole numbers (1 row): list.csv row 4 (c.png): '-Inf'"),
    _refused("a negative number", rows(("0", "0", "-1", "1")), "must not be negative (1 row): list.csv row 4 (c.png)"),
    _refused("a number of 30 digits", rows(("0", "0", "1" + "0" * 30, "1")), "class 2 has no sample", "list.csv row 4"),
    _refused(
        "a number written in two ways", rows(("0", "1", "01", "0")), "list.csv row 3 (b.png): '1'", "list.csv row 4"
    ),
    _refused("one class", rows(("cat",) * 4), "at least two classes are needed", "cat"),
    _refused(
        "a class that only the test set has",
        SPLITS.replace(b"d.png,dog", b"d.png,cow") + b"test\n",
        "list.csv row 5 (d.png): 'cow'",
    ),
    _refused("an unknown split", SPLITS + b"tset\n", "split in", "list.csv row 5 'tset'. Did you mean 'test'?"),
    _refused(
        "no training row", SPLITS.replace(b"train", b"test") + b"test\n", "list.csv: no row has the split 'train'"
    ),
    _refused(
        "a true label of 30 digits",
        rows(heading="path,true_label,label", labels=(), names=())
        + b"a.png,0,0\nb.png,0,0\nc.png,1"
        + b"0" * 30
        + b",1\nd.png,1,1\n",
        "true label is not below",
        "list.csv row 4",
        classes=("zero", "one"),
    ),
    _refused(
        "a number above the classes",
        rows(("0", "0", "2", "1")),
        "label out of range 0..1 (1 row): list.csv row 4",
        classes=("zero", "one"),
    ),
    Case(
        reader="manifests (CSV, TSV)",
        name="a pipe as picture",
        make=_also(_pipe, rows()),
        read=read,
        says=("list.csv row 4 (c.png)", "a pipe"),
    ),
    Case(
        reader="manifests (CSV, TSV)",
        name="a folder as picture",
        make=_also(lambda data: (data / "x.png").mkdir(), rows().replace(b"c.png", b"x.png")),
        read=read,
        says=("list.csv row 4 (x.png)", "directory"),
    ),
    Case(
        reader="manifests (CSV, TSV)",
        name="a picture of zero bytes",
        make=_also(lambda data: (data / "c.png").write_bytes(b""), rows()),
        read=read,
        says=("list.csv row 4 (c.png)", "empty"),
    ),
    Case(
        reader="manifests (CSV, TSV)",
        name="a picture that is a link out of the folder",
        make=_also(_link_out, rows()),
        read=read,
        pairs=WHOLE,
        notes=("lead out of", "c.png ->"),
    ),
    Case(
        reader="manifests (CSV, TSV)",
        name="quotation marks, comma and line break in a path",
        make=_also(_odd_file, rows(names=("a.png", "b.png", 'c,"\n.png', "d.png"))),
        read=read,
        pairs={('c,"\n.png' if name == "c.png" else name): pair for name, pair in WHOLE.items()},
    ),
    Case(
        reader="manifests (CSV, TSV)",
        name="TSV",
        make=partial(write, rows().replace(b",", b"\t"), name="list.tsv"),
        read=partial(read, name="list.tsv"),
        pairs=WHOLE,
    ),
    Case(
        reader="manifests (CSV, TSV)",
        name="ending in capitals",
        make=partial(write, rows(), name="list.CSV"),
        read=partial(read, name="list.CSV"),
        pairs=WHOLE,
    ),
    _handled("semicolons", rows().replace(b",", b";"), WHOLE, "list.csv are separated by semicolons"),
    _handled("tabs in a .csv", rows().replace(b",", b"\t"), WHOLE, "list.csv are separated by tabs"),
    _handled("whole", rows()),
    _handled("a mark at the start (BOM)", b"\xef\xbb\xbf" + rows()),
    _handled("CRLF", rows().replace(b"\n", b"\r\n")),
    _handled("lines of old Macs (CR)", rows().replace(b"\n", b"\r")),
    _handled("empty lines", rows().replace(b"\nc", b"\n\n\nc") + b"\n\n"),
    _handled("spaces around cells", rows().replace(b",", b" , ")),
    _handled("no line break at the end", rows()[:-1]),
    _handled(
        "columns in another order, and others",
        b"who,label,path\n"
        + b"".join(f"x,{label},{name}\n".encode() for label, name in zip(CLASSES, NAMES, strict=True)),
    ),
    _handled(
        "line break and quotation marks in a label",
        rows(("cat", "cat", 'a "dog"\n,', 'a "dog"\n,')),
        labelled("cat", "cat", 'a "dog"\n,', 'a "dog"\n,'),
    ),
    _handled("1.0 is 1", rows(("0.0", "0", "1.0", "1")), labelled("0", "0", "1", "1")),
    _handled(
        "true and false are names", rows(("True", "True", "False", "False")), labelled("True", "True", "False", "False")
    ),
    _handled("class names with a slash", rows(("a/b", "a/b", "../c", "../c")), labelled("a/b", "a/b", "../c", "../c")),
    _handled(
        "class names with an underscore between digits",
        rows(("1_0", "1_0", "x", "x")),
        labelled("1_0", "1_0", "x", "x"),
    ),
    _handled(
        "class names that look alike",
        rows(("cat", "cat", "c\u0430t", "c\u0430t")),
        labelled("cat", "cat", "c\u0430t", "c\u0430t"),
        "look alike",
    ),
    _handled(
        "class names that are HTML and a formula",
        rows(("<b>x", "<b>x", "=1+1", "=1+1")),
        labelled("<b>x", "<b>x", "=1+1", "=1+1"),
    ),
    _handled(
        "rows for validation beside a test set",
        SPLITS + b"test\na.jpg,cat,val\n",
        {name: WHOLE[name] for name in NAMES},
        "1 row of list.csv has the split val and was left out",
    ),
]


# Parquet ----------------------------------------------------------------------------------------------------------


def parquet(columns: Mapping[str, Any]) -> bytes:
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(dict(columns)), stream)
    return stream.getvalue()


def _labels(values: Any) -> bytes:
    return parquet({"path": list(NAMES), "label": values})


def _twice() -> bytes:
    stream = io.BytesIO()
    columns = [pyarrow.array(NAMES), pyarrow.array(CLASSES), pyarrow.array(CLASSES[::-1])]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, ["path", "label", "label"]), stream)
    return stream.getvalue()


def _not_utf8() -> bytes:
    odd = pyarrow.array([b"cat", b"cat", b"d\xff", b"dog"], pyarrow.binary())
    return _labels(pyarrow.Array.from_buffers(pyarrow.string(), 4, odd.buffers()))


def _many_rows() -> bytes:
    return parquet(
        {"path": pyarrow.array(["a.png"] * 300_000).dictionary_encode(), "label": pyarrow.array(["cat"] * 300_000)}
    )


def _table_case(
    name: str, content: Callable[[], bytes], says: tuple[str, ...] = (), pairs: Pairs | None = None
) -> Case:
    return Case(
        reader="manifests (Parquet)",
        name=name,
        make=lambda folder: write(content(), folder, name="list.parquet"),
        read=partial(read, name="list.parquet"),
        says=says,
        pairs=pairs,
    )


DAY = datetime.date(2026, 1, 1)

PARQUET = [
    _table_case("zero bytes", lambda: b"", ("list.parquet is not a readable Parquet file",)),
    _table_case("truncated", lambda: _labels(CLASSES)[:-40], ("list.parquet is not a readable Parquet file",)),
    _table_case("a CSV with the name of a Parquet file", rows, ("list.parquet is not a readable Parquet file",)),
    _table_case(
        "damaged pages",
        lambda: _labels(CLASSES)[:4] + b"\xff" * 40 + _labels(CLASSES)[44:],
        ("list.parquet is not a readable Parquet file",),
    ),
    _table_case("many more rows than bytes", _many_rows, ("list.parquet has", "claims 300000 rows")),
    _table_case("two columns of labels", _twice, ("list.parquet has 2 columns 'label'",)),
    _table_case("no labels", lambda: parquet({"path": list(NAMES)}), ("list.parquet has no column 'label'",)),
    _table_case("text that is not UTF-8", _not_utf8, ("list.parquet is not a readable Parquet file",)),
    _table_case(
        "an empty label", lambda: _labels(["cat", "cat", None, "dog"]), ("is missing (1 row): list.parquet row 3",)
    ),
    _table_case(
        "NaN", lambda: _labels([0.0, 1, float("nan"), 0]), ("whole numbers (1 row): list.parquet row 3", "'nan'")
    ),
    _table_case(
        "a fraction", lambda: _labels([0.0, 1, 1.5, 0]), ("whole numbers (1 row): list.parquet row 3", "'1.5'")
    ),
    _table_case("bytes as labels", lambda: _labels([b"cat"] * 4), ("list.parquet row 1: label is bytes",)),
    _table_case("lists as labels", lambda: _labels([[1], [1], [2], [2]]), ("list.parquet row 1: label is list",)),
    _table_case("dates as labels", lambda: _labels([DAY] * 4), ("list.parquet row 1: label is date",)),
    _table_case("numbers as paths", lambda: parquet({"path": [1, 2], "label": [0, 1]}), ("row 1: '1' is no path",)),
    _table_case(
        "a path that leaves the folder",
        lambda: parquet({"path": ["../a.png"], "label": ["x"]}),
        ("list.parquet row 1",),
    ),
    _table_case("NUL in a label", lambda: _labels(["cat", "cat", "cat\0", "dog"]), ("list.parquet row 3", "NUL")),
    _table_case("whole", lambda: _labels(CLASSES), pairs=WHOLE),
    _table_case("1.0 is 1", lambda: _labels([0.0, 0.0, 1.0, 1.0]), pairs=labelled("0", "0", "1", "1")),
    _table_case(
        "unsigned bytes",
        lambda: _labels(pyarrow.array([0, 0, 1, 1], pyarrow.uint8())),
        pairs=labelled("0", "0", "1", "1"),
    ),
    _table_case("categories", lambda: _labels(pyarrow.array(CLASSES).dictionary_encode()), pairs=WHOLE),
    _table_case(
        "booleans", lambda: _labels([True, True, False, False]), pairs=labelled("True", "True", "False", "False")
    ),
]

CASES = [*CSV, *PARQUET]
