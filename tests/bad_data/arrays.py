"""Cases of array files (.npz, .npy), those of `acto features` among them."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from acto.data.samples import DataSpec
from acto.data.sources import load_data
from bad_data.corpus import Case, Found, Pairs, found_in

X = np.array([[10.0, 1], [60, 2], [110, 3], [160, 4]])
Y = np.array([0, 0, 1, 1])
WHOLE: Pairs = {"0": ("0", 10), "1": ("0", 60), "2": ("1", 110), "3": ("1", 160)}


def read(folder: Path, name: str = "set.npz") -> Found:
    return found_in(load_data(DataSpec(source=str(folder / name), holdout_share=0.5)))


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **({"x": X, "y": Y} | arrays))
    return stream.getvalue()


def npy(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def claiming(shape: str, descr: str = "'<f8'") -> bytes:
    """A .npy whose header claims what is not there."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + X.tobytes()


def members(*files: tuple[str, bytes]) -> bytes:
    """A zip of these files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            with archive.open(zipfile.ZipInfo(name), "w") as file:
                file.write(content)
    return stream.getvalue()


def claiming_zip() -> bytes:
    """A zip whose directory says that x.npy unpacks to 4 GB."""
    content = npz()
    place = content.index(b"PK\x01\x02") + 24
    return content[:place] + struct.pack("<I", 2**32 - 2) + content[place + 4 :]


def _written(content: bytes, folder: Path, name: str) -> None:
    (folder / name).write_bytes(content)


def _case(
    name: str,
    content: bytes,
    *says: str,
    pairs: Pairs | None = None,
    notes: tuple[str, ...] = (),
    file: str = "set.npz",
) -> Case:
    return Case(
        reader="arrays (.npz, .npy)",
        name=name,
        make=partial(_written, content, name=file),
        read=partial(read, name=file),
        says=says,
        pairs=pairs,
        notes=notes,
    )


def _named(*names: str) -> Pairs:
    return dict(zip(names, WHOLE.values(), strict=True))


def _classes(*labels: str) -> Pairs:
    return {key: (label, mark) for (key, (_, mark)), label in zip(WHOLE.items(), labels, strict=True)}


PIXELS = np.repeat(X[:, :1], 48, 1).reshape(4, 4, 4, 3)
STRUCTURED = np.zeros(4, [("a", "i4"), ("b", "f4")])
OBJECT = "set.npz cannot be read as numpy arrays"

CASES = [
    _case("zero bytes", b"", "set.npz cannot be read"),
    _case("text", b"x,y\n1,2\n", "set.npz cannot be read"),
    _case("truncated", npz()[:-60], "set.npz cannot be read"),
    _case("a bit flipped in an array", npz()[:150] + b"\x5a" + npz()[151:], "set.npz cannot be read", "CRC"),
    _case(
        "a header that claims 10^12 rows",
        members(("x.npy", claiming("(1000000000000, 2)")), ("y.npy", npy(Y))),
        "set.npz",
        "claims float64",
    ),
    _case(
        "the same in .npy",
        claiming("(1000000000000, 2)"),
        "x.npy",
        "claims float64 of (1000000000000, 2)",
        file="x.npy",
    ),
    _case("a negative side", claiming("(-4, 2)"), "x.npy", "claims", file="x.npy"),
    _case(
        "a header with code",
        claiming("(4, 2)", "__import__('os').system('true')"),
        "x.npy cannot be read",
        file="x.npy",
    ),
    _case("objects in .npy", claiming("(4,)", "'|O'"), "x.npy", "Python objects", file="x.npy"),
    _case("a zip that claims to unpack to 4 GB", claiming_zip(), "set.npz has", "would unpack to", "a bomb"),
    _case("objects", npz(y=np.array(["a", None, 1, 2], object)), OBJECT, "Python objects"),
    _case("a member that is no array", members(("x.npy", npy(X)), ("y.npy", b"0,0,1,1")), OBJECT, "'y' is no array"),
    _case(
        "two arrays of one name",
        members(("x.npy", npy(X)), ("y.npy", npy(Y)), ("y", npy(1 - Y))),
        "set.npz holds 'y' twice",
    ),
    _case("a member with a path", members(("../x.npy", npy(X)), ("y.npy", npy(Y))), "set.npz has no samples", "'../x'"),
    _case("no labels", members(("x.npy", npy(X))), "set.npz has no labels"),
    _case("fewer labels than samples", npz(y=Y[:3]), "set.npz: y has shape (3,), but x 4 rows"),
    _case("more labels than samples", npz(y=np.array([0, 0, 1, 1, 1])), "set.npz: y has shape (5,), but x 4 rows"),
    _case("complex labels", npz(y=Y + 0j), "whole numbers, not complex128: set.npz y row 0"),
    _case("structured labels", npz(y=STRUCTURED), "whole numbers, not [", "set.npz y row 0"),
    _case("dates as labels", npz(y=np.array(["2026-01-01"] * 4, "M8[D]")), "not datetime64[D]: set.npz y row 0"),
    _case("NaN", npz(y=np.array([0, 0, np.nan, 1])), "set.npz y row 2: 'nan'"),
    _case("fractions", npz(y=np.array([0, 0, 1.5, 1])), "set.npz y row 2: '1.5'"),
    _case("negative labels", npz(y=np.array([0, 0, -1, 1])), "set.npz y row 2: '-1'"),
    _case(
        "labels of 64 bits",
        npz(y=np.array([0, 0, 2**64 - 1, 1], np.uint64)),
        "class 2 has no sample",
        "set.npz y row 2",
    ),
    _case("labels that are not UTF-8", npz(y=np.array([b"a", b"a", b"\xff", b"b"])), "not UTF-8: set.npz y row 2"),
    _case("one class", npz(y=Y * 0), "at least two classes"),
    _case("complex samples", npz(x=X + 0j), "set.npz: x must be pictures", "complex128"),
    _case(
        "samples without numbers", npz(x=X[:, :0]), "set.npz: x has samples without any content: its shape is (4, 0)"
    ),
    _case("no samples at all", npz(x=X[:0], y=Y[:0]), "at least two classes are needed"),
    _case(
        "infinite features",
        npz(x=X * np.array([[1], [1], [np.inf], [1]])),
        "set.npz: x has values that are not finite",
        "first 2",
    ),
    _case(
        "features too large for float32",
        npz(x=X * np.array([[1], [1], [1e300], [1]])),
        "not finite in 1 row, the first 2",
    ),
    _case("pictures as floats", npz(x=PIXELS / 255), "set.npz: x must be pictures, uint8", "float64"),
    _case("pictures of 16 bits", npz(x=PIXELS.astype(np.uint16)), "set.npz: x must be pictures, uint8", "uint16"),
    _case(
        "pictures with the channels first",
        npz(x=PIXELS.astype(np.uint8).transpose(0, 3, 1, 2)),
        "set.npz: x",
        "transpose",
    ),
    _case(
        "class names twice", npz(class_names=np.array(["a", "a"])), "set.npz: class_names", "'a' is twice among them"
    ),
    _case("an empty class name", npz(class_names=np.array(["a", ""])), "set.npz: class_names", "is empty among them"),
    _case("class names in two rows", npz(class_names=np.array([["a", "b"]])), "set.npz: class_names", "(1, 2)"),
    _case(
        "fewer class names than classes",
        npz(y=np.array([0, 0, 1, 2]), class_names=np.array(["a", "b"])),
        "set.npz y row 3: '2'",
    ),
    _case(
        "more class names than classes",
        npz(class_names=np.array(["a", "b", "c"])),
        "1 of 3 classes have no training sample: 'c'",
    ),
    _case(
        "ids twice", npz(ids=np.array(["p", "p", "q", "r"])), "set.npz: ids must name each of the 4 samples differently"
    ),
    _case("ids of fractions", npz(ids=np.array([0.5, 1.5, 2.5, 3.5])), "set.npz: ids must name"),
    _case("too few ids", npz(ids=np.array(["p", "q"])), "set.npz: ids must name each of the 4"),
    _case("test samples of another shape", npz(test_x=X[:, :1], test_y=Y), "set.npz: a test sample has shape (1,)"),
    _case("a test label that training has not", npz(test_x=X, test_y=Y + 1), "set.npz test_y row 2: '2'"),
    _case(
        "held out: maybe",
        npz(test_x=X, test_y=Y, test_is_held_out=np.array([True, False])),
        "set.npz: test_is_held_out must be",
    ),
    _case("an unknown pipeline", npz(pipeline=np.array("cifra")), "pipeline of", "set.npz", "'cifar'"),
    _case(
        "a true label of 30 digits",
        npz(true_labels=np.array(["0", "0", "1" + "0" * 30, "1"])),
        "true label is not below",
        "row 2",
    ),
    _case("whole", npz(), pairs=WHOLE),
    _case("columns first in memory", npz(x=np.asfortranarray(X)), pairs=WHOLE),
    _case("big-endian", npz(x=X.astype(">f8"), y=Y.astype(">i4")), pairs=WHOLE),
    _case("half precision", npz(x=X.astype(np.float16)), pairs=WHOLE),
    _case("labels as floats", npz(y=Y.astype(np.float64)), pairs=WHOLE),
    _case("labels as booleans", npz(y=Y.astype(bool)), pairs=WHOLE),
    _case("labels as bytes", npz(y=np.array([b"a", b"a", b"b", b"b"])), pairs=_classes("a", "a", "b", "b")),
    _case("big-endian text", npz(y=np.array(["a", "a", "b", "b"], ">U1")), pairs=_classes("a", "a", "b", "b")),
    _case(
        "ids and class names as bytes",
        npz(ids=np.array([b"p", b"q", b"r", b"s"]), class_names=np.array([b"u", b"v"])),
        pairs={name: (label, mark) for name, label, mark in zip("pqrs", "uuvv", (10, 60, 110, 160), strict=True)},
    ),
    _case("ids", npz(ids=np.array(["p", "q", "r", "s"])), pairs=_named("p", "q", "r", "s")),
    _case(
        "class names that look alike",
        npz(class_names=np.array(["cat", "CAT"])),
        pairs=_classes("cat", "cat", "CAT", "CAT"),
        notes=("look alike",),
    ),
    _case("pictures, columns first in memory", npz(x=np.asfortranarray(PIXELS.astype(np.uint8))), pairs=WHOLE),
    _case("ending in capitals", npz(), pairs=WHOLE, file="set.NPZ"),
]


def _features(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """What `acto features` writes, with one thing changed."""
    arrays: dict[str, Any] = {
        "x": X.astype(np.float32),
        "labels": Y,
        "ids": np.array(["p", "q", "r", "s"]),
        "class_names": np.array(["u", "v"]),
        "test_x": X.astype(np.float32)[:2] + 200,
        "test_labels": Y[1:3],
        "test_ids": np.array(["t", "w"]),
        "test_is_held_out": np.array(True),
        "about": np.array("{}"),
    }
    change(arrays)
    np.savez(folder / "set.npz", **arrays)


def _feature_case(name: str, change: Callable[[dict[str, Any]], Any], *says: str, pairs: Pairs | None = None) -> Case:
    return Case(
        reader="features of `acto features`",
        name=name,
        make=partial(_features, change=change),
        read=read,
        says=says,
        pairs=pairs,
    )


FEATURES = {"p": ("u", 10), "q": ("u", 60), "r": ("v", 110), "s": ("v", 160), "t": ("u", 210), "w": ("v", 260)}

CASES += [
    _feature_case("whole", lambda arrays: None, pairs=FEATURES),
    _feature_case("halves", lambda arrays: arrays.update(x=X.astype(np.float16)), pairs=FEATURES),
    _feature_case(
        "no class list",
        lambda arrays: arrays.pop("class_names"),
        pairs={name: (str("uv".index(label)), mark) for name, (label, mark) in FEATURES.items()},
    ),
    _feature_case("no labels", lambda arrays: arrays.pop("labels"), "set.npz has no labels"),
    _feature_case("no test labels", lambda arrays: arrays.pop("test_labels"), "set.npz has no labels (test_labels"),
    _feature_case("ids of another file", lambda arrays: arrays.update(ids=np.array(["p"])), "set.npz: ids must name"),
    _feature_case(
        "rows cut off", lambda arrays: arrays.update(x=X[:3]), "set.npz: labels has shape (4,), but x 3 rows"
    ),
    _feature_case("NaN in a row", lambda arrays: arrays["x"].__setitem__((2, 1), np.nan), "set.npz: x", "the first 2"),
    _feature_case(
        "a label above the classes", lambda arrays: arrays["labels"].__setitem__(3, 7), "set.npz labels row 3: '7'"
    ),
]
