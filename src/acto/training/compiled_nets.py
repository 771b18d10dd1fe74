"""Networks compiled by torch.compile for training: normalization, activation and pooling become one kernel each way.

Only the batches that training is made of are compiled for. Evaluation, a look at all samples and an epoch's last,
shorter batch come seldom and would each need a compilation of their own.
"""

from __future__ import annotations

import copy
import warnings

import torch

from acto.methods.base import Method
from acto.nets.base import Net


def compile_nets(method: Method, *, device: torch.device, precision: torch.dtype, batch_size: int) -> str | None:
    """Have all networks of `method` compiled for training; or say in words why they were not.

    Compiles at once, half a minute for a small network: torch keeps what it compiled on disk, and a second run starts
    in a few seconds.

    Args:
        method: on its device.
        device: of the training. Only CUDA gains from it.
        precision: of the training.
        batch_size: of one process.
    """
    nets = [module for module in method.modules() if isinstance(module, Net)]
    # Networks of one kind share what was compiled: a copy of each kind does, and keeps the statistics of the others.
    kinds = {(net.name, net.follows, *(weights.shape for weights in net.parameters())): net for net in nets}
    for net in kinds.values():
        try:
            _try(copy.deepcopy(net), device=device, precision=precision, batch_size=batch_size)
        except Exception as error:  # a compiler that is missing or fails raises anything
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            return f"network {net.name!r} cannot be compiled here, and is trained as it is: {reason}"
    for net in nets:
        net.compiled_batch = batch_size
    return None


def _try(net: Net, *, device: torch.device, precision: torch.dtype, batch_size: int) -> None:
    net.train(not net.follows).compiled_batch = batch_size
    images = torch.zeros(batch_size, *net.input_shape, device=device)
    if images.dim() == 4:
        images = images.contiguous(memory_format=torch.channels_last)
    with warnings.catch_warnings():
        # It warns of products in float32, of which there is one, the head's, and that one on purpose.
        warnings.simplefilter("ignore")
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            if net.follows:
                with torch.no_grad():
                    net(images)
                return
            loss = net(images).sum()
            if net.joins_views:
                loss = loss + torch.cat(net.of_views([images, images])).sum()
        torch.autograd.grad(loss, [weights for weights in net.parameters() if weights.requires_grad])
