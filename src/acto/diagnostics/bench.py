"""`acto bench`: how fast training is on this machine, and how far from what the machine could do."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from acto.core.resources import usable_cores
from acto.core.text import aligned, bytes_in_words, duration
from acto.diagnostics.speed_limits import convolution_seconds, count_work, measure_rates
from acto.diagnostics.timed_parts import (
    BATCH,
    ActoSteps,
    Evaluation,
    Part,
    PictureFiles,
    Views,
    alternate,
    in_memory,
    quartiles,
    rate,
    ratios,
    smooth_pictures,
    write_jpegs,
)
from acto.nets.cpu_layers import WinogradConv2d
from acto.training.step_modes import STEPS

TRAIN_PICTURES, TEST_PICTURES = 50_000, 10_000
"""Sizes of CIFAR-100, whose epoch and evaluation the rates are turned into."""
MOST_EVALUATION = 0.05
"""An evaluation should cost no larger share of an epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Extent:
    """Extent of the timing: rounds, steps and samples."""

    rounds: int
    steps: int
    """Steps of ACTO in a round."""
    evaluated: int
    seen: int
    """Pictures whose views are made."""
    files: int


FULL = Extent(rounds=7, steps=4, evaluated=1024, seen=4096, files=256)
QUICK = Extent(rounds=3, steps=1, evaluated=341, seen=1024, files=48)
ON_GPU = Extent(rounds=7, steps=100, evaluated=10_000, seen=50_000, files=512)
QUICK_ON_GPU = Extent(rounds=3, steps=30, evaluated=10_000, seen=20_000, files=64)


def measure(device: torch.device, precision: torch.dtype, *, quick: bool = False) -> dict[str, Any]:
    """Time everything; about 20 s on two cores if `quick`, about two minutes else.

    Args:
        device: cpu, cuda:N or mps.
        precision: of the networks' bodies and of the floors.
        quick: fewer and shorter rounds.

    Returns:
        Plain values: "machine", "rates" (images/s) and "ratios", each with low, median and high quartile, "floors", and
        on a GPU "epoch", by the step's form.
    """
    gpu = device.type == "cuda"
    extent = (QUICK_ON_GPU if quick else ON_GPU) if gpu else (QUICK if quick else FULL)
    cores = usable_cores()
    # On a GPU a round is too short to record a graph for it; whole epochs with one follow below.
    how = "eager" if gpu else None
    steps = ActoSteps(in_memory(smooth_pictures(extent.steps * BATCH)), device=device, precision=precision, step=how)
    pictures = in_memory(smooth_pictures(extent.seen, seed=1))
    with tempfile.TemporaryDirectory(prefix="acto-bench-") as folder:
        files = write_jpegs(Path(folder), extent.files)
        alone = PictureFiles(files, workers=0, device=device)
        together = PictureFiles(files, workers=cores, device=device)
        parts: dict[str, Part] = {
            "step": steps,
            "evaluation": Evaluation(steps.training, in_memory(smooth_pictures(extent.evaluated, seed=2))),
            "weak": Views(pictures, views=("weak",), device=device),
            "autoaugment": Views(pictures, views=("strong",), device=device),
            "randaugment": Views(pictures, views=("strong",), pipeline="photo", device=device),
            "files": alone,
            "files_in_workers": together,
        }
        try:
            rates = alternate(parts, rounds=extent.rounds, device=device)
        finally:
            alone.close()
            together.close()
    plain = ActoSteps(in_memory(smooth_pictures(BATCH)), device=device, precision=precision, step="eager")
    work, best = count_work(plain, precision), measure_rates(device, precision)
    kernels = any(isinstance(layer, WinogradConv2d) for layer in steps.training.method.modules())
    needed = (work.flops - kernels * work.saved_flops) / best.flops_per_second
    arithmetic, moved = work.flops / best.flops_per_second, work.bytes / best.bytes_per_second
    convolutions = convolution_seconds(device, precision)
    seconds = [BATCH / value for value in rates["step"]]
    evaluation = ratios(rates["step"], rates["evaluation"])
    figures = {
        "machine": _machine(device, precision, cores=cores, rounds=extent.rounds) | {"kernels": kernels},
        "rates": {name: _spread(values) for name, values in rates.items()},
        "floors": {
            "work": asdict(work),
            "best": asdict(best),
            "arithmetic_seconds": arithmetic,
            "needed_seconds": needed,
            "bytes_seconds": moved,
            "convolutions_seconds": convolutions,
        },
        "ratios": {
            "arithmetic": _spread([arithmetic / s for s in seconds]),
            "needed": _spread([needed / s for s in seconds]),
            "bytes": _spread([moved / s for s in seconds]),
            "convolutions": _spread([convolutions / s for s in seconds]),
            "evaluation": _spread([TEST_PICTURES / TRAIN_PICTURES * share for share in evaluation]),
        },
    }
    if gpu:
        figures["epoch"] = {step: whole_epoch(device, precision, step=step) for step in STEPS}
    return figures


def whole_epoch(device: torch.device, precision: torch.dtype, *, step: str = "graph") -> dict[str, float]:
    """An epoch of ACTO on as many random pictures as CIFAR-100 has, after one that warms up.

    Args:
        device: a CUDA device.
        precision: of the networks' bodies.
        step: one of acto.training.step_modes.STEPS.

    Returns:
        "seconds", and "peak_bytes" of the device's memory, data included.
    """
    torch.cuda.reset_peak_memory_stats(device)
    # A few thousand different pictures are enough; the loader does not know.
    some = smooth_pictures(5_000, seed=3)
    pixels = some.repeat(TRAIN_PICTURES // len(some), axis=0)
    steps = ActoSteps(in_memory(pixels), device=device, precision=precision, step=step)
    rate(steps, device)
    seconds = TRAIN_PICTURES / rate(steps, device)
    return {"seconds": seconds, "peak_bytes": float(torch.cuda.max_memory_allocated(device))}


def in_words(figures: Mapping[str, Any]) -> list[str]:
    """Format what `measure` found as lines for a terminal."""
    machine, rates, floors, shares = (figures[key] for key in ("machine", "rates", "floors", "ratios"))
    cores = machine["cores"]
    names = {
        "step": f"ACTO step, two CNN7, batch {BATCH}, both views",
        "evaluation": "evaluation of both networks",
        "weak": "weak view, 32 pixels",
        "autoaugment": "strong view, AutoAugment, 32 pixels",
        "randaugment": "strong view, RandAugment, 32 pixels",
        "files": "JPEG 256-512 to both views of 224, no worker",
        "files_in_workers": f"the same with {cores} worker{'s' if cores > 1 else ''}",
    }
    rows = [("", "images/s", "quartiles")]
    rows += [
        (text, f"{rates[key]['median']:,.1f}", f"{rates[key]['low']:,.1f} to {rates[key]['high']:,.1f}")
        for key, text in names.items()
    ]
    work, best = floors["work"], floors["best"]
    step = 1000 * BATCH / rates["step"]["median"]
    bounds = [
        ("a step", f"{step:.1f} ms", "", ""),
        (
            "arithmetic floor",
            f"{1000 * floors['arithmetic_seconds']:.1f} ms",
            _percent(shares["arithmetic"]),
            f"{work['flops'] / 1e9:,.1f} GFLOP at {best['flops_per_second'] / 1e9:,.0f} GFLOP/s, the best large "
            "matrix product",
        ),
        *([_with_fewer_products(floors, shares)] if machine["kernels"] else []),
        (
            "bytes floor",
            f"{1000 * floors['bytes_seconds']:.1f} ms",
            _percent(shares["bytes"]),
            f"{work['bytes'] / 1e6:,.0f} MB at {best['bytes_per_second'] / 1e9:,.1f} GB/s, the best large copy",
        ),
        (
            "convolutions alone",
            f"{1000 * floors['convolutions_seconds']:.1f} ms",
            _percent(shares["convolutions"]),
            "three times the best times of torch's six, forward and backward",
        ),
    ]
    evaluation = shares["evaluation"]["median"]
    epoch = TRAIN_PICTURES / rates["step"]["median"]
    lines = [
        f"{machine['name']}, {cores} usable core{'s' if cores > 1 else ''}, {machine['threads']} threads, "
        f"{machine['device']} in {machine['precision']}, torch {machine['torch']}; "
        f"medians of {machine['rounds']} alternating rounds",
        "",
        *aligned(rows),
        "",
        *aligned(bounds),
        "In percent: how near the step, views and optimizer included, comes to the floor. The bytes are those that",
        "convolutions, products and SGD read and write; everything else counts as fused into them.",
        "",
        f"an epoch of 50,000 pictures: {duration(epoch)} at this rate; evaluating 10,000 adds "
        f"{100 * evaluation:.1f} % (quartiles {_percent(shares['evaluation'])})"
        + ("" if evaluation <= MOST_EVALUATION else "; --eval-every N evaluates less often"),
    ]
    lines += [
        f"measured, --step {step}: {whole['seconds']:.2f} s; "
        f"at most {bytes_in_words(whole['peak_bytes'])} of the device's memory"
        for step, whole in figures.get("epoch", {}).items()
    ]
    return lines


def _with_fewer_products(floors: Mapping[str, Any], shares: Mapping[str, Any]) -> tuple[str, str, str, str]:
    work = floors["work"]
    left = (work["flops"] - work["saved_flops"]) / 1e9
    return (
        "with fewer products",
        f"{1000 * floors['needed_seconds']:.1f} ms",
        _percent(shares["needed"]),
        f"{left:,.1f} GFLOP: the C kernels take 16 products where a convolution has 36",
    )


def _machine(device: torch.device, precision: torch.dtype, *, cores: int, rounds: int) -> dict[str, Any]:
    gpu = device.type == "cuda"
    return {
        "device": str(device),
        "name": torch.cuda.get_device_name(device) if gpu else platform.machine(),
        "precision": str(precision).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "cores": cores,
        "torch": torch.__version__,
        "rounds": rounds,
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    low, median, high = quartiles(values)
    return {"low": low, "median": median, "high": high}


def _percent(spread: Mapping[str, float]) -> str:
    return f"{100 * spread['low']:.1f} to {100 * spread['high']:.1f} %"
