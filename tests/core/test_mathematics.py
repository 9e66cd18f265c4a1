"""The criterion of mathematics, and the child process that compares for it."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from worded import judged, target

from verl_visionr1 import score
from verl_visionr1.criteria import math_equality
from verl_visionr1.criteria.text import math as math_equal

HANG = "9^{9^{9^{9^{9}}}}"
MATHS = {
    "the same": ("x+1", "x+1", 1),
    "a number": ("3", "3.0", 1),
    "another number": ("3", "4", 0),
    "separators": ("1,000", "1000", 1),
    "dollars": ("$3$", "3", 1),
    "a fraction": ("0.5", r"\frac{1}{2}", 1),
    "a slash": ("1/2", r"$\dfrac12$", 1),
    "another order": ("1 + x", "x+1", 1),
    "a root": (r"\sqrt{2}", "2^{1/2}", 1),
    "pi": (r"2\pi", r"$2 \pi$", 1),
    "an equation": ("x = 3", "3", 1),
    "a sentence": ("The answer is $5$.", "5", 1),
    "a unit": ("12 cm", "12", 1),
    "an interval": ("[1,2]", "[1, 2]", 1),
    "another interval": ("(1,2)", "[1, 2]", 0),
    "two guesses": ("3 or 10", "10", 0),
    "a list of guesses": ("1, 2, 3", "3", 0),
    "rounded too far": ("0.333", r"\frac{1}{3}", 0),
    "words": ("no solution", "no solution", 1),
    "letters in another order": ("tac", "cat", 0),
    "broken LaTeX": (r"\frac{1", r"\frac{1}{2}", 0),
    "nothing": ("", "3", 0),
    "too long": ("1" + "+0" * 5000, "1", 0),
}


@pytest.mark.parametrize(("said", "right", "expected"), MATHS.values(), ids=MATHS)
def test_math(said: str, right: str, expected: float) -> None:
    assert judged(math_equal, said, right) == expected


def child() -> subprocess.Popen[bytes]:
    process = math_equality._CHILD._process  # the test is about the process itself
    assert process is not None
    return process


@pytest.fixture
def started() -> Iterator[None]:
    """The child runs, and no verdict is remembered."""
    math_equality.verified.cache_clear()
    assert math_equality.is_equal("y+1", "1+y", 30.0)
    yield
    math_equality.verified.cache_clear()


@pytest.mark.usefixtures("started")
def test_a_deadline_counts_processor_time() -> None:
    os.killpg(child().pid, signal.SIGSTOP)
    waking = threading.Timer(1.5, os.killpg, (child().pid, signal.SIGCONT))
    waking.start()
    assert math_equality.verified(r"\frac{3}{4}", "0.75", seconds=1.0)
    waking.join()


@pytest.mark.usefixtures("started")
def test_a_child_that_is_silent_is_replaced() -> None:
    before = child()
    os.killpg(before.pid, signal.SIGSTOP)
    assert not math_equality.verified(r"\frac{3}{4}", "0.75", seconds=0.1)
    assert before.poll() == -signal.SIGKILL
    assert math_equality.verified(r"\frac{2}{8}", "0.25", seconds=30.0)


@pytest.mark.usefixtures("started")
def test_a_hanging_expression_ends_at_the_deadline_and_the_next_one_works() -> None:
    before = child()
    start = time.monotonic()
    assert judged(math_equal, HANG, "7", seconds=0.3) == 0.0
    assert time.monotonic() - start < 5.0, "the deadline, and the time to kill it on a busy machine"
    assert judged(math_equal, "0.5", r"\frac{1}{2}", seconds=30.0) == 1.0
    assert child() is before, "sympy is not loaded again"


@pytest.mark.usefixtures("started")
def test_threads_share_one_child() -> None:
    before = child()
    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(lambda i: judged(math_equal, f"{i}+x", f"x+{i % 7}", seconds=30.0), range(24)))
    assert verdicts == [float(i < 7) for i in range(24)]
    assert child() is before


@pytest.mark.usefixtures("started")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork_the_child_has_a_child_of_its_own() -> None:
    before = child()
    lock = math_equality._CHILD._lock
    with lock:  # as if another thread were asking
        pid = os.fork()
        if pid == 0:
            is_right = math_equality.verified("z+2", "2+z", 60.0) and child().pid != before.pid
            math_equality._CHILD.stop()
            os._exit(0 if is_right else 1)
    deadline = time.monotonic() + 60
    while not (ended := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert ended == (pid, 0)
    assert math_equality.verified("z+3", "3+z", 30.0), "the parent's child lives"
    assert child() is before


def test_a_busy_child_that_nobody_kills_ends_itself() -> None:
    """Its parent was killed while it was inside one long multiplication: no Python handler would run there."""
    command = [sys.executable, "-m", "verl_visionr1.criteria.math_worker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
        question = {"predicted": f"${HANG}$", "gold": "7", "cpu_seconds": 0.1, "wall_seconds": 9.0, "as_written": False}
        worker.stdin.write(json.dumps(question).encode() + b"\n")
        worker.stdin.close()
        assert worker.wait(timeout=20) == 0
        assert worker.stdout.read() == b"0\n"


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    math_equality.require_library.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"math: needs math-verify: pip install 'verl-visionr1\[text\]'"):
        judged(math_equal, "3", "3")
    for seconds in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="seconds"):
            judged(math_equal, "3", "3", seconds=seconds)


def test_a_child_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    math_equality._CHILD.stop()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(math_equality.WorkerError, match="did not start"):
        math_equality.verified("x+9", "9+x", 1.0)


UNASKED = {"words": ("tac", "cat"), "numbers": ("3", "4"), "deep": ("{" * 30, "1"), "long": ("1" + "+0" * 5000, "1")}


@pytest.mark.parametrize(("said", "right"), UNASKED.values(), ids=UNASKED)
def test_what_needs_no_child(said: str, right: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_equality, "_CHILD", None)
    assert judged(math_equal, said, right) == 0.0
    assert judged(math_equal, said, said) == 1.0


def test_nothing_is_loaded_before_it_is_needed() -> None:
    code = (
        "import sys; from verl_visionr1 import Target, score; "
        "target = Target(task='text', answer='3'); "
        "assert score('3.0', target, preset='math').value == 1.0; "
        "assert not {'sympy', 'math_verify', 'rapidfuzz'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


ODD_MATHS = [
    *["\ud800$1$", "\0 1", "1e400", "1/0"],
    *["$" * 50, r"\frac" * 50, "{" * 500, "(" * 300 + ")" * 300, "=" * 99, "\\(" * 40],
]


@pytest.mark.parametrize("text", ODD_MATHS)
def test_odd_mathematics_is_judged(text: str) -> None:
    assert score(text, target("0.5"), preset="math").metrics["correct"] == 0.0
