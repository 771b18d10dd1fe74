"""`acto exchange`: label reports and decisions to and from other tools."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence

import numpy as np

from acto.cli.parser import Parser
from acto.core.errors import choose
from acto.core.text import counted
from acto.data.decision_file import to_csv
from acto.labels.exchange import FORMATS, export_report, import_decisions, new_path, write_files
from acto.labels.report import read_report
from acto.run_folder.reading import read_run


def exchange(tokens: Sequence[str]) -> int:
    """The commands `acto exchange export` and `acto exchange import`; returns the exit code."""
    if tokens and not tokens[0].startswith("-"):
        choose("command", f"exchange {tokens[0]}", ("exchange export", "exchange import"))
    if tokens and tokens[0] == "import":
        parser = Parser("acto exchange import", "Make decisions.csv of what was decided in another tool.")
        parser.add_argument("file", metavar="FILE", help="what the other tool exported")
        parser.add_argument("--run", required=True, metavar="RUN", help="the run whose report was exported")
        parser.add_argument(
            "--field", metavar="NAME", help="Label Studio's control or FiftyOne's field with people's labels"
        )
    else:
        parser = Parser("acto exchange export", "Write a run's label report for another tool; `import` takes it back.")
        parser.add_argument("run", metavar="RUN")
    parser.add_argument("--format", required=True, metavar="NAME", help=", ".join(FORMATS))
    parser.add_argument("--out", required=True, metavar="FILE")
    given = parser.given(tokens[1:] if tokens and not tokens[0].startswith("-") else tokens or ["--help"])
    choose("format", given.format, FORMATS)
    if tokens[0] == "import":
        report = read_report(given.run)
        out = new_path(given.out)
        decisions, undecided = import_decisions(
            given.file, report, format=given.format, field=getattr(given, "field", None)
        )
        write_files({out: to_csv(decisions)})
        words = Counter(decision.decision for decision in decisions)
        print(f"{counted(len(decisions), 'decision')} written to {out}: ", end="")
        print(", ".join(f"{count} {word}" for word, count in words.items()))
        if undecided:
            print(f"undecided: {undecided}")
        print(f"next: acto apply {shlex.quote(str(out))} --run {shlex.quote(given.run)}")
        return 0
    record = read_run(given.run)
    is_finished = record.summary is not None  # else there are no probabilities, but there may be a report
    report = read_report(given.run)
    probs = record.pred_probs() if given.format == "cleanlab" and is_finished else None
    if probs is not None and "held_out" in report.columns and (held_out := record.held_out_probs()) is not None:
        probs = np.concatenate([probs, held_out[0]])
    paths, advice = export_report(report, given.out, format=given.format, pred_probs=probs)
    print("\n".join([*(f"written: {path}" for path in paths), *advice]))
    return 0
