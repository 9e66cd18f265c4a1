"""A headless Chromium, driven over a pipe by its own DevTools protocol: nothing to install but the browser."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "chromium-headless-shell")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-extensions"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
PATIENCE = 60.0
"""Seconds until an answer that does not come is an error; the machine may be busy."""


class BrowserError(RuntimeError):
    """No browser, or one that does not answer."""


def browser_path() -> str:
    """Where the browser is: `VISIONR1_BROWSER`, else one of `NAMES` on the path."""
    found = os.environ.get("VISIONR1_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise BrowserError("no browser: apt-get install chromium, or set VISIONR1_BROWSER to one of Chromium's kind")
    return found


class Page:
    """A tab, and all that it complained of: `complaints` is empty where nothing went wrong."""

    def __init__(self, process: subprocess.Popen[bytes], writing: int, reading: int) -> None:
        self._process, self._writing, self._reading = process, writing, reading
        self._pending = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command; events that come before it are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._pending:
            ready, _, _ = select.select([self._reading], [], [], max(until - time.monotonic(), 0.0))
            data = os.read(self._reading, 1 << 20) if ready else b""
            if not data:
                raise BrowserError(f"the browser says nothing (exit code {self._process.poll()})")
            self._pending += data
        message, _, self._pending = self._pending.partition(b"\0")
        return json.loads(message)

    def open(self, file: Path, fragment: str = "", until: str = "true") -> None:
        """Load a file, and wait until an expression is true."""
        self.call("Page.navigate", url="about:blank")
        self.events.clear()
        self.call("Page.navigate", url=f"{file.resolve().as_uri()}{fragment}")
        self.wait(f"document.readyState === 'complete' && ({until})")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true."""
        until = time.monotonic() + PATIENCE
        while not self.evaluate(expression):
            if time.monotonic() > until:
                raise BrowserError(f"never true: {expression}; {self.complaints}")
            time.sleep(0.02)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, as JSON has it."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise BrowserError(f"{expression}: {result['exceptionDetails']['exception'].get('description')}")
        return result["result"].get("value")

    def key(self, key: str) -> None:
        """Press and release a key."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        code = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39}.get(key, 0)
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, text=text, windowsVirtualKeyCode=code)

    def pointer(self, kind: str, x: float, y: float) -> None:
        """Move the pointer ("mouseMoved"), press or release it."""
        buttons = {"button": "left", "clickCount": 1} if kind != "mouseMoved" else {}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **buttons)

    def look(self, width: int, height: int, scheme: str = "light") -> None:
        """Set the window's size and the colour scheme that is preferred."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, out: Path) -> None:
        """Write what is seen as a PNG."""
        out.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    @property
    def complaints(self) -> list[str]:
        """Exceptions, console errors and warnings, and what the content policy refused."""
        found: list[str] = []
        for event in self.events:
            what, said = event.get("method"), event.get("params", {})
            if what == "Runtime.exceptionThrown":
                found.append(json.dumps(said["exceptionDetails"].get("exception", {}).get("description", said)))
            elif what == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
                found.append(json.dumps(said["args"]))
            elif what == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
                found.append(said["entry"]["text"])
            elif what == "Page.javascriptDialogOpening":
                found.append(f"dialog: {said['message']}")
        return found

    @property
    def requests(self) -> list[str]:
        """Addresses that the page asked for, data URLs and what its content policy refused aside."""
        asked: dict[str, str] = {}
        for event in self.events:
            what, said = event.get("method"), event.get("params", {})
            if what == "Network.requestWillBeSent" and not said["request"]["url"].startswith("data:"):
                asked[said["requestId"]] = said["request"]["url"]
            elif what == "Network.loadingFailed" and said.get("blockedReason") == "csp":
                asked.pop(said["requestId"], None)
        return list(asked.values())


@contextmanager
def opened_browser() -> Iterator[Page]:
    """A browser with one tab; it and its profile are gone when the block ends."""
    profile = tempfile.mkdtemp(prefix="visionr1-browser-")
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # The protocol is spoken over file descriptors 3 (to the browser) and 4 (from it).
    command = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    arguments = (browser_path(), *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe")
    process = subprocess.Popen(
        ["bash", "-c", command, "bash", *arguments],
        pass_fds=(theirs_in, theirs_out),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Page(process, ours_out, ours_in)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(ours_out)
        os.close(ours_in)
        shutil.rmtree(profile, ignore_errors=True)
