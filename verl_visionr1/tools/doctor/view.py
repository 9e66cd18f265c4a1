"""The results of an examination for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from verl_visionr1.tools.doctor.examination import Examination
from verl_visionr1.tools.doctor.problems import Severity

STYLES = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
N_LINES = 3
"""Number of examples shown of each kind."""


def view_of(examination: Examination, *, with_statistics: bool = False) -> Iterator[RenderableType]:
    """Yield the problems, the worst first, and optionally statistics of the files."""
    file = ""
    for group in examination.found:
        if group.file != file:
            file = group.file
            yield Text(file, style="bold")
        head = Text(f"  {group.severity.name.lower()}: ", style=STYLES[group.severity])
        yield head + Text(group.kind + (f" ({group.count})" if group.count > 1 else ""), style="bold")
        for problem in group.examples[:N_LINES]:
            where = "" if problem.row is None else f"{problem.unit} {problem.row}: "
            yield Text(f"    {where}{problem.reason}")
        if group.count > N_LINES:
            yield Text(f"    ... and {group.count - N_LINES} more", style="dim")
    if with_statistics:
        for census in examination.censuses:
            title = Text(f"{census.file}: {census.counted}")
            table = Table(title=title, title_justify="left", box=None, show_header=False)
            for name, tally in census.tallies.items():
                if tally:
                    table.add_row(name, Text(shares(tally)))
            yield table


def shares(tally: Counter[str] | Counter[int]) -> str:
    """Format the most frequent values of a tally, with their counts.

    >>> shares(Counter({"cat": 3, "": 1}))
    'cat: 3 (75 %), (none): 1 (25 %)'
    """
    total = tally.total()
    parts = [f"{value if value != '' else '(none)'}: {n} ({100 * n // total} %)" for value, n in tally.most_common(12)]
    return ", ".join(parts) + (f", and {len(tally) - 12} more" if len(tally) > 12 else "")
