"""Where the time goes between a JPEG file and a training step, and what a cache of decoded pictures saves.

    python benchmarks/loader.py [--pictures 128] [--rounds 7] [--device cpu]

Photographs (windows of scikit-learn's two sample pictures, scaled) are written as JPEGs of 500x375 and of 1024x768 to a
temporary folder, and seen as ImageNet is: short side 256, windows of 224, one weak and one strong view from one
decoding.

First each stage by itself, in one thread, as milliseconds a picture. "step" is forward and backward of a ResNet-18 on
one view, for scale: ACTO trains two networks and three views. Then whole passes of DiskData, without a cache, from a
folder and from memory, which alternate in one run. With --workers 0 times are processor seconds, so that "a core" means
what it says and other work counts little; with workers they are seconds, and other work on the machine counts.
Everything lies in the system's page cache: what a slow disk adds is not in these numbers.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL
import torch
from acto.data.pictures.cache import open_cache
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn

from acto.core.device import resolve_precision
from acto.core.types import Stream
from acto.data.loading.decode_workers import Decoder, Request
from acto.data.loading.loader import DiskData
from acto.data.pictures.files import decode_rgb, scaled_rgb, scaled_size
from acto.data.samples import Samples
from acto.data.views.counter_random import Occasion
from acto.data.views.pipelines import WINDOW_DRAWS, finish_view, view_draws
from acto.data.views.spec import ViewSpec
from acto.nets import build as nets

SPEC = ViewSpec(pipeline="photo", size=224, resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
SIZES = ((500, 375), (1024, 768))
BOTH = ("weak", "strong")


def write_photographs(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """`count` JPEGs of `size` (width, height): random windows of two photographs, scaled."""
    rng = np.random.default_rng(0)
    originals = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    paths = []
    for i in range(count):
        original = originals[i % len(originals)]
        height = int(rng.integers(original.height // 2, original.height))
        width = min(height * size[0] // size[1], original.width)
        left, top = (int(rng.integers(0, spare + 1)) for spare in (original.width - width, original.height - height))
        window = original.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.LANCZOS)
        paths.append(folder / f"{size[0]}-{i}.jpg")
        window.save(paths[-1], quality=90)
    return paths


def spread(values: Sequence[float]) -> str:
    """Median, then lower and upper quartile in brackets."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:9.2f} [{low:.2f}, {high:.2f}]"


def stages(paths: Sequence[Path], cache: Path, device: torch.device) -> dict[str, Callable[[], object]]:
    """What is done with a batch, one stage after the other, each on what the one before it left."""
    rows = torch.arange(len(paths))
    draws = [
        view_draws(name, SPEC, occasion=Occasion(seed=0, epoch=0), index=rows, place=k) for k, name in enumerate(BOTH)
    ]
    short = SPEC.resize or 0
    drafts = [decode_rgb(path, draft_size=(short, short)) for path in paths]
    places, stored = open_cache(str(cache), paths, short=short)
    names = tuple(map(str, paths))
    request = Request(names, BOTH, np.stack([draw[:, :WINDOW_DRAWS].numpy() for draw in draws]), places)
    decoder = Decoder(SPEC, max_pixels=None, stored=stored)
    windows = decoder[request]
    assert isinstance(windows, torch.Tensor)
    moved = windows.to(device)
    precision = resolve_precision("auto", device)
    weak = finish_view("weak", moved[0].permute(0, 3, 1, 2), SPEC, draws[0][:, WINDOW_DRAWS:], dtype=torch.float32)
    net = (
        nets.build_net("resnet18", input_shape=(3, 224, 224), num_classes=100)
        .to(device)
        .to(memory_format=torch.channels_last)
    )
    few = weak[: 128 if device.type == "cuda" else 8]
    labels = torch.zeros(len(few), dtype=torch.long, device=device)

    def step() -> None:
        net.zero_grad()
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            logits = net(few)
        nn.functional.cross_entropy(logits.float(), labels).backward()

    def finish(place: int) -> torch.Tensor:
        pixels = moved[place].permute(0, 3, 1, 2)
        return finish_view(BOTH[place], pixels, SPEC, draws[place][:, WINDOW_DRAWS:], dtype=torch.float32)

    return {
        "decode in full": lambda: [decode_rgb(path) for path in paths],
        "decode (draft where it suffices)": lambda: [decode_rgb(path, draft_size=(short, short)) for path in paths],
        "scale to the short side": lambda: [
            draft.resize(scaled_size(*draft.size, short=short), Image.Resampling.BILINEAR) for draft in drafts
        ],
        "decode and scale": lambda: [np.asarray(scaled_rgb(path, short=short)) for path in paths],
        "crop two windows from the cache": lambda: decoder[request],
        "copy to the device": lambda: windows.to(device) if device.type == "cuda" else windows.clone(),
        "weak: normalize": lambda: finish(0),
        "strong: augment, normalize": lambda: finish(1),
        f"step (ResNet-18, {str(precision).removeprefix('torch.')})": step,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="From a JPEG file to a training step")
    parser.add_argument("--pictures", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device(options.device)
    processor_time = time.process_time if device.type == "cpu" else time.perf_counter

    def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
        started = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - started

    print(f"torch {torch.__version__}, Pillow {PIL.__version__}, {platform.machine()}, {device}, one thread")
    for size in SIZES:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            paths = write_photographs(folder, options.pictures, size)
            kilobytes = sum(path.stat().st_size for path in paths) / len(paths) / 1000
            print(f"\n{len(paths)} JPEGs of {size[0]}x{size[1]}, {kilobytes:.0f} kB each")
            print("stage, milliseconds a picture: median [quartiles]")
            for name, work in stages(paths, folder / "cache", device).items():
                count = (128 if device.type == "cuda" else 8) if name.startswith("step") else len(paths)
                work()
                times = [1000 * seconds(work, processor_time) / count for _ in range(options.rounds)]
                print(f"  {name:34}{spread(times)}")
            passes(paths, folder, device, options.rounds, seconds)


def passes(
    paths: Sequence[Path],
    folder: Path,
    device: torch.device,
    rounds: int,
    seconds: Callable[[Callable[[], object], Callable[[], float]], float],
) -> None:
    """Time whole passes, the kinds in turn."""
    samples = Samples(ids=tuple(map(str, range(len(paths)))), labels=np.zeros(len(paths), np.int64), paths=tuple(paths))
    stream = Stream(views=BOTH, batch_size=32)
    caches = {"none": None, "folder": str(folder / "cache"), "memory": "memory"}
    filling = seconds(lambda: open_cache(str(folder / "fresh"), paths, short=256, threads=1), time.perf_counter)
    print(f"filling the cache, one thread: {len(paths) / filling:,.0f} images/s; ", end="")
    checking = seconds(lambda: open_cache(str(folder / "fresh"), paths, short=256, threads=1), time.perf_counter)
    bytes_a_picture = sum(p.stat().st_size for p in folder.glob("fresh/*/*.pixels")) / len(paths)
    print(f"checking it: {len(paths) / checking:,.0f} images/s; {bytes_a_picture / 1000:,.0f} kB a picture")
    print("passes, images/s with both views: median [quartiles]")
    for workers in (0, 2):
        clock = time.process_time if workers == 0 and device.type == "cpu" else time.perf_counter
        rates: dict[str, list[float]] = {name: [] for name in caches}
        data = {
            name: DiskData(samples, SPEC, seed=0, device=device, workers=workers, cache=cache)
            for name, cache in caches.items()
        }

        def one_pass(loader: DiskData) -> None:
            for _ in loader.batches(stream, epoch=0):
                pass

        for loader in data.values():
            one_pass(loader)  # starts the workers
        for _ in range(rounds):
            for name, loader in data.items():
                rates[name].append(len(paths) / seconds(lambda loader=loader: one_pass(loader), clock))  # type: ignore[misc]
        for name, loader in data.items():
            loader.close()
            ratio = np.array(rates[name]) / np.array(rates["none"])
            unit = "a core" if workers == 0 else "in all"
            print(f"  {workers} workers, cache {name:7}{spread(rates[name])} {unit};  {spread(ratio).strip()} times")


if __name__ == "__main__":
    main()
