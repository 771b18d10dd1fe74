"""Features of samples, gathered while a network predicts: no second look at the data is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOST_NUMBERS = 2**27
"""Numbers that are kept of all samples together, in half precision: 256 MiB. Beyond, features are projected onto fewer
random directions, which keep distances (Johnson and Lindenstrauss)."""
LEAST_DIRECTIONS = 64


class Features:
    """Features of samples, (N, D) of length 1 in half precision, as a network's head sees them and in that order.

    Args:
        net: a network with a head, see acto.nets.base.Net; in evaluation mode, while it is watched.
        num_samples: how many it will see.
    """

    def __init__(self, net: nn.Module, *, num_samples: int) -> None:
        self._net, self._num_samples = net, num_samples
        self._seen: Tensor | None = None
        self._directions: Tensor | None = None
        self._rows = torch.empty(0, 0, dtype=torch.float16)
        self._done = 0

    @property
    def rows(self) -> Tensor:
        """(N, D) on the CPU, of the samples seen so far."""
        return self._rows[: self._done]

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within, remember what the head is asked about."""

        def remember(head: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._seen = inputs[0].detach()

        handle = self._net.head.register_forward_pre_hook(remember)  # type: ignore[union-attr]
        try:
            yield
        finally:
            handle.remove()

    @torch.no_grad()
    def keep(self) -> None:
        """Keep the features of the batch that the network has looked at just now."""
        assert self._seen is not None, "the network has not been watched"
        seen = F.normalize(self._seen.float().flatten(1), dim=1)
        self._seen = None
        if not self._done:
            width = self._width(seen.shape[1])
            if width < seen.shape[1]:
                drawn = torch.randn(seen.shape[1], width, generator=torch.Generator().manual_seed(0))
                self._directions = drawn.to(seen.device)
            self._rows = torch.empty(self._num_samples, width, dtype=torch.float16)
        if self._directions is not None:
            seen = F.normalize(seen @ self._directions, dim=1)
        self._rows[self._done : self._done + len(seen)] = seen.half().cpu()
        self._done += len(seen)

    def _width(self, dim: int) -> int:
        return min(dim, max(LEAST_DIRECTIONS, MOST_NUMBERS // self._num_samples))
