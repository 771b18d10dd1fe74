"""Formats of picture files: those that are read, and names for those that are not."""

from __future__ import annotations

from PIL import Image, features

_SUFFIXES_OF = {
    "JPEG": ".jpg .jpeg .jpe .jfif",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif .tiff",
    "PPM": ".ppm .pgm .pbm .pnm",
    "AVIF": ".avif",
    "JPEG2000": ".jp2 .j2k .j2c .jpc .jpf .jpx",
}
_EXTRAS = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}
"""Formats that Pillow may be built without, and its name for each."""


def _is_read(format: str) -> bool:
    """Say whether the Pillow at hand decodes a format; an older one does not even know the name of some."""
    return format in Image.OPEN and (format not in _EXTRAS or bool(features.check(_EXTRAS[format])))


Image.init()
FORMATS = tuple(format for format in _SUFFIXES_OF if _is_read(format))
SUFFIXES = frozenset(suffix for format in FORMATS for suffix in _SUFFIXES_OF[format].split())
"""Ends of the names of picture files, in small letters."""
UNREAD = {
    suffix: format
    for format, suffixes in {
        **{format: suffixes for format, suffixes in _SUFFIXES_OF.items() if format not in FORMATS},
        "HEIC": ".heic .heif .heics .hif",
        "JPEG XL": ".jxl",
        "camera raw": ".arw .cr2 .cr3 .dng .nef .nrw .orf .pef .raf .rw2 .srw",
        "Photoshop": ".psd .psb",
        "SVG": ".svg .svgz",
        "DICOM": ".dcm .dicom",
        "OpenEXR": ".exr",
        "Radiance": ".hdr",
        "TGA": ".tga",
        "ICO": ".ico",
        "PCX": ".pcx",
        "DDS": ".dds",
        "EPS": ".eps",
        "JPEG XR": ".jxr .wdp",
    }.items()
    for suffix in suffixes.split()
}
"""Pictures that are not read: the name of the format by the end of a file's name, in small letters."""
_BRANDS = {
    b"avif": "AVIF",
    b"avis": "AVIF",
    b"mif1": "HEIF",
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx"), "HEIC"),
}
_SIGNS = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",
    b"8BPS": "Photoshop",
    b"%!PS": "EPS",
    b"%PDF": "PDF",
    b"\0\0\1\0": "ICO",
    b"v/1\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance",
    b"<svg": "SVG",
    b"<!DOCTYPE html": "a web page",
    b"<html": "a web page",
}
"""First bytes of files that come under the names of pictures, and what they are."""


def kind_of(start: bytes) -> str:
    """Name what a file that is not read is, as far as its first 32 bytes tell; nothing if they do not."""
    if start[4:8] == b"ftyp":
        return _BRANDS.get(start[8:12], "a video, or a picture in the container of one")
    return next((kind for sign, kind in _SIGNS.items() if start.lower().startswith(sign.lower())), "")
