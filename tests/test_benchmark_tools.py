"""Parts of the benchmarks that turn measurements into words: what is counted wrongly there is claimed wrongly."""

from __future__ import annotations

import importlib.util
import re
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def loaded(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_bytes_of_a_layer_and_kinds_of_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_step = loaded("gpu_step", monkeypatch)
    whole = 2 * 128 * 64 * 32 * 32  # bfloat16
    assert gpu_step.bytes_of(0) == (3 * whole, 5 * whole), (
        "twice the input and the result; input and gradient, both twice"
    )
    assert gpu_step.bytes_of(1) == (2 * whole + whole // 4, 2 * (whole + whole // 4) + whole)

    def kind(kernel: str) -> str:
        return next((name for name, form in gpu_step.KINDS.items() if re.search(form, kernel)), "the rest")

    assert kind("_moments") == kind("_gradient_sums") == "our norm kernels"
    assert kind("void nhwcAddPaddingKernel<__nv_bfloat16>") == "padding, layouts"
    assert kind("sm90_xmma_fprop_implicit_gemm_bf16bf16") == kind("cutlass__5x_cudnn::Kernel<>") == "convolutions"
    assert kind("triton_red_fused_relu_2") == "torch.compile's kernels"
    assert kind("Memset (Device)") == "copies, memset" and kind("index_put_kernel") == "the rest"


def test_a_layer_has_three_forms_of_one_result(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_step = loaded("gpu_step", monkeypatch)
    device = torch.device("cpu")
    plain, ours = (gpu_step.layer(1, form, device) for form in ("torch", "ours"))
    images = torch.randn(1, 64, 8, 8)
    assert torch.equal(plain(images), ours(images)) and plain(images).shape == (1, 64, 4, 4)
    calls: list[int] = []
    assert gpu_step.microseconds(lambda: calls.append(1), device) >= 0 and len(calls) == 1 + gpu_step.ROUNDS


def test_an_interval_that_misses_is_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    detection = loaded("detection", monkeypatch)
    assert detection.interval_score(0.2, 0.4, 0.3) == pytest.approx(0.2)
    assert detection.interval_score(0.2, 0.4, 0.5) == pytest.approx(0.2 + 40 * 0.1)
    row = {"detector": "ACTO", "auroc": 0.9, "average_precision": 0.5, "f1": 0.5, "noise_rate": 0.2, "seconds": 1.0}
    done = {f"digits | none | seed {seed}": [row | {"interval_scores": (0.1 + seed, 0.3)}] for seed in range(2)}
    assert list(detection.table(done))[-1] == (
        "mean interval score of 2 rows: 0.600; of a bootstrap of the suspects 0.300"
    )


def test_pieces_stand_in_the_folders_that_their_names_say_but_for_those_moved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pieces = loaded("pieces", monkeypatch)
    photographs = {
        name: partial(np.full, (200, 240, 3), 40 * k, dtype=np.uint8) for k, name in enumerate(pieces.CLASSES)
    }
    monkeypatch.setitem(sys.modules, "skimage", SimpleNamespace(data=SimpleNamespace(**photographs)))

    def cut(folder: str, *flags: str) -> list[Path]:
        monkeypatch.setattr(sys, "argv", ["pieces.py", str(tmp_path / folder), *flags])
        pieces.main()
        return sorted(path.relative_to(tmp_path / folder) for path in (tmp_path / folder).glob("*/*.jpg"))

    files = cut("photos", "--pieces", "60", "--moved", "9", "--side", "16")
    assert len(files) == 60 and sum(file.parent.name != file.stem.rstrip("0123456789") for file in files) == 9
    for k, name in enumerate(pieces.CLASSES):  # wherever it lies, it shows what its name says
        (file,) = (tmp_path / "photos").glob(f"*/{name}03.jpg")
        with Image.open(file) as picture:
            assert picture.size == (16, 16) and abs(np.asarray(picture).astype(int) - 40 * k).max() <= 2
    assert cut("again", "--pieces", "60", "--moved", "9") == files, "the same pieces each time"
    for flags in (["photos"], ["new", "--pieces", "5"], ["new", "--moved", "301"], ["new", "--side", "0"]):
        with pytest.raises(SystemExit, match="2"):
            cut(*flags)
        assert "error: " in capsys.readouterr().err
