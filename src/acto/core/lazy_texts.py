"""Columns of texts that are made when they are looked at: a million names of classes are a million small numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from acto.core.text import counted

Rows = npt.NDArray[np.int64]
_AT_ONCE = 2**14


class LazyTexts(Sequence[str]):
    """(N,) texts, of which any may be asked for; equal to a list of the same texts."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, length: int, make: Callable[[Rows], list[str]]) -> None:
        """Args:
        length: N.
        make: gives the texts of any rows.
        """
        self._length, self._make = length, make

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._make(np.arange(*index.indices(self._length)))
        if not -self._length <= index < self._length:
            raise IndexError(f"row {index} of {self._length}")
        return self._make(np.array([index % self._length]))[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, self._length, _AT_ONCE):
            yield from self[start : start + _AT_ONCE]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"<{counted(self._length, 'text')}: {shown}{', ...' if self._length > 3 else ''}>"

    def take(self, rows: Rows) -> list[str]:
        """The texts of these rows."""
        return self._make(np.asarray(rows, dtype=np.int64))
