"""A run: data, network, method and protocol joined, executed into a folder, resumed from it."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from acto import calibrate, distributed, evaluate, nets
from acto.data.loader import Loader, open_data
from acto.data.noise import sha256_of_labels
from acto.data.sources import Dataset, DataSpec, load
from acto.device import resolve_device, resolve_precision
from acto.errors import UserError, check_range, choose
from acto.failures import Interrupted, Stop, in_words, signals_raise
from acto.graph import Recorder, recorder_for
from acto.methods import METHODS
from acto.net_weights import read_state
from acto.record import Checkpoint, RunError, RunFolder, State, last_checkpoint, read_run
from acto.sample_table import label_quality, sample_table
from acto.settings import build
from acto.train import EpochLog, Protocol, Training, run_epochs
from acto.types import Clock, Task
from acto.warm_start import WarmStart, plan

PACKAGES = ("torch", "torchvision", "numpy", "pillow")
"""Whose versions a run's record keeps, beside Python's."""
STEPS = ("eager", "graph")
STARVED_SHARE = 0.01
"""A class of whose samples an epoch selects a smaller share than this is reported."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """All that decides a result.

    Attributes:
        data: what to train on.
        method: a name of acto.methods.METHODS.
        config: that method's Config; None: its defaults.
        net: a name of acto.nets.
        weights: None (random), "torchvision", "timm" or a file.
        protocol: epochs, batch size, optimizer, rates.
        seed: of initialisation, order and views.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, float32, bfloat16 or float16.
        step: "graph" records the step as one CUDA graph where that can be done, "eager" does not; None: "eager".
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
        return (epoch + 1) % self.eval_every == 0 or epoch >= self.protocol.epochs - evaluate.LAST_EPOCHS


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


Report = Callable[[str, Mapping[str, Any]], None]
"""Told what happens: "start" with facts, "step" with its place, "epoch" with its row, "note" with a text, "finish" with
the summary."""


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
        acto.record.RunError: memory runs out.
    """
    with _explained(run):
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
    recorder: Recorder | None = None
    if run.step == "graph":
        made = recorder_for(method, device=device, precision=precision, world=distributed.world())
        if isinstance(made, str):
            say(made)
        else:
            recorder = made
    training = Training(method, run.protocol, precision=precision, recorder=recorder)
    if begun is not None:
        begun.hand_over(training)
    return Prepared(
        run=run, dataset=dataset, training=training, train_data=train_data, test_data=test_data, warm_start=begun
    )


def execute(
    prepared: Prepared, folder: RunFolder | Path, *, report: Report = lambda event, facts: None
) -> dict[str, Any]:
    """Train into `folder`, from its last checkpoint if it has one, and return the summary.

    A signal (SIGINT, SIGTERM) or an error leaves the last checkpoint and says so in the folder's status.

    Args:
        prepared: what to train; used up.
        folder: in processes other than the first only its path: they write nothing, and the summary is empty.
        report: told what happens, in the first process.

    Raises:
        acto.failures.Interrupted: after a signal.
        UserError: for labels that are not those that the run was begun with.
        acto.record.RunError: if the disk refuses, memory runs out, or another process of the run ends.
        acto.train.DivergedError: if loss or weights are no longer finite.
    """
    try:
        with signals_raise() as stop, _explained(prepared.run, prepared):
            if isinstance(folder, Path):
                return _follow(prepared, folder, stop)
            summary = _train(prepared, folder, report, stop)
    except BaseException as error:
        if isinstance(folder, RunFolder):
            state: State = "interrupted" if isinstance(error, (Interrupted, KeyboardInterrupt)) else "failed"
            done = prepared.training.epochs_done
            # On a full disk the status cannot be written either. What has happened is the better message.
            with suppress(RunError):
                folder.set_status(state, epoch=done - 1 if done else None, message=str(error) or type(error).__name__)
        raise
    finally:
        prepared.close()
    folder.set_status("finished", epoch=prepared.training.epochs_done - 1)
    return summary


def fit(
    run: Run,
    folder: Path | str,
    *,
    dataset: Dataset | None = None,
    resume: bool = False,
    overwrite: bool = False,
    report: Report = lambda event, facts: None,
) -> dict[str, Any]:
    """Train `run` into `folder` and return the summary: what `acto train` does, without its words.

    Args:
        run: what to train.
        folder: where the record goes; read it with `acto.read_run`.
        dataset: what `run.data` stands for, where it has been read already.
        resume: go on from the last checkpoint in `folder`, which must be of the same run.
        overwrite: delete a run that is in `folder`.
        report: told what happens.

    Raises:
        UserError: data, settings or folder cannot be used; then nothing was written.
        acto.failures.Interrupted: after a signal; `resume` goes on.
        acto.record.RunError: the disk refuses, memory runs out, or another process of the run ends.
        acto.train.DivergedError: loss or weights are no longer finite.
    """
    prepared = prepare(
        run,
        dataset=dataset,
        folder=Path(folder) if resume else None,
        say=lambda text: report("note", {"text": text}),
    )
    config = run.to_dict()
    with (
        RunFolder.open(folder, config=config)
        if resume
        else RunFolder.create(folder, config=config, overwrite=overwrite)
    ) as opened:
        return execute(prepared, opened, report=report)


def _explained(run: Run, prepared: Prepared | None = None) -> AbstractContextManager[None]:
    """Errors inside in the words of a run."""
    samples = None if prepared is None else prepared.dataset.train
    return in_words(
        batch_size=run.protocol.batch_size,
        workers=0 if samples is None or samples.paths is None else run.workers,
        precision=run.precision,
        ids=() if samples is None else samples.ids,
    )


def _follow(prepared: Prepared, path: Path, stop: Stop) -> dict[str, Any]:
    """Train along with the first process."""
    _restore(prepared.training, last_checkpoint(path))

    def tick(clock: Clock) -> None:
        stop.check()

    for _ in run_epochs(prepared.training, prepared.train_data, seed=prepared.run.seed, tick=tick):
        pass
    return {}


def _train(prepared: Prepared, folder: RunFolder, report: Report, stop: Stop) -> dict[str, Any]:
    run, dataset, training = prepared.run, prepared.dataset, prepared.training
    device = str(training.device)
    start = folder.last_checkpoint()
    if start is None and prepared.warm_start is not None:
        prepared.warm_start.begin(folder)
        # Saved, so that a resumed run needs nothing of the run before.
        folder.save_checkpoint(training.epochs_done - 1, {"training.pt": checkpoint(training)})
    _restore(training, start)
    lost = folder.truncate_after(training.epochs_done - 1)
    folder.save_labels(dataset.train.labels, facts=dataset.noise, class_names=dataset.class_names, notes=dataset.notes)
    versions = {package: version(package) for package in PACKAGES}
    folder.add_session(versions=versions, device=device, threads=torch.get_num_threads())
    for text in (*dataset.notes, *([start.note] if start is not None and start.note else [])):
        report("note", {"text": text})
    if lost:
        first, last = training.epochs_done, training.epochs_done + lost - 1
        report("note", {"text": f"epochs {first} to {last} left no good checkpoint and are done again"})
    if prepared.warm_start is not None:
        report("note", {"text": prepared.warm_start.in_words()})
    report(
        "start",
        {
            "run": run,
            "device": device,
            "precision": str(training.precision).removeprefix("torch."),
            "data": dataset.name,
            "num_train": len(dataset.train),
            "num_test": len(dataset.test),
            "num_classes": dataset.num_classes,
            "test_labels_are_given": dataset.test_labels_are_given,
            "noise": dataset.noise,
            "epochs_done": training.epochs_done,
            "folder": str(folder.path),
        },
    )
    starved: set[int] = set()

    def tick(clock: Clock) -> None:
        stop.check()
        report("step", {"epoch": clock.epoch, "turn": clock.turn, "step": clock.step, "steps": clock.steps})

    for log in run_epochs(training, prepared.train_data, seed=run.seed, tick=tick):
        started = time.monotonic()
        row = _metrics(prepared, log)
        timing = {
            "train_seconds": log.seconds,
            "eval_seconds": time.monotonic() - started,
            "images_per_second": len(dataset.train) / log.seconds,
        }
        folder.add_metrics(log.epoch, row)
        folder.add_timing(log.epoch, timing)
        folder.save_checkpoint(log.epoch, {"training.pt": checkpoint(training)})
        folder.set_status("running", epoch=log.epoch)
        for text in _starving(prepared, starved):
            report("note", {"text": text})
        report("epoch", {"epoch": log.epoch, **row, "seconds": timing["train_seconds"] + timing["eval_seconds"]})
    summary = _finish(prepared, folder)
    report("finish", summary)
    return summary


def _restore(training: Training, saved: Checkpoint | None) -> None:
    if saved is not None:
        training.load_state_dict(read_state(saved.read("training.pt"), str(saved.path("training.pt"))))
    distributed.require_same(training.epochs_done, "the number of epochs done", device=training.device)


def _metrics(prepared: Prepared, log: EpochLog) -> dict[str, Any]:
    """The epoch's row of metrics.csv. Nothing in it depends on the clock."""
    run, training, samples = prepared.run, prepared.training, prepared.dataset.train
    row: dict[str, Any] = dict(log.metrics)
    if run.evaluates(log.epoch):
        scores = evaluate.accuracy(training, prepared.test_data)
    else:
        scores = dict.fromkeys(evaluate.prediction_names(training, prepared.test_data), math.nan)
    for place, (name, value) in enumerate(scores.items()):
        row["test_accuracy" if place == 0 else f"test_accuracy_{name}"] = value
    clean, known = samples.is_clean, samples.is_known
    if bool((training.history.selectable > 0).any()):
        selected = training.history.selected_now.cpu().numpy()
        row["selected_share"] = float(selected.mean())
        if clean is not None and known is not None:
            row |= evaluate.selection_scores(selected[known], clean[known])
    if clean is not None and known is not None:
        row["label_quality_auroc"] = evaluate.auroc(label_quality(training)[known], clean[known])
    return row


def _starving(prepared: Prepared, known: set[int]) -> Iterator[str]:
    """A sentence on the classes of which hardly any sample was selected, if there are any beside the `known` ones."""
    history = prepared.training.history
    if not bool((history.selectable > 0).any()):
        return
    labels, selected = prepared.dataset.train.labels, history.selected_now.cpu().numpy()
    num_classes = prepared.dataset.num_classes
    sizes = np.bincount(labels, minlength=num_classes)
    chosen = np.bincount(labels[selected], minlength=num_classes)
    new = [int(k) for k in np.flatnonzero((chosen < STARVED_SHARE * sizes) & (sizes > 0)) if int(k) not in known]
    known.update(new)
    if new:
        shown = ", ".join(f"{prepared.dataset.class_names[k]!r} ({chosen[k]} of {sizes[k]})" for k in new[:5])
        more = f" and {len(new) - 5} more" if len(new) > 5 else ""
        yield f"hardly any sample of these classes was selected in this epoch, so they starve: {shown}{more}"


def _finish(prepared: Prepared, folder: RunFolder) -> dict[str, Any]:
    """Write the per-sample table, the weights and the summary."""
    run, dataset, training = prepared.run, prepared.dataset, prepared.training
    samples = dataset.train
    columns, probs = sample_table(training, prepared.train_data, dataset)
    folder.save_samples(columns)
    folder.save_probs(probs)
    # All that is needed to use the weights lies in the same file, under one key: safetensors writes several keys in an
    # order that differs from process to process, and equal runs shall give equal files.
    facts = {
        "net": run.net,
        "method": run.method,
        "headline": training.method.headline_weights(),
        "input_shape": prepared.train_data.input_shape,
        "class_names": dataset.class_names,
        "views": asdict(dataset.views),
    }
    for number, net in enumerate(training.method.nets):
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
        folder.save_model(f"net{number}.safetensors", safetensors.torch.save(weights, {"acto": json.dumps(facts)}))
    folder.save_model(calibrate.FILE, _calibration(prepared).to_json())
    metrics: list[dict[str, Any]] = read_run(folder.path).metrics
    # The rows of a run before this one, measured on its test set, are no result of this one.
    first = prepared.warm_start.epochs if prepared.warm_start is not None else 0
    accuracies = [row["test_accuracy"] for row in metrics if row["epoch"] >= first]
    last = metrics[-1]
    summary: dict[str, Any] = {
        "method": run.method,
        "data": dataset.name,
        "noise": dataset.noise,
        "seed": run.seed,
        "epochs": run.protocol.epochs,
        "test_accuracy_last10": evaluate.last_epochs_mean(accuracies),
        "test_accuracy_last": accuracies[-1],
        "test_accuracy_best_oracle": max(a for a in accuracies if not math.isnan(a)),
        "test_labels_are_given": dataset.test_labels_are_given,
        **{name: last[name] for name in sorted(last) if name.startswith(("selection_", "label_quality_"))},
        "mining_open": last.get("mining_open"),
        "num_train": len(samples),
        "num_test": len(dataset.test),
        "labels_sha256": sha256_of_labels(samples.labels),
    }
    folder.save_summary(summary)
    return summary


def _calibration(prepared: Prepared) -> calibrate.Calibration:
    """The temperature, fitted on held-out training data; a real test set is not even looked at here."""
    dataset = prepared.dataset
    if not dataset.test_labels_are_given:
        return calibrate.calibrate(None)
    probs = next(iter(evaluate.all_probs(prepared.training, prepared.test_data).values()))
    return calibrate.calibrate((probs, dataset.test.labels))


def _known_noise_rate(run: Run, dataset: Dataset) -> tuple[float | None, Any]:
    if run.assumed_noise_rate is not None:
        return run.assumed_noise_rate, "user"
    rate = dataset.noise.get("rate_realised")
    return (None, "none") if rate is None else (float(rate), "oracle")


def checkpoint(training: Training) -> bytes:
    """What a checkpoint's file holds."""
    buffer = io.BytesIO()
    torch.save(training.state_dict(), buffer)
    return buffer.getvalue()
