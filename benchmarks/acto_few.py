"""ACTO where hardly anything is selected: its first robust steps on CIFAR-100 with 80 % of symmetric noise.

    python benchmarks/acto_few.py [--steps 176] [--candidates selected,slow,quarter,batch]

The papers' warm-up of 50 epochs takes hours on a processor. Here three epochs on labels of which 20 % are wrong and two
on the labels of which 80 % are leave two networks that fit about as many of these labels. From there each candidate
takes its robust steps, as in the papers' 51st epoch and those behind it:

    selected    the loss of the selected samples is divided by their number, as in the public code
    slow        the same with RTM at 0.001, not 0.01
    quarter     by no less than 32, a quarter of the batch
    batch       by the batch's 128

As in acto_rates.py 5,000 noisy training pictures are held out, and accuracy is measured against their GIVEN labels: no
test picture is looked at. CIFAR-100 must lie under the data root. On two cores the warm-up takes a quarter of an hour,
and 100 steps a minute and a half. results/acto_few_cpu.txt holds what it printed.
"""

from __future__ import annotations

import argparse
import copy
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from acto.core.types import Batch, Clock, Step
from acto.data.noise import NoiseSpec
from acto.data.samples import DataSpec
from acto.runs.prepare import Prepared, prepare
from acto.runs.recipes.by_data import CIFAR_NUST
from acto.runs.recipes.recipe import recipe
from acto.training import evaluation
from acto.training.loop import run_epochs
from acto.training.plans import Plan
from acto_rates import BASELINE, SHARED, noisy_split

EASY, HARD = 3, 2
"""Epochs of the warm-up with 20 % and with 80 % of wrong labels."""
SLOW = replace(SHARED, lr=0.001)
CANDIDATES: dict[str, tuple[Plan, float]] = {
    "selected": (SHARED, 0.0),
    "slow": (SLOW, 0.0),
    "quarter": (SHARED, 0.25),
    "batch": (SHARED, 1.0),
}
"""RTM's plan, and min_share."""
EARLY = (10, 20, 40, 80)
EVERY = 88
"""Shown after these steps, and after every so many: a quarter of an epoch."""


def prepared(rate: float, *, plan: Plan = SHARED, min_share: float = 0.0) -> Prepared:
    """A training with that much symmetric noise."""
    spec = DataSpec(source="cifar100nc", noise=NoiseSpec(kind="symmetric", rate=rate))
    run = recipe(spec, CIFAR_NUST)
    config = replace(run.config, min_share=min_share)
    run = replace(run, config=config, protocol=replace(run.protocol, plan=plan, plans={"net1": BASELINE}))
    return prepare(run, dataset=noisy_split(spec))


def held_out(there: Prepared) -> float:
    """RTM's accuracy in percent against the given labels of the samples held out."""
    return 100 * evaluation.accuracy(there.training, there.test_data)["rtm"]


def warmed_up() -> dict[str, Any]:
    """The state of a training whose next epoch is the first robust one."""
    easy = prepared(0.2)
    for log in run_epochs(easy.training, easy.train_data, seed=0):
        print(f"warm-up, 20 % noise, epoch {log.epoch}: RTM fits {100 * log.metrics['fit_rtm']:.1f} %", flush=True)
        if log.epoch + 1 == EASY:
            break
    learned = easy.training.state_dict()
    hard = prepared(0.8)
    state = hard.training.state_dict()
    nets = {key: value for key, value in learned["method"].items() if key.startswith("nets.")}
    state |= {"method": state["method"] | nets, "optimizer": learned["optimizer"], "epochs_done": EASY}
    hard.training.load_state_dict(state)
    for log in run_epochs(hard.training, hard.train_data, seed=0):
        fits = f"RTM fits {100 * log.metrics['fit_rtm']:.1f} %, NTM {100 * log.metrics['fit_ntm']:.1f} %"
        print(f"warm-up, 80 % noise, epoch {log.epoch}: {fits}, held out {held_out(hard):.2f} %", flush=True)
        if log.epoch + 1 == EASY + HARD:
            break
    state = hard.training.state_dict()
    warmup = hard.training.method.config.warmup_epochs
    state["method"]["times_selected"].fill_(warmup)  # every epoch of a warm-up counts
    return state | {"epochs_done": warmup}


class Enough(Exception):
    """Ends an epoch before its time."""


def robust_steps(name: str, state: dict[str, Any], *, steps: int) -> None:
    """Go on from `state` for so many steps, and print where the candidate stands."""
    plan, min_share = CANDIDATES[name]
    there = prepared(0.8, plan=plan, min_share=min_share)
    there.training.load_state_dict(copy.deepcopy(state))  # optimizers go on in the tensors that they are given
    method = there.training.method
    loss, counts = method.loss, []

    def watched(batches: tuple[Batch, ...], clock: Clock) -> Step:
        step, size = loss(batches, clock), len(batches[0].label)
        counts.append([size * step.log["fit_rtm"], size * step.log["fit_ntm"], step.per_sample["selected"].sum()])
        return step

    def tick(clock: Clock) -> None:
        if len(counts) in EARLY or len(counts) % EVERY == 0:
            right_r, right_n, selected = torch.tensor(counts[-10:]).mean(0).tolist()
            fits = f"RTM fits {right_r:.1f}, NTM {right_n:.1f}, selected {selected:.1f}"
            accuracy = f"held out {held_out(there):.2f} %"
            print(f"{name:8} step {len(counts):4}: {accuracy}; of 128, mean of ten steps: {fits}", flush=True)
            method.train()
        if len(counts) == steps:
            raise Enough

    method.loss = watched  # type: ignore[method-assign]
    with suppress(Enough):
        for _ in run_epochs(there.training, there.train_data, seed=0, tick=tick):
            pass


def main() -> None:
    """Warm up once, then take each candidate's steps."""
    parser = argparse.ArgumentParser(description="ACTO where hardly anything is selected")
    parser.add_argument("--steps", type=int, default=2 * EVERY)
    parser.add_argument("--candidates", default=",".join(CANDIDATES), metavar="NAME,...")
    args = parser.parse_args()
    state = warmed_up()
    for name in args.candidates.split(","):
        robust_steps(name, state, steps=args.steps)


if __name__ == "__main__":
    main()
