"""`acto consensus`: labels by several people become one, and samples and people are rated."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from acto.cli.parser import Parser
from acto.core.errors import UserError, choose
from acto.core.text import aligned, counted, percent, visible
from acto.data.readers.arrays import read_arrays
from acto.data.readers.vote_files import read_table, read_vote_file
from acto.data.vote_forms import ID_NAMES
from acto.labels.consensus import METHODS, consensus_of, together
from acto.labels.consensus_report import LOW_QUALITY, ConsensusReport

SHOWN = 5
MOST_ANNOTATORS = 10
"""Annotators that are printed: all, or the least trusted."""


def consensus(tokens: Sequence[str]) -> int:
    """`acto consensus VOTES [--pred-probs FILE]`: consensus labels, and what annotators are worth."""
    parser = Parser(
        "acto consensus",
        "Find one label for each sample that several people labelled, and rate samples and people. VOTES is a table "
        "(.csv, .tsv, .parquet) with a column for each annotator and one called id, or with the columns id, annotator "
        "and label; or an array (.npy) with a row for each sample. Empty cells and negative numbers are no labels. "
        "Writes consensus.csv, consensus_annotators.csv, consensus_confusion.csv and consensus.json.",
    )
    parser.add_argument("votes", metavar="VOTES", help="the labels")
    parser.add_argument(
        "--pred-probs",
        metavar="FILE",
        help="a model's probabilities, from held-out folds: .npy (N, K), or a table with a column id and one a class",
    )
    parser.add_argument("--method", metavar="NAME", help=f"{', '.join(METHODS)} (default: {METHODS[0]})")
    parser.add_argument("--annotators", metavar="A,B,...", help="the annotators' columns; without it all that can be")
    parser.add_argument("--classes", metavar="A,B,...", help="the classes, in the order of the probabilities' columns")
    parser.add_argument("--out", metavar="DIR", help="where the files go; without it a new folder beside VOTES")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON on stdout")
    given = vars(parser.given(tokens))
    path = Path(given["votes"]).expanduser()
    method = choose("method", given.get("method", METHODS[0]), METHODS)
    annotators = _listed(given.get("annotators"))
    votes, probs = together(
        lambda ids: read_vote_file(path, ids=ids, annotators=annotators),
        read_probs(Path(given["pred_probs"]).expanduser()) if "pred_probs" in given else None,
        class_names=_listed(given.get("classes")),
    )
    report = consensus_of(votes, probs, method=method)
    folder = Path(given["out"]).expanduser() if "out" in given else path.with_name(f"{path.stem}-consensus")
    report.save(folder)
    if given.get("json"):
        print(json.dumps({**report.facts, **report.summary(), "notes": list(report.notes), "folder": str(folder)}))
    else:
        print("\n".join(report_lines(report, folder)))
    return 0


def read_probs(path: Path) -> Any:
    """A model's probabilities: an (N, K) array, or a data frame whose index names the samples.

    Raises:
        UserError: the file cannot be read, or holds anything else.
    """
    suffix = choose(
        "kind of file with probabilities", path.suffix.lower(), (".npy", ".npz", ".csv", ".tsv", ".parquet")
    )
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if suffix in (".npy", ".npz"):
        arrays = read_arrays(path)
        if len(arrays) != 1:
            raise UserError(f"{path} holds {', '.join(map(repr, arrays)) or 'nothing'}, and must hold one (N, K) array")
        return next(iter(arrays.values()))
    try:
        import pandas
    except ImportError as error:
        raise UserError(f"{path}: tables of probabilities need pandas (pip install pandas); or give .npy") from error
    table, rows = read_table(path)
    title = next((title for name in ID_NAMES for title in table if title.strip().lower() == name), None)
    index = table.pop(title) if title is not None else None
    columns: dict[str, Any] = {}
    for name, cells in table.items():
        try:
            columns[name] = np.array([float(cell) for cell in cells])
        except (TypeError, ValueError):
            row = next(i for i, cell in enumerate(cells) if not _is_number(cell))
            raise UserError(
                f"{path} row {rows[row]}: {cells[row]!r} in column {name!r} is no number: beside {ID_NAMES[0]} there "
                "may be the classes' columns alone"
            ) from None
    return pandas.DataFrame(columns, index=None if index is None else list(map(str, index)))


def report_lines(report: ConsensusReport, folder: Path) -> Iterable[str]:
    """Format a report as lines for a terminal."""
    summary, facts, annotators = report.summary(), report.facts, report.annotators
    counts = [counted(summary[f"num_{noun}s"], noun) for noun in ("sample", "annotator", "label")]
    yield (
        f"{', '.join(counts)}, {len(report.class_names)} classes; {facts['method']}"
        f"{' with a model' if facts['with_model'] else ''}"
    )
    yield from (visible(f"note: {note}") for note in report.notes)
    if facts["alpha"] is not None:
        yield (
            f"two annotators agree on {percent(facts['pairwise_agreement'])} of what both labelled "
            f"(Krippendorff's alpha {facts['alpha']:.3f})"
        )
    yield (
        f"the consensus is right with a mean probability of {percent(summary['mean_quality'])}; below "
        f"{percent(LOW_QUALITY)}: {counted(summary['num_low_quality'], 'sample')}"
    )
    order = np.argsort(np.asarray(annotators["quality"]), kind="stable")
    many = len(order) > MOST_ANNOTATORS
    yield "least trusted annotators:" if many else "annotators, the least trusted first:"
    yield from (
        f"  {line}"
        for line in aligned(
            (
                annotators["annotator"][j],
                f"{percent(float(annotators['quality'][j]))} right",
                f"{counted(int(annotators['num_labels'][j]), 'label')}",
                f"{annotators['often_given'][j]!r} for {annotators['instead_of'][j]!r}"
                if annotators["often_given"][j]
                else "",
            )
            for j in order[: SHOWN if many else None].tolist()
        )
    )
    row_of = {name: i for i, name in enumerate(report.samples["id"])}
    yield "label next:"
    yield from (
        f"  {line}"
        for line in aligned(
            (
                name,
                f"{report.samples['consensus_label'][i]!r}" if report.samples["consensus_label"][i] else "no label",
                percent(float(report.quality[i])),
                str(report.samples["labels"][i]),
            )
            for name in report.label_next(SHOWN)
            for i in (row_of[name],)
        )
    )
    yield f"written: {visible(str(folder / 'consensus.csv'))} (and annotators and confusions beside it)"


def _listed(text: str | None) -> tuple[str, ...] | None:
    """Names between commas; None where the flag was not given."""
    return None if text is None else tuple(part.strip() for part in text.split(","))


def _is_number(cell: Any) -> bool:
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True
