"""What a judge has preferred over the course of a training, by hand: means, credible numbers, and what is selected."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from acto.core.types import Batch, Clock, Task
from acto.methods.acto import ACTO
from acto.methods.blocks.course import Course, credible_counts, preferences
from acto.selection import ActoSelector
from toys import LinearNet, circle, labels_of


def tensors_of(matrix: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Given and predicted classes, as the memory has them."""
    given, predicted = map(torch.from_numpy, labels_of(matrix))
    return given, predicted.int()


@pytest.mark.parametrize(
    ("probs", "label", "expected"),
    [
        ([0.6, 0.3, 0.1], 0, 2 / 3),
        ([0.6, 0.3, 0.1], 1, 1 / 3),
        ([0.4, 0.4, 0.2], 1, 0.5),
        ([1.0, 0.0, 0.0], 0, 1.0),
        ([1.0, 0.0, 0.0], 2, 0.0),
    ],
)
def test_a_preference_by_hand(probs: list[float], label: int, expected: float) -> None:
    found = preferences(torch.tensor([probs]), torch.tensor([label]))
    assert found.tolist() == [pytest.approx(expected)]


@pytest.mark.parametrize(
    ("matrix", "preferred", "counts"),
    [
        # Share spread, how far above .3, part of the rest; what is preferred of each given label on average.
        pytest.param(circle(80, *[10] * 9), 80, [80] * 10, id="1, .7, .25: there is no rest"),
        pytest.param(circle(80, *[10] * 9), 60, [65] * 10, id="20 are agreed with now, which were not before"),
        pytest.param(circle(80, *[10] * 9), 95, [95] * 10, id="some that are spread were preferred"),
        pytest.param(circle(80, 40, *[10] * 8), 80, [87] * 10, id=".75, .45, .25 of 30"),
        pytest.param(circle(800, 270, *[20] * 8), 800, [829] * 10, id=".419, .119, .119 of 250: 29.65"),
        pytest.param(circle(80, 40, *[1] * 8), 80, [0] * 10, id=".19: rather labels wrong for a reason"),
        pytest.param(circle(80, 40, *[10] * 7), 80, [0] * 9, id="nine classes"),
        pytest.param(circle(80, *[0] * 9), 80, [0] * 10, id="no contradiction"),
    ],
)
def test_credible_numbers_by_hand(matrix: list[list[int]], preferred: int, counts: list[int]) -> None:
    given, predicted = tensors_of(matrix)
    preference = (torch.arange(len(given)) % sum(matrix[0]) < preferred) * 0.2 + 0.4
    found = credible_counts(given, predicted, preference, num_classes=len(matrix))
    assert found.dtype == torch.int64 and found.tolist() == counts
    # Samples that nothing is known of do not count.
    more = [torch.cat([column, column.new_full((7,), fill)]) for column, fill in zip(
        (given, predicted, preference), (0, -1, 0), strict=True
    )]  # fmt: skip
    assert credible_counts(*more, num_classes=len(matrix)).tolist() == counts


class Keeper:
    """A method as far as Course asks for it."""

    def __init__(self, labels: Tensor, num_classes: int) -> None:
        self.labels, self.task = labels, SimpleNamespace(num_samples=len(labels), num_classes=num_classes)

    def remember(self, name: str, tensor: Tensor, *, per_sample: bool = True) -> None:
        setattr(self, name, tensor)


def batch_of(index: list[int], labels: Tensor) -> Batch:
    rows = torch.tensor(index)
    return Batch(rows, (), labels[rows])


def test_the_mean_of_all_visits() -> None:
    labels = torch.tensor([0, 1, 1])
    keeper: Any = Keeper(labels, 2)
    course = Course(keeper)
    for probs in ([[0.6, 0.4], [0.7, 0.3]], [[0.9, 0.1], [0.3, 0.7]]):
        course.see(torch.tensor(probs).log(), batch_of([0, 2], labels))
    course.see(torch.tensor([[0.0, 1.0]]).log(), batch_of([0], labels))
    assert keeper.preference.tolist() == pytest.approx([0.5, 0.0, 0.5]) and keeper.visits.tolist() == [3, 0, 2]
    assert keeper.predicted.tolist() == [1, -1, 1]


def test_the_most_preferred_of_each_given_label() -> None:
    given, predicted = tensors_of(circle(3, *[1] * 9))
    keeper: Any = Keeper(given, 10)
    course = Course(keeper)
    course.look_back()
    assert not keeper.preferred.any() and (keeper.credible == -1).all(), "nothing was seen yet"
    keeper.visits += 1
    keeper.predicted.copy_(predicted)
    keeper.preference.copy_(torch.arange(120) % 12 / 20)  # of each class one above a half
    course.look_back()
    assert keeper.credible.tolist() == [1] * 10, "and a quarter of the two others that it agrees with"
    assert keeper.preferred.nonzero().squeeze(1).tolist() == [12 * k + 11 for k in range(10)]
    asked = course.see(torch.zeros(3, 10), batch_of([10, 11, 0], given))
    assert asked.tolist() == [False, True, False]
    # The number is settled; who is preferred is not.
    keeper.predicted.copy_(given)
    keeper.preference.copy_(torch.arange(120) % 12 == 4)
    course.look_back()
    assert keeper.credible.tolist() == [1] * 10 and keeper.preferred.nonzero().squeeze(1).tolist() == [
        *range(4, 120, 12)
    ]


def method_with(*, course: bool, warmup_epochs: int = 1) -> ACTO:
    torch.manual_seed(0)
    config = ACTO.Config(form="steady", warmup_epochs=warmup_epochs, mixing=0.0, course=course)
    return ACTO(config, Task(torch.tensor([0, 1, 2, 1]), 3), lambda: LinearNet(4, 3))


def test_what_is_preferred_is_selected_too() -> None:
    plain, looking = method_with(course=False), method_with(course=True)
    views = torch.randn(2, 4, 4)
    batch = Batch(torch.arange(4), tuple(views), plain.labels)
    assert not hasattr(plain, "preferred")
    by_both = plain.loss((batch,), Clock(1, 4)).per_sample["selected"]
    assert by_both.tolist() == looking.loss((batch,), Clock(1, 4)).per_sample["selected"].tolist()
    left_out = int((~by_both).nonzero()[0])
    looking.preferred[left_out] = True
    step = looking.loss((batch,), Clock(1, 4))
    expected = by_both.clone()
    expected[left_out] = True
    assert step.per_sample["selected"].tolist() == expected.tolist() and not step.per_sample["mined"][left_out]
    assert looking.visits.tolist() == [2] * 4, "the robust phase counts as well"


def test_the_warm_up_is_seen_and_ended_before_the_number_is_settled() -> None:
    method = method_with(course=True, warmup_epochs=2)
    batch = Batch(torch.arange(4), tuple(torch.randn(2, 4, 4)), method.labels)
    for epoch in range(2):
        method.on_turn(Clock(epoch, 4), None)  # type: ignore[arg-type]
        assert (method.credible == -1).all()
        method.loss((batch,), Clock(epoch, 4))
    assert method.visits.tolist() == [2] * 4 and (method.predicted >= 0).all()
    method.on_turn(Clock(2, 4), None)  # type: ignore[arg-type]
    assert (method.credible == 0).all(), "of three classes nothing is known to be spread"


def test_another_form_goes_on_and_looks_back_from_there() -> None:
    plain, looking = method_with(course=False), method_with(course=True)
    looking.visits += 5
    looking.preferred[0] = True
    fresh = method_with(course=True)
    fresh.load_state_dict(fresh.adopted(plain.state_dict()))
    assert (fresh.visits == 0).all() and not fresh.preferred.any()
    fresh.load_state_dict(fresh.adopted(looking.state_dict()))
    assert (fresh.visits == 5).all() and fresh.preferred.tolist() == [True, False, False, False]
    plain.load_state_dict(plain.adopted(looking.state_dict()))


def test_in_a_loop_of_ones_own() -> None:
    given, predicted = tensors_of(circle(3, *[1] * 9))
    selector = ActoSelector(given, num_classes=10, warmup_epochs=1, course=True, mining=False)
    index, logits = torch.arange(len(given)), 5.0 * torch.nn.functional.one_hot(predicted.long(), 10)
    nobody = 5.0 * torch.nn.functional.one_hot((given + 1) % 10, 10)
    selector.select(index, robust=logits, non_robust=logits, epoch=0)
    found = selector.select(index, robust=nobody, non_robust=nobody, epoch=1)
    assert found.selected.tolist() == (given == predicted).tolist()


def test_an_epoch_that_is_done_again_begins_anew() -> None:
    given, predicted = tensors_of(circle(3, *[1] * 9))
    index, logits = torch.arange(len(given)), 5.0 * torch.nn.functional.one_hot(predicted.long(), 10)
    selector = ActoSelector(given, num_classes=10, warmup_epochs=1, course=True)
    selector.select(index, robust=logits, non_robust=logits, epoch=0)
    saved = {name: value.clone() for name, value in selector.state_dict().items()}
    found, trust = [], []
    for _ in range(2):
        found.append(selector.select(index, robust=logits, non_robust=logits, epoch=1).selected.tolist())
        trust.append(selector.label_quality())
        holder = torch.nn.ModuleList([selector])  # a state may be loaded by whatever holds the selector
        holder.load_state_dict({f"0.{name}": value for name, value in saved.items()})
    assert found[0] == found[1] and trust[0] is not None and torch.equal(trust[0], trust[1])
    assert int(copy.deepcopy(selector).method.robust_epochs) == 0
