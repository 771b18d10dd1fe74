"""Toy data, a toy network and toy settings of every method: what the generic tests of the methods run on."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from acto.core.sample_columns import TALLIES
from acto.core.types import Batch, Stream, Task
from acto.methods import METHODS
from acto.methods.acto import ACTO
from acto.methods.afm import AFM
from acto.methods.agce import AGCE
from acto.methods.anl import ANL
from acto.methods.base import Method
from acto.methods.ca2c import CA2C
from acto.methods.co_ldl import CoLDL
from acto.methods.co_teaching import CoTeaching
from acto.methods.co_teaching_plus import CoTeachingPlus
from acto.methods.decoupling import Decoupling
from acto.methods.disc import DISC
from acto.methods.dividemix import DivideMix
from acto.methods.elr import ELR
from acto.methods.elr_plus import ELRPlus
from acto.methods.gce import GCE
from acto.methods.jo_src import JoSRC
from acto.methods.jocor import JoCoR
from acto.methods.mixup import Mixup
from acto.methods.npn import NPN
from acto.methods.pencil import PENCIL
from acto.methods.plc import PLC
from acto.methods.pnp import PNP
from acto.methods.promix import ProMix
from acto.methods.sce import SCE
from acto.methods.sed import SED
from acto.methods.snscl import SNSCL
from acto.methods.sop import SOP
from acto.methods.standard import Standard
from acto.methods.unicon import UNICON
from acto.training.history import History
from acto.training.loop import Training
from acto.training.plans import Plan
from acto.training.protocol import Protocol

NUM_CLASSES = 4
NUM_FEATURES = 8
NOISE_RATE = 0.4
BATCH_SIZE = 32


@dataclass(frozen=True)
class Toy:
    """How a method is run on the toy data, and what it must reach there."""

    config: Any
    epochs: int = 12
    lr: float = 0.02
    accuracy: float = 0.9
    """Floor under the accuracy on clean test samples."""
    auroc: float = 0.9
    """Floor under the AUROC with which label quality tells right labels from wrong ones."""
    always_selects: bool = False
    """Takes the best of what it is offered, however bad, or what an earlier look at the whole set has picked."""

    @property
    def protocol(self) -> Protocol:
        return Protocol(epochs=self.epochs, batch_size=BATCH_SIZE, plan=Plan(lr=self.lr))


TOYS = {
    "acto": Toy(ACTO.Config(warmup_epochs=2)),
    "acto steady": Toy(ACTO.Config(form="steady", warmup_epochs=2)),
    "afm": Toy(AFM.Config()),
    "agce": Toy(AGCE.Config()),
    "anl": Toy(ANL.Config()),
    "ca2c": Toy(CA2C.Config(warmup_epochs=5)),
    "co-ldl": Toy(CoLDL.Config(warmup_epochs=2, label_rate=400.0), always_selects=True),
    "co-teaching": Toy(CoTeaching.Config(ramp_epochs=3), always_selects=True),
    "co-teaching-plus": Toy(CoTeachingPlus.Config(ramp_epochs=3, warmup_epochs=4), always_selects=True),
    "decoupling": Toy(Decoupling.Config(warmup_epochs=1)),
    "disc": Toy(DISC.Config(warmup_epochs=3, momentum=0.8), always_selects=True),
    "dividemix": Toy(DivideMix.Config(warmup_epochs=2, batch_size=16, lambda_u=1.0, ramp_epochs=4)),
    "elr": Toy(ELR.Config()),
    "elr-plus": Toy(ELRPlus.Config(weight_ramp_epochs=3, ema_ramp_epochs=6)),
    "gce": Toy(GCE.Config(truncation=0.2, prune_from=4, prune_every=3), always_selects=True),
    # With 4 classes the published eps calls uncertain samples clean; a sharper label tells more.
    "jo-src": Toy(JoSRC.Config(warmup_epochs=2, eps=0.4, tau_clean=0.5, ema_decay=0.9)),
    "jocor": Toy(JoCoR.Config(ramp_epochs=6, co_lambda=0.65), always_selects=True),
    "mixup": Toy(Mixup.Config()),
    "npn": Toy(NPN.Config(warmup_epochs=3, hard=False, consistency_weight=2.0)),
    # Nine epochs, batches of 32 and 4 classes: labels must give way sooner than in 320 epochs.
    "pencil": Toy(PENCIL.Config(warmup_epochs=3, correction_epochs=6, label_scale=4.0, label_rate=1200.0)),
    "plc": Toy(PLC.Config(warmup_epochs=2, window=2)),
    "pnp": Toy(PNP.Config(warmup_epochs=2, eps=0.3), always_selects=True),
    "promix": Toy(
        ProMix.Config(warmup_epochs=2, ramp_epochs=4, guess_epochs=5, prior_epochs=1, unreliable_ramp_epochs=6),
        always_selects=True,
    ),
    "sce": Toy(SCE.Config()),
    "sed": Toy(SED.Config(warmup_epochs=2, threshold_momentum=0.7, weight_momentum=0.7, ema_decay=0.8)),
    # DivideMix's loss at full weight: twelve epochs at one rate for body and head.
    "snscl": Toy(
        SNSCL.Config(
            warmup_epochs=2,
            batch_size=16,
            lambda_u=1.0,
            ramp_epochs=4,
            class_weight=1.0,
            queue_size=8,
            projection_dim=16,
            ema_epochs=0.5,
        )
    ),
    "sop": Toy(SOP.Config(consistency_weight=0.9, balance_weight=0.1)),
    "standard": Toy(Standard.Config()),
    "unicon": Toy(UNICON.Config(warmup_epochs=2, batch_size=16, lambda_u=1.0, ramp_epochs=4, projection_dim=16)),
}


class ToyNet(nn.Module):
    """A small network with what all networks of the package have: features, head, feature_dim."""

    def __init__(self, num_features: int = NUM_FEATURES, num_classes: int = NUM_CLASSES, *, width: int = 32) -> None:
        super().__init__()
        self.feature_dim = width
        self.body = nn.Sequential(nn.Linear(num_features, width), nn.BatchNorm1d(width), nn.ReLU())
        self.head = nn.Linear(width, num_classes)

    def features(self, images: Tensor) -> Tensor:
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.head(self.features(images))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


class LinearNet(nn.Module):
    """A linear classifier, whose gradients can be written down by hand. Its features are the inputs."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.feature_dim = num_features
        self.head = nn.Linear(num_features, num_classes)

    def features(self, images: Tensor) -> Tensor:
        return images

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images)


class ToyData:
    """Feature vectors as acto.core.types.TrainingData: the weak view adds a little noise, the strong drops features."""

    def __init__(self, features: Tensor, labels: Tensor, *, seed: int = 0) -> None:
        self.features, self.labels, self.seed = features, labels, seed

    @property
    def num_samples(self) -> int:
        return len(self.labels)

    def num_steps(self, stream: Stream) -> int:
        return len(self._slices(stream))

    def batches(self, stream: Stream, *, epoch: int, turn: int = 0, number: int = 0) -> Iterator[Batch]:
        assert stream.views is not None
        generator = torch.Generator().manual_seed((((self.seed * 97 + epoch) * 97) + turn) * 97 + number)
        index = torch.arange(self.num_samples) if stream.index is None else stream.index
        index = index[torch.randperm(len(index), generator=generator)]
        for part in self._slices(stream):
            rows = index[part].to(self.labels.device)
            views = tuple(self._view(rows, name, generator) for name in stream.views)
            yield Batch(rows, views, self.labels[rows])

    def scan(
        self, *, view: str = "none", batch_size: int | None = None, epoch: int = 0, turn: int = 0
    ) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(epoch * 97 + turn)
        for rows in torch.arange(self.num_samples, device=self.labels.device).split(batch_size or 1024):
            yield Batch(rows, (self._view(rows, view, generator),), self.labels[rows])

    def _slices(self, stream: Stream) -> list[slice]:
        assert stream.batch_size is not None
        length = self.num_samples if stream.index is None else len(stream.index)
        starts = list(range(0, length, stream.batch_size))
        if starts and (length - starts[-1] == 1 or (stream.drop_last and length - starts[-1] < stream.batch_size)):
            starts.pop()
        ends = [*starts[1:], len(starts) * stream.batch_size if stream.drop_last else length]
        return [slice(start, end) for start, end in zip(starts, ends, strict=True)]

    def _view(self, rows: Tensor, name: str, generator: torch.Generator) -> Tensor:
        features = self.features[rows]
        if name == "none":
            return features
        noisy = features + 0.1 * torch.randn(features.shape, generator=generator).to(features.device)
        kept = (torch.rand(features.shape, generator=generator) >= 0.2).to(features.device)
        return noisy if name == "weak" else torch.where(kept, noisy, 0.0)


@dataclass(frozen=True)
class Problem:
    """Four blobs of points whose training labels are 40 % wrong."""

    train: ToyData
    test: ToyData
    task: Task
    clean: np.ndarray
    """(N,) bool: the given label is right."""


def make_problem(num_train: int = 241, num_test: int = 400) -> Problem:
    """The default size leaves a last batch of an odd number of samples."""
    random = np.random.RandomState(0)
    centers = 2.0 * random.randn(NUM_CLASSES, NUM_FEATURES)
    true_labels = np.arange(num_train + num_test) % NUM_CLASSES
    features = torch.from_numpy(centers[true_labels] + random.randn(len(true_labels), NUM_FEATURES)).float()
    labels = true_labels.copy()
    wrong = random.permutation(num_train)[: round(NOISE_RATE * num_train)]
    labels[wrong] = (labels[wrong] + random.randint(1, NUM_CLASSES, len(wrong))) % NUM_CLASSES
    given = torch.from_numpy(labels)
    return Problem(
        train=ToyData(features[:num_train], given[:num_train]),
        test=ToyData(features[num_train:], given[num_train:]),
        task=Task(given[:num_train], NUM_CLASSES, NOISE_RATE, "oracle"),
        clean=labels[:num_train] == true_labels[:num_train],
    )


def method_of(name: str) -> type[Method]:
    """The method of a row of TOYS, which may name one of its forms after it."""
    return METHODS[name.partition(" ")[0]]


def make_method(name: str, task: Task, *, config: Any = None, seed: int = 1) -> Method:
    torch.manual_seed(seed)
    return method_of(name)(TOYS[name].config if config is None else config, task, ToyNet)


def make_training(name: str, task: Task, *, precision: torch.dtype = torch.float32, seed: int = 1) -> Training:
    return Training(make_method(name, task, seed=seed), TOYS[name].protocol, precision=precision)


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint as it comes back from disk."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def tensors_in(tree: Any, path: str = "") -> dict[str, Tensor]:
    """All tensors in nested dicts, lists and tuples, by their path."""
    if isinstance(tree, Tensor):
        return {path: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    found: dict[str, Tensor] = {}
    for key, value in items:
        found |= tensors_in(value, f"{path}/{key}")
    return found


def columns_of(history: History) -> dict[str, Tensor]:
    """What a history holds of every sample, (N,) each, by name."""
    return {name: getattr(history, name).clone() for name in TALLIES}


def labels_of(matrix: list[list[int]]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Given and predicted classes; matrix[k][j] samples are given k and predicted j."""
    counts = np.array(matrix)
    given, predicted = (np.repeat(each.ravel(), counts.ravel()) for each in np.indices(counts.shape))
    return given, predicted


def circle(*times: int) -> list[list[int]]:
    """Every class is predicted times[0] times itself, times[1] times the next, and so on."""
    return [np.roll(times, k).tolist() for k in range(len(times))]
