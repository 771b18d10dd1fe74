"""`acto sweep`: many methods, data sets, noises and seeds."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from acto.cli.parser import Parser
from acto.cli.train_parser import ACTIONS
from acto.compare.collect import collect
from acto.compare.finished_runs import Found, read_records
from acto.compare.sweep import run_all
from acto.compare.sweep_jobs import Block, jobs_of, parse_methods, parse_noise, read_study
from acto.compare.sweep_launchers import Item, Launcher, LocalLauncher, Place, SlurmLauncher
from acto.compare.sweep_view import View, facts, plan_lines, result_lines
from acto.core.errors import UserError, check_range, closest
from acto.core.files import disk_errors
from acto.core.text import counted
from acto.methods import METHODS
from acto.runs.resolve import SHORT, known_fields

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
    given, study, settings, slurm = _asked(tokens)
    out = Path(getattr(given, "out", f"runs/{Path(study).stem}" if study else "runs/sweep"))
    target = getattr(given, "collect", None)
    if target is not None and study is None and not hasattr(given, "methods"):
        print(_collected(out, target))
        return 0
    blocks = _blocks(given, study, settings)
    trusted = study is None and "net" in settings  # a study file's settings are no command line
    jobs = jobs_of(blocks, trust_net=trusted, download=hasattr(given, "download"))
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


def _asked(tokens: Sequence[str]) -> tuple[Namespace, str | None, dict[str, Any], dict[str, str]]:
    """The sweep's own flags, the study file, the settings of all runs, and Slurm's parameters."""
    parser = _parser()
    slurm_flags = {token.partition("=")[0] for token in tokens if token.startswith("--slurm.")}
    for flag in slurm_flags:
        parser.add_argument(flag, dest=flag)
    own, settings, unknown = parser.divided(tokens)
    studies = [*own.pop("study", []), *(word for word in unknown if not word.startswith("-"))]
    if flags := [word.partition("=")[0] for word in unknown if word.startswith("-")]:
        if flags[0] in ACTIONS:
            raise UserError(f"{flags[0]} is for a single run, not for a sweep")
        raise UserError(f"unknown flag {flags[0]!r}.{closest(flags[0], parser.flags())}")
    if len(studies) > 1:
        raise UserError(f"one study at a time, but got {studies[0]!r} and {studies[1]!r}")
    slurm = {flag.removeprefix("--slurm."): own.pop(flag) for flag in slurm_flags}
    return Namespace(**own), studies[0] if studies else None, settings, slurm


def _parser() -> Parser:
    parser = Parser("acto sweep", DESCRIPTION)
    parser.add_argument("study", nargs="*", metavar="STUDY.yaml", help="says which runs to do, in blocks")
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
    parser.add_argument("--download", action="store_true", help="fetch official archives that are missing")
    parser.add_argument("--warmup-epochs", metavar="N", help="epochs of warm-up, for the methods that have one")
    fields = {field.key: field for method in METHODS.values() for field in known_fields(method).values()}
    short = {name: key for name, key in SHORT.items() if name != "--data"}
    parser.add_settings(fields.values(), short=short, shown=False)
    return parser


def _blocks(given: Namespace, study: str | None, settings: Mapping[str, Any]) -> list[Block]:
    lists = [name for name in ("methods", "data", "noises", "seeds") if hasattr(given, name)]
    warmup = getattr(given, "warmup_epochs", None)
    if study is not None:
        if lists:
            raise UserError(f"{study} says which runs to do: leave --{lists[0]} away")
        return [block.with_settings(settings, warmup_epochs=warmup) for block in read_study(study)]
    for name in ("methods", "data"):
        if name not in lists:
            raise UserError(f"a sweep needs --{name}, or a study file (`acto sweep --help` tells more)")
    seeds = getattr(given, "seeds", ["0"])
    if not all(seed.isdecimal() for seed in seeds):
        raise UserError(f"--seeds must be whole numbers, but got {','.join(seeds)!r}")
    block = Block(
        variants=parse_methods(given.methods),
        sources=tuple(given.data),
        noises=tuple(map(parse_noise, getattr(given, "noises", ["none"]))),
        seeds=tuple(map(int, seeds)),
    )
    return [block.with_settings(settings, warmup_epochs=warmup)]


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
