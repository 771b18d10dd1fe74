"""Ways to take the steps of a training: one by one, from a recording, or with compiled networks."""

from __future__ import annotations

from collections.abc import Callable

import torch

from acto.methods.base import Method
from acto.nets.base import Net
from acto.nets.cpu_kernels import KernelsMissing
from acto.nets.cpu_layers import NormReLU, WinogradConv2d, use_kernels
from acto.nets.gpu_layers import use_fused_norms
from acto.training.compiled_nets import compile_nets
from acto.training.cuda_graph import Recorder, recorder_for

STEPS = ("eager", "graph", "compiled")
FUSED_NORMS = True
"""Default of `fused_norms`: recorded and compiled steps on a CUDA device have the layers of acto.nets.gpu_layers."""


def prepare_steps(
    step: str | None,
    method: Method,
    *,
    device: torch.device,
    precision: torch.dtype,
    batch_size: int,
    world: int = 1,
    fused_norms: bool | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Recorder | None:
    """Make what records the steps, if they are to be recorded; compile the networks, if they are to be compiled.

    Args:
        step: one of STEPS; None: "graph" on a CUDA device, "compiled" on a processor that gains from it, else "eager".
        method: on its device.
        device: of the training.
        precision: of the training.
        batch_size: over all processes.
        world: number of processes.
        fused_norms: on a CUDA device, have the layers of acto.nets.gpu_layers in steps that are not eager, where the
            machine can have them: norms in one kernel, channels filled up, views together; None: FUSED_NORMS.
        say: told what was asked for and cannot be done.
    """
    if step == "eager":
        return None
    if device.type != "cuda":
        refused = _compile_for(device, method, precision, step)
        if step is not None and refused is not None:
            say(refused)
        return None
    made = recorder_for(method, device=device, precision=precision, world=world)
    # Steps that Python asks for one operation at a time would wait for Python longer than the kernels save.
    if (FUSED_NORMS if fused_norms is None else fused_norms) and (step == "compiled" or not isinstance(made, str)):
        use_fused_norms(method, device=device)
    if step == "compiled" and (
        refused := compile_nets(method, device=device, precision=precision, batch_size=batch_size // world)
    ):
        say(refused)
    if isinstance(made, str):
        if step is not None:
            say(made)
        return None
    return made


def step_taken(method: Method, recorder: Recorder | None) -> str:
    """Return the one of STEPS that `prepare_steps` has come to."""
    faster = any(
        isinstance(module, WinogradConv2d | NormReLU) or (isinstance(module, Net) and module.compiled_batch is not None)
        for module in method.modules()
    )
    return "compiled" if faster else "eager" if recorder is None else "graph"


def _compile_for(device: torch.device, method: Method, precision: torch.dtype, step: str | None) -> str | None:
    """Have a processor's networks use the C kernels; or say in words why they do not."""
    if device.type != "cpu" or step == "graph":
        return f"--step {step} is for a CUDA device, and this is {device}: steps are taken one by one"
    if precision != torch.bfloat16:
        return f"--step {step} is for bfloat16 on a processor, and this is {str(precision).removeprefix('torch.')}"
    try:
        changed = use_kernels(method)
    except KernelsMissing as error:
        return f"--step {step} cannot be had on this machine: {error}"
    return None if changed else f"--step {step} changes nothing: no layer of these networks has a faster form"
