"""An evaluation as Markdown: tables that read well in a terminal and on GitHub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from verl_visionr1.evaluation.comparison import DIFFERENCES, ROW_BY_ROW, compare
from verl_visionr1.evaluation.records import Cell, Evaluation, Section, Table
from verl_visionr1.rollouts.bootstrap import Estimate
from verl_visionr1.rollouts.dumps import visible

MAX_TABLE_ROWS = 100
"""Longer tables are cut; the JSON report has them complete."""


def markdown(evaluation: Evaluation, versus: Evaluation | None = None) -> str:
    """Render the report as text; with `versus`, the comparison comes first."""
    lines: list[str] = [f"# Evaluation of {_plain(evaluation.model)}" if evaluation.model else "# Evaluation", ""]
    if versus is not None:
        whose = f", of {_plain(versus.model)}" if versus.model else ""
        comparison = compare(evaluation, versus)
        lines += [f"## Against the other evaluation{whose}", "", *_listed(comparison.notes)]
        for section in comparison.sections:
            lines += _section(section, " beside the other")
    for section in (*evaluation.sections, *evaluation.averages):
        lines += _section(section)
    lines += ["## Conventions", ""]
    lines += [f"* {_plain(sentence)}" for sentence in evaluation.conventions]
    made_with = ", ".join(f"{package} {number}" for package, number in evaluation.made_with.items())
    lines += ["", f"Made with {made_with}."]
    return "\n".join(lines) + "\n"


def _section(section: Section, suffix: str = "") -> Iterator[str]:
    yield f"## {_plain(section.source)} ({section.task}){suffix}"
    yield ""
    yield (
        f"{section.n_rows} rows, {section.n_images} images; reward: {', '.join(map(_plain, section.presets))}. "
        "Intervals in brackets."
    )
    yield ""
    yield from _listed(section.notes)
    rows = [[name, shown(estimate), str(estimate.n)] for name, estimate in section.estimates.items() if "/" not in name]
    if rows:
        yield from table(["metric", "value", "over"], rows)
    for one in section.tables:
        yield from _table(one)
    if section.correlations:
        yield "### Reward and metric"
        yield ""
        for correlation in section.correlations:
            yield f"* {_plain(correlation.words)}; Pearson {shown(correlation.pearson)}"
        yield ""


def _listed(notes: Sequence[str]) -> Iterator[str]:
    yield from (f"* {_plain(note)}" for note in notes)
    if notes:
        yield ""


def _table(one: Table) -> Iterator[str]:
    if not one.rows:
        return
    yield f"### {_plain(one.name)}"
    yield ""
    low = one.columns.index("low") if "low" in one.columns else None
    columns = [name for name in one.columns if name not in ("low", "high")]
    signed = one.name in (DIFFERENCES, ROW_BY_ROW)
    rows = [_cells(row, low, signed=signed) for row in one.rows[:MAX_TABLE_ROWS]]
    yield from table(columns, rows)
    if len(one.rows) > MAX_TABLE_ROWS:
        yield f"... and {len(one.rows) - MAX_TABLE_ROWS} more rows in the JSON report"
        yield ""


def _cells(row: Sequence[Cell], low: int | None, *, signed: bool) -> list[str]:
    """A row's cells; an interval is written with the value before it."""
    if low is None:
        return [_cell(cell) for cell in row]
    value, *ends = (cell if isinstance(cell, float) else None for cell in row[low - 1 : low + 2])
    joined = shown(Estimate(value=value, low=ends[0], high=ends[1]), signed=signed)
    return [*map(_cell, row[: low - 1]), joined, *map(_cell, row[low + 2 :])]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Render a Markdown table with aligned columns, numbers to the right.

    >>> print(*table(["a", "b"], [["x", "1.0"]]), sep="\\n")
    | a |   b |
    |:--|----:|
    | x | 1.0 |
    <BLANKLINE>
    """
    cells = [[_plain(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for n, row in enumerate(cells):
        padded = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        yield f"| {' | '.join(padded)} |"
        if n == 0:
            marks = [f":{'-' * (w + 1)}" if i == 0 else f"{'-' * (w + 1)}:" for i, w in enumerate(widths)]
            yield f"|{'|'.join(marks)}|"
    yield ""


def shown(estimate: Estimate, *, signed: bool = False) -> str:
    """A value with its interval.

    >>> shown(Estimate(value=0.5, low=0.25, high=0.75)), shown(Estimate(value=None))
    ('0.500 [0.250, 0.750]', '-')
    """
    value = number(estimate.value, signed=signed)
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{number(estimate.low, signed=signed)}, {number(estimate.high, signed=signed)}]"


def number(value: float | None, *, signed: bool = False) -> str:
    """Format a number with three decimals, or with five digits if large.

    >>> number(0.12345), number(1234.5), number(0.5, signed=True), number(None)
    ('0.123', '1234.5', '+0.500', '-')
    """
    if value is None:
        return "-"
    sign = "+" if signed else ""
    return f"{value:{sign}.3f}" if abs(value) < 100.0 else f"{value:{sign}.1f}"


def _cell(cell: Cell) -> str:
    return number(cell) if isinstance(cell, float) or cell is None else str(cell)


def _plain(text: str) -> str:
    """Escape text for terminals and Markdown: names of data sources and categories may be anything.

    >>> _plain("a|b\\n<i>")
    'a\\\\|b &lt;i>'
    """
    return visible(text).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
