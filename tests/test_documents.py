"""The documents say what the code does: their examples run, and every file and column of a run is explained."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import acto
import check_site
import toys
from acto.cli import COMMANDS
from acto.core.sample_columns import SampleColumn, of_report, of_samples_csv, of_training
from acto.data.noise import NoiseSpec
from acto.data.samples import DataSpec
from acto.labels.reasons import MOST_DUPLICATES
from acto.labels.report import SEPARATOR, read_report
from acto.labels.run_audit import audit_at_the_end
from acto.methods import METHODS
from acto.methods.acto import ACTO
from acto.run_folder.reading import read_run
from acto.run_folder.writing import RunFolder
from acto.runs.execute import execute, train_run
from acto.runs.prepare import prepare
from acto.runs.run import Run
from acto.training.plans import Plan
from acto.training.protocol import Protocol
from methods import test_methods

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))
RUN_FOLDER = "runs/digits"
"""The folder that the examples in docs/reading-a-run.md read."""


def python_blocks(name: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), flags=re.M | re.S)


def load(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, text: str) -> ModuleType:
    """Import `text` as the module `name`."""
    path = folder / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The method of CONTRIBUTING.md after steps 1 to 3."""
    module = load(monkeypatch, tmp_path, "acto.methods.bootstrap", python_blocks("CONTRIBUTING.md")[0])
    row = eval(f"{{{python_blocks('CONTRIBUTING.md')[1]}}}", {"Toy": toys.Toy, "Bootstrap": module.Bootstrap})
    monkeypatch.setitem(METHODS, "bootstrap", module.Bootstrap)
    monkeypatch.setitem(toys.TOYS, "bootstrap", row["bootstrap"])
    return module


def test_the_new_method_passes_the_generic_tests(example: ModuleType) -> None:
    assert example.Bootstrap.name == "bootstrap"
    assert all(word in (example.__doc__ or "") for word in ("Symbols", "Departures", "Result: "))
    trained = {
        "bootstrap": test_methods.train(toys.make_training("bootstrap", test_methods.PROBLEM.task)),
    }
    for test in (
        test_methods.test_learns_the_clean_classes,
        test_methods.test_ranks_right_labels_above_wrong_ones,
        test_methods.test_every_sample_was_seen,
        test_methods.test_resumes_bit_for_bit,
        test_methods.test_predicts_probabilities,
    ):
        test("bootstrap", trained)
    for test in (
        test_methods.test_all_that_changes_is_saved,
        test_methods.test_nothing_to_select_gives_a_finite_loss,
        test_methods.test_a_batch_of_two_is_enough,
        test_methods.test_a_step_has_fixed_shapes_and_never_waits,
        test_methods.test_every_parameter_belongs_to_one_group,
    ):
        test("bootstrap")


def test_the_new_methods_own_test_passes(example: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = load(monkeypatch, tmp_path, "test_bootstrap", python_blocks("CONTRIBUTING.md")[2])
    module.test_bootstrapped_by_hand()
    monkeypatch.setattr(module, "bootstrapped", lambda logits, labels, *, beta: example.cross_entropy(logits, labels))
    with pytest.raises(AssertionError):
        module.test_bootstrapped_by_hand()


def test_contributing_names_what_there_is() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for name in (
        "base.py",
        *re.findall(r"`(\w+\.py)`", text.partition("What a method may use")[2].partition("What `")[0]),
    ):
        assert (ROOT / "src/acto/methods" / name).is_file(), name
    for target in re.findall(r"^make (\w+)", text, flags=re.M):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.M), target


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of ACTO on noisy digits, in `RUN_FOLDER` below a folder of its own."""
    folder = tmp_path_factory.mktemp("documents") / RUN_FOLDER
    run = Run(
        data=DataSpec(source="digits", noise=NoiseSpec(kind="symmetric", rate=0.4), subset=300),
        config=ACTO.Config(warmup_epochs=1),
        protocol=Protocol(epochs=2, batch_size=64, plan=Plan(lr=0.02)),
        device="cpu",
        precision="float32",
    )
    prepared = prepare(run)
    with RunFolder.create(folder, config=run.to_dict()) as record:
        execute(prepared, record)
        audit_at_the_end(folder, prepared.dataset)
    return folder


def section(title: str) -> str:
    """The part of docs/reading-a-run.md under a heading."""
    text = (ROOT / "docs/reading-a-run.md").read_text()
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, flags=re.M | re.S)
    assert found, f"no section {title!r}"
    return found[1]


def explained(title: str) -> set[str]:
    """Names in the first cells of a section's tables."""
    rows = re.findall(r"^\| (`[^|]*`) \|", section(title), flags=re.M)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_every_file_is_explained(run_folder: Path) -> None:
    files = {path.relative_to(run_folder).parts[0] for path in run_folder.rglob("*")}
    names = {name.rstrip("/") for name in explained("The files")}
    assert files <= names | {"net1.safetensors"}
    of_others = {"decisions.csv", "decisions_before.csv", ".acto-review", "init_from.json", "encoding.safetensors"}
    of_others |= {"features.safetensors", "loggers.json", "tensorboard", "wandb"}
    of_others |= {"held_out.json", "held_out_probs.npy", "held_out_predictions.npy"}  # this run has a test set
    assert names - files - {"label_report.parquet"} == {"samples.parquet", *of_others}, "explained, but not there"


def rows_of(text: str) -> dict[str, str]:
    """What the tables of a text say of the names in their first cells, in their order."""
    rows = re.findall(r"^\| (`[^|]*`) \| (.*) \|$", text, flags=re.M)
    return {name: words for names, words in rows for name in re.findall(r"`([^`]+)`", names)}


def check_rows(rows: dict[str, str], columns: Sequence[SampleColumn]) -> None:
    """Refuse rows that are not those of `columns`, in their order, or do not begin with the columns' words."""
    assert list(rows) == [column.name for column in columns]
    for column in columns:
        assert rows[column.name].startswith(column.words), f"{column.name}: {rows[column.name]}"


def test_every_column_of_samples_is_explained(run_folder: Path) -> None:
    rows = rows_of(section("samples.csv"))
    assert list(read_run(run_folder).samples()) == list(rows)
    check_rows({name: words for name, words in rows.items() if not name.endswith("_ntm")}, of_samples_csv())


def test_every_column_of_a_label_report_is_explained(run_folder: Path) -> None:
    rows = rows_of((ROOT / "docs/labels.md").read_text().partition("\n## The report\n")[2].partition("\n## ")[0])
    assert list(rows) == [column.name for column in of_report()]
    absent = ("text", "held_out", "is_confirmed")  # of pictures with a test set, of which nobody has seen any
    assert list(read_report(run_folder).columns) == [name for name in rows if name not in absent]
    seen = {column.name for column in of_training()}
    check_rows({k: v for k, v in rows.items() if k not in seen}, [c for c in of_report() if c.name not in seen])
    assert f"`{SEPARATOR}`: the first {MOST_DUPLICATES}," in rows["near_duplicates"]


def test_every_column_of_metrics_is_explained(run_folder: Path) -> None:
    record = read_run(run_folder)
    assert set(record.metrics[-1]) <= explained("metrics.csv")
    assert set(record.timing[-1]) == explained("timing.csv")


def test_every_result_is_explained(run_folder: Path) -> None:
    summary = read_run(run_folder).summary
    assert summary is not None and set(summary) == explained("summary.json")


@test_methods.each_method
def test_every_log_of_every_method_is_explained(name: str) -> None:
    method = toys.make_method(name, test_methods.PROBLEM.task).train()
    logged: set[str] = set()
    for clock in test_methods.clocks(method):
        for batches, at in test_methods.steps_of(method, clock, count=1):
            logged |= set(method.loss(batches, at).log)
    missing = logged - explained("metrics.csv")
    assert not missing, f"docs/reading-a-run.md does not explain these columns of {name}: {sorted(missing)}"


def test_the_examples_for_reading_run(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run_folder.parents[1])
    values: dict[str, Any] = {}
    for block in python_blocks("docs/reading-a-run.md"):
        exec(block, values)
    printed = capsys.readouterr().out
    assert len(values["doubtful"]) == 20
    for row in values["doubtful"]:
        assert values["samples"]["id"][row] in printed
    state = torch.load(values["checkpoint"].path("training.pt"), weights_only=True)
    assert all(
        torch.equal(value.cpu(), state["method"][f"nets.0.{key}"].cpu())
        for key, value in values["model"].nets[0].state_dict().items()
    )


def test_the_examples_for_python(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = python_blocks("docs/quick-start.md")
    assert "epochs=20" in block
    values: dict[str, Any] = {}
    exec(block.replace("epochs=20", "epochs=3"), values)  # 20 take longer and show the same
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert len(values["report"]) == 1797
    people, block = python_blocks("docs/labels.md")
    probs = values["fitted"].predict_proba(values["X"])
    exec(people.replace('"ann"', '"0"'), {"acto": acto, "votes": np.stack([values["y"]] * 3, 1), "pred_probs": probs})
    exec(block, {"labels": values["y"], "pred_probs": probs, "names": range(10)})


def test_links_between_documents_lead_somewhere() -> None:
    linked = set()
    for page in DOCUMENTS:
        prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
        for link, part in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", prose):
            target = (page.parent / link if link else page).resolve()
            assert link.startswith("https://") or target.exists(), f"{page.name}: {link}"
            if part and target.suffix == ".md":
                assert part in anchors(target), f"{page.name}: {link}#{part}"
            linked.add(target)
    assert not [page.name for page in (ROOT / "docs").glob("*.md") if page not in linked]


def anchors(page: Path) -> set[str]:
    """What a link to a heading of `page` may say after its #, as GitHub names it."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_a_document_has_a_heading_text_and_no_gap(page: Path) -> None:
    text = page.read_text()
    assert text.startswith("# ") and len(text.split()) > 100
    assert not re.search(r"@[A-Z]+@|\bTODO\b|\bTBD\b", text)


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_no_text_runs_into_a_table(page: Path) -> None:
    """The site makes a row of a line that follows a table without a gap."""
    lines = [line.strip() for line in page.read_text(encoding="utf-8").splitlines()]
    row_before = [False, *(line.startswith("|") for line in lines)]
    run_in = [line for line, after in zip(lines, row_before, strict=False) if after and line and line[0] not in "|<"]
    assert run_in == []


def test_the_first_page_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 900
    first_screen = text.partition("![")[0]
    assert "pip install" in first_screen and "acto-lnl" in first_screen and "acto review" in first_screen


def test_the_documents_name_what_there_is() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in DOCUMENTS:
        text = page.read_text()
        for target in re.findall(r"(?:^|`)make ([a-z]+)", text, flags=re.M):
            assert re.search(rf"^{target}:", makefile, flags=re.M), f"{page.name}: make {target}"
        shell = "\n".join(re.findall(r"^```bash\n(.*?)^```", text, flags=re.M | re.S))
        unknown = set(re.findall(r"^(?:\.venv/bin/)?acto ([a-z]+)", shell, flags=re.M)) - set(COMMANDS)
        assert not unknown, f"{page.name}: {unknown}"
    for named in re.findall(r"`(tests/[\w/.]+)`", (ROOT / "docs/other-tools.md").read_text()):
        assert (ROOT / named).exists(), named


def test_the_version_is_one() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"This is version {version}." in (ROOT / "docs/releasing.md").read_text()
    assert re.search(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)[1] == version  # type: ignore[index]


def test_notebooks_are_kept_without_results() -> None:
    notebooks = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
    assert len(notebooks) >= 3
    for path in notebooks:
        for cell in json.loads(path.read_text())["cells"]:
            assert not cell.get("outputs") and cell.get("execution_count") is None, path.name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- one\n  goes on\n- two", "- one\n    goes on\n- two"),
        ("- one\n\n  | a |\n- two\n- three", "- one\n\n    | a |\n\n- two\n- three"),
        ("1. one\n   - inner\n\nplain\n    code", "1. one\n    - inner\n\nplain\n    code"),
    ],
)
def test_lists_are_as_wide_as_the_sites_renderer_wants(text: str, expected: str) -> None:
    pytest.importorskip("mkdocs")
    hooks = runpy.run_path(str(ROOT / "docs/hooks.py"))
    assert hooks["widened"](text) == expected


def test_a_broken_site_is_noticed(tmp_path: Path) -> None:
    far = '<a href="https://example.org">far</a>'
    (tmp_path / "a.html").write_text(f'<a href="b.html#there">b</a> <img src="data:,"> {far}')
    (tmp_path / "b.html").write_text('<h2 id="there">b</h2> <a href="a.html">a</a>')
    assert not list(check_site.problems(tmp_path))
    (tmp_path / "b.html").write_text("<p>One:\n- two\n  | three |</p> <p>- 4 -\nfive - six</p> <pre>7:\n- 8</pre>")
    assert list(check_site.problems(tmp_path))[1:] == [
        "b.html: no list or table: - two",
        "b.html: no list or table:   | three |",
    ]
    (tmp_path / "b.html").write_text('<a href="c.html">c</a> <script src="https://example.org/x.js"></script>')
    assert list(check_site.problems(tmp_path)) == [
        "a.html: b.html#there has no such place",
        "b.html: c.html leads nowhere",
        "b.html fetches https://example.org/x.js (script)",
    ]


def test_the_diagram_is_plain_svg() -> None:
    svg = ElementTree.parse(ROOT / "docs/method.svg").getroot()
    names = {element.tag.rpartition("}")[2] for element in svg.iter()}
    assert svg.tag == "{http://www.w3.org/2000/svg}svg" and {"title", "desc"} <= names
    assert not names & {"script", "style", "image", "foreignObject", "a", "animate"}
    links = [value for element in svg.iter() for key, value in element.attrib.items() if key.endswith("href")]
    assert links and all(link.startswith("#") for link in links)


def test_the_listener_of_contributing_hears_every_epoch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("## A listener\n")[2]
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S)
    module = load(monkeypatch, tmp_path, "accuracy_table", blocks[0])
    run = Run(
        data=DataSpec(source="digits", subset=100),
        config=METHODS["standard"].Config(),
        method="standard",
        net="cnn_tiny",
        protocol=Protocol(epochs=3, batch_size=50, plan=Plan(lr=0.02)),
        device="cpu",
        precision="float32",
    )
    train_run(run, tmp_path / "run", report=[module.AccuracyTable(tmp_path / "accuracy.csv")])
    rows = [line.split(",") for line in (tmp_path / "accuracy.csv").read_text().splitlines()]
    found = [(int(epoch), float(accuracy)) for epoch, accuracy in rows]
    assert found == [(row["epoch"], row["test_accuracy"]) for row in read_run(tmp_path / "run").metrics]
    assert len(found) == 3
