"""CA2C: one network learns what a sample may be, the other what it is not, and each takes its labels from its partner.

M. Sheng et al., "CA2C: A Prior-Knowledge-Free Approach for Robust Label Noise Learning via Asymmetric Co-learning and
Co-training", ICCV 2025, https://iccv.thecvf.com/virtual/2025/poster/1901.

Symbols
    P-net, net 0   learns from candidates (partial-label learning)
    N-net, net 1   learns from complements (negative learning)
    M              votes: a visit adds one to the num_votes most likely classes of both networks in the warm-up, and of
                   the N-net after it
    q, h           shares of the votes of a sample, and its favourite class;  conf = max q
    lambda         hard_share: of the hard target h against the soft one q
    L_PLL          lambda mean conf CE(p_P, h) + (1 - lambda) mean conf CE(p_P, q)
    L_NL           -sum of log(1 - p_N[c]) over the classes c outside of the P-net's num_votes most likely ones
    L_P, L_N       (1 - w) L_PLL or L_NL, plus w times CE(strong view, the network's own class on the weak view)

After the warm-up no given label is used.

Departures
    - entropy_clamp names a quirk of the public code (see acto.methods.blocks.losses.negative_entropy), which shaped the
      published numbers and is on by default.
    - Published rows have 700 epochs of two networks, three to seven times the others' budget; here the protocol says.
Result: docs/benchmark.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from acto.core.errors import UserError
from acto.core.settings import setting
from acto.core.types import Batch, BuildNet, Clock, Step, Task
from acto.methods.base import Method, observed
from acto.methods.blocks.losses import (
    batch_mean,
    cross_entropy,
    negative_entropy,
    negative_learning,
    soft_cross_entropy,
)
from acto.methods.blocks.selection import top_classes


class CA2C(Method):
    """Combined asymmetric co-learning and co-training."""

    name = "ca2c"
    title = "one network learns candidates, the other complements; each takes them from its partner"
    paper = (
        "Sheng et al., CA2C: A Prior-Knowledge-Free Approach for Robust Label Noise Learning via Asymmetric "
        "Co-learning and Co-training, https://iccv.thecvf.com/virtual/2025/poster/1901"
    )
    venue = "ICCV 2025"
    views = ("weak", "strong")
    num_nets = 2

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Method.Config):
        """Settings of CA2C; the defaults are those of the public code for CIFAR (700 epochs)."""

        warmup_epochs: int = setting(400, low=0)
        """Epochs on every given label."""
        num_votes: int = setting(2, low=1)
        """Classes that a network's visit votes for, fewer than K."""
        hard_share: float = setting(0.99, low=0, high=1)
        """lambda, the hard target's share against the soft one."""
        consistency_weight: float = setting(0.2, low=0, high=1)
        """w, the consistency term's share of each loss."""
        entropy_clamp: bool = True
        """Treat negative logits as 0 in the warm-up's entropy term, as the public code does."""

    config: Config

    def __init__(self, config: Config, task: Task, build_net: BuildNet) -> None:
        """The method on `task`.

        Raises:
            UserError: if the votes of a visit leave no class out.
        """
        if config.num_votes >= task.num_classes:
            raise UserError(f"num_votes is {config.num_votes}, which must be below the {task.num_classes} classes")
        super().__init__(config, task, build_net)
        self.remember("votes", torch.zeros(task.num_samples, task.num_classes))
        self.remember("num_ballots", torch.zeros(task.num_samples))
        self.votes: Tensor
        self.num_ballots: Tensor

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """Warm-up for the first epochs, then L_P + L_N."""
        (batch,) = batches
        weak, strong = batch.views
        positive, negative = (net(weak) for net in self.nets)
        if clock.epoch < self.config.warmup_epochs:
            self._vote(batch.index, positive, negative)
            loss_p, loss_n = (self._warm_up(logits, batch.label) for logits in (positive, negative))
        else:
            votes = self._vote(batch.index, negative)
            share = self.config.consistency_weight
            consistency_p, consistency_n = (
                batch_mean(cross_entropy(net(strong), logits.argmax(1)))
                for net, logits in zip(self.nets, (positive, negative), strict=True)
            )
            pll = batch_mean(weighted_partial_label(positive, votes, hard_share=self.config.hard_share))
            nl = batch_mean(negative_learning(negative, ~top_classes(positive, self.config.num_votes)))
            loss_p = (1 - share) * pll + share * consistency_p
            loss_n = (1 - share) * nl + share * consistency_n
        log = {"loss_net0": loss_p.detach(), "loss_net1": loss_n.detach()}
        return Step(loss_p + loss_n, log, observed(positive + negative, batch.label))

    def _warm_up(self, logits: Tensor, labels: Tensor) -> Tensor:
        penalty = negative_entropy(logits, clamp_logits=self.config.entropy_clamp)
        return batch_mean(cross_entropy(logits, labels) + penalty)

    def _vote(self, index: Tensor, *voters: Tensor) -> Tensor:
        """Take in the votes of these logits, and return all votes of the samples, (B, K)."""
        votes = self.votes[index] + sum(top_classes(logits, self.config.num_votes).float() for logits in voters)
        self.votes[index] = votes
        self.num_ballots[index] += len(voters)
        return votes

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """The mean of both networks' logits is the model, as in the public code; each of them is shown beside it."""
        first, second = (net(images) for net in self.nets)
        logits = {"ensemble": (first + second) / 2, "net0": first, "net1": second}
        return {name: F.softmax(values, dim=1) for name, values in logits.items()}

    def label_quality(self) -> Tensor | None:
        """Share of the ballots that named the given label; None before the first."""
        if not bool((self.num_ballots > 0).any()):
            return None
        return self.votes.gather(1, self.labels[:, None]).squeeze(1) / self.num_ballots.clamp(min=1)


def weighted_partial_label(logits: Tensor, votes: Tensor, *, hard_share: float) -> Tensor:
    """Conf (lambda CE(p, h) + (1 - lambda) CE(p, q)), (B,) >= 0; its mean is L_PLL.

    Args:
        logits: (B, K).
        votes: (B, K), one at least in each row.
        hard_share: lambda, in [0, 1].
    """
    shares = votes / votes.sum(1, keepdim=True)
    confidence, favourite = shares.max(1)
    hard, soft = cross_entropy(logits, favourite), soft_cross_entropy(logits, shares)
    return confidence * (hard_share * hard + (1 - hard_share) * soft)
