"""The report on labels by several people: a row a sample, a row an annotator, and each one's mistakes.

    consensus.csv              a row a sample
    consensus_annotators.csv   a row an annotator
    consensus_confusion.csv    annotator, right and given class, and how often that happens
    consensus.json             method, facts and notes

torch is never imported here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError, choose
from acto.core.files import disk_errors, write_atomically
from acto.core.sample_csv import sample_csv
from acto.core.text import counted
from acto.data.label_columns import Labels
from acto.data.votes import Floats, named
from acto.labels.report import Table

NAME = "consensus"
"""Beginning of the files' names."""
LOW_QUALITY = 0.5
"""A consensus below it is hardly one."""
_LEAST_SHARE = 5e-4
"""Rarer mistakes are left out of consensus_confusion.csv."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class ConsensusReport:
    """Consensus labels with their quality, and the annotators with theirs. Make one with acto.consensus."""

    class_names: tuple[str, ...]
    samples: Table
    """By column, (N,) each: id; consensus_label (empty where nobody labelled) and consensus_quality, the probability
    that it is right; num_labels; agreement, the share of the labels that are the consensus; predicted_label of the
    model, if there is one; label_next, the larger the more another label of it would tell; labels, in words."""
    annotators: Table
    """By column, (M,) each: annotator; quality, the share of its labels that seem right; num_labels; num_shared, those
    of samples that others labelled too; agreement_with_consensus and agreement_with_others on these; and the mistake
    that it makes most often: often_given, instead_of, times."""
    probs: Floats
    """(N, K) of the right class."""
    confusion: Floats
    """(M, K, K) chance of each annotator to give class [2] where class [1] is right."""
    facts: Mapping[str, Any]
    """Method and what it found, pairwise_agreement and alpha (Krippendorff). Plain values."""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.samples["id"])

    def __repr__(self) -> str:
        quality, labelled = self.quality, self.consensus >= 0
        worst = ", ".join(
            f"{self.annotators['annotator'][j]} {self.annotators['quality'][j]:.2f}"
            for j in np.argsort(np.asarray(self.annotators["quality"]), kind="stable")[:3]
        )
        low = int((quality[labelled] < LOW_QUALITY).sum())
        mean = f"{quality[labelled].mean():.3f}" if labelled.any() else "-"
        people, model = len(self.annotators["annotator"]), " with a model" if self.facts["with_model"] else ""
        return (
            f"ConsensusReport({counted(len(self), 'sample')}, {counted(people, 'annotator')}, "
            f"{len(self.class_names)} classes, {self.facts['method']}{model}: "
            f"mean quality {mean}, {low:,} below {LOW_QUALITY}; least trusted: {worst})"
        )

    @property
    def consensus(self) -> Labels:
        """(N,) class numbers; -1 where nobody labelled."""
        number = {name: k for k, name in enumerate(self.class_names)}
        return np.array([number.get(name, -1) for name in self.samples["consensus_label"]], np.int64)

    @property
    def quality(self) -> npt.NDArray[np.float32]:
        """(N,) probability that the consensus is right; 0 where nobody labelled."""
        return np.asarray(self.samples["consensus_quality"])

    def label_next(self, count: int) -> list[str]:
        """Ids of the `count` samples of which another label would tell most, the first first."""
        order = np.lexsort((np.asarray(self.samples["num_labels"]), -np.asarray(self.samples["label_next"])))
        return [self.samples["id"][i] for i in order[:count].tolist()]

    def confusion_matrix(self, annotator: str) -> Floats:
        """(K, K) of one annotator: row right class, column given class; rows add up to 1.

        Raises:
            UserError: there is no such annotator.
        """
        names = list(self.annotators["annotator"])
        found: Floats = self.confusion[names.index(choose("annotator", annotator, names))]
        return found

    def to_frame(self, table: str = "samples") -> Any:
        """One of the tables samples, annotators and confusion as a pandas.DataFrame.

        Raises:
            UserError: pandas is not installed, or there is no such table.
        """
        tables = self._tables()
        chosen = tables[choose("table", table, tables)]
        try:
            import pandas
        except ImportError as error:
            raise UserError("to_frame() needs pandas: pip install pandas") from error
        return pandas.DataFrame(dict(chosen))

    def save(self, folder: Path | str) -> list[Path]:
        """Write the report's files into `folder` and return their paths; a text that a spreadsheet would take for a
        formula gets a leading apostrophe.

        Raises:
            acto.core.errors.RunError: the disk refuses.
        """
        folder = Path(folder)
        files: dict[str, bytes] = {}
        types: dict[str, dict[str, str]] = {}
        for name, table in self._tables().items():
            files[f"{NAME}.csv" if name == "samples" else f"{NAME}_{name}.csv"], types[name] = sample_csv(table)
        described = {
            "class_names": list(self.class_names),
            "facts": {**self.facts, **self.summary()},
            "notes": list(self.notes),
            "columns": types,
        }
        files[f"{NAME}.json"] = json.dumps(described, indent=1, allow_nan=False).encode() + b"\n"
        with disk_errors(f"write the consensus into {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
            for name, data in files.items():
                write_atomically(folder / name, data)
        return [folder / name for name in files]

    def summary(self) -> dict[str, Any]:
        """The report in a few numbers."""
        labelled = self.consensus >= 0
        return {
            "num_samples": len(self),
            "num_annotators": len(self.annotators["annotator"]),
            "num_labels": int(np.sum(self.samples["num_labels"])),
            "num_without_labels": int((~labelled).sum()),
            "mean_quality": float(self.quality[labelled].mean()),
            "num_low_quality": int((self.quality[labelled] < LOW_QUALITY).sum()),
        }

    def _tables(self) -> dict[str, Table]:
        of, right, given = np.nonzero(self.confusion > _LEAST_SHARE)
        confusion: Table = {
            "annotator": named(self.annotators["annotator"], of),  # type: ignore[arg-type]
            "right_label": named(self.class_names, right),
            "given_label": named(self.class_names, given),
            "share": self.confusion[of, right, given].astype(np.float32),
        }
        return {"samples": self.samples, "annotators": self.annotators, "confusion": confusion}
