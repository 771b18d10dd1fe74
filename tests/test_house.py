"""The rules of the house, read off the sources: who may import whom, and what nobody may call."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "acto"
FLOORS = [
    {
        "core.types",
        "core.errors",
        "core.distributed",
        "methods.blocks.mixing",
        "core.settings",
        "cli.progress",
        "pages.charts",
        "compare.ablation",
        "compare.published",
        "core.resources",
        "runs.recipes.by_data",
        "data.pictures.pixel_store",
    },
    {
        "data.views.counter_random",
        "data.moments",
        "data.views.operations",
        "methods.blocks.losses",
        "methods.blocks.selection",
        "training.plans",
        "core.device",
        "core.files",
        "cli.exit_codes",
        "nets.base",
        "diagnostics.findings",
        "methods.blocks.soft_labels",
        "core.cuda_streams",
        "data.readers.file_tree",
        "data.readers.text_files",
    },
    {
        "data.classes",
        "data.readers.download",
        "data.noise",
        "data.pictures.files",
        "data.views.policies",
        "data.splits",
        "data.readers.safe_pickle",
        "inference.feature_file",
        "nets.cpu_kernels",
    },
    {
        "data.readers.archives",
        "data.views.pipelines",
        "data.pictures.cache",
        "training.history",
        "methods.base",
        "nets.weights",
        "nets.libraries",
        "core.sample_csv",
        "nets.cpu_layers",
    },
    {
        "data.loading.decode_workers",
        "data.readers.label_files",
        "data.readers.listings",
        "data.loading.passes",
        "data.samples",
        "training.compiled_nets",
        "training.cuda_graph",
        "nets.build",
        "run_folder.writing",
        "compare.finished_runs",
    },
    {
        "data.loading.loader",
        "data.readers.named",
        "data.apply_noise",
        "data.near_duplicates",
        "labels.report",
        "methods",
        "labels.page_curves",
        "labels.thumbnails",
    },
    {
        "data.sources",
        "runs.recipes.by_method",
        "training.step_modes",
        "training.loop",
        "labels.audit",
        "labels.decisions",
        "compare.collect",
        "compare.tables",
        "runs.calibration",
    },
    {
        "data.check",
        "data.for_prediction",
        "diagnostics.probe",
        "diagnostics.run_checks",
        "training.evaluation",
        "runs.failures",
        "data.containers",
        "labels.exchange",
        "compare.plots",
        "labels.page",
        "compare.table_formats",
        "inference.backbone",
    },
    {
        "runs.sample_table",
        "runs.trained_model",
        "data.in_memory",
        "cli.table",
        "inference.extraction",
        "diagnostics.timed_parts",
        "diagnostics.machine",
    },
    {"inference.predictions", "inference.model_card", "runs.warm_start", "diagnostics.speed_limits"},
    {"runs.run", "inference.export", "diagnostics.bench"},
    {"runs.recipes.recipe", "runs.execute", "labels.run_audit"},
    {"runs.cost"},
    {"compare.demo_page", "compare.demo_trials", "cli.audit", "labels.corrected_copy", "labels.review_server"},
    {"compare.demo", "cli.train"},
    {"runs.flags", "cli.papers"},
    {"fitting", "cli.data", "cli.features", "compare.sweep_jobs"},
    {"estimator", "compare.sweep_launchers"},
    {"compare.sweep_view"},
    {"compare.sweep"},
    {"cli"},
]
"""From the ground up. A file imports only from floors below its own."""
NO_TORCH = {
    "compare.ablation", "pages.charts", "compare.collect", "core.sample_csv", "data.noise",
    "data.pictures.files", "runs.recipes.by_data", "labels.decisions", "diagnostics.machine",
    "diagnostics.run_checks", "core.files", "core.errors", "labels.exchange", "inference.feature_file",
    "diagnostics.findings", "labels.audit", "labels.report", "compare.plots", "compare.published",
    "run_folder.writing", "compare.finished_runs", "labels.page_curves", "labels.page", "cli.table",
    "compare.table_formats", "compare.tables", "core.resources",
}  # fmt: skip
METHOD_IMPORTS = {
    "core.types", "core.errors", "methods.blocks.losses", "methods.blocks.selection", "methods.blocks.mixing",
    "methods.blocks.soft_labels", "core.distributed", "nets.build", "core.cuda_streams", "methods.base",
}  # fmt: skip
IS_METHOD = re.compile(r"methods\.(?!base$|blocks\b)")
LAZY = {"cli", ""}
"""These may import inside functions, so that `acto --help` needs no torch."""
OPTIONAL = {
    "pyarrow", "timm", "cleanlab", "sklearn", "pandas", "matplotlib", "submitit", "onnx", "onnxruntime", "onnxscript",
}  # fmt: skip
"""Imported inside the function that needs them: extras, with a hint how to install them, and what loads slowly."""


def modules() -> dict[str, ast.Module]:
    names = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text())
    return names


MODULES = modules()


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module is not None
            # `from acto.nets import build` names a file; `from acto.core.settings import build` a thing in it.
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full.removeprefix("acto.") in MODULES else node.module


def own(tree: ast.AST) -> set[str]:
    return {name.removeprefix("acto").removeprefix(".") for name in imports(tree) if name.split(".")[0] == "acto"}


def floor(name: str) -> int:
    for number, names in enumerate(FLOORS):
        if name in names or (IS_METHOD.match(name) and "methods" in names):
            return number
    raise AssertionError(f"{name} has no floor: add it to FLOORS where it belongs")


@pytest.mark.parametrize("name", [n for n in MODULES if n and n != "cli.__main__" and MODULES[n].body[1:]])
def test_imports_go_down(name: str) -> None:
    for other in own(MODULES[name]) - {name}:
        if other == "" and name in LAZY:
            continue
        assert other, f"{name} imports the package's face; import the file"
        if name == "methods" and IS_METHOD.match(other):
            continue
        family = IS_METHOD.match(name) and IS_METHOD.match(other)  # a parent, by the test below
        assert floor(other) < floor(name) or family, f"{name} imports {other}, which is not below it"


@pytest.mark.parametrize("name", [n for n in MODULES if IS_METHOD.match(n)])
def test_a_method_sees_no_trainer_and_no_data(name: str) -> None:
    bases = {
        ast.unparse(base) for node in ast.walk(MODULES[name]) if isinstance(node, ast.ClassDef) for base in node.bases
    }
    for other in own(MODULES[name]) - METHOD_IMPORTS:
        names = {
            alias.name
            for node in ast.walk(MODULES[name])
            if isinstance(node, ast.ImportFrom) and node.module == f"acto.{other}"
            for alias in node.names
        }
        # One level of inheritance: the parent, and its Config as `Parent.Config`.
        assert other.startswith("methods.") and names <= bases, f"{name} imports {sorted(names)} from {other}"


@pytest.mark.parametrize("name", sorted(NO_TORCH & set(MODULES)))
def test_reading_needs_no_torch(name: str) -> None:
    assert not {i for i in imports(MODULES[name]) if i.split(".")[0] in ("torch", "torchvision")}


@pytest.mark.parametrize("name", [n for n in MODULES if n not in LAZY])
def test_imports_stand_at_the_top(name: str) -> None:
    top = {id(node) for node in MODULES[name].body}
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in top:
            for imported in imports(ast.Module([node], [])):
                assert imported.split(".")[0] in OPTIONAL, f"{name} imports {imported} inside a function"


def calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def test_only_the_loop_steps() -> None:
    for name, tree in MODULES.items():
        found = {c for c in calls(tree) if c.endswith((".backward", "optimizer.step", "scaler.step"))}
        assert not found or name == "training.loop", f"{name} calls {found}"


def test_no_foreign_code_runs() -> None:
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            words = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if called in ("torch.load", "load") and called == "torch.load":
                assert words.get("weights_only") == "True", f"{name}: torch.load without weights_only=True"
            if called in ("np.load", "numpy.load"):
                assert words.get("allow_pickle") == "False", f"{name}: np.load without allow_pickle=False"
            assert called not in ("eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "os.system"), (
                f"{name} calls {called}"
            )


def test_the_loop_names_no_method_and_no_data_set() -> None:
    text = (SOURCE / "training" / "loop.py").read_text().lower()
    assert not [word for word in ("acto.methods.acto", "dividemix", "cifar", "digits") if word in text]
