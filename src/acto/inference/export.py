"""Export of a trained model for use elsewhere, as safetensors, ONNX or torch.export, checked before it is written.

Beside the weights come preprocessing.json, with all that turns a sample into an input and an output into a class, and
README.md, a model card.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor

from acto.core.documents import read_json
from acto.core.errors import RunError, UserError, choose
from acto.core.files import disk_errors, write_atomically
from acto.data.for_prediction import read_new
from acto.data.tables.encoding import ENCODING_FILE
from acto.inference.model_card import model_card
from acto.nets import build as nets
from acto.run_folder.reading import RunRecord, read_run
from acto.runs.frozen.front import FEATURES_FILE, read_front
from acto.runs.trained_model import Headline, TrainedModel, load_model

TOLERANCE = 1e-4
"""Largest difference of a probability, exported against trained, that is let through."""
ONNX_HINT = 'ONNX needs onnx, onnxscript and onnxruntime: pip install "acto-lnl[onnx]"'
FACTS = "preprocessing.json"
NUM_COMPARED = 16
"""Random inputs, and real samples, that exported and trained model are compared on."""

Probs = npt.NDArray[np.float32]
Predictor = Callable[[Tensor], Probs]
"""(B, *input_shape) -> (B, K) probabilities, by the exported files alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """Result of `export`."""

    files: tuple[Path, ...]
    max_difference: float
    """Largest absolute difference of a probability, exported against trained."""
    num_random: int
    num_real: int
    """Samples of the run's own data that were compared; 0 where they are no longer where they were."""


def export(
    run: Path | str, out: Path | str | None = None, *, format: str = "safetensors", trust: bool = False
) -> Exported:
    """Write a run's model for use elsewhere.

    Args:
        run: folder of a finished run.
        out: where to; None: the folder `exported` in the run's. An export of another format may be there already.
        format: "safetensors": weights, under the keys of plain torchvision or timm where the network comes from there;
            "onnx" and "torch" (torch.export): a program that takes normalized float32 inputs in batches of any size
            and gives probabilities, with the temperature in it. The ONNX file's metadata has the class names, as JSON
            under "class_names", and what preprocessing.json says under "acto".
        trust: as in acto.runs.trained_model.load_model.

    Raises:
        UserError: no finished run, an unknown format, a folder that holds something else, or ONNX is not installed.
        RunError: the exported model differs from the trained one; nothing was written.
    """
    choose("format", format, FORMATS)
    record = read_run(run)
    model = load_model(run, trust=trust)
    folder = Path(out) if out is not None else record.path / "exported"
    _refuse_foreign(folder, model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporters warn of what they call in torch itself
        files, predictor = FORMATS[format](model)
    random, real = _random_inputs(model), _real_inputs(model, record)
    difference = _largest_difference(model.headline, predictor, [random[:1], random, *([real] if len(real) else [])])
    if not difference <= TOLERANCE:
        raise RunError(
            f"the {format} export differs from the trained model by {difference:.2g} in a probability, more than "
            f"{TOLERANCE:g}: nothing was written"
        )
    there = _formats_in(folder) | {format: tuple(name for name in files if name != FEATURES_FILE)}
    files = {
        **files,
        FACTS: json.dumps(_facts(model, there), indent=1).encode() + b"\n",
        **({ENCODING_FILE: model.encoding.to_bytes()} if model.encoding is not None else {}),
        "README.md": model_card(model, record, there).encode("utf-8", "backslashreplace"),
    }
    with disk_errors(f"write {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_atomically(folder / name, content)
    return Exported(
        files=tuple(folder / name for name in files),
        max_difference=difference,
        num_random=len(random),
        num_real=len(real),
    )


# Formats --------------------------------------------------------------------------------------------------------


def _safetensors(model: TrainedModel) -> tuple[dict[str, bytes], Predictor]:
    """A file for each network of the headline."""
    members = model.nets
    front = None if model.front is None else model.front.to_bytes()
    names = ["model.safetensors"] if len(members) == 1 else [f"model{k}.safetensors" for k in range(len(members))]
    files = {}
    for name, net in zip(names, members, strict=True):
        state = net.state_dict() if net.head_key is None else net.plain_state_dict()
        weights = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
        # One key of metadata: with several, equal models would give different files.
        files[name] = safetensors.torch.save(weights, {"acto": json.dumps(_facts(model, {"safetensors": (name,)}))})

    def predict(inputs: Tensor) -> Probs:
        with tempfile.TemporaryDirectory() as place:
            read = []
            for name, content in files.items():
                path = Path(place, name)
                path.write_bytes(content)
                shape, count = members[0].input_shape, len(model.class_names)
                net = nets.build_net(model.net, input_shape=shape, num_classes=count, weights=str(path), trust=True)
                read.append(net.eval())
            first = None if front is None else read_front(front, FEATURES_FILE).module().eval()
            return Headline(read, model.headline.weights, temperature=model.temperature, first=first)(inputs).numpy()

    return files | ({} if front is None else {FEATURES_FILE: front}), predict


def _onnx(model: TrainedModel) -> tuple[dict[str, bytes], Predictor]:
    try:
        import onnxruntime
        import onnxscript  # torch needs it, and says so late
    except ImportError as error:
        raise UserError(ONNX_HINT) from error
    del onnxscript
    program = torch.onnx.export(
        model.headline,
        (_example(model),),
        dynamo=True,
        dynamic_shapes=_any_batch(),
        input_names=["inputs"],
        output_names=["probs"],
        verbose=False,
    )
    assert program is not None  # with dynamo
    proto = program.model_proto
    for key, value in (("class_names", list(model.class_names)), ("acto", _facts(model, {"onnx": ("model.onnx",)}))):
        proto.metadata_props.add(key=key, value=json.dumps(value))
    content: bytes = proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def predict(inputs: Tensor) -> Probs:
        (probs,) = session.run(None, {"inputs": inputs.contiguous().numpy()})
        return probs

    return {"model.onnx": content}, predict


def _torch(model: TrainedModel) -> tuple[dict[str, bytes], Predictor]:
    program = torch.export.export(model.headline, (_example(model),), dynamic_shapes=_any_batch())
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    content = buffer.getvalue()
    read = torch.export.load(io.BytesIO(content)).module()
    return {"model.pt2": content}, lambda inputs: read(inputs).numpy()


FORMATS: dict[str, Callable[[TrainedModel], tuple[dict[str, bytes], Predictor]]] = {
    "safetensors": _safetensors,
    "onnx": _onnx,
    "torch": _torch,
}
"""Each gives the contents of its files by name, and a model made of nothing but these."""
PATTERNS = {"safetensors": "model*.safetensors", "onnx": "model.onnx", "torch": "model.pt2"}


def _example(model: TrainedModel) -> Tensor:
    return torch.zeros(2, *model.input_shape)  # of one sample, the exporters would fix the batch


def _any_batch() -> tuple[dict[int, Any]]:
    return ({0: torch.export.Dim("batch", min=1)},)


# Parity ---------------------------------------------------------------------------------------------------------


def _random_inputs(model: TrainedModel) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(NUM_COMPARED, *model.input_shape, generator=generator)


def _real_inputs(model: TrainedModel, record: RunRecord) -> Tensor:
    """The first of the samples that the run was trained on, as the networks see them; none if they are gone."""
    data = record.config["data"]
    try:
        places = {"data_root": data["root"], "path_column": data["path_column"], "base": data.get("base")}
        found = read_new(data["source"], encoding=model.encoding, **places).samples
        batches = list(model.inputs(found.take(np.arange(min(NUM_COMPARED, len(found))))))
    except UserError:
        return torch.empty(0, *model.input_shape)
    return torch.cat(batches)


@torch.no_grad()
def _largest_difference(trained: Headline, exported: Predictor, batches: Sequence[Tensor]) -> float:
    """NaN where either model gives one."""
    return float(np.max([np.abs(trained(batch).numpy() - exported(batch)).max() for batch in batches]))


# What stands beside the model -----------------------------------------------------------------------------------


def _facts(model: TrainedModel, formats: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """All that is needed to use the files."""
    return {
        "made_by": f"acto-lnl {version('acto-lnl')}",
        "files": {name: list(files) for name, files in formats.items()},
        "net": model.net,
        "method": model.method,
        "class_names": list(model.class_names),
        "input_shape": list(model.input_shape),
        "resize": model.views.resize,
        "size": model.views.size,
        "mean": list(model.views.mean),
        "std": list(model.views.std),
        "temperature": model.temperature,
        **({"encoding": ENCODING_FILE} if model.encoding is not None else {}),
        **({} if model.front is None else {"features": model.front.name, "num_features": model.nets[0].input_shape[0]}),
        "weights_sha256": _sha256_of_weights(model),
        "logit_weights": list(model.headline.weights),
    }


def _sha256_of_weights(model: TrainedModel) -> str:
    """Tells models apart whose settings are the same."""
    digest = hashlib.sha256()
    for tensor in model.headline.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _refuse_foreign(folder: Path, model: TrainedModel) -> None:
    """Keep off a folder that holds anything but this model's exports: its README.md may be somebody's own."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is no folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    try:
        same = read_json(folder / FACTS)["weights_sha256"] == _sha256_of_weights(model)
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder} holds other files; choose a new folder for the export") from None
    if not same:
        raise UserError(f"{folder} holds the export of another model; choose a new folder")


def _formats_in(folder: Path) -> dict[str, tuple[str, ...]]:
    """Read the formats that earlier exports left there."""
    there = {name: tuple(sorted(path.name for path in folder.glob(pattern))) for name, pattern in PATTERNS.items()}
    return {name: files for name, files in there.items() if files}
