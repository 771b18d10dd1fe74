"""The commands of ACTO's papers: main.py, main_web.py and main_food101n.py with the flags of the public scripts.

A data set brings the PAPER's settings (acto.runs.recipes.by_data), not the scripts' own defaults, which do not reach
the published numbers. Explicit flags win.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from acto.cli.exit_codes import guarded
from acto.cli.parser import Parser
from acto.cli.train import Launch, resume, start
from acto.core.device import available_devices
from acto.core.errors import UserError, choose
from acto.data.catalog import OF_THE_PAPER, SOURCES
from acto.data.noise import NoiseSpec
from acto.data.readers.place import DATA_ROOT_VARIABLE
from acto.data.samples import DataSpec
from acto.run_folder.reading import read_run
from acto.runs.recipes.by_data import SETTINGS, Setting
from acto.runs.recipes.recipe import recipe
from acto.runs.run import Run

DEFAULT_DATASETS = {"main.py": "cifar100nc", "main_web.py": "web-aircraft", "main_food101n.py": "food101n"}
METHOD_NAMES = {"ours": "acto", "standard": "standard"}
NETS = {"cnn": "cnn7", "resnet18": "resnet18", "resnet50": "resnet50"}
NOISE_TYPE, CLOSESET_RATIO, SEED = "symmetric", 0.2, 123
"""The scripts' defaults where the paper sets nothing. The seed never moves the noise."""

SETTING_FLAGS = {
    "batch_size": "batch_size",
    "weight_decay": "weight_decay",
    "opt": "optimizer",
    "lr": "lr",
    "lr_decay": "schedule",
    "warmup_lr": "warmup_lr",
    "lr1": "lr1",
    "tau": "tau",
    "form": "form",
}
"""Flags that take the place of one field of a Setting."""
COLLAPSES_FROM = 0.7
"""Symmetric noise at which the published form is warned of: at 0.8 it was seen to collapse, at 0.5 not."""
OLD_FLAGS = (
    "--gpu", "--seed", "--batch-size", "--lr", "--lr1", "--lr-decay", "--weight-decay", "--dataset", "--noise-type",
    "--closeset-ratio", "--tau", "--method", "--log", "--database", "--warmup-epochs", "--warmup-lr", "--epochs",
    "--opt", "--model", "--save-weights", "--ablation",
)  # fmt: skip
"""The public scripts' flags."""
NEW_FLAGS = (
    "--data-root", "--device", "--download", "--dry-run", "--form", "--out", "--overwrite", "--resume", "--weights",
    "--workers",
)  # fmt: skip
PLACES = {"gpu", "device", "workers", "data_root", "database", "log", "download", "dry_run", "overwrite", "resume"}
"""Flags that say where and how a run runs, not what it computes."""


def main(script: str, argv: Sequence[str] | None = None) -> int:
    """Run one of the papers' commands and return the exit code.

    Args:
        script: its file name, which decides the default data set.
        argv: its arguments; None: the process's.
    """
    tokens = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _run(script, tokens), lasting=not {"-h", "--help", "--dry-run", "--dry_run"} & set(tokens))


def _run(script: str, tokens: Sequence[str]) -> int:
    given = parse(script, tokens)
    if "resume" in given and not given.keys() - PLACES:
        run, notes = _placed(Run.from_dict(read_run(given["resume"]).config), given)
    else:
        run, notes = paper_run(given, dataset=DEFAULT_DATASETS[script])
    launch = Launch(
        out=given.get("log"),
        parent="runs/ablation" if given.get("ablation") else "runs",
        overwrite=given.get("overwrite", False),
        dry_run=given.get("dry_run", False),
        download=given.get("download", False),
        notes=notes,
    )
    return resume(given["resume"], run, launch) if "resume" in given else start(run, launch)


def paper_run(given: Mapping[str, Any], *, dataset: str) -> tuple[Run, tuple[str, ...]]:
    """The run that explicit flags ask for, and what the user should be told about it.

    Args:
        given: flags as `parse` returns them.
        dataset: trained on unless they name another.

    Raises:
        UserError: for a value that cannot be used.
    """
    dataset = choose("dataset", given.get("dataset", dataset), OF_THE_PAPER)
    method = METHOD_NAMES[choose("method", given.get("method", "ours"), METHOD_NAMES)]
    setting, notes = _setting(given, SETTINGS[dataset])
    noise = NoiseSpec()
    if not SOURCES[dataset].noisy:
        kind = choose("noise-type", given.get("noise_type", NOISE_TYPE), ("symmetric", "asymmetric"))
        noise = NoiseSpec(kind=kind, rate=given.get("closeset_ratio", CLOSESET_RATIO))
    unused = {"noise_type", "closeset_ratio"} if SOURCES[dataset].noisy else set()
    unused |= {"tau", "lr1", "form"} if method == "standard" else set()
    for name in sorted(unused & given.keys()):
        notes.append(f"--{name.replace('_', '-')} has no meaning for {method} on {dataset} and is not used")
    if given.get("save_weights") is False:
        notes.append("a run's folder always keeps its last weights, whatever --save-weights says")
    if method == "acto" and setting.form == "published" and noise.kind == "symmetric" and noise.rate >= COLLAPSES_FROM:
        notes.append(
            "ACTO as published is known to collapse with so many wrong labels (docs/benchmark.md): --form steady is "
            "made for them"
        )
    run = recipe(DataSpec(source=dataset, noise=noise), setting, method=method, seed=given.get("seed", SEED))
    run, more = _placed(run, given)
    return run, (*notes, *more)


def _setting(given: Mapping[str, Any], paper: Setting) -> tuple[Setting, list[str]]:
    """The paper's setting with the flags laid over it."""
    notes = []
    epochs, warmup = given.get("epochs", paper.epochs), given.get("warmup_epochs")
    if warmup is None:
        warmup = paper.warmup_epochs
        if warmup >= epochs:
            warmup = round(epochs * paper.warmup_epochs / paper.epochs)
            notes.append(
                f"the paper's warm-up of {paper.warmup_epochs} of {paper.epochs} epochs does not fit into {epochs}: "
                f"it is scaled to {warmup}; --warmup-epochs sets it"
            )
        elif epochs != paper.epochs:
            notes.append(f"the paper's warm-up of {warmup} epochs is kept; --warmup-epochs sets it")
    net, weights = paper.net, paper.weights
    if "model" in given:
        net = NETS[choose("model", given["model"].lower(), NETS)]
        weights = weights if net.startswith("resnet") else None
    if "weights" in given:
        weights = None if given["weights"] == "none" else given["weights"]
    setting = replace(
        paper,
        epochs=epochs,
        warmup_epochs=warmup,
        net=net,
        weights=os.path.abspath(weights) if weights and Path(weights).is_file() else weights,
        **{field: given[name] for name, field in SETTING_FLAGS.items() if name in given},
    )
    return setting, notes


def _placed(run: Run, given: Mapping[str, Any]) -> tuple[Run, tuple[str, ...]]:
    """The run with its device and its data's place."""
    notes = []
    device, root = given.get("device", run.device), given.get("data_root")
    if "gpu" in given and "device" not in given:
        device, *notes = _gpu(given["gpu"])
    if root is None and "database" in given:
        if Path(given["database"]).is_dir():
            root = given["database"]
        else:
            notes.append(f"there is no folder {given['database']}, and --database is not used")
    if root is None and not run.data.root and not os.environ.get(DATA_ROOT_VARIABLE):
        # The public scripts look for these folders where they are started.
        root = "." if "download" in given or any(Path(name).is_dir() for name in ("data", "Datasets")) else None
    if root is not None:
        root = os.path.abspath(Path(root).expanduser())
    data = replace(run.data, root=root or run.data.root)
    return replace(run, data=data, device=device, workers=given.get("workers", run.workers)), tuple(notes)


def _gpu(text: str) -> tuple[str, ...]:
    """The device that --gpu means, and what to say if it is another one."""
    number = text.partition(",")[0].strip()
    if not number.isdecimal():
        raise UserError(f"--gpu takes the number of a GPU, say 0, but got {text!r}; --device takes cpu, cuda:0, mps")
    devices = available_devices()
    if f"cuda:{int(number)}" in devices:
        return (f"cuda:{int(number)}",)
    return devices[0], f"this machine has no GPU {number}: {devices[0]} is used instead"


def parse(script: str, tokens: Sequence[str]) -> dict[str, Any]:
    """The flags that are given, by name with underscores. Unambiguous prefixes are accepted.

    Raises:
        UserError: for an unknown flag or a value of the wrong type.
        SystemExit: after --help.
    """
    return vars(_parser(script).given([_written_out(token) for token in tokens]))


def _written_out(token: str) -> str:
    """An abbreviated flag in full: first of the public scripts', so that what worked there works here."""
    name, equals, value = token.partition("=")
    if not name.startswith("--") or name in (*OLD_FLAGS, *NEW_FLAGS):
        return token
    for flags in (OLD_FLAGS, NEW_FLAGS):
        meant = [flag for flag in flags if flag.startswith(name)]
        if len(meant) > 1:
            raise UserError(f"ambiguous flag {name!r}: it could be {', '.join(meant)}")
        if meant:
            return f"{meant[0]}{equals}{value}"
    return token


def _parser(script: str) -> Parser:
    parser = Parser(
        script,
        "Train with the settings of ACTO's paper for a data set; flags change them one by one. The data are looked for "
        f"under --data-root, then ${DATA_ROOT_VARIABLE}, then the current folder, in the public code's folders too.",
    )

    def add(*flags: str, type: Any = str, text: str, metavar: str | None = None) -> None:
        parser.add_argument(*flags, type=type, help=text, metavar=metavar or flags[0][2:].upper().replace("-", "_"))

    paper = "the paper's"
    add("--dataset", text=f"{', '.join(OF_THE_PAPER)} (default: {DEFAULT_DATASETS[script]})", metavar="NAME")
    add("--noise-type", text=f"symmetric or asymmetric (default: {NOISE_TYPE})", metavar="KIND")
    add("--closeset-ratio", type=float, text=f"share of wrong labels (default: {CLOSESET_RATIO})", metavar="RATE")
    add("--method", text="ours or standard (default: ours)", metavar="NAME")
    add("--model", text="CNN, Resnet18 or Resnet50 (default: the paper's for the data set)", metavar="NAME")
    add("--weights", text="torchvision, none or a file (default: the paper's)", metavar="FILE")
    add("--epochs", type=int, text=f"in all (default: {paper})", metavar="N")
    add("--warmup-epochs", type=int, text=f"of them (default: {paper}, scaled if it does not fit)", metavar="N")
    add("--batch-size", type=int, text=f"samples a step (default: {paper})", metavar="N")
    add("--lr", type=float, text=f"learning rate of RTM after the warm-up (default: {paper})", metavar="RATE")
    add("--lr-decay", text=f"its schedule, say cosine:20,5e-4,100 (default: {paper})", metavar="PLAN")
    add("--warmup-lr", type=float, text=f"its rate in the warm-up (default: {paper})", metavar="RATE")
    add("--lr1", type=float, text=f"learning rate of NTM (default: {paper})", metavar="RATE")
    add("--weight-decay", type=float, text=f"default: {paper}", metavar="RATE")
    add("--opt", text=f"sgd or adam (default: {paper})", metavar="NAME")
    add("--tau", type=float, text=f"memorization threshold (default: {paper})")
    add("--form", text="published or steady, see `acto methods acto` (default: published)", metavar="NAME")
    add("--seed", type=int, text=f"of initialisation, order and views (default: {SEED})", metavar="N")
    add("--gpu", text="number of the GPU; another device is taken if the machine lacks it", metavar="N")
    add("--device", text="auto, cpu, cuda, cuda:N or mps (default: auto)", metavar="NAME")
    add("--workers", type=int, text="processes that decode pictures (default: 2)", metavar="N")
    add("--log", "--out", text="the run's folder (default: a new one under runs/)", metavar="DIR")
    add("--resume", text="go on with the run in this folder", metavar="DIR")
    add("--data-root", text="folder of the data sets", metavar="DIR")
    add("--database", text="the same, if it is there (unused in the public scripts)", metavar="DIR")
    add("--save-weights", type=_truth, text="true or false; the last weights are kept in any case", metavar="BOOL")
    add("--ablation", type=_truth, text="true: the run goes under runs/ablation/ (default: false)", metavar="BOOL")
    for flag, text in {
        "--overwrite": "delete what the run's folder holds",
        "--dry-run": "measure what the run will cost, and write nothing",
        "--download": "fetch CIFAR's official archive if it is missing",
    }.items():
        parser.add_argument(flag, action="store_true", help=text)
    return parser


def _truth(text: str) -> bool:
    values = {"true": True, "false": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return values[text.lower()]
