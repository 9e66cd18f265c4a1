"""Messages about stages of a schedule that a run does not reach: pure functions of step counts."""

from __future__ import annotations

from verl_visionr1.criteria import Thresholds
from verl_visionr1.plugin.config import PREFIX
from verl_visionr1.schedule import Schedule, first_step, progress_at, switch_of


def stage_warnings(schedule: Schedule, total_steps: int, n_steps: int) -> list[str]:
    """One line for each stage that a run does not reach; a stage at progress 1 is unreachable by design and left out.

    Args:
        total_steps: steps that count as the whole of training.
        n_steps: the last step of the run.

    >>> from verl_visionr1.schedule import staged
    >>> [len(stage_warnings(staged(at=at), total, n)) for at, total, n in ((0.9, 5, 5), (0.5, 1000, 250), (0.5, 5, 5))]
    [1, 1, 0]
    """
    advice = f"train longer or let it begin earlier ({PREFIX}.schedule)"
    if n_steps < total_steps:
        advice = f"set {PREFIX}.total_steps={n_steps}"
    warnings: list[str] = []
    reached = schedule.last_stage(progress_at(n_steps, total_steps))
    for stage in range(reached + 1, schedule.final_stage + 1):
        start, thresholds = schedule.points[stage]
        step = first_step(start, total_steps)
        begins = f"with step {step}" if step is not None else f"after step {total_steps}"
        warnings.append(
            f"stage {stage} ({short_thresholds(thresholds)}) is not reached in this run of {n_steps} steps: it would "
            f"begin {begins} ({start:.0%} of {total_steps} steps); {advice}"
        )
    return warnings


def switch_words(family: str) -> str:
    """Describe where the default schedule switches for a model family, why, and the key that changes it.

    >>> switch_words("qwen2.5-vl").partition(":")[0]
    'thresholds of qwen2.5-vl models stay at the first stage'
    """
    switch = switch_of(family)
    what, other = f"tighten at {switch.at:g} of training", 1.0
    if switch.at == 1.0:
        what, other = "stay at the first stage", 0.5
    models = f"of {family} models " if family else ""
    return f"thresholds {models}{what}: {switch.reason}; {PREFIX}.schedule.at={other:g} changes it"


def total_steps_warning(own: int, kept: int) -> str:
    """Warning about a checkpoint that counted progress over another number of steps than the run."""
    return (
        f"total_steps is {own} but the checkpoint used {kept}; keeping {kept} (override with "
        f"{PREFIX}.total_steps={own})"
    )


def short_thresholds(thresholds: Thresholds) -> str:
    """Short form of match IoU, floor and full credit: "0.5/0.5/0.75"."""
    return f"{thresholds.match_iou:g}/{thresholds.iou_floor:g}/{thresholds.iou_full:g}"
