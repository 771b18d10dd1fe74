"""The part of `acto audit` that needs PyTorch: the labels of a run, or labels that its model never saw."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acto.core.errors import UserError
from acto.labels.report import LabelReport
from acto.labels.run_audit import audit_others, audit_run, judged_samples, save, training_data
from acto.run_folder.reading import read_run


def audit_of_run(given: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[LabelReport, Path]:
    """Audit what the flags say, and save the report; gives its folder as well.

    Args:
        given: the flags.
        columns: those about a table, by the settings that they are.

    Raises:
        UserError: see acto.labels.run_audit.
    """
    run = Path(given["run"])
    find_duplicates, trust = not given.get("no_duplicates", False), given.get("trust_net", False)
    record = read_run(run)
    if columns and "data" not in given:
        raise UserError(f"--{next(iter(columns)).replace('_', '-')} is about other data: it goes with --data")
    if (source := given.get("data")) is not None:
        report, samples = audit_others(
            record,
            source,
            data_root=given.get("data_root"),
            columns=columns,
            find_duplicates=find_duplicates,
            trust=trust,
        )
        folder = Path(given.get("out") or run / f"audit-{Path(source).stem}")
    else:
        dataset = training_data(record, data_root=given.get("data_root"))
        report = audit_run(run, dataset=dataset, find_duplicates=find_duplicates, trust=trust)
        samples = judged_samples(dataset, held_out="held_out" in report.columns)
        folder = Path(given.get("out") or run)
    save(report, record, samples, folder)
    return report, folder
