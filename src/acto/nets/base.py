"""Net: what every network of the package is, and the head that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acto.core.errors import UserError

Shape = tuple[int, ...]
"""Shape of one sample: (C, H, W) for pictures, (D,) for feature vectors."""
JOINED = 2
"""Views that go through a network at once."""


class Head(nn.Linear):
    """A linear layer that computes in float32 (float64 in a float64 network), whatever autocast or the features say.

    In bfloat16 1.6 % of 100-class rows tie for the first place, and the first place is what sample selection looks at.
    """

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) features -> (B, K) logits."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(features.to(dtype), self.weight.to(dtype), self.bias.to(dtype))


class Net(nn.Module):
    """A classifier whose forward is head(features(images)); its keys are `backbone.*`, `head.weight`, `head.bias`."""

    def __init__(
        self,
        backbone: nn.Module,
        *,
        name: str,
        input_shape: Shape,
        feature_dim: int,
        num_classes: int,
        head_key: str | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.input_shape = input_shape
        self.feature_dim = feature_dim
        self.head_key = head_key
        """Name of the head in the backbone's own library ("fc" in torchvision); None where there is no such library."""
        self.backbone = backbone
        self.head = Head(feature_dim, num_classes)
        he_normal(self.head)
        self.has_new_head = True
        """No weights came for it, see acto.training.heads."""
        self.compiled_batch: int | None = None
        """Training batches of this many samples go through torch.compile, see acto.training.compiled_nets."""
        self.follows = False
        """Nothing trains it: it is the moving average of another one, and guesses on that one's batches."""
        self.joins_views = False
        """Its batch norms keep several views of a batch apart, see acto.nets.gpu_layers."""

    def features(self, images: Tensor) -> Tensor:
        """(B, *input_shape) -> (B, D), what the head sees.

        Raises:
            UserError: samples of another shape than the network was built for.
        """
        if images.shape[1:] != self.input_shape:
            shape = tuple(images.shape[1:])
            raise UserError(f"net {self.name!r} was built for samples of shape {self.input_shape}, but got {shape}")
        return self.backbone(images)

    def forward(self, images: Tensor) -> Tensor:
        """(B, *input_shape) -> (B, K) float32 logits."""
        learns = self.training and torch.is_grad_enabled()
        whole = self.compiled_batch is not None and len(images) in (self.compiled_batch, JOINED * self.compiled_batch)
        if whole and (learns or self.follows):
            return _compiled()(self, images)
        return _logits(self, images)

    def of_views(self, views: Sequence[Tensor]) -> list[Tensor]:
        """(B, K) logits of each of several views (B, *input_shape), as if they came one after the other.

        With `joins_views` two go through the network at once, each with batch statistics of its own: on a GPU one large
        batch takes less time than two small ones.
        """
        if len(views) != JOINED or not self.joins_views or not self.training:
            return [self(view) for view in views]
        norms: list[Any] = [layer for layer in self.modules() if hasattr(layer, "parts")]
        for norm in norms:
            norm.parts = JOINED
        try:
            return list(self(torch.cat(list(views))).chunk(JOINED))
        finally:
            for norm in norms:
                norm.parts = 1

    def plain_state_dict(self) -> dict[str, Tensor]:
        """The weights under the keys of the backbone's own library: a plain torchvision or timm model loads them.

        `backbone.layer1.0.conv1.weight` becomes `layer1.0.conv1.weight`, and `head.*` becomes `fc.*` in torchvision.

        Raises:
            UserError: the network comes from no such library.
        """
        if self.head_key is None:
            raise UserError(f"net {self.name!r} is our own: its weights have no other library's keys")
        plain = {}
        for key, value in self.state_dict().items():
            part, _, rest = key.partition(".")
            plain[f"{self.head_key}.{rest}" if part == "head" else rest] = value
        return plain


def _logits(net: Net, images: Tensor) -> Tensor:
    return net.head(net.features(images))


@cache
def _compiled() -> Callable[[Net, Tensor], Tensor]:
    """Shared by all networks: those of one kind are compiled once."""
    return torch.compile(_logits, dynamic=False)


def he_normal(linear: nn.Linear) -> nn.Linear:
    """He-normal weights and zero bias, in place; returns the layer."""
    nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    nn.init.zeros_(linear.bias)
    return linear


def check_picture(name: str, input_shape: Shape) -> tuple[int, int, int]:
    """Channels, height and width, checked: 1 or 3 channels, 8 pixels a side or more."""
    if len(input_shape) != 3 or input_shape[0] not in (1, 3) or min(input_shape[1:]) < 8:
        raise UserError(
            f"net {name!r} needs pictures of shape (C, H, W) with 1 or 3 channels and at least 8 pixels a side, "
            f"but the samples are {input_shape}"
        )
    channels, height, width = input_shape
    return channels, height, width
