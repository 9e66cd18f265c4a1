"""Reward workers that may die: the rest take over, and a new one takes the place of each that is lost.

verl starts `reward.num_workers` of them, once, and hands them to the agent-loop workers. When one dies there, each
rollout that is sent to it fails: of 8 workers one dead costs every eighth rollout for the rest of training, without a
word but in the log. A rule reward has no state, so a rollout can be judged by any worker, and again.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from ray.exceptions import ActorDiedError, ActorUnavailableError

from verl_visionr1.plugin.extensions import Extension

MAX_LOSSES = 3
"""New workers for one place; after that something is wrong with the rows, the criteria or the machine."""
MAX_TRIES = 8
"""For one rollout."""
AGAIN_SECONDS = 1.0
"""Between two tries where a worker cannot be reached: a break of the network takes seconds."""


class RewardLostError(RuntimeError):
    """The workers keep dying."""


class RewardWorkers:
    """Stands for all reward workers where verl takes one of them by `handle.compute_score.remote(data)`.

    Args:
        make: makes one for a place, as often as asked by the same name: `make("reward_worker_0_again_1")`. Several
            agent-loop workers may ask.
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
        """What some worker makes of one trajectory.

        Raises:
            RewardLostError: the workers keep dying.
        """
        for _ in range(MAX_TRIES):
            place = random.randrange(len(self.workers))
            worker = self.workers[place]
            try:
                return await worker.compute_score.remote(data)
            except ActorUnavailableError:
                await asyncio.sleep(self.again_seconds)  # out of reach for now
            except ActorDiedError:
                self._replace(place, worker)
        raise RewardLostError(f"a rollout met {MAX_TRIES} reward workers that died or could not be reached")

    def _replace(self, place: int, lost: Any) -> None:
        if self.workers[place] is not lost:
            return  # another rollout has met it
        self.losses[place] += 1
        if self.losses[place] > MAX_LOSSES:
            _say(f"visionr1: reward worker {place} died {MAX_LOSSES + 1} times; see its log")
            raise RewardLostError(f"reward worker {place} died {MAX_LOSSES + 1} times")
        _say(f"visionr1: lost reward worker {place}; a new one takes its place")
        self.workers[place] = self.make(f"reward_worker_{place}_again_{self.losses[place]}")


class MakeRewardWorker:
    """Makes verl's reward worker for a config; can be sent to other processes."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def __call__(self, name: str) -> Any:
        """The worker of that name: there already, or new."""
        import ray
        from verl.experimental.reward_loop.reward_loop import RewardLoopWorker

        options = ray.remote(RewardLoopWorker).options(name=name, get_if_exists=True)
        return options.remote(self.config, None)


class ReplaceWorkers(Extension):
    """Reward workers that are replaced, as `+visionr1@_global_=replace_workers` names it."""

    def reward_workers(self, workers: list[Any] | None) -> list[Any] | None:
        """One object in the place of verl's handles; a reward model, which has a state, keeps verl's own."""
        if not workers or self.config.reward.reward_model.enable:
            return workers
        return [RewardWorkers(workers, MakeRewardWorker(self.config))]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - Ray shows what an actor prints
