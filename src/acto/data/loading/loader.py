"""Samples on their way to the device: DeviceData keeps them all there, DiskData decodes picture files in workers.

Both keep the promise of types.TrainingData: order and views are pure functions of (seed, epoch, turn, sample, view).
The number of processes or workers, the size of a chunk and a resumed run change nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from acto.core.errors import UserError
from acto.core.types import Batch
from acto.data.loading.decode_workers import Decoder, Request, Workers
from acto.data.loading.passes import Pass, Passes
from acto.data.samples import Samples
from acto.data.views.pipelines import WINDOW_DRAWS, finish_view, make_vector_view, make_view, view_draws
from acto.data.views.spec import ViewSpec


class DeviceData(Passes):
    """All samples on the device, pictures as uint8. Views are made for a chunk at once; batches are slices of them.

    Args:
        samples: with pixels or features.
        spec: how they are seen.
        seed: of order and views.
        device: where the samples lie and the views are made.
        dtype: of the views.
        chunk: samples whose views are made at once, in whole batches; None: as many as suit the device.
        rank: this process's number.
        world: the number of processes, which share each batch.

    Raises:
        UserError: the pipeline is not one for such samples, or pictures are smaller than the view.
    """

    def __init__(
        self,
        samples: Samples,
        spec: ViewSpec,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        chunk: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        device = torch.device(device)
        super().__init__(_as_tensor(samples.labels).to(device), seed=seed, rank=rank, world=world)
        self._spec, self._dtype, self._device = spec, dtype, device
        _check_pipeline(spec, vectors=samples.features is not None)
        if samples.features is not None:
            self._values = _as_tensor(samples.features).to(device)
            self.input_shape = (self._values.shape[1],)
        else:
            assert samples.pixels is not None, "picture files are for DiskData"
            _, height, width, channels = samples.pixels.shape
            if spec.size is not None and spec.size > min(height, width):
                raise UserError(f"pictures of {height}x{width} pixels are too small for a window of {spec.size}")
            self._values = torch.from_numpy(np.array(samples.pixels.transpose(0, 3, 1, 2), order="C")).to(device)
            self.input_shape = (channels, spec.size or height, spec.size or width)
        self._chunk = chunk or _suitable_chunk(self.input_shape, device)

    def close(self) -> None:
        """There are no workers to end."""

    def _walk(self, part: Pass) -> Iterator[Batch]:
        start = 0
        for sizes in _whole_batches(part.sizes, self._chunk):
            index = part.index[start : start + sum(sizes)]
            start += len(index)
            values = self._values.index_select(0, index)
            make = make_vector_view if values.dim() == 2 else make_view
            views = [
                make(name, values, self._spec, occasion=part.occasion, index=index, place=place, dtype=self._dtype)
                for place, name in enumerate(part.views)
            ]
            columns = (column.split(sizes) for column in (index, self._labels[index], *views))
            for batch, label, *slices in zip(*columns, strict=True):
                yield Batch(index=batch, views=tuple(slices), label=label)


class DiskData(Passes):
    """Picture files. Workers decode them and cut the windows; policies and normalization follow on the device.

    One decoding serves all views of a sample. Workers stay alive between passes; `close` ends them.

    Args:
        samples: with paths.
        spec: how they are seen; `size` must be given.
        seed: of order and views.
        device: where the views are finished.
        dtype: of the views.
        workers: processes that decode, for each of the passes that run side by side; 0: this process does it.
        max_pixels: refuse larger pictures; None: Pillow's limit.
        rank: this process's number.
        world: the number of processes, which share each batch.

    Raises:
        UserError: the view has no size, or the pipeline is not one for pictures.
        BadImage: for a picture that cannot be decoded, during a pass; it names the file.
    """

    def __init__(
        self,
        samples: Samples,
        spec: ViewSpec,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        workers: int = 0,
        max_pixels: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__(_as_tensor(samples.labels), seed=seed, rank=rank, world=world)
        assert samples.paths is not None, "pixels and features are for DeviceData"
        _check_pipeline(spec, vectors=False)
        if spec.size is None:
            raise UserError("picture files have many sizes: the views must be given one")
        self.input_shape = (3, spec.size, spec.size)
        self._paths = samples.paths
        self._spec, self._dtype, self._device = spec, dtype, torch.device(device)
        self._decoder, self._num_workers = Decoder(spec, max_pixels=max_pixels), workers
        self._idle: list[Workers] = []

    def close(self) -> None:
        """End the workers and wait for them. A pass that is still under way keeps its own."""
        while self._idle:
            self._idle.pop().close()

    def _walk(self, part: Pass) -> Iterator[Batch]:
        batches = part.index.split(part.sizes)
        with self._borrowed_workers() as workers:
            windows = workers.decode(self._request(index, part) for index in batches)
            for index, pixels in zip(batches, windows, strict=True):
                yield self._finished(index, pixels, part)

    def _request(self, index: Tensor, part: Pass) -> Request:
        draws = [
            view_draws(name, self._spec, occasion=part.occasion, index=index, place=place)[:, :WINDOW_DRAWS].numpy()
            for place, name in enumerate(part.views)
        ]
        rows = index.tolist()
        return Request(tuple(str(self._paths[i]) for i in rows), part.views, np.stack(draws))

    def _finished(self, index: Tensor, pixels: Tensor, part: Pass) -> Batch:
        label = self._labels[index].to(self._device)
        index = index.to(self._device)
        pixels = pixels.to(self._device, non_blocking=True).permute(0, 1, 4, 2, 3)
        views = []
        for place, name in enumerate(part.views):
            draws = view_draws(name, self._spec, occasion=part.occasion, index=index, place=place)[:, WINDOW_DRAWS:]
            views.append(finish_view(name, pixels[place], self._spec, draws, dtype=self._dtype))
        return Batch(index=index, views=tuple(views), label=label)

    @contextmanager
    def _borrowed_workers(self) -> Iterator[Workers]:
        """Idle ones, or new ones: passes that run side by side cannot share."""
        pinned = self._device.type == "cuda"
        workers = self._idle.pop() if self._idle else Workers(self._decoder, self._num_workers, pinned=pinned)
        try:
            yield workers
        finally:
            self._idle.append(workers)


Loader = DeviceData | DiskData


def open_data(
    samples: Samples,
    spec: ViewSpec,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    workers: int = 0,
    max_pixels: int | None = None,
    rank: int = 0,
    world: int = 1,
) -> Loader:
    """DiskData for picture files, DeviceData for all else. The arguments are theirs."""
    if samples.paths is None:
        return DeviceData(samples, spec, seed=seed, device=device, dtype=dtype, rank=rank, world=world)
    return DiskData(
        samples,
        spec,
        seed=seed,
        device=device,
        dtype=dtype,
        workers=workers,
        max_pixels=max_pixels,
        rank=rank,
        world=world,
    )


def _check_pipeline(spec: ViewSpec, *, vectors: bool) -> None:
    if (spec.pipeline == "vectors") != vectors:
        raise UserError(f"pipeline {spec.pipeline!r} cannot see {'feature vectors' if vectors else 'pictures'}")


def _as_tensor(array: npt.NDArray[Any]) -> Tensor:
    """The array's own memory: it is only read here, so it may be read-only, of which torch warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


def _suitable_chunk(input_shape: tuple[int, ...], device: torch.device) -> int:
    """Samples a chunk. On the CPU a view should stay in the cache; on a GPU asking for it takes as long as making it.

    There 512 MiB are nearly an epoch of CIFAR; a 64th of a small GPU leaves room for what comes between.
    """
    room = 16 * 2**20
    if device.type == "cuda":
        room = min(512 * 2**20, torch.cuda.get_device_properties(device).total_memory // 64)
    elif device.type != "cpu":
        room = 64 * 2**20
    return max(1, room // (4 * prod(input_shape)))


def _whole_batches(sizes: list[int], chunk: int) -> Iterator[list[int]]:
    """Batches one after another, at most `chunk` samples together, or a single batch."""
    group: list[int] = []
    room = chunk
    for size in sizes:
        if group and size > room:
            yield group
            group, room = [], chunk
        group.append(size)
        room -= size
    if group:
        yield group
