"""Scored rollouts as one table of numbers; scores, curves, groups and rates are views of it.

Common definitions: a *prompt group* is the rollouts of one prompt at one step; its standard
deviation is verl's (divided by n - 1: `compute_grpo_outcome_advantage`); a group is *dead* when its rewards are all
equal, so that its advantages are 0 (`frac_reward_zero_std`).
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
SAME = 1e-9
"""Rewards that differ by at most this are equal: such a difference is rounding."""
NO_STEP = -1


@dataclass(frozen=True, slots=True)
class Groups:
    """The G prompt groups of some rows.

    Attributes:
        first: number of the first row of each.
        n: number of rows of each.
        std: standard deviation of the rewards, divided by n - 1; 0.0 for one row, and if all are equal.
        is_dead: several rows, all of one reward.
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
    """The groups of n rows.

    Args:
        keys: n whole numbers, equal for the rows of a group.
        rewards: n rewards.

    >>> found = groups_of([0, 1, 0, 1], [0.0, 0.5, 1.0, 0.5])
    >>> found.mean.tolist(), found.std.round(3).tolist(), found.is_dead.tolist()
    ([0.5, 0.5], [0.707, 0.0], [False, True])
    """
    values = np.asarray(rewards, dtype=np.float64)
    _, first, member, n = np.unique(
        np.asarray(keys, dtype=np.int64), return_index=True, return_inverse=True, return_counts=True
    )
    if not len(values):
        return Groups(first, n, values, values, np.zeros(0, dtype=bool))
    mean = np.bincount(member, values) / n
    squares = np.bincount(member, (values - mean[member]) ** 2)
    low, high = np.full(len(n), np.inf), np.full(len(n), -np.inf)
    np.minimum.at(low, member, values)
    np.maximum.at(high, member, values)
    is_same = high - low <= SAME
    std = np.where(is_same, 0.0, np.sqrt(squares / np.maximum(n - 1, 1)))
    return Groups(first, n, mean, std, is_same & (n > 1))


@dataclass(frozen=True, slots=True)
class Judged:
    """n scored rollouts.

    Attributes:
        files, sources, tasks, presets, dumps: names; the columns `file`, `source`, `task`, `preset` and `dump` are
            indices of them.
        number: line or row in the file.
        step: trainer step; `NO_STEP` if the row does not have it.
        group: equal for the rollouts of one prompt at one step.
        value: reward computed here; saved: the run's reward, NaN if unknown.
        n_tokens, n_characters: length of the completion; NaN if unknown.
        metrics: name -> n numbers; NaN if a row's preset lacks it, or it does not apply to the row's task.
    """

    files: tuple[str, ...]
    sources: tuple[str, ...]
    tasks: tuple[str, ...]
    presets: tuple[Preset, ...]
    dump: Ints
    file: Ints
    number: Ints
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
        """Mean of each number over the rows that have it, for each combination of some columns.

        Args:
            by: names of whole-number columns: "dump", "source", "step", "task" ...

        Returns:
            Their values -> name -> mean: "value", "saved", "n_tokens", "n_characters" and the metrics; a number that no
            row of
                the combination has is left out.
        """
        if not len(self):
            return {}
        keys = np.stack([getattr(self, name) for name in by], axis=1) if by else np.zeros((len(self), 0), np.int64)
        values, member = _unique_rows(keys)
        columns = {"value": self.value, "saved": self.saved, "n_tokens": self.n_tokens}
        columns |= {"n_characters": self.n_characters, **self.metrics}
        found: dict[tuple[int, ...], dict[str, float]] = {tuple(key.tolist()): {} for key in values}
        for name, column in columns.items():
            known = np.isfinite(column)
            counts = np.bincount(member[known], minlength=len(values))
            totals = np.bincount(member[known], column[known], minlength=len(values))
            for key, total, count in zip(found, totals.tolist(), counts.tolist(), strict=True):
                if count:
                    found[key][name] = total / count
        return found


def _unique_rows(keys: Ints) -> tuple[Ints, Ints]:
    """Distinct rows in order, and the index of each row in them."""
    if not keys.shape[1]:
        return np.zeros((1, 0), np.int64), np.zeros(len(keys), np.int64)
    values, member = np.unique(keys, axis=0, return_inverse=True)
    return values, member.reshape(-1)


class Numbering(dict[Any, int]):
    """Numbers values in order of appearance."""

    def __missing__(self, key: Any) -> int:
        self[key] = number = len(self)
        return number


_WHOLE = ("dump", "file", "number", "step", "source", "task", "preset", "group")
_REAL = ("value", "saved", "n_tokens", "n_characters")


class TableBuilder:
    """Collects scored rollouts one by one; rows of a group need not be adjacent.

    >>> from verl_visionr1 import FRAMES, PRESETS, Target
    >>> TableBuilder().table().means()
    {}
    """

    def __init__(self) -> None:
        self.names: dict[str, Numbering] = {name: Numbering() for name in ("file", "source", "task", "group")}
        self._presets: dict[int, tuple[int, Preset]] = {}
        self._whole = {name: array("q") for name in _WHOLE}
        self._real = {name: array("d") for name in _REAL}
        self._metrics: dict[tuple[int, bool], tuple[array[int], dict[str, array[float]]]] = {}

    def __len__(self) -> int:
        return len(self._real["value"])

    def add(self, rollout: Rollout, preset: Preset, score: Score, *, dump: int = 0) -> None:
        """Add a rollout with its score."""
        place, _ = self._presets.setdefault(id(preset), (len(self._presets), preset))
        task, names = rollout.target.task, self.names
        whole: tuple[int, ...] = (
            dump,
            names["file"][rollout.file],
            rollout.number,
            NO_STEP if rollout.step is None else rollout.step,
            names["source"][rollout.source],
            names["task"][task],
            place,
            names["group"][dump, rollout.group],
        )
        for name, number in zip(_WHOLE, whole, strict=True):
            self._whole[name].append(number)
        saved = np.nan if rollout.saved is None else rollout.saved
        n_tokens = np.nan if rollout.n_tokens is None else float(rollout.n_tokens)
        for name, value in zip(_REAL, (score.value, saved, n_tokens, float(len(rollout.completion))), strict=True):
            self._real[name].append(value)
        self._add_metrics((place, task in BOX_TASKS), score.metrics)

    def _add_metrics(self, kind: tuple[int, bool], metrics: dict[str, float]) -> None:
        """Append metrics to the columns of a kind; rows of one preset have the same metrics, so there are no gaps."""
        known = self._metrics.get(kind)
        if known is None:
            names = [name for name in metrics if kind[1] or name not in BOX_METRICS]  # always 0 and not meaningful
            known = self._metrics[kind] = array("q"), {name: array("d") for name in names}
        known[0].append(len(self) - 1)
        for name, column in known[1].items():
            column.append(metrics[name])

    def table(self) -> Judged:
        """All collected rows."""
        n = len(self)
        metrics: dict[str, Floats] = {}
        for rows, columns in self._metrics.values():
            for name, column in columns.items():
                if name not in metrics:
                    metrics[name] = np.full(n, np.nan)
                metrics[name][np.asarray(rows)] = column
        columns: dict[str, Any] = {name: np.array(column, dtype=np.int64) for name, column in self._whole.items()}
        columns |= {name: np.array(column, dtype=np.float64) for name, column in self._real.items()}
        return Judged(
            files=tuple(self.names["file"]),
            sources=tuple(self.names["source"]),
            tasks=tuple(self.names["task"]),
            presets=tuple(preset for _, preset in self._presets.values()),
            **columns,
            metrics=metrics,
        )
