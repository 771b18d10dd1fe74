"""Learning curves as SVG: laid out here in pixels, drawn by templates/chart.html.jinja."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 104, 14, 38
LABEL_DISTANCE = 15
"""Pixels between the lines' names at the right edge."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A value over the epochs, maybe averaged over seeds."""

    name: str
    mean: npt.NDArray[np.float64]
    """(epochs,); NaN where there is no value."""
    deviation: npt.NDArray[np.float64] | None = None
    """(epochs,) over the seeds; None: of one run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A curve as it is drawn, in pixels."""

    name: str
    path: str
    band: str
    """Around the curve; empty without a deviation."""
    label_y: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Learning curves as they are drawn, in pixels."""

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    warmup_x: float | None
    """Place where the warm-up ends."""
    counted_x: float | None
    """Place where the epochs begin whose mean is the headline."""
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM
    width: float = WIDTH
    height: float = HEIGHT


def draw(
    title: str, curves: Sequence[Curve], *, warmup_epochs: int | None = None, counted_epochs: int | None = None
) -> Chart:
    """Lay out accuracies, or other shares that end near 1: the axis ends at 1.

    Args:
        title: above the chart.
        curves: of equal length, in the order of their colours.
        warmup_epochs: where a mark stands; None or 0: nowhere.
        counted_epochs: how many of the last ones the headline averages; None: not marked.
    """
    low = min(float(np.nanmin(curve.mean - _deviation(curve))) for curve in curves)
    low = min(max(0.0, np.floor(10 * low) / 10), 0.9)
    step = 0.1 if low >= 0.4 else 0.2
    shares = np.arange(round(low / step), round(1 / step) + 1) * step
    ticks = [(share, f"{share:.0%}") for share in shares.tolist() if share >= low - 1e-9]
    return _lay_out(title, curves, low, 1.0, ticks, warmup_epochs, counted_epochs)


def draw_values(title: str, curves: Sequence[Curve], *, warmup_epochs: int | None = None) -> Chart:
    """Lay out values of any range; parameters as in `draw`."""
    values = np.concatenate([curve.mean[np.isfinite(curve.mean)] for curve in curves])
    low, high = float(values.min()), float(values.max())
    span = (high - low) or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span))
    step *= next(factor for factor in (0.2, 0.5, 1.0, 2.0) if span / (step * factor) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if first == last:
        last += 1
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = [(place * step, f"{place * step:.{digits}f}") for place in range(first, last + 1)]
    return _lay_out(title, curves, first * step, last * step, ticks, warmup_epochs, None)


def _lay_out(
    title: str,
    curves: Sequence[Curve],
    low: float,
    high: float,
    ticks: Sequence[tuple[float, str]],
    warmup_epochs: int | None,
    counted_epochs: int | None,
) -> Chart:
    epochs = len(curves[0].mean)

    def x(epoch: float) -> float:
        share = (epoch - 1) / (epochs - 1) if epochs > 1 else 0.5
        return round(LEFT + (WIDTH - LEFT - RIGHT) * share, 1)

    def y(value: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - (min(value, high) - low) / (high - low)), 1)

    def line(curve: Curve, place: float) -> Line:
        band = ""
        if curve.deviation is not None:
            above, below = (_points(curve.mean + sign * curve.deviation, x, y) for sign in (1, -1))
            band = " ".join([*above, *reversed(below)])
        return Line(name=curve.name, path=" ".join(_points(curve.mean, x, y)), band=band, label_y=place)

    places = _apart([y(_last(curve.mean)) for curve in curves])
    marks = sorted({1, *range(10, epochs - 4, max(10, 10 * (epochs // 100))), epochs})
    return Chart(
        title=title,
        lines=tuple(line(curve, place) for curve, place in zip(curves, places, strict=True)),
        x_ticks=tuple((x(epoch), str(epoch)) for epoch in marks),
        y_ticks=tuple((y(value), text) for value, text in ticks),
        warmup_x=x(warmup_epochs + 0.5) if warmup_epochs and warmup_epochs < epochs else None,
        counted_x=x(max(1, epochs - counted_epochs + 1)) if counted_epochs is not None else None,
    )


def _deviation(curve: Curve) -> npt.NDArray[np.float64] | float:
    return 0.0 if curve.deviation is None else curve.deviation


def _points(values: npt.NDArray[np.float64], x: Callable[[float], float], y: Callable[[float], float]) -> list[str]:
    return [f"{x(epoch)},{y(value)}" for epoch, value in enumerate(values.tolist(), start=1) if math.isfinite(value)]


def _last(values: npt.NDArray[np.float64]) -> float:
    return float(values[np.isfinite(values)][-1])


def _apart(heights: Sequence[float]) -> list[float]:
    """The same heights, moved so that no two are closer than a line of text; their order stays."""
    placed = list(heights)
    order = np.argsort(heights, kind="stable").tolist()
    for above, below in pairwise(order):
        placed[below] = max(placed[below], placed[above] + LABEL_DISTANCE)
    overlap = max(0.0, max(placed) - (HEIGHT - BOTTOM))
    return [height - overlap for height in placed]
