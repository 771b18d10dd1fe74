"""Idx files, as MNIST and Fashion-MNIST have them."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from acto.core.errors import UserError
from acto.core.files import check_bomb
from acto.core.text import counted
from acto.data.readers.place import Place, not_found, places_below
from acto.data.samples import DataSpec, Pixels, Raw, Samples, clean_samples

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Folder of the files of Debian's package dataset-fashion-mnist."""
_MAX_DIMS = 8
_FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def read(spec: DataSpec, place: Place) -> Raw:
    """Read Fashion-MNIST from the data root, or from where Debian installs it."""
    files = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
    folders = ("fashion-mnist", "fashion_mnist", "FashionMNIST/raw")
    places = [*(places_below(place.path, folders) if place.path is not None else []), DEBIAN_FASHION_MNIST]

    def file(folder: Path, name: str) -> Path | None:
        return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)

    def split(folder: Path, name: str) -> Samples:
        images, labels = file(folder, name), file(folder, name.replace("images-idx3", "labels-idx1"))
        if images is None or labels is None:
            raise UserError(f"{spec.source}: {folder} has no {name}(.gz) with its labels")
        pixels, numbers = read_idx(images), read_idx(labels)
        if len(wrong := np.flatnonzero(numbers.reshape(-1) > 9)):
            raise UserError(
                f"{labels}: {counted(len(wrong), 'label', then='is/are')} not in 0..9, the first in row {wrong[0]}"
            )
        if pixels.ndim != 3 or numbers.shape != (len(pixels),) or 0 in pixels.shape:
            raise UserError(f"{images} and {labels} are no pictures with their labels: {pixels.shape}, {numbers.shape}")
        return clean_samples(pixels[..., None], numbers.astype(np.int64))

    for folder in places:
        if file(folder, files["train"]):
            return Raw(
                name=spec.source,
                train=split(folder, files["train"]),
                test=split(folder, files["test"]),
                class_names=_FASHION_CLASSES,
                clean=True,
            )
    layout = "train-images-idx3-ubyte(.gz), train-labels-idx1-ubyte(.gz) and the t10k files"
    raise not_found(spec.source, places, layout=f"{layout}; Debian has them as package dataset-fashion-mnist")


def read_idx(path: Path) -> Pixels:
    """Read an idx file of unsigned bytes, gzipped or not, as MNIST and Fashion-MNIST have them.

    Raises:
        UserError: another kind of file, or one that ends too early or too late.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            header = stream.read(4)
            if header[:3] != b"\x00\x00\x08" or len(header) < 4:
                raise UserError(f"{path} is no idx file of bytes: it starts with {header.hex(' ') or 'nothing'}")
            if not 0 < header[3] <= _MAX_DIMS:
                raise UserError(f"{path} is no idx file that can be used: it says that it has {header[3]} axes")
            sides = stream.read(4 * header[3])
            shape = [int.from_bytes(sides[i : i + 4], "big") for i in range(0, len(sides), 4)]
            count = math.prod(shape)
            # A header may claim anything; nothing is set aside for more than the file can hold.
            check_bomb(str(path), unpacked=count, packed=path.stat().st_size)
            content = stream.read(count)
            if len(shape) != header[3] or len(content) != count or stream.read(1):
                raise UserError(f"{path} should hold {count} bytes after its header, but does not")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return np.frombuffer(content, np.uint8).reshape(shape)
