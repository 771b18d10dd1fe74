"""Every data set behind one door: a DataSpec says which, `load_data` returns its samples, labels, truth and views.

Order of the work: read; drop pictures that cannot be decoded; hold out a test set where there is none; put noise on the
training labels; take a subset. Nothing is written beside the data, and nothing is fetched unless asked for.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from acto.core.errors import UserError, choose, closest
from acto.core.files import check_locale
from acto.core.text import counted
from acto.data.apply_noise import noise_facts, with_noise
from acto.data.catalog import SOURCES
from acto.data.classes import check_every_class_occurs
from acto.data.decision_file import decisions_on
from acto.data.hold_out import divided, groups_on_both_sides, refuse_missing_groups
from acto.data.moments import moments
from acto.data.noise import NoiseSpec, num_closed_classes
from acto.data.pictures.contrast import contrast_notes, extremes_of
from acto.data.pictures.files import BadImage, PictureFacts, decode_pixels, inspect_all
from acto.data.pictures.one_size import SMALL_SIDE, are_small, at_side, common_side
from acto.data.readers.formats import FILE_SUFFIXES, FORMATS, read_path
from acto.data.readers.place import DATA_ROOT_VARIABLE, Place
from acto.data.samples import Dataset, DataSpec, Raw, Samples, encoded, told_apart
from acto.data.splits import subset
from acto.data.tables.encoding import fit_encoding
from acto.data.views.spec import ViewSpec

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
VOTED_SUFFIXES = (".csv", ".tsv", ".parquet", ".npz", ".npy")
"""Files whose samples may have votes beside them."""
_SHOWN = 5
_DROP_HINT = ". --on-bad-image drop leaves bad pictures out (the others keep their ids)"


def load_data(
    spec: DataSpec,
    *,
    data_root: str | Path | None = None,
    download: bool = False,
    on_bad_image: str | None = None,
    workers: int | None = None,
    held_out: Collection[str] | None = None,
) -> Dataset:
    """Read a data set, hold out a test set if it has none, and put noise on the training labels.

    Args:
        spec: what to load.
        data_root: folder of the data sets; goes before spec.root and the variable ACTO_DATA_ROOT.
        download: whether an official archive may be fetched (CIFAR-10 and CIFAR-100).
        on_bad_image: error or drop; None: as the spec says. "error" looks at each file's header and end; "drop" decodes
            every file, so that the number of samples is certain before training.
        workers: threads that look at picture files; None: one a processor, at most 16.
        held_out: ids that a run held out before, see acto.data.hold_out.

    Raises:
        UserError: anything about the data that the user has to mend.
    """
    noise = _noise_of(spec)
    on_bad_image = choose("on_bad_image", on_bad_image or spec.on_bad_image, ("error", "drop"))
    raw = read(spec, data_root=data_root, download=download)
    check_locale(str(path) for part in (raw.train, raw.test) if part is not None for path in part.paths or ())
    raw = with_side(without_bad_pictures(raw, spec, drop=on_bad_image == "drop", workers=workers), spec)
    check_every_class_occurs(raw.train.labels, raw.class_names, place=raw.name)
    if spec.classes and spec.classes != raw.class_names:
        raise UserError(f"{raw.name} has a class list of its own: classes cannot be set")
    num_closed = num_closed_classes(len(raw.class_names), noise.open_rate)
    train, test, notes = raw.train, raw.test, raw.notes
    of_decisions: list[str] = []
    decisions = decisions_on(spec.decisions, _path(spec, _root(spec, data_root)), partial(_labelled, raw), of_decisions)
    notes += tuple(of_decisions)
    kept = np.arange(len(train))
    drawn: tuple[str, ...] = ()
    refuse_missing_groups(train, spec.group_column, raw.name)
    if test is None:
        kept, train, test, said = divided(
            train, share=spec.holdout_share, seed=spec.holdout_seed, before=held_out, max_pixels=spec.max_image_pixels
        )
        drawn, notes = test.ids, notes + said
    else:
        notes += groups_on_both_sides(train, test)
    encoding = None
    if train.rows is not None:
        encoding, told = fit_encoding(train.rows)
        train, test = encoded(train, encoding), encoded(test, encoding)
        notes += tuple(told)
    if spec.source not in SOURCES or spec.source in FORMATS:  # in a published data set there is nothing to mend
        notes += notes_on_pixels(raw)
    train, generator = with_noise(train, noise, raw, kept=kept)
    if num_closed < len(raw.class_names):
        test = test.take(np.flatnonzero(test.labels < num_closed))
    if not len(test):
        raise UserError(f"the test set of {raw.name} has no usable sample")
    if spec.subset is not None:
        train = train.take(subset(train.labels, spec.subset, seed=spec.holdout_seed))
    if raw.side is not None:  # last, so that neither hold-out nor noise depend on it
        train, test = (at_side(part, raw.side, max_pixels=spec.max_image_pixels) for part in (train, test))
    return Dataset(
        name=raw.name,
        train=train,
        test=test,
        class_names=raw.class_names[:num_closed],
        test_labels_are_given=raw.test is None or raw.test_is_held_out,
        noise=noise_facts(noise, generator, train),
        views=views_of(raw, train, spec),
        encoding=encoding,
        notes=notes,
        dropped=raw.dropped,
        decisions=decisions,
        held_out=drawn,
    )


def read(
    spec: DataSpec,
    *,
    data_root: str | Path | None = None,
    download: bool = False,
    known_classes: tuple[str, ...] = (),
    problems: list[str] | None = None,
) -> Raw:
    """Read what a source holds: its picture files undecoded, its labels as they come.

    Args:
        spec: what to read.
        data_root: as in `load_data`.
        download: as in `load_data`.
        known_classes: the class list of a table or of arrays that have none of their own; empty: from their labels.
        problems: takes those with which a reader can go on; None: the first is raised.

    Raises:
        UserError: an unknown source, or data that is missing or cannot be used.
    """
    root = _root(spec, data_root)
    if (source := SOURCES.get(spec.source)) is not None:
        if spec.votes is not None and spec.source not in FORMATS:
            raise UserError(f"{spec.source} has labels of its own: data.votes is for a table or array file")
        raw = source.read(spec, Place(path=root, download=download, problems=problems))
        return replace(raw, pipeline=source.pipeline or raw.pipeline, size=source.size, resize=source.resize)
    path = _path(spec, root)
    if path.exists():
        if spec.votes is not None and (path.is_dir() or path.suffix.lower() not in VOTED_SUFFIXES):
            raise UserError(
                f"data.votes is for the samples of a table or array file ({', '.join(VOTED_SUFFIXES)}), not for "
                f"{path}: a table with a column path lists pictures without labels"
            )
        return read_path(spec, Place(path=path, known_classes=known_classes, problems=problems))
    check_locale([spec.source])  # in another one the file may be there
    if path.suffix in FILE_SUFFIXES or Path(spec.source).name != spec.source:
        raise UserError(f"data source {spec.source} does not exist")
    raise UserError(
        f"unknown data source {spec.source!r}, and no folder of that name.{closest(spec.source, SOURCES)} "
        f"Choices: {', '.join(SOURCES)}, or a path"
    )


def _path(spec: DataSpec, root: Path | None) -> Path:
    path = Path(spec.source).expanduser()
    return root / path if not path.exists() and root is not None else path


def _root(spec: DataSpec, data_root: str | Path | None) -> Path | None:
    variable = os.environ.get(DATA_ROOT_VARIABLE)
    given = {"--data-root": data_root, "the spec's root": spec.root, DATA_ROOT_VARIABLE: variable}
    for name, value in given.items():
        if value:
            root = Path(value).expanduser()
            if not root.exists():
                raise UserError(f"data root {root} (from {name}) does not exist")
            return root
    return None


def _labelled(raw: Raw) -> tuple[list[str], list[str]]:
    """Ids and class names of all samples, as a label report has them."""
    parts = [raw.train] if raw.test is None else [raw.train, told_apart(raw.train, raw.test)]
    labels = [raw.class_names[k] for part in parts for k in part.labels.tolist()]
    return [name for part in parts for name in part.ids], labels


def _noise_of(spec: DataSpec) -> NoiseSpec:
    """The noise that is meant: the spec's, and what belongs to the source.

    Raises:
        UserError: noise that the source cannot have.
    """
    noise, source = spec.noise, SOURCES.get(spec.source)
    if source is None:
        return noise
    if source.noisy and (noise.kind != "none" or noise.open_rate):
        raise UserError(
            f"the labels of {spec.source} are noisy as they come: noise kind must be none, not {noise.kind!r}"
        )
    if source.human is not None:
        if noise.kind not in ("none", "human") or noise.open_rate:
            raise UserError(
                f"{spec.source} has people's labels: noise kind must be human (or none), not {noise.kind!r}"
            )
        return replace(noise, kind="human", name=noise.name or source.human)
    if source.open_rate:
        if noise.kind not in ("none", "symmetric", "asymmetric"):
            raise UserError(
                f"{spec.source} has open-set noise: its kind must be symmetric or asymmetric, not {noise.kind!r}"
            )
        if noise.open_rate not in (0.0, source.open_rate):
            raise UserError(f"open_rate of {spec.source} is {source.open_rate}, not {noise.open_rate:g}")
        return replace(noise, kind=noise.kind if noise.kind != "none" else "symmetric", open_rate=source.open_rate)
    if source.open_twin is not None and noise.open_rate:
        raise UserError(f"{spec.source} has closed-set noise only; choose {source.open_twin} for open-set noise")
    return noise


def without_bad_pictures(raw: Raw, spec: DataSpec, *, drop: bool, workers: int | None) -> Raw:
    """Refuse or drop bad picture files; small pictures of one size come back decoded.

    Raises:
        UserError: the first bad pictures, unless `drop`.
    """
    splits = {"train": raw.train} | ({"test": raw.test} if raw.test is not None else {})
    if raw.train.paths is None:
        return raw
    facts: dict[str, list[PictureFacts | BadImage]] = {}
    for split, samples in splits.items():
        assert samples.paths is not None
        facts[split] = inspect_all(samples.paths, max_pixels=spec.max_image_pixels, thorough=drop, workers=workers)
    bad = [(split, i, found) for split in splits for i, found in enumerate(facts[split]) if isinstance(found, BadImage)]
    if bad and not drop:
        shown = "; ".join(f"{raw.where[split](i)}: {found.problem}" for split, i, found in bad[:_SHOWN])
        raise UserError(
            f"{len(bad)} of {sum(map(len, splits.values()))} pictures of {raw.name} cannot be used: {shown}"
            + _DROP_HINT
        )
    if bad:
        shown = "; ".join(f"{splits[split].ids[i]} ({found.problem})" for split, i, found in bad[:_SHOWN])
        more = f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        dropped = counted(len(bad), "picture", then="cannot be decoded and was/cannot be decoded and were")
        raw = replace(
            raw,
            notes=(*raw.notes, f"{dropped} dropped: {shown}{more}"),
            dropped=tuple(splits[split].ids[i] for split, i, _ in bad),
        )
        for split, samples in splits.items():
            good = [i for i, found in enumerate(facts[split]) if not isinstance(found, BadImage)]
            splits[split] = samples.take(np.array(good, np.int64))
    raw = replace(raw, notes=(*raw.notes, *alpha_notes(list(chain(*facts.values())))))
    sizes = {(found.width, found.height) for found in chain(*facts.values()) if not isinstance(found, BadImage)}
    of_one_size = len(sizes) == 1 and max(next(iter(sizes))) <= SMALL_SIDE
    if raw.pipeline is None and spec.pictures != "large" and of_one_size:
        size = sizes.pop()
        for split, samples in splits.items():
            assert samples.paths is not None
            try:
                pixels = decode_pixels(samples.paths, size=size, names=samples.ids, max_pixels=spec.max_image_pixels)
            except BadImage as bad_inside:  # its header and end are right, so it was not seen above
                raise UserError(f"{bad_inside}{_DROP_HINT}") from None
            splits[split] = replace(samples, pixels=pixels, paths=None)
    elif (
        raw.pipeline is None and sizes and (spec.pictures == "small" or (spec.pictures == "auto" and are_small(sizes)))
    ):
        side = spec.size or common_side(sizes)
        pictures = counted(sum(map(len, splits.values())), "picture")
        note = (
            f"{pictures} of {counted(len(sizes), 'size')} are brought to {side}x{side}"
            " pixels, the middle of those that are no squares (--data.size says another side; --data.pictures large "
            "trains on them as on photographs)"
        )
        raw = replace(raw, side=side, notes=(*raw.notes, note))
    return replace(raw, train=splits["train"], test=splits.get("test"))


def with_side(raw: Raw, spec: DataSpec) -> Raw:
    """`raw` with the side that the spec asks for, where its pictures are in memory.

    Raises:
        UserError: a spec that goes with other samples.
    """
    in_memory = raw.train.pixels is not None or raw.side is not None
    if (spec.size or spec.resize) and not in_memory and raw.train.paths is None:
        raise UserError(f"size and resize are for pictures, and {raw.name} holds none")
    if spec.resize and in_memory:
        raise UserError(f"resize is for large picture files; size is the side to which those of {raw.name} are brought")
    if spec.pictures == "small" and raw.pipeline is not None and raw.train.paths is not None:
        raise UserError(f"the pictures of {raw.name} are large by its definition: pictures cannot be small")
    return replace(raw, side=spec.size) if in_memory and spec.size else raw


def alpha_notes(facts: Sequence[PictureFacts | BadImage]) -> tuple[str, ...]:
    """Say of how many picture files a part may be transparent, and what becomes of it."""
    count = sum(isinstance(found, PictureFacts) and found.has_alpha for found in facts)
    if not count:
        return ()
    return (
        f"{count:,} of {len(facts):,} pictures say which of their pixels are transparent: white is put behind those "
        "(earlier versions took the colour that lay there unseen, often black)",
    )


def notes_on_pixels(raw: Raw) -> tuple[str, ...]:
    """Say which pictures in memory have next to nothing in them."""
    parts = [part for part in (raw.train, raw.test) if part is not None and part.pixels is not None and len(part)]
    if not parts:
        return ()
    levels = [extremes_of(part.pixels) for part in parts if part.pixels is not None]
    lowest, highest = (np.concatenate(side) for side in zip(*levels, strict=True))
    return contrast_notes([name for part in parts for name in part.ids], lowest, highest)


def views_of(raw: Raw, train: Samples, spec: DataSpec) -> ViewSpec:
    """Choose how networks see the samples of `raw`, normalized by the statistics of `train`.

    Raises:
        UserError: the spec asks for a size that such samples cannot have.
    """
    if train.paths is not None:
        size = spec.size or raw.size
        return ViewSpec(
            pipeline="photo",
            size=size,
            resize=spec.resize or round(raw.resize * size / raw.size),
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        )
    if raw.pipeline == "cifar":
        return ViewSpec(pipeline="cifar", resize=raw.side, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    if train.rows is not None:
        return ViewSpec(pipeline="vectors")  # their encoding has scaled them
    if train.features is not None:
        mean, deviation = moments(train.features)
        pipeline = "vectors"
    else:
        assert train.pixels is not None
        mean, deviation = (values / 255 for values in moments(train.pixels))
        pipeline = raw.pipeline or "small"
    std = np.where(deviation > 0, deviation, 1.0)  # a constant channel has nothing to scale
    return ViewSpec(pipeline=pipeline, resize=raw.side, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
