"""Whether two texts are equal as mathematics, in bounded time.

math-verify asks sympy, which may take for ever (9^9^9^9), and stops it by signals, which only a main thread can take:
reward workers score in threads. So a child process (`math_worker`) does it, one per process, started on first use; it
keeps the deadlines itself and ends with its parent, as its standard input closes.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import threading
import time
from functools import lru_cache

MAX_MATH_CHARS = 2000
"""A longer text equals only itself."""
MAX_DEPTH = 25
"""So does one with brackets nested deeper: it would keep the child busy until the deadline."""
WALL_FACTOR = 10.0
"""A question may take so many times its CPU seconds by the clock: a busy machine says nothing of the question."""
GRACE_SECONDS = 2.0
"""How long after its deadline a child may be silent."""
START_SECONDS = 120.0
"""How long a child may take to load sympy on a busy machine."""


class WorkerError(RuntimeError):
    """The child process cannot be started; the message tells why."""


def is_equal(said: str, gold: str, seconds: float) -> bool:
    r"""Whether `said` states the same as `gold`; both may be LaTeX, with $ or without, or plain.

    Equal texts and plain numbers are compared at once; words that hold no mathematics equal only themselves.
    Thread-safe. False where no verdict came within `seconds` of CPU, or `WALL_FACTOR` times as many by the clock.
    Start-up of the child is not counted.

    Raises:
        WorkerError: the child process cannot be started.

    >>> is_equal("1,000", "1000.0", seconds=2.0)
    True
    """
    said, gold = _plain(said), _plain(gold)
    if said == gold:
        return bool(gold)
    a, b = _number(said), _number(gold)
    if a is not None and b is not None:
        return round(a, 6) == round(b, 6)
    if not (_MATHS.search(said) and _MATHS.search(gold)):
        return False
    return verified(said, gold, seconds)


@lru_cache(maxsize=4096)
def verified(said: str, gold: str, seconds: float, *, as_written: bool = False) -> bool:
    """math-verify's verdict. `as_written`: texts without $ are not taken for LaTeX, which is how most code calls it."""
    if any(len(text) > MAX_MATH_CHARS or _depth(text) > MAX_DEPTH for text in (said, gold)):
        return False
    wall_seconds = WALL_FACTOR * seconds
    question: dict[str, object] = {"said": said, "gold": gold, "as_written": as_written}
    question |= {"cpu_seconds": seconds, "wall_seconds": wall_seconds}
    return _CHILD.ask(question, wall_seconds + GRACE_SECONDS)


@lru_cache(maxsize=1)
def require_library() -> None:
    """Raise ValueError unless math-verify is installed."""
    if importlib.util.find_spec("math_verify") is None:
        raise ValueError("math: needs math-verify: pip install 'verl-visionr1[text]'")


_BLANKS = re.compile(r"\s+")
_MATHS = re.compile(r"[\d\\=+*/^<>|\[\](){}]|(?<![^\W\d_])[^\W\d_](?![^\W\d_])")  # or a letter that stands alone
_NUMBER = re.compile(r"[-+]?\d{1,15}(?:\.\d{1,15})?")
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:,\d{3}){1,4}(?:\.\d{1,15})?")


def _plain(text: str) -> str:
    """A text without surplus blanks, a pair of $ around it and a full stop after it."""
    text = _BLANKS.sub(" ", text).strip()
    text = text.removesuffix(".").rstrip()
    if len(text) > 2 and text[0] == text[-1] == "$" and "$" not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def _number(text: str) -> float | None:
    if _NUMBER.fullmatch(text):
        return float(text)
    return float(text.replace(",", "")) if _GROUPED.fullmatch(text) else None


def _depth(text: str) -> int:
    """How deep the brackets of a text are nested; what is opened twice and never closed counts too."""
    depth = deepest = 0
    for bracket in _BRACKET.findall(text):
        depth = depth + 1 if bracket in "{([" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest


_BRACKET = re.compile(r"[{}()\[\]]")


class _Child:
    """The child process, and who may speak to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: dict[str, object], seconds: float) -> bool:
        """The child's verdict; False where it says nothing for so long."""
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            for _ in range(2):  # a child that died while it was idle deserves a second one
                process = self._start()
                try:
                    self._write(process, line)
                except OSError:
                    self._kill()
                    continue
                verdict = _read_line(process, seconds)
                if not verdict:
                    self._kill()
                return verdict == b"1\n"
        return False

    def stop(self) -> None:
        """End the child; the next question starts another."""
        with self._lock:
            self._kill()

    def forget(self) -> None:
        """After a fork: the child and the lock are the parent's."""
        process, self._process, self._lock = self._process, None, threading.Lock()
        if process is not None:
            process.returncode = 0  # not ours to wait for
            _close(process)

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._kill()
        # The child finds what this process finds, however its path came about; one thread is enough for it.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "verl_visionr1.criteria.math_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment,
            start_new_session=True,  # Ctrl-C in a terminal is for the parent
        )
        said = _read_line(self._process, START_SECONDS)
        if said != b"ready\n":
            self._kill()
            raise WorkerError(f"math: the child process did not start: {said.decode(errors='replace').strip() or '?'}")
        return self._process

    def _write(self, process: subprocess.Popen[bytes], line: bytes) -> None:
        assert process.stdin is not None
        while line:  # the child is idle and reads
            line = line[process.stdin.write(line) or 0 :]

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # its session: the copy that answers too
            process.wait()
            _close(process)


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _read_line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    """A line of the child's output; empty where none came in time or its output ended."""
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return b""
            chunk = os.read(process.stdout.fileno(), 4096)
            if not chunk:
                return b""
            line += chunk
    return line


_CHILD = _Child()
atexit.register(_CHILD.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_CHILD.forget)
