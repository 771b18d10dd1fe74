"""`acto bench`: how fast this machine trains, and how near its limits."""

from __future__ import annotations

import json
from collections.abc import Sequence

from acto.cli.parser import Parser
from acto.core.device import resolve_device, resolve_precision
from acto.diagnostics.bench import in_words, measure


def bench(tokens: Sequence[str]) -> int:
    """`acto bench [--quick]`: images a second of step, views, loader and evaluation, beside the step's floors."""
    parser = Parser(
        "acto bench",
        "How fast this machine trains: images a second of ACTO's step (two seven-layer CNNs, batch 128, 32x32 pixels, "
        "weak and strong view), of the views, of the loader of picture files and of evaluation, and how near the step "
        "is to what the machine's arithmetic and memory allow. Random pictures; needs no data. About two minutes.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: about 20 s")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on stdout")
    parser.add_argument("--device", metavar="NAME", help="auto (default), cpu, cuda, cuda:N or mps")
    parser.add_argument("--precision", metavar="NAME", help="auto (default), float32, bfloat16 or float16")
    given = vars(parser.given(tokens))
    device = resolve_device(given.get("device", "auto"))
    precision = resolve_precision(given.get("precision", "auto"), device)
    figures = measure(device, precision, quick=given.get("quick", False))
    print(json.dumps(figures, indent=1) if given.get("json") else "\n".join(in_words(figures)))
    return 0
