"""Running means of scores, and their spread within prompt groups: aggregates only, whatever the number of rows."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import msgspec

from verl_visionr1.rewards import Score
from verl_visionr1.rewards.completion import BOX_METRICS, BOX_TASKS

SAME = 1e-9
"""Rewards that differ by no more are equal: such a difference is rounding, and teaches nothing."""


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """What the scores of some rows come to.

    Attributes:
        n: rows.
        reward: mean reward.
        metrics: mean of each criterion and common metric, over the rows whose preset has it.
        unreadable: share of the completions in which no answer could be read.
        n_groups: prompts with at least two rollouts; the numbers below are over them, None where there are none.
        spread: mean over the groups of the standard deviation of their rewards (divided by n, as in training's
            `visionr1/group_std/mean`).
        no_gradient: share of groups whose rewards are all equal: their advantages are 0.
        no_gradient_reward: mean reward of those groups: near 0 they are too hard, near 1 too easy.
    """

    n: int
    reward: float
    metrics: dict[str, float]
    unreadable: float
    n_groups: int
    spread: float | None
    no_gradient: float | None
    no_gradient_reward: float | None


class _Sums:
    """Sums over the rows of one source and task."""

    __slots__ = ("metrics", "n", "value")

    def __init__(self) -> None:
        self.n = 0
        self.value = 0.0
        self.metrics: dict[str, float] = {}


class _Group:
    """Mean and squared deviation of one prompt's rewards (Welford), and their range."""

    __slots__ = ("deviation", "high", "low", "mean", "n", "source")

    def __init__(self, source: str, value: float) -> None:
        self.source = source
        self.n = 1
        self.mean = self.low = self.high = value
        self.deviation = 0.0

    def add(self, value: float) -> None:
        self.n += 1
        delta = value - self.mean
        self.mean += delta / self.n
        self.deviation += delta * (value - self.mean)
        self.low = min(self.low, value)
        self.high = max(self.high, value)


class Tally:
    """Takes scores one by one; rows of a group need not follow each other.

    >>> tally = Tally()
    >>> for value in (0.0, 1.0):
    ...     tally.add("coco", "prompt 1", "detection", Score(value, {"parsed": 1.0}))
    >>> tally.numbers().reward, tally.numbers().spread
    (0.5, 0.5)
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], _Sums] = {}
        self._groups: dict[Hashable, _Group] = {}

    def add(self, source: str, group: Hashable, task: str, score: Score) -> None:
        """Take one score; rows of one task are judged by one preset, and so have the same metrics."""
        sums = self._sums.get((source, task))
        if sums is None:
            sums = self._sums[source, task] = _Sums()
        sums.n += 1
        sums.value += score.value
        totals = sums.metrics
        if totals:
            for name, number in score.metrics.items():
                totals[name] += number
        else:
            totals.update(score.metrics)
        known = self._groups.get(group)
        if known is None:
            self._groups[group] = _Group(source, score.value)
        else:
            known.add(score.value)

    @property
    def sources(self) -> list[str]:
        """The data sources seen, in order."""
        return list(dict.fromkeys(source for source, _ in self._sums))

    def numbers(self, source: str | None = None) -> Numbers:
        """The means of one data source, or of all rows."""
        parts = [(task, sums) for (name, task), sums in self._sums.items() if source is None or name == source]
        groups = [g for g in self._groups.values() if g.n > 1 and (source is None or g.source == source)]
        metrics: dict[str, list[float]] = {}
        for task, part in parts:
            for name, total in part.metrics.items():
                if name in BOX_METRICS and task not in BOX_TASKS:
                    continue  # 0 there, and means nothing
                both = metrics.setdefault(name, [0.0, 0.0])
                both[0] += total
                both[1] += part.n
        n = sum(part.n for _, part in parts)
        means = {name: total / count for name, (total, count) in metrics.items()}
        return Numbers(
            n=n,
            reward=sum(part.value for _, part in parts) / n if n else 0.0,
            metrics=means,
            unreadable=1.0 - means.get("parsed", 1.0),
            **_spreads(groups),
        )

    def grouping_hints(self, n_by_text: int) -> list[str]:
        """Say where prompt groups may be larger than the run's, and what tells prompts apart.

        Args:
            n_by_text: see `rollouts.Counts`.
        """
        sizes = [group.n for group in self._groups.values()]
        if not n_by_text or max(sizes) == 1:
            return []
        found = f"{n_by_text} rows have no uid, index or image: those of one prompt and ground truth are one group"
        ranges = f"{len(sizes)} groups of {min(sizes)} to {max(sizes)} rows"
        named = "--column uid=NAME, index=NAME or image=NAME names the column that tells prompts apart"
        return [f"{found} ({ranges}), which may be larger than the samples a prompt; {named}"]


def _spreads(groups: list[_Group]) -> dict[str, Any]:
    dead = [group.mean for group in groups if group.high - group.low <= SAME]
    n = len(groups)
    return {
        "n_groups": n,
        "spread": sum(math.sqrt(max(group.deviation, 0.0) / group.n) for group in groups) / n if n else None,
        "no_gradient": len(dead) / n if n else None,
        "no_gradient_reward": sum(dead) / len(dead) if dead else None,
    }
