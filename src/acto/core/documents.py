"""JSON and YAML files from outside: bounded in size and depth, and checked key by key before anyone relies on them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from acto.core.errors import UserError
from acto.core.files import open_regular, reason_of
from acto.core.settings import YAML_ERRORS, shown, typed

MOST_JSON, MOST_YAML = 1 << 30, 4 << 20
"""Bytes of a file. YAML is read by Python alone, a hundred times slower."""
DEEPEST = 64
"""Levels of lists and mappings in one another."""
_MOST_YAML_VALUES = 1_000_000
"""A YAML file may name a part many times: small on the disk, endless once it is written out."""


class _Shallow(yaml.SafeLoader):
    """A reader of plain YAML that gives up at DEEPEST: its own way down takes seconds."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > DEEPEST:
            raise RecursionError
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def read_json(path: Path | str, *, error: type[Exception] = UserError, most_bytes: int = MOST_JSON) -> Any:
    """Read a JSON file.

    Args:
        path: a regular file.
        error: raised where the file cannot be used; it names the file.
        most_bytes: a larger file is not read.

    Raises:
        FileNotFoundError: there is none.
    """
    return _parsed(json.loads, read_content(path, error=error, most_bytes=most_bytes), str(path), error=error)


def read_yaml(path: Path | str, *, error: type[Exception] = UserError, most_bytes: int = MOST_YAML) -> Any:
    """Read a YAML file of plain values.

    Args:
        path: see read_json.
        error: see read_json.
        most_bytes: see read_json.

    Raises:
        FileNotFoundError: there is none.
    """
    return parse_yaml(read_content(path, error=error, most_bytes=most_bytes), str(path), error=error)


def parse_json(data: bytes | str, name: str, *, error: type[Exception] = UserError) -> Any:
    """Read JSON out of something else; `name` stands in the errors, which are of the type `error`."""
    return _parsed(json.loads, data, name, error=error)


def parse_yaml(data: bytes | str, name: str, *, error: type[Exception] = UserError) -> Any:
    """Read plain YAML out of something else; `name` stands in the errors, which are of the type `error`."""
    return _parsed(
        lambda text: _Shallow(text).get_single_data(), data, name, error=error, most_values=_MOST_YAML_VALUES
    )


class Record(dict[str, Any]):
    """A mapping out of a file: a name that it lacks is an error that says which file, wherever it is looked up."""

    def __init__(self, values: Mapping[str, Any], name: str, *, error: type[Exception], within: str = "") -> None:
        super().__init__(values)
        self._name, self._error, self._within = name, error, within

    def __missing__(self, key: str) -> Any:
        raise _fault(self._error, self._name, f"it has no {self._within}{key}")


def as_record(
    values: Any, hints: Mapping[str, Any], name: str, *, error: type[Exception] = UserError, within: str = ""
) -> Record:
    """The mapping `values` out of a file, with every value that `hints` knows of the right type.

    Args:
        values: as read.
        hints: a type for each key, as acto.core.settings.typed takes it, or the hints of a section. A key may be
            missing; one that is not in `hints` may have any value.
        name: the file's, for errors.
        error: raised with the file, the key, and what it should be.
        within: what comes before the keys in errors, say "data.".
    """
    if not isinstance(values, dict):
        what = within.rstrip(".")
        raise error(
            f"{name} is damaged: {what and f'{what} '}must be a mapping of names to values, not {shown(values)}"
        )
    if strange := [key for key in values if not isinstance(key, str)]:
        raise _fault(error, name, f"the name {within}{shown(strange[0])} is no text")
    found: dict[str, Any] = {}
    for key, value in values.items():
        hint = hints.get(key, Any)
        if isinstance(hint, Mapping):
            found[key] = as_record(value, hint, name, error=error, within=f"{within}{key}.")
            continue
        try:
            changed = value if hint is Any else typed(f"{within}{key}", value, hint, texts=False)
        except UserError as wrong:
            raise _fault(error, name, f"{wrong}") from wrong
        found[key] = value if isinstance(value, list) else changed
    return Record(found, name, error=error, within=within)


def _fault(error: type[Exception], name: Path | str, reason: str) -> Exception:
    """An error in the words of who is to blame: the user, who named the file, or whatever damaged a run's."""
    return error(f"cannot read {name}: {reason}" if issubclass(error, UserError) else f"{name} is damaged: {reason}")


def read_content(path: Path | str, *, error: type[Exception] = UserError, most_bytes: int = MOST_JSON) -> bytes:
    """Read the bytes of a regular file; the arguments and errors are those of read_json."""
    try:
        with open(path, "rb", opener=open_regular) as file:
            if (size := os.fstat(file.fileno()).st_size) > most_bytes:
                raise error(f"cannot read {path}: it has {size:,} bytes, more than the {most_bytes:,} allowed")
            return file.read(size)
    except FileNotFoundError:
        raise
    except OSError as failed:
        raise error(f"cannot read {path}: {reason_of(failed)}") from failed


def _parsed(
    parse: Callable[[Any], Any], data: bytes | str, name: str, *, error: type[Exception], most_values: int | None = None
) -> Any:
    try:
        content = parse(data)
    except YAML_ERRORS as failed:
        reason = (
            f"its parts lie more than {DEEPEST} deep in one another"
            if isinstance(failed, RecursionError)
            else str(failed)
        )
        raise _fault(error, name, f"{' '.join(reason.split()) or type(failed).__name__}") from failed
    level, depth, count = [content] if isinstance(content, dict | list | tuple) else [], 0, 0
    while level:
        depth, count = depth + 1, count + sum(map(len, level))
        if depth > DEEPEST:
            raise _fault(error, name, f"its parts lie more than {DEEPEST} deep in one another")
        if most_values is not None and count > most_values:
            raise _fault(error, name, f"written out, it has more than {most_values:,} values")
        level = [
            inner
            for part in level
            for inner in (part.values() if isinstance(part, dict) else part)
            if isinstance(inner, dict | list | tuple)
        ]
    return content
