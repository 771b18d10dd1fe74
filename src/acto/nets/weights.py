"""Weights from files: read without running foreign code, renamed to a Net's keys, checked, loaded."""

from __future__ import annotations

import io
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from acto.core.errors import RunError, UserError, closest
from acto.core.files import check_zip, require_regular
from acto.nets.base import Net

HEAD = ("head.weight", "head.bias")
_WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "state_dict_ema",
    "model_ema",
    "ema",
    "module",
    "weights",
)
"""Names under which training scripts keep the weights beside other things, the likeliest first."""
_FOREIGN = re.compile(r"GLOBAL ([\w.]+)")
"""Finds in torch's message what its unpickler stopped at."""
_SAVE_ALONE = """. What is needed is the state_dict alone. Where the file was made, or if you trust who made it:
    import torch
    content = torch.load({weights!r}, map_location="cpu", weights_only=False)  # runs whatever code is in the file
    torch.save(content["state_dict"], "weights.pth")  # or content["model"], ...; content.state_dict() of a module"""
IMAGENET_NETS = ("resnet18", "resnet34", "resnet50")


def load_weights(net: Net, weights: str, *, say: Callable[[str], None] = lambda text: None) -> None:
    """Load "torchvision" or a file's path into `net`, in place.

    A file may hold the keys of this package or of the backbone's own library, and may lack the head. A head of another
    number of classes is left out, and the network's own stays. What wrappers put before every name ("module.",
    "_orig_mod.", "model.", ...) is taken off, if the rest fits better.

    Args:
        net: to load into.
        weights: "torchvision" or a path.
        say: told in a line what was taken off.

    Raises:
        UserError: no such file, not a file of weights, or keys and shapes that do not fit; it names them.
    """
    state = _torchvision(net) if weights == "torchvision" else _read(weights)
    prefix, given = _own_keys(net, state)
    wanted = net.state_dict()
    has_new_head = all(key not in given or given[key].shape != wanted[key].shape for key in HEAD)
    if has_new_head:
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
        hint = f", even without {prefix!r} before every name" if prefix else _prefix_of_some(state, net)
        raise UserError(f"weights {weights!r} do not fit net {net.name!r}{hint}: {'; '.join(faults[:6])}{more}")
    net.load_state_dict(given)
    net.has_new_head = has_new_head
    if prefix:
        say(f"{prefix!r} was taken off every name in weights {weights!r}")


def _own_keys(net: Net, state: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Take off what all names share, and rename from the backbone's own library's keys, where that gives more of the
    net's; returns what was taken off, and the rest.
    """
    head = {f"{net.head_key}.weight": "head.weight", f"{net.head_key}.bias": "head.bias"}
    wanted = net.state_dict().keys()
    prefix, candidates = "", []
    while True:
        renamed = {head.get(key, f"backbone.{key}"): value for key, value in state.items()}
        candidates += [(prefix, dict(state)), (prefix, renamed)]
        first = {key.partition(".")[0] for key in state}
        if len(first) != 1 or not all("." in key for key in state):
            break
        prefix += f"{first.pop()}."
        state = {key.partition(".")[2]: value for key, value in state.items()}
    return max(candidates, key=lambda candidate: len(candidate[1].keys() & wanted))


def _prefix_of_some(state: Mapping[str, Tensor], net: Net) -> str:
    """Words on a prefix of a part of the names behind which the whole network stands; empty if there is none."""
    wanted = net.state_dict().keys()
    known = wanted | {key.removeprefix("backbone.") for key in wanted}
    found = Counter(
        key[: mark.end()]
        for key in state
        if key not in known
        for mark in re.finditer(r"\.", key)
        if key[mark.end() :] in known
    )
    prefix, count = found.most_common(1)[0] if found else ("", 0)
    if 2 * count < len(wanted):
        return ""
    return (
        f" ({count} of {len(state)} names begin with {prefix!r}: save those alone, without it, as in "
        f"{{k.removeprefix({prefix!r}): v for k, v in state.items() if k.startswith({prefix!r})}})"
    )


def _read(weights: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file; a mapping under one of _WRAPPERS is looked through."""
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
    except Exception as error:  # a damaged or malicious file raises whatever it likes; torch's advice is to run it
        found = _FOREIGN.search(str(error))
        reason = (
            f"it also holds {found[1]}, which is not loaded, as it could run code" if found else type(error).__name__
        )
        hint = _SAVE_ALONE.format(weights=weights) if found else ""
        raise UserError(f"weights {weights!r} are no file of plain tensors: {reason}{hint}") from error
    while isinstance(content, dict) and (inner := [key for key in _WRAPPERS if isinstance(content.get(key), dict)]):
        content = content[inner[0]]
    if isinstance(content, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        return content
    held = f"it holds {', '.join(map(repr, list(content)[:6]))}" if isinstance(content, dict) else "it is no mapping"
    raise UserError(
        f"weights {weights!r} hold no mapping from names to tensors: {held}{_SAVE_ALONE.format(weights=weights)}"
    )


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
    from torchvision.models import get_model_weights

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
