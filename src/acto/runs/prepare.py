"""From a Run to what the loop takes: data, networks, method, optimizer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from acto.core import distributed
from acto.core.device import resolve_device, resolve_precision
from acto.core.errors import UserError
from acto.core.resources import usable_memory
from acto.core.text import bytes_in_words, counted
from acto.core.types import Task
from acto.data.loading.loader import Loader, open_data
from acto.data.samples import Dataset, join
from acto.data.sources import load_data
from acto.methods import METHODS
from acto.nets import build as nets
from acto.nets.pretrained import weights_for
from acto.run_folder.reading import held_out_before, last_checkpoint
from acto.runs.failures import in_words
from acto.runs.frozen.extraction import Tell
from acto.runs.frozen.front import Front, kept_front, make_front
from acto.runs.run import Run
from acto.runs.same_data import Checks, checks_of, refuse_other_data
from acto.runs.trained_model import kept_encoding
from acto.runs.warm_start import WarmStart, plan
from acto.training.heads import begin_at_centroids
from acto.training.loop import Training
from acto.training.step_modes import prepare_steps

MANY_FILES = 512
"""Picture files from which on several processes decode them for a frozen network."""


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
    front: Front | None = None
    """Frozen network whose vectors of the pictures are trained on."""
    front_seconds: float | None = None
    """Seconds that making these vectors will take, where that was measured instead of done."""

    def close(self) -> None:
        """End the processes that decode pictures."""
        self.train_data.close()
        self.test_data.close()


def prepare(
    run: Run,
    *,
    dataset: Dataset | None = None,
    weights: npt.NDArray[np.float64] | None = None,
    data_root: str | None = None,
    download: bool = False,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
    tell: Tell = lambda done, total: None,
    fetch_weights: bool = True,
    only_measure: bool = False,
) -> Prepared:
    """Read the data and build networks and method.

    Args:
        run: what to prepare.
        dataset: what `run.data` stands for, where it has been read already.
        weights: (N,) above 0, by which the training samples' losses are multiplied, once their mean is 1; None: all 1.
        data_root: see acto.data.sources.load_data.
        download: see acto.data.sources.load_data.
        folder: of the run, where it is resumed.
        say: told about the names of weights and what is looked at before training.
        tell: told how many pictures a frozen network has looked at, and of how many.
        fetch_weights: pretrained weights that are not on this machine may be fetched.
        only_measure: time the frozen network on a few pictures and make vectors up: for a run that is not trained.

    Raises:
        UserError: data or settings cannot be used.
        acto.core.errors.RunError: memory runs out.
    """
    with explained(run):
        return _prepare(
            run, dataset=dataset, weights=weights, data_root=data_root, download=download, folder=folder, say=say,
            tell=tell, fetch_weights=fetch_weights, only_measure=only_measure,
        )  # fmt: skip


def _prepare(
    run: Run,
    *,
    dataset: Dataset | None,
    weights: npt.NDArray[np.float64] | None,
    data_root: str | None,
    download: bool,
    folder: Path | None,
    say: Callable[[str], None],
    tell: Tell,
    fetch_weights: bool,
    only_measure: bool,
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
    _refuse_too_large(dataset)
    checks = checks_of(dataset)
    if folder is not None:
        for text in refuse_other_data(folder, dataset, checks):
            say(text)
    front, front_seconds, seen = None, None, dataset
    if run.features is not None:
        front = kept_front(folder, device=device) if folder is not None else None
        if front is None and begun is not None and begun.origin is not None:
            front = kept_front(begun.origin.path, device=device)
        if front is None:
            front = make_front(
                run.features, run.weights, dataset, device=device, download=fetch_weights, say=say
            )  # fmt: skip
        dataset = replace(dataset, views=front.views)
        if only_measure:
            front_seconds = sum(
                front.seconds(part, max_pixels=run.data.max_image_pixels) for part in (dataset.train, dataset.test)
            )
        front, seen = _looked_at(dataset, front, run, made_up=only_measure, say=say, tell=tell)
    elif fetch_weights is False and run.weights is not None and begun is None:
        weights_for(run.net, run.weights, download=False)
    opened = partial(
        open_data, spec=seen.views, seed=run.seed, device=device, workers=run.workers,
        max_pixels=run.data.max_image_pixels,
    )  # fmt: skip
    train_data = opened(seen.train, rank=distributed.rank(), world=distributed.world())
    test_data = opened(seen.test)

    torch.manual_seed(run.seed)
    noise_rate, source = _known_noise_rate(run, dataset)
    counts = None if weights is None else torch.from_numpy((weights / weights.mean()).astype(np.float32))
    task = Task(torch.from_numpy(dataset.train.labels), dataset.num_classes, noise_rate, source, counts)
    say_once = cache(say)  # several networks begin with the same weights

    def build_net() -> nn.Module:
        return nets.build_net(
            run.net,
            input_shape=train_data.input_shape,
            num_classes=dataset.num_classes,
            weights=run.weights if front is None else None,
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
    elif run.head == "centroids" and not only_measure and (folder is None or last_checkpoint(folder) is None):
        share = begin_at_centroids(training, train_data, seed=run.seed)
        if share is not None:
            say(
                "the head begins at the centroids of the classes: "
                f"{100 * share:.2f} % of the samples are nearest to that of their given label"
            )
    return Prepared(
        run=run,
        dataset=dataset,
        training=training,
        train_data=train_data,
        test_data=test_data,
        checks=checks,
        warm_start=begun,
        front=front,
        front_seconds=front_seconds,
    )


def _looked_at(
    dataset: Dataset, front: Front, run: Run, *, made_up: bool, say: Callable[[str], None], tell: Tell
) -> tuple[Front, Dataset]:
    """The front with the scale of its vectors, and the data set of these vectors; made-up ones are noise."""
    both = join([dataset.train, dataset.test])
    if made_up:
        rows = np.random.default_rng(0).standard_normal((len(both), front.backbone.net.feature_dim), np.float32)
    else:
        if distributed.rank() > 0:  # the first process looks, the others read what it has kept
            distributed.require_same(0, "the frozen network", device=front.backbone.device)
        rows = front.rows(
            both, workers=run.workers if len(both) >= MANY_FILES else 0, max_pixels=run.data.max_image_pixels,
            say=say, tell=tell,
        )  # fmt: skip
        if distributed.rank() == 0:
            distributed.require_same(0, "the frozen network", device=front.backbone.device)
    count = len(dataset.train)
    if front.vectors is None:
        front = front.scaled_to(rows[:count])
    assert front.vectors is not None
    train, test = (
        replace(part, features=found, pixels=None, paths=None)
        for part, found in ((dataset.train, rows[:count]), (dataset.test, rows[count:]))
    )
    return front, replace(dataset, train=train, test=test, views=front.vectors)


def step_of(run: Run) -> str | None:
    """Return the way in which a run's steps are to be taken, see acto.training.step_modes.

    A network that others have written may wait for the device in its forward pass, which no recording can hold and no
    process survives: it is recorded on request only.
    """
    foreign = ":" in run.net and not run.net.startswith(("mlp:", "torchvision:"))
    return "eager" if run.step is None and foreign else run.step


def end_bytes(dataset: Dataset) -> int:
    """Bytes of the probabilities that a run keeps at its end, of all samples that it judges, for every class."""
    judged = len(dataset.train) + (len(dataset.test) if dataset.test_labels_are_given else 0)
    return 4 * judged * dataset.num_classes


def _refuse_too_large(dataset: Dataset) -> None:
    """Raise UserError for data on which a training's end could not be written."""
    needed, there = 2 * end_bytes(dataset), usable_memory()
    if needed > there:
        samples, classes = counted(len(dataset.train), "sample"), counted(dataset.num_classes, "class")
        raise UserError(
            f"{samples} of {classes} are too many for this machine: the "
            "probabilities of each sample for each class, which a run keeps at its end, take "
            f"{bytes_in_words(needed)} of memory while they are written, and there are {bytes_in_words(there)}. Take "
            "fewer samples (--data.subset N) or classes, or a larger machine"
        )


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
