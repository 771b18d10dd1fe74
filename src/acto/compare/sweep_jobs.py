"""Jobs of a sweep: methods x data sets x noises x seeds, each resolved to what `acto train` would do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from acto.compare.ablation import ABLATION
from acto.compare.finished_runs import config_hash
from acto.core.documents import read_yaml
from acto.core.errors import UserError, choose, closest
from acto.core.files import require_regular
from acto.core.settings import flatten, from_values, merged
from acto.data.noise import NoiseSpec
from acto.data.samples import DataSpec
from acto.data.sources import load_data
from acto.data.views.spec import ViewSpec
from acto.methods import METHODS
from acto.runs.recipes.by_data import SETTINGS
from acto.runs.resolve import as_new, checked, known_fields, resolve, run_on, section
from acto.runs.run import Run

OWN = {
    "method": "--methods",
    "seed": "--seeds",
    "data.source": "--data",
    "data.noise.kind": "--noises",
    "data.noise.rate": "--noises",
    "data.noise.seed": "--seeds",
}
"""Settings of `acto train` that the sweep itself sets, and where it takes them from."""
KEYS = ("methods", "data", "noises", "seeds", "settings")


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A method, as it is or with settings of its own."""

    method: str
    label: str = ""
    """Name in tables; empty: the method's."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Nested, laid over those of the block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Runs of every variant on every data set with every noise and seed."""

    variants: tuple[Variant, ...]
    sources: tuple[str, ...]
    noises: tuple[tuple[str, float], ...]
    """(kind, rate); ("none", 0.0) takes the labels as they come."""
    seeds: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """For every run, as acto.runs.resolve.checked takes them; those that only some of the methods have go to these."""
    where: str = ""
    """For messages: the part of a study file, with a colon."""

    def with_settings(self, settings: Mapping[str, Any], *, warmup_epochs: Any = None) -> Block:
        """The same with `settings` laid on top, and with this warm-up for the methods that have one."""
        keys = {f"{section(v.method)}.warmup_epochs" for v in self.variants} & _keys(self.variants)
        if warmup_epochs is not None and not keys:
            raise UserError("unknown flag '--warmup-epochs': none of these methods has a warm-up")
        warmups = {key: warmup_epochs for key in keys if warmup_epochs is not None}
        return replace(self, settings={**flatten(self.settings), **warmups, **flatten(settings)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One run of a sweep."""

    name: str
    """Name of its folder: method, data, noise, seed, and 8 hex digits of its resolved configuration."""
    label: str
    run: Run
    flags: tuple[str, ...] = ()
    """Flags that `acto train` needs beside the configuration."""


def parse_methods(names: Sequence[str]) -> tuple[Variant, ...]:
    """Variants by name: a method, `all` methods, or the `ablation` of Table 4."""
    variants: list[Variant] = []
    for name in names:
        if name == "all":
            variants += [Variant(method=method) for method in METHODS]
        elif name == "ablation":
            variants.append(Variant(method="standard"))
            variants += [
                Variant(method="acto", label=label, settings={"acto": {"form": "published", **row}})
                for label, row in ABLATION.items()
            ]
        else:
            choose("method", name, [*METHODS, "all", "ablation"])
            variants.append(Variant(method=name))
    return tuple(variants)


def parse_noise(text: str) -> tuple[str, float]:
    """`symmetric:0.5` as (kind, rate); without a rate it is 0.

    Raises:
        UserError: the rate is no number. (The kind and its range are checked with the rest of the run.)
    """
    kind, colon, rate = text.partition(":")
    try:
        return kind, float(rate) if colon else 0.0
    except ValueError:
        raise UserError(f"noise {text!r} must be KIND:RATE, say symmetric:0.5, or none") from None


def read_study(path: str) -> list[Block]:
    """The blocks of a study file: a YAML list of {methods, data, noises, seeds, settings}.

    `methods` holds names as in `parse_methods`, or {method, label, settings}.

    Raises:
        UserError: the file cannot be read, or a part of it cannot be used.
    """
    require_regular(path)
    try:
        content = read_yaml(path)
    except (FileNotFoundError, UserError) as error:
        raise UserError(f"cannot read the study in {path}: {error}") from error
    if not isinstance(content, list) or not content or not all(isinstance(block, dict) for block in content):
        raise UserError(f"{path} holds no study: it must be a YAML list of blocks with the keys {', '.join(KEYS)}")
    return [_block(block, f"{path}, block {number}: ") for number, block in enumerate(content, 1)]


def _block(values: Mapping[str, Any], where: str) -> Block:
    for key in values:
        if key not in KEYS:
            raise UserError(f"{where}unknown key {key!r}.{closest(str(key), KEYS)} It has {', '.join(KEYS)}")
    for key in ("methods", "data"):
        if not values.get(key):
            raise UserError(f"{where}{key} is missing")
    seeds = _listed(values.get("seeds", 0))
    if not all(isinstance(seed, int) and not isinstance(seed, bool) for seed in seeds):
        raise UserError(f"{where}seeds must be whole numbers, but got {seeds!r}")
    try:
        return Block(
            variants=tuple(v for entry in _listed(values["methods"]) for v in _variants(entry)),
            sources=tuple(map(str, _listed(values["data"]))),
            noises=tuple(parse_noise(str(noise)) for noise in _listed(values.get("noises", "none"))),
            seeds=tuple(seeds),
            settings=_mapping("settings", values.get("settings")),
            where=where,
        )
    except UserError as error:
        raise UserError(f"{where}{error}") from error


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise UserError(f"{name} must be a section of settings, but got {value!r}")
    return value or {}


def _variants(entry: Any) -> tuple[Variant, ...]:
    if not isinstance(entry, dict):
        return parse_methods([str(entry)])
    if unknown := entry.keys() - {"method", "label", "settings"}:
        raise UserError(f"a method has the keys method, label and settings, not {', '.join(map(str, sorted(unknown)))}")
    return (
        Variant(
            method=choose("method", str(entry.get("method")), METHODS),
            label=str(entry.get("label", "")),
            settings=_mapping("settings", entry.get("settings")),
        ),
    )


def jobs_of(blocks: Sequence[Block], *, trust_net: bool = False, download: bool = False) -> list[Job]:
    """Every run of the blocks, in their order; one that occurs twice stays once.

    Args:
        blocks: what to cross.
        trust_net: the network's name was typed on the command line, and may name code.
        download: data may be fetched.

    Raises:
        UserError: for a setting that cannot be used. Only data that are no named data set are read for it.
    """
    found: dict[DataSpec, tuple[ViewSpec, int]] = {}
    jobs: dict[str, Job] = {}
    for block in blocks:
        try:
            for job in _jobs(block, found, trust_net=trust_net, download=download):
                jobs.setdefault(job.name, job)
        except UserError as error:
            raise UserError(f"{block.where}{error}") from error
    return list(jobs.values())


def _jobs(
    block: Block, found: dict[DataSpec, tuple[ViewSpec, int]], *, trust_net: bool, download: bool
) -> Iterator[Job]:
    keys = _keys(block.variants)
    for variant in block.variants:
        others = keys - known_fields(METHODS[variant.method]).keys()
        mine = {key: value for key, value in flatten(block.settings).items() if key not in others}
        asked = checked({**mine, **flatten(variant.settings)}, method=variant.method)
        if own := OWN.keys() & flatten(asked):
            raise UserError(f"{min(own)} is set by the sweep: give {OWN[min(own)]}")
        if flatten(asked).get("protocol.stop_early") is not None:
            raise UserError("stop_early is not for a sweep: tables compare runs that were trained to their end")
        for source in block.sources:
            for kind, rate in block.noises:
                for seed in block.seeds:
                    noise = {} if kind == "none" else {"kind": kind, "rate": rate, "seed": seed}
                    settings = merged(
                        asked, {"method": variant.method, "seed": seed, "data": {"source": source, "noise": noise}}
                    )
                    run = _resolved(settings, found, trust_net=trust_net, download=download)
                    yield Job(
                        name=folder_name(run),
                        label=variant.label or variant.method,
                        run=run,
                        flags=(*(["--net", run.net] if trust_net else []), *["--download"] * download),
                    )


def _keys(variants: Sequence[Variant]) -> set[str]:
    """Every setting that one of the methods has."""
    return {key for variant in variants for key in known_fields(METHODS[variant.method])}


def _resolved(
    settings: Mapping[str, Any], found: dict[DataSpec, tuple[ViewSpec, int]], *, trust_net: bool, download: bool
) -> Run:
    """As flags.resolve, but data of one's own are read once for all runs: `found` keeps what they turned out to be."""
    spec = as_new(from_values(DataSpec, settings["data"]), settings)
    if spec.source in SETTINGS or settings.get("features") is not None:
        return resolve(settings, trust_net=trust_net, download=download)[0]
    if (drawn := replace(spec, noise=NoiseSpec())) not in found:
        dataset = load_data(spec, data_root=spec.root, download=download)
        found[drawn] = dataset.views, len(dataset.train)
    if (path := Path(spec.source).expanduser()).exists():
        settings = merged(settings, {"data": {"source": str(path.absolute())}})
    return run_on(settings, *found[drawn], trust_net=trust_net)


def folder_name(run: Run) -> str:
    """METHOD-DATA-NOISE-sSEED-HEX: HEX are 8 digits of the sha256 of all that decides the result."""
    noise = run.data.noise
    source = re.sub(r"[^A-Za-z0-9._-]+", "_", run.data.source.rstrip("/").rpartition("/")[2])
    what = noise.kind if not noise.rate else f"{noise.kind}{noise.rate:g}"
    return f"{run.method}-{source}-{what}-s{run.seed}-{config_hash(run.to_dict())[:8]}"
