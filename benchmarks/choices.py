"""What each choice of the step is worth: one forward and backward pass of cnn7 at batch 128, in one form after another.

    python benchmarks/choices.py [--rounds 10] [--compile]

One thread; the forms alternate in one run, and times are processor seconds of this process, so that other work on the
machine counts little. Prints each form's time as a share of plain PyTorch's best: 1.30 takes 30 % longer. And how far
its gradient, over all weights, is from that of contiguous float32, as a share of its length.
`--compile` adds torch.compile, which needs a C++ compiler and two minutes.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acto.nets import build as nets
from acto.nets.cpu_kernels import KernelsMissing
from acto.nets.cpu_layers import WinogradConv2d, use_kernels

BATCH, NUM_CLASSES = 128, 100
PLAIN, EXACT = "channels_last, bfloat16", "contiguous, float32"


def form(
    *, channels_last: bool, dtype: torch.dtype, change: Callable[[nn.Module], nn.Module] = lambda net: net
) -> Callable[[], Tensor]:
    """A pass over the same batch, in one form; gives the gradient of all weights."""
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = change(nets.build_net("cnn7", input_shape=(3, 32, 32), num_classes=NUM_CLASSES).to(memory_format=layout))
    images: Tensor = torch.randn(BATCH, 3, 32, 32).to(memory_format=layout)
    labels = torch.randint(NUM_CLASSES, (BATCH,))

    def run() -> Tensor:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            logits = net(images)
        loss = F.cross_entropy(logits.float(), labels)
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(net.parameters()))])

    return run


def maximum_before_relu(net: nn.Module) -> nn.Module:
    """The same network, value for value, with a quarter of the work for every second ReLU."""
    layers = list(net.backbone)  # type: ignore[arg-type]
    for k, layer in enumerate(layers):
        if isinstance(layer, nn.MaxPool2d):
            layers[k - 1], layers[k] = layers[k], layers[k - 1]
    net.backbone = nn.Sequential(*layers)
    return net


def with_kernels(net: nn.Module) -> nn.Module:
    """As the package trains it: the C kernels of acto.nets.cpu_layers."""
    use_kernels(net)
    return net


def with_norms_alone(net: nn.Module) -> nn.Module:
    """Of the C kernels, batch norm with ReLU and maximum."""
    for layer in with_kernels(net).modules():
        if isinstance(layer, WinogradConv2d):
            layer.__class__ = nn.Conv2d  # type: ignore[assignment]
    return net


def compiled(net: nn.Module) -> nn.Module:
    """The network through torch.compile."""
    return torch.compile(net)  # type: ignore[return-value]


def main() -> None:
    """Time all forms and print their shares."""
    parser = argparse.ArgumentParser(description="what each choice of the step is worth")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    forms = {
        PLAIN: form(channels_last=True, dtype=torch.bfloat16),
        EXACT: form(channels_last=False, dtype=torch.float32),
        "channels_last, float32": form(channels_last=True, dtype=torch.float32),
        "contiguous, bfloat16": form(channels_last=False, dtype=torch.bfloat16),
        "maximum before ReLU": form(channels_last=True, dtype=torch.bfloat16, change=maximum_before_relu),
    }
    try:
        forms["C kernels: norms"] = form(channels_last=True, dtype=torch.bfloat16, change=with_norms_alone)
        forms["C kernels: all, as in a run"] = form(channels_last=True, dtype=torch.bfloat16, change=with_kernels)
    except KernelsMissing as error:
        print(f"without the C kernels: {error}")
    if args.compile:
        forms["torch.compile"] = form(channels_last=True, dtype=torch.bfloat16, change=compiled)

    def seconds(run: Callable[[], Tensor]) -> float:
        started = time.process_time()
        run()
        return time.process_time() - started

    gradients = {name: run() for name, run in forms.items()}
    errors = {name: ((g - gradients[EXACT]).norm() / gradients[EXACT].norm()).item() for name, g in gradients.items()}
    times = np.array([[seconds(run) for run in forms.values()] for _ in range(args.rounds)])
    shares = times / times[:, :1]
    print(f"torch {torch.__version__}, {platform.machine()}, one thread, {args.rounds} rounds")
    for name, column, own in zip(forms, shares.T, times.T, strict=True):
        low, median, high = np.percentile(column, [25, 50, 75])
        print(
            f"{name:28} {median:5.2f}   quartiles {low:.2f} .. {high:.2f}   best {1e3 * own.min():.0f} ms   "
            f"gradient off by {errors[name]:.1%}"
        )


if __name__ == "__main__":
    main()
