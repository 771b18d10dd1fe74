"""Networks: sizes, the float32 head, weights from torchvision, timm and foreign modules, bad input."""

from __future__ import annotations

import copy
import os
import types
import urllib.error
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from acto.core.errors import UserError
from acto.methods.blocks.weight_average import average
from acto.nets.base import Net
from acto.nets.build import NETS, build_net, num_parameters

SMALLEST: dict[str, tuple[int, ...]] = {
    "cnn7": (3, 32, 32),
    "cnn_small": (1, 8, 8),
    "cnn_tiny": (1, 8, 8),
    "mlp": (6,),
    "preact_resnet18": (3, 8, 8),
    "resnet18": (3, 8, 8),
    "resnet34": (1, 8, 8),
    "resnet50": (3, 8, 8),
    "mlp:16": (6,),
}
"""Every network with the smallest sample that it takes."""

LIGHT = ["cnn7", "cnn_small", "mlp", "mlp:16", "resnet18"]
"""Enough of them where the rule tested is in Net, not in the backbone."""


def small(name: str, *, num_classes: int = 5, seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return build_net(name, input_shape=SMALLEST[name], num_classes=num_classes)


def samples(name: str, *, count: int = 4) -> Tensor:
    return torch.randn(count, *SMALLEST[name], generator=torch.Generator().manual_seed(1))


def test_every_registered_net_is_tested() -> None:
    assert NETS.keys() < SMALLEST.keys()
    assert list(NETS) == sorted(NETS)


# Sizes, from the layers' own arithmetic.


def conv(i: int, o: int, k: int, *, bias: bool = False) -> int:
    return i * o * k * k + (o if bias else 0)


def test_cnn7_has_the_papers_parameter_count() -> None:
    assert num_parameters(build_net("cnn7", input_shape=(3, 32, 32), num_classes=100)) == 698_892


def test_cnn7_layers() -> None:
    net = small("cnn7")
    convs = [(m.in_channels, m.out_channels, m.bias is not None) for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert convs == [
        (3, 64, False),
        (64, 64, False),
        (64, 128, False),
        (128, 128, False),
        (128, 196, False),
        (196, 16, False),
    ]
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]
    assert len(norms) == 7 and {m.momentum for m in norms} == {0.1}
    linears = [m for m in net.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [(256, 512), (512, 5)]
    assert all(not m.bias.any() for m in linears)
    # He-normal: standard deviation sqrt(2 / inputs).
    assert linears[0].weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.02)
    assert linears[1].weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.05)


@pytest.mark.parametrize("side", [8, 28, 40])
def test_cnn_small_size_does_not_depend_on_the_picture(side: int) -> None:
    net = build_net("cnn_small", input_shape=(1, side, side), num_classes=10)
    pairs = ((1, 16), (16, 32), (32, 64))
    body = sum(conv(i, o, 3) + conv(o, o, 3) + 2 * (2 * o) for i, o in pairs)
    assert num_parameters(net) == body + 64 * 10 + 10 == 72_666


def test_preact_resnet18_is_dividemix_variant() -> None:
    net = build_net("preact_resnet18", input_shape=(3, 32, 32), num_classes=10)
    count = conv(3, 64, 3) + 2 * 64  # stem with batch normalization
    width = 64
    for planes in (64, 128, 256, 512):
        first = 2 * width + conv(width, planes, 3) + 2 * planes + conv(planes, planes, 3)
        shortcut = 0 if width == planes else conv(width, planes, 1)
        second = 2 * (2 * planes + conv(planes, planes, 3))
        count += first + shortcut + second
        width = planes
    assert num_parameters(net) == count + 512 * 10 + 10 == 11_171_274  # no batch normalization before the mean


def test_preact_identity_shortcut_starts_after_the_relu() -> None:
    """With both convolutions at zero a block returns relu(bn(x)), not x."""
    net = small("preact_resnet18").eval()
    block = next(m for m in net.modules() if m.__class__.__name__ == "_PreActBlock")
    with torch.no_grad():
        block.conv1.weight.zero_()
        block.conv2.weight.zero_()
        images = torch.tensor([-2.0, 3.0]).view(1, 1, 1, 2).expand(1, 64, 1, 2)
        torch.testing.assert_close(block(images)[0, 0, 0], torch.tensor([0.0, 3.0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "count"), [("resnet18", 11_689_512), ("resnet34", 21_797_672), ("resnet50", 25_557_032)]
)
def test_resnet_imagenet_sizes(name: str, count: int) -> None:
    """The parameter counts that torchvision documents for its ImageNet weights."""
    assert num_parameters(build_net(name, input_shape=(3, 65, 65), num_classes=1000)) == count


def test_resnet_stem_follows_the_pictures_size() -> None:
    small_net = build_net("resnet18", input_shape=(3, 64, 64), num_classes=2)
    large_net = build_net("resnet18", input_shape=(3, 64, 65), num_classes=2)
    assert small_net.backbone.conv1.stride == (1, 1) and isinstance(small_net.backbone.maxpool, nn.Identity)
    assert large_net.backbone.conv1.stride == (2, 2) and isinstance(large_net.backbone.maxpool, nn.MaxPool2d)
    grey = build_net("resnet18", input_shape=(1, 96, 96), num_classes=2)
    assert grey.backbone.conv1.weight.shape == (64, 1, 7, 7) and grey.backbone.conv1.stride == (2, 2)


def test_mlp_width_by_name() -> None:
    assert [m.out_features for m in small("mlp").modules() if isinstance(m, nn.Linear)] == [256, 256, 5]
    assert [m.out_features for m in small("mlp:16").modules() if isinstance(m, nn.Linear)] == [16, 16, 5]


# What a Net promises.


@pytest.mark.parametrize("name", LIGHT)
def test_forward_is_head_of_features(name: str) -> None:
    net = small(name).eval()
    features = net.features(samples(name))
    assert features.shape == (4, net.feature_dim)
    by_hand = features @ net.head.weight.T + net.head.bias
    torch.testing.assert_close(net(samples(name)), by_hand)


@pytest.mark.parametrize("name", LIGHT)
def test_logits_are_float32_under_autocast(name: str) -> None:
    net = small(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = net.features(samples(name))
        logits = net.head(features)
    assert logits.dtype == torch.float32
    # Not merely a float32 copy of a bfloat16 product: equal to the float32 product, digit for digit.
    assert torch.equal(logits, F.linear(features.float(), net.head.weight, net.head.bias))


def test_float64_net_stays_float64() -> None:
    net = small("mlp").double()
    assert net(samples("mlp").double()).dtype == torch.float64


@pytest.mark.parametrize("name", SMALLEST)
def test_trains_one_step(name: str) -> None:
    net = small(name)
    before = copy.deepcopy(net.state_dict())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    labels = torch.tensor([0, 1, 2, 3])
    F.cross_entropy(net(samples(name)), labels).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    optimizer.step()
    after = net.state_dict()
    assert [key for key, value in before.items() if torch.equal(value, after[key])] == []


@pytest.mark.parametrize("name", ["cnn7", "cnn_small", "preact_resnet18", "resnet18"])
def test_channels_last_gives_the_same_logits(name: str) -> None:
    net = small(name).eval()
    expected = net(samples(name))
    net = net.to(memory_format=torch.channels_last)
    got = net(samples(name).contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", LIGHT)
def test_the_global_seed_decides_the_weights(name: str) -> None:
    first, same, other = small(name), small(name), small(name, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters(), strict=True))
    assert not torch.equal(first.head.weight, other.head.weight)


# Weights.


def test_resnet50_and_torchvision_give_the_same_logits() -> None:
    torch.manual_seed(0)
    net = build_net("resnet50", input_shape=(3, 72, 72), num_classes=7).eval()
    plain = torchvision.models.resnet50(weights=None, num_classes=7).eval()
    plain.load_state_dict(net.plain_state_dict())  # strict
    images = torch.randn(2, 3, 72, 72)
    with torch.no_grad():
        torch.testing.assert_close(net(images), plain(images))


@pytest.mark.parametrize(("suffix", "nested"), [("safetensors", None), ("pth", None), ("pth", "state_dict")])
def test_file_of_a_plain_torchvision_model(tmp_path: Path, suffix: str, nested: str | None) -> None:
    torch.manual_seed(3)
    plain = torchvision.models.resnet18(weights=None, num_classes=5).eval()
    state = plain.state_dict()
    path = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        save_file(state, path)
    else:
        torch.save({nested: state} if nested else state, path)
    net = build_net("resnet18", input_shape=(3, 72, 72), num_classes=5, weights=str(path)).eval()
    images = torch.randn(2, 3, 72, 72)
    with torch.no_grad():
        torch.testing.assert_close(net(images), plain(images))


@pytest.mark.parametrize("name", ["cnn7", "mlp:16"])
def test_file_of_our_own_keys_restores_everything(tmp_path: Path, name: str) -> None:
    net = small(name, seed=4)
    save_file(net.state_dict(), tmp_path / "own.safetensors")
    again = build_net(
        name, input_shape=SMALLEST[name], num_classes=5, weights=str(tmp_path / "own.safetensors")
    ).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in net.state_dict().items())


def test_head_of_another_size_is_replaced_and_the_backbone_kept(tmp_path: Path) -> None:
    torch.manual_seed(3)
    plain = torchvision.models.resnet18(weights=None)
    state = {key: value for key, value in plain.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")  # torchvision's first files have no batch counts
    torch.manual_seed(5)
    one = build_net("resnet18", input_shape=(3, 72, 72), num_classes=50, weights=str(tmp_path / "old.pth"))
    two = build_net("resnet18", input_shape=(3, 72, 72), num_classes=50, weights=str(tmp_path / "old.pth"))
    assert torch.equal(one.backbone.layer4[1].conv2.weight, plain.layer4[1].conv2.weight)
    assert torch.equal(one.backbone.conv1.weight, two.backbone.conv1.weight)
    assert not torch.equal(one.head.weight, two.head.weight)
    assert one.head.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.05)
    assert not one.head.bias.any()


def test_torchvision_weights_come_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    torch.manual_seed(3)
    plain = torchvision.models.resnet18(weights=None)
    (tmp_path / "checkpoints").mkdir()
    torch.save(plain.state_dict(), tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    net = build_net("resnet18", input_shape=(3, 72, 72), num_classes=4, weights="torchvision")
    assert torch.equal(net.backbone.conv1.weight, plain.conv1.weight)


def test_torchvision_weights_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(url: str, **options: object) -> None:
        assert options["weights_only"] is True and options["check_hash"] is True
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    message = r"service not known.*resnet50-0676ba61\.pth on another machine and pass the file as weights"
    with pytest.raises(UserError, match=message):
        build_net("resnet50", input_shape=(3, 72, 72), num_classes=4, weights="torchvision")


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = torchvision.models.resnet18(weights=None).state_dict()
    state["layer9.weight"] = state.pop("layer1.0.conv1.weight")
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(
        UserError, match=r"missing backbone\.layer1\.0\.conv1\.weight; unknown backbone\.layer9\.weight$"
    ):
        build_net("resnet18", input_shape=(3, 72, 72), num_classes=4, weights=str(tmp_path / "bad.pth"))
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "imagenet.pth")
    with pytest.raises(UserError, match=r"backbone\.conv1\.weight is \(64, 3, 7, 7\), not \(64, 3, 3, 3\)"):
        build_net("resnet18", input_shape=(3, 32, 32), num_classes=4, weights=str(tmp_path / "imagenet.pth"))


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch hacked",)


def test_a_malicious_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"fc.weight": Malicious()}, "bad.pth")
    with pytest.raises(UserError, match="no file of plain tensors"):
        build_net("resnet18", input_shape=(3, 72, 72), num_classes=4, weights="bad.pth")
    assert not Path("hacked").exists()


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors"])
def test_damaged_weight_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02nothing of the kind")
    with pytest.raises(UserError, match=name):
        build_net("resnet18", input_shape=(3, 72, 72), num_classes=4, weights=str(tmp_path / name))


def test_a_file_without_tensors_by_name(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(UserError, match="no mapping from names to tensors"):
        build_net("resnet18", input_shape=(3, 72, 72), num_classes=4, weights=str(tmp_path / "list.pth"))


# Bad input.


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("cnn8", (3, 32, 32), {}, r"unknown net 'cnn8'\. Did you mean 'cnn7'\?.*preact_resnet18"),
        ("cnn7", (3, 28, 28), {}, r"'cnn7' needs pictures of shape \(3, 32, 32\), but these are \(3, 28, 28\)"),
        ("cnn7", (64,), {}, r"'cnn7' needs pictures of shape \(3, 32, 32\)"),
        ("cnn_small", (2, 28, 28), {}, r"'cnn_small' needs .* 1 or 3 channels"),
        ("cnn_small", (1, 7, 9), {}, "at least 8 pixels"),
        ("resnet18", (10,), {}, r"'resnet18' needs pictures of shape \(C, H, W\)"),
        ("mlp", (1, 8, 8), {}, r"'mlp' needs feature vectors of shape \(D,\), but the samples are \(1, 8, 8\)"),
        ("mlp:wide", (8,), {}, "positive whole number"),
        ("mlp:0", (8,), {}, "positive whole number"),
        ("cnn7", (3, 32, 32), {"num_classes": 1}, r"num_classes is 1, but must lie in \[2, inf\]"),
        ("cnn7", (3, 32, 32), {"weights": "torchvision"}, "exist for resnet18, resnet34, resnet50, not for net 'cnn7'"),
        ("resnet18", (3, 32, 32), {"weights": "torchvision"}, "more than 64 pixels a side"),
        ("resnet18", (3, 32, 32), {"weights": "timm"}, "nets named timm:NAME"),
        ("resnet18", (3, 72, 72), {"weights": "torchvison"}, r"nor a file\. Did you mean 'torchvision'\?"),
        ("collections:OrderedDict", (3, 8, 8), {}, "runs foreign code"),
        ("timm:resnet81", (3, 8, 8), {}, r"unknown timm model 'resnet81'\. Did you mean"),
        ("timm:vit_tiny_patch16_224", (3, 8, 8), {}, r"vit_tiny_patch16_224.*\(3, 8, 8\)"),
    ],
)
def test_bad_input(name: str, shape: tuple[int, ...], options: dict[str, object], message: str) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    with pytest.raises(UserError, match=message):
        build_net(name, **{"input_shape": shape, "num_classes": 4, **options})  # type: ignore[arg-type]


def test_samples_of_another_shape_are_refused() -> None:
    with pytest.raises(UserError, match=r"'cnn_small' was built for samples of shape \(1, 8, 8\), but got \(1, 9, 8\)"):
        small("cnn_small")(torch.zeros(2, 1, 9, 8))
    with pytest.raises(UserError, match=r"'mlp' was built for samples of shape \(6,\), but got \(7,\)"):
        small("mlp")(torch.zeros(2, 7))


# Other people's networks.


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_timm(name: str) -> None:
    pytest.importorskip("timm")
    net = build_net(f"timm:{name}", input_shape=(3, 32, 32), num_classes=6)
    assert net.training and all(module.training for module in net.modules())
    features = net.features(torch.randn(2, 3, 32, 32))
    assert features.shape == (2, net.feature_dim)
    assert net.head(features).shape == (2, 6)


def test_timm_keys_go_both_ways(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    plain = timm.create_model("resnet10t", pretrained=False, num_classes=6).eval()
    save_file(plain.state_dict(), tmp_path / "plain.safetensors")
    net = build_net(
        "timm:resnet10t", input_shape=(3, 32, 32), num_classes=6, weights=str(tmp_path / "plain.safetensors")
    ).eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(net(images), plain(images))
    assert net.plain_state_dict().keys() == plain.state_dict().keys()


class Foreign(nn.Module):
    """A network with names of its own: a backbone and a head of two layers."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        size = int(torch.Size(input_shape).numel())
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(size, 12), nn.ReLU())
        self.classifier = nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.backbone(images))


class WithFeatures(nn.Module):
    """A network that already has features() and head."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.body = nn.Linear(int(torch.Size(input_shape).numel()), 11)
        self.head = nn.Linear(11, num_classes, bias=False)

    def features(self, images: Tensor) -> Tensor:
        return self.body(images.flatten(1)).relu()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


class Probabilities(WithFeatures):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).softmax(1)


def no_module(input_shape: tuple[int, ...], num_classes: int) -> int:
    return num_classes


def one_argument(input_shape: tuple[int, ...]) -> nn.Module:
    return nn.Identity()


def too_many_classes(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return Foreign(input_shape, num_classes + 1)


def of_another_shape(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return Foreign((3, 5, 5), num_classes)


def our_own(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return build_net("mlp:4", input_shape=input_shape, num_classes=num_classes)


def our_own_of_three(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return build_net("mlp:4", input_shape=input_shape, num_classes=3)


@pytest.fixture
def foreign_module(monkeypatch: pytest.MonkeyPatch) -> str:
    """These classes as a module that build() can import."""
    module = types.ModuleType("acto_foreign_nets")
    for thing in (
        Foreign, WithFeatures, Probabilities, no_module, one_argument, too_many_classes, of_another_shape,
        our_own, our_own_of_three,
    ):  # fmt: skip
        setattr(module, thing.__name__, thing)
    monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
    return module.__name__


@pytest.mark.parametrize(("attribute", "feature_dim"), [("Foreign", 9), ("WithFeatures", 11)])
def test_foreign_callable_becomes_a_net(foreign_module: str, attribute: str, feature_dim: int) -> None:
    torch.manual_seed(0)
    plain = globals()[attribute]((1, 4, 4), 6).eval()
    torch.manual_seed(0)
    net = build_net(f"{foreign_module}:{attribute}", input_shape=(1, 4, 4), num_classes=6, trust=True)
    assert isinstance(net, Net) and net.feature_dim == feature_dim
    assert net.training and all(module.training for module in net.modules())
    images = torch.randn(3, 1, 4, 4)
    torch.testing.assert_close(net.eval()(images), plain(images))
    assert torch.equal(net(images), net.head(net.features(images)))
    assert plain.state_dict().keys() <= net.plain_state_dict().keys()


def test_weights_of_a_foreign_net_with_a_backbone_of_its_own(foreign_module: str, tmp_path: Path) -> None:
    plain = Foreign((1, 4, 4), 6).eval()
    save_file(plain.state_dict(), tmp_path / "plain.safetensors")
    net = build_net(
        f"{foreign_module}:Foreign",
        input_shape=(1, 4, 4),
        num_classes=6,
        weights=str(tmp_path / "plain.safetensors"),
        trust=True,
    ).eval()
    images = torch.randn(3, 1, 4, 4)
    torch.testing.assert_close(net(images), plain(images))


def test_foreign_callable_may_return_a_net(foreign_module: str) -> None:
    assert build_net(f"{foreign_module}:our_own", input_shape=(6,), num_classes=4, trust=True).name == "mlp"


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("Forein", r"has no callable 'Forein'\. Did you mean 'Foreign'\?"),
        ("no_module", r"returned int, not a torch\.nn\.Module"),
        ("one_argument", r"one_argument\(input_shape, num_classes\) failed: TypeError"),
        ("too_many_classes", r"gives \(1, 5\) for one sample and 4 classes"),
        ("of_another_shape", r"cannot take samples of shape \(1, 4, 4\)"),
        ("Probabilities", r"must end in a torch\.nn\.Linear"),
        ("our_own_of_three", r"3 classes, not for \(6,\) and 4"),
    ],
)
def test_bad_foreign_callable(foreign_module: str, attribute: str, message: str) -> None:
    shape = (6,) if "our_own" in attribute else (1, 4, 4)
    with pytest.raises(UserError, match=message):
        build_net(f"{foreign_module}:{attribute}", input_shape=shape, num_classes=4, trust=True)


def test_module_that_cannot_be_imported() -> None:
    with pytest.raises(UserError, match="cannot import 'no_such_package'"):
        build_net("no_such_package:Net", input_shape=(1, 4, 4), num_classes=4, trust=True)


# Moving average.


def test_average_against_the_formula() -> None:
    target, source = small("mlp:16"), small("mlp:16", seed=1)
    source(samples("mlp:16"))  # moves the batch statistics
    before = copy.deepcopy(target)
    average(target, source, decay=0.75)
    for moved, old, new in zip(target.parameters(), before.parameters(), source.parameters(), strict=True):
        torch.testing.assert_close(moved, 0.75 * old + 0.25 * new)
        assert moved.grad_fn is None and moved.requires_grad
    for moved_buffer, new_buffer in zip(target.buffers(), source.buffers(), strict=True):
        assert torch.equal(moved_buffer, new_buffer) and moved_buffer is not new_buffer


def test_average_can_leave_the_buffers() -> None:
    target, source = small("mlp:16"), small("mlp:16", seed=1)
    source(samples("mlp:16"))
    before = [buffer.clone() for buffer in target.buffers()]
    average(target, source, decay=0.5, copy_buffers=False)
    assert all(torch.equal(a, b) for a, b in zip(before, target.buffers(), strict=True))


@pytest.mark.parametrize(("decay", "like_source"), [(0.0, True), (1.0, False)])
def test_average_at_the_ends_is_exact(decay: float, like_source: bool) -> None:
    target, source = small("mlp:16"), small("mlp:16", seed=1)
    expected = copy.deepcopy(source if like_source else target)
    average(target, source, decay=decay)
    assert all(torch.equal(a, b) for a, b in zip(target.parameters(), expected.parameters(), strict=True))


def test_average_takes_a_network_without_buffers() -> None:
    target, source = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    expected = 0.25 * target.weight + 0.75 * source.weight
    average(target, source, decay=0.25)
    assert torch.allclose(target.weight, expected)
