"""Calling a reward and surviving it: what it returned or raised, how long it took, whether it came back at all.

Other people's code runs in a process of its own: a hang that no thread could end (a pattern that backtracks, a huge
power) ends with the process, and what the code prints stays there.
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
from verl_visionr1.tools.audit.callables import AuditError, Facts, Loaded, Reward, Subject, load
from verl_visionr1.tools.audit.probes import EVALUATED

MAX_LOST = 6
"""After so many calls that hung or ended the process, no more are made."""
START_SECONDS = 120.0
"""Time in which a subject must be imported."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one call.

    Attributes:
        value: the reward; None if there is none.
        error: why not: the exception in one line, or what happened to the process.
        ms: wall milliseconds.
        evaluated: whether the completion was run as Python.
        is_lost: it never came back.
        is_made: False where the call was not made any more.
    """

    value: float | None
    error: str = ""
    ms: float = 0.0
    evaluated: bool = False
    is_lost: bool = False
    is_made: bool = True


def call(reward: Reward, completion: str, target: Target, clock: Callable[[], float] = time.perf_counter) -> Outcome:
    """Call a reward in this process; `clock` gives the time in seconds."""
    os.environ.pop(EVALUATED, None)
    start = clock()
    value, error = None, ""
    try:
        value = reward(completion, target)
    except KeyboardInterrupt:
        raise
    except BaseException as raised:  # noqa: BLE001 SystemExit too: code under audit may do anything
        error = f"{type(raised).__name__}: {raised}"[:200].replace("\n", " ")
    ms = (clock() - start) * 1000.0
    return Outcome(value, error, ms, os.environ.pop(EVALUATED, None) is not None)


class Here:
    """Calls a subject in this process."""

    def __init__(self, loaded: Loaded) -> None:
        self._reward = loaded.reward
        self.facts = loaded.facts
        # A preset never waits, but for what has a deadline: its CPU time, which other programs do not change.
        self._clock = time.thread_time if loaded.facts.kind == "preset" else time.perf_counter

    def __call__(self, completion: str, target: Target) -> Outcome:
        """Call it once."""
        return call(self._reward, completion, target, self._clock)

    def close(self) -> None:
        """Nothing to end."""


class Isolated:
    """Calls a subject in a process of its own, which is started again when it hangs or dies.

    Raises:
        AuditError: the subject cannot be loaded; the message says why.
    """

    def __init__(self, subject: Subject, deadline_s: float) -> None:
        self._subject, self._deadline_s = subject, deadline_s
        self._n_lost = 0
        self.facts = self._start()

    def __call__(self, completion: str, target: Target) -> Outcome:
        """Call it once; it is lost after the deadline."""
        if self._n_lost >= MAX_LOST:
            return Outcome(None, "not called", is_made=False)
        if self._pool is None:
            self._start()
        assert self._pool is not None
        try:
            return self._pool.submit(_call_loaded, completion, target.to_json()).result(self._deadline_s)
        except LateError:
            error = f"no result after {self._deadline_s:g} s"
        except BrokenProcessPool:
            error = "its process ended"
        self._n_lost += 1
        self.close()
        return Outcome(None, error, is_lost=True)

    def _start(self) -> Facts:
        self._pool: ProcessPoolExecutor | None = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        with _without_main():
            self._pid = self._pool.submit(os.getpid).result(START_SECONDS)
        try:
            facts = self._pool.submit(_load, self._subject).result(START_SECONDS)
        except LateError:
            facts = f"not loaded after {START_SECONDS:g} s"
        except BrokenProcessPool:
            facts = "its process ended while it was loaded"
        if isinstance(facts, str):
            self.close()
            raise AuditError(facts)
        return facts

    def close(self) -> None:
        """End the process."""
        if self._pool is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._pool.shutdown()
        self._pool = None


Runner: TypeAlias = Here | Isolated
"""Something that calls a subject."""


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keep a spawned process from running the caller's main module again; it needs nothing of it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = type(main)("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


# --- in the other process --------------------------------------------------------------------------------------------

_loaded: list[Loaded] = []


def _load(subject: Subject) -> Facts | str:
    """Load the subject, in silence; why not, where it cannot be loaded."""
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
