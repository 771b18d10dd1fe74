"""A run's learning curves for its report page, with what they mean in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from acto.pages.charts import Chart, Curve, draw, draw_values
from acto.run_folder.epoch_table import Cell
from acto.run_folder.reading import RunRecord

COUNTED = 10
"""The headline accuracy is the mean of so many last epochs."""


def curves(record: RunRecord, *, labels_are_given: bool = False) -> tuple[list[Chart], list[str]]:
    """The charts that the run's metrics give, and a sentence or two for each.

    Args:
        record: of the run.
        labels_are_given: accuracies are measured against given labels, which may be wrong.
    """
    metrics = record.metrics
    if not metrics:
        return [], []
    method = str(record.config.get("method", ""))
    settings = record.config.get(method.replace("-", "_")) or {}
    warmup = settings.get("warmup_epochs")
    charts: list[Chart] = []
    words: list[str] = []

    against = "accuracy against the held-out given labels" if labels_are_given else "test accuracy"
    has_ntm = "test_accuracy_ntm" in metrics[-1]
    accuracies = _named(metrics, "test_accuracy", headline="RTM" if has_ntm else method)
    if accuracies:
        early = record.early_end
        counted = COUNTED if len(metrics) > COUNTED and early is None else None
        charts.append(draw(against, accuracies, warmup_epochs=warmup, counted_epochs=counted))
        text = (
            f"{against.capitalize()}: {'the shaded' if counted else 'all'} epochs are those whose mean is the headline"
        )
        if early:
            text = f"{against.capitalize()}: the model is that of epoch {early['epoch'] + 1}, chosen by them"
        text += "; the dashed line ends the warm-up." if warmup else "."
        if has_ntm:
            text += " RTM is ACTO's robust network, the one that is used; NTM learns every given label, on purpose."
        words.append(text)
    rtm, ntm = _column(metrics, "fit_rtm"), _column(metrics, "fit_ntm")
    if rtm is not None and ntm is not None:
        charts.append(
            draw("share of the given labels that each network predicts",
                 [Curve(name="RTM", mean=rtm), Curve(name="NTM", mean=ntm)], warmup_epochs=warmup)
        )  # fmt: skip
        metric = np.divide(ntm - rtm, rtm, out=np.full_like(rtm, np.nan), where=rtm > 0)
        lines = [Curve(name="memorization", mean=metric)] if np.isfinite(metric).any() else []
        tau = settings.get("tau")
        if lines and tau is not None:
            lines.append(Curve(name=f"tau = {tau:g}", mean=np.full(len(metric), float(tau))))
        if lines:
            charts.append(draw_values("memorization metric", lines, warmup_epochs=warmup))
        words.append(
            "Fit and memorization: what NTM fits beyond RTM, as a share of what RTM fits, is the memorization metric. "
            "Above tau, NTM is memorizing wrong labels, and samples that only NTM fits are no longer mined. The mining "
            "gate is decided batch by batch; the curves are means over an epoch."
        )
    shares = [
        Curve(name=text, mean=column)
        for name, text in (("selected_share", "selected"), ("mining_open", "gate open"))
        if (column := _column(metrics, name)) is not None
    ]
    if shares:
        charts.append(draw_values("selection", shares, warmup_epochs=warmup))
        words.append(
            "Selection: selected is the share of the training samples that were taken for clean in the epoch"
            + ("; gate open is the share of the batches in which mining was open." if len(shares) == 2 else ".")
        )
    losses = [
        Curve(name=text, mean=column)
        for name, text in (("loss_rtm", "RTM"), ("loss_ntm", "NTM"), ("loss", "in all"))
        if (column := _column(metrics, name)) is not None
    ]
    if losses:
        charts.append(draw_values("training loss", losses, warmup_epochs=warmup))
    return charts, words


def _named(metrics: Sequence[dict[str, Cell]], prefix: str, *, headline: str) -> list[Curve]:
    """A curve for each column with this prefix, the headline first; four at most, for there are four colours."""
    names = [name for name in metrics[-1] if name == prefix or name.startswith(f"{prefix}_")][:4]
    found = []
    for name in names:
        if (column := _column(metrics, name)) is not None:
            short = name.removeprefix(prefix).removeprefix("_")
            found.append(Curve(name=short.upper() if short == "ntm" else short or headline, mean=column))
    return found


def _column(metrics: Sequence[dict[str, Cell]], name: str) -> npt.NDArray[np.float64] | None:
    """(epochs,) with NaN where there is no value; None where there is none at all."""
    values = [float(cell) if isinstance(cell := row.get(name), int | float) else math.nan for row in metrics]
    return np.array(values) if any(map(math.isfinite, values)) else None
