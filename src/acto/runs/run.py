"""A run: data, network, method and protocol joined, and what has to be built before it can train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from acto.core.errors import UserError, choose
from acto.core.settings import Settings, from_values, setting, typed
from acto.data.samples import DataSpec
from acto.methods import METHODS
from acto.nets import build as nets
from acto.training import evaluation
from acto.training.protocol import Protocol
from acto.training.step_modes import STEPS


@dataclass(frozen=True, kw_only=True, slots=True)
class Run(Settings):
    """All that decides a result."""

    data: DataSpec = field(default_factory=lambda: DataSpec(source="digits"))
    """The data to train on."""
    method: str = setting("acto", choices=METHODS)
    """A name of acto.methods.METHODS."""
    config: Any = None
    """Settings of the method, its Config; None: its defaults."""
    net: str = "cnn_small"
    """A name of acto.nets.build."""
    weights: str | None = None
    """None (random), "torchvision", "timm" or a file. With `features` they are that network's, and None means the ones
    that are on this machine."""
    head: Literal["random", "centroids"] | None = None
    """Start of a head that `weights` do not bring: random, or the centroids of the classes' features, see
    acto.training.heads. None: random."""
    features: str | None = None
    """A pretrained network (torchvision:NAME, timm:NAME, ...) that stays as it is: `net` is trained on what it sees in
    the pictures. "none": a network is trained on the pictures themselves; without a word on it, features are taken
    where photographs are trained on and weights are on this machine."""
    protocol: Protocol = field(default_factory=Protocol)
    """Epochs, batch size, optimizer, rates."""
    seed: int = setting(0, low=0)
    """Seed of initialisation, order and views."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: str = "auto"
    """auto, float32, bfloat16 or float16."""
    step: str | None = setting(None, choices=STEPS)
    """Form of a step: "graph" records it as one CUDA graph where that can be done, "compiled" moreover has the networks
    compiled by torch.compile, or on a processor computed by this package's C kernels; "eager" does neither. None, if
    the network is ours or torchvision's: "graph" on a CUDA device, "compiled" on a processor that can; else "eager"."""
    sync_batchnorm: bool | None = None
    """Batch statistics over the whole batch, not over each process's part; several CUDA devices."""
    eval_every: int = setting(1, low=1)
    """Epochs between two evaluations; the last ten are always evaluated."""
    workers: int = setting(2, low=0)
    """Processes that decode pictures from disk."""
    assumed_noise_rate: float | None = setting(None, low=0, high=1)
    """Rate told to methods that ask for it; None: the data set's own rate where its truth is known."""
    trust_net: bool = False
    """Allow `net` to name code outside of this package (package.module:callable)."""
    init_from: str | None = None
    """Folder of a finished run to go on from: its networks, and its memory of the samples that are what they were; the
    epochs count on from its own."""

    def __post_init__(self) -> None:
        """Refuse what cannot run.

        Raises:
            UserError: naming the field.
        """
        Settings.__post_init__(self)
        if self.config is None:
            object.__setattr__(self, "config", METHODS[self.method].Config())
        if ":" in self.net and not self.net.startswith(nets.OWN_KINDS) and not self.trust_net:
            raise UserError(
                f"net {self.net!r} names code to run: give it on the command line (--net), where no file can"
            )
        if self.features is not None and ":" in self.features and not self.features.startswith(nets.OWN_KINDS):
            raise UserError(f"features {self.features!r} names code to run: only --net may do so")
        if self.head == "centroids" and (self.weights is None or self.features is not None):
            raise UserError("head 'centroids' is for the pretrained network that is trained: give its weights")
        warmup = getattr(self.config, "warmup_epochs", 0)
        if warmup > self.protocol.epochs:
            raise UserError(f"warmup_epochs is {warmup}, more than the {self.protocol.epochs} epochs of the run")
        if self.protocol.stop_early is not None and warmup == self.protocol.epochs:
            raise UserError(f"stop_early chooses among the epochs after the warm-up, and all {warmup} are warm-up")

    def to_dict(self) -> dict[str, Any]:
        """Nested settings, as written to config.yaml; the method's own stand under the method's name.

        trust_net is left out: what a file says must not decide whether code is trusted.
        """
        values = asdict(self)
        del values["trust_net"]
        values[self.method.replace("-", "_")] = values.pop("config")
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, trust_net: bool = False) -> Run:
        """The run of which to_dict() gave `values`.

        Raises:
            UserError: for a value that cannot be used.
        """
        values = dict(values)
        method = METHODS[choose("method", typed("method", values.get("method", "acto"), str), METHODS)]
        section = method.name.replace("-", "_")
        config = from_values(method.Config, values.pop(section, {}), where=f"{section}.")
        return from_values(cls, {**values, "config": config, "trust_net": trust_net})

    def evaluates(self, epoch: int) -> bool:
        """Say whether the test set is looked at after `epoch` (from 0)."""
        return (epoch + 1) % self.eval_every == 0 or epoch >= self.protocol.epochs - evaluation.LAST_EPOCHS
