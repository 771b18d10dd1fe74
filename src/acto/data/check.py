"""The engine of `acto data check`: every picture decoded, every sample compared with every other, before training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from acto.core.errors import UserError
from acto.core.text import counted
from acto.data.for_prediction import NewData, read_new
from acto.data.hold_out import divided, equal_samples, refuse_missing_groups
from acto.data.pictures.contrast import contrast_notes
from acto.data.pictures.files import BadImage, PictureFacts, inspect_all
from acto.data.samples import DataSpec, Raw, Samples
from acto.data.sources import alpha_notes, notes_on_pixels, read

_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A picture file that cannot be used."""

    id: str
    path: Path
    problem: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Duplicates:
    """Samples that are the same byte for byte."""

    samples: tuple[tuple[str, str, str], ...]
    """(split, id, class) of each: "train" or "test"."""

    @property
    def disagree(self) -> bool:
        """Say whether their labels differ: some of them must be wrong."""
        return len({label for _, _, label in self.samples}) > 1

    @property
    def leak(self) -> bool:
        """Say whether a test sample is among the training samples too."""
        return len({split for split, _, _ in self.samples}) > 1


@dataclass(frozen=True, kw_only=True, slots=True)
class DataReport:
    """Findings in a data set, before hold-out and noise."""

    name: str
    num_train: int
    num_test: int | None
    """None: no test set comes with it."""
    class_counts: Mapping[str, int]
    """Training samples of each class, as labelled."""
    noise_rate: float | None
    """Share of wrong labels among those whose truth is known."""
    problems: tuple[Problem, ...]
    modes: Mapping[str, int]
    """Picture files by pixel format, most frequent first; empty for data in memory."""
    num_turned: int
    """Picture files that EXIF asks to turn; they are turned when read."""
    duplicates: tuple[Duplicates, ...]
    notes: tuple[str, ...]
    refusals: tuple[str, ...] = ()
    """All for which training would refuse the data, each with what helps."""

    @property
    def is_usable(self) -> bool:
        """Say whether training can start as things are."""
        return not self.refusals


def check_images(samples: Samples, workers: int | None = None, *, max_pixels: int | None = None) -> tuple[Problem, ...]:
    """Decode every picture file in full; those that cannot be used come back, in sample order.

    Args:
        samples: with paths, or with pixels or features in memory (which have no such problem).
        workers: threads; None: one a processor, at most 16.
        max_pixels: larger pictures are a problem; None: acto.data.pictures.files.MAX_PIXELS.
    """
    return _problems(samples, _facts(samples, workers, max_pixels))


def check_data(spec: DataSpec, *, data_root: str | Path | None = None, workers: int | None = None) -> DataReport:
    """Read a data set and look at every sample of it.

    Args:
        spec: what to look at; its noise is not put on.
        data_root: as in sources.load_data.
        workers: as in check_images.

    Raises:
        UserError: there is nothing that could be looked at.
    """
    raw, refusals = _read(spec, data_root)
    splits = {"train": raw.train} | ({"test": raw.test} if raw.test is not None else {})
    facts = {split: _facts(samples, workers, spec.max_image_pixels) for split, samples in splits.items()}
    problems = tuple(problem for split in splits for problem in _problems(splits[split], facts[split]))
    if problems and spec.on_bad_image != "drop":
        refusals.append(
            f"{counted(len(problems), 'picture')} cannot be used: --on-bad-image drop leaves them out, or replace them"
        )
    if raw.class_names:
        refusals += _refusals_of_split(
            raw, {split: _good(splits[split], facts[split]) for split in splits}, spec, refusals
        )
    everything = [found for part in facts.values() for found in part]
    good = [found for found in everything if isinstance(found, PictureFacts)]
    counts = np.bincount(raw.train.labels, minlength=len(raw.class_names)).tolist()
    return DataReport(
        name=raw.name,
        num_train=len(raw.train),
        num_test=None if raw.test is None else len(raw.test),
        class_counts=dict(zip(raw.class_names, counts, strict=True)) if raw.class_names else {},
        noise_rate=raw.train.noise_rate,
        problems=problems,
        modes=dict(Counter(found.mode for found in good).most_common()),
        num_turned=sum(found.turned for found in good),
        duplicates=_duplicates(raw, splits),
        notes=(*raw.notes, *alpha_notes(everything), *notes_on_pixels(raw), *_notes_on_files(splits, facts)),
        refusals=tuple(refusals),
    )


def _read(spec: DataSpec, data_root: str | Path | None) -> tuple[Raw, list[str]]:
    """The data and what is wrong with them; without labels and class names where these cannot be read.

    Raises:
        UserError: there is nothing to look at.
    """
    refusals: list[str] = []
    try:
        raw = read(spec, data_root=data_root, problems=refusals)
        refuse_missing_groups(raw.train, spec.group_column, raw.name)
        return raw, refusals
    except UserError as error:
        try:
            new = read_new(spec.source, data_root=data_root, path_column=spec.path_column, base=spec.base)
        except UserError:
            if not refusals:
                raise error from None
            new = NewData(samples=Samples(ids=(), labels=np.empty(0, np.int64), paths=()))
        name = Path(spec.source).name
        raw = Raw(name=name, train=new.samples, test=None, class_names=(), notes=new.notes)
        return raw, [*refusals, str(error)]


def _good(samples: Samples, facts: list[PictureFacts | BadImage]) -> Samples:
    if samples.paths is None:
        return samples
    return samples.take(np.array([i for i, f in enumerate(facts) if not isinstance(f, BadImage)], np.int64))


def _refusals_of_split(raw: Raw, good: Mapping[str, Samples], spec: DataSpec, told: Sequence[str]) -> Iterator[str]:
    """Faults of the samples that can be used, taken together: too few, or classes without any."""
    labels = good["train"].labels
    counts = np.bincount(labels, minlength=len(raw.class_names)).tolist()
    empty = [name for name, count in zip(raw.class_names, counts, strict=True) if not count]
    if empty := [name for name in empty if not any(f"class {name!r} is empty" in text for text in told)]:
        classes, them = counted(len(empty), "class", then="has/have"), "it" if len(empty) == 1 else "them"
        yield (
            f"{classes} no training sample that can be used: {', '.join(map(repr, empty[:_SHOWN]))}. "
            f"Give {them} some, or leave {them} out of the classes"
        )
    if raw.test is not None and not len(good["test"]):
        yield f"the test set of {raw.name} has no usable sample: fill it, or take it away, and a part is held out"
    elif raw.test is None:
        try:
            divided(good["train"], share=spec.holdout_share, seed=spec.holdout_seed, max_pixels=spec.max_image_pixels)
        except UserError as error:
            yield f"{error} (--data.holdout_share)"


def _notes_on_files(
    splits: Mapping[str, Samples], facts: Mapping[str, list[PictureFacts | BadImage]]
) -> tuple[str, ...]:
    """Say which picture files have next to nothing in them."""
    found = [
        (name, part.extremes)
        for split in splits
        for name, part in zip(splits[split].ids, facts[split], strict=False)
        if isinstance(part, PictureFacts)
    ]
    levels = np.array([extremes for _, extremes in found], np.int64).reshape(-1, 3, 2)
    return contrast_notes([name for name, _ in found], levels[..., 0], levels[..., 1])


def _facts(samples: Samples, workers: int | None, max_pixels: int | None) -> list[PictureFacts | BadImage]:
    if samples.paths is None:
        return []
    return inspect_all(samples.paths, max_pixels=max_pixels, thorough=True, workers=workers)


def _problems(samples: Samples, facts: list[PictureFacts | BadImage]) -> tuple[Problem, ...]:
    return tuple(
        Problem(id=samples.ids[i], path=samples.paths[i], problem=found.problem)
        for i, found in enumerate(facts)
        if isinstance(found, BadImage) and samples.paths is not None
    )


def _duplicates(raw: Raw, splits: Mapping[str, Samples]) -> tuple[Duplicates, ...]:
    """Groups of equal samples, in the order of their first member."""
    told = [
        (split, name, raw.class_names[label] if raw.class_names else "?")
        for split, samples in splits.items()
        for name, label in zip(samples.ids, samples.labels.tolist(), strict=True)
    ]
    found = equal_samples(list(splits.values()))
    return tuple(Duplicates(samples=tuple(told[row] for row in rows)) for rows in found)
