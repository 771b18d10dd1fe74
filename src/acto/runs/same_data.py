"""Checksums of a run's data, sample by sample: whoever goes on with the run, or audits it, must have the same data.

Arrays are looked at whole. Of picture files it is the sizes, and the first and last bytes of some; their times are
kept, but decide nothing: a copied folder has other times, and is the same data.
"""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.errors import RunError, UserError
from acto.core.files import disk_errors
from acto.core.text import counted
from acto.data.pictures.packed import open_picture, size_and_time
from acto.data.samples import Dataset, Samples
from acto.run_folder.checkpoints import Checkpoint
from acto.run_folder.config import differing
from acto.run_folder.reading import LABELS, load_array, read_json

CHECKS_FILE = "data_checks.npy"
"""In the run's folder: a row of ROW for each sample, first those of training, then those of the test set."""
ROW = np.dtype([("id", "<u4"), ("label", "<i4"), ("content", "<u4"), ("time", "<i8")])
"""CRC-32 of the id and of the content, and the time of a file in nanoseconds; 0 for samples in memory."""
MOST_FILES, ENDS = 512, 4096
"""Picture files whose contents are looked at, spread evenly over the samples; bytes at each end of them."""
PLACES = ("device", "step", "workers", "data.root", "data.source", "data.cache")
"""Settings that say where a run and its data are: they may be others than the checkpoint's."""

Checks = npt.NDArray[Any]
"""(N,) of ROW."""


def checks_of(dataset: Dataset) -> Checks:
    """The checksums of training and test samples, in this order."""
    return np.concatenate([_rows(dataset.train), _rows(dataset.test)])


def digest_of(checks: Checks, class_names: tuple[str, ...]) -> str:
    """One checksum of it all but the times of files."""
    digest = hashlib.sha256("\n".join(class_names).encode("utf-8", "surrogateescape"))
    for name in ("id", "label", "content"):
        digest.update(np.ascontiguousarray(checks[name]).tobytes())
    return digest.hexdigest()


def refuse_other_data(folder: Path, dataset: Dataset, checks: Checks | None = None) -> list[str]:
    """Compare data with those that the run in `folder` was begun with, and return notes for the user.

    Args:
        folder: of a run; one that has not begun to train has nothing to compare.
        dataset: just read.
        checks: its checks_of(), where they are at hand.

    Raises:
        UserError: they differ; it says in what.
        RunError: a file of the run is damaged.
    """
    labels = read_json(folder / "labels.json", LABELS)
    if not (folder / "noisy_labels.npy").is_file():
        return []
    with disk_errors(f"read {folder / 'noisy_labels.npy'}"):
        given = load_array(folder / "noisy_labels.npy")
    train, found = dataset.train, []
    if labels is not None and (names := labels.get("class_names")) and tuple(names) != dataset.class_names:
        found.append(_other_classes(names, dataset.class_names))
    if len(given) != len(train):
        found.append(f"{counted(len(given), 'sample')} then, {len(train)} now")
    known = None if found else _read(folder)
    if known is not None:
        checks = checks_of(dataset) if checks is None else checks
        count = len(given)
        found += _differences(known[:count], checks[:count], dataset.train, "training samples")
        found += _differences(known[count:], checks[count:], dataset.test, "test samples")
    elif not found and (rows := np.flatnonzero(given != train.labels)).size:
        found.append(f"{_some(rows, train, 'training samples')} other labels")
    if found:
        raise UserError(
            f"the data have changed since the run in {folder} was begun: {'; '.join(found)}. Bring back what they were "
            "(--data-root, or --data with the place that they moved to), or start a new run with another --out"
        )
    if known is None:
        return [
            "the run was begun by a version that kept no checksums of the data: their labels are what they were, their "
            "content cannot be compared"
        ]
    assert checks is not None
    if (rows := np.flatnonzero(known["time"] != checks["time"])).size:
        return [
            f"the times of {rows.size:,} picture files are others than when the run was begun; the sizes of all, and "
            f"the ends of {min(MOST_FILES, len(checks)):,}, are the same"
        ]
    return []


def refuse_foreign_checkpoint(checkpoint: Checkpoint | None, *, config: Any, digest: str, folder: Path) -> None:
    """Refuse a checkpoint that was made with other settings or data than the run's; one of an older version says
    nothing of them.

    Args:
        checkpoint: the one to go on from.
        config: the run's settings, as they come back from config.yaml.
        digest: digest_of its data.
        folder: the run's.

    Raises:
        UserError: with the settings that differ.
    """
    if checkpoint is None or checkpoint.run is None:
        return
    before = checkpoint.run.get("config")
    if other := differing(before if isinstance(before, dict) else {}, config, PLACES, "when it was made", "now"):
        raise UserError(
            f"checkpoint {checkpoint.folder} was made with other settings than {folder / 'config.yaml'} has: "
            f"{'; '.join(other)}. Put the settings back, or, if the checkpoint is another run's, that run's own"
        )
    if checkpoint.run.get("data") != digest:
        raise UserError(f"checkpoint {checkpoint.folder} was made on other data than those of {folder}: another run's")


def _read(folder: Path) -> Checks | None:
    path = folder / CHECKS_FILE
    if not path.exists():
        return None
    with disk_errors(f"read {path}"):
        checks = load_array(path)
    if checks.dtype != ROW or checks.ndim != 1:
        raise RunError(f"{path} is damaged: it holds {checks.dtype} of shape {checks.shape}")
    return checks


def _rows(samples: Samples) -> Checks:
    rows = np.zeros(len(samples), ROW)
    rows["id"] = [zlib.crc32(name.encode("utf-8", "surrogateescape")) for name in samples.ids]
    rows["label"] = samples.labels
    if samples.paths is not None:
        rows["content"], rows["time"] = _of_files(samples.paths)
        return rows
    if samples.rows is not None:  # their features are an encoding's, and may differ in the last bit elsewhere
        rows["content"] = list(map(zlib.crc32, samples.rows.contents()))
        return rows
    array = np.ascontiguousarray(samples.content)
    start = zlib.crc32(f"{array.dtype} {array.shape[1:]}".encode())
    rows["content"] = [zlib.crc32(row.data, start) for row in array.reshape(len(array), array[:1].size)]
    return rows


def _of_files(paths: tuple[Path, ...]) -> tuple[list[int], list[int]]:
    looked_at = set(np.linspace(0, len(paths) - 1, min(MOST_FILES, len(paths))).astype(int).tolist())
    contents, times = [], []
    for row, path in enumerate(paths):
        try:
            size, time = size_and_time(path)
            check = zlib.crc32(size.to_bytes(8, "little"))
            if row in looked_at:
                with open_picture(path) as file:
                    check = zlib.crc32(file.read(ENDS), check)
                    file.seek(max(0, size - ENDS))
                    check = zlib.crc32(file.read(ENDS), check)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        contents.append(check)
        times.append(time)
    return contents, times


def _differences(before: Checks, now: Checks, samples: Samples, what: str) -> list[str]:
    if len(before) != len(now):
        return [f"there were {len(before):,} {what}, now {len(now):,}"]
    if (rows := np.flatnonzero(before["id"] != now["id"])).size:
        if np.array_equal(np.sort(before["id"]), np.sort(now["id"])):
            return [f"{_some(rows, samples, what)} another place in the order"]
        return [f"{_some(rows, samples, what)} other ids"]
    pairs = (("label", "other labels"), ("content", "another content"))
    return [
        f"{_some(rows, samples, what)} {words}"
        for name, words in pairs
        if (rows := np.flatnonzero(before[name] != now[name])).size
    ]


def _some(rows: npt.NDArray[np.intp], samples: Samples, what: str) -> str:
    return f"{rows.size:,} of {len(samples):,} {what}, the first {samples.ids[rows[0]]!r}, have"


def _other_classes(before: list[str], now: tuple[str, ...]) -> str:
    if sorted(before) == sorted(now):
        return "the order of the classes"
    gone, new = [n for n in before if n not in now], [n for n in now if n not in before]
    parts = [
        f"{len(names)} of the classes {verb} ({', '.join(map(repr, names[:5]))})"
        for names, verb in ((gone, "are gone"), (new, "are new"))
        if names
    ]
    return ", ".join(parts)
