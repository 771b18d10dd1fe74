"""Settings: dataclasses whose fields know their ranges; their tree as dotted keys with documentation, and the way back.

A setting stands in one place: its type, its default and its range in one line, and its text in a string below it.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import numbers
import os
import textwrap
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass
from functools import cache
from typing import Any, Literal, TypeVar

import yaml

from acto.core.errors import UserError, check_range, choose, closest

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """The values that a setting may have: numbers between two bounds, or some choices."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    """`low` itself is refused."""
    choices: Collection[str] = ()
    """If there are any, the bounds say nothing."""
    name: str = ""
    """In errors; empty: the field's."""

    def __str__(self) -> str:
        """A sentence such as "At least 0."."""
        if self.choices:
            return f"One of {', '.join(self.choices)}."
        if self.high == math.inf:
            return f"{'Above' if self.open_low else 'At least'} {self.low:.10g}."
        return f"In {'(' if self.open_low else '['}{self.low:.10g}, {self.high:.10g}]."

    def check(self, name: str, value: Any) -> None:
        """Refuse another value; `name` is the field's."""
        if self.choices:
            choose(self.name or name, value, self.choices)
        else:
            check_range(self.name or name, value, low=self.low, high=self.high, open_low=self.open_low)


def setting(
    default: T,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    choices: Collection[str] = (),
    name: str = "",
) -> T:
    """Declare a field of `Settings` and the range of its values.

    A Literal has its choices in its type and needs none of this. None is in every range if the type allows it.

    Args:
        default: the field's.
        low: the lowest number.
        high: the highest number.
        open_low: `low` itself is refused.
        choices: the texts it may be.
        name: in errors, where the field's own would not say enough.
    """
    span = Range(low=low, high=high, open_low=open_low, choices=choices, name=name)
    return dataclasses.field(default=default, metadata={"range": span})


class Settings:
    """Base of dataclasses that refuse what is out of their fields' ranges.

    One with a `__post_init__` of its own, for what relates several fields, calls that of its base first.
    """

    __slots__ = ()

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UserError: naming the setting, the value and the range.
        """
        cls: type = type(self)
        for name, (span, kind, optional) in _ranges(cls).items():
            value = getattr(self, name)
            if value is None and optional:
                continue
            if kind in (int, float) and not _is_number(value, kind):
                raise UserError(f"{span.name or name} must be {type_name(kind)}, but got {value!r}")
            span.check(name, value)


@cache
def _ranges(cls: type) -> Mapping[str, tuple[Range, Any, bool]]:
    """The ranges of a dataclass by field, with the type beside None, and whether None is fine too."""
    hints = typing.get_type_hints(cls)
    found: dict[str, tuple[Range, Any, bool]] = {}
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        optional = type(None) in typing.get_args(hint)
        span = field.metadata.get("range")
        kind = next(part for part in typing.get_args(hint) if part is not type(None)) if optional else hint
        if typing.get_origin(kind) is Literal:
            span = Range(choices=typing.get_args(kind))
        if span is not None:
            found[field.name] = span, kind, optional
    return found


@dataclass(frozen=True, slots=True)
class Field:
    """A setting that stands for itself: no section of others."""

    key: str
    """Dotted, say protocol.plan.lr."""
    hint: Any
    """Its type."""
    default: Any
    """dataclasses.MISSING if there is none."""
    text: str
    """Text that documents it in its class, with its range."""


def fields_of(cls: type, prefix: str = "") -> Iterator[Field]:
    """The fields of a dataclass and of the dataclasses in it, `prefix` and a dot before each key.

    A field that maps names to dataclasses is left out: which names there are is the caller's to say.
    """
    hints, texts = typing.get_type_hints(cls), documentation(cls)
    for field in dataclasses.fields(cls):
        key, hint = f"{prefix}.{field.name}" if prefix else field.name, hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from fields_of(typing.cast(type, hint), key)
        elif _section_type(hint) is None:
            made = field.default_factory() if field.default_factory is not MISSING else field.default
            yield Field(key, hint, made, texts.get(field.name, ""))


def from_values(cls: type[T], values: Mapping[str, Any], *, where: str = "") -> T:
    """An object of the dataclass `cls` from nested plain values, the inverse of dataclasses.asdict.

    Args:
        cls: with defaults or without.
        values: by the names of its fields.
        where: what comes before the names in errors, say "data.".

    Raises:
        UserError: no mapping, an unknown name, one that is missing, or a value of the wrong type or out of its range.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where.rstrip('.') or cls.__name__} is a section of settings, but got {shown(values)}")
    hints, known = (
        typing.get_type_hints(cls),
        {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))},
    )
    for name in values:
        if name not in known:
            raise UserError(f"unknown setting {f'{where}{name}'!r}.{closest(str(name), known)}")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise UserError(f"{where}{name} is missing")
    return cls(**{name: _built(hints[name], value, f"{where}{name}") for name, value in values.items()})


def _built(hint: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_values(typing.cast(type, hint), value, where=f"{key}.")
    if (section := _section_type(hint)) is not None:
        if not isinstance(value, Mapping):
            raise UserError(f"{key} is a section of settings, but got {shown(value)}")
        return {name: from_values(section, values, where=f"{key}.{name}.") for name, values in value.items()}
    return value if hint is Any else typed(key, value, hint)


def _section_type(hint: Any) -> type | None:
    """The dataclass that a dict[str, Dataclass] maps to."""
    args = typing.get_args(hint)
    is_section = typing.get_origin(hint) is dict and dataclasses.is_dataclass(args[1])
    return typing.cast(type, args[1]) if is_section else None


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections to dotted keys. An empty section leaves nothing."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        flat |= flatten(value, key) if isinstance(value, Mapping) else {key: value}
    return flat


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values with those of `over` laid on top, section by section."""
    both = dict(base)
    for name, value in over.items():
        below = both.get(name)
        both[name] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return both


def plain(value: Any) -> Any:
    """Nested values as YAML can write them: tuples become lists."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


@cache
def documentation(cls: type) -> Mapping[str, str]:
    """Read the text of each field of a dataclass: the string below it, or below the last of several, and its range."""
    texts: dict[str, str] = {}
    for base in filter(dataclasses.is_dataclass, reversed(cls.__mro__)):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        silent: list[str] = []
        for part in tree.body:
            if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                silent.append(part.target.id)
            elif isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant):
                texts |= dict.fromkeys(silent, " ".join(str(part.value.value).replace("``", "").split()))
                silent = []
    for name, (span, _, _) in _ranges(cls).items():
        texts[name] = f"{texts.get(name, '')} {span}".lstrip()
    return texts


# Values from outside --------------------------------------------------------------------------------------------

_NULLS = ("null", "Null", "NULL", "~")
YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""Errors of PyYAML: a false tag, or a day that no calendar has, ends in others than its own."""
_LONGEST = 200
"""Letters of a value in an error."""
_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    type(None): "null",
    dict: "a mapping",
    list: "a list",
}


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys to nested sections, the inverse of flatten."""
    values: dict[str, Any] = {}
    for key, value in flat.items():
        *places, name = key.split(".")
        section = values
        for place in places:
            section = section.setdefault(place, {})
        section[name] = value
    return values


def typed(key: str, value: Any, hint: Any, *, texts: bool = True) -> Any:
    """Bring `value` to the type `hint`; where no text is wanted, a text means what YAML takes it for.

    Without `texts` it is no more than a text.

    Raises:
        UserError: it cannot be done; with the setting's `key`.
    """
    with suppress(ValueError, OverflowError):
        return _typed(value, hint, texts)
    choices = [choice for part in (hint, *typing.get_args(hint)) for choice in typing.get_args(part)]
    text = value[:_LONGEST] if isinstance(value, str) else ""
    near = closest(text, [choice for choice in choices if isinstance(choice, str)])
    raise UserError(f"{key} must be {type_name(hint)}, but got {shown(value)}{near and f'.{near}'}")


def shown(value: Any) -> str:
    """A value as it stands in an error: the beginning of a long one."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits
        return f"a {type(value).__name__} that is too long to be shown"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _typed(value: Any, hint: Any, texts: bool) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for part in sorted(args, key=lambda part: part is str):  # every text is a text: that comes last
            with suppress(ValueError):
                return _typed(value, part, texts)
    elif hint is str or origin is typing.Literal:
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        if isinstance(value, str) and (hint is str or value in args):
            return value
    elif hint is type(None):
        if value is None or (texts and value in _NULLS):
            return None
    else:
        read = _read(value) if texts and isinstance(value, str) else value
        if origin is tuple and isinstance(read, list | tuple):
            return tuple(_typed(item, args[0], texts) for item in read)
        if hint in (int, float) and _is_number(read, hint):
            return hint(read)  # numpy's numbers become Python's, which files can hold
        if type(read) is hint:
            return read
    raise ValueError


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, numbers.Integral if kind is int else numbers.Real) and not isinstance(value, bool)


def _read(text: str) -> Any:
    """The value that a text stands for; YAML takes neither 1e-3 nor 010 for what they are."""
    if text[-1:].isdigit():
        for number in (int, float):
            with suppress(ValueError):
                return number(text)
    try:
        return yaml.safe_load(text)
    except YAML_ERRORS:
        return text


def type_name(hint: Any) -> str:
    """A type in words, say `a number or null`; words stay as they are."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return f"one of {', '.join(args)}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(type_name, args))
    return f"a list, each {type_name(args[0])}" if origin is tuple else _NAMES.get(hint, str(hint))
