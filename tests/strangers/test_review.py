"""`acto review` among other users of the machine, idle connections, and reports that say anything."""

from __future__ import annotations

import errno
import http.client
import json
import re
import shutil
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from acto.cli import main
from acto.cli import review as module
from acto.core.errors import RunError
from acto.labels import review_server
from acto.labels.report import read_report
from acto.labels.review_server import ReviewServer
from label_reports import served, small
from labels.test_page import record_of

pytestmark = pytest.mark.kind("acto review")

OLD_RUNS = Path(__file__).parents[1] / "old_run"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ReviewServer]:
    with served(record_of(tmp_path), small()) as made:
        yield made


def ask(server: ReviewServer, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


# What others see.


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(OLD_RUNS, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Path("finished")


@pytest.mark.right
def test_the_browsers_command_line_has_no_token(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[str, str, int]] = []
    tokens: list[str] = []

    def opened(address: str) -> None:
        page = Path(unquote(urlsplit(address).path))
        seen.append((address, page.read_text(), stat.S_IMODE(page.stat().st_mode)))

    def serve(server: ReviewServer) -> None:
        tokens.append(server.token)
        raise KeyboardInterrupt

    monkeypatch.setattr(module.webbrowser, "open", opened)
    monkeypatch.setattr(ReviewServer, "serve_forever", serve)
    (run / ".acto-review-killed.html").write_text("of a process that was killed")
    assert main(["review", str(run)]) == 0
    ((address, page, mode),) = seen
    assert address.startswith("file:///") and tokens[0] not in address and mode == 0o600
    (target,) = set(re.findall(r'(?:url|href)="?=?(http[^"]+)', page.replace("url=", 'url="')))
    assert unescape(target) in capsys.readouterr().out and tokens[0] in target
    assert not list(run.glob(".acto-review-*"))


@pytest.mark.right
def test_the_page_that_opens_goes_whatever_happens(server: ReviewServer) -> None:
    with pytest.raises(OSError, match=r"^of the browser$"), server.opening_page() as page:
        # Of this name, so that the next start clears it away if this one is killed.
        assert page.is_absolute() and page.match(".acto-review-*.html")
        assert server.address.replace("&", "&amp;") in page.read_text()
        raise OSError("of the browser")
    assert not page.exists()


@pytest.mark.refused
def test_no_room_for_the_page_that_opens(server: ReviewServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*names: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(review_server.tempfile, "mkstemp", full)
    with pytest.raises(RunError, match="cannot write a page that opens the review: the disk is full"):
        server.opening_page().__enter__()


@pytest.mark.right
def test_the_icon_needs_no_token(server: ReviewServer) -> None:
    assert ask(server, "/favicon.ico") == (204, b"")
    assert ask(server, f"/favicon.ico?token={server.token}") == (204, b"")


@pytest.mark.refused
def test_the_icon_of_another_site(server: ReviewServer) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert ask(server, "/favicon.ico", **headers)[0] == 403
    assert ask(server, "/favicon.ico/")[0] == ask(server, "/picture/favicon.ico")[0] == 403


# Connections.


@pytest.mark.right
@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "], ids=["silent", "half a request"])
def test_idle_connections_are_bounded(said: bytes, server: ReviewServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review_server, "MAX_WAITING", 4)
    monkeypatch.setattr(review_server._Handler, "timeout", 60)  # not silence closes them
    before = threading.active_count()
    idle = [socket.create_connection(("127.0.0.1", server.server_port), timeout=20) for _ in range(12)]
    for one in idle:
        one.sendall(said) if said else None
    status, page = ask(server, f"/?token={server.token}")
    assert status == 200 and b"cat" in page
    closed = []
    for one in idle[:9]:  # four of them all may stay, of which the request was one
        try:
            closed.append(one.recv(1))
        except ConnectionResetError:
            closed.append(b"")
    assert closed == [b""] * 9
    assert threading.active_count() - before <= 12
    for one in idle:
        one.close()


@pytest.mark.right
def test_connections_that_have_shown_the_token_stay(server: ReviewServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that takes long is not cut off by those that only knock."""
    monkeypatch.setattr(review_server, "MAX_WAITING", 2)
    drawing, go_on = threading.Event(), threading.Event()
    picture = server.picture_of
    assert picture is not None

    def slow(row: int) -> bytes:
        drawing.set()
        assert go_on.wait(20)
        return picture(row)

    server.picture_of = slow
    found: list[tuple[int, bytes]] = []
    asking = threading.Thread(target=lambda: found.append(ask(server, f"/picture/0?token={server.token}")))
    asking.start()
    assert drawing.wait(20)
    idle = [socket.create_connection(("127.0.0.1", server.server_port), timeout=20) for _ in range(6)]
    assert idle[0].recv(1) == b""
    go_on.set()
    asking.join()
    assert found[0][0] == 200 and found[0][1] == picture(0)
    for one in idle:
        one.close()


@pytest.mark.right
def test_silence_is_shorter_before_the_token(server: ReviewServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert review_server._Handler.timeout <= 10 < review_server.SECONDS
    monkeypatch.setattr(review_server._Handler, "_page", lambda handler: b"%d" % handler.connection.gettimeout())
    assert ask(server, f"/?token={server.token}") == (200, b"%d" % review_server.SECONDS)


# Reports.


def changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    small().save(folder)
    path = folder / "label_report.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))
    return folder


def put(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


HOSTILE = {
    "numbers as class names": put("class_names", value=[1, 2, 3]),
    "a text as class names": put("class_names", value="abc"),
    "a mapping as class names": put("class_names", value={"cat": 0, "dog": 1, "owl": 2}),
    "a name twice": lambda content: (
        content["class_names"].append(content["class_names"][0]) or content["noise"]["counts"].append(0)
    ),
    "no names": put("class_names", value=[]),
    "other names": put("class_names", value=["cat", "dog", "eel"]),
    "no facts": lambda content: content.pop("facts") and None,
    "facts as a list": put("facts", value=[1]),
    "a folder that is a number": put("facts", "folder", value=7),
    "no noise": lambda content: content.pop("noise") and None,
    "noise as a text": put("noise", value="much"),
    "a rate as a text": put("noise", "rate", value="0.1"),
    "a rate of NaN": put("noise", "rate", value=float("nan")),
    "a rate without end": put("noise", "rate", value=float("inf")),
    "a rate of 400 digits": put("noise", "rate", value=10**400),
    "a rate that is true": put("noise", "rate", value=True),
    "a rate as a list": put("noise", "rate_low", value=[]),
    "a matrix of another shape": put("noise", "matrix", value=[[1.0]]),
    "a matrix of texts": put("noise", "matrix_low", value=[["a"] * 3] * 3),
    "a ragged matrix": put("noise", "matrix_high", value=[[1.0], [1.0, 2.0], []]),
    "counts below 0": put("noise", "counts", value=[-1, 2, 3]),
    "counts as a mapping": put("noise", "counts", value={"a": 1}),
    "a count of 400 digits": put("noise", "counts", value=[10**400, 1, 1]),
    "a count above all samples": put("noise", "counts", value=[10**6, 1, 1]),
    "a share above 1": lambda content: content["noise"]["share"].__setitem__(0, 1.5),
    "a share below 0": lambda content: content["noise"]["low"].__setitem__(0, -0.5),
    "a class below 0": lambda content: content["noise"]["given"].__setitem__(0, -1),
    "a class too many": lambda content: content["noise"]["right"].__setitem__(0, 3),
    "half a pair": lambda content: content["noise"]["right"].append(0),
    "resamples below 0": put("noise", "resamples", value=-1),
    "resamples as a text": put("noise", "resamples", value="200"),
    "resamples as a list": put("noise", "resamples", value=[1]),
    "an unknown key of noise": put("noise", "__class__", value=1),
    "columns as a list": put("columns", value=["id"]),
    "an unknown type": put("columns", "label_quality", value="object"),
    "a type that is a number": put("columns", "label_quality", value=5),
    "a type of very long texts": put("columns", "label_quality", value="U999999999"),
    "texts as numbers": put("columns", "is_label_issue", value="str"),
    "qualities as texts": put("columns", "label_quality", value="str"),
    "a number": lambda content: 5,
    "a list": lambda content: [content],
    "null": lambda content: [None][0] or "null",
}


@pytest.mark.refused
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_reports(name: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"label_report\.(json|csv) is damaged: ") as raised:
        read_report(changed(tmp_path, HOSTILE[name]))
    assert "Traceback" not in str(raised.value) and len(str(raised.value)) < 600


@pytest.mark.refused
@pytest.mark.parametrize("name", ["id", "given_label", "suggested_label", "is_label_issue", "label_quality"])
def test_a_report_without_a_column(name: str, tmp_path: Path) -> None:
    whole = small()
    replace(whole, columns={key: values for key, values in whole.columns.items() if key != name}).save(tmp_path)
    with pytest.raises(RunError, match=rf"label_report\.json is damaged: it has no '{name}'"):
        read_report(tmp_path)


@pytest.mark.refused
def test_a_report_about_nothing(tmp_path: Path) -> None:
    small().save(tmp_path)
    table = tmp_path / "label_report.csv"
    table.write_text(table.read_text().splitlines()[0] + "\n")
    with pytest.raises(RunError, match=r"label_report\.json is damaged: it is about no samples"):
        read_report(tmp_path)


@pytest.mark.refused
@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, '{"noise": {"rate": 1' + "0" * 5000 + "}}", "\xff", "", "{} {}"],
    ids=["deep lists", "deep mappings", "5,000 digits", "no JSON", "empty", "two"],
)
def test_reports_that_are_no_json(text: str, tmp_path: Path) -> None:
    small().save(tmp_path)
    (tmp_path / "label_report.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match=r"label_report\.json is damaged: "):
        read_report(tmp_path)


@pytest.mark.refused
@pytest.mark.parametrize(
    "command",
    [
        "review RUN --no-browser",
        "apply RUN/decisions.csv --run RUN",
        "exchange export RUN --format cleanlab --out out.csv",
    ],
)
def test_every_command_that_reads_a_report(command: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "label_report.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "class_names": [0, 1, 2]}))
    (run / "decisions.csv").write_text("id,given_label,decision,new_label,time\n")
    assert main(command.replace("RUN", str(run)).split()) == 1
    assert "label_report.json is damaged: class_names is no list of texts" in capsys.readouterr().err


@pytest.mark.right
def test_whole_reports_are_read(tmp_path: Path, run: Path) -> None:
    assert len(read_report(run)) == 54  # of an older version
    report = replace(small(), facts={"source": "run", "folder": "x", "anything": [None, {"a": 1}]})
    report.save(tmp_path)
    assert read_report(tmp_path).facts == report.facts


@pytest.mark.refused
def test_a_run_that_cannot_be_shown_is_said_to_be(tmp_path: Path) -> None:
    record = record_of(tmp_path)
    del record.metrics[0]["test_accuracy"]
    with served(record, small()) as server:
        status, text = ask(server, f"/?token={server.token}")
        assert status == 500 and b"a file of it is damaged (KeyError" in text
        assert ask(server, f"/picture/0?token={server.token}")[0] == 200
