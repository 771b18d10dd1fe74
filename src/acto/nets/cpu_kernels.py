"""The C kernels of acto/nets/kernels: compiled once on a machine, kept, tried against torch, and called on tensors.

They are for processors that multiply bfloat16 by AVX-512. Where there are matrix units (AMX) as well, torch's own
convolutions are ahead, and only the norms are used. They share torch's threads: whatever OpenMP torch has loaded runs
them.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from acto.core.device import cpu_has_bfloat16
from acto.core.files import open_own, write_atomically

SOURCES = Path(__file__).parent / "kernels"
COMPILERS = ("gcc", "cc")
FLAGS = ["-O3", "-std=gnu11", "-fPIC", "-fopenmp", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512bf16"]
_SUM_BYTES = hashlib.sha256().digest_size
SECONDS = 120
"""Most seconds that a compiler may take; it takes two."""


class KernelsMissing(RuntimeError):
    """Error of a machine that cannot have the kernels; it says why in words that end a sentence."""


class Kernels:
    """The compiled functions, see the comments in acto/nets/kernels. All tensors are on the CPU and stay unchecked."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        for name in ("winograd_scratch", "winograd_weight_items", "norm_relu_blocks"):
            getattr(library, name).restype = ctypes.c_int64

    def __call__(self, name: str, *arguments: Tensor | int) -> int:
        """Call `name` with the addresses of tensors and with whole numbers."""
        return getattr(self._library, name)(
            *(ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_int64(a) for a in arguments)
        )

    def convolve(self, images: Tensor, weights: Tensor, *, turned: bool = False) -> Tensor:
        """3x3 convolution, stride 1, padding 1.

        Args:
            images: (B, C, H, W) bfloat16, channels last; C even.
            weights: (D, C, 3, 3) float32, contiguous; turned: (C, D, 3, 3).
            turned: take a gradient of results back to one of pictures: weights in half a turn, channels swapped.

        Returns:
            (B, D, H, W) bfloat16, channels last.
        """
        pictures, channels, height, width = images.shape
        out = weights.shape[1 if turned else 0]
        threads = torch.get_num_threads()
        transformed = torch.empty(self("winograd_weight_items", channels, out), dtype=torch.bfloat16)
        self("winograd_weights", weights, transformed, channels, out, int(turned), threads)
        result = empty_like(images, channels=out)
        self(
            "winograd_convolution", images, transformed, result, pictures, height, width, channels, out,
            self._scratch(channels, out, threads), threads,
        )  # fmt: skip
        return result

    def weight_gradient(self, images: Tensor, gradient: Tensor) -> Tensor:
        """The gradient (D, C, 3, 3) float32 of weights from pictures (B, C, H, W) and the gradient of (B, D, H, W)."""
        pictures, channels, height, width = images.shape
        out, threads = gradient.shape[1], torch.get_num_threads()
        sums = torch.empty(threads * self("winograd_weight_items", channels, out))
        result = torch.empty(out, channels, 3, 3)
        self(
            "winograd_weight_gradient", images, gradient, sums, result, pictures, height, width, channels, out,
            self._scratch(channels, out, threads), threads,
        )  # fmt: skip
        return result

    def _scratch(self, channels: int, out: int, threads: int) -> Tensor:
        return torch.empty(threads * self("winograd_scratch", channels, out), dtype=torch.uint8)


def empty_like(images: Tensor, *, channels: int, shrink: int = 1, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """(B, channels, H / shrink, W / shrink), channels last, not filled."""
    pictures, _, height, width = images.shape
    shape = (pictures, channels, height // shrink, width // shrink)
    return torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)


def kernels() -> Kernels:
    """The kernels; compiled at the first call on a machine, which takes some seconds, and kept in the user's cache.

    Raises:
        KernelsMissing: why there are none. Asked again, it answers the same.
    """
    found = _load()
    if isinstance(found, str):
        raise KernelsMissing(found)
    return found


@cache
def _load() -> Kernels | str:
    if not cpu_has_bfloat16():
        return "this processor has no products of bfloat16 numbers (AVX-512)"
    try:
        compiler = _compiler()
        made = Kernels(_library(compiler))
    except KernelsMissing as error:
        return str(error)
    except subprocess.SubprocessError as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        return f"{' '.join(compiler)} cannot compile the kernels: {said[0]}"
    except OSError as error:
        return f"the compiled kernels cannot be used: {error}"
    return made if _right(made) else f"what {' '.join(compiler)} makes of the kernels computes wrong numbers"


def _compiler() -> list[str]:
    """Return the words of the command that compiles, the first one a program's whole path."""
    try:
        asked = shlex.split(os.environ.get("CC", ""))
    except ValueError as error:
        raise KernelsMissing(f"the variable CC cannot be read ({error}): {os.environ['CC']}") from error
    for name in asked[:1] or COMPILERS:
        # A bare name is looked for where programs are; a path that begins nowhere would begin in the current folder.
        found = shutil.which(name) if os.path.isabs(name) or not os.path.dirname(name) else None
        if found is not None and os.path.isabs(found):
            return [found, *asked[1:]]
    looked = f"CC names {asked[0]}" if asked else f"looked for {' and '.join(COMPILERS)}, and CC is not set"
    raise KernelsMissing(f"there is no C compiler: {looked}")


def _library(compiler: list[str]) -> ctypes.CDLL:
    """Load the shared library; compile it before if need be."""
    sources = sorted(SOURCES.glob("*.[ch]"))
    key = hashlib.sha256("\0".join([*compiler, *FLAGS]).encode())
    for source in sources:
        key.update(source.read_bytes())
    folder = _own_folder()
    kept = folder / f"kernels-{key.hexdigest()[:16]}.so" if folder is not None else None
    if kept is not None and _is_whole(kept):
        return ctypes.CDLL(str(kept))
    # A folder that nobody else can write to: what is loaded from it runs.
    with tempfile.TemporaryDirectory(prefix="kernels-", dir=folder) as name:
        built = Path(name)
        for source in sources:
            if source.suffix == ".c":
                _run([*compiler, *FLAGS, "-c", str(source), "-o", str(built / f"{source.stem}.o")], built)
        # Linked without OpenMP, so that it takes the one that torch has loaded: two would keep threads for themselves.
        library = built / "kernels.so"
        _run([*compiler, "-shared", *map(str, sorted(built.glob("*.o"))), "-o", str(library)], built)
        loaded = ctypes.CDLL(str(library))  # stays when the file is gone
        if kept is not None:
            content = library.read_bytes()
            # The sum is behind the library, where loaders do not look: one file, which is there whole or not at all.
            with contextlib.suppress(OSError):  # the disk may be full: then the next start compiles again
                write_atomically(kept, content + hashlib.sha256(content).digest())
                kept.chmod(0o600)
        return loaded


def _run(command: list[str], folder: Path) -> None:
    # Not in the current folder: an empty entry in one of the compiler's own variables would mean its headers.
    subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=SECONDS, cwd=folder)


def _is_whole(library: Path) -> bool:
    """Say whether a kept library is there, the user's own, closed to others, and as it was written."""
    try:
        with open(library, "rb", opener=open_own) as file:
            facts, content = os.fstat(file.fileno()), file.read()
    except OSError:
        return False
    return _is_ours(facts) and hashlib.sha256(content[:-_SUM_BYTES]).digest() == content[-_SUM_BYTES:]


def _is_ours(facts: os.stat_result) -> bool:
    return facts.st_uid == os.getuid() and not facts.st_mode & 0o022


def _own_folder() -> Path | None:
    """Return the folder of compiled kernels; None: there is none, and every start compiles them in a private place."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
        # A relative path would begin in the current folder, which may be a stranger's.
        folder = (cache if cache.is_absolute() else Path.home() / ".cache") / "acto"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ours = _is_ours(folder.stat())
    except (OSError, RuntimeError):
        return None
    if not ours:
        warnings.warn(
            f"{folder} belongs to somebody else or can be written to by others: the C kernels are not taken from it, "
            "and each start compiles them (chmod go-w, or another XDG_CACHE_HOME, mends that)",
            stacklevel=2,
        )
    return folder if ours and os.access(folder, os.W_OK) else None


def _right(made: Kernels) -> bool:
    """Check that small products come out as torch's."""
    random = torch.Generator().manual_seed(0)
    images, gradient, weights = (
        torch.randn(shape, generator=random) for shape in ((2, 18, 5, 6), (2, 34, 5, 6), (34, 18, 3, 3))
    )
    given, back = (t.bfloat16().contiguous(memory_format=torch.channels_last) for t in (images, gradient))
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        known = given.float().requires_grad_(), weights.requires_grad_()
        wanted = F.conv2d(*known, padding=1)
        wanted_gradients = torch.autograd.grad(wanted, known, back.float())
    weights = weights.detach()
    pairs = (
        (made.convolve(given, weights), wanted.detach()),
        (made.convolve(back, weights, turned=True), wanted_gradients[0]),
        (made.weight_gradient(given, back), wanted_gradients[1]),
    )
    return all(bool((found.float() - right).norm() < 0.02 * right.norm()) for found, right in pairs)
