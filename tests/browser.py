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
PATIENCE = 60.0  # seconds until an answer that does not come is an error; the machine may be busy
KEYS = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39}


class BrowserError(RuntimeError):
    """No browser, or one that does not answer."""


class Page:
    """A tab, and all that it complained of: `complaints` is empty where nothing went wrong."""

    def __init__(self, process: subprocess.Popen[bytes], writing: int, reading: int) -> None:
        self._process, self._writing, self._reading = process, writing, reading
        self._pending = b""
        self._number = 0
        self._session: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command; events that come before it are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']['message']}")
        return answer["result"]

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
        for kind in ("keyDown", "keyUp"):
            code = KEYS.get(key, 0)
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

    def _of(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event.get("method") == method]

    @property
    def complaints(self) -> list[str]:
        """Exceptions, console errors and warnings, dialogs, and what the content policy refused."""
        consoles = [
            one for one in self._of("Runtime.consoleAPICalled") if one["type"] in ("error", "warning", "assert")
        ]
        entries = [one["entry"] for one in self._of("Log.entryAdded")]
        dialogs = self._of("Page.javascriptDialogOpening")
        found = [json.dumps(one["exceptionDetails"]) for one in self._of("Runtime.exceptionThrown")]
        found += [json.dumps(one["args"]) for one in consoles]
        found += [one["text"] for one in entries if one["level"] in ("error", "warning")]
        return found + [f"dialog: {one['message']}" for one in dialogs]

    @property
    def requests(self) -> list[str]:
        """Addresses that the page asked for, data URLs and what its content policy refused aside."""
        asked = {one["requestId"]: one["request"]["url"] for one in self._of("Network.requestWillBeSent")}
        refused = {one["requestId"] for one in self._of("Network.loadingFailed") if one.get("blockedReason") == "csp"}
        return [url for number, url in asked.items() if number not in refused and not url.startswith("data:")]


@contextmanager
def opened_browser() -> Iterator[Page]:
    """A browser with one tab: `VISIONR1_BROWSER`, else one of `NAMES`; it and its profile are gone at the end."""
    path = os.environ.get("VISIONR1_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        raise BrowserError("no browser: apt-get install chromium, or set VISIONR1_BROWSER to one of Chromium's kind")
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # The protocol is spoken over file descriptors 3 (to the browser) and 4 (from it).
    command = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", path, *FLAGS]
    with tempfile.TemporaryDirectory(prefix="visionr1-browser-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "--remote-debugging-pipe"],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            os.close(theirs_in)
            os.close(theirs_out)
            yield Page(process, ours_out, ours_in)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(ours_out)
            os.close(ours_in)
