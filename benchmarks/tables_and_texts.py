"""Wrong labels in tables and texts: how well acto finds them, beside a logistic regression on the same features.

    python benchmarks/tables_and_texts.py --make FOLDER
    python benchmarks/tables_and_texts.py FOLDER/*.csv --out results/tables_and_texts.json [--rate 0.2] [--seeds 3]

The first writes what installed packages carry: three tables of scikit-learn, Titanic's passengers out of its own tests
(categories, missing cells), and the first paragraphs of docstrings, of which the library is to be told; the libraries'
names are taken out. The second takes any tables or texts with right labels, as `acto train --data` does. A seeded fifth
is the test set, whose labels stay right; of the others a share gets another class. Features are fitted on the training
rows. Nothing is chosen here: acto trains as its recipe says, the regression is scikit-learn's with its defaults; its
probabilities, held out in 5 folds, rank the labels.
"""

from __future__ import annotations

import argparse
import ast
import csv
import gzip
import importlib.util
import json
import platform
import random
import re
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from acto.data.apply_noise import noise_facts
from acto.data.noise import NoiseSpec
from acto.data.samples import Dataset, DataSpec
from acto.data.sources import load_data
from acto.fitting import fit
from acto.training.evaluation import auroc

HELD_OUT = 0.2
MOST_STEPS = 5000
"""Steps of the solver; scikit-learn's default of 100 warns on such data."""


LIBRARIES = ("scipy", "sklearn", "torch", "pandas", "matplotlib", "sympy")
TEXTS_A_LIBRARY = 200
TITANIC = "datasets/tests/data/openml/id_40945/data-v1-dl-16826755.arff.gz"


def make(folder: Path) -> None:
    """Write the tables and texts that installed packages carry."""
    folder.mkdir(parents=True, exist_ok=True)
    for load in (load_iris, load_wine, load_breast_cancer):
        data = load()
        names = [data.target_names[k] for k in data.target]
        rows = [[*values, name] for values, name in zip(data.data.tolist(), names, strict=True)]
        write(folder / f"{load.__name__.removeprefix('load_')}.csv", [*data.feature_names, "class"], rows)
    head, content = re.split("(?mi)^@data", gzip.decompress((home("sklearn") / TITANIC).read_bytes()).decode())
    titles = re.findall(r"""(?mi)^@attribute\s+['"]?([\w.]+)""", head)
    passengers = [row for row in csv.reader(content.splitlines()) if row]
    leaks = ("boat", "body")  # known of those alone who were saved, or found
    kept = [k for k, title in enumerate(titles) if title not in leaks]
    write(folder / "titanic.csv", [titles[k] for k in kept], [[row[k] for k in kept] for row in passengers])
    texts = [[text, library] for library in LIBRARIES for text in docstrings(library)]
    random.Random(0).shuffle(texts)
    write(folder / "docstrings.csv", ["text", "library"], texts)


def write(path: Path, titles: list[str], rows: list[list[Any]]) -> None:
    """Write a table."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([titles, *rows])


def home(package: str) -> Path:
    """Folder of an installed package."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def docstrings(library: str) -> list[str]:
    """Draw some first paragraphs of a library's docstrings, without the libraries' names."""
    found = set()
    files = sorted(path for path in home(library).rglob("*.py") if "test" not in str(path.relative_to(home(library))))
    random.Random(0).shuffle(files)
    for path in files:
        try:
            tree = ast.parse(path.read_text())
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
                first = " ".join(text.split("\n\n")[0].split())
                if 40 <= len(first) <= 400:
                    found.add(re.sub("(?i)scikit-learn|" + "|".join(LIBRARIES), "it", first))
        if len(found) > 5 * TEXTS_A_LIBRARY:
            break
    return random.Random(0).sample(sorted(found), TEXTS_A_LIBRARY)


def with_noise(path: Path, *, rate: float, seed: int) -> Dataset:
    """Draw the test set and the wrong labels; fit the features on the training rows."""
    whole = load_data(
        DataSpec(source=str(path), label_column=label_of(path), holdout_share=HELD_OUT, holdout_seed=seed)
    )
    draw = np.random.default_rng(seed)
    labels, count = whole.train.labels, whole.num_classes
    wrong = draw.random(len(labels)) < rate
    shifted = (labels + draw.integers(1, count, len(labels))) % count
    train = replace(whole.train, labels=np.where(wrong, shifted, labels), true_labels=labels)
    facts = noise_facts(NoiseSpec(), f"another class for a share of {rate:g}", train)
    return replace(whole, train=train, noise=facts, test_labels_are_given=False)


def label_of(path: Path) -> str:
    """The column of labels: Titanic's is the second, which nothing would guess."""
    return "survived" if path.stem == "titanic" else DataSpec().label_column


def measured(path: Path, *, rate: float, seed: int) -> dict[str, Any]:
    """Train both on the same features and labels of one seed."""
    data = with_noise(path, rate=rate, seed=seed)
    train, test = data.train, data.test
    assert train.features is not None and test.features is not None and train.is_clean is not None
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit(data, out=Path(folder) / "run", seed=seed, device="cpu")
        report = fitted.report
        accuracy = float(fitted.summary["test_accuracy_last10"])
    rows = np.arange(len(train))
    regression = LogisticRegression(max_iter=MOST_STEPS)
    folds = cross_val_predict(regression, train.features, train.labels, cv=5, method="predict_proba")
    plain = regression.fit(train.features, train.labels)
    issues = report.is_label_issue
    return {
        "data": data.name,
        "seed": seed,
        "num_train": len(train),
        "num_test": len(test),
        "num_features": int(train.features.shape[1]),
        "num_classes": data.num_classes,
        "wrong": float((~train.is_clean).mean()),
        "acto_auroc": float(auroc(report.label_quality, train.is_clean)),
        "acto_counted": float(issues.mean()),
        "acto_accuracy": accuracy,
        "regression_auroc": float(auroc(folds[rows, train.labels], train.is_clean)),
        "regression_accuracy": float((plain.predict(test.features) == test.labels).mean()),
    }


def main() -> None:
    """Measure and write a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--make", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    if asked.make is not None:
        make(asked.make)
    rows = []
    for path in asked.files:
        for seed in range(asked.seeds):
            rows.append(measured(path, rate=asked.rate, seed=seed))
            print(json.dumps(rows[-1]), flush=True)
    packages = ("torch", "numpy", "scikit-learn", "scipy", "acto-lnl")
    made = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    if asked.out is not None:
        asked.out.write_text(json.dumps({"rate": asked.rate, "versions": made, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
