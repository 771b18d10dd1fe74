"""Pictures of every kind, whole and broken; the mark of each is in its green, in steps of ten."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("cat", "cat", "dog", "dog")
NAMES = ("a.png", "b.png", "c.png", "d.png")
MARKS = (10, 60, 110, 160)


def picture(mark: int, *, size: tuple[int, int] = (12, 10)) -> Image.Image:
    return Image.new("RGB", size, (mark, mark, mark))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def write_all(folder: Path, names: tuple[str, ...] = NAMES) -> None:
    for name, mark in zip(names, MARKS, strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(mark)))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, pixels: bytes, extra: bytes = b"", channels: int = 2) -> bytes:
    """A PNG by hand: what it claims need not be what it holds."""
    header = struct.pack(">IIBBBBB", width, height, 8, channels, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def sixteen_bit(mark: int) -> bytes:
    return encoded(Image.fromarray(np.full((10, 12), mark * 257, np.uint16)))


def with_transparency(mark: int) -> bytes:
    """Black in a palette, so transparent that white behind it gives the mark."""
    return encoded(picture(0).quantize(4), transparency=bytes([255 - mark] * 4))


def animated(mark: int) -> bytes:
    frames = [picture(200), picture(240)]
    return encoded(picture(mark), "GIF", save_all=True, append_images=frames, duration=20)


def turned(mark: int) -> bytes:
    image = picture(mark, size=(10, 12))  # lies on its side; EXIF says so
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", quality=95, exif=exif)


GOOD: dict[str, Callable[[int], bytes]] = {
    "CMYK JPEG": lambda mark: encoded(picture(mark).convert("CMYK"), "JPEG", quality=95),
    "16 bits of grey": sixteen_bit,
    "palette": lambda mark: encoded(picture(mark).quantize(4)),
    "palette with transparency": with_transparency,
    "grey with alpha": lambda mark: encoded(Image.new("LA", (12, 10), (0, 255 - mark))),
    "colours with alpha": lambda mark: encoded(Image.new("RGBA", (12, 10), (0, 0, 0, 255 - mark))),
    "animated GIF: the first frame": animated,
    "EXIF says to turn it": turned,
    "JPEG with the name of a PNG": lambda mark: encoded(picture(mark), "JPEG", quality=95),
    "TIFF, big-endian 16 bits": lambda mark: encoded(
        Image.frombytes("I;16B", (12, 10), struct.pack(">H", mark * 257) * 120), "TIFF"
    ),
    "WebP with the name of a PNG": lambda mark: encoded(picture(mark), "WEBP", lossless=True),
}

BAD: dict[str, tuple[bytes, str]] = {
    "zero bytes": (b"", "the file is empty"),
    "truncated PNG": (encoded(picture(110, size=(60, 60)))[:-30], ""),
    "truncated JPEG": (encoded(Image.effect_noise((60, 60), 90).convert("RGB"), "JPEG")[:-400], "truncated"),
    "a page with the name of a picture": (b"<html><script>alert(1)</script></html>", "not a picture of a known kind"),
    "PostScript, which would start a program": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "not a picture of a known kind",
    ),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not a picture of a known kind"),
    "decompression bomb, 50000x50000": (png(50_000, 50_000, pixels=bytes(1000)), "more "),
    "bomb in a text chunk": (
        png(12, 10, pixels=bytes(370), extra=chunk(b"zTXt", b"c\0\0" + zlib.compress(bytes(70_000_000)))),
        "",
    ),
    "too few pixels behind a right header": (png(100, 100, pixels=bytes(50)), ""),
    "strip of 1x30000 pixels": (encoded(Image.new("L", (1, 30_000))), "one side is over 400 times the other"),
    "no pixels at all": (png(0, 0, pixels=b""), ""),
    "32 bits": (encoded(Image.fromarray(np.full((10, 12), 70_000, np.int32)), "TIFF"), "no agreed range"),
    "floating point": (encoded(Image.fromarray(np.ones((10, 12), np.float32)), "TIFF"), "no agreed range"),
    "random bytes": (np.random.default_rng(0).bytes(2000), "not a picture of a known kind"),
}


def pipe(path: Path) -> None:
    os.mkfifo(path)
