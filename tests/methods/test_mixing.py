"""Mixup against a literal loop, its weight's distribution, FMix's masks, and sharpening on hand-written numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from acto.methods.blocks import mixing
from acto.methods.blocks.mixing import fmix_mask, mixup, partners_among, sharpen, smoothed


def stack(num_rows: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Row i of the inputs is 2^i everywhere, and its target says i: a mixture tells what it was made of."""
    inputs = (2.0 ** torch.arange(num_rows))[:, None, None, None].expand(num_rows, 3, 2, 2).clone()
    return inputs, torch.eye(num_rows)


def test_one_weight_and_one_permutation_for_inputs_and_targets() -> None:
    torch.manual_seed(0)
    inputs, targets = stack()
    mixed, mixed_targets = mixup(inputs, targets, alpha=4.0)
    weights = mixed_targets.max(1).values
    partners = []
    for i in range(7):
        row = mixed_targets[i].clone()
        if row[i] == 1:  # drew itself
            partners.append(i)
            continue
        share = float(row[i])
        row[i] = 0
        partner = int(row.argmax())
        partners.append(partner)
        assert share >= 0.5, "a mixture is mostly the row itself"
        assert share + float(row[partner]) == pytest.approx(1)
        expected = share * 2.0**i + (1 - share) * 2.0**partner
        np.testing.assert_allclose(mixed[i], expected, rtol=1e-6)
    assert sorted(partners) == list(range(7)), "not a permutation"
    assert len({round(float(w), 6) for w in weights if w < 1}) == 1, "more than one weight in a batch"


def test_what_came_in_is_left_alone() -> None:
    inputs, targets = stack()
    mixup(inputs, targets, alpha=1.0)
    assert torch.equal(inputs, stack()[0]) and torch.equal(targets, stack()[1])


@pytest.mark.parametrize(("alpha", "mean"), [(4.0, 0.6367), (1.0, 0.75), (0.5, 0.8183)])
def test_weight_has_the_folded_beta_distribution(alpha: float, mean: float) -> None:
    """E max(l, 1-l) = 1/2 + E|l - 1/2|; for Beta(4,4) that is 1/2 + 35/256, for Beta(1/2,1/2) 1/2 + 1/pi."""
    torch.manual_seed(0)
    inputs, targets = torch.tensor([[0.0], [1.0]]), torch.eye(2)
    weights = []
    while len(weights) < 800:
        mixed_targets = mixup(inputs, targets, alpha=alpha)[1]
        if mixed_targets[0, 0] < 1:
            weights.append(float(mixed_targets[0, 0]))
    assert np.mean(weights) == pytest.approx(mean, abs=0.015)


def test_the_seed_decides() -> None:
    inputs, targets = stack()

    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return mixup(inputs, targets, alpha=4.0)[0]

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


def test_sharpen_by_hand() -> None:
    probs = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0], [0.25, 0.25, 0.5]])
    expected = [[25 / 38, 9 / 38, 4 / 38], [1, 0, 0], [1 / 6, 1 / 6, 4 / 6]]
    np.testing.assert_allclose(sharpen(probs, temperature=0.5), expected, rtol=1e-6)
    np.testing.assert_allclose(sharpen(probs, temperature=1.0), probs, rtol=1e-6)


@pytest.mark.parametrize("members", [[1, 0, 1, 1, 0, 1], [0, 0, 0, 1, 0, 0], [0] * 6, [1] * 6])
def test_partners_are_of_the_same_kind_and_all_occur(members: list[int]) -> None:
    kind = torch.tensor(members).bool()
    met = torch.zeros(6, 6, dtype=torch.bool)
    for seed in range(200):
        torch.manual_seed(seed)
        partner = partners_among(kind)
        assert partner.sort().values.tolist() == list(range(6))
        met[torch.arange(6), partner] = True
    assert torch.equal(met, kind[:, None] == kind)


def test_smoothed_by_hand() -> None:
    found = smoothed(torch.tensor([0, 2]), 3, eps=0.6)
    torch.testing.assert_close(found, torch.tensor([[0.4, 0.3, 0.3], [0.3, 0.3, 0.4]]))


@pytest.mark.parametrize("shape", [(6, 9), (7,), (1, 2)])
def test_fmix_mask(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for wanted in (0.0, 0.4, 1.0):
        monkeypatch.setattr(mixing, "draw_share", lambda alpha, device, share=wanted: torch.tensor(share))
        mask = fmix_mask(shape, device=torch.device("cpu"))
        size = math.prod(shape)
        assert mask.shape == shape and set(mask.unique().tolist()) <= {0.0, 1.0}
        assert int(mask.sum()) == math.ceil(np.float32(wanted) * size - 1e-6)


def test_fmix_masks_are_smooth() -> None:
    """Neighbours of a mask by chance would differ in half of the places (share 0.5), those of FMix in few."""
    torch.manual_seed(0)
    masks = [fmix_mask((32, 32), device=torch.device("cpu")) for _ in range(20)]
    borders = [float((m[1:] != m[:-1]).float().mean() + (m[:, 1:] != m[:, :-1]).float().mean()) / 2 for m in masks]
    assert max(borders) < 0.15
    shares = [float(m.mean()) for m in masks]
    assert min(shares) < 0.25 and max(shares) > 0.75
