"""Settings become a Run, laid over the recipe for the data and method that they name."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from acto.core.errors import UserError, choose, closest
from acto.core.settings import Field, fields_of, flatten, from_values, merged, nested, typed
from acto.data.catalog import SOURCES
from acto.data.samples import Dataset, DataSpec
from acto.data.sources import load_data
from acto.data.views.spec import ViewSpec
from acto.methods import METHODS
from acto.methods.base import Method
from acto.nets.pretrained import first_found, weights_for
from acto.run_folder.config import INSTEAD_OF_CACHE
from acto.runs.recipes.by_data import (
    BY_PIPELINE,
    FEW_TUNED,
    SETTINGS,
    Setting,
    fine_tuned,
    for_size,
    setting_of_kind,
    with_batch,
)
from acto.runs.recipes.recipe import recipe
from acto.runs.run import Run
from acto.runs.warm_start import settings_after
from acto.training.plans import Plan
from acto.training.protocol import Protocol

SHORT = {
    "--data": "--data.source",
    "--data-root": "--data.root",
    "--on-bad-image": "--data.on_bad_image",
    "--subset": "--data.subset",
    "--noise": "--data.noise.kind",
    "--noise-rate": "--data.noise.rate",
    "--noise-seed": "--data.noise.seed",
    "--epochs": "--protocol.epochs",
    "--stop-early": "--protocol.stop_early",
    "--batch-size": "--protocol.batch_size",
    "--optimizer": "--protocol.optimizer",
    "--weight-decay": "--protocol.weight_decay",
    "--lr": "--protocol.plan.lr",
    "--schedule": "--protocol.plan.schedule",
}
"""Short forms of the flags that are typed most; --warmup-epochs joins them where the method has a warm-up."""


def resolve(
    settings: Mapping[str, Any], *, trust_net: bool = False, download: bool = False, dataset: Dataset | None = None
) -> tuple[Run, Dataset | None]:
    """The Run that nested `settings` stand for. What they leave open comes from the recipe for their data and method.

    Args:
        settings: nested.
        trust_net: the network may be code outside of this package.
        download: data and weights may be fetched.
        dataset: what the data settings stand for, where they have been read already.

    Returns:
        The run; and its data, if it had to be read to know which kind it is.

    Raises:
        UserError: for a setting that cannot be used. Nothing is read from disk before all settings have been checked.
    """
    settings = with_whole_paths(settings)
    if settings.get("init_from") is not None:
        return Run.from_dict(settings_after(settings["init_from"], settings), trust_net=trust_net), None
    spec = from_values(DataSpec, settings.get("data", {}))
    choose("method", settings.get("method", "acto"), METHODS)
    run_with = partial(run_of, settings, trust_net=trust_net)
    features = settings.get("features")
    if features is not None:
        run_with(BY_PIPELINE["vectors"])
        weights_for(features, settings.get("weights"), download=download)
        dataset = dataset or load_data(spec, data_root=spec.root, download=download)
        count = len(dataset.train)
        return run_with(for_size(setting_of_kind("vectors", count), count)), dataset
    if spec.source in SETTINGS:
        return run_with(SETTINGS[spec.source]), None
    refusals = []
    for setting in BY_PIPELINE.values():
        try:
            run_with(setting)
        except UserError as error:
            refusals.append(error)
    if len(refusals) == len(BY_PIPELINE):  # whatever the data are
        raise refusals[-1]
    dataset = dataset or load_data(as_new(spec, settings), data_root=spec.root, download=download)
    return run_on(settings, dataset.views, len(dataset.train), trust_net=trust_net), dataset


def run_on(settings: Mapping[str, Any], views: ViewSpec, num_samples: int, *, trust_net: bool = False) -> Run:
    """The Run of `settings` on data of one's own, which turned out to be `num_samples` to train on, seen by `views`.

    Raises:
        UserError: for a setting that cannot be used.
    """
    settings, kind = seen_first(as_found(settings, views), views.pipeline)
    setting = setting_of_kind(kind, num_samples)
    setting = for_size(setting, num_samples) if kind == "vectors" else setting
    return run_of(settings, setting, num_samples=num_samples, trust_net=trust_net)


def seen_first(settings: dict[str, Any], kind: str) -> tuple[dict[str, Any], str]:
    """Settings and kind of the data where photographs are seen by a frozen network first, if one's weights are there.

    Args:
        settings: nested; where they name a network, weights or features, nothing changes.
        kind: of the data, see ViewSpec.pipeline.
    """
    if settings.get("features") is not None:
        return settings, "vectors"
    if kind != "photo" or settings.keys() & {"features", "net", "weights"} or (found := first_found()) is None:
        return settings, kind
    return {**settings, "features": found.net, "weights": str(found.path)}, "vectors"


def as_new(spec: DataSpec, settings: Mapping[str, Any]) -> DataSpec:
    """The data of a new run: small pictures are brought to one size, unless a network for large ones was asked for."""
    if spec.pictures is not None or settings.get("weights") is not None or ":" in str(settings.get("net", "")):
        return spec
    return replace(spec, pictures="auto")


def as_found(settings: Mapping[str, Any], views: ViewSpec) -> dict[str, Any]:
    """Settings with the side to which the pictures were brought, so that they are read alike later on."""
    if views.size is not None or views.resize is None:
        return dict(settings)
    return merged(settings, {"data": {"pictures": "small", "size": views.resize}})


def run_of(
    settings: Mapping[str, Any], setting: Setting, *, num_samples: int = FEW_TUNED, trust_net: bool = False
) -> Run:
    """The Run that nested `settings` stand for on data of the kind that `setting` is for.

    Args:
        settings: nested.
        setting: of the kind of data.
        num_samples: to train on; where nobody has counted them they are taken for enough.
        trust_net: see `resolve`.

    Raises:
        UserError: for a setting that cannot be used.
    """
    spec = from_values(DataSpec, settings.get("data", {}))
    method = choose("method", settings.get("method", "acto"), METHODS)
    protocol = settings.get("protocol", {})
    setting = with_batch(setting, protocol.get("batch_size"))
    # The papers' data sets have their own rates; with frozen features the weights are those of what makes them.
    weights = settings.get("weights")
    if weights is not None and settings.get("features") is None and spec.source not in SETTINGS:
        setting = replace(fine_tuned(setting, num_samples), weights=weights)
    epochs = protocol.get("epochs")
    own = settings.get(section(method), {})
    warmup = own.get("warmup_epochs")
    if epochs is not None and epochs > 0:
        setting = setting.lasting(epochs)
    if warmup is not None:
        setting = replace(setting, warmup_epochs=warmup)
    if method == "acto" and own.get("form") is not None:
        setting = replace(setting, form=own["form"])
    return Run.from_dict(merged(recipe(spec, setting, method=method).to_dict(), settings), trust_net=trust_net)


def section(method: str) -> str:
    """Return the name of the section of a method's own settings."""
    return method.replace("-", "_")


def known_fields(method: type[Method]) -> dict[str, Field]:
    """Every setting of a run of `method`, by its dotted key."""
    hidden = ("config", "trust_net")  # the method's settings have a section of their own; trust is not for files
    found = [f for f in fields_of(Run) if f.key not in hidden and not f.key.startswith(("data.", "protocol."))]
    found += [*fields_of(DataSpec, "data"), *fields_of(Protocol, "protocol")]
    for k in range(method.num_nets):
        found += fields_of(Plan, f"protocol.plans.net{k}")
    found += fields_of(method.Config, section(method.name))
    return {field.key: field for field in found}


def checked(settings: Mapping[str, Any], *, method: str = "acto", where: str = "") -> dict[str, Any]:
    """Bring nested settings of a run of `method` to their types; a text may stand for any value, as in a flag.

    Args:
        settings: of a file, of flags, of a study; a key may be dotted.
        method: a name of acto.methods.METHODS.
        where: what messages begin with.

    Raises:
        UserError: for an unknown setting, or a value of the wrong type.
    """
    known = known_fields(METHODS[method])
    sections = {key[:dot] for key in known for dot in range(len(key)) if key[dot] == "."} | {"protocol.plans"}
    flat: dict[str, Any] = {}

    def walk(values: Mapping[str, Any], prefix: str) -> None:
        for name, value in values.items():
            key = f"{prefix}{name}"
            if key == "data.cache" and value in (None, "", "none", "null"):
                continue  # as files of earlier versions say it
            if key in known:
                flat[key] = typed(f"{where}{key}", value, known[key].hint)
            elif isinstance(value, Mapping) and key in (*sections, *map(section, METHODS)):
                walk(value, f"{key}.")
            elif key in sections:
                raise UserError(f"{where}{key} is a section of settings, but got {value!r}")
            else:
                raise unknown(key, method=method, choices=known, where=where)

    walk(settings, "")
    for name in ("weights", "features"):
        if flat.get(name) == "none":
            flat[name] = None
    return nested(flat)


def unknown(name: str, *, method: str, choices: Collection[str], what: str = "setting", where: str = "") -> UserError:
    """The error for a setting or flag that runs of `method` do not have."""
    owner, dot, _ = name.lstrip("-").partition(".")
    if name.lstrip("-") == "data.cache":
        return UserError(f"{where}the {what} {name} is gone: {INSTEAD_OF_CACHE}.")
    for other in METHODS:
        if dot and owner == section(other) and other != method:
            return UserError(f"{where}{name} is a setting of method {other!r}, but the method is {method!r}")
    return UserError(f"{where}unknown {what} {name!r}.{closest(name, choices)}")


def with_whole_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Paths from the current folder made absolute, so that the saved settings mean the same elsewhere."""

    def whole(key: str, value: Any) -> Any:
        is_path = key in ("data.root", "data.noise.path", "weights", "init_from") or (
            key == "data.source" and value not in SOURCES
        )
        if not is_path or value is None:
            return value
        path = Path(value).expanduser()
        return os.path.abspath(path) if path.exists() else value

    return nested({key: whole(key, value) for key, value in flatten(settings).items()})
