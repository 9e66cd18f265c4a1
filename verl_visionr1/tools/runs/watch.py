"""Progress of a run in plain lines: step, reward, criteria, thresholds, time left."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from verl_visionr1.tools.runs import alarms
from verl_visionr1.tools.runs.steps import RunError, Step, read_steps

POLL_SECONDS = 1.0
QUIET_SECONDS = 30.0
"""While nothing is logged, a sign of life comes this often."""


def watch(run_dir: Path, total_steps: int, console: Console, pid: int | None = None) -> None:
    """Print each step as it is logged, until the last one, or until process `pid` has ended."""
    start = time.monotonic()
    shown: set[int] = set()
    sounding: list[str] = []
    last_sign = start
    while True:
        running = pid is None or _is_running(pid)
        for step in _steps_so_far(run_dir):
            if step.number in shown:
                continue
            shown.add(step.number)
            last_sign = time.monotonic()
            for line in (*lines_of(step, total_steps), *alarms.lines_of(step, sounding)):
                console.print(line, highlight=False)
            if step.tells_alarms:
                sounding = step.alarms
        if not running or (pid is None and max(shown, default=-1) >= total_steps):
            return
        if time.monotonic() - last_sign > QUIET_SECONDS:
            last_sign = time.monotonic()
            what = "starting Ray, FSDP and vLLM" if not shown else "working"
            console.print(f"[dim]... {what} ({last_sign - start:.0f} s)[/dim]", highlight=False)
        time.sleep(POLL_SECONDS)


def lines_of(step: Step, total_steps: int) -> Iterator[str]:
    """What to say about one step."""
    reward = step.training("value")
    if reward is not None:
        seconds = step.numbers.get("timing_s/step")
        left = "" if seconds is None else f"  {_duration(seconds * (total_steps - step.number))} left"
        yield (
            f"step {step.number:>{len(str(total_steps))}}/{total_steps}  reward {reward:.3f}  "
            + "".join(f"{name} {_shown(step.training(name))}  " for name in step.criteria)
            + _measure(step.training("iou_mean"), step.training("accuracy"))
            + f"  stage {_shown(step.training('stage'), 0)} (xi {_thresholds(step)}){left}"
        )
    for source, numbers in step.validation().items():
        yield (
            f"[bold]validation at step {step.number}[/bold] ({source})  "
            f"reward {_shown(numbers.get('reward'))}  {_measure(numbers.get('iou_mean'), numbers.get('accuracy'))}"
        )


def _measure(iou_mean: float | None, accuracy: float | None) -> str:
    """What does not move with the thresholds; a task without boxes has no IoU."""
    overlap = f"IoU {_shown(iou_mean)}  " if iou_mean else ""
    return f"{overlap}accuracy {_shown(accuracy)}"


def _thresholds(step: Step) -> str:
    names = ("match_iou", "iou_floor", "iou_full")
    return "/".join(_shown(step.training(f"threshold/{name}"), 2) for name in names)


def _shown(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(max(seconds, 0.0)), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def _steps_so_far(run_dir: Path) -> list[Step]:
    try:
        return read_steps(run_dir)
    except RunError:
        return []


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"
