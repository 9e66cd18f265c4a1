"""Pass rates: of what a row was answered, the share whose metric reaches a bar."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from verl_visionr1.files import RowsError
from verl_visionr1.rewards.completion import BOX_TASKS
from verl_visionr1.rollouts.finding import Finder
from verl_visionr1.rollouts.judging import Judging
from verl_visionr1.rollouts.records import Rollout
from verl_visionr1.rollouts.training_rows import Numbers, TrainingRows
from verl_visionr1.tools.difficulty.selection import Metric

METRICS: tuple[Metric, ...] = get_args(Metric)
"""The metrics that depend on no thresholds: see `rewards.Score`."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Bar:
    """What an answer passes by.

    Attributes:
        metric: one of `METRICS`; rows that ask for no boxes are measured by their task's "accuracy".
        at_least: the metric's least value, in (0, 1].

    Raises:
        RowsError: another metric, or a bar that everything or nothing passes.
    """

    metric: Metric = "accuracy"
    at_least: float = 0.5

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise RowsError(f"--metric {self.metric}: needs one of {', '.join(METRICS)}")
        if not 0.0 < self.at_least <= 1.0:
            raise RowsError(f"--bar {self.at_least}: needs a number above 0 and not above 1")

    def metric_of(self, task: str) -> Metric:
        """What rows of a task are measured by."""
        return self.metric if task in BOX_TASKS else "accuracy"


@dataclass(slots=True)
class Rates:
    """What became of the rollouts.

    Attributes:
        samples, passed: per prompt (see `TrainingRows.prompts`) how many answers it has, and how many passed.
        is_unclear: per prompt, whether rollouts may be its or another's.
        n_found: rollouts that belong to one prompt.
        n_ambiguous: rollouts that fit several.
        n_other: rollouts whose ground truth the data have, with another question, image or index.
        n_unknown: rollouts whose ground truth the data do not have.
        measured: task -> metric.
        unclear_example: two prompts that a rollout fits.
    """

    samples: Numbers
    passed: Numbers
    is_unclear: NDArray[np.bool_]
    n_found: int = 0
    n_ambiguous: int = 0
    n_other: int = 0
    n_unknown: int = 0
    measured: dict[str, str] = field(default_factory=dict[str, str])
    unclear_example: tuple[int, int] | None = None

    def of(self, prompts: Numbers, min_samples: int) -> NDArray[np.float64]:
        """Pass rates in [0, 1] of some prompts; nan for those with fewer samples."""
        samples = self.samples[prompts]
        rates = np.full(len(prompts), math.nan)
        np.divide(self.passed[prompts], samples, out=rates, where=samples >= max(min_samples, 1))
        return rates


def measure(
    rollouts: Iterable[Rollout], rows: TrainingRows, judging: Judging, bar: Bar, finder: Finder | None = None
) -> Rates:
    """Judge rollouts and count for each prompt of the data how many pass. Their order does not matter.

    Raises:
        FrameError, SizeError, RewardError: the frame or a criterion does not go with the rows.
    """
    finder = Finder(rows) if finder is None else finder
    n = rows.n_prompts
    rates = Rates(np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.bool_))
    for rollout in rollouts:
        prompts = finder.prompts_of(rollout)
        if prompts is None:
            rates.n_unknown += 1
        elif len(prompts) == 0:
            rates.n_other += 1
        elif len(prompts) > 1:
            rates.n_ambiguous += 1
            rates.is_unclear[list(prompts)] = True
            pair = prompts[0], prompts[1]
            rates.unclear_example = min(rates.unclear_example or pair, pair)
        else:
            (prompt,) = prompts
            task = rollout.target.task
            metric = rates.measured.setdefault(task, bar.metric_of(task))
            score = judging.score(rollout, judging.preset_for(rollout))
            rates.n_found += 1
            rates.samples[prompt] += 1
            rates.passed[prompt] += score.metrics[metric] >= bar.at_least - _ROUNDING
    return rates
