"""PLC: its correction on hand-written numbers, and its epochs against a slow re-computation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from acto.core.errors import UserError
from acto.core.types import Batch, Clock, Task
from acto.data.noise import NoiseSpec
from acto.methods.plc import PLC, correct, likelihood_ratio
from acto.runs.recipes.by_data import SETTINGS
from acto.runs.recipes.by_method import CONFIGS

K = 3
LABELS = torch.tensor([0, 1, 2, 0, 1])


@pytest.mark.parametrize(
    ("probs", "label", "delta", "corrected"),
    [
        ((0.6, 0.3, 0.1), 0, 0.9, 0),
        ((0.6, 0.3, 0.1), 1, 0.51, 0),  # ratio 0.5
        ((0.6, 0.3, 0.1), 1, 0.5, 1),  # equal is not below
        ((0.6, 0.3, 0.1), 2, 0.2, 0),
        ((0.6, 0.3, 0.1), 2, 0.1, 2),
        ((0.06, 0.03, 0.01), 2, 0.2, 0),  # the scale does not matter
        ((0.0, 0.0, 1.0), 0, 0.0, 0),
        ((0.5, 0.5, 0.0), 1, 0.9, 1),
    ],
)
def test_correction(probs: tuple[float, ...], label: int, delta: float, corrected: int) -> None:
    # Doubles of which 0.3 / 0.6 is exactly a half.
    rows = torch.tensor([probs], dtype=torch.float64)
    assert correct(rows, torch.tensor([label]), delta=torch.tensor(delta, dtype=torch.float64)).tolist() == [corrected]


def test_likelihood_ratio_of_nothing_is_zero() -> None:
    assert likelihood_ratio(torch.zeros(1, 3), torch.tensor([1])).tolist() == [0]


class Same(nn.Module):
    """Passes its input through, times one number."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * inputs


def make(**settings: Any) -> PLC:
    return PLC(PLC.Config(**settings), Task(LABELS, K), Same).double()


def no_scan(*args: Any, **kwargs: Any) -> Tensor:
    raise AssertionError("PLC looks at nothing but its memory")


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits)
    return powers / powers.sum(1, keepdims=True)


def test_epochs_equal_a_slow_recomputation() -> None:
    """Fifteen epochs of random predictions, with a window of three: labels, delta, loss and log of each."""
    method = make(warmup_epochs=2, window=3, delta=0.3, increment=0.25)
    rng = np.random.default_rng(2)
    seen: list[np.ndarray] = []
    label, delta = LABELS.tolist(), 0.3
    deltas, kept_delta = [], 0
    for epoch in range(15):
        method.on_turn(Clock(epoch, 15), no_scan)
        if epoch - 1 >= 2:  # after the epoch number 2, which is the third
            mean = sum(seen[-3:]) / 3
            assert isinstance(mean, np.ndarray)
            flips = {i: int(row.argmax()) for i, row in enumerate(mean) if row[label[i]] / row.max() < delta}
            for i, new in flips.items():
                label[i] = new
            if len(flips) < 0.001 * 5:
                delta = min(delta + 0.25, 0.9)
            else:
                kept_delta += 1
        assert method.corrected_label.tolist() == label
        assert float(method.delta) == pytest.approx(delta)
        deltas.append(delta)
        index = torch.from_numpy(rng.permutation(5))
        logits = 1.5 * rng.normal(size=(5, K))
        probs = softmax(logits)
        step = method.loss((Batch(index, (torch.from_numpy(logits)[index],), LABELS[index]),), Clock(epoch, 15))
        assert float(step.loss.detach()) == pytest.approx(-np.log(probs[range(5), label]).mean())
        assert float(step.log["corrected_share"]) == pytest.approx(np.mean(np.array(label) != LABELS.numpy()))
        seen.append(probs)
    assert label != LABELS.tolist() and kept_delta > 0 and deltas[-1] == 0.9, "the numbers try every branch"


def test_a_label_can_change_back() -> None:
    method = make(warmup_epochs=0, window=1)
    for favourite, expected in ((2, [2, 2, 2, 2, 2]), (0, [0, 0, 0, 0, 0])):
        method.recent_probs.fill_(0.01)
        method.recent_probs[:, :, favourite] = 0.98
        method.on_turn(Clock(1, 10), no_scan)
        assert method.corrected_label.tolist() == expected


def test_label_quality_is_the_ratio_of_the_given_label() -> None:
    method = make(window=1)
    assert method.label_quality() is None
    method.recent_probs[:, 0] = torch.tensor([0.2, 0.5, 0.3])
    method.corrected_label.fill_(1)
    np.testing.assert_allclose(method.label_quality(), [0.4, 1, 0.6, 0.4, 1])


def test_settings() -> None:
    with pytest.raises(UserError, match="delta is 1"):
        PLC.Config(delta=1.0)

    def config(source: str, epochs: int) -> PLC.Config:
        found: PLC.Config = CONFIGS["plc"](SETTINGS[source].lasting(epochs), NoiseSpec())
        return found

    assert config("cifar10", 180) == PLC.Config()
    assert config("cifar100", 180) == PLC.Config(warmup_epochs=15)
    assert config("cifar10", 36) == PLC.Config(warmup_epochs=2, window=1)
    food = config("food101n", 30)
    assert food == replace(food, warmup_epochs=4, window=4, delta=0.1, increment=0.05)
