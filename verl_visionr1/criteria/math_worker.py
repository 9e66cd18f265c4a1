"""The child process of `math_equality`: reads one question per line, writes "1" or "0" per line.

Run as `python -m verl_visionr1.criteria.math_worker`; nothing imports it. It writes "ready" once sympy is loaded. A
fork of it answers. If a question ends the fork, the answer is "0", and the next fork starts in milliseconds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import IO, Any, cast

MAX_BYTES = 8 << 30
"""Limit of the address space: numbers that outgrow it end the fork, not the machine."""


def main() -> None:
    """Answer questions until standard input ends."""
    with os.fdopen(os.dup(1), "wb", buffering=0) as out:
        os.dup2(2, 1)  # keep the libraries' prints out of the answers
        _limit_memory()
        try:
            is_equal = _load_verifier()
        except ImportError as error:
            out.write(f"{error}\n".encode())
            return
        out.write(b"ready\n")
        while _is_ended_by_question(is_equal, out):
            out.write(b"0\n")


def _is_ended_by_question(is_equal: Callable[[str, str, bool], bool], out: IO[bytes]) -> bool:
    """Answer in a fork until it ends; False if it ended with standard input."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1] != 0
    status = 1
    try:
        _answer(is_equal, out)
        status = 0
    finally:
        os._exit(status)


def _answer(is_equal: Callable[[str, str, bool], bool], out: IO[bytes]) -> None:
    for line in sys.stdin.buffer:
        question = json.loads(line)
        # Without handlers the kernel ends the process, even inside a long multiplication.
        signal.setitimer(signal.ITIMER_PROF, question["cpu_seconds"])
        signal.setitimer(signal.ITIMER_REAL, question["wall_seconds"])
        verdict = is_equal(question["predicted"], question["gold"], question["as_written"])
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        out.write(b"1\n" if verdict else b"0\n")


def _limit_memory() -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = MAX_BYTES if hard == resource.RLIM_INFINITY else min(MAX_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _load_verifier() -> Callable[[str, str, bool], bool]:
    """Return (predicted, gold, as_written) -> verdict: math-verify without its own timeouts."""
    import logging

    logging.disable(logging.CRITICAL)
    from math_verify import parse, verify  # pyright: ignore[reportMissingTypeStubs]

    def read(text: str) -> list[Any]:
        return cast(list[Any], parse(text, parsing_timeout=None))  # pyright: ignore

    def read_either(text: str) -> list[Any]:
        """Read as LaTeX; if that finds nothing, as plain text."""
        is_marked = any(mark in text for mark in ("$", "\\boxed", "\\(", "\\["))
        return read(text) if is_marked else read(f"${text}$") or read(text)

    def is_equal(predicted: str, gold: str, as_written: bool) -> bool:
        if as_written:
            # Released code passes the predicted answer as gold; verify is not symmetric.
            return verify(read(predicted), read(gold), timeout_seconds=None)
        return verify(read_either(gold), read_either(predicted), timeout_seconds=None)

    is_equal("1/2", "0.5", False)  # loads lazy imports before the first deadline
    return is_equal


if __name__ == "__main__":
    main()
