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

Forms
    published    the paper's method, to the last bit of its public code's arithmetic. Where most labels are wrong it
                 ends at a few classes: RTM judges its own labels, and the few that it keeps confirm it.
    steady       for labels about which nothing is known. A slowly moving average of RTM, the teacher, judges in
                 RTM's place: in the selection, in the gate, in q. RTM learns from the whole batch, in slight mixtures
                 of either view: the given label where it was selected, else the class that q names once its classes
                 are as frequent as the given ones, weighed by how sure q is beside others left out.
    Every part has a setting of its own, which holds in both forms. Numbers: docs/decisions.md.

Departures
    - The loss over an empty selection is 0; in the public code it is NaN. RTM still moves by momentum and decay.
    - entropy_clamp names a quirk of the public code (see acto.methods.blocks.losses.negative_entropy). It shaped the
      published numbers, so it is on by default.
    - Without consistency the selected loss has factor 1: no code of the ablation is public.
Result: docs/benchmark.md.

Above 180 lines: two phases, two forms, selection with mining behind a gate, and a switch for every row of the ablation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from acto.core.cuda_streams import run_concurrently
from acto.core.distributed import total, world
from acto.core.errors import UserError
from acto.core.settings import setting
from acto.core.types import Batch, BuildNet, Clock, Scan, Step, Task
from acto.methods.base import Method, guessing, observed, of_views
from acto.methods.blocks.confidence import moments_of, trust_in_confidence
from acto.methods.blocks.course import Course
from acto.methods.blocks.losses import batch_mean, cross_entropy, masked_mean, negative_entropy
from acto.methods.blocks.mixing import Mixture
from acto.methods.blocks.selection import select
from acto.methods.blocks.soft_labels import SoftLabels
from acto.methods.blocks.weight_average import follow, follower

REACH = 0.01
"""Share of a batch in the running means: of the teacher's predictions and of the confidence."""
OF_SOME_FORMS = {"teacher", "teacher_steps", "confidence", "mean_prediction", *Course.STATE}
"""Parts of the state that depend on the settings."""
BELL = 2.0
"""Steepness of the weight by confidence, as in SED and SoftMatch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """Parts of the robust phase in which the forms differ; each is explained at the setting of its name."""

    selection: str
    min_share: float
    judge: str
    average_epochs: float
    selected_weight: float | None
    consistency_weight: float
    confidence: str
    alignment: bool
    mixing: float
    warmup_views: str
    course: bool


FORMS = {
    "published": Form(
        selection="both", min_share=0.0, judge="student", average_epochs=1.0, selected_weight=None,
        consistency_weight=0.2, confidence="none", alignment=False, mixing=0.0, warmup_views="weak",
        course=False,
    ),
    "steady": Form(
        selection="both", min_share=0.25, judge="teacher", average_epochs=1.0, selected_weight=2.0,
        consistency_weight=2.0, confidence="gaussian", alignment=True, mixing=0.3, warmup_views="both",
        course=False,
    ),
}  # fmt: skip
"""Values of the settings that are None."""


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
    takes_weights = True

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Method.Config):
        """Settings of ACTO; the defaults are the paper's for CIFAR."""

        warmup_epochs: int = setting(50, low=0)
        """Epochs in which both networks learn from every label."""
        tau: float = setting(0.025, low=0)
        """Memorization threshold."""
        form: Literal["published", "steady"] | None = None
        """Form of the method, see the card: what it says holds where a setting below is null. null: published."""
        selection: Literal["both", "robust", "everything"] | None = None
        """Rule: both networks predict the given label (CIFAR); the robust one does (web data sets); everything selects
        all and leaves nothing to mine. null: both."""
        mining: bool = True
        """Also select what only NTM fits, as long as NTM has not memorized."""
        judge: Literal["student", "teacher"] | None = None
        """Network whose prediction counts as RTM's in selection, gate and q: RTM itself, or the moving average of its
        weights and batch statistics, in evaluation mode. null: student in the published form, teacher in the steady."""
        average_epochs: float | None = setting(None, low=0, open_low=True)
        """Epochs that the teacher reaches back. null: 1."""
        min_share: float | None = setting(None, low=0, high=1)
        """The sum of the selected samples' losses is divided by their number, but by no less than this share of the
        batch's. Without mixing only. null: 0 in the published form, as in the public code; 0.25 in the steady."""
        reweighting: bool = True
        """Weigh a selected sample by the share of epochs in which it was selected; off: weight 1."""
        consistency: bool = True
        """RTM's strong view must give the sample's pseudo label."""
        consistency_weight: float | None = setting(None, low=0)
        """Factor of that term in RTM's loss. null: 0.2 in the published form, 2 in the steady."""
        selected_weight: float | None = setting(None, low=0)
        """Factor of the selected samples' loss. null: 1 - consistency_weight in the published form, 2 in the steady."""
        confidence: Literal["none", "gaussian"] | None = None
        """Weight of a sample that was left out: 1, or by its pseudo label's probability: 1 from the mean of such
        samples on, and below it falling like a bell curve of half their deviation. null: none in the published form,
        gaussian in the steady."""
        alignment: bool | None = None
        """Divide q by the teacher's mean prediction and multiply it with the shares of the given labels before its
        likeliest class is taken. null: no in the published form, yes in the steady."""
        mixing: float | None = setting(None, low=0)
        """Parameter of the Beta distribution for mixing the samples of a batch with each other; 0: they are not mixed.
        Needs the teacher as judge. null: 0 in the published form, 0.3 in the steady."""
        warmup_views: Literal["weak", "both"] | None = None
        """Views that RTM learns in the warm-up. null: weak in the published form, both in the steady."""
        course: bool | None = None
        """Also select what the judge has preferred most on average over all visits, of each given label as many as are
        credible: where contradictions are spread evenly over ten classes and more at the warm-up's end, those that it
        preferred until then, and up to a quarter of the rest that is not spread. null: no."""
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

        def __post_init__(self) -> None:
            """Refuse parts that do not go together; records of the published form know of no other."""
            super(ACTO.Config, self).__post_init__()
            if self.form == "published":
                object.__setattr__(self, "form", None)
            form = form_of(self)
            if form.selected_weight is None and (weight := form.consistency_weight) > 1:
                raise UserError(
                    f"acto.consistency_weight must lie in [0, 1] without acto.selected_weight, not {weight:g}"
                )
            if form.mixing and form.judge != "teacher":
                raise UserError(f"acto.mixing {form.mixing:g} needs acto.judge teacher: RTM does not see what it mixes")

    config: Config

    def __init__(self, config: Config, task: Task, build_net: BuildNet) -> None:
        super().__init__(config, task, build_net)
        self.form = form_of(config)
        self.remember("times_selected", torch.zeros(task.num_samples, dtype=torch.int64))
        self._form = SoftLabels(task.num_classes, classes=config.memory_classes, dtype=config.memory_dtype)
        self._soft_labels = self._form.name("soft_label")
        self.remember(self._soft_labels, self._form.one_hot(task.labels))
        self.remember("robust_epochs", torch.zeros((), dtype=torch.int64), per_sample=False)
        self.times_selected: Tensor
        self.robust_epochs: Tensor
        if self.form.judge == "teacher":
            self.teacher = follower(self.nets[0])
            self.remember("teacher_steps", torch.zeros(()), per_sample=False)
            self.teacher_steps: Tensor
        if self.form.confidence == "gaussian":
            self.remember("confidence", torch.tensor([1 / task.num_classes, 1.0]), per_sample=False)
            self.confidence: Tensor
            """(2,): mean and variance."""
        self._course = Course(self) if self.form.course else None
        if self.form.alignment:
            shares = torch.bincount(task.labels, minlength=task.num_classes) / task.num_samples
            self.register_buffer("prior", shares.float(), persistent=False)
            self.remember("mean_prediction", torch.full((task.num_classes,), 1 / task.num_classes), per_sample=False)
            self.prior: Tensor
            self.mean_prediction: Tensor

    def on_turn(self, clock: Clock, scan: Scan) -> None:
        """Count the visits that q_i has had, to take its one-hot start out of label_quality, and look back at them."""
        self.robust_epochs.fill_(max(0, clock.epoch + 1 - self.config.warmup_epochs))
        if self._course and self.robust_epochs > 0:
            self._course.look_back()

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """Warm-up for the first epochs, then the robust phase."""
        (batch,) = batches
        return self._warm_up(batch) if clock.epoch < self.config.warmup_epochs else self._robust(batch, clock)

    def _warm_up(self, batch: Batch) -> Step:
        config, label = self.config, batch.label
        view, (rtm, ntm) = batch.views[0], self.nets
        mix = self._mixture(label)
        views = batch.views if self.form.warmup_views == "both" else (view,)
        seen = tuple(mix.inputs(view) for view in views) if mix else views
        robust, (non_robust, average) = run_concurrently(
            lambda: of_views(rtm, seen), lambda: (ntm(view), self._average(view)), device=view.device
        )
        judge = robust[0].detach() if average is None else average
        even, loss_r = self.weighed(torch.ones_like(judge[:, 0]), batch.index), torch.zeros((), device=view.device)
        for out in robust:
            fit = mix.loss(self._ce, out, label, even) if mix else self.weighed(self._ce(out, label), batch.index)
            penalty = self.weighed(negative_entropy(out, clamp_logits=config.entropy_clamp), batch.index)
            loss_r = loss_r + batch_mean(fit) + config.entropy_weight * batch_mean(penalty)
        loss_n = batch_mean(self.weighed(self._ce(non_robust, label), batch.index))
        self.times_selected[batch.index] += 1
        if self._course:
            self._course.see(judge, batch)
        right_r, right_n = judge.argmax(1) == label, non_robust.argmax(1) == label
        log = {
            "loss_rtm": loss_r.detach(),
            "loss_ntm": loss_n.detach(),
            "fit_rtm": batch_mean(right_r.float()),
            "fit_ntm": batch_mean(right_n.float()),
        }
        return Step(loss_r + loss_n, log, {**observed(judge, label), "memorized": right_n & ~right_r})

    def _robust(self, batch: Batch, clock: Clock) -> Step:
        config, form, label, index = self.config, self.form, batch.label, batch.index
        weak, strong = batch.views
        mix = self._mixture(label)
        views = (weak, strong) if config.consistency else (weak,)
        seen = tuple(mix.inputs(view) for view in views) if mix else views
        (robust, *robust_strong), (non_robust, average) = run_concurrently(
            lambda: of_views(self.nets[0], seen),
            lambda: (self.nets[1](weak), self._average(weak)),
            device=weak.device,
        )
        judge = robust.detach() if average is None else average

        right_r, right_n = judge.argmax(1) == label, non_robust.argmax(1) == label
        selected, mined, is_open = select(
            right_r, right_n, tau=config.tau, selection=form.selection, mining=config.mining
        )
        if self._course:
            selected = selected | self._course.see(judge, batch)
        times_selected = self.times_selected[index] + selected  # this epoch is counted before it weighs
        self.times_selected[index] = times_selected
        weight = times_selected / (clock.epoch + 1) if config.reweighting else torch.ones_like(judge[:, 0])

        probs = F.softmax(judge, dim=1)
        memory = getattr(self, self._soft_labels)
        soft_label = self._form.update(memory, index, probs, momentum=config.memory_momentum)
        pseudo_label, trust = self._pseudo_labels(soft_label, probs, rest=~selected)
        target = torch.where(selected, label, pseudo_label)

        if mix:
            # Whoever is mixed in counts, so the samples that were left out do too, as far as they are trusted.
            counts = torch.where(selected, weight, trust if config.consistency else 0.0)
            loss_r = batch_mean(mix.loss(self._ce, robust, target, self.weighed(counts, index)))
        else:
            losses = self.weighed(weight * self._ce(robust, label), index)
            loss_r = masked_mean(losses, selected, min_share=form.min_share)
        factor = form.selected_weight
        if config.consistency:
            trust = self.weighed(torch.where(selected, 1.0, trust), index)
            (out,) = robust_strong
            losses = mix.loss(self._ce, out, target, trust) if mix else trust * self._ce(out, target)
            factor = 1 - form.consistency_weight if factor is None else factor
            loss_r = factor * loss_r + form.consistency_weight * batch_mean(losses)
        elif factor is not None:
            loss_r = factor * loss_r
        loss_n = batch_mean(self.weighed(self._ce(non_robust, label), index))

        log = {
            "loss_rtm": loss_r.detach(),
            "loss_ntm": loss_n.detach(),
            "fit_rtm": batch_mean(right_r.float()),
            "fit_ntm": batch_mean(right_n.float()),
            "mining_open": is_open.float() / world(),
        }
        per_sample = {
            **observed(judge, label),
            "selected": selected,
            "mined": mined,
            "weight": weight,
            "memorized": right_n & ~right_r,
        }
        return Step(loss_r + loss_n, log, per_sample)

    def _mixture(self, label: Tensor) -> Mixture | None:
        return Mixture.of(label, alpha=self.form.mixing) if self.form.mixing else None

    def _average(self, view: Tensor) -> Tensor | None:
        """(B, K) logits of the teacher, which count as RTM's; None: RTM's own do."""
        if self.form.judge == "student":
            return None
        with guessing(self.teacher):
            logits: Tensor = self.teacher(view)
        return logits

    @torch.no_grad()
    def _pseudo_labels(self, soft_label: Tensor, probs: Tensor, *, rest: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) classes and (B,) their weights in [0, 1], of a batch whose samples `rest` were left out."""
        if self.form.alignment:
            size = total(torch.full_like(probs[0, 0], len(probs)))
            self.mean_prediction.lerp_(total(probs.sum(0)).to(self.mean_prediction.dtype) / size, REACH)
            soft_label = soft_label * (self.prior / self.mean_prediction)
            soft_label = soft_label / soft_label.sum(1, keepdim=True)
        confidence, pseudo_label = soft_label.max(1)
        if self.form.confidence == "none":
            return pseudo_label, torch.ones_like(confidence)
        self.confidence.lerp_(*moments_of(confidence, rest, reach=REACH))
        return pseudo_label, trust_in_confidence(confidence, *self.confidence, bell=BELL)

    def on_step(self, clock: Clock) -> None:
        """Move the teacher, in its first steps by more than later, when its start would weigh too much."""
        if self.form.judge == "teacher":
            decay = math.exp(-1 / (self.form.average_epochs * clock.steps))
            self.teacher_steps.add_(1)
            move = (9 / (9 + self.teacher_steps)).clamp(min=1 - decay)
            follow(self.teacher, self.nets[0], move=move)

    def admit(self, rows: Tensor, *, epochs: int) -> None:
        """Let late samples weigh as if they had always been selected: from w_i = 0 they would take long to count."""
        self.times_selected[rows] = epochs

    def adopted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Let another form go on: a teacher begins as RTM, running means begin anew, what is not needed is left out."""
        taken = {name: value for name, value in state.items() if name.partition(".")[0] not in OF_SOME_FORMS}
        for name, fresh in self.state_dict().items():
            if name.partition(".")[0] in OF_SOME_FORMS:
                taken[name] = state.get(name, taken.get(name.replace("teacher.", "nets.0.", 1), fresh))
        return taken

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """RTM is the model; NTM is shown beside it."""
        rtm, ntm = (F.softmax(net(images), dim=1) for net in self.nets)
        return {"rtm": rtm, "ntm": ntm}

    def few_selected(self) -> str:
        """The steady form, whose judge moves slowly."""
        return "" if self.form.judge == "teacher" else "--acto.form steady keeps RTM from following the few that are"

    def soft_labels(self, index: Tensor) -> Tensor:
        """(B, K) q_i of some samples."""
        return self._form.expand(getattr(self, self._soft_labels)[index])

    def label_quality(self) -> Tensor | None:
        """The soft label's mass on the given label, without the share that the one-hot start put there."""
        start = self.config.memory_momentum ** self.robust_epochs.double()
        given = self._form.given_and_mass(getattr(self, self._soft_labels), self.labels)[0].double()
        return ((given - start) / (1 - start)).clamp(0, 1).float() if self.robust_epochs > 0 else None

    def _ce(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)


def form_of(config: ACTO.Config) -> Form:
    """The form of a config with its own values in place of those that are None."""
    form = FORMS[config.form or "published"]
    own = {field.name: getattr(config, field.name) for field in fields(Form)}
    return replace(form, **{name: value for name, value in own.items() if value is not None})
