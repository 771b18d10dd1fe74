"""Noise of any kind put on a data set's training labels, and what a record says of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from acto.core.errors import UserError
from acto.data.classes import encode
from acto.data.label_columns import read_column
from acto.data.noise import NoiseSpec, draw_labels, instance_dependent, sha256_of_labels, transition_matrix
from acto.data.readers.label_files import read_human_labels, read_label_file
from acto.data.samples import Labels, Raw, Samples


def with_noise(train: Samples, noise: NoiseSpec, raw: Raw, *, kept: Labels) -> tuple[Samples, str]:
    """The training samples with noisy labels, their labels until now as truth; and how the labels came about.

    Args:
        train: what is left of the training samples after the hold-out.
        noise: of any kind.
        raw: the source, for the order of label files.
        kept: (N,) rows of `raw.train` that `train` consists of.

    Raises:
        UserError: noise that these samples cannot have, or a label file that does not fit them.
    """
    if noise.kind == "none" and not noise.open_rate:
        return train, "labels as they come"
    if train.true_labels is not None and not raw.clean:
        raise UserError(
            f"{raw.name} has true labels beside its given ones: it is noisy already, noise kind must be none"
        )
    names = raw.class_names
    match noise.kind:
        case "instance":
            if train.paths is not None:
                raise UserError(
                    f"instance-dependent noise needs pixels in memory, but {raw.name} has large picture files"
                )
            features = train.pixels if train.pixels is not None else train.features
            assert features is not None
            labels = instance_dependent(
                features,
                train.labels,
                rate=noise.rate,
                num_classes=len(names),
                seed=noise.seed,
                scale=noise.pixel_scale,
            )
            generator = "part-dependent (Xia et al. 2020)"
        case "file":
            assert noise.path is not None
            file = read_label_file(Path(noise.path).expanduser(), name=noise.name)
            of_train_alone = len(file.values) == len(train)  # as a run saves them, after the hold-out
            ids = train.ids if of_train_alone else raw.train.ids
            values = file.in_order(ids)
            by_name = file.ids is not None
            where = (lambda i: f"{file.path}, sample {ids[i]}") if by_name else (lambda i: f"{file.path} label {i}")
            labels = encode(read_column(values, where=where), names)
            labels = labels if of_train_alone else labels[kept]
            generator = f"file {file.path.name}"
        case "human":
            path = _human_file(noise, raw)
            labels = read_human_labels(path, name=noise.name, class_names=names, true_labels=train.labels)
            generator = f"people's labels of {path.name}"
        case kind:
            matrix = transition_matrix(
                "symmetric" if kind == "none" else kind,
                rate=noise.rate,
                num_classes=len(names),
                open_rate=noise.open_rate,
            )
            labels = draw_labels(train.labels, matrix, seed=noise.seed)
            generator = f"numpy RandomState({noise.seed}).multinomial, sample after sample"
    return replace(train, labels=labels, true_labels=train.labels), generator


def _human_file(noise: NoiseSpec, raw: Raw) -> Path:
    if noise.path is not None:
        return Path(noise.path).expanduser()
    if not raw.human_files:
        raise UserError(f"people's labels are published for CIFAR-10 and CIFAR-100, not for {raw.name}")
    for path in raw.human_files:
        if path.is_file():
            return path
    raise UserError(
        f"{raw.human_files[0].name} was not found in {', '.join(str(path.parent) for path in raw.human_files)}; "
        "it is published with CIFAR-N (github.com/UCSC-REAL/cifar-10-100n), or give its place as noise.path"
    )


def noise_facts(noise: NoiseSpec, generator: str, train: Samples) -> dict[str, Any]:
    """Collect the facts for Dataset.noise about training labels that came about by `noise`; `generator` says how, in
    words.
    """
    facts: dict[str, Any] = {
        "kind": noise.kind,
        "rate": noise.rate,
        "open_rate": noise.open_rate,
        "rate_realised": train.noise_rate,
        "seed": noise.seed,
        "generator": generator,
        "sha256": sha256_of_labels(train.labels),
    }
    if noise.kind == "instance":
        facts["pixel_scale"] = noise.pixel_scale
    for name in ("path", "name"):
        if getattr(noise, name) is not None:
            facts[name] = getattr(noise, name)
    return facts
