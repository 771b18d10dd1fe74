"""README.md of an exported model: what it is, what it was trained on, how good it is, and how to load it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from acto.labels.report import NAME, NoiseEstimate, read_report
from acto.nets import build as nets
from acto.pages.environment import environment
from acto.run_folder.reading import RunRecord
from acto.runs.trained_model import TrainedModel

MOST_CLASSES = 50
"""Class names that the card lists; preprocessing.json has all."""
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|<>&~$-])")
_TORCHVISION = ("resnet18", "resnet34", "resnet50")


def model_card(model: TrainedModel, record: RunRecord, files: Mapping[str, tuple[str, ...]]) -> str:
    """The card as Markdown, with a YAML header as model hubs read it.

    Args:
        model: what was exported.
        record: of its run.
        files: names of the files by format.
    """
    summary, config = record.summary or {}, record.config
    pages = environment()
    pages.filters["text"] = plain_text
    backbone: Any = model.nets[0].backbone
    return pages.get_template("model_card.md.jinja").render(
        header=Markup(_header(model, summary)),
        model=model,
        summary=summary,
        noise=summary.get("noise", {}),
        config=config,
        versions=record.sessions[-1]["versions"] if record.sessions else {},
        estimate=_estimate(record),
        classes=model.class_names[:MOST_CLASSES],
        left_out=max(0, len(model.class_names) - MOST_CLASSES),
        files=files,
        library=_library(model),
        is_small_stem=model.net in _TORCHVISION and backbone.conv1.kernel_size == (3, 3),
        img_size=list(model.input_shape[1:]) if _has_fixed_size(backbone) else None,
        trusted=":" in model.net and not model.net.startswith(nets.OWN_KINDS),
    )


def plain_text(value: object) -> Markup:
    """A name from outside as one line of Markdown in which nothing has a meaning."""
    text = " ".join(str(value).split())
    return Markup(_MARKUP.sub(r"\\\1", text))


def _header(model: TrainedModel, summary: Mapping[str, Any]) -> str:
    kind = "tabular-classification" if model.views.pipeline == "vectors" else "image-classification"
    if model.encoding is not None and model.encoding.texts is not None:
        kind = "text-classification"
    header: dict[str, Any] = {"library_name": "timm"} if _library(model) == "timm" else {}
    header |= {"tags": sorted({"noisy-labels", "acto", model.method}), "pipeline_tag": kind}
    accuracy = summary.get("test_accuracy_last10")
    if accuracy is not None:
        labels = "given labels, partly wrong" if summary["test_labels_are_given"] else "test set"
        metric = {"type": "accuracy", "value": round(accuracy, 5), "name": f"last-ten mean, {labels}"}
        dataset = {"name": summary["data"], "type": re.sub(r"[^A-Za-z0-9._-]+", "_", summary["data"])}
        result = {"task": {"type": kind}, "dataset": dataset, "metrics": [metric]}
        header["model-index"] = [{"name": f"{model.method}-{model.net}", "results": [result]}]
    # JSON inside YAML: whatever a name holds, it stays a text on one line.
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items())


def _estimate(record: RunRecord) -> NoiseEstimate | None:
    """Return what the audit found, if the run has been audited."""
    return read_report(record.path).noise if (record.path / f"{NAME}.json").is_file() else None


def _library(model: TrainedModel) -> str:
    """Name the library whose keys the weights have: torchvision, timm or acto."""
    if model.nets[0].head_key is None:
        return "acto"
    if model.net in _TORCHVISION:
        return "torchvision"
    return "timm" if model.net.startswith("timm:") else "acto"


def _has_fixed_size(backbone: Any) -> bool:
    """Say whether timm makes the network for one size of pictures."""
    facts = getattr(backbone, "pretrained_cfg", None) or {}
    return bool(facts.get("fixed_input_size"))
