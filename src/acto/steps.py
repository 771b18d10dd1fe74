"""How the steps of a training are taken: one by one, from a recording, or from a recording of compiled networks."""

from __future__ import annotations

from collections.abc import Callable

import torch

from acto.compiled import compile_nets
from acto.graph import Recorder, recorder_for
from acto.methods.base import Method

STEPS = ("eager", "graph", "compiled")


def prepare_steps(
    step: str | None,
    method: Method,
    *,
    device: torch.device,
    precision: torch.dtype,
    batch_size: int,
    world: int = 1,
    say: Callable[[str], None] = lambda text: None,
) -> Recorder | None:
    """What records the steps, if they are to be recorded; compiles the networks, if they are to be compiled.

    Args:
        step: one of STEPS; None: "graph" on a CUDA device, "eager" elsewhere.
        method: on its device.
        device: of the training.
        precision: of the training.
        batch_size: over all processes.
        world: number of processes.
        say: told what was asked for and cannot be done.
    """
    if step == "eager" or (step is None and device.type != "cuda"):
        return None
    if device.type != "cuda":
        say(f"--step {step} is for a CUDA device, and this is {device}: steps are taken one by one")
        return None
    if step == "compiled" and (
        refused := compile_nets(method, device=device, precision=precision, batch_size=batch_size // world)
    ):
        say(refused)
    made = recorder_for(method, device=device, precision=precision, world=world)
    if isinstance(made, str):
        if step is not None:
            say(made)
        return None
    return made
