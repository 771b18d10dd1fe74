"""A headless Chromium for tests, driven over its debugging pipe: open a page, press keys, click, look at it."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 60
"""The browser answers within this time, or the test fails."""
KEY_CODES = {"Tab": 9, "Enter": 13, "Escape": 27}
_LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execvp(sys.argv[3], sys.argv[3:])"
)


class Browser:
    """One Chromium with one tab; skips the test where none is installed or none starts."""

    def __init__(self, folder: Path) -> None:
        program = next((found for name in NAMES if (found := shutil.which(name))), None)
        if program is None:
            pytest.skip("no Chromium is installed")
        read, self._writes = os.pipe()
        self._reads, write = os.pipe()
        self.downloads = folder / "downloads"
        flags = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-extensions", "--disable-background-networking", "--remote-debugging-pipe",
            f"--user-data-dir={folder / 'profile'}", "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, str(read), str(write), program, *flags],
            pass_fds=(read, write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        self._buffer, self._number, self._session = b"", 0, ""
        self.messages: list[dict[str, Any]] = []
        """What the page logged, and what its policy kept it from."""
        try:
            target = self.send("Target.createTarget", url="about:blank")["targetId"]
        except EOFError:
            self.close()
            pytest.skip("Chromium does not start here")
        self._attach(target)

    def _attach(self, target: str) -> None:
        self._session = ""
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.size(1200, 900)

    @contextmanager
    def other_tab(self) -> Iterator[None]:
        """A second tab of the same browser, in front while the block runs."""
        first, self._session = self._session, ""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._attach(target)
        yield
        self._session = ""
        self.send("Target.closeTarget", targetId=target)
        self._session = first

    def close(self) -> None:
        """End the browser and give its pipes back."""
        os.close(self._writes)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._reads)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol, and its answer."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        try:
            os.write(self._writes, json.dumps(message).encode() + b"\0")
        except BrokenPipeError:
            raise EOFError("the browser has ended") from None
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _read(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._reads], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self._reads, 1 << 20)
            if not data:
                raise EOFError("the browser has ended")
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(text)
        if "method" in message:
            self.messages.append(message)
        if message.get("method") == "Page.javascriptDialogOpening":  # a page that would rather not be left
            self._number += 1
            accept = {"id": self._number, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
            os.write(self._writes, json.dumps({**accept, "sessionId": self._session}).encode() + b"\0")
        return message

    def open(self, address: str) -> None:
        """Load a page and wait until it has loaded."""
        self.messages.clear()
        self.send("Page.navigate", url=address)
        while not any(message["method"] == "Page.loadEventFired" for message in self.messages):
            self._read()

    def js(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait for a JavaScript condition to hold."""
        self.js(f"new Promise(done => {{ const look = () => ({condition}) ? done() : setTimeout(look, 10); look(); }})")

    def press(self, *keys: str) -> None:
        """Type keys, one after the other: a letter, or a name such as ArrowRight."""
        for key in keys:
            name = key.removeprefix("Shift+")
            facts: dict[str, Any] = {"key": name, "modifiers": 8 if name != key or name.isupper() else 0}
            if name in KEY_CODES:  # what the browser itself acts upon
                facts["windowsVirtualKeyCode"] = KEY_CODES[name]
            text = {"text": "\r" if name == "Enter" else name} if len(name) == 1 or name == "Enter" else {}
            self.send("Input.dispatchKeyEvent", type="keyDown", **facts, **text)
            self.send("Input.dispatchKeyEvent", type="keyUp", **facts)

    def click(self, selector: str) -> None:
        """Click into the middle of an element."""
        x, y = self.js(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center'});"
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def size(self, width: int, height: int, *, dark: bool = False) -> None:
        """The window's size, and which colours it prefers."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=features)

    def download(self, selector: str) -> bytes:
        """Click an element and return the file that it downloads."""
        self.downloads.mkdir(exist_ok=True)
        session, self._session = self._session, ""
        self.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads), eventsEnabled=True)
        self._session = session
        self.click(selector)
        while True:
            for message in self.messages:
                if message["method"] == "Browser.downloadProgress" and message["params"]["state"] == "completed":
                    return next(self.downloads.iterdir()).read_bytes()
            self._read()

    def screenshot(self, path: Path | None = None) -> bytes:
        """What the window shows, as PNG."""
        data = base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])
        if path is not None:
            path.write_bytes(data)
        return data

    def complaints(self) -> list[str]:
        """Errors that the page raised or logged, breaches of its policy among them."""
        found = []
        for message in self.messages:
            params = message["params"]
            if message["method"] == "Runtime.exceptionThrown":
                found.append(params["exceptionDetails"]["text"])
            if message["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
                found.append(params["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        """Addresses that the page asked for, itself included."""
        sent = [m["params"]["request"]["url"] for m in self.messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith(("data:", "blob:"))]
