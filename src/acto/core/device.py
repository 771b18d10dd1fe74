"""Choice of the device and the number format of a run."""

from __future__ import annotations

import os
from typing import Literal

import torch

from acto.core.errors import UserError, choose
from acto.core.resources import usable_cores

Precision = Literal["auto", "float32", "bfloat16", "float16"]
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def available_devices() -> list[str]:
    """The names that this machine accepts, best first."""
    names = [f"cuda:{k}" for k in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return [*names, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def resolve_device(name: str) -> torch.device:
    """The device for ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``. Takes no more threads than there are cores.

    Raises:
        UserError: if this machine does not have it.
    """
    limit_threads()
    choices = available_devices()
    if name in ("auto", "cuda") and choices[0].startswith("cuda"):
        # torchrun gives each process of a machine a number; without it there is one process.
        number = int(os.environ.get("LOCAL_RANK", "0"))
        name = f"cuda:{number % torch.cuda.device_count()}"
        torch.cuda.set_device(name)
    elif name == "auto":
        name = choices[0]
    if name not in choices:
        raise UserError(f"device {name!r} is not on this machine. Choices: auto, {', '.join(choices)}")
    return torch.device(name)


def limit_threads() -> None:
    """Hold torch to the cores that this process may use: torch counts those of the machine, whatever a container gets.

    Threads beyond the quota are stopped in the middle of their share of the work, and all others wait for them.
    """
    cores = usable_cores()
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > cores:
        torch.set_num_threads(cores)


def device_in_words(device: torch.device) -> str:
    """Its name for a record: ``cpu``, or ``cuda:0 (NVIDIA H100 80GB HBM3)``."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """The format that the networks' bodies compute in; losses, memories and statistics stay float32.

    ``auto`` is bfloat16 where the processor multiplies it natively, float16 (with loss scaling) on an older GPU, and
    float32 elsewhere.

    Raises:
        UserError: for a format that the device cannot train in.
    """
    choose("precision", name, PRECISIONS)
    if name == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        return torch.bfloat16 if device.type == "cpu" and cpu_has_bfloat16() else torch.float32
    if name == "float16" and device.type != "cuda":
        raise UserError(f"precision float16 needs a CUDA device, not {device.type}. Choices: auto, float32, bfloat16")
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def cpu_has_bfloat16() -> bool:
    """Say whether the processor has bfloat16 matrix products; without them autocast is slower than float32."""
    return _cpu_has("avx512_bf16") or cpu_has_matrix_units()


def cpu_has_matrix_units() -> bool:
    """Say whether the processor multiplies bfloat16 tiles (AMX), many times faster than by vectors."""
    return _cpu_has("amx_tile")


def _cpu_has(feature: str) -> bool:
    # No public name for this question exists; a torch without it answers "no", which is only slower.
    check = getattr(torch.cpu, f"_is_{feature}_supported", None)
    return check is not None and check()
