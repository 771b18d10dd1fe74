"""One full ACTO step with its data against a literal baseline in the manner of the public code.

    python benchmarks/step.py [--rounds 20] [--steps 6] [--threads 2] [--workers 2] [--device cuda --step compiled]
    python benchmarks/step.py --step eager,compiled --forms published,steady     # all of them in turns

Both train two seven-layer CNNs at batch 128 in the robust phase, weak and strong view included, on the same pictures
(CIFAR-100's where the data root has it, else random ones; the cost does not depend on it). They alternate in one run,
so that a noisy machine disturbs both alike, and each block reads exactly its own samples, so that no worker prepares
batches for it while the other one is being timed.

The baseline: torchvision views per picture with PIL in worker processes, float32, contiguous, two optimizers, memories
on the CPU, boolean indexing. It does nothing that the method does not need.

Ours: the package's own loader, method and loop, with the number format that `--precision auto` picks. "of floor" is the
share of its time that torch's convolutions alone would take: three times the summed best times of the six, forward and
backward, in that format, measured in the same run. The C kernels need fewer products, so more than 1 is possible.

The run is void if the baseline stays under 45 images/s on a machine with two modern cores.
"""

from __future__ import annotations

import argparse
import platform
from functools import partial
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from acto.core.device import resolve_precision
from acto.core.errors import UserError
from acto.data.samples import DataSpec
from acto.data.sources import load_data
from acto.diagnostics.speed_limits import convolution_seconds
from acto.diagnostics.timed_parts import (
    BATCH,
    MEAN,
    NUM_CLASSES,
    STD,
    ActoSteps,
    alternate,
    cnn7,
    in_memory,
    quartiles,
    ratios,
    smooth_pictures,
)
from acto.training.step_modes import STEPS, step_taken

TAU = 0.025
SLOWEST_FAIR_BASELINE = 45.0


def pictures(number: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], str]:
    """`number` pictures (N, 32, 32, 3) with labels, and where they come from."""
    try:
        samples = load_data(DataSpec(source="cifar100")).train
    except UserError:
        return smooth_pictures(number), np.random.default_rng(0).integers(0, NUM_CLASSES, number), "random"
    assert samples.pixels is not None
    return samples.pixels[:number], samples.labels[:number], "CIFAR-100"


class Pictures(Dataset[tuple[torch.Tensor, torch.Tensor, int, int]]):
    """Weak and strong view of a picture, made one by one with PIL."""

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> None:
        self.images, self.labels = images, labels
        shift = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
        last = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        policy = transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10, fill=[128, 128, 128])
        self.weak, self.strong = transforms.Compose([*shift, *last]), transforms.Compose([*shift, policy, *last])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int, int]:
        image = Image.fromarray(self.images[index])
        return self.weak(image), self.strong(image), int(self.labels[index]), index


class Literal:
    """The step as the paper's pseudocode reads, in plain PyTorch."""

    def __init__(
        self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], device: torch.device, workers: int
    ) -> None:
        self.device, self.epoch = device, 0
        self.loader = DataLoader(
            Pictures(images, labels), BATCH, shuffle=True, num_workers=workers, persistent_workers=True
        )
        self.robust, self.non_robust = cnn7().to(device), cnn7().to(device)
        sgd = partial(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=5e-4)
        self.optimizer_r = sgd(self.robust.parameters(), lr=0.01)
        self.optimizer_n = sgd(self.non_robust.parameters(), lr=0.08)
        self.times_selected = torch.zeros(len(labels))
        self.soft_label = F.one_hot(torch.from_numpy(labels), NUM_CLASSES).float()

    def run(self) -> int:
        """One pass over the pictures."""
        for batch in self.loader:
            weak, strong, label = (part.to(self.device) for part in batch[:3])
            index = batch[3]
            robust, non_robust = self.robust(weak), self.non_robust(weak)
            right_r, right_n = robust.argmax(1) == label, non_robust.argmax(1) == label
            share_r, share_n = right_r.double().mean().item(), right_n.double().mean().item()
            selected = right_r & right_n
            if share_r > 0 and (share_n - share_r) / share_r < TAU:
                selected = selected | (~right_r & right_n)
            chosen = selected.nonzero().squeeze(1)
            self.times_selected[index[chosen.cpu()]] += 1
            weight = (self.times_selected[index] / (self.epoch + 1)).to(self.device)
            soft_label = 0.8 * self.soft_label[index] + 0.2 * F.softmax(robust.detach(), dim=1).cpu()
            self.soft_label[index] = soft_label
            pseudo_label = torch.where(selected, label, soft_label.argmax(1).to(self.device))
            loss_r = 0.2 * F.cross_entropy(self.robust(strong), pseudo_label)
            if len(chosen):
                losses = F.cross_entropy(robust[chosen], label[chosen], reduction="none")
                loss_r = loss_r + 0.8 * (weight[chosen] * losses).mean()
            self.optimizer_r.zero_grad()
            loss_r.backward()
            self.optimizer_r.step()
            self.optimizer_n.zero_grad()
            F.cross_entropy(non_robust, label).backward()
            self.optimizer_n.step()
        self.epoch += 1
        return len(self.times_selected)


def main() -> None:
    """Time both and print rates and ratios."""
    parser = argparse.ArgumentParser(description="ACTO's step against a literal baseline")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=6, help="steps in a block")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2, help="processes of the baseline that make views")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--step", help=f"how our steps are taken: {', '.join(STEPS)}; by default as `acto train` does")
    parser.add_argument("--forms", default="published", help="forms of ACTO")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    images, labels, origin = pictures(args.steps * BATCH)
    precision = resolve_precision("auto", device)
    ours: dict[str, ActoSteps] = {}
    for form, step in product(args.forms.split(","), args.step.split(",") if args.step else [None]):
        made = ActoSteps(in_memory(images, labels), device=device, precision=precision, step=step, form=form)
        ours[f"{form}, --step {step_taken(made.training.method, made.training.recorder)}"] = made
    literal = Literal(images, labels, device, args.workers)
    rates = alternate({**ours, "literal": literal}, rounds=args.rounds, device=device)
    floor = convolution_seconds(device, precision)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else device
    print(f"torch {torch.__version__}, {platform.machine()}, {args.threads} threads, {where}, pictures: {origin}")
    print(
        f"ours in {str(precision).removeprefix('torch.')}; the baseline with {args.workers} workers; {args.rounds} "
        f"rounds of {args.steps} steps each"
    )
    show("literal", rates["literal"], " images/s")
    first = next(iter(ours))
    for name in ours:
        show(name, rates[name], " images/s")
        show("  to literal", ratios(rates[name], rates["literal"]))
        show("  of floor", [value * floor / BATCH for value in rates[name]])
        if name != first:
            show(f"  time beside {first}", ratios(rates[first], rates[name]))
    if device.type == "cuda":
        print(f"memory, at most: {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB")
    print(f"the floor is {1000 * floor:.3g} ms a step: the convolutions alone")
    if np.median(rates["literal"]) < SLOWEST_FAIR_BASELINE and device.type == "cpu":
        print(f"VOID: the baseline is under {SLOWEST_FAIR_BASELINE:g} images/s, so the machine is too busy or too slow")


def show(name: str, values: list[float], unit: str = "") -> None:
    """Print a line of a measure."""
    low, median, high = quartiles(values)
    print(f"{name:44} median {median:8.2f}{unit}   quartiles {low:.2f} .. {high:.2f}")


if __name__ == "__main__":
    main()
