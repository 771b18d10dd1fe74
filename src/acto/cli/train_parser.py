"""The parser of `acto train`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from acto.cli.parser import Parser
from acto.core.settings import Field

ACTIONS = {
    "--config": "read settings from this YAML file; flags win over it",
    "--out": "folder of the run; without it a new one under runs/",
    "--resume": "go on with the run in this folder from its last checkpoint",
    "--overwrite": "delete what the folder of --out holds",
    "--dry-run": "measure what the run will cost, and write nothing",
    "--minutes": "train as many epochs as fit into N minutes, at most those that are set, and end in time",
    "--download": "fetch the official archive, or pretrained weights, if they are missing on this machine",
    "--log": "tell the run to NAME: tensorboard, wandb or mlflow; several with commas, or the flag again. A resumed "
    "run goes on as it began, unless NAME is none",
    "--json": "print the summary as JSON on stdout",
    "--no-report": "do not write the report on the labels at the end; `acto audit` writes it later",
    "--print-config": "print the settings as YAML and do nothing else",
}
"""Flags that are no settings of a run."""
WITH_VALUE = {"--config": "FILE", "--out": "DIR", "--resume": "DIR", "--minutes": "N", "--log": "NAME"}
REPEATED = {"--log"}
BARE = {"protocol.stop_early": "10"}
"""Settings whose flags may stand without a value, and the value that they then have."""


def train_parser(fields: Iterable[Field], short: Mapping[str, str]) -> Parser:
    """The parser of a run's settings and of ACTIONS."""
    parser = Parser(
        "acto train",
        "Train a method. SOURCE is a named data set, a folder with one folder of pictures a class, a table "
        "(.csv, .tsv, .parquet) of paths and labels, or arrays (.npz). What is not said comes from the recipe for the "
        "data and the method; the defaults below are those of the data and method named before --help.",
    )
    parser.usage = "acto train [--data SOURCE] [--method NAME] [--noise KIND --noise-rate RATE] [more settings]"
    group = parser.add_argument_group("what to do")
    for flag, text in ACTIONS.items():
        if flag in WITH_VALUE:
            action = "append" if flag in REPEATED else "store"
            group.add_argument(flag, help=text, metavar=WITH_VALUE[flag], action=action)
        else:
            group.add_argument(flag, action="store_true", help=text)
    parser.add_settings(fields, short=short, bare=BARE)
    return parser
