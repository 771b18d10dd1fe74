"""Settings know their ranges: what lies outside is refused with the setting's name and the bounds, for all of them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import numpy as np
import pytest

from acto.core.errors import UserError
from acto.core.settings import Range, Settings, fields_of, setting, typed
from acto.data.noise import NoiseSpec
from acto.data.samples import DataSpec
from acto.methods import METHODS
from acto.runs.run import Run
from acto.training.plans import Plan
from acto.training.protocol import Protocol

OWNERS: dict[str, type] = {
    **{name: method.Config for name, method in METHODS.items()},
    **{cls.__name__: cls for cls in (Protocol, Plan, NoiseSpec, DataSpec, Run)},
}
BESIDE: dict[type, dict[str, Any]] = {NoiseSpec: {"kind": "symmetric"}}
"""Other settings without which no value of a class's fields may be set."""
WITHOUT_RANGE = {"sce.log_zero"}
"""Numbers whose check is the class's own."""


def parts(cls: type, name: str) -> tuple[Any, ...]:
    """The types that a field may have."""
    hint = get_type_hints(cls)[name]
    return get_args(hint) if type(None) in get_args(hint) else (hint,)


def is_number(cls: type, name: str) -> bool:
    return bool({int, float} & set(parts(cls, name)))


NUMBERS = {
    f"{owner}.{field.name}": (cls, field.name, field.metadata.get("range"))
    for owner, cls in OWNERS.items()
    for field in fields(cls)
    if is_number(cls, field.name)
}


def test_every_number_has_a_range() -> None:
    assert {key for key, (_, _, span) in NUMBERS.items() if span is None} == WITHOUT_RANGE


@pytest.mark.parametrize("key", [key for key in NUMBERS if key not in WITHOUT_RANGE])
def test_what_is_no_number_is_refused_in_words(key: str) -> None:
    cls, name, span = NUMBERS[key]
    wrong = ["two", [1], True] + ([2.5] if int in parts(cls, name) else [])
    for value in wrong:
        with pytest.raises(UserError, match=f"{re.escape(span.name or name)} must be .*number, but got"):
            cls(**BESIDE.get(cls, {}) | {name: value})


def test_numbers_of_numpy_and_paths_are_taken_as_pythons() -> None:
    assert typed("epochs", np.int64(5), int) == 5 and type(typed("epochs", np.int64(5), int)) is int
    assert type(typed("lr", np.float32(0.5), float)) is float
    assert typed("weights", Path("a.pt"), str | None) == "a.pt"
    for value, hint in ((np.float64(5), int), (True, int), (np.True_, float)):
        with pytest.raises(UserError, match="must be a"):
            typed("setting", value, hint)


@pytest.mark.parametrize("key", [key for key in NUMBERS if key not in WITHOUT_RANGE])
def test_a_range_holds_up_to_its_bounds(key: str) -> None:
    cls, name, span = NUMBERS[key]
    assert isinstance(span, Range) and (span.low, span.high) != (-math.inf, math.inf)
    others, whole = BESIDE.get(cls, {}), int in parts(cls, name)
    outside = [
        *([] if whole else [math.nan]),
        span.low if span.open_low else span.low - 1 if whole else math.nextafter(span.low, -math.inf),
    ]
    inside = [] if span.open_low else [span.low]
    if span.high != math.inf:
        outside.append(span.high + 1 if whole else math.nextafter(span.high, math.inf))
        inside.append(span.high)
    bounds = f"{'(' if span.open_low else '['}{span.low:g}, {span.high:g}]"
    for value in outside:
        message = f"{span.name or name} is {value}, but must lie in {bounds}"
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            cls(**{**others, name: value})
    for value in (*inside, *([None] if type(None) in parts(cls, name) else [])):
        assert getattr(cls(**{**others, name: value}), name) == value


CHOICES = {
    "acto.selection": ("selection", "both, everything, robust"),
    "acto.memory_dtype": ("memory_dtype", "bfloat16, float16, float32"),
    "elr.memory_dtype": ("memory_dtype", "bfloat16, float16, float32"),
    "elr-plus.memory_dtype": ("memory_dtype", "bfloat16, float16, float32"),
    "Protocol.optimizer": ("optimizer", "adam, sgd"),
    "NoiseSpec.kind": ("noise kind", "asymmetric, file, human, instance, none, symmetric"),
    "NoiseSpec.pixel_scale": ("pixel scale", "raw, standardized, unit"),
    "DataSpec.on_bad_image": ("on_bad_image", "drop, error"),
    "Run.method": ("method", ", ".join(METHODS)),
    "Run.step": ("step", "compiled, eager, graph"),
}


@pytest.mark.parametrize("key", CHOICES)
def test_other_words_than_the_choices_are_refused(key: str) -> None:
    owner, _, name = key.partition(".")
    called, choices = CHOICES[key]
    with pytest.raises(
        UserError, match=f"^{re.escape(f'unknown {called} ')}'qqq'.*{re.escape(f'Choices: {choices}')}$"
    ):
        OWNERS[owner](**{name: "qqq"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Base(Settings):
    share: float = setting(0.5, low=0, high=0.999, open_low=True)
    """A share."""
    count: int | None = setting(None, low=1)
    width: float = setting(1.0, low=0, open_low=True, name="the width")
    """Two of a
    kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Derived(Base):
    word: str = setting("a", choices=("b", "a"))
    rule: Literal["x", "y"] | None = None
    """A rule."""
    free: int = 0


def test_the_text_of_a_setting_ends_with_its_range() -> None:
    assert {field.key: field.text for field in fields_of(Derived, "of")} == {
        "of.share": "A share. In (0, 0.999].",
        "of.count": "Two of a kind. At least 1.",
        "of.width": "Two of a kind. Above 0.",
        "of.word": "A rule. One of b, a.",
        "of.rule": "A rule. One of x, y.",
        "of.free": "",
    }


def test_the_ranges_of_a_base_hold_and_none_is_for_the_type_to_allow() -> None:
    with pytest.raises(UserError, match=r"^the width is 0, but must lie in \(0, inf\]$"):
        Derived(width=0)
    assert Derived(count=None, rule=None) == Derived()
    with pytest.raises(UserError, match="share must be a number, but got None"):
        Derived(share=None)  # type: ignore[arg-type]
