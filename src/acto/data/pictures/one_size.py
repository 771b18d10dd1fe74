"""Small pictures of several sizes, brought to one size in memory."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from acto.core.errors import UserError
from acto.data.pictures.files import BadImage, decode_rgb
from acto.data.samples import Samples

MAX_ENLARGED = 4
"""Times that a picture may be enlarged to the size of the training."""
MAX_CUT = 2
"""Times that a picture may be longer, for its width, than those of the training, or wider: half of it is cut away."""
SMALL_SIDE = 64
"""Pixels a side up to which pictures are small, and a small network learns from them as they are."""
LEAST_SIDE = 8
"""Pixels a side that the networks need."""
_SHOWN = 5

Size = tuple[int, int]
"""Width and height in pixels."""


def common_side(sizes: Collection[Size]) -> int:
    """Choose the side in pixels to which pictures of these sizes are brought: the median of their short sides, in the
    bounds of small pictures.
    """
    return int(np.clip(np.median([min(size) for size in sizes]), LEAST_SIDE, SMALL_SIDE))


def are_small(sizes: Collection[Size]) -> bool:
    """Say whether pictures of these sizes are all small, and can be brought to one size."""
    side = common_side(sizes)
    return all(max(size) <= SMALL_SIDE and not misfit(size, (side, side)) for size in sizes)


def misfit(size: Size, wanted: Size) -> str:
    """Say why a picture of one size would make too little of another; empty if it does not."""
    across, down = wanted[0] / size[0], wanted[1] / size[1]
    if max(across, down) <= min(MAX_ENLARGED, MAX_CUT * min(across, down)):
        return ""
    return (
        f"it has {size[0]}x{size[1]} pixels, too {'few' if min(across, down) > 1 else 'odd'} to make the "
        f"{wanted[0]}x{wanted[1]} of the training out of them"
    )


def fitted(picture: Image.Image, wanted: Size, *, name: str) -> Image.Image:
    """A picture scaled to a size; where its shape is another, the middle is cut out.

    Raises:
        BadImage: little of what the training sees would be left of it.
    """
    if picture.size == wanted:
        return picture
    if problem := misfit(picture.size, wanted):
        raise BadImage(name, problem)
    return ImageOps.fit(picture, wanted, Image.Resampling.BILINEAR)


def resized(pixels: npt.NDArray[np.uint8], wanted: Size, *, name: str) -> npt.NDArray[np.uint8]:
    """(H, W, C) pixels brought to a size as `fitted` does.

    Raises:
        BadImage: see there.
    """
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    return np.asarray(fitted(picture, wanted, name=name)).reshape(wanted[1], wanted[0], pixels.shape[2])


def at_side(samples: Samples, side: int, *, max_pixels: int) -> Samples:
    """Pictures in memory or in files as squares of `side` pixels in memory.

    Raises:
        UserError: the first that cannot be brought to that size.
    """
    if samples.pixels is not None and samples.pixels.shape[1:3] == (side, side):
        return samples
    problems: list[str] = []
    rows: list[npt.NDArray[np.uint8]] = []
    for row, name in enumerate(samples.ids):
        try:
            if samples.pixels is not None:
                rows.append(resized(samples.pixels[row], (side, side), name=name))
            else:
                assert samples.paths is not None
                picture = decode_rgb(samples.paths[row], max_pixels=max_pixels, name=name)
                rows.append(np.asarray(fitted(picture, (side, side), name=name)))
        except BadImage as bad:
            problems.append(f"{name}: {bad.problem}")
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise UserError(
            f"{len(problems)} of {len(samples)} pictures cannot be brought to {side}x{side} pixels: "
            f"{'; '.join(problems[:_SHOWN])}{more}. Choose another --data.size, or --data.pictures large"
        )
    return replace(samples, pixels=np.stack(rows), paths=None)
