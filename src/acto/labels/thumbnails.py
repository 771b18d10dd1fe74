"""Small pictures of samples for the report page: bounded in side and in bytes, whatever the sample is."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from acto.data.pictures.files import BadImage, decode_rgb
from acto.data.samples import Samples

SIDE = 96
"""Pixels of the longer side at most."""
MAX_BYTES = 8_000
"""Most bytes of one encoded thumbnail. A picture that no quality brings below it is scaled down."""
LARGE_SIDE, LARGE_BYTES = 1024, 400_000
"""The same of a picture that is enlarged."""
_QUALITIES = (82, 65, 45)

PictureOf = Callable[[int], bytes]
"""The thumbnail of the sample in a row, as PNG or JPEG."""


def pictures_of(
    samples: Samples, *, max_pixels: int | None = None, side: int = SIDE, max_bytes: int = MAX_BYTES
) -> PictureOf | None:
    """The thumbnails of `samples`, made when asked for; None for feature vectors, which have no picture.

    A picture file that is missing or damaged by now gives a placeholder.

    Args:
        samples: pictures in memory, (H, W, 1) or (H, W, 3), or picture files.
        max_pixels: larger files give a placeholder; None: acto.data.pictures.files.MAX_PIXELS.
        side: see `thumbnail`.
        max_bytes: see `thumbnail`.
    """
    if samples.pixels is not None:
        pixels = samples.pixels

        def from_memory(row: int) -> bytes:
            array = np.ascontiguousarray(pixels[row])
            picture = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
            return thumbnail(picture, side=side, max_bytes=max_bytes)

        return from_memory
    if samples.paths is not None:
        paths = samples.paths

        def from_file(row: int) -> bytes:
            try:
                picture = decode_rgb(paths[row], max_pixels=max_pixels, draft_size=(2 * side, 2 * side))
                return thumbnail(picture, side=side, max_bytes=max_bytes)
            except BadImage:
                return placeholder()

        return from_file
    return None


def thumbnail(picture: Image.Image, *, side: int = SIDE, max_bytes: int = MAX_BYTES) -> bytes:
    """PNG or JPEG of at most `side` pixels and `max_bytes`; small pictures grow by a whole factor, pixel by pixel.

    Args:
        picture: of mode L or RGB.
        side: pixels of the longer side at most.
        max_bytes: most bytes, encoded.
    """
    longest = max(picture.size)
    if 2 * longest <= side:
        factor = side // longest
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
        data = _encoded(picture, "PNG", optimize=True)
        if len(data) <= max_bytes:
            return data
    elif longest > side:
        picture = picture.copy()
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    while True:
        for quality in _QUALITIES:
            data = _encoded(picture, "JPEG", quality=quality)
            if len(data) <= max_bytes:
                return data
        picture = picture.resize((max(1, picture.width // 2), max(1, picture.height // 2)))


@cache
def placeholder() -> bytes:
    """A crossed box for a picture that cannot be shown."""
    picture = Image.new("L", (SIDE, SIDE), 225)
    pen = ImageDraw.Draw(picture)
    pen.rectangle((8, 8, SIDE - 9, SIDE - 9), outline=130, width=2)
    pen.line((8, 8, SIDE - 9, SIDE - 9), fill=130, width=2)
    pen.line((8, SIDE - 9, SIDE - 9, 8), fill=130, width=2)
    return _encoded(picture, "PNG", optimize=True)


def media_type(data: bytes) -> str:
    """Return the media type of a thumbnail."""
    return "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"


def data_uri(data: bytes) -> str:
    """A thumbnail as the address of itself."""
    return f"data:{media_type(data)};base64,{base64.b64encode(data).decode()}"


def _encoded(picture: Image.Image, kind: str, *, optimize: bool = False, quality: int = 75) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, optimize=optimize, quality=quality)
    return buffer.getvalue()
