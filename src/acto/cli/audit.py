"""`acto audit`, and what `acto train` does at its end: the report on the labels, as files and in words."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from acto.cli.audit_files import audit_files
from acto.cli.parser import Parser
from acto.core.errors import UserError, missing_package
from acto.core.text import aligned, counted, percent, visible
from acto.data.decision_file import DECISIONS_FILE
from acto.data.readers.place import DATA_ROOT_VARIABLE
from acto.labels.belief import rule_in_words
from acto.labels.report import NAME, LabelReport, read_report
from acto.labels.rules import RULES
from acto.labels.scores import SCORES
from acto.run_folder.reading import read_run

SHOWN = 5
_OF_FILES = ("labels", "pred_probs", "classes", "score", "rule")
_COLUMNS = {
    "--path-column": "path_column",
    "--label-column": "label_column",
    "--true-label-column": "true_label_column",
    "--base": "base",
}
"""Flags about a table, and the settings that they are."""


def audit(tokens: Sequence[str]) -> int:
    """`acto audit RUN [--data SOURCE]`, or `acto audit --labels FILE --pred-probs FILE`: the report on labels."""
    parser = Parser(
        "acto audit",
        "Rank a run's labels by how little they can be trusted and estimate the noise. With --data, those of other "
        "data: a validation set, tomorrow's batch. Without RUN, labels beside any model's probabilities: --labels and "
        "--pred-probs. Writes label_report.csv, .json, .parquet and report.html.",
    )
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run's folder")
    of_run = parser.add_argument_group("of a run")
    of_run.add_argument(
        "--data", metavar="SOURCE", help="what `acto train --data` takes; every labelled sample of it is looked at"
    )
    of_run.add_argument("--data-root", metavar="DIR", help=f"instead of ${DATA_ROOT_VARIABLE}")
    for flag, field in _COLUMNS.items():
        of_run.add_argument(flag, metavar="NAME", help=f"of a table: data.{field} (the run's)")
    of_run.add_argument("--no-duplicates", action="store_true", help="do not look for samples that are nearly the same")
    of_run.add_argument(
        "--trust-net", action="store_true", help="the run's network is code outside of acto: allow it to run"
    )
    of_files = parser.add_argument_group("of any model's probabilities; needs no PyTorch")
    of_files.add_argument(
        "--labels",
        metavar="FILE",
        help="labels as given: .npy, .npz, .csv, .tsv, .parquet, .txt; FILE:NAME for one of several arrays or columns",
    )
    of_files.add_argument(
        "--pred-probs",
        metavar="FILE",
        help="(N, K) probabilities: .npy, which stays on the disk, .npz, or a table with a column for each class, and "
        "perhaps one called id",
    )
    of_files.add_argument(
        "--classes", metavar="FILE", help="names in the order of the columns: .txt, one a line, .json, or A,B,..."
    )
    of_files.add_argument("--score", metavar="NAME", help=f"what ranks the labels: {', '.join(SCORES)}")
    of_files.add_argument("--rule", metavar="NAME", help=f"what is called wrong: {', '.join(RULES)}")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="where the report goes; without it RUN, with --data a new folder in it, with --labels one beside FILE",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON on stdout")
    given = vars(parser.given(tokens))
    files = [name for name in _OF_FILES if name in given]
    if files and "run" not in given:
        if others := [name for name in given if name not in (*_OF_FILES, "out", "json")]:
            raise UserError(f"--{others[0].replace('_', '-')} is about a run, and does not go with {_flags(files)}")
        report, folder = audit_files(given)
    elif "run" not in given:
        raise UserError("what is to be audited? A run's folder, or --labels FILE with --pred-probs FILE")
    elif files:
        raise UserError(f"{_flags(files)} and the run {given['run']}: give either a run, or labels and probabilities")
    else:
        report, folder = _of_run(given)
    if given.get("json"):
        print(json.dumps({**summary(report), "folder": str(folder)}))
    else:
        print("\n".join(report_lines(report, folder)))
    return 0


def _of_run(given: Mapping[str, Any]) -> tuple[LabelReport, Path]:
    """Audit a run; where PyTorch is missing, the report of before is all there is."""
    try:
        from acto.cli.audit_run import audit_of_run
    except ModuleNotFoundError as error:
        missing = missing_package(error, "acto audit RUN")
        folder = read_run(given["run"]).path
        if missing is None or {"data", "out"} & set(given) or not (folder / f"{NAME}.json").is_file():
            raise missing or error from error
        print(f"note: the report of before is shown, and not made anew: {missing}", file=sys.stderr)
        return read_report(folder), folder
    return audit_of_run(given, {field: given[field] for field in _COLUMNS.values() if field in given})


def _flags(names: Iterable[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def summary(report: LabelReport) -> dict[str, Any]:
    """The report in a few numbers."""
    noise = report.noise
    return {
        **report.facts,
        "num_samples": len(report),
        "num_label_issues": int(report.is_label_issue.sum()),
        "noise_rate": noise.rate,
        "noise_rate_low": noise.rate_low,
        "noise_rate_high": noise.rate_high,
        "look_first": dict(report.look_first),
        "warnings": [asdict(doubt) for doubt in report.warnings],
    }


def report_lines(report: LabelReport, folder: Path) -> Iterable[str]:
    """Format a report as lines for a terminal."""
    noise, names = report.noise, report.class_names
    if report.facts.get("source") == "pred_probs":
        yield from (visible(f"note: {note}") for note in report.facts.get("notes", ()))
    yield from (visible(f"WARNING: {doubt.text}") for doubt in report.warnings)
    yield (
        f"{int(report.is_label_issue.sum()):,} of {len(report):,} labels look wrong; estimated rate "
        f"{percent(noise.rate)} ({percent(noise.rate_low)} to {percent(noise.rate_high)})"
    )
    if report.facts.get("confirmed"):
        yield f"{counted(report.facts['confirmed'], 'label')} confirmed by people: not suspected, and counted as right"
    if report.facts.get("state") not in ("finished", None):
        epochs = counted(report.facts.get("epochs", 0), "epoch")
        yield f"the run is {report.facts['state']}: this is what it knew after {epochs}"
    yield from (visible(line) for line in rule_in_words(report))
    if confused := [pair for pair in noise.confusions(SHOWN) if pair[2] >= 0.5]:  # none is written as 0
        yield "most often:"
        yield from (
            f"  {line}"
            for line in aligned(
                (f"{count:.0f}", f"{names[right]!r}", f"labelled {names[given]!r}") for given, right, count in confused
            )
        )
    if report.look_first:
        found = [
            f"the first {count:,} ({100 * float(precision):.0f} % expected to be wrong)"
            for precision, count in report.look_first.items()
            if count
        ]
        none = "the least trusted: how many of them are wrong cannot be promised"
        yield "look first at " + (", ".join(found) or none)
    rows = report.rows([i for i in report.ranked()[:SHOWN] if report.is_label_issue[i]])
    if rows:
        yield "the first of them:"
        yield from (
            f"  {line}"
            for line in aligned(
                (
                    visible(row["id"]),
                    f"{row['given_label']!r}",
                    f"looks like {row['suggested_label']!r}",
                    percent(row["confidence"]),
                )
                for row in rows
            )
        )
    if conflicts := sum(map(bool, report.columns["conflicting_duplicates"])):
        yield f"{counted(conflicts, 'sample', then='is/are')} nearly the same as one with another label"
    yield f"report: {visible(str(folder / 'report.html'))} (and label_report.csv beside it)"
    if report.facts.get("source") == "run" and os.path.abspath(folder) == os.path.abspath(report.facts["folder"]):
        run, decisions = shlex.quote(str(folder)), shlex.quote(str(folder / DECISIONS_FILE))
        yield visible(f"next: acto review {run}, to go through them; then acto apply {decisions} --run {run}")
