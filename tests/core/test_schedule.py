from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_visionr1.criteria import ADVANCED, BEGINNER, OFF, Thresholds
from verl_visionr1.schedule import (
    VISIONR1,
    Schedule,
    constant,
    cosine,
    follow_model,
    last_progress,
    linear,
    piecewise,
    progress_at,
    staged,
)

MIDDLE = Thresholds.of(0.6, 0.6, 0.8)

SCHEDULES: dict[str, Schedule] = {
    "constant": constant(BEGINNER),
    "staged": staged(),
    "linear": linear(BEGINNER, ADVANCED),
    "cosine": cosine(BEGINNER, ADVANCED),
    "piecewise": piecewise([(0, BEGINNER), (0.25, MIDDLE), (0.75, ADVANCED)]),
    "linear ramp": linear(BEGINNER, ADVANCED, begin=0.25, end=0.75),
    "cosine ramp": cosine(BEGINNER, ADVANCED, begin=0.25, end=0.75),
    "piecewise linear": piecewise([(0, BEGINNER), (0.5, MIDDLE), (1, ADVANCED)], interpolation="linear"),
}

FAMILIES = {  # family -> where the default switches: what arXiv 2503.18013 found best (Tables 5 and 10)
    "qwen2.5-vl": 1.0,
    "qwen2-vl": 0.5,
    "qwen3-vl": 0.5,
    "griffon": 0.5,
    "": 0.5,
}


@pytest.mark.parametrize(("family", "at"), FAMILIES.items())
def test_the_default_follows_the_paper_for_each_family(family: str, at: float) -> None:
    followed = follow_model(VISIONR1, family)
    assert followed == staged(at=at)
    assert followed.off == VISIONR1.off
    assert follow_model(followed, family) == followed


@pytest.mark.parametrize("schedule", [*SCHEDULES.values(), staged(at=0.5)])
def test_a_schedule_that_was_set_follows_no_model(schedule: Schedule) -> None:
    assert all(follow_model(schedule, family) is schedule for family in FAMILIES)


# progress -> match_iou
TABLE = {
    "constant": {0.0: 0.5, 0.5: 0.5, 1.0: 0.5},
    "staged": {0.0: 0.5, 0.49: 0.5, math.nextafter(0.5, 0): 0.5, 0.5: 0.75, 0.51: 0.75, 1.0: 0.75},
    "linear": {0.0: 0.5, 0.2: 0.55, 0.5: 0.625, 1.0: 0.75},
    "cosine": {0.0: 0.5, 0.25: 0.5 + 0.25 * (1 - math.sqrt(0.5)) / 2, 0.5: 0.625, 1.0: 0.75},
    "piecewise": {0.0: 0.5, 0.2499: 0.5, 0.25: 0.6, 0.7499: 0.6, 0.75: 0.75, 1.0: 0.75},
    "linear ramp": {0.0: 0.5, 0.25: 0.5, 0.5: 0.625, 0.75: 0.75, 1.0: 0.75},
    "cosine ramp": {0.0: 0.5, 0.25: 0.5, 0.5: 0.625, 0.75: 0.75, 1.0: 0.75},
    "piecewise linear": {0.0: 0.5, 0.25: 0.55, 0.5: 0.6, 0.75: 0.675, 1.0: 0.75},
}
CASES = [
    pytest.param(SCHEDULES[name], progress, expected, id=f"{name} at {progress:.4g}")
    for name, row in TABLE.items()
    for progress, expected in row.items()
]


@pytest.mark.parametrize(("schedule", "progress", "expected"), CASES)
def test_thresholds(schedule: Schedule, progress: float, expected: float) -> None:
    assert schedule(progress).match_iou == pytest.approx(expected)


STAGES = {None: -1, 0.0: 0, 0.2499: 0, 0.25: 1, 0.7499: 1, 0.75: 2, 1.0: 2}


@pytest.mark.parametrize(("progress", "stage"), STAGES.items())
def test_stage(progress: float | None, stage: int) -> None:
    assert SCHEDULES["piecewise"].stage(progress) == stage


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_off_and_ends(schedule: Schedule) -> None:
    assert schedule(None) == schedule.off == OFF
    assert schedule(0.0) == BEGINNER
    assert schedule(1.0) == schedule.points[schedule.final_stage][1]


def test_a_switch_at_1_never_comes() -> None:
    """Nor in a run that is longer than what counts as the whole of training: its progress stays at 1."""
    assert staged(at=1.0)(math.nextafter(1.0, 0)) == staged(at=1.0)(1.0) == BEGINNER
    assert staged(at=1.0).stage(1.0) == staged(at=1.0).final_stage == 0


@given(st.sampled_from([*SCHEDULES.values(), staged(at=0.9), staged(at=1.0)]), st.integers(1, 60))
def test_the_last_stage_is_that_of_the_last_step(schedule: Schedule, total: int) -> None:
    reached = [schedule.stage(progress_at(step, total)) for step in range(1, total + 1)]
    last = schedule.last_stage(last_progress(total))
    assert schedule(schedule.final_progress(last_progress(total))) == schedule.points[last][1]
    if schedule.interpolation == "step":
        assert last == max(reached) == reached[-1]
    else:  # the point that the thresholds of the last step move to
        at = schedule(progress_at(total, total))
        assert reached[-1] <= last <= reached[-1] + 1
        assert schedule.points[last][1].match_iou >= at.match_iou
        assert (last == reached[-1]) == (at == schedule.points[reached[-1]][1])


LAST = {  # total steps, steps of the run -> progress at its last step
    (5, None): 0.8,
    (1, None): 0.0,
    (10, 40): 1.0,  # extended: the total was pinned
    (1000, 250): 0.999,  # to be extended: what counts is the whole
}


@pytest.mark.parametrize(("steps", "progress"), LAST.items())
def test_progress_of_the_last_step(steps: tuple[int, int | None], progress: float) -> None:
    assert last_progress(*steps) == progress


@pytest.mark.parametrize("progress", [-0.001, 1.001, math.nan, math.inf])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_progress_outside_0_1_is_an_error(schedule: Schedule, progress: float) -> None:
    with pytest.raises(ValueError, match=r"progress = .*"):
        schedule(progress)


BAD: dict[str, tuple[Callable[[], Schedule], str]] = {
    "no points": (lambda: piecewise([]), "the first point must be at progress 0"),
    "late first point": (lambda: piecewise([(0.1, BEGINNER)]), r"starts at \[0.1\]"),
    "points out of order": (lambda: piecewise([(0, BEGINNER), (0.6, MIDDLE), (0.5, ADVANCED)]), "increasing progress"),
    "the same point twice": (lambda: piecewise([(0, BEGINNER), (0.5, MIDDLE), (0.5, ADVANCED)]), "increasing progress"),
    "point beyond the end": (lambda: piecewise([(0, BEGINNER), (1.5, ADVANCED)]), "increasing progress"),
    "nan as point": (lambda: piecewise([(0, BEGINNER), (math.nan, ADVANCED)]), "increasing progress"),
    "unknown interpolation": (lambda: piecewise([(0, BEGINNER)], interpolation="cubic"), "interpolation = 'cubic'"),
    "switch at 0": (lambda: staged(at=0.0), "at = 0.0"),
    "switch beyond the end": (lambda: staged(at=1.5), "at = 1.5"),
    "ramp backwards": (lambda: linear(BEGINNER, ADVANCED, begin=0.5, end=0.5), "begin = 0.5, end = 0.5"),
    "ramp beyond the end": (lambda: cosine(BEGINNER, ADVANCED, end=1.5), "end = 1.5"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_bad_schedules(make: Callable[[], Schedule], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
