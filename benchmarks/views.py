"""Weak and strong views of CIFAR-sized pictures: DeviceData against torchvision's transforms on Pillow images.

    python benchmarks/views.py

One thread each, alternating in one run. Times are processor seconds of this process, so that other work on the machine
counts little, and "a core" means what it says. Prints median and quartiles of both rates and of their ratio.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torchvision import transforms

from acto.diagnostics.timed_parts import BATCH, MEAN, STD, Views, in_memory, quartiles, ratios, smooth_pictures


def pillow_pass(images: Sequence[Image.Image]) -> Callable[[], int]:
    """What a loader's worker does in the public code's manner, one picture after the other."""
    window = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    policy = transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10, fill=[128.0] * 3)
    finish = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    weak, strong = transforms.Compose([*window, *finish]), transforms.Compose([*window, policy, *finish])

    def run() -> int:
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH]
            torch.stack([weak(image) for image in batch])
            torch.stack([strong(image) for image in batch])
        return len(images)

    return run


def rate(run: Callable[[], int]) -> float:
    """Pictures (each in both views) per processor second."""
    start = time.process_time()
    count = run()
    return count / (time.process_time() - start)


def shown(values: Sequence[float]) -> str:
    """Median, then lower and upper quartile in brackets."""
    low, middle, high = quartiles(values)
    return f"{middle:10,.1f} [{low:,.1f}, {high:,.1f}]"


def main() -> None:
    """Alternate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="timed passes of each kind")
    parser.add_argument("--bfloat16", action="store_true", help="make bfloat16 views (the rival stays float32)")
    options = parser.parse_args()
    torch.set_num_threads(1)

    pixels = smooth_pictures(20_000)
    dtype = torch.bfloat16 if options.bfloat16 else torch.float32
    bulk = Views(in_memory(pixels), views=("weak", "strong"), dtype=dtype).run
    pillow = pillow_pass([Image.fromarray(picture) for picture in pixels[:1024]])

    rate(bulk), rate(pillow)
    ours, theirs = [], []
    for _ in range(options.rounds):
        ours.append(rate(bulk))
        theirs.append(rate(pillow))
    print(f"torch {torch.__version__}, {options.rounds} rounds, weak + strong, pictures/s a core: median [quartiles]")
    print(f"Pillow pipeline {shown(theirs)}")
    print(f"DeviceData      {shown(ours)}")
    print(f"ratio           {shown(ratios(ours, theirs))}")


if __name__ == "__main__":
    main()
