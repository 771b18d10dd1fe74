"""The rules of the house, read off the sources: who may import whom, how large a file may be, what nobody may call.

    python tests/test_house.py

prints the packages with their floors, sizes and imports.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "acto"
MOST_LINES, MOST_ON_TOP = 400, 20


@dataclass(frozen=True, slots=True)
class Package:
    """A folder, or a door: a file at the top that users import from."""

    floor: int
    may_import: frozenset[str]


def on(floor: int, may_import: str = "") -> Package:
    return Package(floor, frozenset(may_import.split()))


PACKAGES = {
    "core": on(1),
    "pages": on(2, "core"),
    "data": on(2, "core"),
    "nets": on(2, "core"),
    "methods": on(2, "core"),
    "run_folder": on(2, "core"),
    "training": on(3, "core nets methods"),
    "selection": on(3, "core methods"),
    "losses": on(4, "core methods selection"),
    "runs": on(4, "core data nets methods run_folder training"),
    "labels": on(5, "core pages data nets methods run_folder runs"),
    "compare": on(5, "core pages data methods run_folder training runs"),
    "inference": on(6, "core pages data nets run_folder runs labels"),
    "diagnostics": on(6, "core data nets methods run_folder training labels"),
    "fitting": on(6, "core data methods run_folder runs labels"),
    "estimator": on(6, "core data methods training runs labels"),
    "cli": on(7, "core pages data nets methods run_folder training runs labels compare inference diagnostics fitting"),
}
"""Who may import whom. Packages on a floor never import each other."""
NO_TORCH = [
    "pages.charts", "pages.environment", "core.files", "core.locks", "core.errors", "core.text", "core.signals",
    "core.settings", "core.sample_csv", "core.resources", "run_folder.writing", "run_folder.reading",
    "run_folder.checkpoints", "run_folder.epoch_table", "labels.audit", "labels.report", "labels.decisions",
    "labels.exchange", "labels.page", "labels.page_curves", "compare.finished_runs", "compare.tables",
    "compare.table_formats", "compare.plots", "compare.published", "compare.ablation", "compare.collect",
    "diagnostics.machine", "diagnostics.run_checks", "diagnostics.findings", "data.noise",
    "data.pictures.files", "runs.frozen.feature_file", "runs.recipes.by_data", "cli", "cli.table", "cli.parser",
    "cli.train_parser", "cli.quick_help", "cli.exit_codes", "core.sample_columns", "cli.consensus", "cli.audit",
    "labels.consensus", "labels.consensus_report",
]  # fmt: skip
"""Loaded without torch, they and all that they import: records, reports and tables are read in a moment."""
LAZY = {"", "cli", "cli.audit"}
"""These import inside functions, so that `acto --help` and audits of files need no torch."""
OPTIONAL = {
    "pyarrow", "timm", "cleanlab", "sklearn", "pandas", "matplotlib", "submitit", "onnx", "onnxruntime", "onnxscript",
    "huggingface_hub", "shtab", "wandb", "mlflow", "torch.utils.tensorboard",
    "torchvision", "scipy",
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
            # `from acto.nets import build` names a file; `from acto.core.settings import merged` a thing in it.
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full.removeprefix("acto.") in MODULES else node.module


@cache
def own(name: str) -> frozenset[str]:
    """The modules of acto that a module imports when it is loaded or later."""
    found = {i.removeprefix("acto").removeprefix(".") for i in imports(MODULES[name]) if i.split(".")[0] == "acto"}
    return frozenset(found - {name})


def package(name: str) -> str:
    return name.partition(".")[0]


def upward() -> list[str]:
    """Every import that the table does not allow."""
    found = []
    for name in MODULES:
        for other in own(name) if name else ():
            if package(other) == package(name) or (other == "" and name in LAZY):
                continue
            if package(other) not in PACKAGES[package(name)].may_import:
                found.append(f"{name} imports {other or 'the face of the package'}")
    return found


def circle() -> list[str]:
    """Modules that import each other in a circle; empty where there is none."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name not in done:
            for other in sorted(own(name)):
                if other in MODULES and (found := walk(other, [*way, name])):
                    return found
            done.add(name)
        return []

    return next((found for name in MODULES if name and (found := walk(name, []))), [])


def lines_of() -> dict[str, int]:
    return {
        str(path.relative_to(SOURCE)): len(path.read_text().splitlines())
        for path in sorted(SOURCE.rglob("*"))
        if path.suffix in (".py", ".c", ".h")
    }


def on_top() -> list[str]:
    return sorted(path.name for path in SOURCE.iterdir() if path.name != "__pycache__")


def test_every_package_is_in_the_table() -> None:
    assert {package(name) for name in MODULES} - {""} == set(PACKAGES)


def test_the_table_goes_down() -> None:
    assert max(p.floor for p in PACKAGES.values()) <= 7
    for name, here in PACKAGES.items():
        for other in here.may_import:
            assert PACKAGES[other].floor < here.floor, f"{name} may import {other}, which is not below it"


def test_imports_are_those_of_the_table() -> None:
    assert not upward()


def test_no_module_imports_itself_by_a_detour() -> None:
    assert not circle()


def test_files_are_short_and_the_top_is_small() -> None:
    assert {name: lines for name, lines in lines_of().items() if lines > MOST_LINES} == {}
    assert len(on_top()) <= MOST_ON_TOP, on_top()


METHOD_FILES = [n for n in MODULES if re.match(r"methods\.(?!base$|blocks\b)", n)]


@pytest.mark.parametrize("name", METHOD_FILES)
def test_a_method_sees_no_trainer_and_no_data(name: str) -> None:
    bases = {
        ast.unparse(base) for node in ast.walk(MODULES[name]) if isinstance(node, ast.ClassDef) for base in node.bases
    }
    for other in own(name):
        if package(other) == "core" or other == "methods.base" or other.startswith("methods.blocks."):
            continue
        names = {
            alias.name
            for node in ast.walk(MODULES[name])
            if isinstance(node, ast.ImportFrom) and node.module == f"acto.{other}"
            for alias in node.names
        }
        # One level of inheritance: the parent, and its Config as `Parent.Config`.
        assert other.startswith("methods.") and names <= bases, f"{name} imports {sorted(names)} from {other}"


def loaded_with(name: str) -> dict[str, str]:
    """Everything of acto that is loaded with a module, each with the module that asks for it."""
    found, left = {name: name}, [name]
    while left:
        here = left.pop()
        top = ast.Module([node for node in MODULES[here].body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        for other in imports(top):
            other = other.removeprefix("acto").removeprefix(".")
            if other in MODULES and other not in found:
                found[other] = here
                left.append(other)
    return found


@pytest.mark.parametrize("name", NO_TORCH)
def test_reading_needs_no_torch(name: str) -> None:
    for module, by in loaded_with(name).items():
        top = ast.Module([node for node in MODULES[module].body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        slow = {i for i in imports(top) if i.split(".")[0] in ("torch", "torchvision")}
        assert not slow, f"{name} loads {module} (through {by}), which imports {sorted(slow)}"


@pytest.mark.parametrize("slow", ["torchvision", "scipy", "pandas"])
def test_what_loads_slowly_is_loaded_by_those_who_use_it(slow: str) -> None:
    """Torchvision brings torch._dynamo, and so takes as long as torch; `acto predict` and most others need neither."""
    for name, tree in MODULES.items():
        top = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        assert slow not in {i.split(".")[0] for i in imports(top)}, f"{name} imports {slow} at its top"


@pytest.mark.parametrize("name", [n for n in MODULES if n not in LAZY])
def test_imports_stand_at_the_top(name: str) -> None:
    body = MODULES[name].body
    # `try: import fcntl` at the top is at the top.
    top = {id(node) for part in body for node in ([part, *part.body] if isinstance(part, ast.Try) else [part])}
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in top:
            for imported in imports(ast.Module([node], [])):
                assert {imported, imported.split(".")[0]} & OPTIONAL, f"{name} imports {imported} inside a function"


HEADLESS = {"What", "Of", "Whether", "How", "Where", "Which", "Whose", "Why", "Who", "That"}


@pytest.mark.parametrize("name", list(MODULES))
def test_docstrings_begin_with_a_verb_or_a_noun(name: str) -> None:
    """Those of modules, classes and functions, and the strings below constants and fields."""
    bodies = [node.body for node in ast.walk(MODULES[name]) if isinstance(getattr(node, "body", None), list)]
    texts = [
        part.value.value
        for body in bodies
        for part in body
        if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) and isinstance(part.value.value, str)
    ]
    assert not [text for text in texts if text.split()[0] in HEADLESS]


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
            if called == "torch.load":
                assert words.get("weights_only") == "True", f"{name}: torch.load without weights_only=True"
            if called in ("np.load", "numpy.load"):
                assert words.get("allow_pickle") == "False", f"{name}: np.load without allow_pickle=False"
            assert called not in ("eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "os.system"), (
                f"{name} calls {called}"
            )


def test_the_loop_names_no_method_and_no_data_set() -> None:
    text = (SOURCE / "training" / "loop.py").read_text().lower()
    assert not [word for word in ("acto.methods.acto", "dividemix", "cifar", "digits") if word in text]


def main() -> None:
    """Print the house."""
    between: Counter[str] = Counter()
    for name in MODULES:
        for other in own(name) if name else ():
            if package(other) != package(name):
                between[package(name)] += 1
    lines = lines_of()
    print(f"{'package':<12} floor  files  lines  imports from other packages")
    for name, here in PACKAGES.items():
        inside = {file: n for file, n in lines.items() if file.split("/")[0].removesuffix(".py") == name}
        print(f"{name:<12} {here.floor:>5} {len(inside):>6} {sum(inside.values()):>6} {between[name]:>6}")
    largest = max(lines, key=lambda file: lines[file])
    print(f"floors: {max(p.floor for p in PACKAGES.values())}; imports between packages: {between.total()}")
    print(f"not allowed: {'; '.join(upward()) or 'none'}; circle: {' -> '.join(circle()) or 'none'}")
    print(f"entries on top: {len(on_top())} ({', '.join(on_top())})")
    print(f"lines: {sum(lines.values())} in {len(lines)} files; largest file: {largest}, {lines[largest]} lines")


if __name__ == "__main__":
    main()


COUNTED = re.compile(
    r" (?:(?!classes)\w+ )?(?:samples|labels|rows|files|pictures|texts|columns|cells|entries|predictions|suspects|"
    r"features|runs|epochs|decisions|names|numbers|values|verdicts|ones)\b(?!/)"
)
PARTITIVE = re.compile(r"\b(?:of|of the|there are|all|the|last|first|than) $")


def fixed_plurals(tree: ast.AST) -> Iterator[int]:
    """Lines where a plural stands fixed behind a count in an f-string: "1 labels". `counted` says "1 label".

    A count is a length, a sum, a difference of them, or what thousands are marked in; "2 of 5 labels" is none.
    """
    for node in ast.walk(tree):
        if not isinstance(node, ast.JoinedStr):
            continue
        for before, value, after in zip([None, *node.values], node.values, node.values[1:], strict=False):
            if not (isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant)):
                continue
            called = value.value.func if isinstance(value.value, ast.Call) else None
            number = (isinstance(called, ast.Name) and called.id in {"len", "sum"}) or isinstance(
                value.value, ast.BinOp
            )
            number |= value.format_spec is not None and "," in ast.unparse(value.format_spec)
            partitive = isinstance(before, ast.Constant) and PARTITIVE.search(str(before.value))
            if number and not partitive and COUNTED.match(str(after.value)):
                yield value.lineno


def test_a_count_of_one_is_no_plural() -> None:
    assert list(fixed_plurals(ast.parse("f'{len(x)} labels'\nf'{n:,} more rows left'\nf'so {a - b} other files'"))) == [
        1,
        2,
        3,
    ]
    allowed = (
        "f'{n} of {len(x)} labels'\nf'{len(x)} classes'\nf'{len(x)} labelled'\nf'{what} names'\nf'{n:,} samples/s'"
    )
    assert list(fixed_plurals(ast.parse(allowed))) == []
    found = [
        f"{path.relative_to(SOURCE)}:{line}"
        for path in sorted(SOURCE.rglob("*.py"))
        for line in fixed_plurals(ast.parse(path.read_text()))
    ]
    assert not found, f"say it with acto.core.text.counted: {found}"
