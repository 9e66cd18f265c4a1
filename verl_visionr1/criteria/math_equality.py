"""Compares two texts as mathematics, in bounded time.

math-verify calls sympy, which may never return (9^9^9^9), and stops it by signals, which need the main thread. Reward
workers score in threads, so a child process (`math_worker`) compares, one per process, started on first use.
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
from functools import lru_cache
from typing import IO

MAX_MATH_CHARS = 2000
"""A longer text equals only itself."""
MAX_DEPTH = 25
"""A text with more nested brackets equals only itself: it would keep the child busy until the deadline."""
WALL_FACTOR = 10.0
"""Wall-clock limit of a comparison as a multiple of its CPU seconds: on a busy machine they differ."""
GRACE_SECONDS = 2.0
"""Time to wait for the child after the deadline."""
START_SECONDS = 120.0
"""Time to wait until the child has loaded sympy on a busy machine."""


class WorkerError(RuntimeError):
    """The child process cannot be started; the message gives the reason."""


def is_equal(predicted: str, gold: str, seconds: float) -> bool:
    """Whether `predicted` equals `gold` as mathematics; both may be plain text or LaTeX, with or without $.
    Thread-safe.

    Equal texts and plain numbers are compared at once; words without mathematics equal only themselves. False if there
    is no verdict within `seconds` of CPU, or `WALL_FACTOR` times as many by the clock.
    """
    predicted, gold = _plain(predicted), _plain(gold)
    if predicted == gold:
        return bool(gold)
    a, b = _number(predicted), _number(gold)
    if a is not None and b is not None:
        return round(a, 6) == round(b, 6)
    if not (_MATHS.search(predicted) and _MATHS.search(gold)):
        return False
    return verified(predicted, gold, seconds)


@lru_cache(maxsize=4096)
def verified(predicted: str, gold: str, seconds: float, *, as_written: bool = False) -> bool:
    """Return math-verify's verdict. `as_written`: texts without $ are not read as LaTeX, as most code calls it."""
    if any(len(text) > MAX_MATH_CHARS or _depth(text) > MAX_DEPTH for text in (predicted, gold)):
        return False
    wall_seconds = WALL_FACTOR * seconds
    question: dict[str, object] = {"predicted": predicted, "gold": gold, "as_written": as_written}
    question |= {"cpu_seconds": seconds, "wall_seconds": wall_seconds}
    return _CHILD.ask(question, wall_seconds + GRACE_SECONDS)


@lru_cache(maxsize=1)
def require_library() -> None:
    """Raise ValueError unless math-verify is installed."""
    if importlib.util.find_spec("math_verify") is None:
        raise ValueError("math: needs math-verify: pip install 'verl-visionr1[text]'")


_BLANKS = re.compile(r"\s+")
_MATHS = re.compile(r"[\d\\=+*/^<>|\[\](){}]|(?<![^\W\d_])[^\W\d_](?![^\W\d_])")  # or a single letter
_NUMBER = re.compile(r"[-+]?\d{1,15}(?:\.\d{1,15})?")
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:,\d{3}){1,4}(?:\.\d{1,15})?")


def _plain(text: str) -> str:
    """Remove surplus blanks, a pair of $ around the text and a full stop after it."""
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
    """Return how deep the brackets of a text are nested; unclosed brackets count too."""
    depth = deepest = 0
    for bracket in _BRACKET.findall(text):
        depth = depth + 1 if bracket in "{([" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest


_BRACKET = re.compile(r"[{}()\[\]]")


class _Child:
    """The child process, and the lock that guards it. It keeps the deadlines, and ends when its input closes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: dict[str, object], seconds: float) -> bool:
        """Return the child's verdict; False if there is none within `seconds`."""
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            for _ in range(2):  # if the child died while it was idle, start another
                process = self._start()
                try:
                    _pipe(process.stdin).write(line)
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
        """Drop the child and the lock after a fork: they belong to the parent."""
        process, self._process, self._lock = self._process, None, threading.Lock()
        if process is not None:
            process.returncode = 0  # only the parent can wait for it
            _close(process)

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._kill()
        # The child uses this process's import path; one thread is enough for it.
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
        line = _read_line(self._process, START_SECONDS)
        if line != b"ready\n":
            self._kill()
            raise WorkerError(f"math: the child process did not start: {line.decode(errors='replace').strip() or '?'}")
        return self._process

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # its session, including the fork that answers
            process.wait()
            _close(process)


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # opened with PIPE
    return stream


def _close(process: subprocess.Popen[bytes]) -> None:
    _pipe(process.stdin).close()
    _pipe(process.stdout).close()


def _read_line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    """Read a line of the child's output, which it writes at once; empty if there is none in time."""
    stdout = _pipe(process.stdout)
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        return stdout.readline() if selector.select(seconds) else b""


_CHILD = _Child()
atexit.register(_CHILD.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_CHILD.forget)
