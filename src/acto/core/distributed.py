"""One process or many: what differs between them stands here, and is the identity in one process.

A loss is divided by the GLOBAL number of samples (`total`) and gradients are summed over the processes, so that the
sum is the gradient of the mean over the global batch. Start several processes with ``torchrun``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

_CHUNK = 2**20
"""Samples whose rows are merged at a time: what is computed on the way is larger than the rows."""


def start(device: torch.device) -> None:
    """Join the process group that torchrun's environment describes; nothing to do without one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def stop() -> None:
    """Leave the process group."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number; 0 writes the files."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def lost_another(error: BaseException) -> bool:
    """Say whether `error`, raised by a message between the processes, means that another one has gone."""
    marks = ("closed by peer", "reset by peer", "Broken pipe", "remote process exited", "Timed out")
    return isinstance(error, RuntimeError) and (
        isinstance(error, dist.DistError) or any(m in str(error) for m in marks)
    )


def require_same(number: int, what: str, *, device: torch.device) -> None:
    """Check that `number` is the same in all processes, which would else wait for each other for ever.

    Raises:
        RuntimeError: it is not, in every process.
    """
    plain, squared = total(torch.tensor([number, number * number], device=device)).tolist()
    if world() * squared != plain * plain:
        raise RuntimeError(
            f"{what} is {number} in process {rank()} and not the same in all: they must see the same folder"
        )


def of_the_first(number: float, *, device: torch.device) -> float:
    """Return the number of the first process, in all of them."""
    if world() == 1:
        return number
    own = number if rank() == 0 else 0.0
    return float(total(torch.tensor(own, dtype=torch.float64, device=device)))


def total(tensor: Tensor) -> Tensor:
    """The sum over the processes, without gradient."""
    if world() == 1:
        return tensor
    tensor = tensor.detach().clone()
    dist.all_reduce(tensor)
    return tensor


def gather(*rows: Tensor) -> tuple[tuple[Tensor, ...], slice]:
    """Rows of the whole global batch, without gradient, for a rule that picks from it. Several tensors go together.

    The rows come in the order that they have in one process, so that even a tie is decided alike. With several
    processes the host waits for the size of the batch.

    Args:
        rows: each (B, ...), one row for each sample of this process's part of a batch: every world-th, from rank on.

    Returns:
        Each (G, ...), G samples of all processes; and where this process's own rows are among them.
    """
    rows = tuple(part.detach() for part in rows)
    if world() == 1:
        return rows, slice(None)
    own = len(rows[0])
    size = int(total(torch.tensor(own, device=rows[0].device)))
    assert own == len(range(rank(), size, world())), "the parts of a batch are every world-th row of it"
    return tuple(_interleaved(part, size) for part in rows), slice(rank(), None, world())


def _interleaved(part: Tensor, size: int) -> Tensor:
    """The first row of every process, then the second, and so on: `size` rows."""
    padded = part.new_zeros(-(-size // world()), *part.shape[1:])
    padded[: len(part)] = part
    parts = [torch.empty_like(padded) for _ in range(world())]
    dist.all_gather(parts, padded)
    return torch.stack(parts, dim=1).flatten(0, 1)[:size]


def share_gradients(parameters: Iterable[Tensor]) -> None:
    """Sum the gradients over the processes, in one message. Parameters at rest (no gradient anywhere) are left out."""
    if world() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


@torch.no_grad()
def average(tensors: Iterable[Tensor]) -> None:
    """Bring floating-point tensors to their mean over the processes, in place and in one message.

    Meant for the running statistics of batch normalization: each process has seen its own part of the batches, and
    without this the processes' networks, looked at in eval mode, are not the same.
    """
    tensors = [tensor for tensor in tensors if tensor.is_floating_point()]
    if world() == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors]) / world()
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


@torch.no_grad()
def merge_rows(tables: Iterable[Tensor], written: Tensor) -> None:
    """Bring per-sample tables, of which every process wrote its own rows, to the same state everywhere, in place.

    Adding zeros is exact, so a merged table equals that of one process bit for bit.

    Args:
        tables: each (N, ...), of any number type.
        written: (N,) bool, the rows that this process wrote; no row is written by two.
    """
    if world() == 1:
        return
    anyone = total(written.to(torch.int32)) > 0
    for table in tables:
        for part, own, any_own in zip(*(whole.split(_CHUNK) for whole in (table, written, anyone)), strict=True):
            shape = (-1, *[1] * (table.dim() - 1))
            number = part.to(torch.int32) if part.dtype == torch.bool else part
            merged = total(torch.where(own.view(shape), number, torch.zeros_like(number)))
            part.copy_(torch.where(any_own.view(shape), merged, number))
