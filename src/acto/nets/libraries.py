"""Networks of other people: torchvision's and timm's models, and `package.module:callable`; all come back as a Net."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from acto.core.errors import UserError, closest
from acto.nets.base import Net, Shape, check_picture, he_normal


def torchvision_net(name: str, input_shape: Shape, num_classes: int) -> Net:
    """A classification model of torchvision, as its library builds it: its last linear layer makes room for our head.

    Raises:
        UserError: no such model, one that does not end in a linear layer or has several outputs, or pictures that it
            cannot take.
    """
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise UserError(
            f"unknown torchvision model {name!r}.{closest(name, known)} torchvision.models.list_models() gives all"
        )
    if check_picture(f"torchvision:{name}", input_shape)[0] != 3:
        raise UserError(f"net torchvision:{name} takes colour pictures, but these have one channel")
    model = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **_QUIET.get(name, {}))
    if getattr(model, "aux_logits", False):
        raise UserError(f"net torchvision:{name} trains with classifiers on the side, which a Net has not")
    net = _cut(model, name=f"torchvision:{name}", input_shape=input_shape, num_classes=num_classes)
    he_normal(net.head)
    return net


_QUIET = {name: {"init_weights": False} for name in ("googlenet", "inception_v3")}
"""They warn unless they are told whether to draw their weights."""


def timm_net(name: str, input_shape: Shape, num_classes: int, *, pretrained: bool) -> Net:
    """A model of the timm library without its classifier, under our head."""
    try:
        import timm
    except ImportError as error:
        raise UserError(f'net timm:{name} needs timm: pip install "acto-lnl[timm]"') from error
    if not timm.is_model(name):
        raise UserError(
            f"unknown timm model {name!r}.{closest(name, timm.list_models())} timm.list_models() gives all of them"
        )
    channels, height, width = check_picture(f"timm:{name}", input_shape)
    default = timm.get_pretrained_cfg(name)
    # Transformers fix their size when they are made; convolutional models take any and know no such argument.
    size: dict[str, Any] = {"img_size": (height, width)} if default is not None and default.fixed_input_size else {}
    try:
        backbone: Any = timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=channels, **size)
    except Exception as error:  # whatever timm, its hub client or a layer raises, the user sees one kind of error
        how = " (to work without a network, pass a file as weights)" if pretrained else ""
        raise UserError(f"timm cannot make {name!r} for pictures of shape {input_shape}{how}: {error}") from error
    name = f"timm:{name}"
    features = _probe(backbone, _sample(input_shape), name=name)
    if features.ndim != 2:
        raise UserError(f"net {name!r} gives features of shape {tuple(features.shape)}, not (B, D)")
    classifier = backbone.pretrained_cfg.get("classifier")
    return Net(
        backbone,
        name=name,
        input_shape=input_shape,
        feature_dim=features.shape[1],
        num_classes=num_classes,
        head_key=classifier if isinstance(classifier, str) else None,
    )


def custom_net(name: str, input_shape: Shape, num_classes: int) -> Net:
    """`package.module:callable`: the module it returns, cut before its last linear layer."""
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"net {name!r}: cannot import {module_name!r}: {error}") from error
    make = getattr(module, attribute, None)
    if not callable(make):
        raise UserError(f"net {name!r}: {module_name} has no callable {attribute!r}.{closest(attribute, vars(module))}")
    try:
        model = make(input_shape, num_classes)
    except Exception as error:  # foreign code may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"net {name!r}: {attribute}(input_shape, num_classes) failed: {reason}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"net {name!r}: {attribute} returned {type(model).__name__}, not a torch.nn.Module")
    if isinstance(model, Net):
        if (model.input_shape, model.head.out_features) != (input_shape, num_classes):
            raise UserError(
                f"net {name!r} is for samples of shape {model.input_shape} and {model.head.out_features} classes, "
                f"not for {input_shape} and {num_classes}"
            )
        return model
    return _cut(model, name=name, input_shape=input_shape, num_classes=num_classes)


def _cut(model: nn.Module, *, name: str, input_shape: Shape, num_classes: int) -> Net:
    """A Net of `model`: its last linear layer becomes the head, everything before it the backbone."""
    calls: list[tuple[str, nn.Linear, Tensor]] = []
    hooks = [
        layer.register_forward_hook(lambda layer, _, output, key=key: calls.append((key, layer, output)))
        for key, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and key
    ]
    sample = _sample(input_shape)
    try:
        logits = _probe(model, sample, name=name)
    finally:
        for hook in hooks:
            hook.remove()
    if logits.shape != (1, num_classes):
        raise UserError(
            f"net {name!r} gives {tuple(logits.shape)} for one sample and {num_classes} classes, not (1, {num_classes})"
        )
    if not calls or calls[-1][2] is not logits:
        raise UserError(f"net {name!r} must end in a torch.nn.Linear and return its output as it is")
    key, linear, _ = calls[-1]
    model.set_submodule(key, nn.Identity())
    net = Net(
        model,
        name=name,
        input_shape=input_shape,
        feature_dim=linear.in_features,
        num_classes=num_classes,
        head_key=key,
    )
    with torch.no_grad():
        net.head.weight.copy_(linear.weight)
        if linear.bias is not None:
            net.head.bias.copy_(linear.bias)
    if not torch.allclose(_probe(net, sample, name=name), logits.float(), rtol=1e-4, atol=1e-5):
        raise UserError(f"net {name!r} changed its output when its last linear layer {key!r} became the head")
    return net


def _sample(input_shape: Shape) -> Tensor:
    """One made-up sample, the same each time and not constant."""
    size = int(torch.Size(input_shape).numel())
    return torch.linspace(-1, 1, size).reshape(1, *input_shape)


def _probe(model: nn.Module, sample: Tensor, *, name: str) -> Tensor:
    """Return what `model` returns for the sample in eval mode; put its modes back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            output = model(sample)
    except Exception as error:  # foreign code may raise anything
        raise UserError(f"net {name!r} cannot take samples of shape {tuple(sample.shape[1:])}: {error}") from error
    finally:
        for module, training in modes.items():
            module.training = training
    if not isinstance(output, Tensor):
        raise UserError(f"net {name!r} returns {type(output).__name__}, not a tensor")
    return output
