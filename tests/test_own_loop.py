"""Training loops of one's own: acto.losses and acto.selection, and the recipes of docs/own-loop.md as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import acto
from acto import losses, selection
from acto.core.errors import UserError
from acto.core.types import Batch, Clock, Task
from acto.losses import ActoLoss
from acto.methods.acto import ACTO
from acto.selection import ActoSelector
from toys import LinearNet

PAGE = (Path(__file__).parents[1] / "docs" / "own-loop.md").read_text()


def recipe(title: str, **known: Any) -> dict[str, Any]:
    """The names that are there once the first block of the page and those under a heading have run."""
    start, _, _ = PAGE.partition("\n## ")
    _, _, rest = PAGE.partition(f"\n## {title}\n")
    assert rest, title
    names = {"__name__": "recipe", **known}
    for text in (start, rest.partition("\n## ")[0]):
        for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S):
            exec(compile(block, f"docs/own-loop.md, {title}", "exec"), names)
    return names


def test_the_loop_in_plain_pytorch() -> None:
    torch.manual_seed(0)
    names = recipe("PyTorch")
    assert (names["probs"].argmax(1) == names["true"]).float().mean() > 0.85
    assert names["wrong"][torch.from_numpy(names["suspects"].copy())].float().mean() > 0.9
    assert abs(names["report"].noise.rate - 0.4) < 0.1
    assert names["loss"].requires_grad and 0 < names["found"].selected.sum() < 32


@pytest.mark.integration
@pytest.mark.parametrize("title", ["skorch", "Lightning", "Trainer of Hugging Face"])
@pytest.mark.filterwarnings("default")  # of libraries' own making
def test_the_loops_of_others(title: str) -> None:
    for package in {"skorch": ["skorch"], "Lightning": ["lightning"]}.get(title, ["transformers", "accelerate"]):
        pytest.importorskip(package)
    names = recipe(title)
    if "suspects" in names:
        assert names["wrong"][names["suspects"]].float().mean() > 0.85
        assert "criterion.selector.method.times_selected" in names["model"].state_dict()
    else:
        assert (torch.as_tensor(names["predicted"]) == names["true"]).float().mean() > 0.85


# The face ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [losses, selection])
def test_the_public_names_are_those_of_the_methods(module: Any) -> None:
    assert sorted(module.__all__) == list(module.__all__)
    for name in module.__all__:
        found = getattr(module, name)
        assert found.__doc__ and found.__module__.startswith(("acto.methods.", module.__name__)), name


def test_both_are_there_after_importing_acto_which_loads_no_torch() -> None:
    code = (
        "import sys, acto; assert 'torch' not in sys.modules; assert acto.losses.ActoLoss; "
        "assert acto.selection.small_loss"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert acto.losses is losses


# ActoLoss against the method ----------------------------------------------------------------------------------------

N, K = 24, 3


@pytest.fixture
def problem() -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    weak = torch.randn(N, 4, generator=random)
    return torch.arange(N) % K, weak, weak + 0.3 * torch.randn(N, 4, generator=random)


@pytest.mark.parametrize(
    "settings", [{"memory_momentum": 0.1}, {"selection": "robust", "tau": 0.2, "mining": False}, {"memory_classes": 2}]
)
def test_handed_logits_it_is_the_method(problem: tuple[Tensor, Tensor, Tensor], settings: dict[str, Any]) -> None:
    labels, weak, strong = problem
    torch.manual_seed(1)
    method = ACTO(ACTO.Config(warmup_epochs=1, **settings), Task(labels, K), lambda: LinearNet(4, K))
    criterion = ActoLoss(labels, num_classes=K, warmup_epochs=1, **settings)
    selector = ActoSelector(labels.numpy(), num_classes=K, warmup_epochs=1, **settings)
    f, g = method.nets
    kinds = set()
    for epoch in range(5):
        for index in torch.arange(N).split(8):
            clock = Clock(epoch, 5)
            method.on_turn(clock, None)  # type: ignore[arg-type]
            expected = method.loss((Batch(index, (weak[index], strong[index]), labels[index]),), clock)
            x = weak[index]
            loss = criterion(index, robust=f(x), non_robust=g(x), robust_strong=f(strong[index]), epoch=epoch)
            assert torch.equal(loss, expected.loss)
            found = selector.select(index, robust=f(x), non_robust=g(x), epoch=epoch)
            last = criterion.last
            assert last is not None
            if epoch:
                for name in ("selected", "mined", "weight"):
                    assert torch.equal(getattr(found, name), expected.per_sample[name])
                    assert torch.equal(getattr(last, name), expected.per_sample[name])
                memory = method.soft_labels(index) if "memory_classes" in settings else method.soft_label[index]
                named = torch.where(found.selected, labels[index], memory.argmax(1))
                assert torch.equal(found.target, named) and torch.equal(last.target, named)
                kinds |= set(found.selected.tolist())
            else:
                assert found.selected.all() and torch.equal(found.target, labels[index])
            gradients = torch.autograd.grad(expected.loss, list(method.parameters()), retain_graph=True)
            ours = torch.autograd.grad(loss, list(method.parameters()))
            assert all(torch.equal(a, b) for a, b in zip(ours, gradients, strict=True))
            with torch.no_grad():
                for parameter, gradient in zip(method.parameters(), gradients, strict=True):
                    parameter -= 0.3 * gradient
    assert kinds == {True, False}
    restored = ActoLoss(labels, num_classes=K, warmup_epochs=1, **settings)
    restored.load_state_dict(criterion.state_dict())
    expected_quality = method.label_quality()
    assert expected_quality is not None
    for each in (criterion, selector, restored):
        quality = each.label_quality()
        assert quality is not None and torch.equal(quality, expected_quality)


def test_reprs_say_something(problem: tuple[Tensor, Tensor, Tensor]) -> None:
    selector = ActoSelector(problem[0], num_classes=K, warmup_epochs=2)
    assert repr(selector) == "ActoSelector(24 samples, 3 classes, warmup_epochs=2, tau=0.025)"
    logits = torch.zeros(8, K)
    found = selector.select(torch.arange(8), robust=logits, non_robust=logits, epoch=0)
    assert repr(found) == "<Selected 8 of 8 samples, 0 mined>"
    assert selector.label_quality() is None


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        ([0, 1, 3], {}, "labels must lie in 0 to 2, but there is 3"),
        ([0, -1, 2], {}, "labels must lie in 0 to 2, but there is -1"),
        ([0.0, 1.0, 2.0], {}, r"labels must be \(N,\) whole numbers, not torch.float32"),
        ([[0, 1]], {}, r"labels must be \(N,\) whole numbers, not torch.int64 of \(1, 2\)"),
        ([], {}, "labels must be"),
        ([0, 1, 2], {"warmup": 3}, "warmup"),
        ([0, 1, 2], {"tau": -1}, "tau is -1"),
        ([0, 1, 2], {"form": "steady"}, "a judge 'teacher', as of the steady form, needs networks"),
    ],
)
def test_labels_and_settings_that_cannot_be_used(labels: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ActoLoss(labels, num_classes=K, **settings)


GOOD: dict[str, Any] = {"robust": torch.zeros(2, K), "non_robust": torch.zeros(2, K), "epoch": 0}


@pytest.mark.parametrize(
    ("index", "changed", "message"),
    [
        (torch.tensor([0, N]), {}, "index must lie in 0 to 23: labels has 24 entries"),
        (torch.tensor([-1, 0]), {}, "index must lie in 0 to 23"),
        (torch.tensor([0.0, 1.0]), {}, r"index must be a tensor \(B,\) of int64"),
        (np.array([0, 1]), {}, r"index must be a tensor \(B,\) of int64"),
        (torch.arange(3), {}, r"robust must be logits of shape \(3, 3\), not \(2, 3\)"),
        (
            torch.arange(2),
            {"non_robust": torch.zeros(2, 4)},
            r"non_robust must be logits of shape \(2, 3\), not \(2, 4\)",
        ),
        (torch.arange(2), {"robust_strong": 1.0}, r"robust_strong must be logits of shape \(2, 3\), not float"),
        (torch.arange(2), {"epoch": 1}, "robust_strong is needed after the warm-up"),
        (torch.arange(2), {"epoch": -1}, "epoch must be a whole number from 0, not -1"),
        (torch.arange(2), {"epoch": 1.5}, "epoch must be a whole number from 0, not 1.5"),
    ],
)
def test_calls_that_cannot_be_used(
    problem: tuple[Tensor, Tensor, Tensor], index: Any, changed: dict[str, Any], message: str
) -> None:
    criterion = ActoLoss(problem[0], num_classes=K, warmup_epochs=1)
    before = {name: value.clone() for name, value in criterion.state_dict().items()}
    with pytest.raises(UserError, match=message):
        criterion(index, **{**GOOD, **changed})
    assert all(torch.equal(before[name], value) for name, value in criterion.state_dict().items())


def test_several_processes_are_refused(problem: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "world", lambda: 2)
    with pytest.raises(UserError, match="the memory of the samples is for one process"):
        ActoLoss(problem[0], num_classes=K)(torch.arange(2), **GOOD)
