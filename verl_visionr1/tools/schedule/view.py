"""Print a schedule as a table, and the rewards of rollouts under its stages."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from verl_visionr1.criteria import Thresholds
from verl_visionr1.rollouts.numbers import Numbers, describe_routed
from verl_visionr1.schedule import Schedule, first_step
from verl_visionr1.tools.schedule.replay import Replay
from verl_visionr1.tools.score.view import MAX_SOURCES, printable

FIELDS = (
    ("match IoU", "match_iou"),
    ("recall floor", "recall_floor"),
    ("recall full", "recall_full"),
    ("IoU floor", "iou_floor"),
    ("IoU full", "iou_full"),
)
"""(label, field of `Thresholds`)."""
_RAMP_ROWS = 11


def schedule_table(schedule: Schedule, title: str, total_steps: int | None = None) -> Table:
    """Table of progress, step, stage and thresholds: a row per stage, or samples of a schedule without steps."""
    table = Table(title=Text(printable(title)), title_justify="left")
    for heading in ("progress", *(["step"] if total_steps else []), "stage", *(label for label, _ in FIELDS)):
        table.add_column(heading, justify="right")
    for progress, stage, thresholds in _rows_at(schedule):
        cells = [f"{progress:g}"]
        if total_steps:
            step = first_step(progress, total_steps)
            cells.append("never" if step is None else str(step))
        cells.append(str(stage))
        table.add_row(*cells, *_thresholds(thresholds))
    table.add_section()
    table.add_row("off", *([""] if total_steps else []), "", *_thresholds(schedule.off))
    return table


def _rows_at(schedule: Schedule) -> list[tuple[float, int, Thresholds]]:
    if schedule.interpolation == "step":
        return [(start, stage, thresholds) for stage, (start, thresholds) in enumerate(schedule.points)]
    at = sorted({start for start, _ in schedule.points} | {i / (_RAMP_ROWS - 1) for i in range(_RAMP_ROWS)})
    return [(progress, schedule.stage(progress), schedule(progress)) for progress in at]


def _thresholds(thresholds: Thresholds) -> list[str]:
    return [f"{getattr(thresholds, name):.3g}" for _, name in FIELDS]


def replay_view(found: Replay) -> Iterator[RenderableType]:
    """Parts to print about rollouts under each stage, in order."""
    several = len(found.stages[0].sources) > 1
    table = Table(title="saved rollouts under each stage", title_justify="left")
    places = ["stage", "source"] if several else ["stage"]
    for heading in (*places, "from", "match IoU", "rows", "reward", "group_std", "dead"):
        table.add_column(heading, justify="left" if heading in places else "right", overflow="fold")
    for stage in found.stages:
        start = "-" if stage.progress is None else f"{stage.progress:g}"
        sources = dict(list(stage.sources.items())[:MAX_SOURCES]) if several else {}
        place = [stage.name, *(["all"] if several else []), start, f"{stage.match_iou:.3g}"]
        table.add_row(*place, *_cells(stage.overall))
        for source, numbers in sources.items():
            table.add_row("", Text(printable(source)), "", "", *_cells(numbers))
        table.add_section()
    yield table
    yield Text(
        "group_std: mean standard deviation in a prompt group; dead: share of groups whose rewards are all equal"
    )
    for note in describe_routed(found.routed):
        yield Text(f"{note}, with its own schedule")
    if found.n_skipped:
        yield Text(f"rows that could not be read: {found.n_skipped} (left out)")
    for line in found.advice:
        yield Text(line, style="yellow")


def _cells(numbers: Numbers) -> list[str]:
    std = "-" if numbers.group_std is None else f"{numbers.group_std:.3f}"
    dead = "-" if numbers.frac_reward_zero_std is None else f"{numbers.frac_reward_zero_std:.1%}"
    return [str(numbers.n), f"{numbers.reward:.3f}", std, dead]
