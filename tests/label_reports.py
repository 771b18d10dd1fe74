"""Label reports written by hand, for the tests of what shows and takes them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from acto.labels.decisions import DecisionLog
from acto.labels.report import LabelReport, NoiseEstimate
from acto.labels.review_server import ReviewServer
from acto.labels.thumbnails import placeholder
from acto.run_folder.reading import RunRecord

NAMES = ("cat", "dog", "owl")


def report_of(
    given: Sequence[str],
    predicted: Sequence[str],
    *,
    names: Sequence[str] = NAMES,
    ids: Sequence[str] | None = None,
    paths: Sequence[str] | None = None,
    facts: dict[str, object] | None = None,
) -> LabelReport:
    """A report in which every label that is not predicted is an issue; the first samples are trusted least."""
    count, num_classes = len(given), len(names)
    issue = np.array([g != p for g, p in zip(given, predicted, strict=True)])
    matrix = np.zeros((num_classes, num_classes))
    for g, p in zip(given, predicted, strict=True):
        matrix[list(names).index(g), list(names).index(p)] += 1
    counts = matrix.sum(1)
    matrix /= counts[:, None]
    return LabelReport(
        class_names=tuple(names),
        columns={
            "id": list(ids) if ids is not None else [str(i) for i in range(count)],
            "path": list(paths) if paths is not None else [""] * count,
            "given_label": list(given),
            "predicted_label": list(predicted),
            "suggested_label": [p if g != p else "" for g, p in zip(given, predicted, strict=True)],
            "is_label_issue": issue,
            "label_quality": np.linspace(0.05, 0.95, count).astype(np.float32),
            "confidence": np.full(count, 0.9, np.float32),
            "prob_given": np.full(count, 0.1, np.float32),
            "near_duplicates": [""] * count,
            "conflicting_duplicates": [""] * count,
            "reason": [f"The model sees {p!r}." if g != p else "" for g, p in zip(given, predicted, strict=True)],
        },
        noise=NoiseEstimate.of_matrices(
            matrix,
            np.maximum(matrix - 0.1, 0),
            np.minimum(matrix + 0.1, 1),
            rate=float(issue.mean()),
            rate_low=max(0.0, float(issue.mean()) - 0.1),
            rate_high=min(1.0, float(issue.mean()) + 0.1),
            counts=counts.astype(np.int64),
            resamples=100,
        ),
        facts=facts or {"source": "pred_probs", "data": "toys"},
    )


def small(folder: Path | None = None) -> LabelReport:
    """Six samples, of which rows 0, 1 and 4 are suspected."""
    return report_of(
        ["cat", "cat", "dog", "dog", "owl", "owl"],
        ["dog", "owl", "dog", "dog", "cat", "owl"],
        ids=["a.png", "b.png", "=1+1.png", "d'.png", 'e,"<b>.png', "f.png"],
        paths=None if folder is None else [str(folder / f"{k}.png") for k in range(6)],
    )


@contextmanager
def served(record: RunRecord, report: LabelReport) -> Iterator[ReviewServer]:
    """The review server at work in a thread, over the log of the record's folder."""
    log = DecisionLog(record.path, report)
    with ReviewServer(record, log, picture_of=lambda row: placeholder()) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
    log.close()
