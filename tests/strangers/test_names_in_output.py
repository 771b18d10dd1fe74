"""Names that a terminal would obey, that no encoding has, or that a spreadsheet would run."""

from __future__ import annotations

import csv
import io
import logging
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from acto.cli import main
from acto.cli.exit_codes import guarded
from acto.cli.progress import Bar
from acto.core.sample_csv import disarmed, read_sample_csv, rearmed, sample_csv
from acto.core.terminal import Screen
from acto.data.decision_file import to_csv
from acto.data.readers.manifests import read_manifest
from acto.data.samples import DataSpec
from acto.labels.decisions import decide, read_decisions
from acto.run_folder.reading import read_run
from label_reports import report_of

pytestmark = pytest.mark.kind("names in output")
OBEYED = {
    "a title and a bell": "a\x1b]0;owned\x07",
    "a colour": "a\x1b[31m",
    "the 8-bit introducer": "a\x9b31m",
    "an override of direction": "a\u202egnp.exe",
    "no width": "a\u200bb\ufeff",
    "a line of its own": "a\nnote: all is well",
    "a carriage return": "a\rerror",
    "backspaces": "abc\b\b\b",
}


def pictures(root: Path, *classes: str, file: str = "{}.png", each: int = 8) -> Path:
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(each):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(root / name / file.format(i))
    return root


@pytest.mark.right
@pytest.mark.parametrize("kind", OBEYED)
def test_a_check_shows_codes(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = pictures(tmp_path / "data", OBEYED[kind], "other", file=OBEYED[kind] + "{}.png", each=2)
    (root / "other" / f"{OBEYED[kind]}.png").write_text("no picture")
    assert main(["data", "check", str(root)]) == 2
    told = capsys.readouterr()
    assert not told.err and all(line.isprintable() for line in told.out.split("\n"))
    assert OBEYED[kind].encode("unicode_escape").decode() in told.out
    assert "\nnote: all is well" not in told.out


@pytest.mark.refused
@pytest.mark.parametrize("kind", OBEYED)
def test_an_error_shows_codes(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", f"/nowhere/{OBEYED[kind]}"]) == 2
    assert all(line.isprintable() for line in capsys.readouterr().err.split("\n"))


@pytest.mark.right
def test_warnings_and_logs_show_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def run() -> int:
        sys.stderr.writelines([warnings.formatwarning("w\x1b[1m", UserWarning, "f\x07.py", 1, "")])
        logging.StreamHandler().handle(logging.makeLogRecord({"msg": "l\x1b[2m"}))
        return 0

    assert guarded(run) == 0
    said = capsys.readouterr().err
    assert r"w\x1b[1m" in said and r"f\x07.py" in said and r"l\x1b[2m" in said and "\x1b" not in said


@pytest.mark.right
def test_a_bar_draws_but_names_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = io.StringIO()
    monkeypatch.setattr(sys, "stderr", Screen(plain, lasting=True))
    bar = Bar("{task.description}", terminal=True)
    bar.show(1, 2, description="x")
    print("printed\x1b]0;owned\x07", file=sys.stderr)  # while it is drawn
    bar.say("said\x1b]0;owned\x07")
    bar.stop()
    drawn = plain.getvalue()
    assert "\x1b[" in drawn and r"said\x1b]0;owned\x07" in drawn and r"printed\x1b]0;owned\x07" in drawn
    assert "\x07" not in drawn and "\x1b]" not in drawn


@pytest.mark.right
@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8", "shift_jis"])
def test_a_narrow_output_shows_codes(encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pictures(tmp_path / "data", "猫", os.fsdecode(b"caf\xe9"), "ant", each=8)
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, errors="strict"))
    assert main(["data", "check", str(root)]) == 0
    said = raw.getvalue().decode(encoding)
    assert r"caf\udce9" in said
    assert ("猫" if encoding in ("utf-8", "shift_jis") else r"\u732b") in said


@pytest.mark.right
def test_strange_names_go_all_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("猫", os.fsdecode(b"caf\xe9"), "=1;\x1b[31m")
    root = pictures(tmp_path / "data", *names, file="x;=\x1b]0;" + os.fsdecode(b"\xff") + "{}.png", each=12)
    run = str(tmp_path / "run")
    out, err = io.BytesIO(), io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="cp1252", errors="strict"))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(err, encoding="ascii", errors="strict"))
    tokens = ["--method", "standard", "--epochs", "1", "--batch-size", "32", "--device", "cpu"]
    assert main(["train", "--data", str(root), "--out", run, *tokens]) == 0
    read = read_run(run).samples()
    assert set(read["given_label"]) == set(names)
    assert all(str(id).split("/")[1].startswith("x;=\x1b]0;\udcff") for id in read["id"])
    assert main(["predict", run, str(root)]) == 0
    table = out.getvalue().decode("cp1252")
    assert r"\u732b" in table and r"caf\udce9" in table and r"'=1;\x1b[31m" in table
    assert b"\x1b" not in out.getvalue() + err.getvalue()


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LOAD = """
import sys
from acto.cli.exit_codes import guarded
from acto.data.samples import DataSpec
from acto.data.sources import load_data
sys.exit(guarded(lambda: load_data(DataSpec(source=sys.argv[1])) and 0))
"""


@pytest.mark.refused
@pytest.mark.parametrize("door", ["a folder of files", "the command line", "a table", "settings", "elsewhere"])
def test_a_locale_that_changes_names_is_named(door: str, tmp_path: Path) -> None:
    code, source = LOAD, pictures(tmp_path / "data", "a", "b", file="é{}.png", each=3)
    if door == "the command line":
        code, source = (
            "import sys; from acto.cli import main; sys.exit(main(['data', 'check', sys.argv[1]]))",
            Path("é"),
        )
    if door == "a table":
        source = tmp_path / "data.csv"
        source.write_text("path,label\ndata/a/é0.png,a\ndata/b/é0.png,b\n", encoding="utf-8")
    if door == "settings":
        code = "import sys; from acto.cli import main; sys.exit(main(['train', '--config', sys.argv[1]]))"
        source = tmp_path / "settings.yaml"
        source.write_text("method: standard\ndata:\n  source: é.csv\n", encoding="utf-8")
    if door == "elsewhere":
        code = r"import sys; from acto.cli.exit_codes import guarded; sys.exit(guarded(lambda: open('\xe9') and 0))"
    environment = {**os.environ, **ASCII}
    done = subprocess.run([sys.executable, "-c", code, source], env=environment, capture_output=True, timeout=60)
    assert done.returncode == 2
    assert re.search(rb"name '.*\\xe9.*' cannot be kept: names of files are ascii .* Set LC_ALL=C.UTF-8", done.stderr)


RUN_BY_A_SPREADSHEET = {
    "a semicolon before it": "x;=1+1",
    "a tab before it": "a\t=1",
    "a bar before it": "a|@SUM(1)",
    "a line break first": "\n=1",
    "a carriage return first": "\r=1",
    "a tab first": "\t=1",
    "full-width signs": "＝1",
    "a full-width at sign behind a cut": "a;＠SUM(1)",
    "a byte order mark": "\ufeff=1",
    "no width": "\u200b+1",
    "a hard space": "\xa0-1",
    "spaces behind a cut": "a; \u3000=1",
    "a quotation mark behind a cut": 'a;"=1',
    "a comma": "a,=1",
    "two cuts": "a;\t=1;;-2",
    "apostrophes": "'=1;'=1;''=1",
    "a plain sign": "=1",
}


@pytest.mark.right
@pytest.mark.parametrize("kind", RUN_BY_A_SPREADSHEET)
def test_a_table_runs_nothing_whatever_cuts_it(kind: str, tmp_path: Path) -> None:
    name = RUN_BY_A_SPREADSHEET[kind]
    data, types = sample_csv({"id": ["first", name], "label": [name, "last"], "near": [f"ant {name}", "x"]})
    for separator in ",;\t|":
        for row in csv.reader(io.StringIO(data.decode(), newline=""), delimiter=separator):
            for cell in row:
                assert cell.strip(' \t\r\n"\ufeff\u200b\xa0\u3000')[:1] not in set("=+-@＝＠"), (separator, row)
    (tmp_path / "table.csv").write_bytes(data)
    assert read_sample_csv(tmp_path / "table.csv", types)["id"] == ["first", name]


@pytest.mark.right
def test_every_sign_behind_every_cut_and_gap_is_disarmed() -> None:
    gaps = '\x01\x0b\x1f "\x7f\x85\xa0\xad\u034f\u061c\u1680\u180e\u2003\u200b\u200f'
    gaps += "\u2028\u202e\u2060\u3000\u3164\ufe0f\ufeff\udcff"
    assert [disarmed(f"{start}x") for start in "\t\r\n"] == ["'\tx", "'\rx", "'\nx"]
    assert sample_csv({"id": ["a\nb", "c"]})[0] == b'id\n"a\nb"\nc\n'
    for start in ("", "a;", "a|", "a\t", "a\r", "a\n", "a,"):
        for gap in ("", *gaps):
            for sign in "=+-@＝＋－＠﹦﹢﹣﹫−":
                text, safe = f"{start}{gap}{sign}1", f"{start}'{gap}{sign}1"
                assert disarmed(text) == safe and rearmed(safe) == text, ascii(text)
                table, _ = sample_csv({"id": ["first", text]})
                assert safe in table.decode("utf-8", "surrogateescape").replace('""', '"'), ascii(text)


@pytest.mark.right
def test_tables_of_earlier_versions_are_read(tmp_path: Path) -> None:
    table = "id\n'=1\n'\ta\n''q\na;'b\nx;=1\n＝1\n it's\n"
    (tmp_path / "table.csv").write_text(table, encoding="utf-8")
    assert read_sample_csv(tmp_path / "table.csv", {"id": "str"})["id"] == [
        *("=1", "\ta", "'q", "a;'b", "x;=1", "＝1", " it's"),
    ]


@pytest.mark.right
@pytest.mark.parametrize("name", ["Artist - Title (-3) [x=1].jpg", "it's; 'quoted'", "a,b", "été", "a/=b", "1;2"])
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    assert disarmed(name) == name == rearmed(name)


@pytest.mark.right
def test_decisions_and_manifests_come_back(tmp_path: Path) -> None:
    ids = list(RUN_BY_A_SPREADSHEET.values())
    report = report_of(["dog", *["=1;-2"] * (len(ids) - 1)], ["dog"] * len(ids), names=("=1;-2", "dog"), ids=ids)
    made = [decide(report, row, "accept", new_label="=1;-2") for row in range(len(ids))]
    (tmp_path / "decisions.csv").write_bytes(to_csv(made))
    read = read_decisions(tmp_path / "decisions.csv", report)
    assert [read[row] for row in range(len(ids))] == made

    files = ["x;=1.png", "./=2.png", "a|-3.png"]
    table = {"path": files, "label": ["a;=1", "b", "b"], "sample_id": ["1;=1", "2", "3"]}
    (tmp_path / "m.csv").write_bytes(sample_csv(table)[0])
    listing = read_manifest(tmp_path / "m.csv", DataSpec(source="m.csv")).train
    assert [path.name for path in listing.paths] == ["x;=1.png", "=2.png", "a|-3.png"]
    assert listing.labels == ("a;=1", "b", "b") and listing.ids == ("1;=1", "2", "3")
    (tmp_path / "theirs.csv").write_text("path,label\n'=3.png,'=1\nb.png,b\n")  # of another program, which means it
    listing = read_manifest(tmp_path / "theirs.csv", DataSpec(source="theirs.csv")).train
    assert listing.ids == ("'=3.png", "b.png") and listing.labels == ("'=1", "b")
