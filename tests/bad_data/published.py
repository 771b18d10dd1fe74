"""Cases of the published sets: CIFAR's archives and Parquet copies, CIFAR-N, idx files and Food-101N's lists."""

from __future__ import annotations

import gzip
import os
import pickle
import tarfile
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from acto.data.readers.cifar import CIFAR10
from acto.data.samples import DataSpec
from acto.data.sources import load_data
from bad_data.corpus import Case, Found, Pairs, found_in
from bad_data.manifests import parquet
from bad_data.pictures import encoded, picture

NAMES = tuple(f"class {i}" for i in range(10))
FOLDER = Path("cifar10") / CIFAR10.folder
BATCHES = (*CIFAR10.train, *CIFAR10.test)


def read(folder: Path, source: str) -> Found:
    return found_in(load_data(DataSpec(source=source), data_root=folder, workers=1))


# CIFAR ------------------------------------------------------------------------------------------------------------


def batch(number: int) -> dict[str, Any]:
    """Ten pictures, one of each class, whose mark is the class and a batch's own step: 10 * ((class + batch) % 25)."""
    labels = [(3 * i + number) % 10 for i in range(10)]
    data = np.repeat(np.array([[10 * ((label + number) % 25)] for label in labels], np.uint8), 3072, axis=1)
    return {"data": data, "labels": labels}


def _pairs(labels: Callable[[int], list[int]] = lambda number: batch(number)["labels"]) -> Pairs:
    found = {}
    for number in range(6):
        marks = (10 * ((label + number) % 25) for label in batch(number)["labels"])
        for i, (label, mark) in enumerate(zip(labels(number), marks, strict=True)):
            found[f"{10 * number + i}" if number < 5 else f"test {i}"] = (NAMES[label], mark)
    return found


CIFAR = _pairs()


def cifar(folder: Path, changes: Mapping[str, object] | None = None) -> Path:
    place = folder / FOLDER
    place.mkdir(parents=True)
    content = {name: batch(number) for number, name in enumerate(BATCHES)} | {
        CIFAR10.meta: {"label_names": list(NAMES)}
    }
    for name, value in {**content, **(changes or {})}.items():
        (place / name).write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol=2))
    return place


class ObjectsAsNumbers:
    """An array of objects whose type says that it holds none: numpy would take the bytes for addresses."""

    def __init__(self, kind: str = "array") -> None:
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        if self.kind == "dtype":
            return np.dtype, ("O8", False, True), (3, "|", None, None, None, 8, 8, 0)
        empty = np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b")
        return *empty, (1, (10, 3072), ObjectsAsNumbers("dtype"), False, b"\x41" * 8 * 30720)


class Runs:
    """A pickle that makes a folder when it is loaded by a loader that runs it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def tarred(folder: Path, *extra: tarfile.TarInfo, cut: int = 0) -> None:
    place = cifar(folder / "unpacked")
    archive = folder / "cifar10" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(place, arcname=CIFAR10.folder)
        for info in extra:
            tar.addfile(info)
    if cut:
        archive.write_bytes(archive.read_bytes()[:-cut])


def member(name: str, *, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def _cifar_case(name: str, make: Callable[[Path], object], *says: str, pairs: Pairs | None = None) -> Case:
    return Case(
        reader="CIFAR (pickles, tar)",
        name=name,
        make=make,
        read=partial(read, source="cifar10"),
        says=says,
        pairs=pairs,
    )


def _changed(name: str, change: Mapping[str, object] | bytes, *says: str, pairs: Pairs | None = None) -> Case:
    """The second batch with other values."""
    value = change if isinstance(change, bytes) else {**batch(1), **change}
    return _cifar_case(name, partial(cifar, changes={"data_batch_2": value}), *says, pairs=pairs)


DATA = batch(1)["data"]
WHOLE_BATCH = pickle.dumps(batch(1), protocol=2)

PICKLES = [
    _cifar_case("whole", cifar, pairs=CIFAR),
    _changed("columns first in memory", {"data": np.asfortranarray(DATA)}, pairs=CIFAR),
    _changed("labels as a big-endian array", {"labels": np.array(batch(1)["labels"], ">i8")}, pairs=CIFAR),
    _changed("keys as bytes", pickle.dumps({b"data": DATA, b"labels": batch(1)["labels"]}, protocol=5), pairs=CIFAR),
    _changed("zero bytes", b"", "data_batch_2 is not a readable pickle"),
    _changed("truncated", WHOLE_BATCH[:-500], "data_batch_2"),
    _changed("text", b"data,labels\n", "data_batch_2"),
    _changed("a list", pickle.dumps([1]), "data_batch_2 holds a list"),
    _changed("an array of objects", {"data": DATA.astype(object)}, "data_batch_2 was refused", "not of numbers"),
    _changed(
        "addresses in the place of objects",
        pickle.dumps({"data": ObjectsAsNumbers()}, protocol=2),
        "data_batch_2 was refused",
        "'O8'",
    ),
    _changed("a structured array", {"data": np.zeros(10, [("a", "i4")])}, "data_batch_2 was refused", "not of numbers"),
    _changed("a set", pickle.dumps({"data": frozenset()}, protocol=2), "data_batch_2 was refused", "frozenset"),
    _changed("16 bits", {"data": DATA.astype(np.uint16)}, "data_batch_2: 'data' must be uint8"),
    _changed("another shape", {"data": DATA[:, 1:]}, "data_batch_2: 'data' must be uint8 of (N, 3072)"),
    _changed("fewer labels than pictures", {"labels": [0] * 9}, "data_batch_2: 'labels' must be 10 whole numbers"),
    _changed("more labels than pictures", {"labels": [0] * 11}, "data_batch_2: 'labels' must be 10 whole numbers"),
    _changed("labels as floats", {"labels": [1.0] * 10}, "data_batch_2: 'labels' must be 10 whole numbers"),
    _changed("labels of several lengths", {"labels": [[1], [1, 2]]}, "data_batch_2: 'labels' must be 10 whole numbers"),
    _changed("a negative label", {"labels": [0] * 9 + [-1]}, "data_batch_2: 1 of 'labels' are not in 0..9: row 9: -1"),
    _changed("a label of 10", {"labels": [0] * 9 + [10]}, "data_batch_2: 1 of 'labels' are not in 0..9: row 9: 10"),
    _changed("a label of 30 digits", {"labels": [0] * 9 + [10**30]}, "data_batch_2: 'labels' must be 10 whole numbers"),
    _cifar_case(
        "nine class names",
        partial(cifar, changes={CIFAR10.meta: {"label_names": list(NAMES[1:])}}),
        "batches.meta",
        "10 class names",
    ),
    _cifar_case(
        "a batch is missing", lambda folder: (cifar(folder) / "data_batch_3").unlink(), "data_batch_3: No such file"
    ),
    _cifar_case("tar.gz", tarred, pairs=CIFAR),
    _cifar_case(
        "tar.gz with a member that leaves the folder",
        lambda folder: tarred(folder, member("../../escaped"), member("/tmp/escaped")),
        pairs=CIFAR,
    ),
    _cifar_case("tar.gz, truncated", partial(tarred, cut=300), "cifar-10-python.tar.gz is a damaged archive"),
    _cifar_case(
        "tar.gz of zero bytes",
        lambda folder: [(folder / "cifar10").mkdir(), (folder / "cifar10" / "cifar-10-python.tar.gz").touch()],
        "cifar-10-python.tar.gz is a damaged archive",
    ),
    _cifar_case(
        "tar.gz with a batch twice",
        lambda folder: tarred(folder, member(f"{CIFAR10.folder}/data_batch_2")),
        "data_batch_2 twice",
    ),
    _cifar_case(
        "tar.gz with links in the place of batches",
        lambda folder: _linked(folder),
        "holds no cifar-10-batches-py/data_batch_1",
    ),
    _cifar_case(
        "tar.gz that claims to unpack to 8 GB",
        lambda folder: _claiming(folder),
        "cifar-10-python.tar.gz unpacks to more than",
    ),
]


def _linked(folder: Path) -> None:
    archive = folder / "cifar10" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for name in (*BATCHES, CIFAR10.meta):
            tar.addfile(member(f"{CIFAR10.folder}/{name}", kind=tarfile.SYMTYPE, link="/etc/passwd"))


def _claiming(folder: Path) -> None:
    archive = folder / "cifar10" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    archive.write_bytes(gzip.compress(member("junk", size=2**33).tobuf()))


def _cifar_parquet(folder: Path, change: Callable[[dict[str, list[Any]]], Any] = lambda columns: None) -> Path:
    """One training file of 50 pictures, whose columns are changed, and one of 10 for the test."""
    place = folder / "cifar10"
    place.mkdir()
    for split, numbers in (("train", range(5)), ("test", range(5, 6))):
        columns: dict[str, list[Any]] = {"img": [], "label": []}
        for number in numbers:
            for row, label in zip(batch(number)["data"], batch(number)["labels"], strict=True):
                columns["img"].append({"bytes": encoded(picture(int(row[0]), size=(32, 32))), "path": "x.png"})
                columns["label"].append(label)
        if split == "train":
            change(columns)
        (place / f"{split}-00000-of-00001.parquet").write_bytes(parquet(columns))
    return place


def _numbered(pairs: Pairs) -> Pairs:
    return {name: (label.removeprefix("class "), mark) for name, (label, mark) in pairs.items()}


def _parquet_case(
    name: str, change: Callable[[dict[str, list[Any]]], Any], *says: str, pairs: Pairs | None = None
) -> Case:
    return Case(
        reader="CIFAR (Parquet, as Hugging Face has it)",
        name=name,
        make=partial(_cifar_parquet, change=change),
        read=partial(read, source="cifar10"),
        says=says,
        pairs=pairs,
    )


TRAIN = "train-00000-of-00001.parquet"
PARQUET = [
    _parquet_case("whole", lambda columns: None, pairs=_numbered(CIFAR)),
    _parquet_case(
        "a picture is missing",
        lambda columns: columns["img"].__setitem__(7, {"bytes": None, "path": "x"}),
        f"{TRAIN} row 7",
    ),
    _parquet_case(
        "a picture of zero bytes",
        lambda columns: columns["img"].__setitem__(7, {"bytes": b"", "path": "x"}),
        f"{TRAIN} row 7",
        "empty",
    ),
    _parquet_case(
        "a picture of another size",
        lambda columns: columns["img"].__setitem__(7, {"bytes": encoded(picture(1)), "path": "x"}),
        f"{TRAIN} row 7",
        "it has 12x10 pixels, the others 32x32",
    ),
    _parquet_case(
        "a label is missing",
        lambda columns: columns["label"].__setitem__(7, None),
        TRAIN,
        "'label' must be 50 whole numbers",
    ),
    _parquet_case(
        "a label of 10",
        lambda columns: columns["label"].__setitem__(7, 10),
        f"{TRAIN}: 1 of 'label' are not in 0..9: row 7: 10",
    ),
    _parquet_case(
        "labels as floats",
        lambda columns: columns.update(label=[float(x) for x in columns["label"]]),
        TRAIN,
        "whole numbers",
    ),
    _parquet_case(
        "paths for pictures",
        lambda columns: columns.update(img=["x.png"] * 50),
        f"{TRAIN} row 0",
        "picture file in 'bytes'",
    ),
    _parquet_case(
        "no pictures", lambda columns: columns.update(image=columns.pop("img")), f"{TRAIN} has no column 'img'"
    ),
    Case(
        reader="CIFAR (Parquet, as Hugging Face has it)",
        name="truncated",
        read=partial(read, source="cifar10"),
        make=lambda folder: (_cifar_parquet(folder) / TRAIN).write_bytes(
            (folder / "cifar10" / TRAIN).read_bytes()[:-99]
        ),
        says=(f"{TRAIN} is not a readable Parquet file",),
    ),
]

# CIFAR-N ----------------------------------------------------------------------------------------------------------

CLEAN = np.array([label for number in range(5) for label in batch(number)["labels"]])
WORSE = (CLEAN + 1) % 10


def _human(folder: Path, arrays: Mapping[str, Any], *, cut: int = 0, zipped: bool = True) -> None:
    cifar(folder)
    path = folder / "CIFAR-10_human.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"clean_label": CLEAN, "worse_label": WORSE, **arrays}, path, _use_new_zipfile_serialization=zipped)
    if cut:
        path.write_bytes(path.read_bytes()[:-cut])


def _human_case(name: str, make: Callable[[Path], object], *says: str, pairs: Pairs | None = None) -> Case:
    return Case(
        reader="CIFAR-N (.pt)", name=name, make=make, read=partial(read, source="cifar10n"), says=says, pairs=pairs
    )


HUMAN_PAIRS = {
    name: (pair if name.startswith("test") else (NAMES[(NAMES.index(pair[0]) + 1) % 10], pair[1]))
    for name, pair in CIFAR.items()
}
FILE = "CIFAR-10_human.pt"
HUMAN = [
    _human_case("whole", partial(_human, arrays={}), pairs=HUMAN_PAIRS),
    _human_case("torch's older form", partial(_human, arrays={}, zipped=False), pairs=HUMAN_PAIRS),
    _human_case("missing", cifar, f"{FILE} was not found"),
    _human_case("truncated", partial(_human, arrays={}, cut=400), FILE),
    _human_case("older form, truncated", partial(_human, arrays={}, cut=200, zipped=False), FILE),
    _human_case("zero bytes", lambda folder: [cifar(folder), (folder / FILE).touch()], FILE, "not a readable pickle"),
    _human_case("tensors", partial(_human, arrays={"worse_label": torch.tensor(WORSE)}), FILE, "was refused"),
    _human_case("objects", partial(_human, arrays={"worse_label": WORSE.astype(object)}), FILE, "not of numbers"),
    _human_case(
        "another order of the pictures", partial(_human, arrays={"clean_label": CLEAN[::-1].copy()}), FILE, "another"
    ),
    _human_case(
        "too few labels", partial(_human, arrays={"worse_label": WORSE[:-1]}), f"{FILE}: worse_label has shape (49,)"
    ),
    _human_case(
        "a label of 10", partial(_human, arrays={"worse_label": CLEAN + 1}), f"{FILE}: worse_label", "row 3: '10'"
    ),
    _human_case(
        "floats", partial(_human, arrays={"worse_label": WORSE / 2}), f"{FILE}: worse_label must hold whole numbers"
    ),
    _human_case(
        "lists of several lengths",
        partial(_human, arrays={"worse_label": [[1], [1, 2]]}),
        f"{FILE}: worse_label must hold 50",
    ),
    _human_case(
        "no such labels",
        lambda folder: [cifar(folder), torch.save({"clean_label": CLEAN}, folder / FILE)],
        FILE,
        "'worse_label'",
    ),
]

# idx files --------------------------------------------------------------------------------------------------------

PICTURES = np.arange(1, 11, dtype=np.uint8).repeat(784).reshape(10, 28, 28) * 10
DIGITS = np.arange(10, dtype=np.uint8)[::-1]


def idx(array: np.ndarray[Any, Any], *, shape: tuple[int, ...] | None = None, kind: int = 8) -> bytes:
    shape = array.shape if shape is None else shape
    return bytes([0, 0, kind, len(shape)]) + b"".join(side.to_bytes(4, "big") for side in shape) + array.tobytes()


def fashion(folder: Path, *, images: bytes = idx(PICTURES), labels: bytes = idx(DIGITS), packed: bool = False) -> None:
    place = folder / "fashion-mnist"
    place.mkdir()
    contents = {
        "train-images-idx3": images,
        "train-labels-idx1": labels,
        "t10k-images-idx3": idx(PICTURES),
        "t10k-labels-idx1": idx(DIGITS),
    }
    for name, content in contents.items():
        path = place / f"{name}-ubyte{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(content) if packed and content[:2] != b"\x1f\x8b" else content)


def _idx_case(name: str, *says: str, pairs: Pairs | None = None, **content: Any) -> Case:
    return Case(
        reader="idx files",
        name=name,
        make=partial(fashion, **content),
        read=partial(read, source="fashion-mnist"),
        says=says,
        pairs=pairs,
    )


FASHION = "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle_boot".replace("_", "\0").split()
IDX_PAIRS = {
    f"{split}{i}": (FASHION[9 - i].replace("\0", " "), 10 * (i + 1)) for split in ("", "test ") for i in range(10)
}
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
HUGE = (10_000, 10_000, 10_000)
IDX = [
    _idx_case("whole", pairs=IDX_PAIRS),
    _idx_case("gzipped", pairs=IDX_PAIRS, packed=True),
    _idx_case("zero bytes", IMAGES, "no idx file of bytes", images=b""),
    _idx_case("truncated", IMAGES, "should hold 7840 bytes", images=idx(PICTURES)[:-1]),
    _idx_case("a byte too many", IMAGES, "should hold 7840 bytes", images=idx(PICTURES) + b"x"),
    _idx_case("a header of 10^12 bytes", IMAGES, "would unpack to 1000000000000", images=idx(PICTURES, shape=HUGE)),
    _idx_case(
        "the same, gzipped", IMAGES, "would unpack to 1000000000000", images=idx(PICTURES, shape=HUGE), packed=True
    ),
    _idx_case("a header beyond all numbers", IMAGES, "would unpack to", images=idx(PICTURES, shape=(2**32 - 1,) * 7)),
    _idx_case("255 axes", IMAGES, "it says that it has 255 axes", images=b"\0\0\x08\xff" + bytes(2000)),
    _idx_case("no axes", IMAGES, "it says that it has 0 axes", images=b"\0\0\x08\0x"),
    _idx_case("floats", IMAGES, "no idx file of bytes: it starts with 00 00 0d 03", images=idx(PICTURES, kind=13)),
    _idx_case("gzip, truncated", IMAGES, "cannot be read", images=gzip.compress(idx(PICTURES))[:-9], packed=True),
    _idx_case("no gzip", IMAGES, "cannot be read", images=b"\x1f\x8b" + bytes(40), packed=True),
    _idx_case(
        "a label of 10",
        LABELS,
        "1 label is not in 0..9, the first in row 4",
        labels=idx(np.array([0, 1, 2, 3, 10, 5, 6, 7, 8, 9], np.uint8)),
    ),
    _idx_case("fewer labels than pictures", LABELS, "no pictures with their labels", labels=idx(DIGITS[:9])),
    _idx_case("labels in the place of pictures", IMAGES, "no pictures with their labels", images=idx(DIGITS)),
]

# Food-101N --------------------------------------------------------------------------------------------------------

KEYS = ("pie/1.jpg", "pie/2.jpg", "ramen/1.jpg", "ramen/2.jpg")


def food(folder: Path, change: Mapping[str, bytes | None] | None = None) -> None:
    root = folder / "food-101"
    files: dict[str, bytes | None] = {
        "meta/classes.txt": b"class_name\npie\nramen\n",
        "meta/imagelist.tsv": "\n".join(("class_name/key", *KEYS)).encode(),
        "meta/verified_train.tsv": b"class_name/key\tverification_label\npie/1.jpg\t1\nramen/2.jpg\t0\n",
        "food-101/meta/classes.txt": b"pie\nramen\n",
        "food-101/meta/test.txt": b"pie/7\nramen/8\n",
    }
    for i, key in enumerate(
        (*(f"images/{key}" for key in KEYS), "food-101/images/pie/7.jpg", "food-101/images/ramen/8.jpg")
    ):
        files[key] = encoded(picture(10 + 40 * i, size=(90, 80)), "JPEG", quality=95)
    for name, content in (files | dict(change or {})).items():
        if content is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)


FOOD_PAIRS = {f"images/{key}": (key.partition("/")[0], 10 + 40 * i) for i, key in enumerate(KEYS)} | {
    "food-101/images/pie/7.jpg": ("pie", 170),
    "food-101/images/ramen/8.jpg": ("ramen", 210),
}


def _food_case(name: str, file: str, content: bytes | None, *says: str, notes: tuple[str, ...] = ()) -> Case:
    return Case(
        reader="Food-101N's lists",
        name=name,
        make=partial(food, change={file: content}),
        read=partial(read, source="food101n"),
        says=says,
        pairs=None if says else FOOD_PAIRS,
        notes=notes,
    )


LIST, CLASS_LIST, VERDICTS = "meta/imagelist.tsv", "meta/classes.txt", "meta/verified_train.tsv"
LINES = "\n".join(("class_name/key", *KEYS)).encode()
FOOD = [
    _food_case("whole", LIST, LINES),
    _food_case("CRLF", LIST, LINES.replace(b"\n", b"\r\n")),
    _food_case("a mark at the start (BOM)", LIST, b"\xef\xbb\xbf" + LINES),
    _food_case("no heading", LIST, LINES.partition(b"\n")[2]),
    _food_case("no verdicts", VERDICTS, None),
    _food_case(
        "a verdict for another picture",
        VERDICTS,
        b"pie/9.jpg\t1\n",
        notes=("1 verdict is for a picture that", "pie/9.jpg"),
    ),
    _food_case("no test list", "food-101/meta/test.txt", None, "test.txt cannot be read"),
    _food_case("Latin-1", LIST, LINES + b"\nrag\xfbt/1.jpg", "imagelist.tsv", "line 6 is not UTF-8"),
    _food_case(
        "a class that is none",
        LIST,
        LINES + b"\npi/1.jpg",
        "imagelist.tsv line 6 names no class and picture: 'pi/1.jpg'",
    ),
    _food_case("the first line names no class", LIST, b"pi/1.jpg\n" + LINES, "imagelist.tsv line 1 names no class"),
    _food_case("a picture twice", LIST, LINES + b"\npie/1.jpg", "imagelist.tsv line 6 names pie/1.jpg a second time"),
    _food_case("..", LIST, LINES + b"\npie/..", "imagelist.tsv line 6 names no class and picture"),
    _food_case(
        "a path that leaves the folder", LIST, LINES + b"\npie/../../../x.jpg", "imagelist.tsv line 6 names no class"
    ),
    _food_case("NUL", LIST, LINES + b"\npie/\0.jpg", "imagelist.tsv line 6 names no class"),
    _food_case("a picture that is missing", LIST, LINES + b"\npie/3.jpg", "images/pie/3.jpg: no such file"),
    _food_case(
        "a class that leads out", CLASS_LIST, b"pie\nramen\n..\n", "classes.txt line 3: '..' is the name of no folder"
    ),
    _food_case(
        "a class twice", CLASS_LIST, b"pie\nramen\npie\n", "classes.txt line 3 names the class 'pie' a second time"
    ),
    _food_case(
        "other classes in the test set",
        "food-101/meta/classes.txt",
        b"pie\nsoup\n",
        "name different classes: ramen, soup",
    ),
    _food_case(
        "a verdict of 2",
        VERDICTS,
        b"class_name/key\tv\npie/1.jpg\t2\n",
        "verified_train.tsv line 2: after pie/1.jpg stands '2'",
    ),
    _food_case(
        "no verdict behind a picture", VERDICTS, b"class_name/key\tv\npie/1.jpg\n", "verified_train.tsv line 2", "''"
    ),
    _food_case("zero bytes", LIST, b"", "2 of 2 classes have no training sample"),
]

CASES = [*PICKLES, *PARQUET, *HUMAN, *IDX, *FOOD]
