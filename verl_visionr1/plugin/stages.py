"""Messages about stages of a schedule that a run does not reach: pure functions of step counts."""

from __future__ import annotations

from verl_visionr1.criteria import Thresholds
from verl_visionr1.plugin.config import PREFIX
from verl_visionr1.schedule import Schedule, first_step, progress_at, switch_of


def unreached_stages(schedule: Schedule, total_steps: int, n_steps: int) -> list[int]:
    """Stages that a run does not reach; a stage at progress 1 is unreachable by design and left out.

    Args:
        total_steps: steps that count as the whole of training.
        n_steps: the last step of the run.

    >>> from verl_visionr1.schedule import staged
    >>> unreached_stages(staged(at=0.9), 5, 5), unreached_stages(staged(), 1000, 250), unreached_stages(staged(), 5, 5)
    ([1], [1], [])
    """
    reached = schedule.last_stage(progress_at(n_steps, total_steps))
    return list(range(reached + 1, schedule.final_stage + 1))


def stage_warnings(schedule: Schedule, total_steps: int, n_steps: int) -> list[str]:
    """One line for each stage that a run does not reach; see `unreached_stages`."""
    return [
        _warning(schedule, stage, total_steps, n_steps) for stage in unreached_stages(schedule, total_steps, n_steps)
    ]


def _warning(schedule: Schedule, stage: int, total_steps: int, n_steps: int) -> str:
    start, thresholds = schedule.points[stage]
    step = first_step(start, total_steps)
    begins = f"would begin with step {step}" if step is not None else f"would begin after step {total_steps}"
    advice = (
        f"set {PREFIX}.total_steps={n_steps}"
        if n_steps < total_steps
        else f"train longer or let it begin earlier ({PREFIX}.schedule)"
    )
    return (
        f"stage {stage} ({short_thresholds(thresholds)}) is not reached in this run of {n_steps} steps: it {begins} "
        f"({start:.0%} of {total_steps} steps); {advice}"
    )


def switch_words(family: str) -> str:
    """Describe where the default schedule switches for a model family, why, and the key that changes it.

    >>> switch_words("qwen2.5-vl").partition(":")[0]
    'thresholds of qwen2.5-vl models stay at the first stage'
    """
    switch = switch_of(family)
    what = "stay at the first stage" if switch.at == 1.0 else f"tighten at {switch.at:g} of training"
    other = 0.5 if switch.at == 1.0 else 1.0
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
