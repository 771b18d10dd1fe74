from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acto.data.noise import draw_labels, transition_matrix
from acto.methods.acto import ACTO

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TASK = ["--problems", "digits", "--noises", "symmetric:0.5", "--seeds", "0", "--epochs", "2", "--device", "cpu"]
OTHER = (
    "other: form=steady, mixing=0, tau=0.3, selection=robust, mining=no, min_share=1, reweighting=no, "
    "consistency_weight=0.4, selected_weight=0.7, confidence=none, alignment=no, memory_momentum=0.5"
)
FORMS = ["unmixed: form=steady, mixing=0", OTHER, "again: form=steady, mixing=0", "mixed: form=steady"]


@pytest.fixture(scope="module")
def acto_forms() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import acto_forms
        import development

        small = replace(development.PROBLEMS["digits"], sizes=(200, 100))
        patch.setitem(development.PROBLEMS, "digits", small)
        patch.setattr(acto_forms, "LOOKS", (2, 1))  # one look falls into the warm-up
        yield acto_forms
    del sys.modules["acto_forms"], sys.modules["development"]


@pytest.fixture(scope="module")
def development(acto_forms: Any) -> Any:
    return sys.modules["development"]


def _run(module: Any, out: Path, *forms: str, extra: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    flags = [flag for form in forms for flag in ("--form", form)]
    assert module.main([*TASK, *flags, *extra, "--out", str(out)]) == 0
    return list(map(json.loads, out.read_text().splitlines()))


@pytest.fixture(scope="module")
def together(acto_forms: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], int]:
    """Records of a run of all forms, their file, and how many warm-up steps it took."""
    out, steps, warm_up = tmp_path_factory.mktemp("forms") / "new" / "records.jsonl", [], ACTO._warm_up

    def counted(self: ACTO, *args: Any) -> Any:
        steps.append(0)
        return warm_up(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ACTO, "_warm_up", counted)
        records = _run(acto_forms, out, *FORMS, extra=("--method", "standard"))
    return out, records, len(steps)


def _result(record: dict[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in ("given", "truth", "last", "labels_sha256", "run")}


def test_forms_that_share_a_warm_up_end_as_they_end_alone(
    acto_forms: Any, together: tuple[Path, list[dict[str, Any]], int], tmp_path: Path
) -> None:
    _, records, steps = together
    assert [(r["form"], r["warm_up_of"]) for r in records] == [
        ("unmixed", None),
        ("other", "unmixed"),
        ("again", "unmixed"),
        ("mixed", None),  # its warm-up mixes too
        ("standard", None),
    ]
    assert steps == 2 * 4  # 200 samples in batches of 64, two warm-ups of an epoch
    assert records[0]["epoch_seconds"][0] == records[1]["epoch_seconds"][0]
    (alone,) = _run(acto_forms, tmp_path / "alone.jsonl", OTHER)
    assert _result(alone) == _result(records[1])
    assert _result(records[0]) == _result(records[2])
    assert records[0]["given"] != records[1]["given"]


def test_what_is_there_is_not_trained_again(
    acto_forms: Any, together: tuple[Path, list[dict[str, Any]], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, trained = tmp_path / "records.jsonl", []
    lines = together[0].read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:4]) + lines[4][:40])  # the last one was cut short

    def measured(job: Any, dataset: Any, **kept: Any) -> dict[str, Any]:
        trained.append(job.candidate.name)
        return dict(together[1][4])

    monkeypatch.setattr(acto_forms, "measure", measured)
    for _ in range(2):
        _run(acto_forms, out, *FORMS, extra=("--method", "standard"))
    assert trained == ["standard"]
    assert [json.loads(line)["form"] for line in out.read_bytes().splitlines()] == [r["form"] for r in together[1]]


def test_a_record_that_another_process_wrote_meanwhile_stays(
    acto_forms: Any, together: tuple[Path, list[dict[str, Any]], int], tmp_path: Path
) -> None:
    out, record = tmp_path / "records.jsonl", together[1][0]
    acto_forms.add_record(out, record)
    acto_forms.add_record(out, record | {"seconds": 9.0})
    assert acto_forms.read_records(out) == [record]


FORM = ("--form", "a")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((*FORM, "--problems", "digit"), "unknown problem 'digit'. Did you mean 'digits'?"),
        ((*FORM, "--problems", "mnist"), "needs --mnist DIR"),
        ((*FORM, "--problems", "features:none.npz"), "data source none.npz does not exist"),
        ((*FORM, "--problems", "features:none.csv"), "none.csv is no .npz"),
        ((*FORM, "--noises", "symetric:0.4"), "unknown noise 'symetric'"),
        ((*FORM, "--noises", "symmetric"), "symmetric has a rate"),
        ((*FORM, "--noises", "clean:0.2"), "clean has no rate"),
        ((*FORM, "--noises", "symmetric:x"), "noise rate must be a number, but got 'x'"),
        ((*FORM, "--noises", "symmetric:1.5"), "noise rate is 1.5"),
        ((*FORM, "--noises", "given"), "noise given is for problems features:FILE.npz"),
        ((*FORM, "--label-key", "people"), "--label-key people is for --noises given"),
        (("--form", "a: judg=teacher"), "form 'a': unknown setting 'acto.judg'. Did you mean 'acto.judge'?"),
        (("--form", "a: judge=techer"), "form 'a': acto.judge must be one of student, teacher"),
        (("--form", "a: mixing=-1"), "mixing is -1"),
        (("--form", "a: judge=student, mixing=1"), "needs acto.judge teacher"),
        (("--form", "a: judge"), "'judge' is not of the form key=value"),
        (("--form", "a: tau=0.1, tau=0.2"), "tau is given twice"),
        (("--form", "a: seed=3"), "seed is not a form's to set"),
        (("--form", ": tau=0.1"), "has no name"),
        ((*FORM, "--form", "a: tau=0.1"), "two forms have the name 'a'"),
        (("--method", "dics"), "unknown method 'dics'. Did you mean 'disc'?"),
        ((), "give --form or --method"),
        ((*FORM, "--seeds", "-1"), "seed is -1"),
        ((*FORM, "--epochs", "0"), "epochs is 0"),
    ],
)
def test_what_cannot_be_used_is_refused(
    acto_forms: Any, flags: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "records.jsonl"
    assert acto_forms.main([*TASK, *flags, "--out", str(out)]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_files_of_something_else_are_refused(
    acto_forms: Any,
    together: tuple[Path, list[dict[str, Any]], int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "records.jsonl"
    for content, said in (
        (b"a line\n", "line 1 is no record"),
        (b'{"form": "a"}\n', "line 1 is no record"),
        (together[0].read_bytes(), "other settings (acto.tau was 0.1, now 0.2): name this one anew"),
    ):
        out.write_bytes(content)
        assert acto_forms.main([*TASK, "--form", "mixed: form=steady, tau=0.2", "--out", str(out)]) == 2
        assert said in capsys.readouterr().err
        assert out.read_bytes() == content
    assert acto_forms.main(["--table", str(tmp_path / "none")]) == 2
    assert acto_forms.main([*TASK, "--form", "a"]) == 2


def test_the_table(acto_forms: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def record(form: str, noise: str, seed: int, given: float, *, true: float | None = None) -> str:
        truth = {} if true is None else {"auroc": None if noise == "clean" else 0.9, "rtm": true}
        facts = {"form": form, "problem": "digits", "noise": noise, "seed": seed, "run": {}, "seconds": 10.4}
        return json.dumps({**facts, "given": {"rtm": given, "ntm": 1.0}, "truth": truth}) + "\n"

    out = tmp_path / "records.jsonl"
    rows = [record("a", "clean", 0, 90.0, true=91.0), record("a", "clean", 1, 92.0, true=93.0)]
    rows += [record("bee", "clean", 0, 80.0), record("a", "symmetric:0.8", 1, 20.0, true=70.0)]
    out.write_text("".join(rows))
    assert acto_forms.main(["--table", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "digits  clean                  symmetric:0.8",
        "a       91.00 +- 1.41 n2 10 s  20.00 n1 10 s",
        "bee     80.00 n1 10 s          -",
    ]
    assert acto_forms.main(["--table", str(out), "--show-truth"]) == 0
    shown = capsys.readouterr().out
    assert "91.00 +- 1.41 n2 10 s (true 92.00 +- 1.41)" in shown
    assert "20.00 n1 10 s (true 70.00, AUROC 0.9000)" in shown


def test_samples_that_are_held_out_have_given_labels_of_the_same_draw(development: Any) -> None:
    which, noise = development.problem("digits"), development.Noise.parsed("symmetric:.5")
    raw = which.read(development.Places(), False)
    data = which.draw(raw, noise, seed=3)
    rows = np.random.RandomState(5003).permutation(1797)[:300]
    true = raw.train.labels[rows]
    given = draw_labels(true, transition_matrix("symmetric", rate=0.5, num_classes=10), seed=503)
    assert (len(data.train), len(data.test), data.test_labels_are_given) == (200, 100, True)
    assert np.concatenate([data.train.labels, data.test.labels]).tolist() == given.tolist()
    assert np.concatenate([data.train.true_labels, data.test.true_labels]).tolist() == true.tolist()


def test_an_unbalanced_problem(development: Any) -> None:
    which = development.problem("fashion50")
    labels = np.repeat(np.arange(10), 1000)
    train, held_out = which.rows(labels, seed=0, given=False)
    assert np.bincount(labels[train]).tolist() == [375, 243, 157, 102, 66, 43, 28, 18, 12, 8]
    assert not np.isin(held_out, train).any()
    assert (len(held_out), len(np.unique(held_out))) == (6000, 6000)


def test_half_the_classes_of_a_file_of_features_and_peoples_labels(development: Any, tmp_path: Path) -> None:
    path, true = tmp_path / "rows.npz", np.arange(200) % 8
    people = np.where(np.arange(200) % 5 == 0, (true + 1) % 8, true)
    x = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    np.savez(path, x=x, labels=true, people=people)
    which, clean = development.problem(f"features:{path}"), development.Noise.parsed("clean")
    assert which.name == "features:rows"
    raw = which.read(development.Places(), False)
    half = np.sort(np.random.RandomState(7).permutation(8)[:4])
    assert raw.class_names == tuple(map(str, half))
    assert half[raw.train.labels].tolist() == true[np.isin(true, half)].tolist()
    data = which.draw(raw, clean, seed=0)
    assert (len(data.train), len(data.test)) == (75, 25)

    few = development.problem(f"features:{path}:60")
    assert few.name == "features:rows:60"
    assert (few.setting_for(60).batch_size, few.setting_for(60).lr) == (8, pytest.approx(0.02 / 8))
    raw = few.read(development.Places(), False)
    data = few.draw(raw, development.Noise.parsed("symmetric:0.5"), seed=0)
    assert (len(data.train), len(data.test), len(data.class_names)) == (60, 50, 8)
    assert data.train.true_labels.tolist() == true[list(map(int, data.train.ids))].tolist()
    assert 15 < (data.train.labels != data.train.true_labels).sum() < 45
    with pytest.raises(ValueError, match="for noise that is drawn, not for given labels"):
        few.read(development.Places(label_key="people"), True)
    with pytest.raises(ValueError, match="needs 1 and 50 samples"):
        development.problem(f"features:{path}:0").draw(raw, clean, seed=0)

    raw = which.read(development.Places(label_key="people"), True)
    given = which.draw(raw, development.Noise.parsed("given"), seed=0)
    report = set(map(str, np.random.RandomState(77).permutation(200)[:20]))
    ids = {*given.train.ids, *given.test.ids}
    assert (len(given.train), len(given.test), len(ids)) == (135, 45, 180)
    assert not ids & report
    assert given.train.labels.tolist() == people[list(map(int, given.train.ids))].tolist()
    assert given.test.labels.tolist() == people[list(map(int, given.test.ids))].tolist()


@pytest.mark.parametrize(
    ("key", "said"), [("peple", "Did you mean 'people'?"), ("few", "no label for each of 40 rows")]
)
def test_people_whose_labels_are_not_there(development: Any, key: str, said: str, tmp_path: Path) -> None:
    path, labels = tmp_path / "rows.npz", np.arange(40) % 4
    np.savez(path, x=np.zeros((40, 2), np.float32), labels=labels, people=labels, few=labels[:9])
    with pytest.raises(ValueError, match=said.replace("?", r"\?")):
        development.problem(f"features:{path}").read(development.Places(label_key=key), True)
