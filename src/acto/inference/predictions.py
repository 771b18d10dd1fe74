"""Predictions: a trained model's classes and probabilities for new data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from acto.core.resources import usable_cores
from acto.data.for_prediction import NewData
from acto.runs.trained_model import TrainedModel

MANY = 512
"""Picture files from which on several processes decode them."""


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
