"""`acto predict`: a trained model's classes and probabilities for new data."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from acto.cli.exit_codes import Parser
from acto.core.errors import UserError
from acto.core.files import disk_errors, write_atomically
from acto.core.resources import usable_cores
from acto.core.sample_csv import sample_csv, sample_parquet
from acto.data.for_prediction import NewData, read_new
from acto.runs.trained_model import TrainedModel, load

SUFFIXES = (".csv", ".parquet")
MANY = 512
"""Picture files from which on several processes decode them."""


def predict(tokens: Sequence[str]) -> int:
    """`acto predict RUN SOURCE`: classes and confidences, to stdout or a file; returns the exit code.

    Raises:
        UserError: the run has no model, or the data do not suit it; then nothing was written.
    """
    parser = Parser(
        "acto predict",
        "Predict with the model of a finished RUN. SOURCE: a picture file, a folder of pictures (however deep), a "
        "table (.csv, .tsv, .parquet) with a column of paths, arrays (.npz, .npy), or a named data set. Labels are "
        "not needed, and ignored.",
    )
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("--out", metavar="FILE", help="a .csv or .parquet file; without it CSV goes to stdout")
    parser.add_argument("--probs", action="store_true", help="a column with the probability of each class as well")
    parser.add_argument("--data-root", metavar="DIR", help="folder of the data sets, instead of $ACTO_DATA_ROOT")
    parser.add_argument("--path-column", metavar="NAME", help="a table's column of picture files (path)")
    parser.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps (auto)")
    parser.add_argument("--batch-size", metavar="B", type=int, help="samples at a time (256)")
    parser.add_argument("--json", action="store_true", help="JSON instead of CSV on stdout")
    parser.add_argument(
        "--trust-net", action="store_true", help="the run's network is code outside of acto: allow it to run"
    )
    given = vars(parser.given(tokens))
    out = _checked_out(given.get("out"), given["source"])
    model = load(given["run"], trust=given.get("trust_net", False))
    data = read_new(given["source"], data_root=given.get("data_root"), path_column=given.get("path_column", "path"))
    for text in data.notes:
        print(f"note: {text}", file=sys.stderr)
    columns = predictions(
        model,
        data,
        probs=given.get("probs", False),
        batch_size=given.get("batch_size", 256),
        device=given.get("device", "auto"),
    )
    if out is not None:
        content = sample_parquet(columns) if out.suffix == ".parquet" else sample_csv(columns)[0]
        with disk_errors(f"write {out}"):
            write_atomically(out, content)
        said = f"{len(data.samples)} predictions in {out}"
        print(json.dumps({"out": str(out), "num_samples": len(data.samples)}) if "json" in given else said)
    elif "json" in given:
        rows = zip(*(np.asarray(column).tolist() for column in columns.values()), strict=True)
        print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=1))
    else:
        # Bytes of a file's name that are no UTF-8 come out as backslash codes: stdout may be a terminal.
        sys.stdout.write(sample_csv(columns)[0].decode("utf-8", "backslashreplace"))
    return 0


def predictions(
    model: TrainedModel, data: NewData, *, probs: bool = False, batch_size: int = 256, device: str = "auto"
) -> Mapping[str, Any]:
    """Columns of (N,) by name: id, split (where there are two), predicted_label, confidence, and prob_CLASS if asked.

    Args:
        model: what predicts.
        data: what is predicted.
        probs: whether the columns prob_CLASS are wanted; each in [0, 1], a row's sum is 1.
        batch_size: samples at a time.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        UserError: the data do not suit the model.
    """
    is_large = data.samples.paths is not None and len(data.samples) >= MANY
    found = model.predict_proba(
        data.samples,
        batch_size=batch_size,
        device=device,
        workers=min(4, usable_cores()) if is_large and model.takes_files else 0,
    )
    best = found.argmax(1)
    return {
        "id": list(data.samples.ids),
        **({"split": list(data.splits)} if data.splits else {}),
        "predicted_label": [model.class_names[k] for k in best.tolist()],
        "confidence": found[np.arange(len(found)), best],
        **({f"prob_{name}": found[:, k] for k, name in enumerate(model.class_names)} if probs else {}),
    }


def _checked_out(out: str | None, source: str) -> Path | None:
    """Where the table goes, refused before any work is done if it cannot go there."""
    if out is None:
        return None
    path = Path(out)
    if path.suffix not in SUFFIXES:
        raise UserError(f"--out {out} must end in {' or '.join(SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--out {out}: the folder {path.absolute().parent} does not exist")
    if path.is_dir():
        raise UserError(f"--out {out} is a folder")
    if os.path.exists(source) and path.exists() and path.samefile(source):
        raise UserError(f"--out {out} is the source itself: choose another file")
    return path
