"""Numbers of numeric and categorical columns: fitted by scikit-learn's ColumnTransformer, kept and applied as numbers.

What was fitted is a list of medians, means, deviations and categories. It is kept as such: a pickled transformer would
run code where it is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError
from acto.core.text import counted
from acto.data.tables.rows import Rows, as_days, as_numbers, as_texts, text_cells

LEAST_ROWS = 5
"""Categories that fewer training rows have are one together."""
MOST_CATEGORIES = 100
"""Numbers that a column of categories becomes at most; beyond, the rarest are one together."""
FARTHEST = 10.0
"""Deviations from the mean at which a number is cut off: one wild cell outweighs no other column."""
_KINDS = {"number": as_numbers, "date": as_days}
_SHOWN = 5

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Numbers:
    """Columns of numbers and dates: the median where nothing stands, then mean 0 and deviation 1."""

    columns: tuple[str, ...]
    kinds: tuple[str, ...]
    """"number" or "date" (days since 1970), one a column."""
    medians: tuple[float, ...]
    gaps: tuple[int, ...]
    """Positions of the columns that lacked cells in training: each gets a number beside it, 1 where one is missing."""
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    """Deviations of the columns, then of the numbers for `gaps`; so the means."""

    @property
    def width(self) -> int:
        """Numbers that a row becomes."""
        return len(self.means)

    def check(self) -> None:
        """Raise ValueError where the parts do not fit together: they may be out of anybody's file."""
        count = len(self.columns)
        numbers = np.array([*self.medians, *self.means, *self.deviations])
        if not (
            len(self.kinds) == len(self.medians) == count
            and len(self.means) == len(self.deviations) == count + len(self.gaps)
            and set(self.kinds) <= _KINDS.keys()
            and all(0 <= gap < count for gap in self.gaps)
            and np.isfinite(numbers).all()
            and all(deviation > 0 for deviation in self.deviations)
        ):
            raise ValueError("its numbers do not fit together")

    def encode(self, rows: Rows) -> Floats:
        """(N, width) float64.

        Raises:
            UserError: a cell that is no number or date.
        """
        values = _values(rows, self.columns, self.kinds)
        missing = np.isnan(values)
        filled = np.where(missing, np.array(self.medians), values)
        together = np.hstack([filled, missing[:, list(self.gaps)]])
        return np.clip((together - np.array(self.means)) / np.array(self.deviations), -FARTHEST, FARTHEST)


@dataclass(frozen=True, kw_only=True, slots=True)
class Categories:
    """Columns of categories: a number for each frequent one, 1 where a row has it, and one for all others together."""

    columns: tuple[str, ...]
    frequent: tuple[tuple[str, ...], ...]
    """Categories that have a number of their own, a list a column; an empty text where nothing stands."""
    has_others: tuple[bool, ...]
    """True where training saw rare ones: new ones count as such, elsewhere they are 0 everywhere."""

    @property
    def width(self) -> int:
        """Numbers that a row becomes."""
        return sum(map(len, self.frequent)) + sum(self.has_others)

    def check(self) -> None:
        """Raise ValueError where the parts do not fit together."""
        if not len(self.columns) == len(self.frequent) == len(self.has_others):
            raise ValueError("its categories do not fit together")

    def encode(self, rows: Rows) -> Floats:
        """(N, width) of 0 and 1."""
        found, start = np.zeros((len(rows), self.width)), 0
        for name, frequent, has_others in zip(self.columns, self.frequent, self.has_others, strict=True):
            place = {text: start + k for k, text in enumerate(frequent)}
            start += len(frequent) + has_others
            other = start - 1 if has_others else -1
            places = np.array([place.get(text, other) for text in as_texts(rows.cells[name])], dtype=np.int64)
            known = np.flatnonzero(places >= 0)
            found[known, places[known]] = 1.0
        return found


def fit_columns(rows: Rows, kinds: dict[str, str]) -> tuple[Numbers | None, Categories | None, list[str]]:
    """Fit the encoding of columns, and tell what one has to know of it.

    Args:
        rows: of the training, N >= 1.
        kinds: "number", "date" or "category", by column.

    Raises:
        UserError: a number that is not finite.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numeric = [name for name, kind in kinds.items() if kind in _KINDS]
    categorical = [name for name, kind in kinds.items() if kind == "category"]
    values = _values(rows, numeric, [kinds[name] for name in numeric])
    texts = [text_cells(as_texts(rows.cells[name])) for name in categorical]
    table = np.empty((len(rows), len(kinds)), dtype=object)
    table[:, : len(numeric)] = values
    for place, column in enumerate(texts, len(numeric)):
        table[:, place] = column
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    one_hot = OneHotEncoder(
        min_frequency=LEAST_ROWS, max_categories=MOST_CATEGORIES, handle_unknown="infrequent_if_exist"
    )
    parts = [("numbers", numbers, slice(0, len(numeric))), ("categories", one_hot, slice(len(numeric), None))]
    fitted = ColumnTransformer([part for part, there in zip(parts, (numeric, categorical), strict=True) if there])
    fitted.fit(table)
    made, notes = None, []
    if numeric:
        imputer, scaler = (step for _, step in fitted.named_transformers_["numbers"].steps)
        gaps = imputer.indicator_.features_.tolist()
        made = Numbers(
            columns=tuple(numeric),
            kinds=tuple(kinds[name] for name in numeric),
            medians=tuple(imputer.statistics_.tolist()),
            gaps=tuple(gaps),
            means=tuple(scaler.mean_.tolist()),
            deviations=tuple(scaler.scale_.tolist()),
        )
        if gaps:
            missing = np.isnan(values).sum(0)
            said = [f"{numeric[k]!r} ({missing[k]:,} of {len(rows):,})" for k in gaps]
            notes.append(f"cells are missing in {_first(said)}: the median stands there, and a mark that it does")
        if dates := [repr(name) for name in numeric if kinds[name] == "date"]:
            notes.append(f"{_first(dates)} {'holds' if len(dates) == 1 else 'hold'} dates: used as days since 1970")
    if not categorical:
        return made, None, notes
    encoder = fitted.named_transformers_["categories"]
    rare = [[] if found is None else found.tolist() for found in encoder.infrequent_categories_]
    frequent = [
        tuple(text for text in found.tolist() if text not in set(few))
        for found, few in zip(encoder.categories_, rare, strict=True)
    ]
    grouped = [f"{name!r} ({len(few):,} of them)" for name, few in zip(categorical, rare, strict=True) if few]
    if grouped:
        notes.append(
            f"rare categories count as one in {_first(grouped)}: fewer than {LEAST_ROWS} rows have each, or there are "
            f"more than {MOST_CATEGORIES}"
        )
    made_of_texts = Categories(
        columns=tuple(categorical), frequent=tuple(frequent), has_others=tuple(bool(few) for few in rare)
    )
    return made, made_of_texts, notes


def _values(rows: Rows, columns: Sequence[str], kinds: Sequence[str]) -> Floats:
    """(N, C) the columns as numbers, NaN where nothing stands.

    Raises:
        UserError: a cell that is no number, or no finite one.
    """
    found = np.empty((len(rows), len(columns)))
    for place, (name, kind) in enumerate(zip(columns, kinds, strict=True)):
        cells = rows.cells[name]
        if kind == "date" and cells.dtype.kind == "f" and not np.isnan(cells).all():
            bad = int(np.flatnonzero(~np.isnan(cells))[0])
        else:
            found[:, place], bad = _KINDS[kind](cells)
        if bad >= 0:
            words = "no number" if kind == "number" else "no date such as 2024-12-31"
            raise UserError(
                f"{rows.where(bad)}: column {name!r} was one of {kind}s in training, but {as_texts(cells)[bad][:40]!r} "
                f"is {words}"
            )
        if (odd := np.flatnonzero(np.isinf(found[:, place]))).size:
            raise UserError(f"{rows.where(int(odd[0]))}: column {name!r} holds a number that is not finite")
    return found


def _first(texts: Sequence[str]) -> str:
    more = f" and {counted(len(texts) - _SHOWN, 'more column')}" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more
