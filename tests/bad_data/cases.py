"""The whole corpus."""

from __future__ import annotations

from bad_data import arrays, folders, labels, manifests, published, records

CASES = [*folders.CASES, *manifests.CASES, *arrays.CASES, *published.CASES, *labels.CASES, *records.CASES]
