"""Settings of views: which pipeline, which size, which mean and deviation of the pixels."""

from __future__ import annotations

from dataclasses import dataclass

from acto.core.errors import UserError, choose

PIPELINES = ("cifar", "photo", "digits", "fashion", "small", "vectors")
VIEWS = ("none", "weak", "strong")


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewSpec:
    """Settings of the views of a source. The views belong to the data, never to the method."""

    pipeline: str
    """One of PIPELINES."""
    size: int | None = None
    """Side of the square that the network sees, in pixels; None: pictures are used as large as they are."""
    resize: int | None = None
    """Short side to which a picture FILE is scaled before its window is taken; None: `size`. Without a size the side to
    which all pictures were brought in memory; None: they are as they came."""
    mean: tuple[float, ...] = ()
    """A channel's mean, pixels counted from 0 to 1 (a feature's mean for vectors); empty: 0."""
    std: tuple[float, ...] = ()
    """A channel's standard deviation on the same scale; empty: 1."""

    def __post_init__(self) -> None:
        choose("pipeline", self.pipeline, PIPELINES)
        if len(self.mean) != len(self.std):
            raise UserError(f"a view needs a mean and a deviation for each channel, not {self.mean} and {self.std}")
        if any(not deviation > 0 for deviation in self.std):
            raise UserError(f"a view's deviations must be above 0, not {self.std}")
        for name in ("size", "resize"):
            side = getattr(self, name)
            if side is not None and side < 1:
                raise UserError(f"a view's {name} is {side} pixels, but must be at least 1")
        if self.size is not None and self.resize is not None and self.resize < self.size:
            raise UserError(f"pictures scaled to {self.resize} pixels are too small for a window of {self.size}")
