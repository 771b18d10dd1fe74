"""benchmarks/scale.py: it reckons what a training of 100,000 samples and 1,000 classes holds, sends and saves."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from acto.core import distributed
from acto.core.types import Task
from acto.methods.acto import ACTO
from acto.nets.build import build_net
from acto.runs.execute import checkpoint
from acto.training.loop import Training
from acto.training.plans import Plan
from acto.training.protocol import Protocol

NEEDS = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "scale.py"))["needs"]
N, K = 100_000, 1000


@pytest.mark.parametrize("form", ["published", "steady"])
@pytest.mark.parametrize("kept", [10, None])
def test_needs(form: Any, kept: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = N if kept else N // 10
    found = NEEDS(samples=samples, classes=K, kept=kept, form=form, net="mlp:64", shape=(8,), batch=128, processes=2)
    task = Task(torch.arange(samples) % K, K, None, "none")
    config = ACTO.Config(form=form, memory_classes=kept)
    method = ACTO(config, task, lambda: build_net("mlp:64", input_shape=(8,), num_classes=K))
    training = Training(method, Protocol(epochs=1, batch_size=128, plan=Plan(lr=0.1)))
    for parameter in method.nets.parameters():
        parameter.grad = torch.zeros_like(parameter)
    training.optimizer.step()  # which makes its momentum

    rows = [getattr(method, name) for name in method.row_buffers]
    held = sum(tensor.nbytes for tensor in (*rows, *training.history.buffers(), method.labels))
    assert found.memories == held
    others = [tensor for name, tensor in method.state_dict().items() if name not in method.row_buffers]
    assert found.weights == pytest.approx(sum(tensor.nbytes for tensor in others), rel=0.01)
    assert found.checkpoint == pytest.approx(len(checkpoint(training)), rel=0.01)

    sent: list[int] = []
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda tensor: sent.append(tensor.nbytes))
    distributed.share_gradients(method.nets.parameters())
    assert sent == [found.gradients]
    sent.clear()
    method.merge_rows(training.history.written)
    training.history.merge()
    assert sum(sent) == found.merged
