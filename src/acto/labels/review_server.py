"""Server of the report page on this machine, which saves each decision at once.

The server listens on 127.0.0.1 only. Every request carries a random token that only the printed address has, and the
Host header has to name this server, so that no web page of another site can reach it. Pictures are asked for by row
number; no path ever comes from outside. A browser gets the address from a file that nobody else can read: what stands
on a command line is seen by all users of a machine.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import socket
import tempfile
import threading
from collections.abc import Iterator
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from acto.core.errors import RunError, UserError
from acto.core.files import disk_errors, remove
from acto.data.decision_file import printable
from acto.labels.decisions import DecisionLog
from acto.labels.page import render
from acto.labels.page_data import Served, as_cells
from acto.labels.thumbnails import PictureOf, media_type
from acto.run_folder.reading import RunRecord

HOST = "127.0.0.1"
MAX_BODY = 2**25
"""Bytes of a step: some hundred thousand decisions."""
LIMIT = 200_000
"""Rows that the page lists."""
SECONDS = 60
"""Most time that the page or a picture may take on its way."""
MAX_WAITING = 128
"""Connections that have not shown the token yet; one more, and the oldest is closed."""
_OPENS = ".acto-review-"
_TOKEN_HEADER = "X-Acto-Token"


class ReviewServer(ThreadingHTTPServer):
    """Serves one report to one reviewer; decisions go into `log`.

    Args:
        record: the run.
        log: its decisions, open; who opened it closes it.
        picture_of: the thumbnail of the sample in a row; None: rows without pictures.
        large_of: the same in large; None: there is the thumbnail alone.
        port: to listen on; 0: a free one.

    Raises:
        UserError: the port is taken.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128  # a page asks for 60 thumbnails at once; the default of 5 resets what is too many

    def __init__(
        self,
        record: RunRecord,
        log: DecisionLog,
        *,
        picture_of: PictureOf | None = None,
        large_of: PictureOf | None = None,
        port: int = 0,
    ) -> None:
        self._waiting: dict[socket.socket, None] = {}
        self._counting = threading.Lock()
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise UserError(f"port {port} cannot be used: {error.strerror}; leave --port out for a free one") from error
        self.record, self.log, self.picture_of, self.large_of = record, log, picture_of, large_of
        self.number = {printable(name): k for k, name in enumerate(log.report.class_names)}
        """Number of each class as the page shows it."""
        self.token = secrets.token_urlsafe(24)
        self.writing = threading.Lock()
        """Held while a decision is written: one at a time, and none is cut off by the end."""
        self.has_ended = False
        """Then no decision is taken any more."""

    @property
    def address(self) -> str:
        """Return the address to open in a browser; whoever has it can decide."""
        return f"http://{HOST}:{self.server_port}/?token={self.token}"

    @contextlib.contextmanager
    def opening_page(self) -> Iterator[Path]:
        """A page in the run's folder that leads to the address, readable by this user alone and gone with the block.

        Raises:
            acto.core.errors.RunError: the disk refuses.
        """
        target = escape(self.address)
        page = (
            f'<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
            f"<title>acto review</title>"
            f'<meta http-equiv="refresh" content="0; url={target}"><a href="{target}">acto review</a>\n'
        )
        folder = self.log.path.parent.absolute()
        for left in folder.glob(f"{_OPENS}*.html"):  # by a process that was killed
            remove(left)
        with disk_errors("write a page that opens the review"):
            descriptor, name = tempfile.mkstemp(".html", _OPENS, folder)
        try:
            with disk_errors(f"write {name}"), open(descriptor, "w", encoding="utf-8") as file:
                file.write(page)
            yield Path(name)
        finally:
            remove(Path(name))

    def process_request(self, request: Any, client_address: Any) -> None:
        """Bound the threads that wait for a request: a page's own ones take no time to show their token."""
        with self._counting:
            self._waiting[request] = None
            oldest = next(iter(self._waiting)) if len(self._waiting) > MAX_WAITING else None
            if oldest is not None:
                del self._waiting[oldest]
                with contextlib.suppress(OSError):  # its thread reads the end, and closes it
                    oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def admit(self, request: Any) -> None:
        """Count a connection no longer among those that wait."""
        with self._counting:
            self._waiting.pop(request, None)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        self.admit(request)
        super().shutdown_request(request)

    def changes(self, since: int, until: int | None = None) -> dict[str, Any]:
        """The decisions of a part of the log's history, for a page that knows those before; `writing` is held."""
        rows = dict.fromkeys(self.log.history[since:until])
        changed = [[row, as_cells(self.log.decisions[row], self.number)] for row in rows]
        return {"revision": len(self.log.history), "changes": changed}

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
    timeout = 10
    """Seconds that a connection may be silent before it has shown the token."""

    def do_GET(self) -> None:
        """The page, or a picture."""
        path = urlsplit(self.path).path
        if path == "/favicon.ico" and self._is_own_page():  # asked for by the browser itself, without the token
            self._send(HTTPStatus.NO_CONTENT, "image/x-icon", b"")
            return
        if not self._may_enter():
            return
        if path == "/":
            try:
                page = self._page()
            except Exception as error:  # the run's files may say anything
                reason = f"{type(error).__name__}: {error}"
                self._refuse(
                    HTTPStatus.INTERNAL_SERVER_ERROR, f"the run cannot be shown, a file of it is damaged ({reason})"
                )
                return
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", page)
        elif path == "/changes":
            since = parse_qs(urlsplit(self.path).query).get("since", [""])[0]
            if not (since.isascii() and since.isdecimal() and len(since) < 12):
                self._refuse(HTTPStatus.BAD_REQUEST, "since is a number")
                return
            with self.server.writing:
                changes = self.server.changes(int(since))
            self._send(HTTPStatus.OK, "application/json", json.dumps(changes).encode())
        else:
            kind, _, number = path[1:].partition("/")
            picture_of = {"picture": self.server.picture_of, "large": self.server.large_of}.get(kind)
            if picture_of is None or (row := self._row(number)) is None:
                self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")
                return
            picture = picture_of(row)
            self._send(HTTPStatus.OK, media_type(picture), picture)

    def do_POST(self) -> None:
        """A step of one decision or many; the answer comes when all are on the disk."""
        if not self._may_enter(header_only=True):
            return
        if urlsplit(self.path).path != "/decide":
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")
            return
        length = self.headers.get("Content-Length", "")
        fits = length.isdecimal() and len(length) <= len(str(MAX_BODY)) and int(length) <= MAX_BODY
        if self.headers.get_content_type() != "application/json" or not fits:
            self._refuse(HTTPStatus.BAD_REQUEST, f"decisions come as JSON of {MAX_BODY:,} bytes at most")
            return
        try:
            asked = json.loads(self.rfile.read(int(length)))
            since, wanted = asked["since"], [(row, word, label) for row, word, label in asked["decisions"]]
            if type(since) is not int or since < 0 or not wanted:
                raise TypeError("since is a number, and there is at least one decision")
            for row, word, label in wanted:
                if type(row) is not int or not isinstance(word, str) or not isinstance(label, str):
                    raise TypeError("row is a number, decision and new_label are texts")
                if not 0 <= row < len(self.server.log.report):
                    raise UserError(f"there is no row {row}")
            with self.server.writing:
                if self.server.has_ended:
                    raise RunError("the server has ended, and the decision was not saved")
                known = len(self.server.log.history)
                made = self.server.log.add_all(wanted)
                answer = {**self.server.changes(since, known), "time": made[0].time}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except RunError as error:
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        else:
            self._send(HTTPStatus.OK, "application/json", json.dumps(answer).encode())

    def _is_own_page(self) -> bool:
        """Say whether a request is meant for this server, and of no page of another site."""
        port = self.server.server_port
        own = (f"{HOST}:{port}", f"localhost:{port}")
        origin = self.headers.get("Origin")
        return self.headers.get("Host") in own and (origin is None or origin in [f"http://{o}" for o in own])

    def _may_enter(self, *, header_only: bool = False) -> bool:
        """Say whether the request is from the page that this server gave out; refuse it otherwise."""
        if not self._is_own_page():
            self._refuse(HTTPStatus.FORBIDDEN, "this server answers its own page only")
            return False
        token = self.headers.get(_TOKEN_HEADER, "")
        if not header_only and not token:
            token = parse_qs(urlsplit(self.path).query).get("token", [""])[0]
        if not hmac.compare_digest(token.encode(errors="replace"), self.server.token.encode()):
            self._refuse(HTTPStatus.FORBIDDEN, "open the address that `acto review` printed, token and all")
            return False
        self.server.admit(self.connection)
        self.connection.settimeout(SECONDS)
        return True

    def _row(self, text: str) -> int | None:
        is_row = text.isascii() and text.isdecimal() and len(text) < 12 and int(text) < len(self.server.log.report)
        return int(text) if is_row else None

    def _page(self) -> bytes:
        server = self.server
        with server.writing:
            decisions, revision = dict(server.log.decisions), len(server.log.history)
        served = Served(
            token=server.token,
            decisions=decisions,
            has_pictures=server.picture_of is not None,
            has_large=server.large_of is not None,
            revision=revision,
        )
        return render(server.log.report, server.record, served=served, limit=LIMIT)

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self._send(status, "text/plain; charset=utf-8", message.encode(errors="replace"))

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        if body:
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
