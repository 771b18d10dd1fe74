"""Given labels out of several people's: their consensus by Dawid and Skene, as `acto train --data.votes FILE` takes it.

A sample with votes gets their consensus, whatever label it has beside; one without keeps its own, as test samples whose
labels are certain do; one without either is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from acto.core.errors import UserError, closest
from acto.core.text import counted, percent
from acto.data.dawid_skene import dawid_skene
from acto.data.readers.vote_files import read_vote_file
from acto.data.samples import DataSpec
from acto.data.vote_forms import VoteCells, votes_of
from acto.data.votes import named

_LOW = 0.5
"""A consensus less likely than that is hardly one."""


def voted_labels(
    spec: DataSpec, ids: Sequence[str], own: Sequence[Any], notes: list[str], *, classes: Sequence[str] = ()
) -> list[Any]:
    """Find a label (N,) for each sample: the consensus, else its own; an empty text where there is neither.

    Args:
        spec: names the file of votes.
        ids: (N,) of the samples.
        own: (N,) labels that the source has, empty texts where it has none.
        notes: takes what the user should know.
        classes: names of the classes; empty: as the votes say.

    Raises:
        UserError: votes that cannot be read, or that are about other samples.
    """
    assert spec.votes is not None
    cells = read_vote_file(Path(spec.votes).expanduser())
    row_of = {name: row for row, name in enumerate(cells.ids)}
    known = set(ids)
    if strange := [name for name in cells.ids if name not in known]:
        missing = sum(name not in row_of for name in ids)
        problem = f"{spec.votes}: {counted(len(strange), 'sample')} that the data do not have, the first {strange[0]!r}"
        if missing:
            raise UserError(
                f"{problem}, and {counted(missing, 'sample')} of the data without votes."
                f"{closest(strange[0], list(ids)[:10_000])} Samples go by their ids: a manifest's paths, an array's "
                "ids or row numbers"
            )
        notes.append(f"{problem}: not used")
    found = consensus_texts(cells, classes, notes, name=spec.votes)
    return [(found[row_of[name]] if name in row_of else "") or label for name, label in zip(ids, own, strict=True)]


def consensus_texts(cells: VoteCells, classes: Sequence[str], notes: list[str], *, name: str) -> list[str]:
    """Find the consensus (N,) of votes as class names; an empty text where nobody voted.

    Args:
        cells: votes on N samples.
        classes: their names; empty: as the votes say.
        notes: takes what the user should know.
        name: what messages call the votes.

    Raises:
        UserError: no label, or nobody can tell how good the annotators are.
    """
    votes = votes_of(cells, classes or None)
    per_sample = votes.per_sample
    if not (per_sample > 1).any():
        raise UserError(
            f"{name}: no sample has labels of two annotators, so that they have no consensus: give the one label of "
            "each sample as its label"
        )
    estimate = dawid_skene(votes)
    voted = per_sample > 0
    quality = estimate.probs.max(1)[voted]
    notes += votes.notes
    notes.append(
        f"labels are the consensus of {counted(len(votes.annotator_names), 'annotator')} of {name} "
        f"(Dawid-Skene; {counted(len(votes), 'label')} of {int(voted.sum()):,} samples): right with a mean probability "
        f"of {percent(float(quality.mean()))}, {counted(int((quality < _LOW).sum()), 'sample')} below {percent(_LOW)}. "
        "`acto consensus` on the same votes shows each"
    )
    return named(votes.class_names, np.where(voted, estimate.probs.argmax(1), -1))
