"""What a run has reached: a table of validation before and after, and a figure of the way there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from verl_visionr1.tools.runs.alarms import table_of as alarms_of
from verl_visionr1.tools.runs.steps import NOT_CRITERIA, RunError, Step, read_steps

BOX_MEASURES = (("mean IoU", "iou_mean"), ("F1@.5", "f1_50"), ("boxes per object", "boxes_per_target"))
"""(label, metric) of what does not move with thresholds, where the task's answer is boxes."""


@dataclass(frozen=True, slots=True)
class Change:
    """One number of a validation set before and after."""

    source: str
    label: str
    before: float
    after: float


def changes_of(steps: list[Step]) -> tuple[int, int, list[Change]]:
    """First and last validated step, and what changed between them.

    Raises:
        RunError: fewer than two validations.
    """
    validated = [step for step in steps if step.validation()]
    if len(validated) < 2:
        raise RunError(f"{len(validated)} validation(s) logged: before and after needs two")
    first, last = validated[0], validated[-1]
    before, after = first.validation(), last.validation()
    is_mixed = len(before) > 1
    changes: list[Change] = []
    for source, numbers in before.items():
        later = after.get(source, {})
        for label, name in _rows_of(numbers):
            # In a mixed run a criterion that a source's preset does not have is 0 throughout.
            if name in later and (not is_mixed or label == "reward" or numbers[name] or later[name]):
                changes.append(Change(source, label, numbers[name], later[name]))
    return first.number, last.number, changes


def _rows_of(numbers: Mapping[str, float]) -> list[tuple[str, str]]:
    """(label, metric) of a source's rows: reward, its criteria, and what its task is measured by."""
    criteria = [name for name in numbers if name not in NOT_CRITERIA]
    measures = BOX_MEASURES if numbers.get("iou_mean") or numbers.get("f1_50") else (("accuracy", "accuracy"),)
    rows = [("reward", "reward"), *((name, name) for name in criteria), *measures]
    return [(label, name) for label, name in rows if name in numbers]


def table_of(steps: list[Step]) -> Table:
    """The changes as a table."""
    first, last, changes = changes_of(steps)
    table = Table(title="Held-out data, greedy answers, fixed thresholds", title_justify="left")
    table.add_column("")
    for heading in (f"before (step {first})", f"after (step {last})", "change"):
        table.add_column(heading, justify="right")
    sources = {change.source for change in changes}
    previous = None
    for change in changes:
        if len(sources) > 1 and change.source != previous:
            table.add_section()
            table.add_row(f"[bold]{change.source}[/bold]")
        previous = change.source
        table.add_row(
            change.label, f"{change.before:.3f}", f"{change.after:.3f}", f"{change.after - change.before:+.3f}"
        )
    return table


def draw(steps: list[Step], path: Path, title: str = "") -> None:
    """Write a figure (PNG) of reward, criteria, validation and thresholds over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 8), layout="constrained")
    training, validation, thresholds = figure.subplots(3, 1, sharex=True)
    criteria = dict.fromkeys(name for step in steps for name in step.criteria)
    _draw_training(training, steps, {"reward": "value", **{name: name for name in criteria}})
    training.set_ylabel("training batch")
    for source in sorted({source for step in steps for source in step.validation()}):
        for label, name in (("mean IoU", "iou_mean"), ("accuracy", "accuracy"), ("reward", "reward")):
            points = [(step.number, step.validation().get(source, {}).get(name)) for step in steps]
            kept = [(x, y) for x, y in points if y is not None]
            if any(y for _, y in kept):
                validation.plot(*zip(*kept, strict=True), marker="o", label=f"{label} ({source})")
    validation.set_ylabel("validation")
    _draw_training(
        thresholds,
        steps,
        {
            "match IoU (xi0)": "threshold/match_iou",
            "floor (xi1)": "threshold/iou_floor",
            "full (xi2)": "threshold/iou_full",
        },
        drawstyle="steps-mid",
    )
    thresholds.set_ylabel("thresholds")
    thresholds.set_ylim(0.0, 1.0)
    thresholds.set_xlabel("step")
    for axes in (training, validation, thresholds):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


def _draw_training(axes: object, steps: list[Step], names: dict[str, str], **style: str) -> None:
    for label, name in names.items():
        points = [(step.number, value) for step in steps if (value := step.training(name)) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)  # type: ignore[attr-defined]


def report(run_dir: Path) -> tuple[list[Table], Path]:
    """Tables and figure of a run: what it has reached, and its alarms; the figure is written to `run_dir/report.png`.

    Raises:
        RunError: nothing to report yet.
    """
    steps = read_steps(run_dir)
    tables = [table_of(steps)]
    alarms = alarms_of(steps)
    if alarms is not None:
        tables.append(alarms)
    path = run_dir / "report.png"
    draw(steps, path, title=str(run_dir.name))
    return tables, path
