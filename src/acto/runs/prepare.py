"""From a Run to what the loop takes: data, networks, method, optimizer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from acto.core import distributed
from acto.core.device import resolve_device, resolve_precision
from acto.core.errors import UserError
from acto.core.types import Task
from acto.data.loading.loader import Loader, open_data
from acto.data.samples import Dataset
from acto.data.sources import load_data
from acto.methods import METHODS
from acto.nets import build as nets
from acto.run_folder.reading import held_out_before
from acto.runs.failures import in_words
from acto.runs.run import Run
from acto.runs.same_data import Checks, checks_of, refuse_other_data
from acto.runs.trained_model import kept_encoding
from acto.runs.warm_start import WarmStart, plan
from acto.training.loop import Training
from acto.training.step_modes import prepare_steps


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A run with everything built and nothing trained."""

    run: Run
    dataset: Dataset
    training: Training
    train_data: Loader
    test_data: Loader
    checks: Checks
    """Checksums of the data."""
    warm_start: WarmStart | None = None

    def close(self) -> None:
        """End the processes that decode pictures."""
        self.train_data.close()
        self.test_data.close()


def prepare(
    run: Run,
    *,
    dataset: Dataset | None = None,
    data_root: str | None = None,
    download: bool = False,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Prepared:
    """Read the data and build networks and method.

    Args:
        run: what to prepare.
        dataset: what `run.data` stands for, where it has been read already.
        data_root: see acto.data.sources.load_data.
        download: see acto.data.sources.load_data.
        folder: of the run, where it is resumed.
        say: told what is done about a cache of pictures, which is filled here, and about the names of weights.

    Raises:
        UserError: data or settings cannot be used.
        acto.core.errors.RunError: memory runs out.
    """
    with explained(run):
        return _prepare(run, dataset=dataset, data_root=data_root, download=download, folder=folder, say=say)


def _prepare(
    run: Run,
    *,
    dataset: Dataset | None,
    data_root: str | None,
    download: bool,
    folder: Path | None,
    say: Callable[[str], None],
) -> Prepared:
    device = resolve_device(run.device)
    distributed.start(device)
    precision = resolve_precision(run.precision, device)
    if dataset is None:
        held_out = None if folder is None else held_out_before(folder)
        dataset = load_data(run.data, data_root=data_root, download=download, held_out=held_out)
    if run.protocol.stop_early is not None and not dataset.test_labels_are_given:
        raise UserError(
            f"stop_early is judged by training samples that are held out, and of {dataset.name} none are: it has a "
            "test set, which must choose nothing. Leave the test set away, and a part of the training samples is held "
            "out (holdout_share); or leave stop_early away"
        )
    begun = None
    if run.init_from is not None:
        begun = plan(
            run.init_from, dataset, method=run.method, net=run.net, epochs=run.protocol.epochs, folder=folder,
            trust=run.trust_net,
        )  # fmt: skip
        dataset = begun.dataset
    elif folder is not None:
        dataset = dataset.encoded_by(kept_encoding(folder))
    checks = checks_of(dataset)
    if folder is not None:
        for text in refuse_other_data(folder, dataset, checks):
            say(text)
    if run.data.cache is not None and dataset.train.paths is None:
        say("the samples are in memory as they are: the cache of pictures is not used")
    opened = partial(
        open_data, spec=dataset.views, seed=run.seed, device=device, workers=run.workers,
        max_pixels=run.data.max_image_pixels, cache=run.data.cache, say=say,
    )  # fmt: skip
    train_data = opened(dataset.train, rank=distributed.rank(), world=distributed.world())
    test_data = opened(dataset.test)

    torch.manual_seed(run.seed)
    noise_rate, source = _known_noise_rate(run, dataset)
    task = Task(torch.from_numpy(dataset.train.labels), dataset.num_classes, noise_rate, source)
    say_once = cache(say)  # several networks begin with the same weights

    def build_net() -> nn.Module:
        return nets.build_net(
            run.net,
            input_shape=train_data.input_shape,
            num_classes=dataset.num_classes,
            weights=run.weights,
            trust=run.trust_net,
            say=say_once,
        )

    method = METHODS[run.method](run.config, task, build_net).to(device)
    if len(train_data.input_shape) == 3:
        method = method.to(memory_format=torch.channels_last)
    if run.sync_batchnorm and distributed.world() > 1:
        if device.type != "cuda":
            raise UserError(f"sync_batchnorm needs CUDA devices, and this process trains on {device}")
        method = nn.SyncBatchNorm.convert_sync_batchnorm(method)
    recorder = prepare_steps(
        step_of(run), method, device=device, precision=precision, batch_size=run.protocol.batch_size,
        world=distributed.world(), say=say,
    )  # fmt: skip
    training = Training(method, run.protocol, precision=precision, recorder=recorder)
    if begun is not None:
        begun.hand_over(training)
    return Prepared(
        run=run,
        dataset=dataset,
        training=training,
        train_data=train_data,
        test_data=test_data,
        checks=checks,
        warm_start=begun,
    )


def step_of(run: Run) -> str | None:
    """Return the way in which a run's steps are to be taken, see acto.training.step_modes.

    A network that others have written may wait for the device in its forward pass, which no recording can hold and no
    process survives: it is recorded on request only.
    """
    foreign = ":" in run.net and not run.net.startswith(("mlp:", "torchvision:"))
    return "eager" if run.step is None and foreign else run.step


def _known_noise_rate(run: Run, dataset: Dataset) -> tuple[float | None, Any]:
    if run.assumed_noise_rate is not None:
        return run.assumed_noise_rate, "user"
    rate = dataset.noise.get("rate_realised")
    return (None, "none") if rate is None else (float(rate), "oracle")


def explained(run: Run, prepared: Prepared | None = None) -> AbstractContextManager[None]:
    """Errors inside in the words of a run."""
    samples = None if prepared is None else prepared.dataset.train
    return in_words(
        batch_size=run.protocol.batch_size,
        workers=0 if samples is None or samples.paths is None else run.workers,
        precision=run.precision,
        ids=() if samples is None else samples.ids,
    )
