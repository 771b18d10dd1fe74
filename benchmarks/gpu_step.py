"""Where a GPU's time goes in ACTO's step, and what batch norm, ReLU and maximum in one are worth.

    python benchmarks/gpu_step.py kernels [--sweep]    # a layer at a time: torch, torch.compile, the Triton kernels
    python benchmarks/gpu_step.py steps [--forms published,steady]    # whole epochs: graph, compiled, with the kernels
    python benchmarks/gpu_step.py profile              # the kernels of a step, by torch's profiler

Everything is cnn7 at batch 128 in bfloat16, as `acto train` takes it. `--device cpu` tries the benchmark itself, on
tiny batches; with TRITON_INTERPRET=1 the kernels as well.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from acto.diagnostics.timed_parts import BATCH, ActoSteps, in_memory, rate, smooth_pictures, wait_for
from acto.nets.gpu_layers import FusedNormReLU, fuse_norms

LAYERS = ((64, 32, False), (64, 32, True), (128, 16, False), (128, 16, True), (196, 8, False), (16, 8, True))
"""Channels, pixels a side and whether a maximum follows, of cnn7's batch norms."""
COMPILED_LAYERS = (0, 1, 4)
MODES = ("graph", "compiled")
Way = tuple[Any, str, bool]
"""Form of ACTO, way to take steps, fused norms."""
SWEEP = ((4096, 528, 4), (2048, 528, 4), (8192, 528, 8), (4096, 264, 4), (4096, 1056, 4), (2048, 1056, 2))
"""Activations of a tile, programs that share the sums, warps of a program."""
INPUTS, REPEATS, ROUNDS = (4, 5, 9) if torch.cuda.is_available() else (1, 1, 1)
"""Sets of inputs that take turns, so that the cache is not all that is measured; passes over them; timed rounds."""
KINDS = {
    "our norm kernels": r"^_(moments|finish_moments|norm_relu|gradient_sums|finish_sums|gradient)\b",
    "torch.compile's kernels": r"^triton_",
    "padding, layouts": r"nchwToNhwc|nhwcToNchw|[Pp]adding|tensorTransform",
    "convolutions": r"conv|fprop|dgrad|wgrad|xmma|implicit|cudnn",
    "matrix products": r"gemm|cutlass|splitK|nvjet|gemv",
    "batch norm of torch": r"batch_norm|bn_fw|bn_bw",
    "pooling": r"max_pool",
    "optimizer": r"multi_tensor",
    "copies, memset": r"[Mm]emset|[Mm]emcpy|[Cc]opy",
}


def main() -> None:
    """Measure one part and print it."""
    parser = argparse.ArgumentParser(description="where a GPU's time goes in ACTO's step")
    parser.add_argument("part", choices=["kernels", "steps", "profile"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=4, help="steps: timed epochs of each form")
    parser.add_argument("--forms", default="published", help="steps, profile: of ACTO, with commas between")
    parser.add_argument("--sweep", action="store_true", help="kernels: other sizes of tiles, too")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out: it takes half a minute")
    args = parser.parse_args()
    device = torch.device(args.device)
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name(device) if device.type == 'cuda' else device}")
    if args.part == "kernels":
        kernels(device, sweep=args.sweep, compiles=not args.no_compile)
    else:
        forms = [(f, step, fused) for f in args.forms.split(",") for step in MODES for fused in (False, True)]
        forms = [form for form in forms if form[1] == "graph" or not args.no_compile]
        (steps if args.part == "steps" else profile)(device, forms, rounds=args.rounds)


# One layer at a time.


def layer(number: int, form: str, device: torch.device) -> nn.Module:
    """Batch norm, ReLU and maximum of a layer of cnn7: "torch", "compiled" or "ours"."""
    channels, _, pools = LAYERS[number]
    net: nn.Module = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), *([nn.MaxPool2d(2)] if pools else []))
    if form == "ours":
        fuse_norms(net)
    net = net.to(device)
    torch.compiler.reset()  # all layers are of one class, of which torch.compile remembers eight at most
    return torch.compile(net, dynamic=False) if form == "compiled" else net  # type: ignore[return-value]


def passes(net: nn.Module, number: int, device: torch.device, *, back: bool) -> Callable[[], None]:
    """Forward passes, or forward and backward ones, over all sets of inputs."""
    channels, side, pools = LAYERS[number]
    batch = BATCH if device.type == "cuda" else 1
    small = side // 2 if pools else side

    def like(side: int) -> Tensor:
        values = torch.randn(batch, channels, side, side, device=device).bfloat16()
        return values.contiguous(memory_format=torch.channels_last)

    sets = [(like(side).requires_grad_(), like(small)) for _ in range(INPUTS)]

    def run() -> None:
        for _ in range(REPEATS):
            for given, gradient in sets:
                result = net(given)
                if back:
                    torch.autograd.grad(result, (given, *net.parameters()), gradient)

    return run


def microseconds(run: Callable[[], None], device: torch.device) -> float:
    """Median time of one of run()'s passes: on a GPU from a CUDA graph, so that Python's own time does not count."""
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    replay = run
    if stream is not None:
        with torch.cuda.stream(stream):
            run()
            run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            run()
        replay = graph.replay
    replay()
    times = []
    for _ in range(ROUNDS):
        wait_for(device)
        started = time.perf_counter()
        replay()
        wait_for(device)
        times.append(time.perf_counter() - started)
    return 1e6 * float(np.median(times)) / (INPUTS * REPEATS)


def bytes_of(number: int) -> tuple[int, int]:
    """Fewest bytes of the forward and of the backward pass in bfloat16: each reads its input twice."""
    channels, side, pools = LAYERS[number]
    whole = 2 * BATCH * channels * side * side
    result = whole // 4 if pools else whole
    return 2 * whole + result, 2 * (whole + result) + whole


def kernels(device: torch.device, *, sweep: bool, compiles: bool) -> None:
    """Time of each of cnn7's batch norms with what follows it; GB/s count the fewest bytes of two readings."""
    print("microseconds of a forward and backward pass (forward alone); GB/s of ours, forward and backward")
    sums = Counter[str]()
    for number, (channels, side, pools) in enumerate(LAYERS):
        found = {}
        for form in ("torch", "compiled", "ours"):
            if form == "compiled" and (not compiles or number not in COMPILED_LAYERS):
                continue
            try:
                times = [
                    microseconds(passes(layer(number, form, device), number, device, back=back), device)
                    for back in (False, True)
                ]
            except Exception as error:  # one form that fails is no reason to lose the others
                print(f"{form}, layer {number + 1}: {type(error).__name__}: {str(error).splitlines()[0]}")
                continue
            found[form] = times
            sums[form] += times[1]  # type: ignore[assignment]
        words = "  ".join(f"{form} {both:7.1f} ({forward:6.1f})" for form, (forward, both) in found.items())
        if "ours" in found:
            forward, both = found["ours"]
            there, back = bytes_of(number)
            words += f"  GB/s {there / forward / 1e3:6.0f} {back / max(both - forward, 1e-9) / 1e3:6.0f}"
        print(f"{channels:4} x {side:2} x {side:2} {'pooled' if pools else '      '} {words}", flush=True)
    least = sum(sum(bytes_of(number)) for number in range(len(LAYERS)))
    print("all layers: " + ", ".join(f"{form} {value:.0f}" for form, value in sums.items()))
    print(f"fewest bytes of all: {least / 1e6:.0f} MB")
    if device.type == "cuda":
        source = torch.empty(2**28, device=device)
        target = torch.empty_like(source)

        def copies() -> None:
            for _ in range(INPUTS * REPEATS):
                target.copy_(source)

        copy_us = microseconds(copies, device)
        print(f"a large copy: {8 * source.numel() / copy_us / 1e3:.0f} GB/s")
    if sweep:
        from acto.nets import gpu_kernels

        print("tile, parts, warps: microseconds, forward and backward, of layers 1, 2")
        for gpu_kernels.TILE, gpu_kernels.PARTS, gpu_kernels.WARPS in SWEEP:
            times = [
                microseconds(passes(layer(number, "ours", device), number, device, back=True), device)
                for number in (0, 1)
            ]
            size = f"{gpu_kernels.TILE}, {gpu_kernels.PARTS}, {gpu_kernels.WARPS}"
            print(f"{size:14} {times[0]:7.1f} {times[1]:7.1f}", flush=True)


# Whole epochs.


def actosteps(device: torch.device, batches: int, way: Way, *, rest: int = 0) -> ActoSteps:
    """ACTO's robust epochs of some whole batches, and a last one of `rest` pictures."""
    some = smooth_pictures(1_000, seed=3)
    count = batches * BATCH + rest
    pixels = some.repeat(count // len(some) + 1, axis=0)[:count]
    form, step, fused = way
    precision = torch.bfloat16 if device.type == "cuda" else torch.float32
    return ActoSteps(in_memory(pixels), device=device, precision=precision, step=step, fused_norms=fused, form=form)


def name_of(way: Way) -> str:
    """A form in words."""
    form, step, fused = way
    return f"{form}, {step}, {'fused norms' if fused else 'plain layers'}"


def steps(device: torch.device, forms: Sequence[Way], *, rounds: int) -> None:
    """Seconds of an epoch of 50,000 pictures in every form, in turns; milliseconds a step; what an epoch has on top.

    A step is the difference of a long and a short epoch. On top come the steps that are not replayed, the recording
    itself and the end of a turn.
    """
    long, short, rest = (390, 65, 80) if device.type == "cuda" else (2, 1, 0)
    made: dict[str, tuple[ActoSteps, ActoSteps]] = {}
    for way in forms:
        started = time.perf_counter()
        pair = tuple(actosteps(device, count, way, rest=rest) for count in (long, short))
        for part in pair:
            rate(part, device)
        joined = sum(isinstance(module, FusedNormReLU) for module in pair[0].training.method.modules())
        made[name_of(way)] = pair  # type: ignore[assignment]
        print(
            f"{name_of(way)}: {joined} fused layers, ready after {time.perf_counter() - started:.0f} s",
            flush=True,
        )
    seconds: dict[str, list[list[float]]] = {name: [] for name in made}
    for _ in range(rounds):
        for name, pair in made.items():
            seconds[name].append([part.data.num_samples / rate(part, device) for part in pair])
    print("form, seconds of an epoch (least, most), milliseconds a step, milliseconds on top")
    for name, found in seconds.items():
        whole, part = np.array(found).T
        each = (np.median(whole) - np.median(part)) / (long - short)
        on_top = np.median(whole) - long * each
        print(
            f"{name:36} {np.median(whole):.3f} ({whole.min():.3f} {whole.max():.3f})  {1e3 * each:.3f}  "
            f"{1e3 * on_top:.0f}"
        )


# The kernels of a step.


def profile(device: torch.device, forms: Sequence[Way], *, rounds: int) -> None:
    """Kernels of an epoch of some steps by time: microseconds and launches a step."""
    batches = 40 if device.type == "cuda" else 1
    activity = torch.profiler.ProfilerActivity.CUDA if device.type == "cuda" else torch.profiler.ProfilerActivity.CPU
    for way in forms:
        if way[1:] == ("graph", True):
            continue
        part = actosteps(device, batches, way)
        part.run()
        part.run()
        wait_for(device)
        with torch.profiler.profile(activities=[activity]) as found:
            part.run()
            wait_for(device)
        of = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
        rows: list[Any] = sorted(found.key_averages(), key=lambda event: -getattr(event, of))
        rows = [event for event in rows if getattr(event, of) > 0 and "#" not in event.key]  # no marks of spans
        kinds, launches = Counter[str](), Counter[str]()
        for event in rows:
            kind = next((kind for kind, form in KINDS.items() if re.search(form, event.key)), "the rest")
            kinds[kind] += getattr(event, of) / batches
            launches[kind] += event.count
        total, count = sum(kinds.values()), sum(launches.values()) / batches
        print(f"\n{name_of(way)}: {total:.0f} us a step, {count:.0f} launches")
        for kind, value in kinds.most_common():
            print(f"  {value:7.0f} us {launches[kind] / batches:6.1f}  {kind}")
        for event in rows[:30]:
            name = re.sub(r"void |at::native::|\(anonymous namespace\)::|<unnamed>::", "", event.key)
            print(f"{getattr(event, of) / batches:8.1f} us {event.count / batches:6.1f}  {name[:100]}")


if __name__ == "__main__":
    main()
