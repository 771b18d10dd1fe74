"""`acto sweep`: many runs, each in a folder of its own, begun, resumed or skipped as their folders demand."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from acto.cli.exit_codes import Parser, on_signals
from acto.cli.progress import counted
from acto.compare.collect import collect
from acto.compare.finished_runs import Found, read_records
from acto.compare.sweep_jobs import Block, jobs_of, parse_methods, parse_noise, read_study
from acto.compare.sweep_launchers import (
    Item,
    Launcher,
    LocalLauncher,
    Place,
    SlurmLauncher,
    last_words,
    prepare,
    state_of,
)
from acto.compare.sweep_view import View, facts, plan_lines, result_lines
from acto.core.errors import UserError, check_range
from acto.core.files import FolderLock, RunError, disk_errors
from acto.run_folder.writing import RunRecord, read_run

POLL_SECONDS = 0.2
WITH_VALUE = ("--methods", "--data", "--noises", "--seeds", "--jobs", "--out", "--collect")
SWITCHES = ("--slurm", "--dry-run", "--json")
HINTS = {"--method": "--methods", "--seed": "--seeds", "--noise": "--noises", "--noise-rate": "--noises"}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
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


# The command line.


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


# Running.


def run_all(items: Sequence[Item], launcher: Launcher, *, limit: int, view: View) -> int:
    """Do what is left to do of `items`, `limit` at a time; returns the number of a signal that stopped it, or 0.

    A failed run does not stop the others. After a signal the running ones are told to stop, and waited for.
    """
    for item in items:
        if item.outcome == "waiting":
            _look(item)
    waiting = [item for item in items if item.outcome == "waiting"]
    running: list[Item] = []
    view.begin()
    with _signals() as stopped:
        while (waiting and not stopped) or running:
            while waiting and len(running) < limit and not stopped:
                item = waiting.pop(0)
                if _start(item, launcher):
                    running.append(item)
                else:
                    view.tell(item)
            if stopped:
                for item in running:
                    if item.outcome == "running" and item.handle is not None:
                        item.handle.stop()
                        item.outcome = "stopped"
            for item in [item for item in running if _ended(item)]:
                running.remove(item)
                view.tell(item)
            view.refresh()
            if running:
                time.sleep(POLL_SECONDS)
    return stopped[0] if stopped else 0


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that the numbers of arriving signals are put into."""
    arrived: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        arrived.append(signum)

    with on_signals(SIGNALS, note):
        yield arrived


def _look(item: Item) -> None:
    """Take in a run that is finished."""
    state, record = state_of(item.place.folder)
    if state == "finished" and record is not None:
        item.before = True
        _take(item, record)


def _take_collected(items: Sequence[Item], collected: Found) -> None:
    """Take in runs of which only the collected record is left, from another day or another machine."""
    records = {record.path.name: record for record in collected.records}
    for item in items:
        record = records.get(item.place.name)
        if record is not None:
            item.outcome, item.before = "finished", True
            item.accuracy, item.seconds = record.accuracy, record.seconds


def _take(item: Item, record: RunRecord) -> None:
    item.outcome = "finished"
    item.accuracy = (record.summary or {}).get("test_accuracy_last10")
    item.seconds = math.fsum(
        float(row[name] or 0) for row in record.timing for name in ("train_seconds", "eval_seconds")
    )


def _start(item: Item, launcher: Launcher) -> bool:
    """Start an item's run; False if another process has it, has done it, or it cannot be started."""
    try:
        item.claim = FolderLock(item.place.claim)
    except UserError:
        item.outcome = "in use"
        return False
    try:
        state, record = state_of(item.place.folder)
        if state == "finished" and record is not None:
            _take(item, record)
        elif state == "in use":
            item.outcome = "in use"
        elif state == "foreign":
            item.outcome, item.error = "failed", f"{item.place.folder} is not empty and holds no run"
        else:
            prepare(item.job, item.place)
            item.log_start = item.place.log.stat().st_size if item.place.log.exists() else 0
            item.handle, item.started = launcher.start(item.job, item.place), time.monotonic()
            item.outcome = "running"
            return True
    except (RunError, OSError) as error:
        item.outcome, item.error = "failed", str(error)
    item.claim.release()
    return False


def _ended(item: Item) -> bool:
    """Whether a run has ended; then its outcome is in the item."""
    assert item.handle is not None and item.claim is not None
    code = item.handle.poll()
    if code is None:
        return False
    with contextlib.suppress(RunError, UserError):
        record = read_run(item.place.folder)
        if code == 0 and record.summary is not None:
            _take(item, record)
            item.wall = time.monotonic() - item.started if len(record.sessions) == 1 else None
    if item.outcome == "running":
        item.outcome = "failed"
        item.error = last_words(item.place.log, start=item.log_start, exit_code=code)
    item.claim.release()
    return True
