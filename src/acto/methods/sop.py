"""SOP: every sample owns a sparse vector beside its prediction, which soaks up what is wrong with its label.

S. Liu et al., "Robust Training under Label Noise by Over-parameterization", ICML 2022, https://arxiv.org/abs/2202.14026.

Symbols
    y, p             given label as one-hot, prediction
    u_i, v_i         learned rows, 1 and K numbers a sample, from N(0, 1e-8^2): what is pushed steadily grows like an
                     exponential, the rest stays at 0
    U, V             clamp(u^2 y, 0, 1) and clamp(v^2 (1 - y), 0, 1): what the label adds to the truth, what it hides
    p_n              p + U - V, clamped to at least 1e-4 and scaled to sum to one; V is a constant here
    L_CE             -log p_n[y]: teaches the network and u
    L_MSE            |onehot(argmax p) + U - V - y|^2: teaches u and v
    lambda_C         consistency_weight: of KL(p || p of the strong view), the first being a constant
    lambda_B         balance_weight: of -sum_c (1/K) log mean p_n[c], which keeps every class in use

Both weights at 0 are the paper's "SOP", 0.9 and 0.1 its "SOP+".

Departures
    - project names a difference: the paper's algorithm projects u and v to [-1, 1] after every step; its public code
      only clamps their squares in the loss, where they stay once they have passed 1. The code's form is the default.
    - u and v descend along a mean over the batch, and have the length of the run to grow from 1e-8 to 1. The rates are
      the paper's for batches of 128 and 120 epochs or more; by_method.py scales them for others.
Result: docs/benchmark.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from acto.core.settings import setting
from acto.core.types import Batch, BuildNet, Clock, Step, Stream, Task
from acto.methods.base import Method, observed
from acto.methods.blocks.losses import batch_mean, mean_prediction, share_of, soft_cross_entropy
from acto.methods.blocks.mixing import one_hot

START_STD = 1e-8
FLOOR = 1e-4


class SOP(Method):
    """Sparse over-parameterization, plain or with the two regularizers of SOP+."""

    name = "sop"
    title = "learn beside the network a sparse vector for the error of every label"
    paper = "Liu et al., Robust Training under Label Noise by Over-parameterization, https://arxiv.org/abs/2202.14026"
    venue = "ICML 2022"
    views = ("weak", "strong")

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Method.Config):
        """Settings of SOP; the defaults are the paper's for CIFAR-10 with symmetric noise (batch 128)."""

        u_rate: float = setting(10.0, low=0, open_low=True)
        """Learning rate of u."""
        v_rate: float = setting(10.0, low=0, open_low=True)
        """Learning rate of v."""
        consistency_weight: float = setting(0.0, low=0)
        """lambda_C; 0.9 in SOP+."""
        balance_weight: float = setting(0.0, low=0)
        """lambda_B; 0.1 in SOP+."""
        project: bool = False
        """Project u and v after every step as in the paper, see the card."""

    config: Config

    def __init__(self, config: Config, task: Task, build_net: BuildNet) -> None:
        super().__init__(config, task, build_net)
        self.learn("u", START_STD * torch.randn(task.num_samples, 1))
        self.learn("v", START_STD * torch.randn(task.num_samples, task.num_classes))
        self.u: Tensor
        self.v: Tensor

    def row_rate(self, name: str, clock: Clock) -> float:
        """Constant over the run."""
        return self.config.u_rate if name == "u" else self.config.v_rate

    def streams(self, clock: Clock) -> tuple[Stream, ...]:
        """The strong view only where the consistency needs it."""
        return (Stream(views=self.views if self.config.consistency_weight > 0 else ("weak",)),)

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """L_CE + L_MSE, and what SOP+ adds."""
        (batch,) = batches
        config, index = self.config, batch.index
        # All views in one pass, so that batch normalization sees them together.
        logits, *strong = self.nets[0](torch.cat(batch.views)).split(len(index))
        probs, given = F.softmax(logits, dim=1), one_hot(batch.label, self.task.num_classes)
        if config.project:  # what the step after the last visit should have done
            self.u[index], self.v[index] = self.u[index].clamp(-1, 1), self.v[index].clamp(-1, 1)
        added, hidden = label_error(self.rows("u", index), self.rows("v", index), given)
        corrected = absorb(probs, added, hidden)
        loss_ce = batch_mean(-corrected.gather(1, batch.label[:, None]).squeeze(1).log())
        guess = one_hot(logits.argmax(1), self.task.num_classes)
        loss_mse = batch_mean((guess + added - hidden - given).square().sum(1))
        loss = loss_ce + loss_mse
        log = {"loss_ce": loss_ce.detach(), "loss_mse": loss_mse.detach()}
        if config.balance_weight > 0:
            loss_balance = balance(corrected)
            loss = loss + config.balance_weight * loss_balance
            log["loss_balance"] = loss_balance.detach()
        if config.consistency_weight > 0:
            target = probs.detach()
            # KL less the entropy of the target, which is a constant: put back so that the log shows a divergence.
            loss_cr = batch_mean(soft_cross_entropy(strong[0], target) - soft_cross_entropy(logits.detach(), target))
            loss = loss + config.consistency_weight * loss_cr
            log["loss_cr"] = loss_cr.detach()
        return Step(loss, log, observed(logits, batch.label))

    def label_quality(self) -> Tensor | None:
        """1 - U: what the sample's own vector leaves of the given label."""
        return (1 - self.u.square().squeeze(1)).clamp(0, 1)


def label_error(u: Tensor, v: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """U and V, each (B, K) in [0, 1]; U on the given class only, V off it.

    Args:
        u: (B, 1).
        v: (B, K).
        given: (B, K) one-hot.
    """
    return (u.square() * given).clamp(0, 1), (v.square() * (1 - given)).clamp(0, 1)


def absorb(probs: Tensor, added: Tensor, hidden: Tensor) -> Tensor:
    """p_n, (B, K) in [1e-4, 1]: the prediction with the label's error on top, so that it can fit a wrong label.

    Args:
        probs: (B, K), p.
        added: (B, K), U.
        hidden: (B, K), V; no gradient reaches it.
    """
    shifted = (probs + added - hidden.detach()).clamp(min=FLOOR)
    return (shifted / shifted.sum(1, keepdim=True)).clamp(FLOOR, 1)


def balance(probs: Tensor) -> Tensor:
    """-sum_c (1/K) log mean p_c over the global batch, at least log K for rows that sum to one.

    Args:
        probs: (B, K), > 0.
    """
    return share_of(-mean_prediction(probs).log().mean())
