"""Replace reward workers that die; meanwhile the others take over.

verl starts `reward.num_workers` of them once. When one dies, each rollout sent to it fails for the rest of training,
visible only in the log. A rule reward has no state, so any worker can score a rollout, also repeatedly.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ray.exceptions import ActorDiedError, ActorUnavailableError

from verl_visionr1.plugin.extensions import Extension

MAX_LOSSES = 3
"""Most replacements of one worker; then the rows, the criteria or the machine are at fault."""
MAX_TRIES = 8
"""Most tries per rollout."""
AGAIN_SECONDS = 1.0
"""Seconds between two tries with an unreachable worker: network failures take seconds."""


class RewardLostError(RuntimeError):
    """The workers keep dying."""


class RewardWorkers:
    """Represents all reward workers; has verl's call of one, `handle.compute_score.remote(data)`.

    Args:
        make: makes or finds the worker of a name, `make("reward_worker_0_again_1")`; several agent-loop workers may
            call it with the same name.
    """

    def __init__(
        self, workers: Sequence[Any], make: Callable[[str], Any], *, again_seconds: float = AGAIN_SECONDS
    ) -> None:
        self.workers = list(workers)
        self.make = make
        self.again_seconds = again_seconds
        self.losses: Counter[int] = Counter()

    @property
    def compute_score(self) -> RewardWorkers:
        """An object with `remote`."""
        return self

    async def remote(self, data: Any) -> Any:
        """Score one trajectory with some worker.

        Raises:
            RewardLostError: the workers keep dying.
        """
        for _ in range(MAX_TRIES):
            place = random.randrange(len(self.workers))
            worker = self.workers[place]
            try:
                return await worker.compute_score.remote(data)
            except ActorUnavailableError:
                await asyncio.sleep(self.again_seconds)  # unreachable for now
            except ActorDiedError:
                self._replace(place, worker)
        raise RewardLostError(f"one rollout was given up after {MAX_TRIES} tries: reward workers died or vanished")

    def _replace(self, place: int, lost: Any) -> None:
        if self.workers[place] is not lost:
            return  # replaced for another rollout
        self.losses[place] += 1
        if self.losses[place] > MAX_LOSSES:
            raise RewardLostError(f"reward worker {place} died {MAX_LOSSES + 1} times; see its log")
        print(f"visionr1: lost reward worker {place}; starting a new one", file=sys.stderr, flush=True)  # noqa: T201
        self.workers[place] = self.make(f"reward_worker_{place}_again_{self.losses[place]}")


def make_reward_worker(config: Any, name: str) -> Any:
    """verl's reward worker of that name, existing or new."""
    import ray
    from verl.experimental.reward_loop.reward_loop import RewardLoopWorker

    return ray.remote(RewardLoopWorker).options(name=name, get_if_exists=True).remote(config, None)


class ReplaceWorkers(Extension):
    """Replacement of reward workers, for `+visionr1@_global_=replace_workers`."""

    def reward_workers(self, workers: list[Any] | None) -> list[Any] | None:
        """Replace verl's handles with one object; with a reward model, which has state, keep verl's own."""
        if not workers or self.config.reward.reward_model.enable:
            return workers
        return [RewardWorkers(workers, partial(make_reward_worker, self.config))]
