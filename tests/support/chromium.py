"""A headless Chromium, driven through its DevTools protocol over a pipe: one page, clicked and looked at as by a user.

https://chromedevtools.github.io/devtools-protocol lists the methods and events; a message ends with a zero byte.
"""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import re
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

LEAST = 111
"""The version that shows the page of the HTTP service."""


def find_program() -> str | None:
    """One that says its version: a stub whose package is not there runs no browser."""
    for path in filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        try:
            said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            continue
        version = re.search(r"(\d+)\.\d", said.stdout)
        if said.returncode == 0 and version and int(version[1]) >= LEAST:
            return path
    return None


PROGRAM = find_program()

needs_chromium = pytest.mark.skipif(PROGRAM is None, reason=f"no Chromium {LEAST} or newer: apt-get install chromium")
"""Mark of the tests that need a browser."""

ARGUMENTS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",  # which needs a kernel's leave that containers do not have; the pages are our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-proxy-server",
    "--hide-scrollbars",
)

PATIENCE = 60
"""Seconds until an answer or event that does not come fails the test."""


class Browser:
    """A running browser with one empty page; ``with`` ends it. ``folder`` keeps its profile."""

    def __init__(self, folder: Path) -> None:
        assert PROGRAM is not None
        (theirs, self._out), (self._in, others) = os.pipe(), os.pipe()
        # It reads from 3 and writes to 4; the pipe's ends may have these numbers themselves until they are moved.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (theirs, others)]
        actions = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
        actions += [(os.POSIX_SPAWN_DUP2, end, fd) for end, fd in zip(ends, (3, 4), strict=True)]
        words = [PROGRAM, *ARGUMENTS, f"--user-data-dir={folder}", "about:blank"]
        self._process = os.posix_spawn(PROGRAM, words, os.environ, file_actions=actions)
        for end in (theirs, others, *ends):
            os.close(end)
        self._buffer = b""
        self._count = 0
        self._session: str | None = None
        self.requests: list[str] = []
        """Addresses of everything that the page has asked for."""
        self.complaints: list[str] = []
        """What the browser's console says of errors, as of a script that the page's policy forbids."""
        self._events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime", "DOM"):
            self.call(f"{domain}.enable")
        self.call("Page.setInterceptFileChooserDialog", enabled=True)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *failure: object) -> None:
        os.close(self._out)  # nobody commands it any more: it ends
        for _ in range(100):
            if os.waitpid(self._process, os.WNOHANG)[0]:
                break
            time.sleep(0.05)
        else:
            os.kill(self._process, signal.SIGKILL)
            os.waitpid(self._process, 0)
        os.close(self._in)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask the browser, or the page once there is one; the answer's ``result``."""
        self._count += 1
        asked = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            asked["sessionId"] = self._session
        data = json.dumps(asked).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        while True:
            said = self._next()
            if said.get("id") == self._count:
                assert "error" not in said, f"{method}: {said['error']}"
                return said["result"]
            self._hear(said)

    def event(self, method: str) -> dict[str, Any]:
        """The next event of this name that nobody has taken yet."""
        while True:
            for event in self._events:
                if event["method"] == method:
                    self._events.remove(event)
                    return event["params"]
            self._hear(self._next())

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], PATIENCE)[0]:
                pytest.fail("the browser says nothing")
            more = os.read(self._in, 1 << 20)
            if not more:
                pytest.fail("the browser has ended")
            self._buffer += more
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _hear(self, said: dict[str, Any]) -> None:
        method, parameters = said.get("method"), said.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.complaints.append(parameters["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"].get("exception", {}).get("description")))
        elif method in ("Page.loadEventFired", "Page.fileChooserOpened"):
            self._events.append(said)

    def show(self, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        """A window of so many CSS pixels; a phone has a finger for a pointer."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.event("Page.loadEventFired")

    def evaluate(self, expression: str) -> Any:
        """What JavaScript says, as JSON's types; promises are waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        end = time.monotonic() + PATIENCE
        while not self.evaluate(condition):
            if time.monotonic() > end:
                pytest.fail(f"never: {condition}\n{self.evaluate('document.body.innerText')}\n{self.complaints}")
            time.sleep(0.02)

    def click(self, selector: str) -> None:
        """A press of the left button in the middle of an element."""
        self.evaluate(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        box = self.evaluate(f"document.querySelector({selector!r}).getBoundingClientRect().toJSON()")
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", **at)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    def choose(self, selector: str, file: Path) -> None:
        """Click a button that opens the dialog of files, and choose one there."""
        self.click(selector)
        self.pick(file)

    def pick(self, file: Path) -> None:
        """Choose a file in the dialog that has been opened."""
        node = self.event("Page.fileChooserOpened")["backendNodeId"]
        self.call("DOM.setFileInputFiles", files=[str(file)], backendNodeId=node)

    def key(self, name: str, text: str = "") -> None:
        code = {"Tab": 9, "Enter": 13, "ArrowLeft": 37}[name]
        for kind in ("keyDown", "keyUp"):
            typed = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=name, windowsVirtualKeyCode=code, **typed)

    def screenshot(self) -> Image.Image:
        """What is seen, RGB, a pixel for each CSS pixel."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
