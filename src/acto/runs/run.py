"""A run: data, network, method and protocol joined, and what has to be built before it can train."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from acto.core import distributed
from acto.core.device import resolve_device, resolve_precision
from acto.core.errors import UserError, check_range, choose
from acto.core.settings import build
from acto.core.types import Task
from acto.data.loading.loader import Loader, open_data
from acto.data.sources import Dataset, DataSpec, load
from acto.methods import METHODS
from acto.nets import build as nets
from acto.runs.failures import in_words
from acto.runs.warm_start import WarmStart, plan
from acto.training import evaluation
from acto.training.loop import Protocol, Training
from acto.training.step_modes import STEPS, prepare_steps


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """All that decides a result.

    Attributes:
        data: what to train on.
        method: a name of acto.methods.METHODS.
        config: that method's Config; None: its defaults.
        net: a name of acto.nets.build.
        weights: None (random), "torchvision", "timm" or a file.
        protocol: epochs, batch size, optimizer, rates.
        seed: of initialisation, order and views.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, float32, bfloat16 or float16.
        step: "graph" records the step as one CUDA graph where that can be done, "compiled" moreover has the networks
            compiled by torch.compile, or on a processor computed by this package's C kernels; "eager" does neither.
            None, if the network is ours or torchvision's: "graph" on a CUDA device, "compiled" on a processor that
            can; else "eager".
        sync_batchnorm: batch statistics over the whole batch, not over each process's part; several CUDA devices.
        eval_every: epochs between two evaluations; the last ten are always evaluated.
        workers: processes that decode pictures from disk.
        assumed_noise_rate: told to methods that ask for it; None: the data set's own rate where its truth is known.
        trust_net: allow `net` to name code outside of this package (package.module:callable).
        init_from: folder of a finished run to go on from: its networks, and its memory of the samples that are what
            they were; the epochs count on from its own.
    """

    data: DataSpec = field(default_factory=lambda: DataSpec(source="digits"))
    method: str = "acto"
    config: Any = None
    net: str = "cnn_small"
    weights: str | None = None
    protocol: Protocol = field(default_factory=Protocol)
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    step: str | None = None
    sync_batchnorm: bool | None = None
    eval_every: int = 1
    workers: int = 2
    assumed_noise_rate: float | None = None
    trust_net: bool = False
    init_from: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot run.

        Raises:
            UserError: naming the field.
        """
        choose("method", self.method, METHODS)
        if self.step is not None:
            choose("step", self.step, STEPS)
        check_range("eval_every", self.eval_every, low=1)
        check_range("workers", self.workers, low=0)
        check_range("seed", self.seed, low=0)
        if self.assumed_noise_rate is not None:
            check_range("assumed_noise_rate", self.assumed_noise_rate, low=0, high=1)
        if self.config is None:
            object.__setattr__(self, "config", METHODS[self.method].Config())
        if ":" in self.net and not self.net.startswith(nets.OWN_KINDS) and not self.trust_net:
            raise UserError(
                f"net {self.net!r} names code to run: give it on the command line (--net), where no file can"
            )
        warmup = getattr(self.config, "warmup_epochs", 0)
        if warmup > self.protocol.epochs:
            raise UserError(f"warmup_epochs is {warmup}, more than the {self.protocol.epochs} epochs of the run")

    def to_dict(self) -> dict[str, Any]:
        """Nested settings, as written to config.yaml; the method's own stand under the method's name.

        trust_net is left out: what a file says must not decide whether code is trusted.
        """
        values = asdict(self)
        del values["trust_net"]
        values[self.method.replace("-", "_")] = values.pop("config")
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, trust_net: bool = False) -> Run:
        """The run of which to_dict() gave `values`.

        Raises:
            UserError: for a value that cannot be used.
        """
        values = dict(values)
        method = METHODS[choose("method", values["method"], METHODS)]
        config = build(method.Config, values.pop(method.name.replace("-", "_"), {}))
        return build(cls, {**values, "config": config, "trust_net": trust_net})

    def without_cache(self) -> Run:
        """The same run, but every pass decodes the picture files."""
        return replace(self, data=replace(self.data, cache=None))

    def evaluates(self, epoch: int) -> bool:
        """Whether the test set is looked at after `epoch` (from 0)."""
        return (epoch + 1) % self.eval_every == 0 or epoch >= self.protocol.epochs - evaluation.LAST_EPOCHS


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A run with everything built and nothing trained."""

    run: Run
    dataset: Dataset
    training: Training
    train_data: Loader
    test_data: Loader
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
        data_root: see acto.data.sources.load.
        download: see acto.data.sources.load.
        folder: of the run, where it is resumed.
        say: told what is done about a cache of pictures, which is filled here.

    Raises:
        UserError: data or settings cannot be used.
        acto.run_folder.writing.RunError: memory runs out.
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
        dataset = load(run.data, data_root=data_root, download=download)
    begun = None
    if run.init_from is not None:
        begun = plan(
            run.init_from, dataset, method=run.method, net=run.net, epochs=run.protocol.epochs, folder=folder,
            trust=run.trust_net,
        )  # fmt: skip
        dataset = begun.dataset
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

    def build_net() -> nn.Module:
        return nets.build(
            run.net,
            input_shape=train_data.input_shape,
            num_classes=dataset.num_classes,
            weights=run.weights,
            trust=run.trust_net,
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
        run=run, dataset=dataset, training=training, train_data=train_data, test_data=test_data, warm_start=begun
    )


def step_of(run: Run) -> str | None:
    """How its steps are to be taken, see acto.training.step_modes.

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
