"""What a run of ACTO needs in memory, on the wire and on disk, for any number of samples, classes and processes.

    python benchmarks/scale.py --samples 100000000 --classes 100000 --processes 8 --net resnet50 [--form steady]

Reckoned from the tensors that the code makes: a method of one class and one of the asked size tell what a sample takes,
networks are built without memory (torch's device "meta"), and messages are counted as acto.training.loop and
acto.core.distributed send them. tests/test_scale.py holds the numbers of a small case to what a training really holds,
sends and saves.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import torch

from acto.core.types import Task
from acto.methods.acto import ACTO
from acto.nets.base import Shape
from acto.nets.build import build_net
from acto.training.history import History


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """Bytes that a run needs in each process, unless they say otherwise."""

    per_sample: int
    """The method's memories and the history, of each sample."""
    memories: int
    """Those of all samples."""
    weights: int
    """Both networks, and the teacher of the steady form."""
    gradients: int
    """Message of a step: as many bytes as float32 weights that learn. The optimizer's momentum takes the same again."""
    logits: int
    """One (B, K) in float32 of a process's part of the batch; the step holds about a dozen of them."""
    merged: int
    """Messages at the end of an epoch: a flag a sample, and every memory once, see acto.core.distributed.merge_rows."""
    checkpoint: int
    """On disk, each of two: memories, weights, momentum."""
    end: int
    """Probabilities that the first process holds at the end; twice while they are written."""


def needs(
    *, samples: int, classes: int, kept: int | None, form: Any, net: str, shape: Shape, batch: int, processes: int
) -> Needs:
    """Reckon them.

    Args:
        samples: N.
        classes: K.
        kept: memory_classes of ACTO; None: all.
        form: of ACTO.
        net: a name that build_net takes.
        shape: of a sample.
        batch: B, of all processes together.
        processes: of one run.
    """
    config = ACTO.Config(form=form, memory_classes=kept)

    def method_of(num_samples: int) -> ACTO:
        task = Task(torch.zeros(num_samples, dtype=torch.int64), classes, None, "none")
        with torch.device("meta"):
            network = build_net(net, input_shape=shape, num_classes=classes)
        return ACTO(config, task, lambda: network)

    one, two = method_of(1), method_of(2)
    rows = [getattr(one, name) for name in one.row_buffers]
    history = History(1)
    # What a sample takes is what a second one adds, so that nothing is taken for a sample's that is none's.
    own = sum(tensor.nbytes for tensor in two.state_dict().values()) - sum(t.nbytes for t in one.state_dict().values())
    assert own == sum(row.nbytes for row in rows), "a memory that is not of samples grows with them"
    of_history = sum(tensor.nbytes for tensor in history.buffers())
    network = one.nets[0]
    learned = sum(parameter.nbytes for parameter in network.parameters())
    state = sum(tensor.nbytes for tensor in network.state_dict().values())
    weights = state * (3 if form == "steady" else 2)
    saved = own + sum(tensor.nbytes for tensor in history.state_dict().values())
    memories = samples * (own + of_history + one.labels.itemsize)
    return Needs(
        per_sample=own + of_history + one.labels.itemsize,
        memories=memories,
        weights=weights,
        gradients=2 * learned,
        logits=4 * -(-batch // processes) * classes,
        merged=samples * (2 * 4 + saved) if processes > 1 else 0,
        checkpoint=samples * saved + weights + 2 * learned,
        end=4 * samples * classes,
    )


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=10**8)
    parser.add_argument("--classes", type=int, default=10**5)
    parser.add_argument("--kept", type=int, default=10, help="memory_classes; 0: all")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--form", choices=("published", "steady"), default="steady")
    parser.add_argument("--net", default="resnet50")
    parser.add_argument("--shape", type=int, nargs="+", default=[3, 224, 224])
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--wire", type=float, default=100.0, help="GB/s out of each process")
    parser.add_argument("--disk", type=float, default=1.0, help="GB/s")
    args = parser.parse_args()
    found = needs(
        samples=args.samples, classes=args.classes, kept=args.kept or None, form=args.form, net=args.net,
        shape=tuple(args.shape), batch=args.batch, processes=args.processes,
    )  # fmt: skip
    sent = 2 * (args.processes - 1) / args.processes  # of a ring, in and out of each process
    rows = [
        ("memories and history, of a sample", f"{found.per_sample:,} bytes"),
        ("memories and history, each process", f"{found.memories / 1e9:,.2f} GB"),
        ("weights, each process", f"{found.weights / 1e9:,.2f} GB"),
        ("gradients, and the same again of momentum", f"{found.gradients / 1e9:,.2f} GB"),
        ("one (B, K) of logits, each process", f"{found.logits / 1e9:,.3f} GB"),
        ("sent a step, each process", f"{sent * found.gradients / 1e9:,.2f} GB, "
         f"{1000 * sent * found.gradients / args.wire / 1e9:,.0f} ms at {args.wire:g} GB/s"),
        ("sent an epoch besides, each process", f"{sent * found.merged / 1e9:,.2f} GB, "
         f"{sent * found.merged / args.wire / 1e9:,.1f} s"),
        ("a checkpoint", f"{found.checkpoint / 1e9:,.2f} GB, {found.checkpoint / args.disk / 1e9:,.0f} s at "
         f"{args.disk:g} GB/s"),
        ("probabilities at the end, first process", f"{found.end / 1e9:,.0f} GB"),
    ]  # fmt: skip
    print(f"{args.samples:,} samples, {args.classes:,} classes, {args.net}, {args.form}, {args.processes} processes")
    for what, said in rows:
        print(f"  {what:<44}{said}")


if __name__ == "__main__":
    main()
