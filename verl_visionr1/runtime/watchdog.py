"""End a run that has lost a process or has stalled, with one line that names the process.

verl 0.9.1 does not monitor its processes. A death may be noticed at once (a caller gets an error), late, or never:

    dies                       without the watchdog
    agent-loop worker          its prompts stay "running": the trainer waits for them forever
    vLLM server, its engine    its prompts and all later ones fail; the trainer continues with the rest,
                               or stops; sending it new weights waits forever
    training worker, node      as above, depending on what ran on it

`Watchdog` polls all of them from a thread of the trainer's process, and raises in the trainer when it next looks for
rollouts; if the trainer hangs elsewhere, its process is ended.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from omegaconf import DictConfig
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError

from verl_visionr1.plugin.config import PREFIX, ConfigError
from verl_visionr1.plugin.extensions import Extension

EVERY_SECONDS = 5.0
"""Seconds between polls."""
GRACE_SECONDS = 20.0
"""Seconds for the trainer to notice a loss by itself; then its process is ended."""


class LostError(RuntimeError):
    """A process of the run is lost, or the run has stalled."""


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process's answer to a poll; `is_sound` is false for a vLLM server whose engine is dead."""

    address: str
    pid: int
    is_sound: bool = True

    def __str__(self) -> str:
        return f"node {self.address}, process {self.pid}"


def process_info(actor: Any) -> ProcessInfo:
    """Answer a poll; called in the process of an actor."""
    engine = getattr(actor, "engine", None)  # attribute of verl's vLLMHttpServer
    return ProcessInfo(ray.util.get_node_ip_address(), os.getpid(), not getattr(engine, "errored", False))


class Watchdog:
    """Monitors the processes of a run.

    Args:
        actors: name -> Ray handle.
        grace_seconds: time after a loss until this process is ended, unless it ends by itself.
    """

    def __init__(
        self,
        actors: Mapping[str, Any],
        *,
        every_seconds: float = EVERY_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.actors = dict(actors)
        self.every_seconds = every_seconds
        self.grace_seconds = grace_seconds
        self.say = say or _say
        self.lost: str | None = None
        self.places: dict[str, ProcessInfo] = {}
        self._asked: dict[str, Any] = {}
        self._n_failed = 0
        self._said: set[str] = set()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="visionr1-watchdog", daemon=True)

    def start(self) -> None:
        """Start polling; a second call does nothing."""
        if self._thread.ident is None:
            self._poll_and_report()
            self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()

    def raise_if_lost(self, n_failed: int = 0) -> None:
        """Raise `LostError` if a process is lost; called by the trainer while it waits.

        Args:
            n_failed: prompts whose rollouts have failed; the first triggers a poll.
        """
        had_failed, self._n_failed = self._n_failed > 0, n_failed
        if n_failed and not had_failed:
            self.insist()
        if self.lost:
            raise LostError(self.lost)

    def insist(self, seconds: float = 2.0) -> None:
        """Poll for some seconds and raise `LostError` if a process is lost; called by the trainer after a failure."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._poll_and_report()
            self.raise_if_lost()
            time.sleep(0.1)

    def _poll_and_report(self) -> None:
        with self._lock:
            if self.lost:
                return
            try:
                self.lost = self.ask()
            except Exception as error:  # noqa: BLE001 - a failing watchdog must not end the run
                self._say_once(f"visionr1: the watchdog could not poll: {type(error).__name__}: {error}")
            if self.lost:
                self.say(f"visionr1: {self.lost}; start the run again to resume from the last checkpoint")

    def _say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self.say(line)

    def ask(self) -> str | None:
        """Poll once: what is lost, or None. A busy process answers in a later round."""
        for name, actor in self.actors.items():
            if name not in self._asked:
                self._asked[name] = actor.__ray_call__.remote(process_info)
            done, _ = ray.wait([self._asked[name]], timeout=0)
            if not done:
                continue
            try:
                place: Any = ray.get(self._asked.pop(name))
            except ActorUnavailableError:
                continue  # unreachable for now
            except ActorDiedError as error:
                return f"lost {self._called(name)}: {_reason(str(error))}"
            except RayError as error:  # an error of Ray does not mean that it is lost
                self._say_once(f"visionr1: {name} does not answer: {type(error).__name__}")
                continue
            if not place.is_sound:
                return f"lost the engine of {self._called(name)}"
            if name not in self.places:
                self.say(f"visionr1: {name}: {place}")
            self.places[name] = place
        return None

    def _called(self, name: str) -> str:
        return f"{name} ({self.places[name]})" if name in self.places else name

    def _watch(self) -> None:
        while not self._stopped.wait(self.every_seconds):
            self._poll_and_report()
            if self.lost and not self._stopped.wait(self.grace_seconds):
                os._exit(1)


class ProcessWatch(Extension):
    """The watchdog of `+visionr1@_global_=watchdog`.

    Args:
        stall_minutes: the run ends if no rollout arrives for this long while the trainer waits for some; None: no
            limit.
        grace_seconds: time for the trainer to notice a loss by itself; then its process is ended.

    Raises:
        ConfigError: a time that is not above 0.
    """

    def __init__(
        self, config: DictConfig, *, stall_minutes: float | None = 60.0, grace_seconds: float = GRACE_SECONDS
    ) -> None:
        super().__init__(config)
        for name, value in (("stall_minutes", stall_minutes), ("grace_seconds", grace_seconds)):
            if value is not None and value <= 0:
                raise ConfigError(f"{PREFIX}.extensions.watchdog.{name}={value:g}: needs a time above 0, or null")
        self.stall_minutes = stall_minutes
        self.grace_seconds = grace_seconds
        self.watchdog: Watchdog | None = None
        self.seen, self.since = "", time.monotonic()

    def before_wait(self, trainer: Any) -> None:
        """Start the watchdog at the first wait; each wait has its own time limit."""
        if self.watchdog is None:
            self.watchdog = watching(trainer, self.grace_seconds)
        self.seen, self.since = "", time.monotonic()

    def while_waiting(self, n_failed: int, state: str) -> None:
        """Check once that the run is alive: `LostError` if a process is lost, or nothing has arrived for too long."""
        if self.watchdog is not None:
            self.watchdog.raise_if_lost(n_failed)
        now = time.monotonic()
        if state != self.seen:
            self.seen, self.since = state, now
        elif self.stall_minutes is not None and now - self.since > 60 * self.stall_minutes:
            raise LostError(f"nothing has arrived for {self.stall_minutes:g} minutes: {state}")

    @contextmanager
    def around_wait(self) -> Iterator[None]:
        """Replace verl's error about failed rollouts by `LostError` if a process is lost."""
        try:
            yield
        except RuntimeError:
            if self.watchdog is not None:
                self.watchdog.insist()
            raise


def watching(trainer: Any, grace_seconds: float = GRACE_SECONDS) -> Watchdog:
    """Start a watchdog over all processes of a trainer; over none if they cannot be listed."""
    try:
        actors = actors_of(trainer)
    except Exception as error:  # noqa: BLE001 - a run without a watchdog is better than none
        _say(f"visionr1: no watchdog: cannot list the processes of this trainer ({type(error).__name__}: {error})")
        actors = {}
    watchdog = Watchdog(actors, grace_seconds=grace_seconds)
    watchdog.start()
    return watchdog


_GROUPS = {"actor_rollout_wg": "training worker", "critic_wg": "critic", "ref_policy_wg": "reference"}


def actors_of(trainer: Any) -> dict[str, Any]:
    """The processes that verl's trainer needs: name -> Ray handle; without reward workers, which are replaced."""
    found = {
        f"{name} {rank}": actor
        for group, name in _GROUPS.items()
        for rank, actor in enumerate(getattr(getattr(trainer, group, None), "workers", ()))
    }
    # "separate_async" also generates on servers of its own
    managers = (trainer.llm_server_manager, getattr(trainer, "standalone_server_manager", None))
    replicas = [replica for manager in managers if manager is not None for replica in manager.get_replicas()]
    for number, replica in enumerate(replicas):
        for part, actor in enumerate(replica.servers):
            found[f"vLLM server {number}" + (f".{part}" if part else "")] = actor
    for number, actor in enumerate(getattr(trainer.agent_loop_manager, "agent_loop_workers", ())):
        found[f"agent-loop worker {number}"] = actor
    names = {actor._actor_id: name for name, actor in reversed(found.items())}  # one name for each actor, the first
    return {name: actor for name, actor in found.items() if names[actor._actor_id] == name}


def _reason(message: str) -> str:
    """Extract from Ray's message why an actor died.

    >>> _reason("class_name: A\\nThe actor is dead because its node has died. Node Id: 12ab")
    'its node has died'
    """
    found = re.search(r"The actor is dead because (.+?)(?:\.\s|$)", message, re.MULTILINE)
    return found[1].rstrip(".") if found else "it died"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - Ray shows what an actor prints
