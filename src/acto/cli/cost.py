"""The price of a run in words, before it is paid: what is trained, how long it takes, and what would take less."""

from __future__ import annotations

import shutil
from pathlib import Path

from acto.cli.budget import Budget
from acto.core.device import device_in_words
from acto.core.text import aligned, bytes_in_words, counted, duration
from acto.data.samples import Dataset
from acto.nets.build import num_parameters
from acto.nets.pretrained import first_found
from acto.runs.cost import Estimate, estimate
from acto.runs.frozen.backbone import make_backbone
from acto.runs.frozen.extraction import measured, views_of_files
from acto.runs.prepare import Prepared, end_bytes
from acto.runs.recipes.by_data import FEW_TUNED, SETTINGS
from acto.runs.run import Run

SMALL = "torchvision:mobilenet_v2"
"""Network whose features are proposed: they take a processor a tenth of a second a picture or less."""
PRETRAINED = ("torchvision:", "timm:")
"""Beginnings of names of networks that can stay frozen."""
LONG = 60.0
"""Seconds from which cheaper ways are named."""


def proposals(run: Run, dataset: Dataset) -> list[str]:
    """Say for photographs of one's own which pretrained network is used, or how to come by one."""
    if dataset.views.pipeline != "photo" or run.data.source in SETTINGS or run.init_from is not None:
        return []
    if run.features is not None:
        return [f"the features of {run.features} are trained on; --features none trains a network on the pictures"]
    if run.weights is not None and run.net.startswith(PRETRAINED) and (count := len(dataset.train)) < FEW_TUNED:
        return [
            f"{count:,} photographs are few to fine-tune {run.net} on: --features {run.net} in place of --net looks at "
            "them once, takes a fraction of the time, and told wrong labels better apart where both were measured"
        ]
    if run.weights is not None or ":" in run.net or first_found() is not None:
        return []
    return [
        f"no pretrained weights are on this machine: {run.net} learns from scratch. Features of a pretrained network "
        f"take a fraction of the time: --features {SMALL}, with --weights FILE or --download"
    ]


def cost_lines(prepared: Prepared, out: Path, budget: Budget | None = None) -> list[str]:
    """Measure what the run that `prepared` stands for costs, and say it; its networks are used up."""
    cost = estimate(prepared)
    looking = prepared.front_seconds or 0.0
    phases = [
        (
            phase.name,
            counted(phase.epochs, "epoch"),
            f"{counted(phase.steps, 'step')} an epoch",
            f"{phase.seconds_per_step:.3g} s a step",
            f"{duration(phase.seconds_per_epoch)} an epoch",
        )
        for phase in cost.phases
    ]
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    return [
        *_what(prepared),
        *aligned(phases),
        f"evaluation: {counted(cost.evaluations, 'time')} {duration(cost.evaluation_seconds)}",
        f"in all: {duration(cost.seconds + looking)}",
        *([] if budget is None else [_fitting(budget.epochs(cost, looking=looking), budget)]),
        *_cheaper(prepared, cost),
        f"memory: {'unknown' if cost.memory_bytes is None else bytes_in_words(cost.memory_bytes)} at the most so far",
        f"disk: {bytes_in_words(cost.checkpoint_bytes)} a checkpoint, of which two are kept; "
        f"{bytes_in_words(shutil.disk_usage(there).free)} are free at {there}",
        f"at the end: {bytes_in_words(end_bytes(prepared.dataset))} of probabilities, held twice while written",
        "nothing was written",
    ]


def _fitting(epochs: int, budget: Budget) -> str:
    return f"into {budget.minutes:g} minutes fit: {counted(epochs, 'epoch')}"


def _what(prepared: Prepared) -> list[str]:
    """Name the networks, what they see, and the device."""
    run, front, training = prepared.run, prepared.front, prepared.training
    shape, place = prepared.train_data.input_shape, f"on {device_in_words(training.device)}"
    seen = f"pictures of {shape[2]}x{shape[1]} pixels" if len(shape) == 3 else f"{shape[0]} numbers a sample"
    number = len(training.method.nets)
    size = f"{num_parameters(training.method.nets[0]) / 1e6:.3g} million weights"
    lines = [f"network: {run.net}{f', {number} of them' if number > 1 else ''}, {size}, {seen}, {place}"]
    if front is not None and prepared.front_seconds is not None:
        height, width = front.backbone.size
        size = f"{num_parameters(front.backbone.net.backbone) / 1e6:.3g} million weights"
        count = len(prepared.dataset.train) + len(prepared.dataset.test)
        lines.insert(
            0,
            f"features: {front.name}, {size}, pictures of {width}x{height} pixels, {place}: "
            f"{counted(count, 'picture')} once, {duration(prepared.front_seconds)} (nothing, if they are kept already)",
        )
    return lines


def _cheaper(prepared: Prepared, cost: Estimate) -> list[str]:
    """Ways that take less, for photographs that take long; the first is measured with random weights."""
    run, dataset = prepared.run, prepared.dataset
    took = cost.seconds + (prepared.front_seconds or 0.0)
    if dataset.views.pipeline != "photo" or took < LONG:
        return []
    ways = []
    if run.features != SMALL and run.init_from is None:
        backbone = make_backbone(SMALL, "none", dataset, size=None, device=prepared.training.device)
        views = None if dataset.train.paths is None else views_of_files(dataset, backbone)
        seconds = (len(dataset.train) + len(dataset.test)) * measured(
            dataset.train, views, backbone, max_pixels=run.data.max_image_pixels
        )
        ways.append(
            f"--features {SMALL} with pretrained weights (--weights FILE or --download): {duration(seconds)} for all "
            "features, and moments an epoch"
        )
    side = prepared.dataset.views.size or 0
    if run.init_from is None and side >= 128:
        ways.append(f"--data.size {side // 2}: a quarter of the work a picture")
    ways.append("--minutes N: the epochs that fit into them")
    return [f"cheaper: {way}" for way in ways]
