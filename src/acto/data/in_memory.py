"""Data that are in memory already (arrays, tensors, data frames, Datasets of torch) become a Dataset for training.

What they may be, and how they are read, stands in acto.data.containers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from acto.core.errors import UserError
from acto.data.apply_noise import noise_facts
from acto.data.classes import check_every_class_occurs, encode, infer_classes, read_column
from acto.data.containers import Gathered, gather
from acto.data.noise import NoiseSpec
from acto.data.samples import Dataset, DataSpec, Raw, Samples
from acto.data.sources import notes_on_pixels, views_of, without_bad_pictures
from acto.data.splits import holdout

NAME = "memory"
"""Name of such data in a run's record."""


def as_dataset(
    data: Any,
    labels: Any = None,
    *,
    test: Any = None,
    test_labels: Any = None,
    class_names: Sequence[str] | None = None,
    holdout_share: float = 0.1,
    seed: int = 0,
    ids: Sequence[Any] | None = None,
) -> Dataset:
    """Data in memory as a Dataset, with a part held out where no test set is given.

    Args:
        data: one of

            - an array or tensor of (N, D) features, or of (N, H, W), (N, H, W, C) or (N, C, H, W) pictures: uint8, or
              numbers that are exactly pixels of 0 to 255 or of 0 to 1 in steps of 1/255
            - a list of pictures (PIL, arrays, tensors) of one size, or of paths of picture files
            - a data frame (pandas, or what has to_pandas()): a column "path" of picture files, or numbers alone
            - a Dataset of torch with a length, whose items are (sample, label); torchvision's ImageFolder, and a Subset
              of one, are read as files
        labels: (N,) whole numbers, names or booleans; for a data frame also the name of its column; None: as the data
            bring them.
        test: the test set, in the same form; None: a part of the data is held out.
        test_labels: (M,) as `labels`.
        class_names: in their order; None: the data's own, or inferred from the labels.
        holdout_share: share of each class that is held out without a test set, in (0, 0.9].
        seed: of the hold-out.
        ids: (N,) different names of the samples; None: a data frame's index, paths, or row numbers.

    Raises:
        UserError: data or labels that cannot be used, with the first rows at fault.
    """
    return gather_dataset(
        data, labels, test=test, test_labels=test_labels, class_names=class_names, holdout_share=holdout_share,
        seed=seed, ids=ids,
    )[1]  # fmt: skip


def gather_dataset(
    data: Any,
    labels: Any,
    *,
    test: Any,
    test_labels: Any,
    class_names: Sequence[str] | None,
    holdout_share: float,
    seed: int,
    ids: Sequence[Any] | None,
) -> tuple[Gathered, Dataset]:
    """Return the contents of the training data and the Dataset that as_dataset makes of all."""
    gathered, tested = gather(data, labels), None
    if test is not None:
        column = labels if test_labels is None and isinstance(labels, str) else test_labels
        tested = gather(test, column, columns=gathered.columns)
    elif test_labels is not None:
        raise UserError("test_labels without test")
    return gathered, _assembled(
        gathered, tested, class_names=class_names, holdout_share=holdout_share, seed=seed, ids=ids
    )


def _assembled(
    gathered: Gathered,
    test: Gathered | None,
    *,
    class_names: Sequence[str] | None,
    holdout_share: float,
    seed: int,
    ids: Sequence[Any] | None,
) -> Dataset:
    spec = DataSpec(source=NAME, holdout_share=holdout_share, holdout_seed=seed)
    if gathered.labels is None:
        raise UserError("there are no labels: pass them, or a Dataset whose items are (sample, label)")
    names = _class_list(gathered, class_names)
    train = _labelled(gathered, names, "", ids=ids)
    where = {"train": lambda i: str(train.ids[i])}
    tested = None
    if test is not None:
        if test.labels is None:
            raise UserError("the test set has no labels: pass test_labels")
        if test.kind != gathered.kind:
            raise UserError(f"the test set has {test.kind}, but the data {gathered.kind}")
        tested = _labelled(test, names, "test ")
        test_ids = tested.ids
        where["test"] = lambda i: str(test_ids[i])
    raw = Raw(name=NAME, train=train, test=tested, class_names=names, where=where)
    raw = without_bad_pictures(raw, spec, drop=False, workers=None)
    check_every_class_occurs(raw.train.labels, names, place="the labels")
    notes = raw.notes
    train, tested = raw.train, raw.test
    if tested is None:
        kept, held_out = holdout(train.labels, share=holdout_share, seed=seed)
        notes += (
            f"no test set: {len(held_out)} of {len(train)} samples are held out, and accuracy is measured against "
            "their given labels, which may be wrong too",
        )
        train, tested = train.take(kept), train.take(held_out)
    notes += notes_on_pixels(raw)
    return Dataset(
        name=NAME,
        train=train,
        test=tested,
        class_names=names,
        test_labels_are_given=test is None,
        noise=noise_facts(NoiseSpec(), "labels as they come", train),
        views=views_of(raw, train, spec),
        notes=notes,
    )


def _class_list(gathered: Gathered, class_names: Sequence[str] | None) -> tuple[str, ...]:
    column = read_column(gathered.label_column(), where=lambda i: f"row {i}")
    occurring = [text for text in column.texts if text]
    if len(occurring) < 2:
        raise UserError(f"at least two classes are needed, but the labels have one: {occurring[0]!r}")
    names = tuple(map(str, class_names)) if class_names is not None else gathered.class_names
    if names and (len(set(names)) != len(names) or len(names) < 2):
        raise UserError(f"class_names must be at least two different names, not {names}")
    return names or infer_classes(column)


def _labelled(gathered: Gathered, names: tuple[str, ...], split: str, *, ids: Sequence[Any] | None = None) -> Samples:
    """The samples with class numbers."""
    labels = encode(
        read_column(gathered.label_column(split), where=lambda i: f"{split}row {i}"), names, what=f"{split}label"
    )
    given = tuple(map(str, ids)) if ids is not None else gathered.ids
    if given is not None:
        if len(given) != len(labels):
            raise UserError(f"ids has {len(given)} entries, but there are {len(labels)} samples")
        name, times = Counter(given).most_common(1)[0]
        if times > 1:
            raise UserError(f"each sample needs a name of its own, but {name!r} occurs {times} times")
    return gathered.samples(labels, ids=given)
