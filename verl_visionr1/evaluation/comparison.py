"""Two evaluations side by side (`--vs`): differences of metrics, and of reward and metric row by row.

Both models answered the same images: their bootstrap resamples are the same, so the resampled values
are subtracted one by one and the interval of the difference is paired. Else the draws of one are put in another order,
which gives the interval of a difference of independent samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from verl_visionr1.boxes import Array
from verl_visionr1.evaluation.correlation import Correlated
from verl_visionr1.evaluation.records import Evaluation, RowNumbers, Section
from verl_visionr1.evaluation.settings import LEVEL
from verl_visionr1.rollouts.bootstrap import Estimate, Ratios, estimates_of, interval

LOWER_IS_BETTER = frozenset({"MAE", "RMSE", "false alarms", "boxes per negative", "cut off"})
NEITHER_IS_BETTER = frozenset({"bias", "tokens"})
MAY_DIFFER = frozenset({"frame", "answer_format", "processing", "max_tokens", "resamples"})
"""Settings of how a model speaks, and of the intervals: numbers compare all the same."""
SAME = 1e-9
"""Values of a row that differ by no more are equal."""
ROW_METRICS = ("F1@50", "REC@50", "accuracy", "all right")
"""Of these, the first that rows have is held against the reward."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of both.

    Attributes:
        difference: ours less theirs, with its interval.
        is_paired: whether the same images were resampled alike.
        verdict: "better", "worse", or "" where the interval holds 0, or neither is better.
    """

    metric: str
    ours: float | None
    theirs: float | None
    difference: Estimate
    is_paired: bool
    verdict: str


class RowComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Both models' answers to the same n rows, the reward of each by its own settings.

    Attributes:
        metric: is held against the reward.
        better, worse: rows on which it rose, or fell.
        reward, change: mean differences of reward and metric, with intervals over rows' images.
        reward_up_metric_down: rows on which the reward rose and the metric fell.
        spearman: rank correlation of both differences.
    """

    n: int
    metric: str
    better: int
    worse: int
    reward: Estimate
    change: Estimate
    reward_up_metric_down: int
    spearman: Estimate


class SectionComparison(msgspec.Struct, frozen=True, kw_only=True):
    """One data source and task in both evaluations; row by row where both have kept their rows."""

    source: str
    task: str
    differences: list[Difference]
    rows: RowComparison | None = None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two evaluations side by side.

    Attributes:
        sections: data sources and tasks that both have, averages last.
        only_ours, only_theirs: those that one has, "<source> (<task>)".
        settings: conventions that differ, "<name>: <ours>, theirs <theirs>": such numbers do not compare.
        others: settings that differ and may: `MAY_DIFFER`.
    """

    sections: list[SectionComparison]
    only_ours: list[str]
    only_theirs: list[str]
    settings: list[str]
    others: list[str]


def compare(ours: Evaluation, theirs: Evaluation) -> Comparison:
    """Hold an evaluation against another one."""
    own, other = _compared(ours, theirs), _compared(theirs, ours)
    is_alike = ours.settings.resamples == theirs.settings.resamples
    sections = [
        SectionComparison(
            source=section.source,
            task=section.task,
            differences=_differences(section, other[key], is_alike=is_alike),
            rows=_rows(section, ours, theirs),
        )
        for key, section in own.items()
        if key in other
    ]
    differ = _settings_that_differ(ours, theirs)
    return Comparison(
        sections=sections,
        only_ours=[f"{source} ({task})" for source, task in own if (source, task) not in other],
        only_theirs=[f"{source} ({task})" for source, task in other if (source, task) not in own],
        settings=[text for name, text in differ.items() if name not in MAY_DIFFER],
        others=[text for name, text in differ.items() if name in MAY_DIFFER],
    )


def _sources(evaluation: Evaluation, task: str) -> set[str]:
    return {section.source for section in evaluation.sections if section.task == task}


def _compared(evaluation: Evaluation, other: Evaluation) -> dict[tuple[str, str], Section]:
    """Its sections, with the averages of tasks for which both have the same data sources."""
    averages = [one for one in evaluation.averages if _sources(evaluation, one.task) == _sources(other, one.task)]
    return {section.key: section for section in (*evaluation.sections, *averages)}


def _settings_that_differ(ours: Evaluation, theirs: Evaluation) -> dict[str, str]:
    mine, yours = msgspec.to_builtins(ours.settings), msgspec.to_builtins(theirs.settings)
    return {name: f"{name}: {mine[name]}, theirs {yours[name]}" for name in mine if mine[name] != yours[name]}


def _differences(ours: Section, theirs: Section, *, is_alike: bool) -> list[Difference]:
    is_paired = is_alike and ours.units == theirs.units
    found: list[Difference] = []
    for name, mine in ours.estimates.items():
        yours = theirs.estimates.get(name)
        if yours is None or "/" in name:
            continue
        value = None if mine.value is None or yours.value is None else mine.value - yours.value
        drawn = _drawn(ours.draws.get(name), theirs.draws.get(name), is_paired=is_paired)
        low, high = interval(drawn, LEVEL, value, metric=name)
        difference = Estimate(value=value, low=low, high=high, n=mine.n)
        found.append(
            Difference(
                metric=name,
                ours=mine.value,
                theirs=yours.value,
                difference=difference,
                is_paired=is_paired and drawn is not None,
                verdict=verdict_of(name, difference),
            )
        )
    return found


def _drawn(
    ours: Sequence[float | None] | None, theirs: Sequence[float | None] | None, *, is_paired: bool
) -> Array | None:
    """Resampled differences."""
    if not ours or not theirs:
        return None
    mine, yours = np.array(ours, dtype=np.float64), np.array(theirs, dtype=np.float64)
    yours = yours if is_paired else np.random.default_rng(0).permutation(yours)
    n = min(len(mine), len(yours))
    return mine[:n] - yours[:n]


def verdict_of(metric: str, difference: Estimate) -> str:
    """Whether a difference is more than resampling explains.

    >>> verdict_of("MAE", Estimate(value=-1.0, low=-2.0, high=-0.5))
    'better'
    """
    low, high = difference.low, difference.high
    if low is None or high is None or low <= 0.0 <= high or metric in NEITHER_IS_BETTER:
        return ""
    return "better" if (low > 0.0) != (metric in LOWER_IS_BETTER) else "worse"


# --- row by row ------------------------------------------------------------------------------------------------------


def _rows(section: Section, ours: Evaluation, theirs: Evaluation) -> RowComparison | None:
    mine = {row.key: row for row in ours.rows if (row.data_source, row.task) == section.key}
    yours = {row.key: row for row in theirs.rows if (row.data_source, row.task) == section.key}
    both = [(mine[key], yours[key]) for key in mine if key in yours and mine[key].image == yours[key].image]
    metric = next((name for name in ROW_METRICS if any(name in row.measured for row, _ in both)), None)
    if metric is None:
        return None
    both = [pair for pair in both if all(row.measured.get(metric) is not None for row in pair)]
    return compare_rows(both, metric, ours.settings.resamples) if both else None


def compare_rows(both: Sequence[tuple[RowNumbers, RowNumbers]], metric: str, n_resamples: int) -> RowComparison:
    """Answers of two models to the same rows, one pair a row."""
    reward = np.array([a.reward - b.reward for a, b in both])
    change = np.array([(a.measured[metric] or 0.0) - (b.measured[metric] or 0.0) for a, b in both])
    names = {name: i for i, name in enumerate(sorted({a.image for a, _ in both}))}
    units = np.array([names[a.image] for a, _ in both], dtype=np.intp)
    correlated = Correlated(units, reward, {"change": change})
    ones = np.ones(len(both))
    means = Ratios(units, {"reward": (reward, ones), "mean change": (change, ones)})
    found, _ = estimates_of([means, correlated], len(names), n_resamples=n_resamples, seed=0, level=LEVEL)
    up, down = change > SAME, change < -SAME
    return RowComparison(
        n=len(both),
        metric=metric,
        better=int(up.sum()),
        worse=int(down.sum()),
        reward=found["reward"],
        change=found["mean change"],
        reward_up_metric_down=int(np.count_nonzero((reward > SAME) & down)),
        spearman=found["spearman/change"],
    )
