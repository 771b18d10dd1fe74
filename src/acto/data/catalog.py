"""The named data sets: all facts of each in one record, from which readers, tables and commands take theirs.

How to train on them stands in acto.runs.recipes.by_data. Nothing here loads torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from acto.data.readers import cifar, digits, food101n, formats, idx, web
from acto.data.readers.place import Reader


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A named data set."""

    read: Reader
    about: str
    title: str = ""
    """In tables; empty: the name."""
    published: tuple[int, int] | None = None
    """Training and test samples as its authors give them; None: not known, or those of `files_of`."""
    files_of: str | None = None
    """The source whose files serve this one as well."""
    paper_table: int | None = None
    """Table of ACTO's paper that has results on it. Its setting is the paper's, and the papers' commands take it."""
    pipeline: str | None = None
    """The views' pipeline; None: by what the samples turn out to be."""
    size: int = 224
    resize: int = 256
    """Side of the training crop of its picture files, and their short side before it, in pixels."""
    noisy: bool = False
    """True if its labels are wrong in part as they come, so that no noise may be put on."""
    open_rate: float = 0.0
    """Share of open-set classes that belongs to the data set."""
    open_twin: str | None = None
    """The source that has open-set noise, where this one has closed-set noise by its definition."""
    human: str | None = None
    """The people's labels that the data set has unless told otherwise."""


_CIFAR10 = partial(Source, read=partial(cifar.read, form=cifar.CIFAR10), pipeline="cifar")
_CIFAR100 = partial(Source, read=partial(cifar.read, form=cifar.CIFAR100), pipeline="cifar")
_WEB = partial(Source, paper_table=2, pipeline="photo", size=448, resize=448, noisy=True)

SOURCES: Mapping[str, Source] = {
    "arrays": Source(
        read=formats.read_path,
        about="an .npz or .npy file of pictures or feature vectors; a path as source does the same",
    ),
    "cifar10": _CIFAR10(about="CIFAR-10, 10 classes, 32x32 pixels", published=(50_000, 10_000)),
    "cifar100": _CIFAR100(about="CIFAR-100, 100 classes, 32x32 pixels", published=(50_000, 10_000)),
    "cifar100n-human": _CIFAR100(
        about="CIFAR-100 with the labels that people gave (CIFAR-100N of Wei et al. 2022)",
        files_of="cifar100",
        human="noisy_label",
    ),
    "cifar100nc": _CIFAR100(
        about="CIFAR-100 with synthetic closed-set noise: the papers' CIFAR100N",
        title="CIFAR100N (synthetic)",
        files_of="cifar100",
        paper_table=1,
        open_twin="cifar80no",
    ),
    "cifar10n": _CIFAR10(
        about="CIFAR-10 with the labels that people gave (CIFAR-10N of Wei et al. 2022)",
        files_of="cifar10",
        human="worse_label",
    ),
    "cifar80no": _CIFAR100(
        about="CIFAR-100, 80 classes closed and 20 open-set, with synthetic noise: the papers' CIFAR80N",
        title="CIFAR80N (synthetic)",
        files_of="cifar100",
        paper_table=1,
        open_rate=0.2,
    ),
    "digits": Source(
        read=digits.read,
        about="scikit-learn's handwritten digits, 8x8 pixels; comes with the installation",
        pipeline="digits",
    ),
    "fashion-mnist": Source(
        read=idx.read,
        about="Fashion-MNIST, 10 classes, 28x28 pixels, from its idx files",
        title="Fashion-MNIST",
        published=(60_000, 10_000),
        pipeline="fashion",
    ),
    "folder": Source(
        read=formats.read_path,
        about="ROOT/CLASS/pictures or ROOT/{train,val,test}/CLASS/pictures; a path as source does the same",
    ),
    "food101n": Source(
        read=food101n.read,
        about="Food-101N (web labels, 101 classes), tested on Food-101",
        title="Food101N",
        published=(310_009, 25_250),
        paper_table=3,
        pipeline="photo",
        noisy=True,
    ),
    "hugging-face": Source(
        read=formats.read_path,
        about="a folder of save_to_disk, or Parquet files as on the Hub; a path as source does the same",
    ),
    "json-lines": Source(
        read=formats.read_path,
        about="a .jsonl file of paths or vectors, and labels; a path as source does the same",
    ),
    "manifest": Source(
        read=formats.read_path,
        about="a .csv, .tsv or .parquet table: path, label[, split, true_label]; a path as source does the same",
    ),
    "shards": Source(
        read=formats.read_path,
        about="tar files of KEY.jpg with KEY.cls, KEY.json or KEY.txt; a path as source does the same",
    ),
    "table": Source(
        read=formats.read_path,
        about="a .csv, .tsv, .jsonl or .parquet table of features or texts, and label; a path does the same",
    ),
    "web-aircraft": _WEB(
        read=partial(web.read, num_classes=100),
        about="Web-aircraft (web labels, 100 classes)",
        title="Web-aircraft",
        published=(13_503, 3_333),
    ),
    "web-bird": _WEB(
        read=partial(web.read, num_classes=200),
        about="Web-bird (web labels, 200 classes)",
        title="Web-bird",
        published=(18_388, 5_794),
    ),
    "web-car": _WEB(
        read=partial(web.read, num_classes=196),
        about="Web-car (web labels, 196 classes)",
        title="Web-car",
        published=(21_448, 8_041),
    ),
}
OF_THE_PAPER = tuple(name for table in (1, 2, 3) for name, source in SOURCES.items() if source.paper_table == table)
"""Those of ACTO's paper, in the order of its tables."""
