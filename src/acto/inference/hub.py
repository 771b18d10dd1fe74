"""Folders as model hubs take them: an export with its model card and config.json. Nothing is sent anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from acto.core.documents import read_json
from acto.core.files import disk_errors, write_atomically
from acto.inference.export import FACTS, Exported, export

CONFIG = "config.json"


def hub_folder(
    run: Path | str, out: Path | str, *, formats: Sequence[str] = ("safetensors",), trust: bool = False
) -> Exported:
    """Write a run's model into a folder that can be uploaded as it is, and return what `export` says of it.

    Args:
        run: folder of a finished run.
        out: where to.
        formats: of `export`; the weights as safetensors are always among them.
        trust: as in acto.runs.trained_model.load_model.

    Raises:
        UserError: as `export` does.
        RunError: an exported model differs from the trained one.
    """
    folder, wanted = Path(out), dict.fromkeys([*formats, "safetensors"])  # what may lack a package comes first
    done = [export(run, folder, format=name, trust=trust) for name in wanted]
    facts = read_json(folder / FACTS)
    with disk_errors(f"write {folder}"):
        write_atomically(folder / CONFIG, json.dumps(_config(facts), indent=1).encode() + b"\n")
    files = dict.fromkeys(path for one in done for path in one.files)
    return replace(done[-1], files=(*files, folder / CONFIG), max_difference=max(one.max_difference for one in done))


def upload_words(folder: Path | str) -> str:
    """Say how the folder gets to the Hugging Face Hub, and what to look at before."""
    return (
        f"look through {Path(folder) / 'README.md'} first: it names data, noise and versions, and no license, which is "
        "yours to choose (a line `license: NAME` in its header)\n"
        "nothing was sent. To upload it: pip install huggingface_hub && hf auth login && "
        f"hf upload USER/NAME {folder} ."
    )


def _config(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts that hubs look for, from those of preprocessing.json; timm's networks can be loaded by it."""
    names = facts["class_names"]
    config: dict[str, Any] = {
        "architectures": [facts["net"]],
        "num_labels": len(names),
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "preprocessing": FACTS,
    }
    if facts["net"].startswith("timm:") and len(facts["files"]["safetensors"]) == 1 and "features" not in facts:
        size = facts["size"] or facts["input_shape"][1]
        config |= {
            "architecture": facts["net"].removeprefix("timm:"),
            "num_classes": len(names),
            "label_names": names,
            "pretrained_cfg": {
                "input_size": facts["input_shape"],
                "mean": facts["mean"],
                "std": facts["std"],
                "interpolation": "bilinear",
                "crop_pct": size / (facts["resize"] or size),
                "num_classes": len(names),
            },
        }
    return config
