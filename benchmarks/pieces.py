"""The folder of photographs whose transcripts README, quick start and docs/photographs.md show.

    pip install scikit-image
    python benchmarks/pieces.py photos/ [--side 160] [--pieces 300] [--moved 42] [--seed 0]

Six sample photographs of scikit-image are the classes, as many square pieces of each, cut at random and scaled to
`--side`. Some are put into the folder of another class and keep their names: grass/gravel22.jpg shows gravel.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("astronaut", "brick", "chelsea", "coffee", "grass", "gravel")
CUT = 160
"""Side of a piece in its photograph, in pixels."""


def main() -> None:
    """Cut the pieces."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--side", type=int, default=CUT, help="pixels")
    parser.add_argument("--pieces", type=int, default=300)
    parser.add_argument("--moved", type=int, default=42, help="pieces in a wrong folder")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if asked.folder.exists():
        parser.error(f"{asked.folder} is there already: name a new folder")
    if asked.side < 1 or not 0 <= asked.moved <= asked.pieces or asked.pieces < len(CLASSES):
        parser.error(f"--side from 1, --pieces from {len(CLASSES)}, --moved from 0 to --pieces")
    from skimage import data

    random, each = np.random.default_rng(asked.seed), asked.pieces // len(CLASSES)
    moved = random.permutation(each * len(CLASSES))[: asked.moved]
    for name in CLASSES:
        (asked.folder / name).mkdir(parents=True)
    for number in range(each * len(CLASSES)):
        k, place = divmod(number, each)
        photograph = Image.fromarray(getattr(data, CLASSES[k])()).convert("RGB")
        left, top = (int(random.integers(0, end - CUT + 1)) for end in photograph.size)
        piece = photograph.crop((left, top, left + CUT, top + CUT)).resize(
            (asked.side, asked.side), Image.Resampling.BOX
        )
        other = CLASSES[(k + int(random.integers(1, len(CLASSES)))) % len(CLASSES)]
        folder = asked.folder / (other if number in moved else CLASSES[k])
        piece.save(folder / f"{CLASSES[k]}{place:02d}.jpg", quality=95)


if __name__ == "__main__":
    main()
