"""Print a report of difficulty: tables with bars, and notes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from verl_visionr1.rollouts.dumps import visible
from verl_visionr1.tools.difficulty.filtering import Part, Report
from verl_visionr1.tools.score.view import ALL, shown

BAR_WIDTH = 30
MAX_ROWS = 20
"""Most data sources and counts in a table, most frequent first; the JSON report has all."""


def view_of(report: Report) -> Iterator[RenderableType]:
    """Parts to print about a report, in order."""
    metrics = ", ".join(f"{task}: {metric}" for task, metric in report.measured.items())
    yield Text(visible(f"pass: {metrics} >= {report.bar:g} ({report.preset}, frame {report.frame})"), style="italic")
    yield _histogram(report)
    yield Text(
        "{total} rows: {rated} with a pass rate, {not_in_dump} not in the dump, {few_samples} with too few samples, "
        "{ambiguous} ambiguous".format_map(report.rows)
    )
    told = "rollouts: {found} matched to a row, {ambiguous} ambiguous, {other_question} of another question, "
    told += "{not_in_data} not in the data"
    told += ", {skipped} could not be read" if report.rollouts["skipped"] else ""
    told += ", {earlier_turns} earlier outputs left out" if report.rollouts["earlier_turns"] else ""
    yield Text(told.format_map(report.rollouts))
    for name, parts in (("data source", report.sources), ("count", report.counts)):
        if parts:
            yield Text("")
            yield _parts(name, {str(key): part for key, part in parts.items()}, report.overall)
    for note in report.notes:
        yield Text(visible(note), style="yellow")
    target = "nothing written (use --out)" if report.out is None else report.out
    chosen = "{chosen} of {total} rows selected; ".format_map(report.rows)
    yield Text(visible(chosen + target), style="bold")


def _histogram(report: Report) -> Table:
    table = _table("pass rate", "rows", "", "chosen")
    most = max((one.before for one in report.histogram), default=0) or 1
    for one in report.histogram:
        name = f"{one.low:g}" if one.low == one.high else f"{one.low:g}..{one.high:g}"
        table.add_row(name, f"{one.before}", "#" * round(BAR_WIDTH * one.before / most), f"{one.after}")
    unseen = report.overall.before - report.overall.rated
    chosen = report.overall.after - sum(one.after for one in report.histogram)
    table.add_row("unseen", f"{unseen}", "", f"{chosen}")
    table.columns[2].justify = "left"
    return table


def _parts(title: str, parts: Mapping[str, Part], overall: Part) -> Table:
    table = _table(title, "rows", "share", "with a rate", "mean rate", "chosen", "share")
    before = sum(part.before for part in parts.values()) or 1
    after = sum(part.after for part in parts.values()) or 1
    first = sorted(parts, key=lambda name: -parts[name].before)[:MAX_ROWS]
    lines = {name: part for name, part in parts.items() if name in first}
    if before == overall.before and len(parts) > 1:
        lines[ALL] = overall
    for name, part in lines.items():
        if part is overall:
            table.add_section()
        rated = [part.rated, shown(part.rate)]
        cells = [part.before, f"{part.before / before:.1%}", *rated, part.after, f"{part.after / after:.1%}"]
        table.add_row(Text(visible(name)), *map(str, cells))
    if len(parts) > len(first):
        table.add_row(f"... {len(parts) - len(first)} more: --json")
    return table


def _table(*columns: str) -> Table:
    table = Table()
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left", overflow="fold")
    return table
