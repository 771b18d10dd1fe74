"""Batch norm in training, ReLU and a 2x2 maximum as Triton kernels: each pass reads the activations twice.

Activations lie channels last: row r, channel c at r * C + c. Statistics and all sums are float32, whatever the
activations are. A pass over a tensor of `rows` rows goes so: some hundred programs each take a chunk of rows and leave
its sums, one small kernel puts the chunks together, and a last kernel computes the results. No sum depends on the order
in which programs run, so results are the same in every run. A batch may hold several parts, each with statistics of its
own, and more channels than the K that have weights: they are zeros, and stay so.

Importing this takes a third of a second and needs the package triton, which torch brings along for CUDA devices; with
TRITON_INTERPRET=1 the same kernels run on the processor, slowly. acto.nets.gpu_layers imports it when it is needed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import cdiv, next_power_of_2

TILE = 8192
"""Activations that a program holds at once, at most."""
PARTS = 264
"""Programs that share the sums, at most: two for each multiprocessor of an H100 or H200."""
WARPS = 8
WIDEST = 128
"""Channels of a program, at most."""
FINISHED = 8
"""Channels of a program that puts chunks together."""


def moments(
    x: Tensor, running_mean: Tensor, running_var: Tensor, tracked: Tensor, *, momentum: float, eps: float, parts: int
) -> Tensor:
    """Mean and 1 / sqrt(variance + eps) of each channel; brings the running statistics up to date.

    Args:
        x: (B, C, H, W), channels last.
        running_mean: (K,) float32, changed in place. Channels from K on are there to fill up.
        running_var: (K,) float32, changed in place, by the unbiased variance.
        tracked: () int64, counted up.
        momentum: share of the batch in the running statistics.
        eps: added to the variance.
        parts: of the batch, of the same size, one behind the other.

    Returns:
        (parts, 2, C) float32.
    """
    channels = x.shape[1]
    rows = x.numel() // channels // parts
    block, width, chunk, chunks = _shares(rows, channels)
    stats = torch.empty(parts, 2, channels, dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        for given, found in zip(x.chunk(parts), stats, strict=True):
            sums = torch.empty(2, chunks, channels, dtype=torch.float32, device=x.device)
            _moments[(chunks, cdiv(channels, width))](
                given, sums, rows, chunk, chunks, channels, block, width, num_warps=WARPS
            )  # fmt: skip
            _finish_moments[(cdiv(channels, FINISHED),)](
                sums, found, running_mean, running_var, tracked, rows, chunk, chunks, momentum, eps, channels,
                len(running_mean), next_power_of_2(chunks), FINISHED, num_warps=WARPS,
            )  # fmt: skip
    return stats


def norm_relu(x: Tensor, stats: Tensor, weight: Tensor, bias: Tensor, y: Tensor) -> None:
    """Normalize, scale, shift, cut off below zero, and take 2x2 maxima where `y` has half the height.

    Args:
        x: (B, C, H, W), channels last.
        stats: (parts, 2, C), see `moments`.
        weight: (K,) float32.
        bias: (K,) float32.
        y: (B, C, H, W) or (B, C, H // 2, W // 2), channels last; filled.
    """
    channels, height, width = x.shape[1:]
    pools = y.shape[2:] != x.shape[2:]
    rows = y.numel() // channels // len(stats)
    block, lanes, _, _ = _shares(rows, channels, held=4 if pools else 1)
    with torch.cuda.device_of(x):
        for given, known, made in zip(x.chunk(len(stats)), stats, y.chunk(len(stats)), strict=True):
            _norm_relu[(cdiv(rows, block), cdiv(channels, lanes))](
                given, known, weight, bias, made, rows, channels, len(weight), height, width, pools, block, lanes,
                num_warps=WARPS,
            )  # fmt: skip


def norm_relu_backward(
    gradient: Tensor, x: Tensor, stats: Tensor, weight: Tensor, bias: Tensor, given: Tensor, learned: Tensor
) -> None:
    """Gradients of what `norm_relu` computes, through the statistics too.

    Args:
        gradient: of the results, in their shape, channels last.
        x: as in the forward pass, like the next three.
        stats: (parts, 2, C).
        weight: (K,).
        bias: (K,).
        given: (B, C, H, W), channels last; filled with the gradient of x.
        learned: (parts, 2, C) float32; filled with the gradients of bias and weight.
    """
    channels, height, width = x.shape[1:]
    pools = gradient.shape[2:] != x.shape[2:]
    parts, features = len(stats), len(weight)
    rows, count = gradient.numel() // channels // parts, x.numel() // channels // parts
    block, lanes, chunk, chunks = _shares(rows, channels, held=4 if pools else 1)
    # Where a maximum was taken a program has windows of four places, those cut short by an odd edge included.
    all_rows = x.shape[0] // parts * cdiv(height, 2) * cdiv(width, 2) if pools else rows
    tensors = (gradient.chunk(parts), x.chunk(parts), stats, given.chunk(parts), learned)
    with torch.cuda.device_of(x):
        for back, there, known, filled, sides in zip(*tensors, strict=True):
            sums = torch.empty(2, chunks, channels, dtype=torch.float32, device=x.device)
            _gradient_sums[(chunks, cdiv(channels, lanes))](
                back, there, known, weight, bias, sums, rows, chunk, chunks, channels, features, height, width, pools,
                block, lanes, num_warps=WARPS,
            )  # fmt: skip
            _finish_sums[(cdiv(channels, FINISHED),)](
                sums, sides, chunks, channels, next_power_of_2(chunks), FINISHED, num_warps=WARPS
            )
            _gradient[(cdiv(all_rows, block), cdiv(channels, lanes))](
                back, there, known, weight, bias, sides, filled, all_rows, count, channels, features, height, width,
                pools, block, lanes, num_warps=WARPS,
            )  # fmt: skip


def _shares(rows: int, channels: int, *, held: int = 1) -> tuple[int, int, int, int]:
    """Rows and channels of a tile, rows of a chunk, a multiple of the former, and the number of chunks."""
    lanes = min(next_power_of_2(channels), WIDEST)
    block = max(min(TILE // (lanes * held), next_power_of_2(rows)), 1)
    most = max(PARTS // cdiv(channels, lanes), 1)
    chunk = cdiv(cdiv(rows, most), block) * block
    return block, lanes, chunk, cdiv(rows, chunk)


@triton.jit
def _moments(x, sums, rows, chunk, parts, C: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr):
    """Means of a chunk's channels, and sums of squared distances from them, by Welford's updates in every lane."""
    part = tl.program_id(0)
    columns = tl.program_id(1) * LANES + tl.arange(0, LANES)
    lanes = tl.arange(0, BLOCK)
    first = part * chunk
    mean = tl.zeros((BLOCK, LANES), tl.float32)
    squares = tl.zeros((BLOCK, LANES), tl.float32)
    seen = 0.0
    for start in range(0, chunk, BLOCK):
        row = first + start + lanes
        inside = (row < rows)[:, None] & (columns < C)[None, :]
        value = tl.load(x + row[:, None] * C + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        seen += 1.0
        off = value - mean
        moved = mean + off / seen
        squares = tl.where(inside, squares + off * (value - moved), squares)
        mean = tl.where(inside, moved, mean)
    left = tl.minimum(rows - first, chunk)
    each = tl.maximum((left - lanes + BLOCK - 1) // BLOCK, 0).to(tl.float32)[:, None]
    centre = tl.sum(mean * each, 0) / left.to(tl.float32)
    off = mean - centre[None, :]
    place = part * C + columns
    tl.store(sums + place, centre, mask=columns < C)
    tl.store(sums + parts * C + place, tl.sum(squares + each * off * off, 0), mask=columns < C)


@triton.jit
def _finish_moments(
    sums, stats, running_mean, running_var, tracked, rows, chunk, parts, momentum, eps,
    C: tl.constexpr, K: tl.constexpr, PARTS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    columns = tl.program_id(0) * LANES + tl.arange(0, LANES)
    known = columns < C
    part = tl.arange(0, PARTS)
    inside = (part < parts)[:, None] & known[None, :]
    place = part[:, None] * C + columns[None, :]
    means = tl.load(sums + place, mask=inside, other=0.0)
    squares = tl.load(sums + parts * C + place, mask=inside, other=0.0)
    each = tl.maximum(tl.minimum(rows - part * chunk, chunk), 0).to(tl.float32)[:, None]
    mean = tl.sum(means * each, 0) / rows
    off = means - mean[None, :]
    square = tl.sum(squares + each * off * off, 0)
    tl.store(stats + columns, mean, mask=known)
    tl.store(stats + C + columns, 1.0 / tl.sqrt(square / rows + eps), mask=known)
    kept = columns < K
    before = tl.load(running_mean + columns, mask=kept)
    tl.store(running_mean + columns, before + momentum * (mean - before), mask=kept)
    before = tl.load(running_var + columns, mask=kept)
    tl.store(running_var + columns, before + momentum * (square / (rows - 1) - before), mask=kept)
    if tl.program_id(0) == 0:
        tl.store(tracked, tl.load(tracked) + 1)


@triton.jit
def _place(row, H: tl.constexpr, W: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr):
    """Row of x of a window's upper left place, and that place in its picture; there are HIGH x WIDE windows in one."""
    left = row % WIDE * 2
    upper = row // WIDE % HIGH * 2
    return (row // (WIDE * HIGH) * H + upper) * W + left, upper, left


@triton.jit
def _active(x, place, inside, mean, scale, bias, dtype: tl.constexpr):
    """Input less its mean, and the result of batch norm as the layer behind sees it: rounded, not yet cut off."""
    off = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) - mean
    return off, (off * scale + bias).to(dtype).to(tl.float32)


@triton.jit
def _larger(best, other):
    """True where the later of two places has the maximum: the first one of equals has it; what is no number wins."""
    return (other > best) | (other != other)


@triton.jit
def _norm_relu(
    x, stats, weight, bias, y, rows, C: tl.constexpr, K: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    POOLS: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    columns = tl.program_id(1) * LANES + tl.arange(0, LANES)
    known = columns < C
    mean = tl.load(stats + columns, mask=known, other=0.0)[None, :]
    scale = tl.load(weight + columns, mask=columns < K, other=0.0)
    scale = (scale * tl.load(stats + C + columns, mask=known, other=0.0))[None, :]
    shift = tl.load(bias + columns, mask=columns < K, other=0.0)[None, :]
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & known[None, :]
    dtype: tl.constexpr = y.dtype.element_ty
    if POOLS:
        source, _, _ = _place(row, H, W, H // 2, W // 2)
        place = source[:, None] * C + columns[None, :]
        _, best = _active(x, place, inside, mean, scale, shift, dtype)
        _, other = _active(x, place + C, inside, mean, scale, shift, dtype)
        best = tl.where(_larger(best, other), other, best)
        _, other = _active(x, place + W * C, inside, mean, scale, shift, dtype)
        best = tl.where(_larger(best, other), other, best)
        _, other = _active(x, place + W * C + C, inside, mean, scale, shift, dtype)
        best = tl.where(_larger(best, other), other, best)
    else:
        _, best = _active(x, row[:, None] * C + columns[None, :], inside, mean, scale, shift, dtype)
    # What is no number stays so: a loss that went wrong has to be seen.
    best = tl.where(best < 0.0, 0.0, best)
    tl.store(y + row[:, None] * C + columns[None, :], best.to(dtype), mask=inside)


@triton.jit
def _gradient_sums(
    gradient, x, stats, weight, bias, sums, rows, chunk, parts, C: tl.constexpr, K: tl.constexpr, H: tl.constexpr,
    W: tl.constexpr, POOLS: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Sums of a chunk: of the gradient behind the batch norm, and of its products with the normalized input."""
    part = tl.program_id(0)
    columns = tl.program_id(1) * LANES + tl.arange(0, LANES)
    known = columns < C
    mean = tl.load(stats + columns, mask=known, other=0.0)[None, :]
    inverse = tl.load(stats + C + columns, mask=known, other=0.0)
    scale = (tl.load(weight + columns, mask=columns < K, other=0.0) * inverse)[None, :]
    shift = tl.load(bias + columns, mask=columns < K, other=0.0)[None, :]
    dtype: tl.constexpr = gradient.dtype.element_ty
    total = tl.zeros((BLOCK, LANES), tl.float32)
    moment = tl.zeros((BLOCK, LANES), tl.float32)
    for start in range(0, chunk, BLOCK):
        row = part * chunk + start + tl.arange(0, BLOCK)
        inside = (row < rows)[:, None] & known[None, :]
        back = tl.load(gradient + row[:, None] * C + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        if POOLS:
            source, _, _ = _place(row, H, W, H // 2, W // 2)
            place = source[:, None] * C + columns[None, :]
            off, best = _active(x, place, inside, mean, scale, shift, dtype)
            new, other = _active(x, place + C, inside, mean, scale, shift, dtype)
            off = tl.where(_larger(best, other), new, off)
            best = tl.where(_larger(best, other), other, best)
            new, other = _active(x, place + W * C, inside, mean, scale, shift, dtype)
            off = tl.where(_larger(best, other), new, off)
            best = tl.where(_larger(best, other), other, best)
            new, other = _active(x, place + W * C + C, inside, mean, scale, shift, dtype)
            off = tl.where(_larger(best, other), new, off)
            best = tl.where(_larger(best, other), other, best)
        else:
            off, best = _active(x, row[:, None] * C + columns[None, :], inside, mean, scale, shift, dtype)
        back = tl.where(best <= 0.0, 0.0, back)
        total += back
        moment += back * off
    place = part * C + columns
    tl.store(sums + place, tl.sum(total, 0), mask=known)
    tl.store(sums + parts * C + place, tl.sum(moment, 0) * inverse, mask=known)


@triton.jit
def _finish_sums(sums, learned, parts, C: tl.constexpr, PARTS: tl.constexpr, LANES: tl.constexpr):
    columns = tl.program_id(0) * LANES + tl.arange(0, LANES)
    part = tl.arange(0, PARTS)
    inside = (part < parts)[:, None] & (columns < C)[None, :]
    place = part[:, None] * C + columns[None, :]
    tl.store(learned + columns, tl.sum(tl.load(sums + place, mask=inside, other=0.0), 0), mask=columns < C)
    moment = tl.sum(tl.load(sums + parts * C + place, mask=inside, other=0.0), 0)
    tl.store(learned + C + columns, moment, mask=columns < C)


@triton.jit
def _put(given, place, inside, back, off, scale, inverse, level, slope):
    """The gradient of x at a place: what came back, less what the statistics take of it."""
    value = scale * (back - level - off * inverse * slope)
    tl.store(given + place, value.to(given.dtype.element_ty), mask=inside)


@triton.jit
def _gradient(
    gradient, x, stats, weight, bias, learned, given, rows, count, C: tl.constexpr, K: tl.constexpr, H: tl.constexpr,
    W: tl.constexpr, POOLS: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Gradient of x. Of a window of four places only the one that had the maximum gets what came back."""
    columns = tl.program_id(1) * LANES + tl.arange(0, LANES)
    known = columns < C
    mean = tl.load(stats + columns, mask=known, other=0.0)[None, :]
    inverse = tl.load(stats + C + columns, mask=known, other=0.0)[None, :]
    scale = tl.load(weight + columns, mask=columns < K, other=0.0)[None, :] * inverse
    shift = tl.load(bias + columns, mask=columns < K, other=0.0)[None, :]
    level = (tl.load(learned + columns, mask=known, other=0.0) / count)[None, :]
    slope = (tl.load(learned + C + columns, mask=known, other=0.0) / count)[None, :]
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & known[None, :]
    dtype: tl.constexpr = gradient.dtype.element_ty
    if POOLS:
        source, upper, left = _place(row, H, W, (H + 1) // 2, (W + 1) // 2)
        place = source[:, None] * C + columns[None, :]
        right = inside & (left + 1 < W)[:, None]
        below = inside & (upper + 1 < H)[:, None]
        whole = right & below
        if H % 2 == 0 and W % 2 == 0:
            window = row
        else:
            window = (row // ((H + 1) // 2 * ((W + 1) // 2)) * (H // 2) + upper // 2) * (W // 2) + left // 2
        back = tl.load(gradient + window[:, None] * C + columns[None, :], mask=whole, other=0.0).to(tl.float32)
        off0, best = _active(x, place, inside, mean, scale, shift, dtype)
        off1, other1 = _active(x, place + C, right, mean, scale, shift, dtype)
        off2, other2 = _active(x, place + W * C, below, mean, scale, shift, dtype)
        off3, other3 = _active(x, place + W * C + C, whole, mean, scale, shift, dtype)
        last1 = _larger(best, other1)
        best = tl.where(last1, other1, best)
        last2 = _larger(best, other2)
        best = tl.where(last2, other2, best)
        last3 = _larger(best, other3)
        best = tl.where(last3, other3, best)
        back = tl.where(best <= 0.0, 0.0, back)
        _put(given, place, inside, tl.where(last1 | last2 | last3, 0.0, back), off0, scale, inverse, level, slope)
        won = last1 & ~last2 & ~last3
        _put(given, place + C, right, tl.where(won, back, 0.0), off1, scale, inverse, level, slope)
        won = last2 & ~last3
        _put(given, place + W * C, below, tl.where(won, back, 0.0), off2, scale, inverse, level, slope)
        _put(given, place + W * C + C, whole, tl.where(last3, back, 0.0), off3, scale, inverse, level, slope)
    else:
        place = row[:, None] * C + columns[None, :]
        back = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
        off, active = _active(x, place, inside, mean, scale, shift, dtype)
        back = tl.where(active <= 0.0, 0.0, back)
        _put(given, place, inside, back, off, scale, inverse, level, slope)
