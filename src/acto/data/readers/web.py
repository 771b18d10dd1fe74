"""Web-aircraft, Web-bird and Web-car: a folder for each class below train/ and val/."""

from __future__ import annotations

from dataclasses import replace

from acto.data.readers.folders import read_folder
from acto.data.readers.listings import labelled
from acto.data.readers.place import Place, find
from acto.data.samples import DataSpec, Raw


def read(spec: DataSpec, place: Place, *, num_classes: int) -> Raw:
    """Read the folders below the data root; a note says so if the published data have another number of classes."""
    name = spec.source
    folder = find(
        place.path,
        name,
        folders=(name,),
        layout=f"{name}/train/CLASS/*.jpg and {name}/val/CLASS/*.jpg, {num_classes} classes",
        has=lambda folder: (folder / "train").is_dir() and (folder / "val").is_dir(),
    )
    raw = labelled(name, read_folder(folder, place), spec=spec)
    if len(raw.class_names) == num_classes:
        return raw
    note = f"{folder} has {len(raw.class_names)} classes, the published {name} {num_classes}"
    return replace(raw, notes=(*raw.notes, note))
