"""JSON Lines: on each line an object with the path of a picture, or with a vector, and its label."""

from __future__ import annotations

from pathlib import Path

from acto.core.errors import UserError
from acto.data.readers.place import Place
from acto.data.readers.record_tables import JsonTable
from acto.data.readers.records import Source, read_records, read_records_bare
from acto.data.samples import DataSpec, Raw


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
