"""Published weights on this machine: found in the libraries' caches and in installed packages, never fetched here.

A file counts as torchvision's if it has the name under which torchvision publishes it, and the checksum that is a part
of that name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import torch

from acto.core.errors import UserError, closest
from acto.core.files import require_regular, sha256_of
from acto.nets.weights import IMAGENET_NETS

FIRST_CHOICES = (
    "torchvision:resnet50",
    "torchvision:convnext_tiny",
    "torchvision:efficientnet_b0",
    "torchvision:mobilenet_v3_large",
    "torchvision:resnet34",
    "torchvision:resnet18",
    "torchvision:mobilenet_v2",
)
"""Networks whose features are taken where nobody names one and weights of it are there, the first that has any."""
TIMMS_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Weights on this machine."""

    net: str
    """Name of the network, as acto.nets.build.build_net takes it."""
    path: Path


def first_found(nets: Sequence[str] = FIRST_CHOICES) -> Found | None:
    """The first of torchvision's networks whose published weights are on this machine; None where there are none."""
    files = {net: _published(net) for net in nets}
    names = {name for published in files.values() for name in published}
    there = {path.name: path for path in (*_installed(names), *_in_torchs_cache(names))}
    for net, published in files.items():
        for name in published:
            if name in there and _digest(there[name], there[name].stat().st_mtime_ns).startswith(
                Path(name).stem.rpartition("-")[2]
            ):
                return Found(net=net, path=there[name])
    return None


def weights_for(net: str, weights: str | None, *, download: bool) -> str:
    """Find where the weights of `net` come from: a file that is there, or "torchvision" or "timm" to be fetched by it.

    Args:
        net: torchvision:NAME, timm:NAME, or a network of our own.
        weights: a file, "torchvision", "timm", or None: those of the network's library.
        download: whether they may be fetched where they are not on this machine.

    Raises:
        UserError: there are none, and they may not be fetched; it names the ways to get them.
    """
    if weights not in (None, "torchvision", "timm"):
        require_regular(weights)
        if not Path(weights).is_file():
            hint = closest(weights, ["torchvision", "timm"])
            raise UserError(f"weights {weights!r} are neither 'torchvision' nor 'timm' nor a file.{hint}")
        return weights
    import torchvision

    kind, colon, name = net.partition(":")
    if kind == "torchvision" and name not in (known := torchvision.models.list_models(module=torchvision.models)):
        raise UserError(f"unknown torchvision model {name!r}.{closest(name, known)}")
    library = weights or (kind if colon else "torchvision")
    if (library == "timm") != (kind == "timm") or (library == "torchvision" and not _published(net)):
        raise UserError(f"no weights of {net} are published by {library}: name a file with --weights")
    if library == "timm":
        found = _in_timms_cache(name)
    else:
        there = first_found([net])
        found = there.path if there is not None else None
    if found is not None:
        return str(found)
    if download:
        return library
    names = " or ".join(_published(net)) if library == "torchvision" else " or ".join(TIMMS_FILES)
    place = Path(torch.hub.get_dir()) / "checkpoints" if library == "torchvision" else "the cache of huggingface_hub"
    raise UserError(
        f"no weights of {net} are on this machine ({names} in {place}"
        f"{', or in an installed package' if library == 'torchvision' else ''}): --download fetches them, "
        "--weights FILE names a file"
    )


@cache
def _digest(path: Path, changed: int) -> str:
    """Digest of a file as it was changed last; a sweep asks for the same one in every job."""
    return sha256_of(path)


def _published(net: str) -> list[str]:
    """Names of the files that torchvision publishes for a network, ImageNet's first version first."""
    from torchvision.models import get_model_weights

    kind, _, name = net.rpartition(":")
    if kind != "torchvision" and net not in IMAGENET_NETS:
        return []
    try:
        weights = get_model_weights(name).__members__
    except ValueError:  # no such model: the network's builder says so, with the nearest name
        return []
    ordered = sorted(weights, key=lambda version: version != "IMAGENET1K_V1")
    return list(dict.fromkeys(weights[version].url.rpartition("/")[2] for version in ordered))


def _in_torchs_cache(names: set[str]) -> Iterator[Path]:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    yield from (folder / name for name in names if (folder / name).is_file())


def _installed(names: set[str]) -> Iterator[Path]:
    """Files of these names that an installed package brought along."""
    for package in distributions():
        record = package.read_text("RECORD") or ""
        if any(name in record for name in names):
            for file in package.files or ():
                if file.name in names and (path := Path(str(package.locate_file(file)))).is_file():
                    yield path


def _in_timms_cache(name: str) -> Path | None:
    try:
        import timm
        from huggingface_hub import try_to_load_from_cache
    except ImportError:  # the network's builder says what to install
        return None
    facts = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    place = facts.hf_hub_id if facts is not None else None
    for file in TIMMS_FILES if place else ():
        if isinstance(path := try_to_load_from_cache(str(place), file), str):
            return Path(path)
    return None
