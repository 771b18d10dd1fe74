"""Rules of the methods that pick samples, as functions on tensors, for a training loop of one's own.

    from acto.selection import small_loss
    keep = small_loss(losses, rate=0.4)        # (B,) bool: the 60 % of least loss, as in co-teaching

The methods of `acto train` are built of these very functions. Shapes: B samples of a batch, N of the training set, K
classes. Nothing here waits for the device, but for `two_mode_mixture`, which computes on the processor, and `min_max`.
docs/own-loop.md has examples with PyTorch, skorch, Lightning and the Trainer of Hugging Face.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from acto.core.distributed import world
from acto.core.errors import UserError
from acto.core.settings import from_values
from acto.core.text import counted
from acto.core.types import Batch, Clock, Step, Task
from acto.methods.acto import ACTO, form_of
from acto.methods.blocks.confidence import moments_of, trust_in_confidence
from acto.methods.blocks.selection import (
    forget_rate,
    min_max,
    place_in_class,
    select,
    small_loss,
    top_classes,
    two_mode_mixture,
)

__all__ = [
    "ActoSelector",
    "Selected",
    "forget_rate",
    "min_max",
    "moments_of",
    "place_in_class",
    "select",
    "small_loss",
    "top_classes",
    "trust_in_confidence",
    "two_mode_mixture",
]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Selected:
    """Findings of ACTO about the samples of a batch."""

    selected: Tensor
    """(B,) bool, samples whose given label is learned from; mined ones are among them."""
    mined: Tensor
    """(B,) bool, those that only the non-robust network fits."""
    weight: Tensor
    """(B,) in [0, 1], share of the epochs in which the sample was selected; every epoch of the warm-up counts."""
    target: Tensor
    """(B,) int64, the given label where it was selected, else the class that the memory of the sample names."""

    def __repr__(self) -> str:
        return f"<Selected {int(self.selected.sum())} of {len(self.selected)} samples, {int(self.mined.sum())} mined>"


class ActoSelector(nn.Module):
    """ACTO's selection and its memory of every sample, for two networks of one's own.

    A module without parameters: `.to(device)` moves it, and its state_dict, saved beside the networks', goes on after a
    break. It is the published form of the method `acto` itself, which is handed logits instead of pictures.

    Args:
        labels: (N,) given labels of the whole training set, 0 to K - 1.
        num_classes: K.
        **settings: those of the method, see `acto methods acto`: warmup_epochs (50), tau (0.025), selection ("both"),
            mining, reweighting, memory_momentum, ... The teacher of the steady form needs networks and is refused.

    Raises:
        UserError: labels or settings that cannot be used.
    """

    def __init__(self, labels: Any, *, num_classes: int, **settings: Any) -> None:
        super().__init__()
        given = torch.as_tensor(labels)
        if given.dim() != 1 or not len(given) or given.is_floating_point() or given.dtype == torch.bool:
            raise UserError(f"labels must be (N,) whole numbers, not {given.dtype} of {tuple(given.shape)}")
        low, high = int(given.min()), int(given.max())
        if low < 0 or high >= num_classes:
            raise UserError(f"labels must lie in 0 to {num_classes - 1}, but there is {low if low < 0 else high}")
        config = from_values(ACTO.Config, settings)
        if form_of(config).judge == "teacher":
            raise UserError("a judge 'teacher', as of the steady form, needs networks: here only logits are seen")
        places = count()
        self.method = ACTO(config, Task(given.long(), num_classes), lambda: _Handed(next(places)))
        self._epoch: int | None = None
        self.register_load_state_dict_post_hook(_forget_epoch)

    def __repr__(self) -> str:
        task, config = self.method.task, self.method.config
        return (
            f"{type(self).__name__}({counted(task.num_samples, 'sample')}, {task.num_classes} classes, "
            f"warmup_epochs={config.warmup_epochs}, tau={config.tau:g})"
        )

    def select(self, index: Tensor, *, robust: Tensor, non_robust: Tensor, epoch: int) -> Selected:
        """Select samples of a batch and take the predictions into the memory. Once a batch; nothing has a gradient.

        Args:
            index: (B,) int64 numbers of the samples in the training set.
            robust: (B, K) logits of the network that learns from what is selected.
            non_robust: (B, K) logits of the network that learns every given label.
            epoch: from 0.

        Raises:
            UserError: shapes or numbers that do not fit.
        """
        with torch.no_grad():
            step = self.step(index, robust=robust, non_robust=non_robust, robust_strong=robust, epoch=epoch)
        return self.selected_in(step, index)

    def step(
        self, index: Tensor, *, robust: Tensor, non_robust: Tensor, robust_strong: Tensor | None = None, epoch: int
    ) -> Step:
        """Take one step of the method: its loss, and what it found of each sample; see acto.losses.ActoLoss.

        Raises:
            UserError: shapes or numbers that do not fit.
        """
        config = self.method.config
        if world() > 1:
            raise UserError("the memory of the samples is for one process: several would each have a part of it")
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
            raise UserError(f"epoch must be a whole number from 0, not {epoch!r}")
        needs_strong = epoch >= config.warmup_epochs and config.consistency
        if robust_strong is None and needs_strong:
            raise UserError("robust_strong is needed after the warm-up: logits for a strong view, or consistency=False")
        given = {"robust": robust, "non_robust": non_robust}
        given |= {"robust_strong": robust_strong} if robust_strong is not None else {}
        self._check(index, given)
        # The networks are stand-ins: each picks its own logits out of what is handed on as a picture.
        views = torch.stack([robust, non_robust]), (robust if robust_strong is None else robust_strong)[None]
        clock = Clock(epoch, epoch + 1)
        if epoch != self._epoch:
            self.method.on_turn(clock, _no_scan)
            self._epoch = epoch
        return self.method.loss((Batch(index, views, self.method.labels[index]),), clock)

    def selected_in(self, step: Step, index: Tensor) -> Selected:
        """Read what a step selected; in the warm-up that is everything."""
        found, labels = step.per_sample, self.method.labels[index]
        if "selected" not in found:
            everything = torch.ones_like(labels, dtype=torch.bool)
            return Selected(selected=everything, mined=~everything, weight=everything.float(), target=labels)
        target = torch.where(found["selected"], labels, self.method.soft_labels(index).argmax(1))
        return Selected(selected=found["selected"], mined=found["mined"], weight=found["weight"], target=target)

    def label_quality(self) -> Tensor | None:
        """(N,) trust in each given label, 0 to 1, 1 = trustworthy; None before the end of the warm-up."""
        return self.method.label_quality()

    def _check(self, index: Tensor, given: Mapping[str, Tensor]) -> None:
        task = self.method.task
        if not isinstance(index, Tensor) or index.dim() != 1 or index.dtype != torch.int64:
            raise UserError("index must be a tensor (B,) of int64: the samples' numbers in the training set")
        if index.device.type == "cpu" and len(index) and not (index.min() >= 0 and index.max() < task.num_samples):
            raise UserError(f"index must lie in 0 to {task.num_samples - 1}: labels has {task.num_samples} entries")
        for name, logits in given.items():
            if not isinstance(logits, Tensor) or logits.shape != (len(index), task.num_classes):
                found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                raise UserError(f"{name} must be logits of shape {(len(index), task.num_classes)}, not {found}")


def _forget_epoch(selector: ActoSelector, keys: Any) -> None:
    """Let the next step begin its epoch: what was loaded may be of another one."""
    selector._epoch = None


def _no_scan(net: nn.Module, *, view: str = "none", train: bool = False) -> Tensor:
    raise AssertionError("there are no samples here to look at")


class _Handed(nn.Module):
    """Stand-in for a network: its logits are what it is handed."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def forward(self, logits: Tensor) -> Tensor:
        return logits[self.place]
