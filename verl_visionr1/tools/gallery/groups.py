"""The rollouts of one prompt side by side: how far their rewards differ, and what GRPO makes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from verl_visionr1.rollouts.judged import groups_of
from verl_visionr1.rollouts.judging import EQUAL

EPSILON = 1e-6
"""Added to the standard deviation, as verl's `compute_grpo_outcome_advantage` does."""

LEAST_LOSS = 0.05
"""A smaller loss of quality under a higher reward is not worth a look."""


@dataclass(frozen=True, slots=True)
class GroupNumbers:
    """What the rewards of one prompt's rollouts come to.

    Attributes:
        saved, values, qualities: see `numbers_of`.
        rewards: those that the run gave, where it gave one to each; else the recomputed ones.
        std: their standard deviation, divided by n - 1 as in verl's GRPO; 0.0 for one rollout.
        advantages: (reward - mean) / (std + `EPSILON`), one a rollout; empty for one rollout, which has none.
        is_flat: several rollouts, all of one reward: they teach nothing.
        against: by how much the quality falls, at most, from one rollout to another whose reward is higher; 0.0 below
            `LEAST_LOSS`.
        misled: numbers of the rollouts that have such another: rewarded above one that is better.
    """

    saved: Sequence[float | None]
    values: Sequence[float]
    qualities: Sequence[float]
    rewards: tuple[float, ...]
    is_saved: bool
    mean: float
    std: float
    advantages: tuple[float, ...]
    is_flat: bool
    against: float
    misled: tuple[int, ...]


def numbers_of(saved: Sequence[float | None], values: Sequence[float], qualities: Sequence[float]) -> GroupNumbers:
    """The numbers of one group.

    Args:
        saved: n >= 1 rewards as the run gave them.
        values: the same, recomputed.
        qualities: n numbers in [0, 1] that no threshold moves: F1@.5 of boxes, else the task's accuracy.

    >>> group = numbers_of([None, None, None], [0.0, 0.5, 1.0], [0.9, 0.5, 0.2])
    >>> group.std, [round(advantage, 3) for advantage in group.advantages]
    (0.5, [-1.0, 0.0, 1.0])
    >>> round(group.against, 3), group.misled
    (0.7, (1, 2))
    """
    given = [reward for reward in saved if reward is not None]
    is_saved = len(given) == len(saved)
    rewards = tuple(given if is_saved else values)
    n = len(rewards)
    group = groups_of([0] * n, rewards)
    mean, std, is_flat = float(group.mean[0]), float(group.std[0]), bool(group.is_dead[0])
    against, misled = _against(rewards, qualities)
    return GroupNumbers(
        saved=saved,
        values=values,
        qualities=qualities,
        rewards=rewards,
        is_saved=is_saved,
        mean=mean,
        std=std,
        advantages=tuple(0.0 if is_flat else (reward - mean) / (std + EPSILON) for reward in rewards) * (n > 1),
        is_flat=is_flat,
        against=against,
        misled=misled,
    )


def _against(rewards: Sequence[float], qualities: Sequence[float]) -> tuple[float, tuple[int, ...]]:
    """The largest fall of quality under a rise of reward, and who gains by one; n log n, for groups may be large."""
    order = sorted(range(len(rewards)), key=rewards.__getitem__)
    largest, misled = 0.0, list[int]()
    best, start = -math.inf, 0
    while start < len(order):
        stop = start
        while stop < len(order) and rewards[order[stop]] - rewards[order[start]] <= EQUAL:
            stop += 1
        for i in order[start:stop]:
            if best - qualities[i] >= LEAST_LOSS:
                largest = max(largest, best - qualities[i])
                misled.append(i)
        best = max(best, *(qualities[i] for i in order[start:stop]))
        start = stop
    return largest, tuple(sorted(misled))
