"""Photographs from files to views: ACTO's loader, torchvision's transforms with Pillow, and what the disk gives.

    python benchmarks/loader.py [--pictures 64] [--rounds 7] [--folder DIR]

Photographs (windows of scikit-learn's two sample pictures, scaled) are written to a temporary folder as JPEG, PNG and
WebP, and shrunk as `acto data shrink` does it. They are seen as ImageNet is: short side 256, windows of 224, one weak
and one strong view from one decoding.

The other side is ImageFolder's way: Pillow's decoding in a DataLoader, once for both views, then for each view either
Resize, RandomCrop (what ACTO's views are) or RandomResizedCrop, a flip, RandAugment for the strong one, ToTensor and
Normalize. Windows are both views cut, as bytes; finished views are batches in float32.

All in one thread of one process, without workers, and in processor seconds, so that "a core" means what it says and
other work on the machine counts little. Rounds of all kinds alternate; each has its ratio to the one it is compared
with. The disk is read in wall seconds, from the page cache and after the system was told to forget the files.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets.folder import default_loader
from torchvision.io import ImageReadMode, decode_image, read_file

from acto.core.types import Stream
from acto.core.waiting import in_threads
from acto.data.loading.decode_workers import Decoder, Request
from acto.data.loading.loader import DiskData
from acto.data.pictures.files import decode_rgb, scaled_rgb, scaled_size
from acto.data.pictures.shrink import ShrinkSpec, shrink
from acto.data.samples import Samples
from acto.data.views.counter_random import Occasion
from acto.data.views.pipelines import WINDOW_DRAWS, view_draws
from acto.data.views.spec import ViewSpec

SPEC = ViewSpec(pipeline="photo", size=224, resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
SHORT, SIZE, BATCH = 256, 224, 32
KINDS = (
    ("jpg", (500, 375), 1.0),
    ("jpg", (1024, 768), 1.0),
    ("jpg", (4000, 3000), 0.125),
    ("png", (500, 375), 1.0),
    ("webp", (500, 375), 1.0),
)
"""Suffix, size, and the share of the pictures that are made."""
BOTH = ("weak", "strong")
Work = Callable[[], object]


def write_photographs(folder: Path, count: int, size: tuple[int, int], suffix: str = "jpg") -> list[Path]:
    """`count` pictures of `size` (width, height): random windows of two photographs, scaled."""
    rng = np.random.default_rng(0)
    originals = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(count):
        original = originals[i % len(originals)]
        height = int(rng.integers(original.height // 2, original.height))
        width = min(height * size[0] // size[1], original.width)
        left, top = (int(rng.integers(0, spare + 1)) for spare in (original.width - width, original.height - height))
        window = original.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.LANCZOS)
        paths.append(folder / f"{i}.{suffix}")
        window.save(paths[-1], quality=90)
    return paths


class TwoViews(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """ImageFolder's way to two views of a picture.

    Args:
        paths: pictures.
        crop: transforms that make the window.
        finished: whether RandAugment, ToTensor and Normalize follow, or windows stay bytes.
    """

    def __init__(self, paths: Sequence[Path], crop: Sequence[Callable[..., object]], *, finished: bool) -> None:
        end = [transforms.ToTensor(), transforms.Normalize(SPEC.mean, SPEC.std)]
        weak = [*crop, transforms.RandomHorizontalFlip()]
        strong = [*weak, transforms.RandAugment()] if finished else weak
        end = end if finished else [transforms.PILToTensor()]
        self.paths, self.views = paths, [transforms.Compose([*steps, *end]) for steps in (weak, strong)]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        picture = default_loader(str(self.paths[row]))
        return self.views[0](picture), self.views[1](picture)


RESIZE = (transforms.Resize(SHORT), transforms.RandomCrop(SIZE))
RESIZED_CROP = (transforms.RandomResizedCrop(SIZE),)


def theirs(paths: Sequence[Path], crop: Sequence[Callable[..., object]], *, finished: bool) -> Work:
    """A pass of torchvision's pipeline."""
    loader = DataLoader(TwoViews(paths, crop, finished=finished), batch_size=BATCH)
    return lambda: [None for _ in loader]


def windows(paths: Sequence[Path]) -> Work:
    """The work of ACTO's workers in a pass."""
    rows = torch.arange(len(paths))
    draws = [
        view_draws(name, SPEC, occasion=Occasion(seed=0, epoch=0), index=rows, place=k)[:, :WINDOW_DRAWS].numpy()
        for k, name in enumerate(BOTH)
    ]
    decoder, names = Decoder(SPEC, max_pixels=None), tuple(map(str, paths))
    parts = [slice(start, start + BATCH) for start in range(0, len(paths), BATCH)]
    requests = [Request(names[part], BOTH, np.stack([each[part] for each in draws])) for part in parts]
    return lambda: [None for request in requests if decoder[request] is None]


def finished(paths: Sequence[Path]) -> Work:
    """A pass of ACTO's loader."""
    samples = Samples(ids=tuple(map(str, range(len(paths)))), labels=np.zeros(len(paths), np.int64), paths=tuple(paths))
    data = DiskData(samples, SPEC, seed=0)
    return lambda: [None for _ in data.batches(Stream(views=BOTH, batch_size=BATCH), epoch=0)]


def alternated(works: Mapping[str, tuple[Work, str]], count: int, rounds: int) -> None:
    """Time each kind of work in turn, and print images/s a core beside the ratio to the kind that it names."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for work, _ in works.values():
        work()
    for _ in range(rounds):
        for name, (work, _) in works.items():
            started = time.process_time()
            work()
            seconds[name].append(time.process_time() - started)
    for name, (_, other) in works.items():
        rates = np.percentile(count / np.array(seconds[name]), [25, 50, 75])
        ratio = np.percentile(np.array(seconds[other]) / np.array(seconds[name]), [25, 50, 75])
        said = "" if other == name else f"  {ratio[1]:6.2f} [{ratio[0]:.2f}, {ratio[2]:.2f}] times {other}"
        print(f"  {name:44}{rates[1]:8,.0f} [{rates[0]:,.0f}, {rates[2]:,.0f}]{said}", flush=True)


def disk(paths: Sequence[Path]) -> str:
    """What reading the files gives, in words: from the page cache, and after the system forgot them."""
    parts = []
    for forgotten in (False, True):
        if forgotten and not hasattr(os, "posix_fadvise"):
            continue
        rates = []
        for _ in range(5):
            for path in paths if forgotten else ():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            started = time.perf_counter()
            for path in paths:
                path.read_bytes()
            rates.append(len(paths) / (time.perf_counter() - started))
        megabytes = np.median(rates) * sum(path.stat().st_size for path in paths) / len(paths) / 1e6
        where = "cold" if forgotten else "from the page cache"
        parts.append(f"{where} {np.median(rates):,.0f} files/s ({megabytes:,.0f} MB/s)")
    return ", ".join(parts)


def only_what_is_seen(path: Path) -> Image.Image:
    """Scale a window in the middle alone. Its pixels differ here and there by a level from those of the whole."""
    picture = decode_rgb(path, draft_size=(SHORT, SHORT))
    (wide, high), (width, height) = picture.size, scaled_size(*picture.size, short=SHORT)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    box = (left * wide / width, top * high / height, (left + SIZE) * wide / width, (top + SIZE) * high / height)
    return picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)


def with_gap(path: Path) -> Image.Image:
    """Scale in two steps where the picture is far too large."""
    picture = decode_rgb(path, draft_size=(SHORT, SHORT))
    size = scaled_size(*picture.size, short=SHORT)
    return picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def ways_to_decode(paths: Sequence[Path]) -> dict[str, tuple[Work, str]]:
    """Parts of a worker's work, and other ways to do them that were tried."""
    usual, full = "decode and scale", "decode in full"
    each: dict[str, tuple[Callable[[Path], object], str]] = {
        usual: (lambda path: scaled_rgb(path, short=SHORT), usual),
        "decode (draft where it suffices)": (lambda path: decode_rgb(path, draft_size=(SHORT, SHORT)), usual),
        full: (decode_rgb, usual),
        "tried: torchvision.io decodes in full": (
            lambda path: decode_image(read_file(str(path)), ImageReadMode.RGB),
            full,
        ),
        "tried: scale only one window": (only_what_is_seen, usual),
        "tried: reducing_gap 2": (with_gap, usual),
    }
    works: dict[str, tuple[Work, str]] = {
        name: (lambda way=way: [None for path in paths if way(path) is None], other)  # type: ignore[misc]
        for name, (way, other) in each.items()
    }

    def two_threads() -> None:
        for _ in in_threads(lambda path: scaled_rgb(path, short=SHORT).size, paths, threads=2):
            pass

    return {**works, "tried: two threads": (two_threads, usual)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Photographs from files to views")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", help="where the pictures are made; a temporary folder in it is deleted at the end")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, Pillow {PIL.__version__}"
    print(f"{versions}, Python {platform.python_version()}, {platform.machine()}, one thread; medians [quartiles]")
    for suffix, size, share in KINDS:
        with tempfile.TemporaryDirectory(dir=options.folder) as place:
            count = max(1, round(options.pictures * share))
            originals = write_photographs(Path(place) / "photos", count, size, suffix)
            started = time.process_time()
            shrink(Path(place) / "photos", Path(place) / "small", ShrinkSpec(short=SHORT), threads=1)
            shrinking = count / (time.process_time() - started)
            small = [Path(place) / "small" / path.name for path in originals]
            print(f"\n{count} {suffix} of {size[0]}x{size[1]}; shrinking them: {shrinking:,.0f} images/s a core")
            for name, paths in (("originals", originals), ("small copies", small)):
                kilobytes = sum(path.stat().st_size for path in paths) / count / 1000
                print(f" {name}: {kilobytes:,.0f} kB each; read {disk(paths)}")
            print(" images/s a core")
            works: dict[str, tuple[Work, str]] = {}
            for name, make, torchvisions in (("windows", windows, False), ("finished views", finished, True)):
                ours = f"{name}, acto, originals"
                theirs_name = f"{name}, torchvision Resize, originals"
                works[ours] = make(originals), theirs_name
                works[f"{name}, acto, small copies"] = make(small), ours
                works[theirs_name] = theirs(originals, RESIZE, finished=torchvisions), theirs_name
                other = theirs(originals, RESIZED_CROP, finished=torchvisions)
                works[f"{name}, torchvision RandomResizedCrop"] = other, theirs_name
                works[f"{name}, torchvision Resize, small"] = theirs(small, RESIZE, finished=torchvisions), theirs_name
            alternated({**works, **ways_to_decode(originals)}, count, options.rounds)


if __name__ == "__main__":
    main()
