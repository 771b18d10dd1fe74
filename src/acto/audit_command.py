"""`acto audit`, and what `acto train` does at its end: the report on the labels, as files and in words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from acto.console import columns, percent
from acto.data.likeness import alike
from acto.data.readers import DATA_ROOT_VARIABLE
from acto.data.samples import Dataset, DataSpec, Samples
from acto.data.sources import load
from acto.errors import UserError
from acto.exits import Parser
from acto.label_audit import audit as audit_labels
from acto.label_report import LabelReport
from acto.record import RunRecord, read_run
from acto.report_page import write_report_page
from acto.run_audit import audit_run, training_data
from acto.thumbnails import pictures_of
from acto.trained import load as load_model

SHOWN = 5


def audit(tokens: Sequence[str]) -> int:
    """`acto audit RUN [--data SOURCE]`: the report on a run's labels, or on labels that it never saw."""
    parser = Parser(
        "acto audit",
        "Rank a run's labels by how little they can be trusted and estimate the noise. With --data, those of other "
        "data: a validation set, tomorrow's batch. Writes label_report.csv, .json, .parquet and report.html.",
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder")
    parser.add_argument(
        "--data", metavar="SOURCE", help="what `acto train --data` takes; every labelled sample of it is looked at"
    )
    parser.add_argument("--data-root", metavar="DIR", help=f"instead of ${DATA_ROOT_VARIABLE}")
    parser.add_argument(
        "--out", metavar="DIR", help="where the report goes; without it RUN, and with --data a new folder in it"
    )
    parser.add_argument("--no-duplicates", action="store_true", help="do not look for samples that are nearly the same")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON on stdout")
    given = vars(parser.given(tokens))
    run = Path(given["run"])
    find_duplicates = not given.get("no_duplicates", False)
    record = read_run(run)
    if (source := given.get("data")) is not None:
        spec = DataSpec(source=source, root=given.get("data_root"))
        report, samples = audit_others(record, spec, find_duplicates=find_duplicates)
        folder = Path(given.get("out") or run / f"audit-{Path(source).stem}")
    else:
        dataset = training_data(record, data_root=given.get("data_root"))
        report, samples = audit_run(run, dataset=dataset, find_duplicates=find_duplicates), dataset.train
        folder = Path(given.get("out") or run)
    save(report, record, samples, folder)
    if given.get("json"):
        print(json.dumps({**summary(report), "folder": str(folder)}))
    else:
        print("\n".join(lines(report, folder)))
    return 0


def audit_at_the_end(run: Path | str, dataset: Dataset) -> LabelReport:
    """The report of a run that has just finished, written into its folder."""
    record = read_run(run)
    report = audit_run(run, dataset=dataset)
    save(report, record, dataset.train, Path(run))
    return report


def audit_others(record: RunRecord, spec: DataSpec, *, find_duplicates: bool = True) -> tuple[LabelReport, Samples]:
    """What a run's model thinks of labels that it never saw.

    Args:
        record: of a finished run.
        spec: the data. All its samples are looked at, its own test set included.
        find_duplicates: look for samples that are nearly the same.

    Raises:
        UserError: data that cannot be read, have other classes, or samples of another kind or shape.
    """
    model = load_model(record.path)
    data = load(spec, data_root=spec.root)
    if unknown := sorted(set(data.class_names) - set(model.class_names)):
        raise UserError(
            f"{spec.source} has classes that the run in {record.path} does not know: {', '.join(unknown[:SHOWN])}. "
            f"It knows {', '.join(model.class_names[:SHOWN])}{', ...' if len(model.class_names) > SHOWN else ''}"
        )
    samples = _joined(data)
    number = {name: k for k, name in enumerate(model.class_names)}
    labels = np.array([number[name] for name in data.class_names], dtype=np.int64)[samples.labels]
    report = audit_labels(
        labels,
        model.predict_proba(samples),
        class_names=model.class_names,
        ids=samples.ids,
        paths=None if samples.paths is None else list(map(str, samples.paths)),
        duplicates=alike(samples) if find_duplicates else (),
        facts={
            "source": "new data",
            "folder": str(record.path),
            "method": model.method,
            "data": data.name,
            "state": record.status["state"],
            "notes": list(data.notes),
        },
    )
    return report, samples


def _joined(data: Dataset) -> Samples:
    """Training and test samples together: here both are only looked at."""
    first, second = data.train, data.test
    if set(first.ids) & set(second.ids):
        return first

    def both(name: str) -> Any:
        one, other = getattr(first, name), getattr(second, name)
        if one is None or other is None:
            return None
        return np.concatenate([one, other]) if isinstance(one, np.ndarray) else (*one, *other)

    return Samples(**{name: both(name) for name in ("ids", "labels", "true_labels", "pixels", "features", "paths")})


def save(report: LabelReport, record: RunRecord, samples: Samples, folder: Path) -> None:
    """Write the report's files and its page."""
    report.save(folder)
    write_report_page(report, record, folder / "report.html", picture_of=pictures_of(samples))


def summary(report: LabelReport) -> dict[str, Any]:
    """The report in a few numbers."""
    noise = report.noise
    return {
        **report.facts,
        "num_samples": len(report),
        "num_label_issues": int(report.is_label_issue.sum()),
        "noise_rate": noise.rate,
        "noise_rate_low": noise.rate_low,
        "noise_rate_high": noise.rate_high,
    }


def lines(report: LabelReport, folder: Path) -> Iterable[str]:
    """What the user sees of a report."""
    noise, names = report.noise, report.class_names
    yield (
        f"{int(report.is_label_issue.sum()):,} of {len(report):,} labels look wrong: {percent(noise.rate)} "
        f"({percent(noise.rate_low)} to {percent(noise.rate_high)})"
    )
    if report.facts.get("state") not in ("finished", None):
        yield f"the run is {report.facts['state']}: this is what it knew after {report.facts.get('epochs', 0)} epochs"
    if confused := noise.confusions(SHOWN):
        yield "most often:"
        yield from (
            f"  {line}"
            for line in columns(
                (f"{count:.0f}", f"{names[right]!r}", f"labelled {names[given]!r}") for given, right, count in confused
            )
        )
    rows = report.rows([i for i in report.ranked()[:SHOWN] if report.is_label_issue[i]])
    if rows:
        yield "look first at:"
        yield from (
            f"  {line}"
            for line in columns(
                (
                    row["id"],
                    f"{row['given_label']!r}",
                    f"looks like {row['suggested_label']!r}",
                    percent(row["confidence"]),
                )
                for row in rows
            )
        )
    if conflicts := sum(map(bool, report.columns["conflicting_duplicates"])):
        yield f"{conflicts} samples are nearly the same as one with another label"
    yield f"report: {folder / 'report.html'} (and label_report.csv beside it)"
    if report.facts.get("source") == "run":
        yield f"next: acto review {folder}, to go through them; then acto apply {folder}/decisions.csv --run {folder}"
