"""Scored rollouts as one table of numbers.

A *prompt group* is the rollouts of one prompt at one step; its standard deviation is verl's (divided by n - 1:
`compute_grpo_outcome_advantage`).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verl_visionr1.rewards import Preset, Score
from verl_visionr1.rewards.completion import BOX_METRICS, BOX_TASKS
from verl_visionr1.rollouts.records import Rollout

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
SAME = 1e-9  # rewards that differ by at most this are equal: such a difference is rounding
DECIMALS = 12  # of means, so that noise of a sum does not decide how a tool rounds it
NO_STEP = -1
_WHOLE = ("dump", "step", "source", "task", "preset", "group")
_REAL = ("value", "saved", "n_tokens", "n_characters")


@dataclass(frozen=True, slots=True)
class Groups:
    """The G prompt groups of some rows.

    Attributes:
        first, n: number of the first row of each, and number of its rows.
        std: 0.0 for one row, and if all are equal.
        is_dead: several rows, all of one reward, so that their advantages are 0 (`frac_reward_zero_std`).
    """

    first: Ints
    n: Ints
    mean: Floats
    std: Floats
    is_dead: Mask

    def __len__(self) -> int:
        return len(self.n)

    @property
    def several(self) -> Mask:
        """Whether a group has at least two rows."""
        return self.n > 1


def groups_of(keys: Sequence[int] | Ints, rewards: Sequence[float] | Floats) -> Groups:
    """The groups of n rewards; `keys` has n whole numbers, equal for the rows of a group.

    >>> found = groups_of([0, 1, 0, 1], [0.0, 0.5, 1.0, 0.5])
    >>> found.mean.tolist(), found.std.round(3).tolist(), found.is_dead.tolist()
    ([0.5, 0.5], [0.707, 0.0], [False, True])
    """
    values = np.asarray(rewards, dtype=np.float64)
    _, first, member, n = np.unique(
        np.asarray(keys, dtype=np.int64), return_index=True, return_inverse=True, return_counts=True
    )
    mean = np.bincount(member, values) / n
    squares = np.bincount(member, (values - mean[member]) ** 2)
    ordered, ends = values[np.lexsort((values, member))], np.cumsum(n)
    is_same = ordered[ends - 1] - ordered[ends - n] <= SAME
    std = np.where(is_same, 0.0, np.sqrt(squares / np.maximum(n - 1, 1)))
    return Groups(first, n, mean, std, is_same & (n > 1))


@dataclass(frozen=True, slots=True)
class Judged:
    """n scored rollouts.

    Attributes:
        sources, tasks, presets: names; the columns `source`, `task` and `preset` are indices of them.
        step: trainer step, or `NO_STEP`.
        group: equal for the rollouts of one prompt at one step.
        value: reward computed here; saved: the run's reward, NaN if unknown.
        n_tokens, n_characters: length of the completion; NaN if unknown.
        metrics: name -> n numbers; NaN if a row's preset lacks it, or it does not apply to the row's task.
    """

    sources: tuple[str, ...]
    tasks: tuple[str, ...]
    presets: tuple[Preset, ...]
    dump: Ints
    step: Ints
    source: Ints
    task: Ints
    preset: Ints
    group: Ints
    value: Floats
    saved: Floats
    n_tokens: Floats
    n_characters: Floats
    metrics: dict[str, Floats] = field(repr=False)

    def __len__(self) -> int:
        return len(self.value)

    @property
    def has_saved(self) -> Mask:
        """Whether a row has a saved reward."""
        return np.isfinite(self.saved)

    def select(self, rows: Mask | Ints) -> Judged:
        """Some of the rows, in their order."""
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in (*_WHOLE, *_REAL)}
        return replace(self, **columns, metrics={name: column[rows] for name, column in self.metrics.items()})

    def quality(self, of_boxes: str = "f1_50") -> Floats:
        """Quality without thresholds: a metric for tasks of boxes, else the task's metric; n numbers."""
        missing = np.full(len(self), np.nan)
        is_boxes = np.isin(self.task, [place for place, task in enumerate(self.tasks) if task in BOX_TASKS])
        return np.where(is_boxes, self.metrics.get(of_boxes, missing), self.metrics.get("accuracy", missing))

    def groups(self, rewards: Floats | None = None) -> Groups:
        """The prompt groups, by the rewards of this table or by others."""
        return groups_of(self.group, self.value if rewards is None else rewards)

    def means(self, by: Sequence[str] = ()) -> dict[tuple[int, ...], dict[str, float]]:
        """For each combination of some columns ("dump", "step" ...): name -> mean over the rows that have that number.

        Names are "value", "saved", "n_tokens", "n_characters" and the metrics.
        """
        if not len(self):
            return {}
        # the constant column makes one combination of no columns
        keys = np.stack([getattr(self, name) for name in by] + [np.zeros(len(self), np.int64)], axis=1)
        values, member = np.unique(keys, axis=0, return_inverse=True)
        found: dict[tuple[int, ...], dict[str, float]] = {tuple(key[:-1]): {} for key in values.tolist()}
        for name, column in {**{name: getattr(self, name) for name in _REAL}, **self.metrics}.items():
            known = np.isfinite(column)
            counts = np.bincount(member.reshape(-1)[known], minlength=len(values))
            totals = np.bincount(member.reshape(-1)[known], column[known], minlength=len(values))
            for key, total, count in zip(found, totals.tolist(), counts.tolist(), strict=True):
                if count:
                    found[key][name] = round(total / count, DECIMALS)
        return found


class Numbering(dict[Any, int]):
    """Numbers values in order of appearance."""

    def __missing__(self, key: Any) -> int:
        self[key] = number = len(self)
        return number


class TableBuilder:
    """Collects scored rollouts one by one; rows of a group need not be adjacent."""

    def __init__(self) -> None:
        self.names: dict[str, Numbering] = {name: Numbering() for name in ("source", "task", "group")}
        self._presets: dict[int, tuple[int, Preset]] = {}
        self._columns = {name: array("d" if name in _REAL else "q") for name in (*_WHOLE, *_REAL)}
        self._metrics: dict[str, array[float]] = {}

    def __len__(self) -> int:
        return len(self._columns["value"])

    def add(self, rollout: Rollout, preset: Preset, score: Score, *, dump: int = 0) -> None:
        """Add a rollout with its score."""
        place, _ = self._presets.setdefault(id(preset), (len(self._presets), preset))
        task, names = rollout.target.task, self.names
        self._add_metrics({name: score.metrics[name] for name in score.metrics if _applies(name, task)})
        numbers: tuple[float, ...] = (
            dump,
            NO_STEP if rollout.step is None else rollout.step,
            names["source"][rollout.source],
            names["task"][task],
            place,
            names["group"][dump, rollout.group],
            score.value,
            np.nan if rollout.saved is None else rollout.saved,
            np.nan if rollout.n_tokens is None else rollout.n_tokens,
            len(rollout.completion),
        )
        for column, number in zip(self._columns.values(), numbers, strict=True):
            column.append(number)

    def _add_metrics(self, metrics: dict[str, float]) -> None:
        for name in metrics:
            if name not in self._metrics:
                self._metrics[name] = array("d", [np.nan]) * len(self)
        for name, column in self._metrics.items():
            column.append(metrics.get(name, np.nan))

    def table(self) -> Judged:
        """All collected rows."""
        columns: dict[str, Any] = {name: np.array(column) for name, column in self._columns.items()}
        return Judged(
            sources=tuple(self.names["source"]),
            tasks=tuple(self.names["task"]),
            presets=tuple(preset for _, preset in self._presets.values()),
            **columns,
            metrics={name: np.array(column) for name, column in self._metrics.items()},
        )


def _applies(metric: str, task: str) -> bool:
    """Metrics of boxes are 0 for other tasks, which means nothing."""
    return task in BOX_TASKS or metric not in BOX_METRICS
