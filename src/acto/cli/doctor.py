"""`acto doctor`: a machine or a run looked over."""

from __future__ import annotations

import json
from collections.abc import Sequence

from acto.cli.parser import Parser
from acto.diagnostics.findings import as_json, as_lines, worst
from acto.diagnostics.machine import look_around, probe
from acto.diagnostics.run_checks import examine


def doctor(tokens: Sequence[str]) -> int:
    """`acto doctor [RUN]`: the state of the machine, or of a run's folder; 1 if something must be mended."""
    parser = Parser(
        "acto doctor",
        "Looks at versions, devices, disk, limits and data sets; with a RUN's folder at its files: whether they are "
        "whole, whether the run can go on and how. Each line is ok, warn or BAD and says what to do. Exit code 1 if "
        "something is BAD.",
    )
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run's folder")
    parser.add_argument("--out", metavar="DIR", help="where runs will be written (default: runs)")
    parser.add_argument("--data-root", metavar="DIR", help="where data sets lie, instead of $ACTO_DATA_ROOT")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON on stdout")
    given = vars(parser.given(tokens))
    if (run := given.get("run")) is not None:
        findings = examine(run)
    else:
        findings = [*look_around(out=given.get("out", "runs")), *probe(data_root=given.get("data_root"))]
    if given.get("json"):
        print(json.dumps(as_json(findings), indent=1))
    else:
        print("\n".join(as_lines(findings)))
    return 1 if worst(findings) == "BAD" else 0
