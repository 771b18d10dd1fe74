"""A trained model: read back from a run's folder, it gives the method's headline prediction for new data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from acto.core.device import resolve_device
from acto.core.documents import as_record, parse_json
from acto.core.errors import RunError, UserError, check_range, choose
from acto.core.files import disk_errors, read_file
from acto.core.settings import from_values
from acto.core.text import counted
from acto.data.loading.loader import open_data
from acto.data.pictures.files import MAX_PIXELS
from acto.data.readers.arrays import array_samples
from acto.data.samples import Samples, encoded
from acto.data.tables.encoding import ENCODING_FILE, Encoding, read_encoding
from acto.data.views.spec import ViewSpec
from acto.nets import build as nets
from acto.nets.base import Net, Shape
from acto.run_folder.reading import read_run
from acto.runs.calibration import read_calibration
from acto.runs.frozen.front import FEATURES_FILE, Front, kept_front
from acto.runs.usable_samples import Usable, usable_samples
from acto.training.features import Features

MOST_PICTURES = 32
"""Pictures that a frozen network looks at in one go."""
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
        first: makes what the networks see of the inputs; None: they see the inputs.
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        weights: Sequence[float],
        *,
        temperature: float = 1.0,
        first: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.first = first
        assert len(members) == len(weights) > 0 and temperature > 0
        self.nets = nn.ModuleList(members)
        self.weights = tuple(float(weight) for weight in weights)
        self.temperature = temperature

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, *input_shape) normalized floats -> (B, K) probabilities."""
        if self.first is not None:
            inputs = self.first(inputs)
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
    encoding: Encoding | None = None
    """Encoding that makes its inputs of the rows of a table, or of texts; None where it was trained on neither."""
    front: Front | None = None
    """Frozen network that makes vectors of pictures, on which the networks stand; None where they see the inputs."""

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

    def predict_proba(
        self,
        samples: Samples | npt.NDArray[Any],
        *,
        batch_size: int = 256,
        device: str = "auto",
        workers: int = 0,
        on_bad_image: str = "error",
        features: Features | None = None,
    ) -> npt.NDArray[np.float32]:
        """(N, K) probabilities with the temperature applied, in the order of `class_names`; computed in float32.

        Args:
            samples: Samples, of which labels are ignored; or an array: (N, D) numbers, or (N, H, W) or (N, H, W, C)
                uint8.
            batch_size: samples at a time.
            device: auto, cpu, cuda, cuda:N or mps.
            workers: processes that decode picture files; 0: this one does it.
            on_bad_image: "error", or "nan": picture files that cannot be used have a row of NaN.
            features: gathers what the head of one of `nets` sees meanwhile.

        Raises:
            UserError: samples of another kind or shape than the model was trained on, or pictures that cannot be used,
                all of them or with "error"; it names them.
            acto.data.pictures.files.BadImage: a picture that was found out only when it was decoded.
        """
        check_range("batch_size", batch_size, low=1)
        resolve_device(device)
        thorough = choose("on_bad_image", on_bad_image, ("error", "nan")) == "nan"
        usable = self.usable(samples, thorough=thorough)
        if not thorough or not len(usable.rows):
            usable.refuse_bad()
        with nullcontext() if features is None else features.watched():
            return self.predict_usable(usable, batch_size=batch_size, device=device, workers=workers, features=features)

    def predict(self, samples: Samples | npt.NDArray[Any], **settings: Any) -> npt.NDArray[np.int64]:
        """(N,) the number of the most likely class, -1 in a row of NaN; the arguments are those of `predict_proba`."""
        probs = self.predict_proba(samples, **settings)
        return np.where(np.isnan(probs).any(1), -1, probs.argmax(1))

    @torch.no_grad()
    def predict_usable(
        self,
        usable: Usable,
        *,
        batch_size: int = 256,
        device: str = "auto",
        workers: int = 0,
        features: Features | None = None,
    ) -> npt.NDArray[np.float32]:
        """(N, K) probabilities as `predict_proba` gives them, NaN where there is a problem."""
        where = resolve_device(device)
        self.headline.to(where)
        if self.front is not None:  # it is larger than what acto trains from scratch
            batch_size = min(batch_size, MOST_PICTURES)
        probs = np.full((usable.total, len(self.class_names)), np.nan, np.float32)
        done = 0
        for inputs in self._batches(usable.samples, batch_size=batch_size, device=where, workers=workers):
            probs[usable.rows[done : done + len(inputs)]] = self.headline(inputs).cpu().numpy()
            if features is not None:
                features.keep()
            done += len(inputs)
        return probs

    def inputs(
        self,
        samples: Samples | npt.NDArray[Any],
        *,
        batch_size: int = 256,
        device: torch.device | str = "cpu",
        workers: int = 0,
    ) -> Iterator[Tensor]:
        """Batches (B, *input_shape) of what the networks see, in sample order. The arguments are `predict_proba`'s."""
        usable = self.usable(samples, thorough=False)
        usable.refuse_bad()
        yield from self._batches(usable.samples, batch_size=batch_size, device=device, workers=workers)

    def _batches(
        self, samples: Samples, *, batch_size: int, device: torch.device | str, workers: int
    ) -> Iterator[Tensor]:
        if not len(samples):
            return
        data = open_data(
            samples, self.views, seed=0, device=device, workers=workers, max_pixels=self.max_pixels,
        )  # fmt: skip
        try:
            for batch in data.scan(view="none", batch_size=batch_size):
                yield batch.views[0]
        finally:
            data.close()

    def usable(self, samples: Samples | npt.NDArray[Any], *, thorough: bool = True) -> Usable:
        """The samples in the form that the model was trained on, see acto.runs.usable_samples.

        Raises:
            UserError: they are of another kind or shape.
        """
        if not isinstance(samples, Samples):
            samples = array_samples(np.asarray(samples), name="the array")
        if self.encoding is not None and samples.rows is not None:
            samples = encoded(samples, self.encoding)
        elif self.encoding is not None:
            what = "texts" if self.encoding.texts is not None else "rows of a table"
            columns = ", ".join(map(repr, self.encoding.columns[:_SHOWN]))
            raise UserError(f"the model takes {what} in the columns {columns}, but these are pictures or vectors")
        return usable_samples(
            samples, self.views, input_shape=self.input_shape, max_pixels=self.max_pixels, thorough=thorough
        )


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
        count = max(1, len(_facts(read_file(first), name=str(first))["headline"]))
        files = [read_file(folder / f"net{k}.safetensors") for k in range(count)]
    temperature = read_calibration(folder).temperature
    max_pixels = record.config.get("data", {}).get("max_image_pixels", MAX_PIXELS)
    model = from_bytes(files, temperature=temperature, max_pixels=max_pixels, trust=trust, name=str(folder))
    encoding = kept_encoding(folder)
    if encoding is not None and model.input_shape != (encoding.width,):
        raise RunError(f"{folder / ENCODING_FILE} makes {encoding.width} numbers, the model takes {model.input_shape}")
    features = _facts(files[0], name=str(first)).get("features")
    if features is None:
        return replace(model, encoding=encoding)
    front = kept_front(folder)
    if front is None:
        raise RunError(
            f"the model in {folder} stands on the features of {features}, whose file {FEATURES_FILE} is missing there: "
            "copy the run's folder whole"
        )
    if model.input_shape != (front.backbone.net.feature_dim,):
        raise RunError(f"{folder / FEATURES_FILE} is another run's: the model takes {model.input_shape[0]} numbers")
    return behind(model, front)


def behind(model: TrainedModel, front: Front) -> TrainedModel:
    """The model of vectors as one of the pictures that `front` makes them of."""
    headline = Headline(
        list(model.headline.nets), model.headline.weights, temperature=model.temperature, first=front.module()
    )
    return replace(model, headline=headline.eval(), input_shape=front.input_shape, views=front.views, front=front)


def kept_encoding(folder: Path) -> Encoding | None:
    """The encoding that a run keeps; None where it was trained on neither tables nor texts.

    Raises:
        RunError: it is damaged.
    """
    path = folder / ENCODING_FILE
    if not path.exists():
        return None
    with disk_errors(f"read {path}"):
        return read_encoding(read_file(path), str(path))


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
            raise UserError(f"headline must be {counted(len(files), 'finite number')}, not all 0, but got {weights}")
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
