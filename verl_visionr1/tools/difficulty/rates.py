"""Pass rates: the share of a row's answers whose metric reaches a bar."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verl_visionr1.rewards.completion import BOX_TASKS
from verl_visionr1.rollouts.finding import Finder
from verl_visionr1.rollouts.judged import SAME, TableBuilder
from verl_visionr1.rollouts.judging import Judging
from verl_visionr1.rollouts.records import Rollout
from verl_visionr1.rollouts.training_rows import Numbers, TrainingRows
from verl_visionr1.tools.difficulty.selection import Bar


@dataclass(frozen=True, slots=True)
class Rates:
    """Pass rates of the data's prompts (see `TrainingRows.prompts`).

    Attributes:
        samples, passed: per prompt, number of answers, and of passed answers.
        is_unclear: per prompt, whether some rollout fits it and another prompt.
        fates: number of rollouts that are "found" (belong to one prompt), "ambiguous" (fit several), "other_question"
            (their ground truth is in the data with another question, image or index), or "not_in_data".
        measured: task -> metric.
        unclear_example: two prompts that one rollout fits.
    """

    samples: Numbers
    passed: Numbers
    is_unclear: NDArray[np.bool_]
    fates: Counter[str]
    measured: dict[str, str]
    unclear_example: tuple[int, int] | None

    def of(self, prompts: Numbers, min_samples: int) -> NDArray[np.float64]:
        """Pass rates in [0, 1] of some prompts; NaN for those with fewer samples."""
        samples = self.samples[prompts]
        rates = np.full(len(prompts), math.nan)
        np.divide(self.passed[prompts], samples, out=rates, where=samples >= max(min_samples, 1))
        return rates


def measure(
    rollouts: Iterable[Rollout], rows: TrainingRows, judging: Judging, bar: Bar, finder: Finder | None = None
) -> Rates:
    """Score rollouts and count for each prompt of the data how many pass. Their order does not matter.

    Raises:
        FrameError, SizeError, RewardError: the frame or a criterion does not fit the rows.
    """
    finder = Finder(rows) if finder is None else finder
    builder, fates, of_found = TableBuilder(), Counter[str](), list[int]()
    unclear, pairs = set[int](), set[tuple[int, int]]()
    for rollout in rollouts:
        prompts = finder.prompts_of(rollout)
        if prompts is None:
            fates["not_in_data"] += 1
        elif not prompts:
            fates["other_question"] += 1
        elif len(prompts) == 1:
            fates["found"] += 1
            of_found.append(prompts[0])
            preset = judging.preset_for(rollout)
            builder.add(rollout, preset, judging.score(rollout, preset))
        else:
            fates["ambiguous"] += 1
            unclear.update(prompts)
            pairs.add((prompts[0], prompts[1]))
    table, found = builder.table(), np.asarray(of_found, dtype=np.int64)
    has_passed = table.quality(bar.metric) >= bar.at_least - SAME
    n = rows.n_prompts
    is_unclear = np.zeros(n, dtype=np.bool_)
    is_unclear[list(unclear)] = True
    return Rates(
        samples=np.bincount(found, minlength=n),
        passed=np.bincount(found[has_passed], minlength=n),
        is_unclear=is_unclear,
        fates=fates,
        measured={task: bar.metric if task in BOX_TASKS else "accuracy" for task in sorted(table.tasks)},
        unclear_example=min(pairs, default=None),
    )
