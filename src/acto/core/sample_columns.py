"""The columns of a training sample: one table, from which training, files, page and documents take theirs.

A column that training records shows a tally; a tally takes a word of Step.per_sample. torch is never imported here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Literal, TypeVar

Values = TypeVar("Values")


@dataclass(frozen=True, slots=True)
class Tally:
    """A number that training keeps of each sample while it goes on."""

    place: int
    """In the sample's row, which checkpoints hold: a new tally takes the next free place, and none ever moves."""
    how: Literal["visits", "sum", "last", "own"]
    """It counts the visits in which a method says `word` (all visits, where that is empty), adds the word's values up,
    keeps the last one, or has a rule of its own in training.history."""
    word: str = ""
    """A name in Step.per_sample."""
    _: KW_ONLY
    dtype: Literal["int32", "float32"] = "int32"
    start: float = 0
    """Its value before the first visit."""


TALLIES = {
    "visits": Tally(0, "visits"),
    "fits": Tally(1, "own"),
    "selectable": Tally(2, "visits", "selected"),
    "memorizable": Tally(3, "visits", "memorized"),
    "selected": Tally(4, "sum", "selected"),
    "mined": Tally(5, "sum", "mined"),
    "memorized": Tally(6, "sum", "memorized"),
    "first_fit": Tally(7, "own", start=-1),
    "predicted": Tally(8, "last", "predicted", start=-1),
    "selected_now": Tally(9, "last", "selected"),
    "prob_given": Tally(10, "last", "prob_given", dtype="float32", start=math.nan),
    "prob_given_sum": Tally(11, "sum", "prob_given", dtype="float32"),
    "weight": Tally(12, "last", "weight", dtype="float32", start=math.nan),
}
"""By name; each is an attribute of training.history.History."""


@dataclass(frozen=True, slots=True)
class SampleColumn:
    """A column with a value for each training sample."""

    name: str
    words: str
    """Its meaning; the documents' tables begin with these words."""
    _: KW_ONLY
    origin: Literal["data", "model", "training", "audit"]
    """Its source: the data, the finished model, the tallies of training, or the look at the labels."""
    kind: Literal["text", "class", "bool", "int32", "int64", "float32"]
    """A class stands in files by its name, on the page by its number."""
    in_samples: bool = False
    """True if samples.csv holds it; one of training always stands there, where the audit reads it."""
    in_report: bool = True
    on_page: bool = False
    tally: str = ""
    """Tally that a column of training shows."""
    per: str = ""
    """The tally by which that one is divided, if any."""
    samples_before: str = ""
    """The column that samples.csv has next, where its order is not this table's, which is the report's."""


SAMPLE_COLUMNS = (
    SampleColumn("id", "the sample's name", origin="data", kind="text", in_samples=True, on_page=True),
    SampleColumn("path", "its picture file; empty where samples are no files",
                 origin="data", kind="text", on_page=True),
    SampleColumn("text", "its text, or the cells of its row, shortened", origin="data", kind="text", on_page=True),
    SampleColumn("given_label", "the class that the data (or the noise) gave it",
                 origin="data", kind="class", in_samples=True, on_page=True),
    SampleColumn("predicted_label", "the class that the model holds most likely",
                 origin="model", kind="class", in_samples=True, on_page=True),
    SampleColumn("suggested_label", "the predicted label where is_label_issue is true, else empty",
                 origin="audit", kind="class"),
    SampleColumn("is_label_issue", "whether the given label is thought to be wrong",
                 origin="audit", kind="bool", on_page=True),
    SampleColumn("prob_predicted", "probability of the predicted label",
                 origin="model", kind="float32", in_samples=True, in_report=False),
    SampleColumn("label_quality", "trust in the given label, 0 to 1, 1 = trustworthy",
                 origin="model", kind="float32", in_samples=True, on_page=True),
    SampleColumn("confidence", "probability of the predicted label", origin="audit", kind="float32", on_page=True),
    SampleColumn("prob_given", "probability of the given label",
                 origin="model", kind="float32", in_samples=True, samples_before="prob_predicted"),
    SampleColumn("outlier", "share of the samples with a confirmed label that look more like the trusted ones, 0 to 1",
                 origin="model", kind="float32", on_page=True),
    SampleColumn("networks_agree", "whether all of the method's predictions name the same class",
                 origin="audit", kind="bool", on_page=True),
    SampleColumn("times_selected", "visits in training that took the label for clean",
                 origin="training", kind="int32", tally="selected"),
    SampleColumn("times_mined", "of these: only the non-robust network fitted the label",
                 origin="training", kind="int32", tally="mined"),
    SampleColumn("reliability", "times_selected as a share of the visits that could select",
                 origin="training", kind="float32", tally="selected", per="selectable"),
    SampleColumn("weight", "the sample's weight at its last visit",
                 origin="training", kind="float32", tally="weight"),
    SampleColumn("mean_prob_given", "probability of the given label, averaged over the visits",
                 origin="training", kind="float32", tally="prob_given_sum", per="visits",
                 samples_before="times_selected"),
    SampleColumn("first_epoch_fit", "first epoch in which training saw the given label predicted; -1 never",
                 origin="training", kind="int64", tally="first_fit"),
    SampleColumn("memorization", "share of the visits in which only the non-robust network fitted the given label",
                 origin="training", kind="float32", tally="memorized", per="memorizable"),
    SampleColumn("visits", "how often training saw the sample", origin="training", kind="int32", tally="visits"),
    SampleColumn("held_out", "whether the sample was held out of training: the model had not seen its label",
                 origin="audit", kind="bool", on_page=True),
    SampleColumn("is_confirmed", "whether a person holds the given label right",
                 origin="audit", kind="bool", on_page=True),
    SampleColumn("near_duplicates", "ids of samples with nearly the same content",
                 origin="audit", kind="text", on_page=True),
    SampleColumn("conflicting_duplicates", "those of them whose given label is another one",
                 origin="audit", kind="text", on_page=True),
    SampleColumn("reason", "why the label is suspected, in words", origin="audit", kind="text", on_page=True),
    SampleColumn("label_is_true", "yes, no or unknown",
                 origin="data", kind="text", in_samples=True, in_report=False),
)  # fmt: skip
"""All of them, in the order of the label report. A report holds those of training only where training was recorded,
`networks_agree` only where the method has several predictions, `outlier` only where a network has seen the samples,
`held_out` only where some are, `is_confirmed` only where some label is, `text` only of rows and texts; samples.csv
holds `label_is_true` only where the truth is known, and behind the model's columns `predicted_label` and `prob_given`
of each other prediction, by its name."""


def of_training() -> tuple[SampleColumn, ...]:
    """The columns that training records."""
    return tuple(column for column in SAMPLE_COLUMNS if column.origin == "training")


def of_samples_csv() -> tuple[SampleColumn, ...]:
    """The columns of samples.csv, in its order."""
    found = [column for column in SAMPLE_COLUMNS if column.in_samples or column.origin == "training"]
    for moved in [column for column in found if column.samples_before]:
        found.remove(moved)
        found.insert([column.name for column in found].index(moved.samples_before), moved)
    return tuple(found)


def of_report() -> tuple[SampleColumn, ...]:
    """The columns of a label report, in its order."""
    return tuple(column for column in SAMPLE_COLUMNS if column.in_report)


def of_page() -> tuple[SampleColumn, ...]:
    """The columns that the report page hands to its script."""
    return tuple(column for column in SAMPLE_COLUMNS if column.on_page)


def in_order(values: Mapping[str, Values], order: Iterable[SampleColumn]) -> dict[str, Values]:
    """`values`, by the columns' names, in this order; columns without values are left out."""
    names = [column.name for column in order]
    assert set(values) <= set(names), f"no columns of this table: {sorted(set(values) - set(names))}"
    return {name: values[name] for name in names if name in values}
