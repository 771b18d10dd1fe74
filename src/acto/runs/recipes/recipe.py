"""Recipes: the run of a method on data, from the settings of both."""

from __future__ import annotations

from acto.data.samples import DataSpec
from acto.runs.recipes.by_data import Setting
from acto.runs.recipes.by_method import CONFIGS
from acto.runs.run import Run
from acto.training.plans import Plan
from acto.training.protocol import Protocol


def recipe(data: DataSpec, setting: Setting, *, method: str = "acto", seed: int = 0) -> Run:
    """The run of `method` on `data` with `setting`.

    Networks other than ACTO's second one follow net 0's plan.
    """
    plan = Plan(
        lr=setting.lr,
        schedule=setting.schedule,
        warmup_epochs=setting.warmup_epochs if setting.schedule != "baseline" else 0,
        warmup_lr=setting.warmup_lr,
    )
    plans = {}
    if method == "acto" and setting.lr1 is not None:
        plans["net1"] = Plan(lr=setting.lr1, schedule=setting.schedule1 or setting.schedule)
    return Run(
        data=data,
        method=method,
        config=CONFIGS[method](setting, data.noise) if method in CONFIGS else None,
        net=setting.net,
        weights=setting.weights,
        head=setting.head,
        protocol=Protocol(
            epochs=setting.epochs,
            batch_size=setting.batch_size,
            optimizer=setting.optimizer,
            weight_decay=setting.weight_decay,
            plan=plan,
            plans=plans,
        ),
        seed=seed,
        precision=setting.precision,
        assumed_noise_rate=setting.assumed_noise_rate,
    )
