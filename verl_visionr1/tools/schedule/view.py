"""Print a schedule as a table, and the rewards of rollouts under its stages."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from verl_visionr1.criteria import Thresholds
from verl_visionr1.rollouts.dumps import visible
from verl_visionr1.rollouts.numbers import Numbers, describe_groups, describe_routed
from verl_visionr1.rollouts.records import Counts
from verl_visionr1.schedule import Schedule, first_step
from verl_visionr1.tools.schedule.replay import Replay
from verl_visionr1.tools.score.view import MAX_SOURCES, shown

FIELDS = ("match_iou", "recall_floor", "recall_full", "iou_floor", "iou_full")
"""Fields of `Thresholds`, in the order of the columns."""
_RAMP_ROWS = 11


def schedule_table(schedule: Schedule, title: str, total_steps: int | None = None) -> Table:
    """Table of progress, step, stage and thresholds: a row per stage, or samples of a schedule without steps."""
    table = Table(title=Text(visible(title)), title_justify="left")
    labels = (name.replace("_", " ").replace("iou", "IoU") for name in FIELDS)
    for heading in ("progress", *(["step"] if total_steps else []), "stage", *labels):
        table.add_column(heading, justify="right")
    for progress, stage, thresholds in _rows_at(schedule):
        step = first_step(progress, total_steps) if total_steps else None
        steps = [] if not total_steps else ["never" if step is None else str(step)]
        table.add_row(f"{progress:g}", *steps, str(stage), *_cells_of(thresholds))
    table.add_section()
    table.add_row("off", *([""] if total_steps else []), "", *_cells_of(schedule.off))
    return table


def _rows_at(schedule: Schedule) -> list[tuple[float, int, Thresholds]]:
    if schedule.interpolation == "step":
        return [(start, stage, thresholds) for stage, (start, thresholds) in enumerate(schedule.points)]
    at = sorted({start for start, _ in schedule.points} | {i / (_RAMP_ROWS - 1) for i in range(_RAMP_ROWS)})
    return [(progress, schedule.stage(progress), schedule(progress)) for progress in at]


def _cells_of(thresholds: Thresholds) -> list[str]:
    return [f"{getattr(thresholds, name):.3g}" for name in FIELDS]


def replay_view(found: Replay) -> Iterator[RenderableType]:
    """Parts to print about rollouts under each stage, in order."""
    several = len(found.stages[0].sources) > 1
    table = Table(title="saved rollouts under each stage", title_justify="left")
    for heading in ("stage", "source", "from", "match IoU", "rows", "reward", "group_std", "dead"):
        if several or heading != "source":
            is_name = heading in ("stage", "source")
            table.add_column(heading, justify="left" if is_name else "right", overflow="fold")
    for stage in found.stages:
        start = "-" if stage.progress is None else f"{stage.progress:g}"
        place = [stage.name, *(["all"] if several else []), start, f"{stage.match_iou:.3g}"]
        table.add_row(*place, *_numbers(stage.overall))
        for source, numbers in list(stage.sources.items())[: MAX_SOURCES if several else 0]:
            table.add_row("", Text(visible(source)), "", "", *_numbers(numbers))
        table.add_section()
    yield table
    yield Text(
        "group_std: mean standard deviation in a prompt group; dead: share of groups whose rewards are all equal"
    )
    yield from map(Text, describe_groups(found.stages[0].overall))
    if several and len(found.stages[0].sources) > MAX_SOURCES:
        yield Text(f"... and {len(found.stages[0].sources) - MAX_SOURCES} more data sources: --json shows all")
    for note in describe_routed(found.routed):
        yield Text(f"{note}, with its own schedule")
    if found.n_skipped:
        yield Text(f"rows that could not be read: {found.n_skipped} (left out)")
    if found.n_delegated:
        yield Text(Counts(n_delegated=found.n_delegated).describe_delegated())
    for line in found.advice:
        yield Text(line, style="yellow")


def _numbers(numbers: Numbers) -> list[str]:
    dead = shown(numbers.frac_reward_zero_std, ".1%")
    return [str(numbers.n), shown(numbers.reward), shown(numbers.group_std), dead]
