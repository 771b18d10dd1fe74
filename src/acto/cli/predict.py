"""`acto predict`: the classes of other samples."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from acto.cli.parser import Parser, out_file
from acto.core.errors import choose
from acto.core.files import disk_errors, write_atomically
from acto.core.sample_csv import sample_csv, sample_parquet
from acto.core.text import counted
from acto.data.for_prediction import read_new
from acto.inference.predictions import ON_BAD_IMAGE, predictions
from acto.runs.trained_model import load_model

SUFFIXES = (".csv", ".parquet")


def predict(tokens: Sequence[str]) -> int:
    """`acto predict RUN SOURCE`: classes and confidences, to stdout or a file; returns the exit code.

    The code is 1 if all was written, but some rows have no class since their pictures cannot be used.

    Raises:
        UserError: the run has no model, or the data, or none of the pictures, suit it; then nothing was written.
    """
    parser = Parser(
        "acto predict",
        "Predict with the model of a finished RUN. SOURCE: a picture file, a folder of pictures (however deep), a "
        "table (.csv, .tsv, .parquet, .jsonl) with a column of paths or with the columns of the training, arrays "
        "(.npz, .npy), a data set of Hugging Face, tar shards, or a named data set. Labels are not needed, and "
        "ignored.",
    )
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("--out", metavar="FILE", help="a .csv or .parquet file; without it CSV goes to stdout")
    parser.add_argument("--probs", action="store_true", help="a column with the probability of each class as well")
    parser.add_argument("--data-root", metavar="DIR", help="folder of the data sets, instead of $ACTO_DATA_ROOT")
    parser.add_argument("--path-column", metavar="NAME", help="a table's column of samples (path)")
    parser.add_argument("--base", metavar="DIR", help="a folder below which absolute paths of a table may lie")
    parser.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps (auto)")
    parser.add_argument("--batch-size", metavar="B", type=int, help="samples at a time (256)")
    parser.add_argument(
        "--on-bad-image",
        metavar="WHAT",
        help="pictures that cannot be used: keep (their rows have no class and a reason in the column problem; exit "
        "code 1), drop (no rows; exit code 0), or error (nothing is predicted) (keep)",
    )
    parser.add_argument("--json", action="store_true", help="JSON instead of CSV on stdout")
    parser.add_argument(
        "--trust-net", action="store_true", help="the run's network is code outside of acto: allow it to run"
    )
    given = vars(parser.given(tokens))
    out = out_file(given["out"], source=given["source"], suffixes=SUFFIXES) if given.get("out") is not None else None
    on_bad_image = choose("on_bad_image", given.get("on_bad_image", "keep"), ON_BAD_IMAGE)
    model = load_model(given["run"], trust=given.get("trust_net", False))
    data = read_new(
        given["source"],
        data_root=given.get("data_root"),
        path_column=given.get("path_column", "path"),
        base=given.get("base"),
        encoding=model.encoding,
    )
    for text in data.notes:
        print(f"note: {text}", file=sys.stderr)
    found = predictions(
        model,
        data,
        probs=given.get("probs", False),
        batch_size=given.get("batch_size", 256),
        device=given.get("device", "auto"),
        on_bad_image=on_bad_image,
    )
    for text in found.notes:
        print(f"note: {text}", file=sys.stderr)
    columns, count = found.columns, len(found.columns["id"])
    bad = found.num_bad if on_bad_image == "keep" else 0
    if out is not None:
        content = sample_parquet(columns) if out.suffix == ".parquet" else sample_csv(columns)[0]
        with disk_errors(f"write {out}"):
            write_atomically(out, content)
        facts = {"out": str(out), "num_samples": count} | ({"num_bad_images": bad} if bad else {})
        said = f"{counted(count - bad, 'prediction')} in {out}" + (f", and {bad} without a class" if bad else "")
        print(json.dumps(facts) if "json" in given else said)
    elif "json" in given:
        rows = zip(*(map(_as_json, np.asarray(column).tolist()) for column in columns.values()), strict=True)
        print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=1))
    else:
        # Bytes of a file's name that are no UTF-8 come out as backslash codes: stdout may be a terminal.
        sys.stdout.write(sample_csv(columns)[0].decode("utf-8", "backslashreplace"))
    return 1 if bad else 0


def _as_json(value: Any) -> Any:
    """A cell: null for what an unusable picture has none of, since JSON has no NaN."""
    return None if value == "" or value != value else value
