"""ACTO: two networks are trained asymmetrically, and what both of them believe of a label decides whether it is clean.

M. Sheng et al., "Enhancing Robustness in Learning with Noisy Labels: An Asymmetric Co-Training Approach", ACM MM 2024,
https://doi.org/10.1145/3664647.3680939; also as "Re-thinking the Label Memorization in Noisy Label Learning: An
Asymmetric Co-Training Optimization Strategy".

Symbols
    RTM, net 0   the robustly trained model: learns from what was selected; the one that is evaluated
    NTM, net 1   the non-robustly trained model: learns every given label, and in the end memorizes them
    S            the selected samples of a batch
    tau          mining stops where NTM fits a larger share of the given labels than RTM by this relative margin
    w_i          times_selected: in how many epochs sample i was selected; every warm-up epoch counts
    q_i          soft_label: moving average of RTM's prediction on sample i, one-hot at the start

Departures
    - The loss over an empty selection is 0; in the public code it is NaN. RTM still moves by momentum and decay.
    - entropy_clamp names a quirk of the public code (see acto.methods.blocks.losses.negative_entropy). It shaped the
      published numbers, so it is on by default.
    - Without consistency the selected loss has factor 1: no code of the ablation is public.
Result: docs/benchmark.md.

Above 180 lines: two phases, selection with mining behind a gate, and a switch for every row of the ablation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from acto.core.cuda_streams import run_concurrently
from acto.core.distributed import total, world
from acto.core.settings import setting
from acto.core.types import Batch, BuildNet, Clock, Scan, Step, Task
from acto.methods.base import Method, observed
from acto.methods.blocks.losses import batch_mean, cross_entropy, masked_mean, warm_up_loss
from acto.methods.blocks.soft_labels import SoftLabels


class ACTO(Method):
    """Asymmetric co-training with selection, mining, re-weighting and consistency regularization."""

    name = "acto"
    title = "asymmetric co-training: select what both networks fit, mine what only the non-robust one fits"
    paper = (
        "Sheng et al., Enhancing Robustness in Learning with Noisy Labels: An Asymmetric Co-Training Approach, "
        "https://doi.org/10.1145/3664647.3680939"
    )
    venue = "ACM MM 2024"
    views = ("weak", "strong")
    num_nets = 2

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Method.Config):
        """Settings of ACTO; the defaults are the paper's for CIFAR."""

        warmup_epochs: int = setting(50, low=0)
        """Epochs in which both networks learn from every label."""
        tau: float = setting(0.025, low=0)
        """Memorization threshold."""
        selection: Literal["both", "robust", "everything"] = "both"
        """Rule: both networks predict the given label (CIFAR); the robust one does (web data sets); everything selects
        all and leaves nothing to mine."""
        mining: bool = True
        """Also select what only NTM fits, as long as NTM has not memorized."""
        min_share: float | None = setting(None, low=0, high=1)
        """The sum of the selected samples' losses is divided by their number, but by no less than this share of the
        batch's; None: 0, as in the public code. Where few are selected, each of them counts for many, and RTM may fall
        to some few classes: docs/benchmark.md has numbers."""
        reweighting: bool = True
        """Weigh a selected sample by the share of epochs in which it was selected; off: weight 1."""
        consistency: bool = True
        """RTM's strong view must give the sample's pseudo label."""
        consistency_weight: float = setting(0.2, low=0, high=1)
        """Share of that term in RTM's loss."""
        memory_momentum: float = setting(0.8, low=0, high=0.999)
        """Share of the old q_i in its update."""
        memory_classes: int | None = setting(None, low=1)
        """Classes of q_i that are kept, the likeliest, with the rest spread evenly over the others; None: all.
        docs/performance.md tells how many are enough."""
        memory_dtype: Literal["float32", "float16", "bfloat16"] | None = None
        """Number format in which q_i is kept; None: float32."""
        entropy_weight: float = setting(1.0, low=0)
        """Weight of the term that keeps RTM's predictions soft during the warm-up."""
        entropy_clamp: bool = True
        """Treat negative logits as 0 in that term, as the public code does."""
        label_smoothing: float = setting(0.0, low=0, high=0.999)
        """Smoothing of every cross-entropy; 0.35 on the web data sets."""

    config: Config

    def __init__(self, config: Config, task: Task, build_net: BuildNet) -> None:
        super().__init__(config, task, build_net)
        self.remember("times_selected", torch.zeros(task.num_samples, dtype=torch.int64))
        self._form = SoftLabels(task.num_classes, classes=config.memory_classes, dtype=config.memory_dtype)
        self._soft_labels = self._form.name("soft_label")
        self.remember(self._soft_labels, self._form.one_hot(task.labels))
        self.remember("robust_epochs", torch.zeros((), dtype=torch.int64), per_sample=False)
        self.times_selected: Tensor
        self.robust_epochs: Tensor

    def on_turn(self, clock: Clock, scan: Scan) -> None:
        """Count the visits that q_i has had, to take its one-hot start out of label_quality."""
        self.robust_epochs.fill_(max(0, clock.epoch + 1 - self.config.warmup_epochs))

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """Warm-up for the first epochs, then the robust phase."""
        (batch,) = batches
        return self._warm_up(batch) if clock.epoch < self.config.warmup_epochs else self._robust(batch, clock)

    def _warm_up(self, batch: Batch) -> Step:
        config, label = self.config, batch.label
        view, (rtm, ntm) = batch.views[0], self.nets
        robust, non_robust = run_concurrently(lambda: rtm(view), lambda: ntm(view), device=view.device)
        loss_r = warm_up_loss(
            robust,
            labels=label,
            entropy_weight=config.entropy_weight,
            clamp_logits=config.entropy_clamp,
            label_smoothing=config.label_smoothing,
        )
        loss_n = self._ce_mean(non_robust, label)
        self.times_selected[batch.index] += 1
        right_r, right_n = robust.argmax(1) == label, non_robust.argmax(1) == label
        log = {
            "loss_rtm": loss_r.detach(),
            "loss_ntm": loss_n.detach(),
            "fit_rtm": batch_mean(right_r.float()),
            "fit_ntm": batch_mean(right_n.float()),
        }
        return Step(loss_r + loss_n, log, {**observed(robust, label), "memorized": right_n & ~right_r})

    def _robust(self, batch: Batch, clock: Clock) -> Step:
        config, label, index = self.config, batch.label, batch.index
        weak, strong = batch.views
        seen = (weak, strong) if config.consistency else (weak,)
        (robust, *robust_strong), non_robust = run_concurrently(
            lambda: [self.nets[0](view) for view in seen], lambda: self.nets[1](weak), device=weak.device
        )

        right_r, right_n = robust.argmax(1) == label, non_robust.argmax(1) == label
        selected, mined, is_open = select(
            right_r, right_n, tau=config.tau, selection=config.selection, mining=config.mining
        )
        times_selected = self.times_selected[index] + selected  # this epoch is counted before it weighs
        self.times_selected[index] = times_selected
        weight = times_selected / (clock.epoch + 1) if config.reweighting else torch.ones_like(robust[:, 0])

        probs = F.softmax(robust.detach(), dim=1)
        memory = getattr(self, self._soft_labels)
        soft_label = self._form.update(memory, index, probs, momentum=config.memory_momentum)

        loss_r = masked_mean(weight * self._ce(robust, label), selected, min_share=config.min_share or 0.0)
        if config.consistency:
            pseudo_label = torch.where(selected, label, soft_label.argmax(1))
            consistency = self._ce_mean(robust_strong[0], pseudo_label)
            loss_r = (1 - config.consistency_weight) * loss_r + config.consistency_weight * consistency
        loss_n = self._ce_mean(non_robust, label)

        fit_r, fit_n = batch_mean(right_r.float()), batch_mean(right_n.float())
        log = {
            "loss_rtm": loss_r.detach(),
            "loss_ntm": loss_n.detach(),
            "fit_rtm": fit_r,
            "fit_ntm": fit_n,
            "mining_open": is_open.float() / world(),
        }
        per_sample = {
            **observed(robust, label),
            "selected": selected,
            "mined": mined,
            "weight": weight,
            "memorized": right_n & ~right_r,
        }
        return Step(loss_r + loss_n, log, per_sample)

    def admit(self, rows: Tensor, *, epochs: int) -> None:
        """Let late samples weigh as if they had always been selected: from w_i = 0 they would take long to count."""
        self.times_selected[rows] = epochs

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """RTM is the model; NTM is shown beside it."""
        rtm, ntm = (F.softmax(net(images), dim=1) for net in self.nets)
        return {"rtm": rtm, "ntm": ntm}

    def few_selected(self) -> str:
        """A larger divisor, if there is none yet."""
        return "" if self.config.min_share else "--acto.min_share (0.25 to 1) keeps RTM from following the few that are"

    def label_quality(self) -> Tensor | None:
        """The soft label's mass on the given label, without the share that the one-hot start put there."""
        start = self.config.memory_momentum ** self.robust_epochs.double()
        given = self._form.given_and_mass(getattr(self, self._soft_labels), self.labels)[0].double()
        return ((given - start) / (1 - start)).clamp(0, 1).float() if self.robust_epochs > 0 else None

    def _ce(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)

    def _ce_mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        return batch_mean(self._ce(logits, labels))


def select(
    right_r: Tensor, right_n: Tensor, *, tau: float, selection: str = "both", mining: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Asymmetric sample selection and mining.

    The gate compares counts of the global batch in double precision: with float32 shares 40 right against 41 of 80
    would open a gate of tau = 1/40 that is shut.

    Args:
        right_r: (B,) bool, RTM predicts the given label.
        right_n: (B,) bool, NTM does.
        tau: memorization threshold.
        selection: see ACTO.Config.
        mining: see ACTO.Config.

    Returns:
        (B,) bool what is selected, mined samples included; (B,) bool what of it was mined; () bool, the gate is open.
    """
    # Apple's devices have no float64; nothing larger than a count has to fit.
    exact = torch.float32 if right_r.device.type == "mps" else torch.float64
    count_r, count_n = total(torch.stack([right_r.sum(), right_n.sum()])).to(exact)
    is_open = (count_r > 0) & (count_n - count_r < tau * count_r)
    if selection == "everything":
        agreed = torch.ones_like(right_r)
    else:
        agreed = right_r & right_n if selection == "both" else right_r
    mined = ~right_r & right_n & ~agreed & is_open if mining else torch.zeros_like(right_r)
    return agreed | mined, mined, is_open
