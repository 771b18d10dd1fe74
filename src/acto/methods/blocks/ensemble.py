"""Predictions of two networks that count alike."""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn


def pair_predictions(nets: Iterable[nn.Module], images: Tensor) -> dict[str, Tensor]:
    """Predict by the sum of two networks' logits, and by each of them: (B, ...) -> (B, K) probabilities by name."""
    first, second = (net(images) for net in nets)
    logits = {"ensemble": first + second, "net0": first, "net1": second}
    return {name: F.softmax(values, dim=1) for name, values in logits.items()}
