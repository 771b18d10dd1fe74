"""The report page in a real browser: thumbnails, keys, the downloaded decisions, the review server, nasty names."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from acto.data.samples import DataSpec
from acto.data.sources import load_data
from acto.labels.corrected_copy import apply_decisions
from acto.labels.decisions import DecisionLog, read_decisions
from acto.labels.page import write_report_page
from acto.labels.report import read_report
from acto.labels.review_server import ReviewServer
from acto.labels.thumbnails import pictures_of, placeholder
from acto.run_folder.reading import read_run
from browser import Browser
from label_reports import report_of, small
from labels.test_decisions import pictures, run_on
from labels.test_page import NASTY, record_of


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("browser"))
    yield made
    made.close()


STATES = "[...document.querySelectorAll('.card')].map(card => card.dataset.decision)"


def test_three_accepted_suggestions_change_three_labels(browser: Browser, tmp_path: Path):
    root = pictures(tmp_path / "pets")
    (root / "cat" / "0.png").rename(root / "cat" / '0 <b>it\'s "0".png')
    spec = DataSpec(source=str(root))
    before = load_data(spec)
    wrong = {0: "dog", 1: "dog", 4: "dog", 6: "cat", 8: "cat"}
    run = run_on(tmp_path, spec, wrong)
    report = read_report(run)
    write_report_page(report, read_run(run), run / "report.html", picture_of=pictures_of(before.train))

    browser.open((run / "report.html").as_uri())
    assert browser.js("document.querySelectorAll('.card').length") == 5
    loaded = "[...document.images].length === 5 && [...document.images].every(image => image.naturalWidth === 80)"
    browser.until(loaded.replace("=== 80", "> 0"))
    assert browser.js(loaded)
    assert browser.js("document.querySelector('.card .labels').innerText") == "given cat\nsuggested dog"
    assert 'sample cat/0 <b>it\'s "0".png' in browser.js("document.querySelector('.card .id').textContent")
    browser.js("document.querySelector('#suspects').scrollIntoView()")
    shot = Image.open(io.BytesIO(browser.screenshot())).convert("RGB")
    assert len(shot.getcolors(1 << 24)) > 5_000  # five pictures of random pixels, not an empty page

    browser.press("a", "k", "a", "r", "u", "ArrowRight", "a")
    assert browser.js(STATES) == ["accept", "keep", "accept", "", "accept"]
    assert "3 accepted, 1 kept, 0 to be removed" in browser.js("document.querySelector('#count').textContent")
    decisions = tmp_path / "decisions.csv"
    decisions.write_bytes(browser.download("#download"))
    assert browser.complaints() == [] and browser.requests() == [(run / "report.html").as_uri()]

    decided = read_decisions(decisions, report)
    assert {row: made.decision for row, made in decided.items()} == {0: "accept", 1: "keep", 4: "accept", 8: "accept"}
    after = load_data(DataSpec(source=str(apply_decisions(decisions, run).path)))
    assert np.flatnonzero(after.train.labels != before.train.labels).tolist() == [0, 4, 8]
    assert after.train.ids == before.train.ids

    browser.open((run / "report.html").as_uri())  # the browser remembers
    assert browser.js(STATES) == ["accept", "keep", "accept", "", "accept"]


def test_another_label_and_the_mouse(browser: Browser, tmp_path: Path):
    path = tmp_path / "mouse.html"
    write_report_page(small(), None, path)
    browser.open(path.as_uri())
    browser.click("[data-row='1'] [data-word=remove]")
    browser.js("document.querySelector('[data-row=\"0\"] select').focus()")
    assert browser.js("document.querySelector('[data-row=\"0\"] select').options.length") == 4
    choose = "(() => { const s = document.querySelector('[data-row=\"%d\"] select'); s.focus(); s.value = '%d';"
    choose += " s.dispatchEvent(new Event('change', {bubbles: true})); })()"
    browser.js(choose % (0, 2))  # owl instead of the suggested dog
    browser.js(choose % (4, 2))  # its given label: that is keeping it
    assert browser.js(STATES) == ["accept", "remove", "keep"]
    assert browser.js("document.querySelector('[data-row=\"0\"] .state').textContent") == "becomes owl"
    browser.js("document.activeElement.blur()")
    browser.press("u", "u")
    assert browser.js(STATES) == ["", "remove", ""]


def test_the_server_saves_shows_again_and_says_what_failed(browser: Browser, tmp_path: Path):
    log = DecisionLog(tmp_path, small())
    with ReviewServer(record_of(tmp_path), log, picture_of=lambda row: placeholder()) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            browser.open(server.address)
            browser.until("document.images[0].naturalWidth === 96")
            assert browser.js("document.querySelector('#download')") is None
            browser.press("a", "r")
            browser.until("document.querySelector('[data-row=\"1\"] .state').textContent.includes('(saved)')")
            assert {row: made.decision for row, made in log.decisions.items()} == {0: "accept", 1: "remove"}
            browser.press("u")
            browser.until("document.querySelector('[data-row=\"1\"] .state').textContent === 'skipped (saved)'")
            browser.open(server.address)
            assert browser.js(STATES) == ["accept", "skip", ""]
            assert browser.complaints() == []
            log.path.unlink()
            log.path.mkdir()  # nothing can be written any more
            browser.press("k")
            failed = "document.querySelector('[data-row=\"0\"] .state').textContent"
            browser.until(f"{failed}.startsWith('not saved: cannot write')")
            assert log.decisions[0].decision == "accept"
        finally:
            server.shutdown()
            thread.join()
    log.close()


def test_nasty_names_do_nothing(browser: Browser, tmp_path: Path):
    report = report_of(
        list(NASTY), [NASTY[1], NASTY[2], NASTY[0]], names=NASTY,
        ids=[f"{name}.png" for name in NASTY], paths=[f"/x/{name}.png" for name in NASTY],
    )  # fmt: skip
    write_report_page(report, record_of(tmp_path), tmp_path / "report.html", picture_of=lambda row: placeholder())
    browser.open((tmp_path / "report.html").as_uri())
    browser.press("a")
    browser.js("document.querySelector('.card select').focus()")
    assert browser.js("document.querySelectorAll('script').length") == 2
    assert browser.js("document.querySelectorAll('img[src=\"x\"], [onerror]').length") == 0
    assert browser.js("document.querySelector('.card .given').textContent") == NASTY[0]
    assert browser.complaints() == [] and len(browser.requests()) == 1
    # Even markup that got in could run nothing.
    browser.js("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))")
    assert browser.js("window.ran") is None


def test_ten_thousand_suspects_can_be_filtered_and_turned(browser: Browser, tmp_path: Path):
    count = 10_000
    predicted = ["owl" if k % 1000 == 0 else "dog" for k in range(count)]
    report = report_of(["cat"] * count + ["dog", "owl"], [*predicted, "dog", "owl"])
    write_report_page(report, None, tmp_path / "report.html")
    browser.open((tmp_path / "report.html").as_uri())
    assert browser.js("document.querySelectorAll('.card').length") == 60
    assert browser.js("document.querySelector('.page').textContent") == "page 1 of 167"
    browser.click(".after")
    assert browser.js("document.querySelector('.card').dataset.row") == "60"
    browser.press("a", *["ArrowLeft"] * 2)
    assert browser.js("document.querySelector('.card.current').dataset.row") == "59"
    browser.js("suggested.value = '2'; suggested.dispatchEvent(new Event('change'))")
    assert browser.js("document.querySelector('#count').textContent").startswith("10 shown, 1 accepted")
    browser.js("document.querySelector('#text').focus()")
    browser.press("a", "k")  # typing into the search box decides nothing
    assert browser.js("text.value") == "ak" and browser.js("decisions.size") == 1
    browser.js("text.value = ''")
    browser.press("7", "0", "0", "0")
    assert browser.js("[...document.querySelectorAll('.card')].map(card => card.dataset.row)") == ["7000"]


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_on_a_phone(browser: Browser, tmp_path: Path, dark: bool):
    report = report_of(
        ["a_very_long_class_name_without_any_space_in_it_at_all", "dog", "owl"], ["dog", "dog", "owl"],
        names=["a_very_long_class_name_without_any_space_in_it_at_all", "dog", "owl"], ids=["x" * 200, "y", "z"],
    )  # fmt: skip
    write_report_page(report, record_of(tmp_path), tmp_path / "report.html", picture_of=lambda row: placeholder())
    browser.size(380, 800, dark=dark)
    try:
        browser.open((tmp_path / "report.html").as_uri())
        assert browser.js("document.documentElement.scrollWidth") == 380
        background = browser.js("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(20, 24, 29)" if dark else "rgb(255, 255, 255)")
    finally:
        browser.size(1200, 900)
