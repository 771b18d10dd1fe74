"""Forms of ACTO and its rivals on development problems, by the GIVEN labels of samples that are held out.

    python benchmarks/acto_forms.py --problems digits fashion --noises clean symmetric:0.8 --out forms.jsonl
        --form 'published: form=published' --form 'unmixed: form=steady, mixing=0' --method disc promix
    python benchmarks/acto_forms.py --table forms.jsonl

A form is a name and, behind a colon, settings of ACTO as `acto train` has them: bare ones are ACTO's own (or epochs,
lr, batch-size and the like), others have their section (protocol.plans.net1.lr=0.02). What it leaves open comes from
the problem's recipe. Problems and noises: benchmarks/development.py. True labels choose no form, so nothing of them is
printed but with --show-truth. By the given labels a perfect model reaches the share of them that is right.

Forms that differ only in what begins after the warm-up go on from one warm-up, which is kept in memory, and end where
they would have ended alone. Records are appended to --out, a line each; what is there is not trained again, so the same
command goes on where it was stopped, and several may share a file. Accuracy is the mean over three of the last ten
epochs, as far as there are so many. Seconds are those of training alone; a shared warm-up counts in each of its forms.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
import torch

from acto.cli.exit_codes import guarded
from acto.core.errors import RunError, UserError, check_range, choose
from acto.core.files import append, disk_errors
from acto.core.locks import FolderLock
from acto.core.settings import flatten, merged, nested, plain
from acto.data.samples import Dataset, Raw
from acto.methods import METHODS
from acto.methods.acto import form_of
from acto.run_folder.git_commit import git_commit
from acto.runs.prepare import Prepared, explained, prepare
from acto.runs.resolve import SHORT, checked, known_fields, run_of, section
from acto.runs.run import Run
from acto.runs.sample_table import label_quality
from acto.training import evaluation
from acto.training.loop import run_epochs
from development import Noise, Places, Problem, problem

LOOKS = (9, 5, 1)
"""Places from the end of the epochs after which the held-out samples are looked at; 1: the last."""
AFTER_WARM_UP = {
    "alignment",
    "confidence",
    "consistency",
    "consistency_weight",
    "memory_momentum",
    "min_share",
    "mining",
    "reweighting",
    "selected_weight",
    "selection",
    "tau",
}
"""Settings of ACTO of which its warm-up knows nothing."""
KEYS = ("form", "problem", "noise", "seed", "run", "given", "truth", "seconds")
"""Entries that every record has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A form under its name."""

    name: str
    method: str
    settings: Mapping[str, Any]
    """Dotted keys of `acto train`, of their types; only what was given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A training."""

    candidate: Candidate
    problem: Problem
    noise: Noise
    noise_name: str
    seed: int
    run: Run

    @property
    def cell(self) -> tuple[str, str, str]:
        """Its place in the table."""
        return self.candidate.name, self.problem.name, self.noise_name

    def facts(self) -> dict[str, Any]:
        """All that decides the result beside data and seed, by dotted keys."""
        values = plain(self.run.to_dict())
        if self.run.method == "acto":
            values["acto"] |= asdict(form_of(self.run.config))
        own = ("method", "net", "weights", "assumed_noise_rate", "protocol", section(self.run.method))
        return flatten({key: values[key] for key in own})

    def warm_up(self) -> str:
        """A text that is the same for trainings whose warm-up is the same; empty: it has none that could be shared."""
        epochs = getattr(self.run.config, "warmup_epochs", 0)
        if self.run.method != "acto" or not epochs:
            return ""
        facts = {
            key: value
            for key, value in self.facts().items()
            if key.removeprefix("acto.") not in {"form", *AFTER_WARM_UP}
            and not key.startswith(("protocol.epochs", "protocol.plan"))
        }
        if facts["acto.judge"] == "student":
            del facts["acto.average_epochs"]
        protocol = self.run.protocol
        rates = [[protocol.at(group, epoch) for group in ("net0", "net1")] for epoch in range(epochs)]
        return json.dumps([facts, rates], sort_keys=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmUp:
    """A training at the end of its warm-up."""

    form: str
    """Form that trained it."""
    state: dict[str, Any]
    seconds: list[float]
    """A value an epoch."""
    looks: list[dict[str, tuple[float, float | None]]]
    """See `look`."""


# Forms and jobs -------------------------------------------------------------------------------------------------


def candidate(text: str, *, method: str) -> Candidate:
    """The form that a text such as `steady, no mixing: form=steady, mixing=0` stands for.

    Raises:
        UserError: no name, or a setting that `method` or a form does not have.
    """
    name, _, rest = (part.strip() for part in text.partition(":"))
    if not name:
        raise UserError(f"form {text!r} has no name: write 'name: key=value, key=value'")
    where, own, known = f"form {name!r}: ", section(method), known_fields(METHODS[method])
    settings: dict[str, str] = {}
    # A comma stands between two settings where another one follows; a schedule has commas of its own.
    for part in re.split(r",\s*(?=[A-Za-z_][\w.-]*\s*=)", rest) if rest else ():
        short, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value:
            raise UserError(f"{where}{part!r} is not of the form key=value")
        key = f"{own}.{short}"
        if key not in known and f"--{short}" in SHORT:
            key = SHORT[f"--{short}"].removeprefix("--")
        elif key not in known and ("." in short or short in known):
            key = short
        if key in known and not key.startswith((f"{own}.", "protocol.")) and key not in ("net", "weights"):
            raise UserError(f"{where}{short} is not a form's to set, but a flag's: see --help")
        if key in settings:
            raise UserError(f"{where}{short} is given twice")
        settings[key] = value
    return Candidate(name=name, method=method, settings=flatten(checked(settings, method=method, where=where)))


def candidates(forms: Sequence[str], rivals: Sequence[str]) -> list[Candidate]:
    """All forms, each name once."""
    found = [candidate(text, method="acto") for text in forms]
    for text in rivals:
        found.append(candidate(text, method=choose("method", text.partition(":")[0].strip(), METHODS)))
    names = [form.name for form in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two forms have the name {twice[0]!r}")
    if not found:
        raise UserError("there is nothing to train: give --form or --method")
    return found


def jobs(args: argparse.Namespace, raws: dict[tuple[str, bool], Raw], places: Places) -> Iterator[Job]:
    """All trainings that are asked for; those that can share a warm-up stand together. Fills `raws` with their data."""
    forms = candidates(args.form, args.method)
    problems = [(name, problem(name)) for name in dict.fromkeys(args.problems)]
    noises = list(dict.fromkeys(map(Noise.parsed, args.noises)))
    if not problems or not noises:
        raise UserError("there is nothing to train on: give --problems and --noises")
    given = any(noise.kind == "given" for noise in noises)
    if given and not all(name.startswith("features:") for name, _ in problems):
        raise UserError("noise given is for problems features:FILE.npz")
    if places.label_key is not None and not given:
        raise UserError(f"--label-key {places.label_key} is for --noises given")
    for seed in args.seeds:
        check_range("seed", seed, low=0, high=2**31)
    for name, which in problems:
        for noise in noises:
            is_given = noise.kind == "given"
            if (name, is_given) not in raws:
                raws[name, is_given] = which.read(places, is_given)
            labels = raws[name, is_given].train.labels
            size = len(which.rows(labels, seed=0, given=is_given)[0])
            label = f"given:{places.label_key}" if is_given and places.label_key else str(noise)
            for seed in dict.fromkeys(args.seeds):
                for form in forms:
                    over = {"protocol.epochs": args.epochs} if args.epochs is not None else {}
                    own = {"precision": args.precision, "step": args.step}
                    settings = {
                        "data": {"source": name, "noise": asdict(noise.spec(seed))},
                        "method": form.method,
                        "seed": seed,
                        "device": args.device,
                    } | {key: value for key, value in own.items() if value is not None}
                    run = run_of(merged(settings, nested(over | dict(form.settings))), which.setting_for(size))
                    yield Job(candidate=form, problem=which, noise=noise, noise_name=label, seed=seed, run=run)


# Training -------------------------------------------------------------------------------------------------------


def measure(job: Job, dataset: Dataset, *, warm_ups: dict[str, WarmUp], keep: bool) -> dict[str, Any]:
    """Train, and return the record.

    Args:
        job: the training.
        dataset: its data.
        warm_ups: those that are there by Job.warm_up().
        keep: put the own one there for others.

    Raises:
        RunError: the training fails.
    """
    run, key = job.run, job.warm_up()
    prepared, seconds, looks = prepare(run, dataset=dataset), list[float](), list[dict[str, Any]]()
    warmup, metrics, device = getattr(run.config, "warmup_epochs", 0), dict[str, float](), prepared.training.device
    before = warm_ups.get(key)
    try:
        if before is not None:
            go_on_from(before.state, prepared)
            seconds, looks = [*before.seconds], [*before.looks]
        with explained(run, prepared):
            for log in run_epochs(prepared.training, prepared.train_data, seed=run.seed):
                seconds.append(log.seconds)
                metrics = log.metrics
                if run.protocol.epochs - log.epoch in LOOKS:
                    looks.append(look(prepared))
                if keep and log.epoch + 1 == warmup and before is None:
                    state = deepcopy(prepared.training.state_dict())
                    form = job.candidate.name
                    warm_ups[key] = WarmUp(form=form, state=state, seconds=[*seconds], looks=[*looks])
        quality = label_quality(prepared.training)
    finally:
        prepared.close()
    clean, known = dataset.train.is_clean, dataset.train.is_known
    truth: dict[str, Any] = {}
    if clean is not None and known is not None:
        found = evaluation.auroc(quality[known], clean[known])
        truth = {"auroc": None if np.isnan(found) else round(found, 4), **means(looks, 1)}
    return {
        "form": job.candidate.name,
        "problem": job.problem.name,
        "noise": job.noise_name,
        "seed": job.seed,
        "given": means(looks, 0),
        "truth": truth,
        "seconds": round(sum(seconds), 2),
        "epoch_seconds": [round(median(part), 3) if part else None for part in (seconds[:warmup], seconds[warmup:])],
        "warm_up_of": None if before is None else before.form,
        "last": {name: round(value, 5) for name, value in metrics.items() if name.startswith(("fit_", "mining_"))},
        "labels_sha256": dataset.noise["sha256"],
        "run": job.facts(),
        "machine": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
            "precision": str(prepared.training.precision).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            **(git_commit(Path(__file__).parent) or {}),
        },
    }


def go_on_from(state: Mapping[str, Any], prepared: Prepared) -> None:
    """Put a copy of the end of a warm-up into a training; what only the latter has is as at its start."""
    own = prepared.training.state_dict()["method"]
    taken = {name: value for name, value in state["method"].items() if name in own}
    # Optimizers go on in the tensors that they are given.
    prepared.training.load_state_dict(deepcopy({**state, "method": own | taken}))


def look(prepared: Prepared) -> dict[str, tuple[float, float | None]]:
    """Accuracy of each prediction in percent on the held-out samples, the headline first.

    By the given labels; and by the true ones, as far as they are known.
    """
    samples, parts = prepared.dataset.test, dict[str, list[torch.Tensor]]()
    for _, probs_by_name in evaluation.predictions(prepared.training, prepared.test_data):
        for name, probs in probs_by_name.items():
            parts.setdefault(name, []).append(probs.argmax(1).cpu())
    found: dict[str, tuple[float, float | None]] = {}
    for name, part in parts.items():
        predicted, true = torch.cat(part).numpy(), None
        if samples.true_labels is not None and samples.is_known is not None and samples.is_known.any():
            true = 100 * float(np.mean((predicted == samples.true_labels)[samples.is_known]))
        found[name] = 100 * float(np.mean(predicted == samples.labels)), true
    return found


def means(looks: Sequence[Mapping[str, tuple[float, float | None]]], place: int) -> dict[str, float]:
    """Mean over the looks, by the prediction's name; nothing of what is not known."""
    values = {name: [each[name][place] for each in looks] for name in (looks[-1] if looks else ())}
    known = {name: [value for value in found if value is not None] for name, found in values.items()}
    return {name: round(fmean(found), 3) for name, found in known.items() if found}


# Records --------------------------------------------------------------------------------------------------------


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read the records, in their order; a last line that was cut short is none.

    Raises:
        UserError: the file is not one of these.
    """
    if not path.exists():
        return []
    if not path.is_file():
        raise UserError(f"{path} is no file of records")
    *lines, _ = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or not set(KEYS) <= set(record) or not record["given"]:
            raise UserError(f"{path} line {number} is no record of this script")
        records.append(record)
    return records


def add_record(path: Path, record: Mapping[str, Any]) -> None:
    """Append a record, unless another process has been faster.

    Raises:
        RunError: the disk refuses.
    """
    lock = FolderLock(path.with_name(f".{path.name}.lock"), on_wait=lambda: None)
    try:
        if not is_done(record["form"], record["problem"], record["noise"], record["seed"], read_records(path)):
            with disk_errors(f"write {path}"):
                if path.exists() and not (content := path.read_bytes()).endswith(b"\n"):
                    os.truncate(path, content.rfind(b"\n") + 1)
                append(path, f"{json.dumps(record, allow_nan=False)}\n".encode())
    finally:
        lock.release()


def is_done(form: str, of: str, noise: str, seed: int, records: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether such a record is there."""
    wanted = (form, of, noise, seed)
    return any((r["form"], r["problem"], r["noise"], r["seed"]) == wanted for r in records)


def refuse_other_settings(job: Job, records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Refuse a form whose name stands for something else in a cell of the records.

    Raises:
        UserError: with the settings that differ.
    """
    now = job.facts()
    for record in records:
        if (record["form"], record["problem"], record["noise"]) != job.cell or record["run"] == now:
            continue
        before = record["run"]
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        said = "; ".join(f"{key} was {before.get(key)}, now {now.get(key)}" for key in keys)
        form, name, noise = job.cell
        raise UserError(f"{path} has form {form!r} on {name} {noise} with other settings ({said}): name this one anew")


def table(records: Sequence[Mapping[str, Any]], *, show_truth: bool = False) -> str:
    """Lines of forms, for each problem a block with a column a noise."""
    blocks = []
    for of in dict.fromkeys(record["problem"] for record in records):
        rows = [record for record in records if record["problem"] == of]
        noises = list(dict.fromkeys(record["noise"] for record in rows))
        lines = [[of, *noises]]
        for form in dict.fromkeys(record["form"] for record in rows):
            cells = [[r for r in rows if (r["form"], r["noise"]) == (form, noise)] for noise in noises]
            lines.append([form, *(cell(group, show_truth=show_truth) for group in cells)])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines]
        blocks.append("\n".join("  ".join(line).rstrip() for line in padded))
    return "\n\n".join(blocks)


def cell(records: Sequence[Mapping[str, Any]], *, show_truth: bool = False) -> str:
    """Text of some records that differ in the seed alone: mean and spread in percent, their number, seconds of one."""
    if not records:
        return "-"
    headline = next(iter(records[0]["given"]))
    text = f"{spread([r['given'][headline] for r in records])} n{len(records)}"
    text += f" {fmean(r['seconds'] for r in records):.0f} s"
    if show_truth and all(headline in r["truth"] for r in records):
        text += f" (true {spread([r['truth'][headline] for r in records])}"
        found = [r["truth"]["auroc"] for r in records if r["truth"]["auroc"] is not None]
        text += f", AUROC {fmean(found):.4f})" if found else ")"
    return text


def spread(values: Sequence[float]) -> str:
    """Mean, and deviation where there are several."""
    return f"{fmean(values):.2f}" + (f" +- {stdev(values):.2f}" if len(values) > 1 else "")


# The command ----------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is asked for and not there, or print a table; return the exit code."""
    parser = argparse.ArgumentParser(description="forms of ACTO on development problems, by held-out given labels")
    parser.add_argument("--problems", nargs="+", default=[], metavar="PROBLEM", help="see benchmarks/development.py")
    parser.add_argument("--noises", nargs="+", default=[], metavar="NOISE", help="clean, given, or KIND:RATE")
    parser.add_argument("--form", action="append", default=[], help="'name' or 'name: key=value, key=value'")
    parser.add_argument("--method", nargs="+", action="extend", default=[], help="rivals by name")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="where a form sets none; default: the recipe's")
    parser.add_argument("--out", type=Path, metavar="FILE", help="file of the records, JSON lines")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of these records, no more")
    parser.add_argument("--show-truth", action="store_true", help="print what the true labels say too")
    parser.add_argument("--data-root")
    parser.add_argument("--mnist", type=Path, metavar="DIR", help="folder of MNIST's idx files")
    parser.add_argument("--label-key", metavar="NAME", help="array of a file of features with the given labels")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", help="default: the recipe's")
    parser.add_argument("--step", help="as in acto train")
    parser.add_argument("--threads", type=int, help="of the processor; default: as torch has it")
    return guarded(lambda: _run(parser.parse_args(argv)))


def _run(args: argparse.Namespace) -> int:
    if args.table is not None:
        if not (records := read_records(args.table)):
            raise UserError(f"{args.table} has no records")
        print(table(records, show_truth=args.show_truth))
        return 0
    if args.out is None:
        raise UserError("give --out FILE, where records are kept, or --table FILE")
    if args.threads is not None:
        check_range("threads", args.threads, low=1)
        torch.set_num_threads(args.threads)
    raws: dict[tuple[str, bool], Raw] = {}
    places = Places(data_root=args.data_root, mnist=args.mnist, label_key=args.label_key)
    queue, records = list(jobs(args, raws, places)), read_records(args.out)
    for job in queue:
        refuse_other_settings(job, records, args.out)
    with disk_errors(f"make {args.out.parent}"):
        args.out.parent.mkdir(parents=True, exist_ok=True)
    failed = 0
    for (name, noise, seed), group in groupby(queue, key=lambda job: (job.run.data.source, job.noise, job.seed)):
        records = read_records(args.out)  # another process may have added some
        waiting = [job for job in group if not is_done(*job.cell, job.seed, records)]
        if not waiting:
            continue
        raw = raws[name, noise.kind == "given"]
        dataset = waiting[0].problem.draw(raw, noise, seed=seed)
        warm_ups: dict[str, WarmUp] = {}
        for place, job in enumerate(waiting, start=1):
            shared = job.warm_up()
            keep = bool(shared) and any(other.warm_up() == shared for other in waiting[place:])
            try:
                record = measure(job, dataset, warm_ups=warm_ups, keep=keep)
            except RunError as error:
                failed += 1
                print(f"{' '.join(job.cell)} seed {seed}: failed: {error}", file=sys.stderr, flush=True)
                continue
            add_record(args.out, record)
            print(progress(record), flush=True)
            if not keep:
                warm_ups.pop(shared, None)
    print(table(read_records(args.out), show_truth=args.show_truth))
    return 1 if failed else 0


def progress(record: Mapping[str, Any]) -> str:
    """One line for a record that is new."""
    given = ", ".join(f"{name} {value:.2f} %" for name, value in record["given"].items())
    parts = zip(("in the warm-up", "after it"), record["epoch_seconds"], strict=True)
    epochs = ", ".join(f"{seconds:.2f} s an epoch {when}" for when, seconds in parts if seconds is not None)
    lent = f" (warm-up of {record['warm_up_of']})" if record["warm_up_of"] else ""
    where = f"{record['problem']} {record['noise']} seed {record['seed']}"
    return f"{where}  {record['form']}{lent}: held out {given}; {epochs}"


if __name__ == "__main__":
    sys.exit(main())
