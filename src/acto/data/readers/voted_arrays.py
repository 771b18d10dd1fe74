"""Array files, with labels or with the votes of several people in their place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError
from acto.core.text import counted
from acto.data.readers.arrays import (
    LABEL_KEYS,
    VOTES_KEY,
    assembled,
    content_keys_of,
    read_file,
    stated_classes,
)
from acto.data.readers.given_votes import consensus_texts, voted_labels
from acto.data.readers.place import Place
from acto.data.samples import DataSpec, Raw
from acto.data.vote_forms import read_cells

Arrays = Mapping[str, npt.NDArray[Any]]


def read(spec: DataSpec, place: Place) -> Raw:
    """Read samples with their labels; with votes (an array `votes`, or a file of them) their consensus is the label."""
    arrays: Arrays
    arrays, notes = read_file(place.own)
    if spec.votes is not None or (VOTES_KEY in arrays and not any(key in arrays for key in LABEL_KEYS)):
        arrays, more = _with_consensus(arrays, spec, place)
        notes = [*notes, *more]
    raw = assembled(arrays, spec, place)
    return replace(raw, notes=(*notes, *raw.notes))


def _with_consensus(arrays: Arrays, spec: DataSpec, place: Place) -> tuple[dict[str, npt.NDArray[Any]], list[str]]:
    """The arrays with one label for each training sample, without the samples that have none; and notes."""
    path, notes = place.own, list[str]()
    content = next((arrays[key] for key in content_keys_of(path) if key in arrays), None)
    count = 0 if content is None or not content.ndim else len(content)
    classes = spec.classes or stated_classes(arrays, path) or place.known_classes
    if spec.votes is not None:
        ids = [str(name) for name in arrays["ids"].reshape(-1)] if "ids" in arrays else list(map(str, range(count)))
        own_key = next((key for key in LABEL_KEYS if key in arrays), None)
        own = [""] * len(ids) if own_key is None else [str(label) for label in arrays[own_key].reshape(-1)]
        labels = voted_labels(spec, ids, own, notes, classes=classes)
    else:
        what = f"{path.name} {VOTES_KEY}"
        labels = consensus_texts(read_cells(arrays[VOTES_KEY], name=what), classes, notes, name=what)
    if len(labels) != count:
        raise UserError(f"{path}: votes are about {counted(len(labels), 'sample')}, but there are {count}")
    kept = np.flatnonzero(np.array(labels, dtype=str) != "")
    if len(kept) < count:
        notes.append(f"{counted(count - len(kept), 'sample')} of {path.name} without votes: left out")
    of_samples = (*content_keys_of(path), "true_labels", "ids")
    chosen = {
        name: array[kept] if name in of_samples and array.ndim and len(array) == count else array
        for name, array in arrays.items()
        if name not in (*LABEL_KEYS, VOTES_KEY)
    }
    if "ids" not in chosen:
        chosen["ids"] = kept
    return {**chosen, LABEL_KEYS[0]: np.array(labels, dtype=str)[kept]}, notes
