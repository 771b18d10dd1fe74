"""Weights from files: read without running foreign code, renamed to a Net's keys, checked, loaded."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import get_model_weights

from acto.core.errors import RunError, UserError, closest
from acto.core.files import check_zip, require_regular
from acto.nets.base import Net

HEAD = ("head.weight", "head.bias")
IMAGENET_NETS = ("resnet18", "resnet34", "resnet50")


def load_weights(net: Net, weights: str) -> None:
    """Load "torchvision" or a file's path into `net`, in place.

    A file may hold the keys of this package or of the backbone's own library, and may lack the head. A head of another
    number of classes is left out, and the network's own stays.

    Raises:
        UserError: no such file, not a file of weights, or keys and shapes that do not fit; it names them.
    """
    given = _own_keys(net, _torchvision(net) if weights == "torchvision" else _read(weights))
    wanted = net.state_dict()
    if all(key not in given or given[key].shape != wanted[key].shape for key in HEAD):
        given = {key: value for key, value in given.items() if key not in HEAD} | {key: wanted[key] for key in HEAD}
    # Files from before PyTorch 0.4.1 do not count batches; the count matters only without a momentum.
    given |= {key: wanted[key] for key in wanted if key.endswith("num_batches_tracked") and key not in given}

    faults = [f"missing {key}" for key in wanted if key not in given]
    faults += [f"unknown {key}" for key in given if key not in wanted]
    faults += [
        f"{key} is {tuple(given[key].shape)}, not {tuple(wanted[key].shape)}"
        for key in wanted
        if key in given and given[key].shape != wanted[key].shape
    ]
    if faults:
        more = f" and {len(faults) - 6} more" if len(faults) > 6 else ""
        raise UserError(f"weights {weights!r} do not fit net {net.name!r}: {'; '.join(faults[:6])}{more}")
    net.load_state_dict(given)


def _own_keys(net: Net, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` as it is or renamed from the backbone's own library's keys, whichever has more of the net's."""
    head = {f"{net.head_key}.weight": "head.weight", f"{net.head_key}.bias": "head.bias"}
    renamed = {head.get(key, f"backbone.{key}"): value for key, value in state.items()}
    wanted = net.state_dict().keys()
    return max(dict(state), renamed, key=lambda candidate: len(candidate.keys() & wanted))


def _read(weights: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file; a mapping under "state_dict" or "model" is looked through."""
    path = Path(weights)
    require_regular(path)
    if not path.is_file():
        hint = closest(weights, ["torchvision", "timm"])
        raise UserError(f"weights {weights!r} are neither 'torchvision' nor 'timm' nor a file.{hint}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                check_zip(archive, f"weights {weights!r}", packed=path.stat().st_size)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read weights {weights!r}: {error}") from error
    except Exception as error:  # a damaged or malicious file raises whatever it likes
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"weights {weights!r} are no file of plain tensors: {type(error).__name__}: {reason}"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"weights {weights!r} hold no mapping from names to tensors")
    return content


def read_state(content: bytes, name: str) -> Any:
    """Tensors and plain values that torch.save wrote, on the CPU.

    Raises:
        RunError: the file is damaged, or holds anything else, which is never unpickled; `name` is the file's.
    """
    try:
        stream = io.BytesIO(content)
        if zipfile.is_zipfile(stream):
            with zipfile.ZipFile(stream) as archive:
                check_zip(archive, name, packed=len(content))
        stream.seek(0)
        return torch.load(stream, map_location="cpu", weights_only=True)
    except UserError as bomb:
        raise RunError(str(bomb)) from None
    except Exception as error:  # a damaged or malicious pickle raises whatever it likes; torch's advice is to run it
        found = re.search(r"GLOBAL \S+", str(error))
        reason = f"it asks for {found[0].removeprefix('GLOBAL ')}" if found else type(error).__name__
        raise RunError(f"{name} is damaged, or no file of plain tensors ({reason}); it was not loaded") from error


def _torchvision(net: Net) -> Mapping[str, Tensor]:
    """IMAGENET1K_V1, from torch.hub's cache or the network."""
    kind, _, name = net.name.rpartition(":")
    if kind != "torchvision" and net.name not in IMAGENET_NETS:
        raise UserError(
            f"weights 'torchvision' exist for {', '.join(IMAGENET_NETS)}, not for net {net.name!r}; nets named "
            "torchvision:NAME have theirs"
        )
    if not kind:
        stem = net.backbone.conv1
        if not isinstance(stem, nn.Conv2d) or stem.weight.shape != (64, 3, 7, 7):
            raise UserError(
                "weights 'torchvision' need colour pictures of more than 64 pixels a side, but net "
                f"{net.name!r} was built for {net.input_shape}: its first convolution is another one"
            )
    published = get_model_weights(name).__members__
    if "IMAGENET1K_V1" not in published:
        raise UserError(f"torchvision has no weights IMAGENET1K_V1 for {name}, only {', '.join(published) or 'none'}")
    url = published["IMAGENET1K_V1"].url
    try:
        # weights_only is not torch.hub's default.
        return torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except Exception as error:  # no network, a damaged cache, a wrong checksum
        cache = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
        raise UserError(
            f"cannot get the ImageNet weights of {net.name}: {error}. Fetch {url} on another machine and pass the file "
            f"as weights, or put it at {cache}"
        ) from error
