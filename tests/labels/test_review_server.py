"""The review server: whom it answers, and that a decision is on the disk before it says so."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_page import data_of, record_of

from acto.cli import review as module
from acto.cli.exit_codes import guarded
from acto.cli.review import review
from acto.core.errors import UserError
from acto.data.samples import DataSpec
from acto.labels.decisions import DecisionLog
from acto.labels.review_server import ReviewServer
from acto.labels.thumbnails import placeholder
from acto.run_folder.writing import RunFolder
from acto.runs.recipes.by_data import setting_for
from acto.runs.recipes.recipe import recipe
from label_reports import served, small


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ReviewServer]:
    with served(record_of(tmp_path), small()) as made:
        yield made


def ask(
    server: ReviewServer, method: str, path: str, *, body: Any = None, **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection.request(method, path, data, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    found = answer.status, answer.read(), dict(answer.getheaders())
    connection.close()
    return found


def decide(server: ReviewServer, row: Any, decision: str, new_label: str = "", **headers: str) -> tuple[int, bytes]:
    body = {"decisions": [[row, decision, new_label]], "since": 0}
    given = {"X_Acto_Token": server.token, "Content_Type": "application/json"} | headers
    return ask(server, "POST", "/decide", body=body, **given)[:2]


def test_the_page_and_its_pictures_come_by_row_number(server: ReviewServer):
    status, page, headers = ask(server, "GET", f"/?token={server.token}")
    assert status == 200 and headers["X-Frame-Options"] == "DENY" and headers["Referrer-Policy"] == "no-referrer"
    data = data_of(page)
    assert data["served"] and data["token"] == server.token and data["pictures"] == []
    assert b"connect-src &#39;self&#39;" in page
    status, picture, headers = ask(server, "GET", f"/picture/5?token={server.token}")
    assert (status, picture, headers["Content-Type"]) == (200, placeholder(), "image/png")
    for path in ("/picture/6", "/picture/-1", "/picture/", "/picture/../0", "/decisions.csv", "/picture/%35"):
        assert ask(server, "GET", f"{path}?token={server.token}")[0] == 404, path


def test_strangers_are_turned_away(server: ReviewServer):
    token, own = server.token, f"127.0.0.1:{server.server_port}"
    assert ask(server, "GET", "/")[0] == 403
    assert ask(server, "GET", f"/?token={token}x")[0] == 403
    assert ask(server, "GET", "/?token=%C3%A9")[0] == 403
    assert ask(server, "GET", f"/?token={token}", Host="evil.example")[0] == 403
    assert ask(server, "GET", f"/?token={token}", Host=f"evil.example:{server.server_port}")[0] == 403
    assert ask(server, "GET", f"/?token={token}", Host=own, Origin="http://evil.example")[0] == 403
    assert ask(server, "GET", f"/?token={token}", Host=own, Origin=f"http://{own}")[0] == 200
    # A form of another site cannot set a header, so the address alone decides nothing.
    body = {"decisions": [[0, "keep", ""]], "since": 0}
    assert ask(server, "POST", f"/decide?token={token}", body=body, Content_Type="application/json")[0] == 403
    assert decide(server, 0, "keep", Content_Type="text/plain")[0] == 400
    assert not server.log.path.exists()


def test_it_listens_on_this_machine_only(server: ReviewServer):
    assert server.server_address[0] == "127.0.0.1"


def test_a_decision_is_on_the_disk_before_the_answer(server: ReviewServer, monkeypatch: pytest.MonkeyPatch):
    synced: list[bytes] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        synced.append(server.log.path.read_bytes() if server.log.path.exists() else b"")

    decide(server, 0, "keep")  # a new file's folder is put on the disk too; what counts is the file
    monkeypatch.setattr(os, "fsync", fsync)
    status, answer = decide(server, 2, "accept", "owl")
    assert status == 200
    line = f"'=1+1.png,dog,accept,owl,{json.loads(answer)['time']}\n".encode()
    assert any(content.endswith(line) for content in synced)
    assert server.log.path.read_bytes().endswith(line)
    decide(server, 2, "skip")
    assert [row for row, _ in data_of(ask(server, "GET", f"/?token={server.token}")[1])["decisions"]] == [0, 2]
    assert server.log.decisions[2].decision == "skip"


@pytest.mark.parametrize(
    ("row", "decision", "label", "message"),
    [
        (6, "keep", "", "there is no row 6"),
        (-1, "keep", "", "there is no row -1"),
        (True, "keep", "", "row is a number"),
        ("0", "keep", "", "row is a number"),
        (0, "drop", "", "unknown decision word 'drop'"),
        (0, "accept", "dgo", "mean 'dog'"),
    ],
)
def test_nonsense_is_refused(server: ReviewServer, row: Any, decision: str, label: str, message: str):
    status, answer = decide(server, row, decision, label)
    assert status == 400 and message in answer.decode()
    assert not server.log.path.exists()


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"x" * 20_000, b'{"row": 0}', b"\xff", b"[" * 9_000,
                                  b'{"decisions": [], "since": 0}', b'{"decisions": [[0, "keep", ""]]}',
                                  b'{"decisions": [[0, "keep"]], "since": 0}', b'{"decisions": 3, "since": 0}',
                                  b'{"decisions": [[0, "keep", ""]], "since": -1}'])  # fmt: skip
def test_broken_bodies_are_refused(server: ReviewServer, body: bytes):
    try:
        status = ask(server, "POST", "/decide", body=body, X_Acto_Token=server.token, Content_Type="application/json")[
            0
        ]
    except (http.client.HTTPException, ConnectionError):
        status = 400
    assert status == 400 and not server.log.path.exists()
    assert decide(server, 0, "keep")[0] == 200


def test_a_full_disk_is_told_to_the_page(server: ReviewServer, monkeypatch: pytest.MonkeyPatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    status, answer = decide(server, 0, "keep")
    assert status == 500 and b"the disk is full" in answer
    assert server.log.decisions == {}


def test_decisions_of_two_tabs_at_once_are_whole_lines(server: ReviewServer):
    threads = [threading.Thread(target=decide, args=(server, k % 6, "keep")) for k in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = server.log.path.read_text().splitlines()
    assert len(lines) == 25 and all(line.count(",keep,") == 1 for line in lines[1:])


# The command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    spec = DataSpec(source="digits")
    with RunFolder.create(tmp_path / "run", config=recipe(spec, setting_for("digits"), method="acto").to_dict()):
        small().save(tmp_path / "run")
    return tmp_path / "run"


def test_control_c_ends_it_with_a_count(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    opened: list[str] = []

    def interrupted(server: ReviewServer, poll_interval: float = 0.5) -> None:
        server.log.add(0, "accept", new_label="dog")
        raise KeyboardInterrupt

    monkeypatch.setattr(ReviewServer, "serve_forever", interrupted)
    monkeypatch.setattr(module.webbrowser, "open", opened.append)
    monkeypatch.setattr(module, "training_data", lambda record, data_root: (_ for _ in ()).throw(UserError("gone")))
    (run / "decisions.csv").write_text("id,given_label,decision,new_label,time\nb.png,cat,keep,,x\na.png,ca")
    assert review([str(run)]) == 0
    text = capsys.readouterr().out
    assert "no pictures are shown, for the data cannot be read: gone" in text
    assert "half written and is dropped: 'a.png,ca'" in text
    assert "1 sample of 6 decided so far" in text and "2 samples decided, 1 of them new" in text
    assert len(opened) == 1 and opened[0].startswith("file://") and "review at http://127.0.0.1:" in text
    log = DecisionLog(run, small())  # the lock is free again
    assert sorted(log.decisions) == [0, 1]
    with pytest.raises(UserError, match="one reviewer at a time"):
        review([str(run), "--no-browser"])
    log.close()


def test_sigterm_ends_it_cleanly(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def terminated(server: ReviewServer, poll_interval: float = 0.5) -> None:
        server.log.add(0, "keep")
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it went on")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ReviewServer, "serve_forever", terminated)
    monkeypatch.setattr(module, "training_data", lambda record, data_root: (_ for _ in ()).throw(UserError("gone")))
    assert guarded(lambda: review([str(run), "--no-browser"])) == 143
    assert "1 sample decided, 1 of them new" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) is before
    DecisionLog(run, small()).close()  # the lock is free again


def test_no_decision_is_taken_after_the_end(server: ReviewServer):
    server.has_ended = True
    status, text = decide(server, 0, "keep")
    assert status == 500 and b"was not saved" in text and not server.log.path.exists()


def test_what_the_command_refuses(run: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"--port is 70000"):
        review([str(run), "--port", "70000"])
    (run / "label_report.json").unlink()
    with pytest.raises(UserError, match="has no label report: `acto audit"):
        review([str(run)])
    with pytest.raises(UserError, match="is no run's folder"):
        review([str(tmp_path)])
