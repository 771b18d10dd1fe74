"""Picture files: decoding them safely into RGB, and finding the ones that cannot be used.

Files come from anywhere, so only Pillow's own raster decoders are allowed (an EPS file would start another program), a
size limit stands before decoding, and whatever a decoder raises becomes a BadImage that names the file.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from acto.core.errors import UserError
from acto.core.files import irregular
from acto.core.resources import usable_cores

SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
MAX_PIXELS = 89_478_485
"""Pixels that a picture may have unless told otherwise: where Pillow starts to warn of decompression bombs."""
HARD_MAX_PIXELS = 2 * MAX_PIXELS
"""Above this Pillow itself refuses."""
MAX_ASPECT = 400
"""Times that a picture may be longer than wide, or wider than long. Scaled by its short side, a narrower strip of few
pixels would become a picture of very many."""

Image.init()
_FORMATS = tuple(name for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM") if name in Image.OPEN)
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG_EXIF = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
_ENDINGS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"\x00\x00\x00\x00IEND\xaeB`\x82"}
_CHUNK = 256


class BadImage(UserError):
    """A picture that cannot be decoded. Travels between processes."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(name, problem)
        self.name = name
        self.problem = problem

    def __str__(self) -> str:
        return f"picture {self.name} cannot be used: {self.problem}"


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """Facts in a picture file's header."""

    width: int
    """Pixels, as the picture is shown (after EXIF turning)."""
    height: int
    mode: str
    """Pillow's name of the pixel format: RGB, L, CMYK, I;16, ..."""
    turned: bool
    """True if its EXIF orientation asks for turning or mirroring (not of TIFF, which Pillow turns by itself)."""


def decode_rgb(
    source: str | Path | bytes,
    *,
    max_pixels: int | None = None,
    draft_size: tuple[int, int] | None = None,
    name: str | None = None,
) -> Image.Image:
    """Decode a file, or the bytes of one, into an upright 8-bit RGB picture.

    EXIF orientation is applied. 16-bit grey is scaled to 8 bits (Pillow alone would clip it). Transparency is dropped,
    as in torchvision and timm. Of an animation the first frame is taken.

    Args:
        source: path, or the file's bytes.
        max_pixels: refuse larger pictures before decoding; None: MAX_PIXELS.
        draft_size: (width, height) that suffice: a JPEG may be decoded smaller, but not below this.
        name: what to call the picture in an error; the path unless given.

    Raises:
        BadImage: the picture is missing, empty, truncated, too large, or of no known kind.
    """
    name = name if name is not None else "in memory" if isinstance(source, bytes) else str(source)
    with _opened(source, name, max_pixels) as image:
        if draft_size is not None:
            image.draft(None, draft_size)
        image.load()
        turn = _TURNS.get(_orientation(image))
        upright = _to_rgb(image, name)
        return upright if turn is None else upright.transpose(turn)


def scaled_rgb(path: str | Path, *, short: int, max_pixels: int | None = None) -> Image.Image:
    """Decode a file as decode_rgb does, its short side scaled to `short` pixels as torchvision's Resize does.

    A JPEG that is at least twice as large is decoded at a half, a quarter or an eighth of its size.

    Raises:
        BadImage: as decode_rgb; or the picture is so long that it would have too many pixels once scaled.
    """
    picture = decode_rgb(path, max_pixels=max_pixels, draft_size=(short, short))
    if min(picture.size) == short:
        return picture
    width, height = scaled_size(*picture.size, short=short)
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    if width * height > max(limit, picture.width * picture.height):
        raise BadImage(str(path), f"scaled to {width}x{height} pixels it has more than the limit of {limit}")
    return picture.resize((width, height), Image.Resampling.BILINEAR)


def scaled_size(width: int, height: int, *, short: int) -> tuple[int, int]:
    """Width and height in pixels once the short side is scaled to `short`."""
    least = min(width, height)
    return short * width // least, short * height // least


def inspect(path: str | Path, *, max_pixels: int | None = None, thorough: bool = False) -> PictureFacts:
    """Look at a picture file without keeping its pixels.

    Reads the header and the last bytes; a file that does not end as its format should is decoded in full, so truncation
    is found at the price of a few reads. `thorough` decodes every file.

    Raises:
        BadImage: as decode_rgb.
    """
    name = str(path)
    with _opened(path, name, max_pixels) as image:
        mode, (width, height) = image.mode, image.size
        ending = _ENDINGS.get(image.format or "")
        if thorough or ending is None or _last_bytes(path, len(ending)) != ending:
            image.draft(None, (1, 1))  # an eighth of the size: all the data is still read
            _to_rgb(image, name)
        orientation = _orientation(image)
        if orientation >= 5:
            width, height = height, width
        return PictureFacts(width, height, mode, orientation in _TURNS)


def inspect_all(
    paths: Sequence[Path], *, max_pixels: int | None = None, thorough: bool = False, workers: int | None = None
) -> list[PictureFacts | BadImage]:
    """`inspect` every file, in order; a bad one gives its BadImage instead of raising it.

    Args:
        paths: the files.
        max_pixels: as in decode_rgb.
        thorough: as in inspect.
        workers: threads (decoding releases Python's lock); None: one a processor, at most 16.
    """

    def inspect_chunk(start: int) -> list[PictureFacts | BadImage]:
        found: list[PictureFacts | BadImage] = []
        for path in paths[start : start + _CHUNK]:
            try:
                found.append(inspect(path, max_pixels=max_pixels, thorough=thorough))
            except BadImage as bad:
                found.append(bad)
        return found

    with ThreadPoolExecutor(workers or min(16, usable_cores())) as pool:
        return [facts for chunk in pool.map(inspect_chunk, range(0, len(paths), _CHUNK)) for facts in chunk]


def decode_pixels(
    sources: Sequence[Path | bytes],
    *,
    size: tuple[int, int],
    names: Sequence[str],
    max_pixels: int | None = None,
) -> npt.NDArray[np.uint8]:
    """Decode small pictures of one size into memory: (N, height, width, 3) uint8.

    In one thread: at 32 pixels, handing the interpreter's lock over costs more than a second thread brings.

    Args:
        sources: paths, or the bytes of files.
        size: (width, height) in pixels that every picture must have.
        names: what to call each picture in an error.
        max_pixels: as in decode_rgb.

    Raises:
        BadImage: the first picture that cannot be decoded or has another size.
    """
    pixels = np.empty((len(sources), size[1], size[0], 3), np.uint8)
    for i, source in enumerate(sources):
        picture = decode_rgb(source, max_pixels=max_pixels, name=names[i])
        if picture.size != size:
            actual, asked = ("x".join(map(str, sides)) for sides in (picture.size, size))
            raise BadImage(names[i], f"it has {actual} pixels, the others {asked}")
        pixels[i] = np.asarray(picture)
    return pixels


@contextmanager
def _opened(source: str | Path | bytes, name: str, max_pixels: int | None) -> Iterator[Image.Image]:
    """An opened picture within its size limit; whatever goes wrong with it inside becomes a BadImage."""
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    try:
        if not isinstance(source, bytes) and (kind := irregular(source)):
            raise BadImage(name, kind)
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as stream:
            if not stream.read(1):
                raise BadImage(name, "the file is empty (0 bytes)")
            stream.seek(0)
            with Image.open(stream, formats=_FORMATS) as image:
                width, height = image.size
                if width * height > limit:
                    raise BadImage(name, f"{width}x{height} pixels are more than the limit of {limit}")
                if max(width, height) > MAX_ASPECT * min(width, height):
                    raise BadImage(name, f"{width}x{height} pixels: one side is over {MAX_ASPECT} times the other")
                yield image
    except BadImage:
        raise
    except FileNotFoundError:
        raise BadImage(name, "no such file") from None
    except UnidentifiedImageError:
        raise BadImage(name, f"not a picture of a known kind ({', '.join(_FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(name, f"more pixels than the limit of {limit}") from None
    except Exception as error:  # decoders raise anything on a broken file: SyntaxError, struct.error, zlib.error, ...
        raise BadImage(name, f"{type(error).__name__}: {error}") from error


def _last_bytes(path: str | Path, count: int) -> bytes:
    with open(path, "rb") as stream:
        stream.seek(-min(count, os.fstat(stream.fileno()).st_size), os.SEEK_END)
        return stream.read(count)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) to 8; 1 if there is none or it cannot be read."""
    if image.format == "PNG" and image.info.keys().isdisjoint(_PNG_EXIF):
        return 1  # Pillow would decode the whole picture to look for it behind the pixels
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken metadata is no reason to lose the picture
        return 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    image.load()
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise BadImage(name, "floating-point pixels have no agreed range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise BadImage(name, "32-bit pixels have no agreed range; save it with 8 or 16 bits")
        image = Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns
    return image.convert("RGB")
