"""The cache of pictures: the very same windows, nothing decoded twice, no trust in what has changed or is damaged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from acto.cli import main
from acto.compare.finished_runs import config_hash
from acto.core.errors import RunError, UserError
from acto.core.types import Stream
from acto.data.loading.loader import DiskData, open_data
from acto.data.pictures import cache as picture_cache
from acto.data.pictures.cache import open_cache
from acto.data.pictures.files import BadImage, scaled_rgb
from acto.data.samples import DataSpec, Samples
from acto.data.views.spec import ViewSpec
from acto.runs.run import Run

SPEC = ViewSpec(pipeline="photo", size=20, resize=24, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3))
STREAM = Stream(views=("weak", "strong", "none"), batch_size=5)
COUNT = 12


def picture(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(15, 120, 2)
    corners = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    return corners.resize((int(width), int(height)), Image.Resampling.BICUBIC)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Pictures of many sizes; the first is a large JPEG, which is decoded at a quarter."""
    (tmp_path / "photos").mkdir()
    found = []
    for i in range(COUNT):
        found.append(tmp_path / "photos" / f"{i}.{'jpg' if i % 2 == 0 else 'png'}")
        (picture(i) if i else picture(i).resize((150, 100))).save(found[-1])
    return found


@pytest.fixture
def few_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four pictures in a file."""
    monkeypatch.setattr(picture_cache, "_GROUP_BYTES", 4 * 4 * 24**2)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pictures that were decoded."""
    names: list[str] = []

    def counted(path: Path, *, short: int, max_pixels: int | None) -> Image.Image:
        names.append(path.name)
        return scaled_rgb(path, short=short, max_pixels=max_pixels)

    monkeypatch.setattr(picture_cache, "scaled_rgb", counted)
    return names


def samples(paths: list[Path]) -> Samples:
    return Samples(ids=tuple(path.name for path in paths), labels=np.zeros(len(paths), np.int64), paths=tuple(paths))


def assert_as_decoded(where: str, paths: list[Path], say: Callable[[str], None] = lambda text: None) -> None:
    places, pixels = open_cache(where, paths, short=24, threads=2, say=say)
    assert places.shape == (len(paths), 4)
    for path, place in zip(paths, places.tolist(), strict=True):
        stored = pixels.picture(place)
        assert stored is not None and np.array_equal(stored.numpy(), np.asarray(scaled_rgb(path, short=24)))


def index_files(cache: Path) -> list[Path]:
    return sorted(path for path in cache.glob("pictures-*/*.json") if path.stem != "settings")


# What it gives


@pytest.mark.parametrize("workers", [0, 1])
def test_windows_are_the_same_without_cache_from_a_folder_and_from_memory(
    paths: list[Path], tmp_path: Path, workers: int
) -> None:
    views: list[list[torch.Tensor]] = []
    for cache in (None, str(tmp_path / "cache"), str(tmp_path / "cache"), "memory"):
        data = open_data(samples(paths), SPEC, seed=3, workers=workers, cache=cache)
        batches = [*data.batches(STREAM, epoch=2), *data.scan()]
        views.append([view for batch in batches for view in (batch.index, *batch.views)])
        data.close()
    for other in views[1:]:
        assert all(torch.equal(a, b) for a, b in zip(views[0], other, strict=True))


def test_windows_reach_beyond_small_pictures_in_black(paths: list[Path], tmp_path: Path) -> None:
    spec = replace(SPEC, pipeline="cifar", size=32, resize=32)  # padded by 4
    white = tmp_path / "white.png"
    Image.new("RGB", (32, 40), "white").save(white)
    one = samples([white] * 64)
    batches = [
        next(DiskData(one, spec, seed=0, cache=cache).batches(Stream(views=("weak",), batch_size=64), epoch=0))
        for cache in (None, "memory")
    ]
    assert torch.equal(batches[0].views[0], batches[1].views[0])
    black = (batches[0].views[0] < 0).all(1)  # (64, 32, 32)
    assert torch.equal(black.any(1), black.all(1)) is False  # rows as well as columns of black
    assert {int(columns.sum()) for columns in black.all(1)} == {0, 1, 2, 3, 4}


def test_a_jpeg_is_never_drafted_below_the_short_side(tmp_path: Path) -> None:
    for width, height in (
        (24, 24),
        (47, 48),
        (48, 48),
        (49, 95),
        (95, 96),
        (96, 97),
        (191, 200),
        (193, 400),
        (24, 900),
    ):
        path = tmp_path / "a.jpg"
        Image.new("RGB", (width, height), (200, 30, 40)).save(path)
        least = min(width, height)
        expected = (24 * width // least, 24 * height // least)
        size = scaled_rgb(path, short=24).size
        # A draft rounds its sides up, so the long side may differ by what a pixel of the short one makes.
        assert min(size) == 24 and abs(max(size) - max(expected)) <= max(expected) / 24


def test_a_picture_too_long_once_scaled_is_refused(tmp_path: Path) -> None:
    thread = tmp_path / "thread.png"
    Image.new("RGB", (1, 400)).save(thread)
    with pytest.raises(
        BadImage, match=r"thread\.png cannot be used: scaled to 24x9600 pixels it has more than the limit"
    ):
        scaled_rgb(thread, short=24, max_pixels=100_000)
    assert scaled_rgb(thread, short=24).size == (24, 9600)


# Nothing is decoded twice


@pytest.mark.usefixtures("few_a_file")
def test_only_new_pictures_are_decoded(paths: list[Path], tmp_path: Path, decoded: list[str]) -> None:
    cache, said = str(tmp_path / "cache"), list[str]()
    assert_as_decoded(cache, paths[:7], said.append)
    assert sorted(decoded) == sorted(path.name for path in paths[:7]) and len(index_files(tmp_path / "cache")) == 2
    assert len(said) == 2 and said[0].startswith("decoding 7 pictures into") and said[1].endswith("of 7 pictures")
    decoded.clear()
    said.clear()
    assert_as_decoded(cache, paths[5:1:-1], said.append)  # another split, another order
    assert decoded == [] and said == []
    assert_as_decoded(cache, [*paths, paths[0]], said.append)
    assert sorted(decoded) == sorted(path.name for path in paths[7:])
    assert "decoding 5 pictures" in said[0] and said[0].endswith("(8 are there already)")


def test_other_settings_are_another_cache(
    paths: list[Path], tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = str(tmp_path / "cache")
    for short in (24, 30, 24):
        open_cache(cache, paths, short=short)
    assert len(decoded) == 2 * COUNT
    monkeypatch.setattr("PIL.__version__", "1.0")  # which may decode in another way
    open_cache(cache, paths, short=24)
    assert len(decoded) == 3 * COUNT and len(list((tmp_path / "cache").iterdir())) == 3


def test_a_changed_picture_is_decoded_again(paths: list[Path], tmp_path: Path, decoded: list[str]) -> None:
    cache, said = str(tmp_path / "cache"), list[str]()
    assert_as_decoded(cache, paths)
    decoded.clear()
    picture(99).save(paths[3])
    os.utime(paths[4], ns=(0, os.stat(paths[4]).st_mtime_ns + 1))
    assert_as_decoded(cache, paths, said.append)
    assert sorted(decoded) == ["3.png", "4.jpg"]
    assert said[0] == "2 pictures have changed since they were stored: they are decoded again"


# What is damaged


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def other_height(path: Path) -> None:
    content = json.loads(path.read_bytes())
    content["pictures"][0][3] -= 1
    path.write_text(json.dumps(content))


@pytest.mark.usefixtures("few_a_file")
@pytest.mark.parametrize(
    ("suffix", "damage", "fault"),
    [
        (".pixels", flip_a_bit, "it differs from its checksum"),
        (".pixels", cut, "bytes, not"),
        (".pixels", Path.unlink, "it is missing"),
        (".json", flip_a_bit, "its index is damaged"),
        (".json", cut, "its index is damaged"),
        (".json", other_height, "its index is damaged"),
        (".json", lambda path: path.write_text("[]"), "its index is damaged"),
    ],
)
def test_damage_is_found_said_and_mended(
    paths: list[Path], tmp_path: Path, decoded: list[str], suffix: str, damage: Callable[[Path], Any], fault: str
) -> None:
    cache, said = str(tmp_path / "cache"), list[str]()
    assert_as_decoded(cache, paths)
    decoded.clear()
    damaged = index_files(tmp_path / "cache")[1].with_suffix(suffix)
    damage(damaged)
    assert_as_decoded(cache, paths, said.append)
    assert len(decoded) == 4
    assert said[0].startswith(str(damaged.with_suffix(".pixels"))) and fault in said[0]
    decoded.clear()
    said.clear()
    assert_as_decoded(cache, paths, said.append)
    assert decoded == [] and said == [] and len(index_files(tmp_path / "cache")) == 3


def test_a_cache_deleted_under_a_reader_costs_time_and_no_result(paths: list[Path], tmp_path: Path) -> None:
    expected = list(DiskData(samples(paths), SPEC, seed=0).scan())
    data = DiskData(samples(paths), SPEC, seed=0, cache=str(tmp_path / "cache"))
    shutil.rmtree(tmp_path / "cache")
    with pytest.warns(UserWarning, match="a file of the cache of pictures is gone") as warned:
        again = list(data.scan())
    assert len(warned) == 1
    assert torch.equal(again[0].views[0], expected[0].views[0])


# Interruptions, several processes


class Killed(BaseException):
    pass


@pytest.mark.usefixtures("few_a_file")
def test_an_interrupted_filling_goes_on(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    cache, write = str(tmp_path / "cache"), picture_cache.write_atomically
    writes = []

    def dies_in_the_sixth(path: Path, data: bytes) -> None:
        writes.append(path)
        if len(writes) == 6:  # settings, two files with their indexes, and the pixels of the third
            path.with_name(f".{path.name}.draft").write_bytes(data[:100])
            raise Killed
        write(path, data)

    monkeypatch.setattr(picture_cache, "write_atomically", dies_in_the_sixth)
    with pytest.raises(Killed):
        open_cache(cache, paths, short=24, threads=1)
    assert len(index_files(tmp_path / "cache")) == 2 and list((tmp_path / "cache").glob("*/.*.draft"))
    monkeypatch.setattr(picture_cache, "write_atomically", write)
    (folder,) = (tmp_path / "cache").iterdir()
    (folder / "0123.pixels").write_bytes(b"whose index was never written")
    (folder / ".4567.json.draft").write_bytes(b"half")
    decoded.clear()
    assert_as_decoded(cache, paths)
    assert len(decoded) == 4
    names = {path.name for path in folder.iterdir()} - {".lock", "settings.json"}
    kept = {path.stem for path in index_files(tmp_path / "cache")}
    assert len(kept) == 3 and names == {f"{name}{suffix}" for name in kept for suffix in (".pixels", ".json")}


FILL_AND_DIE = """
import os, sys
from pathlib import Path
from acto.data.pictures import cache as picture_cache
cache, paths = sys.argv[1], [Path(name) for name in sys.argv[2:]]
picture_cache.open_cache(cache, paths[:4], short=24)
write = picture_cache.write_atomically
def dies(path, data):
    write(path, data)
    os._exit(9)  # as after SIGKILL: nothing is cleaned up, and the lock is held
picture_cache.write_atomically = dies
picture_cache.open_cache(cache, paths, short=24)
"""


def test_the_lock_of_a_killed_process_is_free(paths: list[Path], tmp_path: Path, decoded: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", FILL_AND_DIE, str(tmp_path / "cache"), *map(str, paths)], check=False)
    assert done.returncode == 9
    assert_as_decoded(str(tmp_path / "cache"), paths)
    assert len(decoded) == COUNT - 4


@pytest.mark.usefixtures("few_a_file")
def test_one_fills_and_the_others_wait(paths: list[Path], tmp_path: Path, decoded: list[str]) -> None:
    """The lock belongs to an opened file, so that threads stand for processes here."""
    cache, said, holding, go = str(tmp_path / "cache"), list[str](), threading.Event(), threading.Event()

    def first_says(text: str) -> None:
        if text.startswith("decoding"):
            holding.set()
            assert go.wait(10)

    def second_says(text: str) -> None:
        said.append(text)
        go.set()

    first = threading.Thread(target=assert_as_decoded, args=(cache, paths, first_says))
    first.start()
    assert holding.wait(10)
    assert_as_decoded(cache, paths, second_says)
    first.join()
    assert said == [f"waiting for another process that decodes pictures into {cache}"]
    assert sorted(decoded) == sorted(path.name for path in paths)


# What cannot be done


def test_space_is_asked_for_before(paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 9000))
        with pytest.raises(
            RunError, match=r"12 decoded pictures take about 0\.0 MB, and 0\.0 MB are free in .*cache: name"
        ):
            open_cache(str(tmp_path / "cache"), paths, short=24)
    assert index_files(tmp_path / "cache") == []
    monkeypatch.setattr(picture_cache, "_free_memory", lambda: 9000)
    with pytest.raises(RunError, match=r"0\.0 MB of memory are free: name a folder as the cache, or take none"):
        open_cache("memory", paths, short=24)
    monkeypatch.setattr(picture_cache, "_free_memory", lambda: None)  # where no system tells
    assert_as_decoded("memory", paths)


def test_the_space_foretold_is_the_space_taken(paths: list[Path], tmp_path: Path) -> None:
    said: list[str] = []
    open_cache(str(tmp_path / "cache"), paths, short=200, say=said.append)
    taken = sum(path.stat().st_size for path in (tmp_path / "cache").glob("*/*.pixels"))
    assert f"about {taken / 1e6:.1f} MB" in said[0] and taken > 2e6


def test_a_full_disk_says_so(paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(picture_cache, "write_atomically", full)
    with pytest.raises(RunError, match=r"cannot keep decoded pictures in .*: the disk is full"):
        open_cache(str(tmp_path / "cache"), paths, short=24)


@pytest.mark.parametrize("where", ["folder", "memory"])
def test_a_bad_picture_is_named_before_the_first_epoch(paths: list[Path], tmp_path: Path, where: str) -> None:
    cache = where if where == "memory" else str(tmp_path / where)
    content = paths[0].read_bytes()
    paths[0].write_bytes(content[:400])
    with pytest.raises(BadImage, match=r"0\.jpg cannot be used"):
        DiskData(samples(paths), SPEC, seed=0, cache=cache)
    paths[0].unlink()
    with pytest.raises(BadImage, match=r"0\.jpg cannot be used: no such file"):
        DiskData(samples(paths), SPEC, seed=0, cache=cache)


def test_a_cache_that_cannot_be_is_refused(paths: list[Path]) -> None:
    with pytest.raises(UserError, match=r"must be a folder or 'memory', but .*0\.jpg is a file"):
        open_cache(str(paths[0]), paths, short=24)
    with pytest.raises(UserError, match="belongs to one process, and there are 2: name a folder, which they share"):
        DiskData(samples(paths), SPEC, seed=0, cache="memory", world=2)


# The setting


def test_the_setting_decides_no_result() -> None:
    run = Run(data=DataSpec(source="photos", cache="/somewhere"))
    assert config_hash(run.to_dict()) == config_hash(run.without_cache().to_dict())
    assert run.without_cache() == Run(data=DataSpec(source="photos"))
    assert DataSpec(cache="none").cache is None and DataSpec(cache="memory").cache == "memory"


def test_training_with_a_cache(paths: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, path in enumerate(paths):
        (tmp_path / "photos" / "ab"[i % 2]).mkdir(exist_ok=True)
        path.rename(tmp_path / "photos" / "ab"[i % 2] / path.name)
    command = ["train", "--data", str(tmp_path / "photos"), "--method", "standard", "--net", "cnn_tiny", "--no-report"]
    command += ["--data.size=20", "--data.holdout_share=0.3", "--epochs=2", "--batch-size=4", "--workers=0"]
    for name, cache in (("a", "none"), ("b", str(tmp_path / "cache")), ("c", "memory")):
        assert main([*command, "--out", str(tmp_path / name), f"--data.cache={cache}"]) == 0
    assert "pictures into memory: about" in capsys.readouterr().err
    tables = {(tmp_path / name / "metrics.csv").read_bytes() for name in "abc"}
    assert len(tables) == 1 and (tmp_path / "cache").is_dir()
    assert main([*command, "--out", str(tmp_path / "d"), f"--data.cache={tmp_path / 'other'}", "--dry-run"]) == 0
    assert "a dry run fills no cache" in capsys.readouterr().err and not (tmp_path / "other").exists()
