"""Run by acto.diagnostics.machine in a process of its own: devices that really compute, and the data sets under the
data root.

    python -m acto.diagnostics.probe [DATA_ROOT]

prints the findings as JSON.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from acto.core.device import available_devices, cpu_has_bfloat16, limit_threads, resolve_precision
from acto.core.errors import UserError
from acto.core.resources import usable_cores, usable_memory
from acto.core.text import bytes_in_words, counted
from acto.data.catalog import SOURCES
from acto.data.readers.place import DATA_ROOT_VARIABLE
from acto.data.samples import DataSpec, Raw
from acto.data.sources import read
from acto.diagnostics.findings import Finding
from acto.nets.cpu_kernels import KernelsMissing, kernels

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def devices() -> Iterator[Finding]:
    """A line for each device; on each a small product is computed and compared."""
    for name in available_devices():
        device = torch.device(name)
        try:
            precision = resolve_precision("auto", device)
            formats = dict.fromkeys((torch.float32, precision))
            wrong = [dtype for dtype in formats if not _multiplies(device, dtype)]
        except RuntimeError as error:
            text = f"does not compute: {str(error).strip().splitlines()[0]}"
            yield Finding("BAD", f"device {name}", text, _without(name))
            continue
        words = " and ".join(str(dtype).removeprefix("torch.") for dtype in wrong or formats)
        if wrong:
            yield Finding("BAD", f"device {name}", f"a matrix product in {words} came out wrong", _without(name))
        else:
            trains = str(precision).removeprefix("torch.")
            text = f"{_described(device)}; products in {words} are right, trains in {trains}"
            yield Finding("ok", f"device {name}", text)
    yield c_kernels()
    if NVIDIA_DRIVER.exists() and not torch.cuda.is_available():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        text = f"there is an NVIDIA driver, but torch {torch.__version__} (built {built}) finds no GPU"
        advice = 'python -c "import torch; torch.cuda.init()" says why; pytorch.org/get-started has other builds'
        yield Finding("warn", "GPU", text, advice)
    limit_threads()
    threads, cores = torch.get_num_threads(), usable_cores()
    if threads > cores:  # because somebody asked for them
        text = f"torch takes {threads} threads for {counted(cores, 'usable core')}, and they get in each other's way"
        yield Finding("warn", "threads", text, "unset OMP_NUM_THREADS")


def c_kernels() -> Finding:
    """Look whether a processor's bfloat16 steps can use acto.nets.cpu_layers; compile the kernels where nobody has
    yet.
    """
    try:
        kernels()
    except KernelsMissing as error:
        if not cpu_has_bfloat16():
            return Finding("ok", "C kernels", f"none: {error}")
        return Finding("warn", "C kernels", str(error), "steps on the processor are slower without; install gcc")
    return Finding(
        "ok", "C kernels", "compiled, and right on a small picture; bfloat16 steps on the processor use them"
    )


def _multiplies(device: torch.device, dtype: torch.dtype) -> bool:
    """Check that a product of small whole numbers, which float32 adds up exactly, is right up to its last rounding."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-8, 9, (256, 256), generator=generator) for _ in range(2))
    product = (a.to(device, dtype) @ b.to(device, dtype)).float().cpu()
    return bool(((product - (a @ b)).abs() <= torch.finfo(dtype).eps * (a @ b).abs()).all())


def _described(device: torch.device) -> str:
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        free, total = torch.cuda.mem_get_info(device)
        return f"{facts.name}, {bytes_in_words(free)} of {bytes_in_words(total)} free"
    if device.type == "cpu":
        threads = counted(torch.get_num_threads(), "thread")
        return f"{platform.machine()}, {bytes_in_words(usable_memory())} of memory, {threads}"
    return platform.machine()


def _without(name: str) -> str:
    if name == "cpu":
        return "install torch again; if that does not help, the processor or its memory is at fault"
    return "train with --device cpu meanwhile; look at the driver (nvidia-smi), or restart the machine"


def data_sets(root: str | None) -> Iterator[Finding]:
    """The data root, and a line for each named data set of which something is there."""
    named = f"--data-root or {DATA_ROOT_VARIABLE}"
    given = root or os.environ.get(DATA_ROOT_VARIABLE)
    if not given:
        text = "none: only data sets that come with the installation, and paths of your own"
        yield Finding("ok", "data root", f"{text}. Others need {named}")
    elif not Path(given).expanduser().is_dir():
        text = f"{given} does not exist, so no data can be read"
        yield Finding("BAD", "data root", text, f"make it, or set {named} to another folder")
        return
    absent = []
    for name, source in SOURCES.items():
        if source.published is None:
            continue
        findings = list(_data_set(name, given or None, published=source.published))
        yield from findings
        if not findings:
            absent.append(name)
    if given and absent:
        yield Finding(
            "ok", "data root", f"{given}; not there: {', '.join(absent)} (docs/data.md shows where each belongs)"
        )


def _data_set(name: str, root: str | None, *, published: tuple[int, int]) -> Iterator[Finding]:
    label = f"data {name}"
    try:
        raw = read(DataSpec(source=name), data_root=root)
    except UserError as error:
        if not any(words in str(error) for words in (" was not found in ", " needs a data root")):
            yield Finding("BAD", label, f"is there, but cannot be used: {error}", "fetch it again")
        return
    found = (len(raw.train), 0 if raw.test is None else len(raw.test))
    text = f"{found[0]:,} training and {counted(found[1], 'test sample')}"
    if others := _also(name, raw):
        text += f"; serves {', '.join(others)} as well"
    if found[0] < published[0] or found[1] < published[1]:
        text += f", but the published set has {published[0]:,} and {published[1]:,}"
        yield Finding(
            "warn", label, text, f"files are missing: `acto data check {name}` looks at each, or fetch it again"
        )
    else:
        yield Finding("ok", label, text)


def _also(name: str, raw: Raw) -> list[str]:
    """Other sources that these files serve; those with people's labels only where these are there."""
    has_human = any(path.is_file() for path in raw.human_files)
    return [
        other for other, source in SOURCES.items() if source.files_of == name and (source.human is None or has_human)
    ]


def main() -> None:
    """Print what was found."""
    root = sys.argv[1] if len(sys.argv) > 1 else None
    print(json.dumps([asdict(finding) for finding in (*devices(), *data_sets(root))]))


if __name__ == "__main__":
    main()
