"""Lower bounds on the time of one ACTO step on this machine: arithmetic, memory traffic, convolutions.

Each floor is a count divided by a rate that is measured beside it. None is a promise that it can be reached.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from acto.core.types import Clock, Stream
from acto.diagnostics.timed_parts import BATCH, SIDE, ActoSteps, cnn7, wait_for
from acto.nets.cpu_layers import PRODUCTS_LEFT, has_fast_form

PRODUCT_SIDE = {"cpu": 512, "cuda": 8192}
"""Rows and columns of the matrices whose product is timed. On a processor it takes about a millisecond, so that some of
them run undisturbed on a busy machine."""
COPY_BYTES = {"cpu": 2**26, "cuda": 2**30}
FEWEST_CALLS = 5
RECORDED_CALLS = 20
PASSES = 3
"""ACTO's robust step takes each convolution three times forward and three times backward: RTM sees both views, NTM
one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Work of one robust step of ACTO at batch 128."""

    flops: int
    """Operations of convolutions and matrix products, forward and backward, as torch counts them: 2 for a
    multiply-add."""
    saved_flops: int
    """Operations of these that a processor's C kernels do without, see acto.nets.cpu_layers."""
    bytes: int
    """Moved if everything else were fused into these operations: each reads its operands once and writes its results
    once, in the step's number format; and SGD reads weight, gradient and momentum and writes weight and momentum in
    float32. Batch norm, activations, pooling, views and memories are left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """Best rates of the machine, measured here."""

    flops_per_second: float
    """Operations a second of a large matrix product in the step's number format."""
    bytes_per_second: float
    """Read plus written, of a copy that is larger than the caches."""


def count_work(steps: ActoSteps, precision: torch.dtype) -> Work:
    """Count the work of one robust step by taking its loss and gradients, without a step of the optimizer.

    `steps` must be eager: torch counts its own operations alone. Counted are batches of 2 and of 4: all counts are
    straight lines over the size of the batch.
    """
    (flops_2, bytes_2), (flops_4, bytes_4) = (_count(steps, size, precision) for size in (2, 4))
    pairs = (BATCH - 2) // 2
    update = 5 * 4 * sum(p.numel() for net in steps.training.method.nets for p in net.parameters())
    return Work(
        flops=flops_2 + pairs * (flops_4 - flops_2),
        saved_flops=round((1 - PRODUCTS_LEFT) * _flops_with_fast_form()),
        bytes=bytes_2 + pairs * (bytes_4 - bytes_2) + update,
    )


def _flops_with_fast_form() -> int:
    """Count the operations of convolutions that the C kernels have a form for: forward, pictures' and weights'
    gradient.
    """
    return sum(
        PASSES * 3 * 2 * layer.weight.numel() * shape[0] * shape[2] * shape[3]
        for layer, shape in _convolutions()
        if has_fast_form(layer)
    )


def _count(steps: ActoSteps, batch_size: int, precision: torch.dtype) -> tuple[int, int]:
    """Operations and bytes of the gradients of one batch."""
    method, training = steps.training.method, steps.training
    batch = next(steps.data.batches(Stream(views=method.views, batch_size=batch_size), epoch=0))
    parameters = [p for net in method.nets for p in net.parameters()]
    item = torch.empty((), dtype=precision).element_size()
    with (
        FlopCounterMode(display=False) as flops,
        FlopCounterMode(display=False, custom_mapping=_moved(item)) as moved,
    ):
        with training.autocast():
            loss = method.loss((batch,), Clock(0, training.protocol.epochs)).loss
        torch.autograd.grad(loss, parameters, allow_unused=True)
    return flops.get_total_flops(), moved.get_total_flops()


def _moved(item: int) -> dict[Any, Callable[..., int]]:
    """For torch's counter: formulas that count bytes where its own count operations. They are given shapes.

    Args:
        item: bytes of a number.
    """

    def moved(*operands: Any, out_shape: Any, **settings: Any) -> int:
        results = out_shape if not isinstance(out_shape, torch.Size) else (out_shape,)
        # What is no shape: strides and the like, and the gradient of the pictures, which nobody wants.
        return item * sum(part.numel() for part in (*operands, *results) if isinstance(part, torch.Size))

    aten = torch.ops.aten
    return dict.fromkeys((aten.convolution, aten.convolution_backward, aten.mm, aten.addmm, aten.bmm), moved)


def measure_rates(device: torch.device, precision: torch.dtype) -> Rates:
    """The best of a few products and copies."""
    side = PRODUCT_SIDE.get(device.type, 512)
    a, b = (torch.randn(side, side, device=device).to(precision) for _ in range(2))
    product = best_seconds(lambda: a @ b, device, least=0.5)
    source = torch.zeros(COPY_BYTES.get(device.type, 2**26) // 4, device=device)
    target = torch.zeros_like(source)
    copy = best_seconds(lambda: target.copy_(source), device, least=0.5)
    return Rates(flops_per_second=2 * side**3 / product, bytes_per_second=2 * 4 * source.numel() / copy)


def convolution_seconds(device: torch.device, precision: torch.dtype) -> float:
    """PASSES times the best times of cnn7's six convolutions alone, forward and backward, at batch 128."""

    def like(shape: torch.Size) -> Tensor:
        return torch.randn(shape, device=device).to(precision).contiguous(memory_format=torch.channels_last)

    seconds = 0.0
    for number, (layer, shape) in enumerate(_convolutions()):
        layer = layer.to(device, precision).to(memory_format=torch.channels_last)
        given = like(shape).requires_grad_(number > 0)  # the pictures want no gradient
        wanted = [*layer.parameters(), *([given] if number else [])]
        gradient = like(layer(given).shape)
        seconds += best_seconds(partial(_there_and_back, layer, given, wanted, gradient), device, least=0.15)
    return PASSES * seconds


def _there_and_back(layer: nn.Module, given: Tensor, wanted: list[Tensor], gradient: Tensor) -> None:
    torch.autograd.grad(layer(given), wanted, gradient)


def _convolutions() -> list[tuple[nn.Conv2d, torch.Size]]:
    """Those of cnn7 with the shape that each is given at batch 128."""
    net = cnn7().eval()
    shapes: list[torch.Size] = []
    layers = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    hooks = [layer.register_forward_pre_hook(lambda layer, given: shapes.append(given[0].shape)) for layer in layers]
    with torch.no_grad():
        net(torch.zeros(1, 3, SIDE, SIDE))
    for hook in hooks:
        hook.remove()
    return [(layer, torch.Size((BATCH, *shape[1:]))) for layer, shape in zip(layers, shapes, strict=True)]


def best_seconds(work: Callable[[], object], device: torch.device, *, least: float) -> float:
    """The shortest time of one call; calls go on for `least` seconds, and at least five times.

    On a CUDA device many calls are recorded as one graph: a convolution takes less time there than asking for it.
    """
    work()
    together = 1
    if device.type == "cuda":
        work, together = _recorded(work, device), RECORDED_CALLS
    best, spent, calls = float("inf"), 0.0, 0
    while spent < least or calls < FEWEST_CALLS:
        wait_for(device)
        started = time.perf_counter()
        work()
        wait_for(device)
        seconds = time.perf_counter() - started
        best, spent, calls = min(best, seconds), spent + seconds, calls + 1
    return best / together


def _recorded(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        for _ in range(3):  # libraries choose their kernels and get their memory before a recording
            work()
    wait_for(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(RECORDED_CALLS):
            work()
    return graph.replay
