"""What per-sample memories cost at scale, and what keeping the likeliest classes alone loses.

    python benchmarks/memory.py scale [--classes 1000] [--kept 10] [--dtype float32] [--batch 128] [--rounds 30]
    python benchmarks/memory.py agreement --data cifar100 --noise-rate 0.4 --subset 6000 --epochs 40

`scale` times the memories alone, no pictures and no network, with 10^4 to 10^7 samples: a step reads logits (B, K),
takes their softmax into the moving averages of B random samples, and writes these back. The sizes alternate in one run,
in rounds of 20 steps, so that a noisy machine disturbs all alike; growth is the median over the rounds of the ratio to
the smallest size, with its quartiles. Times are the processor's. Every page of a table is touched before, and samples
come in random order without repetition. Beside the soft labels it times what training keeps of every sample in any case
(acto.training.history.History, all columns in use, and a count of selections). Dense tables are measured up to
--dense-up-to samples.

`agreement` trains ELR with its dense memory and shows every prediction, as it is made, to short memories of several k
as well. Agreement is the share of visits after which the short memory's likeliest class is that of the dense one.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from acto.core.types import Batch
from acto.data.noise import NoiseSpec
from acto.data.samples import DataSpec
from acto.data.sources import load_data
from acto.methods.blocks.soft_labels import SoftLabels
from acto.methods.elr import ELR
from acto.runs.prepare import prepare
from acto.runs.recipes.by_data import setting_for
from acto.runs.recipes.recipe import recipe
from acto.training.evaluation import accuracy
from acto.training.history import History
from acto.training.loop import run_epochs

SIZES = (10**4, 10**5, 10**6, 10**7)
STEPS = 20
MOMENTUM = 0.9


def batches(num_samples: int, size: int) -> Iterator[Tensor]:
    """Random samples, none twice before all have come; drawn a piece at a time, as epochs of 10^7 would be long."""
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(num_samples, generator=generator)[: max(size * 4096, size)]
        yield from order.split(size)[: len(order) // size]


def soft_label_step(form: SoftLabels, num_samples: int, size: int, pool: Sequence[Tensor]) -> Callable[[], None]:
    """A step of a memory of `num_samples` soft labels."""
    table, index, turn = form.zeros(num_samples), batches(num_samples, size), [0]
    table.zero_()  # zeros of the system's are one page in truth, which would stay in the cache

    def step() -> None:
        turn[0] += 1
        probs = F.softmax(pool[turn[0] % len(pool)], dim=1)
        form.update(table, next(index), probs, momentum=MOMENTUM)

    return step


def history_step(num_samples: int, size: int) -> Callable[[], None]:
    """A step of what training keeps of every sample, all columns in use, and ACTO's count of selections."""
    history, index = History(num_samples), batches(num_samples, size)
    for column in history.buffers():
        column.copy_(column.clone())  # as above
    times_selected = torch.ones(num_samples, dtype=torch.int64)
    label = torch.zeros(size, dtype=torch.int64)
    chosen = torch.rand(size) < 0.5
    seen = {
        "predicted": label, "prob_given": torch.rand(size), "weight": torch.rand(size),
        "selected": chosen, "mined": chosen, "memorized": chosen,
    }  # fmt: skip

    def step() -> None:
        batch = Batch(index=next(index), views=(), label=label)
        times_selected[batch.index] = times_selected[batch.index] + chosen
        history.update(batch, seen, epoch=3)

    return step


def times(steps: Sequence[Callable[[], None]], rounds: int) -> list[list[float]]:
    """Processor seconds a step, by step and round; the steps take turns."""
    found: list[list[float]] = [[] for _ in steps]
    for turn in range(rounds + 1):
        for step, own in zip(steps, found, strict=True):
            started = time.process_time()
            for _ in range(STEPS):
                step()
            if turn:  # the first round warms up
                own.append((time.process_time() - started) / STEPS)
    return found


def show(what: str, bytes_each: int, sizes: Sequence[int], found: Sequence[Sequence[float]]) -> None:
    """Print a row for each size."""
    for size, own in zip(sizes, found, strict=True):
        ratios = [a / b - 1 for a, b in zip(own, found[0], strict=True)]
        low, growth, high = statistics.quantiles(ratios, n=4)
        print(
            f"{what:<24} {size:>10,} {bytes_each:>7,} {size * bytes_each / 1e9:>9.3f} "
            f"{1e6 * statistics.median(own):>10.0f} {growth:>+8.1%} ({low:+.1%} to {high:+.1%})"
        )
    sys.stdout.flush()


def peak_gb() -> float:
    """Largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def scale(args: argparse.Namespace) -> None:
    """Bytes and times of the memories."""
    torch.set_num_threads(args.threads)
    pool = [4 * torch.randn(args.batch, args.classes) for _ in range(8)]
    print(f"K = {args.classes}, batch {args.batch}, {args.threads} threads, torch {torch.__version__}")
    print(f"{'memory':<24} {'samples':>10} {'bytes':>7} {'GB':>9} {'us a step':>10} {'growth':>8}")
    short = SoftLabels(args.classes, classes=args.kept, dtype=args.dtype)
    steps = [soft_label_step(short, size, args.batch, pool) for size in SIZES]
    show(f"top {short.classes} {args.dtype}", short.bytes_per_sample, SIZES, times(steps, args.rounds))
    steps.clear()
    print(f"{'':<24} peak RSS with all four tables: {peak_gb():.2f} GB")
    each = sum(column[:1].nbytes for column in History(1).buffers()) + 8
    show("history and count", each, SIZES, times([history_step(size, args.batch) for size in SIZES], args.rounds))
    dense = SoftLabels(args.classes, dtype=args.dtype)
    sizes = [size for size in SIZES if size <= args.dense_up_to]
    steps = [soft_label_step(dense, size, args.batch, pool) for size in sizes]
    if steps:
        show(f"dense {args.dtype}", dense.bytes_per_sample, sizes, times(steps, args.rounds))
        print(f"{'':<24} peak RSS: {peak_gb():.2f} GB")


def agreement(args: argparse.Namespace) -> None:
    """Short memories beside the dense one, on the predictions of one training."""
    torch.set_num_threads(args.threads)
    noise = NoiseSpec(kind="symmetric", rate=args.noise_rate) if args.noise_rate else NoiseSpec()
    spec = DataSpec(source=args.data, noise=noise, subset=args.subset)
    dataset = load_data(spec, data_root=args.data_root)
    setting = setting_for(args.data, pipeline=dataset.views.pipeline)
    setting = replace(setting, net=args.net or setting.net, batch_size=args.batch)
    run = recipe(spec, setting.lasting(args.epochs), method="elr")
    beta = run.config.beta if args.beta is None else args.beta
    prepared = prepare(replace(run, config=replace(run.config, beta=beta)), dataset=dataset)
    method, num_samples = prepared.training.method, len(dataset.train)
    assert isinstance(method, ELR)
    kept_in = [(int(kept), dtype) for kept in args.kept.split(",") for dtype in args.dtypes.split(",")]
    forms = {key: SoftLabels(dataset.num_classes, classes=key[0], dtype=key[1]) for key in kept_in}
    tables = {key: form.zeros(num_samples) for key, form in forms.items()}
    last = torch.full((len(forms), num_samples), -1)
    hits, visits = torch.zeros(len(forms), dtype=torch.float64), 0
    remember_guess = method.remember_guess

    def watched(index: Tensor, probs: Tensor, *, net: int) -> Tensor:
        nonlocal visits
        target = remember_guess(index, probs, net=net)
        for row, (key, form) in enumerate(forms.items()):
            own = form.update(tables[key], index, probs, momentum=beta).argmax(1)
            agrees = own == target.argmax(1)
            last[row, index] = agrees.long()
            hits[row] += agrees.sum()
        visits += len(index)
        return target

    method.remember_guess = watched  # type: ignore[method-assign]
    print(f"ELR on {dataset.name}: {num_samples:,} samples, {dataset.num_classes} classes, beta {beta}")
    for log in run_epochs(prepared.training, prepared.train_data, seed=prepared.run.seed):
        if log.epoch == args.epochs - 1:
            first, *_ = accuracy(prepared.training, prepared.test_data).values()
            print(f"{args.epochs} epochs, loss {log.metrics['loss_ce']:.3f}, accuracy on the test set {first:.4f}")
    prepared.close()
    print(f"{'k':>6} {'dtype':>9} {'bytes':>6} {'all visits':>11} {'last epoch':>11}")
    for row, ((kept, dtype), form) in enumerate(forms.items()):
        final = float((last[row] == 1).float().mean())
        name = kept if form.classes else f"all, not {kept}"
        print(f"{name:>6} {dtype:>9} {form.bytes_per_sample:>6} {float(hits[row]) / visits:>11.4%} {final:>11.4%}")


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parts = parser.add_subparsers(required=True)
    sizes = parts.add_parser("scale")
    sizes.add_argument("--classes", type=int, default=1000)
    sizes.add_argument("--kept", type=int, default=10)
    sizes.add_argument("--dtype", default="float32")
    sizes.add_argument("--batch", type=int, default=128)
    sizes.add_argument("--rounds", type=int, default=30)
    sizes.add_argument("--threads", type=int, default=1)
    sizes.add_argument("--dense-up-to", type=int, default=10**6)
    sizes.set_defaults(run=scale)
    compared = parts.add_parser("agreement")
    compared.add_argument("--data", default="cifar100")
    compared.add_argument("--data-root", type=Path)
    compared.add_argument("--net")
    compared.add_argument("--kept", default="1,3,5,7,10,15,31,63")
    compared.add_argument("--dtypes", default="float16")
    compared.add_argument("--noise-rate", type=float, default=0.0)
    compared.add_argument("--subset", type=int)
    compared.add_argument("--beta", type=float, help="of ELR; without it the recipe's")
    compared.add_argument("--epochs", type=int, default=40)
    compared.add_argument("--batch", type=int, default=128)
    compared.add_argument("--threads", type=int, default=1)
    compared.set_defaults(run=agreement)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
