"""Cases of files that hold labels alone: `--noise file`, decisions.csv, and what other tools give back."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from acto.data.for_prediction import read_new
from acto.data.noise import NoiseSpec
from acto.data.samples import DataSpec
from acto.data.sources import load_data
from acto.labels.decisions import read_decisions
from acto.labels.exchange import import_decisions
from bad_data.arrays import npy, npz
from bad_data.corpus import Case, Found, Pairs, found_in, mark_of
from bad_data.manifests import parquet
from bad_data.pictures import MARKS, encoded, picture, write_all
from label_reports import small

# Noise from a file ------------------------------------------------------------------------------------------------

X = np.array([[10.0], [60], [110], [160]])


def read_noise(folder: Path, name: str) -> Found:
    """The labels of the file put on four samples with ids p to s and a test set of two."""
    np.savez(
        folder / "data.npz",
        x=X,
        y=np.array([0, 0, 1, 1]),
        ids=np.array(["p", "q", "r", "s"]),
        test_x=X[1:3] + 100,
        test_y=np.array([0, 1]),
        class_names=np.array(["cat", "dog"]),
    )
    noise = NoiseSpec(kind="file", path=str(folder / name))
    return found_in(load_data(DataSpec(source=str(folder / "data.npz"), noise=noise)))


def _noise(name: str, content: bytes, *says: str, labels: tuple[str, ...] = (), file: str = "labels.csv") -> Case:
    pairs = None
    if labels:
        pairs = {id: (label, mark) for id, label, mark in zip("pqrs", labels, MARKS, strict=True)} | {
            "0": ("cat", 160),
            "1": ("dog", 210),
        }
    return Case(
        reader="label files (--noise file)",
        name=name,
        make=lambda folder: (folder / file).write_bytes(content),
        read=partial(read_noise, name=file),
        says=says,
        pairs=pairs,
    )


FLIPPED = ("dog", "cat", "cat", "dog")
IDS = b"id,label\ns,dog\nr,cat\nq,cat\np,dog\n"
NOISE = [
    _noise("matched by id, in another order", IDS, labels=FLIPPED),
    _noise("a column of numbers", b"1\n0\n0\n1\n", labels=FLIPPED),
    _noise("CRLF and a mark at the start", b"\xef\xbb\xbf" + IDS.replace(b"\n", b"\r\n"), labels=FLIPPED),
    _noise(".txt of names", b"dog\r\ncat\r\ncat\r\ndog\r\n", labels=FLIPPED, file="labels.txt"),
    _noise(".npy, big-endian", npy(np.array([1, 0, 0, 1], ">i8")), labels=FLIPPED, file="labels.npy"),
    _noise(".npy of floats", npy(np.array([1.0, 0, 0, 1])), labels=FLIPPED, file="labels.npy"),
    _noise(".npz", npz(x=np.zeros(3), y=np.array([1, 0, 0, 1])), labels=FLIPPED, file="labels.npz"),
    _noise("zero bytes", b"", "labels.csv holds nothing"),
    _noise("zero bytes, .npy", b"", "labels.npy cannot be read", file="labels.npy"),
    _noise("truncated .npy", npy(np.array([1, 0, 0, 1]))[:-1], "labels.npy", "claims int64", file="labels.npy"),
    _noise("too few", b"label\ndog\ncat\ncat\n", "labels.csv holds 3 labels, but there are 4 samples"),
    _noise("too many", b"label\n" + b"cat\n" * 5, "labels.csv holds 5 labels, but there are 4 samples"),
    _noise("an id twice", IDS.replace(b"\nr,", b"\ns,"), "labels.csv has no label for 1 sample, the first 'r'"),
    _noise("a strange id", IDS.replace(b"\nr,", b"\nt,"), "labels.csv has no label for 1 sample, the first 'r'"),
    _noise(
        "two columns of labels",
        b"id,label,label\n" + b"".join(b"%c,dog,cat\n" % c for c in b"pqrs"),
        "labels.csv has 2 columns 'label'",
    ),
    _noise(
        "two columns of ids",
        b"id,id,label\n" + b"".join(b"%c,q,cat\n" % c for c in b"pqrs"),
        "labels.csv has 2 columns 'id'",
    ),
    _noise("a label that is no class", IDS.replace(b"r,cat", b"r,cow"), "labels.csv, sample r: 'cow'"),
    _noise("a missing label", IDS.replace(b"r,cat", b"r,"), "a label is missing", "labels.csv, sample r"),
    _noise("a fraction", b"label\n1\n0\n0.5\n1\n", "labels.csv label 2: '0.5'"),
    _noise("NaN", npy(np.array([1, 0, np.nan, 1])), "labels.npy label 2: 'nan'", file="labels.npy"),
    _noise("out of range", npy(np.array([1, 0, 2, 1])), "labels.npy label 2: '2'", file="labels.npy"),
    _noise("negative", npy(np.array([1, 0, -1, 1])), "labels.npy label 2: '-1'", file="labels.npy"),
    _noise("complex", npy(np.array([1j, 0, 0, 1])), "complex128: ", "labels.npy label 0", file="labels.npy"),
    _noise("two dimensions", npy(np.eye(4)), "labels.npy has an array of shape (4, 4)", file="labels.npy"),
    _noise("Latin-1", IDS.replace(b"r,cat", b"r,\xe9"), "labels.csv cannot be read: line 3 is not UTF-8"),
    _noise("a row cut off", IDS[:-5], "labels.csv row 5 has 1 cell, the heading 2"),
    _noise("an open quotation mark", IDS + b'"x', "labels.csv", "row 6"),
    _noise("NUL", IDS.replace(b"cat", b"c\0t", 1), "labels.csv row 3 holds a NUL"),
    _noise("another ending", b"1\n", "unknown kind of label file '.dat'", file="labels.dat"),
]

# decisions.csv ----------------------------------------------------------------------------------------------------

HEADING = b"id,given_label,decision,new_label,time\n"
ROW = b"a.png,cat,accept,dog,2026-01-31T09:30:00Z\n"
DECIDED: Pairs = {"a.png": ("dog", 0)}


def _found(decisions: Any) -> Found:
    return Found(pairs={made.id: (made.new_label or made.decision, row) for row, made in decisions})


def _decisions(name: str, content: bytes, *says: str, pairs: Pairs | None = None) -> Case:
    return Case(
        reader="decisions.csv",
        name=name,
        make=lambda folder: (folder / "decisions.csv").write_bytes(content),
        read=lambda folder: _found(read_decisions(folder / "decisions.csv", small()).items()),
        says=says,
        pairs=pairs,
    )


DECISIONS = [
    _decisions("whole", HEADING + ROW, pairs=DECIDED),
    _decisions("only a heading", HEADING, pairs={}),
    _decisions(
        "CRLF and a mark at the start", b"\xef\xbb\xbf" + (HEADING + ROW).replace(b"\n", b"\r\n"), pairs=DECIDED
    ),
    _decisions(
        "the last row of an id counts", HEADING + ROW + ROW.replace(b"dog", b"owl"), pairs={"a.png": ("owl", 0)}
    ),
    _decisions("a disarmed formula as id", HEADING + b"'=1+1.png,dog,keep,,2026\n", pairs={"=1+1.png": ("keep", 2)}),
    _decisions(
        "quotation marks and a comma in an id",
        HEADING + b'"e,""<b>.png",owl,remove,,x\n',
        pairs={'e,"<b>.png': ("remove", 4)},
    ),
    _decisions("zero bytes", b"", "decisions.csv line 1: the columns are "),
    _decisions("Parquet", parquet({"id": ["a"]}), "decisions.csv cannot be read", "is not UTF-8"),
    _decisions("semicolons", (HEADING + ROW).replace(b",", b";"), "decisions.csv line 1", "semicolons"),
    _decisions(
        "columns in another order", b"given_label,id,decision,new_label,time\n", "decisions.csv line 1: the columns are"
    ),
    _decisions("the heading twice", HEADING + ROW + HEADING, "decisions.csv line 3: the heading comes a second time"),
    _decisions("a row cut off", HEADING + ROW + b"a.png,ca", "decisions.csv line 3 has 2 cells"),
    _decisions("a cell too many", HEADING + ROW[:-1] + b",x\n", "decisions.csv line 2 has 6 cells"),
    _decisions("an open quotation mark", HEADING + ROW + b'"a.png', "decisions.csv", "row 3"),
    _decisions("NUL", HEADING + ROW.replace(b"dog", b"d\0g"), "decisions.csv row 2 holds a NUL"),
    _decisions(
        "Latin-1", HEADING + ROW.replace(b"dog", b"d\xf6g"), "decisions.csv cannot be read: line 2 is not UTF-8"
    ),
    _decisions(
        "an id that is none",
        HEADING + ROW.replace(b"a.png", b"z.png"),
        "decisions.csv line 2: the label report has no sample 'z.png'",
    ),
    _decisions(
        "another given label", HEADING + ROW.replace(b"cat", b"dog"), "decisions.csv line 2", "belong to other labels"
    ),
    _decisions("an unknown word", HEADING + ROW.replace(b"accept", b"agree"), "decisions.csv line 2 word 'agree'"),
    _decisions("an unknown class", HEADING + ROW.replace(b"dog", b"cow"), "decisions.csv line 2: new_label 'cow'"),
    _decisions("no new label", HEADING + ROW.replace(b"dog", b""), "decisions.csv line 2: 'accept' needs a new_label"),
    _decisions("a number as class", HEADING + ROW.replace(b"dog", b"1"), "decisions.csv line 2: new_label '1'"),
]

# Exchange ---------------------------------------------------------------------------------------------------------


def _exchange(name: str, format: str, content: Any, *says: str, pairs: Pairs | None = None) -> Case:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()

    def read(folder: Path) -> Found:
        report = small()
        rows = {id: row for row, id in enumerate(report.columns["id"])}
        decisions, _ = import_decisions(folder / "export", report, format=format)
        return _found((rows[made.id], made) for made in decisions)

    return Case(
        reader="exchange (Label Studio, FiftyOne, cleanlab)",
        name=f"{format}: {name}",
        read=read,
        says=says,
        pairs=pairs,
        make=lambda folder: (folder / "export").write_bytes(data),
    )


def task(id: Any = "a.png", choice: Any = "dog") -> dict[str, Any]:
    result = [{"from_name": "label", "value": {"choices": [choice]}}]
    return {"data": {"id": id}, "annotations": [{"updated_at": "2026", "result": result}]}


def sample(id: Any = "a.png", label: Any = "dog", tags: Any = ()) -> dict[str, Any]:
    return {"acto_id": id, "ground_truth": {"label": label}, "tags": tags}


TABLE = b"id,is_label_issue,predicted_label\na.png,True,dog\nb.png,False,owl\n"
EXCHANGE = [
    _exchange("whole", "label-studio", [task()], pairs=DECIDED),
    _exchange("zero bytes", "label-studio", b"", "export is no label-studio export"),
    _exchange("truncated", "label-studio", json.dumps([task()]).encode()[:-9], "export is no label-studio export"),
    _exchange("a number", "label-studio", 5, "export is no label-studio export"),
    _exchange("nested without end", "label-studio", b"[" * 200_000, "export is no label-studio export"),
    _exchange(
        "NaN in the place of an id",
        "label-studio",
        b'[{"data": {"id": NaN}, "annotations": [{"result": []}]}]',
        "export: ",
        "no sample nan",
    ),
    _exchange("a list as id", "label-studio", [task(id=["a.png"])], "export is no label-studio export"),
    _exchange(
        "an id that is none", "label-studio", [task(id="z.png")], "export: the label report has no sample 'z.png'"
    ),
    _exchange("a class that is none", "label-studio", [task(choice="cow")], "export, sample 'a.png'", "'cow'"),
    _exchange("a number as class", "label-studio", [task(choice=1)], "export is no label-studio export"),
    _exchange(
        "two verdicts on one sample",
        "label-studio",
        [task(), task(choice="owl")],
        "export, sample 'a.png' is there more than once",
    ),
    _exchange("not UTF-8", "label-studio", b"\n\xff", "export cannot be read: line 2 is not UTF-8"),
    _exchange("whole", "fiftyone", {"samples": [sample()]}, pairs=DECIDED),
    _exchange("no samples", "fiftyone", {}, "export is no fiftyone export"),
    _exchange("tags that are none", "fiftyone", {"samples": [sample(tags=None)]}, "export is no fiftyone export"),
    _exchange(
        "an id that is none",
        "fiftyone",
        {"samples": [sample(id="z.png")]},
        "export: the label report has no sample 'z.png'",
    ),
    _exchange(
        "two verdicts on one sample",
        "fiftyone",
        {"samples": [sample(), sample(label="owl")]},
        "is there more than once",
    ),
    _exchange("whole", "cleanlab", TABLE, pairs=DECIDED),
    _exchange(
        "without ids, a row too few",
        "cleanlab",
        b"is_label_issue,predicted_label\nTrue,dog\n",
        "a row for each of the 6 samples is needed",
    ),
    _exchange(
        "two columns of one name",
        "cleanlab",
        TABLE.replace(b"predicted_label\n", b"predicted_label,id\n"),
        "has 2 columns 'id'",
    ),
    _exchange("a row cut off", "cleanlab", TABLE[:-5], "export: row 3 has 2 cells, the heading 3"),
    _exchange("a cell too many", "cleanlab", TABLE.replace(b"dog", b"dog,x"), "export: row 2 has 4 cells"),
    _exchange(
        "neither true nor false",
        "cleanlab",
        TABLE.replace(b"True", b"maybe"),
        "unknown value of is_label_issue 'maybe'",
    ),
    _exchange("an open quotation mark", "cleanlab", TABLE + b'"x', "export: ", "row 4"),
    _exchange("zero bytes", "cleanlab", b"", "export: a table with the columns"),
]

# What `acto predict` looks at -------------------------------------------------------------------------------------


def read_predicted(folder: Path, name: str) -> Found:
    data = read_new(str(folder / "new" / name))
    pairs = {id: ("", mark_of(content)) for id, content in zip(data.samples.ids, data.samples.content, strict=True)}
    return Found(pairs=pairs, notes=data.notes)


def _predict(
    name: str,
    make: Callable[[Path], object],
    *says: str,
    source: str = "",
    pairs: Pairs | None = None,
    notes: tuple[str, ...] = (),
) -> Case:
    def build(folder: Path) -> None:
        write_all(folder / "new")
        make(folder / "new")

    return Case(
        reader="samples to be predicted",
        name=name,
        make=build,
        read=partial(read_predicted, name=source),
        says=says,
        pairs=pairs,
        notes=notes,
    )


SEEN = {name: ("", mark) for name, mark in zip(("a.png", "b.png", "c.png", "d.png"), MARKS, strict=True)}


def _outside(new: Path) -> None:
    (new.parent / "z.png").write_bytes(encoded(picture(200)))
    (new / "z.png").symlink_to(new.parent / "z.png")


PREDICTED = [
    _predict("a folder", lambda new: None, pairs=SEEN),
    _predict(
        "a folder with a link out of it",
        _outside,
        pairs={**SEEN, "z.png": ("", 200)},
        notes=("lead out of", "z.png ->"),
    ),
    _predict(
        "a folder with a link to itself",
        lambda new: (new / "me").symlink_to("."),
        "new/me is a link to a folder that it lies in",
    ),
    _predict("a folder without pictures", lambda new: [path.unlink() for path in new.iterdir()], "new has no picture"),
    _predict(
        "a table",
        lambda new: (new / "l.csv").write_text("path\nd.png\na.png\n"),
        source="l.csv",
        pairs={"d.png": ("", 160), "a.png": ("", 10)},
    ),
    _predict(
        "a table that leads out",
        lambda new: (new / "l.csv").write_text("path\n../a.png\n"),
        "l.csv row 2",
        source="l.csv",
    ),
    _predict(
        "a table with a path twice",
        lambda new: (new / "l.csv").write_text("path\na.png\na.png\n"),
        "rows 2, 3",
        source="l.csv",
    ),
    _predict(
        "arrays without numbers",
        lambda new: np.save(new / "x.npy", np.zeros((4, 0))),
        "x.npy",
        "without any content",
        source="x.npy",
    ),
    _predict(
        "complex arrays",
        lambda new: np.save(new / "x.npy", np.zeros((4, 2)) + 1j),
        "x.npy must be pictures",
        source="x.npy",
    ),
    _predict(
        "truncated arrays", lambda new: (new / "x.npy").write_bytes(npy(X)[:-1]), "x.npy", "claims", source="x.npy"
    ),
]

CASES = [*NOISE, *DECISIONS, *EXCHANGE, *PREDICTED]
