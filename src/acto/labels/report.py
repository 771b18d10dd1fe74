"""The list of labels to look at: a row a sample, and the noise in numbers. acto.labels.audit fills it.

    label_report.csv       the table; label_report.parquet beside it where pyarrow is installed
    label_report.json      the types of its columns, the facts and the estimate of the noise

Column names are cleanlab's where they mean the same. torch is never imported here.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.documents import read_json
from acto.core.errors import RunError, UserError
from acto.core.files import disk_errors, write_atomically
from acto.core.lazy_texts import LazyTexts
from acto.core.sample_columns import of_report
from acto.core.sample_csv import column_types, read_sample_csv, sample_csv_parts, sample_parquet_parts
from acto.core.text import percent

NAME = "label_report"
"""Name of the files, before their endings."""
MOST_PAIRS = 40_000
"""Pairs of classes that an estimate of the noise keeps, the most frequent: all of up to 200 classes. Of 5,000 classes
label_report.json would take hundreds of megabytes with all."""
SEPARATOR = "; "
"""Between the ids in the columns of duplicates."""

Table = dict[str, npt.NDArray[Any] | Sequence[str]]
"""Name -> (N,) numbers or booleans, or texts: a list, or what makes them when they are looked at."""


def cells(column: npt.NDArray[Any] | Sequence[str], rows: npt.NDArray[np.int64]) -> list[Any]:
    """The plain values of these rows of a column of a Table."""
    if isinstance(column, np.ndarray):
        return column[rows].tolist()
    return column.take(rows) if isinstance(column, LazyTexts) else [column[i] for i in rows.tolist()]


@dataclass(frozen=True, slots=True)
class Doubt:
    """Reason not to believe an audit."""

    code: str
    """One word that stays the same, for programs: collapsed_model, chance_level, lost_classes, weak_model, cut_short,
    memorized, few_samples."""
    text: str
    """Sentences for people: the finding, and the help."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NoiseEstimate:
    """Estimate of how many labels are wrong, and of which classes are taken for which.

    Pairs of a given and a right class are kept where they occur, ordered by these two: with K classes there are K * K,
    of which N samples can fill but N.
    """

    rate: float
    """Share of wrong labels, in [0, 1]."""
    rate_low: float
    """Lower end of a 95 % interval that covers the model's own errors (acto.labels.rate). In reports of earlier
    versions, which name `resamples`, it was a bootstrap's and knew the luck of the draw alone."""
    rate_high: float
    given: npt.NDArray[np.int64]
    """(P,) the given class of each pair."""
    right: npt.NDArray[np.int64]
    """(P,) its right class; equal to `given` where labels are right."""
    share: npt.NDArray[np.float64]
    """(P,) of the samples that were given this class, the share whose right class is that one."""
    low: npt.NDArray[np.float64]
    """(P,) ends of an interval of the same kind."""
    high: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    """(K,) samples that were given each class."""
    resamples: int
    """Resamples of an earlier version's bootstrap; 0 where the interval covers the model's errors."""

    @classmethod
    def of_matrices(
        cls,
        matrix: npt.NDArray[np.float64],
        low: npt.NDArray[np.float64],
        high: npt.NDArray[np.float64],
        *,
        counts: npt.NDArray[np.int64],
        **others: Any,
    ) -> NoiseEstimate:
        """The same from (K, K) tables of shares, as reports of earlier versions hold them; see `matrix`."""
        given, right = np.nonzero(((matrix != 0) | (low != 0) | (high != 0)) & (counts > 0)[:, None])
        pairs: dict[str, Any] = {"share": matrix[given, right], "low": low[given, right], "high": high[given, right]}
        return cls(given=given, right=right, counts=counts, **pairs, **others)

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """(K, K): of the samples that were given the row's class, the share whose right class is the column's.

        Made anew whenever it is asked for, 8 * K * K bytes. Rows add up to 1, but where more than MOST_PAIRS pairs
        occur the rarest are missing; the row of a class without samples is 1 on the diagonal.
        """
        return self._dense(self.share)

    @property
    def matrix_low(self) -> npt.NDArray[np.float64]:
        """(K, K) ends of an interval of the same kind."""
        return self._dense(self.low)

    @property
    def matrix_high(self) -> npt.NDArray[np.float64]:
        """(K, K) ends of an interval of the same kind."""
        return self._dense(self.high)

    def _dense(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        table = np.diag(np.where(self.counts > 0, 0.0, 1.0))
        table[self.given, self.right] = values
        return table

    def transition_matrix(self) -> npt.NDArray[np.float64]:
        """(K, K): of the samples whose right class is the row's, the share that was given the column's.

        Rows add up to 1. A class that is right for no sample has 1 on the diagonal.
        """
        joint = self.matrix
        joint *= self.counts[:, None]
        joint = joint.T
        sums = joint.sum(1)
        joint /= np.where(sums > 0, sums, 1)[:, None]
        unseen = np.flatnonzero(~(sums > 0))
        joint[unseen, unseen] = 1.0
        return joint

    def mistakes(self, count: int) -> npt.NDArray[np.int64]:
        """Positions of the `count` most frequent pairs of different classes, the most frequent first."""
        wrong = np.flatnonzero((self.given != self.right) & (self.samples > 0))
        return wrong[np.argsort(-self.samples[wrong], kind="stable")[:count]]

    @property
    def samples(self) -> npt.NDArray[np.float64]:
        """(P,) number of samples of each pair (estimated)."""
        return self.share * self.counts[self.given]

    def confusions(self, count: int) -> list[tuple[int, int, float]]:
        """The `count` most frequent mistakes: given class, right class, number of samples (estimated)."""
        found = self.mistakes(count)
        columns = (self.given[found], self.right[found], self.samples[found])
        return list(zip(*(column.tolist() for column in columns), strict=True))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelReport:
    """Every sample with what is thought of its label. Make one with acto.audit."""

    class_names: tuple[str, ...]
    columns: Table
    """Those of acto.core.sample_columns.of_report that are known, (N,) each, in the order of the samples."""
    noise: NoiseEstimate
    facts: Mapping[str, Any]
    """Origin of the report: source ("run", "new data" or "pred_probs"), and of a run its folder, method, data, state
    and
    epochs; of probabilities, the score and the rule, and what each rule found. Plain values."""
    warnings: tuple[Doubt, ...] = ()
    """Reasons not to believe it, the worst first."""
    look_first: Mapping[str, int] = field(default_factory=dict)
    """Number of the first suspects that are expected to be wrong with a precision, "0.9" and "0.75"."""

    def __repr__(self) -> str:
        return (
            f"<LabelReport: {int(self.is_label_issue.sum()):,} of {len(self):,} labels in {len(self.class_names):,} "
            f"classes look wrong, an estimated {percent(self.noise.rate)} "
            f"({percent(self.noise.rate_low)} to {percent(self.noise.rate_high)})>"
        )

    def __len__(self) -> int:
        return len(self.columns["id"])

    @property
    def is_label_issue(self) -> npt.NDArray[np.bool_]:
        """(N,) whether each label is thought to be wrong."""
        return np.asarray(self.columns["is_label_issue"])

    @property
    def label_quality(self) -> npt.NDArray[np.float32]:
        """(N,) trust in each label, 1 = trustworthy."""
        return np.asarray(self.columns["label_quality"])

    def ranked(self) -> npt.NDArray[np.int64]:
        """(N,) row numbers: issues first, and of these, as of the rest, the least trustworthy first."""
        return np.lexsort((self.label_quality, ~self.is_label_issue))

    def rows(self, index: Iterable[int]) -> list[dict[str, Any]]:
        """These rows as plain values by column."""
        wanted = np.array([int(i) for i in index], dtype=np.int64)
        found = {name: cells(column, wanted) for name, column in self.columns.items()}
        return [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]

    def to_frame(self) -> Any:
        """The columns as a pandas.DataFrame, in the order of the samples.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise UserError("to_frame() needs pandas: pip install pandas") from error
        return pandas.DataFrame(dict(self.columns))

    def save(self, folder: Path | str) -> list[Path]:
        """Write the report's files into `folder` and return their paths; a text that a spreadsheet would take for a
        formula gets a leading apostrophe in the CSV.

        Raises:
            acto.core.errors.RunError: the disk refuses.
        """
        folder = Path(folder)
        described = {
            "class_names": list(self.class_names),
            "columns": column_types(self.columns),
            "facts": dict(self.facts),
            "warnings": [asdict(doubt) for doubt in self.warnings],
            "look_first": dict(self.look_first),
            "noise": {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in asdict(self.noise).items()},
        }
        files: dict[str, bytes | Iterator[bytes]] = {
            f"{NAME}.csv": sample_csv_parts(self.columns),
            f"{NAME}.json": json.dumps(described, indent=1, allow_nan=False).encode() + b"\n",
        }
        if importlib.util.find_spec("pyarrow") is not None:
            files[f"{NAME}.parquet"] = sample_parquet_parts(self.columns)
        with disk_errors(f"write the label report into {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
            for name, data in files.items():
                write_atomically(folder / name, data)
        return [folder / name for name in files]


def read_report(folder: Path | str) -> LabelReport:
    """The report that LabelReport.save wrote into `folder`.

    Raises:
        UserError: there is none.
        acto.core.errors.RunError: a file is damaged.
    """
    path = Path(folder) / f"{NAME}.json"
    if not path.is_file():
        raise UserError(f"{folder} has no label report: `acto audit {folder}` makes one of a run")
    with disk_errors(f"read {path}"):
        described = read_json(path, error=RunError)
        try:
            names = described["class_names"]
            if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
                raise ValueError("class_names is no list of texts")
            report = LabelReport(
                class_names=tuple(names),
                columns=dict(read_sample_csv(path.with_suffix(".csv"), described["columns"])),
                noise=_noise(described["noise"], num_classes=len(names)),
                facts=described["facts"],
                # Reports of earlier versions have neither.
                warnings=tuple(Doubt(**doubt) for doubt in described.get("warnings", ())),
                look_first=described.get("look_first", {}),
            )
            _check(report)
        except KeyError as error:
            raise RunError(f"{path} is damaged: it has no {error}") from error
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise RunError(f"{path} is damaged: {error}") from error
    return report


_NEEDED = ("id", "given_label", "suggested_label", "is_label_issue", "label_quality")


def _check(report: LabelReport) -> None:
    """Raise ValueError or KeyError for a report that this package cannot have written: the file may be anybody's."""
    names, columns, noise = set(report.class_names), report.columns, report.noise
    if len(names) < len(report.class_names):
        raise ValueError("class_names has a name twice")
    for name in _NEEDED:
        if not len(columns[name]):
            raise ValueError("it is about no samples")
    for column in of_report():
        values = columns.get(column.name)
        if values is None:
            continue
        found = "text" if not isinstance(values, np.ndarray) else "bool" if values.dtype == bool else "number"
        wanted = {"text": "text", "class": "text", "bool": "bool"}.get(column.kind, "number")
        if found != wanted:
            raise ValueError(f"column {column.name} is of the kind {found}, not {wanted}")
    if strange := next((label for label in columns["given_label"] if label not in names), None):
        raise ValueError(f"given_label {strange!r} is none of class_names")
    shares = dict.fromkeys(("share", "low", "high"), noise.given.shape)
    for name, shape in {**shares, **dict.fromkeys(("rate", "rate_low", "rate_high"), ())}.items():
        _check_numbers(f"noise.{name}", getattr(noise, name), shape=shape, high=1)
    _check_numbers("noise.counts", noise.counts, shape=(len(names),), high=len(report))
    _check_numbers("noise.resamples", noise.resamples, shape=(), high=2**31)
    if not all(isinstance(text, str) for doubt in report.warnings for text in (doubt.code, doubt.text)):
        raise ValueError("warnings are no texts")
    for precision, count in dict(report.look_first).items():
        _check_numbers(f"look_first.{precision}", count, shape=(), high=len(report))
    if not isinstance(report.facts, dict) or not isinstance(report.facts.get("folder", ""), str):
        raise ValueError("facts is no mapping with a text as folder")


def _check_numbers(name: str, values: Any, *, shape: tuple[int, ...], high: float) -> None:
    found = np.asarray(values)
    if found.shape != shape or found.dtype.kind not in "iuf":
        raise ValueError(f"{name} is {found.dtype} of shape {found.shape}, not numbers of shape {shape}")
    if not bool(((found >= 0) & (found <= high * (1 + 1e-9))).all()):
        raise ValueError(f"{name} has numbers outside [0, {high:g}]")


def _noise(described: Mapping[str, Any], *, num_classes: int) -> NoiseEstimate:
    """The estimate as JSON holds it, or as earlier versions wrote it: with all of its (K, K) tables.

    Raises:
        ValueError: it does not fit `num_classes`; KeyError and TypeError as well.
    """
    kinds = {"given": np.int64, "right": np.int64, "counts": np.int64}
    noise: dict[str, Any] = {
        k: np.array(v, dtype=kinds.get(k, np.float64)) if isinstance(v, list) else v for k, v in described.items()
    }
    tables = [noise.pop(name) for name in ("matrix", "matrix_low", "matrix_high") if name in noise]
    shapes = {np.shape(noise["counts"]): (num_classes,)} | {table.shape: (num_classes,) * 2 for table in tables}
    if any(shape != wanted for shape, wanted in shapes.items()):
        raise ValueError(f"its estimate of the noise is not of {num_classes} classes")
    if tables:
        return NoiseEstimate.of_matrices(*tables, **noise)
    found = NoiseEstimate(**noise)
    classes = np.concatenate([found.given, found.right])
    if len({np.shape(noise[name]) for name in ("given", "right", "share", "low", "high")}) > 1 or (
        len(classes) and not 0 <= classes.min() <= classes.max() < num_classes
    ):
        raise ValueError("its pairs of classes do not fit together")
    return found
