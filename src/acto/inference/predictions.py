"""Predictions: a trained model's classes and probabilities for new data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from acto.core.device import resolve_device
from acto.core.errors import check_range, choose
from acto.core.resources import usable_cores
from acto.data.for_prediction import NewData
from acto.runs.trained_model import TrainedModel

MANY = 512
"""Picture files from which on several processes decode them."""
ON_BAD_IMAGE = ("keep", "drop", "error")
"""A picture that cannot be used keeps its row, without a class and with the reason in the column `problem`; or its row
is left out; or nothing is predicted."""
_OUTCOME = {
    "keep": "their rows have no class, and say why in the column problem (--on-bad-image drop leaves them out)",
    "drop": "and were left out",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """Predictions, and what one has to know of them."""

    columns: Mapping[str, Any]
    """(N,) each: id, split (where there are two), predicted_label, confidence, prob_CLASS if asked for; of picture
    files with "keep" also problem: why a row has no class, empty where it has one."""
    notes: tuple[str, ...]
    """Notes for the user."""
    num_bad: int
    """Pictures that cannot be used."""


def predictions(
    model: TrainedModel,
    data: NewData,
    *,
    probs: bool = False,
    batch_size: int = 256,
    device: str = "auto",
    on_bad_image: str = "error",
) -> Predictions:
    """Predict the samples of `data`.

    Args:
        model: what predicts.
        data: what is predicted.
        probs: whether the columns prob_CLASS are wanted; each in [0, 1], a row's sum is 1.
        batch_size: samples at a time.
        device: auto, cpu, cuda, cuda:N or mps.
        on_bad_image: what becomes of picture files that cannot be used, see ON_BAD_IMAGE.

    Raises:
        UserError: the data do not suit the model; or of their pictures none can be used, or with "error" not all.
    """
    choose("on_bad_image", on_bad_image, ON_BAD_IMAGE)
    check_range("batch_size", batch_size, low=1)
    resolve_device(device)
    is_large = data.samples.paths is not None and len(data.samples) >= MANY
    usable = model.usable(data.samples, thorough=on_bad_image != "error")
    if on_bad_image == "error" or not len(usable.rows):
        usable.refuse_bad()
    found = model.predict_usable(
        usable,
        batch_size=batch_size,
        device=device,
        workers=min(4, usable_cores()) if is_large and model.takes_files else 0,
    )
    best = np.nan_to_num(found, nan=-1.0).argmax(1)
    columns = {
        "id": list(data.samples.ids),
        **({"split": list(data.splits)} if data.splits else {}),
        "predicted_label": [
            "" if row in usable.problems else model.class_names[k] for row, k in enumerate(best.tolist())
        ],
        "confidence": found[np.arange(len(found)), best],
        **({f"prob_{name}": found[:, k] for k, name in enumerate(model.class_names)} if probs else {}),
    }
    if on_bad_image == "keep" and data.samples.paths is not None:
        columns["problem"] = [usable.problems.get(row, "") for row in range(len(found))]
    elif on_bad_image == "drop":
        columns = {
            name: [column[row] for row in usable.rows] if isinstance(column, list) else column[usable.rows]
            for name, column in columns.items()
        }
    notes = usable.notes
    if usable.problems:
        notes += (
            f"{len(usable.problems):,} of {usable.total:,} pictures cannot be used, {_OUTCOME[on_bad_image]}: "
            f"{usable.shown}",
        )
    return Predictions(columns=columns, notes=notes, num_bad=len(usable.problems))
