"""A trained model: read back from a run's folder, it gives the method's headline prediction for new data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from acto.core.device import resolve_device
from acto.core.documents import as_record, parse_json
from acto.core.errors import RunError, UserError, check_range
from acto.core.files import disk_errors
from acto.core.settings import from_values
from acto.core.text import counted
from acto.data.loading.loader import open_data
from acto.data.pictures.files import MAX_PIXELS, BadImage, decode_rgb, inspect_all
from acto.data.readers.arrays import array_samples
from acto.data.samples import Samples
from acto.data.views.spec import ViewSpec
from acto.nets import build as nets
from acto.nets.base import Net, Shape
from acto.run_folder.reading import read_run
from acto.runs.calibration import read_calibration

_SHOWN = 5
_MOST_SIDE = 1 << 24
"""Numbers of a sample, or pixels of its side: more is no sample."""
_FACTS = {
    "net": str,
    "method": str,
    "headline": tuple[float, ...],
    "input_shape": tuple[int, ...],
    "class_names": tuple[str, ...],
    "views": dict,
}
"""Facts beside the weights, and their types."""


class Headline(nn.Module):
    """softmax(sum_k weight_k * logits of nets[k] / temperature): what a method's headline accuracy is measured on.

    Args:
        members: networks.
        weights: of their logits, one each.
        temperature: above 0; 1 leaves the probabilities as they are.
    """

    def __init__(self, members: Sequence[nn.Module], weights: Sequence[float], *, temperature: float = 1.0) -> None:
        super().__init__()
        assert len(members) == len(weights) > 0 and temperature > 0
        self.nets = nn.ModuleList(members)
        self.weights = tuple(float(weight) for weight in weights)
        self.temperature = temperature

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, *input_shape) normalized floats -> (B, K) probabilities."""
        parts = [weight * net(inputs) for net, weight in zip(self.nets, self.weights, strict=True)]
        return F.softmax(torch.stack(parts).sum(0) / self.temperature, dim=1)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainedModel:
    """A model with all that is needed to use it. Its networks are in evaluation mode."""

    headline: Headline
    net: str
    """The networks' name, as acto.nets.build.build_net takes it."""
    method: str
    class_names: tuple[str, ...]
    input_shape: Shape
    """Shape of one sample, as a network sees it: (C, H, W) or (D,)."""
    views: ViewSpec
    """Views: how samples are normalized, and picture files scaled and cut."""
    max_pixels: int = MAX_PIXELS
    """Larger picture files are refused before they are decoded."""

    @property
    def temperature(self) -> float:
        """By which logits are divided."""
        return self.headline.temperature

    @property
    def nets(self) -> list[Net]:
        """The networks that take part in the headline."""
        return [net for net in self.headline.nets if isinstance(net, Net)]

    @property
    def takes_files(self) -> bool:
        """Say whether it was trained on picture files that are scaled; else on arrays, or on pictures of one size."""
        return self.views.size is not None

    @torch.no_grad()
    def predict_proba(
        self,
        samples: Samples | npt.NDArray[Any],
        *,
        batch_size: int = 256,
        device: str = "auto",
        workers: int = 0,
    ) -> npt.NDArray[np.float32]:
        """(N, K) probabilities with the temperature applied, in the order of `class_names`; computed in float32.

        Args:
            samples: Samples, of which labels are ignored; or an array: (N, D) numbers, or (N, H, W) or (N, H, W, C)
                uint8.
            batch_size: samples at a time.
            device: auto, cpu, cuda, cuda:N or mps.
            workers: processes that decode picture files; 0: this one does it.

        Raises:
            UserError: samples of another kind or shape than the model was trained on; it names both.
            acto.data.pictures.files.BadImage: pictures that cannot be decoded; it names them.
        """
        check_range("batch_size", batch_size, low=1)
        where = resolve_device(device)
        self.headline.to(where)
        parts = [
            self.headline(inputs).cpu()
            for inputs in self.inputs(samples, batch_size=batch_size, device=where, workers=workers)
        ]
        return torch.cat(parts).numpy() if parts else np.empty((0, len(self.class_names)), np.float32)

    def predict(self, samples: Samples | npt.NDArray[Any], **settings: Any) -> npt.NDArray[np.int64]:
        """(N,) the number of the most likely class; the arguments are those of `predict_proba`."""
        return self.predict_proba(samples, **settings).argmax(1)

    def inputs(
        self,
        samples: Samples | npt.NDArray[Any],
        *,
        batch_size: int = 256,
        device: torch.device | str = "cpu",
        workers: int = 0,
    ) -> Iterator[Tensor]:
        """Batches (B, *input_shape) of what the networks see, in sample order. The arguments are `predict_proba`'s."""
        if not isinstance(samples, Samples):
            samples = array_samples(np.asarray(samples), name="the array")
        if not len(samples):
            return
        samples = self._fitting(samples)
        data = open_data(
            samples, self.views, seed=0, device=device, workers=workers, max_pixels=self.max_pixels,
        )  # fmt: skip
        try:
            for batch in data.scan(view="none", batch_size=batch_size):
                yield batch.views[0]
        finally:
            data.close()

    def _fitting(self, samples: Samples) -> Samples:
        """The samples in the form that the model was trained on.

        Raises:
            UserError: they are others.
        """
        if samples.features is not None:
            if self.views.pipeline != "vectors" or samples.features.shape[1:] != self.input_shape:
                raise UserError(f"{self._asks()}, but these have {samples.features.shape[1]} features")
            if (bad := np.flatnonzero(~np.isfinite(samples.features).all(1))).size:
                shown = ", ".join(samples.ids[i] for i in bad[:_SHOWN].tolist())
                raise UserError(f"{counted(len(bad), 'sample')} with features that are not finite: {shown}")
            return samples
        if self.views.pipeline == "vectors":
            raise UserError(f"{self._asks()}, but these are pictures")
        if samples.pixels is not None:
            if self.takes_files:
                raise UserError(f"{self._asks()}, but these are pixels in memory")
            channels, height, width = self.input_shape
            if samples.pixels.shape[1:] == (height, width, 1) and channels == 3:  # as a grey file would be decoded
                return replace(samples, pixels=samples.pixels.repeat(3, axis=3))
            if samples.pixels.shape[1:] != (height, width, channels):
                raise UserError(f"{self._asks()}, but these are {_size(*samples.pixels.shape[1:])}")
            return samples
        self._check_files(samples)
        return samples if self.takes_files else self._decoded(samples)

    def _check_files(self, samples: Samples) -> None:
        """Refuse what cannot be used before any work is done: unreadable files, pictures of the wrong size."""
        assert samples.paths is not None
        bad: list[str] = []
        for name, found in zip(samples.ids, inspect_all(samples.paths, max_pixels=self.max_pixels), strict=True):
            if isinstance(found, BadImage):
                bad.append(f"{name} ({found.problem})")
            elif not self.takes_files and (found.height, found.width) != self.input_shape[1:]:
                bad.append(f"{name} (it has {found.width}x{found.height} pixels)")
        if bad:
            more = f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
            raise UserError(
                f"{self._asks()}, but {len(bad)} of {len(samples)} cannot be used: {'; '.join(bad[:_SHOWN])}{more}"
            )

    def _decoded(self, samples: Samples) -> Samples:
        """Picture files of the trained size as pixels, grey where the model is for grey pictures."""
        assert samples.paths is not None
        channels, height, width = self.input_shape
        pixels = np.empty((len(samples), height, width, channels), np.uint8)
        for i, (path, name) in enumerate(zip(samples.paths, samples.ids, strict=True)):
            picture: Image.Image = decode_rgb(path, max_pixels=self.max_pixels, name=name)
            pixels[i] = np.asarray(picture.convert("L") if channels == 1 else picture).reshape(pixels.shape[1:])
        return replace(samples, pixels=pixels, paths=None)

    def _asks(self) -> str:
        if self.views.pipeline == "vectors":
            return f"the model takes feature vectors of {self.input_shape[0]} numbers"
        if self.takes_files:
            return "the model takes picture files"
        channels, height, width = self.input_shape
        return f"the model takes pictures of {_size(height, width, channels)}"


def load_model(run: Path | str, *, trust: bool = False) -> TrainedModel:
    """The model of a finished run.

    Args:
        run: the run's folder.
        trust: allow a network that is code outside of this package (package.module:callable).

    Raises:
        UserError: no run's folder, a run without a model yet, or a network that `trust` is needed for.
        RunError: a file of it is damaged.
    """
    folder = Path(run)
    record = read_run(folder)
    first = folder / "net0.safetensors"
    if not first.is_file():
        state = record.status["state"]
        raise UserError(
            f"the run in {folder} has no model yet ({state}): models are written at the end; "
            f"go on with `acto train --resume {folder}`"
        )
    with disk_errors(f"read the model in {folder}"):
        count = max(1, len(_facts(first.read_bytes(), name=str(first))["headline"]))
        files = [(folder / f"net{k}.safetensors").read_bytes() for k in range(count)]
    temperature = read_calibration(folder).temperature
    max_pixels = record.config.get("data", {}).get("max_image_pixels", MAX_PIXELS)
    return from_bytes(files, temperature=temperature, max_pixels=max_pixels, trust=trust, name=str(folder))


def from_bytes(
    files: Sequence[bytes],
    *,
    temperature: float = 1.0,
    max_pixels: int = MAX_PIXELS,
    trust: bool = False,
    name: str = "the model",
) -> TrainedModel:
    """A model from the contents of a run's net0.safetensors, net1.safetensors and so on.

    Args:
        files: one for each network, in order.
        temperature: above 0.
        max_pixels: larger picture files are refused.
        trust: as in `load`.
        name: what to call the model in errors.

    Raises:
        UserError: a network that `trust` is needed for, or one that this version does not know.
        RunError: the files are damaged.
    """
    facts = _facts(files[0], name=name)
    shape, names = tuple(facts["input_shape"]), tuple(facts["class_names"])
    weights, net_name, method = facts["headline"], facts["net"], facts["method"]
    try:
        views = from_values(ViewSpec, facts["views"], where="views.")
        if len(shape) not in (1, 3) or not all(0 < side < _MOST_SIDE for side in shape) or len(names) < 2:
            raise UserError(f"samples of shape {shape} in {len(names)} classes")
        if len(weights) != len(files) or not any(weights) or not all(map(math.isfinite, weights)):
            raise UserError(f"headline must be {len(files)} finite numbers that are not all 0, but got {weights}")
    except UserError as error:
        raise RunError(f"{name} is damaged, or was made by another version: {error}") from error
    members, shares = [], []
    for file, weight in zip(files, weights, strict=True):
        if weight:  # ACTO's NTM has no say
            net = nets.build_net(net_name, input_shape=shape, num_classes=len(names), trust=trust)
            try:
                net.load_state_dict(safetensors.torch.load(file))
            except (SafetensorError, RuntimeError, ValueError) as error:
                raise RunError(f"{name}: the weights do not fit net {net_name!r}: {error}") from error
            members.append(net.requires_grad_(False))
            shares.append(weight)
    return TrainedModel(
        headline=Headline(members, shares, temperature=temperature).eval(),
        net=net_name,
        method=method,
        class_names=names,
        input_shape=shape,
        views=views,
        max_pixels=max_pixels,
    )


def _facts(file: bytes, *, name: str) -> dict[str, Any]:
    """Read the facts that a run wrote beside the weights."""
    try:
        length = int.from_bytes(file[:8], "little")  # the format: length of the header, header as JSON, tensors
        facts = parse_json(parse_json(file[8 : 8 + length], name)["__metadata__"]["acto"], name)
    except (UserError, KeyError, TypeError) as error:
        raise RunError(f"{name} is damaged, or no model of ours: {error}") from error
    facts = as_record(facts, _FACTS, name, error=RunError)
    if missing := [key for key in _FACTS if key not in facts]:
        raise RunError(
            f"{name}: its safetensors file does not say what is needed to use it ({', '.join(missing)}); "
            "train again with this version"
        )
    return facts


def _size(height: int, width: int, channels: int) -> str:
    return f"{height}x{width} pixels and {channels} channel{'s' if channels > 1 else ''}"
