"""Pictures as one array of four axes, as scikit-learn's and torch's users pass them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError

CHANNELS = (1, 3)


def has_picture_shape(values: Any) -> bool:
    """Say whether `values` have three axes or more: no table of features, and possibly pictures."""
    shape = getattr(values, "shape", None)
    if shape is None and isinstance(values, list | tuple) and values:
        return len(getattr(values[0], "shape", ())) > 1
    return shape is not None and len(shape) > 2


def shape_of(values: Any) -> tuple[int, ...]:
    """The shape of an array, a tensor on any device, or a list of arrays."""
    return tuple(getattr(values, "shape", None) or np.shape(values))


def channels_first(shape: tuple[int, ...], what: str = "X") -> bool:
    """Say whether pictures of this shape, (N, C, H, W) or (N, H, W, C), have their channels in front.

    Raises:
        UserError: it is neither, or could be both.
    """
    if len(shape) == 3:
        raise UserError(
            f"{what} has the shape {shape}: pictures have four axes, grey ones (N, H, W, 1): pass {what}[..., None]"
        )
    if len(shape) != 4:
        raise UserError(
            f"{what} must be (N, D) features, or pictures of shape (N, H, W, C) or (N, C, H, W), not {shape}"
        )
    front, back = shape[1] in CHANNELS, shape[3] in CHANNELS
    if front and back:
        raise UserError(
            f"{what} has the shape {shape}, which may be (N, C, H, W) or (N, H, W, C): pictures that are 1 or 3 pixels "
            "wide or high cannot be told from their channels"
        )
    if not front and not back:
        raise UserError(
            f"{what} has the shape {shape}, but pictures have 1 or 3 channels, in (N, H, W, C) or (N, C, H, W): leave "
            "transparency away, and pass other layers as features, reshape(N, -1)"
        )
    return front


def pixels_of(values: Any, what: str = "X") -> npt.NDArray[np.uint8]:
    """Bring pictures to (N, H, W, C) uint8.

    Args:
        values: (N, H, W, C) or (N, C, H, W): whole numbers from 0 to 255, or floats from 0 to 1, of which each is
            rounded to the nearest 255th.
        what: their name in messages.

    Raises:
        UserError: another shape or other numbers, each with what helps.
    """
    if isinstance(values, list | tuple):
        shapes = [np.shape(value) for value in values]
        if other := next((row for row, shape in enumerate(shapes) if shape != shapes[0]), None):
            raise UserError(
                f"{what} has pictures of other shapes: {shapes[0]} in row 0, {shapes[other]} in row {other}"
            )
        values = np.stack([np.asarray(value) for value in values])
    if hasattr(values, "detach"):  # a tensor, which may lie on a device
        values = values.detach().cpu()
    pixels = np.asarray(values)
    is_first = channels_first(pixels.shape, what)
    if not pixels.size:
        raise UserError(f"{what} has no pictures: its shape is {pixels.shape}")
    if pixels.dtype.kind not in "iuf":
        raise UserError(f"{what} must be uint8, or floats from 0 to 1, not {pixels.dtype}")
    if pixels.dtype != np.uint8:
        pixels = _as_bytes(pixels, what)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1) if is_first else pixels)


def _as_bytes(values: npt.NDArray[Any], what: str) -> npt.NDArray[np.uint8]:
    is_float = values.dtype.kind == "f"
    if is_float and not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(1))[0])
        raise UserError(f"{what} contains NaN or infinity: row {row}")
    low, high = values.min(), values.max()
    if is_float and low >= 0 and high <= 1:
        return np.rint(values * values.dtype.type(255)).astype(np.uint8)
    if not is_float and low >= 0 and high <= 255:
        return values.astype(np.uint8)
    if low >= 0 and high <= 255:
        helps = "pass X.astype('uint8') if they count to 255, or X / 255"
    elif low >= 0:
        helps = "of 16 bits pass (X / 257).round().astype('uint8')"
    else:
        helps = "pass them before they are normalized, which is done inside"
    raise UserError(
        f"{what} holds {values.dtype} from {low:g} to {high:g}, but pictures are uint8, or floats from 0 to 1: {helps}"
    )
