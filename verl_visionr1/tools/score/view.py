"""Print a re-scoring report: tables, rows that differ, hints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from shlex import quote

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from verl_visionr1.rollouts.dumps import visible
from verl_visionr1.rollouts.numbers import Numbers, Saved, describe_groups, describe_routed
from verl_visionr1.rollouts.records import Counts
from verl_visionr1.tools.explain.causes import describe_causes
from verl_visionr1.tools.score.rescore import Comparison, Report

MAX_SOURCES = 6
"""Most data sources with a column; the JSON report has all."""
ALL = "all"


def view_of(
    report: Report, overrides: Sequence[str] = (), *, options: str = "", data: str = "--data"
) -> Iterator[RenderableType]:
    """Parts to print about a report, in order.

    Args:
        overrides: options in place of the run's own settings.
        options: the given options, for `visionr1 explain`.
        data: name of the data files.
    """
    title = f"{report.preset}, {report.moment}, frame {report.frame}"
    if overrides:
        title += f"; not as in the run: {', '.join(overrides)}"
    yield Text(visible(title), style="italic")
    yield _numbers_table(report.overall, report.sources, report.saved, report.saved_by_source)
    if len(report.sources) > MAX_SOURCES:
        yield Text(f"... and {len(report.sources) - MAX_SOURCES} more data sources: --json shows all")
    yield from map(Text, _reading_notes(report, data))
    if report.comparison is not None:
        yield from _comparison_of(report.comparison)
    if report.steps:
        yield Text("")
        yield Text("by step", style="italic")
        table = _table(["reward", "saved reward", "F1@.5"])
        for it in report.steps:
            table.add_row(str(it.step), shown(it.reward), shown(it.saved), shown(it.f1_50))
        yield table
    if report.saved is not None:
        yield Text(report.saved.describe())
    yield from (Text(hint, style="yellow") for hint in report.hints)
    if report.causes:
        yield Text(f"lost reward, by first cause: {describe_causes(report.causes, report.n_examined)}")
        first = report.causes[0]
        yield Text(f"for example: visionr1 explain {quote(first.file)} --row {first.row}{options}")


def _reading_notes(report: Report, data: str) -> Iterator[str]:
    yield from describe_groups(report.overall)
    yield from describe_routed(report.routed)
    if report.n_earlier:
        yield f"{report.n_earlier} earlier outputs of trajectories of several turns: left out"
    if report.n_skipped:
        yield f"{report.n_skipped} rows could not be read: left out"
    if report.n_delegated:
        yield Counts(n_delegated=report.n_delegated).describe_delegated()
    if report.n_unknown:
        yield f"{report.n_unknown} rows have a ground truth that is not in {data}: listed by task, not by source"


def _comparison_of(comparison: Comparison) -> Iterator[RenderableType]:
    yield Text("")
    yield Text(visible(f"{comparison.preset}, {comparison.moment}"), style="italic")
    yield _numbers_table(comparison.overall, comparison.sources, None, {})
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
    overall: Numbers, sources: Mapping[str, Numbers], saved: Saved | None, saved_by: Mapping[str, Saved]
) -> Table:
    columns = {ALL: overall} | (dict(list(sources.items())[:MAX_SOURCES]) if len(sources) > 1 else {})
    table = _table(list(columns) if len(sources) > 1 else [next(iter(sources), ALL)])

    def row(name: str, cells: Iterable[str], style: str = "") -> None:
        table.add_row(name, *cells, style=style)

    row("rows", (f"{it.n}" for it in columns.values()))
    row("reward", (shown(it.reward) for it in columns.values()), "bold")
    for name in overall.metrics:
        row(f"  {name}", (shown(it.metrics.get(name)) for it in columns.values()))
    row("unreadable", (shown(it.unreadable, ".1%") for it in columns.values()))
    if overall.n_groups:
        row("prompt groups", (f"{it.n_groups}" for it in columns.values()))
        row("  group_std", (shown(it.group_std) for it in columns.values()))
        row("  frac_reward_zero_std", (shown(it.frac_reward_zero_std, ".1%") for it in columns.values()))
    if saved is not None:
        both = [saved, *(saved_by.get(name) for name in list(columns)[1:])]
        row("saved reward", (shown(it and it.mean) for it in both))
        row("  equal to re-scored", (shown(it and it.equal, ".1%") for it in both))
        row("  mean difference", (shown(it and it.mean_difference) for it in both))
        row("  largest difference", (shown(it and it.max_difference) for it in both))
    return table


def _table(columns: list[str]) -> Table:
    table = Table()
    table.add_column("")
    for name in columns:
        table.add_column(Text(visible(name)), justify="right", overflow="fold")
    return table


def shown(value: float | None, digits: str = ".3f") -> str:
    """Format a number; "-" for None."""
    return "-" if value is None else f"{value:{digits}}"
