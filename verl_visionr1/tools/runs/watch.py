"""Progress of a run in plain lines: step, metrics, thresholds, time left; validations with their change."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from verl_visionr1.files import RowsError
from verl_visionr1.rollouts.inference import RUN_FILE
from verl_visionr1.rollouts.run import find_run, read_run
from verl_visionr1.tools.runs import alarms
from verl_visionr1.tools.runs.report import compare_run, format_change
from verl_visionr1.tools.runs.steps import RunError, Step, has_box_numbers, list_metrics, read_steps
from verl_visionr1.tools.runs.validations import read_validations
from verl_visionr1.tools.score.view import shown

POLL_SECONDS = 1.0
QUIET_SECONDS = 30.0
"""Seconds between signs of life while nothing is logged."""


LEGEND = (
    "xi: xi0/xi1/xi2. A box is a match from IoU xi0 on. Recall, and the IoU of each match in precision, earn 0 "
    "below xi1 and 1 from xi2 on. stage: index of the schedule's current thresholds, from 0."
)


def planned_steps(run_dir: Path) -> int:
    """Steps that a run will take, from its run record."""
    file = find_run(run_dir)
    last = None if file is None else read_run(file).last
    steps = last and (last.n_steps or last.total_steps)
    if steps is None:
        raise RowsError(f"{run_dir}: no {RUN_FILE} with the number of steps; give --total-steps")
    return steps


def watch(run_dir: Path, total_steps: int, console: Console, pid: int | None = None) -> None:
    """Print each step as it is logged, until the last one, or until process `pid` has ended."""
    start = last_sign = time.monotonic()
    seen: list[Step] = []
    while True:
        running = pid is None or _is_running(pid)
        shown = {step.number for step in seen}
        steps: list[Step] = []
        with suppress(RunError):  # nothing is logged yet
            steps = read_steps(run_dir)
        for step in steps:
            if step.number in shown:
                continue
            last_sign = time.monotonic()
            for line in (*lines_of(step, total_steps, seen), *validation_lines(run_dir, step, seen)):
                console.print(line, highlight=False)
            seen.append(step)
        if not running or (pid is None and max((step.number for step in seen), default=-1) >= total_steps):
            return
        if time.monotonic() - last_sign > QUIET_SECONDS:
            last_sign = time.monotonic()
            what = "starting Ray, FSDP and vLLM" if not seen else "working"
            console.print(f"[dim]... {what} ({last_sign - start:.0f} s)[/dim]", highlight=False)
        time.sleep(POLL_SECONDS)


def lines_of(step: Step, total_steps: int, seen: Sequence[Step] = ()) -> Iterator[str]:
    """Lines about a training step: its scores, and the alarms that start or end.

    Args:
        seen: steps shown before; thresholds are explained at the first step that has them.
    """
    if step.training("value") is not None:
        if step.has_thresholds and not any(other.has_thresholds for other in seen):
            yield f"[dim]{LEGEND}[/dim]"
        metrics = "  ".join(f"{metric.name} {value:.3f}" for metric, value in step.training_metrics())
        seconds = step.numbers.get("timing_s/step")
        left = "" if seconds is None else f"  {_duration(seconds * (total_steps - step.number))} left"
        yield f"step {step.number:>{len(str(total_steps))}}/{total_steps}  {metrics}{_rule(step)}{left}"
    sounding = next((other.alarms for other in reversed(seen) if other.has_alarm_metrics), [])
    yield from alarms.lines_of(step, sounding)


def validation_lines(run_dir: Path, step: Step, seen: Sequence[Step]) -> Iterator[str]:
    """Lines about a validation: its numbers, and from the second on the change since the first, paired by prompt."""
    for source, numbers in step.validation().items():
        metrics = list_metrics(numbers, has_boxes=has_box_numbers(numbers))
        numbers_text = "  ".join(f"{metric.name} {shown(numbers.get(metric.key))}" for metric in metrics)
        yield f"[bold]validation at step {step.number}[/bold] ({source})  {numbers_text}"
    first = next((other for other in seen if other.validation()), None)
    if first is None or not step.validation():
        return
    time.sleep(POLL_SECONDS)  # verl writes the dump in a thread
    for section in compare_run(run_dir, read_validations(run_dir, [first, step])).sections:
        if section.n is not None:  # without pairs, the means are enough
            changes = "  ".join(format_change(change).replace("[", "\\[") for change in section.changes)
            pairs = f"{section.source}, {section.n} prompts"
            yield f"  change since step {first.number}, 95 % intervals ({pairs})  {changes}"


def _rule(step: Step) -> str:
    thresholds, stage = step.thresholds, step.training("stage")
    if thresholds is None or stage is None:
        return ""
    xi = f" (xi {'/'.join(shown(value, '.2f') for value in thresholds)})" if step.has_boxes else ""
    return f"  stage {stage:.0f}{xi}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(max(seconds, 0.0)), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"
