"""Full-size jobs for a GPU machine that is at hand for a while, in the order of their worth.

    python benchmarks/gpu_queue.py [--seconds 480] [--data-root DIR] [--out DIR] [--jobs 'acto-*'] [--list] [--tiny]
    python benchmarks/gpu_queue.py pack --data DIR --out carry/

The first form runs as many jobs as fit into the seconds, and leaves a record of each under `--out`. Called again, on
this machine or on another one that has those records, it goes on where it stopped. A job is done once its record says
so, for the settings that it has now. A training that was cut short goes on from its run's folder (under `--runs`) where
that is still there, and begins anew elsewhere. Jobs that failed come last. `--tiny` tries all of it on a processor.
Expected seconds are for one H100, start-up and compiling included: from measured times of the tests and of ACTO's
epochs, for other methods times their passes (src/acto/compare/published/passes.csv).

The second form writes CIFAR-100 from its Parquet copy as lossless WebP in two parts of at most 60 MB. Parts (part1,
part2) under the data root are put together there. Without all of the data trainings are skipped; the rest needs none.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EPOCHS, PART_BYTES, GRACE_SECONDS, TAIL_LINES = 150, 60_000_000, 20.0, 30
"""Of a training; at most in a part of the data; for a job whose time is up, to end in order; kept of a failed job."""
KEPT_FILES = ("config.yaml", "summary.json", "metrics.csv", "timing.csv", "labels.json")
KEPT_FACTS = ("started", "python", "processors", "threads", "step", "device", "versions", "git")  # of env.json
TRAIN, TINY = ("-m", "acto.cli", "train", "--no-report"), "--epochs 2 --subset 200 --batch-size 64 --net cnn_tiny"


class Refused(ValueError):
    """Something given that cannot be used: it names the thing and the choices."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """A way to train: its name in words, method, seconds of one training, and more flags of `acto train`."""

    name: str
    method: str
    seconds: float
    flags: tuple[str, ...] = ()


# The best form of ACTO that there is, under the name that its records shall have: another one changes this line.
OURS = Form(name="acto, steady", method="acto", seconds=240, flags=("--acto.form", "steady"))
PUBLISHED = Form(name="acto, published", method="acto", seconds=205)
SECONDS = {"sed": 190, "ca2c": 220, "promix": 760, "disc": 280, "elr": 115, "standard": 110}
RIVALS = tuple(Form(name=name, method=name, seconds=seconds) for name, seconds in SECONDS.items())
NOISES, SEEDS = (("symmetric", 0.8), ("asymmetric", 0.4), ("symmetric", 0.2)), (0, 1, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Python's arguments, run from the project's root, and the seconds expected; trainings have a form and a seed."""

    name: str
    arguments: tuple[str, ...]
    expected: float
    form: str = ""
    seed: int | None = None

    @property
    def run(self) -> str:
        """Name of its run's folder, another one for other settings."""
        return f"{self.name}-{hashlib.sha256(' '.join(self.arguments).encode()).hexdigest()[:8]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Place of the work: folders of records, runs and data; device in words; commit; what runs a command; a clock."""

    out: Path
    runs: Path
    data_root: Path | None
    device: str
    commit: str
    execute: Callable[..., int | None]
    clock: Callable[[], float] = time.monotonic


def jobs(*, tiny: bool = False) -> tuple[Job, ...]:
    """All jobs, the most worth first; `tiny` ones for a processor."""
    # pytest-benchmark warns where processes share the tests, and warnings are errors here.
    tests = ["-m", "pytest", "-m", "gpu", "-p", "no:benchmark", "-n", "2" if tiny else "6"]
    marked = [path for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text("utf-8")]
    tests += sorted(str(path.relative_to(ROOT)) for path in marked)
    step = "--device cuda --step compiled --rounds 5 --steps 40 --workers 14 --threads 14"
    step = "--rounds 1 --steps 1 --workers 1 --threads 1" if tiny else step
    found = [
        Job(name="gpu-tests", arguments=tuple(tests), expected=80),
        Job(name="bench", arguments=("-m", "acto.cli", "bench", *(["--quick"] if tiny else [])), expected=120),
        Job(name="step", arguments=("benchmarks/step.py", *step.split()), expected=90),
    ]
    for seed in SEEDS:
        cells = [(OURS, data, *noise) for data in ("cifar100nc", "cifar80no") for noise in NOISES]
        cells += [(PUBLISHED, "cifar80no", *noise) for noise in NOISES[:2]]
        cells += [(form, "cifar100nc", *noise) for form in RIVALS for noise in NOISES]
        for form, data, kind, rate in cells:
            name = f"{re.sub(r'[^a-z0-9_.]+', '-', form.name.lower())}-{data}-{kind}{rate}-s{seed}"
            task = f"--data {data} --method {form.method} --noise {kind} --noise-rate {rate} --seed {seed}"
            flags = (*task.split(), *form.flags, *(TINY if tiny else "--step compiled").split())
            expected = 20 if tiny else form.seconds
            found.append(Job(name=name, arguments=(*TRAIN, *flags), expected=expected, form=form.name, seed=seed))
    return tuple(found)


def work_off(queue: Sequence[Job], place: Place, *, seconds: float) -> bool:
    """Run what is not done and fits into `seconds`, print how all jobs stand, and return whether none failed now."""
    end, lacks = place.clock() + seconds, missing(place.data_root)
    unrun, ran = {}, {}
    states = {job.name: (read_record(job, place.out) or {"state": ""})["state"] for job in queue}
    for job in sorted(queue, key=lambda job: states[job.name] == "failed"):
        left, needed = end - place.clock(), _seconds_needed(job, place.runs)
        if states[job.name] == "done":
            continue
        if job.form and lacks:
            unrun[job.name] = f"skipped: {lacks}"
        elif needed > left:
            unrun[job.name] = "no time left"
        else:
            print(f"{job.name}, about {needed:.0f} s:", end=" ", flush=True)
            ran[job.name] = carry_out(job, place, seconds=left)
            print(ran[job.name], flush=True)
    print(table(queue, place.out, unrun=unrun))
    return "failed" not in ran.values()


def carry_out(job: Job, place: Place, *, seconds: float) -> str:
    """Run a job for at most `seconds`, keep its record, and return its state: done, failed or stopped."""
    run, log, folder = place.runs / job.run, place.runs / f"{job.run}.log", place.out / job.name
    place.runs.mkdir(parents=True, exist_ok=True)
    before = read_record(job, place.out) or {"state": "", "sessions": []}
    arguments = [*job.arguments, *(["--out", str(run), "--overwrite"] if job.form else [])]
    if job.form and (run / "config.yaml").is_file() and before["state"] != "failed":
        arguments = [*TRAIN, "--resume", str(run)]
    begun = place.clock()
    code = place.execute(arguments, log, seconds=seconds)
    took = round(place.clock() - begun, 1)
    lines = [_scrubbed(line.rstrip(), place) for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    session = {"date": time.strftime("%F"), "device": place.device, "commit": place.commit, "seconds": took}
    sessions = [*(before["sessions"] if before["state"] == "stopped" else []), session]
    record: dict[str, Any] = asdict(job) | {"sessions": sessions, "headline": ""}
    whole = not job.form or all((run / name).is_file() for name in (*KEPT_FILES, "env.json"))
    record["state"] = "stopped" if code is None else "done" if code == 0 and whole else "failed"
    record["seconds"] = round(sum(session["seconds"] for session in sessions), 1)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if record["state"] != "done":
        record |= {"exit_code": code, "tail": lines[-TAIL_LINES:]}
    elif job.form:
        for name in KEPT_FILES:
            (folder / name).write_text(_scrubbed((run / name).read_text("utf-8"), place), "utf-8")
        facts = json.loads((run / "env.json").read_text("utf-8"))["sessions"]
        facts = [{key: fact.get(key) for key in KEPT_FACTS} | {"platform": platform.system()} for fact in facts]
        (folder / "env.json").write_text(_scrubbed(json.dumps({"sessions": facts}, indent=1), place) + "\n", "utf-8")
        accuracy = json.loads((run / "summary.json").read_text("utf-8"))["test_accuracy_last10"]
        record["headline"] = f"{100 * accuracy:.2f} %"
    else:
        (folder / "output.txt").write_text("".join(f"{line}\n" for line in lines), "utf-8")
        record["headline"] = lines[-1] if lines else ""
    # Last, so that a record that says "done" is whole.
    (folder / "job.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    return str(record["state"])


def _scrubbed(text: str, place: Place) -> str:
    """Text without this machine's folders and name."""
    for path, instead in ((place.data_root, "DATA"), (place.runs, "RUNS"), (ROOT, "."), (Path.home(), "~")):
        text = text.replace(str(path), instead) if path is not None and path != Path("/") else text
    return re.sub(rf"\b{re.escape(platform.node() or 'HOST')}\b", "HOST", text)


def _seconds_needed(job: Job, runs: Path) -> float:
    """Seconds that a job still takes: a training that was cut short needs the epochs that are left."""
    rows = runs / job.run / "metrics.csv"
    lines = len(rows.read_text("utf-8").splitlines()) if rows.is_file() else 0
    return job.expected * (1 - min(max(lines - 1, 0) / EPOCHS, 1))


def read_record(job: Job, out: Path) -> dict[str, Any] | None:
    """A job's record; None if there is none for the settings that it has now."""
    try:
        record: dict[str, Any] = json.loads((out / job.name / "job.json").read_text("utf-8"))
        return record if record["arguments"] == list(job.arguments) else None
    except (FileNotFoundError, ValueError, KeyError):  # none, or one whose writing was cut short
        return None


def table(queue: Sequence[Job], out: Path, *, unrun: Mapping[str, str]) -> str:
    """Lines of job, state, seconds (expected ones with a ~) and headline; `unrun` says why a job did not run."""
    rows = [("job", "state", "seconds", "headline")]
    for job in queue:
        record = read_record(job, out) or {"state": "", "seconds": 0, "headline": ""}
        state = ", ".join(filter(None, (record["state"], unrun.get(job.name)))) or "waiting"
        taken = f"{record['seconds']:.0f}" if record["state"] else f"~{job.expected:.0f}"
        rows.append((job.name, state, taken, record["headline"]))
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"{row[0]:{first}}  {row[1]:{second}}  {row[2]:>7}  {row[3]}".rstrip() for row in rows)


def execute(arguments: Sequence[str], log: Path, *, seconds: float, data_root: Path | None) -> int | None:
    """Run Python from the project's root for at most `seconds`; return the exit code, or None where time was up."""
    path = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
    # The data root is no flag: a run's settings shall name no folder of this machine.
    environment = os.environ | {"PYTHONPATH": path} | ({"ACTO_DATA_ROOT": str(data_root)} if data_root else {})
    with log.open("w", encoding="utf-8") as stream:
        start = partial(subprocess.Popen[bytes], cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT)
        with start([sys.executable, *arguments]) as process:
            try:
                return process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)  # a training keeps its last checkpoint
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
            process.kill()
            return None


def missing(data_root: Path | None) -> str:
    """Say what of CIFAR-100 is not under the data root, and put together the parts that are; empty: nothing."""
    if data_root is None:
        return "no data root"
    if any(any(data_root.glob(f"{depth}cifar-100-python*")) for depth in ("", "*/", "*/*/")):
        return ""  # the official archive
    folder = data_root / "cifar100"
    for path in sorted(data_root.glob("part*/cifar100/*")):
        folder.mkdir(exist_ok=True)
        if not (folder / path.name).exists():
            (folder / path.name).symlink_to(path.resolve())
    for split in ("train", "test"):
        files = list(folder.glob(f"{split}*.parquet"))
        if not files or len(files) != int(files[0].stem.partition("-of-")[2] or 1):
            return f"CIFAR-100's {split} split is not all there"
    return ""


def pack(source: Path, out: Path) -> int:
    """Write a Parquet copy of CIFAR-100 as two parts of lossless WebP with the same columns; return the exit code.

    Raises:
        Refused: no such copy, or a part of more than 60 MB.
    """
    import pyarrow.parquet

    splits = {}
    for split in ("train", "test"):
        files = sorted(source.glob(f"{split}*.parquet"))
        if not files:
            raise Refused(f"{source} has no {split}*.parquet: --data names the folder of CIFAR-100's Parquet copy")
        rows = pyarrow.concat_tables([pyarrow.parquet.read_table(path) for path in files])
        pictures = [row | {"bytes": as_webp(row["bytes"])} for row in rows["img"].to_pylist()]
        place, field = rows.schema.get_field_index("img"), rows.schema.field("img")
        splits[split] = rows.set_column(place, field, pyarrow.array(pictures, type=field.type))
    train, test = splits["train"], splits["test"]
    cut = min((len(train) + len(test)) // 2, len(train) - 1)
    second = {"train-00001-of-00002": train.slice(cut), "test-00000-of-00001": test}
    for number, part in enumerate(({"train-00000-of-00002": train.slice(0, cut)}, second), start=1):
        folder = out / f"part{number}" / "cifar100"
        folder.mkdir(parents=True, exist_ok=True)
        for names in source.glob("*_label_names.txt"):
            (folder / names.name).write_bytes(names.read_bytes())
        for name, rows in part.items():
            # Compressed pictures have no values in common that a dictionary could hold.
            pyarrow.parquet.write_table(rows, folder / f"{name}.parquet", compression="zstd", use_dictionary=False)
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{folder.parent}: {size / 1e6:.1f} MB")
        if size > PART_BYTES:
            raise Refused(f"{folder.parent} has {size} bytes, more than {PART_BYTES}")
    return 0


def as_webp(content: bytes) -> bytes:
    """A picture's file as lossless WebP, where that is smaller and has the same pixels; else as it is."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as picture:
        pixels = picture.convert("RGB")
    pixels.save(packed := io.BytesIO(), "WEBP", lossless=True, quality=100, method=3)  # more effort gains nothing
    with Image.open(packed) as again:
        same = again.convert("RGB").tobytes() == pixels.tobytes()
    return packed.getvalue() if same and len(packed.getvalue()) < len(content) else content


def main(argv: Sequence[str] | None = None) -> int:
    """Work the queue off, list it, or pack the data; return the exit code."""
    parser = argparse.ArgumentParser(description="full-size jobs for a GPU; `pack` writes CIFAR-100 in two parts")
    parser.add_argument("pack", nargs="?", choices=["pack"])
    parser.add_argument("--data", type=Path, help="pack: folder of CIFAR-100's Parquet copy")
    parser.add_argument("--seconds", type=float, default=1e9, help="run as many jobs as fit into these")
    parser.add_argument("--data-root", type=Path, default=os.environ.get("ACTO_DATA_ROOT"))
    parser.add_argument("--out", type=Path, help="folder of the records (default: results/gpu; pack: carry)")
    parser.add_argument("--runs", type=Path, help="folder of the runs (default: runs/gpu)")
    parser.add_argument("--jobs", default="*", metavar="PATTERN", help="names with * and ?; default: all")
    parser.add_argument("--commit", help="of the code, where git cannot tell")
    parser.add_argument("--list", action="store_true", help="show the jobs and their state, and run none")
    parser.add_argument("--tiny", action="store_true", help="tiny jobs for a processor, recorded in runs/gpu-tiny")
    args = parser.parse_args(argv)
    if bool(args.pack) != bool(args.data):
        parser.error("pack and --data DIR belong together")
    try:
        return pack(args.data, args.out or Path("carry")) if args.pack else _run(args)
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    runs = (args.runs or ROOT / "runs" / ("gpu-tiny" if args.tiny else "gpu")).resolve()
    out = (args.out or (runs / "records" if args.tiny else ROOT / "results" / "gpu")).resolve()
    everything = jobs(tiny=args.tiny)
    queue = [job for job in everything if fnmatchcase(job.name, args.jobs)]
    if not queue:
        raise Refused(f"no job is named {args.jobs!r}. Choices: {', '.join(job.name for job in everything)}")
    if args.list:
        print(table(queue, out, unrun={}))
        return 0
    root = None if args.data_root is None else args.data_root.resolve()
    if root is not None and not root.is_dir():
        raise Refused(f"data root {root} does not exist")
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"{platform.machine()} processor"
    if not args.tiny and not torch.cuda.is_available():
        raise Refused("there is no CUDA device, and the jobs are for one; --tiny tries them on a processor")
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    commit, run = args.commit or git.stdout.strip() or "unknown", partial(execute, data_root=root)
    place = Place(out=out, runs=runs, data_root=root, device=device, commit=commit, execute=run)
    return 0 if work_off(queue, place, seconds=args.seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
