"""Call a reward safely: record what it returned or raised, how long it took, and whether it hung.

Other people's code runs in a separate process. A hang that no thread could end (a backtracking pattern, a huge power)
ends with the process, and the code's output stays there.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as LateError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TypeAlias

from verl_visionr1.targets import Target
from verl_visionr1.tools.audit.battery import EVALUATED
from verl_visionr1.tools.audit.callables import AuditError, Facts, Loaded, Reward, Subject, load

MAX_LOST = 6
"""After this many calls that hung or ended the process, no more are made."""
START_SECONDS = 120.0
"""Time limit for importing a subject."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of one call.

    Attributes:
        value, error: the reward, or why there is none: the exception in one line, or what happened to the process.
        evaluated: whether the completion was run as Python.
        is_lost, is_made: whether it never returned; whether the call was made.
    """

    value: float | None
    error: str = ""
    ms: float = 0.0
    evaluated: bool = False
    is_lost: bool = False
    is_made: bool = True


def call(reward: Reward, completion: str, target: Target, clock: Callable[[], float] = time.perf_counter) -> Outcome:
    """Call a reward in this process; `clock` returns the time in seconds."""
    os.environ.pop(EVALUATED, None)
    value, error, start = None, "", clock()
    try:
        value = reward(completion, target)
    except KeyboardInterrupt:
        raise
    except BaseException as raised:  # noqa: BLE001 SystemExit too: code under audit may do anything
        error = f"{type(raised).__name__}: {raised}"[:200].replace("\n", " ")
    return Outcome(value, error, (clock() - start) * 1000.0, os.environ.pop(EVALUATED, None) is not None)


class Here:
    """Calls a subject in this process."""

    def __init__(self, loaded: Loaded) -> None:
        self._reward, self.facts = loaded.reward, loaded.facts
        # CPU time, which other programs do not change: a preset waits only for what has its own deadline.
        self._clock = time.thread_time if loaded.facts.kind == "preset" else time.perf_counter

    def __call__(self, completion: str, target: Target) -> Outcome:
        """Call the subject once."""
        return call(self._reward, completion, target, self._clock)

    def close(self) -> None:
        """Do nothing: there is no process to end."""


class Isolated:
    """Calls a subject in a separate process, which is restarted when it hangs or dies."""

    def __init__(self, subject: Subject, deadline_s: float) -> None:
        self._subject, self._deadline_s, self._n_lost = subject, deadline_s, 0
        self._pool, self._pid, self.facts = self._start()

    def __call__(self, completion: str, target: Target) -> Outcome:
        """Call the subject once; the call is lost after the deadline."""
        if self._n_lost >= MAX_LOST:
            return Outcome(None, "not called", is_made=False)
        try:
            return self._pool.submit(_call_loaded, completion, target.to_json()).result(self._deadline_s)
        except LateError:
            error = f"no result after {self._deadline_s:g} s"
        except BrokenProcessPool:
            error = "its process ended"
        self._n_lost += 1
        self.close()
        if self._n_lost < MAX_LOST:
            self._pool, self._pid, _ = self._start()
        return Outcome(None, error, is_lost=True)

    def _start(self) -> tuple[ProcessPoolExecutor, int, Facts]:
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        with _without_main():
            pid = pool.submit(os.getpid).result(START_SECONDS)
        try:
            facts = pool.submit(_load, self._subject).result(START_SECONDS)
        except LateError:
            facts = f"not loaded after {START_SECONDS:g} s"
        except BrokenProcessPool:
            facts = "its process ended while it was loaded"
        if isinstance(facts, str):
            _end(pool, pid)
            raise AuditError(facts)
        return pool, pid, facts

    def close(self) -> None:
        """End the process."""
        _end(self._pool, self._pid)


def _end(pool: ProcessPoolExecutor, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    pool.shutdown()


Runner: TypeAlias = Here | Isolated


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keep a spawned process from running the caller's main module again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = type(main)("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


# In the other process:

_loaded: list[Loaded] = []


def _load(subject: Subject) -> Facts | str:
    """Load the subject without output; return the reason if that fails."""
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    try:
        _loaded[:] = [load(subject)]
    except Exception as error:  # noqa: BLE001 reported to the caller, whatever it is
        return str(error) or type(error).__name__
    return _loaded[0].facts


def _call_loaded(completion: str, target: str) -> Outcome:
    return call(_loaded[0].reward, completion, Target.from_json(target))
