"""Loaders: every sample once, and the same pixels for any chunk, any number of workers and any number of processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from acto.core.errors import UserError
from acto.core.types import Batch, Stream, TrainingData
from acto.data.loading import decode_workers, loader
from acto.data.loading.loader import DeviceData, DiskData, open_data
from acto.data.pictures.files import BadImage, scaled_rgb
from acto.data.samples import Samples
from acto.data.views.counter_random import Occasion, order, uniform
from acto.data.views.pipelines import make_vector_view, make_view
from acto.data.views.spec import ViewSpec

SPEC = ViewSpec(pipeline="small", mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3))
BOTH = ("weak", "strong")


def in_memory(count: int, *, side: int = 12) -> Samples:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return Samples(ids=tuple(map(str, range(count))), labels=rng.integers(0, 5, count), pixels=pixels)


def device_data(
    count: int = 101, *, seed: int = 0, chunk: int | None = None, rank: int = 0, world: int = 1
) -> DeviceData:
    return DeviceData(in_memory(count), SPEC, seed=seed, chunk=chunk, rank=rank, world=world)


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.index, b.index) and torch.equal(a.label, b.label)
        assert len(a.views) == len(b.views)
        assert all(torch.equal(v, w) for v, w in zip(a.views, b.views, strict=True))


def index_of(batches: list[Batch]) -> torch.Tensor:
    return torch.cat([batch.index for batch in batches])


# Samples in memory


def test_batches_are_views_of_the_shuffled_samples() -> None:
    samples = in_memory(101)
    data = DeviceData(samples, SPEC, seed=4)
    batches = list(data.batches(Stream(views=BOTH, batch_size=20), epoch=3, turn=1, number=2))
    occasion = Occasion(seed=4, epoch=3, turn=1, number=2)
    expected = order(occasion, torch.arange(101))
    assert [len(batch.index) for batch in batches] == [20, 20, 20, 20, 21]
    assert torch.equal(index_of(batches), expected)
    pixels = torch.from_numpy(samples.pixels).permute(0, 3, 1, 2).contiguous()
    for batch in batches:
        assert torch.equal(batch.label, torch.from_numpy(samples.labels)[batch.index])
        for place, name in enumerate(BOTH):
            view = make_view(name, pixels[batch.index], SPEC, occasion=occasion, index=batch.index, place=place)
            assert torch.equal(batch.views[place], view)
            assert batch.views[place].is_contiguous(memory_format=torch.channels_last)
    assert data.input_shape == (3, 12, 12) and data.num_samples == 101


@pytest.mark.parametrize(
    ("count", "batch_size", "drop_last", "world", "sizes"),
    [
        (256, 128, False, 1, [128, 128]),
        (257, 128, False, 1, [128, 129]),
        (258, 128, False, 1, [128, 128, 2]),
        (257, 128, True, 1, [128, 128]),
        (100, 128, False, 1, [100]),
        (100, 128, True, 1, []),
        (1, 128, False, 1, [1]),
        (3, 1, False, 1, [1, 1, 1]),
        (259, 128, False, 2, [128, 131]),
        (260, 128, False, 2, [128, 128, 4]),
        (131, 128, False, 2, [131]),
        (262, 127, False, 4, [127, 127, 8]),
        (261, 127, False, 4, [127, 134]),
    ],
)
def test_sizes_of_batches(count: int, batch_size: int, drop_last: bool, world: int, sizes: list[int]) -> None:
    stream = Stream(views=(), batch_size=batch_size, drop_last=drop_last)
    parts = []
    for rank in range(world):
        data = device_data(count, rank=rank, world=world)
        parts.append([len(batch.index) for batch in data.batches(stream, epoch=0)])
        assert data.num_steps(stream) == len(parts[-1]) == len(sizes)
    assert [sum(shares) for shares in zip(*parts, strict=True)] == sizes
    assert all(max(shares) - min(shares) <= 1 for shares in zip(*parts, strict=True))


def test_a_batch_that_not_every_process_can_share_is_refused() -> None:
    for count, batch_size in ((3, 128), (100, 3)):
        with pytest.raises(UserError, match="a batch of 3 samples cannot be shared by 4 processes"):
            device_data(count, world=4).num_steps(Stream(views=BOTH, batch_size=batch_size))


@pytest.mark.parametrize(("memory", "samples"), [(80 * 2**30, 43_690), (8 * 2**30, 10_922), (2**20, 1)])
def test_a_gpu_makes_views_of_as_many_samples_as_it_has_room_for(
    memory: int, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=memory))
    assert loader._suitable_chunk((3, 32, 32), torch.device("cuda")) == samples
    assert loader._suitable_chunk((3, 32, 32), torch.device("cpu")) == 1365


@pytest.mark.parametrize("chunk", [1, 20, 33, 40, 64, 10_000])
def test_the_chunk_changes_nothing(chunk: int) -> None:
    stream = Stream(views=BOTH, batch_size=20)
    whole = list(device_data().batches(stream, epoch=1))
    assert_same(list(device_data(chunk=chunk).batches(stream, epoch=1)), whole)
    assert_same(list(device_data(chunk=chunk).scan(batch_size=30)), list(device_data().scan(batch_size=30)))


def test_every_sample_once_an_epoch_in_ever_new_order_and_views() -> None:
    data, stream = device_data(), Stream(views=BOTH, batch_size=16)
    passes = [list(data.batches(stream, epoch=epoch)) for epoch in (0, 1)]
    passes.append(list(data.batches(stream, epoch=0, turn=1)))
    passes.append(list(data.batches(stream, epoch=0, number=1)))
    passes.append(list(device_data(seed=1).batches(stream, epoch=0)))
    orders = [index_of(batches) for batches in passes]
    views = [
        torch.cat([batch.views[0] for batch in batches])[o.argsort()] for batches, o in zip(passes, orders, strict=True)
    ]
    for k, first in enumerate(orders):
        assert torch.equal(first.sort().values, torch.arange(101))
        for j in range(k):
            assert (orders[j] == first).float().mean() < 0.1
            assert (views[j] == views[k]).flatten(1).all(1).float().mean() < 0.3  # some draw the same window
    assert_same(list(device_data().batches(stream, epoch=0)), passes[0])


def test_two_weak_views_of_a_stream_differ() -> None:
    batch = next(device_data().batches(Stream(views=("weak", "weak"), batch_size=101), epoch=0))
    assert (batch.views[0] == batch.views[1]).flatten(1).all(1).float().mean() < 0.2


def test_a_stream_of_some_samples() -> None:
    some = torch.tensor([90, 3, 3, 17, 55, 0])
    stream = Stream(index=some, views=("none",), batch_size=4)
    data = device_data()
    batches = list(data.batches(stream, epoch=0))
    assert data.num_steps(stream) == 2 and [len(b.index) for b in batches] == [4, 2]
    assert torch.equal(index_of(batches).sort().values, some.sort().values)
    empty = Stream(index=some[:0], views=("none",), batch_size=4)
    assert data.num_steps(empty) == 0 and list(data.batches(empty, epoch=0)) == []
    assert list(device_data(world=2).batches(empty, epoch=0)) == []


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_batches_of_one(world: int) -> None:
    stream = Stream(views=BOTH, batch_size=20)
    alone = list(device_data(chunk=50).batches(stream, epoch=2))
    if world == 3:  # one sample is left over, for one process or for three
        assert [len(batch.index) for batch in alone] == [20, 20, 20, 20, 21]
    ranks = [list(device_data(chunk=30, rank=r, world=world).batches(stream, epoch=2)) for r in range(world)]
    for whole, *parts in zip(alone, *ranks, strict=True):
        for rank, part in enumerate(parts):
            assert torch.equal(part.index, whole.index[rank::world])
            assert torch.equal(part.label, whole.label[rank::world])
            assert all(torch.equal(p, w[rank::world]) for p, w in zip(part.views, whole.views, strict=True))


def test_a_scan_shows_every_sample_in_order_to_every_process() -> None:
    scans = [list(device_data(rank=rank, world=2).scan(batch_size=50)) for rank in (0, 1)]
    assert torch.equal(index_of(scans[0]), torch.arange(101))
    assert [len(batch.index) for batch in scans[0]] == [50, 51]
    assert_same(scans[0], scans[1])
    assert_same(scans[0], list(device_data().scan(batch_size=50, epoch=9)))
    weak = [list(device_data().scan(view="weak", epoch=epoch, batch_size=101)) for epoch in (0, 0, 1)]
    assert_same(weak[0], weak[1])
    assert not torch.equal(weak[0][0].views[0], weak[2][0].views[0])
    stream = next(device_data().batches(Stream(views=("weak",), batch_size=101), epoch=0))
    assert not torch.equal(stream.views[0][stream.index.argsort()], weak[0][0].views[0])


def test_feature_vectors() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((50, 6), dtype=np.float32)
    features.flags.writeable = False  # as a memory map is
    samples = Samples(ids=tuple(map(str, range(50))), labels=np.arange(50) % 3, features=features)
    spec = ViewSpec(pipeline="vectors", mean=(0.1,) * 6, std=(2.0,) * 6)
    data = DeviceData(samples, spec, seed=0, chunk=16, dtype=torch.bfloat16)
    assert data.input_shape == (6,)
    for batch in data.batches(Stream(views=BOTH, batch_size=8), epoch=1):
        for place, name in enumerate(BOTH):
            rows = torch.from_numpy(features.copy())[batch.index]
            occasion = Occasion(seed=0, epoch=1)
            view = make_vector_view(name, rows, spec, occasion=occasion, index=batch.index, place=place)
            assert torch.equal(batch.views[place], view.bfloat16())


def test_samples_that_do_not_fit_their_views_are_refused() -> None:
    with pytest.raises(UserError, match="12x12 pixels are too small for a window of 16"):
        DeviceData(in_memory(3), ViewSpec(pipeline="photo", size=16), seed=0)
    with pytest.raises(UserError, match="'vectors' cannot see pictures"):
        DeviceData(in_memory(3), ViewSpec(pipeline="vectors"), seed=0)
    vectors = Samples(ids=("0",), labels=np.zeros(1, np.int64), features=np.zeros((1, 4), np.float32))
    with pytest.raises(UserError, match="'cifar' cannot see feature vectors"):
        DeviceData(vectors, ViewSpec(pipeline="cifar"), seed=0)
    files = Samples(ids=("0",), labels=np.zeros(1, np.int64), paths=(Path("a.png"),))
    with pytest.raises(UserError, match="the views must be given one"):
        DiskData(files, ViewSpec(pipeline="photo"), seed=0)
    with pytest.raises(UserError, match=r"unknown view 'stron'. Did you mean 'strong'\?"):
        next(device_data().batches(Stream(views=("stron",), batch_size=4), epoch=0))
    with pytest.raises(UserError, match="unknown view 'week'"):
        next(device_data().scan(view="week"))


# Picture files

PHOTO = ViewSpec(pipeline="photo", size=20, resize=24, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3))
STREAM = Stream(views=("weak", "strong", "none"), batch_size=5)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """21 pictures of many sizes, small and large ones."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    paths = []
    for i in range(21):
        height, width = rng.integers(15, 90, 2)
        corners = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        paths.append(folder / f"{i}{'.png' if i % 3 else '.jpg'}")
        Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC).save(paths[-1])
    return Samples(ids=tuple(map(str, range(21))), labels=rng.integers(0, 4, 21), paths=tuple(paths))


@pytest.fixture
def no_workers_left() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


@pytest.mark.usefixtures("no_workers_left")
def test_the_number_of_workers_changes_nothing(photos: Samples) -> None:
    alone = DiskData(photos, PHOTO, seed=0)
    expected = {epoch: list(alone.batches(STREAM, epoch=epoch)) for epoch in (0, 1)}
    assert torch.equal(index_of(expected[0]).sort().values, torch.arange(21))
    assert [len(batch.index) for batch in expected[0]] == [5, 5, 5, 6]
    assert expected[0][0].views[0].shape == (5, 3, 20, 20)
    assert expected[0][0].views[0].is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(index_of(expected[0]), index_of(expected[1]))
    scanned = list(alone.scan(batch_size=8))
    assert torch.equal(index_of(scanned), torch.arange(21))

    torch.manual_seed(0)
    state = torch.get_rng_state()
    for workers in (1, 2):
        data = DiskData(photos, PHOTO, seed=0, workers=workers)
        for epoch in (0, 1):
            assert_same(list(data.batches(STREAM, epoch=epoch)), expected[epoch])
        processes = {child.pid for child in multiprocessing.active_children()}
        assert len(processes) == workers
        # Two passes side by side, one of them given up.
        first, second = data.batches(STREAM, epoch=0), data.batches(STREAM, epoch=1)
        for k in range(2):
            assert_same([next(first), next(second)], [expected[0][k], expected[1][k]])
        first.close()
        assert_same(list(second), expected[1][2:])
        assert_same(list(data.scan(batch_size=8)), scanned)
        assert_same(list(data.batches(STREAM, epoch=1)), expected[1])
        assert len(multiprocessing.active_children()) == 2 * workers
        assert processes <= {child.pid for child in multiprocessing.active_children()}
        data.close()
        assert multiprocessing.active_children() == []
    assert torch.equal(torch.get_rng_state(), state)


def test_all_views_of_a_sample_come_from_one_decoding(photos: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []

    def counted(path: str, *, short: int, max_pixels: int | None) -> Image.Image:
        decoded.append(path)
        return scaled_rgb(path, short=short, max_pixels=max_pixels)

    monkeypatch.setattr(decode_workers, "scaled_rgb", counted)
    batches = list(DiskData(photos, PHOTO, seed=0).batches(STREAM, epoch=0))
    assert photos.paths is not None and all(len(batch.views) == 3 for batch in batches)
    assert sorted(decoded) == sorted(map(str, photos.paths))


@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("cuda", True)])
def test_pictures_for_a_gpu_wait_in_pinned_memory(
    photos: Samples, monkeypatch: pytest.MonkeyPatch, device: str, pinned: bool
) -> None:
    class Asked(Exception):
        pass

    def workers(decoder: object, count: int, *, pinned: bool) -> None:
        raise Asked(pinned)

    monkeypatch.setattr("acto.data.loading.loader.Workers", workers)
    with pytest.raises(Asked) as asked:
        next(DiskData(photos, PHOTO, seed=0, device=device, workers=2).batches(STREAM, epoch=0))
    assert asked.value.args == (pinned,)


def test_processes_share_the_batches_of_files(photos: Samples) -> None:
    alone = list(DiskData(photos, PHOTO, seed=0).batches(STREAM, epoch=0))
    ranks = [list(DiskData(photos, PHOTO, seed=0, rank=r, world=2).batches(STREAM, epoch=0)) for r in (0, 1)]
    for whole, *parts in zip(alone, *ranks, strict=True):
        for rank, part in enumerate(parts):
            assert torch.equal(part.index, whole.index[rank::2])
            assert all(torch.equal(p, w[rank::2]) for p, w in zip(part.views, whole.views, strict=True))


def test_the_test_view_is_torchvisions(photos: Samples) -> None:
    """Pictures below the draft size are decoded in full, so that the pixels can be compared."""
    transform = transforms.Compose(
        [
            transforms.Resize(24),
            transforms.CenterCrop(20),
            transforms.ToTensor(),
            transforms.Normalize(PHOTO.mean, PHOTO.std),
        ]
    )
    assert photos.paths is not None
    for batch in DiskData(photos, PHOTO, seed=0).scan():
        for i, view in zip(batch.index.tolist(), batch.views[0], strict=True):
            with Image.open(photos.paths[i]) as image:
                if min(image.size) < 48 or image.format == "PNG":
                    assert torch.allclose(view, transform(image.convert("RGB")), atol=1e-5)


def test_weak_is_a_window_of_the_scaled_picture(photos: Samples) -> None:
    batch = next(DiskData(photos, PHOTO, seed=0).batches(Stream(views=("weak",), batch_size=21), epoch=0))
    draws = uniform(Occasion(seed=0, epoch=0), batch.index, view=0, draws=3)
    assert photos.paths is not None
    for i, view, draw in zip(batch.index.tolist(), batch.views[0], draws, strict=True):
        with Image.open(photos.paths[i]) as image:
            if image.format != "PNG":
                continue
            scaled = transforms.functional.pil_to_tensor(transforms.functional.resize(image, 24))
        top, left = (int(draw[axis] * (scaled.shape[1 + axis] - 20 + 1)) for axis in (0, 1))
        window = scaled[:, top : top + 20, left : left + 20]
        window = window.flip(2) if draw[2] < 0.5 else window
        expected = transforms.functional.normalize(window / 255, PHOTO.mean, PHOTO.std)
        assert torch.allclose(view, expected, atol=1e-5)


@pytest.mark.parametrize("pipeline", ["cifar", "small", "digits", "fashion", "photo"])
def test_files_and_memory_give_the_same_views(pipeline: str, tmp_path: Path) -> None:
    memory = in_memory(30, side=32)
    paths = tuple(tmp_path / f"{i}.png" for i in range(30))
    assert memory.pixels is not None
    for path, picture in zip(paths, memory.pixels, strict=True):
        Image.fromarray(picture).save(path)
    files = Samples(ids=memory.ids, labels=memory.labels, paths=paths)
    size = 24 if pipeline == "photo" else 32
    spec = ViewSpec(pipeline=pipeline, size=size, resize=32, mean=SPEC.mean, std=SPEC.std)
    first, second = (open_data(samples, spec, seed=7) for samples in (memory, files))
    assert isinstance(first, DeviceData) and isinstance(second, DiskData)
    assert first.input_shape == second.input_shape == (3, size, size)
    assert_same(list(first.batches(STREAM, epoch=1)), list(second.batches(STREAM, epoch=1)))
    assert_same(list(first.scan(view="strong")), list(second.scan(view="strong")))


@pytest.mark.usefixtures("no_workers_left")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_picture_is_named(photos: Samples, tmp_path: Path, workers: int) -> None:
    assert photos.paths is not None
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photos.paths[0].read_bytes()[:300])
    files = Samples(ids=photos.ids, labels=photos.labels, paths=(*photos.paths[:20], broken))
    data = DiskData(files, PHOTO, seed=0, workers=workers)
    scan = data.scan(batch_size=7)
    assert len(next(scan).index) == 7
    with pytest.raises(BadImage, match=r"broken\.jpg cannot be used") as raised:
        list(scan)
    assert raised.value.name == str(broken)
    data.close()
    with pytest.raises(BadImage, match="more than the limit of 100"):
        next(DiskData(photos, PHOTO, seed=0, max_pixels=100).scan())


def test_windows_reach_beyond_small_pictures_in_black(tmp_path: Path) -> None:
    spec = ViewSpec(pipeline="cifar", size=32, resize=32, mean=SPEC.mean, std=SPEC.std)  # padded by 4
    white = tmp_path / "white.png"
    Image.new("RGB", (32, 40), "white").save(white)
    one = Samples(ids=tuple(map(str, range(64))), labels=np.zeros(64, np.int64), paths=(white,) * 64)
    batch = next(DiskData(one, spec, seed=0).batches(Stream(views=("weak",), batch_size=64), epoch=0))
    black = (batch.views[0] < 0).all(1)  # (64, 32, 32)
    assert torch.equal(black.any(1), black.all(1)) is False  # rows as well as columns of black
    assert {int(columns.sum()) for columns in black.all(1)} == {0, 1, 2, 3, 4}


def test_the_number_of_pictures_whose_windows_are_cut_together_changes_nothing(
    photos: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream(views=BOTH, batch_size=5)
    together = list(DiskData(photos, PHOTO, seed=0).batches(stream, epoch=0))
    monkeypatch.setattr(decode_workers, "_ROOM", 4_000)
    assert_same(together, list(DiskData(photos, PHOTO, seed=0).batches(stream, epoch=0)))


def test_loaders_are_training_data(photos: Samples) -> None:
    both: list[TrainingData] = [device_data(), DiskData(photos, PHOTO, seed=0)]
    assert [data.num_samples for data in both] == [101, 21]
    device_data().close()
