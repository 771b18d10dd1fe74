"""Operations on pictures, for many pictures at once, each with its own amount.

Pictures are (B, C, H, W) uint8, amounts (B,) float32. The published policies were made with Pillow, so the results are
Pillow's, bit for bit, except where a docstring says otherwise.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FILL = 128
"""Grey that stands where a shear, translation or rotation has uncovered the background."""


def posterize(pixels: Tensor, keep: Tensor) -> Tensor:
    """Keep the upper `keep` bits (1..8) of each value."""
    return pixels & (256 - 2 ** (8 - _each(keep.to(torch.int16)))).to(torch.uint8)


def solarize(pixels: Tensor, threshold: Tensor) -> Tensor:
    """Invert the values that are at least `threshold` (0..256)."""
    least = _each(threshold.ceil().to(torch.int16))
    above = (pixels >= least.clamp(max=255).to(torch.uint8)) & (least < 256)
    return pixels ^ above.to(torch.uint8).mul_(255)


def invert(pixels: Tensor) -> Tensor:
    """255 - value."""
    return ~pixels


def autocontrast(pixels: Tensor) -> Tensor:
    """Stretch each channel so that its smallest value becomes 0 and its largest 255."""
    flat = pixels.flatten(2)
    low, high = flat.amin(2, keepdim=True), flat.amax(2, keepdim=True)
    levels = torch.arange(256, device=pixels.device)
    wide = _wide(pixels.device)
    scale = torch.full_like(low, 255).to(wide) / (high - low).clamp(min=1)  # 255.0 / x would round twice
    stretched = (levels * scale - low.to(wide) * scale).clamp(0, 255)
    return _look_up(pixels, torch.where(high > low, stretched, levels).to(torch.uint8))


def equalize(pixels: Tensor) -> Tensor:
    """Spread each channel's values so that they are about equally frequent."""
    counts = _histogram(pixels)
    levels = torch.arange(256, dtype=torch.int32, device=pixels.device)
    largest = pixels.flatten(2).amax(2, keepdim=True).long()
    step = (pixels.shape[2] * pixels.shape[3] - counts.gather(2, largest)) // 255
    below = counts.cumsum(2, dtype=torch.int32) - counts
    spread = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255)
    return _look_up(pixels, torch.where(step > 0, spread, levels).to(torch.uint8))


def brightness(pixels: Tensor, factor: Tensor) -> Tensor:
    """0: black, 1: unchanged, above 1: brighter."""
    return _blend(torch.zeros((), device=pixels.device), pixels, factor)


def color(pixels: Tensor, factor: Tensor) -> Tensor:
    """0: grey, 1: unchanged, above 1: more colourful. Grey pictures stay as they are."""
    return _blend(_luminance(pixels).float(), pixels, factor)


def contrast(pixels: Tensor, factor: Tensor) -> Tensor:
    """0: the mean grey, 1: unchanged, above 1: more contrast."""
    count = pixels.shape[2] * pixels.shape[3]
    mean = (2 * _luminance(pixels).sum((1, 2, 3), keepdim=True) + count) // (2 * count)
    return _blend(mean.float(), pixels, factor)


def sharpness(pixels: Tensor, factor: Tensor) -> Tensor:
    """0: smoothed, 1: unchanged, above 1: sharpened."""
    return _blend(_smooth(pixels).float(), pixels, factor)


def shear_x(pixels: Tensor, slope: Tensor) -> Tensor:
    """Shift row y by slope * (y + 1/2) pixels, bicubic; positive to the left.

    In single precision, and truncated as Pillow truncates: some values are 1 off Pillow's.
    """
    height, width = pixels.shape[2:]
    wide = _wide(pixels.device)
    x, y = (torch.arange(length, device=pixels.device) for length in (width, height))
    offset = (slope.to(wide)[:, None] * (y + 0.5))[:, None, :, None]
    source = (x + 0.5) + offset  # (B, 1, H, W)
    whole = offset.floor()
    rest = (offset - whole).float()
    # The four neighbours of a place are those of its left one moved on, so three more columns serve all of them.
    column = torch.arange(-1, width + 2, device=pixels.device) + whole.long()
    neighbours = pixels.gather(3, column.clamp_(0, width - 1).expand(-1, pixels.shape[1], -1, -1)).float()
    a, b, c, d = (neighbours[..., k : k + width] for k in range(4))
    # Cubic convolution with a = -1 in nested form, which leaves flat regions exactly as they are.
    value = b + rest * (c - a + rest * (2 * (a - b) + c - d + rest * (b - a + d - c)))
    return torch.where((source >= 0) & (source < width), value.clamp_(0, 255).to(torch.uint8), FILL)


def shear_y(pixels: Tensor, slope: Tensor) -> Tensor:
    """Shift column x by slope * (x + 1/2) pixels, bicubic; positive upward. Precise as `shear_x`."""
    return shear_x(pixels.transpose(2, 3), slope).transpose(2, 3)


def translate_x(pixels: Tensor, share: Tensor) -> Tensor:
    """Move the picture by a share of its width, to whole pixels; positive to the left."""
    column = _moved(share, pixels.shape[3])
    inside = (column >= 0) & (column < pixels.shape[3])
    return torch.where(inside[:, None, None, :], take_columns(pixels, column.clamp(0, pixels.shape[3] - 1)), FILL)


def translate_y(pixels: Tensor, share: Tensor) -> Tensor:
    """Move the picture by a share of its height, to whole pixels; positive upward."""
    row = _moved(share, pixels.shape[2])
    inside = (row >= 0) & (row < pixels.shape[2])
    return torch.where(inside[:, None, :, None], take_rows(pixels, row.clamp(0, pixels.shape[2] - 1)), FILL)


def take_rows(pixels: Tensor, row: Tensor) -> Tensor:
    """(B, C, H', W): each picture's own rows; `row` (B, H') int64."""
    batch, channels, height, width = pixels.shape
    plane = torch.arange(batch * channels, device=pixels.device).view(batch, channels, 1) * height
    rows = pixels.reshape(-1, width).index_select(0, (plane + row[:, None]).flatten())
    return rows.view(batch, channels, -1, width)


def take_columns(pixels: Tensor, column: Tensor) -> Tensor:
    """(B, C, H, W'): each picture's own columns; `column` (B, W') int64."""
    return pixels.gather(3, column[:, None, None, :].expand(*pixels.shape[:3], -1))


def rotate(pixels: Tensor, degrees: Tensor) -> Tensor:
    """Turn about the centre, counter-clockwise, each pixel from its nearest source."""
    batch, channels, height, width = pixels.shape
    angle = -torch.deg2rad(degrees.to(_wide(pixels.device)))
    cos, sin = angle.cos(), angle.sin()
    # Pillow walks through the source in units of 1/65536 pixel.
    x_per_x, x_per_y = _each(_fixed(cos)), _each(_fixed(sin))
    y_per_x, y_per_y = _each(_fixed(-sin)), _each(_fixed(cos))
    x_start = _each(_fixed((1 - cos) * width / 2 - sin * height / 2 + (cos + sin) / 2))
    y_start = _each(_fixed((1 - cos) * height / 2 + sin * width / 2 + (cos - sin) / 2))
    x = torch.arange(width, device=pixels.device)
    y = torch.arange(height, device=pixels.device)[:, None]
    column = (x_start + x_per_x * x + x_per_y * y) >> 16
    row = (y_start + y_per_x * x + y_per_y * y) >> 16
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    source = (row * width + column).clamp_(0, height * width - 1).view(batch, 1, -1).expand(-1, channels, -1)
    turned = pixels.reshape(batch, channels, -1).gather(2, source).view_as(pixels)
    return torch.where(inside, turned, FILL)


def rotate_smoothly(pixels: Tensor, degrees: Tensor) -> Tensor:
    """Turn about the centre, counter-clockwise, bilinear, on black. For small pictures, which `rotate` makes ragged.

    At most 1 of 256 levels off torchvision's rotate.
    """
    height, width = pixels.shape[2:]
    cos, sin = torch.deg2rad(degrees).cos(), torch.deg2rad(degrees).sin()
    zero = torch.zeros_like(cos)
    across = torch.stack([cos, -sin * height / width, zero], 1)
    down = torch.stack([sin * width / height, cos, zero], 1)
    size = [len(pixels), 1, height, width]
    grid = F.affine_grid(torch.stack([across, down], 1), size, align_corners=False)
    return F.grid_sample(pixels.float(), grid, align_corners=False).round_().to(torch.uint8)


def cutout(pixels: Tensor, side: Tensor, place: Tensor, *, value: tuple[int, ...]) -> Tensor:
    """Paint a square of about `side` pixels (2 * floor(side / 2)); what lies outside the picture is lost.

    Args:
        pixels: the pictures.
        side: (B,).
        place: (B, 2) in [0, 1), the centre as shares of height and width.
        value: one for each channel, 0..255.
    """
    half = (side / 2).floor().long()

    def covered(share: Tensor, length: int) -> Tensor:
        start = (share * length).floor().long() - half
        position = torch.arange(length, device=pixels.device)
        return (position >= start[:, None]) & (position < (start + 2 * half)[:, None])

    rows = covered(place[:, 0], pixels.shape[2])[:, None, :, None]
    columns = covered(place[:, 1], pixels.shape[3])[:, None, None, :]
    paint = torch.tensor(value, dtype=torch.uint8, device=pixels.device).view(1, -1, 1, 1)
    return torch.where(rows & columns, paint, pixels)


def _each(amount: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1)."""
    return amount.view(-1, 1, 1, 1)


def _wide(device: torch.device) -> torch.dtype:
    """Double precision where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def _moved(share: Tensor, length: int) -> Tensor:
    """(B, length) int64: where each place comes from."""
    return torch.arange(length, device=share.device) + (share * length + 0.5).floor().long()[:, None]


def _fixed(value: Tensor) -> Tensor:
    return (value * 65536 + 0.5).floor().long()


def _look_up(pixels: Tensor, table: Tensor) -> Tensor:
    """Replace each value by its entry in the channel's table (B, C, 256) uint8."""
    return table.gather(2, pixels.flatten(2).long()).view_as(pixels)


def _histogram(pixels: Tensor) -> Tensor:
    """(B, C, 256) int32: how often each value occurs."""
    flat = pixels.flatten(2).long()
    counts = torch.zeros(*flat.shape[:2], 256, dtype=torch.int32, device=pixels.device)
    return counts.scatter_add_(2, flat, counts.new_ones(()).expand_as(flat))


def _luminance(pixels: Tensor) -> Tensor:
    """(B, 1, H, W) int32 grey, 0..255 (ITU-R 601-2)."""
    if pixels.shape[1] != 3:
        return pixels.int()
    red, green, blue = pixels.int().split(1, 1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _smooth(pixels: Tensor) -> Tensor:
    """Mean of each pixel's 3x3 neighbourhood with weight 5 of 13 in the middle; the border stays."""
    height, width = pixels.shape[2:]
    values = pixels.flatten().to(torch.int16)
    # All pictures as one line, which runs over their borders: those are thrown away below, and long lines are fast.
    total = _around(_around(values, 1), width) + 4 * values[width + 1 : -width - 1]
    means = (total.float() / 13 + 0.5).to(torch.uint8)
    inside = F.pad(torch.ones(height - 2, width - 2, dtype=torch.bool, device=pixels.device), (1, 1, 1, 1))
    return torch.where(inside, F.pad(means, (width + 1, width + 1)).view_as(pixels), pixels)


def _around(values: Tensor, step: int) -> Tensor:
    """Each value with those `step` before and behind it; 2 * step fewer."""
    return values[: -2 * step] + values[step:-step] + values[2 * step :]


def _blend(base: Tensor, pixels: Tensor, factor: Tensor) -> Tensor:
    """Base + factor * (pixels - base), cut to 0..255 and truncated."""
    return (pixels.float() - base).mul_(_each(factor)).add_(base).clamp_(0, 255).to(torch.uint8)
