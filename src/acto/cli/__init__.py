"""The command `acto`: which part of it runs. Its exit codes stand in acto.cli.exit_codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from acto.cli.exit_codes import guarded
from acto.core.errors import choose, missing_package
from acto.core.files import check_locale

COMMANDS = {
    "train": "acto.cli.train:train",
    "features": "acto.cli.features:features",
    "audit": "acto.cli.audit:audit",
    "consensus": "acto.cli.consensus:consensus",
    "review": "acto.cli.review:review",
    "apply": "acto.cli.apply:apply",
    "exchange": "acto.cli.exchange:exchange",
    "predict": "acto.cli.predict:predict",
    "export": "acto.cli.export:export_command",
    "sweep": "acto.cli.sweep:sweep",
    "table": "acto.cli.table:table",
    "demo": "acto.cli.demo:main",
    "methods": "acto.cli.methods:methods",
    "data": "acto.cli.data:data",
    "doctor": "acto.cli.doctor:doctor",
    "bench": "acto.cli.bench:bench",
    "completion": "acto.cli.completion:completion",
}
"""Function of each command. It takes what stands behind its name, and returns the exit code."""
LASTING = {"train", "features", "audit", "consensus", "review", "apply", "exchange", "export", "sweep", "demo"}
"""Commands that make files and go on where nobody can read what they say. The others' work is what they print, unless
--out names a file for it."""
PRINTING = {"-h", "--help", "--dry-run", "--print-config"}
"""Flags with which those print and do nothing else."""
USAGE = """\
usage: acto COMMAND ...

Train classifiers on data whose labels are partly wrong, and find out which labels are wrong.

train and use:
  train              train a method on a data set or on your own data
  features SOURCE    what a trained network sees in pictures, as vectors to train on
  predict RUN SOURCE the classes of other samples
  export RUN         the model for other tools: safetensors, ONNX, torch.export

find wrong labels:
  audit RUN          rank the labels of a run's data, or of other data; estimate the noise
  audit --labels FILE --pred-probs FILE   the same with any model's probabilities
  consensus VOTES    labels by several people: one for each sample; who and what to trust, and what to label next
  review RUN         go through the suspects in the browser, and keep what you decide
  apply DECISIONS    write the corrected data beside the old ones
  exchange           label reports and decisions to and from Label Studio, FiftyOne, cleanlab

compare methods:
  methods [NAME]     the methods, or one method's card and settings
  sweep              many methods, data sets, noises and seeds; goes on where it stopped
  table NAME         the papers' tables beside what was measured here

look around:
  demo               see ACTO beat plain training on wrong labels, in about five minutes
  data check SOURCE  look through a data set before training on it
  data shrink FOLDER a smaller copy of photographs, several times as fast to train on
  doctor [RUN]       versions, devices, disk and data; with a run's folder, its files; what to do where they are bad
  bench              how fast this machine trains, and how near its limits that is
  completion SHELL   a script that completes commands and flags when Tab is pressed

options:
  -h, --help         this text; after a command, that command's
  --version          the version of acto; in a clone, with the commit

examples:
  acto train --data digits --noise symmetric --noise-rate 0.4
  acto train --data path/to/pictures --out runs/mine && acto review runs/mine
  acto train --resume runs/acto-digits-20260131-093000-1a2b
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `acto` with `argv` (without the program's name; None: the process's) and return the exit code."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    words = {token.partition("=")[0] for token in tokens}
    makes_files = not LASTING.isdisjoint(tokens[:1]) or "--out" in words
    return guarded(lambda: dispatch(tokens), lasting=makes_files and not PRINTING & words)


def dispatch(tokens: list[str]) -> int:
    """Run the command that `tokens` begin with; errors are raised."""
    check_locale(tokens)
    command, rest = (tokens[0], tokens[1:]) if tokens else ("--help", [])
    if command in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if command == "--version":
        from acto.run_folder.git_commit import version_in_words

        print(f"acto {version_in_words()}")
        return 0
    choose("command", command, COMMANDS)
    if rest and rest[-1] in ("-h", "--help"):
        from acto.cli.quick_help import print_help

        if print_help(tokens[:-1]):
            return 0
    # Modules are loaded where they are needed: torch takes seconds to load, and --help shall not.
    module, _, function = COMMANDS[command].partition(":")
    try:
        return getattr(import_module(module), function)(rest)
    except ModuleNotFoundError as error:
        raise missing_package(error, f"acto {command}") or error from error
