"""Samples whose content is nearly the same: copies, other encodings and sizes of one picture, rows typed twice.

Every sample gets a short vector: a grey picture of 16 x 16 block means, or its standardized features. Signs of fixed
random projections, in bands, bring likely pairs together; a pair counts where the vectors themselves are close. Time
grows with N, not with its square.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from acto.core.resources import usable_cores
from acto.core.waiting import in_threads
from acto.data.pictures.files import BadImage, decode_rgb
from acto.data.samples import Samples

SIDE = 16
MAX_GREY_DIFFERENCE = 3.0
"""Two pictures are alike where their block means differ by no more than this (root mean square, of 255 levels)."""
MAX_FEATURE_DIFFERENCE = 0.02
"""Two rows of features are alike where they differ by no more than this share of their length, standardized."""
BANDS, BITS = 16, 16
"""A pair of samples at an angle of 3 degrees shares a band of 16 signs with chance 0.76, and one of 16 bands for sure
but for 1e-9; unrelated samples share one with chance 0.0002."""
WINDOW = 16
"""In a band where many samples meet, each is compared with so many that follow it."""
GREY = np.array([0.299, 0.587, 0.114], np.float32)

Vectors = npt.NDArray[np.float32]


def near_duplicate_groups(samples: Samples, *, max_pixels: int | None = None) -> list[list[int]]:
    """Find groups of rows whose samples are nearly the same, each of two or more rows, sorted, by their first rows.

    A picture that is like two others which are not quite like each other brings them into one group. Picture files that
    cannot be decoded are in no group.

    Args:
        samples: pictures or features.
        max_pixels: larger picture files are left out.
    """
    if len(samples) < 2:
        return []
    if samples.features is not None:
        vectors, limit = _standardized(samples.features), None
    elif samples.pixels is not None:
        vectors, limit = _block_means(samples.pixels), MAX_GREY_DIFFERENCE * SIDE
    else:
        assert samples.paths is not None
        vectors, limit = _of_files(samples.paths, max_pixels), MAX_GREY_DIFFERENCE * SIDE
    return _groups(vectors, limit)


def _groups(vectors: Vectors, limit: float | None) -> list[list[int]]:
    """Rows within `limit` of each other (None: MAX_FEATURE_DIFFERENCE of their length); rows of NaN stay alone."""
    parent = np.arange(len(vectors))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for first, second in _near_pairs(vectors, limit):
        a, b = root(first), root(second)
        parent[max(a, b)] = min(a, b)
    members: defaultdict[int, list[int]] = defaultdict(list)
    for row in np.flatnonzero(parent != np.arange(len(parent))).tolist():
        members[root(row)].append(row)
    return sorted(sorted([first, *rest]) for first, rest in members.items())


def _near_pairs(vectors: Vectors, limit: float | None) -> Iterator[tuple[int, int]]:
    usable = np.flatnonzero(np.isfinite(vectors).all(1))
    values = vectors[usable]
    if len(values) < 2:
        return
    centred = values - values.mean(0)
    allowed = (
        np.full(len(values), limit) if limit is not None else MAX_FEATURE_DIFFERENCE * np.linalg.norm(centred, axis=1)
    )
    random = np.random.default_rng(0)
    for _ in range(BANDS):
        directions = random.standard_normal((values.shape[1], BITS)).astype(np.float32)
        # No difference grows by more than this when projected: what is farther apart there need not be looked at in
        # full. A hundredth is for rounding.
        reach = 1.01 * np.linalg.norm(directions, 2)
        projected = centred @ directions
        codes = (projected > 0) @ (1 << np.arange(BITS))
        # Equal codes side by side, and within them an order in which close vectors are close.
        order = np.lexsort((projected[:, 0], codes))
        for step in range(1, min(WINDOW, len(order) - 1) + 1):
            first, second = order[:-step], order[step:]
            same = codes[first] == codes[second]
            if not same.any():
                break
            first, second = first[same], second[same]
            for start in range(0, len(first), 65536):
                a, b = first[start : start + 65536], second[start : start + 65536]
                close = np.linalg.norm(projected[a] - projected[b], axis=1) <= reach * allowed[a]
                a, b = a[close], b[close]
                close = np.linalg.norm(values[a] - values[b], axis=1) <= allowed[a]
                yield from zip(usable[a[close]].tolist(), usable[b[close]].tolist(), strict=True)


def _standardized(features: npt.NDArray[np.float32]) -> Vectors:
    deviation = features.std(0)
    return (features - features.mean(0)) / np.where(deviation > 0, deviation, 1)


def _block_means(pixels: npt.NDArray[np.uint8]) -> Vectors:
    """(N, SIDE * SIDE) grey levels from 0 to 255: the mean of each block of a (N, H, W, C) picture."""
    _, height, width, channels = pixels.shape
    rows, columns = _averaging(height), _averaging(width).T
    weights = GREY if channels == 3 else np.full(channels, 1 / channels, np.float32)
    chunks = [
        rows @ (pixels[start : start + 4096].astype(np.float32) @ weights) @ columns
        for start in range(0, len(pixels), 4096)
    ]
    return np.concatenate(chunks).reshape(len(pixels), -1) if chunks else np.zeros((0, SIDE * SIDE), np.float32)


def _averaging(length: int) -> npt.NDArray[np.float32]:
    """(SIDE, length) weights that average SIDE equal stretches of a line of pixels, parts of a pixel included."""
    edges = np.linspace(0, length, SIDE + 1)
    starts, ends = edges[:-1, None], edges[1:, None]
    places = np.arange(length)
    overlap = np.minimum(ends, places + 1) - np.maximum(starts, places)
    return (np.clip(overlap, 0, None) / (ends - starts)).astype(np.float32)


def _of_files(paths: Iterable[Path], max_pixels: int | None) -> Vectors:
    # Pillow decodes without the interpreter's lock.
    rows = list(in_threads(partial(_of_file, max_pixels=max_pixels), list(paths), threads=usable_cores()))
    return np.stack(rows) if rows else np.zeros((0, SIDE * SIDE), np.float32)


def _of_file(path: Path, *, max_pixels: int | None) -> Vectors:
    try:
        picture = decode_rgb(path, max_pixels=max_pixels, draft_size=(4 * SIDE, 4 * SIDE))
    except BadImage:
        return np.full(SIDE * SIDE, np.nan, np.float32)
    return _block_means(np.asarray(picture)[None])[0]
