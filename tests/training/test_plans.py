from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from acto.core.errors import UserError
from acto.methods.acto import FORMS, form_of
from acto.runs.recipes.by_data import (
    BY_PIPELINE,
    MANY_VECTORS,
    THOUSANDS_OF_VECTORS,
    VECTORS,
    VECTORS_IN_BULK,
    for_size,
    setting_for,
    setting_of_kind,
    with_batch,
)
from acto.runs.resolve import run_of
from acto.training.plans import Plan


def rates(plan: Plan, epochs: int) -> list[float]:
    return [plan.at(epoch, epochs)["lr"] for epoch in range(epochs)]


def test_the_papers_cosine() -> None:
    plan = Plan(lr=0.01, schedule="cosine:20,5e-4,100", warmup_epochs=50, warmup_lr=0.02)
    lr = rates(plan, 150)
    assert lr[:50] == [0.02] * 50
    # 80 values from epoch 50 on, then the last of them to the end: slightly above the floor.
    for i in (0, 1, 40, 79):
        assert lr[50 + i] == pytest.approx(5e-4 + (0.01 - 5e-4) * (1 + math.cos(math.pi * i / 80)) / 2)
    assert lr[130:] == [lr[129]] * 20
    assert lr[129] > 5e-4


def test_cosine_waits_for_its_own_first_epoch() -> None:
    lr = rates(Plan(lr=0.1, schedule="cosine:4,0.01,8", warmup_epochs=2, warmup_lr=0.05), 10)
    assert lr[:5] == [0.05, 0.05, 0.1, 0.1, 0.1]
    assert lr[5] < 0.1


def test_food101n_command() -> None:
    lr = rates(Plan(lr=5e-4, schedule="cosine:5,5e-5,50", warmup_epochs=5, warmup_lr=1e-3), 50)
    assert lr[:6] == pytest.approx([1e-3] * 5 + [5e-4])
    assert lr[49] == pytest.approx(5e-5 + (5e-4 - 5e-5) * (1 + math.cos(math.pi * 44 / 45)) / 2)


@pytest.mark.parametrize("schedule", ["cosine:20,1e-3", "cosine:20,1e-3,10"])
def test_a_missing_or_early_end_is_the_end_of_the_run(schedule: str) -> None:
    assert rates(Plan(lr=0.1, schedule=schedule), 40) == rates(Plan(lr=0.1, schedule="cosine:20,1e-3,40"), 40)


def test_a_plan_longer_than_the_run_is_cut() -> None:
    plan = Plan(lr=0.1, schedule="cosine:2,1e-3,100")
    assert rates(plan, 10) == rates(plan, 100)[:10]


def test_baseline_has_no_warmup_and_three_drops() -> None:
    lr = rates(Plan(lr=0.08, schedule="baseline", warmup_epochs=50, warmup_lr=1e-3), 160)
    assert [lr[e] for e in (0, 59, 60, 119, 120, 149, 150)] == pytest.approx(
        [0.08, 0.08, 0.008, 0.008, 8e-4, 8e-4, 8e-5]
    )


def test_step_and_linear() -> None:
    assert rates(Plan(lr=1, schedule="step:2,4,0.5"), 6) == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert rates(Plan(lr=1, schedule="step"), 4) == pytest.approx([1, 1, 0.1, 0.01])
    assert rates(Plan(lr=1, schedule="linear:0,0,4"), 5) == pytest.approx([1, 0.75, 0.5, 0.25, 0.25])
    assert rates(Plan(lr=1, schedule="constant", warmup_epochs=1), 2) == [1, 1]


def test_the_adam_plan_of_co_teaching() -> None:
    plan = Plan(lr=1e-3, schedule="adam:80,0.1,200")
    settings = [plan.at(epoch, 200) for epoch in range(200)]
    assert [s["lr"] for s in settings[:81]] == [1e-3] * 81
    for epoch in (81, 140, 199):
        assert settings[epoch]["lr"] == pytest.approx(1e-3 * (200 - epoch) / 120)
    assert [settings[epoch]["betas"] for epoch in (0, 79, 80, 199)] == [(0.9, 0.999)] * 2 + [(0.1, 0.999)] * 2
    assert plan.at(250, 300)["lr"] == settings[199]["lr"], "longer than planned: the last rate stays, above 0"
    assert "betas" not in Plan(schedule="cosine").at(0, 10)


def test_adam_takes_the_plans_betas() -> None:
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    optimizer.param_groups[0].update(Plan(lr=1e-3, schedule="adam:3,0.1,9").at(6, 9))
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"]) == (5e-4, (0.1, 0.999))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"schedule": "cosin:1,2"}, "'cosine'"),
        ({"schedule": "cosine:20"}, "cosine:A,B"),
        ({"schedule": "cosine:20,0.5", "lr": 0.1}, "not below"),
        ({"schedule": "cosine:a,b"}, "not a list of numbers"),
        ({"schedule": "baseline:3"}, "takes no numbers"),
        ({"schedule": "adam:80,0.1"}, "adam:A,B,C"),
        ({"schedule": "adam:80,0.1,80"}, "A below C"),
        ({"schedule": "adam:80,1,200"}, "B in"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"warmup_epochs": -1}, "warmup_epochs is -1"),
    ],
)
def test_bad_plans_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Plan(**fields)  # type: ignore[arg-type]


def test_a_short_run_keeps_a_warm_up_and_a_run_without_one_gets_none() -> None:
    assert VECTORS.warmup_epochs == 1 and VECTORS.epochs == 60
    assert [VECTORS.lasting(epochs).warmup_epochs for epochs in (5, 12, 30, 120)] == [1, 1, 1, 2]
    assert replace(VECTORS, warmup_epochs=0).lasting(12).warmup_epochs == 0


def test_thousands_of_rows_are_seen_half_as_often() -> None:
    assert setting_of_kind("vectors", 1_999) is setting_of_kind("vectors", 0) is VECTORS
    assert setting_of_kind("vectors", 2_000) is THOUSANDS_OF_VECTORS
    assert (THOUSANDS_OF_VECTORS.epochs, THOUSANDS_OF_VECTORS.warmup_epochs) == (30, 1)
    assert setting_of_kind("photo", 2_000) is BY_PIPELINE["photo"]


def test_many_rows_of_features_are_taken_in_large_batches_at_rates_that_fit() -> None:
    assert setting_of_kind("vectors", MANY_VECTORS - 1) is THOUSANDS_OF_VECTORS
    assert (VECTORS_IN_BULK.epochs, VECTORS_IN_BULK.warmup_epochs) == (VECTORS.epochs, 2)
    assert setting_for("mine.npz", pipeline="vectors", num_samples=MANY_VECTORS) is VECTORS_IN_BULK
    assert setting_of_kind("photo", 10**7) is BY_PIPELINE["photo"]
    times = VECTORS_IN_BULK.batch_size / VECTORS.batch_size
    as_small, larger = with_batch(VECTORS_IN_BULK, VECTORS.batch_size), with_batch(VECTORS_IN_BULK, 4096)
    for name in ("lr", "warmup_lr", "lr1"):
        assert getattr(VECTORS_IN_BULK, name) == pytest.approx(times * getattr(VECTORS, name))
        assert getattr(as_small, name) == pytest.approx(getattr(VECTORS, name))
        assert getattr(larger, name) == getattr(VECTORS_IN_BULK, name)  # nothing was measured beyond
    assert (as_small.batch_size, larger.batch_size) == (128, 4096)
    for size in (None, "many", 0, 1.5):
        assert with_batch(VECTORS_IN_BULK, size) is VECTORS_IN_BULK
    assert with_batch(VECTORS, 1024) == replace(VECTORS, batch_size=1024)


@pytest.mark.parametrize(
    ("rows", "batch", "share"),
    [
        (30, 8, 1 / 8), (100, 8, 1 / 8), (300, 16, 1 / 8), (1_000, 32, 1 / 4), (1_999, 64, 1 / 2), (2_047, 64, 1 / 2),
        (2_048, 128, 1), (49_999, 128, 1), (50_000, 1024, 8),
    ],
)  # fmt: skip
def test_few_rows_of_features_have_small_batches_at_rates_that_fit(rows: int, batch: int, share: float) -> None:
    setting = for_size(setting_of_kind("vectors", rows), rows)
    assert setting.batch_size == batch
    for name in ("lr", "warmup_lr", "lr1"):
        assert getattr(setting, name) == pytest.approx(share * getattr(VECTORS, name))
    whole = with_batch(setting, 128)  # whoever asks for other batches gets their rates
    assert (whole.batch_size, whole.lr) == (128, pytest.approx(VECTORS.lr))
    assert with_batch(setting, 2).lr == pytest.approx(VECTORS.lr / 8)
    few = for_size(BY_PIPELINE["small"], rows)
    assert few == replace(BY_PIPELINE["small"], batch_size=min(batch, 64))  # pictures have crops


@pytest.mark.parametrize("kind", ["small", "photo", "cifar", "digits", "fashion", "vectors"])
def test_users_data_get_the_steady_form(kind: str) -> None:
    config = run_of({"data": {"source": "mine"}}, setting_of_kind(kind, 100)).config
    unmixed = {"mixing": 0.0, "selected_weight": 0.8, "consistency_weight": 0.2}
    assert config.form == "steady"
    assert form_of(config) == replace(FORMS["steady"], **(unmixed if kind == "vectors" else {}))


@pytest.mark.parametrize("source", ["cifar100nc", "cifar80no", "cifar10", "cifar10n", "web-bird", "food101n"])
def test_the_papers_data_keep_the_published_form(source: str) -> None:
    config = run_of({"data": {"source": source}}, setting_for(source)).config
    assert config.form is None
    assert form_of(config) == replace(FORMS["published"], selection=form_of(config).selection)
