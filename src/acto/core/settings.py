"""Settings as dotted keys: the fields of a tree of dataclasses, with their documentation, and the way back."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


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
    """What the class documents of it."""


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


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """An object of the dataclass `cls` from nested plain values, the inverse of dataclasses.asdict."""
    hints = typing.get_type_hints(cls)
    return cls(**{name: _built(hints[name], value) for name, value in values.items()})


def _built(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value)
    if (section := _section_type(hint)) is not None:
        return {name: build(section, values) for name, values in value.items()}
    return tuple(value) if isinstance(value, list) and typing.get_origin(hint) is tuple else value


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
    """What a class says of each field: under "Attributes:" in its docstring, or in a string below it and its like."""
    texts = _attributes(inspect.getdoc(cls) or "")
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    silent: list[str] = []
    for part in tree.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            silent.append(part.target.id)
        elif isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant):
            texts |= dict.fromkeys(silent, _one_line(str(part.value.value)))
            silent = []
    return texts


def _attributes(docstring: str) -> dict[str, str]:
    _, _, section = docstring.partition("Attributes:\n")
    lines = textwrap.dedent(section).splitlines()
    texts: dict[str, list[str]] = {}
    for line in lines:
        if found := re.match(r"(\w+): ?(.*)", line):
            texts[found[1]] = [found[2]]
        elif line and not line.startswith(" "):
            break
        elif texts:
            texts[list(texts)[-1]].append(line)
    return {name: _one_line(" ".join(parts)) for name, parts in texts.items()}


def _one_line(text: str) -> str:
    return " ".join(text.replace("``", "").split())
