"""Data that are in memory already (arrays, tensors, data frames, Datasets of torch) become a Dataset for training.

What they may be, and how they are read, stands in acto.data.containers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from acto.core.errors import UserError
from acto.core.text import counted
from acto.data.apply_noise import noise_facts
from acto.data.classes import ClassCodes, check_every_class_occurs, infer_classes, look_alikes
from acto.data.containers import Gathered, gather
from acto.data.hold_out import divided
from acto.data.label_columns import Column, Labels
from acto.data.noise import NoiseSpec
from acto.data.pictures.one_size import at_side
from acto.data.readers.listings import HELD_OUT
from acto.data.readers.split_columns import test_split_of
from acto.data.samples import Dataset, DataSpec, Raw, Samples, encoded
from acto.data.sources import notes_on_pixels, views_of, without_bad_pictures
from acto.data.tables.encoding import fit_encoding
from acto.data.tables.rows import Rows

NAME = "memory"
"""Name of such data in a run's record."""
_SHOWN = 5


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
            - a data frame (pandas, or what has to_pandas()): a column "path" of picture files, or numbers alone; a
              column "split" divides the rows as in a manifest, and columns that name rows are left out with a note
            - a Dataset or DatasetDict of Hugging Face's library; its splits are used as named, its pictures as files
            - a Dataset of torch with a length, whose items are (sample, label); torchvision's ImageFolder, and a Subset
              of one, are read as files
        labels: (N,) whole numbers, names or booleans; for what has columns also the name of one; None: as the data
            bring them.
        test: the test set, in the same form; None: a part of the data is held out.
        test_labels: (M,) as `labels`.
        class_names: in their order, or new names for all classes of a Dataset that names them, in its order; None: the
            data's own, or inferred from the labels. Numbers that may be names or positions of classes are refused.
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
    held_out: Collection[str] | None = None,
    pictures: str | None = None,
) -> tuple[Gathered, Dataset]:
    """Return the contents of the training data and the Dataset that as_dataset makes of all; `held_out` are the ids
    that a run held out before, see acto.data.hold_out, and `pictures` says what DataSpec's field says of files.
    """
    gathered, tested = gather(data, labels), None
    if test is not None:
        column = labels if test_labels is None and isinstance(labels, str) else test_labels
        tested = gather(test, column, columns=gathered.columns, as_rows=isinstance(gathered.content, Rows))
        if "train" in tested.splits:
            raise UserError("the test set has rows whose split is train: leave them out, or drop that column")
    elif test_labels is not None:
        raise UserError("test_labels without test")
    is_held_out = False
    if gathered.splits:
        split, notes = test_split_of(gathered.splits, place="the data frame", name="the data frame")
        gathered = replace(gathered, notes=(*gathered.notes, *notes))
        if split is not None:
            if tested is not None:
                raise UserError(f"a test set is given, but the data have rows whose split is {split}: leave these out")
            gathered, tested = _divided(gathered, split, ids)
            ids, is_held_out = None, split == HELD_OUT
    return gathered, _assembled(
        gathered,
        tested,
        class_names=class_names,
        holdout_share=holdout_share,
        seed=seed,
        ids=ids,
        is_held_out=is_held_out,
        held_out=held_out,
        pictures=pictures,
    )


def _divided(gathered: Gathered, split: str, ids: Sequence[Any] | None) -> tuple[Gathered, Gathered]:
    """The rows for training and those of a split."""
    names = _names(ids, len(gathered.content)) or gathered.ids or tuple(map(str, range(len(gathered.content))))

    def part(wanted: str) -> Gathered:
        rows = [row for row, word in enumerate(gathered.splits) if word == wanted]
        return gathered.take(rows, [names[row] for row in rows])

    return part("train"), part(split)


def _assembled(
    gathered: Gathered,
    test: Gathered | None,
    *,
    class_names: Sequence[str] | None,
    holdout_share: float,
    seed: int,
    ids: Sequence[Any] | None,
    is_held_out: bool,
    held_out: Collection[str] | None,
    pictures: str | None,
) -> Dataset:
    spec = DataSpec(source=NAME, holdout_share=holdout_share, holdout_seed=seed, pictures=pictures)
    if gathered.labels is None:
        if gathered.label_problem:
            raise UserError(gathered.label_problem)
        raise UserError("there are no labels: pass them, or a Dataset whose items are (sample, label)")
    if test is not None and test.labels is None:
        raise UserError("the test set has no labels: pass test_labels")
    column = gathered.column()
    names = _class_list(column, gathered, class_names)
    own = gathered.own_classes or names  # the list that its numbers count
    if test is not None and test.class_names and class_names is None and set(own).isdisjoint(test.class_names):
        raise UserError(
            f"the test set calls its classes {', '.join(test.class_names[:_SHOWN])}, which the training data do not: "
            "pass class_names"
        )
    tests = [] if test is None else [test.column("test ")]
    codes = ClassCodes(own, [column, *tests], classes=names)
    train = _labelled(gathered, codes.labels(column), ids=ids)
    where = {"train": lambda i: str(train.ids[i])}
    tested = None
    if test is not None:
        if test.kind != gathered.kind:
            raise UserError(f"the test set has {test.kind}, but the data {gathered.kind}")
        tested = _labelled(test, codes.labels(tests[0], what="test label"))
        test_ids = tested.ids
        where["test"] = lambda i: str(test_ids[i])
    raw = Raw(name=NAME, train=train, test=tested, class_names=names, where=where)
    raw = without_bad_pictures(raw, spec, drop=False, workers=None)
    check_every_class_occurs(raw.train.labels, names, place="the labels")
    notes = look_alikes(names) + gathered.notes + raw.notes
    train, tested = raw.train, raw.test
    drawn: tuple[str, ...] = ()
    if tested is None:
        _, train, tested, said = divided(train, share=holdout_share, seed=seed, before=held_out)
        drawn, notes = tested.ids, notes + said
    if raw.side is not None:
        train, tested = (at_side(part, raw.side, max_pixels=spec.max_image_pixels) for part in (train, tested))
    encoding = None
    if train.rows is not None:
        encoding, told = fit_encoding(train.rows)
        train, tested = encoded(train, encoding), encoded(tested, encoding)
        notes += tuple(told)
    notes += notes_on_pixels(raw)
    return Dataset(
        name=NAME,
        train=train,
        test=tested,
        class_names=names,
        test_labels_are_given=test is None or is_held_out,
        noise=noise_facts(NoiseSpec(), "labels as they come", train),
        views=views_of(raw, train, spec),
        encoding=encoding,
        notes=notes,
        held_out=drawn,
    )


def _class_list(column: Column, gathered: Gathered, class_names: Sequence[str] | None) -> tuple[str, ...]:
    occurring = [text for text in column.texts if text]
    if len(occurring) < 2:
        raise UserError(f"at least two classes are needed, but the labels have one: {occurring[0]!r}")
    names = tuple(map(str, class_names)) if class_names is not None else gathered.own_classes
    if names and (len(set(names)) != len(names) or len(names) < 2):
        raise UserError(f"class_names must be at least two different names, not {names}")
    return names or infer_classes(column)


def _labelled(gathered: Gathered, labels: Labels, *, ids: Sequence[Any] | None = None) -> Samples:
    """The samples with class numbers."""
    given = _names(ids, len(labels)) or gathered.ids
    if given is not None:
        name, times = Counter(given).most_common(1)[0]
        if times > 1:
            raise UserError(f"each sample needs a name of its own, but {name!r} occurs {times} times")
    return gathered.samples(labels, ids=given)


def _names(ids: Sequence[Any] | None, count: int) -> tuple[str, ...] | None:
    if ids is not None and len(ids) != count:
        raise UserError(f"ids has {counted(len(ids), 'entry')}, but there are {count} samples")
    return tuple(map(str, ids)) if ids is not None else None
