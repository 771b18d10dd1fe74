"""The rules of the house, read off the sources: who may import whom, and what nobody may call."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "acto"
FLOORS = [
    {
        "types",
        "errors",
        "distributed",
        "mixing",
        "settings",
        "console",
        "charts",
        "ablation",
        "published",
        "usable",
        "data_settings",
        "data.stored_pixels",
    },
    {
        "data.counter",
        "data.moments",
        "data.operations",
        "losses",
        "selection",
        "plans",
        "device",
        "durable",
        "exits",
        "net_base",
        "findings",
        "soft_labels",
        "streams",
        "data.file_tree",
        "data.text_files",
    },
    {
        "data.classes",
        "data.download",
        "data.noise",
        "data.pictures",
        "data.policies",
        "data.splits",
        "data.unpickle",
        "feature_file",
        "native",
    },
    {
        "data.archives",
        "data.augment",
        "data.picture_cache",
        "history",
        "methods.base",
        "net_weights",
        "net_foreign",
        "csv_tables",
        "cpu_layers",
    },
    {
        "data.decoding",
        "data.label_files",
        "data.listings",
        "data.passes",
        "data.samples",
        "compiled",
        "graph",
        "nets",
        "record",
        "records",
    },
    {
        "data.loader",
        "data.readers",
        "data.noising",
        "data.likeness",
        "label_report",
        "methods",
        "report_curves",
        "thumbnails",
    },
    {"data.sources", "method_settings", "steps", "train", "label_audit", "decisions", "collect", "tables", "calibrate"},
    {
        "data.check",
        "data.new_data",
        "doctor_probe",
        "doctor_run",
        "evaluate",
        "failures",
        "containers",
        "exchange",
        "plots",
        "report_page",
        "table_text",
        "backbone",
    },
    {"sample_table", "trained", "arrays", "table_command", "extraction", "bench_parts", "doctor"},
    {"predict", "model_card", "warm_start", "bench_floors"},
    {"run", "export", "bench"},
    {"recipes", "execution", "run_audit"},
    {"estimate"},
    {"demo_report", "demo_trials", "audit_command", "corrections", "review"},
    {"demo", "launch"},
    {"flags", "papers"},
    {"api", "commands", "features", "sweep_jobs"},
    {"estimator", "sweep_pool"},
    {"sweep_view"},
    {"sweep"},
    {"cli"},
]
"""From the ground up. A file imports only from floors below its own."""
NO_TORCH = {
    "ablation", "charts", "collect", "csv_tables", "data.noise", "data.pictures", "data_settings", "decisions",
    "doctor", "doctor_run", "durable", "errors", "exchange", "feature_file", "findings", "label_audit",
    "label_report", "plots", "published", "record", "records", "report_curves", "report_page", "table_command",
    "table_text", "tables", "usable",
}  # fmt: skip
METHOD_IMPORTS = {
    "types", "errors", "losses", "selection", "mixing", "soft_labels", "distributed", "nets", "streams", "methods.base",
}  # fmt: skip
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
            # `from acto import nets` names a file; `from acto.nets import build` a thing in it.
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full.removeprefix("acto.") in MODULES else node.module


def own(tree: ast.AST) -> set[str]:
    return {name.removeprefix("acto").removeprefix(".") for name in imports(tree) if name.split(".")[0] == "acto"}


def floor(name: str) -> int:
    for number, names in enumerate(FLOORS):
        if name in names or (name.startswith("methods.") and name != "methods.base" and "methods" in names):
            return number
    raise AssertionError(f"{name} has no floor: add it to FLOORS where it belongs")


@pytest.mark.parametrize("name", [n for n in MODULES if n not in ("", "data")])
def test_imports_go_down(name: str) -> None:
    for other in own(MODULES[name]) - {name}:
        if other == "" and name in LAZY:
            continue
        assert other, f"{name} imports the package's face; import the file"
        if name == "methods" and other.startswith("methods."):
            continue
        family = name.startswith("methods.") and other.startswith("methods.")  # a parent, by the test below
        assert floor(other) < floor(name) or family, f"{name} imports {other}, which is not below it"


@pytest.mark.parametrize("name", [n for n in MODULES if n.startswith("methods.") and n != "methods.base"])
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
        assert not found or name == "train", f"{name} calls {found}"


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
    text = (SOURCE / "train.py").read_text().lower()
    assert not [word for word in ("acto.methods.acto", "dividemix", "cifar", "digits") if word in text]
