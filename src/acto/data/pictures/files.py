"""Picture files: decoding them safely into RGB, and finding the ones that cannot be used.

Files come from anywhere, so only Pillow's own raster decoders are allowed (an EPS file would start another program), a
size limit stands before decoding, and whatever a decoder raises becomes a BadImage that names the file.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, UnidentifiedImageError

from acto.core.errors import UserError
from acto.core.resources import usable_cores
from acto.core.waiting import in_threads
from acto.data.pictures.kinds import FORMATS, kind_of
from acto.data.pictures.packed import no_picture_file, open_picture

MAX_PIXELS = 89_478_485
"""Pixels that a picture may have unless told otherwise: where Pillow starts to warn of decompression bombs."""
HARD_MAX_PIXELS = 2 * MAX_PIXELS
"""Above this Pillow itself refuses."""
MAX_ASPECT = 400
"""Times that a picture may be longer than wide, or wider than long. Scaled by its short side, a narrower strip of few
pixels would become a picture of very many."""

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
    has_alpha: bool = False
    """True if it says how transparent its pixels are; all of them may be opaque."""
    extremes: tuple[tuple[int, int], ...] = field(default=(), compare=False)
    """Lowest and highest level of each channel, 0 to 255; only where the file was decoded in full, else empty."""
    format: str = field(default="", compare=False)
    """Pillow's name of the file's format: JPEG, PNG, ..."""


def decode_rgb(
    source: str | Path | bytes,
    *,
    max_pixels: int | None = None,
    draft_size: tuple[int, int] | None = None,
    name: str | None = None,
) -> Image.Image:
    """Decode a file, or the bytes of one, into an upright 8-bit RGB picture.

    Of an animation the first frame is taken; all else as `opened_rgb` does it.

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
        return _upright_rgb(image, name)


def opened_rgb(image: Image.Image, *, name: str) -> Image.Image:
    """Make a picture that Pillow has opened or built upright and 8-bit RGB, as decode_rgb does with a file.

    EXIF orientation is applied. White is put behind what is transparent; where all is opaque, pixels stay. Grey of 16
    bits, and whole numbers of 32 bits from 0 to 65535, are scaled from that range to 0 to 255, whatever the picture's
    own brightest pixel is (Pillow alone would clip them).

    Args:
        image: of any of Pillow's modes; it is loaded, and otherwise left as it is.
        name: what to call the picture in an error.

    Raises:
        BadImage: it cannot be loaded, or has floating-point pixels or 32-bit ones of another range.
    """
    try:
        return _upright_rgb(image, name)
    except BadImage:
        raise
    except Exception as error:  # its file may be closed, cut or gone
        raise BadImage(name, f"{type(error).__name__}: {error}") from error


def scaled_rgb(path: str | Path, *, short: int, max_pixels: int | None = None) -> Image.Image:
    """Decode a file as decode_rgb does, its short side scaled to `short` pixels as torchvision's Resize does.

    A JPEG that is at least twice as large is decoded at a half, a quarter or an eighth of its size.

    Raises:
        BadImage: as decode_rgb; or the picture is so long that it would have too many pixels once scaled.
    """
    picture = decode_rgb(path, max_pixels=max_pixels, draft_size=(short, short))
    if min(picture.size) == short:
        return picture
    if problem := scaling_problem(*picture.size, short=short, max_pixels=max_pixels):
        raise BadImage(str(path), problem)
    return picture.resize(scaled_size(*picture.size, short=short), Image.Resampling.BILINEAR)


def scaling_problem(width: int, height: int, *, short: int, max_pixels: int | None = None) -> str:
    """Say why a picture of this size cannot be scaled to the short side `short`; empty if it can."""
    wide, high = scaled_size(width, height, short=short)
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    if wide * high <= max(limit, width * height):
        return ""
    return f"scaled to {wide}x{high} pixels it has more than the limit of {limit}"


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
        mode, (width, height), has_alpha = image.mode, image.size, _has_alpha(image)
        extremes: tuple[tuple[int, int], ...] = ()
        ending = _ENDINGS.get(image.format or "")
        if thorough or ending is None or _last_bytes(path, len(ending)) != ending:
            image.draft(None, (1, 1))  # an eighth of the size: all the data is still read
            extremes = cast(tuple[tuple[int, int], ...], _to_rgb(image, name).getextrema())
        orientation = _orientation(image)
        if orientation >= 5:
            width, height = height, width
        return PictureFacts(width, height, mode, orientation in _TURNS, has_alpha, extremes, image.format or "")


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

    def inspected(path: Path) -> PictureFacts | BadImage:
        try:
            return inspect(path, max_pixels=max_pixels, thorough=thorough)
        except BadImage as bad:
            return bad

    return list(in_threads(inspected, paths, threads=workers or min(16, usable_cores())))


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
        if not isinstance(source, bytes) and (kind := no_picture_file(source)):
            raise BadImage(name, kind)
        with io.BytesIO(source) if isinstance(source, bytes) else open_picture(source) as stream:
            if not (start := stream.read(32)):
                raise BadImage(name, "the file is empty (0 bytes)")
            stream.seek(0)
            with Image.open(stream, formats=FORMATS) as image:
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
        kind = kind_of(start)
        said = f": it is {kind}; save it as JPEG or PNG" if kind else ""
        raise BadImage(name, f"not a picture of a known kind ({', '.join(FORMATS)}){said}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(name, f"more pixels than the limit of {limit}") from None
    except Exception as error:  # decoders raise anything on a broken file: SyntaxError, struct.error, zlib.error, ...
        raise BadImage(name, f"{type(error).__name__}: {error}") from error


def _last_bytes(path: str | Path, count: int) -> bytes:
    with open_picture(path) as stream:
        stream.seek(-min(count, stream.seek(0, os.SEEK_END)), os.SEEK_END)
        return stream.read(count)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) to 8; 1 if there is none or it cannot be read."""
    if image.format == "PNG" and image.info.keys().isdisjoint(_PNG_EXIF):
        return 1  # Pillow would decode the whole picture to look for it behind the pixels
    try:
        found = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken metadata is no reason to lose the picture
        return 1
    return found if found in _TURNS else 1


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    image.load()
    turn = _TURNS.get(_orientation(image))
    upright = _to_rgb(image, name)
    return upright if turn is None else upright.transpose(turn)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    image.load()
    has_alpha = _has_alpha(image)
    if image.mode == "RGB" and not has_alpha:
        return image
    if image.mode == "F":
        raise BadImage(
            name,
            "floating-point pixels have no agreed range: scale them to whole numbers from 0 to 255 (to 65535 as 16 "
            "bits) and save or pass those",
        )
    if image.mode.startswith("I"):
        return _from_whole_numbers(image, image.info["transparency"] if has_alpha else None, name)
    if image.mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        made = ImageCms.applyTransform(image, ImageCms.buildTransform(lab, rgb, "LAB", "RGB"))
        assert made is not None
        return made
    if not has_alpha:
        return image.convert("RGB")
    image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    ground = Image.new("RGB", image.size, "white")
    ground.paste(image.convert("RGB"), mask=image.getchannel("A"))
    return ground


def _has_alpha(image: Image.Image) -> bool:
    """Say whether something in the picture may be transparent."""
    if image.mode in ("1", "L", "RGB") or image.mode.startswith("I"):
        # One colour stands for "transparent". After a conversion in memory others may have fallen together with it.
        return image.format is not None and "transparency" in image.info
    return image.has_transparency_data


def _from_whole_numbers(image: Image.Image, transparent: int | None, name: str) -> Image.Image:
    grey = np.asarray(image).astype(np.int64)
    if grey.size and (grey.min() < 0 or grey.max() > 65535):
        raise BadImage(
            name,
            f"32-bit pixels have no agreed range, and these go from {grey.min()} to {grey.max()}: scale them to whole "
            "numbers from 0 to 65535, or to 8 bits",
        )
    scaled = (grey * 255 + 32767) // 65535
    if transparent is not None:
        scaled[grey == transparent] = 255
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
