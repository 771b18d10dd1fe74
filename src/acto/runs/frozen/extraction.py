"""Features of every sample of a data set, computed batch after batch into a file that is a data set itself."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from acto.core.device import resolve_precision
from acto.core.errors import UserError
from acto.core.files import OnPoint, cache_folder, disk_errors, pass_point, sha256_of
from acto.data.classes import UNKNOWN, encode, encode_truth
from acto.data.label_columns import Column, Labels, read_column
from acto.data.loading.loader import DiskData
from acto.data.pictures.files import MAX_PIXELS
from acto.data.pictures.packed import size_and_time
from acto.data.samples import Dataset, Samples
from acto.data.views.spec import ViewSpec
from acto.runs.frozen.backbone import Backbone
from acto.runs.frozen.feature_file import FeatureFile

SAVE_EVERY = 16
"""Batches after which rows go to the disk."""
LIKENESS = 0.999
"""Cosine between bfloat16's features and float32's that every one of the first samples must exceed."""
_COMPARED = 32
_SHOWN = 5

Tell = Callable[[int, int], None]
"""Told how many samples are done, and of how many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Extracted:
    """Result of an extraction."""

    out: Path
    sha256: str
    num_features: int
    computed: int
    """Samples that were run through the network; the others were there already."""
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reading:
    """Reader that makes inputs of the network from samples."""

    backbone: Backbone
    views: ViewSpec | None
    """Views of picture files; None for pictures in memory."""
    batch_size: int
    workers: int
    max_pixels: int

    def batches(self, samples: Samples, *, start: int = 0) -> Iterator[Tensor]:
        """(B, channels, height, width), normalized, from the sample `start` on."""
        if start == len(samples):
            return
        if samples.pixels is not None:
            for first in range(start, len(samples), self.batch_size):
                block = torch.from_numpy(np.array(samples.pixels[first : first + self.batch_size]))
                yield self.backbone.normalized(block.permute(0, 3, 1, 2))
            return
        assert self.views is not None
        data = DiskData(
            samples.take(np.arange(start, len(samples))), self.views, seed=0, device=self.backbone.device,
            workers=self.workers, max_pixels=self.max_pixels,
        )  # fmt: skip
        try:
            for batch in data.scan(view="none", batch_size=self.batch_size):
                yield batch.views[0]
        finally:
            data.close()


def extract(
    data: Dataset,
    backbone: Backbone,
    out: Path,
    *,
    dtype: str = "float32",
    precision: str = "auto",
    batch_size: int | None = None,
    workers: int = 0,
    max_pixels: int = MAX_PIXELS,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
    tell: Tell = lambda done, total: None,
    on_point: OnPoint = pass_point,
) -> Extracted:
    """Write the features of every sample of `data` into an .npz that is a source itself, with the same ids and split.

    Arrays: x (N, D) and test_x (M, D); ids, labels, and true_labels where they differ from the labels, each of them
    also with test_ in front; class_names; test_is_held_out; about (JSON: network, weights, size, normalization). What
    an earlier call with the same arguments has left in OUT.npz.part/ is gone on with, and on the CPU the file has the
    same bytes as an undisturbed one.

    Args:
        data: pictures.
        backbone: what sees them.
        out: the .npz.
        dtype: float32 or float16.
        precision: what the network computes in: float32, bfloat16 or auto.
        batch_size: samples at a time; None: as many as suit the device.
        workers: processes that decode picture files; 0: this one.
        max_pixels: larger picture files are refused.
        overwrite: replace `out`.
        say: told what is worth a line.
        tell: told after each batch how many samples are done, and of how many.
        on_point: see FeatureFile.

    Raises:
        UserError: labels or ids that an .npz cannot hold, features that are not finite, or see FeatureFile.
        RunError: the disk refuses.
    """
    reading = _reading(
        backbone, views_of_files(data, backbone), batch_size=batch_size, workers=workers, max_pixels=max_pixels
    )
    parts = {"x": data.train, "test_x": data.test}
    arrays = _columns(data)
    computes_in = _precision(precision, reading, data.train, say=say)
    settings = {"data": data.name, **_settings(reading, computes_in, dtype=dtype)}
    sums = {f"{name}_sha256": _sha256_of_array(array) for name, array in arrays.items()}
    began = time.monotonic()
    with FeatureFile(
        out,
        shapes={name: (len(part), backbone.net.feature_dim) for name, part in parts.items()},
        dtype=dtype,
        config={**settings, "pictures_sha256": _sha256_of_pictures(parts.values()), **sums},
        overwrite=overwrite,
        on_point=on_point,
    ) as file:
        computed = _fill(file, parts, reading, computes_in, say=say, tell=tell)
        seconds = time.monotonic() - began
        about = np.array(json.dumps(settings, sort_keys=True))
        digest = file.finish({**arrays, "about": about})
    return Extracted(
        out=out,
        sha256=digest,
        num_features=backbone.net.feature_dim,
        computed=computed,
        seconds=seconds,
    )


def cached(
    samples: Samples,
    views: ViewSpec | None,
    backbone: Backbone,
    *,
    workers: int = 0,
    max_pixels: int = MAX_PIXELS,
    say: Callable[[str], None] = lambda text: None,
    tell: Tell = lambda done, total: None,
) -> npt.NDArray[np.float32]:
    """(N, D) features of `samples`, computed once: they stay in `acto/features` below XDG_CACHE_HOME (~/.cache).

    They are found again by network, weights, size and the pictures: pixels by their content, files by path, size and
    time, in whatever order and split they come. Labels do not matter. A killed process is gone on with.

    Args:
        samples: pictures.
        views: of picture files, see views_of_files; None for pixels.
        backbone: what sees them.
        workers: as in `extract`.
        max_pixels: as in `extract`.
        say: as in `extract`.
        tell: as in `extract`.

    Raises:
        UserError: the cache's folder cannot be made, or is in use; features that are not finite.
        RunError: the disk refuses.
    """
    reading = _reading(backbone, views, batch_size=None, workers=workers, max_pixels=max_pixels)
    row_of = np.arange(len(samples))
    if samples.paths is not None:
        _, first, row_of = np.unique(
            [os.fspath(path) for path in samples.paths], return_index=True, return_inverse=True
        )
        samples = samples.take(first)
    computes_in = _precision("auto", reading, samples, say=say)
    settings = {**_settings(reading, computes_in, dtype="float32"), "pictures_sha256": _sha256_of_stamps(samples)}
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]
    out = cache_folder("features", what="features of pictures are kept") / f"{key}.npz"
    if (found := _kept(out)) is not None:
        say(f"the features are there already ({out})")
    else:
        shapes = {"x": (len(samples), backbone.net.feature_dim)}
        with FeatureFile(out, shapes=shapes, dtype="float32", config=settings, overwrite=True) as file:
            _fill(file, {"x": samples}, reading, computes_in, say=say, tell=tell)
            file.finish({})
        found = _kept(out)
    assert found is not None
    return found[row_of.reshape(-1)]


def _kept(out: Path) -> npt.NDArray[np.float32] | None:
    """The rows of a finished file whose checksum is right; None without one."""
    sums = out.with_name(f"{out.name}.sha256")
    with disk_errors(f"read {out}"):
        if not out.is_file() or not sums.is_file() or not sums.read_text().startswith(sha256_of(out)):
            return None
        with np.load(out, allow_pickle=False) as file:
            return np.asarray(file["x"], np.float32)


def measured(samples: Samples, views: ViewSpec | None, backbone: Backbone, *, max_pixels: int = MAX_PIXELS) -> float:
    """Seconds that a sample takes, by a few of them; the arguments are those of `cached`."""
    reading = _reading(backbone, views, batch_size=_COMPARED // 2, workers=0, max_pixels=max_pixels)
    few = samples.take(np.linspace(0, len(samples) - 1, min(_COMPARED, len(samples))).astype(np.int64))
    precision = resolve_precision("auto", backbone.device)
    took = []
    for inputs in reading.batches(few):
        began = time.monotonic()
        backbone.features(inputs, precision)
        took.append((time.monotonic() - began) / len(inputs))
    began = time.monotonic()
    list(reading.batches(few))
    return min(took) + (time.monotonic() - began) / len(few)


def _reading(
    backbone: Backbone, views: ViewSpec | None, *, batch_size: int | None, workers: int, max_pixels: int
) -> _Reading:
    suited = 32 if backbone.device.type == "cpu" else 256
    return _Reading(
        backbone=backbone, views=views, batch_size=batch_size or suited, workers=workers, max_pixels=max_pixels
    )


def _settings(reading: _Reading, precision: torch.dtype, *, dtype: str) -> dict[str, Any]:
    """All that decides the rows but the pictures, in plain values."""
    backbone = reading.backbone
    height, width = backbone.size
    return {
        "net": backbone.net.name,
        "weights_sha256": backbone.weights_sha256,
        "height": height,
        "width": width,
        "resize": reading.views.resize if reading.views else None,
        "mean": list(backbone.mean),
        "std": list(backbone.std),
        "dtype": dtype,
        "precision": str(precision).removeprefix("torch."),
        "batch_size": reading.batch_size,
        "device": backbone.device.type,
        "torch": torch.__version__,
    }


def _fill(
    file: FeatureFile,
    parts: Mapping[str, Samples],
    reading: _Reading,
    precision: torch.dtype,
    *,
    say: Callable[[str], None],
    tell: Tell,
) -> int:
    """Compute the rows that `file` lacks; returns how many those were."""
    backbone, total = reading.backbone, sum(map(len, parts.values()))
    height, width = backbone.size
    for text in file.notes:
        say(f"note: {text}")
    if before := sum(map(file.done, parts)):
        say(f"going on after {before:,} of {total:,} samples")
    name = str(precision).removeprefix("torch.")
    say(f"{backbone.net.name} on {backbone.device} in {name}, pictures of {width}x{height} pixels")
    tell(before, total)
    computed = 0
    for part, samples in parts.items():
        waiting: list[npt.NDArray[Any]] = []
        row = file.done(part)
        for inputs in reading.batches(samples, start=row):
            waiting.append(_rows(backbone.features(inputs, precision), str(file.dtype), samples.ids[row:]))
            row += len(inputs)
            computed += len(inputs)
            if len(waiting) == SAVE_EVERY or row == len(samples):
                file.add(part, np.concatenate(waiting))
                waiting = []
            tell(before + computed, total)
    return computed


def views_of_files(data: Dataset, backbone: Backbone) -> ViewSpec | None:
    """The data's own views of picture files, at the backbone's size and with its normalization."""
    if data.train.paths is None:
        return None
    side, views = backbone.size[0], data.views
    assert views.size is not None
    resize = round((views.resize or views.size) * side / views.size)
    return replace(views, size=side, resize=resize, mean=backbone.mean, std=backbone.std)


def _precision(asked: str, reading: _Reading, samples: Samples, *, say: Callable[[str], None]) -> torch.dtype:
    """Choose the number format of the network. For "auto" the first samples decide, so the same command decides
    alike.
    """
    found = resolve_precision(asked, reading.backbone.device)
    if asked != "auto" or found == torch.float32:
        return found
    few = samples.take(np.arange(min(_COMPARED, len(samples))))
    inputs = next(replace(reading, batch_size=_COMPARED, workers=0).batches(few))
    fast, exact = (reading.backbone.features(inputs, precision) for precision in (found, torch.float32))
    likeness = float(torch.cosine_similarity(fast, exact).min())
    if likeness > LIKENESS:
        return found
    name = str(found).removeprefix("torch.")
    say(
        f"note: features in {name} are too far from float32's (a cosine of {likeness:.4f}, not above {LIKENESS}): "
        f"computing in float32; --precision {name} insists"
    )
    return torch.float32


def _rows(features: Tensor, dtype: str, ids: Sequence[str]) -> npt.NDArray[Any]:
    """Features (B, D) as `dtype`, refused where they are not finite; `ids` begin with those of the rows."""
    with np.errstate(over="ignore"):
        rows: npt.NDArray[Any] = features.numpy().astype(dtype)
    if (bad := np.flatnonzero(~np.isfinite(rows).all(1))).size:
        shown = ", ".join(ids[i] for i in bad[:_SHOWN].tolist())
        hint = "; --dtype float32 may hold them" if dtype == "float16" else ""
        raise UserError(f"the network gives features that are not finite as {dtype}, first of all of {shown}{hint}")
    return rows


def _columns(data: Dataset) -> dict[str, npt.NDArray[Any]]:
    """Collect the arrays of the .npz beside the features.

    True labels that equal the given ones are left out, as they would keep `acto train` from putting noise on.

    Raises:
        UserError: ids or labels that would not come back as they are.
    """
    names = data.class_names
    arrays: dict[str, npt.NDArray[Any]] = {}
    for prefix, part in (("", data.train), ("test_", data.test)):
        arrays[f"{prefix}ids"] = np.array(part.ids)
        if tuple(map(str, arrays[f"{prefix}ids"].tolist())) != part.ids:
            raise UserError(f"an .npz cannot hold the ids of {data.name}")
        arrays[f"{prefix}labels"] = _readable(part.labels, names, partial(encode, names=names))
        if part.true_labels is not None and (part.true_labels != part.labels).any():
            truth = _readable(part.true_labels, names, lambda column: encode_truth(column, names)[0])
            arrays[f"{prefix}true_labels"] = truth
    return {**arrays, "class_names": np.array(names), "test_is_held_out": np.array(data.test_labels_are_given)}


def _readable(labels: Labels, names: Sequence[str], read: Callable[[Column], Labels]) -> npt.NDArray[Any]:
    """Class numbers, or names where numbers would be taken for names."""
    texts = np.array([*names, "(none of the classes)", ""])
    for column in (labels, texts[np.where(labels == UNKNOWN, -1, np.minimum(labels, len(names)))]):
        try:
            found = read(read_column(column, where=str, may_be_empty=True))
        except UserError:
            continue
        if np.array_equal(np.minimum(found, len(names)), np.minimum(labels, len(names))):
            return column
    raise UserError(f"class names that cannot be told from class numbers: {', '.join(map(repr, names[:_SHOWN]))}")


def _sha256_of_array(array: npt.NDArray[Any]) -> str:
    digest = hashlib.sha256(f"{array.dtype} {array.shape}\n".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _sha256_of_stamps(samples: Samples) -> str:
    """Hash the pixels; of picture files their paths, sizes and times."""
    if samples.pixels is not None:
        return _sha256_of_array(samples.pixels)
    digest = hashlib.sha256()
    with disk_errors("look at the pictures"):
        for path in samples.paths or ():
            digest.update(f"{os.path.abspath(path)} {size_and_time(path)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _sha256_of_pictures(parts: Iterable[Samples]) -> str:
    """Hash the pixels; of picture files only their sizes, in bytes."""
    digest = hashlib.sha256()
    for part in parts:
        if part.paths is None:
            assert part.pixels is not None
            digest.update(_sha256_of_array(part.pixels).encode())
        else:
            with disk_errors("look at the pictures"):
                digest.update("".join(f"{size_and_time(path)[0]}\n" for path in part.paths).encode())
    return digest.hexdigest()
