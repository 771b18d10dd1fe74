"""`acto sweep`: many methods, data sets, noises and seeds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from acto.cli.parser import Parser
from acto.compare.collect import collect
from acto.compare.finished_runs import Found, read_records
from acto.compare.sweep import run_all
from acto.compare.sweep_jobs import Block, jobs_of, parse_methods, parse_noise, read_study
from acto.compare.sweep_launchers import Item, Launcher, LocalLauncher, Place, SlurmLauncher
from acto.compare.sweep_view import View, facts, plan_lines, result_lines
from acto.core.errors import UserError, check_range
from acto.core.files import disk_errors
from acto.core.text import counted

WITH_VALUE = ("--methods", "--data", "--noises", "--seeds", "--jobs", "--out", "--collect")


SWITCHES = ("--slurm", "--dry-run", "--json")


HINTS = {"--method": "--methods", "--seed": "--seeds", "--noise": "--noises", "--noise-rate": "--noises"}


DESCRIPTION = """\
Run every method on every data set with every noise and seed, or what the blocks of a study file (YAML) say. A run's
folder is named after its resolved configuration: started again, a sweep skips what is finished, goes on with what was
interrupted, and does again what failed. Every other flag of `acto train` applies to all the runs whose method has it.
A run's seed is the seed of its noise as well; the test split and --subset stay the same for all seeds.
"""


def sweep(tokens: Sequence[str]) -> int:
    """The command `acto sweep`; returns the exit code: 1 if a run failed, 128 + N after signal N.

    Raises:
        UserError: for anything that was asked for and cannot be done; then no run was started.
    """
    study, own, slurm, rest = _split(tokens)
    given = _parser().given(own)
    out = Path(getattr(given, "out", f"runs/{Path(study).stem}" if study else "runs/sweep"))
    target = getattr(given, "collect", None)
    if target is not None and study is None and not hasattr(given, "methods"):
        print(_collected(out, target))
        return 0
    jobs = jobs_of(_blocks(given, study, rest))
    items = [Item(job=job, place=Place(out=out, name=job.name)) for job in jobs]
    if target is not None and Path(target).is_dir():
        _take_collected(items, read_records([target]))
    limit = getattr(given, "jobs", len(items) if hasattr(given, "slurm") else 1)
    check_range("jobs", limit, low=1)
    if hasattr(given, "dry_run"):
        print("\n".join(plan_lines(items)))
        return 0
    with disk_errors(f"make {out}"):
        (out / "locks").mkdir(parents=True, exist_ok=True)
    launcher: Launcher = LocalLauncher(limit)
    if hasattr(given, "slurm") or slurm:
        launcher = SlurmLauncher.with_parameters(out / "logs" / "slurm", slurm)
    with View(items, limit=limit) as view:
        stopped = run_all(items, launcher, limit=limit, view=view)
    if hasattr(given, "json"):
        print(json.dumps([facts(item) for item in items]))
    else:
        print("\n".join(result_lines(items, out)))
    if stopped:
        return 128 + stopped
    if target is not None:
        print(_collected(out, target), file=sys.stderr)
    return 1 if any(item.outcome == "failed" for item in items) else 0


def _split(tokens: Sequence[str]) -> tuple[str | None, list[str], dict[str, str], tuple[str, ...]]:
    """The study file, the sweep's own tokens, Slurm's parameters, and what is left for `acto train`."""
    study: str | None = None
    own: list[str] = []
    rest: list[str] = []
    slurm: dict[str, str] = {}
    left = list(tokens)
    while left:
        token = left.pop(0)
        name, equals, value = token.partition("=")
        takes = [left.pop(0)] if not equals and left and not _is_flag(left[0]) else []
        if name in HINTS:
            raise UserError(f"a sweep has no {name}: give {HINTS[name]}")
        if name in (*SWITCHES, "-h", "--help", "--download"):
            left = takes + left
            (rest if name == "--download" else own).append(token)
        elif name in WITH_VALUE:
            own += [token, *takes]
        elif name.startswith("--slurm."):
            slurm[name.removeprefix("--slurm.")] = value if equals else "".join(takes)
        elif _is_flag(token):
            rest += [token, *takes]
        elif study is None:
            study, left = token, takes + left
        else:
            raise UserError(f"one study at a time, but got {study!r} and {token!r}")
    return study, own, slurm, tuple(rest)


def _is_flag(token: str) -> bool:
    return token.startswith("--") or token == "-h"


def _parser() -> Parser:
    parser = Parser("acto sweep", DESCRIPTION)
    parser.usage = "acto sweep (STUDY.yaml | --methods M,... --data SOURCE,...) [more flags]"
    listed: Callable[[str], list[str]] = lambda text: [part for part in text.split(",") if part]  # noqa: E731
    parser.add_argument("--methods", type=listed, help="names, `all`, or `ablation` (the rows of Table 4)")
    parser.add_argument("--data", type=listed, help="sources as in `acto train`")
    parser.add_argument("--noises", type=listed, help="KIND:RATE,... say symmetric:0.5,asymmetric:0.4; none by default")
    parser.add_argument("--seeds", type=listed, help="whole numbers; 0 by default")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at the same time; 1 by default, all of Slurm's")
    parser.add_argument("--out", metavar="DIR", help="where the runs' folders go; runs/sweep or runs/STUDY by default")
    parser.add_argument("--slurm", action="store_true", help="submit to Slurm; --slurm.NAME VALUE gives its parameters")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and write nothing")
    parser.add_argument("--json", action="store_true", help="print a line of JSON on stdout, an entry a run")
    parser.add_argument(
        "--collect", metavar="DIR",
        help="copy the small files of the finished runs in --out there, without names of machines and paths; what is "
        "there already is not run again; without methods or a study, nothing is run",
    )  # fmt: skip
    return parser


def _blocks(given: Any, study: str | None, rest: tuple[str, ...]) -> list[Block]:
    lists = [name for name in ("methods", "data", "noises", "seeds") if hasattr(given, name)]
    if study is not None:
        if lists:
            raise UserError(f"{study} says which runs to do: leave --{lists[0]} away")
        blocks = read_study(study)
        return [
            Block(
                variants=block.variants, sources=block.sources, noises=block.noises, seeds=block.seeds,
                tokens=(*block.tokens, *rest), where=block.where,
            )
            for block in blocks
        ]  # fmt: skip
    for name in ("methods", "data"):
        if name not in lists:
            raise UserError(f"a sweep needs --{name}, or a study file (`acto sweep --help` tells more)")
    seeds = getattr(given, "seeds", ["0"])
    if not all(seed.isdecimal() for seed in seeds):
        raise UserError(f"--seeds must be whole numbers, but got {','.join(seeds)!r}")
    return [
        Block(
            variants=parse_methods(given.methods),
            sources=tuple(given.data),
            noises=tuple(map(parse_noise, getattr(given, "noises", ["none"]))),
            seeds=tuple(map(int, seeds)),
            tokens=rest,
        )
    ]


def _collected(out: Path, target: str) -> str:
    names = collect(out, Path(target))
    return f"{counted(len(names), 'record')} collected in {target}"


def _take_collected(items: Sequence[Item], collected: Found) -> None:
    """Take in runs of which only the collected record is left, from another day or another machine."""
    records = {record.path.name: record for record in collected.records}
    for item in items:
        record = records.get(item.place.name)
        if record is not None:
            item.outcome, item.before = "finished", True
            item.accuracy, item.seconds = record.accuracy, record.seconds
