"""Parts that `acto bench` and benchmarks/ time: ACTO's step, the views, the loader of picture files, the evaluation.

A part is an object whose `run()` does its work once and returns how many samples it has done. Random pictures are
enough: the cost does not depend on what they show, only noise would make some operations dearer than photographs do.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

from acto.core.types import Stream, Task
from acto.data.loading.loader import DeviceData, DiskData
from acto.data.samples import Samples
from acto.data.views.spec import ViewSpec
from acto.methods.acto import ACTO
from acto.nets import build as nets
from acto.training import evaluation
from acto.training.loop import Training, run_epochs
from acto.training.plans import Plan
from acto.training.protocol import Protocol as TrainingProtocol
from acto.training.step_modes import prepare_steps

BATCH, NUM_CLASSES, SIDE = 128, 100, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
JPEG_SIDES = (256, 512)
"""Pixels of the shorter and of the longer side, at the least and at the most."""
CROP, SHORT_SIDE = 224, 256

Pixels = npt.NDArray[np.uint8]


class Part(Protocol):
    """Something to time."""

    def run(self) -> int:
        """Do the work once; return the number of samples."""
        ...


def smooth_pictures(count: int, *, side: int = SIDE, seed: int = 0) -> Pixels:
    """(count, side, side, 3): colour gradients with a little noise. Equalizing pure noise is dearer than any photo."""
    random = np.random.default_rng(seed)
    corners = random.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    pictures = [_enlarged(small, side, side) for small in corners]
    return np.stack(pictures) ^ random.integers(0, 8, (count, side, side, 3), dtype=np.uint8)


def in_memory(pixels: Pixels, labels: npt.NDArray[np.int64] | None = None) -> Samples:
    """Pictures (N, H, W, 3) as samples; without labels these are spread evenly over NUM_CLASSES."""
    given = np.arange(len(pixels)) % NUM_CLASSES if labels is None else labels
    return Samples(ids=tuple(map(str, range(len(pixels)))), labels=given, pixels=pixels)


def cnn7() -> nn.Module:
    """A new seven-layer CNN for NUM_CLASSES."""
    return nets.build_net("cnn7", input_shape=(3, SIDE, SIDE), num_classes=NUM_CLASSES)


class ActoSteps:
    """The package's own loader, method and loop, in ACTO's robust phase with cnn7 at batch 128; a run is an epoch.

    Args:
        samples: pictures of 32x32 in memory.
        device: where all of it happens.
        precision: of the networks' bodies.
        step: one of acto.training.step_modes.STEPS; None: as a run takes them on this device.
        fused_norms: see acto.training.step_modes.prepare_steps.
        form: of ACTO; None: the published one.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        device: torch.device,
        precision: torch.dtype,
        step: str | None = None,
        fused_norms: bool | None = None,
        form: Literal["published", "steady"] | None = None,
    ) -> None:
        self.data = DeviceData(
            samples, ViewSpec(pipeline="cifar", size=SIDE, mean=MEAN, std=STD), seed=0, device=device
        )
        task = Task(torch.from_numpy(samples.labels), NUM_CLASSES)
        config = ACTO.Config(warmup_epochs=0, form=form)
        method = ACTO(config, task, cnn7).to(device).to(memory_format=torch.channels_last)
        protocol = TrainingProtocol(epochs=10_000, batch_size=BATCH, plan=Plan(lr=0.01), plans={"net1": Plan(lr=0.08)})
        recorder = prepare_steps(
            step, method, device=device, precision=precision, batch_size=BATCH, fused_norms=fused_norms
        )
        self.training = Training(method, protocol, precision=precision, recorder=recorder)
        self._epochs = run_epochs(self.training, self.data, seed=0)

    def run(self) -> int:
        """One epoch."""
        next(self._epochs)
        return self.data.num_samples


class Evaluation:
    """The test accuracy of `training`'s networks on pictures of 32x32 in memory."""

    def __init__(self, training: Training, samples: Samples) -> None:
        self._training = training
        views = ViewSpec(pipeline="cifar", size=SIDE, mean=MEAN, std=STD)
        self._data = DeviceData(samples, views, seed=0, device=training.device)

    def run(self) -> int:
        """One evaluation."""
        evaluation.accuracy(self._training, self._data)
        return self._data.num_samples


class Views:
    """A shuffled pass over pictures of 32x32 in memory: order, views, batches.

    Args:
        samples: the pictures.
        views: which ones of each.
        pipeline: "cifar" has AutoAugment's policy as its strong view, "photo" RandAugment.
        device: where they are made.
        dtype: of the views.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        views: tuple[str, ...],
        pipeline: str = "cifar",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        spec = ViewSpec(pipeline=pipeline, size=SIDE, mean=MEAN, std=STD)
        self._data = DeviceData(samples, spec, seed=0, device=device, dtype=dtype)
        self._stream, self._epoch = Stream(views=views, batch_size=BATCH), 0

    def run(self) -> int:
        """One pass."""
        self._epoch += 1
        return sum(len(batch.index) for batch in self._data.batches(self._stream, epoch=self._epoch))


def write_jpegs(folder: Path, count: int) -> Samples:
    """Write `count` JPEG pictures of 256 to 512 pixels a side into `folder`; as samples they have those paths."""
    random = np.random.default_rng(0)
    paths = []
    for number in range(count):
        height, width = (int(side) for side in random.integers(JPEG_SIDES[0], JPEG_SIDES[1] + 1, 2))
        pixels = _enlarged(random.integers(0, 256, (8, 8, 3), dtype=np.uint8), height, width)
        pixels ^= random.integers(0, 16, pixels.shape, dtype=np.uint8)
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(pixels).save(paths[-1], quality=90)
    labels = np.arange(count) % NUM_CLASSES
    return Samples(ids=tuple(path.name for path in paths), labels=labels, paths=tuple(paths))


class PictureFiles:
    """A shuffled pass over picture files: decoding, two windows of 224 pixels, weak and strong view.

    Args:
        samples: with paths.
        workers: processes that decode; 0: this one does.
        device: where the views are finished.
    """

    def __init__(self, samples: Samples, *, workers: int, device: torch.device) -> None:
        spec = ViewSpec(pipeline="photo", size=CROP, resize=SHORT_SIDE, mean=MEAN, std=STD)
        self._data = DiskData(samples, spec, seed=0, device=device, workers=workers)
        # Smaller batches than in training: a pass over few files must still keep every worker busy.
        self._stream, self._epoch = Stream(views=("weak", "strong"), batch_size=16), 0

    def run(self) -> int:
        """One pass."""
        self._epoch += 1
        return sum(len(batch.index) for batch in self._data.batches(self._stream, epoch=self._epoch))

    def close(self) -> None:
        """End the workers."""
        self._data.close()


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rate(part: Part, device: torch.device) -> float:
    """Samples a second of one run."""
    wait_for(device)
    started = time.perf_counter()
    count = part.run()
    wait_for(device)
    return count / (time.perf_counter() - started)


def alternate(parts: Mapping[str, Part], *, rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Samples a second of each part in each round. All take turns, so that a busy machine disturbs them alike."""
    for part in parts.values():
        rate(part, device)  # threads, caches and workers start here
    rates: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(rounds):
        for name, part in parts.items():
            rates[name].append(rate(part, device))
    return rates


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    low, middle, high = np.percentile(values, [25, 50, 75]).tolist()
    return low, middle, high


def ratios(upper: Sequence[float], lower: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(upper, lower, strict=True)]


def _enlarged(small: Pixels, height: int, width: int) -> Pixels:
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
