"""An evaluation as Markdown: tables that read well in a terminal and on GitHub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from verl_visionr1.evaluation.comparison import Comparison, Difference, RowComparison, SectionComparison, compare
from verl_visionr1.evaluation.records import Cell, Evaluation, Section, Table
from verl_visionr1.rollouts.bootstrap import Estimate

MAX_TABLE_ROWS = 100
"""A longer table is cut; the JSON report holds it whole."""


def markdown(evaluation: Evaluation, versus: Evaluation | None = None) -> str:
    """The report as text; with `versus`, what differs from another evaluation comes first."""
    lines: list[str] = [f"# Evaluation of {_plain(evaluation.model)}" if evaluation.model else "# Evaluation", ""]
    if versus is not None:
        whose = f", of {_plain(versus.model)}" if versus.model else ""
        lines += [f"## Against the other evaluation{whose}", "", *_comparison(compare(evaluation, versus))]
    for section in (*evaluation.sections, *evaluation.averages):
        lines += _section(section)
    lines += ["## Conventions", ""]
    lines += [f"* {_plain(sentence)}" for sentence in evaluation.conventions]
    made_with = ", ".join(f"{package} {number}" for package, number in evaluation.made_with.items())
    lines += ["", f"Made with {made_with}."]
    return "\n".join(lines) + "\n"


def _section(section: Section) -> Iterator[str]:
    yield f"## {_plain(section.source)} ({section.task})"
    yield ""
    yield (
        f"{section.n_rows} rows, {section.n_images} images; reward: {', '.join(map(_plain, section.presets))}. "
        "Intervals in brackets."
    )
    yield ""
    for note in section.notes:
        yield f"* {_plain(note)}"
    if section.notes:
        yield ""
    rows = [[name, shown(estimate), str(estimate.n)] for name, estimate in section.estimates.items() if "/" not in name]
    yield from table(["metric", "value", "over"], rows)
    for one in section.tables:
        yield from _table(one)
    if section.correlations:
        yield "### Reward and metric"
        yield ""
        for correlation in section.correlations:
            yield f"* {_plain(correlation.words)}; Pearson {shown(correlation.pearson)}"
        yield ""


def _table(one: Table) -> Iterator[str]:
    if not one.rows:
        return
    yield f"### {_plain(one.name)}"
    yield ""
    low = one.columns.index("low") if "low" in one.columns else None
    columns = [name for name in one.columns if name not in ("low", "high")]
    rows = [_cells(row, low) for row in one.rows[:MAX_TABLE_ROWS]]
    yield from table(columns, rows)
    if len(one.rows) > MAX_TABLE_ROWS:
        yield f"... and {len(one.rows) - MAX_TABLE_ROWS} more rows in the JSON report"
        yield ""


def _cells(row: Sequence[Cell], low: int | None) -> list[str]:
    """A row's cells; the interval joins the value before it."""
    if low is None:
        return [_cell(cell) for cell in row]
    value, ends = row[low - 1], row[low : low + 2]
    number = value if isinstance(value, float) else None
    a, b = (end if isinstance(end, float) else None for end in ends)
    joined = shown(Estimate(value=number, low=a, high=b))
    return [*map(_cell, row[: low - 1]), joined, *map(_cell, row[low + 2 :])]


def _comparison(comparison: Comparison) -> Iterator[str]:
    said = [f"settings differ, the numbers do not compare: {text}" for text in comparison.settings]
    said += [f"differs, as it may between models and runs: {text}" for text in comparison.others]
    for whose, names in (("here", comparison.only_ours), ("there", comparison.only_theirs)):
        if names:
            said.append(f"only {whose}: {', '.join(names)}")
    if not comparison.sections:
        said.append("nothing that both have")
    yield from (f"* {_plain(text)}" for text in said)
    if said:
        yield ""
    for section in comparison.sections:
        yield from _section_comparison(section)


def _section_comparison(section: SectionComparison) -> Iterator[str]:
    yield f"### {_plain(section.source)} ({section.task})"
    yield ""
    rows = [_difference(one) for one in section.differences]
    yield from table(["metric", "here", "there", "difference", ""], rows)
    if any(not one.is_paired and one.difference.low is not None for one in section.differences):
        yield "Other images or number of resamples: the intervals are not paired."
        yield ""
    if section.rows is not None:
        yield from _rows(section.rows)


def _difference(one: Difference) -> list[str]:
    return [one.metric, number(one.ours), number(one.theirs), shown(one.difference, signed=True), one.verdict]


def _rows(rows: RowComparison) -> Iterator[str]:
    yield (
        f"Row by row, {rows.n} rows that both answered: {rows.metric} better on {rows.better}, worse on {rows.worse}; "
        f"mean change {shown(rows.change, signed=True)}, of the reward {shown(rows.reward, signed=True)}; "
        f"{rows.reward_up_metric_down} rows with more reward and less {rows.metric}. Spearman of the changes "
        f"{shown(rows.spearman)}."
    )
    yield ""


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table whose columns are as wide as their cells, numbers to the right.

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
    """A number with three decimals, or five digits where it is large.

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
    """Text that neither a terminal nor Markdown obeys: names of data sources and categories may be anything.

    >>> _plain("a|b\\n<i>")
    'a\\\\|b &lt;i>'
    """
    text = "".join([char if char.isprintable() else " " for char in text])
    return text.replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
