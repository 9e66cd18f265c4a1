"""Calling a reward and surviving it: what it returned or raised, how long it took, whether it came back at all.

Other people's code runs in a process of its own: a hang that no thread could end (a pattern that backtracks, a huge
power) is ended with the process, and what the code prints stays there.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

from verl_visionr1.targets import Target
from verl_visionr1.tools.audit.callables import AuditError, Facts, Loaded, Reward, Subject, load
from verl_visionr1.tools.audit.probes import EVALUATED

MAX_LOST = 6
"""After so many calls that hung or ended the process, no more are made."""
START_SECONDS = 120.0
"""What a subject may take to be imported."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one call.

    Attributes:
        value: the reward; None if there is none.
        error: why not: the exception in one line, or what became of the process.
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


class Runner(Protocol):
    """Something that calls a subject."""

    @property
    def facts(self) -> Facts:
        """What is known of the subject."""
        ...

    def __call__(self, completion: str, target: Target) -> Outcome:
        """Call it once."""
        ...


def call(reward: Reward, completion: str, target: Target, clock: Callable[[], float] = time.perf_counter) -> Outcome:
    """Call a reward here and now; `clock` says in seconds what time it takes."""
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


class Patient:
    """Calls a subject until too many calls are lost."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._n_lost = 0
        self.facts = runner.facts

    def __call__(self, completion: str, target: Target) -> Outcome:
        """Call it once, if it is worth it."""
        if self._n_lost >= MAX_LOST:
            return Outcome(None, "not called", is_made=False)
        outcome = self._runner(completion, target)
        self._n_lost += outcome.is_lost
        return outcome


class Isolated:
    """Calls a subject in a process of its own, which is started again when it hangs or dies.

    Raises:
        AuditError: the subject cannot be loaded; the message says why.
    """

    def __init__(self, subject: Subject, deadline_s: float) -> None:
        self._subject, self._deadline_s = subject, deadline_s
        self._process: Any = None
        self._connection: Connection | None = None
        self.facts = self._start()

    def __call__(self, completion: str, target: Target) -> Outcome:
        """Call it once; it is lost after the deadline."""
        if self._connection is None:
            self._start()
        assert self._connection is not None
        try:
            self._connection.send((completion, target.to_json()))
            if self._connection.poll(self._deadline_s):
                return self._connection.recv()
            error = f"no result after {self._deadline_s:g} s"
        except (EOFError, OSError):
            error = "its process ended"
        self.close()
        return Outcome(None, error, is_lost=True)

    def _start(self) -> Facts:
        context = multiprocessing.get_context("spawn")
        self._connection, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, self._subject), daemon=True)
        with _without_main():
            self._process.start()
        there.close()
        first = _first_word(self._connection)
        if not isinstance(first, Facts):
            self.close()
            raise AuditError(first)
        return first

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None


def _first_word(connection: Connection) -> Facts | str:
    try:
        return connection.recv() if connection.poll(START_SECONDS) else f"not loaded after {START_SECONDS:g} s"
    except (EOFError, OSError):
        return "its process ended while it was loaded"


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keep a spawned process from running the caller's main module again; it needs nothing of it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = type(main)("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _serve(connection: Connection, subject: Subject) -> None:
    """The other process: load the subject, then judge what comes."""
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    try:
        loaded = load(subject)
    except Exception as error:  # noqa: BLE001 told to the caller, whatever it is
        connection.send(str(error) or type(error).__name__)
        return
    connection.send(loaded.facts)
    while True:
        completion, target = connection.recv()
        connection.send(call(loaded.reward, completion, Target.from_json(target)))
