"""The report page as a file: what it says, what it keeps out, and thumbnails of pictures of all kinds."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import io
import json
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from acto.cli.audit import report_lines, summary
from acto.core.sample_columns import of_page
from acto.data.decision_file import DECISION_COLUMNS
from acto.data.samples import Samples
from acto.labels.audit import audit
from acto.labels.page import MATRIX_CLASSES, NUM_PICTURES, render, write_report_page
from acto.labels.thumbnails import MAX_BYTES, SIDE, media_type, pictures_of, placeholder, thumbnail
from acto.pages.charts import Curve, draw_values
from acto.run_folder.reading import RunRecord
from label_reports import report_of, small

NASTY = ("</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", '=HYPERLINK("http://x")\'&')


def data_of(page: bytes) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.decode(), re.S)
    assert found is not None
    return json.loads(found[1])


def rows_of(page: bytes) -> list[dict]:
    """The rows as the page's script makes them."""
    found = data_of(page)
    return [dict(zip(found["fields"], cells, strict=True)) for cells in found["rows"]]


def text_of(page: bytes) -> str:
    """What the page says without its script, on one line."""
    without = re.sub(r"<(script|style)[^>]*>.*?</\1>", " ", page.decode(), flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", without)).split())


def record_of(folder: Path, *, state: str = "finished", epochs: int = 3, method: str = "acto") -> RunRecord:
    rows = [
        {"epoch": e, "loss": 2.0 - e / 10, "fit_rtm": 0.5, "fit_ntm": 0.5 + 0.1 * e, "mining_open": 1.0 if e else None,
         "selected_share": 0.6 if e else None, "test_accuracy": 0.8 + 0.01 * e, "test_accuracy_ntm": 0.7}
        for e in range(epochs)
    ]  # fmt: skip
    return RunRecord(
        path=folder,
        config={"method": method, "data": {"source": "toys"}, "net": "cnn", "seed": 0, "protocol": {"epochs": 5},
                method: {"warmup_epochs": 1, "tau": 0.05}},
        status={"state": state, "epoch": epochs - 1, "message": ""},
        sessions=(),
        metrics=rows,
        timing=[],
        summary={"test_labels_are_given": True} if state == "finished" else None,
        labels={"noise": {"kind": "symmetric", "rate": 0.4, "seed": 0, "rate_realised": 0.39}},
    )  # fmt: skip


def test_a_page_says_what_was_found(tmp_path: Path):
    report = dataclasses.replace(small(), facts={"source": "run", "data": "toys"})
    text = text_of(render(report, record_of(tmp_path / "my-run")))
    assert "6 samples of 3 classes (training samples). Run my-run: acto, 3 epochs." in text
    assert "labels that are wrong, estimated 50.0 % 95 % interval 40.0 to 60.0 %" in text
    assert "suspected labels, one by one 3 50.00 % of the samples" in text
    assert "labels that are wrong, known 39.00 %" in text
    assert "accuracy of the model 81.00 % against held-out given labels, which may be wrong too" in text
    assert "about 1 of the 2 samples labelled 'cat' seem to be 'dog'" in text
    assert "interrupted" not in text and "memorization metric" in text


@pytest.mark.parametrize(("state", "words"), [("interrupted", "was interrupted"), ("died", "has died")])
def test_an_unfinished_run_says_so(tmp_path: Path, state: str, words: str):
    text = text_of(render(small(), record_of(tmp_path, state=state)))
    assert f"{words} after 3 of 5 epochs" in text


def test_a_page_without_a_run_has_no_curves():
    text = text_of(render(small(), None))
    assert "judged by the probabilities that were given" in text and "How training went" not in text


def test_a_run_without_an_epoch_or_an_accuracy_is_shown(tmp_path: Path):
    assert "How training went" not in text_of(render(small(), record_of(tmp_path, state="interrupted", epochs=0)))
    record = record_of(tmp_path, epochs=1, method="standard")
    record.metrics[0] = {"epoch": 0, "loss": 1.0, "test_accuracy": float("nan")}
    assert "training loss" in text_of(render(small(), record))


def test_names_of_classes_and_files_are_never_markup(tmp_path: Path):
    report = report_of(
        [NASTY[0], NASTY[1], NASTY[2]], [NASTY[1], NASTY[1], NASTY[2]], names=NASTY,
        ids=[f"{name}.png" for name in NASTY], paths=[f"/x/{name}.png" for name in NASTY],
    )  # fmt: skip
    page = render(report, record_of(tmp_path / NASTY[1].replace("/", "_")))
    text = page.decode()
    assert text.count("<script") == 2 and text.count("</script>") == 2
    assert "<img" not in re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert data_of(page)["classes"] == list(NASTY) and [r["id"] for r in rows_of(page)] == [f"{n}.png" for n in NASTY]


def test_a_file_name_that_is_no_utf8_is_shown_with_codes():
    report = report_of(["cat", "dog", "owl"], ["dog", "dog", "owl"], ids=["a\udcff.png", "b", "c"])
    assert rows_of(render(report, None))[0]["id"] == "a\\udcff.png"


def test_the_script_reads_the_columns_that_it_is_handed():
    script = (files("acto.pages") / "templates" / "report.js").read_text()
    found = data_of(render(small(), None))
    own = {"place", "picture", "search"}
    read = set(re.findall(r"\brow\.(\w+)", script)) | set(re.findall(r"\bnumber\(\"(\w+)\"", script))
    assert read - own == {"row", *(column.name for column in of_page())} == set(found["fields"])
    assert set(re.findall(r"\bdata\.(\w+)", script)) == set(found)
    (written,) = re.findall(r"const cells = \{(.*)\};", script)
    assert (
        re.findall(r"(\w+): ", re.sub(r"\?[^,]*", "", written)) == list(DECISION_COLUMNS) == found["decision_columns"]
    )


def test_a_row_of_the_page_says_what_the_report_says():
    report = dataclasses.replace(small(), columns={**small().columns, "networks_agree": np.arange(6) % 2 == 0})
    row = next(row for row in rows_of(render(report, None)) if row["row"] == 1)
    assert row == {
        "row": 1, "id": "b.png", "path": "", "given_label": 0, "predicted_label": 2, "is_label_issue": True,
        "label_quality": 0.23, "confidence": 0.9, "outlier": None, "networks_agree": False, "held_out": None,
        "is_confirmed": None, "near_duplicates": "", "conflicting_duplicates": "", "reason": "The model sees 'owl'.",
        "text": "",
    }  # fmt: skip
    report.label_quality[1] = np.nan
    row = next(row for row in rows_of(render(report, None)) if row["row"] == 1)
    assert row["label_quality"] is None


def test_the_policy_lets_run_this_script_and_load_nothing():
    page = render(small(), None).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in html.unescape(policy[1]).split("; "))

    def digest(tag: str) -> str:
        content = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
        assert len(content) == 1
        return f"'sha256-{base64.b64encode(hashlib.sha256(content[0].encode()).digest()).decode()}'"

    assert rules == {
        "default-src": "'none'",
        "style-src": digest("style"),
        "script-src": digest("script"),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page) and "innerHTML" not in page
    assert not re.search(r"<[^>]+ (style|on\w+)=", re.sub(r"<script.*?</script>", "", page, flags=re.S))


def test_ten_thousand_suspects_fit_on_a_page_of_bounded_size(tmp_path: Path):
    count = 10_500
    report = report_of(["cat"] * count + ["dog", "owl"], ["dog"] * count + ["dog", "owl"])
    asked: list[int] = []

    def picture_of(row: int) -> bytes:
        asked.append(row)
        return placeholder()

    write_report_page(report, None, tmp_path / "report.html", picture_of=picture_of)
    page = (tmp_path / "report.html").read_bytes()
    found = data_of(page)
    assert len(found["rows"]) == 10_000 and len(found["pictures"]) == NUM_PICTURES
    assert sorted(asked) == [*range(NUM_PICTURES), 10_500]  # the trusted dog; no cat is trusted
    text = text_of(page)
    assert (
        "10,000 of 10,502 samples are listed here" in text and "500 suspected ones are in label_report.csv only" in text
    )
    assert "The first 2,000 have their picture in this file" in text
    assert len(page) < 4_000_000


def test_many_classes_give_a_list_instead_of_a_matrix():
    names = [f"class {k}" for k in range(MATRIX_CLASSES + 1)]
    report = report_of([*names, "class 0", "class 0"], [*names, "class 7", "class 7"], names=names)
    text = text_of(render(report, None))
    assert "a matrix of 21 classes would not fit" in text
    assert "class 0 class 7 2 66.7 % 56.7 to 76.7 %" in text
    assert "class 0 3 2 66.67 %" in text and "class 7 (2)" in text


def test_values_are_drawn_with_gaps_and_nice_ticks():
    chart = draw_values("t", [Curve(name="a", mean=np.array([0.02, np.nan, -0.05, 0.11]))])
    assert [text for _, text in chart.y_ticks] == ["-0.05", "0.00", "0.05", "0.10", "0.15"]
    assert len(chart.lines[0].path.split()) == 3 and chart.lines[0].band == ""
    flat = draw_values("t", [Curve(name="a", mean=np.array([1.0]))])
    assert len(flat.y_ticks) >= 2 and "nan" not in flat.lines[0].path


# Thumbnails -----------------------------------------------------------------------------------------------------


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def samples_of(**content: object) -> Samples:
    count = len(next(iter(content.values())))  # type: ignore[arg-type]
    return Samples(ids=tuple(map(str, range(count))), labels=np.zeros(count, np.int64), **content)  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [1, 3])
def test_small_pictures_grow_pixel_by_pixel(channels: int):
    pixels = np.random.default_rng(0).integers(0, 255, (2, 8, 6, channels), dtype=np.uint8)
    picture_of = pictures_of(samples_of(pixels=pixels))
    assert picture_of is not None
    large = np.asarray(opened(picture_of(1)))
    assert large.shape[:2] == (96, 72)
    assert np.array_equal(large[::12, ::12], pixels[1, ..., 0] if channels == 1 else pixels[1])


@pytest.mark.parametrize("shape", [(4000, 3000), (40, 9000), (96, 96), (70, 50), (1, 1)])
def test_every_thumbnail_is_bounded(shape: tuple[int, int]):
    noise = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    data = thumbnail(Image.fromarray(noise))
    assert len(data) <= MAX_BYTES and max(opened(data).size) <= SIDE


def test_files_that_are_gone_or_broken_give_a_placeholder(tmp_path: Path):
    Image.new("RGB", (300, 200), "red").save(tmp_path / "good.jpg")
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:300])
    paths = tuple(tmp_path / name for name in ("good.jpg", "broken.jpg", "gone.jpg"))
    picture_of = pictures_of(samples_of(paths=paths))
    assert picture_of is not None
    assert opened(picture_of(0)).size == (96, 64) and media_type(picture_of(0)) == "image/jpeg"
    assert picture_of(1) == picture_of(2) == placeholder() and media_type(placeholder()) == "image/png"
    limited = pictures_of(samples_of(paths=paths), max_pixels=100)
    assert limited is not None and limited(0) == placeholder()


def test_features_have_no_picture():
    assert pictures_of(samples_of(features=np.zeros((2, 3), np.float32))) is None


def test_warnings_and_first_suspects_are_on_top(tmp_path: Path) -> None:
    probs = np.tile([0.97, 0.02, 0.01], (90, 1))
    report = audit(np.arange(90) % 3, probs, class_names=["<i>", "b", "c"])
    page = render(report, None).decode()
    head = page[: page.index("</header>")]
    assert "predicts 1 of 3 classes" in head and "no promise" in head and "covers the model&#39;s own errors" in head
    assert "at least two of four rules" in page and "is sure of" not in page
    lines = "\n".join(report_lines(report, tmp_path))
    assert lines.startswith("WARNING: The model predicts 1 of 3 classes only")
    assert "look first at the least trusted: how many of them are wrong cannot be promised" in lines
    assert [doubt["code"] for doubt in summary(report)["warnings"]] == ["collapsed_model"]


def test_mistakes_of_which_there_may_be_none_are_not_counted(tmp_path: Path) -> None:
    probs = np.full((80, 2), 0.5) + np.where(np.arange(80)[:, None] % 2 == [0, 1], 0.4, -0.4)
    for doubtful, expected in ((0.51, False), (0.95, True)):  # a quarter of an unsure contradiction is a wrong label
        probs[0] = 1 - doubtful, doubtful
        lines = list(report_lines(audit(np.arange(80) % 2, probs, rule="predicted_neq_given"), tmp_path))
        assert ("most often:" in lines) == expected
        assert not [line for line in lines if "labelled" in line and line.startswith("  0 ")]


def test_pairs_that_do_not_occur_have_no_interval(tmp_path: Path) -> None:
    page = render(audit([0, 0, 1, 1], np.eye(3)[[0, 1, 1, 1]], class_names=list("abc")), None).decode()
    assert "given b, right a: not seen" in page and "given a, right b: 50.0 %" in page
    assert "(0.0 to 0.0 %)" not in page


def test_a_good_model_says_how_many_to_look_at_first(tmp_path: Path) -> None:
    given = np.arange(4000) % 4
    probs = np.full((4000, 4), 0.01)
    probs[np.arange(4000), given] = 0.97
    given[:800] = (given[:800] + 1) % 4
    report = audit(given, probs)
    assert report.warnings == () and report.look_first == {"0.9": 800, "0.75": 800}
    lines = "\n".join(report_lines(report, tmp_path))
    assert "look first at the first 800 (90 % expected to be wrong)" in lines and "is sure of 100.00 %" in lines
