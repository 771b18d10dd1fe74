"""The table of columns: a new one reaches every file and page, and none is forgotten on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acto.core import sample_columns
from acto.core.sample_columns import SampleColumn, Tally, in_order, of_page, of_report, of_samples_csv
from acto.data.noise import NoiseSpec
from acto.data.samples import DataSpec
from acto.labels.page import render
from acto.labels.run_audit import audit_at_the_end
from acto.methods.standard import Standard
from acto.run_folder.reading import read_run
from acto.run_folder.writing import RunFolder
from acto.runs.execute import execute
from acto.runs.prepare import prepare
from acto.runs.run import Run
from acto.training.history import History
from acto.training.protocol import Protocol
from labels.test_page import rows_of


def test_names_are_unique_and_tallies_are_there() -> None:
    names = [column.name for column in sample_columns.SAMPLE_COLUMNS]
    assert len(names) == len(set(names))
    for column in sample_columns.SAMPLE_COLUMNS:
        assert bool(column.tally) == (column.origin == "training"), column.name
        assert {column.tally, column.per} <= {"", *sample_columns.TALLIES}, column.name
        assert not column.on_page or column.in_report, f"{column.name}: the page shows what the report holds"


def test_values_come_in_the_order_of_the_table_and_none_is_lost() -> None:
    assert list(in_order({"visits": 1, "id": 2}, of_report())) == ["id", "visits"]
    with pytest.raises(AssertionError, match="a_slip"):
        in_order({"id": 1, "a_slip": 2}, of_report())


def test_samples_csv_keeps_its_order() -> None:
    assert [column.name for column in of_samples_csv()] == [
        "id", "given_label", "predicted_label", "prob_given", "prob_predicted", "label_quality", "mean_prob_given",
        "times_selected", "times_mined", "reliability", "weight", "first_epoch_fit", "memorization", "visits",
        "label_is_true",
    ]  # fmt: skip


def test_a_new_column_goes_all_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lines in the table, one in a method: no other file needs to know of the column for it to arrive."""
    toy = SampleColumn("loud_share", "visits with a loud sample", origin="training", kind="float32", tally="loud",
                       per="visits", on_page=True)  # fmt: skip
    table = list(sample_columns.SAMPLE_COLUMNS)
    place = len(sample_columns.TALLIES)
    monkeypatch.setattr(sample_columns, "TALLIES", {**sample_columns.TALLIES, "loud": Tally(place, "sum", "loud")})
    monkeypatch.setattr(sample_columns, "SAMPLE_COLUMNS", (*table, toy))  # behind all others, not beside its like
    plain = Standard.loss

    def loss(self: Standard, batches: Any, clock: Any) -> Any:
        step = plain(self, batches, clock)
        step.per_sample["loud"] = batches[0].index % 3 == 0
        return step

    monkeypatch.setattr(Standard, "loss", loss)
    run = Run(
        method="standard",
        config=Standard.Config(),
        data=DataSpec(source="digits", noise=NoiseSpec(kind="symmetric", rate=0.4), subset=300),
        protocol=Protocol(epochs=2, batch_size=64),
        device="cpu",
        precision="float32",
    )
    prepared = prepare(run)
    with RunFolder.create(tmp_path / "run", config=run.to_dict()) as folder:
        execute(prepared, folder)
    report = audit_at_the_end(tmp_path / "run", prepared.dataset)

    expected = (np.arange(len(report)) % 3 == 0).astype(np.float32)
    assert np.array_equal(prepared.training.history.table()["loud_share"], expected)
    samples = read_run(tmp_path / "run").samples()
    assert np.array_equal(samples["loud_share"], expected)
    assert np.array_equal(report.columns["loud_share"], expected)
    for found, columns in ((samples, of_samples_csv()), (report.columns, of_report())):
        types = {name: values.dtype.name if isinstance(values, np.ndarray) else "str" for name, values in found.items()}
        texts = {"text": "str", "class": "str"}
        absent = ("networks_agree", "held_out", "is_confirmed", "text")
        assert types == {c.name: texts.get(c.kind, c.kind) for c in columns if c.name not in absent}
    for row in rows_of(render(report, None)):
        assert row["loud_share"] == expected[row["row"]]
        assert list(row) == ["row", *(column.name for column in of_page())]


def test_the_files_keep_their_types() -> None:
    types = {name: str(column.dtype).removeprefix("torch.") for name, column in History(2).table().items()}
    assert types == {
        "times_selected": "int32", "times_mined": "int32", "reliability": "float32", "weight": "float32",
        "mean_prob_given": "float32", "first_epoch_fit": "int64", "memorization": "float32", "visits": "int32",
    }  # fmt: skip
