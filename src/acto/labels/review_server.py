"""`acto review RUN`: the report page from a small server on this machine, which saves each decision at once.

The server listens on 127.0.0.1 only. Every request carries a random token that only the printed address has, and the
Host header has to name this server, so that no web page of another site can reach it. Pictures are asked for by row
number; no path ever comes from outside.
"""

from __future__ import annotations

import hmac
import json
import secrets
import shlex
import signal
import threading
import webbrowser
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from acto.cli.exit_codes import Parser, Terminated
from acto.cli.progress import counted
from acto.core.errors import UserError
from acto.core.files import RunError
from acto.data.readers.named import DATA_ROOT_VARIABLE
from acto.labels.decisions import DecisionLog
from acto.labels.page import Served, render
from acto.labels.report import LabelReport, read_report
from acto.labels.run_audit import training_data
from acto.labels.thumbnails import PictureOf, media_type, pictures_of
from acto.run_folder.writing import RunRecord, read_run

HOST = "127.0.0.1"
MAX_BODY = 10_000
"""Bytes of a decision."""
_TOKEN_HEADER = "X-Acto-Token"


def review(tokens: Sequence[str]) -> int:
    """The command `acto review RUN`; returns the exit code: 0 after Ctrl-C, 143 after SIGTERM."""
    parser = Parser(
        "acto review",
        "Serve a run's report page here and save each decision in RUN/decisions.csv at once. Ctrl-C ends it.",
    )
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--port", type=int, metavar="PORT", help="0, the default: a free one")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument("--data-root", metavar="DIR", help=f"instead of the run's, or of ${DATA_ROOT_VARIABLE}")
    given = parser.given(tokens)
    port = getattr(given, "port", 0)
    if not 0 <= port <= 65535:
        raise UserError(f"--port is {port}, but must lie in [0, 65535]")
    record, report = read_run(given.run), read_report(given.run)
    picture_of, note = _pictures(record, report, getattr(given, "data_root", None))
    log = DecisionLog(given.run, report)
    before, code = _num_decided(log), 0
    try:
        with ReviewServer(record, log, picture_of=picture_of, port=port) as server:
            for text in (note, log.repaired):
                if text:
                    print(f"note: {text}")
            print(f"{counted(before, 'sample')} of {len(report):,} decided so far, in {log.path}")
            print(f"review at {server.address}\nCtrl-C ends it", flush=True)
            if not getattr(given, "no_browser", False):
                webbrowser.open(server.address)
            try:
                server.serve_forever()
            except Terminated:
                code = 128 + signal.SIGTERM
            except KeyboardInterrupt:
                pass
    finally:
        log.close()
    done = _num_decided(log)
    print(f"\n{counted(done, 'sample')} decided, {done - before} of them new, in {log.path}")
    if done:
        print(f"next: acto apply {shlex.quote(str(log.path))} --run {shlex.quote(str(record.path))}")
    return code


def _num_decided(log: DecisionLog) -> int:
    return sum(made.decision != "skip" for made in log.decisions.values())


def _pictures(record: RunRecord, report: LabelReport, data_root: str | None) -> tuple[PictureOf | None, str]:
    """The samples' pictures, or None and why there are none."""
    try:
        samples = training_data(record, data_root=data_root).train
    except UserError as error:
        return None, f"no pictures are shown, for the data cannot be read: {error}"
    if list(samples.ids) != list(report.columns["id"]):
        return None, "no pictures are shown, for the report is about other samples than the run's data"
    return pictures_of(samples, max_pixels=record.config["data"].get("max_image_pixels")), ""


class ReviewServer(ThreadingHTTPServer):
    """Serves one report to one reviewer; decisions go into `log`.

    Args:
        record: the run.
        log: its decisions, open; who opened it closes it.
        picture_of: the thumbnail of the sample in a row; None: rows without pictures.
        port: to listen on; 0: a free one.

    Raises:
        UserError: the port is taken.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128  # a page asks for 60 thumbnails at once; the default of 5 resets what is too many

    def __init__(
        self, record: RunRecord, log: DecisionLog, *, picture_of: PictureOf | None = None, port: int = 0
    ) -> None:
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise UserError(f"port {port} cannot be used: {error.strerror}; leave --port out for a free one") from error
        self.record, self.log, self.picture_of = record, log, picture_of
        self.token = secrets.token_urlsafe(24)
        self.writing = threading.Lock()
        """Held while a decision is written: one at a time, and none is cut off by the end."""
        self.has_ended = False
        """Then no decision is taken any more."""

    @property
    def address(self) -> str:
        """What to open in a browser; whoever has it can decide."""
        return f"http://{HOST}:{self.server_port}/?token={self.token}"

    def server_close(self) -> None:
        """Wait for a decision that is being written, then let the port go."""
        with self.writing:
            self.has_ended = True
            super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error."""


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    server_version = "acto"
    sys_version = ""
    timeout = 60

    def do_GET(self) -> None:
        """The page, or a picture."""
        if not self._may_enter():
            return
        path = urlsplit(self.path).path
        if path == "/":
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", self._page())
        elif (row := self._row(path.removeprefix("/picture/"))) is not None and self.server.picture_of is not None:
            picture = self.server.picture_of(row)
            self._send(HTTPStatus.OK, media_type(picture), picture)
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")

    def do_POST(self) -> None:
        """A decision; the answer comes when it is on the disk."""
        if not self._may_enter(header_only=True):
            return
        if urlsplit(self.path).path != "/decide":
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")
            return
        length = self.headers.get("Content-Length", "")
        fits = length.isdecimal() and len(length) <= len(str(MAX_BODY)) and int(length) <= MAX_BODY
        if self.headers.get_content_type() != "application/json" or not fits:
            self._refuse(HTTPStatus.BAD_REQUEST, "a decision comes as a few bytes of JSON")
            return
        try:
            asked = json.loads(self.rfile.read(int(length)))
            row, word, label = asked["row"], asked["decision"], asked["new_label"]
            if type(row) is not int or not isinstance(word, str) or not isinstance(label, str):
                raise TypeError("row is a number, decision and new_label are texts")
            if not 0 <= row < len(self.server.log.report):
                raise UserError(f"there is no row {row}")
            with self.server.writing:
                if self.server.has_ended:
                    raise RunError("the server has ended, and the decision was not saved")
                made = self.server.log.add(row, word, new_label=label)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except RunError as error:
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        else:
            self._send(HTTPStatus.OK, "application/json", json.dumps({"time": made.time}).encode())

    def _may_enter(self, *, header_only: bool = False) -> bool:
        """Whether the request is from the page that this server gave out; refuses it otherwise."""
        port = self.server.server_port
        own = (f"{HOST}:{port}", f"localhost:{port}")
        origin = self.headers.get("Origin")
        if self.headers.get("Host") not in own or (origin is not None and origin not in [f"http://{o}" for o in own]):
            self._refuse(HTTPStatus.FORBIDDEN, "this server answers its own page only")
            return False
        token = self.headers.get(_TOKEN_HEADER, "")
        if not header_only and not token:
            token = parse_qs(urlsplit(self.path).query).get("token", [""])[0]
        if not hmac.compare_digest(token.encode(errors="replace"), self.server.token.encode()):
            self._refuse(HTTPStatus.FORBIDDEN, "open the address that `acto review` printed, token and all")
            return False
        return True

    def _row(self, text: str) -> int | None:
        is_row = text.isascii() and text.isdecimal() and len(text) < 12 and int(text) < len(self.server.log.report)
        return int(text) if is_row else None

    def _page(self) -> bytes:
        server = self.server
        with server.writing:
            decisions = dict(server.log.decisions)
        served = Served(token=server.token, decisions=decisions, has_pictures=server.picture_of is not None)
        return render(server.log.report, server.record, served=served)

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self._send(status, "text/plain; charset=utf-8", message.encode(errors="replace"))

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the address with its token does not belong into a log."""
