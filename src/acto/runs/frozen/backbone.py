"""A trained network that only looks: built, loaded and made fast, with the normalization that it was trained with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from acto.core.documents import as_record, parse_json
from acto.core.errors import UserError
from acto.core.files import sha256_of
from acto.core.settings import from_values
from acto.data.samples import Dataset
from acto.data.sources import IMAGENET_MEAN, IMAGENET_STD
from acto.data.views.spec import ViewSpec
from acto.nets import build as nets
from acto.nets.base import Net

SMALL_SIDE = 128
"""Pictures in memory are scaled up to this many pixels a side unless told otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Backbone:
    """A network in evaluation mode on its device, and how it wants to see pictures."""

    net: Net
    mean: tuple[float, ...]
    """A channel's, pixels counted from 0 to 1; as many as the network has channels."""
    std: tuple[float, ...]
    weights_sha256: str
    """Checksum of the file; of the tensors where they come from no file."""
    device: torch.device
    state: Mapping[str, Tensor]
    """Tensors of the network but its head as they were read, on the CPU."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        _, height, width = self.net.input_shape
        return height, width

    def normalized(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) uint8 -> (B, channels, *size) float32 in channels_last memory.

        Scaled bilinearly, without a loss of sharpness by aliasing where it makes them smaller; grey is repeated.
        """
        values = pixels.to(self.device).contiguous(memory_format=torch.channels_last).float()
        if values.shape[2:] != self.size:
            smaller = values.shape[2] > self.size[0]
            values = F.interpolate(values, size=self.size, mode="bilinear", align_corners=False, antialias=smaller)
        mean, std = (torch.tensor(part, device=self.device).view(-1, 1, 1) for part in (self.mean, self.std))
        return ((values - 255 * mean) / (255 * std)).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def features(self, inputs: Tensor, precision: torch.dtype) -> Tensor:
        """(B, channels, *size), normalized -> (B, D) float32 on the CPU, computed in `precision`."""
        half = precision != torch.float32
        with torch.autocast(self.device.type, dtype=precision if half else None, enabled=half):
            return self.net.features(inputs).float().cpu()


def make_backbone(
    name: str,
    weights: str,
    data: Dataset,
    *,
    size: int | None,
    device: torch.device,
    trust: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Backbone:
    """The network `name` for the pictures of `data`, and the normalization that it was trained with.

    Args:
        name: as acto.nets.build.build_net takes it.
        weights: a file, "torchvision", "timm", or "none" (random, from seed 0). A file of a run of ours also says how
            that run normalized its pictures; timm's models say it of themselves; all others have seen ImageNet.
        data: pictures; their number of channels may be 1, which is repeated for a network that takes 3.
        size: pixels a side that the network shall see (the short side, for pictures in memory); None: picture files as
            in training, others as they are but scaled up to SMALL_SIDE.
        device: where it computes.
        trust: allow a network that is code outside of this package.
        say: told in a line what was done to the weights' names.

    Raises:
        UserError: the data are no pictures, or network and weights do not fit them.
    """
    if data.train.features is not None:
        raise UserError(f"{data.name} has feature vectors already: `acto train` takes them as they are")
    facts = _facts_of_a_run(weights)
    channels = facts["input_shape"][0] if facts else 3
    if channels == 1 and (data.train.pixels is None or data.train.pixels.shape[3] != 1):
        raise UserError(
            f"weights {weights!r} are of a network for grey pictures, but those of {data.name} have colours"
        )
    if size is None and facts:
        size = min(facts["input_shape"][1:])
    shape = (channels, *_size_of(data, size))
    # What is random, if anything is, shall be the same when the command is given again.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nets.build_net(
            name,
            input_shape=shape,
            num_classes=data.num_classes,
            weights=None if weights == "none" else weights,
            trust=trust,
            say=say,
        )
    if facts:
        views = from_values(ViewSpec, facts["views"])
        mean, std = views.mean or (0.0,) * channels, views.std or (1.0,) * channels
    else:
        chosen: Any = getattr(net.backbone, "pretrained_cfg", {}) if name.startswith("timm:") else {}
        mean, std = (tuple(chosen.get(k, v)) for k, v in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)))
    digest = sha256_of(Path(weights)) if Path(weights).is_file() else _sha256_of_tensors(net)
    return looking(net, mean=mean, std=std, weights_sha256=digest, device=device)


def looking(
    net: Net, *, mean: tuple[float, ...], std: tuple[float, ...], weights_sha256: str, device: torch.device
) -> Backbone:
    """The network in evaluation mode on `device`, made fast; the arguments are a Backbone's, and `net` is used up."""
    state = dict(net.backbone.state_dict())
    net = _folded(net.eval()).requires_grad_(False).to(device).to(memory_format=torch.channels_last)
    return Backbone(net=net, mean=mean, std=std, weights_sha256=weights_sha256, device=device, state=state)


def _facts_of_a_run(weights: str) -> dict[str, Any]:
    """Read the facts that a run of ours wrote beside its network; empty for other weights."""
    path = Path(weights)
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    try:
        with safe_open(path, "pt") as file:
            facts = parse_json((file.metadata() or {}).get("acto", "{}"), weights)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read weights {weights!r}: {error}") from error
    facts = as_record(facts, {"input_shape": tuple[int, ...], "views": dict}, weights)
    if facts and len(facts["input_shape"]) != 3:
        raise UserError(f"weights {weights!r} are of a network for feature vectors, not for pictures")
    return facts


def _size_of(data: Dataset, asked: int | None) -> tuple[int, int]:
    """Height and width that the network sees."""
    if data.train.pixels is None:
        assert data.views.size is not None
        side = asked or data.views.size
        return side, side
    height, width = data.train.pixels.shape[1:3]
    least = min(height, width)
    side = asked or max(least, SMALL_SIDE)
    return round(height * side / least), round(width * side / least)


def _sha256_of_tensors(net: Net) -> str:
    """Hash everything but the head, which has no say in the features."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.backbone.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _folded(net: Net) -> Net:
    """Batch normalization that follows a convolution in the same nn.Sequential becomes part of it: the same, faster."""
    for part in net.modules():
        if not isinstance(part, nn.Sequential) or type(part).forward is not nn.Sequential.forward:
            continue
        for first, second in pairwise(list(part._modules)):
            convolution, norm = part._modules[first], part._modules[second]
            if type(convolution) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.track_running_stats:
                part._modules[first] = nn.utils.fuse_conv_bn_eval(convolution, norm)
                part._modules[second] = nn.Identity()
    return net
