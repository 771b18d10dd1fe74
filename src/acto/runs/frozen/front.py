"""The frozen network in front of those that a run trains: made from pretrained weights, kept with the run, read again.

A run with `features` learns from vectors, and its model takes pictures all the same: the network that made the vectors
is a part of it, in features.safetensors, so nothing else is needed where it is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from acto.core.documents import as_record, parse_json
from acto.core.errors import RunError, UserError
from acto.core.files import disk_errors, read_file
from acto.core.settings import from_values
from acto.data.moments import moments
from acto.data.pictures.files import MAX_PIXELS
from acto.data.samples import Dataset, Samples
from acto.data.views.spec import ViewSpec
from acto.nets import build as nets
from acto.nets.base import Net, Shape
from acto.nets.pretrained import weights_for
from acto.runs.frozen.backbone import Backbone, looking, make_backbone
from acto.runs.frozen.extraction import Tell, cached, measured, views_of_files

FEATURES_FILE = "features.safetensors"
"""In the run's folder, and beside an exported model."""
_FACTS = {
    "net": str,
    "weights_sha256": str,
    "backbone_shape": tuple[int, ...],
    "mean": tuple[float, ...],
    "std": tuple[float, ...],
    "input_shape": tuple[int, ...],
    "views": dict,
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Front:
    """A frozen network, the pictures that it takes, and the scale of the vectors that it makes of them."""

    backbone: Backbone
    input_shape: Shape
    """(C, H, W) of a picture as the data's views give it."""
    views: ViewSpec
    """Views of the pictures. Files come scaled and normalized; pixels in memory as they are, from 0 to 1."""
    vectors: ViewSpec | None = None
    """Views of the vectors, with mean and deviation of those of the training; None until they are known."""

    @property
    def name(self) -> str:
        """The network's name."""
        return self.backbone.net.name

    def module(self) -> Looking:
        """The network as a module that maps pictures to normalized vectors."""
        return Looking(self)

    def to_bytes(self) -> bytes:
        """The content of FEATURES_FILE."""
        assert self.vectors is not None
        facts = {
            "net": self.name,
            "weights_sha256": self.backbone.weights_sha256,
            "backbone_shape": self.backbone.net.input_shape,
            "mean": self.backbone.mean,
            "std": self.backbone.std,
            "input_shape": self.input_shape,
            "views": asdict(self.views),
        }
        tensors = {f"backbone.{name}": tensor.contiguous() for name, tensor in self.backbone.state.items()}
        scale = {name: torch.tensor(getattr(self.vectors, name), dtype=torch.float64) for name in ("mean", "std")}
        return safetensors.torch.save({**tensors, **scale}, {"acto": json.dumps(facts)})

    def rows(
        self,
        samples: Samples,
        *,
        workers: int = 0,
        max_pixels: int = MAX_PIXELS,
        say: Callable[[str], None] = lambda text: None,
        tell: Tell = lambda done, total: None,
    ) -> npt.NDArray[np.float32]:
        """(N, D) vectors of `samples`, not normalized, see acto.runs.frozen.extraction.cached."""
        views = None if samples.paths is None else self.views
        return cached(
            samples, views, self.backbone, workers=workers, max_pixels=max_pixels, say=say, tell=tell
        )  # fmt: skip

    def seconds(self, samples: Samples, *, max_pixels: int = MAX_PIXELS) -> float:
        """Foretell how long `rows` takes, in seconds, by a few of the samples."""
        views = None if samples.paths is None else self.views
        return len(samples) * measured(samples, views, self.backbone, max_pixels=max_pixels)

    def scaled_to(self, rows: npt.NDArray[np.float32]) -> Front:
        """The same with the mean and the deviation of these vectors (N, D)."""
        mean, deviation = moments(rows)
        std = np.where(deviation > 0, deviation, 1.0)
        return replace(
            self, vectors=ViewSpec(pipeline="vectors", mean=tuple(mean.tolist()), std=tuple(std.tolist()))
        )  # fmt: skip


class Looking(nn.Module):
    """Pictures (B, *input_shape) as the views give them -> vectors (B, D), normalized."""

    def __init__(self, front: Front) -> None:
        super().__init__()
        assert front.vectors is not None
        backbone = front.backbone
        self.net = backbone.net.backbone
        self.channels, *size = backbone.net.input_shape
        self.size = tuple(size)
        self.smaller = front.input_shape[1] > self.size[0]
        self.in_memory = front.views.size is None
        for name, values, shape in (
            ("pixel_mean", backbone.mean, (-1, 1, 1)),
            ("pixel_std", backbone.std, (-1, 1, 1)),
            ("mean", front.vectors.mean, (-1,)),
            ("std", front.vectors.std, (-1,)),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(shape))
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.mean: Tensor
        self.std: Tensor

    def forward(self, pictures: Tensor) -> Tensor:
        """Look at a batch."""
        values = pictures
        if self.in_memory:
            if tuple(values.shape[2:]) != self.size:
                values = F.interpolate(
                    values, size=self.size, mode="bilinear", align_corners=False, antialias=self.smaller
                )
            values = (values - self.pixel_mean) / self.pixel_std
        found: Tensor = self.net(values)
        return (found.float() - self.mean) / self.std


def make_front(
    net: str,
    weights: str | None,
    data: Dataset,
    *,
    device: torch.device,
    download: bool,
    say: Callable[[str], None] = lambda text: None,
) -> Front:
    """The frozen network for the pictures of `data`, from pretrained weights.

    Args:
        net: as acto.nets.pretrained.weights_for takes it.
        weights: as there.
        data: pictures.
        device: where it computes.
        download: whether weights may be fetched.
        say: told in a line what was done.

    Raises:
        UserError: no such network or weights, or the data are no pictures.
    """
    if data.train.features is not None:
        raise UserError(
            f"features of {net} are for pictures, but {data.name} has numbers: leave --features away, and they are "
            "trained on as they are"
        )
    found = weights_for(net, weights, download=download)
    say(f"features of {net} with the weights {found}")
    backbone = make_backbone(net, found, data, size=None, device=device, say=say)
    views = views_of_files(data, backbone)
    if views is not None:
        assert views.size is not None
        return Front(backbone=backbone, input_shape=(3, views.size, views.size), views=views)
    assert data.train.pixels is not None
    height, width, channels = data.train.pixels.shape[1:]
    as_they_are = ViewSpec(pipeline=data.views.pipeline)
    return Front(backbone=backbone, input_shape=(channels, height, width), views=as_they_are)


def read_front(data: bytes, name: str, *, device: torch.device | str = "cpu") -> Front:
    """A front from the content of FEATURES_FILE; `name` stands in errors.

    Raises:
        RunError: it is damaged.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        facts = parse_json(parse_json(data[8 : 8 + length], name)["__metadata__"]["acto"], name)
        facts = as_record(facts, _FACTS, name, error=RunError)
        facts |= {name: tuple(value) for name, value in facts.items() if isinstance(value, list)}
        tensors = safetensors.torch.load(data)
        net: Net = nets.build_net(facts["net"], input_shape=facts["backbone_shape"], num_classes=2)
        state = {key.removeprefix("backbone."): value for key, value in tensors.items() if key.startswith("backbone.")}
        net.backbone.load_state_dict(state)
        facts_of_vectors: dict[str, Any] = {part: tuple(tensors[part].tolist()) for part in ("mean", "std")}
        backbone = looking(
            net, mean=facts["mean"], std=facts["std"], weights_sha256=facts["weights_sha256"],
            device=torch.device(device),
        )  # fmt: skip
        return Front(
            backbone=backbone,
            input_shape=facts["input_shape"],
            views=from_values(ViewSpec, facts["views"], where="views."),
            vectors=ViewSpec(pipeline="vectors", **facts_of_vectors),
        )
    except (UserError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RunError(f"{name} is damaged, or was made by another version: {error}") from error


def kept_front(folder: Path, *, device: torch.device | str = "cpu") -> Front | None:
    """The frozen network that a run keeps; None where it has none.

    Raises:
        RunError: it is damaged.
    """
    path = folder / FEATURES_FILE
    if not path.exists():
        return None
    with disk_errors(f"read {path}"):
        content = read_file(path)
    return read_front(content, str(path), device=device)
