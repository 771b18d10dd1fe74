"""Folders of finished runs whose networks never were trained: what reading and exporting a model is tested on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from acto.data.views.spec import ViewSpec
from acto.nets import build as nets
from acto.nets.base import Net
from acto.run_folder.writing import RunFolder
from acto.runs.run import Run

CLASSES = ("apple", "pear", "quince")


def random_net(net: str, shape: tuple[int, ...], *, classes: int = 3, seed: int = 0) -> Net:
    """With batch statistics that are not those of a new network."""
    torch.manual_seed(seed)
    made = nets.build_net(net, input_shape=shape, num_classes=classes, trust=True)
    for name, buffer in made.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return made.eval()


def finished_run(
    folder: Path,
    net: str,
    shape: tuple[int, ...],
    *,
    headline: Sequence[float] = (1.0,),
    classes: Sequence[str] = CLASSES,
    views: ViewSpec | None = None,
    source: str = "gone.npz",
    given: bool = True,
    temperature: float = 1.0,
) -> list[Net]:
    """Write the run and return its networks."""
    made = [random_net(net, shape, classes=len(classes), seed=k) for k in range(len(headline))]
    if views is None and len(shape) == 1:
        views = ViewSpec(pipeline="vectors", mean=(1.0,) * shape[0], std=(2.0,) * shape[0])
    facts: dict[str, Any] = {
        "net": net,
        "method": "standard",
        "headline": list(headline),
        "input_shape": shape,
        "class_names": classes,
        "views": asdict(views or ViewSpec(pipeline="small", mean=(0.5,) * shape[0], std=(0.25,) * shape[0])),
    }
    config = Run(method="standard").to_dict()
    config["data"]["source"] = source
    with RunFolder.create(folder, config=config) as run:
        run.add_session(versions={"torch": "2.14.1"}, device="cpu", argv=["acto"])
        for k, one in enumerate(made):
            run.save_model(f"net{k}.safetensors", safetensors.torch.save(one.state_dict(), {"acto": json.dumps(facts)}))
        calibration = {"temperature": temperature, "noise_rate_holdout": 0.3, "num_holdout": 90, "reason": "by hand"}
        run.save_model("calibration.json", json.dumps(calibration).encode())
        run.save_summary(
            {
                "method": "standard",
                "data": "fruit",
                "noise": {"kind": "symmetric", "rate": 0.3, "rate_realised": 0.28, "sha256": "ab" * 32},
                "seed": 0,
                "epochs": 1,
                "test_accuracy_last10": 0.875,
                "test_labels_are_given": given,
                "num_train": 90,
                "num_test": 10,
            }
        )
        run.set_status("finished", epoch=0)
    return made
