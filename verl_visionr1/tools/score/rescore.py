"""Score saved rollouts again: means, standard deviations in prompt groups, and agreement with another reward."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from verl_visionr1.files import RowsError, atomic_write
from verl_visionr1.rewards import Preset, Score
from verl_visionr1.rollouts.inference import Sample, difference_hints
from verl_visionr1.rollouts.judged import NO_STEP, Judged, TableBuilder
from verl_visionr1.rollouts.judging import Judging
from verl_visionr1.rollouts.numbers import (
    Numbers,
    Saved,
    by_source,
    grouping_hints,
    numbers_of,
    range_notes,
    routed_of,
    saved_of,
)
from verl_visionr1.rollouts.records import Counts, Rollout, no_row
from verl_visionr1.tools.explain.causes import Cause, count_causes

TEXT_CHARS = 160
"""Most characters of a completion that are shown."""
DECIMALS = 9
"""Rewards that are equal to this many decimals are ties."""


class Differing(msgspec.Struct, frozen=True):
    """A completion that two rewards score differently: its place, both values, the start of its text."""

    where: str
    source: str
    value: float
    other: float
    text: str


class Agreement(msgspec.Struct, frozen=True):
    """Spearman's rank correlation of two rewards, in [-1, 1]; None if a reward is constant.

    Attributes:
        n: number of rows that both score.
        spearman: over all rows.
        n_groups: number of groups of at least two rows in which both rewards vary.
        spearman_within: mean over those groups of the correlation within each.
    """

    n: int
    spearman: float | None
    n_groups: int
    spearman_within: float | None


class Comparison(msgspec.Struct, frozen=True):
    """Another reward on the rollouts of tasks that both presets support.

    Attributes:
        differing: the rows that differ most, relative to the largest value of each preset.
    """

    preset: str
    moment: str
    overall: Numbers
    sources: dict[str, Numbers]
    agreement: Agreement
    differing: list[Differing]


class StepMeans(msgspec.Struct, frozen=True):
    """Means of one step; `saved` and `f1_50` are None if no row has them."""

    step: int
    reward: float
    saved: float | None
    f1_50: float | None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Results of re-scoring.

    Attributes:
        preset, frame, moment: how the rows were scored.
        n_skipped, n_earlier, n_unknown, n_delegated: see `rollouts.Counts`.
        routed: task -> preset, for tasks that the preset does not support.
        steps: means of each step, if there are several.
        saved, saved_by_source: differences from the saved rewards; None (empty) if none are saved.
        causes: the first causes of lost reward in a sample of `n_examined` rows.
    """

    preset: str
    frame: str
    moment: str
    n_rows: int
    n_skipped: int
    n_earlier: int
    n_unknown: int
    n_delegated: int
    routed: dict[str, str]
    overall: Numbers
    sources: dict[str, Numbers]
    steps: list[StepMeans]
    saved: Saved | None
    saved_by_source: dict[str, Saved]
    comparison: Comparison | None
    hints: list[str]
    causes: list[Cause]
    n_examined: int


OnRow = Callable[[Rollout, Preset, Score, Score | None], None]
"""Called with every scored rollout, its preset, its score, and the other reward's score."""


def rescore(
    rollouts: Iterable[Rollout],
    judging: Judging,
    *,
    other: Judging | None = None,
    n_shown: int = 10,
    counts: Counts | None = None,
    on_row: OnRow | None = None,
) -> Report:
    """Score rollouts again.

    Args:
        rollouts: a stream; only a few numbers of each row are kept.
        n_shown: number of the most differing rows to keep.

    Raises:
        RowsError: no row, or no readable one.
        FrameError, RewardError: the frame or the moment does not fit the rows.
    """
    builder, sample = TableBuilder(), Sample()
    versus = None if other is None else _Versus(judging, other, n_shown)
    for rollout in rollouts:
        preset = judging.preset_for(rollout)
        score = judging.score(rollout, preset)
        builder.add(rollout, preset, score)
        sample.add(rollout)
        second = None if versus is None else versus.add(rollout, score.value)
        if on_row is not None:
            on_row(rollout, preset, score, second)
    counts = Counts() if counts is None else counts
    if not len(builder):
        raise RowsError(no_row(counts))
    table = builder.table()
    saved = saved_of(table)
    own = {name: saved_of(table.select(table.source == place)) for place, name in enumerate(table.sources)}
    hints = [*range_notes(table), *difference_hints(saved, sample.rollouts, judging)]
    return Report(
        preset=judging.preset.name,
        frame=judging.frame.name,
        moment=str(judging.moment),
        n_rows=len(table),
        **{name: getattr(counts, name) for name in ("n_skipped", "n_earlier", "n_unknown", "n_delegated")},
        routed=routed_of(table, judging.preset),
        overall=numbers_of(table),
        sources=by_source(table),
        steps=_by_step(table),
        saved=saved,
        saved_by_source={name: one for name, one in own.items() if one is not None},
        comparison=None if versus is None else versus.found(),
        hints=[*hints, *grouping_hints(table, counts.n_by_text)],
        causes=count_causes(sample.rollouts, judging),
        n_examined=len(sample.rollouts),
    )


def _by_step(table: Judged) -> list[StepMeans]:
    """Means of each step, if there are several."""
    found = {step: means for (step,), means in table.means(by=["step"]).items() if step != NO_STEP}
    steps = [StepMeans(step, it["value"], it.get("saved"), it.get("f1_50")) for step, it in found.items()]
    return steps if len(steps) > 1 else []


class _Versus:
    """Tables of two rewards over the rows that both score."""

    def __init__(self, judging: Judging, other: Judging, n_shown: int) -> None:
        self.judging, self.other, self.n_shown = judging, other, n_shown
        self.builder = TableBuilder()
        self.values: list[float] = []
        self._worst: list[tuple[float, int, Differing]] = []
        self._scale = [sum(preset.weights.values()) / preset.divisor for preset in (judging.preset, other.preset)]

    def add(self, rollout: Rollout, value: float) -> Score | None:
        """Score a rollout by the other reward too; None unless both presets support its task."""
        task = rollout.target.task
        if task not in self.judging.preset.tasks or task not in self.other.preset.tasks:
            return None
        score = self.other.score(rollout, self.other.preset)
        self.builder.add(rollout, self.other.preset, score)
        self.values.append(value)
        difference = abs(value / self._scale[0] - score.value / self._scale[1])
        if difference > 0.0:
            row = Differing(rollout.where, rollout.source, value, score.value, rollout.completion[:TEXT_CHARS])
            heapq.heappush(self._worst, (difference, -len(self.values), row))
            if len(self._worst) > self.n_shown:
                heapq.heappop(self._worst)
        return score

    def found(self) -> Comparison:
        """Return the comparison; RowsError if there is no row that both presets score."""
        one, two = self.judging.preset, self.other.preset
        if not self.values:
            tasks = f"{one.name} is for {', '.join(one.tasks)}, {two.name} {', '.join(two.tasks)}"
            raise RowsError(f"--vs {two.name}: no row that both score; {tasks}")
        table = self.builder.table()
        agreement = agreement_of(self.values, table.value, table.group)
        differing = [row for _, _, row in sorted(self._worst, reverse=True)]
        return Comparison(two.name, str(self.other.moment), numbers_of(table), by_source(table), agreement, differing)


def agreement_of(some: ArrayLike, others: ArrayLike, groups: ArrayLike) -> Agreement:
    """Compute the rank agreement of two rewards.

    Args:
        some, others: n rewards each, for the same completions.
        groups: n whole numbers, equal for rows of one prompt.
    """
    both = np.stack([np.asarray(some, dtype=np.float64), np.asarray(others, dtype=np.float64)])
    pairs = np.asarray(np.round(both, DECIMALS), dtype=np.float64)
    order = np.argsort(groups, kind="stable")
    starts = np.unique(np.asarray(groups)[order], return_index=True)[1]
    within = [rho for group in np.split(pairs[:, order], starts[1:], axis=1) if (rho := _spearman(group)) is not None]
    mean = float(np.mean(within)) if within else None
    return Agreement(pairs.shape[1], _spearman(pairs), len(within), mean)


def _spearman(pairs: NDArray[np.float64]) -> float | None:
    """Rank correlation of two rows of numbers; None if one is constant."""
    from scipy.stats import rankdata

    if not np.ptp(pairs, axis=1).all():
        return None
    ranks: Any = rankdata(pairs, axis=1)
    return float(np.corrcoef(ranks)[0, 1])


@contextmanager
def scored_rows(path: Path) -> Iterator[OnRow]:
    """Write re-scored rows to a `.jsonl`; it appears when the `with` block ends without an error."""
    if path.suffix != ".jsonl":
        raise RowsError(f"--out {path}: needs a name that ends in .jsonl")
    with atomic_write(path) as file:

        def write(rollout: Rollout, preset: Preset, score: Score, other: Score | None) -> None:
            row = {
                "file": rollout.file,
                "data_source": rollout.source,
                "task": rollout.target.task,
                "preset": preset.name,
                "number": rollout.number,
                "step": rollout.step,
                "value": score.value,
                "saved": rollout.saved,
                "other": None if other is None else other.value,
            }
            file.write(json.dumps({**row, **score.metrics, **row}).encode() + b"\n")

        yield write
