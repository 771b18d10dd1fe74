"""Co-teaching: each of two networks picks the samples of small loss, and the other one learns from them.

B. Han et al., "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels", NeurIPS 2018,
https://arxiv.org/abs/1804.06872.

Symbols
    f, g       net 0 and net 1
    tau        noise_rate: the share of wrong labels, known, estimated or guessed
    R(T)       1 - tau min(T / T_k, 1), the share of a batch that is kept; T counts epochs from 1
    T_k        ramp_epochs
    D_f, D_g   the R(T) share of a batch with the smallest loss under f, under g; f learns from D_g, g from D_f

The history's `selected` is D_g: what net 0, the headline, learns from.

Departures
    - The public code divides the mean loss by the number of samples once more. Adam hides that, SGD does not; here it
      is a mean.
    - The public code reaches full tau one epoch before the paper's R(T), and applies its exponent c to tau instead of
      the time. With c = 1, which all its scripts use, nothing else is left of it, so there is no c here.
    - At least one sample is kept of every batch.
    - tau is the share of labels that are wrong over all classes. Where only half of the classes are noisy (the
      asymmetric noise of CIFAR-10), that is half of the rate by which such noise is called.
    - The public code's optimizer is Plan(lr=1e-3, schedule="adam:80,0.1,200") with Protocol(optimizer="adam",
      weight_decay=0); on CIFAR-100 it drops at 100.
Result: docs/benchmark.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from acto.core.errors import UserError
from acto.core.settings import setting
from acto.core.types import Batch, BuildNet, Clock, Step, Task
from acto.methods.base import Method, observed
from acto.methods.blocks.losses import cross_entropy, masked_mean
from acto.methods.blocks.selection import forget_rate, small_loss


class CoTeaching(Method):
    """Cross-update on small-loss samples."""

    name = "co-teaching"
    title = "two networks teach each other with the samples of small loss"
    paper = (
        "Han et al., Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels, "
        "https://arxiv.org/abs/1804.06872"
    )
    venue = "NeurIPS 2018"
    num_nets = 2

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config(Method.Config):
        """Settings of Co-teaching; the defaults are those of the public code (200 epochs)."""

        noise_rate: float | None = setting(None, low=0, high=1)
        """tau; None: what is known of the data."""
        ramp_epochs: int = setting(10, low=0)
        """T_k, epochs in which the kept share falls to 1 - tau."""

    config: Config

    def __init__(self, config: Config, task: Task, build_net: BuildNet) -> None:
        """The method on `task`.

        Raises:
            UserError: if nobody says how many labels are wrong.
        """
        noise_rate = task.noise_rate if config.noise_rate is None else config.noise_rate
        if noise_rate is None:
            raise UserError(
                f"method {self.name!r} leaves out as many samples as have a wrong label, but noise_rate is not known "
                "of this data. Give your estimate as assumed_noise_rate, a share in [0, 1]"
            )
        super().__init__(config, task, build_net)
        self.noise_rate = noise_rate

    def forget_rate(self, clock: Clock) -> float:
        """1 - R(T)."""
        return forget_rate(clock.epoch, noise_rate=self.noise_rate, ramp_epochs=self.config.ramp_epochs)

    def loss(self, batches: tuple[Batch, ...], clock: Clock) -> Step:
        """Algorithm 1: both networks pick before either of them learns."""
        (batch,) = batches
        first, second = (net(batch.views[0]) for net in self.nets)
        losses = cross_entropy(first, batch.label), cross_entropy(second, batch.label)
        picked = [small_loss(values, self.forget_rate(clock)) for values in losses]
        loss_f, loss_g = masked_mean(losses[0], picked[1]), masked_mean(losses[1], picked[0])
        log = {"loss_net0": loss_f.detach(), "loss_net1": loss_g.detach()}
        return Step(loss_f + loss_g, log, {**observed(first, batch.label), "selected": picked[1]})

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """One network is the model, as in the paper's tables; the other and the mean of both are shown beside it."""
        first, second = (F.softmax(net(images), dim=1) for net in self.nets)
        return {"net0": first, "net1": second, "ensemble": (first + second) / 2}
