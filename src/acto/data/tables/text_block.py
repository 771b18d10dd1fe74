"""Numbers of a column of texts: TF-IDF of words and of parts of words, brought down to a few hundred by an SVD.

What was fitted is two lists of terms with their weights, and a matrix. They are kept as texts and numbers, and
scikit-learn's vectorizers are made of them again; a pickled one would run code where it is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError
from acto.data.tables.rows import Rows, as_texts

NUM_DIMENSIONS = 256
"""Numbers that a text becomes at most."""
MOST_TERMS = 10_000
"""Words (and pairs of them), and parts of words, each, that are counted: the most frequent."""
_SHORTEST_USE = 2
"""Training texts that a term has to occur in."""
_BLOCK = 4096
"""Texts that are turned into numbers at a time."""
_ANALYZERS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("words", {"analyzer": "word", "ngram_range": (1, 2), "sublinear_tf": True}),
    ("parts", {"analyzer": "char_wb", "ngram_range": (3, 5), "sublinear_tf": True}),
)
"""Names of the two lists of terms, and how scikit-learn's TfidfVectorizer counts them."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Texts:
    """Column of texts."""

    column: str
    terms: tuple[tuple[str, ...], ...]
    """Terms of each of the two lists, in the order of their weights."""
    weights: tuple[npt.NDArray[np.float64], ...]
    """(T,) the inverse document frequency of each term."""
    components: npt.NDArray[np.float32]
    """(D, T of both lists) the directions that a text is measured along."""

    @property
    def width(self) -> int:
        """D."""
        return len(self.components)

    def check(self) -> None:
        """Raise ValueError where the parts do not fit together: they may be out of anybody's file."""
        lengths = [len(terms) for terms in self.terms]
        if (
            len(lengths) != len(_ANALYZERS)
            or [weights.shape for weights in self.weights] != [(length,) for length in lengths]
            or self.components.ndim != 2
            or self.components.shape != (self.width, sum(lengths))
            or not self.width
            or any(len(set(terms)) < len(terms) for terms in self.terms)
            or not all(np.isfinite(weights).all() for weights in self.weights)
            or not np.isfinite(self.components).all()
        ):
            raise ValueError("its terms do not fit together")

    def encode(self, rows: Rows) -> npt.NDArray[np.float64]:
        """(N, D), of length sqrt(D) each, so that a number is about 1; 0 for a text without any known term."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import FeatureUnion

        vectorizers = []
        for (name, options), terms, weights in zip(_ANALYZERS, self.terms, self.weights, strict=True):
            if terms:
                vectorizer = TfidfVectorizer(vocabulary={term: k for k, term in enumerate(terms)}, **options)
                vectorizer.idf_ = weights
                vectorizers.append((name, vectorizer))
        texts = as_texts(rows.cells[self.column])
        found = np.empty((len(texts), self.width))
        directions = self.components.T.astype(np.float64)
        for start in range(0, len(texts), _BLOCK):
            block = texts[start : start + _BLOCK]
            counts = FeatureUnion(vectorizers).transform(block)
            found[start : start + len(block)] = counts @ directions
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        return found * math.sqrt(self.width) / np.where(lengths > 0, lengths, 1.0)


def fit_texts(rows: Rows, column: str) -> tuple[Texts, list[str]]:
    """Fit the encoding of a column of texts, and tell what one has to know of it.

    Args:
        rows: of the training.
        column: of texts.

    Raises:
        UserError: the texts have too little in common.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import FeatureUnion

    texts = as_texts(rows.cells[column])
    terms: list[tuple[str, ...]] = []
    weights, vectorizers = [], []
    for name, options in _ANALYZERS:
        vectorizer = TfidfVectorizer(min_df=_SHORTEST_USE, max_features=MOST_TERMS, **options)
        try:
            vectorizer.fit(texts)
        except ValueError:  # no term is left
            terms.append(())
            weights.append(np.empty(0))
            continue
        vectorizers.append((name, vectorizer))
        terms.append(tuple(vectorizer.get_feature_names_out().tolist()))
        weights.append(np.asarray(vectorizer.idf_, dtype=np.float64))
    num_terms = sum(map(len, terms))
    width = min(NUM_DIMENSIONS, num_terms - 1, len(texts) - 1)
    if width < 1:
        raise UserError(
            f"no word and no part of a word occurs in two texts of column {column!r}: there is nothing to learn from; "
            "--data.text_column names another column"
        )
    svd = TruncatedSVD(width, random_state=0).fit(FeatureUnion(vectorizers).transform(texts))
    found = Texts(
        column=column,
        terms=tuple(terms),
        weights=tuple(weights),
        components=np.ascontiguousarray(svd.components_, dtype=np.float32),
    )
    return found, _notes(texts, column, found)


def _notes(texts: Sequence[str], column: str, found: Texts) -> list[str]:
    notes = [
        f"column {column!r} holds the texts: each becomes {found.width} numbers (TF-IDF of words and parts of words, "
        "truncated SVD, fitted on the training texts)"
    ]
    if empty := sum(not text.strip() for text in texts):
        notes.append(f"{empty:,} of {len(texts):,} texts are empty")
    return notes
