"""Print a report of difficulty: tables with bars, and notes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from verl_visionr1.tools.difficulty.report import Part, Report
from verl_visionr1.tools.score.view import ALL, printable

BAR_WIDTH = 30
MAX_ROWS = 20
"""Most data sources and counts in a table, most frequent first; the JSON report has all."""


def view_of(report: Report) -> Iterator[RenderableType]:
    """Parts to print about a report, in order."""
    metrics = ", ".join(f"{task}: {metric}" for task, metric in report.measured.items())
    yield Text(printable(f"pass: {metrics} >= {report.bar:g} ({report.preset}, frame {report.frame})"), style="italic")
    yield _histogram(report)
    rows, rollouts = report.rows, report.rollouts
    yield Text(
        f"{rows.total} rows: {rows.rated} with a pass rate, {rows.not_in_dump} not in the dump, "
        f"{rows.few_samples} with too few samples, {rows.ambiguous} ambiguous"
    )
    yield Text(
        f"rollouts: {rollouts.found} matched to a row, {rollouts.ambiguous} ambiguous, "
        f"{rollouts.other_question} of another question, {rollouts.not_in_data} not in the data"
        + (f", {rollouts.skipped} could not be read" if rollouts.skipped else "")
        + (f", {rollouts.earlier_turns} earlier outputs left out" if rollouts.earlier_turns else "")
    )
    for name, parts in (("data source", report.sources), ("count", report.counts)):
        if parts:
            yield Text("")
            yield _parts(name, {str(key): part for key, part in parts.items()}, report.overall)
    for note in report.notes:
        yield Text(printable(note), style="yellow")
    target = "nothing written (use --out)" if report.out is None else report.out
    yield Text(printable(f"{rows.chosen} of {rows.total} rows selected; {target}"), style="bold")


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
    shown = sorted(parts, key=lambda name: -parts[name].before)[:MAX_ROWS]
    before = sum(part.before for part in parts.values()) or 1
    after = sum(part.after for part in parts.values()) or 1
    for name in [name for name in parts if name in set(shown)]:
        _add(table, name, parts[name], before, after)
    if len(parts) > len(shown):
        table.add_row(f"... {len(parts) - len(shown)} more: --json", *[""] * 6)
    if before == overall.before and len(parts) > 1:
        table.add_section()
        _add(table, ALL, overall, before, after)
    return table


def _add(table: Table, name: str, part: Part, before: int, after: int) -> None:
    rate = "-" if part.rate is None else f"{part.rate:.3f}"
    shares = f"{part.before / before:.1%}", f"{part.after / after:.1%}"
    table.add_row(Text(printable(name)), f"{part.before}", shares[0], f"{part.rated}", rate, f"{part.after}", shares[1])


def _table(*columns: str) -> Table:
    table = Table()
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left", overflow="fold")
    return table
