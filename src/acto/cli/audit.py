"""`acto audit`, and what `acto train` does at its end: the report on the labels, as files and in words."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from acto.cli.parser import Parser
from acto.core.errors import UserError
from acto.core.text import aligned, counted, percent, visible
from acto.data.decision_file import DECISIONS_FILE
from acto.data.readers.place import DATA_ROOT_VARIABLE
from acto.labels.belief import rule_in_words
from acto.labels.report import LabelReport
from acto.labels.run_audit import audit_others, audit_run, judged_samples, save, training_data
from acto.run_folder.reading import read_run

SHOWN = 5
_COLUMNS = {
    "--path-column": "path_column",
    "--label-column": "label_column",
    "--true-label-column": "true_label_column",
    "--base": "base",
}
"""Flags about a table, and the settings that they are."""


def audit(tokens: Sequence[str]) -> int:
    """`acto audit RUN [--data SOURCE]`: the report on a run's labels, or on labels that it never saw."""
    parser = Parser(
        "acto audit",
        "Rank a run's labels by how little they can be trusted and estimate the noise. With --data, those of other "
        "data: a validation set, tomorrow's batch. Writes label_report.csv, .json, .parquet and report.html.",
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder")
    parser.add_argument(
        "--data", metavar="SOURCE", help="what `acto train --data` takes; every labelled sample of it is looked at"
    )
    parser.add_argument("--data-root", metavar="DIR", help=f"instead of ${DATA_ROOT_VARIABLE}")
    for flag, field in _COLUMNS.items():
        parser.add_argument(flag, metavar="NAME", help=f"of a table: data.{field} (the run's)")
    parser.add_argument(
        "--out", metavar="DIR", help="where the report goes; without it RUN, and with --data a new folder in it"
    )
    parser.add_argument("--no-duplicates", action="store_true", help="do not look for samples that are nearly the same")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON on stdout")
    parser.add_argument(
        "--trust-net", action="store_true", help="the run's network is code outside of acto: allow it to run"
    )
    given = vars(parser.given(tokens))
    run = Path(given["run"])
    find_duplicates, trust = not given.get("no_duplicates", False), given.get("trust_net", False)
    record = read_run(run)
    named = {field: given[field] for field in _COLUMNS.values() if field in given}
    if named and "data" not in given:
        raise UserError(f"--{next(iter(named)).replace('_', '-')} is about other data: it goes with --data")
    if (source := given.get("data")) is not None:
        report, samples = audit_others(
            record,
            source,
            data_root=given.get("data_root"),
            columns=named,
            find_duplicates=find_duplicates,
            trust=trust,
        )
        folder = Path(given.get("out") or run / f"audit-{Path(source).stem}")
    else:
        dataset = training_data(record, data_root=given.get("data_root"))
        report = audit_run(run, dataset=dataset, find_duplicates=find_duplicates, trust=trust)
        samples = judged_samples(dataset, held_out="held_out" in report.columns)
        folder = Path(given.get("out") or run)
    save(report, record, samples, folder)
    if given.get("json"):
        print(json.dumps({**summary(report), "folder": str(folder)}))
    else:
        print("\n".join(report_lines(report, folder)))
    return 0


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
    yield from (visible(f"WARNING: {doubt.text}") for doubt in report.warnings)
    yield (
        f"{int(report.is_label_issue.sum()):,} of {len(report):,} labels look wrong; estimated rate "
        f"{percent(noise.rate)} ({percent(noise.rate_low)} to {percent(noise.rate_high)})"
    )
    if report.facts.get("confirmed"):
        yield f"{counted(report.facts['confirmed'], 'label')} confirmed by people: not suspected, and counted as right"
    if report.facts.get("state") not in ("finished", None):
        yield f"the run is {report.facts['state']}: this is what it knew after {report.facts.get('epochs', 0)} epochs"
    yield from (visible(line) for line in rule_in_words(report))
    if confused := noise.confusions(SHOWN):
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
        yield "look first at " + (", ".join(found) or "each with care: no suspect is likely enough to be wrong")
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
        yield f"{conflicts} samples are nearly the same as one with another label"
    yield f"report: {visible(str(folder / 'report.html'))} (and label_report.csv beside it)"
    if report.facts.get("source") == "run" and os.path.abspath(folder) == os.path.abspath(report.facts["folder"]):
        run, decisions = shlex.quote(str(folder)), shlex.quote(str(folder / DECISIONS_FILE))
        yield visible(f"next: acto review {run}, to go through them; then acto apply {decisions} --run {run}")
