"""Near duplicates: copies, other sizes and encodings are found; what only looks alike is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from acto.data.near_duplicates import SIDE, _averaging, _block_means, near_duplicate_groups
from acto.data.samples import Samples


def samples(**content: object) -> Samples:
    (values,) = content.values()
    count = len(values)  # type: ignore[arg-type]
    return Samples(ids=tuple(map(str, range(count))), labels=np.zeros(count, np.int64), **content)  # type: ignore[arg-type]


def scenes(count: int, side: int = 64) -> np.ndarray:
    """Smooth colour pictures, no two alike."""
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(s).resize((side, side), Image.Resampling.BICUBIC)) for s in small])


def test_block_means_by_hand() -> None:
    # 3 pixels on 16 blocks: each pixel spreads over 16/3 of them.
    weights = _averaging(3)
    assert weights.shape == (SIDE, 3)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(weights.sum(0), SIDE / 3, rtol=1e-6)
    picture = np.arange(32 * 32, dtype=np.float64).reshape(32, 32) % 200
    expected = picture.reshape(16, 2, 16, 2).mean((1, 3)).ravel()
    np.testing.assert_allclose(_block_means(picture.astype(np.uint8)[None, :, :, None])[0], expected, rtol=1e-5)


def test_copies_and_brighter_copies() -> None:
    pixels = scenes(200)
    pixels[150] = pixels[3]
    pixels[7] = np.clip(pixels[100].astype(int) + 2, 0, 255)
    pixels[8] = np.clip(pixels[100].astype(int) - 6, 0, 255)  # another exposure
    pixels[199] = pixels[3]
    assert near_duplicate_groups(samples(pixels=pixels)) == [[3, 150, 199], [7, 100]]


def test_files_of_other_sizes_and_encodings(tmp_path: Path) -> None:
    paths = []
    for i, pixels in enumerate(scenes(12, 96)):
        Image.fromarray(pixels).save(path := tmp_path / f"{i}.png")
        paths.append(path)
    Image.open(paths[5]).save(jpeg := tmp_path / "5.jpg", quality=80)
    Image.open(paths[5]).resize((60, 60)).save(smaller := tmp_path / "5-small.png")
    (broken := tmp_path / "broken.png").write_bytes(b"no picture")
    paths += [jpeg, smaller, broken, broken]
    assert near_duplicate_groups(samples(paths=tuple(paths))) == [[5, 12, 13]]


def test_rows_of_features() -> None:
    features = np.random.default_rng(0).standard_normal((500, 32)).astype(np.float32) * 1000
    features[400] = features[20] * (1 + 1e-4)
    features[:, 4] = 7  # says nothing
    assert near_duplicate_groups(samples(features=features)) == [[20, 400]]


def test_many_copies_of_one_picture() -> None:
    """A band where everything meets is walked, not squared."""
    pixels = np.zeros((3000, 8, 8, 1), np.uint8)
    pixels[0] = 200
    assert near_duplicate_groups(samples(pixels=pixels)) == [list(range(1, 3000))]


def test_nothing_to_compare() -> None:
    assert near_duplicate_groups(samples(pixels=scenes(1))) == []
    assert near_duplicate_groups(samples(features=np.zeros((0, 3), np.float32))) == []
