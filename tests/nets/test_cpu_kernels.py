"""The C kernels and the layers made of them: right to the last bit where numbers allow it, else beside float32."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acto.core.device import cpu_has_bfloat16
from acto.data.in_memory import as_dataset
from acto.diagnostics import probe
from acto.diagnostics.findings import Finding
from acto.diagnostics.probe import c_kernels
from acto.nets import build as nets
from acto.nets import cpu_kernels, cpu_layers
from acto.nets.cpu_kernels import KernelsMissing, kernels
from acto.nets.cpu_layers import NormReLU, WinogradConv2d, has_fast_form, use_kernels
from acto.run_folder.reading import read_run
from acto.runs.execute import train_run
from acto.runs.run import Run
from acto.training.protocol import Protocol
from acto.training.step_modes import prepare_steps
from toys import make_method, make_problem

BFLOAT16 = torch.bfloat16
CPU = torch.device("cpu")
PROBLEM = make_problem()


def reason_without() -> str:
    """What a machine lacks for them; that they fail to compile or compute nonsense is no reason to skip a test."""
    if not cpu_has_bfloat16():
        return "kernels are for processors with AVX-512's bfloat16"
    return "" if os.environ.get("CC") or any(map(shutil.which, cpu_kernels.COMPILERS)) else "kernels need a C compiler"


needs_kernels = pytest.mark.skipif(bool(reason_without()), reason=reason_without())


@pytest.fixture(autouse=True)
def no_matrix_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions have their fast form on this machine, whatever it is."""
    monkeypatch.setattr(cpu_layers, "cpu_has_matrix_units", lambda: False)


@pytest.fixture
def asked_anew() -> Iterator[None]:
    """The kernels are looked for again, and again when the test is over."""
    cpu_kernels._load.cache_clear()
    yield
    cpu_kernels._load.cache_clear()


def channels_last(images: Tensor) -> Tensor:
    return images.to(BFLOAT16).contiguous(memory_format=torch.channels_last)


def whole_numbers(*shape: int, largest: int, seed: int) -> Tensor:
    return torch.randint(-largest, largest + 1, shape, generator=torch.Generator().manual_seed(seed)).float()


# (pictures, channels in, channels out, height, width): tiles and blocks that come out even and not, all widths of the
# products' last part, a single tile, more channels than a block of columns has.
SHAPES = [
    (1, 2, 2, 2, 2), (1, 2, 16, 1, 1), (3, 18, 34, 5, 7), (2, 16, 64, 8, 8), (5, 66, 130, 6, 3), (2, 64, 48, 32, 32),
    (7, 128, 196, 8, 8), (1, 30, 80, 9, 2), (2, 12, 208, 14, 14),
]  # fmt: skip


@needs_kernels
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_convolution_of_whole_numbers_is_exact(shape: tuple[int, ...], threads: int) -> None:
    """Sums of small whole numbers have no rounding error in any order, and weights in fours survive the halves."""
    pictures, channels, out, height, width = shape
    images = whole_numbers(pictures, channels, height, width, largest=2, seed=1)
    weights = 4 * whole_numbers(out, channels, 3, 3, largest=2, seed=2)
    gradient = whole_numbers(pictures, out, height, width, largest=2, seed=3)
    images.requires_grad_(), weights.requires_grad_()
    right = F.conv2d(images, weights, padding=1)
    of_images, of_weights = torch.autograd.grad(right, (images, weights), gradient)
    given, back, weights = channels_last(images.detach()), channels_last(gradient), weights.detach()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(kernels().convolve(given, weights), right.to(BFLOAT16))
        assert torch.equal(kernels().convolve(back, weights, turned=True), of_images.to(BFLOAT16))
        assert torch.equal(kernels().weight_gradient(given, back), of_weights)
    finally:
        torch.set_num_threads(before)


@needs_kernels
def test_a_convolution_is_as_near_as_three_roundings() -> None:
    random = torch.Generator().manual_seed(0)
    images, gradient = (channels_last(torch.randn(4, c, 16, 16, generator=random)) for c in (64, 128))
    weights = torch.randn(128, 64, 3, 3, generator=random) / 24
    known = [images.float().requires_grad_(), weights.clone().requires_grad_()]
    right = F.conv2d(*known, padding=1)
    found = (
        kernels().convolve(images, weights), kernels().convolve(gradient, weights, turned=True),
        kernels().weight_gradient(images, gradient),
    )  # fmt: skip
    for ours, theirs in zip(found, (right, *torch.autograd.grad(right, known, gradient.float())), strict=True):
        error = ((ours.float() - theirs).norm() / theirs.norm()).item()
        assert 0.0005 < error < 3 * 2**-9  # a rounding of uniform size is off by .0017 in the mean


def sequence(*, channels: int, pools: bool) -> nn.Sequential:
    """Batch norm with statistics and weights of all kinds, ReLU, and a 2x2 maximum."""
    random = torch.Generator().manual_seed(channels)
    norm = nn.BatchNorm2d(channels, momentum=0.3)
    with torch.no_grad():
        for values in (norm.weight, norm.bias, norm.running_mean):
            assert values is not None
            values.copy_(torch.randn(channels, generator=random))  # weights below zero turn the order around
        assert norm.running_var is not None
        norm.running_var.uniform_(0.5, 2, generator=random)
        norm.weight[0] = norm.bias[0] = 0  # at zero itself ReLU has no slope
    return nn.Sequential(norm, nn.ReLU(inplace=True), *([nn.MaxPool2d(2)] if pools else []))


@needs_kernels
@pytest.mark.parametrize("pools", [False, True])
@pytest.mark.parametrize("channels", [3, 16, 70, 196])
@pytest.mark.parametrize(("spread", "offset", "size"), [(4, 0, (9, 12, 14)), (4, 1000, (9, 12, 14)), (1, 0, (2, 2, 2))])
def test_norm_and_relu_are_torchs(
    pools: bool, channels: int, spread: int, offset: int, size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_layers, "FEWEST_ACTIVATIONS", 0)
    plain = sequence(channels=channels, pools=pools).double()
    fast = copy.deepcopy(plain).float()
    assert use_kernels(fast) == 1 and isinstance(fast[0], NormReLU) and fast[0].pools == pools
    random = torch.Generator().manual_seed(7)
    # Three blocks of rows; far from zero, where the squares would drown the variance; eight rows.
    pictures, height, width = size
    images = channels_last(torch.randn(pictures, channels, height, width, generator=random) * spread + offset)
    given, known = images.clone().requires_grad_(), images.double().requires_grad_()
    right = plain(known)
    found = fast(given)
    assert found.dtype == BFLOAT16 and found.is_contiguous(memory_format=torch.channels_last)
    gradient = channels_last(torch.randn(found.shape, generator=random))
    found.backward(gradient)
    right.backward(gradient.double())
    torch.testing.assert_close(found.double(), right, rtol=2**-8, atol=1e-3)
    for (name, ours), theirs in zip(fast.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-4, atol=1e-4, msg=name)
    for ours, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-3, atol=2e-2)
    assert given.grad is not None and known.grad is not None
    scale = known.grad.abs().max()
    torch.testing.assert_close(given.grad.double() / scale, known.grad / scale, rtol=2**-7, atol=2e-3)
    plain.eval(), fast.eval()
    with torch.no_grad():
        torch.testing.assert_close(fast(images).double(), plain(images.double()), rtol=2**-7, atol=1e-2)


@needs_kernels
def test_of_equal_maxima_the_first_gets_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_layers, "FEWEST_ACTIVATIONS", 0)
    places = torch.tensor([[1.0, 3.0, 0.0, 2.0], [3.0, 3.0, 2.0, 2.0]]).view(1, 1, 2, 4)
    images = channels_last(torch.cat([places, -places, -1 - 0 * places], 1))
    plain, fast = sequence(channels=3, pools=True), sequence(channels=3, pools=True)
    use_kernels(fast)
    gradients = []
    for net, dtype in ((plain, torch.float32), (fast, BFLOAT16)):
        given = images.to(dtype).requires_grad_()
        result = net(given)
        (gradient,) = torch.autograd.grad(result, given, torch.ones_like(result))
        gradients.append(gradient.float())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=2**-7, atol=2e-2)


@needs_kernels
def test_sums_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_layers, "FEWEST_ACTIVATIONS", 0)
    images = channels_last(torch.randn(16, 20, 16, 16, generator=torch.Generator().manual_seed(0)))
    found = []
    before = torch.get_num_threads()
    for threads in (1, 4):
        torch.set_num_threads(threads)
        net = sequence(channels=20, pools=True)
        use_kernels(net)
        result = net(images.clone().requires_grad_())
        result.sum().backward()
        found.append([result.detach(), *net.state_dict().values(), *(p.grad for p in net.parameters())])
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@needs_kernels
@pytest.mark.parametrize("pools", [False, True])
def test_what_is_no_number_stays_visible(pools: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_layers, "FEWEST_ACTIVATIONS", 0)
    images = channels_last(torch.ones(2, 16, 4, 4))
    images[0, 3, 1, 0] = float("nan")
    net = sequence(channels=16, pools=pools)
    use_kernels(net)
    assert net(images)[:, 3].isnan().all() and not net(images)[:, 4].isnan().any()
    net = sequence(channels=16, pools=pools).eval()
    use_kernels(net)
    with torch.no_grad():
        assert net(images)[0, 3].isnan().sum() == 1


def logits_and_gradients(net: nn.Module, images: Tensor, dtype: torch.dtype) -> list[Tensor]:
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        logits = net(images)
    loss = F.cross_entropy(logits.float(), torch.arange(len(images)) % 10)
    return [logits.detach(), *torch.autograd.grad(loss, list(net.parameters()))]


@needs_kernels
@pytest.mark.parametrize(("name", "layers"), [("cnn7", 10), ("resnet18", 13), ("preact_resnet18", 14)])
def test_a_network_computes_what_it_did(name: str, layers: int) -> None:
    torch.manual_seed(0)
    plain = nets.build_net(name, input_shape=(3, 32, 32), num_classes=10).to(memory_format=torch.channels_last)
    fast = copy.deepcopy(plain)
    assert use_kernels(fast) == layers
    assert use_kernels(fast) == 0, "a second time there is nothing left to change"
    assert list(fast.state_dict()) == list(plain.state_dict())
    images = torch.randn(32, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    right = logits_and_gradients(copy.deepcopy(plain), images, torch.float32)
    rounded = logits_and_gradients(copy.deepcopy(plain), images, BFLOAT16)
    found = logits_and_gradients(copy.deepcopy(fast), images, BFLOAT16)

    def error(values: list[Tensor]) -> float:
        """Over all gradients together: single ones of rounded networks are far off here and there."""
        wrong = sum(((a - b) ** 2).sum() for a, b in zip(values[1:], right[1:], strict=True))
        return float((wrong / sum((b**2).sum() for b in right[1:])) ** 0.5)  # type: ignore[union-attr]

    assert 0 < error(found) < 1.5 * error(rounded) < 1
    assert all(map(torch.equal, logits_and_gradients(fast, images, torch.float32), right)), "float32 is left alone"


@needs_kernels
def test_a_frozen_norm_learns_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_layers, "FEWEST_ACTIVATIONS", 0)
    plain, fast = (sequence(channels=16, pools=True).eval() for _ in range(2))
    use_kernels(fast)
    images = channels_last(torch.randn(4, 16, 6, 6))
    for ours, theirs in zip(
        *(torch.autograd.grad(net(images).sum(), list(net.parameters())) for net in (fast, plain)), strict=True
    ):
        assert torch.equal(ours, theirs)


@needs_kernels
def test_odd_sizes_few_pixels_and_two_derivatives(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = sequence(channels=16, pools=True)
    plain = copy.deepcopy(fast)
    use_kernels(fast)
    monkeypatch.setattr(cpu_layers, "FEWEST_ACTIVATIONS", 0)
    images = channels_last(torch.randn(3, 16, 5, 7))
    assert torch.equal(fast(images), plain(images))
    layer = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, bias=False))
    use_kernels(layer)
    few, enough = (torch.randn(n, 64, 8, 8).to(BFLOAT16).requires_grad_() for n in (31, 32))
    with torch.autocast("cpu", dtype=BFLOAT16):
        assert "_Convolution" not in str(layer(few).grad_fn)
        result = layer(enough)
    assert "_Convolution" in str(result.grad_fn)
    (once,) = torch.autograd.grad(result.float().square().sum(), enough, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        once.sum().backward()


@pytest.mark.parametrize(
    ("layer", "fast"),
    [
        (nn.Conv2d(32, 32, 3, padding=1, bias=False), True),
        (nn.Conv2d(32, 32, 3, padding=1), False),
        (nn.Conv2d(30, 32, 3, padding=1, bias=False), False),
        (nn.Conv2d(32, 33, 3, padding=1, bias=False), False),
        (nn.Conv2d(32, 32, 3, bias=False), False),
        (nn.Conv2d(32, 32, 5, padding=1, bias=False), False),
        (nn.Conv2d(32, 32, 3, padding=1, stride=2, bias=False), False),
        (nn.Conv2d(32, 32, 3, padding=1, dilation=2, bias=False), False),
        (nn.Conv2d(64, 64, 3, padding=1, groups=2, bias=False), False),
        (nn.Conv2d(32, 32, 3, padding=1, padding_mode="circular", bias=False), False),
    ],
)
def test_which_convolutions_have_a_fast_form(layer: nn.Conv2d, fast: bool) -> None:
    assert has_fast_form(layer) == fast


@needs_kernels
def test_only_what_follows_directly_is_joined() -> None:
    norm = nn.BatchNorm2d
    net = nn.Sequential(
        norm(4), nn.ReLU(), nn.MaxPool2d((2, 2), (2, 2)), norm(4), nn.GELU(), norm(4), nn.ReLU(),
        nn.MaxPool2d(2, stride=1), norm(4, affine=False), nn.ReLU(), norm(4, momentum=None), nn.ReLU(), norm(4),
    )  # fmt: skip
    assert use_kernels(net) == 2
    assert [type(layer) for layer in net][:8] == [
        NormReLU, nn.Identity, nn.Identity, norm, nn.GELU, NormReLU, nn.Identity, nn.MaxPool2d,
    ]  # fmt: skip
    assert all(type(layer) is not NormReLU for layer in list(net)[8:])
    assert [layer.pools for layer in net if isinstance(layer, NormReLU)] == [True, False]


# How they come about.


def test_a_machine_without_a_compiler(asked_anew: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_kernels, "cpu_has_bfloat16", lambda: True)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(KernelsMissing, match=r"^there is no C compiler: looked for gcc and cc, and CC is not set$"):
        kernels()
    net = nets.build_net("cnn7", input_shape=(3, 32, 32), num_classes=10)
    with pytest.raises(KernelsMissing):
        use_kernels(net)
    assert not any(isinstance(layer, WinogradConv2d | NormReLU) for layer in net.modules())


def test_a_processor_that_does_not_gain(asked_anew: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_kernels, "cpu_has_bfloat16", lambda: False)
    with pytest.raises(KernelsMissing, match="no products of bfloat16"):
        kernels()


def test_with_matrix_units_convolutions_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_layers, "cpu_has_matrix_units", lambda: True)
    monkeypatch.setattr(cpu_layers, "kernels", lambda: None)
    net = nets.build_net("cnn7", input_shape=(3, 32, 32), num_classes=10)
    assert use_kernels(net) == 6
    assert not any(isinstance(layer, WinogradConv2d) for layer in net.modules())


@pytest.fixture
def compiler(tmp_path: Path, asked_anew: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for one, for a machine whose cache is empty."""
    monkeypatch.setattr(cpu_kernels, "cpu_has_bfloat16", lambda: True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    script = tmp_path / "my-cc"
    monkeypatch.setenv("CC", str(script))
    return script


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "#!/bin/sh\necho 'lanes.h:1: unknown target' >&2\nexit 1\n",
            "my-cc cannot compile .*: lanes.h:1: unknown tar",
        ),
        ("#!/bin/sh\nexit 3\n", "my-cc cannot compile .*: Command .* exit status 3"),
        (
            "#!/bin/sh\nfor last; do :; done\necho nonsense > $last\n",
            "the compiled kernels cannot be used: .*kernels.so",
        ),
        (None, "there is no C compiler: CC names .*my-cc$"),
    ],
)
def test_a_compiler_that_fails(script: str | None, said: str, compiler: Path) -> None:
    if script is not None:
        compiler.write_text(script)
        compiler.chmod(0o755)
    with pytest.raises(KernelsMissing, match=said):
        kernels()


def test_a_compiler_that_never_ends(compiler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], *, timeout: float, **named: object) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(KernelsMissing, match=r"my-cc cannot compile .* timed out after 120 seconds"):
        kernels()


@pytest.mark.parametrize("wrong", ["", "convolve", "convolve turned", "weight_gradient"])
def test_wrong_numbers_of_each_kernel_are_noticed(wrong: str, compiler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On any processor, with torch in their place."""

    class StandIn:
        def __init__(self, library: object) -> None:
            pass

        def convolve(self, images: Tensor, weights: Tensor, *, turned: bool = False) -> Tensor:
            with_them = weights.flip(2, 3).transpose(0, 1) if turned else weights
            found = F.conv2d(images.float(), with_them, padding=1)
            return -found if wrong == ("convolve turned" if turned else "convolve") else found

        def weight_gradient(self, images: Tensor, gradient: Tensor) -> Tensor:
            shape = (gradient.shape[1], images.shape[1], 3, 3)
            found = torch.nn.grad.conv2d_weight(images.float(), shape, gradient.float(), padding=1)
            return 1.1 * found if wrong == "weight_gradient" else found

    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setattr(cpu_kernels, "_library", lambda command: None)
    monkeypatch.setattr(cpu_kernels, "Kernels", StandIn)
    with pytest.raises(KernelsMissing, match="computes wrong numbers") if wrong else nullcontext():
        assert isinstance(kernels(), StandIn)


@needs_kernels
def test_wrong_numbers_are_noticed(asked_anew: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a compiler had got a sign wrong."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sources = tmp_path / "kernels"
    sources.mkdir()
    for source in cpu_kernels.SOURCES.glob("*.[ch]"):
        text = source.read_text()
        (sources / source.name).write_text(
            text.replace("half[3][j] = subtract(patch[1][j]", "half[3][j] = add(patch[1][j]")
        )
    monkeypatch.setattr(cpu_kernels, "SOURCES", sources)
    with pytest.raises(KernelsMissing, match="computes wrong numbers"):
        kernels()


@needs_kernels
def test_they_are_compiled_once_and_kept(asked_anew: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    commands: list[list[str]] = []
    run = cpu_kernels._run
    monkeypatch.setattr(cpu_kernels, "_run", lambda *words: (commands.append(words[0]), run(*words))[1])
    kernels()
    (kept,) = (tmp_path / "acto").iterdir()
    assert kept.suffix == ".so" and (tmp_path / "acto").stat().st_mode & 0o777 == 0o700
    assert len(commands) == 3  # two sources and the library
    # It takes the OpenMP that torch has loaded: a second one would keep threads that turn while torch's compute.
    assert b"GOMP_parallel" in kept.read_bytes() and b"libgomp" not in kept.read_bytes()
    cpu_kernels._load.cache_clear()
    kernels()
    assert len(commands) == 3
    sources = tmp_path / "kernels"
    shutil.copytree(cpu_kernels.SOURCES, sources)
    with (sources / "lanes.h").open("a") as header:
        header.write("/* changed */\n")
    monkeypatch.setattr(cpu_kernels, "SOURCES", sources)
    cpu_kernels._load.cache_clear()
    kernels()
    assert len(commands) == 6, "other sources are compiled anew"


@needs_kernels
@pytest.mark.parametrize("folder", ["open to others", "a file"])
def test_a_cache_that_cannot_be_trusted_or_used(
    folder: str, asked_anew: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if folder == "a file":
        (tmp_path / "acto").touch()
    else:
        (tmp_path / "acto").mkdir()
        (tmp_path / "acto").chmod(0o777)
    images = channels_last(torch.ones(1, 32, 4, 4))
    with nullcontext() if folder == "a file" else pytest.warns(UserWarning, match="are not taken from it"):
        assert kernels().convolve(images, torch.ones(32, 32, 3, 3))[0, 0, 1, 1] == 288
    assert folder == "a file" or not list((tmp_path / "acto").iterdir())


# In a training.


class Picture(nn.Module):
    """A method's stand-in: prepare_steps looks at its layers alone."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nets.build_net("cnn7", input_shape=(3, 32, 32), num_classes=10)


@needs_kernels
@pytest.mark.parametrize(
    ("step", "precision", "changed", "said"),
    [
        (None, BFLOAT16, 10, []),
        ("compiled", BFLOAT16, 10, []),
        ("eager", BFLOAT16, 0, []),
        (None, torch.float32, 0, []),
        ("compiled", torch.float32, 0, ["--step compiled is for bfloat16 on a processor, and this is float32"]),
        ("graph", BFLOAT16, 0, ["--step graph is for a CUDA device, and this is cpu: steps are taken one by one"]),
    ],
)
def test_by_default_a_processor_uses_them(
    step: str | None, precision: torch.dtype, changed: int, said: list[str]
) -> None:
    heard: list[str] = []
    method = Picture()
    assert prepare_steps(step, method, device=CPU, precision=precision, batch_size=8, say=heard.append) is None  # type: ignore[arg-type]
    assert sum(isinstance(layer, WinogradConv2d | NormReLU) for layer in method.modules()) == changed
    assert heard == said


def test_who_asks_is_told_why_not(asked_anew: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_kernels, "cpu_has_bfloat16", lambda: False)
    heard: list[str] = []
    for step in (None, "compiled"):
        assert not prepare_steps(step, Picture(), device=CPU, precision=BFLOAT16, batch_size=8, say=heard.append)  # type: ignore[arg-type]
    assert heard == [
        "--step compiled cannot be had on this machine: this processor has no products of bfloat16 numbers (AVX-512)"
    ]


@needs_kernels
def test_a_record_says_how_steps_were_taken(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (40, 32, 32, 3), generator=torch.Generator().manual_seed(0)).byte().numpy()
    dataset = as_dataset(pixels, torch.arange(40).numpy() % 4)
    for step, taken in ((None, "compiled"), ("eager", "eager")):
        run = Run(
            net="cnn7", method="standard", step=step, precision="bfloat16", protocol=Protocol(epochs=1, batch_size=20)
        )
        train_run(run, tmp_path / taken, dataset=dataset)
        (session,) = read_run(tmp_path / taken).sessions
        assert session["step"] == taken


def test_the_doctor_knows(asked_anew: None, monkeypatch: pytest.MonkeyPatch) -> None:
    if not reason_without():
        assert c_kernels().state == "ok" and c_kernels().text.startswith("compiled, and right")
    for module in (cpu_kernels, probe):
        monkeypatch.setattr(module, "cpu_has_bfloat16", lambda: True)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    cpu_kernels._load.cache_clear()
    found = c_kernels()
    assert (found.state, "there is no C compiler" in found.text, "install gcc" in found.advice) == ("warn", True, True)
    for module in (cpu_kernels, probe):
        monkeypatch.setattr(module, "cpu_has_bfloat16", lambda: False)
    cpu_kernels._load.cache_clear()
    assert c_kernels() == Finding(
        "ok", "C kernels", "none: this processor has no products of bfloat16 numbers (AVX-512)"
    )


@needs_kernels
def test_networks_without_such_layers_are_told_of() -> None:
    heard: list[str] = []
    method = make_method("acto", PROBLEM.task)
    prepare_steps("compiled", method, device=CPU, precision=BFLOAT16, batch_size=8, say=heard.append)
    assert heard == ["--step compiled changes nothing: no layer of these networks has a faster form"]


def test_networks_without_such_layers_need_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise KernelsMissing

    monkeypatch.setattr(cpu_layers, "kernels", missing)
    assert use_kernels(nets.build_net("mlp", input_shape=(8,), num_classes=3)) == 0
