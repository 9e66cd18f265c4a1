"""Saved rollouts judged again: means, spread within prompt groups, and how another reward would have ranked them."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import msgspec

from verl_visionr1.files import RowsError
from verl_visionr1.rewards import Preset, Score
from verl_visionr1.rollouts.judging import Judging
from verl_visionr1.rollouts.records import Counts, Rollout, no_row
from verl_visionr1.rollouts.saved_rewards import Saved, SavedScores
from verl_visionr1.tools.score.agreement import Agreement, agreement_of
from verl_visionr1.tools.score.tally import Numbers, Tally

TEXT_CHARS = 160
"""So much of a completion is shown."""


class Differing(msgspec.Struct, frozen=True):
    """A completion of which two rewards think differently: where it stands, both values, the start of its text."""

    where: str
    source: str
    value: float
    other: float
    text: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """How another reward judges the same rollouts, those of tasks that both presets are made for.

    Attributes:
        preset, moment: the other reward.
        overall, sources: its numbers.
        agreement, agreement_by_source: rank agreement of both.
        differing: the rows that differ most, as shares of the largest value each preset can give.
    """

    preset: str
    moment: str
    overall: Numbers
    sources: dict[str, Numbers]
    agreement: Agreement
    agreement_by_source: dict[str, Agreement]
    differing: list[Differing]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What re-scoring found.

    Attributes:
        preset, frame, moment: how it was judged.
        n_rows: rows that were judged.
        n_skipped, n_earlier, n_unknown, n_delegated: see `rollouts.Counts`.
        routed: task -> preset, for tasks that the preset cannot judge.
        overall, sources: the numbers of all rows, and of each data source.
        saved, saved_by_source: how far the saved rewards differ; None (empty) where none are saved.
        comparison: another reward's judgement, where one was asked for.
        hints: what looks wrong, and what to do.
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
    saved: Saved | None
    saved_by_source: dict[str, Saved]
    comparison: Comparison | None
    hints: list[str]


OnRow = Callable[[Rollout, Preset, Score, Score | None], None]
"""Told of every judged rollout: its preset, its score, and the other reward's."""


def rescore(
    rollouts: Iterable[Rollout],
    judging: Judging,
    *,
    other: Judging | None = None,
    n_shown: int = 10,
    counts: Counts | None = None,
    on_row: OnRow | None = None,
) -> Report:
    """Judge rollouts again.

    Args:
        rollouts: a stream; what is kept of a row is a few numbers, and only where `other` is given.
        judging: how.
        other: a second reward, to compare.
        n_shown: how many of the rows that differ most are kept.
        counts: what the reader counts.
        on_row: told of each row.

    Raises:
        RowsError: no row, or none that could be read.
        FrameError, RewardError: the frame or the moment does not go with the rows.
    """
    tally, saved = Tally(), SavedScores()
    versus = None if other is None else _Versus(judging, other, n_shown)
    routed: dict[str, str] = {}
    for rollout in rollouts:
        task = rollout.target.task
        preset = judging.preset_for(rollout)
        if preset is not judging.preset:
            routed[task] = preset.name
        score = judging.score(rollout, preset)
        tally.add(rollout.source, rollout.group, task, score)
        if rollout.saved is not None:
            saved.add(rollout, score.value)
        second = None if versus is None else versus.add(rollout, score.value)
        if on_row is not None:
            on_row(rollout, preset, score, second)
    counts = Counts() if counts is None else counts
    if not tally.sources:
        raise RowsError(no_row(counts))
    overall_saved, saved_by_source = saved.found()
    return Report(
        preset=judging.preset.name,
        frame=judging.frame.name,
        moment=str(judging.moment),
        n_rows=tally.numbers().n,
        n_skipped=counts.n_skipped,
        n_earlier=counts.n_earlier,
        n_unknown=counts.n_unknown,
        n_delegated=counts.n_delegated,
        routed=routed,
        overall=tally.numbers(),
        sources={source: tally.numbers(source) for source in tally.sources},
        saved=overall_saved,
        saved_by_source=saved_by_source,
        comparison=None if versus is None else versus.found(),
        hints=[*saved.hints(judging), *tally.grouping_hints(counts.n_by_text)],
    )


class _Versus:
    """Two rewards side by side: three numbers a row are kept."""

    def __init__(self, judging: Judging, other: Judging, n_shown: int) -> None:
        self.judging, self.other = judging, other
        self.n_shown = n_shown
        self.tally = Tally()
        self.values, self.others = array("d"), array("d")
        self.groups, self.sources = array("q"), array("q")
        self._group_ids: dict[Hashable, int] = {}
        self._source_ids: dict[str, int] = {}
        self._worst: list[tuple[float, int, Differing]] = []
        self._scale = _largest(judging.preset), _largest(other.preset)

    def add(self, rollout: Rollout, value: float) -> Score | None:
        """Judge a rollout by the other reward too; None where the presets are not both made for its task."""
        task = rollout.target.task
        if task not in self.judging.preset.tasks or task not in self.other.preset.tasks:
            return None
        score = self.other.score(rollout, self.other.preset)
        self.tally.add(rollout.source, rollout.group, task, score)
        self.values.append(value)
        self.others.append(score.value)
        self.groups.append(self._group_ids.setdefault(rollout.group, len(self._group_ids)))
        self.sources.append(self._source_ids.setdefault(rollout.source, len(self._source_ids)))
        self._keep_worst(rollout, value, score.value)
        return score

    def _keep_worst(self, rollout: Rollout, value: float, other: float) -> None:
        difference = abs(value / self._scale[0] - other / self._scale[1])
        is_full = len(self._worst) >= self.n_shown
        if difference <= 0.0 or not self.n_shown or (is_full and difference <= self._worst[0][0]):
            return
        text = rollout.completion[:TEXT_CHARS]
        item = (difference, -len(self.values), Differing(rollout.where, rollout.source, value, other, text))
        (heapq.heapreplace if is_full else heapq.heappush)(self._worst, item)

    def found(self) -> Comparison:
        """What came of it.

        Raises:
            RowsError: no row that both presets judge.
        """
        if not self.values:
            one, two = self.judging.preset, self.other.preset
            raise RowsError(
                f"--vs {two.name}: no row that both judge; {one.name} judges {', '.join(one.tasks)}, "
                f"{two.name} {', '.join(two.tasks)}"
            )
        return Comparison(
            preset=self.other.preset.name,
            moment=str(self.other.moment),
            overall=self.tally.numbers(),
            sources={source: self.tally.numbers(source) for source in self.tally.sources},
            agreement=agreement_of(self.values, self.others, self.groups),
            agreement_by_source=self._by_source(),
            differing=[differing for _, _, differing in sorted(self._worst, key=_largest_first)],
        )

    def _by_source(self) -> dict[str, Agreement]:
        import numpy as np

        values, others, groups, sources = map(np.asarray, (self.values, self.others, self.groups, self.sources))
        return {
            source: agreement_of(values[sources == i], others[sources == i], groups[sources == i])
            for source, i in self._source_ids.items()
        }


def _largest(preset: Preset) -> float:
    """The largest value a preset gives."""
    return sum(preset.weights.values()) / preset.divisor


def _largest_first(item: tuple[float, int, Any]) -> tuple[float, int]:
    return -item[0], -item[1]
