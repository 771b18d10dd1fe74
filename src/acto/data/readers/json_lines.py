"""JSON Lines: on each line an object with the path of a picture, a vector, or numbers and texts, and a label."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.documents import parse_json
from acto.core.errors import UserError
from acto.data.readers.place import Place
from acto.data.readers.record_tables import NUMBER, OTHER, TEXT, VECTOR, Cell, Table
from acto.data.readers.records import Source, read_records, read_records_bare
from acto.data.readers.text_files import read_text
from acto.data.samples import DataSpec, Raw


class JsonTable(Table):
    """A JSON Lines file: on each line an object, of which empty lines are none.

    Args:
        file: see Table.

    Raises:
        UserError: it is no such file; the message names the line.
    """

    def __init__(self, file: Path) -> None:
        self._rows: list[dict[str, Any]] = []
        self._lines: list[int] = []
        for line, text in enumerate(read_text(file).split("\n"), start=1):
            if not text.strip():
                continue
            row = parse_json(text, f"{file} line {line}")
            if not isinstance(row, dict):
                raise UserError(f'{file} line {line} is no object: each line is one, as {{"path": ..., "label": ...}}')
            if "\\ud" in text.lower():
                _refuse_half_characters(row, f"{file} line {line}")
            self._rows.append(row)
            self._lines.append(line)
        super().__init__(file, list(dict.fromkeys(name for row in self._rows for name in row)))

    def __len__(self) -> int:
        return len(self._rows)

    def kind(self, name: str) -> str:
        """See Table; by the first row that has something there."""
        value = next((row[name] for row in self._rows if row.get(name) is not None), None)
        if isinstance(value, str):
            return TEXT
        if isinstance(value, int | float):
            return NUMBER
        while isinstance(value, list) and value:
            value = value[0]
            if isinstance(value, int | float):
                return VECTOR
        return OTHER

    def values(self, name: str) -> list[Any]:
        """See Table."""
        return [row.get(name) for row in self._rows]

    def vectors(self, name: str) -> npt.NDArray[Any]:
        """See Table."""
        shape, arrays = None, []
        for i, value in enumerate(self.values(name)):
            try:
                array = np.array(value if value is not None else "nothing")
            except ValueError:  # lists of several lengths
                array = np.array("nothing")
            if array.dtype.kind not in "iufb":
                raise UserError(f"{self.file.name} line {self._lines[i]}: {name} is no list of numbers")
            shape = array.shape if shape is None else shape
            if array.shape != shape:
                raise UserError(
                    f"{self.file.name} line {self._lines[i]}: {name} has {_size(array.shape)} numbers, line "
                    f"{self._lines[0]} {_size(shape)}"
                )
            arrays.append(array)
        return np.stack(arrays) if arrays else np.empty((0, 1))

    def pictures(self, name: str) -> list[Cell]:
        """JSON holds no pictures."""
        raise AssertionError(name)

    @property
    def numbers(self) -> Sequence[int]:
        """(N,) the rows' lines."""
        return self._lines

    def place(self, row: int) -> str:
        """See Table."""
        return f"{self.file.name} line {self._lines[row]}"


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "no"


def _refuse_half_characters(row: Any, place: str) -> None:
    """Refuse what JSON can write and nothing else can.

    Raises:
        UserError: with the place.
    """
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{place} holds half a character ({text[error.start]!r}): it is no text") from None


def read(spec: DataSpec, place: Place) -> Raw:
    """Read the lines with their labels, see acto.data.readers.records."""
    return read_records(_source(place.own), spec, place)


def read_bare(spec: DataSpec, place: Place) -> Raw:
    """Read the samples alone."""
    return read_records_bare(_source(place.own), spec)


def _source(path: Path) -> Source:
    table = JsonTable(path)
    if not len(table):
        raise UserError(f"{path} has no rows")
    return Source(name=path.stem, folder=path.parent, splits={"": [table]})
