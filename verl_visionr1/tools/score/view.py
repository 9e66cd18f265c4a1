"""Print a re-scoring report: tables, rows that differ, hints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from verl_visionr1.rollouts.numbers import Numbers, Saved, describe_routed
from verl_visionr1.rollouts.records import Counts
from verl_visionr1.tools.score.rescore import Comparison, Report

MAX_SOURCES = 6
"""Most data sources with a column; the JSON report has all."""
ALL = "all"


def view_of(report: Report, overrides: Sequence[str] = ()) -> Iterator[RenderableType]:
    """Parts to print about a report, in order; `overrides` are options in place of the run's own settings."""
    title = f"{report.preset}, {report.moment}, frame {report.frame}"
    if overrides:
        title += f"; not as in the run: {', '.join(overrides)}"
    yield _numbers_table(title, report.overall, report.sources, report.saved, report.saved_by_source)
    if len(report.sources) > MAX_SOURCES:
        yield Text(f"... and {len(report.sources) - MAX_SOURCES} more data sources: --json shows all")
    yield from map(Text, _reading_notes(report))
    if report.comparison is not None:
        yield from _comparison_of(report.comparison)
    if report.steps:
        yield Text("")
        yield _steps_table(report)
    if report.saved is not None:
        yield Text(report.saved.describe())
    for hint in report.hints:
        yield Text(hint, style="yellow")


def _reading_notes(report: Report) -> Iterator[str]:
    yield from describe_routed(report.routed)
    if report.n_earlier:
        yield f"{report.n_earlier} earlier outputs of trajectories of several turns: left out"
    if report.n_skipped:
        yield f"{report.n_skipped} rows could not be read: left out"
    if report.n_delegated:
        yield Counts(n_delegated=report.n_delegated).describe_delegated()
    if report.n_unknown:
        yield f"{report.n_unknown} rows have a ground truth that is not in --data: listed by task, not by source"


def _steps_table(report: Report) -> Table:
    table = _table("by step", ["reward", "saved reward", "F1@.5"])
    for step in report.steps:
        table.add_row(str(step.step), _shown(step.reward), _shown(step.saved), _shown(step.f1_50))
    return table


def _comparison_of(comparison: Comparison) -> Iterator[RenderableType]:
    yield Text("")
    yield _numbers_table(f"{comparison.preset}, {comparison.moment}", comparison.overall, comparison.sources, None, {})
    agreement = comparison.agreement
    yield Text(
        f"rank agreement (Spearman): {_shown(agreement.spearman)}; within groups: {_shown(agreement.spearman_within)} "
        f"({agreement.n_groups} groups that both spread)"
    )
    if comparison.differing:
        yield Text("\nrows that differ most: reward, the other, where, start of the text", style="italic")
    for row in comparison.differing:
        yield Text(printable(f"{row.value:.3f}  {row.other:.3f}  {row.where}"))
        yield Padding(Text(printable(row.text), overflow="ellipsis", no_wrap=True, style="dim"), (0, 0, 0, 4))


def _numbers_table(
    title: str, overall: Numbers, sources: Mapping[str, Numbers], saved: Saved | None, saved_by: Mapping[str, Saved]
) -> Table:
    columns = {ALL: overall} | (dict(list(sources.items())[:MAX_SOURCES]) if len(sources) > 1 else {})
    table = _table(title, list(columns) if len(sources) > 1 else [next(iter(sources), ALL)])
    table.add_row("rows", *(f"{numbers.n}" for numbers in columns.values()))
    table.add_row("reward", *(_shown(numbers.reward) for numbers in columns.values()), style="bold")
    for name in overall.metrics:
        table.add_row(f"  {name}", *(_shown(numbers.metrics.get(name)) for numbers in columns.values()))
    table.add_row("unreadable", *(_percent(numbers.unreadable) for numbers in columns.values()))
    table.add_row("prompt groups", *(f"{numbers.n_groups}" for numbers in columns.values()))
    if overall.n_groups:
        table.add_row("  group_std", *(_shown(numbers.group_std) for numbers in columns.values()))
        table.add_row(
            "  frac_reward_zero_std", *(_percent(numbers.frac_reward_zero_std) for numbers in columns.values())
        )
    if saved is not None:
        both = [saved, *(saved_by.get(name) for name in list(columns)[1:])]
        table.add_row("saved reward", *(_shown(one and one.mean) for one in both))
        table.add_row("  equal to re-scored", *(_percent(one and one.equal) for one in both))
        table.add_row("  mean difference", *(_shown(one and one.mean_difference) for one in both))
        table.add_row("  largest difference", *(_shown(one and one.max_difference) for one in both))
    return table


def _table(title: str, columns: list[str]) -> Table:
    table = Table(title=Text(printable(title)), title_justify="left")
    table.add_column("")
    for name in columns:
        table.add_column(Text(printable(name)), justify="right", overflow="fold")
    return table


def printable(text: str) -> str:
    r"""Remove control characters from a model's text.

    >>> printable("a\n\x1b[31mb")
    'a  [31mb'
    """
    return "".join([char if char.isprintable() else " " for char in text])


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
