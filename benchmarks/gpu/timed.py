"""Reward managers that report the time of each answer, for the benchmark's comparison.

    reward.reward_manager.source=importlib
    reward.reward_manager.module.path=/path/to/benchmarks/gpu/timed.py
    reward.reward_manager.name=visionr1             # or naive

The progress callback logs the number as `visionr1/reward_seconds/mean`; with `trainer.rollout_data_dir` it is also
dumped with each answer.
"""

from __future__ import annotations

import time
from typing import Any

from verl import DataProto
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager

from verl_visionr1.plugin.reward_manager import VisionR1RewardManager

KEY = "reward_seconds"
"""Key in `reward_extra_info`: wall time of `run_single`, in seconds. `TimedVisionR1` never waits, so this is its CPU
time; `TimedNaive` waits for the thread in which verl scores each answer."""


class TimedVisionR1(VisionR1RewardManager):
    """This project's manager."""

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """Score like the manager, and report the seconds."""
        started = time.perf_counter()
        result = await super().run_single(data)  # type: ignore[reportAbstractUsage]  # it is not abstract there
        result["reward_extra_info"][KEY] = time.perf_counter() - started
        return result


class TimedNaive(NaiveRewardManager):
    """verl's own manager: decodes the answer and calls `reward.custom_reward_function`."""

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """Score like the manager, and report the seconds."""
        started = time.perf_counter()
        result = await super().run_single(data)  # type: ignore[reportAbstractUsage]  # it is not abstract there
        result["reward_extra_info"][KEY] = time.perf_counter() - started
        return result


visionr1, naive = TimedVisionR1, TimedNaive  # the names for reward.reward_manager.name


def constant_reward(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None, **_: Any) -> float:
    """A constant reward, for `TimedNaive`."""
    return 0.0
