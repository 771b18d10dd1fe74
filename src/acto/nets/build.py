"""Networks: `build_net` makes one from its name, always as a `Net`.

Weights are drawn from torch's global generator, so the caller seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from acto.core.errors import UserError, check_range, choose
from acto.nets.base import Net, Shape, check_picture, he_normal
from acto.nets.libraries import custom_net, timm_net, torchvision_net
from acto.nets.weights import load_weights

CIFAR_STEM_UP_TO = 64
"""Pixels a side up to which a ResNet starts with a 3x3 convolution of stride 1 and without pooling."""


def _conv_bn_relu(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out, momentum=0.1),
        nn.ReLU(inplace=True),
    ]


def cnn7(input_shape: Shape, num_classes: int) -> Net:
    """The seven-layer CNN of the ACTO, JoCoR and Jo-SRC papers, for 3x32x32: 698,892 parameters at 100 classes.

    Convolutions 64-64, 128-128, 196-16, each pair followed by a 2x2 maximum, then 256 -> 512 -> K. The features are
    the 512. The public code's projector feeds no loss and is left out, as are the 596 biases of its convolutions: batch
    norm subtracts them again, so that nothing depends on them, and on a GPU they take an eighth of an epoch's time.

    Raises:
        UserError: an input_shape other than (3, 32, 32).
    """
    if input_shape != (3, 32, 32):
        raise UserError(
            f"net 'cnn7' needs pictures of shape (3, 32, 32), but these are {input_shape}; "
            "cnn_small and the ResNets take other sizes"
        )
    layers: list[nn.Module] = []
    width = 3
    for first, second in ((64, 64), (128, 128), (196, 16)):
        layers += _conv_bn_relu(width, first) + _conv_bn_relu(first, second)
        layers.append(nn.MaxPool2d(2))
        width = second
    layers += [nn.Flatten(), he_normal(nn.Linear(256, 512)), nn.BatchNorm1d(512), nn.ReLU(inplace=True)]
    return Net(nn.Sequential(*layers), name="cnn7", input_shape=input_shape, feature_dim=512, num_classes=num_classes)


def cnn_small(input_shape: Shape, num_classes: int) -> Net:
    """Six convolutions in pairs (16, 32, 64), 2x2 maxima between and a global mean: 72,000 weights and a head of 64.

    For pictures of 8x8 to about 40x40 on a processor. An 8x8 digit leaves 2x2 places to the last pair.
    """
    channels, _, _ = check_picture("cnn_small", input_shape)
    layers: list[nn.Module] = []
    for width in (16, 32, 64):
        layers += _conv_bn_relu(channels, width) + _conv_bn_relu(width, width)
        layers.append(nn.MaxPool2d(2) if width < 64 else nn.AdaptiveAvgPool2d(1))
        channels = width
    layers.append(nn.Flatten())
    return Net(
        nn.Sequential(*layers), name="cnn_small", input_shape=input_shape, feature_dim=64, num_classes=num_classes
    )


def cnn_tiny(input_shape: Shape, num_classes: int) -> Net:
    """Three convolutions (16, 32, 64), 2x2 maxima between and a global mean: 23,000 weights and a head of 64.

    For pictures as small as the 8x8 digits, where it takes half of cnn_small's time.
    """
    channels, _, _ = check_picture("cnn_tiny", input_shape)
    layers = [
        *_conv_bn_relu(channels, 16),
        nn.MaxPool2d(2),
        *_conv_bn_relu(16, 32),
        nn.MaxPool2d(2),
        *_conv_bn_relu(32, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ]
    return Net(
        nn.Sequential(*layers), name="cnn_tiny", input_shape=input_shape, feature_dim=64, num_classes=num_classes
    )


class _PreActBlock(nn.Module):
    """BN-ReLU-conv twice; the shortcut, with or without a 1x1 convolution, starts after the first ReLU."""

    NORMS_BEFORE_RELU = ("bn1", "bn2")
    """All that `relu` follows: layers that can take it over, see acto.nets.gpu_layers."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False)
        self.relu: nn.Module = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        active = self.relu(self.bn1(images))
        return self.conv2(self.relu(self.bn2(self.conv1(active)))) + self.shortcut(active)


def preact_resnet18(input_shape: Shape, num_classes: int) -> Net:
    """PreAct ResNet-18 as DivideMix, UNICON and ELR+ train it, for small pictures.

    It departs from the textbook's (He et al. 2016) in three places: BN and ReLU follow the 3x3 stem, every shortcut
    starts from the activated input, and no BN-ReLU stands before the global mean. The head keeps torch's own
    initialisation, as theirs does.
    """
    channels, _, _ = check_picture("preact_resnet18", input_shape)
    layers = _conv_bn_relu(channels, 64)
    width = 64
    for planes, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [_PreActBlock(width, planes, stride=stride), _PreActBlock(planes, planes, stride=1)]
        width = planes
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    net = Net(
        nn.Sequential(*layers),
        name="preact_resnet18",
        input_shape=input_shape,
        feature_dim=width,
        num_classes=num_classes,
    )
    net.head.reset_parameters()
    return net


def _resnet(input_shape: Shape, num_classes: int, *, depth: int) -> Net:
    """Torchvision's ResNet, with its ImageNet stem (7x7, stride 2, maximum) above 64 pixels and a 3x3 one up to there.

    Sources: He et al. 2016; the 3x3 stem is the one that CIFAR papers use with these depths.
    """
    from torchvision.models import resnet

    name = f"resnet{depth}"
    channels, height, width = check_picture(name, input_shape)
    backbone: resnet.ResNet = getattr(resnet, name)(weights=None, num_classes=1)
    small = max(height, width) <= CIFAR_STEM_UP_TO
    if small or channels != 3:
        kernel, stride = (3, 1) if small else (7, 2)
        backbone.conv1 = nn.Conv2d(channels, 64, kernel, stride=stride, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
    if small:
        backbone.maxpool = nn.Identity()
    feature_dim = backbone.fc.in_features
    backbone.fc = nn.Identity()
    return Net(
        backbone, name=name, input_shape=input_shape, feature_dim=feature_dim, num_classes=num_classes, head_key="fc"
    )


def mlp(input_shape: Shape, num_classes: int, *, width: int = 256) -> Net:
    """Two hidden layers with batch normalization for feature vectors; `mlp:512` makes them 512 wide.

    Raises:
        UserError: pictures instead of vectors.
    """
    if len(input_shape) != 1:
        raise UserError(f"net 'mlp' needs feature vectors of shape (D,), but the samples are {input_shape}")
    layers: list[nn.Module] = []
    for inputs in (input_shape[0], width):
        layers += [he_normal(nn.Linear(inputs, width)), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
    return Net(nn.Sequential(*layers), name="mlp", input_shape=input_shape, feature_dim=width, num_classes=num_classes)


NETS: dict[str, Callable[[Shape, int], Net]] = {
    "cnn7": cnn7,
    "cnn_small": cnn_small,
    "cnn_tiny": cnn_tiny,
    "mlp": mlp,
    "preact_resnet18": preact_resnet18,
    "resnet18": partial(_resnet, depth=18),
    "resnet34": partial(_resnet, depth=34),
    "resnet50": partial(_resnet, depth=50),
}
"""The networks that a plain name stands for. On top come `mlp:WIDTH`, `torchvision:NAME`, `timm:NAME` and
`package.module:callable`."""
OWN_KINDS = ("mlp:", "torchvision:", "timm:")
"""Beginnings of names with a colon that run no code but this package's, torchvision's and timm's."""


def build_net(
    name: str,
    *,
    input_shape: Shape,
    num_classes: int,
    weights: str | None = None,
    trust: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Net:
    """A new network in training mode, on the CPU.

    Args:
        name: one of NETS, `mlp:WIDTH`, `torchvision:NAME` (a classification model that ends in a linear layer),
            `timm:NAME` (needs timm), or `package.module:callable`, where callable(input_shape, num_classes) returns a
            module whose last step is a linear layer.
        input_shape: (C, H, W) of a picture or (D,) of a feature vector.
        num_classes: K, at least 2.
        weights: None: random; "torchvision": its ImageNet weights for a ResNet or torchvision:NAME; "timm": timm's for
            its models; else a .safetensors or .pth file with the keys of this package or of the backbone's own library.
            A head of another number of classes is left out: the new one stays, He-normal with zero bias.
        trust: allow `package.module:callable`, which runs foreign code. Pass it only for a name typed by the user.
        say: told in a line what was done to the weights' names.

    Raises:
        UserError: an unknown name, a shape the network cannot take, or weights that cannot be read or do not fit.
    """
    check_range("num_classes", num_classes, low=2)
    input_shape = tuple(input_shape)
    kind, colon, rest = name.partition(":")
    if weights == "timm" and kind != "timm":
        raise UserError(f"weights 'timm' are for nets named timm:NAME, not for {name!r}")
    if not colon:
        name = choose("net", name, [*NETS, "mlp:WIDTH", "torchvision:NAME", "timm:NAME", "package.module:callable"])
        net = NETS[name](input_shape, num_classes)
    elif kind == "mlp":
        if not rest.isdecimal() or int(rest) == 0:
            raise UserError(f"net {name!r}: the width must be a positive whole number, for example mlp:512")
        net = mlp(input_shape, num_classes, width=int(rest))
    elif kind == "torchvision":
        net = torchvision_net(rest, input_shape, num_classes)
    elif kind == "timm":
        net = timm_net(rest, input_shape, num_classes, pretrained=weights == "timm")
    elif not trust:
        raise UserError(f"net {name!r} runs foreign code; name it on the command line, or pass trust=True")
    else:
        net = custom_net(name, input_shape, num_classes)
    if weights is not None and weights != "timm":
        load_weights(net, weights, say=say)
    return net


def num_parameters(net: nn.Module) -> int:
    """Count the numbers that the network learns; buffers do not count."""
    return sum(parameter.numel() for parameter in net.parameters())
