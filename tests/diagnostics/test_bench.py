"""`acto bench` on work so small that it takes seconds: what is counted, what is printed, and what it needs of a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from acto.cli.bench import bench as bench_command
from acto.core.errors import UserError
from acto.data.loading.passes import suitable_batch
from acto.diagnostics import bench, speed_limits
from acto.diagnostics.bench import Extent, in_words
from acto.diagnostics.speed_limits import best_seconds, convolution_seconds, count_work, measure_rates
from acto.diagnostics.timed_parts import (
    ActoSteps,
    Evaluation,
    PictureFiles,
    Views,
    alternate,
    in_memory,
    quartiles,
    ratios,
    smooth_pictures,
    write_jpegs,
)

CPU = torch.device("cpu")
# Of cnn7 for 32x32: (channels in, channels out, side) of each convolution, and the two linear layers.
CONVOLUTIONS = [(3, 64, 32), (64, 64, 32), (64, 128, 16), (128, 128, 16), (128, 196, 8), (196, 16, 8)]
LINEAR = [(256, 512), (512, 100)]


@pytest.fixture(scope="module")
def steps() -> ActoSteps:
    return ActoSteps(in_memory(smooth_pictures(128)), device=CPU, precision=torch.float32)


def test_the_work_of_a_step_is_that_of_the_layers(steps: ActoSteps) -> None:
    work = count_work(steps, torch.float32)
    forward = sum(2 * 9 * cin * cout * side**2 for cin, cout, side in CONVOLUTIONS) + sum(2 * a * b for a, b in LINEAR)
    first = 2 * 9 * 3 * 64 * 32**2  # pictures want no gradient
    # RTM sees the weak and the strong view, NTM the weak one: three passes forward, and twice that much backward.
    assert work.flops == 128 * 3 * (3 * forward - first)

    def moved(batch: int) -> int:
        total = 0
        for number, (cin, cout, side) in enumerate(CONVOLUTIONS):
            x, y, weight = batch * cin * side**2, batch * cout * side**2, 9 * cin * cout
            total += x + weight + y  # forward: picture, weight, result
            total += y + x + weight + weight + (x if number else 0)  # backward: gradient of the weight, and of x
        for a, b in LINEAR:
            x, y, weight = batch * a, batch * b, a * b
            total += (b + x + weight + y) + (y + weight + x) + (y + x + weight)
        return total

    parameters = sum(p.numel() for net in steps.training.method.nets for p in net.parameters())
    expected = 4 * 3 * moved(128) + 20 * parameters
    assert work.bytes == pytest.approx(expected, rel=0.005)  # gradients of biases are not in the sum above


def test_bfloat16_moves_half_the_bytes(steps: ActoSteps) -> None:
    parameters = sum(p.numel() for net in steps.training.method.nets for p in net.parameters())
    whole, half = count_work(steps, torch.float32), count_work(steps, torch.bfloat16)
    assert whole.flops == half.flops
    assert whole.bytes - 20 * parameters == 2 * (half.bytes - 20 * parameters)


def test_counting_leaves_the_weights_alone(steps: ActoSteps) -> None:
    before = [p.clone() for p in steps.training.method.parameters()]
    count_work(steps, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(before, steps.training.method.parameters(), strict=True))
    assert all(p.grad is None for p in steps.training.method.parameters())


def test_the_floors_convolutions_are_those_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, int]] = []

    def once(work: Any, device: torch.device, *, least: float) -> float:
        layer, given = work.args[:2]
        assert given.shape[0] == 4 and given.shape[2] == given.shape[3]
        assert given.dtype == layer.weight.dtype == torch.bfloat16
        assert given.is_contiguous(memory_format=torch.channels_last)
        assert given.requires_grad == (given.shape[1] > 3)
        seen.append((given.shape[1], layer.out_channels, given.shape[2]))
        return 0.5

    assert speed_limits.BATCH == 128
    monkeypatch.setattr(speed_limits, "BATCH", 4)  # their shapes are looked at, not their times
    monkeypatch.setattr(speed_limits, "best_seconds", once)
    assert convolution_seconds(CPU, torch.bfloat16) == 3 * 6 * 0.5
    assert seen == CONVOLUTIONS


def test_rates_are_counts_over_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_limits, "best_seconds", lambda work, device, least: work() is not None and 0.25)
    rates = measure_rates(CPU, torch.float32)
    assert rates.flops_per_second == 2 * 512**3 / 0.25
    assert rates.bytes_per_second == 2 * 2**26 / 0.25


def test_the_best_of_at_least_five_calls() -> None:
    calls: list[None] = []
    assert best_seconds(lambda: calls.append(None), CPU, least=0.0) >= 0
    assert len(calls) == 1 + 5  # the first is not timed


def test_every_part_does_all_its_samples(steps: ActoSteps, tmp_path: Path) -> None:
    before = [p.clone() for p in steps.training.method.nets[0].parameters()]
    assert steps.run() == 128
    assert any(not torch.equal(a, b) for a, b in zip(before, steps.training.method.nets[0].parameters(), strict=True))
    pictures = in_memory(smooth_pictures(40))
    assert Evaluation(steps.training, pictures).run() == 40
    for pipeline in ("cifar", "photo"):
        assert Views(pictures, views=("weak", "strong"), pipeline=pipeline).run() == 40
    files = write_jpegs(tmp_path, 5)
    assert files.paths is not None
    for path in files.paths:
        with Image.open(path) as picture:
            assert picture.format == "JPEG" and 256 <= min(picture.size) <= max(picture.size) <= 512
    part = PictureFiles(files, workers=0, device=CPU)
    assert part.run() == 5
    part.close()


def test_parts_take_turns() -> None:
    order: list[str] = []

    class Part:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self) -> int:
            order.append(self.name)
            return 10

    rates = alternate({"a": Part("a"), "b": Part("b")}, rounds=3, device=CPU)
    assert order == ["a", "b"] * 4  # the first round warms up
    assert [len(values) for values in rates.values()] == [3, 3] and min(rates["a"]) > 0
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]


def test_the_command_prints_words_and_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench, "QUICK", Extent(rounds=1, steps=1, evaluated=16, seen=64, files=3))
    monkeypatch.setattr(bench, "usable_cores", lambda: 1)
    monkeypatch.setattr(speed_limits, "FEWEST_CALLS", 1)
    measured = best_seconds
    monkeypatch.setattr(speed_limits, "best_seconds", lambda work, device, least: measured(work, device, least=0.0))
    assert bench_command(["--quick", "--json", "--device", "cpu"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures["rates"]) == {
        "step", "evaluation", "weak", "autoaugment", "randaugment", "files", "files_in_workers",
    }  # fmt: skip
    for spread in (*figures["rates"].values(), *figures["ratios"].values()):
        assert 0 < spread["low"] <= spread["median"] <= spread["high"]
    assert figures["machine"]["device"] == "cpu" and figures["machine"]["rounds"] == 1
    assert figures["floors"]["work"]["flops"] == count_flops()
    # With one round a median is that round.
    step, evaluation = (figures["rates"][name]["median"] for name in ("step", "evaluation"))
    shares = {name: spread["median"] for name, spread in figures["ratios"].items()}
    assert shares["evaluation"] == pytest.approx(10_000 / evaluation / (50_000 / step))
    assert shares["arithmetic"] == pytest.approx(figures["floors"]["arithmetic_seconds"] / (128 / step))
    assert shares["bytes"] == pytest.approx(figures["floors"]["bytes_seconds"] / (128 / step))
    saved = figures["floors"]["work"]["saved_flops"] if figures["machine"]["kernels"] else 0
    rate = figures["floors"]["best"]["flops_per_second"]
    assert figures["floors"]["needed_seconds"] == pytest.approx((count_flops() - saved) / rate)
    assert shares["needed"] == pytest.approx(figures["floors"]["needed_seconds"] / (128 / step))


def test_what_winograd_saves(steps: ActoSteps) -> None:
    wide = [(cin, cout, side) for cin, cout, side in CONVOLUTIONS if min(cin, cout) >= 32]
    assert len(wide) == 4
    flops = 3 * 3 * 128 * sum(2 * 9 * cin * cout * side**2 for cin, cout, side in wide)
    assert count_work(steps, torch.bfloat16).saved_flops == round(flops * 20 / 36)


def count_flops() -> int:
    forward = sum(2 * 9 * cin * cout * side**2 for cin, cout, side in CONVOLUTIONS) + sum(2 * a * b for a, b in LINEAR)
    return 128 * 3 * (3 * forward - 2 * 9 * 3 * 64 * 32**2)


def spread(value: float) -> dict[str, float]:
    return {"low": 0.9 * value, "median": value, "high": 1.1 * value}


def test_figures_in_words() -> None:
    figures: dict[str, Any] = {
        "machine": {
            "device": "cpu", "name": "x86_64", "precision": "bfloat16", "threads": 2, "cores": 2, "torch": "2.9",
            "rounds": 7, "kernels": True,
        },
        "rates": dict.fromkeys(
            ("evaluation", "weak", "autoaugment", "randaugment", "files", "files_in_workers"), spread(1000.0)
        )
        | {"step": spread(128.0)},
        "floors": {
            "work": {"flops": 5e11, "saved_flops": 2e11, "bytes": 1e9},
            "best": {"flops_per_second": 1e12, "bytes_per_second": 1e10},
            "arithmetic_seconds": 0.5,
            "needed_seconds": 0.3,
            "bytes_seconds": 0.1,
            "convolutions_seconds": 0.6,
        },
        "ratios": {
            "arithmetic": spread(0.5), "needed": spread(0.3), "bytes": spread(0.1), "convolutions": spread(0.6),
            "evaluation": spread(0.0256),
        },
    }  # fmt: skip
    text = "\n".join(in_words(figures))
    assert "x86_64, 2 usable cores, 2 threads, cpu in bfloat16, torch 2.9; medians of 7 alternating rounds" in text
    assert "a step               1000.0 ms" in text
    assert "arithmetic floor     500.0 ms   45.0 to 55.0 %  500.0 GFLOP at 1,000 GFLOP/s" in text
    assert "with fewer products  300.0 ms   27.0 to 33.0 %  300.0 GFLOP: the C kernels take 16 products" in text
    assert "bytes floor          100.0 ms   9.0 to 11.0 %   1,000 MB at 10.0 GB/s" in text
    assert (
        "an epoch of 50,000 pictures: 7 min at this rate; evaluating 10,000 adds 2.6 % (quartiles 2.3 to 2.8 %)" in text
    )
    assert "--eval-every" not in text and "device's memory" not in text
    figures["machine"]["kernels"] = False
    assert "fewer products" not in "\n".join(in_words(figures))
    figures["ratios"]["evaluation"] = spread(0.08)
    figures["epoch"] = {"graph": {"seconds": 0.75, "peak_bytes": 2.0**31}}
    text = "\n".join(in_words(figures))
    assert "adds 8.0 % (quartiles 7.2 to 8.8 %); --eval-every N evaluates less often" in text
    assert "measured, --step graph: 0.75 s; at most 2.0 GiB of the device's memory" in text


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="device 'cuda:99' is not on this machine"):
        bench_command(["--device", "cuda:99"])


def test_batches_of_an_evaluation_suit_samples_and_device() -> None:
    gpu = torch.device("cuda")
    shapes = [(1, 8, 8), (3, 32, 32), (3, 224, 224), (2048,), ()]
    assert [suitable_batch(shape, CPU) for shape in shapes] == [1024, 341, 32, 512, 1024]
    assert [suitable_batch(shape, gpu) for shape in shapes] == [1024, 1024, 111, 1024, 1024]
    assert suitable_batch((3, 448, 448), gpu) == 64


def test_smooth_pictures_are_smooth_and_reproducible() -> None:
    pictures = smooth_pictures(3)
    assert pictures.shape == (3, 32, 32, 3) and pictures.dtype == np.uint8
    assert np.array_equal(pictures, smooth_pictures(3)) and not np.array_equal(pictures, smooth_pictures(3, seed=1))
    assert np.abs(np.diff(pictures.astype(int), axis=1)).mean() < 16


@pytest.mark.gpu
def test_the_whole_epoch_on_a_gpu() -> None:
    device = torch.device("cuda", 0)
    figures = bench.measure(device, torch.bfloat16, quick=True)
    for whole in figures["epoch"].values():
        assert whole["seconds"] > 0
        assert whole["peak_bytes"] > 50_000 * 3 * 32 * 32
    assert torch.cuda.get_device_name(device) in "\n".join(in_words(figures))
