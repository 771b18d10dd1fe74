"""Storage of many samples' soft labels: every class, or the k likeliest of each sample and what is left over.

N samples with K classes take N K numbers; at 10^7 samples and 1000 classes that is 40 GB in float32. The short form
keeps of each sample k classes with their values, and one number for the mass of all other classes, which is read back
as spread evenly over them. An update is made on all K classes and cut down again, so that a class may rise into the k
at any time. What gets lost is which of the other classes had how much.

One sample is one row of memory: values, rest and class numbers side by side, so that a random sample costs one or two
cache lines. With 1000 classes, k = 10 in float32 and k = 15 in float16 fill a line of 64 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_LINE = 16
"""Words of 4 bytes in a cache line."""
_CHUNK = 2**18
"""Samples that are looked at together where a table is read from end to end."""


class SoftLabels:
    """The form of a table of soft labels. The table itself is a tensor that belongs to the caller.

    The short form is a table of int32, as it holds floats and class numbers together: only this class can read it.

    Args:
        num_classes: K.
        classes: k, how many of them are kept for each sample; None: all. All are kept as well where that takes no more
            room than k of them with their numbers.
        dtype: of the values, a name of DTYPES; None: float32. In bfloat16 a value rests where an update would move it
            by less than about 0.4 %: with a momentum of 0.9 and more, take float16.

    Attributes:
        classes: k, or None where all classes are kept.
        bytes_per_sample: of one soft label.
    """

    def __init__(self, num_classes: int, *, classes: int | None = None, dtype: str | None = None) -> None:
        self.num_classes, self.dtype = num_classes, DTYPES[dtype or "float32"]
        self.bytes_per_sample = num_classes * self.dtype.itemsize
        self.classes: int | None = None
        if classes is None:
            return
        self._class_dtype = torch.int16 if num_classes <= 2**15 else torch.int32
        self._value_words = -(-(classes + 1) * self.dtype.itemsize // 4)
        used = self._value_words + -(-classes * self._class_dtype.itemsize // 4)
        # A power of two, then whole lines: no row lies across more lines than it must.
        self._words = 1 << (used - 1).bit_length() if used <= _LINE else -(-used // _LINE) * _LINE
        if 4 * self._words < self.bytes_per_sample:  # never where k >= K: numbers come on top
            self.bytes_per_sample, self.classes = 4 * self._words, classes

    def name(self, base: str) -> str:
        """Name the table: tables of different short forms must not be taken for one another."""
        return base if self.classes is None else f"{base}_top{self.classes}_{str(self.dtype).removeprefix('torch.')}"

    def zeros(self, *shape: int) -> Tensor:
        """A table for samples of this shape, no class has any mass."""
        if self.classes is None:
            return torch.zeros(*shape, self.num_classes, dtype=self.dtype)
        return torch.zeros(*shape, self._words, dtype=torch.int32)

    def one_hot(self, labels: Tensor) -> Tensor:
        """A table whose soft labels are sure of `labels`, (N,)."""
        table = self.zeros(len(labels))
        if self.classes is None:
            return table.scatter_(1, labels[:, None], 1.0)
        values, classes = self._parts(table)
        values[:, 0] = 1.0
        # The others have no mass, but must be others: no class may stand twice in a row.
        for place in range(self.classes):
            classes[:, place] = ((labels + place) % self.num_classes).to(classes.dtype)
        return table

    def update(self, table: Tensor, place: Any, probs: Tensor, *, momentum: float) -> Tensor:
        """Take predictions into the moving averages, t <- momentum t + (1 - momentum) p.

        Args:
            table: in this form; changed in place.
            place: index of the table's samples, (B,) or a tuple with it.
            probs: (B, K), without gradient; the dtype of the computation.
            momentum: in [0, 1).

        Returns:
            (B, K) the averages as they are before anything is left out of them.
        """
        labels = momentum * self.expand(table[place]).to(probs.dtype) + (1 - momentum) * probs
        table[place] = labels.to(table.dtype) if self.classes is None else self._pack(labels)
        return labels

    def expand(self, rows: Tensor) -> Tensor:
        """(..., K) soft labels of some rows of a table; float32 of the short form, else as they are stored."""
        if self.classes is None:
            return rows
        values, classes = self._parts(rows)
        labels = self._share(values)[..., None].expand(*rows.shape[:-1], self.num_classes).contiguous()
        return labels.scatter_(-1, classes.long(), values[..., :-1].float())

    def given_and_mass(self, table: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return of the whole table (N, ...) the mass on each sample's label, and on all classes; (N, ...) float each.

        Args:
            table: in this form.
            labels: (N,) int64.
        """
        given, mass = zip(*self._read(table, labels), strict=True)
        return torch.cat(given), torch.cat(mass)

    def _read(self, table: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """A chunk at a time: what is computed on the way is larger than the table."""
        for rows, label in zip(table.split(_CHUNK), labels.split(_CHUNK), strict=True):
            label = label.view(-1, *[1] * (rows.dim() - 1))
            if self.classes is None:
                rows = rows if rows.dtype == torch.float64 else rows.float()
                yield rows.gather(-1, label.expand(*rows.shape[:-1], 1)).squeeze(-1), rows.sum(-1)
            else:
                values, classes = self._parts(rows)
                found = classes == label
                kept = torch.where(found, values[..., :-1].float(), 0.0).sum(-1)
                yield torch.where(found.any(-1), kept, self._share(values)), values.float().sum(-1)

    def _pack(self, labels: Tensor) -> Tensor:
        """The rows of some soft labels (B, K)."""
        assert self.classes is not None
        rows = labels.new_zeros((*labels.shape[:-1], self._words), dtype=torch.int32)
        values, classes = self._parts(rows)
        kept, numbers = labels.topk(self.classes, dim=-1)
        values[..., :-1] = kept
        values[..., -1] = (labels.sum(-1) - kept.sum(-1)).clamp(min=0)
        classes.copy_(numbers)
        return rows

    def _parts(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Views of rows (..., words): values with the rest behind them (..., k + 1), and class numbers (..., k)."""
        assert self.classes is not None
        values, classes = rows[..., : self._value_words], rows[..., self._value_words :]
        return values.view(self.dtype)[..., : self.classes + 1], classes.view(self._class_dtype)[..., : self.classes]

    def _share(self, values: Tensor) -> Tensor:
        """(...) float32: what each of the classes that are not kept has."""
        assert self.classes is not None
        return values[..., -1].float() / (self.num_classes - self.classes)
