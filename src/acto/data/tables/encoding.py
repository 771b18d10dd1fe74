"""The encoding of a run's rows: what makes numbers of cells and texts, fitted on training rows and kept with the run.

It is kept in one file of plain texts and numbers, encoding.safetensors: nothing in it can run.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from acto.core.documents import as_record, parse_json
from acto.core.errors import RunError, UserError
from acto.core.settings import from_values
from acto.data.tables.rows import Cells, Plan, Rows, are_dates
from acto.data.tables.table_blocks import Categories, Numbers, fit_columns
from acto.data.tables.text_block import Texts, fit_texts

ENCODING_FILE = "encoding.safetensors"
"""In the run's folder."""
_VERSION = 1
_FACTS = {"version": int, "label_column": str, "numbers": dict | None, "categories": dict | None, "texts": dict | None}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Encoding:
    """Fitted encoding of rows. Its parts stand side by side in what a row becomes."""

    numbers: Numbers | None = None
    categories: Categories | None = None
    texts: Texts | None = None
    label_column: str = ""
    """Column of the given labels in training; empty where it had no name."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that it needs."""
        tables = [part.columns for part in (self.numbers, self.categories) if part is not None]
        return (*(name for part in tables for name in part), *([self.texts.column] if self.texts is not None else []))

    @property
    def width(self) -> int:
        """Numbers that a row becomes."""
        return sum(part.width for part in (self.numbers, self.categories, self.texts) if part is not None)

    @property
    def plan(self) -> Plan:
        """The columns that it was fitted on, and what they hold."""
        categories = self.categories.columns if self.categories is not None else ()
        return Plan(
            columns=self.columns,
            is_text=self.texts is not None,
            categories=categories,
            label_column=self.label_column,
        )

    def encode(self, rows: Rows) -> npt.NDArray[np.float32]:
        """(N, D) features.

        Raises:
            UserError: the rows lack a column, or a cell is no number where training had numbers.
        """
        rows.require(self.columns)
        parts = [part.encode(rows) for part in (self.numbers, self.categories, self.texts) if part is not None]
        return np.hstack(parts).astype(np.float32)

    def to_bytes(self) -> bytes:
        """The content of ENCODING_FILE."""
        facts: dict[str, Any] = {
            "version": _VERSION,
            "label_column": self.label_column,
            "numbers": None if self.numbers is None else asdict(self.numbers),
            "categories": None if self.categories is None else asdict(self.categories),
            "texts": None if self.texts is None else {"column": self.texts.column, "terms": self.texts.terms},
        }
        arrays: dict[str, npt.NDArray[Any]] = {}
        if self.texts is not None:
            arrays = {f"weights{k}": weights for k, weights in enumerate(self.texts.weights)}
            arrays["components"] = self.texts.components
        # The format writes memory as it lies, and says nothing of another order.
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        return safetensors.numpy.save(arrays, {"acto": json.dumps(facts)})


def read_encoding(data: bytes, name: str) -> Encoding:
    """An encoding from the content of ENCODING_FILE; `name` stands in errors.

    Raises:
        RunError: it is damaged.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        facts = parse_json(parse_json(data[8 : 8 + length], name)["__metadata__"]["acto"], name)
        facts = as_record(facts, _FACTS, name, error=RunError)
        arrays = safetensors.numpy.load(data)
        if facts["version"] != _VERSION:
            raise RunError(f"{name} was written by a later version of acto (format {facts['version']})")
        texts = None
        if facts["texts"] is not None:
            texts = Texts(
                column=str(facts["texts"]["column"]),
                terms=tuple(tuple(map(str, terms)) for terms in facts["texts"]["terms"]),
                weights=tuple(arrays[f"weights{k}"] for k in range(len(facts["texts"]["terms"]))),
                components=arrays["components"],
            )
        found = Encoding(
            numbers=None if facts["numbers"] is None else from_values(Numbers, facts["numbers"]),
            categories=None if facts["categories"] is None else from_values(Categories, facts["categories"]),
            texts=texts,
            label_column=facts["label_column"],
        )
        parts = [part for part in (found.numbers, found.categories, found.texts) if part is not None]
        for part in parts:
            part.check()
        if not parts:
            raise ValueError("it encodes nothing")
    except (UserError, SafetensorError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RunError(f"{name} is damaged, or no encoding of ours: {error}") from error
    return found


def fit_encoding(rows: Rows) -> tuple[Encoding, list[str]]:
    """Fit an encoding on rows of the training alone, as their plan says; and tell what one has to know of it.

    Raises:
        UserError: cells of which no numbers can be made.
    """
    plan = rows.plan
    if plan.is_text:
        texts, notes = fit_texts(rows, plan.columns[0])
        return Encoding(texts=texts, label_column=plan.label_column), notes
    kinds = {name: "category" if name in plan.categories else _kind(rows.cells[name]) for name in plan.columns}
    numbers, categories, notes = fit_columns(rows, kinds)
    return Encoding(numbers=numbers, categories=categories, label_column=plan.label_column), notes


def _kind(cells: Cells) -> str:
    return "number" if cells.dtype.kind == "f" else "date" if are_dates(cells) else "category"
