"""Requests to `acto train`: flags, laid over a file of settings or over those of the run to go on with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from acto.cli.parser import Parser
from acto.cli.train_parser import train_parser
from acto.core.documents import read_yaml
from acto.core.errors import UserError, choose
from acto.core.files import require_regular
from acto.core.settings import Field, flatten, merged
from acto.data.readers.formats import FILE_SUFFIXES
from acto.data.samples import DataSpec
from acto.methods import METHODS
from acto.run_folder.reading import read_run
from acto.runs.recipes.by_data import SETTINGS, setting_for
from acto.runs.recipes.recipe import recipe
from acto.runs.resolve import SHORT, checked, known_fields, section, unknown

MOST_SHOWN = 10
"""Names of the current folder that are shown to choose from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Settings and actions that the user asked for, and nothing else."""

    settings: dict[str, Any]
    """Nested; only what was given."""
    net_was_typed: bool
    """The network's name stands on the command line, not only in a file."""
    actions: dict[str, Any]
    """By the names of train_parser.ACTIONS, with underscores."""
    saved: dict[str, Any]
    """The settings of the run to go on with; empty for a new run."""

    @property
    def names_data(self) -> bool:
        """Say whether the data are named, or those of the run to begin from are meant."""
        return "source" in self.settings.get("data", {}) or self.settings.get("init_from") is not None


def parse(tokens: Sequence[str]) -> Asked:
    """Read the command line, and the file or the run's folder that it names.

    Raises:
        UserError: for an unknown flag or key, or a value of the wrong type.
        SystemExit: after --help.
    """
    first = _first_look(tokens)
    saved = read_run(first["resume"]).config if "resume" in first else {}
    from_file = _read_file(first["config"]) if "config" in first else {}
    method = saved.get("method") or first.get("method") or from_file.get("method")
    before = first.get("init_from") or from_file.get("init_from")
    if method is None:
        method = read_run(str(before)).config["method"] if before is not None else "acto"
    method = choose("method", str(method), METHODS)
    fields, short = settings_of(method, source=first.get("data"))
    parser = train_parser(fields, short)
    actions, given, left = parser.divided(tokens)
    if left and left[0].startswith("--"):
        error = unknown(left[0].partition("=")[0], method=method, choices=parser.flags(), what="flag")
        raise UserError(f"{error} `acto train --help` lists them all")
    if left:
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    saved = checked(saved, method=method, where=f"{first.get('resume')}/config.yaml: ")
    from_file = checked(from_file, method=method, where=f"{first.get('config')}: ")
    return Asked(
        settings=merged(from_file, checked(given, method=method)),
        net_was_typed="net" in given,
        actions=actions,
        saved=saved,
    )


def ask_for_data(answers: TextIO, questions: TextIO) -> str:
    """Ask on a terminal which data to train on.

    Raises:
        UserError: there is no terminal, or no answer; it lists what there is.
    """
    here = [
        entry.name + "/" * entry.is_dir()
        for entry in sorted(Path().iterdir())
        if entry.suffix.lower() in FILE_SUFFIXES or (entry.is_dir() and not entry.name.startswith((".", "__")))
    ]
    more = f" and {len(here) - MOST_SHOWN} more" if len(here) > MOST_SHOWN else ""
    lines = [
        "which data? --data takes a folder of pictures, a table, arrays, ... (docs/data.md), or a name",
        f"  in this folder: {', '.join(here[:MOST_SHOWN]) or 'nothing that looks like data'}{more}",
        f"  by name: {', '.join(name for name in SETTINGS)}; digits needs nothing else",
    ]
    if not (answers.isatty() and questions.isatty()):
        raise UserError("\n".join(lines))
    print("\n".join(lines), file=questions)
    print("data: ", end="", file=questions, flush=True)
    if not (answer := answers.readline().strip()):
        raise UserError("no data were named")
    return answer


def _first_look(tokens: Sequence[str]) -> Mapping[str, Any]:
    """The flags that decide which other flags there are."""
    parser = Parser("acto train", "")
    for flags in (("--resume",), ("--config",), ("--method",), ("--init_from",), ("--data", "--data.source")):
        parser.add_argument(*flags)
    return parser.divided([token for token in tokens if token not in ("-h", "--help")])[0]


def settings_of(method: str, *, source: str | None = None) -> tuple[list[Field], dict[str, str]]:
    """Every setting of a run of `method` with its default on the data `source`, and the short forms of flags."""
    known, short = known_fields(METHODS[method]), dict(SHORT)
    if (warmup := f"{section(method)}.warmup_epochs") in known:
        short["--warmup-epochs"] = f"--{warmup}"
    name = source if source in SETTINGS else "digits"
    defaults = flatten(recipe(DataSpec(source=name), setting_for(name), method=method).to_dict())
    return [replace(field, default=defaults.get(key, field.default)) for key, field in known.items()], short


def _read_file(path: str) -> dict[str, Any]:
    require_regular(path)
    try:
        content = read_yaml(path)
    except (FileNotFoundError, UserError) as error:
        raise UserError(f"cannot read the settings in {path}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no settings: it must be YAML of the form `key: value`")
    return content
