"""Samples brought into the form that a model was trained on, and what is wrong with those that have no such form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError
from acto.core.text import counted
from acto.data.pictures.files import BadImage, decode_rgb, inspect_all, scaling_problem
from acto.data.pictures.one_size import fitted, resized
from acto.data.samples import Samples
from acto.data.sources import alpha_notes
from acto.data.tables.rows import Rows
from acto.data.views.spec import ViewSpec
from acto.nets.base import Shape

_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Usable:
    """Samples in the form that a model was trained on, and what is wrong with the others."""

    samples: Samples
    """Those that can be used."""
    rows: npt.NDArray[np.int64]
    """(M,) their rows among all."""
    total: int
    """N, the number of all."""
    problems: Mapping[int, str] = field(default_factory=dict)
    """Faults of the others, in words, by row."""
    shown: str = ""
    """The first of those others by name, with their faults."""
    asks: str = ""
    """Words for what the model takes."""
    notes: tuple[str, ...] = ()
    """Notes for the user."""

    def refuse_bad(self) -> None:
        """Refuse the samples if some cannot be used.

        Raises:
            UserError: the first of them, with what is wrong.
        """
        if self.problems:
            raise UserError(f"{self.asks}, but {len(self.problems)} of {self.total} cannot be used: {self.shown}")


def usable_samples(
    samples: Samples, views: ViewSpec, *, input_shape: Shape, max_pixels: int, thorough: bool = True
) -> Usable:
    """Bring samples into the form that a model was trained on.

    Where it was trained on small pictures of one size, picture files of another size are scaled to it, the middle is
    taken where their shape differs, and a note says so.

    Args:
        samples: features, pixels or picture files; labels mean nothing.
        views: the model's.
        input_shape: of one sample, as the model's networks see it.
        max_pixels: larger picture files cannot be used.
        thorough: decode every picture file; else only those that are decoded into memory, and look at headers and ends
            of the others.

    Raises:
        UserError: they are all of another kind or shape.
    """
    if not len(samples):
        return Usable(samples=samples, rows=np.arange(0), total=0)
    model = _Model(views, input_shape, max_pixels)
    if isinstance(rows := samples.content, Rows):
        raise UserError(
            f"{model.asks()}, but {rows.file or 'the data frame'} is a table without a column of picture files; it has "
            f"the columns {', '.join(map(repr, [*rows.cells][: 4 * _SHOWN]))} (--path-column names another than path)"
        )
    if samples.paths is not None and views.pipeline != "vectors":
        return model.usable_files(samples, samples.paths, thorough=thorough)
    return Usable(samples=model.fitting(samples), rows=np.arange(len(samples)), total=len(samples))


@dataclass(frozen=True, slots=True)
class _Model:
    """As much of a model as decides which samples suit it."""

    views: ViewSpec
    input_shape: Shape
    max_pixels: int

    def fitting(self, samples: Samples) -> Samples:
        """Features or pixels in the form that the model was trained on.

        Raises:
            UserError: they are others.
        """
        if samples.features is not None:
            if self.views.pipeline != "vectors" or samples.features.shape[1:] != self.input_shape:
                raise UserError(f"{self.asks()}, but these have {counted(samples.features.shape[1], 'feature')}")
            if (bad := np.flatnonzero(~np.isfinite(samples.features).all(1))).size:
                shown = ", ".join(samples.ids[i] for i in bad[:_SHOWN].tolist())
                raise UserError(f"{counted(len(bad), 'sample')} with features that are not finite: {shown}")
            return samples
        if self.views.pipeline == "vectors":
            raise UserError(f"{self.asks()}, but these are pictures")
        assert samples.pixels is not None
        if self.views.size is not None:
            raise UserError(f"{self.asks()}, but these are pixels in memory")
        channels, height, width = self.input_shape
        pixels = samples.pixels
        if self.views.resize is not None and pixels.shape[1:3] != (height, width):  # as those of the training were
            named = zip(pixels, samples.ids, strict=True)
            pixels = np.stack([resized(picture, (width, height), name=name) for picture, name in named])
        if pixels.shape[1:] == (height, width, 1) and channels == 3:  # as a grey file would be decoded
            pixels = pixels.repeat(3, axis=3)
        if pixels.shape[1:] != (height, width, channels):
            raise UserError(f"{self.asks()}, but these are {_size(*pixels.shape[1:])}")
        return replace(samples, pixels=pixels)

    def usable_files(self, samples: Samples, paths: Sequence[Path], *, thorough: bool) -> Usable:
        """Those of the picture files that can be used."""
        takes_files = self.views.size is not None
        problems: dict[int, str] = {}
        decoded: list[npt.NDArray[np.uint8]] = []
        rows, scaled = [], []
        # Small ones are decoded below, so their headers suffice here.
        facts = inspect_all(paths, max_pixels=self.max_pixels, thorough=thorough and takes_files)
        for row, found in enumerate(facts):
            try:
                if isinstance(found, BadImage):
                    raise found
                if takes_files:
                    short = self.views.resize or self.views.size or 1
                    problem = scaling_problem(found.width, found.height, short=short, max_pixels=self.max_pixels)
                    if problem:
                        raise BadImage(samples.ids[row], problem)
                else:
                    decoded.append(self.decoded_file(paths[row], samples.ids[row]))
                    if (found.height, found.width) != self.input_shape[1:]:
                        scaled.append(row)
                rows.append(row)
            except BadImage as bad:
                problems[row] = bad.problem
        kept = samples.take(np.array(rows, np.int64)) if problems else samples
        if not takes_files and rows:
            kept = replace(kept, pixels=np.stack(decoded), paths=None)
        notes = alpha_notes(facts)
        if scaled:
            height, width = self.input_shape[1:]
            notes += (
                f"{len(scaled):,} of {len(samples):,} pictures have another size than the {width}x{height} pixels of "
                "the training: they are scaled to it, the middle is taken where their shape differs: "
                + _first([samples.ids[row] for row in scaled], ", "),
            )
        return Usable(
            samples=kept, rows=np.array(rows, np.int64), total=len(samples), problems=problems,
            shown=_first([f"{samples.ids[row]} ({text})" for row, text in problems.items()], "; "), asks=self.asks(),
            notes=notes,
        )  # fmt: skip

    def decoded_file(self, path: Path, name: str) -> npt.NDArray[np.uint8]:
        """(H, W, C) pixels of a file at the trained size, grey where the model is for grey pictures.

        Raises:
            BadImage: it cannot be decoded, or scaling it would leave little of what the training saw.
        """
        channels, height, width = self.input_shape
        picture = decode_rgb(path, max_pixels=self.max_pixels, name=name)
        picture = fitted(picture, (width, height), name=name)
        pixels = np.asarray(picture.convert("L") if channels == 1 else picture)
        return pixels.reshape(height, width, channels)

    def asks(self) -> str:
        """Words for what it takes."""
        if self.views.pipeline == "vectors":
            return f"the model takes feature vectors of {self.input_shape[0]} numbers"
        if self.views.size is not None:
            return "the model takes picture files"
        channels, height, width = self.input_shape
        return f"the model takes pictures of {_size(height, width, channels)}"


def _first(texts: Sequence[str], separator: str) -> str:
    more = f"{separator}and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return separator.join(texts[:_SHOWN]) + more


def _size(height: int, width: int, channels: int) -> str:
    return f"{height}x{width} pixels and {channels} channel{'s' if channels > 1 else ''}"
