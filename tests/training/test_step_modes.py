"""How steps are taken: two networks at once, compiled networks, and what a run asks for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from acto.core.cuda_streams import run_concurrently
from acto.core.device import device_in_words
from acto.diagnostics.timed_parts import ActoSteps, in_memory, smooth_pictures
from acto.methods.acto import ACTO
from acto.nets import base
from acto.nets import build as nets
from acto.nets.base import Net
from acto.runs.prepare import step_of
from acto.runs.run import Run
from acto.training import compiled_nets, step_modes
from acto.training.compiled_nets import compile_nets
from acto.training.cuda_graph import CudaRecorder
from acto.training.step_modes import STEPS, prepare_steps
from toys import ToyNet, make_method, make_problem

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
PROBLEM = make_problem()


def mlp() -> Net:
    torch.manual_seed(0)
    return nets.build_net("mlp:8", input_shape=(5,), num_classes=3)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that went the compiled way, which here is the plain one."""
    seen: list[int] = []

    def compiled(net: Net, images: Tensor) -> Tensor:
        seen.append(len(images))
        return base._logits(net, images)

    monkeypatch.setattr(base, "_compiled", lambda: compiled)
    return seen


class OwnNet(nn.Module):
    """A method of one network, for compile_nets."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)


def test_both_results_come_back_in_their_order() -> None:
    order: list[str] = []

    def note(name: str) -> str:
        order.append(name)
        return name

    assert run_concurrently(lambda: note("first"), lambda: note("second"), device=CPU) == ("first", "second")
    assert order == ["first", "second"]


def test_only_training_batches_of_the_full_size_are_compiled(fast: list[int]) -> None:
    net = mlp()
    net(torch.zeros(4, 5))
    net.compiled_batch = 4
    net(torch.zeros(4, 5))
    net(torch.zeros(3, 5))
    with torch.no_grad():
        net(torch.zeros(4, 5))
    net.eval()(torch.zeros(4, 5))
    assert fast == [4]


def test_a_network_that_follows_another_is_compiled_to_guess(fast: list[int]) -> None:
    net = mlp().eval()
    net.compiled_batch, net.follows = 4, True
    with torch.no_grad():
        net(torch.zeros(4, 5))
        net(torch.zeros(3, 5))
    assert fast == [4]
    compiled_nets._try(copy.deepcopy(net), device=CPU, precision=torch.float32, batch_size=6)
    assert fast == [4, 6]


def test_the_teacher_of_acto_follows() -> None:
    method = ACTO(ACTO.Config(form="steady"), PROBLEM.task, ToyNet)
    assert method.teacher.follows and not any(hasattr(net, "follows") for net in method.nets)


def test_one_that_follows_and_one_that_learns_are_two_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[bool] = []
    monkeypatch.setattr(compiled_nets, "_try", lambda net, **how: tried.append(net.follows))
    method = OwnNet(mlp(), mlp(), mlp())
    method.parts[1].follows = True  # type: ignore[union-attr]
    compile_nets(method, device=CUDA, precision=torch.float32, batch_size=7)  # type: ignore[arg-type]
    assert sorted(tried) == [False, True]


def test_compiling_changes_no_weight_and_no_key(fast: list[int]) -> None:
    net = mlp()
    before, keys = copy.deepcopy(net.state_dict()), list(net.state_dict())
    method = OwnNet(net, copy.deepcopy(net))
    compiled_nets._try(copy.deepcopy(net), device=CPU, precision=torch.float32, batch_size=6)
    assert fast == [6]
    assert net.compiled_batch is None
    assert compile_nets(method, device=CPU, precision=torch.float32, batch_size=6) is None  # type: ignore[arg-type]
    assert list(net.state_dict()) == keys
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_kind_of_network_is_tried_once_and_all_of_it_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(compiled_nets, "_try", lambda net, **how: tried.append(net.name))
    other = nets.build_net("mlp:16", input_shape=(5,), num_classes=3)
    method = OwnNet(mlp(), mlp(), other)
    said = compile_nets(method, device=CUDA, precision=torch.float32, batch_size=7)  # type: ignore[arg-type]
    assert said is None and tried == ["mlp", "mlp"]
    assert [net.compiled_batch for net in method.parts] == [7, 7, 7]  # type: ignore[union-attr]


def test_a_compiler_that_fails_is_told_of_and_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(net: Net, **how: object) -> None:
        raise RuntimeError("Failed to find C compiler\nand a long trace")

    monkeypatch.setattr(compiled_nets, "_try", fail)
    method = OwnNet(mlp())
    said = compile_nets(method, device=CUDA, precision=torch.float32, batch_size=7)  # type: ignore[arg-type]
    assert said == ("network 'mlp' cannot be compiled here, and is trained as it is: Failed to find C compiler")
    assert method.parts[0].compiled_batch is None


@pytest.mark.parametrize("step", [None, *STEPS])
def test_on_a_processor_steps_are_taken_one_by_one(step: str | None) -> None:
    said: list[str] = []
    method = make_method("acto", PROBLEM.task)
    recorder = prepare_steps(step, method, device=CPU, precision=torch.float32, batch_size=8, say=said.append)
    told = {
        "graph": "--step graph is for a CUDA device, and this is cpu: steps are taken one by one",
        "compiled": "--step compiled is for bfloat16 on a processor, and this is float32",
    }
    assert recorder is None and said == [told[name] for name in told if name == step]


def test_by_default_what_cannot_be_recorded_is_not_worth_a_word() -> None:
    said: list[str] = []
    method = make_method("dividemix", PROBLEM.task)
    for step in (None, "graph"):
        assert not prepare_steps(step, method, device=CUDA, precision=torch.float32, batch_size=8, say=said.append)
    assert said == ["a step of dividemix depends on its place in the epoch and cannot be recorded"]


@pytest.mark.parametrize(
    ("step", "device", "recorded"), [(None, CUDA, True), ("eager", CUDA, False), (None, CPU, False)]
)
def test_steps_are_recorded_by_default_where_they_can_be(
    step: str | None, device: torch.device, recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        step_modes, "recorder_for", lambda method, **where: "stand-in" if where["world"] > 1 else object()
    )
    method = make_method("acto", PROBLEM.task)
    made = prepare_steps(step, method, device=device, precision=torch.float32, batch_size=8)
    assert (made is not None) == recorded
    assert prepare_steps(step, method, device=device, precision=torch.float32, batch_size=8, world=2) is None


@pytest.mark.parametrize(
    ("net", "asked", "step"),
    [
        ("cnn7", None, None),
        ("mlp:8", None, None),
        ("torchvision:resnet18", None, None),
        ("timm:resnet18", None, "eager"),
        ("mine.nets:make", None, "eager"),
        ("mine.nets:make", "graph", "graph"),
        ("cnn7", "compiled", "compiled"),
    ],
)
def test_foreign_networks_are_recorded_on_request_only(net: str, asked: str | None, step: str | None) -> None:
    assert step_of(Run(net=net, step=asked, trust_net=True)) == step


def test_a_processor_has_its_name() -> None:
    assert device_in_words(CPU) == "cpu"


@pytest.mark.gpu
def test_by_default_a_gpu_records_its_steps() -> None:
    method = make_method("acto", PROBLEM.task).to(CUDA)
    made = prepare_steps(None, method, device=CUDA, precision=torch.float32, batch_size=8)
    assert isinstance(made, CudaRecorder)
    assert torch.cuda.get_device_name(CUDA) in device_in_words(CUDA)


@pytest.mark.gpu
def test_two_streams_give_the_gradients_of_one() -> None:
    found = []
    for device in (CPU, CUDA):
        first, second = mlp().to(CUDA), mlp().to(CUDA)
        images = torch.linspace(-1, 1, 40, device=CUDA).view(8, 5)
        a, b = run_concurrently(
            lambda first=first, x=images: first(x), lambda second=second, x=images: second(x), device=device
        )
        (a.square().sum() + 2 * b.square().sum()).backward()
        found.append([p.grad for net in (first, second) for p in net.parameters()])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


def after_steps(step: str, *, count: int) -> tuple[float, Tensor]:
    """Mean probability of the given labels in some steps of ACTO, and what the steps changed."""
    torch.manual_seed(0)
    samples = in_memory(smooth_pictures(128 * count))
    steps = ActoSteps(samples, device=CUDA, precision=torch.float32, step=step, fused_norms=False)
    assert (steps.training.method.nets[0].compiled_batch is not None) == (step == "compiled")
    weights = [weight for net in steps.training.method.nets for weight in net.parameters()]
    before = [weight.detach().clone() for weight in weights]
    steps.run()
    change = torch.cat([(now - then).flatten() for now, then in zip(weights, before, strict=True)]).detach()
    return steps.training.history.mean_prob_given.mean().item(), change


@pytest.mark.gpu
def test_recorded_steps_train_as_plain_ones() -> None:
    assert after_steps("graph", count=6)[0] == pytest.approx(after_steps("eager", count=6)[0], rel=0.02)


@pytest.mark.gpu
def test_a_compiled_step_trains_as_a_plain_one() -> None:
    # One step: weights that differ by 1e-4 of themselves end 11 % apart after six. A difference of 1e-3, that of a
    # product's short mantissa, moves the probability by 0.1 % and the change by 11 % of its length.
    (plain, change), (compiled, other) = after_steps("eager", count=1), after_steps("compiled", count=1)
    assert compiled == pytest.approx(plain, rel=0.01)
    assert (other - change).norm() < 0.25 * change.norm()
