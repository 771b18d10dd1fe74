"""`acto train`: flags and a file of settings become a Run, laid over the recipe for the data and method they name."""

from __future__ import annotations

import re
import types
import typing
from argparse import ArgumentError
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from acto.core.errors import UserError, choose, closest
from acto.core.settings import Field, flatten, merged
from acto.data.samples import DataSpec
from acto.methods import METHODS
from acto.methods.base import Method
from acto.run_folder.reading import read_settings
from acto.runs.recipes.by_data import SETTINGS, setting_for
from acto.runs.recipes.recipe import recipe
from acto.runs.resolve import SHORT, known_fields, section

ACTIONS = {
    "--config": "read settings from this YAML file; flags win over it",
    "--out": "folder of the run; without it a new one under runs/",
    "--resume": "go on with the run in this folder from its last checkpoint",
    "--overwrite": "delete what the folder of --out holds",
    "--dry-run": "measure what the run will cost, and write nothing",
    "--download": "fetch the official archive if it is missing under the data root",
    "--json": "print the summary as JSON on stdout",
    "--no-report": "do not write the report on the labels at the end; `acto audit` writes it later",
    "--print-config": "print the settings as YAML and do nothing else",
}
"""Flags that are no settings of a run."""
WITH_VALUE = ("--config", "--out", "--resume")
TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the user asked for, and nothing else."""

    settings: dict[str, Any]
    """Nested; only what was given."""
    net_was_typed: bool
    """The network's name stands on the command line, not only in a file."""
    actions: dict[str, Any]
    """By ACTIONS' names, without the dashes in front."""
    saved: dict[str, Any]
    """The settings of the run to go on with; empty for a new run."""


def parse(tokens: Sequence[str]) -> Asked:
    """Read the command line, and the file or the run's folder that it names.

    Raises:
        UserError: for an unknown flag or key, or a value of the wrong type.
        SystemExit: after --help.
    """
    saved: dict[str, Any] = {}
    from_file: dict[str, Any] = {}
    if (folder := _value_of("--resume", tokens)) is not None:
        saved = read_settings(folder)
    if (path := _value_of("--config", tokens)) is not None:
        from_file = _read_file(path)
    method = saved.get("method") or _value_of("--method", tokens) or from_file.get("method")
    before = _value_of("--init-from", tokens) or _value_of("--init_from", tokens) or from_file.get("init_from")
    if method is None:
        method = read_settings(str(before))["method"] if before is not None else "acto"
    method = METHODS[choose("method", str(method), METHODS)]
    known = known_fields(method)
    short = dict(SHORT)
    if f"{section(method.name)}.warmup_epochs" in known:
        short["--warmup-epochs"] = f"--{section(method.name)}.warmup_epochs"
    tokens = [_long_form(token, short, known) for token in tokens]
    asks_for_help = bool({"-h", "--help"} & set(tokens))
    source = _value_of("--data.source", tokens)
    parser = _parser(method, known, short, defaults=_defaults(source, method) if asks_for_help else {})
    _check_flags(tokens, [*(f"--{key}" for key in known), *ACTIONS], short, method)
    if saved:
        saved = _typed(parser, saved, known, where=f"{folder}/config.yaml: ")
    from_file = _typed(parser, from_file, known, where=f"{path}: ")
    given = _parsed(lambda: parser.parse_args(tokens, defaults=False), known)
    actions = {name: given.pop(name.replace("-", "_"), None) for name in (flag[2:] for flag in ACTIONS)}
    return Asked(
        settings=merged(from_file, given),
        net_was_typed="net" in given,
        actions={name: value for name, value in actions.items() if value is not None},
        saved=saved,
    )


# Tokens ---------------------------------------------------------------------------------------------------------


def _value_of(flag: str, tokens: Sequence[str]) -> str | None:
    """The last value that `flag` is given."""
    value = None
    for i, token in enumerate(tokens):
        if token == flag and i + 1 < len(tokens):
            value = tokens[i + 1]
        elif token.startswith(f"{flag}="):
            value = token.partition("=")[2]
    return value


def _long_form(token: str, short: Mapping[str, str], known: Collection[str]) -> str:
    """The flag that a token means: dashes and underscores are the same in a name, and some names have a short form."""
    name, equals, value = token.partition("=")
    if not name.startswith("--"):
        return token
    with_dashes, key = name.replace("_", "-"), name[2:].replace("-", "_")
    if with_dashes in short:
        name = short[with_dashes]
    elif with_dashes in ACTIONS:
        name = with_dashes
    elif key in known:
        name = f"--{key}"
    return f"{name}{equals}{value}"


def _check_flags(tokens: Sequence[str], flags: Sequence[str], short: Mapping[str, str], method: type[Method]) -> None:
    """Refuse flags that do not exist."""
    for token in tokens:
        name = token.partition("=")[0]
        if not name.startswith("--") or name in (*flags, "--help"):
            continue
        owner = name[2:].partition(".")[0]
        for other in METHODS:
            if owner == section(other) and other != method.name:
                raise UserError(f"{name} is a setting of method {other!r}, but the method is {method.name!r}")
        raise UserError(f"unknown flag {name!r}.{closest(name, [*flags, *short])} `acto train --help` lists them all")


def _parser(
    method: type[Method], known: Mapping[str, Field], short: Mapping[str, str], *, defaults: Mapping[str, Any]
) -> ArgumentParser:
    parser = ArgumentParser(
        prog="acto train",
        usage="acto train [--data SOURCE] [--method NAME] [--noise KIND --noise-rate RATE] [more settings]",
        description="Train a method. SOURCE is a named data set, a folder with one folder of pictures a class, a table "
        "(.csv, .tsv, .parquet) of paths and labels, or arrays (.npz). What is not said comes from the recipe for the "
        "data and the method; the defaults below are those of the data and method named before --help.",
        exit_on_error=False,
        default_env=False,
    )
    group = parser.add_argument_group("what to do")
    for flag, text in ACTIONS.items():
        if flag in WITH_VALUE:
            group.add_argument(flag, type=str, help=text)
        else:
            group.add_argument(flag, action="store_true", help=text)
    short_of = {long: name for name, long in short.items()}
    groups = {"": parser.add_argument_group("run")}
    for field in known.values():
        place = field.key.rpartition(".")[0]
        if place not in groups:
            groups[place] = parser.add_argument_group(place)
        flag = f"--{field.key}"
        text = f"{f'(short: {short_of[flag]}) ' if flag in short_of else ''}{field.text}".replace("%", "%%")
        default = defaults.get(field.key, None if field.default is MISSING else field.default)
        groups[place].add_argument(flag, type=field.hint, default=default, help=text or " ")
    return parser


def _defaults(source: str | None, method: type[Method]) -> dict[str, Any]:
    """What `acto train --data SOURCE --method NAME` would use, by dotted key."""
    name = source if source in SETTINGS else "digits"
    return flatten(recipe(DataSpec(source=name), setting_for(name), method=method.name).to_dict())


# Values ---------------------------------------------------------------------------------------------------------


def _read_file(path: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the settings in {path}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no settings: it must be YAML of the form `key: value`")
    return content


def _typed(
    parser: ArgumentParser, values: Mapping[str, Any], known: Mapping[str, Field], *, where: str
) -> dict[str, Any]:
    """Nested values of a file, checked and brought to their types."""
    sections = {key[:dot] for key in known for dot in range(len(key)) if key[dot] == "."} | {"protocol.plans"}

    def check(values: Mapping[str, Any], prefix: str) -> None:
        for name, value in values.items():
            key = f"{prefix}{name}"
            if key in sections:
                if not isinstance(value, Mapping):
                    raise UserError(f"{where}{key} is a section of settings, but got {value!r}")
                check(value, f"{key}.")
            elif key not in known:
                raise UserError(f"{where}unknown setting {key!r}.{closest(key, known)}")
            elif isinstance(value, Mapping) or (value is None and not _is_optional(known[key].hint)):
                raise UserError(f"{where}{key} must be {_type_name(known[key].hint)}, but got {value!r}")

    check(values, "")
    return _parsed(lambda: parser.parse_object(dict(values), defaults=False), known, where=where)


def _parsed(parse: typing.Callable[[], Any], known: Mapping[str, Field], *, where: str = "") -> dict[str, Any]:
    try:
        settings: dict[str, Any] = parse().as_dict()
    except ArgumentError as error:
        raise UserError(f"{where}{_readable(str(error), known)}") from None
    if settings.get("weights") == "none":
        settings["weights"] = None
    return settings


def _readable(message: str, known: Mapping[str, Field]) -> str:
    """The parser's message in our words."""
    key = re.search(r'Parser key "(.+?)"', message)
    value = re.search(r"(?:Got value|Given value): (.*)", message)
    if key and value and key[1] in known:
        hint = known[key[1]].hint
        near = closest(value[1], [str(v) for v in typing.get_args(hint)])
        return f"{key[1]} must be {_type_name(hint)}, but got {value[1]!r}{f'.{near}' if near else ''}"
    return message


def _type_name(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_type_name, args))
    if origin is tuple:
        return f"a list, each {_type_name(args[0])}"
    return TYPE_NAMES.get(hint, str(hint))


def _is_optional(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)
