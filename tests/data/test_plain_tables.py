"""Tables and texts: which columns are taken, what becomes of cells, and that the encoding comes back as it was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from acto.core.errors import RunError, UserError
from acto.data.in_memory import as_dataset
from acto.data.samples import Dataset, DataSpec
from acto.data.sources import load_data, read
from acto.data.tables.encoding import Encoding, fit_encoding, read_encoding
from acto.data.tables.rows import MOST_SHOWN, Plan, Rows, read_cells, shortened
from acto.data.tables.table_blocks import FARTHEST, LEAST_ROWS

COUNT = 60


def columns_of(**others: Sequence[Any]) -> dict[str, Sequence[Any]]:
    random = np.random.default_rng(0)
    return {
        "length": random.normal(5, 2, COUNT).round(3).tolist(),
        "colour": random.choice(["red", "green", "blue"], COUNT).tolist(),
        **others,
        "kind": ["a", "b", "c"] * (COUNT // 3),
    }


def write(path: Path, columns: dict[str, Sequence[Any]], separator: str = ",") -> Path:
    pd.DataFrame(columns).to_csv(path, sep=separator, index=False)
    return path


def loaded(path: Path, **spec: Any) -> Dataset:
    return load_data(DataSpec(source=str(path), **spec))


def note(dataset: Dataset, words: str) -> str:
    (found,) = [text for text in dataset.notes if words in text]
    return found


def rows_of(columns: dict[str, Sequence[Any]], **plan: Any) -> Rows:
    cells = {name: read_cells(values) for name, values in columns.items()}
    assert all(column is not None for column in cells.values())
    count = len(next(iter(columns.values())))
    chosen = Plan(columns=tuple(columns), **plan)
    return Rows(cells=cells, numbers=np.arange(count), plan=chosen)  # type: ignore[arg-type]


# Files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".csv", ";"), (".csv", "\t"), (".tsv", "\t")])
def test_separators(tmp_path: Path, suffix: str, separator: str) -> None:
    dataset = loaded(write(tmp_path / f"t{suffix}", columns_of(), separator))
    assert dataset.class_names == ("a", "b", "c") and dataset.train.features is not None
    assert dataset.train.features.shape == (54, 4)
    assert any("separated by" in text for text in dataset.notes) == (suffix == ".csv" and separator != ",")


def test_all_forms_of_a_table_are_one(tmp_path: Path) -> None:
    columns = columns_of(is_new=[True, False] * 30)
    frame = pd.DataFrame(columns)
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet", index=False)
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    as_csv, as_parquet, as_json = (loaded(tmp_path / f"t.{suffix}") for suffix in ("csv", "parquet", "jsonl"))
    assert as_csv.train.features is not None and as_parquet.train.features is not None
    np.testing.assert_array_equal(as_parquet.train.features, as_json.train.features)
    np.testing.assert_array_equal(as_parquet.train.labels, as_csv.train.labels)
    # CSV writes True as a word, which makes categories of it.
    assert as_csv.train.features.shape[1] == as_parquet.train.features.shape[1] + 1


def test_decimal_commas(tmp_path: Path) -> None:
    columns = columns_of()
    columns["length"] = [f"{value:.3f}".replace(".", ",") for value in columns["length"]]
    with_commas = loaded(write(tmp_path / "t.csv", columns, ";"))
    plain = loaded(write(tmp_path / "u.csv", columns_of()))
    np.testing.assert_array_equal(with_commas.train.features, plain.train.features)


def test_the_one_table_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "t.csv", columns_of())
    (tmp_path / "data" / "README.md").write_text("about it")
    assert note(loaded(tmp_path / "data"), "the one table in").endswith("is read: t.csv")
    write(tmp_path / "data" / "u.csv", columns_of())
    with pytest.raises(UserError):
        loaded(tmp_path / "data")


# Columns ----------------------------------------------------------------------------------------------------------


def test_labels_are_guessed_and_said(tmp_path: Path) -> None:
    frame = pd.DataFrame(columns_of())
    assert "'kind' of t.csv is taken for the labels (3" in note(loaded(write(tmp_path / "t.csv", frame)), "is taken")  # type: ignore[arg-type]
    by_name = loaded(write(tmp_path / "t.csv", frame.rename(columns={"colour": "Class"})))  # type: ignore[arg-type]
    assert by_name.class_names == ("blue", "green", "red")
    assert loaded(tmp_path / "t.csv", label_column="kind").class_names == ("a", "b", "c")
    only_numbers = frame.assign(kind=np.linspace(0, 1, COUNT), colour=np.linspace(1, 2, COUNT))
    with pytest.raises(UserError, match=r"none that is obviously its labels: --data.label_column names it"):
        loaded(write(tmp_path / "t.csv", only_numbers))  # type: ignore[arg-type]


def test_columns_that_are_no_features(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    path = write(
        tmp_path / "t.csv",
        columns_of(
            customer_id=[f"c{k}" for k in range(COUNT)],
            number=list(range(COUNT)),
            fold=[1, 2, 3] * 20,
            always=["x"] * COUNT,
            name=[f"{word} {k}" for k, word in enumerate(random.choice(["Ann", "Bob"], COUNT))],
        ),
    )
    dataset = loaded(path)
    assert dataset.encoding is not None and dataset.encoding.columns == ("length", "colour")
    assert dataset.train.ids[:2] == ("c0", "c1") and set(dataset.test.ids) <= {f"c{k}" for k in range(COUNT)}
    for words in ("'customer_id', which names the rows", "'number', which numbers", "'fold', which looks like a split",
                  "'always', which never varies", "'name', which has another text"):  # fmt: skip
        note(dataset, words)
    kept = loaded(path, columns=("number", "always", "fold"))
    assert kept.encoding is not None and set(kept.encoding.columns) == {"number", "always", "fold"}


def test_codes_dates_and_many_numbers(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    path = write(
        tmp_path / "t.csv",
        columns_of(
            post=random.choice(["01067", "80331", "10115"], COUNT).tolist(),
            amount=(random.permutation(5000)[:COUNT] + 17).tolist(),
            month=random.integers(1, 4, COUNT).tolist(),
            day=[f"2024-02-{1 + k % 28:02}" for k in range(COUNT)],
        ),
    )
    dataset = loaded(path, category_columns=("month",))
    encoding = dataset.encoding
    assert encoding is not None and encoding.numbers is not None and encoding.categories is not None
    assert dict(zip(encoding.numbers.columns, encoding.numbers.kinds, strict=True)) == {
        "length": "number", "amount": "number", "day": "date",
    }  # fmt: skip
    assert encoding.categories.columns == ("colour", "post", "month")
    assert "days since 1970" in note(dataset, "'day'") and "as ids have" in note(dataset, "'amount'")


def test_texts_are_guessed_and_said(tmp_path: Path) -> None:
    texts = [f"The {word} fox number {k} jumps over the dog, and then sleeps until tomorrow." for k, word in
             enumerate(["red", "old", "shy"] * 20)]  # fmt: skip
    dataset = loaded(write(tmp_path / "t.csv", columns_of(story=texts)))
    assert "--data.columns NAME,NAME learns from such" in note(dataset, "taken for texts")
    assert dataset.encoding is not None and dataset.encoding.columns == ("story",)
    table = loaded(tmp_path / "t.csv", columns=("length", "colour"))
    assert table.encoding is not None and table.encoding.texts is None
    with pytest.raises(UserError, match="2 columns of long texts, 'story', 'more'"):
        loaded(write(tmp_path / "t.csv", columns_of(story=texts, more=texts[::-1])))
    chosen = loaded(tmp_path / "t.csv", text_column="more")
    assert chosen.encoding is not None and chosen.encoding.columns == ("more",)


def test_splits_and_true_labels(tmp_path: Path) -> None:
    words = ["train", "train", "test", "val"] * 15
    dataset = loaded(write(tmp_path / "t.csv", columns_of(split=words, true_label=list("abb") * 20)))
    assert len(dataset.test) == 15 and not dataset.test_labels_are_given and dataset.train.noise_rate is not None
    assert dataset.encoding is not None and dataset.encoding.columns == ("length", "colour")
    note(dataset, "15 rows of t.csv have the split val")


# Cells ------------------------------------------------------------------------------------------------------------


def test_the_encoding_is_the_column_transformers(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    numbers = random.normal(3, 100, (200, 2))
    numbers[random.random((200, 2)) < 0.1] = np.nan
    words = random.choice(["x", "y", "z", "", "rare"], 200, p=[0.4, 0.3, 0.2, 0.085, 0.015])
    table = {"n": numbers[:, 0].tolist(), "m": numbers[:, 1].tolist(), "w": words.tolist()}
    encoding, _ = fit_encoding(rows_of(table))
    theirs = ColumnTransformer(
        [
            ("n", make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler()), ["n", "m"]),
            ("w", OneHotEncoder(min_frequency=LEAST_ROWS, handle_unknown="infrequent_if_exist"), ["w"]),
        ]
    )
    frame = pd.DataFrame({"n": numbers[:, 0], "m": numbers[:, 1], "w": words})
    expected = theirs.fit_transform(frame)
    new = pd.DataFrame({"n": [np.nan, 1e9], "m": [3.5, np.nan], "w": ["never", "x"]})
    for mine, other in ((rows_of(table), expected), (rows_of(new.to_dict("list")), theirs.transform(new))):
        dense = other.toarray() if sparse.issparse(other) else other
        np.testing.assert_allclose(encoding.encode(mine), dense.clip(-FARTHEST, FARTHEST), rtol=1e-5, atol=1e-6)
    assert encoding.width == 2 + 2 + 5


def test_only_training_rows_are_fitted_on(tmp_path: Path) -> None:
    columns = columns_of(split=["train"] * 45 + ["test"] * 15)
    columns["length"] = [1.0, 2.0, 3.0] * 15 + [1000.0] * 15
    dataset = loaded(write(tmp_path / "t.csv", columns))
    assert dataset.encoding is not None and dataset.encoding.numbers is not None
    assert dataset.encoding.numbers.means == (2.0,)
    assert dataset.test.features is not None and dataset.test.features[0, 0] == FARTHEST


def test_held_out_rows_are_not_fitted_on(tmp_path: Path) -> None:
    dataset = loaded(write(tmp_path / "t.csv", columns_of()))
    frame = pd.DataFrame(columns_of())
    for found in (dataset, as_dataset(frame, "kind")):
        assert found.train.rows is not None and found.encoding is not None and found.encoding.numbers is not None
        assert len(found.train) == 54
        assert found.encoding.numbers.means == pytest.approx([found.train.rows.cells["length"].mean()], rel=1e-12)
    assert dataset.train.rows is not None
    assert dataset.train.rows.cells["length"].mean() != pytest.approx(frame["length"].mean(), rel=1e-6)


def texts_and_table() -> list[Rows]:
    story = [f"{a} {b} {c} and so on" for a in ("ab", "ba", "cd") for b in ("die", "der", "das") for c in "xyz"]
    return [
        rows_of({"story": story}, is_text=True, label_column="kind"),
        rows_of({"n": [1, None, 3], "w": ["a", "", "b"], "d": ["2024-01-01", "2024-01-02T12:00", ""]}),
    ]


@pytest.mark.parametrize("which", [0, 1])
def test_an_encoding_comes_back_to_the_bit(which: int) -> None:
    rows = texts_and_table()[which]
    encoding, _ = fit_encoding(rows)
    again = read_encoding(encoding.to_bytes(), "it")
    np.testing.assert_array_equal(again.encode(rows), encoding.encode(rows))
    assert again.plan == encoding.plan and again.to_bytes() == encoding.to_bytes()


def test_texts_of_one_kind_are_near_each_other() -> None:
    rows = rows_of(
        {"t": ["The cat sat.", "A cat sat down.", "Stock prices fell.", "Prices of stock fell!", ""]}, is_text=True
    )
    encoding, notes = fit_encoding(rows)
    found = encoding.encode(rows)
    near = found @ found.T
    assert near[0, 1] > 3 * near[0, 2] and near[2, 3] > 3 * near[1, 3] and not found[4].any()
    assert any("1 of 5 texts are empty" in text for text in notes)


def damaged(encoding: Encoding) -> list[bytes]:
    whole = encoding.to_bytes()
    assert encoding.texts is not None
    texts = encoding.texts
    return [
        b"",
        whole[:100],
        whole[:-8],
        replace(encoding, texts=replace(texts, terms=(texts.terms[0][:-1], texts.terms[1]))).to_bytes(),
        replace(encoding, texts=replace(texts, components=np.full_like(texts.components, np.nan))).to_bytes(),
        replace(encoding, texts=None).to_bytes(),
        whole.replace(b'\\"version\\": 1', b'\\"version\\": 9'),
        whole.replace(b'\\"column\\"', b'\\"kolumn\\"'),
    ]


@pytest.mark.parametrize("which", range(8))
def test_damaged_encodings_are_refused(which: int) -> None:
    encoding, _ = fit_encoding(texts_and_table()[0])
    with pytest.raises(RunError):
        read_encoding(damaged(encoding)[which], "it")


@pytest.mark.parametrize(
    "change",
    [{"medians": (1.0,)}, {"deviations": (0.0, 1.0, 1.0, 1.0)}, {"gaps": (7, 8)}, {"means": (float("nan"),) * 4},
     {"kinds": ("number", "word")}],
)  # fmt: skip
def test_numbers_that_do_not_fit_together_are_refused(change: dict[str, Any]) -> None:
    encoding, _ = fit_encoding(texts_and_table()[1])
    assert encoding.numbers is not None
    read_encoding(encoding.to_bytes(), "it")
    with pytest.raises(RunError):
        read_encoding(replace(encoding, numbers=replace(encoding.numbers, **change)).to_bytes(), "it")


def test_cells() -> None:
    def kinds(values: Sequence[Any], **options: Any) -> Any:
        cells = read_cells(values, **options)
        return None if cells is None else cells.tolist()

    assert kinds(["1", " 2.5", "1e3"]) == [1, 2.5, 1000]
    assert kinds(["007", "8"]) == ["007", "8"]  # a code
    assert kinds(["0.5", "0"]) == [0.5, 0]
    np.testing.assert_array_equal(kinds(["NA", "3", None, "?"]), [np.nan, 3, np.nan, np.nan])
    assert kinds(["1,5", "2"]) == ["1,5", "2"] and kinds(["1,5", "2"], decimal_comma=True) == [1.5, 2]
    assert kinds([1, "x", 2.5, None, True]) == ["1", "x", "2.5", "", "1"]
    assert kinds([pd.Timestamp("2024-02-03"), pd.NaT]) == ["2024-02-03T00:00:00", ""]
    assert kinds([[1, 2], [3]]) is None and kinds([b"x"]) is None
    assert kinds([10**5000, 1]) == [np.inf, 1]  # refused with its row when it is fitted


def test_what_is_shown_is_short_and_on_one_line() -> None:
    assert shortened("a\n b\t c") == "a b c"
    assert len(shortened("word " * 1000)) <= MOST_SHOWN and shortened("word " * 1000).endswith("…")
    rows = rows_of({"n": [1.0, None], "w": ["x", "y"]})
    assert rows.shown() == ["n 1, w x", "w y"]


# Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no column 'path'"),
        ("a,b,label\n", "has no rows"),
        ("5.1,3.5,1.4,setosa\n4.9,3.0,1.4,setosa\n", "the first row should name the columns, but looks like data"),
        ("a,a,label\n1,2,x\n", "2 columns 'a'"),
        ("a,b,label\n1,2,x\n1,2\n", "row 3 has 2 cells, the heading 3"),
        ("a,label\n1,x\n2,\n", r"1 row has no label in column 'label', the first: t.csv row 3"),
        ("label\nx\ny\n", "no column that can be a feature"),
        ("a,label\n1,0.5\n2,1.5\n", r"labels must be names or whole numbers \(2 rows\): t.csv row 2: '0.5'"),
        (
            "a,label\n1,x\n1,y\n",
            "no column that can be a feature beside its labels 'label'; left out: 'a', which never",
        ),
        ("a,label\ninf,x\n1,y\n2,x\n3,y\n", "t.csv row 2: column 'a' holds a number that is not finite"),
        ('a,label\n"1,x\n', "cannot be read as a table"),
        ("image,label\ncats/1.jpg,x\ncats/2.jpg,y\n", r"no column 'path'.*--data.path_column image reads them"),
        ("a,split,label\n1,train,x\n2,maybe,y\n", "split in .*t.csv row 3"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        loaded(tmp_path / "t.csv", holdout_share=0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2]\n", r"t.jsonl line 1 is no object"),
        ('{"a": 1, "label": "x"}\n{"a": 1,\n', "t.jsonl line 2"),
        ('{"a": "\\ud800", "label": "x"}\n', "t.jsonl line 1 holds half a character"),
        ('{"a": [1, 2], "label": "x"}\n{"a": [1], "label": "y"}\n', "t.jsonl line 2: a has 1 numbers"),
        ('{"a": ' + "[" * 100_000 + "\n", "t.jsonl line 1"),
        ('{"a": 1}\n{"a": 2}\n', "no column that can be a feature beside its labels 'a'"),
        ('{"a": 1, "label": {"b": 1}}\n', "none that is obviously its labels"),
    ],
)
def test_bad_json_lines(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(UserError, match=words):
        loaded(tmp_path / "t.jsonl", holdout_share=0.5)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"label_column": "knid"}, "no column 'knid'.*'kind'"),
        ({"columns": ("lenght",)}, "no column 'lenght'.*'length'"),
        ({"columns": ("kind",), "label_column": "kind"}, "'kind' of t.csv holds labels or splits"),
        ({"columns": ("length", "length")}, "names a column twice"),
        ({"columns": ("length",), "category_columns": ("colour",)}, "'colour', which data.columns leaves out"),
        ({"text_column": "length"}, "'length' of t.csv holds numbers, and no texts"),
        ({"text_column": "colour", "columns": ("length",)}, "is learned from alone"),
        ({"split_column": "part"}, "no column 'part'"),
        ({"size": 32}, "size and resize are for pictures, and t holds none"),
    ],
)
def test_bad_settings_of_a_table(tmp_path: Path, spec: dict[str, Any], words: str) -> None:
    path = write(tmp_path / "t.csv", columns_of())
    with pytest.raises(UserError, match=words):
        loaded(path, **spec)


def test_rows_that_do_not_suit_an_encoding() -> None:
    encoding, _ = fit_encoding(texts_and_table()[1])
    with pytest.raises(UserError, match="row 1: column 'n' was one of numbers in training, but 'many' is no number"):
        encoding.encode(rows_of({"n": [1, "many"], "w": ["a", "b"], "d": ["", ""]}))
    with pytest.raises(UserError, match="row 0: column 'd' was one of dates in training, but 'soon' is no date"):
        encoding.encode(rows_of({"n": [1], "w": ["a"], "d": ["soon"]}))
    with pytest.raises(UserError, match=r"lacks 2 of the 3 columns that the model needs: .*'d'"):
        encoding.encode(rows_of({"n": [1]}))


def test_a_pickle_is_nowhere(tmp_path: Path) -> None:
    encoding, _ = fit_encoding(texts_and_table()[0])
    data = encoding.to_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert {value["dtype"] for name, value in header.items() if name != "__metadata__"} == {"F32", "F64"}


def test_reading_bare_takes_all_columns_and_no_label(tmp_path: Path) -> None:
    raw = read(DataSpec(source=str(write(tmp_path / "t.csv", columns_of()))))
    assert raw.train.rows is not None and raw.train.features is None and "kind" not in raw.train.rows.cells
