"""Print a re-scoring report: tables, rows that differ, hints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from verl_visionr1.rollouts.dumps import visible
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
        table = _table("by step", ["reward", "saved reward", "F1@.5"])
        for it in report.steps:
            table.add_row(str(it.step), shown(it.reward), shown(it.saved), shown(it.f1_50))
        yield table
    if report.saved is not None:
        yield Text(report.saved.describe())
    yield from (Text(hint, style="yellow") for hint in report.hints)


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


def _comparison_of(comparison: Comparison) -> Iterator[RenderableType]:
    yield Text("")
    yield _numbers_table(f"{comparison.preset}, {comparison.moment}", comparison.overall, comparison.sources, None, {})
    agreement = comparison.agreement
    yield Text(
        f"rank agreement (Spearman): {shown(agreement.spearman)}; within groups: {shown(agreement.spearman_within)} "
        f"({agreement.n_groups} groups that both spread)"
    )
    if comparison.differing:
        yield Text("\nrows that differ most: reward, the other, where, start of the text", style="italic")
    for row in comparison.differing:
        yield Text(visible(f"{row.value:.3f}  {row.other:.3f}  {row.where}"))
        yield Padding(Text(visible(row.text), overflow="ellipsis", no_wrap=True, style="dim"), (0, 0, 0, 4))


def _numbers_table(
    title: str, overall: Numbers, sources: Mapping[str, Numbers], saved: Saved | None, saved_by: Mapping[str, Saved]
) -> Table:
    columns = {ALL: overall} | (dict(list(sources.items())[:MAX_SOURCES]) if len(sources) > 1 else {})
    table = _table(title, list(columns) if len(sources) > 1 else [next(iter(sources), ALL)])

    def row(name: str, cells: Iterable[str], style: str = "") -> None:
        table.add_row(name, *cells, style=style)

    row("rows", (f"{it.n}" for it in columns.values()))
    row("reward", (shown(it.reward) for it in columns.values()), "bold")
    for name in overall.metrics:
        row(f"  {name}", (shown(it.metrics.get(name)) for it in columns.values()))
    row("unreadable", (shown(it.unreadable, ".1%") for it in columns.values()))
    row("prompt groups", (f"{it.n_groups}" for it in columns.values()))
    if overall.n_groups:
        row("  group_std", (shown(it.group_std) for it in columns.values()))
        row("  frac_reward_zero_std", (shown(it.frac_reward_zero_std, ".1%") for it in columns.values()))
    if saved is not None:
        both = [saved, *(saved_by.get(name) for name in list(columns)[1:])]
        row("saved reward", (shown(it and it.mean) for it in both))
        row("  equal to re-scored", (shown(it and it.equal, ".1%") for it in both))
        row("  mean difference", (shown(it and it.mean_difference) for it in both))
        row("  largest difference", (shown(it and it.max_difference) for it in both))
    return table


def _table(title: str, columns: list[str]) -> Table:
    table = Table(title=Text(visible(title)), title_justify="left")
    table.add_column("")
    for name in columns:
        table.add_column(Text(visible(name)), justify="right", overflow="fold")
    return table


def shown(value: float | None, digits: str = ".3f") -> str:
    """Format a number; "-" for None."""
    return "-" if value is None else f"{value:{digits}}"
