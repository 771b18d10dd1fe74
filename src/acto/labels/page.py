"""The report page: one HTML file that needs nothing but itself, and shows every suspicious label with its picture.

Names of classes and files are data: the template engine escapes them, and the page's script sets them as text. The
page's own policy lets run no other script than the one that it comes with, and lets load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from acto.core.files import disk_errors, write_atomically
from acto.core.text import counted, percent
from acto.data.decision_file import DECISIONS_FILE, Decision, decided_in, printable
from acto.labels.belief import rule_in_words
from acto.labels.decisions import carried_over
from acto.labels.page_classes import NUM_CLASS_ROWS, per_class
from acto.labels.page_curves import curves
from acto.labels.page_data import Served, embedded, page_data, references_of
from acto.labels.report import LabelReport
from acto.labels.thumbnails import PictureOf
from acto.pages.environment import environment
from acto.run_folder.reading import RunRecord, early_end_in_words

LIMIT = 10_000
"""Rows that a page lists."""
NUM_PICTURES = 2_000
"""Pictures that a page holds itself."""
MATRIX_CLASSES = 20
"""Up to so many classes the noise matrix is a table; beyond, the most frequent mistakes are listed."""
NUM_PAIRS = 30


def write_report_page(
    report: LabelReport,
    record: RunRecord | None,
    path: Path | str,
    *,
    picture_of: PictureOf | None = None,
    limit: int = LIMIT,
) -> None:
    """Write the page into one file.

    Args:
        report: what to show.
        record: the run that it is about; None: probabilities of another model.
        path: the file.
        picture_of: the thumbnail of the sample in a row of the report, called for the NUM_PICTURES most suspicious;
            None: samples without a picture.
        limit: rows to list at most, the most suspicious.

    Raises:
        acto.core.errors.RunError: the disk refuses.
    """
    page = render(report, record, picture_of=picture_of, limit=limit)
    with disk_errors(f"write {path}"):
        write_atomically(Path(path), page)


def render(
    report: LabelReport,
    record: RunRecord | None,
    *,
    picture_of: PictureOf | None = None,
    limit: int = LIMIT,
    served: Served | None = None,
) -> bytes:
    """The page as UTF-8. Arguments are those of write_report_page; with `served` it is a review server's page,
    and pictures and decisions go through that server.
    """
    pages = environment()
    style, script = (pages.get_template(name).render() for name in ("report.css", "report.js"))
    listed = report.ranked()[:limit]
    pictures = embedded(listed[:NUM_PICTURES].tolist(), picture_of) if served is None else []
    references = references_of(report, listed, picture_of, served)
    decided: Mapping[int, Decision] = {}
    if served is not None:
        decided = served.decisions
    elif record is not None and report.facts.get("source") == "run":
        decided = carried_over(decided_in(record.path), report)
    facts = report.facts
    folder = facts.get("folder") or (record.path if record is not None else "")
    name = printable(Path(folder).name) or "probabilities"
    data_name = printable(str(facts.get("data", ""))) or "the data"
    matrix, pairs = _matrix(report), _pairs(report)
    charts, chart_words = curves(record, labels_are_given=_labels_are_given(report, record)) if record else ([], [])
    page = pages.get_template("report.html.jinja").render(
        policy=_policy(style, script, served=served is not None),
        name=data_name,
        subtitle=_subtitle(report, record, name),
        banners=[*_banners(record), *(printable(doubt.text) for doubt in report.warnings)],
        facts=_facts(report, record),
        listing=[
            *_listing(report, len(listed), len(pictures), has_pictures=picture_of is not None and served is None),
            *map(printable, rule_in_words(report)),
        ],
        served=served is not None,
        is_of_run=facts.get("source") == "run",
        decisions_file=DECISIONS_FILE,
        has_outliers="outlier" in report.columns,
        has_references=any(sample[2] for samples in references.values() for sample in samples)
        or (served is not None and served.has_pictures),
        noise_words=_noise_words(report),
        classes=list(map(printable, report.class_names)),
        matrix=matrix,
        pairs=pairs,
        per_class=per_class(report),
        class_note=f"; {NUM_CLASS_ROWS} of {len(report.class_names)}"
        if len(report.class_names) > NUM_CLASS_ROWS
        else "",
        charts=charts,
        chart_words=chart_words,
        made=_made(record),
        style=Markup(style),
        script=Markup(script),
        data=page_data(
            report, listed.tolist(), name, pictures=pictures, served=served, decisions=decided, references=references
        ),
    )
    return page.encode("utf-8", "backslashreplace")


def _labels_are_given(report: LabelReport, record: RunRecord) -> bool:
    return bool((record.summary or report.facts).get("test_labels_are_given", False))


def _policy(style: str, script: str, *, served: bool) -> str:
    def hashed(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    own = " 'self'" if served else ""
    parts = [
        "default-src 'none'",
        f"style-src {hashed(style)}",
        f"script-src {hashed(script)}",
        f"img-src data:{own}",
        *(["connect-src 'self'"] if served else []),
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return "; ".join(parts)


# Words and tables ---------------------------------------------------------------------------------------------------


def _subtitle(report: LabelReport, record: RunRecord | None, run: str) -> str:
    samples = f"{counted(len(report), 'sample')} of {counted(len(report.class_names), 'class')}"
    if record is None or report.facts.get("source") == "pred_probs":
        return f"{samples}, judged by the probabilities that were given."
    method = record.config.get("method")
    what = "samples that the run has not seen" if report.facts.get("source") == "new data" else "training samples"
    epochs = counted(record.model_epochs, "epoch")
    return f"{samples} ({what}). Run {run}: {method}, {epochs}."


def _banners(record: RunRecord | None) -> list[str]:
    if record is None or record.status["state"] == "finished":
        return []
    planned = record.config.get("protocol", {}).get("epochs", "?")
    words = {
        "running": "This run is still going on",
        "interrupted": "This run was interrupted",
        "failed": "This run failed",
        "died": "The process of this run has died",
    }
    text = words.get(record.status["state"], f"This run is {record.status['state']}")
    return [
        f"{text} after {len(record.metrics)} of {planned} epochs: everything here is of what it knew by then. "
        "Go on with it: acto train --resume FOLDER."
    ]


def _facts(report: LabelReport, record: RunRecord | None) -> list[dict[str, str]]:
    noise, issues = report.noise, int(report.is_label_issue.sum())
    facts = [
        {
            "title": "labels that are wrong, estimated",
            "value": f"{100 * noise.rate:.1f} %",
            "note": f"95 % interval {100 * noise.rate_low:.1f} to {100 * noise.rate_high:.1f} %; "
            + (
                "it knows the luck of the draw, not the model's own errors"
                if noise.resamples
                else "it covers the model's own errors"
            ),
        },
        {
            "title": "suspected labels, one by one",
            "value": f"{issues:,}",
            "note": f"{percent(issues / len(report))} of the samples",
        },
    ]
    if report.look_first:
        counts = " / ".join(f"{count:,}" if count else "none" for count in report.look_first.values())
        precisions = " / ".join(f"{100 * float(precision):.0f} %" for precision in report.look_first)
        value, note = counts, f"of which at least {precisions} are expected to be wrong"
        if not any(report.look_first.values()):
            value, note = "no promise", "how many of the least trusted are wrong cannot be told"
        facts.append({"title": "look first at the most suspicious", "value": value, "note": note})
    if record is None:
        return facts
    realised = ((record.labels or {}).get("noise") or {}).get("rate_realised")
    if realised is not None:
        facts.append(
            {
                "title": "labels that are wrong, known",
                "value": percent(realised),
                "note": "training never sees the truth",
            }
        )
    if accuracies := record.last_accuracies():
        given = _labels_are_given(report, record)
        against = "against held-out given labels, which may be wrong too" if given else "on the test set"
        facts.append(
            {
                "title": "accuracy of the model",
                "value": percent(math.fsum(accuracies) / len(accuracies)),
                "note": f"{against}; mean of the last {counted(len(accuracies), 'evaluated epoch')}",
            }
        )
    return facts


def _listing(report: LabelReport, num_listed: int, num_pictures: int, *, has_pictures: bool) -> list[str]:
    issues, words = int(report.is_label_issue.sum()), []
    if num_listed < len(report):
        words.append(
            f"{num_listed:,} of {len(report):,} samples are listed here, the most suspicious"
            + (
                f"; {counted(issues - num_listed, 'suspected one', then='is/are')} in label_report.csv only."
                if issues > num_listed
                else "."
            )
        )
    if has_pictures and num_pictures < num_listed:
        words.append(
            f"The first {num_pictures:,} have their picture in this file, the others are rows without one"
            + (": acto review RUN shows every picture." if report.facts.get("source") == "run" else ".")
        )
    return words


def _noise_words(report: LabelReport) -> str:
    found = report.noise.confusions(1)
    if not found:
        return "No class seems to be taken for another."
    given, right, count = found[0]
    names = list(map(printable, report.class_names))
    return (
        f"The most frequent mistake: about {count:,.0f} of the {report.noise.counts[given]:,} samples labelled "
        f"{names[given]!r} seem to be {names[right]!r}."
    )


def _matrix(report: LabelReport) -> list[dict[str, Any]]:
    noise, names = report.noise, list(map(printable, report.class_names))
    if len(names) > MATRIX_CLASSES:
        return []
    shares, lows, highs = noise.matrix, noise.matrix_low, noise.matrix_high
    rows = []
    for i, given in enumerate(names):
        cells = []
        for j, right in enumerate(names):
            share = float(shares[i, j])
            # A light shade from half a percent on, the darkest from a fifth of the class on.
            look = "right" if i == j else f"h{int(np.searchsorted((0.005, 0.03, 0.08, 0.2), share, side='right'))}"
            low, high = 100 * lows[i, j], 100 * highs[i, j]
            title = f"given {given}, right {right}: " + (
                f"{100 * share:.1f} % ({low:.1f} to {high:.1f} %)" if high > 0 else "not seen"
            )
            cells.append({"look": look, "text": f"{100 * share:.0f}" if share >= 0.005 else "", "title": title})
        rows.append({"class": given, "cells": cells})
    return rows


def _pairs(report: LabelReport) -> list[dict[str, str]]:
    noise, names = report.noise, list(map(printable, report.class_names))
    return [
        {
            "given": names[noise.given[i]],
            "right": names[noise.right[i]],
            "count": f"{noise.samples[i]:,.0f}",
            "share": f"{100 * noise.share[i]:.1f} %",
            "interval": f"{100 * noise.low[i]:.1f} to {100 * noise.high[i]:.1f} %",
        }
        for i in noise.mistakes(NUM_PAIRS)
    ]


def _made(record: RunRecord | None) -> list[tuple[str, str]]:
    if record is None:
        return []
    config = record.config
    rows = [
        ("method", str(config.get("method", ""))),
        ("network", str(config.get("net", ""))),
        ("seed", str(config.get("seed", ""))),
        ("epochs", f"{len(record.metrics)} of {config.get('protocol', {}).get('epochs', '?')}"),
        ("state", str(record.status["state"])),
    ]
    if record.early_end:
        rows.append(("early end", early_end_in_words(record.early_end)))
    noise = (record.labels or {}).get("noise") or {}
    if noise.get("kind") not in (None, "none"):
        rows.append(("noise put on the labels", f"{noise['kind']}, rate {noise.get('rate')}, seed {noise.get('seed')}"))
    return rows
