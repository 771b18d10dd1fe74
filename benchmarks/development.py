"""Development problems: data by which forms of a method are compared before any result is reported.

A problem has training samples and held-out ones, both with GIVEN labels, some of them wrong; the seed draws samples
(RandomState(5000 + seed)) and noise (500 + seed, over both parts at once). None is the split of a reported run.

    digits          scikit-learn's digits: 1,347 for training, 450 held out
    fashion         Fashion-MNIST's training pictures without the study's: 1,000 and 6,000
    fashion14       the same, squares of four pixels averaged
    fashion50       the same with 375 pictures of the first class down to 8 of the last; those held out are balanced
    mnist           MNIST's training pictures, idx files: 1,000 and 6,000
    cifar100        CIFAR-100's training pictures: 45,000 and 5,000
    features:FILE   an .npz as `acto features` writes it. With noise that is drawn: half of its classes
                    (RandomState(7)), at most 10,000 and 4,000 rows. With given labels: all classes, without a tenth of
                    the rows (RandomState(77)), which is left for a report; at most 4,000 are held out
    features:FILE:N the same with drawn noise, but all classes and N rows, and at most 4,000 of the others held out: for
                    files that serve development alone

Noise: clean, symmetric:RATE, asymmetric:RATE, instance:RATE, and given: the labels that a file of features has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from acto.core.errors import UserError, choose
from acto.core.settings import typed
from acto.data.apply_noise import noise_facts, with_noise
from acto.data.classes import check_every_class_occurs, encode
from acto.data.label_columns import read_column
from acto.data.noise import NoiseSpec
from acto.data.readers.arrays import read_arrays
from acto.data.readers.idx import read_idx
from acto.data.samples import Dataset, DataSpec, Labels, Raw, clean_samples, join
from acto.data.sources import read, views_of
from acto.data.splits import subset
from acto.runs.recipes.by_data import CIFAR_NUST, DIGITS, SMALL_PICTURES, Setting, for_size, setting_of_kind

STUDY = 1_500
"""Pictures of Fashion-MNIST that are left out. The study's 1,000 are among them with each of its noises, seeds 0 to 5:
it chooses alike from all given labels."""
FEATURES = "features:"
MOST_ROWS, MOST_HELD_OUT = 10_000, 4_000
TAIL, COMMONEST = 50, 375
"""Times by which the commonest class is larger than the rarest, and its training samples."""
DRAWN = ("symmetric", "asymmetric", "instance")


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Places of data that a name alone does not find."""

    data_root: str | None = None
    mnist: Path | None = None
    label_key: str | None = None
    """Array of a file of features that holds the given labels; None: its labels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """Noise by its kind and rate, as it is named on the command line."""

    kind: str
    rate: float = 0.0

    @classmethod
    def parsed(cls, text: str) -> Noise:
        """The noise that a text such as symmetric:0.4 names.

        Raises:
            UserError: another text.
        """
        kind, colon, rate = text.partition(":")
        choose("noise", kind, ("clean", "given", *DRAWN))
        if bool(colon) != (kind in DRAWN):
            raise UserError(f"noise {text!r}: {kind} has {'a' if kind in DRAWN else 'no'} rate, as in symmetric:0.4")
        noise = cls(kind=kind, rate=typed("noise rate", rate, float) if colon else 0.0)
        noise.spec(0)
        return noise

    def __str__(self) -> str:
        """The text that names it."""
        return f"{self.kind}:{self.rate:g}" if self.kind in DRAWN else self.kind

    def spec(self, seed: int) -> NoiseSpec:
        """Settings of the draw."""
        if self.kind not in DRAWN:
            return NoiseSpec()
        scale = "standardized" if self.kind == "instance" else "raw"
        return NoiseSpec(kind=self.kind, rate=self.rate, seed=500 + seed, pixel_scale=scale)


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A problem of the list above, nothing read."""

    name: str
    read: Callable[[Places, bool], Raw]
    """Samples to draw from; True: with the labels that people gave."""
    setting: Setting | None = None
    """None: by the number of rows."""
    sizes: tuple[int, int] | None = None
    """Samples for training and held out; None: by the number of rows."""
    most_rows: int = MOST_ROWS
    """For training, where the sizes go by the number of rows and noise is drawn."""
    is_unbalanced: bool = False

    def rows(self, labels: Labels, *, seed: int, given: bool) -> tuple[Labels, Labels]:
        """Rows for training and held-out rows.

        Args:
            labels: (N,) of the samples to draw from.
            seed: of the draw.
            given: whether they are people's labels.

        Raises:
            UserError: there are too few samples.
        """
        random = np.random.RandomState(5000 + seed)
        rows, count = np.arange(len(labels)), len(labels)
        if given:
            rows = np.setdiff1d(rows, np.random.RandomState(77).permutation(count)[: count // 10])
        rows, count = random.permutation(rows), len(rows)
        held_out = min(MOST_HELD_OUT, count // 4)
        sizes = self.sizes or (count - held_out if given else min(self.most_rows, count - held_out), held_out)
        if min(sizes) < 1 or sum(sizes) > count:
            raise UserError(f"{self.name} needs {max(sizes[0], 1)} and {max(sizes[1], 1)} samples, but has {count}")
        if not self.is_unbalanced:
            return rows[: sizes[0]], rows[sizes[0] : sum(sizes)]
        num_classes = int(labels.max()) + 1
        wanted = np.rint(COMMONEST * TAIL ** (-np.arange(num_classes) / (num_classes - 1))).astype(int)
        train = np.concatenate([rows[labels[rows] == label][:most] for label, most in enumerate(wanted)])
        train = random.permutation(train)
        return train, random.permutation(np.setdiff1d(rows, train))[: sizes[1]]

    def draw(self, raw: Raw, noise: Noise, *, seed: int) -> Dataset:
        """Draw the problem's samples from `raw`, and their labels; the held-out part is in the test set's place.

        Raises:
            UserError: there are too few samples.
        """
        train, held_out = self.rows(raw.train.labels, seed=seed, given=noise.kind == "given")
        rows, spec = np.concatenate([train, held_out]), noise.spec(seed)
        both, generator = with_noise(raw.train.take(rows), spec, raw, kept=rows)
        samples = both.take(np.arange(len(train)))
        check_every_class_occurs(samples.labels, raw.class_names, place=self.name)
        return Dataset(
            name=self.name,
            train=samples,
            test=both.take(np.arange(len(train), len(rows))),
            class_names=raw.class_names,
            test_labels_are_given=True,
            noise=noise_facts(spec, generator, samples),
            views=views_of(raw, samples, DataSpec()),
        )

    def setting_for(self, num_samples: int) -> Setting:
        """How to train on that many samples of it."""
        return self.setting or for_size(setting_of_kind("vectors", num_samples), num_samples)


def problem(name: str) -> Problem:
    """The problem of that name.

    Raises:
        UserError: there is none.
    """
    if name.startswith(FEATURES) and name != FEATURES:
        place, colon, rows = name.removeprefix(FEATURES).rpartition(":")
        if not colon or not rows.isdigit():
            path = Path(name.removeprefix(FEATURES))
            return Problem(name=f"{FEATURES}{path.stem}", read=partial(_features, path))
        read_all = partial(_features, Path(place), all_classes=True)
        return Problem(name=f"{FEATURES}{Path(place).stem}:{rows}", read=read_all, most_rows=int(rows))
    if name not in PROBLEMS:
        choose("problem", name, [*PROBLEMS, f"{FEATURES}FILE.npz", f"{FEATURES}FILE.npz:N"])
    return PROBLEMS[name]


def _digits(places: Places, given: bool) -> Raw:
    raw = read(DataSpec(source="digits"))
    assert raw.test is not None
    return replace(raw, train=join([raw.train, raw.test]), test=None)


def _fashion(places: Places, given: bool, *, side: int = 28) -> Raw:
    raw = read(DataSpec(source="fashion-mnist"), data_root=places.data_root)
    rest = np.setdiff1d(np.arange(len(raw.train)), subset(raw.train.labels, STUDY, seed=0))
    samples = raw.train.take(rest)
    assert samples.pixels is not None
    block = samples.pixels.shape[1] // side
    if block > 1:
        shrunk = samples.pixels.reshape(len(samples), side, block, side, block, 1).mean((2, 4))
        samples = replace(samples, pixels=np.rint(shrunk).astype(np.uint8))
    return replace(raw, train=samples, test=None)


def _mnist(places: Places, given: bool) -> Raw:
    if places.mnist is None:
        raise UserError("problem mnist needs --mnist DIR, a folder of idx files")
    found = []
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        plain = places.mnist / name
        found.append(read_idx(plain if plain.exists() else places.mnist / f"{name}.gz"))
    pixels, labels = found
    if pixels.ndim != 3 or labels.shape != (len(pixels),) or not len(labels) or labels.max() > 9:
        raise UserError(f"{places.mnist} has no pictures of digits with their labels: {pixels.shape}, {labels.shape}")
    samples = clean_samples(pixels[..., None], labels.astype(np.int64))
    names = tuple(map(str, range(10)))
    return Raw(name="mnist", train=samples, test=None, class_names=names, pipeline="digits", clean=True)


def _cifar100(places: Places, given: bool) -> Raw:
    return replace(read(DataSpec(source="cifar100"), data_root=places.data_root), test=None)


def _features(path: Path, places: Places, given: bool, *, all_classes: bool = False) -> Raw:
    if path.suffix != ".npz":
        raise UserError(f"{path} is no .npz, as `acto features` writes it")
    raw = read(DataSpec(source=str(path)))
    samples, names = raw.train, raw.class_names
    if samples.features is None:
        raise UserError(f"{path} holds pictures, no features")
    if given and all_classes:
        raise UserError(f"features:{path}:N is for noise that is drawn, not for given labels")
    if given:
        if (key := places.label_key) is not None:
            arrays = read_arrays(path)
            choose(f"array of {path}", key, arrays)
            if arrays[key].shape != samples.labels.shape:
                raise UserError(f"{path}: {key} of {arrays[key].shape} is no label for each of {len(samples)} rows")
            column = read_column(arrays[key], where=lambda row: f"{path}: {key} row {row}")
            samples = replace(samples, labels=encode(column, names))
        return replace(raw, train=samples, test=None)
    right = samples.labels if samples.true_labels is None else samples.true_labels
    if all_classes:
        return replace(raw, train=replace(samples, labels=right, true_labels=right), test=None, clean=True)
    if len(names) < 4:
        raise UserError(f"{path} has {len(names)} classes, and half of them are no problem")
    half = np.sort(np.random.RandomState(7).permutation(len(names))[: len(names) // 2])
    rows = np.flatnonzero(np.isin(right, half))
    samples, labels = samples.take(rows), np.searchsorted(half, right[rows])
    return Raw(
        name=raw.name,
        train=replace(samples, labels=labels, true_labels=labels),
        test=None,
        class_names=tuple(names[label] for label in half),
        clean=True,
    )


PROBLEMS = {
    each.name: each
    for each in (
        Problem(name="digits", read=_digits, setting=DIGITS, sizes=(1_347, 450)),
        Problem(name="fashion", read=_fashion, setting=SMALL_PICTURES, sizes=(1_000, 6_000)),
        Problem(name="fashion14", read=partial(_fashion, side=14), setting=SMALL_PICTURES, sizes=(1_000, 6_000)),
        Problem(name="fashion50", read=_fashion, setting=SMALL_PICTURES, sizes=(1_000, 6_000), is_unbalanced=True),
        Problem(name="mnist", read=_mnist, setting=SMALL_PICTURES, sizes=(1_000, 6_000)),
        # The papers' setting: what Table 1 is about.
        Problem(name="cifar100", read=_cifar100, setting=CIFAR_NUST, sizes=(45_000, 5_000)),
    )
}
"""By name; a file of features is another."""
