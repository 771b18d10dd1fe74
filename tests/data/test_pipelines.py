"""Views: the counter against splitmix64 in plain integers, operations against Pillow, policies against a loop."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tv
from PIL import Image
from torch import Tensor
from torchvision.transforms import AutoAugment, AutoAugmentPolicy, InterpolationMode

from acto.core.errors import UserError
from acto.data.views import operations, pipelines, policies
from acto.data.views.counter_random import Occasion, bits, order, uniform
from acto.data.views.pipelines import finish_view, make_vector_view, make_view
from acto.data.views.spec import PIPELINES, VIEWS, ViewSpec

OCCASION = Occasion(seed=3, epoch=5, turn=1, number=2)
GREY = (128, 128, 128)


# The counter


def splitmix64(state: int) -> int:
    """The next output, in plain integers."""
    mask = 2**64 - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def literal_bits(occasion: Occasion, sample: int, *, view: int, draws: int) -> list[int]:
    golden, mask = 0x9E3779B97F4A7C15, 2**64 - 1
    state = 0
    for word in (occasion.seed, occasion.epoch, occasion.turn, occasion.number, view):
        state = splitmix64((state + word) & mask)
    lane = splitmix64((state + (sample - 1) * golden) & mask)
    return [splitmix64((lane + k * golden) & mask) for k in range(draws)]


def test_splitmix64_gives_its_published_numbers() -> None:
    state, outputs = 1234567, []
    for _ in range(5):
        outputs.append(splitmix64(state))
        state += 0x9E3779B97F4A7C15
    assert outputs == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.mark.parametrize(
    "occasion",
    [
        Occasion(seed=0, epoch=0),
        OCCASION,
        Occasion(seed=-1, epoch=199, number=-1),
        Occasion(seed=2**64 - 3, epoch=10**6),
    ],
)
def test_bits_are_splitmix64_of_sample_and_occasion(occasion: Occasion) -> None:
    index = torch.tensor([0, 1, 49_999, 2**40])
    for view in (0, 3):
        expected = [literal_bits(occasion, int(i), view=view, draws=3) for i in index]
        drawn = bits(occasion, index, view=view, draws=3)
        assert [[int(word) % 2**64 for word in row] for row in drawn] == expected
        shares = uniform(occasion, index, view=view, draws=3)
        assert shares.dtype == torch.float32
        assert [[float(u) for u in row] for row in shares] == [[(w >> 40) / 2**24 for w in row] for row in expected]


def test_draws_depend_on_nothing_but_sample_view_and_occasion() -> None:
    index = torch.tensor([7, 3, 3, 100, 0])
    whole = uniform(OCCASION, index, view=1, draws=9)
    assert torch.equal(whole[1], whole[2])
    assert torch.equal(uniform(OCCASION, index[[4, 0]], view=1, draws=9), whole[[4, 0]])
    assert torch.equal(uniform(OCCASION, index, view=1, draws=4), whole[:, :4])
    assert torch.equal(index, torch.tensor([7, 3, 3, 100, 0]))


def test_draws_are_uniform_and_unrelated() -> None:
    index = torch.arange(2**15)

    def draw(*, seed: int = 0, epoch: int = 0, turn: int = 0, number: int = 0, view: int = 0, place: int = 0) -> Tensor:
        return uniform(Occasion(seed=seed, epoch=epoch, turn=turn, number=number), index, view=view, draws=2)[:, place]

    families = {
        "first": draw(),
        "seed": draw(seed=1),
        "epoch": draw(epoch=1),
        "turn": draw(turn=1),
        "number": draw(number=1),
        "view": draw(view=1),
        "place": draw(place=1),
        "sample": draw().roll(1),
        "scan": draw(number=-1),
    }
    table = torch.stack(list(families.values()))
    assert table.min() >= 0 and table.max() < 1
    counts = torch.stack([torch.histc(row, bins=64, min=0, max=1) for row in table])
    chi_square = ((counts - 512) ** 2 / 512).sum(1)  # 63 degrees of freedom: mean 63, deviation 11
    assert ((chi_square > 20) & (chi_square < 120)).all(), dict(zip(families, chi_square.tolist(), strict=True))
    correlation = torch.corrcoef(table.double()) - torch.eye(len(table))
    assert correlation.abs().max() < 5 / math.sqrt(len(index))
    # Low bits too: they choose the features that are dropped.
    low = bits(OCCASION, index, view=0, draws=1).bitwise_and(0xFF).flatten()
    assert ((torch.bincount(low, minlength=256) - 128) ** 2 / 128).sum() < 255 + 6 * 22.6


def test_floor_of_a_scaled_draw_stays_below_the_scale() -> None:
    largest = torch.tensor(1 - 2**-24)
    sizes = torch.arange(1, 100_000)
    assert ((largest * sizes).long() == sizes - 1).all()


def test_order_is_a_permutation_that_follows_the_samples() -> None:
    index = torch.arange(1000)
    first = order(OCCASION, index)
    assert torch.equal(first.sort().values, index)
    backwards = index.flip(0)
    assert torch.equal(backwards[order(OCCASION, backwards)], first)
    for other in (
        Occasion(seed=4, epoch=5, turn=1, number=2),
        Occasion(seed=3, epoch=6, turn=1, number=2),
        Occasion(seed=3, epoch=5, turn=0, number=2),
        Occasion(seed=3, epoch=5, turn=1, number=0),
    ):
        assert (order(other, index) == first).float().mean() < 0.02
    places = torch.stack([order(Occasion(seed=0, epoch=epoch), index).argsort() for epoch in range(64)])
    assert ((places.double().mean(0) - 499.5).abs() < 5 * 288.7 / 8).all()
    assert len(order(OCCASION, index[:0])) == 0


# The operations


def pictures(height: int, width: int, *, count: int = 60) -> Tensor:
    """(count, 3, H, W): noise, low contrast, flat, two values, gradients: what lookup tables stumble over."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)
    for k, picture in enumerate(pixels):
        if k % 3 == 1:
            picture.copy_((picture.float() * ((k + 1) / count) + k).to(torch.uint8))
    pixels[2] = 77
    pixels[5] = 10
    pixels[5, :, 0, 0] = 200
    pixels[8] = (torch.arange(height)[:, None] * 3 + torch.arange(width)).to(torch.uint8)
    pixels[11, 0] = 0
    pixels[11, 1] = 255
    return pixels


def to_pillow(picture: Tensor) -> Image.Image:
    array = picture.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def from_pillow(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image).reshape(image.height, image.width, -1)).permute(2, 0, 1)


def affine(image: Image.Image, matrix: tuple[float, ...], *, bicubic: bool = False) -> Image.Image:
    kind = Image.Resampling.BICUBIC if bicubic else Image.Resampling.NEAREST
    return image.transform(image.size, Image.Transform.AFFINE, matrix, kind, fillcolor=GREY)


def cutout_literally(image: Image.Image, side: float, place: tuple[float, float]) -> Image.Image:
    image = image.copy()
    half = int(side) // 2
    middle_y, middle_x = int(place[0] * image.height), int(place[1] * image.width)
    for y in range(max(0, middle_y - half), min(image.height, middle_y + half)):
        for x in range(max(0, middle_x - half), min(image.width, middle_x + half)):
            image.putpixel((x, y), (125, 122, 113))
    return image


LITERAL: dict[str, Callable[[Image.Image, float, tuple[float, float]], Image.Image]] = {
    "autocontrast": lambda image, amount, place: tv.autocontrast(image),
    "brightness": lambda image, amount, place: tv.adjust_brightness(image, amount),
    "color": lambda image, amount, place: tv.adjust_saturation(image, amount),
    "contrast": lambda image, amount, place: tv.adjust_contrast(image, amount),
    "cutout": cutout_literally,
    "equalize": lambda image, amount, place: tv.equalize(image),
    "invert": lambda image, amount, place: tv.invert(image),
    "posterize": lambda image, amount, place: tv.posterize(image, int(amount)),
    "rotate": lambda image, amount, place: tv.rotate(image, amount, fill=GREY),
    "sharpness": lambda image, amount, place: tv.adjust_sharpness(image, amount),
    "shear_x": lambda image, amount, place: affine(image, (1, amount, 0, 0, 1, 0), bicubic=True),
    "shear_y": lambda image, amount, place: affine(image, (1, 0, 0, amount, 1, 0), bicubic=True),
    "solarize": lambda image, amount, place: tv.solarize(image, amount),
    "translate_x": lambda image, amount, place: affine(image, (1, 0, amount * image.width, 0, 1, 0)),
    "translate_y": lambda image, amount, place: affine(image, (1, 0, 0, 0, 1, amount * image.height)),
}
ODD_AMOUNTS = {
    "brightness": (0.0, 1.0, 0.3, 1.7),
    "color": (0.0, 1.0, 0.3, 1.7),
    "contrast": (0.0, 1.0, 0.3, 1.7),
    "sharpness": (0.0, 1.0, 0.3, 1.7),
    "posterize": tuple(range(1, 9)),
    "solarize": (0.0, 256.0, 255.0, 255.5, 1.0, 128.0),
    "rotate": (0.0, 45.0, 12.34, 6.5),
    "shear_x": (0.0, 1.0, -0.123),
    "shear_y": (0.0, 1.0, -0.123),
    "translate_x": (0.0, 0.5, -0.999, 0.499),
    "translate_y": (0.0, 0.5, -0.999, 0.499),
}


def test_every_operation_has_its_oracle() -> None:
    assert sorted(LITERAL) == sorted(policies.OPERATIONS)


@pytest.mark.parametrize("size", [(32, 32), (21, 40)], ids=str)
@pytest.mark.parametrize("name", sorted(LITERAL))
def test_operations_do_what_pillow_does(name: str, size: tuple[int, int]) -> None:
    pixels = pictures(*size)
    drawn = [amount for level in range(10) for amount in policies.amounts(name, level)]
    amounts = torch.tensor([*ODD_AMOUNTS.get(name, ()), *drawn])
    amounts = amounts[torch.arange(len(pixels)) % len(amounts)]
    places = torch.rand(len(pixels), 2, generator=torch.Generator().manual_seed(1))
    before = pixels.clone()
    result = policies.OPERATIONS[name](pixels, amounts, places)
    assert torch.equal(pixels, before) and result.dtype == torch.uint8
    expected = torch.stack(
        [
            from_pillow(LITERAL[name](to_pillow(picture), float(amount), (float(place[0]), float(place[1]))))
            for picture, amount, place in zip(pixels, amounts, places, strict=True)
        ]
    )
    difference = (result.int() - expected.int()).abs()
    if name.startswith("shear"):  # Pillow computes in double precision; truncation makes the difference visible
        assert difference.max() <= 1 and (difference > 0).float().mean() < 1e-2
    else:
        assert difference.max() == 0


@pytest.mark.parametrize("size", [(28, 28), (8, 8), (12, 17)], ids=str)
def test_smooth_rotation_is_torchvisions(size: tuple[int, int]) -> None:
    pixels = pictures(*size)
    angles = torch.linspace(-15, 15, len(pixels))
    result = operations.rotate_smoothly(pixels, angles)
    expected = torch.stack(
        [
            tv.rotate(picture, float(angle), InterpolationMode.BILINEAR)
            for picture, angle in zip(pixels, angles, strict=True)
        ]
    )
    difference = (result.int() - expected.int()).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() < 2e-3


def test_shears_leave_flat_regions_alone() -> None:
    flat = torch.full((4, 3, 16, 16), 201, dtype=torch.uint8)
    sheared = operations.shear_x(flat, torch.tensor([0.3, -0.3, 0.123, 0.01]))
    assert set(sheared.unique().tolist()) == {128, 201}


def test_cutout_on_hand_written_numbers() -> None:
    pixels = torch.zeros(2, 1, 5, 5, dtype=torch.uint8)
    cut = operations.cutout(pixels, torch.tensor([3.0, 4.0]), torch.tensor([[0.5, 0.5], [0.0, 0.9]]), value=(9,))
    assert cut[0, 0].tolist() == [[0] * 5, [0, 9, 9, 0, 0], [0, 9, 9, 0, 0], [0] * 5, [0] * 5]
    assert cut[1, 0].tolist() == [[0, 0, 9, 9, 9], [0, 0, 9, 9, 9], [0] * 5, [0] * 5, [0] * 5]


# The policies


def test_pairs_are_those_of_the_paper() -> None:
    """torchvision has the same table, without the levels that mean nothing."""
    table = AutoAugment(AutoAugmentPolicy.CIFAR10).policies
    for ours, theirs in zip(policies._CIFAR10_PAIRS, table, strict=True):
        for (name, chance, level), (their_name, their_chance, their_level) in zip(ours, theirs, strict=True):
            assert (name.replace("_", ""), chance) == (their_name.lower(), their_chance)
            assert their_level in (None, level)


def test_amounts_are_those_of_the_public_code() -> None:
    def close(name: str, level: int, *expected: float) -> None:
        assert policies.amounts(name, level) == pytest.approx(expected)

    close("shear_x", 9, 0.3, -0.3)
    close("shear_y", 3, 0.1, -0.1)
    close("translate_x", 9, 150 / 331, -150 / 331)
    close("rotate", 2, 20 / 3, 20 / 3)
    close("color", 9, 1.9, 0.1)
    close("sharpness", 0, 1.0, 1.0)
    close("brightness", 5, 1.5, 0.5)
    close("contrast", 1, 1.1, 0.9)
    close("solarize", 0, 256, 256)
    close("solarize", 9, 0, 0)
    assert [policies.amounts("posterize", level)[0] for level in range(10)] == [8, 8, 7, 7, 6, 6, 5, 5, 4, 4]
    assert [policies.amounts("cutout", level)[0] for level in range(10)] == [0, 2, 4, 7, 9, 11, 13, 16, 18, 20]


def draws_of(count: int, draws: int) -> Tensor:
    return uniform(OCCASION, torch.arange(count), view=0, draws=draws)


def assert_same_but_for_shears(result: Tensor, expected: Tensor, sheared: list[bool]) -> None:
    """A level that a shear is off by can become several when contrast follows."""
    different = result != expected
    assert not different[~torch.tensor(sheared)].any()
    assert different.float().mean() < 1e-3 and (result.int() - expected.int()).abs().float().mean() < 2e-3


def test_auto_augment_is_the_loop_over_its_pictures() -> None:
    pixels = pictures(32, 32, count=400)
    draws = draws_of(len(pixels), policies.AUTO_AUGMENT_DRAWS)
    expected, sheared = [], []
    for picture, (which, *rest) in zip(pixels, draws.tolist(), strict=True):
        image, names = to_pillow(picture), set()
        for k, (name, chance, level) in enumerate(policies._CIFAR10_PAIRS[int(which * 25)]):
            if rest[k] < chance:
                amount = policies.amounts(name, level)[0 if rest[2 + k] >= 0.5 else 1]
                image = LITERAL[name](image, float(np.float32(amount)), (0.0, 0.0))
                names.add(name)
        expected.append(from_pillow(image))
        sheared.append(any(name.startswith("shear") for name in names))
    assert any(sheared)
    assert_same_but_for_shears(policies.auto_augment(pixels, draws), torch.stack(expected), sheared)


def test_rand_augment_is_the_loop_over_its_pictures() -> None:
    pixels = pictures(36, 36, count=400)
    draws = draws_of(len(pixels), policies.RAND_AUGMENT_DRAWS)
    names = sorted(LITERAL)
    expected, sheared, seen = [], [], []
    for picture, row in zip(pixels, draws.tolist(), strict=True):
        image, drawn = to_pillow(picture), []
        for which, chance, share, sign, y, x in (row[:6], row[6:]):
            level = 1 + int(share * 9)
            if chance < 0.5:
                amount = policies.amounts(names[int(which * 15)], level)[0 if sign >= 0.5 else 1]
                image = LITERAL[names[int(which * 15)]](image, float(np.float32(amount)), (y, x))
                drawn.append((names[int(which * 15)], level))
        expected.append(from_pillow(image))
        sheared.append(any(name.startswith("shear") for name, _ in drawn))
        seen += drawn
    assert {name for name, _ in seen} == set(names) and {level for _, level in seen} == set(range(1, 10))
    assert abs(len(seen) / 800 - 0.5) < 0.06
    assert_same_but_for_shears(policies.rand_augment(pixels, draws), torch.stack(expected), sheared)


# The views

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def spec_of(pipeline: str, channels: int = 3, size: int | None = None) -> ViewSpec:
    return ViewSpec(pipeline=pipeline, size=size, mean=MEAN[:channels], std=STD[:channels])


def view(name: str, pixels: Tensor, spec: ViewSpec, *, place: int = 0, epoch: int = 0) -> Tensor:
    occasion = Occasion(seed=0, epoch=epoch)
    return make_view(name, pixels, spec, occasion=occasion, index=torch.arange(len(pixels)), place=place)


def undo(view: Tensor) -> Tensor:
    """Back to uint8."""
    channels = view.shape[1]
    mean, std = (torch.tensor(values[:channels]).view(1, -1, 1, 1) for values in (MEAN, STD))
    return ((view * std + mean) * 255).round().to(torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("pipeline", [name for name in PIPELINES if name != "vectors"])
def test_every_view_of_every_pipeline(pipeline: str, name: str, channels: int) -> None:
    pixels = pictures(20, 20)[:, :channels].contiguous()
    before = pixels.clone()
    spec = spec_of(pipeline, channels)
    result = view(name, pixels, spec)
    assert torch.equal(pixels, before)
    assert result.shape == pixels.shape and result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    index = torch.arange(len(pixels))
    some = torch.tensor([41, 3, 17])
    args = {"occasion": Occasion(seed=0, epoch=0), "place": 0}
    assert torch.equal(make_view(name, pixels[some], spec, index=index[some], **args), result[some])
    coarse = make_view(name, pixels, spec, index=index, dtype=torch.bfloat16, **args)
    assert torch.equal(coarse, result.bfloat16())
    if name == "none":
        assert torch.equal(view(name, pixels, spec, epoch=1, place=1), result)
    else:
        assert not torch.equal(view(name, pixels, spec, epoch=1), result)
        assert not torch.equal(view(name, pixels, spec, place=1), result)


@pytest.mark.parametrize(("pipeline", "side", "padding"), [("cifar", 32, 4), ("small", 24, 3), ("fashion", 28, 2)])
def test_weak_is_a_window_of_the_padded_picture(pipeline: str, side: int, padding: int) -> None:
    pixels = pictures(side, side, count=300)
    result = view("weak", pixels, spec_of(pipeline))
    draws = uniform(Occasion(seed=0, epoch=0), torch.arange(len(pixels)), view=0, draws=3)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    seen = set()
    for k, picture in enumerate(pixels):
        top, left = (int(draws[k, axis] * (2 * padding + 1)) for axis in (0, 1))
        padded = torch.zeros(3, side + 2 * padding, side + 2 * padding, dtype=torch.uint8)
        padded[:, padding : padding + side, padding : padding + side] = picture
        window = padded[:, top : top + side, left : left + side]
        flip = bool(draws[k, 2] < 0.5)
        window = window.flip(2) if flip else window
        assert torch.allclose(result[k], (window / 255 - mean) / std, atol=1e-5)
        seen.add((top, left, flip))
    assert {s[0] for s in seen} == {s[1] for s in seen} == set(range(2 * padding + 1)) and {s[2] for s in seen} == {
        True,
        False,
    }


def test_digits_are_shifted_but_never_mirrored() -> None:
    pixels = torch.zeros(400, 1, 16, 16, dtype=torch.uint8)
    pixels[:, :, 3, 2], pixels[:, :, 3, 4], pixels[:, :, 5, 2] = 10, 20, 30
    weak = undo(view("weak", pixels, spec_of("digits", 1)))
    shifts = set()
    for picture in weak[:, 0]:
        (row, column), *_ = (picture == 10).nonzero().tolist()
        assert picture[row, column + 2] == 20 and picture[row + 2, column] == 30 and picture.sum() == 60
        shifts.add((row - 3, column - 2))
    assert shifts == {(y, x) for y in range(-2, 3) for x in range(-2, 3)}


def test_pictures_too_small_for_a_shift_stay_where_they_are() -> None:
    pixels = pictures(8, 8, count=20)[:, :1].contiguous()
    assert torch.equal(undo(view("weak", pixels, spec_of("digits", 1))), pixels)


@pytest.mark.parametrize("pipeline", ["digits", "fashion"])
def test_strong_digits_are_turned_and_lose_a_square(pipeline: str) -> None:
    pixels = pictures(16, 16, count=200)[:, :1].contiguous()
    spec = spec_of(pipeline, 1)
    strong, cut = undo(view("strong", pixels, spec)), undo(view("weak", pixels, spec))
    draws = uniform(Occasion(seed=0, epoch=0), torch.arange(len(pixels)), view=0, draws=6)[:, 3:]
    for result, shifted, (angle, *place) in zip(strong, cut, draws.tolist(), strict=True):
        expected = tv.rotate(shifted, 30 * angle - 15, InterpolationMode.BILINEAR)
        y, x = (int(16 * share) for share in place)
        expected[:, max(0, y - 2) : y + 2, max(0, x - 2) : x + 2] = 0
        assert (result.int() - expected.int()).abs().max() <= 1


def test_photo_takes_windows_of_the_given_size() -> None:
    pixels = (torch.arange(9)[:, None] * 16 + torch.arange(10)).to(torch.uint8).expand(400, 3, 9, 10).contiguous()
    spec = spec_of("photo", size=7)
    corners = undo(view("weak", pixels, spec))[:, 0, 0, [0, -1]].amin(1)
    assert set(corners.tolist()) == {y * 16 + x for y in range(3) for x in range(4)}
    centre = undo(view("none", pixels, spec))
    assert torch.equal(centre, pixels[:, :, 1:8, 2:9])  # 1.5 becomes 2, as in torchvision
    assert torch.equal(centre[0], tv.center_crop(pixels[0], [7, 7]))


def test_strong_has_a_window_of_its_own_and_then_the_policy() -> None:
    pixels = pictures(32, 32, count=200)
    spec = spec_of("cifar")
    weak, strong = view("weak", pixels, spec, place=0), view("strong", pixels, spec, place=1)
    cut = undo(view("weak", pixels, spec, place=1))
    draws = uniform(Occasion(seed=0, epoch=0), torch.arange(len(pixels)), view=1, draws=3 + policies.AUTO_AUGMENT_DRAWS)
    assert torch.equal(undo(strong), policies.auto_augment(cut, draws[:, 3:]))
    assert torch.equal(finish_view("strong", cut, spec, draws[:, 3:]), strong)
    assert not torch.equal(undo(weak), cut)


@pytest.mark.parametrize(("num_features", "share_weak", "share"), [(7, 0.0, 0.2), (255, 0.0, 0.2), (256, 0.5, 0.5)])
def test_vector_views(num_features: int, share_weak: float, share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4000, num_features, generator=generator) * 3 + 5
    before = features.clone()
    spec = ViewSpec(pipeline="vectors", mean=(5.0,) * num_features, std=(3.0,) * num_features)
    index = torch.arange(len(features))

    def make(name: str, rows: Tensor = index, *, epoch: int = 0, place: int = 0) -> Tensor:
        occasion = Occasion(seed=0, epoch=epoch)
        return make_vector_view(name, features[rows], spec, occasion=occasion, index=rows, place=place)

    plain = (features - 5) / 3
    assert torch.allclose(make("none"), plain)
    weak = make("weak", place=1)
    hidden = weak == 0
    assert abs(hidden.float().mean() - share_weak) < 0.005
    assert torch.allclose(weak[~hidden], plain[~hidden])
    strong = make("strong")
    assert not share_weak or abs((hidden & (strong == 0)).float().mean() - share_weak * share) < 0.005  # each its own
    dropped = strong == 0
    assert abs(dropped.float().mean() - share) < 0.02
    assert (dropped.float().mean(0) - share).abs().max() < 0.05
    noise = (strong - plain)[~dropped]
    assert abs(noise.mean()) < 0.002 and abs(noise.std() - 0.1) < 0.001
    assert torch.equal(make("strong", index[[9, 2]]), strong[[9, 2]])
    assert not torch.equal(make("strong", epoch=1), strong) and not torch.equal(make("strong", place=1), strong)
    pairs = torch.corrcoef((strong - plain).T * ~dropped.T) - torch.eye(num_features)
    assert pairs.abs().max() < 0.1
    bare = make_vector_view(
        "weak", features, ViewSpec(pipeline="vectors"), occasion=Occasion(seed=0, epoch=0), index=index, place=1
    )
    assert torch.equal(bare, features.masked_fill(hidden, 0))
    assert torch.equal(features, before)


def test_a_spec_is_checked_when_it_is_made() -> None:
    with pytest.raises(UserError, match=r"unknown pipeline 'cifra'. Did you mean 'cifar'\?"):
        ViewSpec(pipeline="cifra")
    with pytest.raises(UserError, match="a mean and a deviation for each channel"):
        ViewSpec(pipeline="cifar", mean=(0.5,))
    with pytest.raises(UserError, match="must be above 0"):
        ViewSpec(pipeline="cifar", mean=(0.5,), std=(0.0,))
    with pytest.raises(UserError, match="size is 0 pixels"):
        ViewSpec(pipeline="photo", size=0)
    with pytest.raises(UserError, match="scaled to 200 pixels are too small for a window of 224"):
        ViewSpec(pipeline="photo", size=224, resize=200)


@pytest.mark.gpu
@pytest.mark.parametrize("pipeline", [name for name in PIPELINES if name != "vectors"])
def test_a_gpu_makes_the_same_views(pipeline: str) -> None:
    pixels = pictures(32, 32, count=500)
    index = torch.arange(len(pixels))
    for name in VIEWS:
        args = {"spec": spec_of(pipeline), "occasion": OCCASION, "place": 1}
        here = undo(make_view(name, pixels, index=index, **args))
        there = undo(make_view(name, pixels.cuda(), index=index.cuda(), **args).cpu())
        assert (here != there).float().mean() < 1e-3


def test_pipelines_are_complete() -> None:
    assert sorted([*pipelines._PIPELINES, "vectors"]) == sorted(PIPELINES)
