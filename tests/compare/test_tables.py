from __future__ import annotations

import csv
import inspect
import io
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from acto.cli.table import table
from acto.compare import published
from acto.compare.finished_runs import Found, read_records
from acto.compare.plots import plot
from acto.compare.table_formats import as_json, comma_separated, latex, markdown
from acto.compare.tables import Table, build_table
from acto.core.errors import UserError
from acto.data.noise import NoiseSpec
from acto.data.samples import DataSpec
from acto.methods import METHODS
from acto.runs.recipes.by_data import SETTINGS
from acto.runs.recipes.recipe import recipe
from acto.training.loop import Training, run_epochs
from toys import TOYS, ToyNet, make_problem

EMPTY = Found(records=(), unfinished=(), damaged=())
LABELS = {0: "a" * 64, 1: "b" * 64, 2: "c" * 64}


def run_folder(
    top: Path,
    method: str = "acto",
    *,
    seed: int = 0,
    accuracy: float = 0.6,
    data: str = "cifar100nc",
    noise: tuple[str, float] = ("symmetric", 0.2),
    epochs: int = 4,
    state: str | None = None,
    labels: str | None = None,
    subset: int | None = None,
    **config: Any,
) -> Path:
    """A collected record by hand; with `state` a run's folder."""
    folder = top / f"{method}-{data}-{noise[0]}{noise[1]}-s{seed}-{len(list(top.glob('*')))}"
    folder.mkdir(parents=True)
    if method == "acto":
        config = {"warmup_epochs": 1, "mining": True, "reweighting": True, "consistency": True, **config}
    settings = {
        "data": {
            "source": data,
            "root": None,
            "noise": {"kind": noise[0], "rate": noise[1], "seed": seed},
            "subset": subset,
        },
        "method": method,
        "protocol": {"epochs": epochs},
        "seed": seed,
        "device": "auto",
        "workers": 2,
        "assumed_noise_rate": None,
        method.replace("-", "_"): config,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    summary = {
        "test_accuracy_last10": accuracy,
        "test_accuracy_best_oracle": accuracy + 0.05,
        "labels_sha256": labels or LABELS[seed],
        "noise": {"rate_realised": noise[1]},
        "test_labels_are_given": False,
    }
    if state in (None, "finished"):
        (folder / "summary.json").write_text(json.dumps(summary))
    if state is not None:
        (folder / "status.json").write_text(json.dumps({"state": state}))
    rows = [f"{epoch},{accuracy},{0.5 if epoch else 0.0},{0.9 if epoch else 'nan'},0.8" for epoch in range(epochs)]
    head = "epoch,test_accuracy,selected_share,selection_precision,selection_recall"
    (folder / "metrics.csv").write_text("\n".join([head, *rows, ""]))
    timing = "\n".join(["epoch,train_seconds,eval_seconds", *(f"{epoch},2.0,0.5" for epoch in range(epochs)), ""])
    (folder / "timing.csv").write_text(timing)
    return folder


def cells_of(table: Table) -> dict[tuple[str, str], dict[str, Any]]:
    """The JSON's entries by row and noise in words."""
    cells = json.loads(as_json(table))["cells"]
    return {(cell["row"], f"{cell['data']} {cell['noise']} {cell['rate']:g}"): cell for cell in cells}


# Numbers.


def test_mean_spread_runs_and_difference(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.60, 0.62, 0.67)):
        run_folder(tmp_path, seed=seed, accuracy=accuracy)
    cell = cells_of(build_table("1", read_records([tmp_path])))["ACTO as published", "cifar100nc symmetric 0.2"]
    assert cell["mean"] == pytest.approx(63.0)
    assert cell["deviation"] == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    assert (cell["runs"], cell["seeds"], cell["published"]) == (3, [0, 1, 2], 65.51)
    assert cell["difference"] == pytest.approx(63.0 - 65.51)
    assert (cell["epochs"], cell["seconds"]) == ([4], pytest.approx(4 * 2.5))
    assert cell["labels_sha256"] == [LABELS[0], LABELS[1], LABELS[2]]
    # One warm-up epoch with two passes each, three robust ones with three.
    assert (cell["forward_passes"], cell["backward_passes"]) == (11.0, 11.0)


def test_a_cell_without_a_run_stays_empty(tmp_path: Path) -> None:
    run_folder(tmp_path)
    cells = cells_of(build_table("1", read_records([tmp_path])))
    for key, cell in cells.items():
        if key != ("ACTO as published", "cifar100nc symmetric 0.2"):
            assert (cell["mean"], cell["difference"], cell["runs"], cell["seconds"]) == (None, None, 0, None)
            assert cell["published"] is not None
    line = next(line for line in markdown(build_table("1", EMPTY)).splitlines() if line.startswith("| SED  "))
    assert [part.strip() for part in line.split("|")[1:10]] == [
        "SED", "ECCV 2024", "", "66.50", "", "38.15", "", "58.29", "",
    ]  # fmt: skip


def test_one_run_has_no_spread(tmp_path: Path) -> None:
    run_folder(tmp_path, accuracy=0.6551)
    built = build_table("1", read_records([tmp_path]))
    assert cells_of(built)["ACTO as published", "cifar100nc symmetric 0.2"]["deviation"] is None
    assert re.search(r"\| 65\.51 \(1\) +\| 65\.51 +\| \+0\.00 ", markdown(built))


def test_what_is_not_finished_is_counted_and_left_out(tmp_path: Path) -> None:
    run_folder(tmp_path, accuracy=0.5, state="finished")
    for seed, state in ((1, "running"), (2, "interrupted")):
        run_folder(tmp_path, seed=seed, accuracy=0.9, state=state)
    # A run that was overwritten and broken off again: the old summary must not count.
    old = run_folder(tmp_path, "elr", accuracy=0.9)
    (old / "status.json").write_text('{"state": "running"}')
    (run_folder(tmp_path, "sce") / "summary.json").write_text("{")
    built = build_table("1", read_records([tmp_path]))
    assert cells_of(built)["ACTO as published", "cifar100nc symmetric 0.2"]["mean"] == pytest.approx(50)
    notes = " ".join(built.notes)
    assert "Left out, not finished: 3 runs" in notes and "Left out, damaged:" in notes


def test_a_run_and_its_collected_record_count_once(tmp_path: Path) -> None:
    for top in ("runs", "records"):
        run_folder(tmp_path / top, accuracy=0.5)
    elsewhere = yaml.safe_load(
        (folder := run_folder(tmp_path / "third", accuracy=0.5)).joinpath("config.yaml").read_text()
    )
    elsewhere["device"], elsewhere["data"]["root"] = "cuda", "/data"
    (folder / "config.yaml").write_text(yaml.safe_dump(elsewhere))
    assert len(read_records([tmp_path / "runs", tmp_path / "records", tmp_path / "third"]).records) == 1


def test_other_labels_for_one_seed_are_called_out(tmp_path: Path) -> None:
    run_folder(tmp_path)
    run_folder(tmp_path, "standard", labels="d" * 64)
    (warning,) = [note for note in build_table("1", read_records([tmp_path])).notes if "WARNING" in note]
    assert "seed 0" in warning
    (facts,) = [note for note in build_table("1", read_records([tmp_path])).notes if note.startswith("Labels of")]
    assert "seed 0: aaaaaaaa and dddddddd" in facts


@pytest.mark.parametrize(("name", "before"), [("1", "ACTO as published"), ("4", "+ASS+ASM+DSRW+CR")])
def test_acto_s_own_form_is_a_row_of_its_own_below_the_published_one(tmp_path: Path, name: str, before: str) -> None:
    run_folder(tmp_path, accuracy=0.5)
    run_folder(tmp_path, accuracy=0.7, form="steady")
    table = build_table(name, read_records([tmp_path]))
    names = [row.name for row in table.rows]
    assert names[names.index(before) + 1] == "ACTO, ours" and names.count("ACTO, ours") == 1
    means = {row.name: row.cells[0].mean for row in table.rows}
    assert means[before] == pytest.approx(50) and means["ACTO, ours"] == pytest.approx(70)
    assert next(row for row in table.rows if row.name == "ACTO, ours").method == "acto"


def test_runs_with_other_settings_are_rows_of_their_own(tmp_path: Path) -> None:
    run_folder(tmp_path, accuracy=0.5, tau=0.1)
    run_folder(tmp_path, accuracy=0.6, tau=0.2)
    run_folder(tmp_path, seed=1, accuracy=0.7, tau=0.2)
    cells = cells_of(build_table("1", read_records([tmp_path])))
    assert cells["ACTO as published (acto.tau=0.1)", "cifar100nc symmetric 0.2"]["mean"] == pytest.approx(50)
    assert cells["ACTO as published (acto.tau=0.2)", "cifar100nc symmetric 0.2"]["mean"] == pytest.approx(65)
    assert ("ACTO as published", "cifar100nc symmetric 0.2") not in cells


def test_settings_that_follow_the_noise_do_not_split_a_row(tmp_path: Path) -> None:
    run_folder(tmp_path, "elr", beta=0.7)
    run_folder(tmp_path, "elr", noise=("asymmetric", 0.4), beta=0.9)
    assert [row.name for row in build_table("study", read_records([tmp_path])).rows] == ["ELR"]


# Honesty.


def test_best_epochs_only_as_an_oracle(tmp_path: Path) -> None:
    run_folder(tmp_path, accuracy=0.6)
    built = build_table("1", read_records([tmp_path]))
    for text in (markdown, latex, comma_separated, as_json):
        assert "65.0" not in text(built).replace("65.09", "") and "oracle" not in text(built).lower()
        assert "oracle (chosen on test data)" in text(built, oracle=True)
    assert re.search(r"\| 65\.00 ", markdown(built, oracle=True))


def test_published_numbers_of_another_protocol_are_marked(tmp_path: Path) -> None:
    run_folder(tmp_path, "standard", accuracy=0.5)
    run_folder(tmp_path, "co-teaching", accuracy=0.5)
    built = build_table("1", read_records([tmp_path]))
    text = markdown(built)
    assert "35.14 [a]" in text and "43.73 [b]" in text
    assert "[a] other protocol: " in text and "without augmentation" in text
    cells = cells_of(built)
    assert cells["Standard", "cifar100nc symmetric 0.2"]["difference"] is None
    assert cells["Co-teaching", "cifar100nc symmetric 0.2"]["difference"] == pytest.approx(50 - 43.73)


@pytest.mark.parametrize(
    ("method", "assumed", "told"),
    [
        ("co-teaching", None, "rate: oracle"),
        ("co-teaching", 0.3, "rate: user"),
        ("jocor", None, "rate: oracle; settings by rate"),
        ("dividemix", None, "settings by rate and kind"),
        ("acto", None, "nothing"),
    ],
)
def test_what_a_method_was_told_of_the_noise(tmp_path: Path, method: str, assumed: float | None, told: str) -> None:
    folder = run_folder(tmp_path, method)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "assumed_noise_rate": assumed}))
    (record,) = read_records([tmp_path]).records
    assert record.noise_known == told


def test_another_number_of_epochs_than_the_papers_is_said(tmp_path: Path) -> None:
    run_folder(tmp_path, epochs=4)
    run_folder(tmp_path, "elr", epochs=150)
    notes = build_table("1", read_records([tmp_path])).notes
    assert [note for note in notes if "epochs; " in note] == [
        "Some runs on cifar100nc had 4 epochs; those of ACTO's paper had 150."
    ]


# Layouts.


def test_the_papers_layouts() -> None:
    assert [row.name for row in build_table("1", EMPTY).rows][:3] == ["Standard", "Decoupling", "Co-teaching"]
    assert [column.title for column in build_table("2", EMPTY).columns] == ["Web-aircraft", "Web-bird", "Web-car"]
    assert [column.title for column in build_table("3", EMPTY).columns] == ["Food101N"]
    assert [row.name for row in build_table("4", EMPTY).rows] == [
        "Standard", "+ASS", "+ASS+ASM", "+ASS+DSRW", "+ASS+ASM+DSRW", "+ASS+ASM+DSRW+CR",
    ]  # fmt: skip
    assert [column.title for column in build_table("4", EMPTY).columns][:2] == [
        "CIFAR100N (synthetic), symmetric 20 %",
        "CIFAR100N (synthetic), symmetric 80 %",
    ]


def ablation(top: Path, data: str = "fashion-mnist") -> None:
    rows = ((False, False, False), (True, False, False), (False, True, False), (True, True, False), (True, True, True))
    run_folder(top, "standard", accuracy=0.4, data=data)
    for number, (mining, reweighting, consistency) in enumerate(rows):
        switches = {"mining": mining, "reweighting": reweighting, "consistency": consistency}
        run_folder(top, accuracy=0.5 + 0.01 * number, data=data, **switches)


def test_the_ablation_on_other_data(tmp_path: Path) -> None:
    ablation(tmp_path)
    built = build_table("4", read_records([tmp_path]), data=["fashion-mnist"])
    assert [round(row.cells[0].mean or 0) for row in built.rows] == [40, 50, 51, 52, 53, 54]
    assert not built.has_published
    # Without consistency a robust epoch has two passes instead of three.
    assert [cell["forward_passes"] for cell in cells_of(built).values()] == [4, 8, 8, 8, 8, 11]


def test_a_study_leaves_the_ablation_out(tmp_path: Path) -> None:
    ablation(tmp_path)
    built = build_table("study", read_records([tmp_path]))
    assert [row.name for row in built.rows] == ["ACTO as published", "Standard"]
    assert "4 runs of ACTO with parts switched off: see Table 4." in built.notes
    assert cells_of(built)["ACTO as published", "fashion-mnist symmetric 0.2"]["difference"] == pytest.approx(14)


def test_a_study_compares_runs_of_one_seed(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.4, 0.5, 0.9)):
        run_folder(tmp_path, "standard", seed=seed, accuracy=accuracy)
    run_folder(tmp_path, "elr", seed=1, accuracy=0.6)
    run_folder(tmp_path, "sce", seed=0, accuracy=0.3)
    built = build_table("study", read_records([tmp_path]), sort="accuracy")
    assert [row.name for row in built.rows] == ["ELR", "Standard", "SCE"]
    cells = cells_of(built)
    assert cells["ELR", "cifar100nc symmetric 0.2"]["difference"] == pytest.approx(10)
    assert cells["SCE", "cifar100nc symmetric 0.2"]["difference"] == pytest.approx(-10)
    assert cells["Standard", "cifar100nc symmetric 0.2"]["difference"] is None


def test_columns_stand_in_parts_of_three(tmp_path: Path) -> None:
    for noise in (("symmetric", 0.5), ("instance", 0.4), ("none", 0.0), ("asymmetric", 0.4)):
        run_folder(tmp_path, data="digits", noise=noise)
    heads = [
        line for line in markdown(build_table("study", read_records([tmp_path]))).splitlines() if "| method" in line
    ]
    assert [[part.strip() for part in head.split("|")[2:-6]] for head in heads] == [
        ["labels as they come", "symmetric 50 %", "asymmetric 40 %"],
        ["digits, instance 40 %"],
    ]


def test_markdown_is_aligned(tmp_path: Path) -> None:
    run_folder(tmp_path, "own|method", data="digits")
    lines = [
        line for line in markdown(build_table("study", read_records([tmp_path]))).splitlines() if line.startswith("|")
    ]
    assert len({len(line) for line in lines}) == 1
    assert r"own\|method" in lines[2]


def test_latex_has_its_shape(tmp_path: Path) -> None:
    run_folder(tmp_path, "standard", accuracy=0.5)
    run_folder(tmp_path, "standard", seed=1, accuracy=0.6)
    run_folder(tmp_path, "a_b&c%#$", data="cifar100nc")
    text = latex(build_table("1", read_records([tmp_path])))
    assert r"a\_b\&c\%\#\$" in text and r"55.00 $\pm$ 7.07 (2)" in text
    bodies = re.findall(r"\\begin\{tabular\}\{(l+)\}\n\\toprule\n(.*?)\n\\midrule\n(.*?)\n\\bottomrule", text, re.S)
    assert len(bodies) == 2
    for columns, head, rows in bodies:
        for line in [head, *rows.splitlines()]:
            assert line.endswith(r" \\") and len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1
    for name in ("table", "tabular", "itemize"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") > 0
    assert not re.search(r"(?<!\\)[%#]", text)


def test_csv_reads_back_and_carries_no_formula(tmp_path: Path) -> None:
    ablation(tmp_path, data="cifar100nc")
    text = comma_separated(build_table("4", read_records([tmp_path])))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 6 * 6
    assert rows[6]["row"] == "'+ASS" and float(rows[6]["mean"]) == pytest.approx(50) and rows[7]["mean"] == ""
    assert float(rows[6]["difference"]) == pytest.approx(50 - 59.30)


# The command.


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert table(["3"]) == 0
    assert "No finished run belongs into this table." in capsys.readouterr().out
    run_folder(tmp_path / "runs")
    assert table(["1", "--format", "json"]) == 0
    assert sum(cell["runs"] for cell in json.loads(capsys.readouterr().out)["cells"]) == 1


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["5"], "unknown table '5'"),
        ([], "which table?"),
        (["1", "nowhere"], "nowhere is no folder of runs"),
        (["1", "--format", "latx"], "Did you mean 'latex'?"),
        (["1", "--sort", "accuracy"], "--sort is for"),
        (["study", ".", "--data", "digts"], "no run on 'digts' was found"),
        (["study", ".", "--plot", "pictures"], "there is no run to draw"),
    ],
)
def test_commands_that_cannot_be_used(
    tokens: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        table(tokens)
    assert words in str(error.value)


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run_folder(tmp_path / "runs")
    run_folder(tmp_path / "runs", "standard")
    built = build_table("study", read_records([tmp_path / "runs"]))
    files = plot(built, tmp_path / "a")
    assert [file.name for file in files] == [
        "accuracy-cifar100nc-symmetric-20.png", "accuracy-cifar100nc-symmetric-20.svg",
        "selection-cifar100nc-symmetric-20.png", "selection-cifar100nc-symmetric-20.svg",
    ]  # fmt: skip
    for file in files:
        start = file.read_bytes()[:200]
        assert start.startswith(b"\x89PNG") if file.suffix == ".png" else b"<?xml" in start
    again = plot(built, tmp_path / "b")
    assert [file.read_bytes() for file in again] == [file.read_bytes() for file in files]


# What is published.


@pytest.mark.parametrize(
    ("number", "row", "data", "noise", "rate", "percent"),
    [
        ("1", "acto", "cifar100nc", "symmetric", 0.8, 40.74),
        ("1", "decoupling", "cifar80no", "symmetric", 0.8, 10.1),
        ("1", "ca2c", "cifar80no", "asymmetric", 0.4, 65.71),
        ("2", "co-ldl", "web-bird", "none", 0.0, 80.11),
        ("3", "snscl", "food101n", "none", 0.0, 86.40),
        ("4", "+ASS+DSRW", "cifar80no", "asymmetric", 0.4, 56.03),
    ],
)
def test_published_numbers(number: str, row: str, data: str, noise: str, rate: float, percent: float) -> None:
    found = [a for a in published.accuracies() if (a.table, a.row, a.data, a.noise) == (number, row, data, noise)]
    assert [a.percent for a in found if a.rate == rate] == [percent]


def test_no_published_number_stands_there_twice() -> None:
    keys = [(a.table, a.row, a.data, a.noise, a.rate) for a in published.accuracies()]
    assert len(set(keys)) == len(keys) == 212
    assert all(bool(a.protocol) == bool(a.note) for a in published.accuracies())


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_known_as_they_are(name: str) -> None:
    about, method = published.methods()[name], METHODS[name]
    assert about.venue == method.venue.strip("-")
    sources = "".join(inspect.getsource(inspect.getmodule(cls) or cls) for cls in method.__mro__[:-3])  # up to Method
    assert about.asks_rate == ("task.noise_rate" in sources)


@pytest.mark.parametrize("name", METHODS)
def test_what_recipes_look_at_is_said(name: str) -> None:
    def config(source: str, kind: str, rate: float) -> Any:
        spec = DataSpec(source=source, noise=NoiseSpec(kind=kind, rate=rate))
        return recipe(spec, SETTINGS[source], method=name).config

    by = {"rate": False, "kind": False}
    for source in ("fashion-mnist", "cifar100nc"):
        by["rate"] |= any(
            config(source, "symmetric", rate) != config(source, "symmetric", 0.5) for rate in (0.2, 0.8, 0.9)
        )
        by["kind"] |= any(
            config(source, kind, 0.4) != config(source, "symmetric", 0.4) for kind in ("asymmetric", "instance")
        )
    assert published.methods()[name].settings_by == " and ".join(word for word, used in by.items() if used)


# Passes.

VARIANTS: dict[str, dict[str, Any]] = {
    **{name: {} for name in METHODS},
    "acto-without-consistency": {"consistency": False},
    "acto-steady": {"form": "steady"},
    "acto-steady-weak": {"form": "steady", "warmup_views": "weak"},
    "acto-steady-without-consistency": {"form": "steady", "consistency": False},
    "dividemix-web": {"train_on_unlabelled": False},
    "snscl-web": {"train_on_unlabelled": False},
    "sop-plain": {"consistency_weight": 0.0, "balance_weight": 0.0},
    "npn-hard": {"hard": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_passes_are_those_that_are_counted(variant: str) -> None:
    name = max((m for m in METHODS if variant == m or variant.startswith(f"{m}-")), key=len)
    config = replace(TOYS[name].config, **VARIANTS[variant])
    warmup = getattr(config, "warmup_epochs", 0)
    claimed = published.passes(name, asdict(config))
    assert claimed is not None
    counts = count_passes(name, config, epochs=warmup + 3)
    for epoch, (forward, backward, selected) in enumerate(counts):
        if epoch < warmup:
            assert (forward, backward) == (claimed.warmup_forward, claimed.warmup_backward)
        else:
            # The two networks of DivideMix and its like select different numbers of samples; the record has one share.
            tolerance = 0.06 if claimed.forward_selected else 0.0
            assert forward == pytest.approx(claimed.forward + claimed.forward_selected * selected, rel=tolerance)
            assert backward == pytest.approx(claimed.backward + claimed.backward_selected * selected, rel=tolerance)


def count_passes(name: str, config: Any, *, epochs: int) -> Iterator[tuple[float, float, float]]:
    """Rows forward and backward through a first layer, for each sample, and the share selected; epoch by epoch."""
    counts = {"forward": 0, "backward": 0}

    def back(rows: int) -> Callable[[Tensor], None]:
        def hook(grad: Tensor) -> None:
            counts["backward"] += rows

        return hook

    def hook(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        counts["forward"] += len(output)
        if output.requires_grad:
            output.register_hook(back(len(output)))

    def build_net() -> nn.Module:
        net = ToyNet()
        net.body[0].register_forward_hook(hook)
        return net

    problem = make_problem(num_train=256)  # whole batches
    torch.manual_seed(1)
    method = METHODS[name](config, problem.task, build_net)
    training = Training(method, replace(TOYS[name].protocol, epochs=epochs), precision=torch.float32)
    for _ in run_epochs(training, problem.train, seed=0):
        selected = float(training.history.selected_now.float().mean())
        yield counts["forward"] / 256, counts["backward"] / 256, selected
        counts.update(forward=0, backward=0)
