"""Compare two evaluations (`--vs`): differences of metrics, and of reward and metric row by row.

Of the same images, the resampled values are subtracted one by one (paired); else those of one are permuted first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from verl_visionr1.boxes import Array
from verl_visionr1.evaluation.correlation import Correlated
from verl_visionr1.evaluation.records import Cell, Evaluation, RowNumbers, Section, Table
from verl_visionr1.rollouts.bootstrap import Estimate, Ratios, estimates_of, interval

LOWER_IS_BETTER = frozenset({"MAE", "RMSE", "false alarms", "boxes per negative", "cut off"})
NEITHER_IS_BETTER = frozenset({"bias", "tokens"})
MAY_DIFFER = frozenset({"frame", "answer_format", "processing", "max_tokens", "resamples"})
"""Settings that may differ between comparable evaluations: those of the model's answers and of the intervals."""
SAME = 1e-9
"""Values of a row that differ by at most this are equal."""
ROW_METRICS = ("F1@50", "REC@50", "accuracy", "all right")
"""The first of these that rows have is compared with the reward."""
DIFFERENCES = "differences"
ROW_BY_ROW = "row by row"


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison of two evaluations: common data sources and tasks, averages last; what differs."""

    sections: list[Section]
    notes: list[str]


def compare(ours: Evaluation, theirs: Evaluation) -> Comparison:
    """Compare an evaluation with another one."""
    own, other = _compared(ours, theirs), _compared(theirs, ours)
    both = [(section, other[key]) for key, section in own.items() if key in other]
    notes = list(_settings_that_differ(ours, theirs))
    for whose, some, others in (("here", own, other), ("there", other, own)):
        names = [f"{source} ({task})" for source, task in some if (source, task) not in others]
        notes += [f"only {whose}: {', '.join(names)}"] if names else []
    return Comparison(
        sections=[_side_by_side(mine, yours, ours, theirs) for mine, yours in both],
        notes=notes if both else [*notes, "nothing in common"],
    )


def _compared(evaluation: Evaluation, other: Evaluation) -> dict[tuple[str, str], Section]:
    """Its sections, with the averages of tasks for which both have the same data sources."""
    own, others = ([section.key for section in each.sections] for each in (evaluation, other))
    differing = {task for _, task in set(own) ^ set(others)}
    averages = [one for one in evaluation.averages if one.task not in differing]
    return {section.key: section for section in (*evaluation.sections, *averages)}


def _settings_that_differ(ours: Evaluation, theirs: Evaluation) -> Iterator[str]:
    mine, yours = msgspec.to_builtins(ours.settings), msgspec.to_builtins(theirs.settings)
    for name in sorted(mine, key=MAY_DIFFER.__contains__):
        if mine[name] != yours[name]:
            may = "differs, as it may between models and runs"
            what = may if name in MAY_DIFFER else "settings differ, so the numbers are not comparable"
            yield f"{what}: {name}: {mine[name]}, theirs {yours[name]}"


def _side_by_side(mine: Section, yours: Section, ours: Evaluation, theirs: Evaluation) -> Section:
    is_paired = mine.units == yours.units and ours.settings.resamples == theirs.settings.resamples
    columns = ["metric", "here", "there", "difference", "low", "high", ""]
    tables = [Table(name=DIFFERENCES, columns=columns, rows=list(_differences(mine, yours, is_paired=is_paired)))]
    both, metric = _pairs(mine, ours, theirs)
    if both:
        tables.append(row_by_row(both, metric, ours.settings.resamples))
    alone = "other images or number of resamples: the intervals are not paired"
    return msgspec.structs.replace(
        mine, estimates={}, draws={}, correlations=[], tables=tables, notes=[] if is_paired else [alone]
    )


def _differences(mine: Section, yours: Section, *, is_paired: bool) -> Iterator[list[Cell]]:
    for name, here in mine.estimates.items():
        there = yours.estimates.get(name)
        if there is None or "/" in name:
            continue
        value = None if here.value is None or there.value is None else here.value - there.value
        drawn = _drawn(mine.draws.get(name), yours.draws.get(name), is_paired=is_paired)
        low, high = interval(drawn, value, metric=name)
        verdict = verdict_of(name, Estimate(value=value, low=low, high=high))
        yield [name, here.value, there.value, value, low, high, verdict]


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
    """Whether a difference is more than resampling explains: "better", "worse" or "".

    >>> verdict_of("MAE", Estimate(value=-1.0, low=-2.0, high=-0.5))
    'better'
    """
    low, high = difference.low, difference.high
    if low is None or high is None or low <= 0.0 <= high or metric in NEITHER_IS_BETTER:
        return ""
    return "better" if (low > 0.0) != (metric in LOWER_IS_BETTER) else "worse"


def _pairs(section: Section, ours: Evaluation, theirs: Evaluation) -> tuple[list[tuple[RowNumbers, RowNumbers]], str]:
    """The common rows, and the metric that is compared with the reward."""
    mine = {row.key: row for row in ours.rows if (row.data_source, row.task) == section.key}
    yours = {row.key: row for row in theirs.rows if (row.data_source, row.task) == section.key}
    both = [(mine[key], yours[key]) for key in mine if key in yours and mine[key].image == yours[key].image]
    metric = next((name for name in ROW_METRICS if any(name in row.measured for row, _ in both)), "")
    return [pair for pair in both if all(row.measured.get(metric) is not None for row in pair)], metric


def row_by_row(both: Sequence[tuple[RowNumbers, RowNumbers]], metric: str, n_resamples: int) -> Table:
    """Table of how often reward and metric rose and fell, their mean changes, and their rank correlation."""
    reward = np.array([a.reward - b.reward for a, b in both])
    change = np.array([(a.measured[metric] or 0.0) - (b.measured[metric] or 0.0) for a, b in both])
    names = {name: i for i, name in enumerate(sorted({a.image for a, _ in both}))}
    units = np.array([names[a.image] for a, _ in both], dtype=np.intp)
    ones = np.ones(len(both))
    means = Ratios(units, {"reward": (reward, ones), "change": (change, ones)})
    measured = [means, Correlated(units, reward, {"change": change})]
    found, _ = estimates_of(measured, len(names), n_resamples=n_resamples, seed=0)
    rows: list[list[Cell]] = []
    for name, values, key in (("reward", reward, "reward"), (metric, change, "change")):
        rose, fell = int(np.count_nonzero(values > SAME)), int(np.count_nonzero(values < -SAME))
        rows.append([name, len(both), rose, fell, found[key].value, found[key].low, found[key].high])
    against = int(np.count_nonzero((reward > SAME) & (change < -SAME)))
    rows.append([f"reward up, {metric} down", against, "", "", "", None, None])
    rank = found["spearman/change"]
    rows.append(["Spearman of both changes", len(both), "", "", rank.value, rank.low, rank.high])
    return Table(name=ROW_BY_ROW, columns=["", "rows", "rose", "fell", "change", "low", "high"], rows=rows)
