"""Score saved rollouts under every stage of a schedule, before training with it."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from verl_visionr1.criteria import Thresholds
from verl_visionr1.files import RowsError
from verl_visionr1.rewards import CriterionInput, Preset, Score
from verl_visionr1.rewards.completion import apply_criteria, read_completion
from verl_visionr1.rollouts.judged import TableBuilder
from verl_visionr1.rollouts.judging import Judging
from verl_visionr1.rollouts.numbers import Numbers, by_source, numbers_of, routed_of
from verl_visionr1.rollouts.records import Counts, Rollout, no_row
from verl_visionr1.schedule import Schedule, follow_model

RAMP_SAMPLES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Progress values at which a schedule without steps is sampled."""
TOO_MANY_DEAD = 0.5
"""Largest share of groups without gradient before a stage is advised against."""


class StageNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of the rollouts under one stage.

    Attributes:
        name: "no schedule", "stage 1", "progress 0.5".
        progress: where it begins; None without a schedule.
        match_iou: the IoU needed for a match.
        overall, sources: the numbers of all rows, and of each data source.
    """

    name: str
    progress: float | None
    match_iou: float
    overall: Numbers
    sources: dict[str, Numbers]


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """Rollouts under the stages of a schedule.

    Attributes:
        stages: no schedule, then each stage.
        n_skipped, n_delegated: see `rollouts.Counts`.
        routed: task -> preset, for tasks that the preset does not support; it follows its own schedule.
        advice: one line for each stage that leaves too many groups without gradient.
    """

    stages: list[StageNumbers]
    n_skipped: int
    n_delegated: int
    routed: dict[str, str]
    advice: list[str]


def list_moments(schedule: Schedule) -> dict[str, tuple[float | None, Thresholds]]:
    """Name -> progress and thresholds of the moments at which a schedule is replayed.

    No schedule, then each stage (also one that begins at 1, which training never reaches), or samples without steps.
    """
    moments: dict[str, tuple[float | None, Thresholds]] = {"no schedule": (None, schedule.off)}
    if schedule.interpolation == "step":
        return moments | {f"stage {i}": point for i, point in enumerate(schedule.points)}
    return moments | {f"progress {progress:g}": (progress, schedule(progress)) for progress in RAMP_SAMPLES}


def replay(rollouts: Iterable[Rollout], judging: Judging, counts: Counts | None = None) -> Replay:
    """Score rollouts under each stage of their preset's schedule, in one pass: each is read and matched once.

    A default schedule follows the family of the model, as in training (`schedule.follow_model`).

    Args:
        judging: its preset's schedule is replayed; its moment is ignored.

    Raises:
        RowsError: no row, or none that could be read.
        FrameError: the frame needs the processed size, which is unknown.
    """
    moments = list_moments(follow_model(judging.preset.schedule, judging.frame.name))
    builders = [TableBuilder() for _ in moments]
    counts = Counts() if counts is None else counts
    for rollout in rollouts:
        preset = judging.preset_for(rollout)
        thresholds = [own for _, own in moments.values()]
        if preset is not judging.preset:
            schedule = follow_model(preset.schedule, judging.frame.name)
            thresholds = [schedule(progress) for progress, _ in moments.values()]
        case = read_completion(rollout.completion, rollout.target, preset, thresholds[0], judging.response(rollout))
        for builder, stage in zip(builders, thresholds, strict=True):
            builder.add(rollout, preset, _score_at(case, preset, stage))
    if not len(builders[0]):
        raise RowsError(no_row(counts))
    tables = [builder.table() for builder in builders]
    stages = [
        StageNumbers(
            name=name,
            progress=progress,
            match_iou=thresholds.match_iou,
            overall=numbers_of(table),
            sources=by_source(table),
        )
        for (name, (progress, thresholds)), table in zip(moments.items(), tables, strict=True)
    ]
    return Replay(
        stages=stages,
        n_skipped=counts.n_skipped,
        n_delegated=counts.n_delegated,
        routed=routed_of(tables[0], judging.preset),
        advice=[line for stage in stages[1:] if (line := _advice(stage))],
    )


def _score_at(case: CriterionInput, preset: Preset, thresholds: Thresholds) -> Score:
    """Score a case at other thresholds than its own."""
    if thresholds == case.thresholds:
        return apply_criteria(case, preset)
    case = replace(case, thresholds=thresholds)
    measure = preset.measure
    if measure is not None and "thresholds" in measure.looks_at:
        case = replace(case, accuracy=measure.call(case))
    return apply_criteria(case, preset)


def _advice(stage: StageNumbers) -> str | None:
    """Advice for a stage in which too many groups have no gradient."""
    numbers = stage.overall
    if numbers.frac_reward_zero_std is None or numbers.frac_reward_zero_std <= TOO_MANY_DEAD:
        return None
    reward = numbers.reward_zero_std or 0.0
    if reward < numbers.reward or reward < 0.5:
        cause = "too hard now; start it later, or loosen its thresholds"
    else:
        cause = "already solved; start a stricter stage earlier, or use harder data"
    return (
        f"{stage.name} leaves {numbers.frac_reward_zero_std:.0%} of the prompt groups without gradient "
        f"(more than {TOO_MANY_DEAD:.0%}), at a mean reward of {reward:.2f}: {cause}"
    )
