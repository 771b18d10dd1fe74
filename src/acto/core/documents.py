"""JSON and YAML files from outside: bounded in size and depth, and checked key by key before anyone relies on them."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from acto.core.errors import UserError
from acto.core.settings import typed

MOST_JSON, MOST_YAML = 1 << 30, 4 << 20
"""Bytes of a file. YAML is read by Python alone, a hundred times slower."""
DEEPEST = 64
"""Levels of lists and mappings in one another."""
_MOST_YAML_VALUES = 1_000_000
"""A YAML file may name a part many times: small on the disk, endless once it is written out."""
_NOT_AS_WANTED = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, yaml.YAMLError)
"""Errors of the two readers: PyYAML lets a false tag end in KeyError, IndexError or AttributeError."""


def read_json(path: Path | str, *, error: type[Exception] = UserError, most_bytes: int = MOST_JSON) -> Any:
    """Read a JSON file.

    Args:
        path: a regular file.
        error: raised where the file cannot be used; it names the file.
        most_bytes: a larger file is not read.

    Raises:
        FileNotFoundError: there is none.
    """
    return _parsed(json.loads, _content(path, error=error, most_bytes=most_bytes), str(path), error=error)


def read_yaml(path: Path | str, *, error: type[Exception] = UserError, most_bytes: int = MOST_YAML) -> Any:
    """Read a YAML file of plain values.

    Args:
        path: see read_json.
        error: see read_json.
        most_bytes: see read_json.

    Raises:
        FileNotFoundError: there is none.
    """
    data = _content(path, error=error, most_bytes=most_bytes)
    return _parsed(yaml.safe_load, data, str(path), error=error, most_values=_MOST_YAML_VALUES)


def parse_json(data: bytes | str, name: str, *, error: type[Exception] = UserError) -> Any:
    """Read JSON out of something else; `name` stands in the errors, which are of the type `error`."""
    return _parsed(json.loads, data, name, error=error)


def as_record(
    values: Any,
    hints: Mapping[str, Any],
    name: str,
    *,
    required: Collection[str] | None = None,
    error: type[Exception] = UserError,
) -> dict[str, Any]:
    """The mapping `values` with each value of the type in `hints`; keys that `hints` does not have stay as they are.

    Args:
        values: as read.
        hints: a type for each key, as acto.core.settings.typed takes it; dict and list as well.
        name: the file's, for errors.
        required: keys that may not be missing; None: all of `hints`.
        error: raised with the file, the key, and what it should be.
    """
    if not isinstance(values, dict):
        raise error(f"{name} is damaged: it must be a mapping of names to values, but is a {type(values).__name__}")
    if missing := [key for key in (hints if required is None else required) if key not in values]:
        raise error(f"{name} is damaged: it has no {', '.join(map(repr, missing))}")
    if strange := [key for key in values if not isinstance(key, str)]:
        raise error(f"{name} is damaged: the name {strange[0]!r} is no text")
    try:
        return {key: typed(key, value, hints[key]) if key in hints else value for key, value in values.items()}
    except UserError as wrong:
        raise error(f"{name} is damaged: {wrong}") from wrong


def _content(path: Path | str, *, error: type[Exception], most_bytes: int) -> bytes:
    try:
        # Not blocking: to open a pipe waits for somebody who writes to it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise error(f"cannot read {path}: it is no regular file")
            if found.st_size > most_bytes:
                raise error(f"cannot read {path}: it has {found.st_size:,} bytes, more than the {most_bytes:,} allowed")
            return file.read(most_bytes)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as failed:  # a name with a null byte
        if isinstance(failed, error):
            raise
        raise error(f"cannot read {path}: {getattr(failed, 'strerror', None) or failed}") from failed


def _parsed(
    parse: Callable[[Any], Any], data: bytes | str, name: str, *, error: type[Exception], most_values: int | None = None
) -> Any:
    try:
        content = parse(data)
    except _NOT_AS_WANTED as failed:
        reason = "its parts lie too deep in one another" if isinstance(failed, RecursionError) else str(failed)
        raise error(f"{name} is damaged: {' '.join(reason.split()) or type(failed).__name__}") from failed
    level, depth, count = [content] if isinstance(content, dict | list | tuple) else [], 0, 0
    while level:
        depth, count = depth + 1, count + sum(map(len, level))
        if depth > DEEPEST:
            raise error(f"{name} is damaged: its parts lie more than {DEEPEST} deep in one another")
        if most_values is not None and count > most_values:
            raise error(f"{name} is damaged: written out, it has more than {most_values:,} values")
        level = [
            inner
            for part in level
            for inner in (part.values() if isinstance(part, dict) else part)
            if isinstance(inner, dict | list | tuple)
        ]
    return content
