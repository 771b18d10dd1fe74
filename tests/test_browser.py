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
from acto.labels.report import LabelReport, read_report
from acto.labels.review_server import ReviewServer
from acto.labels.thumbnails import PictureOf, data_uri, pictures_of, placeholder
from acto.run_folder.reading import read_run
from browser import Browser
from label_reports import report_of, served, small
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
    images = "[...document.querySelectorAll('.picture img')]"
    loaded = f"{images}.length === 5 && {images}.every(image => image.naturalWidth === 80)"
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
            assert "1 NOT saved" in browser.js("document.querySelector('#count').textContent")
        finally:
            browser.open("about:blank")
            server.shutdown()
            thread.join()
    log.close()


COUNT = "document.querySelector('#count').textContent"
FOCUS = "document.activeElement"


def trusted(count: int) -> LabelReport:
    """Suspects, cat -> dog but for every third, which is cat -> owl, and ten samples of each class without doubt."""
    right = ["cat"] * 10 + ["dog"] * 10 + ["owl"] * 10
    return report_of(["cat"] * count + right, ["owl" if k % 3 == 2 else "dog" for k in range(count)] + right)


def colours(report: LabelReport) -> PictureOf:
    """A picture of each row in a colour of its class."""
    shades = {"cat": (200, 60, 60), "dog": (60, 160, 60), "owl": (60, 60, 200)}

    def picture_of(row: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (96, 96), shades[report.columns["given_label"][row]]).save(buffer, "PNG")
        return buffer.getvalue()

    return picture_of


def test_a_pair_of_classes_is_accepted_at_once_and_undone_at_once(browser: Browser, tmp_path: Path):
    report = trusted(90)
    write_report_page(report, record_of(tmp_path), tmp_path / "report.html", picture_of=colours(report))
    browser.open((tmp_path / "report.html").as_uri())
    assert browser.js("[...pair.options].map(o => o.textContent)") == [
        "all", "cat \u2192 dog (60)", "cat \u2192 owl (30)",
    ]  # fmt: skip
    browser.press("k")  # what is decided already stays as it is
    browser.js("pair.value = '0,1'; pair.dispatchEvent(new Event('change'))")
    assert browser.js("document.querySelector('#accept-all').textContent") == "Accept all 59 A"
    browser.click("#accept-all")
    assert browser.js("document.querySelector('#ask').innerText").startswith(
        "Accept the suggestion for 59 samples?\ncat \u2192 dog: 59"
    )
    assert browser.js("decisions.size") == 1  # asked, not done
    browser.press("Escape")
    assert browser.js("document.querySelector('#ask').open") is False and browser.js("decisions.size") == 1
    browser.press("A", "Enter")  # the button that says yes has the focus
    assert "60 shown, 59 accepted, 1 kept" in browser.js(COUNT)
    browser.press("u")
    assert "60 shown, 0 accepted, 1 kept" in browser.js(COUNT)
    # All that are trusted least, whatever their classes.
    browser.js("pair.value = ''; pair.dispatchEvent(new Event('change'))")
    bound = float(report.label_quality[29])
    browser.js(f"most.value = {bound + 1e-4}; most.dispatchEvent(new Event('change'))")
    browser.press("K", "Enter")
    assert "30 shown, 0 accepted, 30 kept" in browser.js(COUNT)
    browser.js("most.value = ''; sure.value = 0.95; sure.dispatchEvent(new Event('change'))")
    assert browser.js(COUNT).startswith("0 shown") and browser.js("document.querySelector('#keep-all').disabled")
    browser.press("A")
    assert browser.js("document.querySelector('#live').textContent") == "no undecided suspect is shown"
    browser.press("u", "u", "u")
    assert browser.js("decisions.size") == 0 and browser.complaints() == []


def test_trusted_pictures_stand_beside_a_suspect_and_it_can_be_enlarged(browser: Browser, tmp_path: Path):
    report = trusted(6)
    write_report_page(report, record_of(tmp_path), tmp_path / "report.html", picture_of=colours(report))
    browser.open((tmp_path / "report.html").as_uri())
    browser.until("[...document.images].every(image => image.complete)")
    beside = "[...document.querySelectorAll('[data-row=\"2\"] .refs')]"
    assert browser.js(f"{beside}.map(refs => refs.children.length)") == [3, 3]
    sources = "[...document.querySelectorAll('[data-row=\"2\"] .refs img:first-child')].map(image => image.src)"
    assert browser.js(sources) == [data_uri(colours(report)(row)) for row in (15, 35)]  # the most trusted cat and owl
    assert browser.js("data.references[2].map(sample => sample[0])") == [35, 34, 33]
    browser.click("[data-row='2'] .picture")
    assert browser.js("look.open && document.querySelector('#look-title').textContent") == "sample 2"
    assert browser.js("document.querySelector('#look-sample img').getBoundingClientRect().width") > 300
    heads = "[...document.querySelectorAll('#look h3')].map(head => head.textContent)"
    assert browser.js(heads) == ["given: cat", "suggested: owl"]
    assert browser.js("document.querySelectorAll('#look-classes img[alt^=\"trusted sample of\"]').length") == 6
    browser.press("a")  # decides, and shows the next
    assert browser.js("document.querySelector('#look-title').textContent") == "sample 3"
    browser.press("ArrowLeft")
    assert browser.js("document.querySelector('#look-state').textContent") == "becomes owl"
    browser.press("Escape")
    assert browser.js("look.open") is False
    browser.until(f"{FOCUS}.dataset.row === '2'")  # back where one was
    browser.js(f"{FOCUS}.blur()")
    browser.press("e")
    browser.click("#look [data-close]")
    assert browser.js("look.open") is False and browser.js(STATES)[2] == "accept"


def test_everything_is_reached_and_left_by_the_keyboard(browser: Browser, tmp_path: Path):
    report = trusted(130)
    write_report_page(report, record_of(tmp_path), tmp_path / "report.html", picture_of=colours(report))
    browser.open((tmp_path / "report.html").as_uri())
    reached, what = [], f"{FOCUS}.id || {FOCUS}.className || {FOCUS}.dataset.word || {FOCUS}.tagName"
    for _ in range(60):
        browser.press("Tab")
        reached.append(browser.js(what))
        assert browser.js(f"{FOCUS} === document.body || {FOCUS}.matches(':focus-visible')"), reached[-1]
        if reached[-1] == "BODY":
            break
    assert reached[-1] == "BODY"  # through the page and out of it: no trap
    inside = reached[reached.index("card current") :]
    assert inside[1:7] == ["picture", "accept", "keep", "skip", "remove", "SELECT"]
    # Of sixty cards one is on the way, the arrows lead to the others.
    assert reached.count("card current") == 1 and "after" in inside
    controls = ["show", "pair", "given", "suggested", "text", "sort", "least", "most", "sure", "accept-all", "keep-all"]
    assert reached[: reached.index("card current")][-len(controls) - 1 : -1] == controls
    browser.js("document.querySelector('.card.current').focus()")
    browser.press("ArrowRight", "Enter")
    assert browser.js("document.querySelector('#look-title').textContent") == "sample 1"
    for _ in range(5):
        browser.press("Tab")
        assert browser.js(f"look.contains({FOCUS})")
    browser.press("k", "Escape")
    browser.until(f"{FOCUS}.dataset.row === '2' && {FOCUS}.getAttribute('aria-current') === 'true'")
    named = "element => element.labels?.length || element.ariaLabel || element.textContent.trim()"
    assert browser.js(f"[...document.querySelectorAll('button:not(#ask-yes), input, select')].every({named})")
    assert browser.js("[...document.querySelectorAll('img')].every(image => image.hasAttribute('alt'))")
    assert browser.js("document.querySelector('#live').textContent") == "1: kept as it is"


def test_two_tabs_of_a_file_keep_both_decisions(browser: Browser, tmp_path: Path):
    path = tmp_path / "two.html"
    write_report_page(report_of(["cat", "dog", "owl"], ["dog", "owl", "cat"], ids=["of", "two", "tabs"]), None, path)
    browser.open(path.as_uri())
    with browser.other_tab():
        browser.open(path.as_uri())
        browser.press("r")
        assert browser.js(STATES) == ["remove", "", ""]
    browser.press("ArrowRight", "k")
    assert browser.js(STATES) == ["remove", "keep", ""]
    browser.open(path.as_uri())
    assert browser.js(STATES) == ["remove", "keep", ""]


def test_two_tabs_of_a_server_hear_of_each_other(browser: Browser, tmp_path: Path):
    with served(record_of(tmp_path), small()) as server:
        browser.open(server.address)
        with browser.other_tab():
            browser.open(server.address)
            browser.press("A", "Enter")
            browser.until("document.querySelectorAll('[data-decision=accept]').length === 3 && !saving.size")
            with open(server.log.path) as file:
                assert [line.split(",")[0] for line in file] == ["id", "a.png", "b.png", '"e']
        browser.press("r")
        browser.until("!saving.size")
        assert browser.js(STATES) == ["remove", "accept", "accept"]  # told with the answer
        browser.press("u")
        browser.until("!saving.size")
        # One's own step is taken back, to what this tab knew.
        assert browser.js(STATES) == ["skip", "accept", "accept"]
        assert [server.log.decisions[row].decision for row in (0, 1, 4)] == ["skip", "accept", "accept"]
        browser.open("about:blank")


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


def test_a_hundred_thousand_suspects_by_the_keyboard_alone(browser: Browser, tmp_path: Path):
    count = 100_000
    predicted = ["owl" if k % 1000 == 999 else "dog" for k in range(count)]
    report = report_of(["cat"] * count + ["dog", "owl"], [*predicted, "dog", "owl"])
    with served(record_of(tmp_path), report) as server:
        browser.open(server.address)
        assert browser.js(COUNT).startswith("100,000 shown") and browser.js(STATES) == [""] * 60  # a page at a time
        browser.press("a", "k", *["ArrowRight"] * 58)  # onto the next page
        browser.until(f"{FOCUS}.dataset.row === '60'")
        while browser.js(f"{FOCUS}.id") != "suggested":  # back from the cards to the filters
            browser.press("Shift+Tab")
        browser.press("o")  # picks owl
        browser.until(f"{COUNT}.startsWith('100 shown')")
        while not browser.js(f"{FOCUS}.matches('.card')"):
            browser.press("Tab")
        assert browser.js(f"{FOCUS}.dataset.row") == "999"
        browser.press("A", "Enter")
        browser.until(f"{COUNT}.startsWith('100 shown, 101 accepted, 1 kept')")
        browser.until("document.querySelector('[data-row=\"59999\"] .state').textContent.includes('(saved)')")
        named = "element => element.labels?.length || element.ariaLabel || element.textContent.trim()"
        assert browser.js(f"[...document.querySelectorAll('button:not(#ask-yes), input, select')].every({named})")
        assert browser.js("document.querySelector('#live').textContent")  # what a screen reader says of it
        assert browser.complaints() == []
        browser.open("about:blank")
    made = read_decisions(tmp_path / "decisions.csv", report)
    assert len(made) == 102


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
