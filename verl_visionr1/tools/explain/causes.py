"""The causes of lost reward in many rollouts, as `visionr1 explain` finds them for one."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from verl_visionr1.rollouts.judging import Judging
from verl_visionr1.rollouts.records import Rollout
from verl_visionr1.tools.explain.diagnosis import Exam, Finding, cause_of, findings_of
from verl_visionr1.tools.explain.diagnosis.base import NO_COST

MAX_DIAGNOSED = 50_000
"""Longer texts are not diagnosed: it would take seconds."""


class Cause(msgspec.Struct, frozen=True):
    """A cause of lost reward: the number of rows with it, and the first such row."""

    cause: str
    n: int
    file: str
    row: int


def exam_of(rollout: Rollout, judging: Judging) -> Exam:
    """Read and match a rollout as it is scored; FrameError, SizeError, RewardError: it cannot be scored."""
    preset = judging.preset_for(rollout)
    thresholds, response = judging.thresholds(rollout, preset), judging.response(rollout)
    return Exam.of(rollout.completion, rollout.target, preset, thresholds, response, rollout.is_clipped)


def first_cause(exam: Exam) -> Finding | None:
    """The first line of `visionr1 explain`: 2 to 30 ms; None if the text is too long, or a user's criterion fails."""
    if len(exam.completion) > MAX_DIAGNOSED:
        return None
    try:
        return cause_of(exam, findings_of(exam))
    except ValueError:  # a criterion that fails on the repaired texts
        return None


def count_causes(rollouts: Iterable[Rollout], judging: Judging) -> list[Cause]:
    """Count the first causes of rollouts that can be scored, most frequent first; those without a cost are left out."""
    found: dict[str, list[Rollout]] = {}
    for rollout in sorted(rollouts, key=lambda one: (one.file, one.number)):
        exam = exam_of(rollout, judging)
        cause = first_cause(exam)
        if cause is not None and cause.gain >= NO_COST * exam.full:
            found.setdefault(cause.cause, []).append(rollout)
    causes = (Cause(cause, len(own), own[0].file, own[0].number) for cause, own in found.items())
    return sorted(causes, key=lambda cause: -cause.n)


def describe_causes(causes: list[Cause], n_examined: int) -> str:
    """One line: "wrong key 60, no list 4 of 64 rows examined"; "" without a cause."""
    counts = ", ".join(f"{cause.cause} {cause.n}" for cause in causes)
    return f"{counts} of {n_examined} rows examined" if counts else ""
