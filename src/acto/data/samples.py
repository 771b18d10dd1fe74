"""Parts of a data set: the spec that names it, its samples, and the set as it goes into training.

The labels that a method may see are `labels`; `true_labels` are for evaluation alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError
from acto.core.settings import Settings, setting
from acto.core.text import counted
from acto.data.classes import UNKNOWN
from acto.data.decision_file import Decision
from acto.data.label_columns import Where
from acto.data.noise import NoiseSpec
from acto.data.pictures.files import HARD_MAX_PIXELS, MAX_PIXELS
from acto.data.tables.encoding import Encoding
from acto.data.tables.rows import Rows, join_rows
from acto.data.views.spec import ViewSpec

Labels = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Samples:
    """Some samples and what is known of them. Exactly one of pixels, features and paths is there, or rows alone."""

    ids: tuple[str, ...]
    """(N,) names that stay with the samples: relative path, or row number in the source."""
    labels: Labels
    """(N,) as given, 0 to K - 1."""
    true_labels: Labels | None = None
    """(N,) for evaluation only, None if no truth is known. UNKNOWN (-1) where nobody knows; K or more where none of the
    classes is right: an open-set sample keeps its original class, other wrong labels of unknown truth have K."""
    pixels: npt.NDArray[np.uint8] | None = None
    """(N, H, W, C)."""
    features: npt.NDArray[np.float32] | None = None
    """(N, D)."""
    paths: tuple[Path, ...] | None = None
    """(N,) picture files."""
    rows: Rows | None = None
    """(N,) rows of a table or texts, of which the features are made; alone until they are."""
    groups: Labels | None = None
    """(N,) numbers; samples of one stay on one side of a hold-out. None if nothing groups them."""

    def __post_init__(self) -> None:
        number = sum(part is not None for part in (self.pixels, self.features, self.paths))
        assert number == 1 or (number == 0 and self.rows is not None)
        assert all(len(part) == len(self.ids) for part in (self.labels, self.content))

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"<{counted(len(self), 'sample')}: {self.kind}>"

    @property
    def kind(self) -> str:
        """Words for what they are."""
        if self.pixels is not None:
            return "pictures of {1}x{0} pixels in memory".format(*self.pixels.shape[1:3])
        if self.features is not None:
            return f"{counted(self.features.shape[1], 'number')} each"
        return "picture files" if self.paths is not None else "rows of a table"

    @property
    def content(self) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32] | tuple[Path, ...] | Rows:
        """Pixels, features, paths or rows, whichever is there."""
        if self.pixels is not None:
            return self.pixels
        if self.features is not None:
            return self.features
        if self.paths is not None:
            return self.paths
        assert self.rows is not None
        return self.rows

    @property
    def is_clean(self) -> npt.NDArray[np.bool_] | None:
        """(N,) whether the given label is the true one; read it only where `is_known`. None if no truth is known."""
        return None if self.true_labels is None else self.labels == self.true_labels

    @property
    def is_known(self) -> npt.NDArray[np.bool_] | None:
        """(N,) whether the given label is known to be right or wrong. None if no truth is known."""
        return None if self.true_labels is None else self.true_labels != UNKNOWN

    @property
    def noise_rate(self) -> float | None:
        """Share of wrong labels among those whose truth is known; None if there are none."""
        if self.is_known is None or self.is_clean is None or not self.is_known.any():
            return None
        return float(np.mean(~self.is_clean[self.is_known]))

    def take(self, index: npt.NDArray[np.int64]) -> Samples:
        """The samples at these rows, with their ids."""
        rows = index.tolist()
        return Samples(
            ids=tuple(self.ids[i] for i in rows),
            labels=self.labels[index],
            true_labels=None if self.true_labels is None else self.true_labels[index],
            pixels=None if self.pixels is None else self.pixels[index],
            features=None if self.features is None else self.features[index],
            paths=None if self.paths is None else tuple(self.paths[i] for i in rows),
            rows=None if self.rows is None else self.rows.take(index),
            groups=None if self.groups is None else self.groups[index],
        )


def encoded(samples: Samples, encoding: Encoding) -> Samples:
    """Samples whose features are what `encoding` makes of their rows.

    Raises:
        UserError: the rows do not suit it.
    """
    assert samples.rows is not None
    rows = replace(samples.rows, plan=encoding.plan)
    return replace(samples, rows=rows, features=encoding.encode(rows))


def told_apart(train: Samples, test: Samples) -> Samples:
    """The test samples, with "test/" in front of each id that a training sample has too."""
    taken = set(train.ids)
    return replace(test, ids=tuple(f"test/{name}" if name in taken else name for name in test.ids))


def join(parts: Sequence[Samples]) -> Samples:
    """Samples of one kind, part after part; where one part knows truth, that of the others is UNKNOWN."""

    def together(name: str) -> Any:
        found = [getattr(part, name) for part in parts]
        return None if found[0] is None else np.concatenate(found)

    truths = None
    if any(part.true_labels is not None for part in parts):
        truths = np.concatenate(
            [np.full(len(part), UNKNOWN, np.int64) if part.true_labels is None else part.true_labels for part in parts]
        )
    return Samples(
        ids=tuple(name for part in parts for name in part.ids),
        labels=together("labels"),
        true_labels=truths,
        pixels=together("pixels"),
        features=together("features"),
        paths=None if parts[0].paths is None else tuple(path for part in parts for path in part.paths or ()),
        rows=None if parts[0].rows is None else join_rows([part.rows for part in parts if part.rows is not None]),
        groups=together("groups"),
    )


def clean_samples(content: npt.NDArray[Any], labels: Labels) -> Samples:
    """Return pixels (N, H, W, C) uint8 or features (N, D) float32 whose labels are right; ids are row numbers."""
    is_pixels = content.dtype == np.uint8
    return Samples(
        ids=tuple(map(str, range(len(labels)))),
        labels=labels,
        true_labels=labels,
        pixels=content if is_pixels else None,
        features=None if is_pixels else content,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSpec(Settings):
    """Data of a run: the source, the noise, and the split."""

    source: str = "digits"
    """A name of SOURCES, or a path: an image folder, a manifest or table (.csv, .tsv, .parquet, .jsonl), arrays (.npz,
    .npy), a data set of Hugging Face (a folder of save_to_disk or of Parquet files) or tar shards."""
    root: str | None = None
    """Data root; before it comes --data-root, after it the variable ACTO_DATA_ROOT."""
    noise: NoiseSpec = field(default_factory=NoiseSpec)
    classes: tuple[str, ...] = ()
    """Class names in their order, for data of one's own; empty: inferred from the labels."""
    holdout_share: float = setting(0.1, low=0, high=0.9, open_low=True)
    """Share of the training data that is held out where there is no test set."""
    holdout_seed: int = setting(0, low=0, high=2**32 - 1)
    """Seed of that split, of the digits' split and of `subset`."""
    subset: int | None = setting(None, low=1)
    """Train on that many samples only, chosen alike from all given labels after noise was put on; None: all."""
    path_column: str = "path"
    """A table's column of samples: picture files, or pictures or vectors that stand in it."""
    base: str | None = None
    """A folder below which the absolute paths of a table may lie; none: it may have relative ones only."""
    label_column: str = "label"
    """Column of given labels in a manifest or table; a table that has none of this name may have an obvious one."""
    split_column: str = "split"
    """A manifest's column that says train, val or test; under this name it may be missing."""
    true_label_column: str = "true_label"
    """A manifest's column of true labels, for evaluation only; under this name it may be missing."""
    group_column: str | None = None
    """A table's column that says which samples belong together (a patient, a video): they stay on one side of the
    hold-out."""
    votes: str | None = None
    """A file with labels by several people of a manifest's or array file's samples, by their ids: a column for each, or
    columns id, annotator, label. Their consensus is the given label."""
    decisions: str | None = None
    """A file of decisions on these samples' labels (decisions.csv of `acto review`): labels that people hold right are
    never suspected. None: NAME.decisions.csv beside the file NAME.*, if it is there; "none": no such file."""
    text_column: str | None = None
    """A table's column of texts, which is learned from alone; None: the one of long texts, if there is just one."""
    columns: tuple[str, ...] = ()
    """Columns of a table that are features; empty: all but labels, splits, names of rows and those that never vary."""
    category_columns: tuple[str, ...] = ()
    """Columns of a table that hold codes: they are categories even where they look like numbers."""
    pictures: str | None = setting(None, choices=("auto", "small", "large"))
    """Use of picture files: small ones are brought to one size in memory, for a small network; large ones are scaled
    and cropped as they are read. auto: small if all have up to 64 pixels a side, which a new run finds out and writes
    down. None: as in runs of earlier versions, small if they moreover have one size."""
    size: int | None = setting(None, low=1)
    """Side in pixels: of the training crop of large picture files, None: the source's own (224 for a folder); or to
    which small ones and pictures in memory are brought, None: the median of those of several sizes, else their own."""
    resize: int | None = setting(None, low=1)
    """Short side of large picture files before the crop; None: the source's own, in proportion to `size`."""
    on_bad_image: str = setting("error", choices=("error", "drop"))
    """Treatment of a picture that cannot be decoded: error, or drop (the other samples keep their ids)."""
    max_image_pixels: int = setting(MAX_PIXELS, low=1, high=HARD_MAX_PIXELS)
    """Larger pictures count as bad before they are decoded."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        for name in ("base", "votes", "group_column"):
            if getattr(self, name) in ("", "none"):
                object.__setattr__(self, name, None)
        if len(set(self.classes)) != len(self.classes) or len(self.classes) == 1:
            raise UserError(f"classes must be at least two different names, not {self.classes}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Dataset:
    """Data ready for training."""

    name: str
    train: Samples
    test: Samples
    class_names: tuple[str, ...]
    test_labels_are_given: bool
    """True if the test set is held-out training data, so that its labels may be wrong too."""
    noise: Mapping[str, Any]
    """Facts of the training labels: kind, rate, open_rate, seed, generator, rate_realised (None if no truth is known),
    sha256 of the labels, and path, name, pixel_scale where they matter. Plain values, for JSON."""
    views: ViewSpec
    encoding: Encoding | None = None
    """Encoding that makes the features of rows; None where samples are no rows."""
    notes: tuple[str, ...] = ()
    """Notes for the user."""
    dropped: tuple[str, ...] = ()
    """Ids of the samples whose pictures cannot be decoded."""
    decisions: tuple[Decision, ...] = ()
    """Decisions of people about samples, these or others."""
    held_out: tuple[str, ...] = ()
    """Ids of the samples that were held out when the data were read; empty if they came with a test set."""

    def __repr__(self) -> str:
        test = counted(len(self.test), "held-out sample" if self.test_labels_are_given else "test sample")
        return (
            f"<Dataset {self.name!r}: {len(self.train):,} training and {test} in {self.num_classes:,} classes, "
            f"{self.train.kind}>"
        )

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    def encoded_by(self, encoding: Encoding | None) -> Dataset:
        """The same with features that another encoding makes of its rows; None: as it is.

        Raises:
            UserError: there are no rows, or they do not suit it.
        """
        if encoding is None or encoding is self.encoding:
            return self
        if self.train.rows is None:
            raise UserError(f"{self.name} holds no rows of a table, but the run was trained on such")
        train, test = encoded(self.train, encoding), encoded(self.test, encoding)
        return replace(self, train=train, test=test, encoding=encoding)


@dataclass(frozen=True, kw_only=True, slots=True)
class Raw:
    """Contents of a source, before bad pictures are looked for, a test set is held out, or noise is put on."""

    name: str
    train: Samples
    test: Samples | None
    class_names: tuple[str, ...]
    test_is_held_out: bool = False
    """True if the test set was held out of the noisy data before, so that its labels may be wrong too."""
    pipeline: str | None = None
    """The views' pipeline; None: by what the samples turn out to be."""
    size: int = 224
    resize: int = 256
    side: int | None = None
    """Side to which its pictures are to be brought in memory; None: they stay what they are."""
    clean: bool = False
    """True if the labels are right by the source's definition."""
    human_files: tuple[Path, ...] = ()
    """Places of a CIFAR-N label file."""
    where: Mapping[str, Where] = field(default_factory=dict)
    """Names the rows of "train" and "test", for messages."""
    notes: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
