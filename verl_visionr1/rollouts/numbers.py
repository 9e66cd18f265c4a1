"""Statistics of scored rollouts for reports."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from verl_visionr1.rewards.base import Preset
from verl_visionr1.rollouts.judged import Judged
from verl_visionr1.rollouts.judging import EQUAL


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of the scores of some rows.

    Attributes:
        metrics: mean of each criterion and common metric, over the rows whose preset has it.
        unreadable: share of the completions without a readable answer.
        n_groups: prompts with at least two rollouts; the numbers below are over them, None if there are none.
        group_std: mean over the groups of the standard deviation of their rewards (divided by n - 1, as in verl).
        frac_reward_zero_std: share of groups whose rewards are all equal: their advantages are 0.
        reward_zero_std: mean reward of those groups: near 0 they are too hard, near 1 too easy.
    """

    n: int
    reward: float
    metrics: dict[str, float]
    unreadable: float
    n_groups: int
    group_std: float | None
    frac_reward_zero_std: float | None
    reward_zero_std: float | None


def numbers_of(table: Judged) -> Numbers:
    """Compute the numbers of all rows of a table that has some."""
    (means,) = table.means().values()
    groups = table.groups()
    several, dead = groups.several, groups.is_dead
    n = int(several.sum())
    return Numbers(
        n=len(table),
        reward=means["value"],
        metrics={name: means[name] for name in table.metrics if name in means},
        unreadable=1.0 - means.get("parsed", 1.0),
        n_groups=n,
        group_std=float(groups.std[several].mean()) if n else None,
        frac_reward_zero_std=float(dead.sum() / n) if n else None,
        reward_zero_std=float(groups.mean[dead].mean()) if dead.any() else None,
    )


def by_source(table: Judged) -> dict[str, Numbers]:
    """The numbers of each data source, in order of appearance."""
    return {
        name: numbers_of(table.select(rows))
        for place, name in enumerate(table.sources)
        if (rows := table.source == place).any()
    }


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """Differences between saved and re-scored rewards.

    Attributes:
        n: number of rows with a saved reward.
        equal: share of the rows where both are equal, up to `judging.EQUAL`.
        mean_difference, max_difference: mean and maximum of the absolute differences.
    """

    n: int
    mean: float
    equal: float
    mean_difference: float
    max_difference: float

    def describe(self) -> str:
        """One sentence: the run's rewards, and whether they are reproduced."""
        differ = f"{1.0 - self.equal:.1%} of the rewards computed here differ, by up to {self.max_difference:.3g}"
        found = f"all are reproduced to {EQUAL:g}" if self.equal == 1.0 else differ
        return f"the run's mean reward is {self.mean:.3f} over {self.n} rows; {found}"


def saved_of(table: Judged) -> Saved | None:
    """Compare the saved rewards of a table; None if there are none."""
    known = table.has_saved
    return saved_numbers(table.saved[known], table.value[known])


def saved_numbers(saved: ArrayLike, values: ArrayLike) -> Saved | None:
    """Compare n saved rewards with recomputed ones; None for n = 0."""
    saved = np.asarray(saved, dtype=np.float64)
    if not len(saved):
        return None
    differences = np.abs(saved - np.asarray(values, dtype=np.float64))
    return Saved(
        n=len(saved),
        mean=float(saved.mean()),
        equal=float(np.mean(differences <= EQUAL)),
        mean_difference=float(differences.mean()),
        max_difference=float(differences.max()),
    )


def routed_of(table: Judged, own: Preset) -> dict[str, str]:
    """Task -> preset, for the tasks of a table that a preset does not support."""
    pairs = np.unique(np.stack([table.task, table.preset], axis=1), axis=0).tolist()
    found = {table.tasks[task]: table.presets[preset].name for task, preset in pairs}
    return {task: name for task, name in found.items() if task not in own.tasks}


def describe_routed(routed: Mapping[str, str]) -> list[str]:
    """One line per task whose rows another preset scores."""
    return [f"rows of task {task}: scored by {preset}, the preset of that task" for task, preset in routed.items()]


def describe_groups(numbers: Numbers) -> list[str]:
    """One line if no prompt has several answers, as in validation."""
    if numbers.n_groups:
        return []
    training = "training answers (trainer.rollout_data_dir)"
    return [f"one answer per prompt, as in validation: only {training} have groups to compare"]


def range_notes(table: Judged) -> list[str]:
    """One line per criterion of the user with values outside [0, 1], with the value farthest from it."""
    notes: list[str] = []
    for i, preset in enumerate(table.presets):
        for criterion in [criterion for criterion in preset.criteria if criterion.is_custom]:
            values = table.metrics[criterion.name][table.preset == i]
            problem = criterion.range_problem(float(values[np.argmax(np.abs(values - 0.5))])) if len(values) else ""
            if problem:
                share = np.mean((values < 0.0) | (values > 1.0))
                notes.append(f"{problem} in {share:.1%} of its rows; correct the function")
    return list(dict.fromkeys(notes))


def grouping_hints(table: Judged, n_by_text: int) -> list[str]:
    """Hints if prompt groups may be larger than the run's, and which column would identify prompts."""
    sizes = table.groups().n
    if not n_by_text or sizes.max() == 1:
        return []
    found = f"{n_by_text} rows have no uid, index or image, so rows of the same prompt and ground truth are one group"
    ranges = f"{len(sizes)} groups of {sizes.min()} to {sizes.max()} rows"
    named = "name a column that identifies the prompt: --column uid=NAME, index=NAME or image=NAME"
    return [f"{found} ({ranges}); a group may be larger than rollout.n; {named}"]
